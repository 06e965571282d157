//! Congestion marks across a tunnel (RFC 6040): marks of routers in the underlay reach the inner packets.

use etherparse::EtherType;
use vswitch::{
    bytes::{put_u16, u16_at},
    checksum::Sum,
    headers::{IPV4_HEADER, IPV6_HEADER, link},
};

/// The ECN field of an IP header (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport is not ECN-capable.
    NotEct = 0b00,
    /// ECN-capable: ECT(1).
    Ect1 = 0b01,
    /// ECN-capable: ECT(0).
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The ECN field of a traffic class: its low two bits.
    #[inline]
    pub fn of(traffic_class: u8) -> Self {
        match traffic_class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}

/// The inner ECN field after decapsulation: RFC 6040 figure 4. `None`: the packet must be dropped.
pub(crate) fn decapsulate(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) => Some(Ecn::NotEct),
        (_, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (inner, _) => Some(inner),
    }
}

/// A marked packet whose inner transport is not ECN-capable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Congested;

/// Propagates the outer ECN field to the IP header of `frame`.
///
/// A frame that is not IP is left unchanged.
///
/// # Errors
/// The frame must be dropped.
#[inline]
pub(crate) fn propagate(frame: &mut [u8], outer: Ecn) -> Result<(), Congested> {
    match outer {
        // No change for any inner ECN field.
        Ecn::NotEct | Ecn::Ect0 => Ok(()),
        Ecn::Ect1 | Ecn::Ce => mark(frame, outer),
    }
}

#[cold]
fn mark(frame: &mut [u8], outer: Ecn) -> Result<(), Congested> {
    let Some((network, ethertype)) = link(frame) else { return Ok(()) };
    let Some(packet) = frame.get_mut(network..) else { return Ok(()) };
    match ethertype {
        EtherType::IPV4 if packet.len() >= IPV4_HEADER => {
            let inner = Ecn::of(packet[1]);
            let to = decapsulate(inner, outer).ok_or(Congested)?;
            let old = u16_at(packet, 0);
            packet[1] = packet[1] & !0b11 | to as u8;
            replace_in_checksum(packet, 10, old, u16_at(packet, 0));
        }
        EtherType::IPV6 if packet.len() >= IPV6_HEADER => {
            // The traffic class spans the first two bytes.
            let inner = Ecn::of(packet[1] >> 4);
            let to = decapsulate(inner, outer).ok_or(Congested)?;
            packet[1] = packet[1] & !0b11_0000 | (to as u8) << 4;
        }
        _ => {}
    }
    Ok(())
}

/// Updates the checksum at `at` after a word that it covers has changed from `old` to `new` (RFC 1624,
/// equation 3).
pub(crate) fn replace_in_checksum(bytes: &mut [u8], at: usize, old: u16, new: u16) {
    let sum = Sum::minus(u16_at(bytes, at)) + Sum::minus(old) + Sum::word(new);
    put_u16(bytes, at, sum.checksum());
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    /// Figure 4 of RFC 6040: a row for each inner, a column for each outer, in the order of `ALL`.
    const FIGURE_4: [[Option<Ecn>; 4]; 4] = [
        [Some(Ecn::NotEct), Some(Ecn::NotEct), Some(Ecn::NotEct), None],
        [Some(Ecn::Ect0), Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)],
        [Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ce)],
        [Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce)],
    ];

    fn ipv4(ecn: Ecn) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 8];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[15] = 0xb8 | ecn as u8;
        let checksum = Sum::of(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    fn ipv6(ecn: Ecn) -> Vec<u8> {
        let mut frame = vec![0; 14 + 40];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14..18].copy_from_slice(&(0x6b80_abcd_u32 | (ecn as u32) << 20).to_be_bytes());
        frame
    }

    #[test]
    fn figure_4_in_both_families() {
        for (inner, row) in ALL.iter().zip(FIGURE_4) {
            for (outer, expected) in ALL.iter().zip(row) {
                assert_eq!(decapsulate(*inner, *outer), expected, "{inner:?} in {outer:?}");
                let (mut four, mut six) = (ipv4(*inner), ipv6(*inner));
                let results = [propagate(&mut four, *outer), propagate(&mut six, *outer)];
                let Some(expected) = expected else {
                    assert_eq!(results, [Err(Congested); 2]);
                    continue;
                };
                assert_eq!(results, [Ok(()); 2]);
                assert_eq!((four, six), (ipv4(expected), ipv6(expected)), "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn what_is_not_ip_stays_as_it_is() {
        for frame in
            [b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06arp".to_vec(), ipv4(Ecn::Ect0)[..20].to_vec()]
        {
            let mut marked = frame.clone();
            assert_eq!(propagate(&mut marked, Ecn::Ce), Ok(()));
            assert_eq!(marked, frame);
        }
    }
}
