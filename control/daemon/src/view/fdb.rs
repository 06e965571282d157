//! The MAC table.

use std::sync::Arc;

use vswitch::fdb;

use super::{Snapshot, census::Macs};
use vswitch_model::{
    Error,
    api::{FdbEntry, FdbFilter, Origin, StaticEntry},
};

impl Snapshot {
    /// The entries that match `filter`, by network and address.
    ///
    /// # Errors
    /// There is no such network or port.
    pub(crate) fn fdb(&self, filter: &FdbFilter) -> Result<Vec<FdbEntry>, Error> {
        filter.network.as_ref().map(|name| self.find_network(name)).transpose()?;
        filter.port.as_ref().map(|name| self.find_port(name)).transpose()?;
        Ok(self.entries(filter))
    }

    pub(super) fn entries(&self, filter: &FdbFilter) -> Vec<FdbEntry> {
        let names = self.names();
        let entries = self.live.fdb.entries(self.now()).filter_map(|entry| {
            let (network, port) = (names.find_network(entry.network)?, names.find_port(entry.port)?);
            let wanted = filter.network.as_ref().is_none_or(|wanted| wanted == network)
                && filter.port.as_ref().is_none_or(|wanted| wanted == port)
                && filter.mac.is_none_or(|wanted| wanted == entry.mac);
            let learned = entry.origin == fdb::Origin::Learned;
            wanted.then(|| FdbEntry {
                network: network.clone(),
                mac: entry.mac,
                port: port.clone(),
                origin: match entry.origin {
                    fdb::Origin::Learned => Origin::Learned,
                    fdb::Origin::Control => Origin::Pinned,
                    fdb::Origin::Static => Origin::Static,
                },
                age_ms: learned.then(|| u64::try_from(entry.age.as_millis()).unwrap_or(u64::MAX)),
                held: entry.held,
            })
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(|a, b| (&a.network, a.mac).cmp(&(&b.network, b.mac)));
        entries
    }

    /// Number of addresses that are not expired.
    pub(super) fn macs(&self) -> Arc<Macs> {
        self.census.take(self.live.fdb.totals(), || self.live.fdb.entries(self.now()))
    }
}

/// An entry that was just pinned.
pub(crate) fn pinned(entry: StaticEntry) -> FdbEntry {
    let StaticEntry { network, mac, port } = entry;
    FdbEntry { network, mac, port, origin: Origin::Static, age_ms: None, held: false }
}
