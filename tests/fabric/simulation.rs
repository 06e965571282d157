//! Switches, hosts and cables on one clock that only the test moves.

use std::{collections::BTreeSet, sync::Arc};

use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    counters::PortCounters,
    device::{
        Device,
        mem::{MemDevice, Packet},
    },
    engine::Engine,
    fdb::{Fdb, Settings},
    offload::Capabilities,
    plan::{Plan, Port, Receiver},
    topology::{Network, PortMode, PortRules, Topology},
};

use crate::{
    cable::{Cable, Faults, Plug, Random},
    host::Host,
};

pub(crate) const BLUE: NetworkId = NetworkId(0);
pub(crate) const RED: NetworkId = NetworkId(1);

/// Ports of every switch: two for each network, then two trunks that carry both.
pub(crate) const BLUE_PORTS: [u16; 2] = [0, 1];
pub(crate) const RED_PORTS: [u16; 2] = [2, 3];
pub(crate) const TRUNKS: [u16; 2] = [4, 5];

/// A switch of six ports in memory.
#[derive(Debug)]
struct Switch {
    engine: Engine,
    fdb: Arc<Fdb>,
    devices: Vec<Arc<MemDevice>>,
}

/// The whole fabric. A panic while it lives prints the seed that makes it happen again.
pub(crate) struct Fabric {
    seed: u64,
    random: Random,
    /// Milliseconds since the beginning.
    pub(crate) now: u64,
    switches: Vec<Switch>,
    pub(crate) hosts: Vec<Host>,
    cables: Vec<Cable>,
}

impl Fabric {
    /// A chain of switches joined by trunks with these faults.
    pub(crate) fn chain(switches: usize, faults: Faults, seed: u64) -> Self {
        let switches: Vec<_> = (0..switches).map(|_| Switch::new()).collect();
        let between = |index| [Plug::Port(index, TRUNKS[1]), Plug::Port(index + 1, TRUNKS[0])];
        let cables = (1..switches.len()).map(|index| Cable::new(between(index - 1), faults)).collect();
        Self { seed, random: Random::new(seed), now: 0, switches, hosts: Vec::new(), cables }
    }

    /// Brings a host and plugs it in.
    pub(crate) fn plug_host(&mut self, id: u8, switch: usize, port: u16) -> usize {
        self.hosts.push(Host::new(id, self.seed));
        let host = self.hosts.len() - 1;
        let wire = Faults { latency: 1, ..Faults::default() };
        self.cables.push(Cable::new([Plug::Port(switch, port), Plug::Host(host)], wire));
        host
    }

    /// Unplugs a host, with all that is under way to it and from it, and plugs it in elsewhere.
    pub(crate) fn move_host(&mut self, host: usize, switch: usize, port: u16) {
        self.cables.retain(|cable| cable.ends[1] != Plug::Host(host));
        let wire = Faults { latency: 1, ..Faults::default() };
        self.cables.push(Cable::new([Plug::Port(switch, port), Plug::Host(host)], wire));
    }

    /// Where `switch` believes that `mac` is.
    pub(crate) fn place(&self, switch: usize, network: NetworkId, mac: MacAddr) -> Option<u16> {
        let now = Timestamp::from_millis(self.now);
        self.switches[switch].fdb.lookup(network, mac, now).map(|port| port.0)
    }

    /// Frames that cables lost.
    pub(crate) fn lost(&self) -> u64 {
        self.cables.iter().map(|cable| cable.lost).sum()
    }

    /// Lets time pass until `done` says so.
    ///
    /// # Panics
    /// If it takes longer than `seconds`.
    pub(crate) fn drive(&mut self, seconds: u64, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + seconds * 1000;
        while !done(self) {
            assert!(self.now < end, "not done after {seconds} seconds");
            self.step();
        }
    }

    /// One moment: what arrives is switched and answered, what leaves is under way. Then the clock goes on to the next
    /// moment in which something happens.
    fn step(&mut self) {
        self.arrive();
        for host in 0..self.hosts.len() {
            self.hosts[host].poll(self.now);
            for bytes in std::mem::take(&mut self.hosts[host].nic.sent) {
                self.send(Plug::Host(host), &Packet::plain(bytes));
            }
        }
        let now = self.now;
        let by_cables = self.cables.iter().filter_map(Cable::next).min();
        let by_hosts = self.hosts.iter_mut().filter_map(|host| host.next(now)).min();
        let next = by_cables.into_iter().chain(by_hosts).min().unwrap_or(now + 100);
        self.now = next.clamp(now + 1, now + 100);
    }

    fn arrive(&mut self) {
        let mut ready = BTreeSet::new();
        let arrived: Vec<_> = self.cables.iter_mut().flat_map(|cable| cable.arrive(self.now)).collect();
        for (plug, packet) in arrived {
            match plug {
                Plug::Port(switch, port) => {
                    assert!(self.switches[switch].devices[usize::from(port)].put(packet), "a queue is full");
                    ready.insert((switch, port));
                }
                Plug::Host(host) => {
                    let nic = &mut self.hosts[host].nic;
                    nic.sources
                        .extend(packet.bytes.get(6..).and_then(<[u8]>::first_chunk).copied().map(MacAddr));
                    nic.received.push_back(packet.bytes);
                }
            }
        }
        for (switch, port) in ready {
            for (out, packet) in self.switches[switch].turn(port, self.now) {
                self.send(Plug::Port(switch, out), &packet);
            }
        }
    }

    fn send(&mut self, from: Plug, packet: &Packet) {
        if let Some(cable) = self.cables.iter_mut().find(|cable| cable.ends.contains(&from)) {
            cable.send(from, packet, self.now, &mut self.random);
        }
    }

    /// The law of every port: what came in has a fate, and so has what was to go out.
    pub(crate) fn check_books(&self) {
        for (index, switch) in self.switches.iter().enumerate() {
            for port in switch.engine.plan().ports.iter().flatten() {
                let totals = port.totals();
                let drops = |egress| {
                    let drops = totals.drops().filter(move |(reason, _)| reason.is_egress() == egress);
                    drops.map(|(_, count)| count).sum::<u64>()
                };
                let fates = [totals.unicast + totals.flooded + drops(false), totals.tx_frames + drops(true)];
                assert_eq!([totals.rx_frames, totals.offered], fates, "switch {index}, {port:?}: {totals:?}");
            }
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "failed at {} ms; again with: FABRIC_SEED={} cargo test --test fabric",
                self.now, self.seed
            );
        }
    }
}

impl Switch {
    fn new() -> Self {
        let fdb = Arc::new(Fdb::new(Settings { limit: 1024, ..Settings::default() }));
        let networks = [(BLUE, 10), (RED, 20)].map(|(id, vlan)| Network {
            id,
            vlan: VlanId::try_from(vlan).ok(),
            passes_tags: false,
        });
        let access = |network| move |port| PortRules::access(PortId(port), network);
        let trunk = |port| PortRules {
            mode: PortMode::Trunk { tagged: vec![BLUE, RED], native: None },
            ..PortRules::access(PortId(port), BLUE)
        };
        let blue = BLUE_PORTS.into_iter().map(access(BLUE));
        let rules: Vec<_> =
            blue.chain(RED_PORTS.into_iter().map(access(RED))).chain(TRUNKS.into_iter().map(trunk)).collect();
        let devices: Vec<_> =
            rules.iter().map(|_| Arc::new(MemDevice::new(Capabilities::NONE, 100_000))).collect();
        let topology = Topology::build(&networks, &rules, 0).expect("the topology is consistent");
        let mut plan = Plan { topology, ..Plan::empty(Arc::clone(&fdb)) };
        for (PortRules { id: port, .. }, device) in rules.into_iter().zip(&devices) {
            let device: Arc<dyn Device> = Arc::clone(device) as _;
            let key = u64::from(port.0);
            plan.receivers.push(Receiver { key, device: Arc::clone(&device), port, worker: 0 });
            plan.ports.push(Some(Arc::new(Port::new(port, device, PortCounters::of_workers(1)))));
        }
        Self { engine: Engine::new(0, Arc::new(plan)), fdb, devices }
    }

    /// Gives `port` turns until nothing waits, and returns what left.
    fn turn(&mut self, port: u16, now: u64) -> Vec<(u16, Packet)> {
        let plan = Arc::clone(self.engine.plan());
        let receiver = &plan.receivers[usize::from(port)];
        while self.engine.turn(receiver, 64, Timestamp::from_millis(now)).is_ok_and(|turn| turn.more) {}
        let devices = (0..).zip(&self.devices);
        devices.flat_map(|(port, device)| std::iter::from_fn(move || Some((port, device.take()?)))).collect()
    }
}
