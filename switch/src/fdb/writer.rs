//! The writer of the table, under its lock: inserts, moves, evicts and sweeps.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    time::Duration,
};

use super::{
    Change, Damping, Event, Fdb, Learned, Learning, Loop, Origin, Totals,
    damping::{DWELL, Moves, Verdict},
    loops::Loops,
    slot::{BORN_MAX, Key, SLOTS, Tick, Value},
};
use crate::addr::{NetworkId, PortId, Timestamp};

/// Capacity of the event queue; events beyond it are lost and counted.
const EVENTS: usize = 1024;

/// Number of slots searched for a victim.
///
/// The port with the most entries holds at least one in (ports * 2) slots, so with a thousand ports the
/// search succeeds almost certainly, and takes a few microseconds if it does not.
const VICTIM_SCAN: usize = 8192;

/// The least time between two reports that a network is full.
const FULL: Duration = Duration::from_mins(1);

/// Whether a station was not seen for [`DWELL`] on its port: a tick more, as the first may have been about to end.
fn is_silent(value: Value, now: Timestamp) -> bool {
    value.seen().is_older_than(Tick::span(DWELL) + 1, now.into())
}

/// The [`Learning`] of each port or network. Untouched zero pages take no memory.
#[derive(Debug)]
struct Lessons(Box<[[u64; 4]]>);

impl Clone for Lessons {
    /// Leaves untouched what is zero.
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        for (to, from) in copy.0.iter_mut().zip(&self.0) {
            if *from != [0; 4] {
                *to = *from;
            }
        }
        copy
    }
}

// Indices of the list.
const LEARNED: usize = 0;
const MOVED: usize = 1;
const REFUSED: usize = 2;
const EVICTED: usize = 3;

impl Lessons {
    fn new() -> Self {
        Self(vec![[0; 4]; usize::from(u16::MAX) + 1].into())
    }

    fn of(&self, index: usize) -> Learning {
        let [learned, moved, refused, evicted] = self.0[index];
        Learning { learned, moved, refused, evicted }
    }
}

/// A bucket, and a slot of it.
type Spot = (usize, usize);

/// How a new key gets a slot.
#[derive(Clone, Copy, Debug)]
enum Room {
    /// A free slot.
    Free(Spot),
    /// A slot whose entry moves to its other bucket.
    Shared {
        /// The slot.
        spot: Spot,
        /// The free slot in the other bucket.
        with: Spot,
    },
    /// A slot whose entry is evicted: of the entries in the key's buckets, one of the port with the most
    /// entries.
    Taken(Spot),
}

/// Learned entries that are treated as removed in a dry run.
#[derive(Debug, Default)]
struct Gone(Vec<(Spot, PortId)>);

impl Gone {
    fn add(&mut self, spot: Spot, port: PortId) {
        self.0.push((spot, port));
    }

    fn holds(&self, spot: Spot) -> bool {
        self.0.iter().any(|(gone, _)| *gone == spot)
    }

    fn slot_in(&self, bucket: usize) -> Option<usize> {
        self.0.iter().find_map(|((gone, slot), _)| (*gone == bucket).then_some(*slot))
    }

    /// Number of those on a port.
    fn on(&self, port: usize) -> u32 {
        self.0.iter().map(|(_, gone)| u32::from(gone.index() == port)).sum()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Writer {
    /// Maximum number of entries that are not a control plane's.
    limit: usize,
    len: usize,
    /// Number of entries of a control plane, which has a bound of its own.
    controlled: usize,
    /// A larger table has taken the place of this one, and learns from now on.
    retired: bool,
    /// Number of learned entries of each port, including dead ones until they are swept.
    by_port: Box<[u32]>,
    /// The same of each network.
    by_network: Box<[u32]>,
    /// Limits of networks, and when each was last reported.
    network_limits: HashMap<NetworkId, (u32, Option<Timestamp>)>,
    ports_taught: Lessons,
    networks_taught: Lessons,
    /// One more than the highest port that ever had an entry.
    ports: usize,
    /// The number of the latest flush.
    flush: u32,
    /// Where the last search for a victim ended.
    hand: usize,
    moves: Moves,
    loops: Loops,
    totals: Totals,
    events: VecDeque<Event>,
}

impl Writer {
    pub(super) fn new(limit: u32, damping: Damping) -> Self {
        Self {
            limit: limit as usize,
            len: 0,
            controlled: 0,
            retired: false,
            by_port: vec![0; usize::from(u16::MAX) + 1].into(),
            by_network: vec![0; usize::from(u16::MAX) + 1].into(),
            network_limits: HashMap::new(),
            ports_taught: Lessons::new(),
            networks_taught: Lessons::new(),
            ports: 0,
            flush: 0,
            hand: 0,
            moves: Moves::new(damping),
            loops: Loops::new(),
            totals: Totals::default(),
            events: VecDeque::with_capacity(EVENTS),
        }
    }

    pub(super) fn learn(
        &mut self,
        fdb: &Fdb,
        key: Key,
        port: PortId,
        limit: Option<u32>,
        now: Timestamp,
    ) -> Learned {
        if self.retired {
            return Learned::Busy;
        }
        let tick = Tick::from(now);
        let fresh = Value::new(port, tick, self.flush, Origin::Learned);
        // Search again: the table may have changed before the lock was taken.
        if let Some((bucket, slot, value)) = fdb.find(fdb.station_of(key)) {
            if fdb.is_alive(key.parts().0, value, tick) {
                return self.relearn(fdb, key, (bucket, slot, value), fresh, limit, now);
            }
            self.remove(fdb, bucket, slot, key, value);
        }
        let is_full = self.is_at(limit, port) || self.is_network_full(key, port, now);
        if is_full || !self.insert(fdb, key, fresh, now) {
            self.totals.refused += 1;
            self.teach(REFUSED, key, port);
            return Learned::Full;
        }
        self.totals.learned += 1;
        self.teach(LEARNED, key, port);
        self.report(now, key, port, Change::Learned);
        Learned::New
    }

    /// The outcome that [`Writer::learn`] would have, and the stations it would evict.
    pub(super) fn would_learn(
        &self,
        fdb: &Fdb,
        key: Key,
        port: PortId,
        limit: Option<u32>,
        now: Timestamp,
    ) -> (Learned, Vec<Key>) {
        let stands = fdb.find(fdb.station_of(key));
        let (alive, dead) = match stands {
            Some((.., value)) if fdb.is_alive(key.parts().0, value, now.into()) => (Some(value), None),
            stands => (None, stands),
        };
        // A dead entry of the station itself is removed first.
        let own = u32::from(dead.is_some_and(|(.., value)| value.port() == port));
        let is_full = self.is_at(limit.map(|limit| limit.saturating_add(own)), port);
        let is_network_full =
            || self.network_room(key.parts().0).is_some_and(|room| room + u32::from(dead.is_some()) == 0);
        let learned = match alive {
            Some(value) if value.port() == port => Learned::Known,
            Some(value) if value.origin() != Origin::Learned => Learned::Pinned(value.origin()),
            _ if limit == Some(0) => Learned::Off,
            _ if is_full => Learned::Full,
            Some(value) if !is_silent(value, now) && !self.moves.would_move(key, now) => Learned::Held,
            Some(value) => Learned::Moved { from: value.port() },
            None if is_network_full() => Learned::Full,
            None => {
                let mut gone = Gone::default();
                dead.into_iter().for_each(|(bucket, slot, value)| gone.add((bucket, slot), value.port()));
                return self.would_insert(fdb, key, gone, now);
            }
        };
        (learned, Vec::new())
    }

    /// The outcome that [`Writer::insert`] would have after `gone`.
    fn would_insert(&self, fdb: &Fdb, key: Key, mut gone: Gone, now: Timestamp) -> (Learned, Vec<Key>) {
        let mut evicted = Vec::new();
        let mut evict = |gone: &mut Gone, (bucket, slot): Spot| {
            if let Some((key, value)) = fdb.buckets[bucket].read(slot) {
                gone.add((bucket, slot), value.port());
                evicted.push(key);
            }
        };
        if self.len - self.controlled - gone.0.len() >= self.limit {
            let (_, Some(victim)) = self.search_victim(fdb, &gone, now) else {
                return (Learned::Full, evicted);
            };
            evict(&mut gone, victim);
        }
        let room = self.find_room(fdb, key, &gone);
        if let Some(Room::Taken(place)) = room {
            evict(&mut gone, place);
        }
        (if room.is_some() { Learned::New } else { Learned::Full }, evicted)
    }

    /// Moves a live entry to another port, unless it is pinned or held.
    fn relearn(
        &mut self,
        fdb: &Fdb,
        key: Key,
        (bucket, slot, value): (usize, usize, Value),
        fresh: Value,
        limit: Option<u32>,
        now: Timestamp,
    ) -> Learned {
        let from = value.port();
        if from == fresh.port() {
            return Learned::Known;
        }
        self.watch(key, from, fresh.port(), now);
        if value.origin() != Origin::Learned {
            return Learned::Pinned(value.origin());
        }
        if self.is_at(limit, fresh.port()) {
            self.totals.refused += 1;
            self.teach(REFUSED, key, fresh.port());
            return Learned::Full;
        }
        let mut held = value.is_held();
        if held && is_silent(value, now) {
            self.moves.forget(key);
            held = false;
            self.report(now, key, from, Change::Released);
        }
        let Verdict { moves, begins_hold } = self.moves.next(key, now);
        if begins_hold {
            held = true;
            self.totals.held += 1;
            self.report(now, key, from, Change::Held { rival: fresh.port() });
        }
        if !moves {
            return Learned::Held;
        }
        fdb.buckets[bucket].set(slot, fresh.held(held));
        fdb.tell(key);
        self.count(from, -1);
        self.count(fresh.port(), 1);
        self.totals.moved += 1;
        self.teach(MOVED, key, fresh.port());
        self.report(now, key, fresh.port(), Change::Moved { from });
        Learned::Moved { from }
    }

    pub(super) fn pin(&mut self, fdb: &Fdb, key: Key, port: PortId, origin: Origin, now: Timestamp) -> bool {
        debug_assert!(origin != Origin::Learned);
        let pinned = Value::new(port, Tick::from(now), 0, origin);
        match fdb.find(fdb.station_of(key)) {
            Some((.., value)) if value.origin() > origin => false,
            Some((.., value)) if (value.origin(), value.port()) == (origin, port) => true,
            Some((bucket, slot, value)) => {
                self.remove(fdb, bucket, slot, key, value);
                // One of a control plane did not count so far.
                let has_room = self.insert(fdb, key, pinned, now);
                if !has_room {
                    self.put(fdb, (bucket, slot), key, value);
                }
                has_room
            }
            None => self.insert(fdb, key, pinned, now),
        }
    }

    /// Removes an entry; with `origin` only one of that origin.
    pub(super) fn forget(&mut self, fdb: &Fdb, key: Key, origin: Option<Origin>) -> bool {
        let found = fdb.find(fdb.station_of(key));
        let found = found.filter(|(.., value)| origin.is_none_or(|origin| origin == value.origin()));
        let Some((bucket, slot, value)) = found else { return false };
        self.remove(fdb, bucket, slot, key, value);
        true
    }

    /// The flush number that entries must have from now on to survive the flush that begins.
    pub(super) fn begin_flush(&mut self, fdb: &Fdb) -> u32 {
        if self.flush == BORN_MAX {
            self.restart_flush_numbers(fdb);
        }
        self.flush += 1;
        self.flush
    }

    /// After a million flushes: removes all learned entries, and restarts from zero.
    fn restart_flush_numbers(&mut self, fdb: &Fdb) {
        self.each(fdb, 0..fdb.buckets.len(), |writer, bucket, slot, key, value| {
            if value.origin() == Origin::Learned {
                writer.remove(fdb, bucket, slot, key, value);
            }
        });
        for flushed in fdb.port_flushed.iter().chain(&fdb.network_flushed) {
            flushed.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        self.flush = 0;
    }

    /// Notes that a frame from `key`, which the table has on `home`, was received on `seen`; reports a new loop.
    pub(super) fn watch(&mut self, key: Key, home: PortId, seen: PortId, now: Timestamp) {
        if let Some([port, rival]) = self.loops.note(key, home, seen, now) {
            self.totals.loops += 1;
            self.report(now, key, port, Change::Looped { rival });
        }
    }

    pub(super) fn loops(&self, now: Timestamp) -> Vec<Loop> {
        self.loops.list(now)
    }

    pub(super) fn limit_networks(&mut self, limits: impl IntoIterator<Item = (NetworkId, u32)>) {
        let before = std::mem::take(&mut self.network_limits);
        let reported = |network, limit| before.get(&network).filter(|it| it.0 == limit).and_then(|it| it.1);
        let limits = limits.into_iter().map(|(network, limit)| (network, (limit, reported(network, limit))));
        self.network_limits = limits.collect();
    }

    /// Number of addresses that may still be learned in `network`; `None` without a limit.
    fn network_room(&self, network: NetworkId) -> Option<u32> {
        let (limit, _) = self.network_limits.get(&network)?;
        Some(limit.saturating_sub(self.by_network[network.index()]))
    }

    /// Whether the network of `key`, which is new on `port`, has as many addresses as it may. Reports it, now and then.
    fn is_network_full(&mut self, key: Key, port: PortId, now: Timestamp) -> bool {
        let network = key.parts().0;
        if self.network_room(network) != Some(0) {
            return false;
        }
        if let Some((limit, reported)) = self.network_limits.get_mut(&network) {
            let limit = *limit;
            if reported.is_none_or(|last| now.since(last) >= FULL) {
                *reported = Some(now);
                self.report(now, key, port, Change::Refused { limit });
            }
        }
        true
    }

    pub(super) fn purge(&mut self, fdb: &Fdb, gone: impl Fn(NetworkId, PortId) -> bool) {
        self.loops.purge(&gone);
        self.each(fdb, 0..fdb.buckets.len(), |writer, bucket, slot, key, value| {
            if gone(key.parts().0, value.port()) {
                writer.remove(fdb, bucket, slot, key, value);
            }
        });
    }

    pub(super) fn sweep(&mut self, fdb: &Fdb, buckets: Range<usize>, now: Timestamp) {
        let tick = Tick::from(now);
        // Holds end on time, independent of the slice that is swept.
        for key in self.moves.due(now) {
            self.moves.release(key, now);
            if let Some((bucket, slot, value)) = fdb.find(fdb.station_of(key))
                && value.is_held()
            {
                fdb.buckets[bucket].set(slot, value.held(false));
                fdb.tell(key);
                self.report(now, key, value.port(), Change::Released);
            }
        }
        self.each(fdb, buckets, |writer, bucket, slot, key, value| {
            if value.origin() != Origin::Learned {
                return;
            }
            let flushed = fdb.is_flushed(key.parts().0, value);
            if flushed || fdb.is_expired(value, tick) {
                writer.remove(fdb, bucket, slot, key, value);
                if !flushed {
                    writer.totals.expired += 1;
                    writer.report(now, key, value.port(), Change::Expired);
                }
            } else if value.is_held() && writer.moves.release(key, now) {
                fdb.buckets[bucket].set(slot, value.held(false));
                fdb.tell(key);
                writer.report(now, key, value.port(), Change::Released);
            }
        });
    }

    fn each(
        &mut self,
        fdb: &Fdb,
        buckets: Range<usize>,
        mut visit: impl FnMut(&mut Self, usize, usize, Key, Value),
    ) {
        for bucket in buckets {
            for slot in 0..SLOTS {
                if let Some((key, value)) = fdb.buckets[bucket].read(slot) {
                    visit(self, bucket, slot, key, value);
                }
            }
        }
    }

    /// Inserts a key that is not in the table, evicting if necessary. False: nothing can be evicted.
    fn insert(&mut self, fdb: &Fdb, key: Key, value: Value, now: Timestamp) -> bool {
        let is_full = value.origin() != Origin::Control && self.len - self.controlled >= self.limit;
        if is_full && !self.evict_of_heaviest(fdb, now) {
            return false;
        }
        let Some(spot) = self.free_place(fdb, key, now) else { return false };
        self.put(fdb, spot, key, value);
        true
    }

    /// Fills a free slot.
    fn put(&mut self, fdb: &Fdb, (bucket, slot): Spot, key: Key, value: Value) {
        fdb.buckets[bucket].fill(slot, key, value);
        fdb.tell(key);
        self.len += 1;
        match value.origin() {
            Origin::Learned => {
                self.count(value.port(), 1);
                self.by_network[key.parts().0.index()] += 1;
            }
            Origin::Control => self.controlled += 1,
            Origin::Static => {}
        }
    }

    /// The writer of `large`, an empty table, into which it puts all of `fdb`; this one only reads from now on.
    pub(super) fn retire(&mut self, fdb: &Fdb, large: &Fdb, now: Timestamp) -> Self {
        let mut writer = self.clone();
        (writer.len, writer.controlled, writer.hand) = (0, 0, 0);
        writer.by_port.fill(0);
        writer.by_network.fill(0);
        self.each(fdb, 0..fdb.buckets.len(), |_, _, _, key, value| {
            // What has no place among those that were there before is as good as evicted, and learned again.
            if let Some(spot) = writer.free_place(large, key, now) {
                writer.put(large, spot, key, value);
            }
        });
        self.retired = true;
        self.events.clear();
        writer
    }

    /// A free slot in one of the key's two buckets.
    fn free_place(&mut self, fdb: &Fdb, key: Key, now: Timestamp) -> Option<Spot> {
        Some(match self.find_room(fdb, key, &Gone::default())? {
            Room::Free(spot) => spot,
            Room::Shared { spot, with } => {
                let (key, value) = fdb.buckets[spot.0].read(spot.1)?;
                // Readers find it in one slot or the other; see `slot` for readers in between.
                fdb.buckets[with.0].fill(with.1, key, value);
                fdb.buckets[spot.0].clear(spot.1);
                spot
            }
            Room::Taken(spot) => {
                self.evict(fdb, spot.0, spot.1, now);
                spot
            }
        })
    }

    /// A slot for a new key, assuming that `gone` are removed: in its first bucket if possible, where it is
    /// found fastest.
    fn find_room(&self, fdb: &Fdb, key: Key, gone: &Gone) -> Option<Room> {
        let free = |bucket: usize| fdb.buckets[bucket].first_free().or_else(|| gone.slot_in(bucket));
        let both = fdb.buckets_of(key);
        if let Some(spot) = both.into_iter().find_map(|bucket| Some((bucket, free(bucket)?))) {
            return Some(Room::Free(spot));
        }
        let crowd = || {
            let spots = both.into_iter().flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)));
            spots.filter_map(|spot| Some((spot, fdb.buckets[spot.0].read(spot.1)?)))
        };
        let shared = crowd().find_map(|(spot, (other, _))| {
            let [one, two] = fdb.buckets_of(other);
            let bucket = if spot.0 == one { two } else { one };
            Some(Room::Shared { spot, with: (bucket, free(bucket)?) })
        });
        shared.or_else(|| {
            let learned = crowd().filter(|(_, (_, value))| value.origin() == Origin::Learned);
            let heaviest = learned.max_by_key(|(_, (_, value))| {
                self.by_port[value.port().index()] - gone.on(value.port().index())
            });
            heaviest.map(|(spot, _)| Room::Taken(spot))
        })
    }

    /// Evicts an entry of the port with the most entries, so that a port that floods the table displaces only
    /// its own entries. A dead entry found on the way serves as well.
    fn evict_of_heaviest(&mut self, fdb: &Fdb, now: Timestamp) -> bool {
        let (hand, victim) = self.search_victim(fdb, &Gone::default(), now);
        self.hand = hand;
        victim.inspect(|&(bucket, slot)| self.evict(fdb, bucket, slot, now)).is_some()
    }

    /// The position where the search ended, and the entry to evict from a full table, assuming that `gone`
    /// are removed.
    fn search_victim(&self, fdb: &Fdb, gone: &Gone, now: Timestamp) -> (usize, Option<Spot>) {
        let counts = (0..self.ports).map(|port| (port, self.by_port[port] - gone.on(port)));
        let Some((heaviest, 1..)) = counts.max_by_key(|(_, count)| *count) else { return (self.hand, None) };
        let slots = fdb.buckets.len() * SLOTS;
        let mut hand = self.hand;
        for _ in 0..VICTIM_SCAN.min(slots) {
            hand = (hand + 1) % slots;
            let spot = (hand / SLOTS, hand % SLOTS);
            let Some((key, value)) = fdb.buckets[spot.0].read(spot.1) else { continue };
            if value.origin() != Origin::Learned || gone.holds(spot) {
                continue;
            }
            let (network, _) = key.parts();
            if value.port().index() == heaviest || !fdb.is_alive(network, value, now.into()) {
                return (hand, Some(spot));
            }
        }
        (hand, None)
    }

    fn evict(&mut self, fdb: &Fdb, bucket: usize, slot: usize, now: Timestamp) {
        if let Some((key, value)) = fdb.buckets[bucket].read(slot) {
            self.remove(fdb, bucket, slot, key, value);
            self.totals.evicted += 1;
            self.teach(EVICTED, key, value.port());
            self.report(now, key, value.port(), Change::Evicted);
        }
    }

    fn remove(&mut self, fdb: &Fdb, bucket: usize, slot: usize, key: Key, value: Value) {
        fdb.buckets[bucket].clear(slot);
        fdb.tell(key);
        self.len -= 1;
        match value.origin() {
            Origin::Learned => {
                self.count(value.port(), -1);
                self.by_network[key.parts().0.index()] -= 1;
            }
            Origin::Control => self.controlled -= 1,
            Origin::Static => {}
        }
    }

    fn is_at(&self, limit: Option<u32>, port: PortId) -> bool {
        limit.is_some_and(|limit| self.by_port[port.index()] >= limit)
    }

    fn count(&mut self, port: PortId, by: i32) {
        self.ports = self.ports.max(port.index() + 1);
        let count = &mut self.by_port[port.index()];
        *count = count.saturating_add_signed(by);
    }

    fn report(&mut self, at: Timestamp, key: Key, port: PortId, what: Change) {
        let (network, mac) = key.parts();
        if self.events.len() < EVENTS {
            self.events.push_back(Event { at, network, mac, port, what });
        } else {
            self.totals.events_lost += 1;
        }
    }

    pub(super) fn drain_events(&mut self, each: impl FnMut(Event)) {
        self.events.drain(..).for_each(each);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn learned_on(&self, port: PortId) -> u32 {
        self.by_port[port.index()]
    }

    fn teach(&mut self, lesson: usize, key: Key, port: PortId) {
        self.ports_taught.0[port.index()][lesson] += 1;
        self.networks_taught.0[key.parts().0.index()][lesson] += 1;
    }

    pub(super) fn learning_of_port(&self, port: PortId) -> Learning {
        self.ports_taught.of(port.index())
    }

    pub(super) fn learning_of_network(&self, network: NetworkId) -> Learning {
        self.networks_taught.of(network.index())
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn set_damping(&mut self, damping: Damping) {
        self.moves.settings = damping;
    }
}
