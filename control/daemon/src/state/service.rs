//! Services: one name and address for several endpoints of a network.
//!
//! Which endpoints serve follows from what they and the service say of each other, and is stored nowhere.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;

use super::{Kind, NetworkError, Origin, Refusal, State};
use vswitch_model::{
    EndpointMode, EndpointSpec, Family, Id, Name, ServiceSpec, ServiceUpdate, ipam::IpamError,
};

/// A wanted service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its source.
    pub origin: Origin,
    /// Its specification.
    pub spec: Arc<ServiceSpec>,
}

/// Why a service cannot be created or changed, or an endpoint cannot serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The network has no such service: (service, network).
    #[error("network {1} has no service {0}: create it with `vswitchctl service create --network {1} {0}`")]
    None(Name, Name),
    /// The network has services.
    #[error("network {0} has services ({list}): remove them first", list = .1.iter().map(Name::as_str).collect::<Vec<_>>().join(", "))]
    NetworkInUse(Name, Vec<Name>),
    /// Its network does not exist: (service, network).
    #[error("service {0}: there is no network {1}: create it first")]
    NoNetwork(Name, Name),
    /// It has no subnet: (service, network).
    #[error(
        "service {0}: network {1} has no subnet to take an address from: create it with one, or use --endpoint-mode dnsrr"
    )]
    NoSubnet(Name, Name),
    /// An address is in none of the network's subnets: (service, address).
    #[error("service {0}: {1} is no free address of its network's subnets: choose another")]
    Foreign(Name, IpAddr),
    /// A number of the check is out of range.
    #[error("service {0}: interval, timeout and retries of its check are 1 to 3600 each")]
    Health(Name),
    /// Two addresses are of one family.
    #[error("service {0}: two addresses of one family: give one for IPv4 and one for IPv6")]
    Addresses(Name),
    /// A service without an address of its own has one.
    #[error(
        "service {0}: with mode dnsrr its name leads to the endpoints, and it has no address: leave the address out"
    )]
    Addressed(Name),
    /// An address is taken.
    #[error(transparent)]
    Taken(#[from] IpamError),
}

impl State {
    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = Service> {
        self.services.entries().map(|entry| Service { origin: entry.origin, spec: Arc::clone(&entry.spec) })
    }

    /// The service of that name.
    pub fn service(&self, name: &Name) -> Option<Service> {
        let entry = self.services.entry(name)?;
        Some(Service { origin: entry.origin, spec: Arc::clone(&entry.spec) })
    }

    /// The services of a network.
    pub(crate) fn services_of(&self, network: &Name) -> impl Iterator<Item = &ServiceSpec> {
        self.services.entries().map(|entry| &*entry.spec).filter(move |it| it.network == *network)
    }

    /// The endpoints that serve, by name.
    pub(crate) fn backends(&self, service: &ServiceSpec) -> Vec<&Arc<EndpointSpec>> {
        let mut backends: Vec<_> = self.endpoints().filter(|it| service.has(it)).collect();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        backends
    }

    /// Whether a service's endpoint gets new connections: one that passes the check, or any if none of them does, for one that only
    /// seems to serve is better than none.
    pub(crate) fn is_ready(&self, service: &ServiceSpec, endpoint: &EndpointSpec) -> bool {
        let is_wanted = |it: &EndpointSpec| !service.drain.contains(&it.name);
        let others = || self.backends(service).into_iter().filter(|it| is_wanted(it));
        is_wanted(endpoint)
            && (self.passes(service, endpoint) || !others().any(|it| self.passes(service, it)))
    }

    /// Whether an endpoint passes a service's check, if it has one, and that of its engine.
    pub(crate) fn passes(&self, service: &ServiceSpec, endpoint: &EndpointSpec) -> bool {
        !endpoint.unready && (service.health.is_none() || self.has_passed(service, endpoint))
    }

    /// Whether an endpoint has passed the service's own check.
    pub(crate) fn has_passed(&self, service: &ServiceSpec, endpoint: &EndpointSpec) -> bool {
        self.passing.contains(&(service.name.clone(), endpoint.id.clone()))
    }

    /// Notes whether an endpoint passes a service's check.
    pub(super) fn note_health(&mut self, service: Name, endpoint: Id, passes: bool) {
        let mut passing = (*self.passing).clone();
        if passes {
            passing.insert((service, endpoint));
        } else {
            passing.remove(&(service, endpoint));
        }
        passing.retain(|(service, id)| {
            self.services.entry(service).is_some() && self.endpoints.contains_key(id)
        });
        self.passing = passing.into();
    }

    /// Creates a service, and chooses its addresses.
    pub(super) fn add_service(&mut self, mut spec: ServiceSpec, now: Timestamp) -> Result<(), Refusal> {
        if self.services.entry(&spec.name).is_some() {
            return Err(Refusal::Exists { kind: Kind::Service, name: spec.name });
        }
        let name = &spec.network;
        let network = self.network(name).ok_or_else(|| NetworkError::NotFound(name.clone().into()))?.spec;
        check_addresses(&spec)?;
        if spec.mode == EndpointMode::Vip {
            let (mut ip, mut ip6) = (None, None);
            for address in &spec.address {
                match address {
                    IpAddr::V4(address) => ip = Some(*address),
                    IpAddr::V6(address) => ip6 = Some(*address),
                }
            }
            let chosen = self.choose_addresses(&network, ip, ip6, now).map_err(|error| match error {
                NetworkError::Ipam(error) => ServiceError::Taken(self.name_holder(&network, error)).into(),
                other => Refusal::from(other),
            })?;
            if chosen.is_empty() {
                return Err(ServiceError::NoSubnet(spec.name.clone(), network.name.clone()).into());
            }
            let turns = Arc::make_mut(&mut self.turns);
            for net in chosen.iter().filter(|net| !spec.address.contains(&net.addr())) {
                turns.give(net.trunc(), net.addr());
            }
            spec.address = chosen.iter().map(IpNet::addr).collect();
        }
        self.services.add(Arc::new(spec), Origin::Api)
    }

    /// Changes what can change of a service while its clients stay connected.
    pub(super) fn update_service(&mut self, name: &Name, update: ServiceUpdate) -> Result<(), Refusal> {
        let (kind, missing) = (Kind::Service, name.clone());
        match self.services.entry(name) {
            None => return Err(Refusal::Missing { kind, name: missing }),
            Some(entry) if entry.origin == Origin::File => {
                return Err(Refusal::Declared { kind, name: missing });
            }
            Some(entry) => {
                let new = update.applied_to(&entry.spec);
                self.services.replace(new);
            }
        }
        Ok(())
    }

    /// Removes a service; its endpoints stay.
    pub(super) fn remove_service(&mut self, name: &Name, now: Timestamp) -> Result<(), Refusal> {
        let addresses = self.service(name).map(|it| it.spec.address.clone()).unwrap_or_default();
        self.services.remove(name)?;
        let turns = Arc::make_mut(&mut self.turns);
        addresses.into_iter().for_each(|address| turns.take_back(address, now));
        Ok(())
    }

    /// Checks that `network` has these services.
    pub(super) fn check_services(&self, network: &Name, services: &[Name]) -> Result<(), ServiceError> {
        let missing = services.iter().find(|name| self.services_of(network).all(|it| it.name != **name));
        missing.map_or(Ok(()), |name| Err(ServiceError::None(name.clone(), network.clone())))
    }

    /// Checks every service against its network.
    pub(super) fn check_all_services(&self) -> Result<(), Refusal> {
        for service in self.services.entries().map(|entry| &*entry.spec) {
            let (name, network) = (&service.name, &service.network);
            let Some(network) = self.network(network) else {
                return Err(ServiceError::NoNetwork(name.clone(), network.clone()).into());
            };
            check_addresses(service)?;
            if service.health.as_ref().is_some_and(|health| !health.is_valid()) {
                return Err(ServiceError::Health(name.clone()).into());
            }
            for address in &service.address {
                let mut subnets = network.spec.subnets.iter();
                let is_inside = subnets.any(|it| {
                    it.subnet.contains(address)
                        && it.gateway != Some(*address)
                        && it.aux.values().all(|aux| aux != address)
                });
                let has_it = |net: &IpNet| net.addr() == *address;
                let is_endpoints =
                    self.endpoints_of(&network.spec.name).any(|it| it.addresses.iter().any(has_it));
                let is_others = self
                    .services_of(&network.spec.name)
                    .any(|it| it.name != *name && it.address.contains(address));
                if !is_inside || is_endpoints || is_others {
                    return Err(ServiceError::Foreign(name.clone(), *address).into());
                }
            }
        }
        Ok(())
    }
}

/// Checks that a service has at most one address of each family, and none if it needs none.
fn check_addresses(spec: &ServiceSpec) -> Result<(), ServiceError> {
    if spec.mode == EndpointMode::Dnsrr && !spec.address.is_empty() {
        return Err(ServiceError::Addressed(spec.name.clone()));
    }
    let of = |family| spec.address.iter().filter(|it| Family::of(**it) == family).count();
    if of(Family::V4) > 1 || of(Family::V6) > 1 {
        return Err(ServiceError::Addresses(spec.name.clone()));
    }
    Ok(())
}
