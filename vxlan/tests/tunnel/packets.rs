//! Literal packets, both ways.

use vswitch::{
    drops::DropReason,
    frame::Tag,
    offload::{Csum, Gso, GsoKind, Offload},
    transmit::TagOp,
};
use vswitch_vxlan::{
    ecn::Ecn,
    encap::{Class, Dscp},
};

use crate::{
    lab::{Arrived, BLUE, BLUE_HEADER, Item, LOCAL, RED, RED_HEADER, Tunnel, seal},
    superframe::{ACK, Addresses, PSH, Spec, Transport},
};

/// Who has 10.9.0.3? Tell 10.9.0.2.
const ARP: &[u8] = b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x08\x06\
    \x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x02\x0a\x09\x00\x02\x00\x00\x00\x00\x00\x00\x0a\x09\x00\x03";

/// 10.9.0.2:40000 > 10.9.0.3:5001, UDP, DSCP 46 and ECT(0), payload "hello".
#[rustfmt::skip]
const UDP4: [u8; 47] = [
    2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 2, 0x08, 0x00,
    0x45, 0xba, 0, 33, 0x12, 0x34, 0x40, 0, 64, 17, 0x13, 0xc8, 10, 9, 0, 2, 10, 9, 0, 3,
    0x9c, 0x40, 0x13, 0x89, 0, 13, 0xf8, 0x21, b'h', b'e', b'l', b'l', b'o',
];

pub(crate) fn spec(v6: bool, transport: Transport, payload: &[u8]) -> Spec {
    Spec {
        tags: vec![],
        addresses: if v6 { Addresses::V6([0xfd; 32]) } else { Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]) },
        ip_options: 0,
        extensions: vec![],
        id: 7,
        transport,
        accurate: false,
        payload: payload.to_vec(),
    }
}

pub(crate) const TCP: Transport = Transport::Tcp { sequence: u32::MAX - 5, flags: ACK, options: 12 };

/// The datagram of `frame` in blue.
pub(crate) fn blue(frame: &[u8]) -> Vec<u8> {
    [&BLUE_HEADER, frame].concat()
}

fn arrived(bytes: impl Into<Vec<u8>>) -> Arrived {
    Arrived { network: BLUE, isolated: false, offload: Offload::NONE, bytes: bytes.into() }
}

#[test]
fn a_frame_behind_its_header_and_back() {
    let tunnel = Tunnel::new();
    let mut udp = UDP4;
    seal(&mut udp);
    assert_eq!(udp, UDP4, "the example is right");
    let ip6 = spec(true, TCP, b"hello").wire();
    let long = spec(false, Transport::Udp, &[0x55; 1422]).wire();
    assert_eq!(long.len(), 1464, "as long as fits");
    for frame in [ARP, &UDP4, &ip6, &long, &[0xee; 14]] {
        let outcome = tunnel.send(&[Item::plain(frame)]);
        assert_eq!(outcome.datagrams(), [blue(frame)]);
        let bytes = frame.len() as u64;
        assert_eq!(
            [outcome.totals.offered, outcome.totals.tx_frames, outcome.totals.tx_bytes],
            [1, 1, bytes]
        );
        assert_eq!(tunnel.take(&outcome.datagrams()), [arrived(frame)]);
    }
}

#[test]
fn networks_by_their_numbers() {
    let tunnel = Tunnel::new();
    let outcome = tunnel.send(&[
        Item::plain(ARP),
        Item { network: RED, ..Item::plain(ARP) },
        Item { network: LOCAL, ..Item::plain(ARP) },
    ]);
    assert_eq!(outcome.datagrams(), [blue(ARP), [&RED_HEADER, ARP].concat()]);
    assert_eq!(outcome.drops(), [(DropReason::PortGone, 1)]);
    let frames = tunnel.take(&outcome.datagrams());
    assert_eq!(frames, [arrived(ARP), Arrived { network: RED, ..arrived(ARP) }]);
}

#[test]
fn frames_of_isolated_ports_are_marked_and_known_by_their_mark() {
    let marked = [&[0x88, 0, 0x01, 0x02, 0, 0x10, 0, 0], ARP].concat();
    let mut tunnel = Tunnel::new();
    tunnel.mark(0x0102, true);
    assert_eq!(tunnel.send(&[Item::plain(ARP)]).datagrams(), std::slice::from_ref(&marked));
    let other_group = [&[0x88, 0, 0x01, 0x03, 0, 0x10, 0, 0], ARP].concat();
    let isolated = Arrived { isolated: true, ..arrived(ARP) };
    let frames = tunnel.take(&[marked.clone(), blue(ARP), other_group]);
    assert_eq!(frames, [isolated.clone(), arrived(ARP), arrived(ARP)]);
    tunnel.back.strict = true;
    assert_eq!(
        tunnel.take(&[marked.clone(), blue(ARP)]),
        [isolated, arrived(ARP)],
        "its bits are not reserved"
    );
    tunnel.mark(0x0102, false);
    assert_eq!(tunnel.send(&[Item::plain(ARP)]).datagrams(), [blue(ARP)], "other ports' frames are as ever");
    assert_eq!(Tunnel::new().take(&[marked]), [arrived(ARP)], "where no group is in use");
}

#[test]
fn packets_of_one_flow_do_not_merge_across_a_mark() {
    let mut tunnel = Tunnel::new();
    tunnel.mark(7, true);
    let cut = spec(false, TCP, &[0x42; 200]).cut(100);
    let header = |isolated: bool| if isolated { [0x88, 0, 0, 7, 0, 0x10, 0, 0] } else { BLUE_HEADER };
    for (marks, expected) in [([true, true], vec![true]), ([false, true], vec![false, true])] {
        let datagrams = marks.iter().zip(&cut).map(|(mark, frame)| [&header(*mark), &frame[..]].concat());
        let frames = tunnel.take(&datagrams.collect::<Vec<_>>());
        assert_eq!(frames.iter().map(|frame| frame.isolated).collect::<Vec<_>>(), expected, "{marks:?}");
    }
}

#[test]
fn a_super_frame_leaves_as_one_train_and_arrives_whole_if_it_is_of_tcp() {
    let tunnel = Tunnel::new();
    for (v6, transport) in [(false, TCP), (true, TCP), (false, Transport::Udp), (true, Transport::Udp)] {
        let spec = spec(v6, transport, b"0123456789");
        let item = Item::offloaded(&spec.gso_header(4), spec.offloaded());
        let outcome = tunnel.send(std::slice::from_ref(&item));
        let expected: Vec<_> = spec.cut(4).iter().map(|frame| blue(frame)).collect();
        assert_eq!(outcome.datagrams(), expected);
        assert_eq!(outcome.trains.len(), 1);
        assert_eq!([outcome.totals.tx_frames, outcome.totals.tx_segments], [1, 3]);
        let arrives = match transport {
            Transport::Tcp { .. } => {
                vec![Arrived { offload: item.offload, ..arrived(item.bytes) }]
            }
            // A reader that did not request merging would see the first datagram only.
            Transport::Udp => spec.cut(4).into_iter().map(arrived).collect(),
        };
        assert_eq!(tunnel.take(&outcome.datagrams()), arrives);
    }
}

#[test]
fn a_checksum_left_to_us_is_completed() {
    let spec = spec(false, TCP, b"hello");
    let outcome = Tunnel::new().send(&[Item::offloaded(&spec.csum_header(), spec.offloaded())]);
    assert_eq!(outcome.datagrams(), [blue(&spec.wire())]);
}

/// A segment of a TCP connection with "don't fragment", by a number.
fn flow(number: u16) -> Vec<u8> {
    let mut frame = spec(false, TCP, b"0123456789").wire();
    frame[20] = 0x40;
    frame[34..36].copy_from_slice(&number.to_be_bytes());
    seal(&mut frame);
    frame
}

#[test]
fn small_frames_of_one_turn_share_trains() {
    let mut tunnel = Tunnel::new();
    let items: Vec<_> = (0..64).map(|number| Item::plain(flow(number % 8))).collect();
    let outcome = tunnel.send(&items);
    assert_eq!(outcome.totals.tx_frames, 64);
    let sources: Vec<_> = outcome.trains.iter().map(|train| train.source).collect();
    assert!(sources.len() <= 8 && sources.is_sorted_by(|a, b| a < b), "one train for each port: {sources:?}");
    tunnel.out.sources = 1;
    assert_eq!(tunnel.send(&items).trains.len(), 1);
    tunnel.out.datagrams = 1;
    assert_eq!(tunnel.send(&items).trains.len(), 64);
}

/// A datagram may come whole or in fragments, which have no ports: all leave by one source port, in one order.
#[test]
fn datagrams_of_one_flow_keep_their_order_whole_and_in_fragments() {
    let tunnel = Tunnel::new();
    let datagram = |nth: u8, flags: u8, offset: u8| {
        let mut frame = spec(false, Transport::Udp, &[nth; 24]).wire();
        (frame[20], frame[21]) = (flags, offset);
        seal(&mut frame);
        frame
    };
    let frames = (0..12).map(|nth| match nth % 3 {
        0 => datagram(nth, 0x40, 0),
        1 => datagram(nth, 0x20, 0),
        _ => datagram(nth, 0, 4),
    });
    let frames: Vec<_> = frames.collect();
    let other = flow(7);
    let items: Vec<_> = frames.iter().flat_map(|frame| [frame, &other]).cloned().map(Item::plain).collect();
    let left = tunnel.send(&items).datagrams();
    let theirs: Vec<_> = left.into_iter().filter(|datagram| *datagram != blue(&other)).collect();
    assert_eq!(theirs, frames.iter().map(|frame| blue(frame)).collect::<Vec<_>>());
}

#[test]
fn another_traffic_class_is_another_train() {
    let mut tunnel = Tunnel::new();
    tunnel.out.class = Class::marked(Dscp::Inherit);
    let mut marked = flow(1);
    marked[15] = 0xb8;
    seal(&mut marked);
    let outcome = tunnel.send(&[flow(1), marked.clone(), marked, flow(1)].map(Item::plain));
    let trains: Vec<_> =
        outcome.trains.iter().map(|train| (train.traffic_class, train.datagrams.len())).collect();
    assert_eq!(trains, [(0, 1), (0xb8, 2), (0, 1)]);
}

#[test]
fn a_tag_leaves_as_the_switch_says() {
    let tunnel = Tunnel::new();
    let tagged = Spec { tags: vec![[0x81, 0, 0, 10]], ..spec(false, TCP, b"0123456789") };
    let untagged = Spec { tags: vec![], ..tagged.clone() };
    let item = Item::offloaded(&tagged.gso_header(4), tagged.offloaded());
    let table = [
        (TagOp::Keep, tagged.cut(4)),
        (TagOp::Pop, untagged.cut(4)),
        (TagOp::Replace(Tag(11)), Spec { tags: vec![[0x81, 0, 0, 11]], ..tagged.clone() }.cut(4)),
    ];
    for (tag, expected) in table {
        let expected: Vec<_> = expected.iter().map(|frame| blue(frame)).collect();
        // Two, for the copy of the first must not be overwritten by that of the second.
        let outcome = tunnel.send(&[Item { tag, ..item.clone() }, Item { tag, ..item.clone() }]);
        assert_eq!(outcome.datagrams(), [expected.clone(), expected].concat(), "{tag:?}");
    }
}

#[test]
fn an_ip_packet_without_a_whole_header_is_dropped_by_name() {
    let tunnel = Tunnel::new();
    for (ethertype, header) in [([0x08, 0x00], 20), ([0x86, 0xdd], 40)] {
        for tags in 0..=2 {
            let frame = |packet: usize| {
                [&ARP[..12], &[0x81, 0, 0, 7].repeat(tags), &ethertype, &vec![0x45; packet]].concat()
            };
            for packet in [0, 1, header - 1] {
                let bad = blue(&frame(packet));
                let (frames, refused) = tunnel.receive(&bad, bad.len(), Ecn::NotEct);
                assert_eq!(frames, [], "{ethertype:?} behind {tags} tags: {packet} bytes");
                assert_eq!(refused, [(DropReason::PktTooSmall, bad.len() - 8)]);
            }
            assert_eq!(tunnel.take(&[blue(&frame(header))]), [arrived(frame(header))]);
        }
    }
}

#[test]
fn what_is_not_taken_in_is_told_and_hides_nothing() {
    let mut tunnel = Tunnel::new();
    let good = blue(ARP);
    let with = |byte: usize, value| {
        let mut datagram = good.clone();
        datagram[byte] = value;
        datagram
    };
    let table = [
        ("no flag", with(0, 0), DropReason::VxlanInvalidHdr),
        ("a network that nobody has", with(6, 1), DropReason::VxlanVniNotFound),
        ("VNI 0, which no network has", with(5, 0), DropReason::VxlanVniNotFound),
        ("another protocol", with(0, 0x0c), DropReason::VxlanNotEthernet),
        ("operations and maintenance", with(0, 0x09), DropReason::VxlanNotEthernet),
    ];
    for (what, bad, reason) in table {
        let message = [good.clone(), bad.clone(), good.clone()].concat();
        let (frames, refused) = tunnel.receive(&message, good.len(), Ecn::NotEct);
        assert_eq!(frames, [arrived(ARP), arrived(ARP)], "{what}");
        assert_eq!(refused, [(reason, ARP.len())], "{what}");
        let (frames, refused) = tunnel.receive(&[bad, good.clone()].concat(), good.len(), Ecn::NotEct);
        assert_eq!((frames, refused.len()), (vec![arrived(ARP)], 1), "{what}, first");
    }
    for len in 0..8 {
        let (frames, refused) = tunnel.receive(&good[..len], len, Ecn::NotEct);
        assert_eq!((frames, refused), (vec![], vec![(DropReason::VxlanInvalidHdr, 0)]), "{len} bytes");
    }
    let reserved = with(7, 1);
    assert_eq!(tunnel.take(std::slice::from_ref(&reserved)), [arrived(ARP)]);
    tunnel.back.strict = true;
    let (frames, refused) = tunnel.receive(&reserved, reserved.len(), Ecn::NotEct);
    assert_eq!((frames, refused), (vec![], vec![(DropReason::VxlanInvalidHdr, ARP.len())]));
}

#[test]
fn a_super_frame_that_never_was_on_a_wire() {
    let tunnel = Tunnel::new();
    let payload = vec![0x5a; 20_000];
    for v6 in [false, true] {
        let tcp = spec(v6, Transport::Tcp { sequence: 1, flags: ACK | PSH, options: 12 }, &payload);
        let (frames, refused) =
            tunnel.receive(&blue(&tcp.offloaded()), 8 + tcp.offloaded().len(), Ecn::NotEct);
        assert_eq!((frames.len(), refused), (1, vec![]));
        assert_eq!(frames[0].bytes, tcp.offloaded());
        let size = if v6 { 1450 - 72 } else { 1450 - 52 };
        assert_eq!(frames[0].wire_frames(), tcp.cut(size));

        let udp = spec(v6, Transport::Udp, &payload);
        let (frames, refused) = tunnel.receive(&blue(&udp.offloaded()), 1000, Ecn::NotEct);
        assert_eq!((frames.len(), refused), (1, vec![]));
        assert_eq!(frames[0].wire_frames(), udp.cut(1000));
    }
    let lone = spec(false, TCP, b"hello");
    let frames = tunnel.take(&[blue(&lone.offloaded())]);
    assert_eq!(frames[0].offload, Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: None });
}

/// Checksums that a kernel left partial in a station's encapsulation are completed, at any supported depth.
#[test]
fn a_checksum_inside_an_encapsulation_is_finished() {
    let tunnel = Tunnel::new();
    for (v6, transport) in [(false, TCP), (true, TCP), (false, Transport::Udp), (true, Transport::Udp)] {
        let inner = spec(v6, transport, b"hello");
        let packet = |frame: Vec<u8>| frame[14..].to_vec();
        let protocol = if v6 { 41 } else { 4 };
        let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
        let vxlan = |frame: &[u8]| datagram(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0], frame].concat());
        let around = |inner: Vec<u8>| {
            [
                vxlan(&inner),
                vxlan(&vxlan(&inner)),
                datagram(6081, &[&[1, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 4], &inner[..]].concat()),
                ipv4(47, &[&[0x20, 0, 0x65, 0x58, 0, 0, 0, 1], &inner[..]].concat()),
                ipv4(47, &[&[0, 0], &ethertype[..], &packet(inner.clone())].concat()),
                ipv4(protocol, &packet(inner.clone())),
            ]
        };
        for (finished, unfinished) in around(inner.wire()).into_iter().zip(around(inner.offloaded())) {
            assert_ne!(finished, unfinished);
            // Outer checksums are those of the finished packet.
            let inside = finished.len() - inner.wire().len() + 14;
            let sent = [&finished[..inside], &unfinished[inside..]].concat();
            assert_eq!(tunnel.take(&[blue(&sent)]), [arrived(finished.clone())]);
            assert_eq!(tunnel.take(&[blue(&finished)]), [arrived(finished)]);
        }
    }
    // What is not such a packet stays as it was, wherever it ends behind its IP header (14 + 20 bytes).
    let whole =
        datagram(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0], &spec(false, TCP, b"hello").offloaded()[..]].concat());
    for len in 34..whole.len() {
        assert_eq!(tunnel.take(&[blue(&whole[..len])]), [arrived(&whole[..len])], "{len}");
    }
}

/// A UDP datagram to `port` over IPv4 that holds `payload`.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = spec(false, Transport::Udp, payload).wire();
    frame[36..38].copy_from_slice(&port.to_be_bytes());
    seal(&mut frame);
    frame
}

/// An IPv4 packet of `protocol` that holds `payload`.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = spec(false, Transport::Udp, &payload[8..]).wire();
    frame[34..42].copy_from_slice(&payload[..8]);
    frame[23] = protocol;
    frame[24..26].fill(0);
    let checksum = vswitch::checksum::Sum::of(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// A kernel does not report the segment size of a super-frame of TCP: it is cut to the smallest MTU of the network's ports.
#[test]
fn a_super_frame_is_cut_for_the_smallest_port() {
    let mut tunnel = Tunnel::new();
    tunnel.limit(BLUE, 1000);
    for v6 in [false, true] {
        let size = if v6 { 1000 - 72 } else { 1000 - 52 };
        // Two packets, which together are no longer than the tunnel carries, and many.
        for len in [size + 300, 20_000] {
            let tcp =
                spec(v6, Transport::Tcp { sequence: 1, flags: ACK | PSH, options: 12 }, &vec![0x5a; len]);
            let (frames, refused) =
                tunnel.receive(&blue(&tcp.offloaded()), 8 + tcp.offloaded().len(), Ecn::NotEct);
            assert_eq!((frames.len(), refused), (1, vec![]));
            assert_eq!(frames[0].wire_frames(), tcp.cut(size));
        }
    }
    let whole = spec(false, TCP, &[7; 1398]);
    assert_eq!(tunnel.take(&[blue(&whole.wire())]), [arrived(whole.wire())], "complete: it was on a wire");
}

/// A station that lies about the length of its packets harms its own alone.
#[test]
fn a_packet_that_claims_to_go_on_hides_nothing() {
    let tunnel = Tunnel::new();
    let mut liar = UDP4;
    for claimed in [48, 143, 1000, 65_535_u16] {
        liar[16..18].copy_from_slice(&claimed.to_be_bytes());
        let frames = tunnel.take(&[blue(&liar), blue(&UDP4), blue(&liar)]);
        assert_eq!(frames, [arrived(liar), arrived(UDP4), arrived(liar)], "{claimed}");
    }
}

#[test]
fn sizes_of_a_merged_frame() {
    let tunnel = Tunnel::new();
    let spec = spec(false, TCP, &[7; 3000]);
    let datagrams: Vec<_> = spec.cut(1398).iter().map(|frame| blue(frame)).collect();
    let frames = tunnel.take(&datagrams);
    let gso = Gso {
        kind: GsoKind::Tcp4,
        size: 1398.try_into().expect("not zero"),
        header_len: 66,
        ecn: false,
        tunnel: None,
    };
    let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(gso) };
    assert_eq!(frames, [Arrived { offload, ..arrived(spec.offloaded()) }]);
}
