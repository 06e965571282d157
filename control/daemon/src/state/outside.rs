//! The gateway's input: networks with access to the outside, and published ports.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{Origin, State, derive::gateway_ifname, registry::Entry};
use vswitch_host::gateway::Outside;
use vswitch_model::{Driver, Name, NetworkSpec, PortSpec, publish::Published};

/// Every network that the host has an address in, by name: of an uplink, the gateway is on the LAN. If there are tunnels, then also the host's own interfaces in others, by the names of their ports.
pub(super) fn of(state: &State) -> Vec<Outside> {
    let mut published: HashMap<&Name, Vec<Published>> = HashMap::new();
    for endpoint in state.endpoints() {
        published.entry(&endpoint.network).or_default().extend(&endpoint.published);
    }
    let tunnels = Arc::new(tunnels(state));
    let outside = |entry: &Entry<NetworkSpec>| {
        let spec = &*entry.spec;
        let has_gateway = spec.subnets.iter().any(|subnet| subnet.gateway.is_some());
        if !matches!(spec.driver(), Driver::Bridge | Driver::Overlay) || !has_gateway {
            return None;
        }
        if spec.internal {
            return Some(Outside::of_internal(gateway_ifname(spec).into(), Arc::clone(&tunnels)));
        }
        let published = published.remove(&spec.name).unwrap_or_default();
        Some(Outside {
            ifname: gateway_ifname(spec).into(),
            internal: false,
            subnets: spec.subnets.iter().map(|subnet| subnet.subnet).collect(),
            masquerade: spec.options.masquerade,
            published,
            tunnels: Arc::clone(&tunnels),
        })
    };
    let mut outsides: Vec<_> = state.networks.entries().filter_map(outside).collect();
    if !tunnels.is_empty() {
        let gateways: HashSet<_> = outsides.iter().map(|outside| outside.ifname.clone()).collect();
        let own = state.ports.entries().map(|entry| &entry.spec).filter(|port| port.is_hosts());
        let stations = own.filter(|port| !gateways.contains(port.ifname()));
        outsides.extend(stations.map(|port| Outside::of_station(port.ifname().into(), Arc::clone(&tunnels))));
    }
    outsides
}

/// Ends of tunnels: this host's, its group, and its peers, with the UDP ports that datagrams are sent to.
///
/// With `learn_peers` every host can become a peer, so this includes the port at any address.
fn tunnels(state: &State) -> BTreeSet<SocketAddr> {
    let endpoint = state.ports.entries().find_map(|entry| entry.spec.device.endpoint());
    let Some(endpoint) = endpoint else { return BTreeSet::new() };
    // The port of learned peers is closed for all addresses, so learning one changes no rules.
    let is_covered = |entry: &Entry<PortSpec>| endpoint.learn_peers && entry.origin == Origin::Learned;
    let peer = |entry: &Entry<PortSpec>| {
        let peer = entry.spec.device.peer().filter(|_| !is_covered(entry))?;
        Some(SocketAddr::new(peer.remote.ip(), peer.remote_port.unwrap_or(endpoint.port)))
    };
    let any = endpoint.learn_peers.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let own = [endpoint.local.ip()].into_iter().chain(any).map(|ip| SocketAddr::new(ip, endpoint.port));
    state.ports.entries().filter_map(peer).chain(own).collect()
}
