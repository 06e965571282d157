//! Super-frames inside a container's own tunnel, against a model that builds every wire frame from scratch.

use super::nested::{Nested, nested};
use super::superframe::{ACK, Addresses, CWR, FIN, PSH, Spec, Transport};
use proptest::prelude::*;
use vswitch::drops::DropReason;
use vswitch::headers::IpVersion;
use vswitch::offload::{Capabilities, Offload};
use vswitch::segment::Segmenter;

/// What a port without offload would send for `frame` behind `header`.
fn wire_frames(header: &[u8; 24], frame: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let offload = Offload::parse_long(header, frame)?;
    let segments = Segmenter::new(frame, &offload)?;
    assert_eq!(segments.len(), offload.segments(frame.len()));
    let wire = segments.map(|segment| {
        let mut wire = vec![0xee; segment.wire_len()];
        assert_eq!(segment.copy_into(&mut wire), Some(segment.wire_len()));
        assert!(segment.wire_len() <= offload.wire_len(frame.len()));
        wire
    });
    Ok(wire.collect())
}

/// Ten bytes of TCP in VXLAN, with positions 34 (outer UDP), 64 (inner IP), 84 (inner TCP) and 104 (payload).
fn vxlan(csum: bool) -> Nested {
    let tcp = Transport::Tcp { sequence: u32::MAX - 1, flags: ACK | FIN | PSH | CWR, options: 0 };
    let spec = Spec {
        tags: vec![],
        addresses: Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]),
        ip_options: 0,
        extensions: vec![],
        id: 0xffff,
        transport: tcp,
        accurate: false,
        payload: b"0123456789".to_vec(),
    };
    let outer = Spec { transport: Transport::Udp, payload: vec![], ..spec.clone() };
    Nested { outer, shim: vec![8, 0, 0, 0, 0, 0, 77, 0], inner: spec, csum }
}

#[test]
fn ten_bytes_in_vxlan_in_segments_of_four() {
    for csum in [false, true] {
        let nested = vxlan(csum);
        let (header, frame) = (nested.header(4), nested.offloaded());
        let offload = Offload::parse_long(&header, &frame).expect("valid");
        let gso = offload.gso.expect("a super-frame");
        let tunnel = gso.tunnel.expect("in a tunnel");
        assert_eq!((tunnel.transport, tunnel.network, gso.header_len), (34, 64, 104));
        assert_eq!((tunnel.version, tunnel.csum), (IpVersion::V4, csum));
        assert_eq!((offload.wire_len(frame.len()), offload.segments(frame.len())), (108, 3));
        assert_eq!(offload.emit_long(), header);
        let frames = wire_frames(&header, &frame).expect("valid");
        assert_eq!(frames, nested.cut(4));
        assert_eq!(frames[0][40..42] == [0, 0], !csum, "none stays none");
        assert_eq!(
            frames.iter().map(|frame| frame[18..20].to_vec()).collect::<Vec<_>>(),
            [[0xff, 0xff], [0, 0], [0, 1]]
        );
    }
}

#[test]
fn only_a_port_that_knows_tunnels_takes_them() {
    let nested = vxlan(true);
    let offload = Offload::parse_long(&nested.header(4), &nested.offloaded()).expect("valid");
    assert!(Capabilities::ALL.takes(&offload));
    assert!(!Capabilities { tunnel: false, ..Capabilities::ALL }.takes(&offload));
    assert!(!Capabilities { tso: false, ..Capabilities::ALL }.takes(&offload));
}

/// The kernel puts a tag back while the frame is read, and counts it in the checksum's position alone.
#[test]
fn a_tag_that_the_positions_do_not_count_is_seen() {
    let nested = vxlan(true);
    let outer = Spec { tags: vec![[0x81, 0, 0, 10]], ..nested.outer.clone() };
    let tagged = Nested { outer, ..nested };
    let mut header = tagged.header(4);
    header[20] -= 4;
    header[22] -= 4;
    let frame = tagged.offloaded();
    assert_eq!(wire_frames(&header, &frame), Ok(tagged.cut(4)));
    assert_eq!(Offload::parse_long(&header, &frame).expect("valid").emit_long(), tagged.header(4));
}

#[test]
fn contradictions_are_refused() {
    let nested = vxlan(true);
    let (right, frame) = (nested.header(4), nested.offloaded());
    assert!(wire_frames(&right, &frame).is_ok());
    let headers: &[(&str, &[(usize, u8)])] = &[
        ("no partial checksum", &[(0, 8)]),
        ("verified, not partial", &[(0, 8 | 2)]),
        ("no outer checksum, but a field", &[(0, 1)]),
        ("both versions", &[(1, 0x61)]),
        ("the other outer version", &[(1, 0x41)]),
        ("the other inner version", &[(1, 0x24)]),
        ("another inner protocol", &[(1, 0x25)]),
        ("nothing to cut", &[(1, 0x20)]),
        ("segments of zero", &[(4, 0)]),
        ("one segment", &[(4, 10)]),
        ("checksum of the outer header", &[(6, 34), (8, 6)]),
        ("checksum before the inner header", &[(6, 80)]),
        ("another outer transport", &[(20, 26)]),
        ("an outer transport behind", &[(20, 38)]),
        ("no positions", &[(20, 0), (22, 0)]),
        ("inner packet in the outer datagram's header", &[(22, 40)]),
        ("inner packet elsewhere", &[(22, 60)]),
        ("inner packet behind the end", &[(22, 0xff), (23, 0xff)]),
    ];
    for (name, edits) in headers {
        let mut header = right;
        edits.iter().for_each(|&(at, byte)| header[at] = byte);
        assert_eq!(Offload::parse_long(&header, &frame), Err(DropReason::DevHdr), "{name}");
    }
    let frames: &[(&str, usize, u8)] = &[
        ("an outer fragment", 20, 0x20),
        ("an outer packet that is TCP", 23, 6),
        ("an outer length short of the frame", 17, frame[17] - 1),
        ("a datagram short of the frame", 39, frame[39] - 1),
        ("an inner fragment", 70, 0x20),
        ("an inner length short of the frame", 67, frame[67] - 1),
        ("an inner packet of no version", 64, 0x55),
    ];
    for &(name, at, byte) in frames {
        let mut frame = frame.clone();
        frame[at] = byte;
        assert_eq!(Offload::parse_long(&right, &frame), Err(DropReason::DevHdr), "{name}");
    }
    for len in 0..frame.len() {
        assert_eq!(Offload::parse_long(&right, &frame[..len]), Err(DropReason::DevHdr), "cut to {len}");
    }
    let odd = Nested { shim: vec![0; 9], ..nested };
    assert_eq!(wire_frames(&odd.header(4), &odd.offloaded()), Err(DropReason::DevHdr), "odd");
    // The short header has no positions.
    assert_eq!(Offload::parse(right.first_chunk().expect("longer"), &frame), Err(DropReason::DevHdr));
}

proptest! {
    #[test]
    fn segments_are_what_the_sender_would_have_sent(nested in nested(), accurate: bool, size in 1..3000u16) {
        let nested = Nested { inner: Spec { accurate, ..nested.inner.clone() }, ..nested };
        let frame = nested.offloaded();
        let limit = if matches!(nested.inner.transport, Transport::Udp) { 128 } else { 1024 };
        let answer = wire_frames(&nested.header(size), &frame);
        if !(2..=limit).contains(&nested.inner.payload.len().div_ceil(size.into())) {
            prop_assert_eq!(answer, Err(DropReason::DevHdr));
            return Ok(());
        }
        prop_assert_eq!(answer.expect("valid"), nested.cut(size.into()));
    }

    #[test]
    fn metadata_follows_a_pushed_and_a_popped_tag(nested in nested(), size in 600..3000u16) {
        let mut plain = nested;
        plain.outer.tags.truncate(1);
        let mut tagged = plain.clone();
        tagged.outer.tags.insert(0, [0x81, 0, 0, 7]);
        let parse = |nested: &Nested| Offload::parse_long(&nested.header(size), &nested.offloaded());
        let (Ok(plain), Ok(tagged)) = (parse(&plain), parse(&tagged)) else { return Ok(()) };
        prop_assert_eq!(plain.shifted(4), tagged);
        prop_assert_eq!(tagged.shifted(-4), plain);
    }

    /// A valid frame with a few bytes changed, with a header with a few bytes changed.
    #[test]
    fn no_bytes_make_it_panic(
        nested in nested(),
        size in any::<u16>(),
        header_edits in prop::collection::vec((0..24usize, any::<u8>()), 0..3),
        frame_edits in prop::collection::vec((0..200usize, any::<u8>()), 0..4),
        cut in prop::option::of(0..300usize),
    ) {
        let mut frame = nested.offloaded();
        let mut header = nested.header(size);
        for (at, byte) in header_edits {
            header[at] = byte;
        }
        for (at, byte) in frame_edits {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(cut.unwrap_or(usize::MAX));
        if let Ok(offload) = Offload::parse_long(&header, &frame) {
            prop_assert_eq!(Offload::parse_long(&offload.emit_long(), &frame), Ok(offload));
            prop_assert!((1..=1024).contains(&wire_frames(&header, &frame).expect("accepted").len()));
        }
    }

    #[test]
    fn no_noise_makes_it_panic(header: [u8; 24], frame in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = wire_frames(&header, &frame);
    }
}
