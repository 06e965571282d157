//! Stations of other hosts: what [directories](crate::directory) tell, in the table and at the ports.
//!
//! A station is pinned to the port of the peer that is its host, as far as there is one. A station that this host has a port
//! for is here, whatever a directory says. A change of a directory looks at what it touched alone; a change of the ports or
//! networks, which may make other peers or stations local, looks at everything if it did.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use tracing::warn;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    fdb::{Fdb, Origin},
    neighbours::Neighbours,
};

use super::Edge;
use crate::{
    directory::{Directory, DirectoryChange, Touched},
    state::{Layout, State},
};
use vswitch_model::{Error, Name, api::directory};

/// The directories, and what is done by them.
#[derive(Debug, Default)]
pub(super) struct Remote {
    directories: BTreeMap<Name, Directory>,
    pub(super) neighbours: Arc<Neighbours>,
    /// The stations that are pinned to peers.
    pinned: HashMap<(NetworkId, MacAddr), PortId>,
    around: Around,
    /// Whether entries were removed from the table behind our back.
    pub(super) stale: bool,
}

/// What pins depend on besides the directories.
#[derive(Debug, Default, PartialEq, Eq)]
struct Around {
    /// The numbers of networks that have a directory.
    networks: BTreeMap<Name, NetworkId>,
    /// The peers' ports, by tunnel address.
    ways: HashMap<IpAddr, PortId>,
    /// The stations of this host's own ports.
    local: HashSet<(NetworkId, MacAddr)>,
}

/// What follows from a change of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// Entries of the table, which are made.
    Entries,
    /// The workers need a new plan.
    Plan,
}

impl Edge {
    /// Changes the directory of the network `name`.
    ///
    /// # Errors
    /// The change is not one that can be made; nothing was.
    pub(crate) fn change_directory(
        &mut self,
        name: &Name,
        network: NetworkId,
        change: DirectoryChange,
    ) -> Result<Consequence, Error> {
        let Remote { directories, around, .. } = &mut self.remote;
        let is_new = !directories.contains_key(name);
        let directory = directories.entry(name.clone()).or_default();
        let touched = directory.apply(change).inspect_err(|_| {
            if is_new {
                directories.remove(name);
            }
        })?;
        let is_known = around.networks.contains_key(name);
        let is_over = directories.get(name).is_some_and(Directory::is_empty);
        if is_over {
            directories.remove(name);
        }
        let is_crowded = self.grow_table();
        if touched.hosts || is_over || !is_known || is_crowded {
            // All is settled with the plan.
            self.remote.stale = true;
            return Ok(Consequence::Plan);
        }
        self.remote.settle(&self.fdb, self.workers.now(), (Some(name), network), &touched);
        Ok(Consequence::Entries)
    }

    /// The directory of the network `name`, as it was given.
    pub(crate) fn directory(&self, name: &Name) -> directory::Directory {
        self.remote.directories.get(name).map(Directory::spec).unwrap_or_default()
    }

    /// Replaces a table that is too small for all pinned stations by a larger one, which the next plan uses.
    fn grow_table(&mut self) -> bool {
        let stations: usize = self.remote.directories.values().map(Directory::len).sum();
        let large = self.fdb.grown(stations + self.stations.len(), self.workers.now());
        let Some(large) = large.map(Arc::new) else { return false };
        if let Ok(fast) = &self.fast {
            fast.follow(&large);
        }
        self.fdb = large;
        true
    }

    /// Puts what directories say into the layout of the next plan.
    pub(super) fn direct(&mut self, layout: &mut Layout, state: &State) {
        self.remote.directories.retain(|name, _| state.network(name).is_some());
        let uses_group = state
            .endpoint()
            .is_some_and(|port| port.device.endpoint().is_some_and(|endpoint| endpoint.group.is_some()));
        let ways = ways(state);
        for (name, directory) in &self.remote.directories {
            let Some(id) = state.network(name).map(|network| network.id) else { continue };
            let Some(network) = layout.networks.iter_mut().find(|network| network.id == id) else { continue };
            network.answers = true;
            // With a group of the underlay a flooded frame reaches all hosts anyway.
            network.floods_to = directory.hosts().filter(|_| !uses_group).map(|hosts| {
                let mut ports: Vec<_> = hosts.iter().filter_map(|host| ways.get(host).copied()).collect();
                ports.sort_unstable();
                ports
            });
        }
    }

    /// Pins stations of other hosts after a change of ports or networks.
    pub(super) fn pin_remote(&mut self, state: &State) {
        if self.remote.directories.is_empty() && self.remote.pinned.is_empty() {
            return;
        }
        let networks: BTreeMap<_, _> = self
            .remote
            .directories
            .keys()
            .filter_map(|name| Some((name.clone(), state.network(name)?.id)))
            .collect();
        let local = local(state, &networks);
        let around = Around { networks, ways: ways(state), local };
        let before = std::mem::replace(&mut self.remote.around, around);
        let is_stale = std::mem::take(&mut self.remote.stale);
        let around = &self.remote.around;
        if is_stale || before.networks != around.networks || before.ways != around.ways {
            self.remote.settle_all(&self.fdb, self.workers.now());
            return;
        }
        let moved: Vec<_> = before.local.symmetric_difference(&around.local).copied().collect();
        let names: HashMap<_, _> = around.networks.iter().map(|(name, id)| (*id, name.clone())).collect();
        for (network, mac) in moved {
            let touched = Touched { stations: [mac].into(), ..Touched::default() };
            self.remote.settle(&self.fdb, self.workers.now(), (names.get(&network), network), &touched);
        }
    }
}

impl Remote {
    /// Makes what was touched in a network what its directory says, if it has one.
    fn settle(
        &mut self,
        fdb: &Fdb,
        now: Timestamp,
        (name, network): (Option<&Name>, NetworkId),
        touched: &Touched,
    ) {
        let Self { directories, pinned, around, neighbours, .. } = self;
        let directory = name.and_then(|name| directories.get(name));
        for &mac in &touched.stations {
            let is_local = around.local.contains(&(network, mac));
            let host = directory.and_then(|it| it.host(mac)).filter(|_| !is_local);
            if let Some(&port) = host.and_then(|host| around.ways.get(&host)) {
                if !fdb.pin(network, mac, port, Origin::Control, now) {
                    warn!(%mac, network = network.0, "not pinned to its host's port: it is pinned by command");
                }
                pinned.insert((network, mac), port);
            } else if let Some(port) = pinned.remove(&(network, mac))
                // A station of this host may be pinned to its own port by now.
                && fdb.lookup(fdb.station(network, mac), now) == Some(port)
            {
                fdb.unpin(network, mac, Origin::Control);
            }
        }
        let holder = |address: &IpAddr| directory.and_then(|it| it.holder(*address));
        neighbours.change(touched.addresses.iter().map(|address| ((network, *address), holder(address))));
    }

    /// The same for all that there is and was.
    fn settle_all(&mut self, fdb: &Fdb, now: Timestamp) {
        let mut all: BTreeMap<NetworkId, (Option<Name>, Touched)> = BTreeMap::new();
        for (network, mac) in self.pinned.keys() {
            all.entry(*network).or_default().1.stations.insert(*mac);
        }
        for (network, address) in self.neighbours.addresses() {
            all.entry(network).or_default().1.addresses.insert(address);
        }
        for (name, network) in &self.around.networks {
            let (known_as, touched) = all.entry(*network).or_default();
            *known_as = Some(name.clone());
            touched.stations.extend(self.directories[name].stations());
            touched.addresses.extend(self.directories[name].addresses());
        }
        for (network, (name, touched)) in all {
            self.settle(fdb, now, (name.as_ref(), network), &touched);
        }
    }
}

/// The peers' ports, by tunnel address.
fn ways(state: &State) -> HashMap<IpAddr, PortId> {
    state.ports().filter_map(|port| Some((port.spec.device.peer()?.remote.ip(), port.id))).collect()
}

/// The stations of this host's own ports in these networks.
fn local(state: &State, networks: &BTreeMap<Name, NetworkId>) -> HashSet<(NetworkId, MacAddr)> {
    let own = |port: crate::state::Port| {
        let network = networks.get(port.spec.carries.untagged()?)?;
        Some((*network, port.spec.interface()?.mac?))
    };
    state.ports().filter_map(own).collect()
}
