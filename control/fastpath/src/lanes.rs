//! Lanes: the numbers by which the programs know ports, and what is written to the memory shared with them.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use vswitch::addr::{MacAddr, NetworkId, PortId};

use crate::{
    layout::{LANES, LaneMemory, READY, TallyMemory},
    memory::Shared,
};

/// The memory of all lanes, and whose they are.
#[derive(Debug)]
pub(crate) struct Lanes {
    memory: Shared<LaneMemory>,
    tallies: Shared<TallyMemory>,
    owners: Mutex<Owners>,
}

/// Whose lanes are. A port that is opened again has two for a moment, of which the later one counts.
#[derive(Debug, Default)]
struct Owners {
    by_lane: BTreeMap<u32, Taken>,
    by_port: BTreeMap<PortId, u32>,
}

/// Whose a lane is.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) port: PortId,
    /// The network that the programs forward in.
    pub(crate) network: Option<NetworkId>,
    /// The address of the interface in the container, which frames can be handed to directly.
    pub(crate) own: Option<MacAddr>,
}

/// The sum of a lane's tallies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_super: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_super: u64,
}

impl Tally {
    pub(crate) fn and(self, more: Self) -> Self {
        Self {
            rx_frames: self.rx_frames.wrapping_add(more.rx_frames),
            rx_bytes: self.rx_bytes.wrapping_add(more.rx_bytes),
            rx_super: self.rx_super.wrapping_add(more.rx_super),
            tx_frames: self.tx_frames.wrapping_add(more.tx_frames),
            tx_bytes: self.tx_bytes.wrapping_add(more.tx_bytes),
            tx_super: self.tx_super.wrapping_add(more.tx_super),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            rx_frames: self.rx_frames.wrapping_sub(before.rx_frames),
            rx_bytes: self.rx_bytes.wrapping_sub(before.rx_bytes),
            rx_super: self.rx_super.wrapping_sub(before.rx_super),
            tx_frames: self.tx_frames.wrapping_sub(before.tx_frames),
            tx_bytes: self.tx_bytes.wrapping_sub(before.tx_bytes),
            tx_super: self.tx_super.wrapping_sub(before.tx_super),
        }
    }
}

impl Lanes {
    pub(crate) fn new(memory: Shared<LaneMemory>, tallies: Shared<TallyMemory>) -> Self {
        Self { memory, tallies, owners: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Owners> {
        // A panic under the lock leaves maps that are whole.
        self.owners.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The shared memory of a lane.
    pub(crate) fn memory(&self, lane: u32) -> &LaneMemory {
        &self.memory[lane as usize]
    }

    /// Whether a lane is that of the interface with this index.
    pub(crate) fn is_at(&self, lane: u32, ifindex: u32) -> bool {
        self.memory.get(lane as usize).is_some_and(|memory| memory.ifindex.load(Relaxed) == ifindex)
    }

    /// Whether the interface with this index has a lane.
    pub(crate) fn is_of(&self, ifindex: u32) -> bool {
        self.lock().by_lane.keys().any(|lane| self.is_at(*lane, ifindex))
    }

    /// Takes the lane `adopted`, if it is free, or a new one. `None`: all are taken.
    pub(crate) fn take(&self, adopted: Option<u32>, whose: Taken) -> Option<u32> {
        let mut owners = self.lock();
        let is_free = |lane: &u32| !owners.by_lane.contains_key(lane);
        let adopted = adopted.filter(|lane| (1..LANES).contains(lane)).filter(is_free);
        let lane = match adopted {
            Some(lane) => lane,
            None => {
                let lane = (1..LANES).find(is_free)?;
                let memory = &self.memory[lane as usize];
                memory.flags.store(0, Release);
                // What the table still has of whose it was before is void.
                memory.epoch.fetch_add(1, Relaxed);
                memory.done.store(memory.up.load(Acquire), Relaxed);
                memory.queued.store(memory.up.load(Acquire), Relaxed);
                lane
            }
        };
        owners.by_port.insert(whose.port, lane);
        owners.by_lane.insert(lane, whose);
        Some(lane)
    }

    /// Gives a lane back: nothing is forwarded by it any more.
    pub(crate) fn give_back(&self, lane: u32) {
        let memory = self.memory(lane);
        memory.flags.store(0, Release);
        memory.epoch.fetch_add(1, Relaxed);
        let mut owners = self.lock();
        if let Some(taken) = owners.by_lane.remove(&lane)
            && owners.by_port.get(&taken.port) == Some(&lane)
        {
            owners.by_port.remove(&taken.port);
        }
    }

    /// Sets the network of a lane.
    pub(crate) fn set_network(&self, lane: u32, network: Option<NetworkId>) {
        if let Some(taken) = self.lock().by_lane.get_mut(&lane) {
            taken.network = network;
        }
    }

    /// Sets the address of the interface of a lane. Returns whether it is new.
    pub(crate) fn set_own(&self, lane: u32, own: Option<MacAddr>) -> bool {
        let mut owners = self.lock();
        let Some(taken) = owners.by_lane.get_mut(&lane) else { return false };
        std::mem::replace(&mut taken.own, own) != own
    }

    /// Stops forwarding from and to a lane.
    pub(crate) fn stop(&self, lane: u32) {
        self.memory(lane).flags.fetch_and(!READY, Release);
    }

    /// Voids what the table in the kernel has of these lanes.
    pub(crate) fn renew(&self, which: impl Fn(&Taken) -> bool) {
        for (lane, taken) in &self.lock().by_lane {
            if which(taken) {
                self.memory(*lane).epoch.fetch_add(1, Relaxed);
            }
        }
    }

    /// The lane of a port, its present epoch, and whose it is.
    pub(crate) fn of(&self, port: PortId) -> Option<(u32, u32, Taken)> {
        let owners = self.lock();
        let lane = *owners.by_port.get(&port)?;
        Some((lane, self.memory(lane).epoch.load(Relaxed), owners.by_lane.get(&lane)?.clone()))
    }

    /// The port of a lane, if it has had this epoch since.
    pub(crate) fn port(&self, lane: u32, epoch: u32) -> Option<PortId> {
        let port = self.lock().by_lane.get(&lane)?.port;
        (self.memory(lane).epoch.load(Relaxed) == epoch).then_some(port)
    }

    /// The ageing time of learned stations.
    pub(crate) fn ageing(&self) -> Duration {
        duration(self.memory(0).ageing.load(Relaxed))
    }

    /// Sets the ageing time of learned stations, for all lanes.
    pub(crate) fn set_ageing(&self, ageing: Duration) {
        let ticks = ticks(ageing);
        self.memory.iter().for_each(|lane| lane.ageing.store(ticks, Relaxed));
    }

    /// What was forwarded from and to a lane since it exists.
    pub(crate) fn tally(&self, lane: u32) -> Tally {
        let mut sum = Tally::default();
        for cpu in self.tallies.chunks_exact(LANES as usize) {
            let of = &cpu[lane as usize];
            sum.rx_frames += of.rx_frames.load(Relaxed);
            sum.rx_bytes += of.rx_bytes.load(Relaxed);
            sum.rx_super += of.rx_super.load(Relaxed);
            sum.tx_frames += of.tx_frames.load(Relaxed);
            sum.tx_bytes += of.tx_bytes.load(Relaxed);
            sum.tx_super += of.tx_super.load(Relaxed);
        }
        sum
    }
}

/// Nanoseconds of a tick, as a power of two: `ticks` in the programs.
const TICK: u32 = 26;

/// A duration in ticks.
pub(crate) fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos() >> TICK).unwrap_or(u32::MAX >> 1).min(u32::MAX >> 1)
}

/// So many ticks.
pub(crate) fn duration(ticks: u32) -> Duration {
    Duration::from_nanos(u64::from(ticks) << TICK)
}

/// Ticks from `then` to `now`; none, if it is later.
pub(crate) fn age(now: u32, then: u32) -> u32 {
    let age = now.wrapping_sub(then);
    if age > u32::MAX >> 1 { 0 } else { age }
}

/// Whether `one` is later than `other`, by more than `by` ticks.
pub(crate) fn is_later(one: u32, other: u32, by: u32) -> bool {
    age(one, other) > by
}

/// The present tick: of the clock that the programs read (`bpf_ktime_get_coarse_ns`).
#[expect(clippy::cast_possible_truncation, reason = "9 years pass before it wraps")]
#[expect(clippy::cast_sign_loss, reason = "time since the start of the system")]
pub(crate) fn now() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    ((now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) >> TICK) as u32
}
