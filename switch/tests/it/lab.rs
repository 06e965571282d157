//! A whole switch in memory: an engine, its table, and a device for each port.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    balance::{Balance, Client, Flows, Gateways, Mark, STATION, Service},
    batch::{Batch, HEADROOM},
    capture::Session,
    counters::{NetworkCounters, NetworkTotals, PortCounters, PortTotals},
    device::{
        Device, Refuse,
        mem::{MemDevice, OwnedFrame},
    },
    engine::Engine,
    fdb::{Fdb, Origin, Settings},
    mirror::Mirror,
    neighbours::Neighbours,
    offload::Capabilities,
    plan::{Plan, Port, Receiver},
    storm::FloodMeters,
    topology::{Network, PortRules, Topology},
    transmit::{Scratch, Transmit},
};

/// Flows that a port has room for.
const FLOWS: usize = 64;

/// A switch whose ports are in memory.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) fdb: Arc<Fdb>,
    engine: Engine,
    wires: Vec<Option<Arc<Wire>>>,
    networks: Vec<Option<Arc<[NetworkCounters]>>>,
    mask: u16,
    captures: Vec<Arc<Session>>,
    mirrors: Vec<Mirror>,
    neighbours: Arc<Neighbours>,
    gateways: HashMap<NetworkId, Gateways>,
    services: HashMap<(NetworkId, IpAddr), Arc<Service>>,
    clients: Vec<Option<Arc<Client>>>,
}

/// What a lab's ports are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wiring {
    /// What the devices take, by port number.
    pub(crate) capabilities: fn(u16) -> Capabilities,
    /// Reserved groups that are forwarded.
    pub(crate) mask: u16,
    /// Frames a device's queue holds.
    pub(crate) queue: usize,
}

impl Default for Wiring {
    fn default() -> Self {
        Self { capabilities: |_| Capabilities::ALL, mask: 0, queue: 1024 }
    }
}

impl Lab {
    pub(crate) fn new(networks: &[Network], ports: &[PortRules]) -> Self {
        Self::with(Wiring::default(), Settings::default(), networks, ports)
    }

    pub(crate) fn with(
        wiring: Wiring,
        settings: Settings,
        networks: &[Network],
        ports: &[PortRules],
    ) -> Self {
        let fdb = Arc::new(Fdb::new(settings));
        let engine = Engine::new(0, Arc::new(Plan::empty(Arc::clone(&fdb))));
        let mut lab = Self {
            fdb,
            engine,
            wires: Vec::new(),
            networks: Vec::new(),
            mask: wiring.mask,
            captures: Vec::new(),
            mirrors: Vec::new(),
            neighbours: Arc::default(),
            services: HashMap::new(),
            gateways: HashMap::new(),
            clients: Vec::new(),
        };
        for rules in ports {
            let wire = Wire::new((wiring.capabilities)(rules.id.0), wiring.queue);
            lab.attach(rules.id, wire);
        }
        lab.configure(networks, ports);
        lab
    }

    /// How far a port's storm limits are used up.
    pub(crate) fn storm(&self, port: u16) -> FloodMeters {
        self.engine.storm(PortId(port))
    }

    /// Puts a device behind a port to be; it is used from the next [`Lab::configure`] on.
    pub(crate) fn attach(&mut self, port: PortId, wire: Wire) {
        if self.wires.len() <= port.index() {
            self.wires.resize(port.index() + 1, None);
        }
        self.wires[port.index()] = Some(Arc::new(wire));
    }

    /// Works by another topology from now on. Ports keep their devices and counters.
    pub(crate) fn configure(&mut self, networks: &[Network], ports: &[PortRules]) {
        let topology = Topology::build(networks, ports, self.mask).expect("the topology is consistent");
        for network in networks {
            self.networks.resize(self.networks.len().max(network.id.index() + 1), None);
            self.networks[network.id.index()].get_or_insert_with(|| NetworkCounters::of_workers(1));
        }
        let (networks, captures, mirrors) =
            (self.networks.clone(), self.captures.clone(), self.mirrors.clone());
        let neighbours = Arc::clone(&self.neighbours);
        let empty = Plan::empty(Arc::clone(&self.fdb));
        let balance = Arc::new(Balance {
            services: self.services.clone(),
            clients: self.clients.clone(),
            serving: vec![true; self.wires.len()],
            marks: (0..).map(|network| Mark(40_000 + network)).take(self.networks.len()).collect(),
            gateways: self.gateways.clone(),
        });
        let mut plan = Plan { topology, networks, captures, mirrors, neighbours, balance, ..empty };
        plan.ports.resize(self.wires.len(), None);
        for rules in ports {
            let wire = self.wires[rules.id.index()].clone().expect("every port has a device");
            let counters = Arc::clone(&wire.counters);
            let device: Arc<dyn Device> = wire;
            let key = u64::from(rules.id.0);
            plan.receivers.push(Receiver { key, device: Arc::clone(&device), port: rules.id, worker: 0 });
            plan.ports[rules.id.index()] = Some(Arc::new(Port::new(rules.id, device, counters)));
        }
        self.engine.adopt(Arc::new(plan));
    }

    /// Lets `sessions` see frames from the next [`Lab::configure`] on.
    pub(crate) fn watch(&mut self, sessions: Vec<Arc<Session>>) {
        self.captures = sessions;
    }

    /// Copies frames from the next [`Lab::configure`] on.
    pub(crate) fn mirror(&mut self, mirrors: Vec<Mirror>) {
        self.mirrors = mirrors;
    }

    /// Answers for a neighbour from now on.
    pub(crate) fn know(&self, address: (NetworkId, IpAddr), station: MacAddr) {
        self.neighbours.change([(address, Some(station))]);
    }

    /// Has this service in `network` from the next [`Lab::configure`] on, in the place of one at the same address.
    pub(crate) fn serve(&mut self, network: NetworkId, service: Service) {
        self.fdb.pin(network, STATION, PortId::SERVICES, Origin::Control, Timestamp::from_millis(0));
        let client = || Some(Arc::new(Client::new(Flows::of_process(FLOWS, 1))));
        self.clients.resize_with(self.wires.len(), client);
        self.services.insert((network, service.address()), Arc::new(service));
    }

    /// Has a gateway in `network`, and others on other hosts, from the next [`Lab::configure`] on.
    pub(crate) fn gate(&mut self, network: NetworkId, own: MacAddr, others: &[MacAddr]) {
        self.gateways.insert(network, Gateways { own, others: others.into() });
    }

    /// The flows of clients at `port`.
    pub(crate) fn flows(&self, port: u16) -> &Flows {
        &self.clients[usize::from(port)].as_ref().expect("there are services").flows
    }

    /// What it works by.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(self.engine.plan())
    }

    /// Lets `packet` come in by `port` and returns what left, in the order of the ports' numbers.
    pub(crate) fn receive(&mut self, port: u16, packet: OwnedFrame, at: Timestamp) -> Vec<(u16, OwnedFrame)> {
        self.put(port, packet);
        self.turn(port, at);
        self.take_all()
    }

    /// Lets `packet` wait at `port`.
    pub(crate) fn put(&self, port: u16, packet: OwnedFrame) {
        assert!(self.wire(port).memory.put(packet), "the queue of port {port} is full");
    }

    /// Gives `port` a turn; false if it has none.
    pub(crate) fn turn(&mut self, port: u16, at: Timestamp) -> bool {
        let plan = Arc::clone(self.engine.plan());
        let Some(receiver) = plan.receivers.iter().find(|receiver| receiver.port == PortId(port)) else {
            return false;
        };
        self.engine.turn(receiver, 64, at).expect("the device works");
        true
    }

    /// Sends a part of the floods that wait; false if none do any more.
    pub(crate) fn spread(&mut self, at: Timestamp) -> bool {
        self.engine.spread(at)
    }

    /// What all ports sent, in the order of their numbers.
    pub(crate) fn take_all(&mut self) -> Vec<(u16, OwnedFrame)> {
        let wires = (0..).zip(&self.wires).filter_map(|(port, wire)| Some((port, wire.as_ref()?)));
        wires.flat_map(|(port, wire)| std::iter::from_fn(move || Some((port, wire.memory.take()?)))).collect()
    }

    pub(crate) fn wire(&self, port: u16) -> &Wire {
        self.wires[usize::from(port)].as_ref().expect("the port has a device")
    }

    pub(crate) fn totals(&self, port: u16) -> PortTotals {
        PortTotals::sum(&self.wire(port).counters)
    }

    /// What was counted of every network.
    pub(crate) fn network_totals(&self) -> impl Iterator<Item = NetworkTotals> {
        self.networks.iter().flatten().map(|counters| NetworkTotals::sum(counters))
    }
}

/// A device in memory that may know the network of its frames, as a tunnel does.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) memory: MemDevice,
    network: Mutex<Option<NetworkId>>,
    counters: Arc<[PortCounters]>,
}

impl Wire {
    pub(crate) fn new(capabilities: Capabilities, queue: usize) -> Self {
        let memory = MemDevice::new(capabilities, queue);
        Self { memory, network: Mutex::default(), counters: PortCounters::of_workers(1) }
    }

    /// Lets all frames received from now on be of `network`, whatever their tag.
    pub(crate) fn carry(&self, network: impl Into<Option<NetworkId>>) {
        *self.network.lock().expect("no panic") = network.into();
    }
}

impl Device for Wire {
    fn recv(&self, port: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let network = *self.network.lock().expect("no panic");
        if network.is_none() {
            return self.memory.recv(port, batch, max, refuse);
        }
        let mut received = Batch::new();
        let more = self.memory.recv(port, &mut received, max, refuse)?;
        for (slot, rx) in received.frames().iter().enumerate() {
            let bytes = received.bytes(slot);
            let buffer = batch.spare().next().expect("as many as fit were asked for");
            buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
            batch.push(port, network, rx.offload, bytes.len());
        }
        Ok(more)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        self.memory.send(frames, scratch);
    }
}

/// A station's address.
pub(crate) fn mac(id: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, id])
}

/// A short frame from `src` to `dst` behind these tags, of which each is its control information.
pub(crate) fn frame(dst: MacAddr, src: MacAddr, tags: &[u16]) -> Vec<u8> {
    let mut bytes = [dst.0, src.0].concat();
    for tag in tags {
        bytes.extend([0x81, 0x00]);
        bytes.extend(tag.to_be_bytes());
    }
    bytes.extend(b"\x08\x06frame");
    bytes
}
