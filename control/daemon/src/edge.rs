//! The edge: performs what the state decided, on the real devices.
//!
//! A port is here as long as it is wanted, with its device or with the reason why it has none. What a port has no device
//! for is tried again every second. After changes [`Edge::rebuild`] gives the workers a new plan.

mod health;
mod interfaces;
mod plan;
mod ways;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, warn};
use vswitch::{
    addr::{NetworkId, PortId},
    counters::{NetworkCounters, PortCounters},
    device::tap::Tap,
    fdb::{Damping, Fdb, Learning, Settings},
    plan::Plan,
    worker::{OnFault, Workers},
};
use vswitch_vxlan::strangers::OnStranger;

use self::interfaces::wanted;
use super::{
    capture::Captures,
    device::{self, OpenDevice},
};
use crate::state;
use vswitch_host::link::{Links, Wanted};
use vswitch_host::queue::Queues;
use vswitch_model::{DeviceSpec, Error, Name, SwitchSpec};

/// Receivers a port has at most: a tunnel's endpoint one for each of 64 workers, and one for its group.
const RECEIVERS: u64 = 65;

/// Slices in which the table is swept, one a heartbeat.
const SWEEP_PARTS: usize = 64;

/// The real devices and the workers that serve them.
pub(crate) struct Edge {
    pub(crate) fdb: Arc<Fdb>,
    pub(crate) workers: Workers,
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
    pub(crate) captures: Captures,
    /// Devices that the workers may still use, to be removed after the next plan.
    leaving: Vec<OpenDevice>,
    stale: Stale,
    next_key: u64,
    swept: usize,
}

/// What the table still knows by the plan before. It is forgotten once the workers have adopted the next: until then their
/// frames teach it anew.
#[derive(Debug, Default)]
struct Stale {
    /// Ports that were closed: nothing stays, neither what was learned nor what was pinned.
    closed: BTreeSet<PortId>,
    /// Networks that were removed: nothing stays either.
    removed: BTreeSet<NetworkId>,
    /// Ports that lost their device or carry other networks: what was learned goes.
    changed: BTreeSet<PortId>,
}

impl Stale {
    fn forget_in(&mut self, fdb: &Fdb) {
        let Self { closed, removed, changed } = std::mem::take(self);
        if !(closed.is_empty() && removed.is_empty()) {
            fdb.purge(|network, port| closed.contains(&port) || removed.contains(&network));
        }
        changed.into_iter().for_each(|port| fdb.flush_port(port));
    }
}

/// A port that is wanted.
#[derive(Debug)]
pub(crate) struct EdgePort {
    pub(crate) wanted: state::Port,
    pub(crate) counters: Arc<[PortCounters]>,
    /// What ports that had its number before have taught the table.
    pub(crate) taught_before: Learning,
    pub(crate) worker: usize,
    /// Tells this opening of the device from all others; its receivers have this key and those after it.
    key: u64,
    /// The device, or why there is none.
    pub(crate) device: Result<OpenDevice, String>,
    /// When frames were received last, as far as the heartbeat noticed, and how many had been by then.
    pub(crate) heard: Option<Heard>,
}

/// When a port was heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// Last.
    pub(crate) at: Instant,
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
pub(crate) enum Missing {
    /// The command fails: somebody waits for the answer and can do something about it.
    Refuse,
    /// The port is down and tried again: it was declared, and what it needs may come later.
    Retry,
}

impl Edge {
    /// Starts the workers with nothing attached.
    pub(crate) fn start(spec: &SwitchSpec, on_fault: OnFault, on_stranger: OnStranger) -> io::Result<Self> {
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
            stale: Stale::default(),
            next_key: 0,
            swept: 0,
        })
    }

    /// The port with this number, if it is wanted.
    pub(crate) fn port(&self, id: PortId) -> Option<&EdgePort> {
        self.ports.get(&id)
    }

    /// Where the queues of all TAPs are to be seen.
    pub(crate) fn queues(&self) -> Queues {
        let mut queues = Queues::default();
        for port in self.ports.values() {
            if let Ok(OpenDevice::Tap { tap, queue, .. }) = &port.device
                && let Err(error) = queues.add(tap, queue)
            {
                debug!(port = %port.wanted.spec.name, "cannot tell what its queue lost: {error}");
            }
        }
        queues
    }

    /// Follows a change of ageing and damping.
    pub(crate) fn set_switch(&self, spec: &SwitchSpec) {
        self.fdb.configure(Duration::from_secs(spec.ageing.into()), damping(spec));
    }

    /// Opens the port's device; not while another [is let go](Edge::is_letting_go), whose name or number it may have. Its
    /// interface is set up by [`Edge::set_up`].
    pub(crate) async fn open(
        &mut self,
        wanted: &state::Port,
        handed: Option<Tap>,
        missing: Missing,
    ) -> Result<(), Error> {
        let was_handed = handed.is_some();
        let device = device::open(wanted, handed, self.workers.count(), &self.owner).await;
        if missing == Missing::Refuse {
            device.as_ref().map_err(Clone::clone)?;
        }
        if let Ok(OpenDevice::Endpoint(endpoint)) = &device {
            endpoint.strangers.on_stranger(Arc::clone(&self.on_stranger));
        }
        if let Err(error) = &device {
            warn!(port = %wanted.spec.name, "down: {}", error.sentence);
        } else if wanted.spec.interface().is_some() && !was_handed {
            self.unset.push(wanted.id);
        }
        let port = EdgePort {
            wanted: wanted.clone(),
            counters: PortCounters::of_workers(self.workers.count()),
            taught_before: self.fdb.learning_of_port(wanted.id),
            worker: self.idlest_worker(),
            key: self.key(),
            device: device.map_err(|error| error.sentence),
            heard: None,
        };
        self.unkept.push(wanted.id);
        self.ports.insert(wanted.id, port);
        Ok(())
    }

    /// Takes the port away, with its interface and all that is known of who is behind it, which the next
    /// [`rebuild`](Edge::rebuild) forgets.
    pub(crate) fn close(&mut self, id: PortId) {
        let Some(port) = self.ports.remove(&id) else { return };
        if let Ok(open) = &port.device {
            // From now on it goes with us, so that it is not left behind whatever happens. If it is gone, it is gone.
            let _ = open.keep(false);
        }
        self.leaving.extend(port.device);
        self.stale.closed.insert(id);
    }

    /// Follows a change that needs no new device.
    pub(crate) async fn update(&mut self, old: &state::Port, new: &state::Port) -> Result<(), Error> {
        let Some(port) = self.ports.get_mut(&new.id) else { return Ok(()) };
        port.wanted = new.clone();
        if port.device.is_err() {
            return Ok(());
        }
        if old.spec.carries != new.spec.carries {
            self.stale.changed.insert(new.id);
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

    /// Removes dead addresses from the next slice of the table.
    pub(crate) fn sweep(&mut self) {
        self.fdb.sweep(self.swept, SWEEP_PARTS, self.workers.now());
        self.swept = (self.swept + 1) % SWEEP_PARTS;
        if self.swept == 0 {
            self.reconsider_paths();
        }
    }

    /// Stops forwarding. Interfaces that persist stay, the others go.
    pub(crate) async fn stop(&mut self) {
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
        let receives = |port: &EdgePort| !port.wanted.spec.device.is_tunnel();
        let load = |worker: &usize| {
            self.ports.values().filter(|port| port.worker == *worker && receives(port)).count()
        };
        (0..self.workers.count()).min_by_key(load).unwrap_or(0)
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
