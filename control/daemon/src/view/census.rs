//! The number of addresses in the table, in total, by network and by port.
//!
//! The table itself counts per port only what was learned, and includes dead entries until they are swept, so these numbers
//! need a walk. A count is reused while the table has learned and removed nothing, at most 100 ms, because entries expire without
//! an event.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use vswitch::{
    addr::{NetworkId, PortId},
    fdb::{Entry, Totals},
};

/// Maximum age of a reused count, in which entries may have expired.
const FRESH: Duration = Duration::from_millis(100);

/// Counts addresses and caches the count.
#[derive(Debug, Default)]
pub(super) struct Census(Mutex<Option<Count>>);

/// A count, its time, and the table's totals at that time.
#[derive(Debug)]
struct Count {
    at: Instant,
    totals: Totals,
    macs: Arc<Macs>,
}

/// Number of addresses that are not expired.
#[derive(Debug, Default)]
pub(super) struct Macs {
    pub(super) all: usize,
    by_network: HashMap<NetworkId, u32>,
    by_port: HashMap<PortId, u32>,
}

impl Macs {
    pub(super) fn of(&self, network: NetworkId) -> u32 {
        self.by_network.get(&network).copied().unwrap_or(0)
    }

    pub(super) fn on(&self, port: PortId) -> u32 {
        self.by_port.get(&port).copied().unwrap_or(0)
    }
}

impl Census {
    /// The count, recomputed from `entries` unless there is a fresh one for these `totals`.
    pub(super) fn take<I: Iterator<Item = Entry>>(
        &self,
        totals: Totals,
        entries: impl FnOnce() -> I,
    ) -> Arc<Macs> {
        // A panic under the lock leaves the previous count.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = &*last
            && count.totals == totals
            && count.at.elapsed() < FRESH
        {
            return Arc::clone(&count.macs);
        }
        let mut macs = Macs::default();
        for entry in entries() {
            macs.all += 1;
            *macs.by_network.entry(entry.network).or_default() += 1;
            *macs.by_port.entry(entry.port).or_default() += 1;
        }
        let macs = Arc::new(macs);
        *last = Some(Count { at: Instant::now(), totals, macs: Arc::clone(&macs) });
        macs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch::{
        addr::{MacAddr, PortId},
        fdb::Origin,
    };

    fn entry(network: u16, mac: u8) -> Entry {
        Entry {
            network: NetworkId(network),
            mac: MacAddr([2, 0, 0, 0, 0, mac]),
            port: PortId(0),
            origin: Origin::Learned,
            age: Duration::ZERO,
            held: false,
        }
    }

    #[test]
    fn the_table_is_walked_once_however_many_ask() {
        let (census, mut walks, totals) = (Census::default(), 0, Totals::default());
        let start = Instant::now();
        for _ in 0..100 {
            let macs = census.take(totals, || {
                walks += 1;
                [entry(1, 1), entry(1, 2), entry(2, 1)].into_iter()
            });
            assert_eq!((macs.all, macs.of(NetworkId(1)), macs.of(NetworkId(3))), (3, 2, 0));
        }
        assert!(walks == 1 || start.elapsed() >= FRESH, "{walks} walks");
        let more = Totals { learned: 1, ..totals };
        assert_eq!(census.take(more, || [entry(1, 1)].into_iter()).all, 1, "the table has changed");
        std::thread::sleep(FRESH);
        assert_eq!(census.take(more, || [].into_iter()).all, 0, "a count does not stay fresh");
    }
}
