//! The flows of one client port: which backend serves which connection.
//!
//! Both directions of a connection pass its client's port: the client's frames are looked up by the service's address
//! ([`Flows::find`]), the backend's by its own ([`Flows::find_back`]). One record serves both, because what the two have in common
//! is what it is hashed by: the client's address and port, the service's port, the protocol.
//!
//! ```text
//! memory   header | heads of chains, one a flow | records of 64 bytes
//! reader   version, chain, record, version again: nothing was written meanwhile           no lock
//! writer   lock, version is odd, write, version is even                                   new and ended connections
//! ```
//! The memory is given once and may outlive the process ([`Flows::new`] finds its records again). Nothing is allocated later.
//!
//! A record ends when its connection is over or has been idle for as long as its kind allows; an established TCP connection never
//! does. When all are taken, the one that is missed least makes room: over, never answered, UDP, then the longest idle.

mod record;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
            fence,
        },
    },
};

pub use self::record::{Flow, Key, LONGEST_AFFINITY, Mark, Progress};

use self::record::{TAKEN, address, kind, read_kind, seconds};
use super::hash::{mix, words};
use crate::addr::Timestamp;

/// A record that was found, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) flow: Flow,
    slot: usize,
}

/// Words of the header: the number of slots that were ever used, and room.
const HEADER: usize = 8;
/// Words of a record.
const RECORD: usize = 8;
/// Words of a flow, with the head of a chain.
const FLOW: usize = RECORD + 1;
/// Attempts of a reader before it waits for the writer.
const ATTEMPTS: usize = 64;
/// Longest way along a chain that a reader goes: it may be led round in circles while records are written.
const LONGEST_CHAIN: usize = 4_096;
/// Slots in which a victim is searched.
const WINDOW: usize = 32;
/// Slots that are looked at for ended flows with each new one.
const SWEEP: usize = 4;
/// Slots that are listed while no flow begins or ends.
const LISTED: usize = 64;

/// Memory of a table, shared with nothing but an earlier or later process.
pub type Memory = Box<dyn AsRef<[AtomicU64]> + Send + Sync>;

/// The flows of one client port.
pub struct Flows {
    memory: Memory,
    capacity: usize,
    seed: u64,
    version: AtomicU32,
    live: AtomicU32,
    evicted: AtomicU64,
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    /// The first of the freed slots, each of which names the next, plus 1; 0: none.
    free: u32,
    /// Where the search for ended flows goes on.
    hand: usize,
}

impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flows").field("capacity", &self.capacity).field("live", &self.len()).finish()
    }
}

impl Flows {
    /// Words of memory for `flows` flows.
    pub const fn words(flows: usize) -> usize {
        HEADER + flows * FLOW
    }

    /// A table in `memory`, which is zero or holds the records of an earlier one; those are taken for just seen. One without room
    /// remembers nothing. `seed` keeps
    /// strangers from choosing what falls into one chain.
    pub fn new(memory: Memory, seed: u64, now: Timestamp) -> Self {
        let words = (*memory).as_ref().len();
        let capacity = (words.saturating_sub(HEADER) / FLOW).min(u32::MAX as usize - 1);
        let mut flows = Self {
            memory,
            capacity,
            seed,
            version: AtomicU32::new(0),
            live: AtomicU32::new(0),
            evicted: AtomicU64::new(0),
            writer: Mutex::default(),
        };
        flows.restore(now);
        flows
    }

    /// A table for `flows` flows in memory of its own.
    pub fn of_process(flows: usize, seed: u64) -> Self {
        let memory: Vec<AtomicU64> = (0..Self::words(flows)).map(|_| AtomicU64::new(0)).collect();
        Self::new(Box::new(memory), seed, Timestamp::from_millis(0))
    }

    /// Makes chains of the records that are there.
    fn restore(&mut self, now: Timestamp) {
        let used = self.used();
        if used == 0 {
            return;
        }
        (0..self.capacity).for_each(|chain| self.head(chain).store(0, Relaxed));
        let mut writer = Writer::default();
        for slot in 0..used {
            match self.record(slot) {
                Some(flow) => {
                    self.live.fetch_add(1, Relaxed);
                    self.word(slot, SEEN).store(u64::from(seconds(now)) << 32, Relaxed);
                    self.chain(slot, &flow.key);
                }
                None => self.release(&mut writer, slot),
            }
        }
        self.writer = Mutex::new(writer);
    }

    /// Number of flows, ended ones that were not forgotten yet included.
    pub fn len(&self) -> usize {
        self.live.load(Relaxed) as usize
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live.load(Relaxed) == 0
    }

    /// The greatest number of flows.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many flows had to make room for others.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// All flows that are not over, in no order. New flows wait for a few records at a time; one that ends and begins again
    /// meanwhile may be there twice.
    pub fn list(&self, now: Timestamp) -> Vec<Flow> {
        let is_open = |flow: &Flow| !flow.is_expired(seconds(now)) && !flow.progress.is_over();
        let used = self.used();
        let mut flows = Vec::new();
        for first in (0..used).step_by(LISTED) {
            flows.reserve(LISTED);
            let _writer = self.lock();
            let slots = first..used.min(first + LISTED);
            flows.extend(slots.filter_map(|slot| self.record(slot)).filter(is_open));
        }
        flows
    }

    /// The flow of a client's frame.
    pub(super) fn find(&self, key: &Key) -> Option<Found> {
        self.read(|| self.search(key, |flow| flow.key == *key))
    }

    /// The flow of a backend's frame to the client: the service's address in `key` is not known, and ignored.
    pub(super) fn find_back(&self, key: &Key, backend: IpAddr) -> Option<Found> {
        self.read(|| {
            self.search(key, |flow| {
                flow.backend == backend && Key { service: key.service, ..flow.key } == *key
            })
        })
    }

    /// Notes that a frame of the flow passes.
    #[inline]
    pub(super) fn touch(&self, found: &Found, now: Timestamp) {
        let now = seconds(now);
        if found.flow.seen != now {
            let word = self.word(found.slot, SEEN);
            let old = word.load(Relaxed);
            // Lost against another worker that notes the same, or a writer that reuses the slot: nothing is missed.
            let _ = word.compare_exchange(
                old,
                u64::from(now) << 32 | old & u64::from(u32::MAX),
                Relaxed,
                Relaxed,
            );
        }
    }

    /// Notes that the flow has come to `step`.
    pub(super) fn advance(&self, found: &Found, step: Progress) {
        if found.flow.progress.has(step) {
            return;
        }
        let _writer = self.lock();
        if let Some(flow) = self.record(found.slot).filter(|flow| flow.key == found.flow.key) {
            self.write(|| {
                self.word(found.slot, KIND).store(kind(&flow.key, flow.progress.and(step)), Relaxed)
            });
        }
    }

    /// Adds a flow, or replaces the one with the same key. Returns the flow that had to make room.
    pub(super) fn insert(
        &self,
        key: &Key,
        backend: IpAddr,
        progress: Progress,
        now: Timestamp,
    ) -> Option<Flow> {
        if self.capacity == 0 {
            return None;
        }
        let mut writer = self.lock();
        let flow = Flow { key: *key, backend, progress, seen: seconds(now) };
        if let Some(found) = self.search(key, |flow| flow.key == *key) {
            self.write(|| self.put(found.slot, &flow));
            return None;
        }
        self.sweep(&mut writer, seconds(now));
        let evicted = (self.len() == self.capacity).then(|| self.evict(&mut writer, seconds(now))).flatten();
        let slot = self.take(&mut writer)?;
        self.write(|| {
            self.word(slot, SEEN).store(0, Relaxed);
            self.put(slot, &flow);
            self.chain(slot, key);
        });
        evicted
    }

    /// Forgets a flow.
    pub(super) fn remove(&self, found: &Found) {
        let mut writer = self.lock();
        if self.record(found.slot).is_some_and(|flow| flow.key == found.flow.key) {
            self.drop(&mut writer, found.slot, &found.flow.key);
        }
    }

    /// Answers `look` while nothing is written.
    fn read<T>(&self, look: impl Fn() -> T) -> T {
        for _ in 0..ATTEMPTS {
            let before = self.version.load(Acquire);
            if before.is_multiple_of(2) {
                let seen = look();
                fence(Acquire);
                if self.version.load(Relaxed) == before {
                    return seen;
                }
            }
            std::hint::spin_loop();
        }
        let _writer = self.lock();
        look()
    }

    /// Lets readers know that `change` happens. Only with the lock.
    fn write(&self, change: impl FnOnce()) {
        self.version.fetch_add(1, AcqRel);
        fence(Release);
        change();
        self.version.fetch_add(1, Release);
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn search(&self, key: &Key, is_it: impl Fn(&Flow) -> bool) -> Option<Found> {
        if self.capacity == 0 {
            return None;
        }
        let mut next = self.head(self.chain_of(key)).load(Relaxed);
        for _ in 0..LONGEST_CHAIN {
            let slot = usize::try_from(next).ok()?.checked_sub(1).filter(|slot| *slot < self.capacity)?;
            // A record that is being written is not complete, and the reader asks again.
            if let Some(flow) = self.record(slot).filter(&is_it) {
                return Some(Found { flow, slot });
            }
            next = self.word(slot, SEEN).load(Relaxed) & u64::from(u32::MAX);
        }
        None
    }

    /// A slot that is free, if there is one.
    fn take(&self, writer: &mut Writer) -> Option<usize> {
        self.live.fetch_add(1, Relaxed);
        if let Some(slot) = (writer.free as usize).checked_sub(1) {
            #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is meant")]
            let next = self.word(slot, SEEN).load(Relaxed) as u32;
            writer.free = next;
            return Some(slot);
        }
        let used = self.used();
        if used == self.capacity {
            self.live.fetch_sub(1, Relaxed);
            return None;
        }
        self.words_of()[0].store(used as u64 + 1, Relaxed);
        Some(used)
    }

    /// Ends `flow`, which is in `slot`.
    fn drop(&self, writer: &mut Writer, slot: usize, key: &Key) {
        self.write(|| {
            self.unchain(slot, key);
            self.word(slot, KIND).store(0, Relaxed);
            self.release(writer, slot);
        });
        self.live.fetch_sub(1, Relaxed);
    }

    /// Puts a slot to the free ones.
    fn release(&self, writer: &mut Writer, slot: usize) {
        self.word(slot, SEEN).store(u64::from(writer.free), Relaxed);
        writer.free = number(slot);
    }

    /// Forgets what has ended in the next slots.
    fn sweep(&self, writer: &mut Writer, now: u32) {
        for _ in 0..SWEEP.min(self.used()) {
            let slot = self.next_hand(writer);
            if let Some(flow) = self.record(slot).filter(|flow| flow.is_expired(now)) {
                self.drop(writer, slot, &flow.key);
            }
        }
    }

    /// Forgets the flow that is missed least of the next slots.
    fn evict(&self, writer: &mut Writer, now: u32) -> Option<Flow> {
        let window: [usize; WINDOW] = std::array::from_fn(|_| self.next_hand(writer));
        let flows = window.iter().filter_map(|slot| Some((*slot, self.record(*slot)?)));
        let (slot, victim) = flows.max_by_key(|(slot, flow)| (flow.dispensable(now), *slot))?;
        self.drop(writer, slot, &victim.key);
        self.evicted.fetch_add(1, Relaxed);
        Some(victim)
    }

    fn next_hand(&self, writer: &mut Writer) -> usize {
        let slot = writer.hand % self.used().max(1);
        writer.hand = slot + 1;
        slot
    }

    fn chain(&self, slot: usize, key: &Key) {
        let head = self.head(self.chain_of(key));
        let seen = self.word(slot, SEEN);
        seen.store(seen.load(Relaxed) & !u64::from(u32::MAX) | head.load(Relaxed), Relaxed);
        head.store(u64::from(number(slot)), Relaxed);
    }

    fn unchain(&self, slot: usize, key: &Key) {
        let next = self.word(slot, SEEN).load(Relaxed) & u64::from(u32::MAX);
        let head = self.head(self.chain_of(key));
        if head.load(Relaxed) == u64::from(number(slot)) {
            head.store(next, Relaxed);
            return;
        }
        let mut at = head.load(Relaxed);
        while let Some(before) = usize::try_from(at).ok().and_then(|at| at.checked_sub(1)) {
            let link = self.word(before, SEEN);
            at = link.load(Relaxed) & u64::from(u32::MAX);
            if at == u64::from(number(slot)) {
                link.store(link.load(Relaxed) & !u64::from(u32::MAX) | next, Relaxed);
                return;
            }
        }
    }

    fn chain_of(&self, key: &Key) -> usize {
        let [upper, lower] = words(key.client);
        let ports = u64::from(key.client_port) << 32 | u64::from(key.port) << 8 | u64::from(key.protocol);
        let hash = mix(mix(mix(self.seed, upper), lower), ports);
        #[expect(clippy::cast_possible_truncation, reason = "less than the capacity")]
        let chain = ((u128::from(hash) * self.capacity as u128) >> 64) as usize;
        chain
    }

    /// The record in `slot`, if that is taken.
    fn record(&self, slot: usize) -> Option<Flow> {
        let word = |index| self.word(slot, index).load(Relaxed);
        let kind = word(KIND);
        if kind & TAKEN == 0 {
            return None;
        }
        let (key, progress) = read_kind(kind, [address(word(0), word(1)), address(word(2), word(3))]);
        let seen = (word(SEEN) >> 32) as u32;
        Some(Flow { key, backend: address(word(4), word(5)), progress, seen })
    }

    /// Writes a record; its kind comes last, so that one half written is none.
    fn put(&self, slot: usize, flow: &Flow) {
        self.word(slot, KIND).store(0, Relaxed);
        fence(Release);
        for (index, address) in (0..).step_by(2).zip([flow.key.client, flow.key.service, flow.backend]) {
            let [upper, lower] = words(address);
            self.word(slot, index).store(upper, Relaxed);
            self.word(slot, index + 1).store(lower, Relaxed);
        }
        let seen = self.word(slot, SEEN);
        seen.store(u64::from(flow.seen) << 32 | seen.load(Relaxed) & u64::from(u32::MAX), Relaxed);
        self.word(slot, KIND).store(kind(&flow.key, flow.progress), Release);
    }

    fn used(&self) -> usize {
        let used = self.words_of().first().map_or(0, |used| used.load(Relaxed));
        usize::try_from(used).unwrap_or(usize::MAX).min(self.capacity)
    }

    fn head(&self, chain: usize) -> &AtomicU64 {
        &self.words_of()[HEADER + chain]
    }

    fn word(&self, slot: usize, index: usize) -> &AtomicU64 {
        &self.words_of()[HEADER + self.capacity + slot * RECORD + index]
    }

    fn words_of(&self) -> &[AtomicU64] {
        (*self.memory).as_ref()
    }
}

/// Index of a record's word with ports, protocol and progress. The ones before are its addresses.
const KIND: usize = 6;
/// Index of the word with the time of the last frame, and the next of the chain.
const SEEN: usize = 7;
/// A slot as links name it.
fn number(slot: usize) -> u32 {
    // A table has fewer slots.
    u32::try_from(slot + 1).unwrap_or(0)
}
