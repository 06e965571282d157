//! Rate limits: a rate and a burst.
//!
//! Excess traffic is dropped, not delayed: the switch has no queue that a shaper could drain slowly. A limit
//! is enforced by a token bucket, which is a single number: the time at which it is full again if nothing
//! more is taken (the virtual scheduling algorithm of ITU-T I.371). So workers share a bucket without a lock,
//! and it needs no refilling.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::addr::Timestamp;

/// Units of a bucket per second: 64 bytes at 1 Tbit/s are 16 units, and 64 bits last 18 years.
const SECOND: u64 = 32_000_000_000;

/// Units of a bucket per step of the clock.
const MILLISECOND: u64 = SECOND / 1000;

/// Upper bound on the fill time of a bucket, which keeps the arithmetic from overflowing: half a year.
const LONGEST: u64 = 1 << 59;

/// A rate and a burst, in frames for storm control and in bits for ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    rate: NonZeroU64,
    /// Fill time of an empty bucket.
    room: u64,
}

impl Limit {
    /// `rate` units per second with a burst of `burst` units: at least two milliseconds' worth, because the
    /// clock has steps of one, and what arrives between two steps arrives at once.
    pub fn new(rate: NonZeroU64, burst: u64) -> Self {
        let room = u128::from(burst) * u128::from(SECOND) / u128::from(rate.get());
        let room = u64::try_from(room).unwrap_or(LONGEST);
        Self { rate, room: room.clamp(2 * MILLISECOND, LONGEST) }
    }

    /// Time in which the bucket regains `units`.
    fn time_of(&self, units: u64) -> u64 {
        units.saturating_mul(SECOND).div_ceil(self.rate.get()).min(LONGEST)
    }
}

/// A token bucket for one thread. Initially full.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes `units` if the bucket holds them. A full bucket lets through even more than it holds, and
    /// recovers the excess afterwards.
    #[inline]
    pub(crate) fn take(&mut self, limit: &Limit, units: u64, now: Timestamp) -> bool {
        let after = self.after(limit, units, now);
        self.full_at = after.unwrap_or(self.full_at);
        after.is_some()
    }

    /// Number of units that may be taken at `now`.
    pub(crate) fn left(self, limit: &Limit, now: Timestamp) -> u64 {
        let missing = self.full_at.saturating_sub(now.as_millis().saturating_mul(MILLISECOND));
        let there = u128::from(limit.room.saturating_sub(missing)) * u128::from(limit.rate.get());
        u64::try_from(there / u128::from(SECOND)).unwrap_or(u64::MAX)
    }

    #[inline]
    fn after(self, limit: &Limit, units: u64, now: Timestamp) -> Option<u64> {
        let now = now.as_millis().saturating_mul(MILLISECOND);
        let missing = self.full_at.saturating_sub(now);
        let wanted = missing.saturating_add(limit.time_of(units));
        (missing == 0 || wanted <= limit.room).then(|| now.saturating_add(wanted))
    }
}

/// A token bucket that all workers share without waiting for each other.
#[derive(Debug, Default)]
pub(crate) struct SharedBucket(AtomicU64);

impl SharedBucket {
    /// As [`Bucket::take`].
    pub(crate) fn take(&self, limit: &Limit, units: u64, now: Timestamp) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |full_at| Bucket { full_at }.after(limit, units, now)).is_ok()
    }
}

/// Cost of `bytes` of wire frames under a port's limit.
pub(crate) fn bits(bytes: usize) -> u64 {
    bytes as u64 * 8
}

/// Limits of a port in each direction, in bits of wire frames with Ethernet header, without FCS. `None` is no
/// limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// Into the switch.
    pub rx: Option<Limit>,
    /// Out of the switch.
    pub tx: Option<Limit>,
}

/// The buckets of a port's [`Limits`].
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// Ingress. Used by one worker, or by several for a tunnel's peer.
    pub(crate) rx: SharedBucket,
    /// Egress. Used by all workers.
    pub(crate) tx: SharedBucket,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(rate: u64, burst: u64) -> Limit {
        Limit::new(NonZeroU64::new(rate).unwrap(), burst)
    }

    /// Units that pass when `offered` pieces of `size` come in each of `millis` milliseconds.
    fn passed(limit: Limit, size: u64, offered: usize, millis: u64) -> u64 {
        let bucket = SharedBucket::default();
        let times = (1..=millis).flat_map(|at| std::iter::repeat_n(Timestamp::from_millis(at), offered));
        times.filter(|now| bucket.take(&limit, size, *now)).count() as u64 * size
    }

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate() {
        assert_eq!(passed(limit(1_000_000, 50_000), 1000, 100, 1), 50_000);
        assert_eq!(passed(limit(1_000_000, 50_000), 1000, 100, 1001), 50_000 + 1_000_000);
        assert_eq!(passed(limit(1_000_000, 50_000), 1000, 1, 1001), 1_001_000, "no more than came");
    }

    #[test]
    fn the_rate_is_kept_whatever_its_size_and_that_of_the_pieces() {
        for rate in [64_000, 1_000_003, 100_000_000, 10_000_000_000] {
            for size in [512, 12_112, 550_000] {
                let (millis, burst) = (10_000_000 / rate.clamp(1000, 100_000), rate / 10);
                let offered = usize::try_from(rate / 1000 / size + 2).unwrap().min(200);
                let all = passed(limit(rate, burst), size, offered, millis);
                let most = burst + rate * millis / 1000 + size;
                assert!(all <= most, "{rate} in pieces of {size}: {all}");
                // Pieces larger than the bucket pass when it is full.
                let least = (most - burst).saturating_sub(3 * size) / 100 * 98;
                let came = size * offered as u64 * millis;
                assert!(all >= least.min(came), "{rate} in pieces of {size}: {all}");
            }
        }
    }

    #[test]
    fn small_pieces_pass_where_large_ones_do_not() {
        let (limit, bucket, now) = (limit(1_000_000, 10_000), SharedBucket::default(), Timestamp::default());
        assert!(bucket.take(&limit, 6_000, now));
        assert!(!bucket.take(&limit, 6_000, now));
        assert!(bucket.take(&limit, 500, now));
    }

    #[test]
    fn a_piece_larger_than_the_bucket_is_made_up_for() {
        let (limit, mut bucket) = (limit(1_000_000, 10_000), Bucket::default());
        assert_eq!(bucket.left(&limit, Timestamp::default()), 10_000);
        assert!(bucket.take(&limit, 500_000, Timestamp::from_millis(0)));
        assert!(!bucket.take(&limit, 1, Timestamp::from_millis(489)));
        assert!(bucket.take(&limit, 1, Timestamp::from_millis(491)));
        assert!(!bucket.take(&limit, 500_000, Timestamp::from_millis(491)));
    }

    #[test]
    fn extremes_neither_overflow_nor_block_for_ever() {
        for (rate, burst) in [(1, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX), (1, 0)] {
            let (limit, mut bucket) = (limit(rate, burst), Bucket::default());
            assert!(bucket.take(&limit, u64::MAX, Timestamp::from_millis(u64::MAX / 2)), "{rate} {burst}");
            let mut other = Bucket::default();
            assert!(other.take(&limit, 1, Timestamp::from_millis(5)));
            assert!(other.take(&limit, 1, Timestamp::from_millis(10_000)), "{rate} {burst}");
        }
    }
}
