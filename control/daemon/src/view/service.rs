//! Services and the endpoints that serve.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use super::Snapshot;
use crate::state::{self, Origin};
use vswitch_model::{
    EndpointSpec, Error, Name, ServiceSpec,
    api::service::{Backend, Service},
};

/// Number of flows by the service's and the backend's address.
type Counted = HashMap<(IpAddr, IpAddr), u64>;

impl Snapshot {
    /// All services, by name.
    pub(crate) fn services(&self) -> Vec<Service> {
        let counted = self.count_flows();
        self.state.services().map(|it| self.show_service(&it, &counted)).collect()
    }

    /// The service of that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn service(&self, name: &Name) -> Result<Service, Error> {
        let service = self.state.service(name);
        let service = service.ok_or_else(|| Error::not_found(format!("there is no service {name}")))?;
        Ok(self.show_service(&service, &self.count_flows()))
    }

    fn show_service(&self, service: &state::Service, counted: &Counted) -> Service {
        let spec = &service.spec;
        let backends = self.state.backends(spec).into_iter().map(|it| self.show_backend(spec, it, counted));
        Service {
            spec: (**spec).clone(),
            declared: service.origin == Origin::File,
            backends: backends.collect(),
        }
    }

    fn show_backend(&self, service: &ServiceSpec, endpoint: &EndpointSpec, counted: &Counted) -> Backend {
        let port = self.state.port(&endpoint.port);
        let is_up = port.is_some_and(|port| self.why_down(port.id).is_none());
        let addresses: Vec<IpAddr> = endpoint.addresses.iter().map(IpNet::addr).collect();
        let pairs = || service.address.iter().flat_map(|own| addresses.iter().map(move |it| (*own, *it)));
        let network = self.state.network(&service.network).map(|it| it.id);
        let given = pairs().filter_map(|(own, address)| {
            let service = self.live.balance.services.get(&(network?, own))?;
            let backend = service.backends().iter().find(|it| it.address == address)?;
            Some(backend.given.read())
        });
        Backend {
            id: endpoint.id.clone(),
            name: endpoint.name.clone(),
            state: match () {
                () if !is_up => "down",
                () if service.drain.contains(&endpoint.name) => "draining",
                () if self.state.passes(service, endpoint) => "ready",
                () => "unready",
            }
            .to_owned(),
            flows: pairs().filter_map(|pair| counted.get(&pair)).sum(),
            given: given.sum(),
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
        }
    }

    fn count_flows(&self) -> Counted {
        let now = self.live.workers.now();
        let mut counted = Counted::new();
        for client in self.live.balance.clients.iter().flatten() {
            for flow in client.flows.list(now).into_iter().filter(|flow| flow.key.protocol != 0) {
                *counted.entry((flow.key.service, flow.backend)).or_default() += 1;
            }
        }
        counted
    }
}
