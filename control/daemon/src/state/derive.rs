//! Ports derived from networks and endpoints.
//!
//! They are neither requested nor stored but computed from what is stored, so none can be forgotten or left behind.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use vswitch::addr::MacAddr;

use super::{
    Refusal, State,
    endpoint::{hashed_mac, mac_of},
    network::HOST_ADDRESS,
};
use vswitch_model::{
    Accelerate, Bare, Carries, DeviceSpec, Driver, EndpointSpec, Family, GuardSpec, IfName, InterfaceSpec,
    Name, NetworkSpec, PortSpec, SubnetSpec, ifname, options::NetworkOptions,
};

impl State {
    /// Recomputes the derived ports.
    pub(super) fn derive(&mut self) -> Result<(), Refusal> {
        let mut ports = Vec::new();
        let mut trunks: BTreeMap<IfName, Trunk> = BTreeMap::new();
        let local = self.endpoint().and_then(|port| Some(port.device.endpoint()?.local.ip()));
        for entry in self.networks.entries() {
            let network = &*entry.spec;
            ports.extend(host_port(network, local, self.switch.accelerate.is_auto()));
            if let Some(parent) = &network.options.parent {
                let trunk = trunks.entry(parent.device.clone()).or_default();
                match parent.vlan {
                    Some(_) => trunk.tagged.push(network.name.clone()),
                    None => trunk.native.push(network.name.clone()),
                }
            }
        }
        ports.extend(trunks.into_iter().map(|(device, trunk)| trunk.port(device)));
        let routes = self.default_routes();
        for endpoint in self.endpoints() {
            let Some(entry) = self.networks.entry(&endpoint.network) else { continue };
            let gateway = routes.get(&endpoint.port).cloned().unwrap_or_default();
            ports.push(endpoint_port(endpoint, &entry.spec.options, gateway));
        }
        self.ports.declare(ports, super::Origin::Derived)
    }

    /// The gateways of a network of which each host of the cluster has one: this host's, and the others', sorted.
    pub(crate) fn gateways_of(&self, network: &NetworkSpec) -> Option<(MacAddr, Vec<MacAddr>)> {
        let is_gated = network.subnets.iter().any(|subnet| subnet.gateway.is_some());
        if network.driver() != Driver::Overlay || !is_gated || self.membership.hosts.is_empty() {
            return None;
        }
        let local = self.endpoint()?.device.endpoint()?.local.ip();
        let hosts = self.membership.hosts.iter();
        let mut others: Vec<_> = hosts.map(|host| gateway_mac(host.address, network)).collect();
        others.sort_unstable();
        Some((gateway_mac(local, network), others))
    }

    /// The default routes of endpoints' ports: per sandbox and family, the oldest endpoint with a gateway has one.
    fn default_routes(&self) -> BTreeMap<Name, Vec<IpAddr>> {
        let mut oldest = BTreeMap::new();
        for endpoint in self.endpoints() {
            let Some(sandbox) = &endpoint.sandbox else { continue };
            for gateway in &endpoint.gateways {
                let key = (sandbox.path(), Family::of(*gateway));
                let claim = (endpoint.created, &endpoint.id, &endpoint.port, *gateway);
                let holder = oldest.entry(key).or_insert(claim);
                if claim < *holder {
                    *holder = claim;
                }
            }
        }
        let mut routes: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for (_, _, port, gateway) in oldest.into_values() {
            routes.entry(port.clone()).or_default().push(gateway);
        }
        routes
    }
}

/// The networks of one uplink interface.
#[derive(Default)]
struct Trunk {
    tagged: Vec<Name>,
    native: Vec<Name>,
}

impl Trunk {
    fn port(self, device: IfName) -> PortSpec {
        let carries = match (self.tagged.is_empty(), self.native.into_iter().next()) {
            (true, Some(network)) => Carries::Access { network },
            (_, native) => Carries::Trunk { trunk: self.tagged, native },
        };
        PortSpec::new(uplink_name(&device), carries, DeviceSpec::Packet { device })
    }
}

/// The host's port in a network: its gateway, which forwards nothing of an internal one, or in an uplink network a station of its
/// own.
///
/// In an overlay the host may be both: the gateway has the same address on every host, so no answer to it comes from another
/// host. With an address of its own, which is first, as it is the one to send from, the host reaches containers everywhere.
///
/// Where the kernel forwards between the network's containers, it is a veth pair as well, so that it forwards between them and the
/// host.
fn host_port(network: &NetworkSpec, local: Option<IpAddr>, accelerates: bool) -> Option<PortSpec> {
    let own = |subnet: &SubnetSpec| {
        let host = || subnet.aux.get(HOST_ADDRESS).copied().filter(|_| network.options.host);
        match network.driver() {
            Driver::Bridge => [None, subnet.gateway],
            Driver::Overlay => [host(), subnet.gateway],
            Driver::Uplink => [host(), None],
            _ => [None, None],
        }
    };
    let with_prefix = |subnet: &SubnetSpec| {
        let length = subnet.subnet.prefix_len();
        own(subnet)
            .into_iter()
            .flatten()
            .filter_map(move |address| IpNet::new(address, length).ok())
            .collect()
    };
    let address: Vec<IpNet> = network.subnets.iter().flat_map::<Vec<_>, _>(with_prefix).collect();
    let first = address.first()?.addr();
    let mac = match (network.driver(), local) {
        (Driver::Overlay, Some(local)) => gateway_mac(local, network),
        _ => mac_of(first),
    };
    let interface = InterfaceSpec {
        netns: None,
        ifname: Some(gateway_ifname(network)),
        mac: Some(mac),
        address,
        persist: true,
        ..InterfaceSpec::default()
    };
    let carries = Carries::Access { network: network.name.clone() };
    let accelerates = accelerates && network.options.veth && network.options.accelerate.is_auto();
    let device = if accelerates { DeviceSpec::Veth(interface) } else { DeviceSpec::Tap(interface) };
    Some(PortSpec::new(host_port_name(network), carries, device))
}

/// The MAC address of this host's gateway in a network over several hosts: each host has one of its own, which follows from
/// the address that tunnels reach it by.
fn gateway_mac(local: IpAddr, network: &NetworkSpec) -> MacAddr {
    let number = network.vni.map_or_else(|| network.id().to_string(), |vni| vni.to_string());
    hashed_mac(&format!("gateway {local} {number}"))
}

/// The name of the host's interface in a network: given as an option, or that of [`ifname::gateway_ifname`].
pub(super) fn gateway_ifname(network: &NetworkSpec) -> IfName {
    network.options.ifname.clone().unwrap_or_else(|| ifname::gateway_ifname(&network.id()))
}

/// The name of the host's port in a network.
pub(super) fn host_port_name(network: &NetworkSpec) -> Name {
    let friendly = format!("gw.{}", network.name).parse();
    friendly.unwrap_or_else(|_| format!("gw-{}", network.id().short()).parse().expect("digits make a name"))
}

fn uplink_name(device: &str) -> Name {
    let letters = device.chars().map(|it| if it.is_ascii_alphanumeric() { it } else { '-' });
    format!("uplink-{}", letters.collect::<String>()).parse().expect("letters make a name")
}

fn endpoint_port(endpoint: &EndpointSpec, network: &NetworkOptions, gateway: Vec<IpAddr>) -> PortSpec {
    let is_ours = endpoint.sandbox.is_some();
    let options = &endpoint.options;
    let address = endpoint.addresses.iter().chain(&endpoint.link_local).copied();
    let guard = options
        .guard
        .unwrap_or(network.guard)
        .then(|| GuardSpec { also: network.also.iter().chain(&options.also).copied().collect() });
    let interface = InterfaceSpec {
        netns: endpoint.sandbox.clone(),
        ifname: Some(endpoint.ifname.clone()),
        mac: Some(endpoint.mac),
        address: if is_ours { address.collect() } else { Vec::new() },
        gateway: if is_ours { gateway } else { Vec::new() },
        persist: true,
        bare: (!is_ours).then(|| Bare { moved: endpoint.moved.clone() }),
        identity: endpoint.identity,
    };
    let veth = options.veth.unwrap_or(network.veth);
    let accelerate =
        if veth { options.accelerate.unwrap_or(network.accelerate) } else { Accelerate::default() };
    let limit = options.limit.or(network.limit);
    let device = if veth { DeviceSpec::Veth(interface) } else { DeviceSpec::Tap(interface) };
    let carries = Carries::Access { network: endpoint.network.clone() };
    PortSpec {
        isolated: !network.icc,
        limit,
        guard,
        accelerate,
        ..PortSpec::new(endpoint.port.clone(), carries, device)
    }
}
