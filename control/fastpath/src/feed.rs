//! What changed in the MAC table, on its way to the projection.
//!
//! It carries no changes but addresses: whose entry is to be read again. It is bounded, and nothing is lost when it is full:
//! then all entries are read again.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use vswitch::{
    addr::{MacAddr, NetworkId, PortId},
    fdb::{Fdb, Follower},
};

use crate::lanes::Lanes;

/// Number of addresses that are kept.
const ROOM: usize = 4096;

/// How long a change of the table is waited for until the kernel has it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The queue between the table and its projection.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    changed: Condvar,
    done: Condvar,
    lanes: Arc<Lanes>,
}

#[derive(Debug)]
struct State {
    work: Work,
    /// Number of times that work was added, and up to which of these it is done.
    added: u64,
    done: u64,
    is_over: bool,
}

/// What the projection has to do.
#[derive(Debug)]
pub(crate) struct Work {
    /// Read these entries again.
    pub(crate) stations: Vec<(NetworkId, MacAddr)>,
    /// Read all again.
    pub(crate) all: bool,
    /// Read this table from now on.
    pub(crate) table: Option<Arc<Fdb>>,
    /// Take over what an earlier run has left.
    pub(crate) restore: bool,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self { stations: Vec::with_capacity(ROOM), all: false, table: None, restore: false }
    }

    fn is_empty(&self) -> bool {
        self.stations.is_empty() && !self.all
    }

    pub(crate) fn clear(&mut self) {
        self.stations.clear();
        self.all = false;
        self.table = None;
        self.restore = false;
    }
}

impl Feed {
    pub(crate) fn new(lanes: Arc<Lanes>) -> Self {
        let state = State { work: Work::new(), added: 0, done: 0, is_over: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), done: Condvar::new(), lanes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves work to do, which is done again.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn add(&self, add: impl FnOnce(&mut Work)) {
        let mut state = self.lock();
        let was_empty = state.work.is_empty();
        add(&mut state.work);
        state.added += 1;
        drop(state);
        if was_empty {
            self.changed.notify_one();
        }
    }

    /// Follows `fdb` from now on.
    pub(crate) fn follow(self: &Arc<Self>, fdb: &Arc<Fdb>) {
        // A table has one follower, and has it already where that is this one.
        fdb.follow(Arc::clone(self) as _);
        self.add(|work| {
            work.table = Some(Arc::clone(fdb));
            work.all = true;
        });
    }

    /// Lets all entries be read again.
    pub(crate) fn add_all(&self) {
        self.add(|work| work.all = true);
    }

    /// Lets what an earlier run has left be taken over, as far as its ports are there again.
    pub(crate) fn restore(&self) {
        self.add(|work| {
            work.restore = true;
            work.all = true;
        });
    }

    /// Waits until the kernel has all that changed before this call. False: it takes too long.
    pub(crate) fn settle(&self) -> bool {
        let state = self.lock();
        let goal = state.added;
        let pending = |state: &mut State| state.done < goal && !state.is_over;
        let (_state, timeout) = self
            .done
            .wait_timeout_while(state, PATIENCE, pending)
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        !timeout.timed_out()
    }

    /// Ends the projection.
    pub(crate) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_one();
        self.done.notify_all();
    }

    /// Exchanges `work`, which is done up to `done`, for what there is to do by now; waits for it until `deadline`. `None`: it is
    /// over.
    pub(crate) fn next(&self, work: &mut Work, done: u64, deadline: Instant) -> Option<u64> {
        work.clear();
        let mut state = self.lock();
        state.done = done;
        self.done.notify_all();
        let wait = deadline.saturating_duration_since(Instant::now());
        let idle = |state: &mut State| state.work.is_empty() && !state.is_over;
        state = match self.changed.wait_timeout_while(state, wait, idle) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        };
        std::mem::swap(&mut state.work, work);
        (!state.is_over).then_some(state.added)
    }
}

impl Follower for Feed {
    fn changed(&self, network: NetworkId, mac: MacAddr) {
        self.add(|work| {
            if work.stations.len() < ROOM {
                work.stations.push((network, mac));
            } else {
                work.all = true;
            }
        });
    }

    fn flushed_port(&self, port: PortId) {
        // At once, by its epoch; what is pinned comes back with the projection.
        self.lanes.renew(|lane| lane.port == port);
        self.add_all();
    }

    fn flushed_network(&self, network: NetworkId) {
        self.lanes.renew(|lane| lane.network == Some(network));
        self.add_all();
    }
}
