//! Services and the endpoints that serve.

use std::{collections::HashMap, net::IpAddr};

use super::Snapshot;
use crate::state::{self, Origin, Place};
use vswitch_model::{
    Error, Name, ServiceSpec,
    api::service::{Backend, Service},
};

/// Number of flows by the service's and the backend's address.
type Counted = HashMap<(IpAddr, IpAddr), u64>;

impl Snapshot {
    /// All services, by name.
    pub(crate) fn services(&self) -> Vec<Service> {
        let (counted, serving) = (self.count_flows(), self.state.serving());
        let show = |it: state::Service| self.show_service(&it, serving.of(&it.spec.name), &counted);
        self.state.services().map(show).collect()
    }

    /// The service of that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn service(&self, name: &Name) -> Result<Service, Error> {
        let service = self.state.service(name);
        let service = service.ok_or_else(|| Error::not_found(format!("there is no service {name}")))?;
        let backends = self.state.backends(&service.spec);
        Ok(self.show_service(&service, &backends, &self.count_flows()))
    }

    fn show_service(
        &self,
        service: &state::Service,
        backends: &[state::Backend<'_>],
        counted: &Counted,
    ) -> Service {
        let spec = &service.spec;
        let backends = backends.iter().map(|it| self.show_backend(spec, it, counted));
        Service {
            spec: (**spec).clone(),
            declared: service.origin == Origin::File,
            global: service.origin == Origin::Cluster,
            backends: backends.collect(),
        }
    }

    fn show_backend(
        &self,
        service: &ServiceSpec,
        backend: &state::Backend<'_>,
        counted: &Counted,
    ) -> Backend {
        let is_up = match backend.place {
            Place::Here(endpoint) => {
                self.state.port(&endpoint.port).is_some_and(|port| self.why_down(port.id).is_none())
            }
            Place::Elsewhere(remote) => remote.is_there,
        };
        let addresses = backend.addresses();
        let pairs = || service.address.iter().flat_map(|own| addresses.iter().map(move |it| (*own, *it)));
        let network = self.state.network(&service.network).map(|it| it.id);
        let given = pairs().filter_map(|(own, address)| {
            let service = self.live.balance.services.get(&(network?, own))?;
            let backend = service.backends().iter().find(|it| it.address == address)?;
            Some(backend.given.read())
        });
        Backend {
            id: backend.id().clone(),
            name: backend.name().clone(),
            host: backend.host().cloned(),
            state: match () {
                () if !is_up => "down",
                () if !backend.is_wanted => "draining",
                () if backend.passes => "ready",
                () => "unready",
            }
            .to_owned(),
            flows: pairs().filter_map(|pair| counted.get(&pair)).sum(),
            given: given.sum(),
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
        }
    }

    /// Connections that had to make room for others, at all ports.
    pub(crate) fn flows_evicted(&self) -> u64 {
        self.live.balance.clients.iter().flatten().map(|client| client.flows.evicted()).sum()
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
