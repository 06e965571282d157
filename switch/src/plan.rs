//! The plan of the workers: topology, table, ports and receivers.
//!
//! A plan is immutable. On each configuration change a new one is built, sharing the unchanged parts, and
//! every worker adopts it between two turns.

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
    neighbours::Neighbours,
    topology::Topology,
};

/// A port as the workers see it.
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// The device that sends its frames.
    pub device: Arc<dyn Device>,
    counters: Arc<[PortCounters]>,
    meters: Arc<Meters>,
    /// The `errno` that ended receiving; zero while the port works.
    fault: AtomicI32,
}

impl Port {
    /// A port with these `counters`, one for each worker: new ones, or those of the previous device.
    pub fn new(id: PortId, device: Arc<dyn Device>, counters: Arc<[PortCounters]>) -> Self {
        Self { id, device, counters, meters: Arc::default(), fault: AtomicI32::new(0) }
    }

    /// Shares the token buckets of `before`. Without it, the buckets are full initially.
    #[must_use]
    pub fn metered_with(self, before: &Self) -> Self {
        Self { meters: Arc::clone(&before.meters), ..self }
    }

    /// The token buckets of the port's limits.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The counters of `worker`, its only writer.
    pub fn counters(&self, worker: usize) -> &PortCounters {
        &self.counters[worker]
    }

    /// Whether `other` is the same port, maybe with another device: not a later one with its number.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counters, &other.counters)
    }

    /// The sum over all workers.
    pub fn totals(&self) -> PortTotals {
        PortTotals::sum(&self.counters)
    }

    /// Records that receiving on the port has failed.
    pub fn fail(&self, error: &std::io::Error) {
        self.fault.store(error.raw_os_error().unwrap_or(-1), Relaxed);
    }

    /// The error that ended receiving on the port, if any.
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

/// A source of frames and the single worker that reads it, which keeps its frames in order.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Unique during the life of the process.
    pub key: u64,
    /// The device that receives. Another plan may have another device here, but with the same descriptor.
    pub device: Arc<dyn Device>,
    /// The ingress port of its frames, unless the device sets one for each frame.
    pub port: PortId,
    /// The number of the worker that reads it.
    pub worker: usize,
}

/// The plan of the workers. See the [module](self).
#[derive(Debug)]
pub struct Plan {
    /// Networks, ports and the paths between them.
    pub topology: Topology,
    /// The forwarding database.
    pub fdb: Arc<Fdb>,
    /// Whom the switch answers for, in networks that [say so](crate::topology::Network::answers).
    pub neighbours: Arc<Neighbours>,
    /// By port number.
    pub ports: Vec<Option<Arc<Port>>>,
    /// By network number, one set of counters for each worker. Frames of a network without counters are not
    /// counted.
    pub networks: Vec<Option<Arc<[NetworkCounters]>>>,
    /// The receivers, in no particular order.
    pub receivers: Vec<Receiver>,
    /// Mirrors, which copy frames of other ports.
    pub mirrors: Vec<Mirror>,
    /// Running captures.
    pub captures: Vec<Arc<Session>>,
    /// How long a worker may poll for frames before it sleeps; see `worker/poll.rs`.
    pub busy_poll: Duration,
}

/// One worker's turn by a plan. Gives access to the counters that only this worker writes.
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
    pub(crate) fn counters<'c>(&self, port: &'c Port) -> &'c PortCounters {
        port.counters(self.worker)
    }

    /// Updates the worker's counters of `network`, if it has any.
    #[inline]
    pub(crate) fn count_network(&self, network: NetworkId, count: impl FnOnce(&NetworkCounters)) {
        let counters = self.plan.networks.get(network.index()).and_then(Option::as_ref);
        if let Some(counters) = counters.and_then(|counters| counters.get(self.worker)) {
            count(counters);
        }
    }
}

impl Plan {
    /// A switch without ports.
    pub fn empty(fdb: Arc<Fdb>) -> Self {
        Self {
            topology: Topology::default(),
            fdb,
            neighbours: Arc::default(),
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
