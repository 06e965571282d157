//! What the gateway must know: which networks reach the outside, and which ports of the host lead inside.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::{State, derive::host_ifname};
use crate::{
    model::{Driver, EndpointSpec, Id, Name, Protocol},
    options,
};

/// All of it, sorted: what the rules of the host should be, whatever they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Networks with a gateway on this host.
    pub networks: Vec<Gated>,
    /// Ports of the host that lead to containers.
    pub published: Vec<Published>,
}

/// A network with a gateway on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gated {
    /// Who it is.
    pub id: Id,
    /// What it is called.
    pub name: Name,
    /// The gateway's interface.
    pub ifname: String,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Whether the outside sees the host's address instead of the container's.
    pub masquerade: bool,
}

/// A port of the host that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The gateway's interface of the container's network.
    pub ifname: String,
    /// Of which protocol.
    pub protocol: Protocol,
    /// The host's address; all of them without one.
    pub host: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address, of the family that the rule is for.
    pub address: IpAddr,
    /// The container's port.
    pub port: u16,
}

impl Outside {
    pub(super) fn of(state: &State) -> Self {
        let mut outside = Self::default();
        let mut published: HashMap<&Name, Vec<&EndpointSpec>> = HashMap::new();
        for endpoint in state.endpoints().filter(|endpoint| !endpoint.published.is_empty()) {
            published.entry(&endpoint.network).or_default().push(endpoint);
        }
        for network in state.networks() {
            let spec = &network.spec;
            let gated = matches!(spec.driver(), Driver::Bridge | Driver::Overlay) && !spec.internal;
            let Ok(options) = options::of_network(spec) else { continue };
            if !gated || spec.subnets.iter().all(|subnet| subnet.gateway.is_none()) {
                continue;
            }
            let ifname = host_ifname(spec, &options);
            for endpoint in published.remove(&spec.name).unwrap_or_default() {
                for publish in &endpoint.published {
                    let fits = |address: &IpAddr| {
                        publish.address.is_none_or(|host| host.is_ipv4() == address.is_ipv4())
                    };
                    let addresses = endpoint.addresses.iter().map(IpNet::addr).filter(fits);
                    outside.published.extend(addresses.map(|address| Published {
                        ifname: ifname.clone(),
                        protocol: publish.protocol,
                        host: publish.address,
                        host_port: publish.host_port,
                        address,
                        port: publish.port,
                    }));
                }
            }
            outside.networks.push(Gated {
                id: spec.id(),
                name: spec.name.clone(),
                ifname,
                subnets: spec.subnets.iter().map(|subnet| subnet.subnet).collect(),
                masquerade: options.masquerade,
            });
        }
        outside.published.sort_by_key(|it| (it.protocol, it.host_port, it.host, it.address));
        outside
    }
}
