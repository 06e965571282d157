//! What a port may send and be sent in a second, through a real engine on a clock of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    num::{NonZeroU16, NonZeroU64},
    sync::Arc,
};

use super::lab::{Lab, frame, mac};
use super::superframe::{ACK, Addresses, Spec, Transport};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    capture::{Direction, Fate, Session, Wanted},
    counters::PortTotals,
    device::mem::OwnedFrame,
    drops::DropReason,
    limit::{Limit, Limits},
    mirror::Mirror,
    offload::Offload,
    topology::{Network, PortMode, PortRules},
    trace::{Hypothesis, trace},
};

const BLUE: NetworkId = NetworkId(0);
/// Length of an ordinary frame here: frames per second are kilobytes per second.
const FRAME: usize = 1000;

fn network() -> [Network; 1] {
    [Network::new(BLUE)]
}

/// `frames` a second, and `burst` at once.
fn limit(frames: u64, burst: u64) -> Option<Limit> {
    let bits = |frames: u64| frames * FRAME as u64 * 8;
    NonZeroU64::new(bits(frames)).map(|rate| Limit::new(rate, bits(burst)))
}

fn port(id: u16, limits: Limits) -> PortRules {
    PortRules { limits, ..PortRules::access(PortId(id), BLUE) }
}

fn free(id: u16) -> PortRules {
    port(id, Limits::default())
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

/// Lets `per_ms` frames come in by `port` in each of `millis` milliseconds, and returns how many left by each of four ports.
fn pour(switch: &mut Lab, port: u16, to: MacAddr, per_ms: usize, millis: u64) -> [usize; 4] {
    let mut left = [0; 4];
    for milli in 0..millis {
        for _ in 0..per_ms {
            switch.put(port, OwnedFrame::plain(frame_of(to, port)));
        }
        switch.turn(port, at(milli));
        for (port, _) in switch.take_all() {
            left[usize::from(port)] += 1;
        }
    }
    left
}

fn frame_of(to: MacAddr, port: u16) -> Vec<u8> {
    let mut bytes = frame(to, station(port), &[]);
    bytes.resize(FRAME, 0);
    bytes
}

fn station(port: u16) -> MacAddr {
    mac(u8::try_from(port).unwrap() + 1)
}

fn dropped(totals: &PortTotals, reason: DropReason) -> u64 {
    totals.drops[reason.index()]
}

/// Every frame is accounted for, at every port and in the network.
fn assert_laws(switch: &Lab, ports: u16) {
    for totals in (0..ports).map(|port| switch.totals(port)) {
        let of = |egress: bool| {
            totals.drops().filter(|(it, _)| it.is_egress() == egress).map(|(_, count)| count).sum::<u64>()
        };
        assert_eq!(
            totals.rx_frames,
            totals.unicast + totals.flooded + totals.answered + totals.waiting + of(false)
        );
        assert_eq!(totals.offered, totals.tx_frames + of(true));
    }
    let sent: u64 = (0..ports).map(|port| switch.totals(port).unicast).sum();
    assert_eq!(switch.network_totals().next().unwrap().unicast(), sent);
}

#[test]
fn a_port_sends_its_burst_and_then_its_rate() {
    let limits = Limits { rx: limit(1000, 50), tx: None };
    let mut switch = Lab::new(&network(), &[port(0, limits), free(1), free(2)]);
    let left = pour(&mut switch, 0, MacAddr::BROADCAST, 10, 1001);
    assert_eq!(left, [0, 1050, 1050, 0]);
    let totals = switch.totals(0);
    assert_eq!((totals.rx_frames, totals.flooded), (10_010, 1050));
    assert_eq!(dropped(&totals, DropReason::LimitRx), 10_010 - 1050);
    assert_eq!(
        pour(&mut switch, 1, station(0), 10, 100),
        [1000, 0, 0, 0],
        "to it, and from others, as before"
    );
    assert_laws(&switch, 3);
}

#[test]
fn a_port_is_sent_its_burst_and_then_its_rate() {
    let limits = Limits { rx: None, tx: limit(1000, 50) };
    let mut switch = Lab::new(&network(), &[free(0), port(1, limits), free(2)]);
    let left = pour(&mut switch, 0, MacAddr::BROADCAST, 10, 1001);
    assert_eq!(left, [0, 1050, 10_010, 0], "who else is flooded to gets all");
    let totals = switch.totals(1);
    assert_eq!((totals.offered, totals.tx_frames), (10_010, 1050));
    assert_eq!(dropped(&totals, DropReason::LimitTx), 10_010 - 1050);
    assert_eq!(pour(&mut switch, 1, station(0), 10, 100), [1000, 0, 0, 0], "what it sends is not limited");
    assert_laws(&switch, 3);
}

#[test]
fn what_passes_keeps_its_order() {
    let limits = Limits { rx: limit(800, 10), tx: limit(500, 5) };
    let mut switch = Lab::new(&network(), &[port(0, limits), port(1, limits)]);
    let mut seen = Vec::new();
    for number in 0..3000_u16 {
        let mut bytes = frame_of(MacAddr::BROADCAST, 0);
        bytes[20..22].copy_from_slice(&number.to_be_bytes());
        switch.put(0, OwnedFrame::plain(bytes));
        if number % 7 == 6 {
            switch.turn(0, at(number.into()));
            let sent = switch.take_all().into_iter();
            seen.extend(sent.map(|(_, packet)| u16::from_be_bytes([packet.bytes[20], packet.bytes[21]])));
        }
    }
    assert!(seen.is_sorted() && seen.len() > 1000, "{seen:?}");
    assert!(dropped(&switch.totals(0), DropReason::LimitRx) > 0);
    assert!(dropped(&switch.totals(1), DropReason::LimitTx) > 0);
    assert_laws(&switch, 2);
}

#[test]
fn a_super_frame_is_charged_as_the_frames_it_stands_for() {
    // 10 segments of 1000 bytes after headers of 54.
    let spec = Spec {
        tags: vec![],
        addresses: Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]),
        ip_options: 0,
        extensions: vec![],
        id: 7,
        transport: Transport::Tcp { sequence: 1, flags: ACK, options: 0 },
        accurate: false,
        payload: vec![0; 10_000],
    };
    let bytes = spec.offloaded();
    let packet = OwnedFrame { offload: Offload::parse(&spec.gso_header(1000), &bytes).unwrap(), bytes };
    let bits = 10 * 1054 * 8;
    for (burst, passes) in [(2 * bits, 2), (2 * bits - 8, 1)] {
        // So slow that nothing is made up for.
        let limit = Some(Limit::new(NonZeroU64::new(8).unwrap(), burst));
        for limits in [Limits { rx: limit, tx: None }, Limits { rx: None, tx: limit }] {
            let [ingress, egress] = [Limits { tx: None, ..limits }, Limits { rx: None, ..limits }];
            let mut switch = Lab::new(&network(), &[port(0, ingress), port(1, egress)]);
            let sent = (0..3).flat_map(|_| switch.receive(0, packet.clone(), at(0))).count();
            assert_eq!(sent, passes, "{limits:?}");
            assert_laws(&switch, 2);
        }
    }
}

#[test]
fn a_trace_takes_nothing_out_of_the_bucket() {
    let limits = Limits { rx: limit(1, 3), tx: limit(1, 3) };
    let mut switch = Lab::new(&network(), &[port(0, limits), port(1, limits)]);
    let plan = switch.plan();
    let bytes = frame_of(MacAddr::BROADCAST, 0);
    let hypothesis = Hypothesis {
        ingress: PortId(0),
        network: None,
        offload: Offload::NONE,
        bytes: &bytes,
        storm: switch.storm(0),
    };
    for _ in 0..100 {
        let trace = trace(at(0), &plan, &hypothesis).unwrap();
        assert!(trace.decision.fate.is_ok() && trace.exits[0].result.is_ok());
    }
    assert_eq!(pour(&mut switch, 0, MacAddr::BROADCAST, 10, 1), [0, 3, 0, 0]);
}

#[test]
fn a_dropped_frame_is_captured_with_its_reason_and_teaches_nothing() {
    let limits = Limits { rx: limit(1, 1), tx: None };
    let receiver = Limits { rx: None, tx: limit(1, 1) };
    let mut switch = Lab::new(&network(), &[port(0, limits), port(1, receiver), free(2)]);
    let (session, mut readers) = Session::new(Wanted { snaplen: 64, ..Wanted::default() }, 1, 1 << 16, || 0);
    switch.watch(vec![Arc::new(session)]);
    switch.configure(&network(), &[port(0, limits), port(1, receiver), free(2)]);
    for from in [1, 9] {
        let mut bytes = frame(mac(3), mac(from), &[]);
        bytes.resize(FRAME, 0);
        switch.receive(0, OwnedFrame::plain(bytes), at(0));
    }
    switch.receive(2, OwnedFrame::plain(frame_of(MacAddr::BROADCAST, 2)), at(0));
    let mut bytes = Vec::new();
    let records: Vec<_> = std::iter::from_fn(|| readers[0].take(&mut bytes)).collect();
    let fates: Vec<_> = records.iter().map(|record| (record.port.0, record.direction, record.fate)).collect();
    assert!(fates.contains(&(0, Direction::Rx, Fate::Dropped(DropReason::LimitRx))), "{fates:?}");
    assert!(fates.contains(&(1, Direction::Tx, Fate::Dropped(DropReason::LimitTx))), "{fates:?}");
    assert!(!switch.fdb.entries(at(0)).any(|entry| entry.mac == mac(9)));
    assert_laws(&switch, 3);
}

#[test]
fn each_peer_of_a_tunnel_has_a_limit_of_its_own() {
    let peer = |id, limits| PortRules {
        mode: PortMode::Tunnel(vec![BLUE]),
        horizon: NonZeroU16::new(1),
        ..port(id, limits)
    };
    let limits = Limits { rx: limit(1, 5), tx: limit(1, 7) };
    let mut switch =
        Lab::new(&network(), &[peer(0, limits), peer(1, Limits::default()), free(2), peer(3, limits)]);
    for tunnel in [0, 1, 3] {
        switch.wire(tunnel).carry(BLUE);
    }
    assert_eq!(pour(&mut switch, 0, MacAddr::BROADCAST, 10, 1), [0, 0, 5, 0]);
    assert_eq!(pour(&mut switch, 1, MacAddr::BROADCAST, 10, 1), [0, 0, 10, 0]);
    assert_eq!(pour(&mut switch, 2, MacAddr::BROADCAST, 10, 1), [7, 10, 0, 7]);
    assert_laws(&switch, 4);
}

#[test]
fn copies_for_a_mirror_are_within_its_limit() {
    let mirror = PortRules {
        mode: PortMode::Mirror,
        limits: Limits { rx: None, tx: limit(1, 3) },
        ..PortRules::access(PortId(2), BLUE)
    };
    let mut switch = Lab::new(&network(), &[free(0), free(1), mirror.clone()]);
    switch.mirror(vec![Mirror {
        to: PortId(2),
        ports: [PortId(0)].into(),
        networks: [].into(),
        direction: None,
    }]);
    switch.configure(&network(), &[free(0), free(1), mirror]);
    assert_eq!(pour(&mut switch, 0, MacAddr::BROADCAST, 10, 1), [0, 10, 3, 0]);
    assert_laws(&switch, 3);
}
