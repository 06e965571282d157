//! The forwarding database: the port behind which each station was last seen.
//!
//! The idea: one table of 16-byte slots shared by all workers. A station is stored in one of two buckets of
//! four slots (one cache line each), so a lookup reads at most two lines at any load, and rehashing is never
//! needed. Readers take no lock. Writers do, but a worker only *tries*: if the table is busy, the station is
//! learned with its next frame. Refreshing a known station takes one compare-and-swap per quarter of a
//! second.
//!
//! Flushing is O(1): every entry records the flush number at its creation; a flush increments the number and
//! stores it for the port or network. Dead entries (flushed, expired) are never used and are removed later by
//! [`Fdb::sweep`], which runs outside the forwarding threads.
//!
//! Left out: the table does not know what a port is nor which ports may exchange frames; see
//! [`crate::topology`].

mod damping;
mod loops;
mod slot;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, TryLockError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

pub use damping::Damping;
pub use loops::Loop;
use slot::{Bucket, Key, SLOTS, Tick, Value};
use writer::Writer;

use crate::addr::{MacAddr, NetworkId, PortId, Timestamp};

/// The origin of an entry. Later variants take precedence over earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Learned from the source address of a frame. Ages, moves, can be evicted and flushed.
    Learned = 0,
    /// Set by a control plane, which knows whose address it is: an endpoint's, a gateway's. Stays until it is removed, and
    /// frames from it are forwarded from its port only.
    Control = 1,
    /// Set by the operator. Stays until it is removed.
    Static = 2,
}

/// The outcome of learning a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was on this port already.
    Known,
    /// It is new.
    New,
    /// It was on another port.
    Moved {
        /// The previous port.
        from: PortId,
    },
    /// It is pinned to another port.
    Pinned(
        /// By whom: the operator or a control plane.
        Origin,
    ),
    /// It moves too often and stays on its port for now.
    Held,
    /// The limit of the port or the network is reached, or the table is full of entries that must not be evicted.
    Full,
    /// Another thread holds the table's lock; it is learned with its next frame.
    Busy,
    /// The port does not learn.
    Off,
}

/// A change of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The time.
    pub at: Timestamp,
    /// The broadcast domain.
    pub network: NetworkId,
    /// The station.
    pub mac: MacAddr,
    /// Its port, or its last one.
    pub port: PortId,
    /// The change.
    pub what: Change,
}

/// The kind of an [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Seen for the first time.
    Learned,
    /// Seen on `port` instead of `from`.
    Moved {
        /// The previous port.
        from: PortId,
    },
    /// Moves too often: was on `port`, is seen on `rival` now, and is limited to one move a second.
    Held {
        /// The other port.
        rival: PortId,
    },
    /// Keeps arriving at `port` and `rival`: these are connected to each other outside of the switch.
    Looped {
        /// The other port.
        rival: PortId,
    },
    /// Not learned, because its network has as many addresses as it may. Reported once a minute for each network.
    Refused {
        /// The limit.
        limit: u32,
    },
    /// May move freely again.
    Released,
    /// Not seen for the ageing time.
    Expired,
    /// Evicted to make room for another.
    Evicted,
}

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The broadcast domain.
    pub network: NetworkId,
    /// The station.
    pub mac: MacAddr,
    /// Its port.
    pub port: PortId,
    /// Its origin.
    pub origin: Origin,
    /// Time since it was last seen, with a resolution of 256 ms. Zero for entries that do not age.
    pub age: Duration,
    /// Whether damping limits its moves.
    pub held: bool,
}

/// Follows the table, to keep a projection of it.
///
/// Told *that* an entry changed, not how: it then reads the [entry](Fdb::entry), so a change told twice or late does no harm, and
/// none can be missed. Called under the table's lock, also by forwarding threads: it must be brief and must not use the table.
pub trait Follower: fmt::Debug + Send + Sync {
    /// The entry of `mac` in `network` was inserted, moved, held, released or removed.
    fn changed(&self, network: NetworkId, mac: MacAddr);
    /// All learned entries of this port were flushed.
    fn flushed_port(&self, port: PortId);
    /// All learned entries of this network were flushed.
    fn flushed_network(&self, network: NetworkId);
}

/// Totals since the table was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    /// New stations.
    pub learned: u64,
    /// Stations that changed port.
    pub moved: u64,
    /// Number of times an address was held for moving too often.
    pub held: u64,
    /// Stations that were not seen for the ageing time.
    pub expired: u64,
    /// Entries that were evicted.
    pub evicted: u64,
    /// Stations that were not learned because of a limit of the port or network, or a full table.
    pub refused: u64,
    /// Number of loops that were found.
    pub loops: u64,
    /// Events that were not fetched in time.
    pub events_lost: u64,
}

/// Learning statistics of a port or network since the table was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Learning {
    /// New stations.
    pub learned: u64,
    /// Stations that moved there.
    pub moved: u64,
    /// Number of times a station was not learned because of a limit of the port or network, or a full table.
    pub refused: u64,
    /// Stations from there that were evicted.
    pub evicted: u64,
}

impl Learning {
    /// The difference to an earlier value.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            learned: self.learned - before.learned,
            moved: self.moved - before.moved,
            refused: self.refused - before.refused,
            evicted: self.evicted - before.evicted,
        }
    }
}

/// Settings of the table.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Maximum number of entries that are not a control plane's ([`Origin::Control`]). The memory for them (32 bytes per entry)
    /// is allocated at once; a control plane that brings many makes room for them with [`Fdb::grown`].
    pub limit: u32,
    /// Ageing time of learned stations; at most 1,000,000 seconds.
    pub ageing: Duration,
    /// Duplicate-MAC damping.
    pub damping: Damping,
    /// Makes the positions of entries unpredictable for senders.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limit: 65_536, ageing: Duration::from_secs(300), damping: Damping::default(), seed: 0 }
    }
}

/// The forwarding database. See the [module](self) for how it works.
#[derive(Debug)]
pub struct Fdb {
    /// A power of two, at most 2^31.
    buckets: Box<[Bucket]>,
    seed: u64,
    ageing: AtomicU32,
    /// The minimum flush number of live learned entries, by port and by network.
    port_flushed: Box<[AtomicU32]>,
    network_flushed: Box<[AtomicU32]>,
    writer: Mutex<Writer>,
    follower: OnceLock<Arc<dyn Follower>>,
}

/// A station of a network, with the hash that selects its two buckets.
///
/// Hashing is a noticeable part of a lookup's cost, so each address of a frame is hashed once, by
/// [`Fdb::station`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    key: Key,
    /// Its halves select the buckets.
    hash: u64,
}

impl Station {
    /// Its network and address.
    pub fn parts(&self) -> (NetworkId, MacAddr) {
        self.key.parts()
    }
}

impl Fdb {
    /// An empty table. Half of its slots stay free, so that two buckets nearly always suffice.
    pub fn new(settings: Settings) -> Self {
        let slots = (settings.limit.max(8) as usize * 2).next_power_of_two();
        let buckets = slots / SLOTS;
        let zeros = || (0..=usize::from(u16::MAX)).map(|_| AtomicU32::new(0)).collect();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            seed: settings.seed,
            ageing: AtomicU32::new(Tick::span(settings.ageing)),
            port_flushed: zeros(),
            network_flushed: zeros(),
            writer: Mutex::new(Writer::new(settings.limit, settings.damping)),
            follower: OnceLock::new(),
        }
    }

    /// Lets `follower` know of every change from now on. The table has one follower at most: false if it has one.
    pub fn follow(&self, follower: Arc<dyn Follower>) -> bool {
        self.follower.set(follower).is_ok()
    }

    fn tell(&self, key: Key) {
        if let Some(follower) = self.follower.get() {
            let (network, mac) = key.parts();
            follower.changed(network, mac);
        }
    }

    /// A larger table with all that this one has, if `controlled` entries of a control plane would crowd it. Plans use it in
    /// place of this one, which learns nothing any more; a follower has to follow it anew. May block.
    pub fn grown(&self, controlled: usize, now: Timestamp) -> Option<Self> {
        let mut writer = self.lock();
        let entries = writer.limit() + controlled;
        // Two buckets suffice nearly always up to three quarters; some room for those that come before the next time.
        if entries <= self.buckets.len() * SLOTS * 5 / 8 {
            return None;
        }
        let buckets = (entries.next_power_of_two() * 2) / SLOTS;
        let copy =
            |flushed: &[AtomicU32]| flushed.iter().map(|at| AtomicU32::new(at.load(Relaxed))).collect();
        let large = Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            seed: self.seed,
            ageing: AtomicU32::new(self.ageing.load(Relaxed)),
            port_flushed: copy(&self.port_flushed),
            network_flushed: copy(&self.network_flushed),
            writer: Mutex::new(Writer::new(0, Damping::default())),
            follower: OnceLock::new(),
        };
        *large.lock() = writer.retire(self, &large, now);
        Some(large)
    }

    /// Changes the ageing time and damping; both apply to existing entries as well.
    pub fn configure(&self, ageing: Duration, damping: Damping) {
        self.ageing.store(Tick::span(ageing), Relaxed);
        self.lock().set_damping(damping);
    }

    /// Limits the number of addresses that are learned in networks; those that are not in `limits` have no limit. Entries
    /// above a new limit stay. May block.
    pub fn limit_networks(&self, limits: impl IntoIterator<Item = (NetworkId, u32)>) {
        self.lock().limit_networks(limits);
    }

    /// The port behind which `station` was last seen, unless the entry is dead.
    #[inline(always)]
    pub fn lookup(&self, station: Station, now: Timestamp) -> Option<PortId> {
        let value = self.find(station)?.2;
        self.is_alive(station.key.parts().0, value, now.into()).then(|| value.port())
    }

    /// Learns that `station` is on `port`. `limit` is the maximum number of addresses of the port; 0: it does not
    /// learn.
    ///
    /// Its address must be a station's ([`MacAddr::is_station`]), as guaranteed by
    /// [`crate::wire::frame::Frame`].
    #[inline(always)]
    pub fn learn(&self, station: Station, port: PortId, limit: Option<u32>, now: Timestamp) -> Learned {
        let tick = Tick::from(now);
        if let Some((bucket, slot, value)) = self.find(station)
            && self.is_alive(station.key.parts().0, value, tick)
        {
            if value.port() == port {
                if value.seen() != tick && value.origin() == Origin::Learned {
                    self.buckets[bucket].refresh(slot, value, tick);
                }
                return Learned::Known;
            }
            if value.origin() != Origin::Learned {
                return self.meet_pinned(station, value, port, now);
            }
        }
        if limit == Some(0) {
            return Learned::Off;
        }
        self.try_teach(station, port, limit, now)
    }

    /// The outcome that [`Fdb::learn`] would have, and the stations it would evict. Changes nothing; may
    /// block.
    pub(crate) fn would_learn(
        &self,
        station: Station,
        port: PortId,
        limit: Option<u32>,
        now: Timestamp,
    ) -> (Learned, Vec<Station>) {
        let (learned, evicted) = self.lock().would_learn(self, station.key, port, limit, now);
        (learned, evicted.into_iter().map(|key| self.station_of(key)).collect())
    }

    #[cold]
    fn try_teach(&self, station: Station, port: PortId, limit: Option<u32>, now: Timestamp) -> Learned {
        match self.writer.try_lock() {
            Ok(mut writer) => writer.learn(self, station.key, port, limit, now),
            Err(TryLockError::Poisoned(poisoned)) => {
                poisoned.into_inner().learn(self, station.key, port, limit, now)
            }
            Err(TryLockError::WouldBlock) => Learned::Busy,
        }
    }

    /// The outcome for a station that is pinned to another port than `seen`. Watches for loops.
    #[cold]
    #[inline(never)]
    fn meet_pinned(&self, station: Station, pinned: Value, seen: PortId, now: Timestamp) -> Learned {
        if let Ok(mut writer) = self.writer.try_lock() {
            writer.watch(station.key, pinned.port(), seen, now);
        }
        Learned::Pinned(pinned.origin())
    }

    /// The station `mac` of `network`, hashed for this table. `mac` must not be a group address: those are
    /// never stored, and a lookup would return garbage.
    #[inline]
    pub fn station(&self, network: NetworkId, mac: MacAddr) -> Station {
        self.station_of(Key::new(network, mac))
    }

    /// Prefetches the cache line that [`Fdb::learn`] and [`Fdb::lookup`] will most likely read for this
    /// station.
    ///
    /// When called for a whole batch before its first decision, the cache misses of many frames overlap: at 1
    /// M addresses, that is the difference between one memory latency per frame and one per batch.
    #[inline]
    pub fn prefetch(&self, station: Station) {
        self.buckets[self.first(station)].prefetch();
    }

    /// Pins `mac` to `port`, replacing an entry of a weaker origin.
    ///
    /// False if `mac` is not a station's address, an entry of a stronger origin exists, or the table is full
    /// of pinned entries. Those of a control plane do not count towards the table's limit. May block.
    pub fn pin(
        &self,
        network: NetworkId,
        mac: MacAddr,
        port: PortId,
        origin: Origin,
        now: Timestamp,
    ) -> bool {
        mac.is_station() && self.lock().pin(self, Key::new(network, mac), port, origin, now)
    }

    /// Removes `mac` of `network`, whatever its origin. False if there is no entry. May block.
    pub fn forget(&self, network: NetworkId, mac: MacAddr) -> bool {
        self.forget_of(network, mac, None)
    }

    /// Removes `mac` of `network` if it is of this origin. False if it is not. May block.
    pub fn unpin(&self, network: NetworkId, mac: MacAddr, origin: Origin) -> bool {
        self.forget_of(network, mac, Some(origin))
    }

    fn forget_of(&self, network: NetworkId, mac: MacAddr, origin: Option<Origin>) -> bool {
        mac.is_station() && self.lock().forget(self, Key::new(network, mac), origin)
    }

    /// Flushes the learned entries of `port`, in O(1). Pinned entries stay. May block.
    pub fn flush_port(&self, port: PortId) {
        let mut writer = self.lock();
        self.port_flushed[port.index()].store(writer.begin_flush(self), Relaxed);
        if let Some(follower) = self.follower.get() {
            follower.flushed_port(port);
        }
    }

    /// Flushes the learned entries of `network`, in O(1). Pinned entries stay. May block.
    pub fn flush_network(&self, network: NetworkId) {
        let mut writer = self.lock();
        self.network_flushed[network.index()].store(writer.begin_flush(self), Relaxed);
        if let Some(follower) = self.follower.get() {
            follower.flushed_network(network);
        }
    }

    /// Removes every entry, including pinned ones, for which `gone(network, port)` holds. Walks the table;
    /// may block.
    pub fn purge(&self, gone: impl Fn(NetworkId, PortId) -> bool) {
        self.lock().purge(self, gone);
    }

    /// Removes dead entries and releases held ones in the `part`-th of `parts` slices of the table.
    ///
    /// Sweeping in slices keeps the lock times short: while the lock is held, new stations are not learned.
    pub fn sweep(&self, part: usize, parts: usize, now: Timestamp) {
        let slice = |part: usize| self.buckets.len() * part / parts;
        self.lock().sweep(self, slice(part)..slice(part + 1), now);
    }

    /// The live entries at `now`, in no particular order. A snapshot of each slot, not of the table.
    pub fn entries(&self, now: Timestamp) -> impl Iterator<Item = Entry> + '_ {
        let tick = Tick::from(now);
        let slots = self.buckets.iter().flat_map(|bucket| (0..SLOTS).filter_map(|slot| bucket.read(slot)));
        slots.filter_map(move |(key, value)| self.live_entry(key, value, tick))
    }

    /// The live entry of `mac` in `network` at `now`.
    pub fn entry(&self, network: NetworkId, mac: MacAddr, now: Timestamp) -> Option<Entry> {
        let station = mac.is_station().then(|| self.station(network, mac))?;
        let (.., value) = self.find(station)?;
        self.live_entry(station.key, value, now.into())
    }

    fn live_entry(&self, key: Key, value: Value, now: Tick) -> Option<Entry> {
        let (network, mac) = key.parts();
        self.is_alive(network, value, now).then(|| Entry {
            network,
            mac,
            port: value.port(),
            origin: value.origin(),
            age: if value.origin() == Origin::Learned { value.seen().age(now) } else { Duration::ZERO },
            held: value.is_held(),
        })
    }

    /// Notes that `mac` was seen on `port` at `at`, if the table has it there: for what sees frames instead of a worker.
    pub fn heard(&self, network: NetworkId, mac: MacAddr, port: PortId, at: Timestamp) {
        let Some(station) = mac.is_station().then(|| self.station(network, mac)) else { return };
        let Some((bucket, slot, value)) = self.find(station) else { return };
        let at = Tick::from(at);
        let is_news = value.seen() != at && !at.is_older_than(0, value.seen());
        if value.port() == port && value.origin() == Origin::Learned && is_news {
            self.buckets[bucket].refresh(slot, value, at);
        }
    }

    /// Number of slots in use, including dead entries that are not swept yet.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of learned entries of `port`, including dead ones that are not swept yet.
    pub fn learned_on(&self, port: PortId) -> u32 {
        self.lock().learned_on(port)
    }

    /// Learning statistics of all ports that had this number.
    pub fn learning_of_port(&self, port: PortId) -> Learning {
        self.lock().learning_of_port(port)
    }

    /// Learning statistics of all networks that had this number.
    pub fn learning_of_network(&self, network: NetworkId) -> Learning {
        self.lock().learning_of_network(network)
    }

    /// Totals since the table was created.
    pub fn totals(&self) -> Totals {
        self.lock().totals()
    }

    /// The loops that are there at `now`: pairs of ports that are connected to each other outside of the switch.
    pub fn loops(&self, now: Timestamp) -> Vec<Loop> {
        self.lock().loops(now)
    }

    /// Drains the events since the last call, oldest first. At most 1,024 are kept.
    pub fn drain_events(&self, each: impl FnMut(Event)) {
        self.lock().drain_events(each);
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A panic under the lock leaves a valid table that merely lacks entries.
        self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[inline]
    fn station_of(&self, key: Key) -> Station {
        Station { key, hash: key.hash(self.seed) }
    }

    /// The two distinct buckets of `key`.
    fn buckets_of(&self, key: Key) -> [usize; 2] {
        let station = self.station_of(key);
        [self.first(station), self.second(station)]
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the mask cuts it anyway")]
    fn first(&self, station: Station) -> usize {
        station.hash as u32 as usize & (self.buckets.len() - 1)
    }

    #[inline]
    fn second(&self, station: Station) -> usize {
        let second = (station.hash >> 32) as usize & (self.buckets.len() - 1);
        if second == self.first(station) { second ^ 1 } else { second }
    }

    #[inline(always)]
    fn find(&self, station: Station) -> Option<(usize, usize, Value)> {
        // Most entries are in their first bucket, so the second line is rarely read.
        let first = self.first(station);
        match self.buckets[first].find(station.key) {
            Some((slot, value)) => Some((first, slot, value)),
            None => self.find_second(station),
        }
    }

    // A call, because it is rarely needed.
    #[inline(never)]
    fn find_second(&self, station: Station) -> Option<(usize, usize, Value)> {
        let second = self.second(station);
        self.buckets[second].find(station.key).map(|(slot, value)| (second, slot, value))
    }

    #[inline(always)]
    fn is_alive(&self, network: NetworkId, value: Value, now: Tick) -> bool {
        value.origin() != Origin::Learned || !(self.is_expired(value, now) || self.is_flushed(network, value))
    }

    #[inline(always)]
    fn is_expired(&self, value: Value, now: Tick) -> bool {
        value.seen().is_older_than(self.ageing.load(Relaxed), now)
    }

    #[inline(always)]
    fn is_flushed(&self, network: NetworkId, value: Value) -> bool {
        let since = |flushed: &[AtomicU32], index: usize| flushed[index].load(Relaxed);
        value.born() < since(&self.port_flushed, value.port().index())
            || value.born() < since(&self.network_flushed, network.index())
    }
}
