//! Any sequence of operations, against a naive model of a switch.
//!
//! The model is a hash map and a list of ports, with no flush numbers, no ticks in slots, no buckets.
//! Whatever happens, the switch must send what the model sends, in the same order, and its books must
//! balance. With a table too small for the stations, the model cannot know which were evicted; there the
//! switch may flood frames to stations that the model knows.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU16,
    time::Duration,
};

use super::lab::{Lab, Wire, Wiring, frame, mac};
use proptest::prelude::*;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    counters::PortTotals,
    device::mem::OwnedFrame,
    drops::DropReason,
    fdb::{Damping, Learning, Origin, Settings},
    offload::Capabilities,
    topology::{Network, PortMode, PortRules},
};

const NETWORKS: [(NetworkId, u16); 2] = [(NetworkId(0), 10), (NetworkId(1), 20)];
const PORTS: u16 = 7;
const STATIONS: u8 = 12;
const AGEING_TICKS: u64 = 100;
/// Beyond it, a port with a small MTU does not send.
const NARROW: u16 = 100;

#[derive(Clone, Debug)]
enum Op {
    /// Frames that come in by one port in one turn.
    Frames(u16, Vec<Sent>),
    /// Milliseconds pass.
    Advance(u64),
    /// The port is configured, anew or otherwise; `None` removes it.
    Retopology(u16, Option<Kind>),
    FlushPort(u16),
    FlushNetwork(u16),
    Pin(u16, u8, u16, bool),
    Forget(u16, u8),
    Sweep(usize),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Access(u16),
    Isolated(u16),
    Narrow(u16),
    Trunk,
    TrunkWithNative,
    /// The same, where the native network leaves tagged.
    NativeTagged,
    Hairpin(u16),
    Tunnel,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    dst: Destination,
    src: u8,
    tag: Option<u16>,
    /// Whether a service tag (802.1ad) stands behind it.
    service: bool,
    /// For tunnels: the network their device knows.
    network: u16,
    long: bool,
}

#[derive(Clone, Copy, Debug)]
enum Destination {
    Station(u8),
    /// The zero address, which no station has.
    Nobody,
    Broadcast,
    Group,
    Reserved,
}

impl Destination {
    fn mac(self) -> MacAddr {
        match self {
            Self::Station(id) => mac(id),
            Self::Nobody => MacAddr::ZERO,
            Self::Broadcast => MacAddr::BROADCAST,
            Self::Group => MacAddr([0x33, 0x33, 0, 0, 0, 1]),
            Self::Reserved => MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]),
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let dst = prop_oneof![
        8 => (1..=STATIONS).prop_map(Destination::Station),
        1 => Just(Destination::Nobody),
        1 => Just(Destination::Broadcast),
        1 => Just(Destination::Group),
        1 => Just(Destination::Reserved),
    ];
    let tag = prop_oneof![
        4 => Just(None),
        1 => Just(Some(0xe000)),
        2 => prop_oneof![Just(10), Just(20), Just(0x600a), Just(0x6014)].prop_map(Some),
        1 => prop_oneof![Just(30), Just(0x0fff)].prop_map(Some),
    ];
    // Station 0 is a group address, which no station may have.
    let src = prop_oneof![20 => 1..=STATIONS, 1 => Just(0)];
    let rarely = || prop::bool::weighted(0.05);
    let sent = (dst, src, tag, rarely(), 0..2u16, prop::bool::weighted(0.2))
        .prop_map(|(dst, src, tag, service, network, long)| Sent { dst, src, tag, service, network, long });
    let kind = prop_oneof![
        3 => (0..2u16).prop_map(Kind::Access),
        1 => (0..2u16).prop_map(Kind::Isolated),
        1 => (0..2u16).prop_map(Kind::Narrow),
        2 => Just(Kind::Trunk),
        2 => Just(Kind::TrunkWithNative),
        1 => Just(Kind::NativeTagged),
        1 => (0..2u16).prop_map(Kind::Hairpin),
        2 => Just(Kind::Tunnel),
    ];
    let op = prop_oneof![
        20 => (0..PORTS, prop::collection::vec(sent, 1..6)).prop_map(|(port, sent)| Op::Frames(port, sent)),
        3 => prop_oneof![0..1_000u64, 0..40_000u64].prop_map(Op::Advance),
        2 => (0..PORTS, prop::option::weighted(0.8, kind.clone())).prop_map(|(port, kind)| Op::Retopology(port, kind)),
        1 => (0..PORTS).prop_map(Op::FlushPort),
        1 => (0..2u16).prop_map(Op::FlushNetwork),
        1 => (0..2u16, 1..=STATIONS, 0..PORTS, any::<bool>())
            .prop_map(|(network, id, port, by_operator)| Op::Pin(network, id, port, by_operator)),
        1 => (0..2u16, 1..=STATIONS).prop_map(|(network, id)| Op::Forget(network, id)),
        1 => (0..3usize).prop_map(Op::Sweep),
    ];
    let kinds = prop::collection::vec(kind, usize::from(PORTS));
    let begin = kinds.prop_map(|kinds| {
        (0..).zip(kinds).map(|(port, kind)| Op::Retopology(port, Some(kind))).collect::<Vec<_>>()
    });
    (begin, prop::collection::vec(op, 1..80)).prop_map(|(begin, ops)| [begin, ops].concat())
}

/// What the model knows of a station.
#[derive(Clone, Copy, Debug)]
struct Heard {
    port: u16,
    /// In units of 256 ms, the table's resolution.
    tick: u64,
    pinned: Option<Origin>,
}

#[derive(Debug, Default)]
struct Model {
    now: u64,
    ports: BTreeMap<u16, Kind>,
    table: HashMap<(u16, u8), Heard>,
}

/// A frame on its way out: the VLAN tag it is to have.
type Copies = Vec<(u16, Option<u16>)>;

impl Model {
    fn heard(&self, network: u16, id: u8) -> Option<Heard> {
        let heard = *self.table.get(&(network, id))?;
        (heard.pinned.is_some() || self.now / 256 - heard.tick <= AGEING_TICKS).then_some(heard)
    }

    /// The network of a frame, and the switch's own tag on it.
    fn classify(&self, port: u16, sent: &Sent) -> Result<(u16, Option<u16>), DropReason> {
        let vlan = sent.tag.map(|tag| tag & 0xfff);
        let by_vlan = NETWORKS.iter().find(|(_, id)| vlan == Some(*id)).map(|(network, _)| network.0);
        match (self.ports[&port], vlan) {
            _ if sent.service => Err(DropReason::VlanNotAllowed),
            (Kind::Tunnel, None | Some(0)) => Ok((sent.network, sent.tag)),
            (Kind::Tunnel, Some(_)) => Err(DropReason::VlanNotAllowed),
            (
                Kind::Access(network)
                | Kind::Isolated(network)
                | Kind::Narrow(network)
                | Kind::Hairpin(network),
                None | Some(0),
            ) => Ok((network, sent.tag)),
            (Kind::Access(_) | Kind::Isolated(_) | Kind::Narrow(_) | Kind::Hairpin(_), _) => {
                Err(DropReason::VlanNotAllowed)
            }
            (Kind::Trunk, None | Some(0)) => Err(DropReason::VlanUntagged),
            (Kind::TrunkWithNative | Kind::NativeTagged, None | Some(0)) => Ok((0, sent.tag)),
            (Kind::Trunk | Kind::TrunkWithNative | Kind::NativeTagged, _) => {
                by_vlan.map(|network| (network, sent.tag)).ok_or(DropReason::VlanNotAllowed)
            }
        }
    }

    /// Whether `port` carries `network`, and with which VLAN tag.
    fn carries(&self, port: u16, network: u16) -> Option<Option<u16>> {
        let vlan = NETWORKS[usize::from(network)].1;
        match *self.ports.get(&port)? {
            Kind::Access(own) | Kind::Isolated(own) | Kind::Narrow(own) | Kind::Hairpin(own) => {
                (own == network).then_some(None)
            }
            Kind::Trunk | Kind::NativeTagged => Some(Some(vlan)),
            Kind::TrunkWithNative => Some((network != 0).then_some(vlan)),
            Kind::Tunnel => Some(None),
        }
    }

    fn may_pass(&self, from: u16, to: u16) -> Result<(), DropReason> {
        match (self.ports[&from], self.ports[&to]) {
            (Kind::Hairpin(_), _) if from == to => Ok(()),
            _ if from == to => Err(DropReason::SamePort),
            (Kind::Tunnel, Kind::Tunnel) => Err(DropReason::SplitHorizon),
            (Kind::Isolated(_), Kind::Isolated(_)) => Err(DropReason::PortIsolated),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, port: u16, sent: &Sent) -> Result<Copies, DropReason> {
        if sent.src == 0 {
            return Err(DropReason::MacInvalidSource);
        }
        let (network, carried) = self.classify(port, sent)?;
        if matches!(sent.dst, Destination::Reserved) {
            return Err(DropReason::LinkLocalGroup);
        }
        let tick = self.now / 256;
        match self.heard(network, sent.src) {
            Some(Heard { pinned: Some(origin), port: pinned, .. })
                if pinned != port
                    && (origin == Origin::Control || matches!(self.ports[&port], Kind::Tunnel)) =>
            {
                return Err(DropReason::LocalMac);
            }
            Some(Heard { pinned: Some(_), .. }) => {}
            _ => drop(self.table.insert((network, sent.src), Heard { port, tick, pinned: None })),
        }
        let tag = |vlan: Option<u16>| vlan.map(|vlan| carried.unwrap_or(0) & 0xf000 | vlan);
        if let Destination::Station(id) = sent.dst
            && let Some(Heard { port: to, .. }) = self.heard(network, id)
        {
            let vlan = self.carries(to, network).ok_or(DropReason::PortGone)?;
            return self.may_pass(port, to).map(|()| vec![(to, tag(vlan))]);
        }
        let copies = self.flood(port, network).map(|(to, vlan)| (to, tag(vlan))).collect::<Vec<_>>();
        if copies.is_empty() { Err(DropReason::NoReceiver) } else { Ok(copies) }
    }

    fn flood(&self, port: u16, network: u16) -> impl Iterator<Item = (u16, Option<u16>)> {
        let members = self.ports.keys().filter_map(move |to| Some((*to, self.carries(*to, network)?)));
        members.filter(move |(to, _)| self.may_pass(port, *to).is_ok())
    }
}

/// The switch under test and the model beside it.
struct Pair {
    lab: Lab,
    model: Model,
    limit: u32,
    /// Numbers the frames, so that order shows.
    serial: u16,
    /// Whether the model knows all that the switch knows.
    exact: bool,
    drops: HashMap<(u16, DropReason), u64>,
}

impl Pair {
    fn new(limit: u32) -> Self {
        let damping = Damping { moves: 0, ..Damping::default() };
        let settings =
            Settings { limit, ageing: Duration::from_millis(256 * AGEING_TICKS), damping, seed: 7 };
        let mut lab = Lab::with(Wiring::default(), settings, &[], &[]);
        for port in 0..PORTS {
            lab.attach(PortId(port), Wire::new(Capabilities::NONE, 1024));
        }
        let exact = limit >= 2 * u32::from(STATIONS);
        Self { lab, model: Model::default(), limit, serial: 0, exact, drops: HashMap::new() }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.model.now)
    }

    fn apply(&mut self, op: &Op) {
        let (now, model, fdb) = (self.now(), &mut self.model, &self.lab.fdb);
        match *op {
            Op::Frames(port, ref frames) => self.frames(port, frames),
            Op::Advance(millis) => model.now += millis,
            Op::Retopology(port, kind) => {
                match kind {
                    Some(kind) => drop(model.ports.insert(port, kind)),
                    None => drop(model.ports.remove(&port)),
                }
                self.configure();
            }
            Op::FlushPort(port) => {
                fdb.flush_port(PortId(port));
                model.table.retain(|_, heard| heard.pinned.is_some() || heard.port != port);
            }
            Op::FlushNetwork(network) => {
                fdb.flush_network(NetworkId(network));
                model.table.retain(|(of, _), heard| heard.pinned.is_some() || *of != network);
            }
            Op::Pin(network, id, port, by_operator) => {
                let origin = if by_operator { Origin::Static } else { Origin::Control };
                let stronger =
                    model.table.get(&(network, id)).is_some_and(|heard| heard.pinned > Some(origin));
                let pinned = fdb.pin(NetworkId(network), mac(id), PortId(port), origin, now);
                if self.exact {
                    assert_eq!(pinned, !stronger);
                }
                if pinned {
                    model.table.insert((network, id), Heard { port, tick: 0, pinned: Some(origin) });
                }
            }
            Op::Forget(network, id) => {
                fdb.forget(NetworkId(network), mac(id));
                model.table.remove(&(network, id));
            }
            Op::Sweep(part) => fdb.sweep(part, 3, now),
        }
    }

    fn configure(&mut self) {
        let networks =
            NETWORKS.map(|(id, vlan)| Network { id, vlan: VlanId::try_from(vlan).ok(), ..Network::new(id) });
        let ports: Vec<_> = self.model.ports.iter().map(|(port, kind)| rules(*port, *kind)).collect();
        self.lab.configure(&networks, &ports);
    }

    fn frames(&mut self, port: u16, frames: &[Sent]) {
        if !self.model.ports.contains_key(&port) {
            return;
        }
        let tunnel = matches!(self.model.ports[&port], Kind::Tunnel);
        let mut expected: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        let mut allowed = Vec::new();
        // The frames of one turn of a tunnel may be of several networks; here a turn has one.
        for sent in frames.iter().filter(|sent| !tunnel || sent.network == frames[0].network) {
            self.serial += 1;
            let serial = self.serial;
            let copy = |tag: Option<u16>| sent.bytes(tag.as_slice(), serial);
            self.lab.put(port, OwnedFrame::plain(sent.bytes(sent.tag.as_slice(), serial)));
            allowed.push(self.model.classify(port, sent).map_or(vec![], |(network, carried)| {
                let copies = self.model.flood(port, network);
                let tag = |vlan: Option<u16>| vlan.map(|vlan| carried.unwrap_or(0) & 0xf000 | vlan);
                copies.map(|(to, vlan)| (to, copy(tag(vlan)))).collect::<Vec<_>>()
            }));
            match self.model.receive(port, sent) {
                Ok(copies) => {
                    for (to, tag) in copies {
                        if sent.long && matches!(self.model.ports[&to], Kind::Narrow(_)) {
                            *self.drops.entry((to, DropReason::PktTooBig)).or_default() += 1;
                        } else {
                            expected.entry(to).or_default().push(copy(tag));
                        }
                    }
                }
                Err(reason) => *self.drops.entry((port, reason)).or_default() += 1,
            }
        }
        self.lab.wire(port).carry(tunnel.then_some(NetworkId(frames[0].network)));
        let now = self.now();
        self.lab.turn(port, now);
        let mut sent: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for (to, packet) in self.lab.take_all() {
            sent.entry(to).or_default().push(packet.bytes);
        }
        if self.exact {
            assert_eq!(sent, expected);
        }
        for (to, frames) in sent {
            let hairpin = matches!(self.model.ports[&port], Kind::Hairpin(_));
            assert!(to != port || hairpin, "never out of the ingress");
            for bytes in &frames {
                assert!(
                    allowed.iter().flatten().any(|copy| *copy == (to, bytes.clone())),
                    "port {to} may not send {bytes:02x?}"
                );
            }
            assert!(frames.is_sorted_by_key(|bytes| bytes[bytes.len() - 2..].to_vec()), "order is kept");
        }
    }

    fn check(&self) {
        for port in 0..PORTS {
            let totals = self.lab.totals(port);
            let sum = |egress: bool| {
                let drops = totals.drops().filter(|(reason, _)| reason.is_egress() == egress);
                drops.map(|(_, count)| count).sum::<u64>()
            };
            assert_eq!(
                totals.rx_frames,
                totals.unicast + totals.flooded + totals.answered + totals.waiting + sum(false),
                "port {port}: {totals:?}"
            );
            assert_eq!(totals.offered, totals.tx_frames + sum(true), "port {port}: {totals:?}");
            if self.exact {
                let counted = |reason: DropReason| self.drops.get(&(port, reason)).copied().unwrap_or(0);
                for (index, reason) in DropReason::ALL.iter().enumerate() {
                    assert_eq!(totals.drops[index], counted(*reason), "port {port}: {reason}");
                }
            }
        }
        self.check_networks();
        let fdb = &self.lab.fdb;
        let controlled = fdb.entries(self.now()).filter(|entry| entry.origin == Origin::Control).count();
        assert!(fdb.len() - controlled <= self.limit as usize);
        for entry in fdb.entries(self.now()) {
            assert!(entry.mac.is_station());
            let id = entry.mac.0[5];
            let heard = self.model.heard(entry.network.0, id).expect("the model knows at least as much");
            assert_eq!(entry.port, PortId(heard.port));
            assert_eq!(entry.origin, heard.pinned.unwrap_or(Origin::Learned));
        }
        if self.exact {
            let alive =
                self.model.table.keys().filter(|(network, id)| self.model.heard(*network, *id).is_some());
            assert_eq!(fdb.entries(self.now()).count(), alive.count());
        }
    }

    /// The law of networks; and all of them together have seen what all ports have.
    fn check_networks(&self) {
        let (mut unicast, mut flooded) = (0, 0);
        for totals in self.lab.network_totals() {
            assert!(totals.frames >= totals.flooded + totals.dropped, "{totals:?}");
            assert!(totals.bytes >= 14 * totals.frames, "{totals:?}");
            unicast += totals.unicast();
            flooded += totals.flooded;
        }
        let ports: Vec<_> = (0..PORTS).map(|port| self.lab.totals(port)).collect();
        let sum = |count: fn(&PortTotals) -> u64| ports.iter().map(count).sum::<u64>();
        assert_eq!((unicast, flooded), (sum(|port| port.unicast), sum(|port| port.flooded)));
        let fdb = &self.lab.fdb;
        let of_all = |all: &mut dyn Iterator<Item = Learning>| {
            all.fold([0; 4], |[a, b, c, d], it| {
                [a + it.learned, b + it.moved, c + it.refused, d + it.evicted]
            })
        };
        let totals = fdb.totals();
        let totals = [totals.learned, totals.moved, totals.refused, totals.evicted];
        assert_eq!(of_all(&mut (0..PORTS).map(|port| fdb.learning_of_port(PortId(port)))), totals);
        assert_eq!(of_all(&mut NETWORKS.iter().map(|(id, _)| fdb.learning_of_network(*id))), totals);
    }

    /// Forgets everything by every way there is.
    fn forget_all(&mut self) {
        for network in 0..2 {
            self.apply(&Op::FlushNetwork(network));
            (1..=STATIONS).for_each(|id| self.apply(&Op::Forget(network, id)));
        }
        self.lab.fdb.sweep(0, 1, self.now());
        assert!(self.lab.fdb.is_empty());
        assert!((0..PORTS).all(|port| self.lab.fdb.learned_on(PortId(port)) == 0));
    }
}

impl Sent {
    fn bytes(&self, tags: &[u16], serial: u16) -> Vec<u8> {
        let src = if self.src == 0 { Destination::Group.mac() } else { mac(self.src) };
        let mut bytes = frame(self.dst.mac(), src, tags);
        if self.service {
            let behind = 12 + 4 * tags.len();
            bytes.splice(behind..behind, [0x88, 0xa8, 0, 10]);
        }
        bytes.resize(bytes.len() + if self.long { usize::from(NARROW) } else { 0 }, 0);
        bytes.extend(serial.to_be_bytes());
        bytes
    }
}

fn rules(port: u16, kind: Kind) -> PortRules {
    let [blue, red] = NETWORKS.map(|(network, _)| network);
    let access = |network| PortRules::access(PortId(port), NetworkId(network));
    let mode = |mode| PortRules { mode, ..access(0) };
    match kind {
        Kind::Access(network) => access(network),
        Kind::Isolated(network) => PortRules { isolated: true, ..access(network) },
        Kind::Narrow(network) => PortRules { mtu: NARROW, ..access(network) },
        Kind::Trunk => mode(PortMode::Trunk { tagged: vec![blue, red], native: None }),
        Kind::TrunkWithNative => mode(PortMode::Trunk { tagged: vec![red], native: Some(blue) }),
        Kind::NativeTagged => PortRules { native_tagged: true, ..rules(port, Kind::TrunkWithNative) },
        Kind::Hairpin(network) => PortRules { hairpin: true, ..access(network) },
        Kind::Tunnel => PortRules { horizon: NonZeroU16::new(1), ..mode(PortMode::Tunnel(vec![blue, red])) },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_switch_is_its_model(ops in ops(), again in ops()) {
        let mut pair = Pair::new(64);
        for op in &ops {
            pair.apply(op);
            pair.check();
        }
        // After forgetting everything it behaves as new: the model starts afresh, the switch does not.
        pair.forget_all();
        for op in &again {
            pair.apply(op);
            pair.check();
        }
    }

    #[test]
    fn a_table_too_small_breaks_no_law(ops in ops()) {
        let mut pair = Pair::new(8);
        for op in &ops {
            pair.apply(op);
            pair.check();
        }
        pair.forget_all();
    }
}
