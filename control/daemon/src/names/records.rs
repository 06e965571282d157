//! The names of the state's objects.
//!
//! | object | name | further names |
//! |---|---|---|
//! | endpoint | its own | its aliases, its service, the first 12 digits of its container's id |
//! | `[[port]]` with addresses | its own | – |
//! | given by hand | itself | – |
//! | service with an address | its own | – |
//!
//! The endpoints that serve have the service's name, or, where it has an address, `tasks.` and the name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::PORT;
use crate::state::{Origin, State};
use vswitch_model::{
    Driver, EndpointMode, EndpointSpec, Name, NetworkSpec, PortSpec, api::StaticName, publish::Protocol,
};
use vswitch_names::{Port, Record};

/// The digits of a container's id that are a name of it, as with Docker.
const SHORT: usize = 12;

/// The subnets and the records of each network.
pub(super) fn records(state: &State) -> BTreeMap<Name, (Vec<IpNet>, Vec<Record>)> {
    let empty = |network: &NetworkSpec| {
        (network.name.clone(), (network.subnets.iter().map(|it| it.subnet).collect(), Vec::new()))
    };
    let mut records: BTreeMap<Name, (Vec<IpNet>, Vec<Record>)> =
        state.networks().map(|network| empty(&network.spec)).collect();
    let serving = state.serving();
    let served = serving.by_endpoint();
    let modes: HashMap<Name, EndpointMode> =
        state.services().map(|it| (it.spec.name.clone(), it.spec.mode)).collect();
    for endpoint in state.endpoints() {
        if let Some((_, records)) = records.get_mut(&endpoint.network) {
            let mut record = of_endpoint(endpoint);
            for (service, backend) in served.get(&endpoint.id).into_iter().flatten() {
                serve(service, modes[*service], backend.is_ready, &mut record);
            }
            records.push(record);
        }
    }
    for service in state.services() {
        let spec = &service.spec;
        if let Some((_, records)) = records.get_mut(&spec.network).filter(|_| spec.mode == EndpointMode::Vip)
        {
            let (name, addresses) = (spec.name.to_string(), spec.address.clone());
            records.push(Record { name, addresses, ..Record::default() });
        }
    }
    for port in state.ports().filter(|port| port.origin != Origin::Derived) {
        let network = port.spec.carries.untagged();
        if let Some((_, records)) = network.and_then(|network| records.get_mut(network)) {
            records.extend(of_port(&port.spec));
        }
    }
    records
}

fn of_endpoint(endpoint: &EndpointSpec) -> Record {
    let port = |protocol: Protocol, number: u16| Port {
        name: number.to_string(),
        protocol: protocol.to_string(),
        number,
    };
    let mut ports: Vec<Port> = Vec::new();
    for published in &endpoint.published {
        let port = port(published.protocol, published.to().port());
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Record {
        name: endpoint.name.to_string(),
        aliases: aliases(endpoint),
        addresses: endpoint.addresses.iter().map(IpNet::addr).collect(),
        service: endpoint.service.clone(),
        unready: endpoint.unready,
        ports,
    }
}

/// Adds the names that an endpoint has by serving.
pub(crate) fn serve(service: &Name, mode: EndpointMode, is_ready: bool, record: &mut Record) {
    record.unready |= !is_ready;
    match mode {
        EndpointMode::Vip => record.aliases.push(format!("tasks.{service}")),
        // A name of several services is an alias from the second on.
        EndpointMode::Dnsrr if record.service.is_some() => record.aliases.push(service.to_string()),
        EndpointMode::Dnsrr => record.service = Some(service.to_string()),
    }
}

/// The further names of an endpoint.
pub(crate) fn aliases(endpoint: &EndpointSpec) -> Vec<String> {
    let mut aliases = endpoint.aliases.clone();
    let short = endpoint.container.iter().map(|id| id.chars().take(SHORT).collect::<String>());
    // Engines give it themselves.
    aliases.extend(short.filter(|short| !endpoint.aliases.contains(short)));
    aliases
}

fn of_port(port: &PortSpec) -> Option<Record> {
    let addresses: Vec<_> = port.interface()?.address.iter().map(IpNet::addr).collect();
    let record = || Record { name: port.name.to_string(), addresses, ..Record::default() };
    (!port.interface()?.address.is_empty()).then(record)
}

pub(super) fn of_hand(name: &StaticName) -> Record {
    Record { name: name.name.to_string(), addresses: name.addresses.clone(), ..Record::default() }
}

/// The addresses of local stations, each with its networks: those of its sandbox or container, the oldest first.
pub(super) fn stations(state: &State) -> Vec<(IpAddr, Vec<String>)> {
    let station = |endpoint: &EndpointSpec| {
        let sandbox = endpoint.sandbox.as_ref().map(|sandbox| sandbox.path().display().to_string());
        sandbox.or_else(|| endpoint.container.clone()).unwrap_or_else(|| endpoint.id.to_string())
    };
    let mut all: Vec<_> = state.endpoints().collect();
    all.sort_by_key(|endpoint| (endpoint.created, &endpoint.id));
    let mut networks: HashMap<String, Vec<String>> = HashMap::new();
    for endpoint in &all {
        networks.entry(station(endpoint)).or_default().push(endpoint.network.to_string());
    }
    let own = all.iter().flat_map(|endpoint| {
        let networks = networks.get(&station(endpoint)).cloned().unwrap_or_default();
        endpoint.addresses.iter().map(move |net| (net.addr(), networks.clone()))
    });
    own.collect()
}

/// The addresses of this host in a network at which names are served.
pub(super) fn gateways(network: &NetworkSpec) -> Vec<IpAddr> {
    let is_gated = matches!(network.driver(), Driver::Bridge | Driver::Overlay);
    let gateways = network.subnets.iter().filter(|_| is_gated).filter_map(|subnet| subnet.gateway);
    gateways.collect()
}

/// All addresses at which names are served; none if they are not.
pub(super) fn addresses_served(state: &State) -> BTreeSet<SocketAddr> {
    let dns = state.dns();
    if !dns.enabled {
        return BTreeSet::new();
    }
    let gateways = state.networks().flat_map(|network| gateways(&network.spec));
    gateways.chain([dns.address]).map(|address| SocketAddr::new(address, PORT)).collect()
}
