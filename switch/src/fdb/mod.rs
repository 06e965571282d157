//! The forwarding database: which port a station was last heard on.
//!
//! The idea: one table of 16-octet slots shared by all workers. A station can only stand in one of two
//! buckets of four slots (one cache line each), so a lookup reads at most two lines whatever the load, and
//! nothing ever needs rehashing. Readers take no lock. Writers do, but a worker only *tries*: when the
//! table is busy, the station is learned with its next frame. Refreshing a known station is one
//! compare-and-swap a quarter of a second.
//!
//! Flushing is O(1): every entry remembers the flush number it was born under; a flush makes a
//! new number and notes it for the port or network. Dead entries (flushed, expired) are never used and are
//! removed later by [`Fdb::sweep`], which runs outside the forwarding threads.
//!
//! What is left out: the table does not know what a port is nor who may talk to whom; see
//! [`crate::topology`].

mod damping;
mod slot;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Mutex, MutexGuard, TryLockError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

pub use damping::Damping;
use slot::{Bucket, Key, SLOTS, Tick, Value};
use writer::Writer;

use crate::addr::{MacAddr, NetworkId, PortId, Timestamp};

/// Who put an entry into the table. Later ones beat earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The source address of a frame. Ages, moves, can be evicted and flushed.
    Learned = 0,
    /// A control plane that knows better. Stays until it is removed.
    Control = 1,
    /// The operator. Stays until it is removed.
    Static = 2,
}

/// What learning a source address did. Never a reason to drop the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It stood there already.
    Known,
    /// It is new.
    New,
    /// It was on another port.
    Moved {
        /// Where it was.
        from: PortId,
    },
    /// It is pinned to another port, by the operator or a control plane.
    Pinned,
    /// It moves too often and stays where it is for now.
    Held,
    /// The port's limit is reached, or the table is full of entries that may not be evicted.
    Full,
    /// Another thread is changing the table; the next frame will teach it.
    Busy,
    /// The port does not learn.
    Off,
}

/// Something that happened to the table, for those who watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The broadcast domain.
    pub network: NetworkId,
    /// The station.
    pub mac: MacAddr,
    /// The port it is, or was, on.
    pub port: PortId,
    /// What happened.
    pub what: Change,
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Heard for the first time.
    Learned,
    /// Heard on `port` instead of `from`.
    Moved {
        /// Where it was before.
        from: PortId,
    },
    /// Moves too often: was on `port`, is heard on `rival` now, and is limited to one move a second.
    Held {
        /// Where it was heard too.
        rival: PortId,
    },
    /// May move freely again.
    Released,
    /// Not heard for the ageing time.
    Expired,
    /// Made room for another.
    Evicted,
}

/// One line of the table, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The broadcast domain.
    pub network: NetworkId,
    /// The station.
    pub mac: MacAddr,
    /// Where it is.
    pub port: PortId,
    /// Who said so.
    pub origin: Origin,
    /// Since it was last heard, with a resolution of 256 ms. Zero for entries that do not age.
    pub age: Duration,
    /// Whether damping limits its moves.
    pub held: bool,
}

/// Totals since the table was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    /// New stations.
    pub learned: u64,
    /// Stations that changed port.
    pub moved: u64,
    /// Times an address was held for moving too often.
    pub held: u64,
    /// Stations that were not heard for the ageing time.
    pub expired: u64,
    /// Entries that made room for others.
    pub evicted: u64,
    /// Stations not learned because the port's limit or the table is reached.
    pub refused: u64,
    /// Events that nobody fetched in time.
    pub events_lost: u64,
}

/// What a port or network has taught the table since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Learning {
    /// Stations that were new there.
    pub learned: u64,
    /// Stations that were on another port before.
    pub moved: u64,
    /// Times a station was not learned because the port's limit or the table is reached.
    pub refused: u64,
    /// Stations from there that made room for others.
    pub evicted: u64,
}

impl Learning {
    /// What has come since it was `before`.
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

/// What the table is to be.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Entries at most. The memory (32 octets an entry) is taken at once and does not grow.
    pub limit: u32,
    /// How long a learned station is believed without being heard; at most 1,000,000 seconds.
    pub ageing: Duration,
    /// When an address that moves too often is held.
    pub damping: Damping,
    /// Makes the places of entries unpredictable to those who send frames.
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
    /// The flush number under which each port's / network's learned entries must have been born.
    port_flushed: Box<[AtomicU32]>,
    network_flushed: Box<[AtomicU32]>,
    writer: Mutex<Writer>,
}

/// A station of a network, and what says in which two buckets of a table it may stand.
///
/// Hashing is a part of the cost of a lookup that shows; a frame's addresses are each hashed once, by
/// [`Fdb::station`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    key: Key,
    /// Its halves choose the buckets.
    hash: u64,
}

impl Station {
    /// Its network and address.
    pub fn parts(&self) -> (NetworkId, MacAddr) {
        self.key.parts()
    }
}

impl Fdb {
    /// An empty table. Half of its slots stay free, so that two choices are nearly always enough.
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
        }
    }

    /// Changes the ageing time and damping; both hold for entries that exist as well.
    pub fn configure(&self, ageing: Duration, damping: Damping) {
        self.ageing.store(Tick::span(ageing), Relaxed);
        self.lock().set_damping(damping);
    }

    /// The port behind which `station` was last heard, if it is still believed to be there.
    #[inline(always)]
    pub fn lookup(&self, station: Station, now: Timestamp) -> Option<PortId> {
        let value = self.find(station)?.2;
        self.is_alive(station.key.parts().0, value, now.into()).then(|| value.port())
    }

    /// Learns that `station` is on `port`. `limit` is the most addresses the port may have; 0: it does not learn.
    ///
    /// Its address must be a station's ([`MacAddr::is_station`]), as [`crate::wire::frame::Frame`] guarantees.
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
                return Learned::Pinned;
            }
        }
        if limit == Some(0) {
            return Learned::Off;
        }
        self.try_teach(station, port, limit, now)
    }

    /// What [`Fdb::learn`] would answer, and who would make room. Changes nothing; may wait.
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

    /// The station `mac` of `network`, to ask this table for it. Not a group: the table has none, and the answer would mean
    /// nothing.
    #[inline]
    pub fn station(&self, network: NetworkId, mac: MacAddr) -> Station {
        self.station_of(Key::new(network, mac))
    }

    /// Asks for the cache line that [`Fdb::learn`] and [`Fdb::lookup`] will most likely read for this station.
    ///
    /// Called for a whole batch before its first decision, the misses of many frames overlap: at 1 M
    /// addresses that is the difference between one memory latency a frame and one a batch.
    #[inline]
    pub fn prefetch(&self, station: Station) {
        self.buckets[self.first(station)].prefetch();
    }

    /// Pins `mac` to `port`. Replaces whatever the table knew of it from a weaker origin.
    ///
    /// False if it is no station's address, a stronger origin says otherwise, or the table is full of pinned entries. May
    /// wait.
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

    /// Forgets `mac` in `network`, whoever put it there. False if it was not there. May wait.
    pub fn forget(&self, network: NetworkId, mac: MacAddr) -> bool {
        mac.is_station() && self.lock().forget(self, Key::new(network, mac))
    }

    /// Forgets what was learned on `port`, in O(1). Pinned entries stay. May wait.
    pub fn flush_port(&self, port: PortId) {
        let mut writer = self.lock();
        self.port_flushed[port.index()].store(writer.begin_flush(self), Relaxed);
    }

    /// Forgets what was learned in `network`, in O(1). Pinned entries stay. May wait.
    pub fn flush_network(&self, network: NetworkId) {
        let mut writer = self.lock();
        self.network_flushed[network.index()].store(writer.begin_flush(self), Relaxed);
    }

    /// Removes every entry, pinned ones too, for which `gone(network, port)` holds. Walks the table; may wait.
    pub fn purge(&self, gone: impl Fn(NetworkId, PortId) -> bool) {
        self.lock().purge(self, gone);
    }

    /// Removes dead entries and releases held ones in the `part`-th of `parts` slices of the table.
    ///
    /// A slice at a time keeps the lock short: while it is taken, new stations wait for their next frame.
    pub fn sweep(&self, part: usize, parts: usize, now: Timestamp) {
        let slice = |part: usize| self.buckets.len() * part / parts;
        self.lock().sweep(self, slice(part)..slice(part + 1), now);
    }

    /// The entries believed at `now`, in no order. A snapshot of each slot, not of the table.
    pub fn entries(&self, now: Timestamp) -> impl Iterator<Item = Entry> + '_ {
        let tick = Tick::from(now);
        let slots = self.buckets.iter().flat_map(|bucket| (0..SLOTS).filter_map(|slot| bucket.read(slot)));
        slots.filter_map(move |(key, value)| {
            let (network, mac) = key.parts();
            self.is_alive(network, value, tick).then(|| Entry {
                network,
                mac,
                port: value.port(),
                origin: value.origin(),
                age: if value.origin() == Origin::Learned { value.seen().age(tick) } else { Duration::ZERO },
                held: value.is_held(),
            })
        })
    }

    /// Slots in use, dead entries that were not swept yet included.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Learned entries of `port`, dead ones that were not swept yet included.
    pub fn learned_on(&self, port: PortId) -> u32 {
        self.lock().learned_on(port)
    }

    /// What the ports that had this number have taught.
    pub fn learning_of_port(&self, port: PortId) -> Learning {
        self.lock().learning_of_port(port)
    }

    /// What was taught in the networks that had this number.
    pub fn learning_of_network(&self, network: NetworkId) -> Learning {
        self.lock().learning_of_network(network)
    }

    /// Totals since the table was made.
    pub fn totals(&self) -> Totals {
        self.lock().totals()
    }

    /// Hands over the events since the last call, oldest first. At most 1,024 are kept.
    pub fn drain_events(&self, each: impl FnMut(Event)) {
        self.lock().drain_events(each);
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A panic under the lock leaves a table that is merely missing entries.
        self.writer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[inline]
    fn station_of(&self, key: Key) -> Station {
        Station { key, hash: key.hash(self.seed) }
    }

    /// The two buckets in which `key` may stand; they differ.
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
        // Most stand in their first bucket, so the second line is read by the few others alone.
        let first = self.first(station);
        match self.buckets[first].find(station.key) {
            Some((slot, value)) => Some((first, slot, value)),
            None => self.find_second(station),
        }
    }

    // A call: most entries are found without.
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
