//! A capture session: its filter, and the rings to its reader.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Direction, Fate, Filter, FrameBytes, Reader, Record, ring};
use crate::{
    addr::{NetworkId, PortId},
    counters::Counter,
};

/// The filter of a session: frames must meet all criteria.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// On one of these ports; on any if empty.
    pub ports: BTreeSet<PortId>,
    /// In one of these networks; in any or no network if empty.
    pub networks: BTreeSet<NetworkId>,
    /// In this direction, or in both.
    pub direction: Option<Direction>,
    /// Only frames that were not delivered.
    pub drops: bool,
    /// Apply the criteria at ingress only, and record matching frames wherever they leave.
    pub follow: bool,
    /// Matched by this program, which sees the frame with its tag at the point of capture.
    pub filter: Option<Filter>,
    /// Maximum number of bytes captured of each frame.
    pub snaplen: usize,
}

impl Wanted {
    /// Whether frames of `port`, of `network`, may be recorded that are forwarded to one other port.
    fn concerns(&self, port: PortId, network: NetworkId) -> bool {
        let by_port = self.ports.is_empty() || self.ports.contains(&port);
        let by_network = self.networks.is_empty() || self.networks.contains(&network);
        !self.drops && by_port && by_network
    }

    pub(super) fn fits(&self, record: &Record, bytes: FrameBytes<'_>) -> bool {
        let listed = self.ports.is_empty() || self.ports.contains(&record.port);
        let network =
            |wanted| record.network.is_some_and(|network| self.networks.contains(&network)) == wanted;
        listed
            && (self.networks.is_empty() || network(true))
            && self.direction.is_none_or(|direction| direction == record.direction)
            && (!self.drops || matches!(record.fate, Fate::Dropped(_)))
            && self.filter.as_ref().is_none_or(|filter| filter.matches(bytes))
    }
}

/// The clock of records: nanoseconds since an origin that the reader chooses.
pub type Clock = fn() -> u64;

/// A running capture.
pub struct Session {
    pub(super) wanted: Wanted,
    pub(super) clock: Clock,
    /// By worker; each takes its ring when it adopts a plan with this session.
    writers: Box<[Mutex<Option<ring::Writer>>]>,
    /// By worker.
    pub(super) lost: Box<[Counter]>,
    ended: AtomicBool,
}

impl Session {
    /// A session for `workers` workers with a ring of `bytes` bytes each, and the reading ends of the rings.
    pub fn new(wanted: Wanted, workers: usize, bytes: usize, clock: Clock) -> (Self, Vec<Reader>) {
        let (writers, readers): (Vec<_>, _) = (0..workers).map(|_| ring::ring(bytes)).unzip();
        let writers = writers.into_iter().map(|writer| Mutex::new(Some(writer))).collect();
        let lost = (0..workers).map(|_| Counter::default()).collect();
        (Self { wanted, clock, writers, lost, ended: AtomicBool::new(false) }, readers)
    }

    /// Number of matching frames that were lost because a ring was full.
    pub fn lost(&self) -> u64 {
        self.lost.iter().map(Counter::read).sum()
    }

    /// Whether it may record frames of `port`, of `network`, that are forwarded to one other port.
    pub fn concerns(&self, port: PortId, network: NetworkId) -> bool {
        self.wanted.concerns(port, network)
    }

    /// Marks the session as ended: nothing more is written to the rings. Call it after every worker has
    /// adopted a plan without the session.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether the session has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The ring of `worker`, once.
    pub(super) fn writer(&self, worker: usize) -> Option<ring::Writer> {
        // A panicking thread cannot have left it half taken.
        self.writers.get(worker)?.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}
