//! Segmentation against a model that builds every wire frame from scratch.

use super::superframe::{ACK, Addresses, CWR, FIN, PSH, Spec, Transport, specs};
use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;
use vswitch::checksum;
use vswitch::drops::DropReason;
use vswitch::headers::Headers;
use vswitch::offload::{Capabilities, Csum, Offload};
use vswitch::segment::Segmenter;

/// What a port without offload would send for `frame` behind `header`.
fn wire_frames(header: &[u8; 10], frame: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let offload = Offload::parse(header, frame)?;
    let segments = Segmenter::new(frame, &offload)?;
    assert_eq!(segments.len(), offload.segments(frame.len()));
    let mut frames = Vec::new();
    for segment in segments {
        let mut buf = vec![0xee; segment.wire_len()];
        assert_eq!(segment.copy_into(&mut buf), Some(segment.wire_len()));
        assert!(segment.wire_len() <= offload.wire_len(frame.len()));
        frames.push(buf);
    }
    Ok(frames)
}

fn tcp4(payload: &[u8]) -> Spec {
    Spec {
        tags: vec![],
        addresses: Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]),
        ip_options: 0,
        extensions: vec![],
        id: 0xffff,
        transport: Transport::Tcp { sequence: u32::MAX - 1, flags: ACK | FIN | PSH | CWR, options: 0 },
        accurate: false,
        payload: payload.to_vec(),
    }
}

/// The example of the manual: ten bytes of payload in segments of four, over the wrap of id and sequence.
#[test]
fn ten_bytes_in_segments_of_four() {
    let spec = tcp4(b"0123456789");
    let frames = wire_frames(&spec.gso_header(4), &spec.offloaded()).expect("valid");
    #[rustfmt::skip]
    let expected: [&[u8]; 3] = [
        &[
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 44, 0xff, 0xff, 0x40, 0, 64, 6, 0x26, 0xb6, 10, 9, 0, 2, 10, 9, 0, 3,
            0x9c, 0x40, 0x13, 0x89, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 7, 0x50, 0x90, 0x20, 0, 0x69, 0x06, 0, 0, // first: CWR
            b'0', b'1', b'2', b'3',
        ],
        &[
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 44, 0x00, 0x00, 0x40, 0, 64, 6, 0x26, 0xb6, 10, 9, 0, 2, 10, 9, 0, 3,
            0x9c, 0x40, 0x13, 0x89, 0, 0, 0, 2, 0, 0, 0, 7, 0x50, 0x10, 0x20, 0, 0x61, 0x7b, 0, 0, // ACK alone
            b'4', b'5', b'6', b'7',
        ],
        &[
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 42, 0x00, 0x01, 0x40, 0, 64, 6, 0x26, 0xb7, 10, 9, 0, 2, 10, 9, 0, 3,
            0x9c, 0x40, 0x13, 0x89, 0, 0, 0, 6, 0, 0, 0, 7, 0x50, 0x19, 0x20, 0, 0x93, 0xa3, 0, 0, // last: FIN and PSH
            b'8', b'9',
        ],
    ];
    assert_eq!(frames, expected);
}

#[test]
fn a_lone_partial_checksum_is_completed() {
    for payload in [&b""[..], b"1", b"0123456789"] {
        for transport in [Transport::Tcp { sequence: 1, flags: ACK, options: 12 }, Transport::Udp] {
            let spec = Spec { transport, ..tcp4(payload) };
            let frame = spec.offloaded();
            assert_eq!(wire_frames(&spec.csum_header(), &frame), Ok(vec![spec.wire()]));

            let mut in_place = frame.clone();
            let Ok(Offload { csum: Csum::Partial { start, offset }, .. }) =
                Offload::parse(&spec.csum_header(), &frame)
            else {
                panic!("partial")
            };
            assert!(checksum::complete(&mut in_place, start.into(), offset.into()));
            assert_eq!(in_place, spec.wire());
        }
    }
}

#[test]
fn a_complete_frame_stays_as_it_is() {
    for header in [[0; 10], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        for frame in [&[][..], &[1], &tcp4(b"hello").wire()] {
            assert_eq!(wire_frames(&header, frame), Ok(vec![frame.to_vec()]));
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    let spec = Spec { transport: Transport::Udp, ..tcp4(&[0; 6]) };
    let zero = (0..=u16::MAX).find_map(|filler| {
        let spec =
            Spec { payload: [filler.to_be_bytes(), [0; 2], filler.to_be_bytes()].concat(), ..spec.clone() };
        let field = |frame: &[u8]| frame[40..42].to_vec();
        spec.cut(4).iter().any(|frame| field(frame) == [0xff, 0xff]).then_some(spec)
    });
    let spec = zero.expect("one of 65536 sums to zero");
    assert_eq!(wire_frames(&spec.gso_header(4), &spec.offloaded()), Ok(spec.cut(4)));
}

#[test]
fn a_datagram_without_checksum_is_not_verified() {
    let spec = Spec { transport: Transport::Udp, ..tcp4(b"hello") };
    let mut frame = spec.wire();
    let headers = Headers::measure(&frame).expect("UDP");
    assert!(checksum::verify(&frame, &headers));
    frame[40..42].fill(0);
    assert!(!checksum::verify(&frame, &headers));
    assert!(!checksum::verify(&frame[..45], &headers), "nor one cut short");
}

#[test]
fn a_buffer_too_short_is_left_alone() {
    let spec = tcp4(b"0123456789");
    let frame = spec.offloaded();
    let offload = Offload::parse(&spec.gso_header(4), &frame).expect("valid");
    assert!(!Capabilities::NONE.takes(&offload));
    let segment = Segmenter::new(&frame, &offload).expect("valid").next().expect("first");
    let mut buf = [0xee; 100];
    assert_eq!(segment.write_header(&mut buf[..53]), None);
    assert_eq!(segment.copy_into(&mut buf[..57]), None);
    assert_eq!(buf, [0xee; 100]);
    assert_eq!(segment.write_header(&mut buf), Some(54));
    assert_eq!(buf[54..], [0xee; 46]);
}

#[test]
fn metadata_of_another_frame_is_refused() {
    let spec = tcp4(b"0123456789");
    let frame = spec.offloaded();
    let offload = Offload::parse(&spec.gso_header(4), &frame).expect("valid");
    assert_eq!(Segmenter::new(&frame, &offload.shifted(4)).err(), Some(DropReason::DevHdr));
    assert_eq!(Segmenter::new(&frame[..60], &offload).err(), Some(DropReason::DevHdr));
}

/// A strict reading by a parser that is not ours: every length agrees, every checksum is right.
fn reparsed(frame: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).expect("well-formed");
    let net = packet.net.expect("IP");
    let ip = net.ip_payload_ref().expect("IP").payload;
    assert_eq!(ip.as_ptr_range().end, frame.as_ptr_range().end, "the IP length ends with the frame");
    let headers = Headers::measure(frame).expect("TCP or UDP");
    assert!(checksum::verify(frame, &headers), "transport checksum");
    let mut damaged = frame.to_vec();
    damaged[headers.transport] ^= 1;
    assert!(!checksum::verify(&damaged, &headers), "damage is seen");
    match packet.transport.expect("transport") {
        TransportSlice::Tcp(tcp) => tcp.payload().to_vec(),
        TransportSlice::Udp(udp) => {
            assert_eq!(usize::from(udp.length()), ip.len());
            udp.payload().to_vec()
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn segments_are_what_the_sender_would_have_sent(spec in specs(), accurate: bool, size in 1..3000u16) {
        let spec = Spec { accurate, ..spec };
        let frame = spec.offloaded();
        let limit = if matches!(spec.transport, Transport::Udp) { 128 } else { 1024 };
        let answer = wire_frames(&spec.gso_header(size), &frame);
        if spec.payload.len().div_ceil(size.into()) > limit {
            prop_assert_eq!(answer, Err(DropReason::DevHdr));
            return Ok(());
        }
        let frames = answer.expect("valid");
        prop_assert_eq!(&frames, &spec.cut(size.into()));
        let payloads: Vec<u8> = frames.iter().flat_map(|frame| reparsed(frame)).collect();
        prop_assert_eq!(payloads, spec.payload);
    }

    #[test]
    fn metadata_follows_a_pushed_and_a_popped_tag(spec in specs(), accurate: bool, size in 600..3000u16) {
        let spec = Spec { accurate, tags: spec.tags.into_iter().take(1).collect(), ..spec };
        let tagged = Spec { tags: [&[[0x81, 0, 0, 7]], &spec.tags[..]].concat(), ..spec.clone() };
        let parse = |spec: &Spec| Offload::parse(&spec.gso_header(size), &spec.offloaded());
        let (Ok(plain), Ok(tagged)) = (parse(&spec), parse(&tagged)) else { return Ok(()) };
        prop_assert_eq!(plain.shifted(4), tagged);
        prop_assert_eq!(tagged.shifted(-4), plain);
    }

    /// A valid frame with a few bytes changed, with a header with a few bytes changed.
    #[test]
    fn no_bytes_make_it_panic(
        spec in specs(),
        size in any::<u16>(),
        header_edits in prop::collection::vec((0..10usize, any::<u8>()), 0..3),
        frame_edits in prop::collection::vec((0..120usize, any::<u8>()), 0..4),
        cut in prop::option::of(0..200usize),
    ) {
        let mut frame = spec.offloaded();
        let mut header = spec.gso_header(size);
        for (at, byte) in header_edits {
            header[at] = byte;
        }
        for (at, byte) in frame_edits {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(cut.unwrap_or(usize::MAX));
        if let Ok(frames) = wire_frames(&header, &frame) {
            prop_assert!(!frames.is_empty() && frames.len() <= 1024);
        }
    }

    #[test]
    fn no_noise_makes_it_panic(header: [u8; 10], frame in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = wire_frames(&header, &frame);
    }
}
