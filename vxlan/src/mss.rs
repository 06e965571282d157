//! Maximum segment size clamping: connections across a tunnel announce segments that fit it.
//!
//! A workaround for hosts that do not receive "packet too big". It modifies packets of stations, so it is off
//! by default.

use vswitch::{
    bytes::{put_u16, u16_at},
    headers::{Headers, IPV4_HEADER, IPV6_HEADER, IpVersion, TCP_HEADER, Transport},
    offload::Csum,
};

use crate::ecn::replace_in_checksum;

const SYN: u8 = 0x02;
// Kinds of options (RFC 9293 section 3.1).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Whether `frame`, which has these `headers`, is a SYN or SYN-ACK.
#[inline]
pub(crate) fn opens(frame: &[u8], headers: &Headers) -> bool {
    headers.transport_kind == Transport::Tcp && frame[headers.transport + 13] & SYN != 0
}

/// Lowers the maximum segment size announced by `frame`, if frames of such segments are longer than `longest`
/// bytes, with Ethernet header and tags.
///
/// `frame` must have these `headers` and satisfy [`opens`]. A complete checksum is updated; a partial one,
/// according to `csum`, does not cover the options. A SYN without the option (536 or 1220 apply, RFC 9293
/// section 3.7.1) is left unchanged. Returns whether the frame was changed.
pub(crate) fn clamp(frame: &mut [u8], headers: &Headers, longest: usize, csum: Csum) -> bool {
    let tcp = headers.transport;
    // Without options and extensions, as RFC 6691 counts.
    let fixed = match headers.version {
        IpVersion::V4 => headers.network + IPV4_HEADER + TCP_HEADER,
        IpVersion::V6 => headers.network + IPV6_HEADER + TCP_HEADER,
    };
    let Some(limit) = longest.checked_sub(fixed).and_then(|limit| u16::try_from(limit).ok()) else {
        return false;
    };
    let Some(at) = option(&frame[tcp + TCP_HEADER..headers.payload]).map(|at| tcp + TCP_HEADER + at) else {
        return false;
    };
    let told = u16_at(frame, at);
    if told <= limit {
        return false;
    }
    put_u16(frame, at, limit);
    if matches!(csum, Csum::Partial { .. }) {
        return true;
    }
    if at % 2 == tcp % 2 {
        replace_in_checksum(&mut frame[tcp..], 16, told, limit);
    } else {
        let (old, new) = (told.to_be_bytes(), limit.to_be_bytes());
        // The value spans two of the summed words.
        replace_in_checksum(&mut frame[tcp..], 16, u16::from(old[0]), u16::from(new[0]));
        replace_in_checksum(&mut frame[tcp..], 16, u16::from(old[1]) << 8, u16::from(new[1]) << 8);
    }
    true
}

/// Position of the maximum segment size in `options`.
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

    /// A SYN with these options, in IPv4 or IPv6, with a correct checksum.
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
            let headers = Headers::measure(&frame).unwrap();
            assert!(opens(&frame, &headers));
            let clamped = clamp(&mut frame, &headers, 1464, Csum::Unknown);
            assert_eq!(clamped, expected.is_some(), "{options:?}");
            assert!(verify(&frame, &Headers::measure(&frame).unwrap()), "{options:?}");
            match expected {
                Some(expected) => assert!(frame.ends_with(expected), "{options:?} became {frame:?}"),
                None => assert_eq!(frame, before, "{options:?}"),
            }
        }
    }

    #[test]
    fn a_tag_takes_room_from_segments() {
        let mut frame = syn(false, &[2, 4, 5, 180]);
        frame.splice(12..12, [0x81, 0, 0, 10]);
        let headers = Headers::measure(&frame).unwrap();
        assert!(clamp(&mut frame, &headers, 1464, Csum::Unknown));
        assert!(frame.ends_with(&1406_u16.to_be_bytes()));
    }

    #[test]
    fn a_partial_checksum_does_not_cover_options() {
        let mut frame = syn(false, &[2, 4, 5, 180]);
        let headers = Headers::measure(&frame).unwrap();
        frame[50..52].copy_from_slice(&[0x12, 0x34]);
        assert!(clamp(&mut frame, &headers, 1464, Csum::Partial { start: 34, offset: 16 }));
        assert_eq!(frame[50..52], [0x12, 0x34]);
    }

    #[test]
    fn only_a_syn_opens() {
        let mut frame = syn(false, &[2, 4, 5, 180]);
        for (flags, expected) in [(0x10, false), (0x12, true), (0x02, true), (0xc2, true), (0x11, false)] {
            frame[47] = flags;
            assert_eq!(opens(&frame, &Headers::measure(&frame).unwrap()), expected, "{flags:#x}");
        }
    }
}
