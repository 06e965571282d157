//! What a port has seen. One law holds per port at all times:
//!
//! `rx_frames = unicast + flooded + Σ drops met on the way in`, and for the way out
//! `offered = tx_frames + Σ drops met on the way out`.
//!
//! Each worker has counters of its own for each port, which only it writes, so counting is a plain add;
//! readers sum over the workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::drops::DropReason;

/// A number that one thread adds to and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only one thread may call this for a given counter.
    pub fn add(&self, n: u64) {
        // Not fetch_add: there is one writer, and a locked instruction costs more than the rest of the count.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! port_counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One worker's counters of one port.
        #[derive(Debug, Default)]
        pub struct PortCounters {
            $($(#[$doc])* pub $name: Counter,)*
            /// Frames not delivered, by [`DropReason::index`].
            pub drops: [Counter; DropReason::COUNT],
        }

        /// A port's counters at one moment, summed over the workers.
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub struct PortTotals {
            $($(#[$doc])* pub $name: u64,)*
            /// Frames not delivered, by [`DropReason::index`].
            pub drops: [u64; DropReason::COUNT],
        }

        impl PortTotals {
            /// What all workers counted.
            pub fn sum(workers: &[PortCounters]) -> Self {
                let mut totals = Self::default();
                for counters in workers {
                    $(totals.$name += counters.$name.read();)*
                    for (total, counter) in totals.drops.iter_mut().zip(&counters.drops) {
                        *total += counter.read();
                    }
                }
                totals
            }
        }
    };
}

port_counters! {
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

impl PortCounters {
    /// Fresh counters of one port, for `workers` workers.
    pub fn of_workers(workers: usize) -> std::sync::Arc<[Self]> {
        (0..workers).map(|_| Self::default()).collect()
    }

    /// Counts a frame that was not delivered.
    pub fn drop(&self, reason: DropReason) {
        self.drops[reason.index()].add(1);
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
