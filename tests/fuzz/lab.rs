//! A switch with a port of every kind, and a table that is soon full.

use std::{num::NonZeroU16, sync::Arc};

use vswitch::{
    storm::FloodLimits,
    addr::{NetworkId, PortId, Timestamp, VlanId},
    counters::PortCounters,
    device::{
        Device,
        mem::{MemDevice, OwnedFrame},
    },
    engine::Engine,
    fdb::{Fdb, Settings},
    offload::Capabilities,
    plan::{Plan, Port, Receiver},
    topology::{Network, PortMode, PortRules, Topology},
};

/// How many ports there are. Every second one takes no offloads.
pub const PORTS: u16 = 8;

/// A switch in memory.
#[derive(Debug)]
pub struct Lab {
    /// Its table.
    pub fdb: Arc<Fdb>,
    engine: Engine,
    devices: Vec<Arc<MemDevice>>,
    counters: Vec<Arc<[PortCounters]>>,
    rules: Vec<Option<PortRules>>,
}

impl Lab {
    /// Every port is there.
    pub fn new() -> Self {
        let settings = Settings { limit: 16, seed: 3, ..Settings::default() };
        let fdb = Arc::new(Fdb::new(settings));
        let capabilities = |port| if port % 2 == 0 { Capabilities::ALL } else { Capabilities::NONE };
        let devices = (0..PORTS).map(|port| Arc::new(MemDevice::new(capabilities(port), 4096))).collect();
        let counters = (0..PORTS).map(|_| PortCounters::of_workers(1)).collect();
        let engine = Engine::new(0, Arc::new(Plan::empty(Arc::clone(&fdb))));
        let rules = (0..PORTS).map(|port| Some(rules(port))).collect();
        let mut lab = Self { fdb, engine, devices, counters, rules };
        lab.configure();
        lab
    }

    /// Removes a port, or brings it with these limits.
    #[allow(dead_code, reason = "only one of the targets changes ports")]
    pub fn change(&mut self, port: u16, present: bool, mac_limit: Option<u32>, storm: FloodLimits) {
        self.rules[usize::from(port)] = present.then(|| PortRules { mac_limit, storm, ..rules(port) });
        self.configure();
    }

    fn configure(&mut self) {
        let network = |id, vlan, passes_tags| Network {
            id: NetworkId(id),
            vlan: VlanId::try_from(vlan).ok(),
            passes_tags,
        };
        let networks = [network(0, 10, false), network(1, 20, true)];
        let present: Vec<_> = self.rules.iter().flatten().cloned().collect();
        let topology = Topology::build(&networks, &present, 1 << 0xe).expect("the topology is consistent");
        let mut plan = Plan { topology, ..Plan::empty(Arc::clone(&self.fdb)) };
        for (index, rules) in self.rules.iter().enumerate() {
            plan.ports.push(rules.as_ref().map(|rules| {
                let device: Arc<dyn Device> = Arc::clone(&self.devices[index]) as _;
                plan.receivers.push(Receiver {
                    key: index as u64,
                    device: Arc::clone(&device),
                    port: rules.id,
                    worker: 0,
                });
                Arc::new(Port::new(rules.id, device, Arc::clone(&self.counters[index])))
            }));
        }
        self.engine.adopt(Arc::new(plan));
    }

    /// Lets `packet` wait at `port`.
    pub fn put(&self, port: u16, packet: OwnedFrame) {
        self.devices[usize::from(port)].put(packet);
    }

    /// Gives `port` a turn, if it is there.
    pub fn turn(&mut self, port: u16, at: Timestamp) {
        let plan = Arc::clone(self.engine.plan());
        if let Some(receiver) = plan.receivers.iter().find(|receiver| receiver.port == PortId(port)) {
            self.engine.turn(receiver, 64, at).expect("the device works");
        }
    }

    /// What all ports sent.
    pub fn take_all(&self) -> Vec<(u16, OwnedFrame)> {
        let devices = (0..).zip(&self.devices);
        devices.flat_map(|(port, device)| std::iter::from_fn(move || Some((port, device.take()?)))).collect()
    }

    /// What came in has a fate, and so has what was to go out; the table keeps its bound.
    pub fn check_books(&self) {
        for counters in &self.counters {
            let totals = vswitch::counters::PortTotals::sum(counters);
            let drops = |egress| {
                let drops = totals.drops().filter(move |(reason, _)| reason.is_egress() == egress);
                drops.map(|(_, count)| count).sum::<u64>()
            };
            assert_eq!(totals.rx_frames, totals.unicast + totals.flooded + drops(false), "{totals:?}");
            assert_eq!(totals.offered, totals.tx_frames + drops(true), "{totals:?}");
        }
        assert!(self.fdb.len() <= 16);
        for rules in self.rules.iter().flatten() {
            assert!(self.fdb.learned_on(rules.id) <= 16);
        }
        assert!(self.fdb.entries(Timestamp::default()).all(|entry| entry.mac.is_station()));
    }
}

fn rules(port: u16) -> PortRules {
    let (blue, red) = (NetworkId(0), NetworkId(1));
    let access = |network| PortRules::access(PortId(port), network);
    let mode = |mode| PortRules { mode, ..access(blue) };
    match port {
        0 => access(blue),
        1 => PortRules { isolated: true, ..access(blue) },
        2 => PortRules { isolated: true, mtu: 100, ..access(blue) },
        3 => mode(PortMode::Trunk { tagged: vec![blue, red], native: None }),
        4 => mode(PortMode::Trunk { tagged: vec![red], native: Some(blue) }),
        5 => access(red),
        _ => PortRules { horizon: NonZeroU16::new(1), ..mode(PortMode::Tunnel(vec![blue, red])) },
    }
}
