//! Switches, hosts and cables on one clock, advanced by the test.

use std::{collections::BTreeSet, num::NonZeroU16, sync::Arc};

use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    device::{
        Device,
        mem::{MemDevice, OwnedFrame},
    },
    fdb::Settings,
    offload::Capabilities,
    topology::{Network, PortMode, PortRules},
};
use vswitch_tests::lab::{Lab, sent};
use vswitch_vxlan::{header::Vni, tables::Tables};

use crate::{
    cable::{Cable, Faults, Plug, Random},
    host::Host,
    tunnel::{Inlet, Remote, Socket},
};

pub(crate) const BLUE: NetworkId = NetworkId(0);
pub(crate) const RED: NetworkId = NetworkId(1);

/// Ports of every switch: two per network, then the links to other switches, which carry both networks: two trunks, or a
/// tunnel endpoint and its peers.
pub(crate) const BLUE_PORTS: [u16; 2] = [0, 1];
pub(crate) const RED_PORTS: [u16; 2] = [2, 3];
pub(crate) const TRUNKS: [u16; 2] = [4, 5];
const ENDPOINT: u16 = 4;

/// The port by which every other switch of a mesh reaches switch `peer`.
pub(crate) fn peer(peer: usize) -> u16 {
    ENDPOINT + 1 + u16::try_from(peer).expect("few switches")
}

/// A switch in memory.
#[derive(Debug)]
struct Switch {
    lab: Lab,
    /// All ports except those of a tunnel, by port number.
    devices: Vec<Arc<MemDevice>>,
    socket: Arc<Socket>,
}

/// The whole fabric. A panic while it exists prints the seed that reproduces it.
pub(crate) struct Fabric {
    seed: u64,
    random: Random,
    /// Milliseconds since the start.
    pub(crate) now: u64,
    switches: Vec<Switch>,
    pub(crate) hosts: Vec<Host>,
    cables: Vec<Cable>,
    /// Datagrams sent by tunnels.
    pub(crate) datagrams: usize,
}

impl Fabric {
    /// A chain of switches joined by trunks with the given faults.
    pub(crate) fn chain(switches: usize, faults: Faults, seed: u64) -> Self {
        let between = |index| [Plug::Port(index, TRUNKS[1]), Plug::Port(index + 1, TRUNKS[0])];
        let cables = (1..switches).map(|index| Cable::new(between(index - 1), faults)).collect();
        Self::new((0..switches).map(|_| Switch::with_trunks()).collect(), cables, seed)
    }

    /// A full mesh of tunnels between switches, over an underlay with the given faults.
    pub(crate) fn mesh(switches: usize, faults: Faults, seed: u64) -> Self {
        let ends =
            (0..switches).flat_map(|a| (0..a).map(move |b| [Plug::Peer(a, peer(b)), Plug::Peer(b, peer(a))]));
        let cables = ends.map(|ends| Cable::new(ends, faults)).collect();
        Self::new((0..switches).map(|index| Switch::with_peers(index, switches)).collect(), cables, seed)
    }

    fn new(switches: Vec<Switch>, cables: Vec<Cable>, seed: u64) -> Self {
        Self { seed, random: Random::new(seed), now: 0, switches, hosts: Vec::new(), cables, datagrams: 0 }
    }

    /// Adds a host and plugs it in.
    pub(crate) fn plug_host(&mut self, id: u8, switch: usize, port: u16) -> usize {
        self.hosts.push(Host::new(id, self.seed));
        let host = self.hosts.len() - 1;
        let wire = Faults { latency: 1, ..Faults::default() };
        self.cables.push(Cable::new([Plug::Port(switch, port), Plug::Host(host)], wire));
        host
    }

    /// Moves a host to another port. Frames in flight to or from it are lost.
    pub(crate) fn move_host(&mut self, host: usize, switch: usize, port: u16) {
        self.cables.retain(|cable| cable.ends[1] != Plug::Host(host));
        let wire = Faults { latency: 1, ..Faults::default() };
        self.cables.push(Cable::new([Plug::Port(switch, port), Plug::Host(host)], wire));
    }

    /// The port on which `switch` has learned `mac`.
    pub(crate) fn place(&self, switch: usize, network: NetworkId, mac: MacAddr) -> Option<u16> {
        let now = Timestamp::from_millis(self.now);
        let fdb = &self.switches[switch].lab.fdb;
        fdb.lookup(fdb.station(network, mac), now).map(|port| port.0)
    }

    /// Frames lost by cables.
    pub(crate) fn lost(&self) -> u64 {
        self.cables.iter().map(|cable| cable.lost).sum()
    }

    /// Advances the clock until `done` returns true.
    ///
    /// # Panics
    /// It takes longer than `seconds`.
    pub(crate) fn drive(&mut self, seconds: u64, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + seconds * 1000;
        while !done(self) {
            assert!(self.now < end, "not done after {seconds} seconds");
            self.step();
        }
    }

    /// One step: delivers and forwards what is due, sends what is queued, and advances the clock to the next event.
    fn step(&mut self) {
        self.arrive();
        for host in 0..self.hosts.len() {
            self.hosts[host].poll(self.now);
            for bytes in std::mem::take(&mut self.hosts[host].nic.sent) {
                self.send(Plug::Host(host), &OwnedFrame::plain(bytes));
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
                Plug::Peer(switch, port) => {
                    self.switches[switch].socket.put(PortId(port), packet.bytes);
                    ready.insert((switch, ENDPOINT));
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
            for (peer, datagram) in self.switches[switch].socket.take() {
                self.datagrams += 1;
                self.send(Plug::Peer(switch, peer.0), &OwnedFrame::plain(datagram));
            }
        }
    }

    fn send(&mut self, from: Plug, packet: &OwnedFrame) {
        if let Some(cable) = self.cables.iter_mut().find(|cable| cable.ends.contains(&from)) {
            cable.send(from, packet, self.now, &mut self.random);
        }
    }

    /// Checks that every switch accounts for every frame.
    pub(crate) fn check_books(&self) {
        for (index, switch) in self.switches.iter().enumerate() {
            switch.lab.check_books(format_args!("switch {index}"));
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
    /// Two ports for each network, and two trunks.
    fn with_trunks() -> Self {
        let trunk = |port| PortRules {
            mode: PortMode::Trunk { tagged: vec![BLUE, RED], native: None },
            ..PortRules::access(PortId(port), BLUE)
        };
        let rules: Vec<_> = access_ports().chain(TRUNKS.map(trunk)).collect();
        let devices: Vec<_> = rules.iter().map(|_| memory()).collect();
        let all = devices.iter().map(|device| Arc::clone(device) as _).collect();
        Self::new(rules, all, devices, Arc::default())
    }

    /// Two ports for each network, and a tunnel to all other switches of a mesh.
    fn with_peers(index: usize, switches: usize) -> Self {
        let tunnel = |port, networks: &[NetworkId]| PortRules {
            mode: PortMode::Tunnel(networks.to_vec()),
            horizon: NonZeroU16::new(1),
            ..PortRules::access(PortId(port), BLUE)
        };
        let others = (0..switches).filter(|other| *other != index).map(peer);
        let endpoint = [tunnel(ENDPOINT, &[])];
        let rules: Vec<_> =
            access_ports().chain(endpoint).chain(others.map(|port| tunnel(port, &[BLUE, RED]))).collect();
        let devices: Vec<_> = access_ports().map(|_| memory()).collect();

        let vnis = [(BLUE, 4096), (RED, 4097)]
            .map(|(network, vni)| (Vni::try_from(vni).expect("a valid number"), network));
        // The cable identifies the sender, so no addresses are needed.
        let (socket, tables) = (Arc::<Socket>::default(), Arc::new(Tables::new([], vnis)));
        let mut all: Vec<Arc<dyn Device>> = devices.iter().map(|device| Arc::clone(device) as _).collect();
        all.push(Arc::new(Inlet { socket: Arc::clone(&socket), tables: Arc::clone(&tables) }));
        let remote: Arc<dyn Device> = Arc::new(Remote { socket: Arc::clone(&socket), tables });
        all.resize(rules.len(), remote);
        Self::new(rules, all, devices, socket)
    }

    fn new(
        rules: Vec<PortRules>,
        all: Vec<Arc<dyn Device>>,
        devices: Vec<Arc<MemDevice>>,
        socket: Arc<Socket>,
    ) -> Self {
        let networks = [(BLUE, 10), (RED, 20)]
            .map(|(id, vlan)| Network { vlan: VlanId::try_from(vlan).ok(), ..Network::new(id) });
        let mut lab = Lab::new(Settings { limit: 1024, ..Settings::default() });
        lab.configure(&networks, 0, rules.into_iter().zip(all).collect());
        Self { lab, devices, socket }
    }

    /// Forwards all that waits at `port`, and returns what left the switch.
    fn turn(&mut self, port: u16, now: u64) -> Vec<(u16, OwnedFrame)> {
        self.lab.turn(PortId(port), Timestamp::from_millis(now));
        sent(&self.devices)
    }
}

fn access_ports() -> impl Iterator<Item = PortRules> {
    let access = |network| move |port| PortRules::access(PortId(port), network);
    BLUE_PORTS.into_iter().map(access(BLUE)).chain(RED_PORTS.into_iter().map(access(RED)))
}

fn memory() -> Arc<MemDevice> {
    Arc::new(MemDevice::new(Capabilities::NONE, 100_000))
}
