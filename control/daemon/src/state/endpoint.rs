//! Endpoints: sandboxes' interfaces in networks.
//!
//! All that is chosen for an endpoint (addresses, MAC, names, ports of the host) is chosen here, once, and stored with it. Its
//! port in the switch and its share of the gateway's rules are derived each time.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use vswitch::addr::MacAddr;

use super::{NetworkError, Refusal, State};
use vswitch_model::{
    Connect, DeclaredEndpoint, Driver, EndpointSpec, Family, Id, Identity, IfName, Name, Netns, NetworkSpec,
    Reference, SubnetSpec,
    ipam::{Holder, IpamError, Subnet, Turns},
    options::{EndpointOptions, Options},
    publish::Published,
};

/// A sandbox as observed before it is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Identity of its namespace; `None` for an interface that is created bare.
    pub identity: Option<Identity>,
    /// The names of its interfaces.
    pub ifnames: BTreeSet<String>,
    /// Its default routes: family and interface.
    pub default_routes: Vec<(Family, String)>,
    /// Id of the new endpoint, if the request has none.
    pub id: Id,
    /// Ports of the host that are reserved for it.
    pub published: Vec<Published>,
    /// The current time.
    pub now: Timestamp,
}

/// A change of a connected endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointUpdate {
    /// Its bare interface was moved there.
    Moved(Netns),
    /// Exactly these ports of the host lead to it.
    Published(Vec<Published>),
    /// Its engine calls it so.
    Called(Called),
}

/// What an engine says of a container in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The container's id.
    pub container: String,
    /// Its name.
    pub name: String,
    /// Further names of it.
    pub aliases: Vec<String>,
    /// The service it is a task of.
    pub service: Option<String>,
    /// Whether its health check has not passed.
    pub unready: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl State {
    /// All endpoints, by id.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<EndpointSpec>> {
        self.endpoints.values()
    }

    /// The endpoints of a network.
    pub(crate) fn endpoints_of(&self, network: &Name) -> impl Iterator<Item = &Arc<EndpointSpec>> {
        self.endpoints.values().filter(move |it| it.network == *network)
    }

    /// The endpoint of a network by reference: its name, its id, its container's id, or the first digits of these.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub(crate) fn find_endpoint(
        &self,
        network: &Name,
        reference: &Reference,
    ) -> Result<Arc<EndpointSpec>, Refusal> {
        let text = reference.as_str();
        if let Some(found) = self.endpoints_of(network).find(|it| it.name.as_str() == text) {
            return Ok(Arc::clone(found));
        }
        let is_called = |it: &&Arc<EndpointSpec>| {
            it.id.as_str().starts_with(text) || it.container.as_ref().is_some_and(|id| id.starts_with(text))
        };
        let mut found = self.endpoints_of(network).filter(is_called);
        match (found.next(), found.count()) {
            (None, _) => Err(NetworkError::NotConnected(reference.clone(), network.clone()).into()),
            (Some(endpoint), 0) => Ok(Arc::clone(endpoint)),
            (Some(_), more) => Err(NetworkError::AmbiguousEndpoint(reference.clone(), more + 1).into()),
        }
    }

    /// Creates an endpoint, and chooses what is not given.
    pub(super) fn connect(
        &mut self,
        network: &Name,
        connect: Connect,
        sandbox: &Sandbox,
    ) -> Result<(), Refusal> {
        let reference = Reference::from(network.clone());
        let spec = self.network(network).ok_or(NetworkError::NotFound(reference))?.spec;
        let id = connect.id.unwrap_or_else(|| sandbox.id.clone());
        let name = match connect.name {
            Some(name) => name,
            None => default_name(connect.sandbox.as_ref(), &id)?,
        };
        if self.endpoints_of(network).any(|it| it.name == name) {
            return Err(NetworkError::EndpointExists(name, network.clone()).into());
        }
        let options: Options<EndpointOptions> = connect.options.try_into().map_err(NetworkError::from)?;
        let addresses = self.choose_addresses(&spec, connect.ip, connect.ip6, sandbox.now)?;
        let mac = self.choose_mac(network, connect.mac, &addresses, &id)?;
        let ifname = match connect.ifname.or_else(|| options.ifname.clone()) {
            Some(ifname) => ifname,
            None => self.free_ifname(&spec, connect.sandbox.as_ref(), sandbox, &id),
        };
        let gateways = self.gateways(&spec, &addresses, connect.sandbox.as_ref(), sandbox);
        if !sandbox.published.is_empty() {
            self.check_publishable(&spec)?;
        }
        self.check_services(network, &connect.services)?;
        let port = self.port_name(network, &name, &id);
        // The prefix of link-local addresses (RFC 3927 section 2.1, RFC 4291 section 2.5.6).
        let on_link = |address: IpAddr| match Family::of(address) {
            Family::V4 => IpNet::new_assert(address, 16),
            Family::V6 => IpNet::new_assert(address, 64),
        };
        let endpoint = EndpointSpec {
            id: id.clone(),
            network: network.clone(),
            name,
            sandbox: connect.sandbox,
            moved: None,
            identity: sandbox.identity,
            container: connect.container,
            aliases: connect.aliases,
            service: None,
            unready: false,
            ifname,
            mac,
            addresses,
            link_local: connect.link_local.into_iter().map(on_link).collect(),
            gateways,
            options,
            published: sandbox.published.clone(),
            services: connect.services,
            labels: connect.labels,
            port,
            created: sandbox.now,
            declared: connect.declared,
        };
        let is_chosen = |address: &IpNet| match Family::of(*address) {
            Family::V4 => connect.ip.is_none(),
            Family::V6 => connect.ip6.is_none(),
        };
        let turns = Arc::make_mut(&mut self.turns);
        for address in endpoint.addresses.iter().filter(|it| is_chosen(it)) {
            turns.give(address.trunc(), address.addr());
        }
        Arc::make_mut(&mut self.endpoints).insert(id, Arc::new(endpoint));
        Ok(())
    }

    /// Takes over what the file declares: endpoints that it declares no longer, or in another way, are removed. Their addresses do
    /// not rest: they are given out in turn, as all.
    pub(super) fn declare_endpoints(&mut self, declared: Vec<DeclaredEndpoint>) {
        self.declared = Arc::new(declared);
        let dropped = self.undeclared();
        if !dropped.is_empty() {
            Arc::make_mut(&mut self.endpoints).retain(|id, _| !dropped.contains(id));
        }
    }

    /// At a start: brings back what the file has dropped of `connected`, where the network is still there, so that it is found with its
    /// interfaces, and then [disconnected](State::undeclared).
    pub(super) fn keep_undeclared(&mut self, connected: &BTreeMap<Id, Arc<EndpointSpec>>) {
        for (id, endpoint) in connected {
            if !self.endpoints.contains_key(id) && self.networks.entry(&endpoint.network).is_some() {
                Arc::make_mut(&mut self.endpoints).insert(id.clone(), Arc::clone(endpoint));
            }
        }
    }

    /// Endpoints that the file declared before, and no longer or in another way.
    pub(crate) fn undeclared(&self) -> Vec<Id> {
        let digests: HashSet<_> = self.declared.iter().map(DeclaredEndpoint::digest).collect();
        let is_dropped =
            |it: &EndpointSpec| it.declared.as_ref().is_some_and(|digest| !digests.contains(digest));
        self.endpoints.values().filter(|it| is_dropped(it)).map(|it| it.id.clone()).collect()
    }

    /// The declared endpoints that are not connected.
    pub(crate) fn unconnected(&self) -> impl Iterator<Item = &DeclaredEndpoint> {
        let connected: HashSet<_> = self.endpoints.values().filter_map(|it| it.declared.as_ref()).collect();
        self.declared.iter().filter(move |it| !connected.contains(&it.digest()))
    }

    /// Whether the file has declared this already.
    pub(crate) fn declares(&self, declared: &DeclaredEndpoint) -> bool {
        self.declared.contains(declared)
    }

    /// Notes a change of an endpoint.
    pub(super) fn update_endpoint(&mut self, id: &Id, update: EndpointUpdate) -> Result<(), Refusal> {
        let before = self.endpoints.get(id).ok_or_else(|| NetworkError::NoEndpoint(id.clone()))?;
        let mut endpoint = (**before).clone();
        if let EndpointUpdate::Called(called) = &update {
            self.unname_forgotten(&endpoint, &called.container);
        }
        match update {
            EndpointUpdate::Moved(netns) => endpoint.moved = Some(netns),
            EndpointUpdate::Published(published) => endpoint.published = published,
            EndpointUpdate::Called(called) => self.call(&mut endpoint, called),
        }
        Arc::make_mut(&mut self.endpoints).insert(id.clone(), Arc::new(endpoint));
        Ok(())
    }

    /// Takes the names from other endpoints of a container in a network: it has one there, so these are of an earlier life, which
    /// an engine that was killed has forgotten.
    fn unname_forgotten(&mut self, endpoint: &EndpointSpec, container: &str) {
        let is_earlier = |it: &EndpointSpec| {
            it.network == endpoint.network
                && it.id != endpoint.id
                && it.container.as_deref() == Some(container)
        };
        for earlier in Arc::make_mut(&mut self.endpoints).values_mut().filter(|it| is_earlier(it)) {
            let name = format!("ep-{}", earlier.id.short()).parse().expect("digits make a name");
            let earlier = Arc::make_mut(earlier);
            (earlier.name, earlier.container, earlier.service) = (name, None, None);
            earlier.aliases.clear();
            earlier.labels.clear();
        }
    }

    /// Whether it is known that an engine calls an endpoint so.
    pub(crate) fn is_called(&self, endpoint: &EndpointSpec, called: &Called) -> bool {
        let mut after = endpoint.clone();
        self.call(&mut after, called.clone());
        after == *endpoint
    }

    /// Gives an endpoint the name that its engine has for it. In a network a name is one endpoint's: where another has it, or
    /// where it is too long, it becomes one of the further names, which several may have.
    fn call(&self, endpoint: &mut EndpointSpec, called: Called) {
        let Called { container, name, mut aliases, service, unready, labels } = called;
        aliases.retain(|alias| *alias != name);
        let is_free = |name: &Name| {
            !self.endpoints_of(&endpoint.network).any(|it| it.id != endpoint.id && it.name == *name)
        };
        match name.parse().ok().filter(is_free) {
            Some(name) => endpoint.name = name,
            None => aliases.insert(0, name),
        }
        (endpoint.aliases, endpoint.labels) = (aliases, labels);
        (endpoint.container, endpoint.service, endpoint.unready) = (Some(container), service, unready);
    }

    /// Removes endpoints; unknown ids are ignored. Their addresses rest.
    pub(super) fn disconnect(&mut self, ids: &[Id], now: Timestamp) {
        let (endpoints, turns) = (Arc::make_mut(&mut self.endpoints), Arc::make_mut(&mut self.turns));
        for endpoint in ids.iter().filter_map(|id| endpoints.remove(id)) {
            endpoint.addresses.iter().for_each(|net| turns.take_back(net.addr(), now));
        }
    }

    /// Goes on after the youngest endpoints: what was given out before a restart is not known otherwise.
    pub(super) fn resume_turns(&mut self) {
        let mut endpoints: Vec<_> = self.endpoints.values().collect();
        endpoints.sort_by_key(|it| (it.created, &it.addresses));
        let mut turns = Turns::default();
        for address in endpoints.iter().flat_map(|it| &it.addresses) {
            turns.give(address.trunc(), address.addr());
        }
        self.turns = turns.into();
    }

    /// The subnets of a network with their used addresses: those of endpoints, and of ports that declare addresses.
    ///
    /// # Errors
    /// Endpoints have addresses outside the subnets, because these were changed.
    pub(crate) fn subnets_of(&self, network: &NetworkSpec) -> Result<Vec<Subnet>, NetworkError> {
        let name = &network.name;
        let mut subnets = network.subnets.iter().map(Subnet::new).collect::<Result<Vec<_>, _>>()?;
        let mut uprooted = Vec::new();
        for endpoint in self.endpoints_of(name) {
            for net in &endpoint.addresses {
                let home = subnets.iter_mut().find(|it| it.net() == net.trunc());
                if home.and_then(|subnet| subnet.claim(net.addr()).ok()).is_none() {
                    uprooted.push(endpoint.name.to_string());
                }
            }
        }
        if !uprooted.is_empty() {
            return Err(NetworkError::Uprooted(name.clone(), uprooted));
        }
        for address in self.services_of(name).flat_map(|it| &it.address) {
            for subnet in subnets.iter_mut().filter(|it| it.net().contains(address)) {
                // Whether another has it as well is checked with the services.
                let _ = subnet.claim(*address);
            }
        }
        let ports = self.ports.entries().filter(|entry| entry.spec.carries.untagged() == Some(name));
        for net in ports.filter_map(|entry| entry.spec.interface()).flat_map(|interface| &interface.address) {
            for subnet in subnets.iter_mut().filter(|it| it.net().contains(&net.addr())) {
                // An endpoint's own port has the addresses of the endpoint.
                let _ = subnet.claim(net.addr());
            }
        }
        Ok(subnets)
    }

    /// The addresses of the network's next endpoint: the requested ones, and those whose turn it is in the other subnets.
    ///
    /// # Errors
    /// None is free, or a requested one is in use or in no subnet.
    pub(crate) fn choose_addresses(
        &self,
        network: &NetworkSpec,
        ip: Option<Ipv4Addr>,
        ip6: Option<Ipv6Addr>,
        now: Timestamp,
    ) -> Result<Vec<IpNet>, NetworkError> {
        let mut subnets = self.subnets_of(network)?;
        let mut addresses = Vec::new();
        for (asked, family) in [(ip.map(IpAddr::V4), Family::V4), (ip6.map(IpAddr::V6), Family::V6)] {
            let subnet = subnets.iter_mut().find(|it| Family::of(it.net()) == family);
            let address = match (asked, subnet) {
                (None, None) => continue,
                (Some(_), None) => return Err(NetworkError::NoSubnet(network.name.clone(), family)),
                (Some(address), Some(subnet)) => {
                    subnet.claim(address).map_err(|error| self.name_holder(network, error))?;
                    IpNet::new_assert(address, subnet.net().prefix_len())
                }
                (None, Some(subnet)) => {
                    let next = match self.blocks_of(&network.name) {
                        Some(blocks) => {
                            next_within(subnet, blocks, &self.turns, self.turns.last(subnet.net()), now)?
                        }
                        None => subnet.allocate_next(&self.turns, self.turns.last(subnet.net()), now)?,
                    };
                    IpNet::new_assert(next, subnet.net().prefix_len())
                }
            };
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// `error`, with the name of who holds an address of `network` that is taken.
    pub(crate) fn name_holder(&self, network: &NetworkSpec, error: IpamError) -> IpamError {
        let IpamError::Taken(address) = error else { return error };
        let name = || network.name.clone();
        let has_it = |nets: &[IpNet]| nets.iter().any(|net| net.addr() == address);
        let mut endpoints = self.endpoints_of(&network.name);
        let mut ports = self.ports.entries();
        let gateway = network.subnets.iter().find(|it| it.gateway == Some(address));
        let aux = network.subnets.iter().flat_map(|it| &it.aux).find(|(_, it)| **it == address);
        let holder = if let Some(endpoint) = endpoints.find(|it| has_it(&it.addresses)) {
            Holder::Endpoint(endpoint.name.clone())
        } else if gateway.is_some() {
            Holder::Gateway(name())
        } else if let Some((key, _)) = aux {
            Holder::Aux(name(), key.clone())
        } else if let Some(service) = self.services_of(&network.name).find(|it| it.address.contains(&address))
        {
            Holder::Service(service.name.clone())
        } else if let Some(port) = ports.find(|it| {
            it.spec.carries.untagged() == Some(&network.name)
                && it.spec.interface().is_some_and(|interface| has_it(&interface.address))
        }) {
            Holder::Port(port.spec.name.clone())
        } else {
            return error;
        };
        IpamError::Held(address, holder)
    }

    /// The requested MAC address, or one derived from the endpoint's address: the same address gets the same MAC, so neighbours
    /// need no new resolution.
    fn choose_mac(
        &self,
        network: &Name,
        asked: Option<MacAddr>,
        addresses: &[IpNet],
        id: &Id,
    ) -> Result<MacAddr, NetworkError> {
        let ports = self.ports.entries().filter(|entry| entry.spec.carries.named().any(|it| it == network));
        let taken: HashSet<MacAddr> = ports.filter_map(|entry| entry.spec.interface()?.mac).collect();
        if let Some(mac) = asked {
            if !mac.is_station() {
                let why =
                    format!("{mac} is a multicast address or zero: use a station's, like 02:42:0a:09:00:02");
                return Err(NetworkError::Mac(why));
            }
            if taken.contains(&mac) {
                return Err(NetworkError::Mac(format!("{mac} is in network {network} already: use another")));
            }
            return Ok(mac);
        }
        let by_address = addresses.first().map(|net| mac_of(net.addr()));
        let by_id = (0_u32..).map(|turn| hashed_mac(&format!("{id} {turn}")));
        let free = by_address.into_iter().chain(by_id).find(|mac| !taken.contains(mac));
        Ok(free.expect("there are more MAC addresses than ports"))
    }

    /// The first name that neither the sandbox nor one of its endpoints has.
    fn free_ifname(
        &self,
        network: &NetworkSpec,
        netns: Option<&Netns>,
        sandbox: &Sandbox,
        id: &Id,
    ) -> IfName {
        let Some(netns) = netns else { return IfName::bare(id) };
        let prefix = &network.options.prefix;
        let ours: HashSet<&str> = self.endpoints_in(&netns.path()).map(|it| it.ifname.as_str()).collect();
        let is_free =
            |name: &IfName| !sandbox.ifnames.contains(name.as_str()) && !ours.contains(name.as_str());
        let free = (0_u32..).map_while(|number| format!("{prefix}{number}").parse().ok()).find(is_free);
        free.expect("there are more numbers than interfaces")
    }

    fn endpoints_in(&self, netns: &PathBuf) -> impl Iterator<Item = &Arc<EndpointSpec>> {
        self.endpoints.values().filter(move |it| it.sandbox.as_ref().is_some_and(|own| own.path() == *netns))
    }

    /// The next hops that the sandbox may use, of the families that have no other route.
    fn gateways(
        &self,
        network: &NetworkSpec,
        addresses: &[IpNet],
        netns: Option<&Netns>,
        sandbox: &Sandbox,
    ) -> Vec<IpAddr> {
        let ours: HashSet<IfName> = netns
            .map(|netns| self.endpoints_in(&netns.path()).map(|it| it.ifname.clone()).collect())
            .unwrap_or_default();
        let is_routed = |family| {
            sandbox
                .default_routes
                .iter()
                .any(|(routed, ifname)| *routed == family && !ours.contains(ifname.as_str()))
        };
        let has = |family| addresses.iter().any(|net| Family::of(*net) == family);
        let usable = |it: &IpAddr| {
            let family = Family::of(*it);
            !network.internal && has(family) && !is_routed(family)
        };
        network.subnets.iter().filter_map(SubnetSpec::next_hop).filter(usable).collect()
    }

    /// Whether endpoints of a network can publish ports.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn check_publishable(&self, network: &NetworkSpec) -> Result<(), Refusal> {
        let why = match network.driver() {
            _ if network.internal => "it is internal",
            Driver::Uplink => "its containers are on the LAN themselves",
            _ if network.subnets.is_empty() => "it has no subnet, and so no gateway",
            _ => return Ok(()),
        };
        Err(NetworkError::NotPublished(network.name.clone(), why).into())
    }

    /// The name of the endpoint's port in the switch: `web.blue`, if it is free.
    fn port_name(&self, network: &Name, name: &Name, id: &Id) -> Name {
        let friendly = format!("{name}.{network}").parse().ok();
        let is_free = |name: &Name| self.ports.entry(name).is_none();
        friendly
            .filter(is_free)
            .unwrap_or_else(|| format!("ep-{}", id.short()).parse().expect("digits make a name"))
    }
}

/// The address whose turn it is after `last` of those in the blocks: one that rests only if all do.
pub(super) fn next_within(
    subnet: &Subnet,
    blocks: &[IpNet],
    turns: &Turns,
    last: Option<IpAddr>,
    now: Timestamp,
) -> Result<IpAddr, IpamError> {
    let next = |block: &IpNet| subnet.clone().within(*block).allocate_next(turns, last, now).ok();
    let mut free: Vec<_> = blocks.iter().filter(|it| subnet.net().contains(*it)).filter_map(next).collect();
    // Round the blocks, from the one of the last address on.
    free.sort_by_key(|address| {
        (turns.rests(*address, now), last.is_some_and(|last| *address <= last), *address)
    });
    free.first().copied().ok_or(IpamError::NoAddress)
}

/// 02:42 and the IPv4 address, as in Docker's overlay; for an IPv6 address four bytes of its hash.
pub(super) fn mac_of(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            MacAddr([0x02, 0x42, a, b, c, d])
        }
        IpAddr::V6(_) => hashed_mac(&address.to_string()),
    }
}

pub(super) fn hashed_mac(text: &str) -> MacAddr {
    let digest = Sha256::digest(text);
    MacAddr([0x02, 0x42, digest[0], digest[1], digest[2], digest[3]])
}

/// The default name of an endpoint: its sandbox's.
fn default_name(netns: Option<&Netns>, id: &Id) -> Result<Name, NetworkError> {
    let text = match netns {
        None => format!("ep-{}", id.short()),
        Some(Netns::Name(name)) => name.clone(),
        Some(Netns::Pid(pid)) => format!("pid-{pid}"),
        Some(Netns::Path(path)) => {
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
    };
    text.parse().map_err(|_| NetworkError::Nameless(text))
}
