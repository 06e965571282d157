//! Forwarding allocates nothing: counted by the allocator itself.
//!
//! One test, because the count is of the whole process.

mod counting;

use std::{
    io,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU64},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use counting::ALLOCATIONS;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    balance::{Affinity, Backend, Balance, Client, Flows, STATION, Service},
    batch::{Batch, HEADROOM},
    counters::PortCounters,
    device::{Device, Refuse},
    engine::Engine,
    fdb::{Damping, Fdb, Origin, Settings},
    limit::{Limit, Limits},
    offload::{Capabilities, Offload, VNET_HEADER},
    plan::{Plan, Port, Receiver},
    topology::{Network, PortMode, PortRules, Topology},
    transmit::{Scratch, Transmit},
};

/// Receives copies of one frame, 64 per turn and from `stations` sources in turn, and counts the frames it
/// sends.
#[derive(Debug)]
struct Mill {
    header: [u8; VNET_HEADER],
    frame: Vec<u8>,
    /// How many stations take turns as the source.
    stations: u32,
    next: AtomicU32,
    /// Where else the number of the source is written.
    counted: Option<usize>,
    capabilities: Capabilities,
    sent: AtomicU64,
}

impl Device for Mill {
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        for _ in 0..max {
            let id = self.next.fetch_add(1, Relaxed) % self.stations;
            let Some(buffer) = batch.spare().next() else { break };
            let frame = &mut buffer[HEADROOM..HEADROOM + self.frame.len()];
            frame.copy_from_slice(&self.frame);
            frame[8..12].copy_from_slice(&id.to_be_bytes());
            if let Some(at) = self.counted {
                frame[at..at + 2].copy_from_slice(&id.to_be_bytes()[2..]);
            }
            match Offload::parse(&self.header, frame) {
                Ok(offload) => batch.push(port, None, offload, self.frame.len()),
                Err(reason) => refuse(port, reason, frame),
            }
        }
        Ok(true)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        frames.each(self.capabilities, scratch, |form| {
            std::hint::black_box(&form);
            self.sent.fetch_add(1, Relaxed);
            Ok(())
        });
    }
}

/// A switch that forwards what one mill makes to others.
struct Case {
    engine: Engine,
    fdb: Arc<Fdb>,
    receivers: Vec<Receiver>,
    sinks: Arc<Mill>,
    /// Milliseconds between its turns.
    pace: u64,
}

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);
const NOW: Timestamp = Timestamp::from_millis(BEGIN);
const BEGIN: u64 = 1_000;

impl Case {
    /// `ports` access ports and a trunk behind them; a table for `limit` stations.
    fn new(ports: u16, limit: u32, sinks: Capabilities, mill: Mill) -> Self {
        Self::with(ports, limit, Limits::default(), Arc::default(), sinks, mill)
    }

    /// The same with `limits` at every port, and services.
    fn with(
        ports: u16,
        limit: u32,
        limits: Limits,
        balance: Arc<Balance>,
        sinks: Capabilities,
        mill: Mill,
    ) -> Self {
        let damping = Damping { moves: 3, ..Damping::default() };
        let fdb = Arc::new(Fdb::new(Settings { limit, damping, ..Settings::default() }));
        let networks = [(BLUE, 10), (RED, 20)].map(|(id, vlan)| Network {
            id,
            vlan: VlanId::try_from(vlan).ok(),
            ..Network::new(id)
        });
        let port = |port| PortRules { limits, ..PortRules::access(PortId(port), BLUE) };
        let mut rules: Vec<_> = (0..ports).map(port).collect();
        let mode = PortMode::Trunk { tagged: vec![BLUE, RED], native: None };
        rules.push(PortRules { mode, ..port(ports) });
        let topology = Topology::build(&networks, &rules, 0).expect("consistent");
        let sinks = Arc::new(Mill { capabilities: sinks, sent: AtomicU64::new(0), ..Mill::of(vec![0; 14]) });
        let ports = rules.iter().map(|rules| {
            let device: Arc<dyn Device> = Arc::clone(&sinks) as _;
            Some(Arc::new(Port::new(rules.id, device, PortCounters::of_workers(1))))
        });
        let plan = Plan { topology, balance, ports: ports.collect(), ..Plan::empty(Arc::clone(&fdb)) };
        let device: Arc<dyn Device> = Arc::new(mill);
        let receivers = [0, 1].map(|port| Receiver {
            key: u64::from(port),
            device: Arc::clone(&device),
            port: PortId(port),
            worker: 0,
        });
        Self { engine: Engine::new(0, Arc::new(plan)), fdb, receivers: receivers.into(), sinks, pace: 0 }
    }

    /// Allocations of `turns` turns that begin after as many to warm up.
    fn allocations(&mut self, name: &str, turns: usize) -> u64 {
        let mut now = BEGIN;
        let mut run = |turns: usize| {
            for turn in 0..turns {
                now += self.pace;
                let receiver = &self.receivers[turn % self.receivers.len()];
                self.engine.turn(receiver, 64, Timestamp::from_millis(now)).expect("never fails");
                while self.engine.spread(Timestamp::from_millis(now)) {}
            }
        };
        run(2);
        let before = ALLOCATIONS.load(Relaxed);
        run(turns);
        let allocations = ALLOCATIONS.load(Relaxed) - before;
        assert!(self.sinks.sent.load(Relaxed) > 0, "{name}: nothing was sent");
        allocations
    }
}

impl Mill {
    fn of(frame: Vec<u8>) -> Self {
        Self {
            header: [0; VNET_HEADER],
            frame,
            stations: 1,
            next: AtomicU32::new(0),
            counted: None,
            capabilities: Capabilities::NONE,
            sent: AtomicU64::new(0),
        }
    }
}

fn to(dst: MacAddr) -> Vec<u8> {
    let mut frame = [dst.0, [2, 0, 0, 0, 0, 0]].concat();
    frame.extend([0x08, 0x00]);
    frame.resize(60, 0);
    frame
}

/// A broadcast TCP/IPv4 super-frame: 40 segments of 1448 bytes.
fn super_frame() -> Mill {
    let mut frame = to(MacAddr::BROADCAST);
    frame.resize(54 + 40 * 1448, 0x55);
    let total = u16::try_from(frame.len() - 14).expect("fits IP").to_be_bytes();
    frame[14..34].copy_from_slice(&[
        0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 2, 10, 9, 0, 3,
    ]);
    frame[34..54].copy_from_slice(&[0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    let size = NonZeroU16::new(1448).expect("not zero").get().to_le_bytes();
    Mill { header: [1, 1, 0, 0, size[0], size[1], 34, 0, 16, 0], ..Mill::of(frame) }
}

/// Segments of so many clients to a service, and room for so many flows.
fn service(clients: u32, room: usize) -> Case {
    let mut frame = to(STATION);
    frame.resize(74, 0);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 2, 10, 9, 0, 100]);
    frame[34..54].copy_from_slice(&[0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]);
    // The mill counts in the station's address, and here in the client's as well.
    let mill = Mill { stations: clients, counted: Some(28), ..Mill::of(frame) };
    let backend = |last: u8| Backend {
        address: IpAddr::from([10, 9, 1, last]),
        mac: MacAddr([2, 0xff, 0, 0, 0, last]),
        is_ready: true,
        ends: None,
        given: Arc::default(),
    };
    let address = IpAddr::from([10, 9, 0, 100]);
    let mut balance = Balance::default();
    let web = Service::new(address, Affinity::None, [backend(1), backend(2)]);
    balance.services.insert((BLUE, address), Arc::new(web));
    balance.clients = vec![Some(Arc::new(Client::new(Flows::of_process(room, 1))))];
    balance.clients.push(balance.clients[0].clone());
    let case = Case::with(4, 100_000, Limits::default(), balance.into(), Capabilities::ALL, mill);
    case.fdb.pin(BLUE, STATION, PortId::SERVICES, Origin::Control, NOW);
    for last in [1, 2] {
        case.fdb.learn(case.fdb.station(BLUE, backend(last).mac), PortId(3), None, NOW);
    }
    case
}

#[test]
fn forwarding_allocates_nothing() {
    let all = Capabilities::ALL;
    let station = MacAddr([2, 0xff, 0, 0, 0, 1]);
    let stations = |stations, frame| Mill { stations, ..Mill::of(frame) };
    let unicast = Case::new(4, 1000, all, stations(100, to(station)));
    unicast.fdb.learn(unicast.fdb.station(BLUE, station), PortId(3), None, NOW);
    let pushed = Case::new(4, 1000, all, stations(100, to(station)));
    pushed.fdb.learn(pushed.fdb.station(BLUE, station), PortId(4), None, NOW);
    let broadcast = || to(MacAddr::BROADCAST);
    let cases: [(&str, Case); 9] = [
        ("unicast", unicast),
        ("a tag pushed", pushed),
        ("flooded to 100 ports", Case::new(100, 1000, all, stations(1, broadcast()))),
        ("flooded to 300 ports, between turns", Case::new(300, 1000, all, stations(1, broadcast()))),
        ("stations that move", Case::new(4, 1000, all, stations(7, broadcast()))),
        ("stations that are new", Case::new(4, 100_000, all, stations(u32::MAX, broadcast()))),
        ("stations that displace others", Case::new(4, 64, all, stations(u32::MAX, broadcast()))),
        ("super-frames that pass", Case::new(4, 1000, all, super_frame())),
        (
            "super-frames that are cut, with and without tag",
            Case::new(4, 1000, Capabilities::NONE, super_frame()),
        ),
    ];
    for (name, mut case) in cases {
        assert_eq!(case.allocations(name, 30), 0, "{name}");
    }
    // By one flow, by new ones that find room, and by new ones that make others go.
    for (clients, room) in [(1, 64), (2_000, 65_536), (2_000, 64)] {
        let mut case = service(clients, room);
        assert_eq!(case.allocations("to a service", 60), 0, "{clients} clients, room for {room}");
        let client = case.engine.plan().balance.clients[0].clone().expect("it has clients");
        assert_eq!(client.flows.len(), usize::try_from(clients).expect("few").min(room));
        assert_eq!(client.flows.evicted() > 0, room < 2_000 && clients > 1);
    }
    // 79 turns a round: every station comes in by the other port each time, and few of them are remembered.
    let mut moving = Case::new(4, 100_000, all, stations(79 * 64, broadcast()));
    assert_eq!(moving.allocations("more stations move than are remembered", 1000), 0);
    assert!(moving.fdb.totals().moved > 10_000);
    let limit = NonZeroU64::new(1_000_000).map(|rate| Limit::new(rate, 1_000_000));
    let limits = Limits { rx: limit, tx: limit };
    let mut limited = Case::with(4, 1000, limits, Arc::default(), all, stations(1, broadcast()));
    assert_eq!(limited.allocations("frames above a limit", 30), 0);
    let mut held = Case { pace: 1_000, ..Case::new(4, 1000, all, stations(64, broadcast())) };
    assert_eq!(held.allocations("stations that are held", 30), 0);
    assert_eq!(held.fdb.totals().held, 64);
    assert!(ALLOCATIONS.load(Relaxed) > 0, "the counter works");
}
