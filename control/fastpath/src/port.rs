//! A port of the fast path: its lane, its filter, and its counters.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
};

use vswitch::{
    addr::{MacAddr, NetworkId, PortId},
    counters::{NetworkCounters, PortCounters},
    device::packet::Bypass,
};

use crate::{
    Common, Interface, Rules,
    kernel::Attached,
    lanes::{Taken, Tally},
    layout::{ISOLATED, PortRecord, READY},
    slow::{self, Slow},
};

/// A port of the fast path. Dropped, it is detached.
pub struct FastPort {
    common: Arc<Common>,
    port: PortId,
    ifindex: u32,
    lane: u32,
    state: Mutex<State>,
    counters: Arc<[PortCounters]>,
}

#[derive(Debug, Default)]
struct State {
    attached: Option<Attached>,
    /// The rules in force; `None`: there are none yet.
    rules: Option<Result<Told, Slow>>,
    is_down: bool,
    /// What was counted already, and where frames of the port's network are.
    counted: Tally,
    network: Option<Arc<[NetworkCounters]>>,
    /// What was forwarded since the port was opened.
    forwarded: Tally,
}

/// What the programs are told of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    record: PortRecord,
    flags: u32,
    mtu: u32,
    horizon: u32,
}

impl FastPort {
    pub(crate) fn open(
        common: &Arc<Common>,
        port: PortId,
        interface: &Interface<'_>,
        counters: Arc<[PortCounters]>,
    ) -> io::Result<Self> {
        let ifindex = interface.ifindex;
        let adopted = common.kernel().ports.get(&ifindex, 0).ok().map(|record| record.lane);
        let adopted = adopted.filter(|lane| common.lanes.is_at(*lane, ifindex));
        let whose = Taken { port, network: None, own: interface.own };
        let lane = common
            .lanes
            .take(adopted, whose)
            .ok_or_else(|| io::Error::other("as many ports are accelerated as the kernel's tables hold"))?;
        let state = State { counted: common.lanes.tally(lane), ..State::default() };
        common.lanes.memory(lane).ifindex.store(ifindex, Relaxed);
        let opened =
            Self { common: Arc::clone(common), port, ifindex, lane, state: Mutex::new(state), counters };
        if adopted != Some(lane) {
            let record = PortRecord { lane, ..PortRecord::default() };
            common.kernel().ports.insert(ifindex, record, 0).map_err(io::Error::other)?;
        }
        Ok(opened)
    }

    /// Attaches the program to the interface, once its socket is open.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&self, ifname: &str) -> io::Result<()> {
        let attached = self.common.kernel().attach(ifname, self.ifindex);
        // Without the program nothing may be kept from the socket, whatever an earlier run has left.
        let attached =
            attached.inspect_err(|_| self.common.lanes.stop(self.lane)).map_err(io::Error::other)?;
        self.state().attached = Some(attached);
        Ok(())
    }

    /// Its number.
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Notes whether its interface in the container is up: what is sent to one that is down would be lost in the kernel, without
    /// a name.
    pub fn set_link(&self, is_up: bool) {
        let mut state = self.state();
        if state.is_down == is_up {
            state.is_down = !is_up;
            self.switch(&state);
        }
    }

    /// The MAC address of the other end, if that is in another namespace: [`Interface::own`].
    pub fn set_own(&self, own: Option<MacAddr>) {
        if self.common.lanes.set_own(self.lane, own) {
            self.common.feed.add_all();
        }
    }

    /// Why frames of the port pass through the switch; `None`: the kernel forwards those whose stations are known.
    pub fn slow(&self) -> Option<Slow> {
        let state = self.state();
        match &state.rules {
            Some(Err(slow)) => Some(*slow),
            _ if state.is_down => Some(Slow::LinkDown),
            Some(Ok(_)) => None,
            None => Some(Slow::Starting),
        }
    }

    /// Number of frames that the kernel has forwarded from this port and to it.
    pub fn forwarded(&self) -> (u64, u64) {
        self.count();
        let state = self.state();
        (state.forwarded.rx_frames, state.forwarded.tx_frames)
    }

    /// Brings the counters of the port and of its network up to date.
    pub fn count(&self) {
        self.count_in(&mut self.state());
    }

    fn count_in(&self, state: &mut State) {
        let now = self.common.lanes.tally(self.lane);
        let new = now.since(state.counted);
        if new == Tally::default() {
            return;
        }
        state.counted = now;
        state.forwarded = state.forwarded.and(new);
        // One at a time, under the lock of the state: the last element is written by nothing else.
        if let Some(counters) = self.counters.last() {
            counters.rx_frames.add(new.rx_frames);
            counters.rx_bytes.add(new.rx_bytes);
            counters.rx_super.add(new.rx_super);
            counters.unicast.add(new.rx_frames);
            counters.offered.add(new.tx_frames);
            counters.tx_frames.add(new.tx_frames);
            counters.tx_bytes.add(new.tx_bytes);
            counters.tx_super.add(new.tx_super);
        }
        if let Some(network) = state.network.as_ref().and_then(|network| network.last()) {
            network.frames.add(new.rx_frames);
            network.bytes.add(new.rx_bytes);
            network.super_frames.add(new.rx_super);
        }
    }

    /// Stops forwarding if `next` has other rules for the port.
    pub(crate) fn prepare(&self, next: &Rules<'_>) {
        if self.state().rules != Some(self.wanted(next).map(|(told, _)| told)) {
            self.common.lanes.stop(self.lane);
        }
    }

    /// Forwards by these rules. Returns whether they are new.
    pub(crate) fn adopt(&self, now: &Rules<'_>) -> bool {
        let wanted = self.wanted(now);
        let network = wanted.ok().map(|(_, network)| network);
        let rules = Some(wanted.map(|(told, _)| told));
        let mut state = self.state();
        self.count_in(&mut state);
        state.network = network.and_then(|network| now.counters(network));
        if state.rules == rules {
            return false;
        }
        self.common.lanes.set_network(self.lane, network);
        state.rules = rules;
        if let Some(Ok(told)) = &state.rules {
            let memory = self.common.lanes.memory(self.lane);
            memory.mtu.store(told.mtu, Relaxed);
            memory.horizon.store(told.horizon, Relaxed);
            memory.network.store(told.record.network, Relaxed);
            if let Err(error) = self.common.kernel().ports.insert(self.ifindex, told.record, 0) {
                tracing::warn!(port = %self.port.0, "the kernel takes no rules for its fast path: {error}");
                state.rules = None;
            }
        }
        self.switch(&state);
        true
    }

    fn wanted(&self, rules: &Rules<'_>) -> Result<(Told, NetworkId), Slow> {
        let port = rules.ports.get(&self.port).ok_or(Slow::Starting)?;
        rules.barred.get(&self.port).map_or(Ok(()), |slow| Err(*slow))?;
        let network = slow::eligible(port)?;
        slow::unwatched(port, network, rules.plan)?;
        let guard = slow::record(port.guard.as_deref())?;
        let record = PortRecord { lane: self.lane, network: network.0.into(), guard };
        let told = Told {
            record,
            flags: READY | if port.isolated { ISOLATED } else { 0 },
            mtu: port.mtu.into(),
            horizon: port.horizon.map_or(0, |horizon| horizon.get().into()),
        };
        Ok((told, network))
    }

    /// Forwards, or not, as the state says.
    fn switch(&self, state: &State) {
        let flags = match &state.rules {
            Some(Ok(told)) if !state.is_down => told.flags,
            _ => 0,
        };
        self.common.lanes.memory(self.lane).flags.store(flags, Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves counters that lack a few frames.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Bypass for FastPort {
    fn filter(&self) -> BorrowedFd<'_> {
        self.common.filter.as_fd()
    }

    fn queued(&self) -> u32 {
        self.common.lanes.memory(self.lane).queued.load(Acquire)
    }

    fn taken(&self) {
        let stuck = &self.common.lanes.memory(self.lane).stuck;
        if stuck.load(Relaxed) != 0 {
            stuck.store(0, Relaxed);
        }
    }

    fn drained(&self, queued: u32) {
        let memory = self.common.lanes.memory(self.lane);
        memory.done.store(queued, Release);
    }
}

impl Drop for FastPort {
    fn drop(&mut self) {
        self.common.lanes.stop(self.lane);
        self.count();
        self.state().attached = None;
        let mut kernel = self.common.kernel();
        // The interface may be that of another lane by now.
        if kernel.ports.get(&self.ifindex, 0).is_ok_and(|record| record.lane == self.lane) {
            // An error means that it is gone.
            let _ = kernel.ports.remove(&self.ifindex);
        }
        drop(kernel);
        self.common.lanes.give_back(self.lane);
    }
}

impl fmt::Debug for FastPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, ifindex, lane, .. } = self;
        f.debug_struct("FastPort")
            .field("port", port)
            .field("ifindex", ifindex)
            .field("lane", lane)
            .finish_non_exhaustive()
    }
}
