//! What the workers work with: topology, table, ports and who receives on what.
//!
//! A plan never changes. When anything is configured, a new one is made (sharing what stays) and every worker
//! adopts it between two turns.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    addr::{NetworkId, PortId, Timestamp},
    capture::Session,
    counters::{NetworkCounters, PortCounters, PortTotals},
    device::Device,
    fdb::Fdb,
    limit::Meters,
    mirror::Mirror,
    topology::Topology,
};

/// A place where frames come and go, as the workers see it.
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Where its frames go out.
    pub device: Arc<dyn Device>,
    counters: Arc<[PortCounters]>,
    meters: Arc<Meters>,
    /// The `errno` that stopped receiving on it; zero while it works.
    fault: AtomicI32,
}

impl Port {
    /// A port that counts in `counters`, one for each worker: fresh ones, or those of the device before.
    pub fn new(id: PortId, device: Arc<dyn Device>, counters: Arc<[PortCounters]>) -> Self {
        Self { id, device, counters, meters: Arc::default(), fault: AtomicI32::new(0) }
    }

    /// Keeps the limits together with `before`: what has passed there counts here. Else their buckets are full at first.
    #[must_use]
    pub fn metered_with(self, before: &Self) -> Self {
        Self { meters: Arc::clone(&before.meters), ..self }
    }

    /// What has passed under the port's limits.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The counters that `worker`, and only it, adds to.
    pub fn counters(&self, worker: usize) -> &PortCounters {
        &self.counters[worker]
    }

    /// What all workers counted.
    pub fn totals(&self) -> PortTotals {
        PortTotals::sum(&self.counters)
    }

    /// Notes that the port cannot receive any more.
    pub fn fail(&self, error: &std::io::Error) {
        self.fault.store(error.raw_os_error().unwrap_or(-1), Relaxed);
    }

    /// Why the port stopped receiving, if it did.
    pub fn fault(&self) -> Option<std::io::Error> {
        match self.fault.load(Relaxed) {
            0 => None,
            errno => Some(std::io::Error::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("id", &self.id).field("device", &self.device).finish_non_exhaustive()
    }
}

/// A source of frames and the one worker that reads it, so that its frames keep their order.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Tells it from all others, for as long as the process lives.
    pub key: u64,
    /// Where frames come from. Another plan may have another device here, which must wait on the same descriptor.
    pub device: Arc<dyn Device>,
    /// The port they came in by, unless the device tells for each frame.
    pub port: PortId,
    /// The number of the worker that reads it.
    pub worker: usize,
}

/// What the workers work with. See the [module](self).
#[derive(Debug)]
pub struct Plan {
    /// Who may talk to whom.
    pub topology: Topology,
    /// Who is where.
    pub fdb: Arc<Fdb>,
    /// By port number.
    pub ports: Vec<Option<Arc<Port>>>,
    /// By network number, for each worker one. The frames of a network that has none are not counted.
    pub networks: Vec<Option<Arc<[NetworkCounters]>>>,
    /// In no order.
    pub receivers: Vec<Receiver>,
    /// Which ports get copies of others' frames.
    pub mirrors: Vec<Mirror>,
    /// Who sees frames besides those whom they are for.
    pub captures: Vec<Arc<Session>>,
    /// How long a worker may look for frames before it sleeps; see `worker/poll.rs`.
    pub busy_poll: Duration,
}

/// One worker's turn by a plan. It leads to the counters that this worker, and no other, adds to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass<'p> {
    /// The time of the turn.
    pub(crate) now: Timestamp,
    /// The plan.
    pub(crate) plan: &'p Plan,
    /// The worker's number.
    pub(crate) worker: usize,
}

impl Pass<'_> {
    /// The worker's counters of `port`.
    #[inline]
    pub(crate) fn counters(self, port: &Port) -> &PortCounters {
        port.counters(self.worker)
    }

    /// Counts something in the worker's counters of `network`, if its frames are counted.
    #[inline]
    pub(crate) fn count_network(self, network: NetworkId, count: impl FnOnce(&NetworkCounters)) {
        let counters = self.plan.networks.get(network.index()).and_then(Option::as_ref);
        if let Some(counters) = counters.and_then(|counters| counters.get(self.worker)) {
            count(counters);
        }
    }
}

impl Plan {
    /// A switch with nothing attached.
    pub fn empty(fdb: Arc<Fdb>) -> Self {
        Self {
            topology: Topology::default(),
            fdb,
            ports: Vec::new(),
            networks: Vec::new(),
            receivers: Vec::new(),
            mirrors: Vec::new(),
            captures: Vec::new(),
            busy_poll: Duration::ZERO,
        }
    }

    /// The port with this number, if there is one.
    pub fn port(&self, port: PortId) -> Option<&Arc<Port>> {
        self.ports.get(port.index())?.as_ref()
    }
}
