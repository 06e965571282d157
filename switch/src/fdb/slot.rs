//! Memory layout of entries, and the only code that accesses the atomics.
//!
//! A slot is two 64-bit words, key and value. A writer (there is one at a time) clears the key, writes the
//! value, then writes the key; a reader reads key, value, key. So a value is returned only for the key it was
//! written for. The one exception requires that between two loads a key is removed, another key is inserted
//! and removed, and the first key is inserted again; its effect is one frame to another port of the same
//! network, because the topology is consulted afterwards.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
    time::Duration,
};

use super::Origin;
use crate::addr::{MacAddr, NetworkId, PortId, Timestamp};

/// Slots of a bucket: four times 16 bytes are one cache line.
pub(super) const SLOTS: usize = 4;

/// Network (16 bits) and MAC address (48 bits), with the group bit of the address inverted: so zero, which
/// marks a free slot, belongs to a group address, which is never looked up. Without the inversion it would
/// belong to the zero address, to which frames may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

/// The I/G bit in [`MacAddr::to_bits`].
const GROUP: u64 = 1 << 40;

impl Key {
    pub(super) fn new(network: NetworkId, mac: MacAddr) -> Self {
        Self((u64::from(network.0) << 48 | mac.to_bits()) ^ GROUP)
    }

    pub(super) fn parts(self) -> (NetworkId, MacAddr) {
        (NetworkId((self.0 >> 48) as u16), MacAddr::from_bits(self.0 ^ GROUP))
    }

    /// Mixes all bits into both halves: a multiplication by the golden ratio whose upper half is folded back.
    #[inline]
    pub(super) fn hash(self, seed: u64) -> u64 {
        let product = u128::from(self.0 ^ seed) * 0x9e37_79b9_7f4a_7c15;
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is meant")]
        let (upper, lower) = ((product >> 64) as u64, product as u64);
        upper ^ lower
    }
}

/// A point in time in units of 256 ms, modulo 2^24 (49 days).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tick(u32);

const TICK_BITS: u32 = 24;
const TICK_MASK: u32 = (1 << TICK_BITS) - 1;
const TICK_MILLIS: u64 = 256;

impl From<Timestamp> for Tick {
    fn from(at: Timestamp) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^24 is what is meant")]
        Self((at.as_millis() / TICK_MILLIS) as u32 & TICK_MASK)
    }
}

impl Tick {
    /// `duration` in ticks, at most a quarter of the cycle (12 days), so that "older" stays decidable.
    pub(super) fn span(duration: Duration) -> u32 {
        let longest = TICK_MASK / 4;
        u32::try_from(duration.as_millis() / u128::from(TICK_MILLIS)).unwrap_or(longest).min(longest)
    }

    /// Whether more than `span` ticks lie between this and `now`. Never true for a time after `now`: another
    /// worker may have read the clock a moment later.
    pub(super) fn is_older_than(self, span: u32, now: Self) -> bool {
        let ticks = now.0.wrapping_sub(self.0) & TICK_MASK;
        ticks > span && ticks <= TICK_MASK / 2
    }

    pub(super) fn age(self, now: Self) -> Duration {
        let ticks = now.0.wrapping_sub(self.0) & TICK_MASK;
        let millis = if ticks <= TICK_MASK / 2 { u64::from(ticks) * TICK_MILLIS } else { 0 };
        Duration::from_millis(millis)
    }
}

/// Port (16 bits), last seen (24), flush number (20), origin (2), held (1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value(u64);

const SEEN: u32 = 16;
const BORN: u32 = SEEN + TICK_BITS;
const ORIGIN: u32 = BORN + BORN_BITS;
const HELD: u64 = 1 << (ORIGIN + 2);
const BORN_BITS: u32 = 20;

/// The last flush number; after it, numbering restarts with an empty table.
pub(super) const BORN_MAX: u32 = (1 << BORN_BITS) - 1;

impl Value {
    pub(super) fn new(port: PortId, seen: Tick, born: u32, origin: Origin) -> Self {
        debug_assert!(born <= BORN_MAX);
        Self(
            u64::from(port.0)
                | u64::from(seen.0) << SEEN
                | u64::from(born) << BORN
                | (origin as u64) << ORIGIN,
        )
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are the port")]
    pub(super) fn port(self) -> PortId {
        PortId(self.0 as u16)
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to 24 bits")]
    pub(super) fn seen(self) -> Tick {
        Tick((self.0 >> SEEN) as u32 & TICK_MASK)
    }

    pub(super) fn born(self) -> u32 {
        (self.0 >> BORN) as u32 & BORN_MAX
    }

    pub(super) fn origin(self) -> Origin {
        match self.0 >> ORIGIN & 0b11 {
            0 => Origin::Learned,
            1 => Origin::Control,
            _ => Origin::Static,
        }
    }

    pub(super) fn is_held(self) -> bool {
        self.0 & HELD != 0
    }

    pub(super) fn held(self, held: bool) -> Self {
        Self(if held { self.0 | HELD } else { self.0 & !HELD })
    }

    fn with_seen(self, seen: Tick) -> Self {
        Self(self.0 & !(u64::from(TICK_MASK) << SEEN) | u64::from(seen.0) << SEEN)
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// Zero: free.
    key: AtomicU64,
    value: AtomicU64,
}

/// Four slots in one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Bucket([Slot; SLOTS]);

impl Bucket {
    /// Prefetches the cache line.
    #[inline]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the safe prefetch is not stable yet"))]
    pub(super) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is part of x86-64, and a prefetch reads nothing, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(self).cast());
        }
    }

    /// The slot that holds `key`, and its value; at most one does.
    ///
    /// All four are compared: the slot of a key is random, and a mispredicted branch costs more than three
    /// loads from a cached line.
    #[inline(always)]
    pub(super) fn find(&self, key: Key) -> Option<(usize, Value)> {
        let matches = |slot: usize| u32::from(self.0[slot].key.load(Acquire) == key.0) << slot;
        let matches = matches(0) | matches(1) | matches(2) | matches(3);
        if matches == 0 {
            return None;
        }
        let slot = matches.trailing_zeros() as usize;
        let value = Value(self.0[slot].value.load(Acquire));
        // The value belongs to the key only if the key is still there: pairs with the fence in `clear`.
        fence(Acquire);
        (self.0[slot].key.load(Relaxed) == key.0).then_some((slot, value))
    }

    pub(super) fn read(&self, slot: usize) -> Option<(Key, Value)> {
        let key = self.0[slot].key.load(Acquire);
        let value = Value(self.0[slot].value.load(Acquire));
        fence(Acquire);
        (key != 0 && self.0[slot].key.load(Relaxed) == key).then_some((Key(key), value))
    }

    /// Records that the station was seen. Does nothing if the slot has changed meanwhile.
    pub(super) fn refresh(&self, slot: usize, value: Value, seen: Tick) {
        let next = value.with_seen(seen).0;
        // Losing the race means that another thread has written a newer value.
        let _ = self.0[slot].value.compare_exchange(value.0, next, Relaxed, Relaxed);
    }

    // The functions below require the writer's lock.

    pub(super) fn first_free(&self) -> Option<usize> {
        self.0.iter().position(|slot| slot.key.load(Relaxed) == 0)
    }

    /// Fills a free slot.
    pub(super) fn fill(&self, slot: usize, key: Key, value: Value) {
        self.0[slot].value.store(value.0, Relaxed);
        self.0[slot].key.store(key.0, Release);
    }

    /// Replaces the value of the key in the slot.
    pub(super) fn set(&self, slot: usize, value: Value) {
        self.0[slot].value.store(value.0, Release);
    }

    pub(super) fn clear(&self, slot: usize) {
        self.0[slot].key.store(0, Relaxed);
        // A reader that saw the old key must not see a later value: pairs with the fence in `find`.
        fence(Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_parts_apart() {
        let seen = Tick(0x00ab_cdef);
        let value = Value::new(PortId(0x1234), seen, BORN_MAX, Origin::Control).held(true);
        assert_eq!(value.port(), PortId(0x1234));
        assert_eq!(value.seen(), seen);
        assert_eq!(value.born(), BORN_MAX);
        assert_eq!(value.origin(), Origin::Control);
        assert!(value.is_held() && !value.held(false).is_held());
        assert_eq!(value.with_seen(Tick(1)).seen(), Tick(1));
        assert_eq!(value.with_seen(Tick(1)).port(), PortId(0x1234));
    }

    #[test]
    fn older_is_decided_across_the_wrap_and_never_for_the_future() {
        let ticks = Tick::span(Duration::from_secs(300));
        assert!(!Tick(10).is_older_than(ticks, Tick(10 + ticks)));
        assert!(Tick(10).is_older_than(ticks, Tick(11 + ticks)));
        assert!(Tick(TICK_MASK).is_older_than(ticks, Tick(ticks)));
        assert!(!Tick(TICK_MASK).is_older_than(ticks, Tick(ticks - 1)));
        assert!(!Tick(12).is_older_than(0, Tick(11)), "heard after now by another worker's clock");
    }
}
