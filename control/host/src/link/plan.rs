//! Plans the steps that set up an interface: a pure function of the current state.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use vswitch::addr::MacAddr;
use vswitch_vxlan::encap::longest_super_frame;

use super::{LOOPBACK, Link, LinkError};
use vswitch_model::{Family, InterfaceSpec};

/// Desired state of an existing interface.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its name.
    pub ifname: String,
    /// Its MAC, addresses and gateways.
    pub spec: InterfaceSpec,
    /// Former desired state. Addresses and gateways of it that `spec` no longer has are removed; those configured by others
    /// stay.
    pub before: Option<InterfaceSpec>,
    /// MTU; `None` leaves it unchanged.
    pub mtu: Option<u16>,
    /// Longest super-frame in bytes (`gso_max_size`); `None` leaves it unchanged, and [`WHOLE_SUPER_FRAME`] lifts a lower one: a
    /// higher one is the operator's choice (BIG TCP).
    pub super_frame: Option<u32>,
    /// Whether offloads are turned off that a virtio header does not describe: for an interface whose frames are read through
    /// AF_PACKET.
    pub described_offloads: bool,
    /// Whether the host takes neither routers nor addresses from what it hears there.
    pub is_wary: bool,
}

/// The kernel's default of `gso_max_size` (`GSO_LEGACY_MAX_SIZE`, include/linux/netdevice.h).
pub const WHOLE_SUPER_FRAME: u32 = 65_536;

/// The `gso_max_size` of an interface whose packets of at most `mtu` bytes cross a tunnel, such that a super-frame leaves in
/// one send.
pub fn super_frame(mtu: u16) -> u32 {
    // TCP fills what is left after room for all possible headers (MAX_TCP_HEADER, include/net/tcp.h; 320 bytes where no
    // larger link layers are built in) and one byte (`sk_dst_gso_max_size`, net/core/sock.c).
    const RESERVED: usize = 320 + 1;
    u32::try_from(longest_super_frame(mtu) + RESERVED).unwrap_or(u32::MAX)
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface's number.
    pub index: u32,
    /// The next hop.
    pub gateway: IpAddr,
}

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Set the loopback up.
    LoopbackUp,
    /// Change what is `Some`, and set up if `up`.
    SetLink {
        /// The interface's number.
        index: u32,
        /// The new MAC.
        mac: Option<MacAddr>,
        /// The new MTU.
        mtu: Option<u32>,
        /// The new length of super-frames.
        super_frame: Option<u32>,
        /// Whether to set it up.
        up: bool,
    },
    /// Give the interface an address.
    AddAddress {
        /// The interface's number.
        index: u32,
        /// The address and its prefix length.
        net: IpNet,
        /// Whether nothing is to be sent from it where another address does (RFC 6724 section 5, rule 3). IPv6 only.
        deprecated: bool,
    },
    /// Take an address away.
    DeleteAddress {
        /// The interface's number.
        index: u32,
        /// The address and its prefix length.
        net: IpNet,
    },
    /// Add a default route.
    AddRoute(DefaultRoute),
    /// Remove a default route.
    DeleteRoute(DefaultRoute),
}

impl Step {
    /// Describes the step, as the continuation of "cannot".
    pub(super) fn describe(&self, ifname: &str) -> String {
        match self {
            Self::LoopbackUp => "set the loopback interface up".into(),
            Self::SetLink { mac, mtu, .. } => {
                let mac = mac.map(|mac| format!(" the MAC {mac},")).unwrap_or_default();
                let mtu = mtu.map(|mtu| format!(" the MTU {mtu},")).unwrap_or_default();
                format!("give {ifname}{mac}{mtu} its state")
            }
            Self::AddAddress { net, .. } => format!("give {ifname} the address {net}"),
            Self::DeleteAddress { net, .. } => format!("take {net} from {ifname}"),
            Self::AddRoute(route) => format!("add the default route by {} on {ifname}", route.gateway),
            Self::DeleteRoute(route) => format!("delete the default route by {} on {ifname}", route.gateway),
        }
    }
}

/// What the interface had lost, for "it has … again".
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoopbackUp => write!(f, "the loopback up"),
            Self::SetLink { mac, mtu, super_frame, up, .. } => {
                let mac = mac.map(|mac| format!("the MAC address {mac}"));
                let mtu = mtu.map(|mtu| format!("the MTU {mtu}"));
                let super_frame = super_frame.map(|bytes| format!("super-frames of {bytes} bytes"));
                let up = up.then(|| "the state up".to_owned());
                let all: Vec<_> = [mac, mtu, super_frame, up].into_iter().flatten().collect();
                write!(f, "{}", all.join(", "))
            }
            Self::AddAddress { net, .. } => write!(f, "the address {net}"),
            Self::DeleteAddress { net, .. } => write!(f, "no address {net}"),
            Self::AddRoute(route) => write!(f, "the default route by {}", route.gateway),
            Self::DeleteRoute(route) => write!(f, "no default route by {}", route.gateway),
        }
    }
}

/// State of a namespace: its interfaces, addresses and default routes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    namespace: String,
    links: HashMap<String, Link>,
    loopback_up: bool,
    addresses: HashMap<IpAddr, Vec<(u32, u8)>>,
    routes: Vec<DefaultRoute>,
}

impl Snapshot {
    /// A namespace with these interfaces, without addresses and routes; `namespace` is for messages.
    pub fn new(namespace: String, links: Vec<Link>) -> Self {
        let loopback_up = links.iter().any(|link| link.index == LOOPBACK && link.up);
        let links = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        Self { namespace, links, loopback_up, ..Self::default() }
    }

    /// Records an address of interface `index`.
    pub(crate) fn add_address(&mut self, index: u32, net: IpNet) {
        self.addresses.entry(net.addr()).or_default().push((index, net.prefix_len()));
    }

    /// Records a default route.
    pub(crate) fn add_route(&mut self, route: DefaultRoute) {
        self.routes.push(route);
    }

    /// Records that a step was done, so that the next plan starts from there. Interfaces are not tracked: no caller plans
    /// the same one twice.
    pub(super) fn note(&mut self, step: &Step) {
        match step {
            Step::LoopbackUp => self.loopback_up = true,
            Step::SetLink { .. } => {}
            Step::AddAddress { index, net, .. } => self.add_address(*index, *net),
            Step::DeleteAddress { index, net } => {
                if let Some(places) = self.addresses.get_mut(&net.addr()) {
                    places.retain(|place| *place != (*index, net.prefix_len()));
                }
            }
            Step::AddRoute(route) => self.add_route(*route),
            Step::DeleteRoute(route) => self.routes.retain(|other| other != route),
        }
    }

    fn has(&self, index: u32, net: IpNet) -> bool {
        self.addresses.get(&net.addr()).is_some_and(|places| places.contains(&(index, net.prefix_len())))
    }

    fn name_of(&self, index: u32) -> String {
        let link = self.links.values().find(|link| link.index == index);
        link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }
}

/// The requests that bring the interface to the state `wanted`, in an order the kernel accepts; none if it is there.
///
/// # Errors
/// When the interface is missing, or an address or default route belongs to another interface.
pub fn plan(snapshot: &Snapshot, wanted: &Wanted) -> Result<Vec<Step>, LinkError> {
    let missing = || LinkError::NoInterface(wanted.ifname.clone(), snapshot.namespace.clone());
    let link = snapshot.links.get(&wanted.ifname).ok_or_else(missing)?;
    check_addresses(snapshot, link, wanted)?;
    check_routes(snapshot, link, wanted)?;
    let mut steps = Vec::new();
    if !snapshot.loopback_up {
        steps.push(Step::LoopbackUp);
    }
    steps.extend(plan_link(link, wanted));
    plan_link_local(snapshot, link, wanted, &mut steps);
    plan_addresses(snapshot, link, wanted, &mut steps);
    Ok(steps)
}

fn check_addresses(snapshot: &Snapshot, link: &Link, wanted: &Wanted) -> Result<(), LinkError> {
    // Link-local addresses are per interface (RFC 4291 section 2.5.6); all others must be unique.
    let unique = wanted.spec.address.iter().map(IpNet::addr).filter(|address| !is_link_local(*address));
    for address in unique {
        let places = snapshot.addresses.get(&address).map_or(&[][..], Vec::as_slice);
        if let Some((other, _)) = places.iter().find(|(index, _)| *index != link.index) {
            let (other, namespace) = (snapshot.name_of(*other), snapshot.namespace.clone());
            return Err(LinkError::AddressTaken { address, other, namespace });
        }
    }
    Ok(())
}

fn check_routes(snapshot: &Snapshot, link: &Link, wanted: &Wanted) -> Result<(), LinkError> {
    for gateway in wanted.spec.gateway.iter().copied() {
        let same_family = |route: &&DefaultRoute| Family::of(route.gateway) == Family::of(gateway);
        let elsewhere = snapshot.routes.iter().filter(same_family).find(|route| route.index != link.index);
        if let Some(route) = elsewhere {
            let (via, other, namespace) =
                (route.gateway, snapshot.name_of(route.index), snapshot.namespace.clone());
            return Err(LinkError::RouteTaken { gateway, via, other, namespace });
        }
    }
    Ok(())
}

fn plan_link(link: &Link, wanted: &Wanted) -> Option<Step> {
    let mac = wanted.spec.mac.filter(|mac| link.mac != Some(*mac));
    let mtu = wanted.mtu.map(u32::from).filter(|mtu| link.mtu != *mtu);
    let super_frame = wanted.super_frame.filter(|bytes| match *bytes {
        WHOLE_SUPER_FRAME => link.super_frame < WHOLE_SUPER_FRAME,
        other => link.super_frame != other,
    });
    let up = !link.up && wanted.spec.bare.is_none();
    let needed = up || mac.is_some() || mtu.is_some() || super_frame.is_some();
    needed.then_some(Step::SetLink { index: link.index, mac, mtu, super_frame, up })
}

/// Replaces the link-local address that follows from the MAC address of before: of an interface that is up the kernel keeps it
/// (`addrconf_notify` in net/ipv6/addrconf.c).
fn plan_link_local(snapshot: &Snapshot, link: &Link, wanted: &Wanted, steps: &mut Vec<Step>) {
    let index = link.index;
    let (Some(before), Some(after)) = (link.mac, wanted.spec.mac) else { return };
    if before != after && snapshot.has(index, link_local_of(before)) {
        steps.push(Step::DeleteAddress { index, net: link_local_of(before) });
        steps.push(Step::AddAddress { index, net: link_local_of(after), deprecated: false });
    }
}

/// The link-local address that an interface has by default (RFC 4291 appendix A).
fn link_local_of(mac: MacAddr) -> IpNet {
    let MacAddr([a, b, c, d, e, f]) = mac;
    let [a, c, d] = [a ^ 0x02, c, d].map(u16::from);
    let address = Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        a << 8 | u16::from(b),
        c << 8 | 0xff,
        0xfe00 | d,
        u16::from(e) << 8 | u16::from(f),
    );
    IpNet::new_assert(address.into(), 64)
}

/// Whether `net` is an IPv6 address of the host's own interface that is in one subnet with an earlier one, which is the one to send
/// from: as with IPv4, where the kernel takes the first by itself. Of two IPv6 addresses it takes the one that has more bits in common
/// with the destination (RFC 6724 section 5, rule 8).
fn is_second(wanted: &Wanted, net: IpNet) -> bool {
    let mut earlier = wanted.spec.address.iter().take_while(|other| **other != net);
    wanted.is_wary && net.addr().is_ipv6() && earlier.any(|other| other.trunc() == net.trunc())
}

fn plan_addresses(snapshot: &Snapshot, link: &Link, wanted: &Wanted, steps: &mut Vec<Step>) {
    let (index, spec) = (link.index, &wanted.spec);
    let before = wanted.before.as_ref();
    let old_routes = snapshot.routes.iter().filter(|route| {
        let replaced = spec.gateway.iter().any(|new| Family::of(*new) == Family::of(route.gateway));
        let dropped = before.is_some_and(|before| before.gateway.contains(&route.gateway));
        route.index == index && !spec.gateway.contains(&route.gateway) && (replaced || dropped)
    });
    steps.extend(old_routes.map(|route| Step::DeleteRoute(*route)));

    let old_addresses = before.into_iter().flat_map(|before| &before.address).copied();
    let old_addresses: Vec<IpNet> =
        old_addresses.filter(|net| !spec.address.contains(net) && snapshot.has(index, *net)).collect();
    steps.extend(old_addresses.iter().map(|net| Step::DeleteAddress { index, net: *net }));

    // Removing an IPv4 address may remove others of its subnet and routes as well (promote_secondaries is off by
    // default): add all again; adding what is still there is not an error.
    let renew = |address: IpAddr| address.is_ipv4() && old_addresses.iter().any(|net| net.addr().is_ipv4());
    let new_addresses = spec.address.iter().filter(|net| renew(net.addr()) || !snapshot.has(index, **net));
    steps.extend(new_addresses.map(|net| Step::AddAddress {
        index,
        net: *net,
        deprecated: is_second(wanted, *net),
    }));

    // The kernel drops IPv4 routes of an interface that is down; the snapshot shows what is left.
    let routes = spec.gateway.iter().map(|gateway| DefaultRoute { index, gateway: *gateway });
    let new_routes = routes.filter(|route| renew(route.gateway) || !snapshot.routes.contains(route));
    steps.extend(new_routes.map(Step::AddRoute));
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH0: u32 = 7;

    fn spec(address: &[&str], gateway: &[&str]) -> InterfaceSpec {
        InterfaceSpec {
            address: address.iter().map(|net| net.parse().unwrap()).collect(),
            gateway: gateway.iter().map(|hop| hop.parse().unwrap()).collect(),
            ..InterfaceSpec::default()
        }
    }

    fn wanted(spec: InterfaceSpec) -> Wanted {
        let super_frame = Some(super_frame(1450));
        Wanted { ifname: "eth0".into(), spec, mtu: Some(1450), super_frame, ..Wanted::default() }
    }

    fn namespace() -> Snapshot {
        let link = |index, name: &str| Link { index, name: name.into(), mtu: 1500, ..Link::default() };
        Snapshot::new("web".into(), vec![link(LOOPBACK, "lo"), link(ETH0, "eth0"), link(8, "eth1")])
    }

    /// Applies the steps to the snapshot, as the kernel would.
    fn perform(snapshot: &mut Snapshot, wanted: &Wanted) -> Vec<Step> {
        let steps = plan(snapshot, wanted).unwrap();
        for step in &steps {
            snapshot.note(step);
            if let Step::SetLink { mac, mtu, super_frame, .. } = step {
                let link = snapshot.links.get_mut("eth0").unwrap();
                (link.up, link.mac, link.mtu) = (true, mac.or(link.mac), mtu.unwrap_or(link.mtu));
                link.super_frame = super_frame.unwrap_or(link.super_frame);
            }
        }
        steps
    }

    #[test]
    fn the_default_length_of_super_frames_only_lifts_a_lower_one() {
        let step = |now: u32, wanted: Option<u32>| {
            let link = Link { super_frame: now, up: true, ..Link::default() };
            plan_link(&link, &Wanted { super_frame: wanted, ..Wanted::default() })
        };
        let sets = |step: Option<Step>| match step {
            Some(Step::SetLink { super_frame, .. }) => super_frame,
            _ => None,
        };
        assert_eq!(sets(step(61_833, Some(WHOLE_SUPER_FRAME))), Some(WHOLE_SUPER_FRAME));
        assert_eq!(step(185_000, Some(WHOLE_SUPER_FRAME)), None, "BIG TCP is the operator's choice");
        assert_eq!(sets(step(185_000, Some(61_833))), Some(61_833));
        assert_eq!(step(61_833, None), None);
    }

    #[test]
    fn a_new_interface_gets_everything_and_the_second_time_nothing() {
        let mut snapshot = namespace();
        let wanted = wanted(spec(&["10.9.0.2/24", "fd09::2/64"], &["10.9.0.1", "fd09::1"]));
        let index = ETH0;
        let expected = [
            Step::LoopbackUp,
            Step::SetLink { index, mac: None, mtu: Some(1450), super_frame: Some(61_833), up: true },
            Step::AddAddress { index, net: "10.9.0.2/24".parse().unwrap(), deprecated: false },
            Step::AddAddress { index, net: "fd09::2/64".parse().unwrap(), deprecated: false },
            Step::AddRoute(DefaultRoute { index, gateway: "10.9.0.1".parse().unwrap() }),
            Step::AddRoute(DefaultRoute { index, gateway: "fd09::1".parse().unwrap() }),
        ];
        assert_eq!(perform(&mut snapshot, &wanted), expected);
        assert_eq!(perform(&mut snapshot, &wanted), []);
    }

    #[test]
    fn the_host_sends_from_the_first_of_its_addresses_in_a_subnet() {
        let addresses = ["10.9.0.2/24", "10.9.0.1/24", "fd09::2/64", "fd09::1/64", "fd0a::1/64"];
        let deprecated = |is_wary| {
            let wanted = Wanted { is_wary, ..wanted(spec(&addresses, &[])) };
            let steps = plan(&namespace(), &wanted).unwrap().into_iter();
            let of = |step| match step {
                Step::AddAddress { net, deprecated: true, .. } => Some(net.to_string()),
                _ => None,
            };
            steps.filter_map(of).collect::<Vec<_>>()
        };
        assert_eq!(deprecated(true), ["fd09::1/64"]);
        assert!(deprecated(false).is_empty(), "containers' addresses are the operator's");
    }

    #[test]
    fn only_our_own_leftovers_are_removed() {
        let mut snapshot = namespace();
        let before = spec(&["10.9.0.2/24", "fd09::2/64"], &["10.9.0.1"]);
        perform(&mut snapshot, &wanted(before.clone()));
        snapshot.add_address(ETH0, "192.0.2.1/24".parse().unwrap());

        let after = Wanted { before: Some(before), ..wanted(spec(&["10.9.0.3/24", "fd09::2/64"], &[])) };
        let index = ETH0;
        let expected = [
            Step::DeleteRoute(DefaultRoute { index, gateway: "10.9.0.1".parse().unwrap() }),
            Step::DeleteAddress { index, net: "10.9.0.2/24".parse().unwrap() },
            Step::AddAddress { index, net: "10.9.0.3/24".parse().unwrap(), deprecated: false },
        ];
        assert_eq!(perform(&mut snapshot, &after), expected);
    }

    #[test]
    fn an_address_that_the_kernel_may_take_along_is_asked_for_again() {
        let mut snapshot = namespace();
        let before = spec(&["10.9.0.2/24", "10.9.0.3/24"], &[]);
        perform(&mut snapshot, &wanted(before.clone()));
        let steps =
            perform(&mut snapshot, &Wanted { before: Some(before), ..wanted(spec(&["10.9.0.3/24"], &[])) });
        assert_eq!(
            steps.last(),
            Some(&Step::AddAddress { index: ETH0, net: "10.9.0.3/24".parse().unwrap(), deprecated: false })
        );
    }

    #[test]
    fn a_new_gateway_replaces_ours_on_the_same_interface() {
        let mut snapshot = namespace();
        perform(&mut snapshot, &wanted(spec(&["10.9.0.2/24"], &["10.9.0.1"])));
        let steps = perform(&mut snapshot, &wanted(spec(&["10.9.0.2/24"], &["10.9.0.254"])));
        let route = |gateway: &str| DefaultRoute { index: ETH0, gateway: gateway.parse().unwrap() };
        assert_eq!(steps, [Step::DeleteRoute(route("10.9.0.1")), Step::AddRoute(route("10.9.0.254"))]);
    }

    #[test]
    fn what_belongs_to_another_interface_is_refused() {
        let refusal = |snapshot: &Snapshot, spec| plan(snapshot, &wanted(spec)).unwrap_err().to_string();
        let mut snapshot = namespace();
        snapshot.add_address(8, "10.9.0.2/16".parse().unwrap());
        snapshot.add_address(8, "fe80::1/64".parse().unwrap());
        snapshot.add_route(DefaultRoute { index: 8, gateway: "172.17.0.1".parse().unwrap() });
        assert_eq!(
            refusal(&snapshot, spec(&["10.9.0.2/24"], &[])),
            "10.9.0.2 is already on eth1 in namespace web: choose another address or remove it there"
        );
        assert_eq!(
            refusal(&snapshot, spec(&["10.9.0.3/24"], &["10.9.0.1"])),
            "namespace web already has a default route by 172.17.0.1 on eth1: \
             leave the gateway 10.9.0.1 out or delete that route"
        );
        assert!(plan(&snapshot, &wanted(spec(&["fe80::1/64"], &["fd09::1"]))).is_ok());
        let missing = Wanted { ifname: "eth9".into(), ..Wanted::default() };
        assert_eq!(plan(&snapshot, &missing).unwrap_err().to_string(), "no interface eth9 in namespace web");
    }

    #[test]
    fn the_link_local_address_follows_the_mac_address() {
        let (before, after) =
            (MacAddr([0x02, 0x42, 0x0a, 1, 0, 1]), MacAddr([0x02, 0x42, 0xc4, 0x7c, 0x27, 0x8a]));
        let mut snapshot = namespace();
        let link = snapshot.links.get_mut("eth0").unwrap();
        (link.mac, link.up) = (Some(before), true);
        let old = "fe80::42:aff:fe01:1/64".parse().unwrap();
        snapshot.add_address(ETH0, old);
        let wanted = wanted(InterfaceSpec { mac: Some(after), ..spec(&[], &[]) });
        let steps = plan(&snapshot, &wanted).unwrap();
        let new = "fe80::42:c4ff:fe7c:278a/64".parse().unwrap();
        assert!(steps.contains(&Step::DeleteAddress { index: ETH0, net: old }), "{steps:?}");
        assert!(steps.contains(&Step::AddAddress { index: ETH0, net: new, deprecated: false }), "{steps:?}");
    }
}
