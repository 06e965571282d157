//! The edge: performs what the state decided, on the real devices.
//!
//! A port is here as long as it is wanted, with its device or the reason why it has none; that is retried every second. Every
//! change is a [transaction], which ends with a new plan for the workers.

mod announce;
mod balance;
mod fast;
mod health;
mod interfaces;
mod plan;
mod remote;
mod transaction;
mod ways;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tracing::warn;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId},
    counters::{NetworkCounters, PortCounters},
    fdb::{Fdb, Learning, Origin, Settings},
    plan::Plan,
    worker::{OnFault, Workers},
};
use vswitch_vxlan::strangers::OnStranger;

use self::remote::Remote;
pub(crate) use self::{
    fast::Share,
    remote::Consequence,
    transaction::{Attempt, OnFailure, Opening},
};
use super::{
    capture::Captures,
    device::{OpenDevice, remove_all},
    view::{Heard, Live, LiveDevice, LiveNetwork, LivePort},
};
use crate::{
    core::Leave,
    machine::Machine,
    progress::Progress,
    state::{self, State},
};
use vswitch_host::{
    link::{LiveWatch, Watch},
    random,
};
use vswitch_model::{Name, SwitchSpec};

/// Maximum number of receivers of a port: a tunnel's endpoint has one for each of 64 workers, and one for its group.
const RECEIVERS: u64 = 65;

/// Number of slices in which the table is swept, one per heartbeat.
const SWEEP_PARTS: usize = 64;

/// The real devices and the workers that serve them.
pub(crate) struct Edge {
    machine: Machine,
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) workers: Workers,
    fast: fast::Fast,
    ports: BTreeMap<PortId, EdgePort>,
    networks: BTreeMap<NetworkId, EdgeNetwork>,
    /// Alias of interfaces that the kernel keeps after our end, to recognize them.
    owner: String,
    /// Hears which of the host's interfaces change.
    watch: Watch,
    /// The same, at once, for the fast path.
    links: LiveWatch,
    /// Called when an unknown sender is seen at the tunnel.
    on_stranger: OnStranger,
    pub(crate) captures: Captures,
    stale: Stale,
    /// The addresses that are pinned to ports because it is known whose they are.
    stations: BTreeMap<(NetworkId, MacAddr), PortId>,
    /// The stations of other hosts, as directories tell.
    remote: Remote,
    balancing: balance::Balancing,
    progress: Arc<Progress>,
    next_key: u64,
    swept: usize,
}

/// Entries of the table that the next plan makes obsolete. They are removed when the workers have adopted it: before that,
/// frames in flight would be learned again.
#[derive(Debug, Default)]
struct Stale {
    /// Closed ports: learned and pinned entries are removed.
    closed: BTreeSet<PortId>,
    /// Removed networks: learned and pinned entries are removed.
    removed: BTreeSet<NetworkId>,
    /// Ports that lost their device or changed networks: learned entries are removed.
    changed: BTreeSet<PortId>,
}

impl Stale {
    /// Returns whether pinned entries may be among them.
    fn forget_in(&mut self, fdb: &Fdb) -> bool {
        let Self { closed, removed, changed } = std::mem::take(self);
        let purges = !(closed.is_empty() && removed.is_empty());
        if purges {
            fdb.purge(|network, port| closed.contains(&port) || removed.contains(&network));
        }
        changed.into_iter().for_each(|port| fdb.flush_port(port));
        purges
    }
}

/// A wanted port.
#[derive(Debug)]
pub(crate) struct EdgePort {
    pub(crate) wanted: state::Port,
    pub(crate) counters: Arc<[PortCounters]>,
    /// Learning on earlier ports of the same number.
    pub(crate) taught_before: Learning,
    pub(crate) worker: usize,
    /// Distinguishes this opening of the device from all others; its receivers have this key and the following ones.
    key: u64,
    /// The device, or why it has none.
    pub(crate) device: Result<OpenDevice, String>,
    heard: Arc<Heard>,
}

/// The counters of a network. They start at zero even if its number was used before.
#[derive(Debug)]
struct EdgeNetwork {
    name: Name,
    counters: Arc<[NetworkCounters]>,
    /// Learning in earlier networks of the same number.
    taught_before: Learning,
}

impl Edge {
    /// Starts the workers with nothing attached.
    pub(crate) fn start(
        spec: &SwitchSpec,
        machine: Machine,
        on_fault: OnFault,
        on_stranger: OnStranger,
    ) -> io::Result<Self> {
        let fdb = Arc::new(Fdb::new(Settings {
            limit: spec.mac_limit,
            ageing: Duration::from_secs(spec.ageing.into()),
            damping: spec.damping,
            seed: u64::from_ne_bytes(random::bytes()?),
        }));
        let count = spec.workers.map_or_else(default_workers, usize::from);
        let workers = Workers::start(count, Arc::new(Plan::empty(Arc::clone(&fdb))), on_fault)?;
        let fast = fast::start(spec, machine.is_real(), &fdb, workers.readings());
        let links = if fast.is_ok() { LiveWatch::begin() } else { LiveWatch::none() };
        Ok(Self {
            machine,
            fdb,
            workers,
            fast,
            ports: BTreeMap::new(),
            networks: BTreeMap::new(),
            owner: format!("vswitch {}", spec.state.display()),
            watch: Watch::begin(),
            links,
            on_stranger,
            captures: Captures::default(),
            stale: Stale::default(),
            stations: BTreeMap::new(),
            remote: Remote::default(),
            balancing: balance::Balancing::default(),
            progress: Arc::default(),
            next_key: 0,
            swept: 0,
        })
    }

    /// Keeps the flows of services' clients beside the API's socket, as long as the host is up.
    pub(crate) fn keep_flows(&mut self, api: &Path) {
        if self.is_real() {
            self.balancing.keep_in(balance::folder(api));
        }
    }

    /// How far a long change is.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Whether its devices are the kernel's.
    pub(crate) fn is_real(&self) -> bool {
        self.machine.is_real()
    }

    /// The port with this number, if it is wanted.
    pub(crate) fn port(&self, id: PortId) -> Option<&EdgePort> {
        self.ports.get(&id)
    }

    /// The live counters and handles for readers.
    pub(crate) fn live(&self) -> Live {
        let tunnel_is_open = self.endpoint().is_some();
        let port = |port: &EdgePort| LivePort {
            counters: Arc::clone(&port.counters),
            taught_before: port.taught_before,
            worker: port.worker,
            why_down: port.why_down(|| tunnel_is_open),
            warnings: port.device.as_ref().map(|open| open.warnings().to_vec()).unwrap_or_default(),
            device: port.device.as_ref().map_or(LiveDevice::None, OpenDevice::live),
            fast: port.device.as_ref().ok().and_then(OpenDevice::fast).map(|fast| match fast {
                Ok(fast) => Ok(Arc::downgrade(fast)),
                Err(why) => Err(why.to_owned()),
            }),
            heard: Arc::clone(&port.heard),
        };
        let network = |network: &EdgeNetwork| LiveNetwork {
            counters: Arc::clone(&network.counters),
            taught_before: network.taught_before,
        };
        Live {
            fdb: Arc::clone(&self.fdb),
            neighbours: Arc::clone(&self.remote.neighbours),
            balance: Arc::clone(&self.balancing.current),
            workers: self.workers.readings(),
            plan: Arc::downgrade(self.workers.plan()),
            ports: self.ports.iter().map(|(id, it)| (*id, port(it))).collect(),
            networks: self.networks.iter().map(|(id, it)| (*id, network(it))).collect(),
            why_not_fast: self.why_not_fast(),
            captures: self.captures.running().to_vec(),
        }
    }

    /// Applies a change of ageing and damping.
    pub(crate) fn set_switch(&self, spec: &SwitchSpec) {
        let ageing = Duration::from_secs(spec.ageing.into());
        self.fdb.configure(ageing, spec.damping);
        if let Ok(fast) = &self.fast {
            fast.set_ageing(ageing);
        }
    }

    /// The port that an address is pinned to because its station is known.
    pub(crate) fn home(&self, network: NetworkId, mac: MacAddr) -> Option<PortId> {
        self.stations.get(&(network, mac)).copied()
    }

    /// Pins the addresses of known stations to their ports, and no others. Those pinned by the operator take precedence.
    pub(crate) fn pin_stations(&mut self, state: &State) {
        let wanted: BTreeMap<_, _> = state.layout().stations().collect();
        let now = self.workers.now();
        for (network, mac) in self.stations.keys().filter(|station| !wanted.contains_key(station)) {
            self.fdb.unpin(*network, *mac, Origin::Control);
        }
        for (&(network, mac), &port) in &wanted {
            let is_new = !self.stations.contains_key(&(network, mac));
            if !self.fdb.pin(network, mac, port, Origin::Control, now) && is_new {
                warn!(%mac, "not pinned to its port: it is pinned by command, or the table is full of pinned addresses");
            }
        }
        self.stations = wanted;
    }

    /// Reports unknown senders of `device`, if it is the tunnel's endpoint.
    fn follow_strangers(&self, device: &OpenDevice) {
        if let OpenDevice::Endpoint(endpoint) = device {
            endpoint.strangers.on_stranger(Arc::clone(&self.on_stranger));
        }
    }

    /// Removes expired addresses from the next slice of the table.
    pub(crate) fn sweep(&mut self) {
        self.fdb.sweep(self.swept, SWEEP_PARTS, self.workers.now());
        self.swept = (self.swept + 1) % SWEEP_PARTS;
        if self.swept == 0 {
            self.reconsider_paths();
        }
    }

    /// Stops forwarding. Interfaces that persist stay, if they are to be left; the others go.
    pub(crate) async fn stop(&mut self, leave: Leave) {
        let mut leaving = Vec::new();
        if leave == Leave::Nothing {
            self.balancing.clear();
        }
        for port in std::mem::take(&mut self.ports).into_values() {
            let persists = leave == Leave::Persistent
                && port.wanted.spec.interface().is_some_and(|interface| interface.persist);
            leaving.extend(port.device.ok().filter(|_| !persists));
        }
        self.workers.adopt(Arc::new(Plan::empty(Arc::clone(&self.fdb))));
        remove_all(leaving).await;
    }

    fn key(&mut self) -> u64 {
        self.next_key += RECEIVERS;
        self.next_key
    }

    fn idlest_worker(&self) -> usize {
        let receives = |port: &EdgePort| !port.wanted.spec.device.is_tunnel();
        let load = |worker: &usize| {
            self.ports.values().filter(|port| port.worker == *worker && receives(port)).count()
        };
        (0..self.workers.count()).min_by_key(load).unwrap_or(0)
    }
}

/// The default number of workers: one per two CPUs, at most four, because containers need CPUs as well.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, 4))
}
