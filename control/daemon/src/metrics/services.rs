//! Services: who serves, and what they are given by this host's clients.

use std::fmt;

use super::{ALONE, Families};
use crate::view::Snapshot;
use vswitch_model::api::service::{Backend, Service};

/// The words of a backend's state.
const STATES: [&str; 4] = ["ready", "unready", "draining", "down"];

/// What is told of services.
#[derive(Debug)]
pub(super) struct Services {
    services: Vec<Service>,
    /// Connections that had to make room for others, at all ports.
    evicted: u64,
}

impl Services {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self { services: snapshot.services(), evicted: snapshot.flows_evicted() }
    }

    pub(super) fn encode(&self, families: &mut Families<'_>) -> fmt::Result {
        let is_served = |it: &&Service| it.backends.iter().any(|it| it.state == "ready");
        let served = self.services.iter().filter(is_served).count() as u64;
        let states =
            [([("state", "served")], served), ([("state", "unserved")], self.services.len() as u64 - served)];
        families.gauge("services", "Services by whether an endpoint is ready", None, states)?;
        let evicted = [(ALONE, self.evicted)];
        let help = "Connections through services that were forgotten to make room for others";
        families.counter("service_evicted_flows", help, None, evicted)?;
        let backends = self.services.iter().flat_map(|service| {
            STATES.map(|state| {
                let count = service.backends.iter().filter(|it| it.state == state).count() as u64;
                ([("service", service.spec.name.as_str()), ("state", state)], count)
            })
        });
        families.gauge("service_backends", "Endpoints that serve, by state", None, backends)?;
        let of_backends = |value: fn(&Backend) -> u64| {
            self.services.iter().flat_map(move |service| {
                service.backends.iter().map(move |it| {
                    let host = it.host.as_ref().map_or("", |host| host.as_str());
                    let labels = [
                        ("service", service.spec.name.as_str()),
                        ("endpoint", it.name.as_str()),
                        ("host", host),
                    ];
                    (labels, value(it))
                })
            })
        };
        let help = "Connections of this host's clients that the endpoint has";
        families.gauge("service_flows", help, None, of_backends(|it| it.flows))?;
        let help = "Connections of this host's clients that the endpoint was given";
        families.counter("service_given_flows", help, None, of_backends(|it| it.given))
    }
}
