//! Counters of ports, networks and workers. One law holds per port at all times:
//!
//! `rx_frames = unicast + flooded + answered + waiting + Σ ingress drops`, and for the other direction `offered = tx_frames + Σ
//! egress drops`. Of a network's frames only flooded, answered and dropped ones are counted separately; all others were
//! sent to one port ([`NetworkTotals::unicast`]).
//!
//! Each worker has its own counters for each port and network and is their only writer, so counting is a
//! plain add; readers sum over the workers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::drops::DropReason;

/// A counter with one writing thread and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn zero() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`. Only one thread may call this for a given counter.
    #[inline]
    pub fn add(&self, n: u64) {
        // Not fetch_add: there is one writer, and a locked instruction costs more than the rest of the count.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes away what was added before, of a counter that is no sum but a level.
    #[inline]
    pub(crate) fn take(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The count so far.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Histogram with one bucket per power of two. One thread records, any may read.
///
/// The first bucket counts values up to 2^`FIRST`, each further one up to twice as much, the last one all
/// larger values.
#[derive(Debug)]
pub struct Histogram<const FIRST: u32, const PLACES: usize> {
    counts: [Counter; PLACES],
    sum: Counter,
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Distribution {
    /// For each bucket, its inclusive upper bound (`None`: no bound) and the number of values in it.
    pub places: Vec<(Option<u64>, u64)>,
    /// Sum of all values.
    pub sum: u64,
}

impl<const FIRST: u32, const PLACES: usize> Default for Histogram<FIRST, PLACES> {
    fn default() -> Self {
        Self { counts: [const { Counter::zero() }; PLACES], sum: Counter::default() }
    }
}

impl<const FIRST: u32, const PLACES: usize> Histogram<FIRST, PLACES> {
    /// Counts `value`. Only one thread may call this for a given histogram.
    pub fn record(&self, value: u64) {
        let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
        let place = bits.saturating_sub(FIRST) as usize;
        self.counts[place.min(PLACES - 1)].add(1);
        self.sum.add(value);
    }

    /// The counts so far.
    pub fn read(&self) -> Distribution {
        let bounds = (FIRST..).map(|power| Some(1 << power)).take(PLACES - 1).chain([None]);
        let places = bounds.zip(&self.counts).map(|(bound, count)| (bound, count.read())).collect();
        Distribution { places, sum: self.sum.read() }
    }
}

impl Distribution {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.places.iter().map(|(_, count)| count).sum()
    }
}

macro_rules! counters {
    (
        $(#[$counters_meta:meta])* struct $counters:ident;
        $(#[$totals_meta:meta])* struct $totals:ident;
        counts { $($(#[$doc:meta])* $name:ident,)* }
        lists { $($(#[$list_doc:meta])* $list:ident: $len:expr,)* }
    ) => {
        $(#[$counters_meta])*
        #[derive(Debug)]
        pub struct $counters {
            $($(#[$doc])* pub $name: Counter,)*
            $($(#[$list_doc])* pub $list: [Counter; $len],)*
        }

        $(#[$totals_meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $totals {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$list_doc])* pub $list: [u64; $len],)*
        }

        // Arrays of more than 32 elements have no `Default`.
        impl Default for $counters {
            fn default() -> Self {
                Self { $($name: Counter::default(),)* $($list: [const { Counter::zero() }; $len],)* }
            }
        }

        impl Default for $totals {
            fn default() -> Self {
                Self { $($name: 0,)* $($list: [0; $len],)* }
            }
        }

        impl $counters {
            /// Fresh counters, one for each of `workers` workers.
            pub fn of_workers(workers: usize) -> Arc<[Self]> {
                (0..workers).map(|_| Self::default()).collect()
            }
        }

        impl $totals {
            /// The sum over all workers.
            pub fn sum(workers: &[$counters]) -> Self {
                let mut totals = Self::default();
                for counters in workers {
                    $(totals.$name += counters.$name.read();)*
                    $(for (total, counter) in totals.$list.iter_mut().zip(&counters.$list) {
                        *total += counter.read();
                    })*
                }
                totals
            }
        }
    };
}

counters! {
    /// One worker's counters of one port, on separate cache lines; those that an ordinary frame updates share
    /// one line.
    #[repr(C, align(64))]
    struct PortCounters;
    /// A port's counters at one moment, summed over the workers.
    struct PortTotals;
    counts {
        /// Frames received; a super-frame is one.
        rx_frames,
        /// Bytes received, with Ethernet header, without FCS.
        rx_bytes,
        /// Super-frames among them.
        rx_super,
        /// Received frames that were sent to the one port of their destination.
        unicast,
        /// Received frames that were flooded to the other ports of their network.
        flooded,
        /// Frames offered to this port for sending.
        offered,
        /// Frames that the device took; a super-frame is one, even if it was segmented for the device.
        tx_frames,
        /// Their bytes before segmentation.
        tx_bytes,
        /// Super-frames among them that were sent whole.
        tx_super,
        /// Wire frames that super-frames were cut into because the device does not take super-frames.
        tx_segments,
        /// Received frames that asked for a neighbour's address and were answered instead of flooded.
        answered,
        /// Received frames that wait to be [flooded](crate::spread) at this moment: no sum, it falls again.
        waiting,
    }
    lists {
        /// Frames not delivered, by [`DropReason::index`].
        drops: DropReason::COUNT,
    }
}

counters! {
    /// One worker's counters of one network, on a separate cache line.
    #[repr(align(64))]
    struct NetworkCounters;
    /// A network's counters at one moment, summed over the workers.
    struct NetworkTotals;
    counts {
        /// Frames received that belong to it; a super-frame is one.
        frames,
        /// Their bytes, with Ethernet header, without FCS.
        bytes,
        /// Super-frames among them.
        super_frames,
        /// Frames that were flooded to the other ports of the network.
        flooded,
        /// Questions for a neighbour's address that were answered instead of flooded.
        answered,
        /// Frames that wait to be [flooded](crate::spread) at this moment: no sum, it falls again.
        waiting,
        /// Frames that were not sent by any port; the reason is counted at their ingress port.
        dropped,
    }
    lists {}
}

impl PortCounters {
    /// Counts a frame that was not delivered.
    #[inline]
    pub fn drop(&self, reason: DropReason) {
        self.drops[reason.index()].add(1);
    }
}

impl NetworkTotals {
    /// Frames that were sent to the one port of their destination.
    pub fn unicast(&self) -> u64 {
        self.frames.saturating_sub(self.flooded + self.answered + self.waiting + self.dropped)
    }
}

impl PortTotals {
    /// The drop reasons with a nonzero count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.drops[reason.index()]))
            .filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_histogram_counts_by_powers_of_two() {
        let histogram = Histogram::<2, 4>::default();
        for value in [0, 1, 4, 5, 8, 9, 16, 17, u64::MAX >> 1] {
            histogram.record(value);
        }
        let read = histogram.read();
        assert_eq!(read.places, [(Some(4), 3), (Some(8), 2), (Some(16), 2), (None, 2)]);
        assert_eq!((read.count(), read.sum), (9, 60 + (u64::MAX >> 1)));
    }

    #[test]
    fn totals_are_the_sum_of_the_workers() {
        let workers = PortCounters::of_workers(2);
        workers[0].rx_frames.add(1);
        workers[1].rx_frames.add(2);
        workers[1].drop(DropReason::FullRing);
        let totals = PortTotals::sum(&workers);
        assert_eq!(totals.rx_frames, 3);
        assert_eq!(totals.drops().collect::<Vec<_>>(), [(DropReason::FullRing, 1)]);
        assert_eq!(size_of::<NetworkCounters>(), 64, "no line is shared with another worker");
        let ordinary = [offset_of!(PortCounters, rx_frames), offset_of!(PortCounters, tx_bytes)];
        assert!(ordinary.iter().all(|offset| *offset < 64), "one line for an ordinary frame: {ordinary:?}");
    }
}
