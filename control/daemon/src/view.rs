//! What is wanted and what is real, in the API's words.

use std::{collections::HashMap, path::Path, time::Duration};

use vswitch::{
    addr::{NetworkId, PortId},
    counters::{Distribution, PortTotals},
    drops::DropReason,
    fdb,
    worker::WorkerCounters,
};

use super::{device::OpenDevice, edge::Edge};
use crate::state::{self, State};
use vswitch_model::{
    Carries, DeviceSpec, EndpointSpec, Id, Name, NetworkSpec, PeerSpec, VXLAN_PORT, VxlanSpec,
    api::{
        Action, Change, Direction, Drop, Endpoint, Fates, FdbEntry, FdbFilter, Network, Origin, Port,
        PortState, PortStats, StaticEntry, Stats, Status, SubnetUsage, Traffic, Worker,
        counters::{Histogram, Load, NetworkStats, Place, TableStats},
        tunnel::{self, Features, Peer, PeerOrigin, Stranger, Tunnel},
    },
    ifname::veth_host_ifname,
};

/// Numbers to names, for one answer.
#[derive(Debug)]
pub(crate) struct Names {
    networks: HashMap<NetworkId, Name>,
    ports: HashMap<PortId, Name>,
}

impl Names {
    pub(crate) fn of(state: &State) -> Self {
        Self {
            networks: state.networks().map(|it| (it.id, it.spec.name.clone())).collect(),
            ports: state.ports().map(|it| (it.id, it.spec.name.clone())).collect(),
        }
    }

    /// The network's name; empty if it is gone by now.
    pub(crate) fn network(&self, id: NetworkId) -> &str {
        self.networks.get(&id).map_or("", Name::as_str)
    }

    /// The port's name; empty if it is gone by now.
    pub(crate) fn port(&self, id: PortId) -> &str {
        self.ports.get(&id).map_or("", Name::as_str)
    }
}

pub(crate) fn status(state: &State, edge: &Edge, config: &Path, uptime: Duration) -> Status {
    let is_up = |port: &state::Port| edge.port(port.id).is_some_and(|port| edge.why_down(port).is_none());
    let up = state.ports().filter(is_up).count();
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
        warnings: state.warnings(),
    }
}

/// The tunnel: this host's end, and its peers by name.
pub(crate) fn tunnel(state: &State, edge: &Edge) -> Tunnel {
    let endpoint = state.endpoint().and_then(|spec| match &spec.device {
        DeviceSpec::Vxlan(vxlan) => Some(tunnel_endpoint(state, edge, vxlan)),
        _ => None,
    });
    let peers = state.ports().filter_map(|port| match &port.spec.device {
        DeviceSpec::Peer(peer) => Some(tunnel_peer(state, edge, &port, peer)),
        _ => None,
    });
    Tunnel { endpoint, peers: peers.collect() }
}

fn tunnel_endpoint(state: &State, edge: &Edge, spec: &VxlanSpec) -> tunnel::Endpoint {
    let own = VxlanSpec::NAME.parse().ok().and_then(|name| state.port(&name));
    let reason = own.and_then(|port| edge.why_down(edge.port(port.id)?));
    let open = edge.endpoint();
    tunnel::Endpoint {
        local: spec.local,
        port: spec.port,
        group: spec.group,
        state: if reason.is_none() { PortState::Up } else { PortState::Down },
        reason,
        underlay_mtu: spec.underlay_mtu(),
        overlay_mtu: spec.overlay_mtu(),
        learn_peers: spec.learn_peers,
        features: open.map(|endpoint| {
            let features = endpoint.features();
            Features {
                datagrams_per_send: features.datagrams,
                gro: features.gro,
                receive_buffer: features.receive_buffer,
                send_buffer: features.send_buffer,
                inlets: endpoint.inlets(),
            }
        }),
        overflow: open.map_or(0, |endpoint| endpoint.lost().overflow),
        strangers: strangers(state, edge),
    }
}

/// Who sent without being a peer, and is none yet.
fn strangers(state: &State, edge: &Edge) -> Vec<Stranger> {
    let is_peer = |address| {
        let mut ports = state.ports();
        ports.any(|port| matches!(&port.spec.device, DeviceSpec::Peer(peer) if peer.remote == address))
    };
    let known = edge.endpoint().map(|endpoint| endpoint.strangers.list()).unwrap_or_default();
    let strangers = known.into_iter().filter(|stranger| !is_peer(stranger.address));
    strangers.map(|it| Stranger { address: it.address, messages: it.messages }).collect()
}

fn tunnel_peer(state: &State, edge: &Edge, port: &state::Port, peer: &PeerSpec) -> Peer {
    let real = edge.port(port.id);
    let totals = totals(edge, port.id);
    let reason = real.and_then(|real| edge.why_down(real));
    let held = state.networks().filter(|network| port.spec.holds(&network.spec));
    let endpoint = state.endpoint();
    let (default_port, underlay_mtu) = match endpoint.as_ref().map(|it| &it.device) {
        Some(DeviceSpec::Vxlan(endpoint)) => (endpoint.port, endpoint.underlay_mtu()),
        _ => (VXLAN_PORT, VxlanSpec::DEFAULT_UNDERLAY_MTU),
    };
    let path_mtu = match real.map(|real| &real.device) {
        Some(Ok(OpenDevice::Remote { path, .. })) => path.mtu(),
        _ => u16::MAX,
    };
    Peer {
        name: port.spec.name.clone(),
        address: peer.remote,
        port: peer.remote_port.unwrap_or(default_port),
        networks: held.map(|network| network.spec.name.clone()).collect(),
        origin: match port.origin {
            state::Origin::File => PeerOrigin::File,
            state::Origin::Api | state::Origin::Derived => PeerOrigin::Api,
            state::Origin::Learned => PeerOrigin::Learned,
        },
        state: if reason.is_none() { PortState::Up } else { PortState::Down },
        reason,
        path_mtu: path_mtu.min(underlay_mtu),
        heard_ms: real
            .and_then(|real| real.heard)
            .map(|heard| u64::try_from(heard.at.elapsed().as_millis()).unwrap_or(u64::MAX)),
        macs: edge.fdb.learned_on(port.id),
        rx: received(&totals),
        tx: sent(&totals),
        drops: totals.drops().map(|(_, frames)| frames).sum(),
    }
}

fn workers(state: &State, edge: &Edge) -> Vec<Worker> {
    let served = |worker: usize| {
        state.ports().filter(|port| edge.port(port.id).is_some_and(|port| port.worker == worker)).count()
    };
    let counters = edge.workers.counters().enumerate();
    let worker = |(number, counters): (usize, &WorkerCounters)| Worker {
        id: u16::try_from(number).unwrap_or(u16::MAX),
        ports: count(served(number)),
        turns: counters.turns.read(),
        frames: counters.frames.read(),
    };
    counters.map(worker).collect()
}

/// Addresses known in each network.
pub(crate) fn macs_by_network(edge: &Edge) -> HashMap<NetworkId, u32> {
    let mut macs = HashMap::new();
    for entry in edge.fdb.entries(edge.workers.now()) {
        *macs.entry(entry.network).or_default() += 1;
    }
    macs
}

/// Learned addresses that are believed now.
pub(crate) fn learned(edge: &Edge) -> usize {
    edge.fdb.entries(edge.workers.now()).filter(|entry| entry.origin == fdb::Origin::Learned).count()
}

/// All networks, by name: ours, and those that are there from the start.
pub(crate) fn networks(state: &State, edge: &Edge) -> Vec<Network> {
    let macs = macs_by_network(edge);
    let mut ports: HashMap<Name, Vec<Name>> = HashMap::new();
    for port in state.ports() {
        let name = &port.spec.name;
        let mut note = |network: &Name| ports.entry(network.clone()).or_default().push(name.clone());
        match &port.spec.carries {
            Carries::Tunnel { .. } => {
                let held = state.networks().filter(|network| port.spec.holds(&network.spec));
                held.for_each(|network| note(&network.spec.name));
            }
            carries => carries.named().for_each(&mut note),
        }
    }
    let mut endpoints: HashMap<Name, Vec<Endpoint>> = HashMap::new();
    for it in state.endpoints() {
        endpoints.entry(it.network.clone()).or_default().push(endpoint(state, edge, it));
    }
    let ours = state.networks().map(|network| {
        let name = &network.spec.name;
        let macs = macs.get(&network.id).copied().unwrap_or(0);
        show(
            &network,
            ports.remove(name).unwrap_or_default(),
            macs,
            endpoints.remove(name).unwrap_or_default(),
        )
    });
    let mut networks: Vec<_> = ours.chain(predefined()).collect();
    networks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    networks
}

/// One network, with how much of its subnets is in use.
pub(crate) fn network(state: &State, edge: &Edge, network: &state::Network) -> Network {
    let name = &network.spec.name;
    let carries = |port: &state::Port| port.spec.holds(&network.spec);
    let ports = state.ports().filter(carries).map(|port| port.spec.name.clone()).collect();
    let macs = macs_by_network(edge).get(&network.id).copied().unwrap_or(0);
    let endpoints = state.endpoints_of(name).map(|it| endpoint(state, edge, it)).collect();
    let mut shown = show(network, ports, macs, endpoints);
    let subnets = state.subnets_of(&network.spec).unwrap_or_default();
    shown.usage = subnets
        .iter()
        .map(|subnet| {
            let (used, available) = subnet.usage();
            SubnetUsage { subnet: subnet.net(), used, available }
        })
        .collect();
    shown
}

/// The networks that are there from the start.
pub(crate) fn predefined() -> impl Iterator<Item = Network> {
    state::predefined().into_iter().map(|spec| Network {
        scope: spec.driver().scope(),
        declared: true,
        ports: Vec::new(),
        macs: 0,
        endpoints: Vec::new(),
        usage: Vec::new(),
        warnings: Vec::new(),
        spec: NetworkSpec { id: Some(spec.id()), ..spec },
    })
}

fn show(network: &state::Network, ports: Vec<Name>, macs: u32, mut endpoints: Vec<Endpoint>) -> Network {
    let spec = &network.spec;
    endpoints.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    Network {
        scope: spec.driver().scope(),
        spec: NetworkSpec {
            id: Some(spec.id()),
            driver: Some(spec.driver()),
            mtu: Some(network.mtu),
            ..(**spec).clone()
        },
        declared: network.origin == state::Origin::File,
        ports,
        macs,
        endpoints,
        usage: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(crate) fn endpoint(state: &State, edge: &Edge, spec: &EndpointSpec) -> Endpoint {
    let network_id =
        state.network(&spec.network).map_or_else(|| Id::of(spec.network.as_str()), |it| it.spec.id());
    let real = state.port(&spec.port).and_then(|port| edge.port(port.id));
    let reason = real.and_then(|real| edge.why_down(real));
    Endpoint {
        spec: spec.clone(),
        network_id,
        state: if reason.is_none() { PortState::Up } else { PortState::Down },
        reason,
    }
}

pub(crate) fn port(state: &State, edge: &Edge, port: &state::Port) -> Port {
    let spec = &port.spec;
    let real = edge.port(port.id);
    let totals = totals(edge, port.id);
    let taught = real.map(|real| edge.fdb.learning_of_port(port.id).since(real.taught_before));
    let taught = taught.unwrap_or_default();
    let reason = real.and_then(|real| edge.why_down(real));
    let open = real.and_then(|real| real.device.as_ref().ok());
    let (kind, device) = match &spec.device {
        DeviceSpec::Tap(_) => ("tap", spec.ifname().to_owned()),
        DeviceSpec::Veth(_) => ("veth", veth_host_ifname(&spec.name)),
        DeviceSpec::Packet { device } => ("packet", device.clone()),
        DeviceSpec::Vxlan(endpoint) => ("vxlan", endpoint.local.to_string()),
        DeviceSpec::Peer(peer) => ("peer", peer.remote.to_string()),
        DeviceSpec::Collector(it) => ("collector", format!("{} vni {}", it.remote, it.vni)),
    };
    Port {
        name: spec.name.clone(),
        id: port.id.0,
        declared: port.origin == state::Origin::File,
        network: spec.carries.untagged().cloned(),
        trunk: spec.carries.tagged().to_vec(),
        mirror: match &spec.carries {
            Carries::Mirror { mirror } => Some(mirror.clone()),
            _ => None,
        },
        kind: kind.to_owned(),
        device,
        netns: spec.interface().and_then(|interface| interface.netns.as_ref()).map(ToString::to_string),
        state: if reason.is_none() { PortState::Up } else { PortState::Down },
        reason,
        warnings: open.map(|open| open.warnings().to_vec()).unwrap_or_default(),
        mtu: port.mtu,
        offload: spec.offload,
        limit: spec.limit,
        worker: real.map_or(0, |real| u16::try_from(real.worker).unwrap_or(u16::MAX)),
        macs: edge.fdb.learned_on(port.id),
        rx: received(&totals),
        tx: sent(&totals),
        fates: Fates {
            unicast: totals.unicast,
            flooded: totals.flooded,
            offered: totals.offered,
            segments: totals.tx_segments,
            learned: taught.learned,
            moved: taught.moved,
            unlearned: taught.refused,
            evicted: taught.evicted,
            overflow: overflow(edge, port.id),
        },
        drops: drops(state, edge, port),
    }
}

pub(crate) fn drops(state: &State, edge: &Edge, port: &state::Port) -> Vec<Drop> {
    let totals = totals(edge, port.id);
    let drop = |(reason, frames): (DropReason, u64)| Drop {
        port: port.spec.name.clone(),
        direction: if reason.is_egress() { Direction::Tx } else { Direction::Rx },
        reason: reason.name().to_owned(),
        frames,
        hint: hint(state, edge, reason),
    };
    let unreceived =
        [(overflow(edge, port.id), unreceived(&port.spec.device)), (damaged(edge, port.id), DAMAGED)];
    let unreceived = unreceived.into_iter().filter(|(frames, _)| *frames > 0);
    let unreceived = unreceived.map(|(frames, (reason, hint))| Drop {
        port: port.spec.name.clone(),
        direction: Direction::Rx,
        reason: reason.to_owned(),
        frames,
        hint: hint.to_owned(),
    });
    totals.drops().map(drop).chain(unreceived).collect()
}

/// Why frames died before the switch could receive them, and what to do about it. The names are the kernel's.
fn unreceived(device: &DeviceSpec) -> (&'static str, &'static str) {
    match device {
        DeviceSpec::Tap(_) => (
            "TAP_FULL_RING",
            "the interface's queue was full, or no daemon had it open: the kernel dropped these before the switch received them, and they are not among the received; raise switch.workers if CPUs are idle, or the interface's txqueuelen against bursts",
        ),
        _ => (
            "SOCKET_RCVBUFF",
            "the kernel's buffer for the port was full: these were dropped before the switch received them, and are not among the received; raise switch.workers if CPUs are idle",
        ),
    }
}

/// Why the kernel dropped a tunnel's datagrams that came damaged; its own name.
const DAMAGED: (&str, &str) = (
    "UDP_CSUM",
    "their outer UDP checksum was wrong: the kernel dropped these before the switch received them, and they are not among the received; a link, NIC or its checksum offload between the hosts breaks them (`ethtool -K` rx, tx-checksumming)",
);

/// Datagrams that the kernel dropped because they came damaged.
fn damaged(edge: &Edge, port: PortId) -> u64 {
    let open = edge.port(port).and_then(|real| real.device.as_ref().ok());
    open.map_or(0, OpenDevice::damaged)
}

/// Frames that the kernel dropped before the switch could receive them.
fn overflow(edge: &Edge, port: PortId) -> u64 {
    let open = edge.port(port).and_then(|real| real.device.as_ref().ok());
    open.map_or(0, OpenDevice::overflow)
}

/// What a reason means, with the names of who is concerned where they are known.
fn hint(state: &State, edge: &Edge, reason: DropReason) -> String {
    if reason == DropReason::VxlanPeerUnknown
        && let Some(stranger) = strangers(state, edge).last()
    {
        return state.about_stranger(stranger.address);
    }
    reason.hint().to_owned()
}

pub(crate) fn stats(state: &State, edge: &Edge, uptime: Duration) -> Stats {
    let port = |port: state::Port| {
        let totals = totals(edge, port.id);
        PortStats {
            port: port.spec.name.clone(),
            rx: received(&totals),
            tx: sent(&totals),
            drops: totals.drops().map(|(_, frames)| frames).sum::<u64>()
                + overflow(edge, port.id)
                + damaged(edge, port.id),
        }
    };
    Stats {
        at_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        ports: state.ports().map(port).collect(),
        workers: workers(state, edge),
        networks: state.networks().map(|network| network_stats(edge, &network)).collect(),
        table: table(state, edge),
        loads: (0..).zip(edge.workers.counters()).map(|(worker, counters)| load(worker, counters)).collect(),
    }
}

fn network_stats(edge: &Edge, network: &state::Network) -> NetworkStats {
    let (totals, taught) = edge.network_totals(network.id);
    NetworkStats {
        network: network.spec.name.clone(),
        frames: totals.frames,
        bytes: totals.bytes,
        super_frames: totals.super_frames,
        unicast: totals.unicast(),
        flooded: totals.flooded,
        dropped: totals.dropped,
        learned: taught.learned,
        moved: taught.moved,
    }
}

fn table(state: &State, edge: &Edge) -> TableStats {
    let totals = edge.fdb.totals();
    TableStats {
        entries: edge.fdb.len() as u64,
        limit: state.switch().mac_limit,
        learned: totals.learned,
        moved: totals.moved,
        held: totals.held,
        expired: totals.expired,
        evicted: totals.evicted,
        refused: totals.refused,
        events_lost: totals.events_lost,
    }
}

fn load(worker: u16, counters: &WorkerCounters) -> Load {
    Load {
        worker,
        wakeups: counters.wakeups.read(),
        batches: histogram(&counters.batches.read()),
        busy_ns: histogram(&counters.busy.read()),
    }
}

fn histogram(read: &Distribution) -> Histogram {
    let places = read.places.iter().map(|&(at_most, count)| Place { at_most, count });
    Histogram { places: places.collect(), sum: read.sum }
}

pub(crate) fn fdb(state: &State, edge: &Edge, filter: &FdbFilter) -> Vec<FdbEntry> {
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

pub(crate) fn pinned(entry: StaticEntry) -> FdbEntry {
    let StaticEntry { network, mac, port } = entry;
    FdbEntry { network, mac, port, origin: Origin::Static, age_ms: None, held: false }
}

/// A difference, from its line: `+ network red`, `~ port web: isolated false -> true`.
pub(crate) fn change(change: &state::Change) -> Change {
    use state::{Change as Difference, Delta};
    let action = match change {
        Difference::Network(Delta::Added(_))
        | Difference::Port(Delta::Added(_))
        | Difference::Endpoint(Delta::Added(_)) => Action::Add,
        Difference::Network(Delta::Removed(_))
        | Difference::Port(Delta::Removed(_))
        | Difference::Endpoint(Delta::Removed(_)) => Action::Remove,
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
        Difference::Endpoint(
            Delta::Added(endpoint) | Delta::Removed(endpoint) | Delta::Changed { new: endpoint, .. },
        ) => ("endpoint", endpoint.name.to_string()),
    };
    let line = change.to_string();
    let detail = line.split_once(": ").map_or("", |(_, detail)| detail);
    Change { action, object: object.to_owned(), name, detail: detail.to_owned() }
}

pub(crate) fn totals(edge: &Edge, port: PortId) -> PortTotals {
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
