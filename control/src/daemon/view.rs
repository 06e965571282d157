//! What is wanted and what is real, in the API's words.

use std::{collections::HashMap, path::Path, time::Duration};

use vswitch::{
    addr::{NetworkId, PortId},
    counters::PortTotals,
    fdb,
};

use super::edge::Edge;
use crate::{
    api::types::{
        Action, Change, Direction, Drop, Fates, FdbEntry, FdbFilter, Network, Origin, Port, PortState,
        PortStats, StaticEntry, Stats, Status, Traffic, Worker,
    },
    link::host_ifname,
    model::{DeviceSpec, Name},
    state::{self, State},
};

/// Numbers to names, for one answer.
pub(super) struct Names {
    networks: HashMap<NetworkId, Name>,
    ports: HashMap<PortId, Name>,
}

impl Names {
    pub(super) fn of(state: &State) -> Self {
        Self {
            networks: state.networks().map(|it| (it.id, it.spec.name.clone())).collect(),
            ports: state.ports().map(|it| (it.id, it.spec.name.clone())).collect(),
        }
    }

    /// The network's name; empty if it is gone by now.
    pub(super) fn network(&self, id: NetworkId) -> &str {
        self.networks.get(&id).map_or("", Name::as_str)
    }

    /// The port's name; empty if it is gone by now.
    pub(super) fn port(&self, id: PortId) -> &str {
        self.ports.get(&id).map_or("", Name::as_str)
    }
}

pub(super) fn status(state: &State, edge: &Edge, config: &Path, uptime: Duration) -> Status {
    let up = state.ports().filter(|port| edge.port(port.id).is_some_and(|port| port.device.is_ok())).count();
    Status {
        name: state.switch().name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: uptime.as_secs(),
        config: Some(config.to_owned()),
        networks: count(state.networks().count()),
        ports: count(state.ports().count()),
        ports_up: count(up),
        macs: count(edge.fdb.entries(edge.workers.now()).count()),
        mac_limit: state.switch().mac_limit,
        workers: workers(state, edge),
    }
}

fn workers(state: &State, edge: &Edge) -> Vec<Worker> {
    let served = |worker: usize| {
        state.ports().filter(|port| edge.port(port.id).is_some_and(|port| port.worker == worker)).count()
    };
    let counters = edge.workers.counters().enumerate();
    let worker = |(number, counters): (usize, &vswitch::worker::WorkerCounters)| Worker {
        id: u16::try_from(number).unwrap_or(u16::MAX),
        ports: count(served(number)),
        turns: counters.turns.read(),
        frames: counters.frames.read(),
    };
    counters.map(worker).collect()
}

/// Addresses known in each network.
pub(super) fn macs_by_network(edge: &Edge) -> HashMap<NetworkId, u32> {
    let mut macs = HashMap::new();
    for entry in edge.fdb.entries(edge.workers.now()) {
        *macs.entry(entry.network).or_default() += 1;
    }
    macs
}

/// Learned addresses that are believed now.
pub(super) fn learned(edge: &Edge) -> usize {
    edge.fdb.entries(edge.workers.now()).filter(|entry| entry.origin == fdb::Origin::Learned).count()
}

pub(super) fn network(state: &State, network: &state::Network, macs: &HashMap<NetworkId, u32>) -> Network {
    let name = &network.spec.name;
    let carries = |port: &state::Port| port.spec.carries.networks().any(|carried| carried == name);
    Network {
        spec: (*network.spec).clone(),
        declared: network.origin == state::Origin::File,
        ports: state.ports().filter(carries).map(|port| port.spec.name.clone()).collect(),
        macs: macs.get(&network.id).copied().unwrap_or(0),
    }
}

pub(super) fn port(edge: &Edge, port: &state::Port) -> Port {
    let spec = &port.spec;
    let real = edge.port(port.id);
    let totals = totals(edge, port.id);
    let reason = real.and_then(|real| real.device.as_ref().err().cloned());
    let (kind, device) = match &spec.device {
        DeviceSpec::Tap(_) => ("tap", spec.ifname().to_owned()),
        DeviceSpec::Veth(_) => ("veth", host_ifname(&spec.name)),
        DeviceSpec::Packet { device } => ("packet", device.clone()),
    };
    Port {
        name: spec.name.clone(),
        id: port.id.0,
        declared: port.origin == state::Origin::File,
        network: spec.carries.untagged().cloned(),
        trunk: spec.carries.tagged().to_vec(),
        kind: kind.to_owned(),
        device,
        netns: spec.interface().and_then(|interface| interface.netns.as_ref()).map(ToString::to_string),
        state: if reason.is_none() { PortState::Up } else { PortState::Down },
        reason,
        mtu: port.mtu,
        offload: spec.offload,
        worker: real.map_or(0, |real| u16::try_from(real.worker).unwrap_or(u16::MAX)),
        macs: edge.fdb.learned_on(port.id),
        rx: received(&totals),
        tx: sent(&totals),
        fates: Fates {
            unicast: totals.unicast,
            flooded: totals.flooded,
            offered: totals.offered,
            segments: totals.tx_segments,
            overflow: real
                .and_then(|real| real.device.as_ref().ok())
                .map_or(0, |open| open.device.overflow()),
        },
        drops: drops(edge, port),
    }
}

pub(super) fn drops(edge: &Edge, port: &state::Port) -> Vec<Drop> {
    let totals = totals(edge, port.id);
    let drop = |(reason, frames): (vswitch::drops::DropReason, u64)| Drop {
        port: port.spec.name.clone(),
        direction: if reason.is_egress() { Direction::Tx } else { Direction::Rx },
        reason: reason.name().to_owned(),
        frames,
        hint: reason.hint().to_owned(),
    };
    totals.drops().map(drop).collect()
}

pub(super) fn stats(state: &State, edge: &Edge, uptime: Duration) -> Stats {
    let port = |port: state::Port| {
        let totals = totals(edge, port.id);
        PortStats {
            port: port.spec.name.clone(),
            rx: received(&totals),
            tx: sent(&totals),
            drops: totals.drops().map(|(_, frames)| frames).sum(),
        }
    };
    Stats {
        at_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        ports: state.ports().map(port).collect(),
        workers: workers(state, edge),
    }
}

pub(super) fn fdb(state: &State, edge: &Edge, filter: &FdbFilter) -> Vec<FdbEntry> {
    let ports: HashMap<_, _> = state.ports().map(|port| (port.id, port.spec.name.clone())).collect();
    let networks: HashMap<_, _> = state.networks().map(|it| (it.id, it.spec.name.clone())).collect();
    let entries = edge.fdb.entries(edge.workers.now()).filter_map(|entry| {
        let (network, port) = (networks.get(&entry.network)?, ports.get(&entry.port)?);
        let wanted = filter.network.as_ref().is_none_or(|wanted| wanted == network)
            && filter.port.as_ref().is_none_or(|wanted| wanted == port)
            && filter.mac.is_none_or(|wanted| wanted == entry.mac);
        let learned = entry.origin == fdb::Origin::Learned;
        wanted.then(|| FdbEntry {
            network: network.clone(),
            mac: entry.mac,
            port: port.clone(),
            origin: if learned { Origin::Learned } else { Origin::Static },
            age_ms: learned.then(|| u64::try_from(entry.age.as_millis()).unwrap_or(u64::MAX)),
            held: entry.held,
        })
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by(|a, b| (&a.network, a.mac).cmp(&(&b.network, b.mac)));
    entries
}

pub(super) fn pinned(entry: StaticEntry) -> FdbEntry {
    let StaticEntry { network, mac, port } = entry;
    FdbEntry { network, mac, port, origin: Origin::Static, age_ms: None, held: false }
}

/// A difference, from its line: `+ network red`, `~ port web: isolated false -> true`.
pub(super) fn change(change: &state::Change) -> Change {
    use state::{Change as Difference, Delta};
    let action = match change {
        Difference::Network(Delta::Added(_)) | Difference::Port(Delta::Added(_)) => Action::Add,
        Difference::Network(Delta::Removed(_)) | Difference::Port(Delta::Removed(_)) => Action::Remove,
        _ => Action::Change,
    };
    let (object, name) = match change {
        Difference::Switch { new, .. } => ("switch", new.name.clone()),
        Difference::Network(
            Delta::Added(network) | Delta::Removed(network) | Delta::Changed { new: network, .. },
        ) => ("network", network.spec.name.to_string()),
        Difference::Port(Delta::Added(port) | Delta::Removed(port) | Delta::Changed { new: port, .. }) => {
            ("port", port.spec.name.to_string())
        }
    };
    let line = change.to_string();
    let detail = line.split_once(": ").map_or("", |(_, detail)| detail);
    Change { action, object: object.to_owned(), name, detail: detail.to_owned() }
}

fn totals(edge: &Edge, port: PortId) -> PortTotals {
    edge.port(port).map(|port| PortTotals::sum(&port.counters)).unwrap_or_default()
}

fn received(totals: &PortTotals) -> Traffic {
    Traffic { frames: totals.rx_frames, bytes: totals.rx_bytes, super_frames: totals.rx_super }
}

fn sent(totals: &PortTotals) -> Traffic {
    Traffic { frames: totals.tx_frames, bytes: totals.tx_bytes, super_frames: totals.tx_super }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
