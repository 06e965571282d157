//! The gateway's input: networks with access to the outside, and published ports.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{Origin, Serving, State, derive::gateway_ifname, registry::Entry};
use vswitch_host::gateway::Outside;
use vswitch_model::{
    Driver, Name, NetworkSpec, PortSpec, PublishMode, ServicePort, ServiceSpec, publish::Published,
};

/// Every network that the host has an address in, by name: of an uplink, the gateway is on the LAN. If there are tunnels, then also the host's own interfaces in others, by the names of their ports.
pub(super) fn of(state: &State) -> Vec<Outside> {
    let mut published: HashMap<&Name, Vec<Published>> = HashMap::new();
    for endpoint in state.endpoints() {
        published.entry(&endpoint.network).or_default().extend(&endpoint.published);
    }
    for (network, ports) in of_services(state) {
        published.entry(network).or_default().extend(ports);
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

/// Published ports of services, by network. They lead to the address of the service, where the switch chooses a backend as for any
/// client; of mode `host` to a backend of this host, if there is one.
///
/// A map of the kernel that has the backends would have to follow each of them, and what it has chosen once would stay with a backend
/// that fails, as connection tracking keeps it.
fn of_services(state: &State) -> Vec<(&Name, Vec<Published>)> {
    let publishes = || state.services.entries().filter(|entry| !entry.spec.publish.is_empty());
    let is_hosts = |port: &ServicePort| port.mode == PublishMode::Host;
    let serving = match publishes().any(|entry| entry.spec.publish.iter().any(is_hosts)) {
        true => state.serving(),
        false => Serving::default(),
    };
    let of = |entry: &'_ Entry<ServiceSpec>| {
        let mut here: Vec<_> = serving.of(&entry.spec.name).iter().filter(|it| it.here().is_some()).collect();
        here.sort_by_key(|it| !it.is_ready);
        let here = here.first().map(|it| it.addresses()).unwrap_or_default();
        let ports = entry.spec.publish.iter().flat_map(|port| {
            let to = if is_hosts(port) { here.clone() } else { entry.spec.address.clone() };
            let pairs = to.into_iter().flat_map(|to| port.pairs().map(move |(at, target)| (at, to, target)));
            let published = pairs.filter_map(|(at, to, target)| {
                let any = match to {
                    IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                };
                Published::new(port.protocol, SocketAddr::new(any, at), SocketAddr::new(to, target))
            });
            published.collect::<Vec<_>>()
        });
        ports.collect()
    };
    publishes().map(|entry| (&entry.spec.network, of(entry))).collect()
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
