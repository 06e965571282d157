//! Copies for a collector: frames of any network get its VNI, and senders get no answers.

use vswitch::{drops::DropReason, frame::Tag, transmit::TagOp};
use vswitch_vxlan::{
    copies::Copies,
    encap::{Class, Dscp, MAX_DATAGRAMS},
};

use crate::{
    lab::{Item, LOCAL, Outcome, RED, Sent, seal, turn},
    packets::{TCP, spec},
    superframe::{Addresses, Spec, Transport},
};

/// VNI 9000.
const HEADER: [u8; 8] = [8, 0, 0, 0, 0, 0x23, 0x28, 0];

fn copies(to: &str) -> Copies {
    Copies {
        to: to.parse().expect("an address with a port"),
        header: HEADER,
        class: Class::unmarked(Dscp::Fixed(46)),
    }
}

/// Copies to 10.8.0.9, of frames of up to `max_frame` bytes.
fn send_up_to(max_frame: usize, items: &[Item]) -> Outcome {
    turn(items, max_frame, |frames, scratch, trains| {
        copies("10.8.0.9:4789").encapsulate(MAX_DATAGRAMS, frames, scratch, &mut |train| {
            trains.push(Sent::of(train));
            Ok(())
        });
    })
}

fn send(items: &[Item]) -> Outcome {
    send_up_to(70_000, items)
}

fn copy(frame: &[u8]) -> Vec<u8> {
    [&HEADER, frame].concat()
}

#[test]
fn whatever_its_network_a_copy_has_the_collectors_vni() {
    let frame = spec(false, TCP, b"hello").wire();
    let networks = [Item::plain(&*frame).network, RED, LOCAL];
    let outcome = send(&networks.map(|network| Item { network, ..Item::plain(&*frame) }));
    assert_eq!(outcome.datagrams(), [copy(&frame), copy(&frame), copy(&frame)]);
    assert_eq!((outcome.totals.offered, outcome.totals.tx_frames), (3, 3));
}

#[test]
fn packets_that_fit_no_tunnel_leave_and_nobody_is_answered() {
    for v6 in [false, true] {
        let long = spec(v6, Transport::Udp, &[0x77; 8000]).wire();
        let outcome = send(&[Item::plain(&*long)]);
        assert_eq!((outcome.datagrams(), outcome.answers.len()), (vec![copy(&long)], 0));
    }
}

#[test]
fn each_packet_of_a_super_frame_is_copied_as_a_wire_would_have_it() {
    for v6 in [false, true] {
        let spec = spec(v6, TCP, &[0x33; 60_000]);
        let outcome = send(&[Item::offloaded(&spec.gso_header(1448), spec.offloaded())]);
        let packets: Vec<_> = spec.cut(1448).iter().map(|packet| copy(packet)).collect();
        assert_eq!((outcome.datagrams(), outcome.answers.len()), (packets, 0));
        assert_eq!((outcome.totals.tx_frames, outcome.totals.tx_segments), (1, 42));
    }
}

#[test]
fn what_is_longer_than_the_mirrors_mtu_is_counted_and_that_is_all() {
    let frame = |len: usize| Item::plain(spec(false, Transport::Udp, &vec![1; len - 28]).wire());
    let outcome = send_up_to(1464, &[frame(1450), frame(1451)]);
    assert_eq!((outcome.drops(), outcome.answers.len()), (vec![(DropReason::PktTooBig, 1)], 0));
    assert_eq!((outcome.totals.offered, outcome.totals.tx_frames), (2, 1));
    // Of a super-frame it is the packets that count.
    let spec = spec(false, TCP, &[1; 30_000]);
    let cut = |size| Item::offloaded(&spec.gso_header(size), spec.offloaded());
    assert_eq!(send_up_to(1464, &[cut(1398)]).drops(), []);
    assert_eq!(send_up_to(1464, &[cut(1399)]).drops(), [(DropReason::PktTooBig, 1)]);
}

#[test]
fn tags_are_those_with_which_the_frame_leaves() {
    let tagged = Spec { tags: vec![[0x81, 0, 0, 10]], ..spec(false, TCP, b"hello") };
    let plain = spec(false, TCP, b"hello").wire();
    let outcome = send(&[
        Item::plain(tagged.wire()),
        Item { tag: TagOp::Pop, ..Item::plain(tagged.wire()) },
        Item { tag: TagOp::Push(Tag(10)), ..Item::plain(&*plain) },
    ]);
    assert_eq!(outcome.datagrams(), [copy(&tagged.wire()), copy(&plain), copy(&tagged.wire())]);
}

#[test]
fn congestion_is_not_told_of_and_order_is_kept_over_flows() {
    let flow = |number: u8| {
        let mut frame = spec(false, Transport::Udp, b"0123456789").wire();
        (frame[15], frame[35]) = (0xb8 | 3, number);
        seal(&mut frame);
        frame
    };
    let frames: Vec<_> = (0..20).map(flow).collect();
    let outcome = send(&frames.iter().map(|frame| Item::plain(&**frame)).collect::<Vec<_>>());
    assert_eq!(outcome.datagrams(), frames.iter().map(|frame| copy(frame)).collect::<Vec<_>>());
    let [train] = &outcome.trains[..] else { panic!("{outcome:?}") };
    assert_eq!((train.source, train.traffic_class), (0, 46 << 2));
}

/// A copy, as it looks on the way to the collector; edited.
fn on_its_way(v6: bool, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let addresses = match v6 {
        false => Addresses::V4([10, 8, 0, 1, 10, 8, 0, 9]),
        true => {
            let mut hosts = [0xfd; 32];
            hosts[16..].fill(9);
            Addresses::V6(hosts)
        }
    };
    let payload = copy(&spec(false, TCP, b"hello").wire());
    let spec = Spec { addresses, payload, ..spec(v6, Transport::Udp, b"") };
    let mut frame = spec.wire();
    let port = spec.transport_at() + 2;
    frame[port..port + 2].copy_from_slice(&4789_u16.to_be_bytes());
    edit(&mut frame);
    frame
}

/// The way to the collector may be mirrored itself.
#[test]
fn a_copy_is_not_copied() {
    for (v6, collector) in [(false, "10.8.0.9:4789"), (true, "[909:909:909:909:909:909:909:909]:4789")] {
        let copies = copies(collector);
        let is = |edit: fn(&mut Vec<u8>)| copies.include(&on_its_way(v6, edit));
        // Where IP, UDP and VXLAN headers have what tells.
        assert!(is(|_| {}));
        assert!(is(|frame| drop(frame.splice(12..12, [0x81, 0, 0, 10]))), "tagged");
        assert!(!is(|frame| frame[12] = 7), "not IP");
        let edits: [fn(&mut Vec<u8>); 4] = if v6 {
            [
                |frame| frame[14 + 39] = 8,
                |frame| frame[14 + 6] = 6,
                |frame| frame[54 + 3] ^= 1,
                |frame| frame[62 + 5] ^= 1,
            ]
        } else {
            [
                |frame| frame[14 + 19] = 8,
                |frame| frame[14 + 9] = 6,
                |frame| frame[34 + 3] ^= 1,
                |frame| frame[42 + 5] ^= 1,
            ]
        };
        for (what, edit) in ["another host", "not UDP", "another port", "another VNI"].iter().zip(edits) {
            assert!(!is(edit), "{what}");
        }
        for len in 0..on_its_way(v6, |_| {}).len() {
            // Whatever is cut off, it is looked at.
            copies.include(&on_its_way(v6, |frame| frame.truncate(len)));
        }
    }
    let fragment = |v6, edit: fn(&mut Vec<u8>)| {
        let to = if v6 { "[909:909:909:909:909:909:909:909]:4789" } else { "10.8.0.9:4789" };
        copies(to).include(&on_its_way(v6, edit))
    };
    assert!(fragment(false, |frame| frame[20] = 0x20), "the first of several");
    assert!(fragment(false, |frame| frame[21] = 185), "the last");
    assert!(fragment(true, |frame| {
        frame[20] = 44;
        frame.splice(54..54, [17, 0, 0, 1, 0, 0, 0, 7]);
    }));
    let outcome = send(&[Item::plain(on_its_way(false, |_| {}))]);
    assert_eq!((outcome.drops(), outcome.trains.len()), (vec![(DropReason::MirrorLoop, 1)], 0));
}
