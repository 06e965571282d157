//! The directory of a network: the stations of other hosts, as a control plane tells of them. Pure.
//!
//! It stands beside the [state](crate::state), not in it: it is neither requested by users nor stored, and there may be a
//! hundred thousand stations of which a change concerns one. So a change is applied in place, and answered by what it
//! [touched]: the edge looks at that alone.
//!
//! [touched]: Touched

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use vswitch::addr::MacAddr;
use vswitch_model::{
    Error,
    api::directory::{self, DirectoryUpdate, MOST_ADDRESSES, MOST_STATIONS, Station, Withdrawal},
};

/// What a control plane asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DirectoryChange {
    /// Exactly this, whatever was known before.
    Replace(directory::Directory),
    /// These changes.
    Update(DirectoryUpdate),
    /// None at all.
    Remove,
}

/// What a change touched: to be looked at again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Whether other hosts are in the network.
    pub(crate) hosts: bool,
    /// Stations.
    pub(crate) stations: HashSet<MacAddr>,
    /// IP addresses.
    pub(crate) addresses: HashSet<IpAddr>,
}

/// The directory of one network.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    hosts: Option<BTreeSet<IpAddr>>,
    stations: HashMap<MacAddr, Record>,
    /// The stations of each address: more than one while an address moves.
    holders: BTreeSet<(IpAddr, MacAddr)>,
}

/// What is known of a station.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    host: IpAddr,
    sequence: u64,
    addresses: Box<[IpAddr]>,
}

impl Directory {
    /// Applies a change.
    ///
    /// # Errors
    /// It is not one that can be applied; nothing has changed.
    pub(crate) fn apply(&mut self, change: DirectoryChange) -> Result<Touched, Error> {
        let mut touched = Touched::default();
        match change {
            DirectoryChange::Replace(directory::Directory { hosts, stations }) => {
                check(&stations, stations.len())?;
                touched.hosts = self.hosts != hosts;
                self.hosts = hosts;
                // Of two records of one station the later move counts, wherever it stands.
                let mut wanted: BTreeMap<MacAddr, Station> = BTreeMap::new();
                for station in stations {
                    let known = wanted.get(&station.mac).map(|known| known.sequence);
                    if known.is_none_or(|known| known <= station.sequence) {
                        wanted.insert(station.mac, station);
                    }
                }
                let gone: Vec<_> =
                    self.stations.keys().filter(|mac| !wanted.contains_key(mac)).copied().collect();
                gone.into_iter().for_each(|mac| self.remove(mac, &mut touched));
                wanted.into_values().for_each(|station| self.put(station, &mut touched));
            }
            DirectoryChange::Update(DirectoryUpdate { hosts, set, withdraw }) => {
                check(&set, self.stations.len() + set.len())?;
                if let Some(hosts) = hosts {
                    touched.hosts = self.hosts.as_ref() != Some(&hosts);
                    self.hosts = Some(hosts);
                }
                for Withdrawal { mac, sequence } in withdraw {
                    if self.stations.get(&mac).is_some_and(|known| known.sequence <= sequence) {
                        self.remove(mac, &mut touched);
                    }
                }
                for station in set {
                    let known = self.stations.get(&station.mac).map(|known| known.sequence);
                    if known.is_none_or(|known| known <= station.sequence) {
                        self.put(station, &mut touched);
                    }
                }
            }
            DirectoryChange::Remove => {
                touched.hosts = self.hosts.take().is_some();
                let gone: Vec<_> = self.stations.keys().copied().collect();
                gone.into_iter().for_each(|mac| self.remove(mac, &mut touched));
            }
        }
        Ok(touched)
    }

    fn put(&mut self, station: Station, touched: &mut Touched) {
        let Station { mac, addresses, host, sequence } = station;
        let record = Record { host, sequence, addresses: addresses.into() };
        if self.stations.get(&mac) == Some(&record) {
            return;
        }
        self.remove(mac, touched);
        touched.stations.insert(mac);
        for address in &record.addresses {
            touched.addresses.insert(*address);
            self.holders.insert((*address, mac));
        }
        self.stations.insert(mac, record);
    }

    fn remove(&mut self, mac: MacAddr, touched: &mut Touched) {
        let Some(record) = self.stations.remove(&mac) else { return };
        touched.stations.insert(mac);
        for address in record.addresses {
            touched.addresses.insert(address);
            self.holders.remove(&(address, mac));
        }
    }

    /// The hosts that are in the network; `None`: all peers may be.
    pub(crate) fn hosts(&self) -> Option<&BTreeSet<IpAddr>> {
        self.hosts.as_ref()
    }

    /// The host of a station.
    pub(crate) fn host(&self, mac: MacAddr) -> Option<IpAddr> {
        self.stations.get(&mac).map(|record| record.host)
    }

    /// The station that has an address: of several the one that came last.
    pub(crate) fn holder(&self, address: IpAddr) -> Option<MacAddr> {
        let from = (address, MacAddr::ZERO);
        let holders = self.holders.range(from..=(address, MacAddr::BROADCAST)).map(|(_, mac)| *mac);
        holders.max_by_key(|mac| (self.stations.get(mac).map(|record| record.sequence), *mac))
    }

    /// All stations, in no order.
    pub(crate) fn stations(&self) -> impl Iterator<Item = MacAddr> {
        self.stations.keys().copied()
    }

    /// All their addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.holders.iter().map(|(address, _)| *address)
    }

    /// Number of stations.
    pub(crate) fn len(&self) -> usize {
        self.stations.len()
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.is_none() && self.stations.is_empty()
    }

    /// All of it, as it was given; the stations by address.
    pub(crate) fn spec(&self) -> directory::Directory {
        let station = |(mac, record): (&MacAddr, &Record)| Station {
            mac: *mac,
            addresses: record.addresses.to_vec(),
            host: record.host,
            sequence: record.sequence,
        };
        let mut stations: Vec<_> = self.stations.iter().map(station).collect();
        stations.sort_by_key(|station| station.mac);
        directory::Directory { hosts: self.hosts.clone(), stations }
    }
}

fn check(stations: &[Station], total: usize) -> Result<(), Error> {
    if total > MOST_STATIONS {
        return Err(Error::invalid(format!(
            "the directory of a network has at most {MOST_STATIONS} stations, not {total}"
        )));
    }
    for Station { mac, addresses, .. } in stations {
        if !mac.is_station() {
            return Err(Error::invalid(format!(
                "{mac} is a multicast or zero address, which no station can have"
            )));
        }
        if addresses.len() > MOST_ADDRESSES {
            let many = addresses.len();
            return Err(Error::invalid(format!("{mac} has {many} addresses: {MOST_ADDRESSES} at most")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
