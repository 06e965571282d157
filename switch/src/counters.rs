//! What a port, a network and a worker have seen. One law holds per port at all times:
//!
//! `rx_frames = unicast + flooded + Σ drops met on the way in`, and for the way out
//! `offered = tx_frames + Σ drops met on the way out`. Of a network's frames only those that are flooded or dropped are
//! counted again; all others were sent to one port ([`NetworkTotals::unicast`]).
//!
//! Each worker has counters of its own for each port and network, which only it writes, so counting is a plain add;
//! readers sum over the workers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::drops::DropReason;

/// A number that one thread adds to and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only one thread may call this for a given counter.
    #[inline]
    pub fn add(&self, n: u64) {
        // Not fetch_add: there is one writer, and a locked instruction costs more than the rest of the count.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How often a value was about so large: one count for each power of two. One thread records, any may read.
///
/// The first place counts values up to 2^`FIRST`, each further one up to twice as much, the last whatever is larger.
#[derive(Debug)]
pub struct Histogram<const FIRST: u32, const PLACES: usize> {
    counts: [Counter; PLACES],
    sum: Counter,
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Distribution {
    /// Values counted by each place: the largest it counts (`None`: no limit), and how many there were.
    pub places: Vec<(Option<u64>, u64)>,
    /// All values together.
    pub sum: u64,
}

impl<const FIRST: u32, const PLACES: usize> Default for Histogram<FIRST, PLACES> {
    fn default() -> Self {
        Self { counts: [const { Counter(AtomicU64::new(0)) }; PLACES], sum: Counter::default() }
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

    /// What was counted so far.
    pub fn read(&self) -> Distribution {
        let bounds = (FIRST..).map(|power| Some(1 << power)).take(PLACES - 1).chain([None]);
        let places = bounds.zip(&self.counts).map(|(bound, count)| (bound, count.read())).collect();
        Distribution { places, sum: self.sum.read() }
    }
}

impl Distribution {
    /// How many values there were.
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
        #[derive(Debug, Default)]
        pub struct $counters {
            $($(#[$doc])* pub $name: Counter,)*
            $($(#[$list_doc])* pub $list: [Counter; $len],)*
        }

        $(#[$totals_meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub struct $totals {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$list_doc])* pub $list: [u64; $len],)*
        }

        impl $counters {
            /// Fresh counters, one for each of `workers` workers.
            pub fn of_workers(workers: usize) -> Arc<[Self]> {
                (0..workers).map(|_| Self::default()).collect()
            }
        }

        impl $totals {
            /// What all workers counted.
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
    /// One worker's counters of one port, on cache lines of their own: those of an ordinary frame on its way in and out are one.
    #[repr(C, align(64))]
    struct PortCounters;
    /// A port's counters at one moment, summed over the workers.
    struct PortTotals;
    counts {
        /// Frames received; a super-frame is one.
        rx_frames,
        /// Octets received, with Ethernet header, without FCS.
        rx_bytes,
        /// Super-frames among them.
        rx_super,
        /// Received frames that were sent to the one port their destination is behind.
        unicast,
        /// Received frames that were sent to every other port of their network.
        flooded,
        /// Frames that were to leave by this port.
        offered,
        /// Frames the device took; a super-frame is one, even if it was cut for the device.
        tx_frames,
        /// Octets of them before cutting.
        tx_bytes,
        /// Super-frames among them that left whole.
        tx_super,
        /// Wire frames that super-frames were cut into because the device does not take them whole.
        tx_segments,
    }
    lists {
        /// Frames not delivered, by [`DropReason::index`].
        drops: DropReason::COUNT,
    }
}

counters! {
    /// One worker's counters of one network: a cache line of its own.
    #[repr(align(64))]
    struct NetworkCounters;
    /// A network's counters at one moment, summed over the workers.
    struct NetworkTotals;
    counts {
        /// Frames received that belong to it; a super-frame is one.
        frames,
        /// Octets of them, with Ethernet header, without FCS.
        bytes,
        /// Super-frames among them.
        super_frames,
        /// Those that were sent to every other port of the network.
        flooded,
        /// Those that left by no port, for a reason counted at the port they came in by.
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
    /// Frames that were sent to the one port their destination is behind.
    pub fn unicast(&self) -> u64 {
        self.frames.saturating_sub(self.flooded + self.dropped)
    }
}

impl PortTotals {
    /// The drops of reasons that have any.
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
