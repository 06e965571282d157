//! Any offload header before any frame: what is accepted can be cut into complete frames.

use vswitch::{
    checksum::{self, Sum},
    headers::{Headers, Transport},
    offload::{LONG_HEADER, MAX_SEGMENTS, Offload, VNET_HEADER},
    segment::Segmenter,
};

/// Segments the frame that follows an offload header.
pub fn offload(data: &[u8]) {
    let Some((header, frame)) = data.split_first_chunk::<LONG_HEADER>() else { return };
    if let (Some(short), false) = (header.first_chunk::<VNET_HEADER>(), header[1] & 0x60 != 0) {
        assert_eq!(Offload::parse(short, frame), Offload::parse_long(header, frame), "both say the same");
    }
    let Ok(offload) = Offload::parse_long(header, frame) else { return };
    assert_eq!(
        Offload::parse_long(&offload.emit_long(), frame),
        Ok(offload),
        "the canonical header says the same"
    );
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
        let Some(gso) = offload.gso else { continue };
        let inner_is_right = match gso.tunnel {
            None => {
                check(frame, wire, true);
                continue;
            }
            Some(tunnel) => {
                let inner = |frame: &[u8]| as_frame(&frame[usize::from(tunnel.network)..]);
                check(&inner(frame), &inner(wire), true);
                pseudo_is_right(&inner(frame))
            }
        };
        // What is summed outside relies on the inner checksum.
        check(frame, wire, gso.tunnel.is_some_and(|tunnel| tunnel.csum) && inner_is_right);
    }
    let header_len = frame.len() - payload.len();
    assert_eq!(payload, frame[header_len..], "the payload is all there, in order");
}

/// Checks the lengths of a segment of `frame`, and its transport checksum if it has one to rely on.
fn check(frame: &[u8], wire: &[u8], has_checksum: bool) {
    let headers = Headers::measure(wire).expect("a segment has the headers of its frame");
    assert!(headers.ends_with(wire));
    // A routing header changes the destination in the checksum, so only plain packets are verified.
    let plain = headers.transport - headers.network == if wire[headers.network] >> 4 == 4 { 20 } else { 40 };
    let summed = has_checksum && plain && pseudo_is_right(frame);
    assert!(!summed || checksum::verify(wire, &headers), "a segment's checksum is right");
    let udp = headers.transport_kind == Transport::Udp;
    let none = udp && wire[headers.transport + 6..headers.transport + 8] == [0, 0];
    assert!(!has_checksum || !none, "UDP has a checksum");
}

/// The packet behind an Ethernet header.
fn as_frame(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[2; 12][..], &ethertype, packet].concat()
}

/// Whether the checksum field holds the right pseudo-header sum; if not, only the sender's own receiver is affected.
fn pseudo_is_right(frame: &[u8]) -> bool {
    let Some(headers) = Headers::measure(frame) else { return false };
    let v4 = frame[headers.network] >> 4 == 4;
    let addresses = if v4 { 12..20 } else { 8..40 };
    let addresses = &frame[headers.network..][addresses];
    let (protocol, field) = if headers.transport_kind == Transport::Udp { (17, 6) } else { (6, 16) };
    let sum = Sum::pseudo(addresses, protocol, frame.len() - headers.transport).folded();
    frame[headers.transport + field..][..2] == sum.to_be_bytes()
}
