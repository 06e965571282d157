//! Headers that are accepted, refused and written.

use super::*;
use proptest::prelude::*;

/// 10.9.0.2:1000 > 10.9.0.3:80, 10 bytes of TCP payload.
#[rustfmt::skip]
const TCP4: [u8; 64] = [
    0x02, 0x42, 0x0a, 0x09, 0x00, 0x03, 0x02, 0x42, 0x0a, 0x09, 0x00, 0x02, 0x08, 0x00, // Ethernet
    0x45, 0x00, 0x00, 0x32, 0x12, 0x34, 0x40, 0x00, 0x40, 0x06, 0x14, 0x7f,             // IPv4, 50 bytes
    10, 9, 0, 2, 10, 9, 0, 3,
    0x03, 0xe8, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0x14, 0x36, 0x00, 0x00, // TCP
    b'0', b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8', b'9',
];

fn tcp4(edit: impl FnOnce(&mut [u8; 64])) -> [u8; 64] {
    let mut frame = TCP4;
    edit(&mut frame);
    frame
}

fn size(bytes: u16) -> NonZeroU16 {
    NonZeroU16::new(bytes).expect("not zero")
}

/// NEEDS_CSUM, TCPV4, a wrong hdr_len, segments of 4, checksum at 34 + 16.
const HEADER: [u8; 10] = [1, 1, 0xff, 0xff, 4, 0, 34, 0, 16, 0];

#[test]
fn a_super_frame_is_measured_not_believed() {
    let offload = Offload::parse(&HEADER, &TCP4).expect("valid");
    let gso = Gso { kind: GsoKind::Tcp4, size: size(4), header_len: 54, ecn: false, tunnel: None };
    assert_eq!(offload, Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(gso) });
    assert_eq!(offload.segments(TCP4.len()), 3);
    assert_eq!(offload.wire_len(TCP4.len()), 58);
    assert_eq!(offload.wire_bytes(TCP4.len()), 3 * 54 + 10);
    assert_eq!(Offload::NONE.wire_bytes(TCP4.len()), 64);
    assert_eq!(offload.emit(), [1, 1, 54, 0, 4, 0, 34, 0, 16, 0]);
    assert_eq!(offload.shifted(4).emit(), [1, 1, 58, 0, 4, 0, 38, 0, 16, 0]);
    assert_eq!(offload.shifted(4).shifted(-4), offload);
}

#[test]
fn headers_that_say_little_are_cheap_and_canonical() {
    let partial = Csum::Partial { start: 34, offset: 16 };
    let table: &[([u8; 10], Offload, [u8; 10])] = &[
        ([0; 10], Offload::NONE, [0; 10]),
        ([0, 0, 1, 2, 3, 4, 5, 6, 7, 8], Offload::NONE, [0; 10]),
        (
            [2, 0, 9, 9, 9, 9, 9, 9, 9, 9],
            Offload { csum: Csum::Valid, gso: None },
            [2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        ([4, 0, 9, 9, 9, 9, 9, 9, 9, 9], Offload::NONE, [0; 10]),
        (
            [1, 0, 0, 0, 0, 0, 34, 0, 16, 0],
            Offload { csum: partial, gso: None },
            [1, 0, 52, 0, 0, 0, 34, 0, 16, 0],
        ),
        (
            [3, 0, 0, 0, 0, 0, 34, 0, 16, 0],
            Offload { csum: partial, gso: None },
            [1, 0, 52, 0, 0, 0, 34, 0, 16, 0],
        ),
        // A payload that fits one segment needs no cutting.
        (
            [1, 1, 0, 0, 10, 0, 34, 0, 16, 0],
            Offload { csum: partial, gso: None },
            [1, 0, 52, 0, 0, 0, 34, 0, 16, 0],
        ),
    ];
    for (header, offload, canonical) in table {
        assert_eq!(Offload::parse(header, &TCP4).as_ref(), Ok(offload), "{header:?}");
        assert_eq!(&offload.emit(), canonical, "{header:?}");
    }
}

#[test]
fn contradictions_are_refused() {
    let partial = |start: u16, offset: u16| {
        let ([s0, s1], [o0, o1]) = (start.to_le_bytes(), offset.to_le_bytes());
        [1, 0, 0, 0, 0, 0, s0, s1, o0, o1]
    };
    let cases: &[(&str, [u8; 10], [u8; 64])] = &[
        ("checksum field across the end", partial(34, 29), TCP4),
        ("checksum start behind the end", partial(u16::MAX, u16::MAX), TCP4),
        ("checksum in the Ethernet header", partial(12, 0), TCP4),
        ("checksum in a VLAN tag", partial(14, 0), tcp4(|f| f[12] = 0x81)),
        ("segments of zero", [1, 1, 0, 0, 0, 0, 34, 0, 16, 0], TCP4),
        ("super-frame without partial checksum", [0, 1, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("super-frame verified, not partial", [2, 1, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("TCPV6 on IPv4", [1, 4, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("UDP on TCP", [1, 5, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("UFO", [1, 3, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("ECN on nothing", [1, 0x80, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("UDP tunnel", [1, 0x21, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("unknown type", [1, 2, 0, 0, 4, 0, 34, 0, 16, 0], TCP4),
        ("checksum of another header", [1, 1, 0, 0, 4, 0, 30, 0, 20, 0], TCP4),
        ("another field", [1, 1, 0, 0, 4, 0, 34, 0, 6, 0], TCP4),
        ("a fragment", HEADER, tcp4(|f| f[20] = 0x20)),
        ("the last fragment", HEADER, tcp4(|f| f[21] = 1)),
        ("IPv4 options over all", HEADER, tcp4(|f| f[14] = 0x4f)),
        ("IPv4 header too short", HEADER, tcp4(|f| f[14] = 0x44)),
        ("not version 4", HEADER, tcp4(|f| f[14] = 0x65)),
        ("IPv4 length short of the frame", HEADER, tcp4(|f| f[17] = 0x31)),
        ("IPv4 length beyond the frame", HEADER, tcp4(|f| f[17] = 0x33)),
        ("TCP options over the end", HEADER, tcp4(|f| f[46] = 0xf0)),
        ("TCP header too short", HEADER, tcp4(|f| f[46] = 0x40)),
        ("ICMP", HEADER, tcp4(|f| f[23] = 1)),
        ("ARP", HEADER, tcp4(|f| f[13] = 6)),
    ];
    for (name, header, frame) in cases {
        assert_eq!(Offload::parse(header, frame), Err(DropReason::DevHdr), "{name}");
    }
    for len in 0..TCP4.len() {
        assert_eq!(Offload::parse(&HEADER, &TCP4[..len]), Err(DropReason::DevHdr), "cut to {len}");
    }
}

#[test]
fn what_cwr_means_is_taken_from_the_header_and_whether_it_is_there_from_the_frame() {
    let with_cwr = tcp4(|f| f[47] |= 0x80);
    for (gso_type, means_once) in [(GSO_TCPV4, false), (GSO_TCPV4 | GSO_ECN, true)] {
        let mut header = HEADER;
        header[1] = gso_type;
        let parse = |frame| Offload::parse(&header, frame).expect("valid");
        assert!(!parse(&TCP4).gso.expect("super-frame").ecn);
        assert_eq!(parse(&with_cwr).gso.expect("super-frame").ecn, means_once);
        assert_eq!(parse(&with_cwr).emit()[1], gso_type, "and passed on");
    }
}

#[test]
fn the_number_of_segments_is_bounded() {
    let payload = |bytes: u16| {
        let mut frame = TCP4.to_vec();
        frame.resize(54 + usize::from(bytes), 0);
        frame[16..18].copy_from_slice(&(40 + bytes).to_be_bytes());
        frame
    };
    let header = [1, 1, 0, 0, 1, 0, 34, 0, 16, 0];
    let most = u16::try_from(MAX_SEGMENTS).expect("fits");
    assert!(Offload::parse(&header, &payload(most)).is_ok());
    assert_eq!(Offload::parse(&header, &payload(most + 1)), Err(DropReason::DevHdr));
}

#[test]
fn a_port_takes_what_it_can() {
    let none = Offload::NONE;
    let partial = Offload::parse(&[1, 0, 0, 0, 0, 0, 34, 0, 16, 0], &TCP4).expect("valid");
    let tcp = Offload::parse(&HEADER, &TCP4).expect("valid");
    let udp = Offload { gso: tcp.gso.map(|gso| Gso { kind: GsoKind::Udp, ..gso }), ..tcp };
    let takes = |port: Capabilities| [none, partial, tcp, udp].map(|offload| port.takes(&offload));
    assert_eq!(takes(Capabilities::NONE), [true, false, false, false]);
    assert_eq!(takes(Capabilities { csum: true, ..Capabilities::NONE }), [true, true, false, false]);
    let no_uso = Capabilities { uso: false, ..Capabilities::ALL };
    assert_eq!(takes(no_uso), [true, true, true, false]);
    assert_eq!(takes(Capabilities { csum: false, ..Capabilities::ALL }), [true, false, false, false]);
    assert_eq!(takes(Capabilities::ALL), [true; 4]);
}

proptest! {
    #[test]
    fn whatever_is_accepted_survives_a_round_trip(
        header: [u8; 10],
        likely in 0..4u8,
        edits in prop::collection::vec((0..64usize, any::<u8>()), 0..4),
        cut in 0..=64usize,
    ) {
        let [_, _, h0, h1, z0, ..] = header;
        let header = if likely > 0 { [1, 1, h0, h1, z0 % 16, 0, 34, 0, 16, 0] } else { header };
        let mut frame = TCP4;
        for (at, byte) in edits {
            frame[at] = byte;
        }
        let frame = &frame[..if likely == 3 { cut } else { 64 }];
        if let Ok(offload) = Offload::parse(&header, frame) {
            let canonical = offload.emit();
            prop_assert_eq!(Offload::parse(&canonical, frame), Ok(offload));
            prop_assert!(offload.wire_len(frame.len()) <= frame.len());
            prop_assert_eq!(offload.segments(frame.len()) > 1, offload.gso.is_some());
        }
    }
}
