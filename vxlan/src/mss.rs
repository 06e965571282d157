//! Maximum segment size clamping: connections that begin across a tunnel are made to ask for segments that fit it.
//!
//! A way round hosts that do not hear "packet too big". It changes packets of others, so it is done only where asked for.

use vswitch::headers::{Headers, Network, Transport};

use crate::ecn::replace_in_checksum;

const SYN: u8 = 0x02;
/// Octets of a TCP header without options.
const TCP_HEADER: usize = 20;
// Kinds of options (RFC 9293 section 3.1).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Lowers the maximum segment size that a SYN in `frame` tells, if packets of such segments are longer than `mtu` octets.
///
/// The checksum is kept right if it was, and as partial as it was. A SYN that tells none (536 or 1220 is meant, RFC 9293
/// section 3.7.1) is left as it is. Returns whether anything was changed.
pub fn clamp(frame: &mut [u8], mtu: u16) -> bool {
    let Some(headers) = Headers::measure(frame) else { return false };
    let tcp = headers.transport;
    if headers.transport_kind != Transport::Tcp || frame[tcp + 13] & SYN == 0 {
        return false;
    }
    let fixed = match headers.network_kind {
        Network::V4 => 20 + TCP_HEADER,
        Network::V6 => 40 + TCP_HEADER,
    };
    let Some(limit) = usize::from(mtu).checked_sub(fixed).and_then(|limit| u16::try_from(limit).ok()) else {
        return false;
    };
    let Some(at) = option(&frame[tcp + TCP_HEADER..headers.payload]).map(|at| tcp + TCP_HEADER + at) else {
        return false;
    };
    let told = u16::from_be_bytes([frame[at], frame[at + 1]]);
    if told <= limit {
        return false;
    }
    let (old, new) = (told.to_be_bytes(), limit.to_be_bytes());
    frame[at..at + 2].copy_from_slice(&new);
    if at % 2 == tcp % 2 {
        replace_in_checksum(&mut frame[tcp..], 16, told, limit);
    } else {
        // The value lies across two of the words that are summed.
        replace_in_checksum(&mut frame[tcp..], 16, u16::from(old[0]), u16::from(new[0]));
        replace_in_checksum(&mut frame[tcp..], 16, u16::from(old[1]) << 8, u16::from(new[1]) << 8);
    }
    true
}

/// Where among `options` the value of the maximum segment size stands.
fn option(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if len < 2 || at + len > options.len() {
                    return None;
                }
                if kind == MAXIMUM_SEGMENT_SIZE {
                    return (len == 4).then_some(at + 2);
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch::checksum::{Sum, verify};

    /// A SYN with these options, in IPv4 or IPv6, checksum right.
    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let tcp_len = TCP_HEADER + options.len();
        let mut frame = vec![2; 12];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, u8::try_from(tcp_len).unwrap(), 6, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, u8::try_from(20 + tcp_len).unwrap(), 0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend([10, 9, 0, 1, 10, 9, 0, 2]);
        }
        let tcp = frame.len();
        frame.extend([0, 80, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        frame.extend([u8::try_from(tcp_len / 4 * 16).unwrap(), SYN, 1, 0, 0, 0, 0, 0]);
        frame.extend(options);
        let addresses = if v6 { 22..54 } else { 26..34 };
        let sum = Sum::pseudo(&frame[addresses], 6, tcp_len) + Sum::of(&frame[tcp..]);
        frame[tcp + 16..tcp + 18].copy_from_slice(&sum.checksum().to_be_bytes());
        frame
    }

    #[test]
    fn a_syn_asks_for_what_fits() {
        type Case<'a> = (bool, &'a [u8], Option<&'a [u8]>);
        let table: &[Case<'_>] = &[
            (false, &[2, 4, 5, 180, 1, 1, 1, 0], Some(&[2, 4, 5, 130, 1, 1, 1, 0])),
            (true, &[2, 4, 5, 160, 1, 1, 1, 0], Some(&[2, 4, 5, 110, 1, 1, 1, 0])),
            (false, &[1, 2, 4, 5, 180, 1, 1, 0], Some(&[1, 2, 4, 5, 130, 1, 1, 0])),
            (false, &[2, 4, 5, 130], None),
            (false, &[2, 4, 1, 0], None),
            (false, &[1, 1, 1, 0], None),
            (false, &[0, 2, 4, 5, 180, 0, 0, 0], None),
            (false, &[2, 3, 5, 180], None),
            (false, &[8, 0, 5, 180], None),
            (false, &[1, 1, 2, 4], None),
        ];
        for &(v6, options, expected) in table {
            let mut frame = syn(v6, options);
            let before = frame.clone();
            assert_eq!(clamp(&mut frame, 1450), expected.is_some(), "{options:?}");
            assert!(verify(&frame, &Headers::measure(&frame).unwrap()), "{options:?}");
            match expected {
                Some(expected) => assert!(frame.ends_with(expected), "{options:?} became {frame:?}"),
                None => assert_eq!(frame, before, "{options:?}"),
            }
        }
    }

    #[test]
    fn only_a_syn_is_touched() {
        let mut frame = syn(false, &[2, 4, 5, 180]);
        frame[47] = 0x10;
        let before = frame.clone();
        assert!(!clamp(&mut frame, 1000));
        assert_eq!(frame, before);
        for len in 0..before.len() {
            assert!(!clamp(&mut syn(false, &[2, 4, 5, 180])[..len], 1000), "{len}");
        }
    }
}
