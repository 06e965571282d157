//! How many addresses the table believes in, in all and by network.
//!
//! The table counts by port alone, and counts dead entries until they are swept; so who wants these numbers walks it. It is
//! walked ten times a second at most, however many ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use vswitch::{addr::NetworkId, fdb::Entry};

/// How long a count is good enough: for all that one picture of the switch is made of.
const FRESH: Duration = Duration::from_millis(100);

/// Counts addresses, and keeps the count for a moment.
#[derive(Debug, Default)]
pub(super) struct Census(Mutex<Option<(Instant, Arc<Macs>)>>);

/// Addresses that are believed.
#[derive(Debug, Default)]
pub(super) struct Macs {
    pub(super) all: usize,
    by_network: HashMap<NetworkId, u32>,
}

impl Macs {
    pub(super) fn of(&self, network: NetworkId) -> u32 {
        self.by_network.get(&network).copied().unwrap_or(0)
    }
}

impl Census {
    /// The count, taken anew from `entries` unless there is a fresh one.
    pub(super) fn take<I: Iterator<Item = Entry>>(&self, entries: impl FnOnce() -> I) -> Arc<Macs> {
        // A panic under the lock leaves the count before.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, macs)) = &*last
            && at.elapsed() < FRESH
        {
            return Arc::clone(macs);
        }
        let mut macs = Macs::default();
        for entry in entries() {
            macs.all += 1;
            *macs.by_network.entry(entry.network).or_default() += 1;
        }
        let macs = Arc::new(macs);
        *last = Some((Instant::now(), Arc::clone(&macs)));
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
        let (census, mut walks) = (Census::default(), 0);
        let start = Instant::now();
        for _ in 0..100 {
            let macs = census.take(|| {
                walks += 1;
                [entry(1, 1), entry(1, 2), entry(2, 1)].into_iter()
            });
            assert_eq!((macs.all, macs.of(NetworkId(1)), macs.of(NetworkId(3))), (3, 2, 0));
        }
        assert!(walks == 1 || start.elapsed() >= FRESH, "{walks} walks");
        std::thread::sleep(FRESH);
        assert_eq!(census.take(|| [].into_iter()).all, 0, "a count does not stay fresh");
    }
}
