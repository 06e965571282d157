//! Any offload header before any frame: what is accepted can be cut into complete frames.

use vswitch::{
    checksum,
    headers::{Headers, Transport},
    offload::{MAX_SEGMENTS, Offload, VNET_HEADER},
    segment::Segmenter,
};

/// Segments the frame that follows an offload header.
pub fn offload(data: &[u8]) {
    let Some((header, frame)) = data.split_first_chunk::<VNET_HEADER>() else { return };
    let Ok(offload) = Offload::parse(header, frame) else { return };
    assert_eq!(Offload::parse(&offload.emit(), frame), Ok(offload), "the canonical header says the same");
    assert!(offload.wire_len(frame.len()) <= frame.len());
    let segments = Segmenter::new(frame, &offload).expect("the offload is of this frame");
    let count = segments.len();
    assert!((1..=MAX_SEGMENTS).contains(&count) && count == offload.segments(frame.len()));
    let (mut buffer, mut payload) = (vec![0; frame.len() + 64], Vec::new());
    for segment in segments {
        let len = segment.copy_into(&mut buffer).expect("a segment is no longer than its frame");
        let wire = &buffer[..len];
        assert!(len <= offload.wire_len(frame.len()));
        payload.extend_from_slice(segment.payload);
        if offload.gso.is_some() {
            let headers = Headers::measure(wire).expect("a segment has the headers of its frame");
            assert!(headers.ends_with(wire));
            // A routing header changes the destination in the checksum, so only plain packets are verified.
            let plain =
                headers.transport - headers.network == if wire[headers.network] >> 4 == 4 { 20 } else { 40 };
            let summed = pseudo_is_right(frame);
            assert!(!(plain && summed) || checksum::verify(wire, &headers), "a segment's checksum is right");
            let udp = headers.transport_kind == Transport::Udp;
            assert!(
                !udp || wire[headers.transport + 6..headers.transport + 8] != [0, 0],
                "UDP has a checksum"
            );
        }
    }
    let header_len = frame.len() - payload.len();
    assert_eq!(payload, frame[header_len..], "the payload is all there, in order");
}

/// Whether the checksum field holds the right pseudo-header sum; if not, only the sender's own receiver is affected.
fn pseudo_is_right(frame: &[u8]) -> bool {
    let Some(headers) = Headers::measure(frame) else { return false };
    let v4 = frame[headers.network] >> 4 == 4;
    let addresses = if v4 { 12..20 } else { 8..40 };
    let addresses = &frame[headers.network..][addresses];
    let (protocol, field) = if headers.transport_kind == Transport::Udp { (17, 6) } else { (6, 16) };
    let sum = checksum::Sum::pseudo(addresses, protocol, frame.len() - headers.transport).folded();
    frame[headers.transport + field..][..2] == sum.to_be_bytes()
}
