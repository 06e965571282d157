//! One capture: what it is to see, and the rings to its reader.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Direction, Fate, Filter, Octets, Reader, Record, ring};
use crate::{
    addr::{NetworkId, PortId},
    counters::Counter,
};

/// What a session is to see: frames that fit everything given here.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of one of these ports; of any if it is empty.
    pub ports: BTreeSet<PortId>,
    /// In one of these networks; in any, or none, if it is empty.
    pub networks: BTreeSet<NetworkId>,
    /// Seen on this side of the decision, or on both.
    pub direction: Option<Direction>,
    /// Only those that were not delivered.
    pub drops: bool,
    /// What is given here is asked of a frame where it comes in; it is then seen wherever it leaves.
    pub follow: bool,
    /// Picked by this program; it reads a frame with the tag it has where it is seen.
    pub filter: Option<Filter>,
    /// Octets kept of each frame at most.
    pub snaplen: usize,
}

impl Wanted {
    pub(super) fn fits(&self, record: &Record, octets: Octets<'_>) -> bool {
        let listed = self.ports.is_empty() || self.ports.contains(&record.port);
        let network =
            |wanted| record.network.is_some_and(|network| self.networks.contains(&network)) == wanted;
        listed
            && (self.networks.is_empty() || network(true))
            && self.direction.is_none_or(|direction| direction == record.direction)
            && (!self.drops || matches!(record.fate, Fate::Dropped(_)))
            && self.filter.as_ref().is_none_or(|filter| filter.matches(octets))
    }
}

/// What tells the time of records: nanoseconds since whatever the reader takes for the beginning.
pub type Clock = fn() -> u64;

/// A capture that goes on.
pub struct Session {
    pub(super) wanted: Wanted,
    pub(super) clock: Clock,
    /// By worker; each takes its own when it adopts a plan with this session.
    writers: Box<[Mutex<Option<ring::Writer>>]>,
    /// By worker.
    pub(super) lost: Box<[Counter]>,
    ended: AtomicBool,
}

impl Session {
    /// A session for `workers` workers with a ring of `octets` octets each, and the ends of the rings to read from.
    pub fn new(wanted: Wanted, workers: usize, octets: usize, clock: Clock) -> (Self, Vec<Reader>) {
        let (writers, readers): (Vec<_>, _) = (0..workers).map(|_| ring::ring(octets)).unzip();
        let writers = writers.into_iter().map(|writer| Mutex::new(Some(writer))).collect();
        let lost = (0..workers).map(|_| Counter::default()).collect();
        (Self { wanted, clock, writers, lost, ended: AtomicBool::new(false) }, readers)
    }

    /// Frames that were wanted and found no room.
    pub fn lost(&self) -> u64 {
        self.lost.iter().map(Counter::read).sum()
    }

    /// Says that no worker writes any more: what is in the rings is all there will be. To be called when every worker has
    /// adopted a plan without the session.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether that was said.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The ring of `worker`, once.
    pub(super) fn writer(&self, worker: usize) -> Option<ring::Writer> {
        // Whoever panicked with it left it as it was.
        self.writers.get(worker)?.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}
