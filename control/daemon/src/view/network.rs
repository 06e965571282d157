//! Networks and their endpoints.

use std::collections::HashMap;

use super::{Snapshot, state_of};
use crate::{
    names,
    state::{self, Known},
};
use vswitch_model::{
    Carries, EndpointSpec, Error, Id, Name, NetworkSpec, Reference,
    api::{Endpoint, Network, SubnetUsage},
};

impl Snapshot {
    /// All networks by name, predefined ones included.
    pub(crate) fn networks(&self) -> Vec<Network> {
        let (state, macs) = (&self.state, self.macs());
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
        let mut endpoints: HashMap<&Name, Vec<&EndpointSpec>> = HashMap::new();
        for it in state.endpoints() {
            endpoints.entry(&it.network).or_default().push(it);
        }
        let ours = state.networks().map(|network| {
            let name = &network.spec.name;
            show(
                &network,
                ports.remove(name).unwrap_or_default(),
                macs.of(network.id),
                self.show_endpoints(network.spec.id(), endpoints.remove(name).unwrap_or_default()),
            )
        });
        let mut networks: Vec<_> = ours.chain(state::predefined().map(predefined)).collect();
        networks.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        networks
    }

    /// What a new network takes from the host's LANs: sentences.
    pub(crate) fn shadowed(&self, spec: &NetworkSpec) -> Vec<String> {
        self.state.shadowed(spec)
    }

    /// The network of a reference, predefined ones included, with the usage of its subnets.
    ///
    /// # Errors
    /// There is none, or the digits are ambiguous.
    pub(crate) fn network(&self, reference: &Reference) -> Result<Network, Error> {
        Ok(match self.state.resolve(reference)? {
            Known::Ours(network) => self.show_network(&network),
            Known::Predefined(spec) => predefined(*spec),
        })
    }

    fn show_network(&self, network: &state::Network) -> Network {
        let name = &network.spec.name;
        let carries = |port: &state::Port| port.spec.holds(&network.spec);
        let ports = self.state.ports().filter(carries).map(|port| port.spec.name.clone()).collect();
        let endpoints = self.state.endpoints_of(name).map(|it| &**it).collect();
        let endpoints = self.show_endpoints(network.spec.id(), endpoints);
        let mut shown = show(network, ports, self.macs().of(network.id), endpoints);
        let subnets = self.state.subnets_of(&network.spec).unwrap_or_default();
        shown.usage = subnets
            .iter()
            .map(|subnet| {
                let (used, available) = subnet.usage();
                SubnetUsage { subnet: subnet.net(), used, available }
            })
            .collect();
        shown
    }

    /// Every endpoint, by network and name.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<_> = self.state.endpoints().collect();
        endpoints.sort_by_key(|it| (&it.network, &it.name));
        endpoints.into_iter().map(|it| self.show_endpoint(self.network_id(it), it)).collect()
    }

    /// The endpoint with this id.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn endpoint(&self, id: &Id) -> Result<Endpoint, Error> {
        let endpoint = self.state.endpoints().find(|it| it.id == *id);
        let endpoint = endpoint.ok_or_else(|| Error::not_found(format!("there is no endpoint {id}")))?;
        Ok(self.show_endpoint(self.network_id(endpoint), endpoint))
    }

    fn network_id(&self, endpoint: &EndpointSpec) -> Id {
        let network = self.state.network(&endpoint.network);
        network.map_or_else(|| Id::of(endpoint.network.as_str()), |it| it.spec.id())
    }

    /// Endpoints of one network, by name.
    fn show_endpoints(&self, network_id: Id, mut specs: Vec<&EndpointSpec>) -> Vec<Endpoint> {
        specs.sort_by_key(|it| &it.name);
        specs.into_iter().map(|it| self.show_endpoint(network_id.clone(), it)).collect()
    }

    fn show_endpoint(&self, network_id: Id, spec: &EndpointSpec) -> Endpoint {
        let port = self.state.port(&spec.port);
        let reason = port.as_ref().and_then(|port| self.why_down(port.id));
        let guard = port.and_then(|port| port.spec.guard.clone());
        let nameservers = names::servers(&self.state, spec);
        Endpoint {
            spec: spec.clone(),
            network_id,
            state: state_of(reason.as_ref()),
            guard,
            reason,
            nameservers,
        }
    }
}

/// A predefined network.
fn predefined(spec: NetworkSpec) -> Network {
    Network {
        scope: spec.driver().scope(),
        declared: true,
        ports: Vec::new(),
        macs: 0,
        endpoints: Vec::new(),
        usage: Vec::new(),
        warnings: Vec::new(),
        spec: NetworkSpec { id: Some(spec.id()), ..spec },
    }
}

fn show(network: &state::Network, ports: Vec<Name>, macs: u32, endpoints: Vec<Endpoint>) -> Network {
    let spec = &network.spec;
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
