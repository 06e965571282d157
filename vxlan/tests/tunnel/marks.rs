//! What the outer and the inner header take from each other: DSCP, ECN, and nothing of TTL.

use vswitch::drops::DropReason;
use vswitch_vxlan::{
    ecn::Ecn,
    encap::{Class, Dscp},
};

use crate::{
    lab::{Item, Tunnel, assert_sealed, seal},
    packets::{TCP, blue, spec},
};

/// A packet with this traffic class and TTL or hop limit.
fn packet(v6: bool, class: u8, ttl: u8) -> Vec<u8> {
    let mut frame = spec(v6, TCP, b"hello").wire();
    if v6 {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4;
        frame[21] = ttl;
    } else {
        frame[15] = class;
        frame[22] = ttl;
    }
    seal(&mut frame);
    frame
}

#[test]
fn the_outer_class_of_every_inner_one() {
    let mut tunnel = Tunnel::new();
    for (dscp, expected) in [
        (Dscp::Fixed(0), (|class| class & 3) as fn(u8) -> u8),
        (Dscp::Fixed(46), |class| 46 << 2 | class & 3),
        (Dscp::Fixed(63), |class| 63 << 2 | class & 3),
        (Dscp::Inherit, |class| class),
    ] {
        tunnel.out.class = Class::marked(dscp);
        for class in 0..=255 {
            for v6 in [false, true] {
                let frame = packet(v6, class, 64);
                let outcome = tunnel.send(&[Item::plain(frame.clone())]);
                assert_eq!(outcome.trains[0].traffic_class, expected(class), "{dscp:?} {class:#x} {v6}");
                assert_eq!(outcome.datagrams(), [blue(&frame)], "the frame itself is not touched");
            }
        }
        // What is not IP has no class.
        let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0xff; 28]].concat();
        assert_eq!(tunnel.send(&[Item::plain(arp)]).trains[0].traffic_class, expected(0));
    }
}

#[test]
fn the_inner_mark_after_every_outer_one() {
    let tunnel = Tunnel::new();
    // RFC 6040, figure 4: rows by the inner mark, columns by the outer: 00, 01, 10, 11. 4 is "dropped".
    let figure = [[0, 0, 0, 4], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    for (inner, row) in (0..4u8).zip(figure) {
        for (outer, expected) in [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce].into_iter().zip(row) {
            for (v6, dscp, ttl) in [(false, 0u8, 64), (false, 46, 1), (true, 0, 255), (true, 46, 1)] {
                let class = |mark: u8| dscp << 2 | mark;
                let datagram = blue(&packet(v6, class(inner), ttl));
                let (frames, refused) = tunnel.receive(&datagram, datagram.len(), outer);
                if expected == 4 {
                    let bytes = datagram.len() - 8;
                    assert_eq!((frames, refused), (vec![], vec![(DropReason::IpTunnelEcn, bytes)]));
                    continue;
                }
                assert_eq!(frames[0].bytes, packet(v6, class(expected), ttl), "{inner} in {outer:?}");
                assert_sealed(&frames[0].bytes);
            }
        }
    }
}

/// A train has one outer mark, but what it does to each packet depends on that packet.
#[test]
fn each_packet_of_a_train_by_itself() {
    let tunnel = Tunnel::new();
    let datagrams = [0, 2, 1, 3].map(|mark| blue(&packet(false, mark, 64)));
    let (frames, refused) = tunnel.receive(&datagrams.concat(), datagrams[0].len(), Ecn::Ce);
    assert_eq!(refused.len(), 1);
    assert_eq!(frames.iter().map(|frame| frame.bytes[15]).collect::<Vec<_>>(), [3, 3, 3]);
    frames.iter().for_each(|frame| assert_sealed(&frame.bytes));
}

#[test]
fn a_mark_reaches_a_frame_behind_a_tag() {
    let tunnel = Tunnel::new();
    let mut frame = packet(false, 2, 64);
    frame.splice(12..12, [0x81, 0, 0, 10]);
    let (frames, _) = tunnel.receive(&blue(&frame), 8 + frame.len(), Ecn::Ce);
    assert_eq!(frames[0].bytes[19], 3);
    assert_sealed(&frames[0].bytes);
}
