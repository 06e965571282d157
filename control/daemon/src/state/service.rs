//! Services: one name and address for several endpoints of a network.
//!
//! Which endpoints serve follows from what they and the service say of each other, and is stored nowhere.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;

use super::{Kind, NetworkError, Origin, Refusal, State};
use vswitch_model::{
    EndpointMode, EndpointSpec, Family, Id, Name, NetworkSpec, PublishMode, ServicePort, ServiceSpec,
    ServiceUpdate, ipam::IpamError, publish::Protocol,
};

/// Ports that a service publishes, at most: they are one transaction of a cluster's store.
const MOST_PORTS: usize = 100;

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
    /// Two services publish one port: (service, port, the other).
    #[error("service {0}: port {1} of the hosts is published by service {2}: choose another")]
    Port(Name, String, Name),
    /// It publishes too many: (service, ports).
    #[error("service {0}: it publishes {1} ports: {MOST_PORTS} at most, for they are published together")]
    Ports(Name, usize),
    /// A port leads to no address.
    #[error(
        "service {0}: with mode dnsrr it has no address that a port of every host could lead to: publish it with mode=host, or use mode vip"
    )]
    Nowhere(Name),
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
    pub(super) fn add_service(&mut self, spec: ServiceSpec, now: Timestamp) -> Result<(), Refusal> {
        let spec = self.prepared_service(spec, now)?;
        self.services.add(Arc::new(spec), Origin::Api)
    }

    /// Checks a service that is to be created, but for what is not known here.
    ///
    /// # Errors
    /// It cannot be, or something has its name or an address of it.
    pub(crate) fn check_new_service(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        if self.services.entry(&spec.name).is_some() {
            return Err(Refusal::Exists { kind: Kind::Service, name: spec.name.clone() });
        }
        let name = &spec.network;
        let network = self.network(name).ok_or_else(|| NetworkError::NotFound(name.clone().into()))?.spec;
        self.check_service(spec, &network)?;
        let is_taken = |it: &&IpAddr| self.services_of(name).any(|other| other.address.contains(it));
        if let Some(address) = spec.address.iter().find(is_taken) {
            return Err(ServiceError::Taken(self.name_holder(&network, IpamError::Taken(*address))).into());
        }
        Ok(())
    }

    /// A service that can be created, with addresses, which have had their turn by that.
    pub(crate) fn prepared_service(
        &mut self,
        mut spec: ServiceSpec,
        now: Timestamp,
    ) -> Result<ServiceSpec, Refusal> {
        self.check_new_service(&spec)?;
        let name = &spec.network;
        let network = self.network(name).ok_or_else(|| NetworkError::NotFound(name.clone().into()))?.spec;
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
        Ok(spec)
    }

    /// A service after a change of what can change while its clients stay connected.
    ///
    /// # Errors
    /// There is none, the file declares it, or it cannot be like that.
    pub(crate) fn updated_service(&self, name: &Name, update: ServiceUpdate) -> Result<ServiceSpec, Refusal> {
        let (kind, missing) = (Kind::Service, name.clone());
        let entry =
            self.services.entry(name).ok_or_else(|| Refusal::Missing { kind, name: missing.clone() })?;
        if entry.origin == Origin::File {
            return Err(Refusal::Declared { kind, name: missing });
        }
        let new = update.applied_to(&entry.spec);
        if let Some(network) = self.network(&new.network) {
            self.check_service(&new, &network.spec)?;
        }
        Ok(new)
    }

    /// Changes what can change of a service while its clients stay connected.
    pub(super) fn update_service(&mut self, name: &Name, update: ServiceUpdate) -> Result<(), Refusal> {
        let new = self.updated_service(name, update)?;
        self.services.replace(new);
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

    /// The endpoints of this host by network and address.
    pub(super) fn endpoint_addresses(&self) -> HashMap<(&Name, IpAddr), &Name> {
        let own = |it: &Arc<EndpointSpec>| it.addresses.iter().map(IpNet::addr).collect::<Vec<_>>();
        let all = self.endpoints().flat_map(|it| own(it).into_iter().map(move |ip| (it, ip)));
        all.map(|(it, ip)| ((&it.network, ip), &it.name)).collect()
    }

    /// Checks every service of this host against its network and the others. New ones come last: of two that conflict they are blamed.
    pub(super) fn check_all_services(&self, old: &Self) -> Result<(), Refusal> {
        let mut entries: Vec<_> = self.services.entries().collect();
        if entries.is_empty() {
            return Ok(());
        }
        // What the cluster gives was checked where it was asked for, and gives way.
        entries.sort_by_key(|entry| (entry.origin != Origin::Cluster, !old.services.holds(entry)));
        let endpoints = self.endpoint_addresses();
        let mut services: HashMap<(&Name, IpAddr), &Name> = HashMap::new();
        let mut ports: HashMap<(Protocol, u16), &Name> = HashMap::new();
        for entry in entries {
            let (service, is_own) = (&*entry.spec, entry.origin != Origin::Cluster);
            let (name, network) = (&service.name, &service.network);
            let Some(network) = self.network(network) else {
                return Err(ServiceError::NoNetwork(name.clone(), network.clone()).into());
            };
            if is_own {
                self.check_service(service, &network.spec)?;
            }
            for address in &service.address {
                let mut subnets = network.spec.subnets.iter();
                let is_inside = subnets.any(|it| {
                    it.subnet.contains(address)
                        && it.gateway != Some(*address)
                        && it.aux.values().all(|aux| aux != address)
                });
                let key = (&service.network, *address);
                let is_others = services.insert(key, name).is_some();
                if is_own && (!is_inside || is_others || endpoints.contains_key(&key)) {
                    return Err(ServiceError::Foreign(name.clone(), *address).into());
                }
            }
            for port in &service.publish {
                for (at, _) in port.pairs() {
                    if let Some(other) = ports.insert((port.protocol, at), name).filter(|_| is_own) {
                        let port = format!("{at}/{}", port.protocol);
                        return Err(ServiceError::Port(name.clone(), port, other.clone()).into());
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks what a service says against its network.
    fn check_service(&self, service: &ServiceSpec, network: &NetworkSpec) -> Result<(), Refusal> {
        check_addresses(service)?;
        let name = || service.name.clone();
        if service.health.as_ref().is_some_and(|health| !health.is_valid()) {
            return Err(ServiceError::Health(name()).into());
        }
        if service.publish.is_empty() {
            return Ok(());
        }
        let ports: usize = service.publish.iter().map(|port| port.pairs().count()).sum();
        if ports > MOST_PORTS {
            return Err(ServiceError::Ports(name(), ports).into());
        }
        let is_ingress = |port: &ServicePort| port.mode == PublishMode::Ingress;
        if service.mode == EndpointMode::Dnsrr && service.publish.iter().any(is_ingress) {
            return Err(ServiceError::Nowhere(name()).into());
        }
        self.check_publishable(network)
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
