//! What must hold of networks and ports, each by itself and all together.
//!
//! One list of rules for `net.toml`, the API and the store. A rule reports the later of two objects that contradict each
//! other, so a caller puts the new one last.

mod networks;

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    path::PathBuf,
};

use ipnet::IpNet;

use crate::sentence::{nearest, outside};
use crate::{
    Carries, CollectorSpec, Family, IfName, InterfaceSpec, Mtu, Name, Netns, NetworkSpec, PortSpec, Tags,
    UnderlayAddr, VxlanSpec, ifname::IFNAME_MAX,
};

/// Learned addresses, of a port or of the switch.
pub const MAC_LIMIT: RangeInclusive<u32> = 1..=4_194_304;

/// A rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The value at fault.
    pub at: Location,
    /// The value it contradicts, if that may be the wrong one as well.
    pub with: Option<Location>,
    /// What is wrong and what to do; objects are called by name.
    pub what: String,
}

/// A key of an object: `port[2].address[0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The object.
    pub object: Index,
    /// The key as it is written in `net.toml`.
    pub key: &'static str,
    /// The item of a list, counted from 0.
    pub item: Option<usize>,
}

/// An object by its position among those that were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// A network.
    Network(usize),
    /// A port.
    Port(usize),
}

impl Location {
    fn network(index: usize, key: &'static str) -> Self {
        Self { object: Index::Network(index), key, item: None }
    }

    fn port(index: usize, key: &'static str) -> Self {
        Self { object: Index::Port(index), key, item: None }
    }

    fn item(self, item: usize) -> Self {
        Self { item: Some(item), ..self }
    }

    /// The key without the object: `address[0]`.
    pub fn field(self) -> String {
        self.item.map_or_else(|| self.key.to_owned(), |item| format!("{}[{item}]", self.key))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object {
            Index::Network(index) => write!(f, "network[{index}].{}", self.field()),
            Index::Port(index) => write!(f, "port[{index}].{}", self.field()),
        }
    }
}

/// Every rule that `networks` and `ports` break.
pub fn check(networks: &[&NetworkSpec], ports: &[&PortSpec]) -> Vec<Fault> {
    let mut check = Check {
        networks: networks
            .iter()
            .enumerate()
            .rev()
            .map(|(index, spec)| (&spec.name, (index, *spec)))
            .collect(),
        overlay_mtu: overlay_mtu(ports.iter().copied()),
        underlay_is_unknown: ports
            .iter()
            .copied()
            .find_map(|port| port.device.endpoint())
            .is_some_and(|endpoint| endpoint.underlay_mtu.or(endpoint.measured_mtu).is_none()),
        faults: Vec::new(),
    };
    check.alone(networks, ports);
    check.distinct_networks(networks);
    check.distinct_subnets(networks);
    check.distinct_ports(ports);
    check.peers(ports);
    check.collectors(networks, ports);
    check.mirrors(ports);
    check.faults
}

/// Longest IP packet of a port, in bytes: its own, its untagged network's, or what a buffer holds.
pub fn port_mtu(port: &PortSpec, network_mtu: impl Fn(&Name) -> Option<Mtu>) -> Mtu {
    let inherited = || port.carries.untagged().and_then(network_mtu).unwrap_or(Mtu::MAX);
    port.mtu.unwrap_or_else(inherited)
}

/// Longest IP packet that tunnels carry, in bytes, if the endpoint is among `ports`.
pub fn overlay_mtu<'p>(ports: impl IntoIterator<Item = &'p PortSpec>) -> Option<Mtu> {
    ports.into_iter().find_map(|port| port.device.endpoint()).map(VxlanSpec::overlay_mtu)
}

struct Check<'a> {
    /// The first network of each name.
    networks: HashMap<&'a Name, (usize, &'a NetworkSpec)>,
    overlay_mtu: Option<Mtu>,
    underlay_is_unknown: bool,
    faults: Vec<Fault>,
}

impl<'a> Check<'a> {
    fn fault(&mut self, at: Location, what: impl Into<String>) {
        self.faults.push(Fault { at, with: None, what: what.into() });
    }

    fn contradiction(&mut self, at: Location, with: Location, what: impl Into<String>) {
        self.faults.push(Fault { at, with: Some(with), what: what.into() });
    }

    /// Rules that need one object, and the networks a port names.
    fn alone(&mut self, networks: &[&'a NetworkSpec], ports: &[&'a PortSpec]) {
        for (index, network) in networks.iter().enumerate() {
            self.network(index, network);
        }
        for (index, port) in ports.iter().enumerate() {
            if let Some(limit) = port.mac_limit.filter(|limit| !MAC_LIMIT.contains(limit)) {
                self.fault(Location::port(index, "mac_limit"), outside(limit, &MAC_LIMIT));
            }
            self.carries(index, &port.carries, port.native_tagged);
            self.mtu(index, port);
            self.names(index, port);
            if let Some(interface) = port.interface() {
                self.addresses(index, port, interface);
                self.gateways(index, interface);
            }
        }
    }

    fn carries(&mut self, port: usize, carries: &Carries, native_tagged: bool) {
        let (trunk, native) = match carries {
            Carries::Trunk { trunk, native } => (trunk, native),
            Carries::Access { network } => {
                self.exists(Location::port(port, "network"), network);
                return;
            }
            Carries::Tunnel { networks } => {
                self.tunnelled(port, networks.as_deref().unwrap_or_default());
                return;
            }
            Carries::Mirror { mirror } => {
                for name in &mirror.networks {
                    self.exists(Location::port(port, "mirror"), name);
                }
                return;
            }
        };
        if trunk.is_empty() {
            self.fault(
                Location::port(port, "trunk"),
                "is empty: name the tagged networks, or write network instead",
            );
        }
        for (item, name) in trunk.iter().enumerate() {
            let at = Location::port(port, "trunk").item(item);
            if trunk[..item].contains(name) {
                self.fault(at, format!("network {name} is listed twice: remove one"));
            } else if let Some((index, network)) = self.exists(at, name)
                && network.vlan.is_none()
            {
                let what = format!("network {name} has no vlan to be tagged with: give it one");
                self.contradiction(at, Location::network(index, "vlan"), what);
            }
        }
        if let Some(name) = native {
            let at = Location::port(port, "native");
            let found = self.exists(at, name);
            if trunk.contains(name) {
                self.fault(at, format!("network {name} is tagged on this trunk as well: remove it from one"));
            } else if let Some((index, NetworkSpec { tags: Tags::Pass, .. })) = found {
                let what = format!(
                    "network {name} passes tags, which would be taken for this trunk's own: carry it tagged"
                );
                self.contradiction(at, Location::network(index, "tags"), what);
            } else if let Some((index, NetworkSpec { vlan: None, .. })) = found.filter(|_| native_tagged) {
                let what = format!("network {name} has no vlan to be tagged with: give it one");
                let at = Location::port(port, "native_tagged");
                self.contradiction(at, Location::network(index, "vlan"), what);
            }
        }
    }

    fn tunnelled(&mut self, port: usize, networks: &[Name]) {
        for (item, name) in networks.iter().enumerate() {
            let at = Location::port(port, "networks").item(item);
            if networks[..item].contains(name) {
                self.fault(at, format!("network {name} is listed twice: remove one"));
            } else if let Some((index, network)) = self.exists(at, name)
                && network.vni.is_none()
            {
                let what = format!("network {name} has no vni to cross the tunnel with: give it one");
                self.contradiction(at, Location::network(index, "vni"), what);
            }
        }
    }

    /// Rules of the endpoint and its peers.
    fn peers(&mut self, ports: &[&'a PortSpec]) {
        let local = ports.iter().find_map(|port| port.device.endpoint());
        let mut remotes = Seen::new("address");
        for (index, port) in ports.iter().enumerate() {
            let Some(peer) = port.device.peer() else { continue };
            let (at, remote) = (Location::port(index, "address"), peer.remote);
            let is_group = local.is_some_and(|local| local.group == Some(remote));
            if let Some(first) = remotes.first(remote, index) {
                let what =
                    format!("peer {} has {remote} already: use another, or remove one", ports[first].name);
                self.contradiction(at, Location::port(first, "address"), what);
            } else if remote.is_multicast() && !is_group {
                self.fault(at, format!("{remote} is a group: name a host, and the group with vxlan.group"));
            } else if let Some(problem) = remote_problem(remote, local) {
                self.fault(at, problem);
            }
        }
    }

    /// Rules of collectors. Two mirrors may share one.
    fn collectors(&mut self, networks: &[&'a NetworkSpec], ports: &[&'a PortSpec]) {
        let local = ports.iter().find_map(|port| port.device.endpoint());
        for (index, port) in ports.iter().enumerate() {
            let Some(&CollectorSpec { remote, vni, .. }) = port.device.collector() else { continue };
            if remote.is_multicast() {
                let what = format!("{remote} is a group: name the one host that gets the copies");
                self.fault(Location::port(index, "remote"), what);
            } else if let Some(problem) = remote_problem(remote, local) {
                self.fault(Location::port(index, "remote"), problem);
            }
            let at = Location::port(index, "vni");
            if let Some(other) = networks.iter().position(|network| network.vni == Some(vni)) {
                let what = format!(
                    "network {} has vni {vni}, and copies would be frames of it: choose another",
                    networks[other].name
                );
                self.contradiction(at, Location::network(other, "vni"), what);
            }
        }
    }

    /// What mirrors copy exists, and is not a copy itself.
    fn mirrors(&mut self, ports: &[&'a PortSpec]) {
        for (index, port) in ports.iter().enumerate() {
            let Carries::Mirror { mirror } = &port.carries else { continue };
            let at = Location::port(index, "mirror");
            if mirror.ports.is_empty() && mirror.networks.is_empty() {
                self.fault(at, "names nothing to copy from: write ports, or networks");
            }
            for name in &mirror.ports {
                match ports.iter().find(|other| other.name == *name) {
                    None => self.fault(at, format!("no port is named {name}: declare it, or remove it here")),
                    Some(other) if matches!(other.carries, Carries::Mirror { .. }) => {
                        self.fault(
                            at,
                            format!("{name} gets copies itself: name the ports that it copies from"),
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn exists(&mut self, at: Location, name: &Name) -> Option<(usize, &'a NetworkSpec)> {
        let found = self.networks.get(name).copied();
        if found.is_none() {
            let known = self.networks.keys().map(|known| known.as_str());
            let hint = nearest(name.as_str(), known)
                .map_or_else(|| "declare it".into(), |known| format!("did you mean {known}?"));
            self.fault(at, format!("no network is named {name}: {hint}"));
        }
        found
    }

    /// A trunk may carry longer packets than one of its networks; an access port may not.
    fn mtu(&mut self, index: usize, port: &PortSpec) {
        let Carries::Access { network } = &port.carries else { return };
        let Some((at, network)) = self.networks.get(network).copied() else { return };
        if network.vni.is_some() && network.mtu.is_none() && self.underlay_is_unknown {
            // Checked once the underlay's MTU is known.
            return;
        }
        let most = network.mtu(self.overlay_mtu);
        if let Some(mtu) = port.mtu.filter(|mtu| *mtu > most) {
            let what = format!(
                "{mtu} is more than the {most} of network {}: lower it, or raise the network's",
                network.name
            );
            self.contradiction(Location::port(index, "mtu"), Location::network(at, "mtu"), what);
        }
    }

    /// Names of interfaces and namespaces, as the kernel sees them.
    fn names(&mut self, index: usize, port: &PortSpec) {
        if port.device.is_tunnel() {
            return;
        }
        let Some(interface) = port.interface() else { return };
        if interface.ifname.is_none() && IfName::of(&port.name).is_none() {
            let what = format!(
                "the port's name is the interface's, too, and {:?} is longer than the {IFNAME_MAX} bytes of an interface name: set ifname",
                port.name.as_str()
            );
            self.contradiction(Location::port(index, "ifname"), Location::port(index, "kind"), what);
        }
        if let Some(problem) = interface.netns.as_ref().and_then(netns_problem) {
            self.fault(Location::port(index, "netns"), problem);
        }
        if let Some(mac) = interface.mac.filter(|mac| !mac.is_station()) {
            let what =
                format!("{mac} is a multicast address or zero: use a station's, like 02:42:0a:09:00:02");
            self.fault(Location::port(index, "mac"), what);
        }
    }

    fn addresses(&mut self, index: usize, port: &PortSpec, interface: &InterfaceSpec) {
        let places = |item| Location::port(index, "address").item(item);
        for (item, net) in interface.address.iter().enumerate() {
            if let Some(problem) = address_problem(*net) {
                self.fault(places(item), problem);
            } else if interface.address[..item].iter().any(|other| other.addr() == net.addr()) {
                self.fault(places(item), format!("{} is listed twice: remove one", net.addr()));
            }
        }
        if interface.address.is_empty() {
            return;
        }
        if port.carries.untagged().is_none() {
            let what =
                "untagged frames of this trunk belong to no network: set native, or remove the address";
            self.contradiction(Location::port(index, "address"), Location::port(index, "native"), what);
            return;
        }
        let mtu = port_mtu(port, |name| Some(self.networks.get(name)?.1.mtu(self.overlay_mtu)));
        let ipv6 = interface.address.iter().position(|net| Family::of(*net) == Family::V6);
        if let Some(item) = ipv6.filter(|_| mtu < Mtu::IPV6) {
            let network = port.carries.untagged().and_then(|name| self.networks.get(name));
            let with = match network {
                Some((network, _)) if port.mtu.is_none() => Location::network(*network, "mtu"),
                _ => Location::port(index, "mtu"),
            };
            let what =
                format!("IPv6 needs an mtu of {} or more, and the port's is {mtu}: raise it", Mtu::IPV6);
            self.contradiction(places(item), with, what);
        }
    }

    fn gateways(&mut self, index: usize, interface: &InterfaceSpec) {
        for (item, gateway) in interface.gateway.iter().enumerate() {
            let at = Location::port(index, "gateway").item(item);
            let family = Family::of(*gateway);
            let subnet = interface.address.iter().find(|net| net.contains(gateway));
            if interface.gateway[..item].iter().any(|other| Family::of(*other) == family) {
                self.fault(at, format!("a second {family} gateway: keep one"));
            } else if interface.address.iter().any(|net| net.addr() == *gateway) {
                self.fault(at, format!("{gateway} is the port's own address: name another station"));
            } else if let Some(subnet) = subnet {
                if let Some(problem) = host_problem(*gateway, *subnet) {
                    self.fault(at, problem);
                }
            } else if !is_link_local(*gateway) {
                let what = format!("{gateway} is in no subnet of the port's addresses: correct one of them");
                self.contradiction(at, Location::port(index, "address"), what);
            }
        }
    }

    fn distinct_networks(&mut self, networks: &[&'a NetworkSpec]) {
        let (mut names, mut vlans, mut vnis) = (Seen::new("name"), Seen::new("vlan"), Seen::new("vni"));
        for (index, network) in networks.iter().enumerate() {
            if let Some(first) = names.first(&network.name, index) {
                let what = format!("another network is named {}: rename one", network.name);
                self.contradiction(Location::network(index, "name"), Location::network(first, "name"), what);
            }
            let mut unique = |key, first: Option<usize>, value: u32| {
                let Some(first) = first else { return };
                let what = format!("network {} has {key} {value} already: use another", networks[first].name);
                self.contradiction(Location::network(index, key), Location::network(first, key), what);
            };
            if let Some(vlan) = network.vlan {
                unique(vlans.key, vlans.first(vlan, index), u32::from(vlan.as_u16()));
            }
            if let Some(vni) = network.vni {
                unique(vnis.key, vnis.first(vni, index), vni.as_u32());
            }
        }
    }

    fn distinct_ports(&mut self, ports: &[&'a PortSpec]) {
        let mut names = Seen::new("name");
        let mut interfaces = Seen::new("ifname");
        let mut addresses = Seen::new("address");
        let mut macs = Seen::new("mac");
        for (index, port) in ports.iter().enumerate() {
            if let Some(first) = names.first(&port.name, index) {
                let what = format!("another port is named {}: rename one", port.name);
                self.contradiction(Location::port(index, "name"), Location::port(first, "name"), what);
            }
            if port.device.is_tunnel() {
                continue;
            }
            let netns: Option<PathBuf> = port.interface().and_then(|it| it.netns.as_ref()).map(Netns::path);
            if let Some(first) = interfaces.first((netns, port.ifname()), index) {
                let (key, other) = (interface_key(port), interface_key(ports[first]));
                let what = format!(
                    "port {} has the interface {} already: use another",
                    ports[first].name,
                    port.ifname()
                );
                self.contradiction(Location::port(index, key), Location::port(first, other), what);
            }
            let Some(interface) = port.interface() else { continue };
            for (item, net) in interface.address.iter().enumerate() {
                // Addresses are on the untagged interface, so they must be unique in that network.
                let Some(network) = port.carries.untagged() else { break };
                if let Some(first) = addresses.first((network, net.addr()), index).filter(|it| *it != index) {
                    let what =
                        format!("port {} of network {network} has {} already", ports[first].name, net.addr());
                    let what = format!("{what}: use another");
                    self.contradiction(
                        Location::port(index, "address").item(item),
                        Location::port(first, "address"),
                        what,
                    );
                }
            }
            let Some(mac) = interface.mac else { continue };
            let shared = port.carries.named().filter_map(|network| {
                macs.first((network, mac), index)
                    .filter(|first| *first != index)
                    .map(|first| (first, network))
            });
            // All networks are recorded, but one sentence is enough.
            if let Some((first, network)) = shared.collect::<Vec<_>>().first().copied() {
                let what =
                    format!("port {} of network {network} has {mac} already: use another", ports[first].name);
                self.contradiction(Location::port(index, "mac"), Location::port(first, "mac"), what);
            }
        }
    }
}

/// First object with each value.
struct Seen<V> {
    key: &'static str,
    first: HashMap<V, usize>,
}

impl<V: Hash + Eq> Seen<V> {
    fn new(key: &'static str) -> Self {
        Self { key, first: HashMap::new() }
    }

    /// The earlier object with `value`; `None` records `index` as the first.
    fn first(&mut self, value: V, index: usize) -> Option<usize> {
        match self.first.entry(value) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(entry) => {
                entry.insert(index);
                None
            }
        }
    }
}

/// The key that gives a port's interface its name.
fn interface_key(port: &PortSpec) -> &'static str {
    if port.interface().is_some() { "ifname" } else { "device" }
}

fn netns_problem(netns: &Netns) -> Option<String> {
    let forms = "use a name of `ip netns`, a path from the root, or pid:N";
    match netns {
        Netns::Name(name) if matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']) => {
            Some(format!("{name:?} names no namespace: {forms}"))
        }
        Netns::Name(name) if name.starts_with("pid:") => Some(format!("{name:?} is not a process: {forms}")),
        Netns::Path(path) if !path.is_absolute() => Some(format!("{path:?} is relative: {forms}")),
        Netns::Pid(0) => Some(format!("there is no process 0: {forms}")),
        _ => None,
    }
}

/// Why an interface cannot have this address.
fn address_problem(net: IpNet) -> Option<String> {
    let addr = net.addr();
    if net.prefix_len() == 0 {
        return Some(format!("{net} makes all addresses the local subnet: use a longer prefix"));
    }
    if addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() {
        return Some(format!("{addr} is not a station's address: use another"));
    }
    host_problem(addr, net)
}

/// Why `addr` is not a host address of `subnet`, which contains it. In /31 (RFC 3021) and /127 (RFC 6164) all are.
fn host_problem(addr: IpAddr, subnet: IpNet) -> Option<String> {
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return None;
    }
    if addr == subnet.network() {
        return Some(format!("{addr} is the subnet {} itself: use a host's address", subnet.trunc()));
    }
    if addr.is_ipv4() && addr == subnet.broadcast() {
        return Some(format!("{addr} is the broadcast address of {}: use a host's address", subnet.trunc()));
    }
    None
}

/// Why `remote` cannot be another host's address for the endpoint `local`.
fn remote_problem(remote: UnderlayAddr, local: Option<&VxlanSpec>) -> Option<String> {
    if remote.ip().is_unspecified() || remote.ip() == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Some(format!("{remote} is not a host's address: name the other host's"));
    }
    let local = local?.local;
    if local == remote {
        Some(format!("{remote} is this host's own address: name the other host's"))
    } else if is_link_local(remote.ip()) && remote.zone() != local.zone() {
        // All sockets are bound to the local address, and with it to its link.
        Some(format!(
            "{remote} is not on the link of the local address {local}: link-local peers need a link-local address of this host on the same interface"
        ))
    } else if Family::of(local.ip()) != Family::of(remote.ip()) {
        Some(format!(
            "{remote} and the local address {local} are of different families: an underlay is either IPv4 or IPv6"
        ))
    } else {
        None
    }
}

/// Every IPv6 interface reaches fe80::/10, whatever its addresses.
pub fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}
