//! The edge: performs what the state decided, on the real devices.
//!
//! A port is here as long as it is wanted, with its device or with the reason why it has none. What a port has no device
//! for is tried again every second. After changes [`Edge::rebuild`] gives the workers a new plan.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};
use vswitch::{
    addr::{NetworkId, PortId},
    counters::{NetworkCounters, NetworkTotals, PortCounters, PortTotals},
    device::{Device, tap::Tap},
    fdb::{Damping, Fdb, Learning, Settings},
    plan::{Plan, Port, Receiver},
    worker::{OnFault, Workers},
};

use vswitch_vxlan::{endpoint::Endpoint, strangers::OnStranger};

use super::{
    capture::Captures,
    device::{self, OpenDevice},
    tunnel::Tunnel,
};
use crate::{
    api::ApiError,
    link::{self, Links, Wanted, host_ifname},
    model::{Carries, DeviceSpec, InterfaceSpec, Name, SwitchSpec, VxlanSpec},
    netns::Identity,
    state::{self, State},
};

/// Receivers a port has at most: a tunnel's endpoint one for each of 64 workers, and one for its group.
const RECEIVERS: u64 = 65;

/// Slices in which the table is swept, one a heartbeat.
const SWEEP_PARTS: usize = 64;

/// The real devices and the workers that serve them.
pub(super) struct Edge {
    pub(super) fdb: Arc<Fdb>,
    pub(super) workers: Workers,
    ports: BTreeMap<PortId, EdgePort>,
    networks: BTreeMap<NetworkId, EdgeNetwork>,
    /// Interfaces that were opened and are still to be set up.
    unset: Vec<PortId>,
    /// What is written on interfaces that the kernel keeps when we end, to know them again.
    owner: String,
    /// Interfaces that were opened and do not outlive us yet, though they shall.
    unkept: Vec<PortId>,
    /// Called when somebody sends to the tunnel who is no peer.
    on_stranger: OnStranger,
    pub(super) captures: Captures,
    /// Devices that the workers may still use, to be removed after the next plan.
    leaving: Vec<OpenDevice>,
    next_key: u64,
    swept: usize,
}

/// A port that is wanted.
#[derive(Debug)]
pub(super) struct EdgePort {
    pub(super) wanted: state::Port,
    pub(super) counters: Arc<[PortCounters]>,
    /// What ports that had its number before have taught the table.
    pub(super) taught_before: Learning,
    pub(super) worker: usize,
    /// Tells this opening of the device from all others; its receivers have this key and those after it.
    key: u64,
    /// The device, or why there is none.
    pub(super) device: Result<OpenDevice, String>,
    /// When frames were received last, as far as the heartbeat noticed, and how many had been by then.
    pub(super) heard: Option<Heard>,
}

/// When a port was heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// Last.
    pub(super) at: Instant,
    frames: u64,
}

/// What is counted of a network. One that has the number of a network before begins at zero.
#[derive(Debug)]
struct EdgeNetwork {
    name: Name,
    counters: Arc<[NetworkCounters]>,
    /// What was taught in networks that had its number before.
    taught_before: Learning,
}

/// What happens when a port's device cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The command fails: somebody waits for the answer and can do something about it.
    Refuse,
    /// The port is down and tried again: it was declared, and what it needs may come later.
    Retry,
}

impl Edge {
    /// Starts the workers with nothing attached.
    pub(super) fn start(spec: &SwitchSpec, on_fault: OnFault, on_stranger: OnStranger) -> io::Result<Self> {
        let fdb = Arc::new(Fdb::new(Settings {
            limit: spec.mac_limit,
            ageing: Duration::from_secs(spec.ageing.into()),
            damping: damping(spec),
            seed: RandomState::new().hash_one("fdb"),
        }));
        let count = spec.workers.map_or_else(default_workers, usize::from);
        let workers = Workers::start(count, Arc::new(Plan::empty(Arc::clone(&fdb))), on_fault)?;
        Ok(Self {
            fdb,
            workers,
            ports: BTreeMap::new(),
            networks: BTreeMap::new(),
            unset: Vec::new(),
            owner: format!("vswitch {}", spec.state.display()),
            unkept: Vec::new(),
            on_stranger,
            captures: Captures::default(),
            leaving: Vec::new(),
            next_key: 0,
            swept: 0,
        })
    }

    /// The port with this number, if it is wanted.
    pub(super) fn port(&self, id: PortId) -> Option<&EdgePort> {
        self.ports.get(&id)
    }

    /// Follows a change of ageing and damping.
    pub(super) fn set_switch(&self, spec: &SwitchSpec) {
        self.fdb.configure(Duration::from_secs(spec.ageing.into()), damping(spec));
    }

    /// Opens the port's device; not while another [is let go](Edge::is_letting_go), whose name or number it may have. Its
    /// interface is set up by [`Edge::set_up`].
    pub(super) async fn open(
        &mut self,
        wanted: &state::Port,
        handed: Option<Tap>,
        missing: Missing,
    ) -> Result<(), ApiError> {
        let was_handed = handed.is_some();
        let device = device::open(wanted, handed, self.workers.count(), &self.owner).await;
        if missing == Missing::Refuse {
            device.as_ref().map_err(Clone::clone)?;
        }
        if let Ok(OpenDevice::Endpoint(endpoint)) = &device {
            endpoint.strangers.on_stranger(Arc::clone(&self.on_stranger));
        }
        if let Err(error) = &device {
            warn!(port = %wanted.spec.name, "down: {}", error.error);
        } else if wanted.spec.interface().is_some() && !was_handed {
            self.unset.push(wanted.id);
        }
        let port = EdgePort {
            wanted: wanted.clone(),
            counters: PortCounters::of_workers(self.workers.count()),
            taught_before: self.fdb.learning_of_port(wanted.id),
            worker: self.idlest_worker(),
            key: self.key(),
            device: device.map_err(|error| error.error),
            heard: None,
        };
        self.unkept.push(wanted.id);
        self.ports.insert(wanted.id, port);
        Ok(())
    }

    /// Sets up the interfaces that were opened since the last call, a namespace at a time.
    pub(super) async fn set_up(&mut self, missing: Missing) -> Result<(), ApiError> {
        let mut by_namespace: BTreeMap<Identity, (Links, Vec<(PortId, Wanted)>)> = BTreeMap::new();
        let overlay = self.overlay_mtu();
        for id in std::mem::take(&mut self.unset) {
            let Some(port) = self.ports.get_mut(&id) else { continue };
            let Some(interface) = port.wanted.spec.interface() else { continue };
            let mut wanted = wanted(&port.wanted, interface, None, overlay);
            if interface.bare.is_some() {
                match device::locate(interface, &wanted.ifname).await? {
                    Some(place) => {
                        wanted.ifname = place.ifname;
                        let group = by_namespace.entry(place.links.namespace().identity());
                        group.or_insert_with(|| (place.links, Vec::new())).1.push((id, wanted));
                    }
                    None => self.lose(id, device::gone(), missing)?,
                }
                continue;
            }
            match device::namespace(interface.netns.as_ref())
                .map(|namespace| (namespace.identity(), namespace))
            {
                Ok((identity, namespace)) => {
                    if let std::collections::btree_map::Entry::Vacant(vacant) = by_namespace.entry(identity) {
                        vacant.insert((Links::open(namespace)?, Vec::new()));
                    }
                    if let Some((_, group)) = by_namespace.get_mut(&identity) {
                        group.push((id, wanted));
                    }
                }
                Err(error) => self.lose(id, error, missing)?,
            }
        }
        for (links, group) in by_namespace.into_values() {
            let (ids, wanted): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let results = match links.configure_all(&wanted).await {
                Ok(results) => results,
                Err(error) => {
                    let error = ApiError::from(error);
                    for id in ids {
                        self.lose(id, error.clone(), missing)?;
                    }
                    continue;
                }
            };
            for (id, result) in ids.into_iter().zip(results) {
                if let Err(error) = result {
                    self.lose(id, error.into(), missing)?;
                }
            }
        }
        Ok(())
    }

    /// Removes interfaces of an earlier life that no port has.
    pub(super) async fn remove_orphans(&self) {
        let veth = |port: &EdgePort| matches!(port.wanted.spec.device, DeviceSpec::Veth(_));
        let wanted =
            self.ports.values().filter(|port| veth(port)).map(|port| host_ifname(&port.wanted.spec.name));
        if let Err(error) = device::remove_orphans(&self.owner, &wanted.collect()).await {
            warn!("interfaces of an earlier life may be left: {}", error.error);
        }
    }

    /// Lets the interfaces that were opened since the last call outlive us, where they shall. Not before they are known to
    /// whoever starts after us.
    pub(super) fn keep(&mut self) {
        for id in std::mem::take(&mut self.unkept) {
            let Some(EdgePort { wanted, device: Ok(open), .. }) = self.ports.get(&id) else { continue };
            let persist = wanted.spec.interface().is_some_and(|interface| interface.persist);
            if let Err(error) = open.keep(persist) {
                warn!(port = %wanted.spec.name, "its interface would not outlive the daemon: {error}");
            }
        }
    }

    /// A port's interface could not be set up: it has none, then.
    fn lose(&mut self, id: PortId, error: ApiError, missing: Missing) -> Result<(), ApiError> {
        if missing == Missing::Refuse {
            return Err(error);
        }
        self.take_down(id, error.error);
        Ok(())
    }

    /// Takes the port away, with its interface and all that is known of who is behind it.
    pub(super) fn close(&mut self, id: PortId) {
        let Some(port) = self.ports.remove(&id) else { return };
        if let Ok(open) = &port.device {
            // From now on it goes with us, so that it is not left behind whatever happens. If it is gone, it is gone.
            let _ = open.keep(false);
        }
        self.leaving.extend(port.device);
        self.fdb.purge(|_, port| port == id);
    }

    /// Follows a change that needs no new device.
    pub(super) async fn update(&mut self, old: &state::Port, new: &state::Port) -> Result<(), ApiError> {
        let Some(port) = self.ports.get_mut(&new.id) else { return Ok(()) };
        port.wanted = new.clone();
        if port.device.is_err() {
            return Ok(());
        }
        if old.spec.carries != new.spec.carries {
            self.fdb.flush_port(new.id);
        }
        if let (DeviceSpec::Vxlan(spec), Ok(OpenDevice::Endpoint(endpoint))) =
            (&new.spec.device, &port.device)
        {
            endpoint.set_ttl(spec.ttl)?;
        }
        let (Some(before), Some(after)) = (old.spec.interface(), new.spec.interface()) else { return Ok(()) };
        if before == after && old.mtu == new.mtu {
            return Ok(());
        }
        if after.bare.is_some() {
            // Where it was moved, all but the MTU is others' business. If it is gone, that is told soon.
            if let Some(place) = device::locate(after, new.spec.ifname()).await? {
                let wanted = Wanted { ifname: place.ifname, ..wanted(new, after, None, self.overlay_mtu()) };
                place.links.configure(&wanted).await?;
            }
            return Ok(());
        }
        let links = Links::open(device::namespace(after.netns.as_ref())?)?;
        links.configure(&wanted(new, after, Some(before.clone()), self.overlay_mtu())).await?;
        Ok(())
    }

    /// Gives the workers a plan of what is wanted and has a device. When this returns, they work by it.
    pub(super) async fn rebuild(&mut self, state: &State) {
        self.collect_faults();
        self.captures.rename(state);
        let mut layout = state.layout();
        layout.ports.retain(|rules| self.ports.get(&rules.id).is_some_and(|port| self.is_up(port)));
        let topology = layout.build().expect("the state's rules let no contradiction through");
        let slots = self.ports.keys().last().map_or(0, |last| last.index() + 1);
        self.count_networks(state);
        let networks = self.networks.keys().last().map_or(0, |last| last.index() + 1);
        let mut plan = Plan {
            topology,
            ports: vec![None; slots],
            mirrors: layout.mirrors,
            captures: self.captures.sessions(),
            networks: vec![None; networks],
            busy_poll: Duration::from_micros(state.switch().busy_poll.into()),
            ..Plan::empty(Arc::clone(&self.fdb))
        };
        for (id, network) in &self.networks {
            plan.networks[id.index()] = Some(Arc::clone(&network.counters));
        }
        for (&id, port) in &self.ports {
            let Some(device) = port.device.as_ref().ok().and_then(OpenDevice::device) else { continue };
            // A port that stays keeps what the workers know of it.
            let known = self.workers.plan().port(id).filter(|known| Arc::ptr_eq(&known.device, &device));
            let new = || Arc::new(Port::new(id, Arc::clone(&device), Arc::clone(&port.counters)));
            plan.ports[id.index()] = Some(known.map_or_else(new, Arc::clone));
            plan.receivers.push(Receiver { key: port.key, device, port: id, worker: port.worker });
        }
        if let Some(tunnel) = self.tunnel() {
            self.lay(&tunnel, state, &mut plan);
        }
        self.workers.adopt(Arc::new(plan));
        for device in std::mem::take(&mut self.leaving) {
            device.remove().await;
        }
    }

    /// The tunnel's endpoint, if it is open, and its peers.
    fn tunnel(&self) -> Option<Tunnel<'_>> {
        let (own, spec, endpoint) = self.open_endpoint()?;
        let peers =
            self.ports.iter().filter_map(|(id, port)| match (&port.wanted.spec.device, &port.device) {
                (DeviceSpec::Peer(spec), Ok(OpenDevice::Peer { path, .. })) => Some((*id, spec, path)),
                _ => None,
            });
        Some(Tunnel { own, spec, endpoint, peers: peers.collect() })
    }

    /// The endpoint's port, what was asked of it and its sockets, if they are open.
    fn open_endpoint(&self) -> Option<(PortId, &VxlanSpec, &Arc<Endpoint>)> {
        self.ports.iter().find_map(|(id, port)| match (&port.wanted.spec.device, &port.device) {
            (DeviceSpec::Vxlan(spec), Ok(OpenDevice::Endpoint(endpoint))) => Some((*id, spec, endpoint)),
            _ => None,
        })
    }

    /// Octets of the longest packet that the tunnel carries, if there is one, open or not.
    fn overlay_mtu(&self) -> Option<u16> {
        self.ports.values().find_map(|port| match &port.wanted.spec.device {
            DeviceSpec::Vxlan(spec) => Some(spec.overlay_mtu()),
            _ => None,
        })
    }

    /// Puts the tunnel's ports and receivers into `plan`: each worker receives by an inlet of its own.
    fn lay(&self, tunnel: &Tunnel<'_>, state: &State, plan: &mut Plan) {
        let devices = tunnel.devices(state);
        let port = |id: PortId, device: Arc<dyn Device>| {
            Some(Arc::new(Port::new(id, device, Arc::clone(&self.ports[&id].counters))))
        };
        for ((id, ..), remote) in tunnel.peers.iter().zip(devices.remotes) {
            plan.ports[id.index()] = port(*id, remote);
        }
        plan.ports[tunnel.own.index()] = port(tunnel.own, Arc::clone(&devices.inlets[0]) as _);
        let first = self.ports[&tunnel.own].key;
        for ((key, worker), inlet) in (first..).zip((0..self.workers.count()).cycle()).zip(devices.inlets) {
            plan.receivers.push(Receiver { key, device: inlet, port: tunnel.own, worker });
        }
    }

    /// The endpoint's sockets, if they are open.
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.open_endpoint().map(|(.., endpoint)| endpoint)
    }

    fn is_up(&self, port: &EdgePort) -> bool {
        self.why_down(port).is_none()
    }

    /// Why `port` carries no frames, if it does not.
    pub(super) fn why_down(&self, port: &EdgePort) -> Option<String> {
        match &port.device {
            Err(why) => Some(why.clone()),
            Ok(OpenDevice::Peer { .. }) if self.endpoint().is_none() => {
                Some("the tunnel has no end here: see port vxlan, or write [vxlan] into the file".into())
            }
            Ok(_) => None,
        }
    }

    /// Where a peer is, and from where it is reached: what it takes to measure the way to it.
    pub(super) fn way_to(&self, id: PortId) -> Option<(IpAddr, IpAddr, u16)> {
        let tunnel = self.tunnel()?;
        let (_, peer, _) = tunnel.peers.iter().find(|(port, ..)| *port == id)?;
        Some((tunnel.spec.local, peer.remote, tunnel.spec.underlay_mtu()))
    }

    /// Takes over what was measured of the way to a peer.
    pub(super) fn measured(&mut self, id: PortId, mtu: u16) {
        if let Some(EdgePort { device: Ok(OpenDevice::Peer { path, measured }), .. }) =
            self.ports.get_mut(&id)
        {
            path.set_mtu(mtu);
            *measured = true;
        }
    }

    /// Asks the kernel again what the ways carry that were too narrow once: it forgets after ten minutes
    /// (net.ipv4.route.mtu_expires), and so must we.
    fn reconsider_paths(&self) {
        let Some(tunnel) = self.tunnel() else { return };
        for (id, peer, path) in &tunnel.peers {
            let narrow = path.mtu() < tunnel.spec.underlay_mtu();
            let measured = matches!(self.ports[id].device, Ok(OpenDevice::Peer { measured: true, .. }));
            if narrow
                && !measured
                && let Ok(mtu) = tunnel.endpoint.path_mtu(SocketAddr::new(peer.remote, tunnel.spec.port))
            {
                path.set_mtu(mtu);
            }
        }
    }

    /// Notes which ports were heard since the last call.
    pub(super) fn listen(&mut self) {
        for port in self.ports.values_mut() {
            let frames = PortTotals::sum(&port.counters).rx_frames;
            if frames > port.heard.map_or(0, |heard| heard.frames) {
                port.heard = Some(Heard { at: Instant::now(), frames });
            }
        }
    }

    /// Counters for every network there is, and no other.
    fn count_networks(&mut self, state: &State) {
        let mut before = std::mem::take(&mut self.networks);
        for network in state.networks() {
            let name = &network.spec.name;
            let known = before.remove(&network.id).filter(|known| known.name == *name);
            let new = || EdgeNetwork {
                name: name.clone(),
                counters: NetworkCounters::of_workers(self.workers.count()),
                taught_before: self.fdb.learning_of_network(network.id),
            };
            self.networks.insert(network.id, known.unwrap_or_else(new));
        }
    }

    /// What was counted of a network, and what was taught in it.
    pub(super) fn network_totals(&self, id: NetworkId) -> (NetworkTotals, Learning) {
        let known = self.networks.get(&id).map(|network| {
            let taught = self.fdb.learning_of_network(id).since(network.taught_before);
            (NetworkTotals::sum(&network.counters), taught)
        });
        known.unwrap_or_default()
    }

    /// Whether a closed port's interface still waits for the next plan to be removed.
    pub(super) fn is_letting_go(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Notes which ports have failed since the last call. True: a new plan is needed.
    pub(super) fn collect_faults(&mut self) -> bool {
        let plan = Arc::clone(self.workers.plan());
        let faults = plan.ports.iter().flatten().filter_map(|port| Some((port.id, port.fault()?)));
        let mut any = false;
        for (id, fault) in faults {
            let why = match fault.raw_os_error() {
                Some(EBADFD | ENODEV | ENXIO) => "its interface is gone".to_owned(),
                Some(ENETDOWN) => "its interface is down or gone".to_owned(),
                _ => format!("its interface fails: {fault}"),
            };
            any |= self.take_down(id, why);
        }
        any
    }

    /// Takes the ports out of forwarding whose containers have ended. True: a new plan is needed.
    pub(super) fn collect_abandoned(&mut self) -> bool {
        let abandoned = |port: &EdgePort| port.device.as_ref().is_ok_and(OpenDevice::is_abandoned);
        let gone: Vec<_> = self.ports.iter().filter(|(_, port)| abandoned(port)).map(|(id, _)| *id).collect();
        gone.into_iter().fold(false, |any, id| any | self.take_down(id, "its namespace is gone".to_owned()))
    }

    /// A port has lost its device. True: it had one. An interface that persists stays for the next try.
    fn take_down(&mut self, id: PortId, why: String) -> bool {
        let Some(port) = self.ports.get_mut(&id).filter(|port| port.device.is_ok()) else { return false };
        warn!(port = %port.wanted.spec.name, "down: {why}");
        let persists = port.wanted.spec.interface().is_some_and(|interface| interface.persist);
        let device = std::mem::replace(&mut port.device, Err(why));
        self.leaving.extend(device.ok().filter(|_| !persists));
        self.fdb.flush_port(id);
        true
    }

    /// Tries to open the ports that are down. True: at least one is back, and a new plan is needed.
    pub(super) async fn retry(&mut self) -> bool {
        let down: Vec<_> =
            self.ports.iter().filter(|(_, port)| port.device.is_err()).map(|(id, _)| *id).collect();
        let mut any = false;
        for id in down {
            let Some(wanted) = self.ports.get(&id).map(|port| port.wanted.clone()) else { continue };
            let device = device::open(&wanted, None, self.workers.count(), &self.owner).await;
            let key = self.key();
            let Some(port) = self.ports.get_mut(&id) else { continue };
            match device {
                Ok(device) => {
                    if let OpenDevice::Endpoint(endpoint) = &device {
                        endpoint.strangers.on_stranger(Arc::clone(&self.on_stranger));
                    }
                    info!(port = %wanted.spec.name, "up again");
                    (port.device, port.key) = (Ok(device), key);
                    self.unset.push(id);
                    self.unkept.push(id);
                    any = true;
                }
                Err(error) => port.device = Err(error.error),
            }
        }
        if any && let Err(error) = self.set_up(Missing::Retry).await {
            warn!("{}", error.error);
        }
        self.keep();
        any
    }

    /// Removes dead addresses from the next slice of the table.
    pub(super) fn sweep(&mut self) {
        self.fdb.sweep(self.swept, SWEEP_PARTS, self.workers.now());
        self.swept = (self.swept + 1) % SWEEP_PARTS;
        if self.swept == 0 {
            self.reconsider_paths();
        }
    }

    /// Stops forwarding. Interfaces that persist stay, the others go.
    pub(super) async fn stop(&mut self) {
        for port in std::mem::take(&mut self.ports).into_values() {
            let persists = port.wanted.spec.interface().is_some_and(|interface| interface.persist);
            self.leaving.extend(port.device.ok().filter(|_| !persists));
        }
        self.workers.adopt(Arc::new(Plan::empty(Arc::clone(&self.fdb))));
        for device in std::mem::take(&mut self.leaving) {
            device.remove().await;
        }
    }

    fn key(&mut self) -> u64 {
        self.next_key += RECEIVERS;
        self.next_key
    }

    fn idlest_worker(&self) -> usize {
        let receives = |port: &EdgePort| !matches!(port.wanted.spec.carries, Carries::Tunnel { .. });
        let load = |worker: &usize| {
            self.ports.values().filter(|port| port.worker == *worker && receives(port)).count()
        };
        (0..self.workers.count()).min_by_key(load).unwrap_or(0)
    }
}

/// What the interface of a port is to be, where the tunnel carries packets of `overlay` octets.
fn wanted(
    port: &state::Port,
    interface: &InterfaceSpec,
    before: Option<InterfaceSpec>,
    overlay: Option<u16>,
) -> Wanted {
    let crosses = overlay.is_some_and(|overlay| port.mtu <= overlay);
    Wanted {
        ifname: port.spec.ifname().to_owned(),
        spec: interface.clone(),
        before,
        mtu: Some(port.mtu),
        txqueuelen: None,
        super_frame: crosses.then(|| link::super_frame(port.mtu)),
    }
}

fn damping(spec: &SwitchSpec) -> Damping {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let given = spec.damping;
    Damping { moves: given.moves, window: seconds(given.window), hold: seconds(given.hold) }
}

/// One worker for two CPUs, at most four: the containers that send and receive need CPUs as well.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, 4))
}

// include/uapi/asm-generic/errno-base.h, errno.h
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const EBADFD: i32 = 77;
const ENETDOWN: i32 = 100;
