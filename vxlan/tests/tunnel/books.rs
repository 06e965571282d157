//! Every frame offered is counted once, as sent or as dropped, whatever the network says of any train.

use std::{collections::HashSet, io};

use proptest::prelude::*;
use vswitch::{counters::PortTotals, drops::DropReason};

use crate::{
    lab::{BLUE, Item, LOCAL, RED, Tunnel, seal, wire_frames},
    packets::{TCP, spec},
    superframe::Transport,
};

/// A unique frame: its payload begins with its number.
fn item(number: u16, kind: u8, len: usize) -> Item {
    let (v6, transport) = (kind & 1 != 0, if kind & 2 != 0 { Transport::Udp } else { TCP });
    let mut payload = vec![kind; len.max(4)];
    payload[..2].copy_from_slice(&number.to_be_bytes());
    // So that every segment differs, too.
    for (nth, segment) in (0..).zip(payload.chunks_mut(1000)).skip(1) {
        let end = segment.len().min(4);
        segment[..end].copy_from_slice(&[number.to_be_bytes(), [0xff, nth]].concat()[..end]);
    }
    let packet = spec(v6, transport, &payload);
    let mut item = match packet.payload.len() {
        0..=1000 => Item::plain(packet.wire()),
        _ => Item::offloaded(&packet.gso_header(1000), packet.offloaded()),
    };
    // Flows by port; the partial checksum does not cover it.
    let port = packet.transport_at();
    item.bytes[port] ^= kind;
    if len <= 1000 {
        seal(&mut item.bytes);
    }
    item.network = [BLUE, BLUE, RED, LOCAL][usize::from(kind >> 6)];
    item
}

/// Errors as the kernel gives them, and what they mean.
const ERRORS: [(i32, DropReason); 5] = [
    (11, DropReason::FullRing),
    (90, DropReason::PktTooBig),
    (101, DropReason::IpOutNoRoutes),
    (105, DropReason::FullRing),
    (1, DropReason::DevTxError),
];

fn dropped(totals: &PortTotals) -> u64 {
    totals.drops().map(|(_, count)| count).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_has_one_fate(
        frames in prop::collection::vec((any::<u8>(), prop_oneof![4..200usize, 900..3000usize, 20_000..62_000usize]), 1..40),
        failures in prop::collection::hash_map(0..60usize, prop::sample::select(&ERRORS), 0..8),
        sources in 0..3u32,
        datagrams in prop::sample::select(vec![1, 2, 64, 128]),
    ) {
        let mut tunnel = Tunnel::new();
        (tunnel.out.sources, tunnel.out.datagrams) = (1 << (2 * sources), datagrams);
        let items: Vec<_> = (0..).zip(&frames).map(|(number, (kind, len))| item(number, *kind, *len)).collect();
        let mut failed = 0;
        let outcome = tunnel.send_by(&items, |nth| match failures.get(&nth) {
            Some((errno, _)) => {
                failed += 1;
                Err(io::Error::from_raw_os_error(*errno))
            }
            None => Ok(()),
        });
        let totals = &outcome.totals;
        prop_assert_eq!(totals.offered, items.len() as u64);
        prop_assert_eq!(totals.offered, totals.tx_frames + dropped(totals), "{:?}", totals);

        // Sent are those of which every packet left, and no others.
        let left: HashSet<_> = outcome.datagrams().into_iter().map(|datagram| datagram[8..].to_vec()).collect();
        let carried = items.iter().filter(|item| item.network != LOCAL);
        let whole = carried.filter(|item| wire_frames(&item.offload, &item.bytes).iter().all(|wire| left.contains(wire)));
        prop_assert_eq!(totals.tx_frames, whole.count() as u64);
        let nowhere = items.iter().filter(|item| item.network == LOCAL).count() as u64;
        prop_assert_eq!(totals.drops[DropReason::PortGone.index()], nowhere);
        let reasons: HashSet<_> = failures.values().map(|(_, reason)| *reason).collect();
        let others = totals.drops().filter(|(reason, _)| *reason != DropReason::PortGone && !reasons.contains(reason));
        prop_assert_eq!(others.count(), 0, "{:?}", totals);
        prop_assert!(failed > 0 || dropped(totals) == nowhere);
    }
}

#[test]
fn a_failed_train_takes_down_those_aboard_and_no_others() {
    let mut tunnel = Tunnel::new();
    tunnel.out.sources = 1;
    let small: Vec<_> = (0..150).map(|number| item(number, 2, 10)).collect();
    let outcome = tunnel.send_by(&small, |nth| match nth {
        1 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    });
    assert_eq!(outcome.totals.tx_frames, 150 - 64);
    assert_eq!(outcome.drops(), [(DropReason::FullRing, 64)]);

    // A super-frame in two trains is lost if either is, and the small ones beside it with the one they are in.
    for (failing, lost) in [(0, 2), (1, 2)] {
        let items = [item(0, 0, 10), item(1, 0, 60_000), item(2, 0, 60_000), item(3, 0, 10)];
        let items = [&items[0], &items[1], &items[3]].map(Clone::clone);
        tunnel.out.datagrams = 32;
        let outcome = tunnel.send_by(&items, |nth| match nth {
            nth if nth == failing + 1 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        });
        let dropped = outcome.totals.drops[DropReason::FullRing.index()];
        assert!(dropped >= 1 && dropped <= lost, "{:?}", outcome.totals);
        assert_eq!(outcome.totals.offered, outcome.totals.tx_frames + dropped);
    }
}
