//! Interfaces: creates, sets up, inspects and deletes containers' ends of ports.
//!
//! [`Links`] is one netlink socket in one namespace, usable from any task. Setting up has three steps: take a
//! [`Snapshot`] of the namespace, compute what is missing by [`plan::plan`] (pure, tested without a kernel), and
//! send just that. So setting up is idempotent, and a thousand interfaces cost one snapshot.
//!
//! Kernel defaults stay as they are inside containers (link-local addresses, MLD). Left out: TAP devices are created
//! by their reader; promiscuous mode belongs to the switch.

mod error;
mod offloads;
pub mod plan;
mod seclude;
mod watch;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo},
        link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol},
    },
};
use rustix::io::Errno;
use tokio::{runtime, task::JoinHandle};
use tracing::{debug, warn};
use vswitch::addr::MacAddr;

pub use error::LinkError;
pub use plan::{DefaultRoute, Snapshot, Step, WHOLE_SUPER_FRAME, Wanted, super_frame};
pub use rtnetlink::packet_route::link::InfoKind;
pub use watch::{Changes, LiveWatch, Watch};

use crate::netns::{Namespace, run_in};
use vswitch_model::IfName;

/// The group (`ip link … group`) of interfaces that are about to be deleted together: "vswd".
const LEAVING: u32 = 0x7673_7764;

/// The loopback interface's number: the first in every namespace.
const LOOPBACK: u32 = 1;

/// MTU of the host end of a veth pair: none, so that all limits are the switch's, which name the drop and answer the sender.
///
/// What is longer than the receiving end's MTU is dropped by the pair, without a word (`is_skb_forwardable`,
/// include/linux/netdevice.h): a container may raise the MTU of its end. And a packet socket sends a full packet only behind an
/// 802.1Q tag (`packet_extra_vlan_len_allowed`, net/packet/af_packet.c), where a bridge forwards it behind one of any type.
const HOST_END_MTU: u32 = 65_535;

/// One netlink socket in one namespace.
///
/// Created inside a tokio runtime, which drives it until it is dropped.
#[derive(Debug)]
pub struct Links {
    namespace: Namespace,
    handle: Handle,
    _connection: Connection,
}

/// An interface as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias (`ip link set … alias`).
    pub alias: Option<String>,
    /// Its MAC address, if it is an Ethernet interface.
    pub mac: Option<MacAddr>,
    /// Longest IP packet, in bytes.
    pub mtu: u32,
    /// Its kind, if the kernel reports one.
    pub kind: Option<InfoKind>,
    /// The other end, if it is one of a pair.
    pub peer: Option<Peer>,
    /// Longest super-frame, in bytes.
    pub super_frame: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is up and has a carrier.
    pub running: bool,
    /// Its traffic counters.
    pub counters: LinkCounters,
}

/// Where the other end of a pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number, in its namespace.
    pub index: u32,
    /// Whether it is in another namespace.
    pub is_elsewhere: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its destinations; of a default route, the prefix has the length 0.
    pub to: IpNet,
    /// The interface that it leads to.
    pub ifname: String,
    /// Whether the destinations are on the link itself, not behind a router.
    pub on_link: bool,
}

/// Traffic counters of an interface, seen from its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Packets it received.
    pub rx_packets: u64,
    /// Packets it sent.
    pub tx_packets: u64,
    /// Received packets the kernel dropped.
    pub rx_dropped: u64,
    /// Packets dropped on transmission: for a TAP, because its queue was full.
    pub tx_dropped: u64,
}

impl Link {
    /// Whether it is the loopback.
    pub fn is_loopback(&self) -> bool {
        self.index == LOOPBACK
    }
}

impl Links {
    /// Opens a netlink socket inside `namespace`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(namespace: Namespace) -> Result<Self, LinkError> {
        let runtime = runtime::Handle::current();
        let opened = run_in(&namespace, || {
            let _guard = runtime.enter();
            rtnetlink::new_connection()
        });
        let (connection, handle, _unsolicited) = opened
            .and_then(|result| result)
            .map_err(|error| LinkError::Open(namespace.to_string(), error))?;
        Ok(Self { namespace, handle, _connection: Connection(tokio::spawn(connection)) })
    }

    /// The namespace of these interfaces.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Closes the socket, and returns the namespace.
    pub fn close(self) -> Namespace {
        self.namespace
    }

    /// Every interface of the namespace.
    pub async fn all(&self) -> Result<Vec<Link>, LinkError> {
        let links = self.handle.link().get().execute().map_ok(read_link);
        links.try_collect().await.map_err(|error| self.error("list the interfaces", error))
    }

    /// The interface named `ifname`.
    ///
    /// # Errors
    /// [`LinkError::NoInterface`] when there is none.
    pub async fn link(&self, ifname: &str) -> Result<Link, LinkError> {
        let found = self.find(ifname).await?;
        found.ok_or_else(|| LinkError::NoInterface(ifname.into(), self.namespace.to_string()))
    }

    /// The addresses of `link`, including those the kernel assigned.
    pub async fn addresses(&self, link: &Link) -> Result<Vec<IpNet>, LinkError> {
        let error = |error| self.error("list the addresses", error);
        let all: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(error)?;
        let its = all.iter().filter(|message| message.header.index == link.index);
        Ok(its.filter_map(read_address).collect())
    }

    /// The interface that has the address `address`, if one does.
    pub async fn with_address(&self, address: IpAddr) -> Result<Option<Link>, LinkError> {
        let error = |error| self.error("list the addresses", error);
        let addresses: Vec<_> = self.handle.address().get().execute().try_collect().await.map_err(error)?;
        let has = |message: &&AddressMessage| {
            message.attributes.iter().any(|attribute| {
                matches!(attribute, AddressAttribute::Local(it) | AddressAttribute::Address(it) if *it == address)
            })
        };
        match addresses.iter().find(has) {
            Some(found) => self.numbered(found.header.index).await,
            None => Ok(None),
        }
    }

    /// The interface with the number `index`, if there is one.
    pub async fn numbered(&self, index: u32) -> Result<Option<Link>, LinkError> {
        match self.handle.link().get().match_index(index).execute().try_next().await {
            Ok(message) => Ok(message.map(read_link)),
            Err(error) if error::errno(&error) == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(self.error(&format!("look for interface {index}"), error)),
        }
    }

    /// The interface by which packets from `from` to `to` leave, if there is a route.
    pub async fn way_out(&self, from: IpAddr, to: IpAddr) -> Result<Option<Link>, LinkError> {
        let query = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .source_prefix(from, 32)
                .build(),
            (IpAddr::V6(from), IpAddr::V6(to)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, 128)
                .source_prefix(from, 128)
                .build(),
            _ => return Ok(None),
        };
        // The kernel refuses unreachable destinations and foreign sources, each with an error of its own.
        let Ok(Some(route)) = self.handle.route().get(query).execute().try_next().await else {
            return Ok(None);
        };
        let index = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        match index {
            Some(index) => self.numbered(index).await,
            None => Ok(None),
        }
    }

    /// The main table's routes. Those from router advertisements come and go by themselves and are left out, as are those to
    /// single addresses.
    pub async fn routes(&self) -> Result<Vec<Route>, LinkError> {
        let names: HashMap<u32, String> =
            self.all().await?.into_iter().map(|it| (it.index, it.name)).collect();
        let error = |error| self.error("list the routes", error);
        let mut routes = Vec::new();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for family in [v4, v6] {
            let mut dump = self.handle.route().get(family).execute();
            while let Some(message) = dump.try_next().await.map_err(error)? {
                if let Some((to, index, on_link)) = read_route(&message) {
                    routes.extend(names.get(&index).map(|name| Route { to, ifname: name.clone(), on_link }));
                }
            }
        }
        Ok(routes)
    }

    /// Gives `link` one more address, beside those it has. Returns whether it had not.
    pub async fn add_address(&self, link: &Link, net: IpNet) -> Result<bool, LinkError> {
        match self.perform(&Step::AddAddress { index: link.index, net, deprecated: false }).await {
            Err(error) if error::errno(&error) == Some(Errno::EXIST) => Ok(false),
            result => result
                .map(|()| true)
                .map_err(|error| self.error(&format!("give {} the address {net}", link.name), error)),
        }
    }

    /// Takes an address from `link`; one that it does not have is no error.
    pub async fn remove_address(&self, link: &Link, net: IpNet) -> Result<(), LinkError> {
        match self.perform(&Step::DeleteAddress { index: link.index, net }).await {
            Err(error) if error::errno(&error) == Some(Errno::ADDRNOTAVAIL) => Ok(()),
            result => result.map_err(|error| self.error(&format!("take {net} from {}", link.name), error)),
        }
    }

    /// Whether there is an interface named `ifname`.
    pub async fn exists(&self, ifname: &str) -> Result<bool, LinkError> {
        Ok(self.find(ifname).await?.is_some())
    }

    /// Fails with a sentence if `ifname` cannot be created here: it is invalid or in use.
    pub async fn check_free(&self, ifname: &str) -> Result<(), LinkError> {
        ifname.parse::<IfName>()?;
        match self.exists(ifname).await? {
            true => Err(LinkError::NameTaken(ifname.into(), self.namespace.to_string())),
            false => Ok(()),
        }
    }

    /// Brings an existing interface to the state `wanted`, with IPv6 switched on for it if it has such addresses, be it off by
    /// default there (sysctl `disable_ipv6`); see [`Links::configure_all`].
    pub async fn configure(&self, wanted: &Wanted) -> Result<(), LinkError> {
        let mut snapshot = self.snapshot().await?;
        self.bring_about(&mut snapshot, wanted).await.map(drop)
    }

    /// Brings existing interfaces to the states `wanted`: MAC, MTU, addresses, up, default routes; and the loopback up.
    /// What is so already is left alone. The outer error means that nothing could be read or done; the inner results are
    /// in the order of `wanted`, with what was done.
    /// `each` is called after each.
    pub async fn configure_all(
        &self,
        wanted: &[Wanted],
        each: impl Fn(),
    ) -> Result<Vec<Result<Vec<Step>, LinkError>>, LinkError> {
        let mut snapshot = self.snapshot().await?;
        let mut results = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            results.push(self.bring_about(&mut snapshot, wanted).await);
            each();
        }
        Ok(results)
    }

    /// Creates a veth pair: `host` here, its peer directly in `peer`'s namespace as `ifname`.
    ///
    /// The host's end is set up after it is [prepared](Links::prepare_host_end), whose warnings are returned. The peer is left to
    /// [`Links::configure`]. On failure nothing remains.
    pub async fn create_veth(
        &self,
        host: &str,
        peer: &Self,
        ifname: &str,
        mtu: u16,
    ) -> Result<Vec<String>, LinkError> {
        self.check_free(host).await?;
        peer.check_free(ifname).await?;
        let peer_end = LinkMessageBuilder::<LinkUnspec>::default()
            .name(ifname)
            .mtu(mtu.into())
            .setns_by_fd(peer.namespace.as_fd().as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(host, ifname)
            .mtu(HOST_END_MTU)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_end)))
            .build();
        self.handle
            .link()
            .add(pair)
            .execute()
            .await
            .map_err(|error| self.error("make the veth pair", error))?;
        let finished = self.finish_host_end(host).await;
        if finished.is_err() {
            let _ = self.delete(host).await;
        }
        finished
    }

    /// Sets the alias of an interface.
    pub async fn set_alias(&self, ifname: &str, alias: &str) -> Result<(), LinkError> {
        let index = self.link(ifname).await?.index;
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
            .build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|error| self.error(&format!("write on {ifname}"), error))
    }

    /// Deletes an interface; of a veth pair, both ends. Returns whether there was one.
    pub async fn delete(&self, ifname: &str) -> Result<bool, LinkError> {
        let Some(link) = self.find(ifname).await? else { return Ok(false) };
        match self.handle.link().del(link.index).execute().await {
            Err(error) if error::errno(&error) == Some(Errno::NODEV) => Ok(false),
            result => result.map(|()| true).map_err(|error| self.error(&format!("delete {ifname}"), error)),
        }
    }

    /// Deletes interfaces at once; of veth pairs, both ends. Those that there are not are left out.
    ///
    /// The kernel waits some 15 ms for each that is deleted by itself, and no longer for all of a group
    /// (`rtnl_group_dellink`, net/core/rtnetlink.c).
    pub async fn delete_all(&self, ifnames: &[String]) -> Result<(), LinkError> {
        if let [ifname] = ifnames {
            return self.delete(ifname).await.map(|_| ());
        }
        let group = LinkAttribute::Group(LEAVING);
        let mut any = false;
        for ifname in ifnames {
            let message = LinkUnspec::new_with_name(ifname).append_extra_attribute(group.clone()).build();
            match self.handle.link().set(message).execute().await {
                Err(error) if error::errno(&error) == Some(Errno::NODEV) => {}
                result => {
                    result.map_err(|error| self.error(&format!("delete {ifname}"), error))?;
                    any = true;
                }
            }
        }
        if !any {
            return Ok(());
        }
        let mut delete = self.handle.link().del(0);
        delete.message_mut().attributes.push(group);
        match delete.execute().await {
            Err(error) if error::errno(&error) == Some(Errno::NODEV) => Ok(()),
            result => result.map_err(|error| self.error("delete interfaces", error)),
        }
    }

    /// Renames an interface.
    pub async fn rename(&self, link: &Link, ifname: &str) -> Result<(), LinkError> {
        ifname.parse::<IfName>()?;
        let name = || {
            let message = LinkUnspec::new_with_index(link.index).name(ifname).build();
            self.handle.link().set(message).execute()
        };
        let mut renamed = name().await;
        // Before Linux 6.2 only an interface that is down can be renamed (bd039b5ea2a9, "allow live renaming when an interface is up").
        if link.up && renamed.as_ref().err().and_then(error::errno) == Some(Errno::BUSY) {
            self.set_up_or_down(link, false).await?;
            renamed = name().await;
            self.set_up_or_down(link, true).await?;
        }
        renamed.map_err(|error| self.error(&format!("rename {} to {ifname}", link.name), error))
    }

    /// The interface named `ifname`, if there is one.
    pub async fn find(&self, ifname: &str) -> Result<Option<Link>, LinkError> {
        match self.handle.link().get().match_name(ifname).execute().try_next().await {
            Ok(message) => Ok(message.map(read_link)),
            Err(error) if error::errno(&error) == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(self.error(&format!("look for {ifname}"), error)),
        }
    }

    async fn finish_host_end(&self, host: &str) -> Result<Vec<String>, LinkError> {
        let link = self.link(host).await?;
        let warnings = self.prepare_host_end(&link).await?;
        self.set_up_or_down(&link, true).await?;
        Ok(warnings)
    }

    /// Lets the host's end of a veth pair take frames of any length, and [secludes](Links::seclude) it, whose warnings are
    /// returned. Idempotent.
    ///
    /// # Errors
    /// The interface is gone, or there is no right to change it.
    pub async fn prepare_host_end(&self, link: &Link) -> Result<Vec<String>, LinkError> {
        if link.mtu != HOST_END_MTU {
            let message = LinkUnspec::new_with_index(link.index).mtu(HOST_END_MTU).build();
            let set = self.handle.link().set(message).execute().await;
            set.map_err(|error| self.error(&format!("give {} its MTU", link.name), error))?;
        }
        self.seclude(link).await
    }

    async fn set_up_or_down(&self, link: &Link, up: bool) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(link.index);
        let message = if up { message.up() } else { message.down() };
        let set = self.handle.link().set(message.build()).execute().await;
        let what = if up { "up" } else { "down" };
        set.map_err(|error| self.error(&format!("set {} {what}", link.name), error))
    }

    async fn snapshot(&self) -> Result<Snapshot, LinkError> {
        let error = |error| self.error("look at the interfaces", error);
        let mut snapshot = Snapshot::new(self.namespace.to_string(), self.all().await?);
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(error)? {
            if let Some(net) = read_address(&message) {
                snapshot.add_address(message.header.index, net);
            }
        }
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        // One after the other: a socket has one dump at a time, and the second is refused with EBUSY while the first is
        // being read (netlink_dump_start in net/netlink/af_netlink.c).
        for family in [v4, v6] {
            let mut routes = self.handle.route().get(family).execute();
            while let Some(message) = routes.try_next().await.map_err(error)? {
                if let Some(route) = read_default_route(&message) {
                    snapshot.add_route(route);
                }
            }
        }
        Ok(snapshot)
    }

    async fn bring_about(&self, snapshot: &mut Snapshot, wanted: &Wanted) -> Result<Vec<Step>, LinkError> {
        if wanted.is_wary {
            self.distrust(&wanted.ifname);
        }
        if wanted.spec.address.iter().any(|net| net.addr().is_ipv6())
            && let Err(error) = self.sysctl(&format!("ipv6/conf/{}/disable_ipv6", wanted.ifname), "0")
        {
            // The kernel's refusal of the addresses is the one to report.
            debug!("IPv6 stays off on {} in namespace {}: {error}", wanted.ifname, self.namespace);
        }
        let steps = plan::plan(snapshot, wanted)?;
        for step in &steps {
            let done = self.perform(step).await;
            // Already there, or already gone, is what was requested: others were faster.
            match (step, done.as_ref().err().and_then(error::errno)) {
                (Step::AddAddress { .. } | Step::AddRoute(_), Some(Errno::EXIST)) => {}
                (Step::DeleteAddress { .. }, Some(Errno::ADDRNOTAVAIL)) => {}
                (Step::DeleteRoute(_), Some(Errno::SRCH)) => {}
                _ => done
                    .map_err(|error| LinkError::of_step(step, wanted, &self.namespace.to_string(), error))?,
            }
            snapshot.note(step);
        }
        if wanted.described_offloads
            && let Err(error) = self.limit_offloads(&wanted.ifname)
        {
            let ifname = &wanted.ifname;
            warn!(
                "tunnels and SCTP of {ifname} in namespace {} may be dropped (DEV_HDR): its offloads cannot be set ({error})",
                self.namespace
            );
        }
        Ok(steps)
    }

    async fn perform(&self, step: &Step) -> Result<(), rtnetlink::Error> {
        match step {
            Step::LoopbackUp => {
                self.handle.link().set(LinkUnspec::new_with_index(LOOPBACK).up().build()).execute().await
            }
            Step::SetLink { index, mac, mtu, super_frame, up } => {
                let mut message = LinkUnspec::new_with_index(*index);
                if let Some(mac) = mac {
                    message = message.address(mac.0.to_vec());
                }
                if let Some(mtu) = mtu {
                    message = message.mtu(*mtu);
                }
                if let Some(bytes) = super_frame {
                    message = message.append_extra_attribute(LinkAttribute::GsoMaxSize(*bytes));
                }
                if *up {
                    message = message.up();
                }
                self.handle.link().set(message.build()).execute().await
            }
            Step::AddAddress { index, net, deprecated } => {
                let mut request = self.handle.address().add(*index, net.addr(), net.prefix_len());
                if net.addr().is_ipv6() {
                    // Addresses are assigned once; duplicate address detection (RFC 4862 section 5.4) would silence the container
                    // for its first second.
                    request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
                }
                if *deprecated {
                    let mut lives = CacheInfo::default();
                    (lives.ifa_preferred, lives.ifa_valid) = (0, u32::MAX);
                    request.message_mut().attributes.push(AddressAttribute::CacheInfo(lives));
                }
                request.execute().await
            }
            Step::DeleteAddress { index, net } => {
                let message = match net {
                    IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
                        .index(*index)
                        .address(net.addr(), net.prefix_len())
                        .build(),
                    IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
                        .index(*index)
                        .address(net.addr(), net.prefix_len())
                        .build(),
                };
                self.handle.address().del(message).execute().await
            }
            Step::AddRoute(route) => self.handle.route().add(default_route(route)).execute().await,
            Step::DeleteRoute(route) => self.handle.route().del(default_route(route)).execute().await,
        }
    }

    fn error(&self, doing: &str, error: rtnetlink::Error) -> LinkError {
        LinkError::os(doing, &self.namespace.to_string(), error)
    }
}

/// The task that drives the socket, ended with it.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn read_link(message: LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: message.header.index, up, ..Link::default() };
    let mut state = State::Unknown;
    let (mut peer, mut is_elsewhere) = (None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            LinkAttribute::Link(index) => peer = Some(index),
            LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
            LinkAttribute::GsoMaxSize(bytes) => link.super_frame = bytes,
            LinkAttribute::OperState(oper) => state = oper,
            LinkAttribute::Stats64(stats) => {
                link.counters = LinkCounters {
                    rx_packets: stats.rx_packets,
                    tx_packets: stats.tx_packets,
                    rx_dropped: stats.rx_dropped,
                    tx_dropped: stats.tx_dropped,
                };
            }
            _ => {}
        }
    }
    link.peer = peer.map(|index| Peer { index, is_elsewhere });
    // Some drivers report no more than "unknown" while they work (RFC 2863 section 3.1.14).
    link.running = up && matches!(state, State::Up | State::Unknown);
    link
}

fn read_address(message: &AddressMessage) -> Option<IpNet> {
    // IFA_LOCAL is the address, IFA_ADDRESS the peer's on point-to-point links; IPv6 sends the latter alone.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

/// Destinations, interface, and whether they are on the link.
fn read_route(message: &RouteMessage) -> Option<(IpNet, u32, bool)> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.protocol == RouteProtocol::Ra {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut to, mut index, mut on_link) = (any, None, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = IpAddr::V4(*address),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => to = IpAddr::V6(*address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => on_link = false,
            _ => {}
        }
    }
    let net = IpNet::new(to, header.destination_prefix_length).ok()?;
    let is_place = net.prefix_len() < net.max_prefix_len() && !net.addr().is_multicast();
    let is_link_local = matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
    (is_place && !is_link_local).then_some((net, index?, on_link))
}

fn read_default_route(message: &RouteMessage) -> Option<DefaultRoute> {
    let header = &message.header;
    // Routes from router advertisements come and go by themselves, beside ours.
    let ours = header.table == RouteHeader::RT_TABLE_MAIN && header.protocol != RouteProtocol::Ra;
    if header.destination_prefix_length != 0 || !ours {
        return None;
    }
    let mut gateway = None;
    let mut index = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    Some(DefaultRoute { index: index?, gateway: gateway? })
}

fn default_route(route: &DefaultRoute) -> RouteMessage {
    match route.gateway {
        IpAddr::V4(gateway) => {
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(route.index).build()
        }
        IpAddr::V6(gateway) => {
            RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(route.index).build()
        }
    }
}
