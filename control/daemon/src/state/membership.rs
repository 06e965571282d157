//! What the cluster gives this host: global networks, other hosts as peers, and the addresses that it may assign.
//!
//! It is one input, replaced as a whole, and its objects are declared like those of the file. What is there already by other
//! means, a network of the file or a peer with the same address, stays and is not declared a second time.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Origin, Refusal, RemoteBackend, State, registry::Entry};
use vswitch_model::{
    Carries, Name, NetworkSpec, PeerSpec, PortSpec, ServiceSpec, UnderlayAddr, VXLAN_PORT, VxlanSpec, ipam,
    rules,
};

/// What the cluster gives this host, as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Where this host's tunnel is, unless the file says so.
    pub advertise: Option<IpAddr>,
    /// The global networks.
    pub networks: Vec<Arc<NetworkSpec>>,
    /// The other hosts.
    pub hosts: Vec<PeerHost>,
    /// By network, the ranges from which this host assigns addresses.
    pub blocks: BTreeMap<Name, Vec<IpNet>>,
    /// The services of global networks.
    pub services: Vec<Arc<ServiceSpec>>,
    /// By service, those of its endpoints that are on other hosts.
    pub backends: BTreeMap<Name, Vec<RemoteBackend>>,
}

/// Another host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHost {
    /// Its name.
    pub name: Name,
    /// Where its tunnel is.
    pub address: IpAddr,
    /// The UDP port of its tunnel.
    pub port: u16,
}

impl State {
    /// The ranges from which this host assigns addresses of a global network; `None` for a network of its own.
    pub(super) fn blocks_of(&self, network: &Name) -> Option<&[IpNet]> {
        let is_global = self.networks.entry(network).is_some_and(|it| self.is_of_cluster(it));
        is_global.then(|| self.membership.blocks.get(network).map_or(&[][..], Vec::as_slice))
    }

    /// Whether a network is one of the cluster's, given by it or declared in the file by the same name and VNI.
    fn is_of_cluster(&self, network: &Entry<NetworkSpec>) -> bool {
        network.origin == Origin::Cluster
            || self
                .membership
                .networks
                .iter()
                .any(|it| it.name == network.spec.name && it.vni == network.spec.vni)
    }

    /// Why global networks are not on this host: by name, a sentence.
    pub(crate) fn unfollowed(&self) -> Vec<(Name, String)> {
        let missing = |network: &&Arc<NetworkSpec>| {
            self.networks.entry(&network.name).is_none_or(|entry| !self.is_of_cluster(entry))
        };
        let why = |network: &Arc<NetworkSpec>| {
            let rival = self.rival(network).map_or_else(String::new, |rival| rival.to_string());
            let sentence = format!(
                "network {} of the cluster is not on this host, for network {rival} has its name, VNI or addresses: remove that one",
                network.name
            );
            (network.name.clone(), sentence)
        };
        self.membership.networks.iter().filter(missing).map(why).collect()
    }

    /// Why services of the cluster are not on this host: by name, a sentence. Those whose networks are not either are left out.
    pub(crate) fn unserved(&self) -> BTreeMap<Name, String> {
        let services = &self.membership.services;
        let mut refused = BTreeMap::new();
        if services.is_empty() {
            return refused;
        }
        let taken = self.endpoint_addresses();
        for service in services {
            let network = &service.network;
            let own = self.services.entry(&service.name).filter(|it| it.origin != Origin::Cluster);
            let holder = service.address.iter().find_map(|address| taken.get(&(network, *address)));
            let why = if !self.networks.entry(network).is_some_and(|it| self.is_of_cluster(it)) {
                format!("its network {network} is not")
            } else if own.is_some() {
                "a service of this host has its name: remove that one".into()
            } else if let Some(endpoint) = holder {
                format!("endpoint {endpoint} has its address: connect that one anew")
            } else {
                continue;
            };
            let sentence = format!("service {} of the cluster is not on this host, for {why}", service.name);
            refused.insert(service.name.clone(), sentence);
        }
        refused
    }

    /// The network of this host that a global one cannot be beside.
    fn rival(&self, network: &NetworkSpec) -> Option<Name> {
        let is_rival = |own: &&Entry<NetworkSpec>| {
            let same_net = |a: &IpNet| own.spec.subnets.iter().any(|b| ipam::overlap(*a, b.subnet));
            own.origin != Origin::Cluster
                && (own.spec.name == network.name
                    || own.spec.vni.is_some() && own.spec.vni == network.vni
                    || network.subnets.iter().any(|it| same_net(&it.subnet)))
        };
        self.networks.entries().find(is_rival).map(|own| own.spec.name.clone())
    }

    /// Declares what the cluster gives.
    pub(super) fn follow(&mut self) -> Result<(), Refusal> {
        let membership = Arc::clone(&self.membership);
        if *membership == Membership::default()
            && self.networks.entries().all(|it| it.origin != Origin::Cluster)
        {
            self.services.declare(Vec::<ServiceSpec>::new(), Origin::Cluster)?;
            return self.ports.declare(Vec::<PortSpec>::new(), Origin::Cluster);
        }
        let mut networks: Vec<NetworkSpec> = membership
            .networks
            .iter()
            .filter(|network| self.rival(network).is_none())
            .map(|network| NetworkSpec::clone(network))
            .collect();
        // One that was removed while this host was away stays until its last endpoint goes.
        let names: HashSet<&Name> = membership.networks.iter().map(|it| &it.name).collect();
        let asked_for = |it: &&Entry<PortSpec>| !matches!(it.origin, Origin::Derived | Origin::Cluster);
        let ports = self.ports.entries().filter(asked_for).flat_map(|it| it.spec.carries.named());
        let used: BTreeSet<&Name> = self.endpoints.values().map(|it| &it.network).chain(ports).collect();
        let stays = |it: &&Entry<NetworkSpec>| {
            it.origin == Origin::Cluster && !names.contains(&it.spec.name) && used.contains(&it.spec.name)
        };
        networks.extend(self.networks.entries().filter(stays).map(|it| NetworkSpec::clone(&it.spec)));
        let mut carried: Vec<Name> = networks.iter().map(|it| it.name.clone()).collect();
        self.networks.declare(networks, Origin::Cluster)?;
        // Those of a swarm are on the same hosts, by VNIs that it agrees upon.
        carried.extend(self.networks.entries().filter(|it| it.spec.swarm).map(|it| it.spec.name.clone()));
        let ports = self.ports_of_cluster(&membership, &carried);
        self.ports.declare(ports, Origin::Cluster)?;
        let refused = self.unserved();
        let services = membership.services.iter().filter(|it| !refused.contains_key(&it.name));
        self.services.declare(services.cloned(), Origin::Cluster)?;
        self.overlay_mtu = rules::overlay_mtu(self.ports.entries().map(|entry| &*entry.spec));
        Ok(())
    }

    /// The end of the tunnel, unless the file has one, and the other hosts, unless they are peers already.
    fn ports_of_cluster(&self, membership: &Membership, networks: &[Name]) -> Vec<PortSpec> {
        let others: Vec<_> = self.ports.entries().filter(|entry| entry.origin != Origin::Cluster).collect();
        let mut ports = Vec::new();
        let own = others.iter().find_map(|entry| entry.spec.device.endpoint());
        let local = match (own, membership.advertise) {
            (Some(own), _) => own.local,
            (None, Some(address)) => {
                let Some(local) = UnderlayAddr::UNSPECIFIED.beside(address) else { return ports };
                let before = self.endpoint().and_then(|port| port.device.endpoint().cloned());
                let mut spec = VxlanSpec::new(local);
                spec.measured_mtu = before.and_then(|before| before.measured_mtu);
                let name = VxlanSpec::NAME.parse().expect("the tunnel's own name is a name");
                ports.push(PortSpec::new(name, Carries::Tunnel { networks: None }, spec));
                local
            }
            (None, None) => return ports,
        };
        let port = own.map_or(VXLAN_PORT, |own| own.port);
        let is_learned = |entry: &Entry<PortSpec>| entry.origin == Origin::Learned;
        let fixed: Vec<_> = others.iter().filter(|entry| !is_learned(entry)).collect();
        for host in &membership.hosts {
            let is_it = |entry: &&&Entry<PortSpec>| {
                entry.spec.device.peer().is_some_and(|peer| peer.remote.ip() == host.address)
            };
            if fixed.iter().any(is_it) || local.ip() == host.address {
                continue;
            }
            let Some(remote) = local.beside(host.address) else { continue };
            let taken = |name: &Name| fixed.iter().any(|entry| entry.spec.name == *name);
            let name = if taken(&host.name) { PeerSpec::default_name(remote) } else { host.name.clone() };
            let remote_port = (host.port != port).then_some(host.port);
            let carries = Carries::Tunnel { networks: Some(networks.to_vec()) };
            ports.push(PortSpec::new(name, carries, PeerSpec { remote, remote_port, flood: None }));
        }
        ports
    }
}
