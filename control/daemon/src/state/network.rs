//! Networks as Docker's users create, change and remove them. The sentences are Docker's.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use jiff::Timestamp;

use super::{Kind, Network, Origin, Refusal, ServiceError, State, endpoint::next_within, registry::Entry};
use vswitch_host::link::Route;
use vswitch_model::{
    Driver, Family, Id, Ipam, Name, NetworkSpec, NetworkUpdate, PoolSpec, PortSpec, Reference, SubnetSpec,
    Vni,
    ipam::{self, Holder, IpamError, Subnet},
    is_predefined,
    options::{self, OptionError},
};

/// The first VNI that is assigned.
const FIRST_VNI: u32 = 4096;

/// The auxiliary address that the host itself has in an uplink or overlay network.
pub(crate) const HOST_ADDRESS: &str = "host";

/// Why a network, or an endpoint of it, cannot be created, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// There is no such network.
    #[error("network {0} not found")]
    NotFound(Reference),
    /// Several ids have this prefix: (prefix, count).
    #[error("network {0} is ambiguous ({1} matches found based on ID prefix)")]
    Ambiguous(Reference, usize),
    /// The name is taken.
    #[error("network with name {0} already exists")]
    Exists(Name),
    /// Docker predefines a network of that name.
    // With the trailing blank of Docker's sentence.
    #[error("operation is not permitted on predefined {0} network ")]
    Predefined(String),
    /// It is predefined.
    #[error("{0} is a pre-defined network and cannot be removed")]
    NotRemovable(String),
    /// One exists, and there can be only one.
    #[error("only one instance of \"{0}\" network is allowed")]
    OnlyOne(Driver),
    /// It has endpoints: (network, endpoints).
    #[error("error while removing network: network {0} has active endpoints ({list})", list = .1.join(", "))]
    ActiveEndpoints(Name, Vec<String>),
    /// Connecting to, or disconnecting from, the host's network.
    #[error("container cannot be disconnected from host network or connected to host network")]
    HostNetwork,
    /// Connecting to the network `none`.
    #[error(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
    )]
    NoNetwork,
    /// The network has no such endpoint: (container, network).
    #[error("container {0} is not connected to network {1}")]
    NotConnected(Reference, Name),
    /// There is no such endpoint.
    #[error("there is no endpoint {0}: it was disconnected, or its namespace ended")]
    NoEndpoint(Id),
    /// The reference is ambiguous: (reference, count).
    #[error("endpoint {0} is ambiguous ({1} matches found)")]
    AmbiguousEndpoint(Reference, usize),
    /// The endpoint's name is taken: (name, network).
    #[error("endpoint with name {0} already exists in network {1}")]
    EndpointExists(Name, Name),
    /// Pools and addresses.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// Options of the driver.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// More than one subnet of a family: (driver).
    #[error("{0} driver doesn't support multiple subnets: write one for IPv4 and one for IPv6")]
    Subnets(Driver),
    /// All VNIs are taken.
    #[error("all VNIs from 4096 to 16777215 are in use: remove networks, or choose one below with -o vni=N")]
    NoVni,
    /// The network has no subnet of a requested address's family: (network, family).
    #[error("network {0} has no {1} subnet to take that address from: create it with one")]
    NoSubnet(Name, Family),
    /// The MAC address is a multicast address, or in use: (reason).
    #[error("{0}")]
    Mac(String),
    /// No endpoint name can be derived from the sandbox's: (that name).
    #[error("{0:?} is not a valid name for an endpoint: choose one with --name")]
    Nameless(String),
    /// Ports cannot be reached from outside: (network, reason).
    #[error("ports cannot be published in network {0}: {1}")]
    NotPublished(Name, &'static str),
    /// The network refers to an unknown peer.
    #[error("there is no peer {0}: see `vswitchctl peer ls`, or add it")]
    NoPeer(Name),
    /// The key cannot change while the network lives: (network, key, reason).
    #[error("network {0}: {1} cannot change while the network lives: {2}")]
    Fixed(Name, String, &'static str),
    /// The file declares the endpoint: (endpoint, network).
    #[error("endpoint {0} of network {1} is declared in the configuration file: remove it there and reload")]
    DeclaredEndpoint(Name, Name),
    /// The file declares it.
    #[error("network {0} is declared in the configuration file: change it there and reload")]
    Declared(Name),
    /// It belongs to the cluster.
    #[error("network {0} belongs to the cluster: change it by vswitchctl or the API of a host")]
    Global(Name),
    /// Endpoints have addresses in a subnet that is removed or reassigned: (network, endpoints).
    #[error("network {0}: its subnets cannot change while endpoints have addresses in them ({list}): disconnect them first", list = .1.join(", "))]
    Uprooted(Name, Vec<String>),
}

/// The predefined networks, which are not broadcast domains.
pub fn predefined() -> [NetworkSpec; 2] {
    [("host", Driver::Host), ("none", Driver::Null)].map(|(name, driver)| {
        let mut spec = NetworkSpec::plain(name.parse().expect("it is a name"));
        spec.driver = Some(driver);
        spec
    })
}

/// What networks need to know of this host. Observed before a network is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its routes, without default routes and those of our own interfaces.
    pub routes: Vec<Route>,
    /// The nameservers that it asks.
    pub nameservers: Vec<IpAddr>,
    /// The pool of IPv6 subnets that are not chosen.
    pub ipv6: Option<PoolSpec>,
}

impl State {
    /// Sets the observation of this host.
    pub fn observe(&mut self, host: Host) {
        self.host = Arc::new(host);
    }

    /// The network of a reference: its id, its name, or the first digits of its id, in this order.
    ///
    /// # Errors
    /// There is none, or the digits are ambiguous.
    pub(crate) fn find_network(&self, reference: &Reference) -> Result<Network, Refusal> {
        let text = reference.as_str();
        if let Some(found) = text.parse().ok().and_then(|name| self.network(&name)) {
            return Ok(found);
        }
        let mut found = self.networks().filter(|network| network.spec.id().as_str().starts_with(text));
        match (found.next(), found.count()) {
            (None, _) => Err(NetworkError::NotFound(reference.clone()).into()),
            (Some(network), 0) => Ok(network),
            (Some(_), more) => Err(NetworkError::Ambiguous(reference.clone(), more + 1).into()),
        }
    }

    /// The unused networks of the API: without endpoints, and without ports other than derived ones.
    pub(crate) fn unused_networks(&self) -> Vec<Arc<NetworkSpec>> {
        let mut used: HashSet<&Name> = self.endpoints().map(|it| &it.network).collect();
        used.extend(self.services.entries().map(|entry| &entry.spec.network));
        let asked_for = self.ports.entries().filter(|entry| entry.origin != Origin::Derived);
        used.extend(asked_for.flat_map(|entry| entry.spec.carries.named()));
        let unused =
            |entry: &&Entry<NetworkSpec>| entry.origin == Origin::Api && !used.contains(&entry.spec.name);
        self.networks.entries().filter(unused).map(|entry| Arc::clone(&entry.spec)).collect()
    }

    /// Creates a network, and chooses what is not given.
    pub(super) fn add_network(&mut self, mut spec: NetworkSpec) -> Result<(), Refusal> {
        let name = spec.name.clone();
        if is_predefined(name.as_str()) {
            return Err(NetworkError::Predefined(name.into()).into());
        }
        if let driver @ (Driver::Host | Driver::Null) = spec.driver() {
            return Err(NetworkError::OnlyOne(driver).into());
        }
        let is_it = |entry: &Entry<NetworkSpec>| entry.spec.name == name || entry.spec.id() == spec.id();
        if self.networks.entries().any(is_it) {
            return Err(NetworkError::Exists(name).into());
        }
        options::absorb(&mut spec).map_err(NetworkError::from)?;
        self.check_peers(&spec)?;
        self.choose_subnets(&mut spec)?;
        if spec.driver() == Driver::Overlay && spec.vni.is_none() {
            spec.vni = Some(self.free_vni()?);
        }
        self.networks.add(Arc::new(spec), Origin::Api)
    }

    fn choose_subnets(&self, spec: &mut NetworkSpec) -> Result<(), NetworkError> {
        for family in Family::ALL {
            if spec.subnets.iter().filter(|it| it.family() == family).count() > 1 {
                return Err(NetworkError::Subnets(spec.driver()));
            }
        }
        for subnet in &spec.subnets {
            Subnet::new(subnet)?;
            self.check_overlap(spec.driver(), subnet.subnet)?;
        }
        if spec.ipam == Ipam::Default {
            for family in Family::ALL {
                if spec.subnet(family).is_none() && (family == Family::V4 || spec.ipv6) {
                    spec.subnets.push(self.choose_subnet(spec.driver(), family, &[])?.into());
                }
            }
        }
        spec.ipam = Ipam::Null;
        spec.ipv6 |= spec.subnet(Family::V6).is_some();
        spec.subnets.sort_by_key(SubnetSpec::family);
        choose_addresses(spec).map_err(|(_, error)| error.into())
    }

    /// A subnet that overlaps neither a network, nor what the host has on its links, nor a nameserver, nor `held`; and nothing
    /// behind a router that the host has a route to either, if there is one: a VPN may have routes to all private addresses.
    ///
    /// # Errors
    /// None is left.
    pub(crate) fn choose_subnet(
        &self,
        driver: Driver,
        family: Family,
        held: &[IpNet],
    ) -> Result<IpNet, IpamError> {
        let own: Vec<_> = self.host.ipv6.into_iter().collect();
        let pools = match (family, driver) {
            (Family::V6, _) if self.pools.ipv6.is_empty() => &own,
            (Family::V6, _) => &self.pools.ipv6,
            (Family::V4, Driver::Overlay) => &self.pools.overlay,
            (Family::V4, _) => &self.pools.local,
        };
        let nameservers = self.host.nameservers.iter().copied().map(IpNet::from);
        let used: Vec<_> = self.subnets().chain(nameservers).chain(held.iter().copied()).collect();
        // The halves of a default route lead everywhere, and say nothing about where.
        let routes = self.host.routes.iter().filter(|route| route.to.prefix_len() > 1);
        let beside = |routes: &mut dyn Iterator<Item = &Route>| {
            ipam::free_subnet(pools, used.iter().copied().chain(routes.map(|route| route.to)))
        };
        beside(&mut routes.clone()).or_else(|_| beside(&mut routes.filter(|route| route.on_link)))
    }

    /// The address whose turn it is in a network's subnet, existing or planned, after `last`, if given, and not in `held`.
    ///
    /// # Errors
    /// None is free, or the subnet is invalid.
    pub(crate) fn choose_address(
        &self,
        subnet: &SubnetSpec,
        held: &[IpAddr],
        last: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<IpAddr, NetworkError> {
        let has_it = |network: &Network| network.spec.subnets.iter().any(|it| it.subnet == subnet.subnet);
        let network = self.networks().find(has_it);
        let found = match &network {
            Some(network) => self.subnets_of(&network.spec)?.into_iter().find(|it| it.net() == subnet.subnet),
            None => None,
        };
        let mut found = found.map_or_else(|| Subnet::new(subnet), Ok)?;
        for address in held {
            // An address that is in use by now counts as used anyway.
            let _ = found.claim(*address);
        }
        let last = last.or_else(|| self.turns.last(subnet.subnet));
        // Of a network of the cluster this host assigns its own blocks.
        match network.and_then(|network| self.blocks_of(&network.spec.name)) {
            Some(blocks) => Ok(next_within(&found, blocks, &self.turns, last, now)?),
            None => Ok(found.allocate_next(&self.turns, last, now)?),
        }
    }

    /// Every subnet of every network.
    fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.networks.entries().flat_map(|entry| entry.spec.subnets.iter().map(|it| it.subnet))
    }

    /// Checks that a subnet takes no addresses from another network, nor from what the host reaches by itself. A wider route of
    /// the host, such as a VPN's, is allowed: the narrower one has precedence. An uplink's subnet is the LAN's.
    fn check_overlap(&self, driver: Driver, subnet: IpNet) -> Result<(), IpamError> {
        for entry in self.networks.entries() {
            if let Some(other) = entry.spec.subnets.iter().find(|it| ipam::overlap(it.subnet, subnet)) {
                let holder = Holder::Network(entry.spec.name.clone(), other.subnet);
                return Err(IpamError::Overlap(subnet, holder));
            }
        }
        match self.host.routes.iter().find(|route| subnet.contains(&route.to)) {
            Some(route) if driver != Driver::Uplink => {
                Err(IpamError::Overlap(subnet, Holder::Route(route.to, route.ifname.clone())))
            }
            _ => Ok(()),
        }
    }

    /// A sentence for each subnet of `spec` that takes addresses from a LAN of the host: allowed, as with Docker, and worth a word.
    pub(crate) fn shadowed(&self, spec: &NetworkSpec) -> Vec<String> {
        if spec.driver() == Driver::Uplink {
            return Vec::new();
        }
        let is_lan = |route: &&Route| route.on_link && route.to.prefix_len() > 1;
        let sentence = |subnet: IpNet| {
            let mut lans = self.host.routes.iter().filter(is_lan);
            let lan = lans.find(|route| route.to != subnet && route.to.contains(&subnet))?;
            Some(format!(
                "{subnet} is a part of {} on {}: the host and its containers no longer reach who has these addresses there",
                lan.to, lan.ifname
            ))
        };
        spec.subnets.iter().filter_map(|it| sentence(it.subnet)).collect()
    }

    fn free_vni(&self) -> Result<Vni, NetworkError> {
        let collected = self.ports.entries().filter_map(|entry| Some(entry.spec.device.collector()?.vni));
        let networks = self.networks.entries().filter_map(|entry| entry.spec.vni);
        let mut taken: Vec<u32> = networks.chain(collected).map(Vni::as_u32).collect();
        taken.sort_unstable();
        let next = |free: u32, vni: u32| if vni == free { free + 1 } else { free };
        let free = taken.into_iter().fold(FIRST_VNI, next);
        Vni::try_from(free).map_err(|_| NetworkError::NoVni)
    }

    /// Changes what can change of a network while containers stay connected.
    pub(super) fn update_network(&mut self, name: &Name, update: NetworkUpdate) -> Result<(), Refusal> {
        match self.networks.entry(name).map(|entry| entry.origin) {
            Some(Origin::File) => return Err(NetworkError::Declared(name.clone()).into()),
            Some(Origin::Cluster) => return Err(NetworkError::Global(name.clone()).into()),
            _ => {}
        }
        let new = self.updated_network(name, update)?;
        self.networks.replace(new);
        Ok(())
    }

    /// The network as it is after a change.
    ///
    /// # Errors
    /// There is no such network, or a key cannot change.
    pub(crate) fn updated_network(&self, name: &Name, update: NetworkUpdate) -> Result<NetworkSpec, Refusal> {
        let entry = self.networks.entry(name).ok_or_else(|| NetworkError::NotFound(name.clone().into()))?;
        let mut new = (*entry.spec).clone();
        let fixed = |key: &str| Err(NetworkError::Fixed(name.clone(), key.into(), reason(key)).into());
        if let Some(key) = update.other.keys().next() {
            return fixed(key);
        }
        for (label, value) in update.labels {
            match value {
                Some(value) => drop(new.labels.insert(label, value)),
                None => drop(new.labels.remove(&label)),
            }
        }
        let mut text = new.options.text().clone();
        for (key, value) in update.options {
            // A new value replaces the old one and does not contradict it.
            match options::short_name(&key) {
                key @ ("vni" | "parent" | "ifname" | "host") => return fixed(key),
                "mtu" => new.mtu = None,
                "vlan" => new.vlan = None,
                key => drop(text.remove(key)),
            }
            text.extend(value.map(|value| (key, value)));
        }
        new.options = text.try_into().map_err(NetworkError::from)?;
        new.mtu = update.mtu.or(new.mtu);
        self.choose_peers(&mut new, &update.peers_add, &update.peers_remove)?;
        options::absorb(&mut new).map_err(NetworkError::from)?;
        self.check_peers(&new)?;
        Ok(new)
    }

    /// Stores which peers a network reaches, if `add` or `remove` make that a list rather than all.
    fn choose_peers(
        &self,
        network: &mut NetworkSpec,
        add: &BTreeSet<Name>,
        remove: &BTreeSet<Name>,
    ) -> Result<(), NetworkError> {
        let given = network.options.peers.clone();
        if add.is_empty() && remove.is_empty() || given.is_none() && remove.is_empty() {
            return self.are_peers(add);
        }
        let before = given.unwrap_or_else(|| self.peers().cloned().collect());
        self.are_peers(add.iter().chain(remove.difference(&before)))?;
        let peers = before.union(add).filter(|peer| !remove.contains(*peer));
        let peers: Vec<_> = peers.map(Name::as_str).collect();
        let mut text = network.options.text().clone();
        text.insert("peers".into(), peers.join(","));
        network.options = text.try_into()?;
        Ok(())
    }

    /// Checks that the peers exist. A peer that is removed later is then not reached.
    fn check_peers(&self, network: &NetworkSpec) -> Result<(), NetworkError> {
        let none = BTreeSet::new();
        let before = self.networks.entry(&network.name).and_then(|it| it.spec.options.peers.as_ref());
        let new = network.options.peers.as_ref().unwrap_or(&none);
        self.are_peers(new.difference(before.unwrap_or(&none)))
    }

    fn are_peers<'n>(&self, names: impl IntoIterator<Item = &'n Name>) -> Result<(), NetworkError> {
        let missing = names.into_iter().find(|name| self.peers().all(|peer| peer != *name));
        missing.map_or(Ok(()), |name| Err(NetworkError::NoPeer(name.clone())))
    }

    fn peers(&self) -> impl Iterator<Item = &Name> {
        let is_peer = |entry: &&Entry<PortSpec>| entry.spec.device.peer().is_some();
        self.ports.entries().filter(is_peer).map(|entry| &entry.spec.name)
    }

    /// Removes a network without endpoints.
    pub(super) fn remove_network(&mut self, name: &Name) -> Result<(), Refusal> {
        match self.networks.entry(name).map(|it| it.origin) {
            Some(Origin::Cluster) => return Err(NetworkError::Global(name.clone()).into()),
            Some(Origin::File) => {
                self.check_empty(name)?;
                return Err(Refusal::Declared { kind: Kind::Network, name: name.clone() });
            }
            _ => self.check_unused(name)?,
        }
        if let Some(entry) = self.networks.entry(name) {
            let turns = Arc::make_mut(&mut self.turns);
            entry.spec.subnets.iter().for_each(|it| turns.restart(it.subnet));
        }
        self.networks.remove(name)
    }

    /// Checks that a network has no endpoints on this host.
    fn check_empty(&self, name: &Name) -> Result<(), Refusal> {
        let endpoints: Vec<_> = self.endpoints_of(name).map(|it| it.name.to_string()).collect();
        if endpoints.is_empty() {
            Ok(())
        } else {
            Err(NetworkError::ActiveEndpoints(name.clone(), endpoints).into())
        }
    }

    /// Checks that neither endpoints nor ports of this host use a network.
    ///
    /// # Errors
    /// They do.
    pub(crate) fn check_unused(&self, name: &Name) -> Result<(), Refusal> {
        self.check_empty(name)?;
        let services: Vec<_> = self.services_of(name).map(|it| it.name.clone()).collect();
        if !services.is_empty() {
            return Err(ServiceError::NetworkInUse(name.clone(), services).into());
        }
        let asked_for = |entry: &&Entry<PortSpec>| {
            !matches!(entry.origin, Origin::Derived | Origin::Cluster)
                && entry.spec.carries.named().any(|it| it == name)
        };
        let ports: Vec<_> = self.ports.entries().filter(asked_for).map(|it| it.spec.name.clone()).collect();
        if !ports.is_empty() {
            return Err(Refusal::InUse { network: name.clone(), ports });
        }
        Ok(())
    }
}

/// Chooses the gateways that are not given, and the host's own address in an uplink or overlay network if it has one.
///
/// # Errors
/// Index of a subnet that is contradictory or has no address left.
pub(crate) fn choose_addresses(network: &mut NetworkSpec) -> Result<(), (usize, IpamError)> {
    let host = network.options.host;
    let choose = |spec: &mut SubnetSpec| {
        let mut subnet = Subnet::new(spec)?;
        if spec.gateway.is_none() {
            spec.gateway = Some(subnet.allocate()?);
        }
        if host && !spec.aux.contains_key(HOST_ADDRESS) {
            spec.aux.insert(HOST_ADDRESS.into(), subnet.allocate()?);
        }
        Ok(())
    };
    network
        .subnets
        .iter_mut()
        .enumerate()
        .try_for_each(|(item, spec)| choose(spec).map_err(|error| (item, error)))
}

/// Why a key cannot change while a network lives.
fn reason(key: &str) -> &'static str {
    match key {
        "name" | "id" => "it identifies the network; create another network",
        "driver" | "parent" => {
            "its containers would be cut off; create another network and connect them to it"
        }
        "vni" => "its tunnels carry it by that number; create another network",
        "subnet" | "ipam" | "ipv6" => "its containers have addresses in the subnets; create another network",
        "ifname" | "host" => "the host's routes lead through that interface; create another network",
        "internal" | "attachable" | "swarm" | "created" => {
            "it is fixed when the network is created; create another network"
        }
        _ => "there is no such key to change: mtu, labels, options and peers can change",
    }
}
