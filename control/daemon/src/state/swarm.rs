//! What Docker's swarm gives this host: services, and those of their tasks that are on other hosts.
//!
//! It is one input, as what a cluster gives is, and replaced as a whole. The tasks of this host are endpoints as any other, selected by the label
//! that the swarm gives them.

use std::{collections::BTreeMap, sync::Arc};

use super::{Origin, RemoteBackend, State};
use vswitch_model::{Name, ServiceSpec};

/// What a swarm gives this host, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwarmServices {
    /// Its services that have an address.
    pub services: Vec<Arc<ServiceSpec>>,
    /// By service, those of its tasks that are on other hosts.
    pub backends: BTreeMap<Name, Vec<RemoteBackend>>,
}

impl State {
    /// The services of the swarm that can be served here: the network is here, and nothing else has the name or the address.
    pub(super) fn services_of_swarm(&self) -> Vec<Arc<ServiceSpec>> {
        if self.swarm.services.is_empty() {
            return Vec::new();
        }
        let taken = self.endpoint_addresses();
        let can_be = |service: &&Arc<ServiceSpec>| {
            let own = self.services.entry(&service.name).filter(|it| it.origin != Origin::Cluster);
            let of_cluster = self.membership.services.iter().any(|it| it.name == service.name);
            let network = self.network(&service.network).map(|it| it.spec);
            let is_inside = network.is_some_and(|it| self.check_service(service, &it).is_ok());
            let is_taken = service.address.iter().any(|it| taken.contains_key(&(&service.network, *it)));
            own.is_none() && !of_cluster && is_inside && !is_taken
        };
        self.swarm.services.iter().filter(can_be).cloned().collect()
    }
}
