//! A trace is what a real frame then does: over any topology, any table, any frame.

use std::{num::NonZeroU16, sync::Arc};

use super::lab::{Lab, Wiring, frame, mac};
use proptest::prelude::*;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    capture::{Direction, Fate, Record, Session, Wanted},
    device::mem::OwnedFrame,
    fdb::{Change, Entry, Learned, Origin, Settings, Station},
    forward::{Action, Decision},
    guard::Guard,
    mirror::Mirror,
    offload::{Capabilities, Offload},
    storm::FloodLimits,
    topology::{Network, PortMode, PortRules},
    trace::{Hypothesis, Trace, trace},
};

const PORTS: u16 = 6;
const STATIONS: u8 = 6;
const NETWORKS: [(u16, u16, bool); 3] = [(0, 10, false), (1, 20, true), (2, 30, false)];

fn networks() -> Vec<Network> {
    let network = |&(id, vlan, passes_tags)| Network {
        vlan: VlanId::try_from(vlan).ok(),
        passes_tags,
        ..Network::new(NetworkId(id))
    };
    NETWORKS.iter().map(network).collect()
}

/// A port of any kind with any limits.
fn rules(id: u16) -> impl Strategy<Value = PortRules> {
    let mode = prop_oneof![
        4 => (0..3_u16).prop_map(|network| PortMode::Access(NetworkId(network))),
        2 => (prop::sample::subsequence(vec![0, 1, 2], 1..=2), prop::option::of(Just(2_u16))).prop_map(
            |(tagged, native)| PortMode::Trunk {
                native: native.filter(|native| !tagged.contains(native)).map(NetworkId),
                tagged: tagged.into_iter().map(NetworkId).collect(),
            }
        ),
        1 => Just(PortMode::Tunnel(vec![NetworkId(0), NetworkId(1)])),
    ];
    let limits =
        (prop::bool::weighted(0.3), prop::option::weighted(0.2, 0..3_u32), prop::bool::weighted(0.9));
    // Few enough a second that a run of frames, a millisecond apart, uses them up.
    let storm = || prop::option::weighted(0.2, 0..30_u32);
    let storm = (storm(), storm(), storm()).prop_map(|(broadcast, multicast, unknown)| FloodLimits {
        broadcast,
        multicast,
        unknown,
    });
    let guard = prop::option::weighted(0.3, (1..=STATIONS, prop::option::of(1..=STATIONS)));
    (mode, limits, storm, prop_oneof![3 => Just(1500), 1 => Just(46_u16)], guard).prop_map(
        move |(mode, (isolated, mac_limit, flood), storm, mtu, guard)| PortRules {
            guard: guard
                .filter(|_| matches!(mode, PortMode::Access(_)))
                .map(|(own, also)| Guard::new(mac(own), [], [], also.map(mac)).into()),
            horizon: matches!(mode, PortMode::Tunnel(_)).then_some(NonZeroU16::MIN),
            mode,
            isolated,
            mac_limit,
            flood,
            storm,
            mtu,
            ..PortRules::access(PortId(id), NetworkId(0))
        },
    )
}

/// The mirror: the last port, which carries no network.
fn watcher() -> PortRules {
    PortRules { mode: PortMode::Mirror, ..PortRules::access(PortId(PORTS), NetworkId(0)) }
}

/// What is copied to the last port.
fn mirror() -> impl Strategy<Value = Mirror> {
    let ports = prop::collection::btree_set((0..PORTS).prop_map(PortId), 0..3);
    let networks = prop::collection::btree_set((0..3_u16).prop_map(NetworkId), 0..2);
    let direction = prop::option::of(prop_oneof![Just(Direction::Rx), Just(Direction::Tx)]);
    (ports, networks, direction).prop_map(|(ports, networks, direction)| Mirror {
        to: PortId(PORTS),
        ports,
        networks,
        direction,
    })
}

#[derive(Clone, Debug)]
enum Op {
    /// Port, network (for tunnels), source, destination (0: broadcast), tags, bytes of payload.
    Frame(u16, u16, u8, u8, Vec<u16>, usize),
    Pin(u16, u8, u16, bool),
    Advance(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let tags = prop::collection::vec(prop_oneof![Just(10), Just(20), Just(0x6000), Just(99)], 0..=2);
    let frame =
        (0..PORTS, 0..3_u16, 0..=STATIONS, 0..=STATIONS, tags, prop_oneof![Just(10_usize), Just(200)]);
    let op = prop_oneof![
        20 => frame.prop_map(|(port, network, from, to, tags, len)| Op::Frame(port, network, from, to, tags, len)),
        1 => (0..3_u16, 1..=STATIONS, 0..PORTS, any::<bool>()).prop_map(
            |(network, station, port, by_operator)| Op::Pin(network, station, port, by_operator)
        ),
        1 => (0..400_000_u64).prop_map(Op::Advance),
    ];
    prop::collection::vec(op, 1..60)
}

/// What comes in, and what leaves by which port, in the order of their numbers.
type Story = (Option<NetworkId>, Option<Learned>, Fate, Vec<(PortId, Fate)>);

fn fate(decision: &Decision<'_>) -> Fate {
    match (decision.fate, decision.flood) {
        (Ok(Action::Send(member)), _) => Fate::Unicast(member.port),
        (Ok(Action::Flood(_)), flood) => Fate::Flooded(flood.expect("there is a cause")),
        (Ok(Action::Answer(_)), _) => Fate::Answered,
        (Err(reason), _) => Fate::Dropped(reason),
    }
}

/// What a trace says, in the words of a capture.
fn foretold(trace: &Trace<'_>) -> Story {
    let exits = trace.exits.iter().chain(&trace.copies).map(|exit| {
        let pieces = |pieces: usize| Fate::Sent(u16::try_from(pieces).expect("few"));
        (exit.port, exit.result.map_or_else(Fate::Dropped, pieces))
    });
    let decision = &trace.decision;
    let mut exits: Vec<_> = exits.collect();
    exits.sort_by_key(|(port, _)| *port);
    (decision.network, decision.learned, fate(decision), exits)
}

/// The same of what was seen.
fn seen(records: &[Record]) -> Story {
    let (came, left) = records.split_first().expect("what comes in is seen");
    assert_eq!(came.direction, Direction::Rx);
    let mut exits: Vec<_> = left.iter().map(|record| (record.port, record.fate)).collect();
    exits.sort_by_key(|(port, _)| *port);
    (came.network, came.learned, came.fate, exits)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_trace_is_what_the_frame_then_does_and_changes_nothing(
        mut ports in (0..PORTS).map(rules).collect::<Vec<_>>(),
        mirror in prop::option::of(mirror()),
        ops in ops(),
        // Room for all stations, or not.
        limit in prop_oneof![Just(64), Just(8)],
    ) {
        let networks = networks();
        ports.push(watcher());
        let capabilities = |port| if port % 2 == 0 { Capabilities::ALL } else { Capabilities::NONE };
        let wiring = Wiring { capabilities, ..Wiring::default() };
        let mut lab = Lab::with(wiring, Settings { limit, ..Settings::default() }, &networks, &ports);
        let (session, mut readers) =
            Session::new(Wanted { snaplen: 64, ..Wanted::default() }, 1, 1 << 16, || 0);
        lab.watch(vec![Arc::new(session)]);
        lab.mirror(mirror.into_iter().collect());
        lab.configure(&networks, &ports);
        let mut now = 1_000;
        for op in ops {
            match op {
                Op::Advance(by) => now += by,
                Op::Pin(network, station, port, by_operator) => {
                    let origin = if by_operator { Origin::Static } else { Origin::Control };
                    lab.fdb.pin(NetworkId(network), mac(station), PortId(port), origin, Timestamp::from_millis(now));
                }
                Op::Frame(port, network, from, to, tags, len) => {
                    now += 1;
                    let at = Timestamp::from_millis(now);
                    let is_tunnel = matches!(ports[usize::from(port)].mode, PortMode::Tunnel(_));
                    let network = is_tunnel.then_some(NetworkId(network));
                    // Station 0 is an invalid source and the broadcast destination.
                    let to = if to == 0 { MacAddr::BROADCAST } else { mac(to) };
                    let from = if from == 0 { MacAddr::BROADCAST } else { mac(from) };
                    let mut bytes = frame(to, from, &tags);
                    bytes.resize(bytes.len() + len, 0);

                    // Pins made room as well.
                    lab.fdb.drain_events(drop);
                    let plan = lab.plan();
                    let (before, totals) = (entries(&lab, at), lab.fdb.totals());
                    let ingress = PortId(port);
                    let hypothesis = Hypothesis {
                        ingress, network, offload: Offload::NONE, bytes: &bytes, storm: lab.storm(port),
                    };
                    let trace = trace(at, &plan, &hypothesis).expect("it is short");
                    let foretold = foretold(&trace);
                    prop_assert_eq!(entries(&lab, at), before);
                    prop_assert_eq!(lab.fdb.totals(), totals);

                    lab.wire(port).carry(network);
                    lab.receive(port, OwnedFrame::plain(bytes), at);
                    let mut bytes = Vec::new();
                    let records: Vec<_> = std::iter::from_fn(|| readers[0].take(&mut bytes)).collect();
                    prop_assert_eq!(foretold, seen(&records));
                    let mut evicted = Vec::new();
                    lab.fdb.drain_events(|event| if event.what == Change::Evicted { evicted.push((event.network, event.mac)) });
                    prop_assert_eq!(trace.evicted.iter().map(Station::parts).collect::<Vec<_>>(), evicted);
                }
            }
        }
    }
}

fn entries(lab: &Lab, now: Timestamp) -> Vec<(NetworkId, MacAddr, PortId)> {
    let key = |entry: Entry| (entry.network, entry.mac, entry.port);
    lab.fdb.entries(now).map(key).collect()
}
