//! The tunnel's sockets, and the devices that each plan makes of them.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tracing::warn;
use vswitch::addr::{NetworkId, PortId};
use vswitch_vxlan::{
    device::{self, Devices, Path, Peer, Rules},
    endpoint::{Group, Options, Vtep, with_scope},
    tables::Isolation,
};

use crate::state::{Origin, State};
use vswitch_host::{
    link::{Link, Links},
    netns::Namespace,
};
use vswitch_model::{
    Carries, CollectorSpec, Config, Error, ErrorKind, Name, PeerSpec, Ttl, UnderlayAddr, VxlanSpec,
};

/// The interfaces that the sockets of an endpoint are tied to, by number; 0: none.
///
/// A number is never used again for an interface that is made anew, so sockets that are tied to the old one receive nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ties {
    /// The link of a link-local address.
    scope: u32,
    /// Where the group is joined.
    group: u32,
}

impl Ties {
    /// Those of an open endpoint.
    pub(crate) fn of(endpoint: &Vtep) -> Self {
        let scope = match endpoint.local() {
            SocketAddr::V6(local) => local.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Self { scope, group: endpoint.group().map_or(0, |group| group.interface) }
    }
}

/// The interfaces that the sockets of `spec` are to be tied to.
///
/// # Errors
/// One of them is missing.
pub(crate) async fn ties(spec: &VxlanSpec) -> Result<Ties, Error> {
    let mut ties = Ties { scope: 0, group: 0 };
    if spec.local.zone().is_none() && spec.group.is_none() {
        return Ok(ties);
    }
    let links = Links::open(Namespace::current()?)?;
    if let Some(zone) = spec.local.zone() {
        ties.scope = zoned(&links, spec.local, zone).await?.index;
    }
    if let Some(group) = spec.group {
        ties.group = group_link(&links, spec, group).await?.index;
    }
    Ok(ties)
}

/// The interface where `group` is joined: its own zone, that with the local address, or, if that is the loopback, that of the
/// route to the group.
async fn group_link(links: &Links, spec: &VxlanSpec, group: UnderlayAddr) -> Result<Link, Error> {
    if let Some(zone) = group.zone() {
        return zoned(links, group, zone).await;
    }
    let own = underlay(links, spec.local).await?;
    let routed = if own.is_loopback() { links.way_out(spec.local.ip(), group.ip()).await? } else { None };
    Ok(routed.unwrap_or(own))
}

async fn zoned(links: &Links, address: UnderlayAddr, zone: &str) -> Result<Link, Error> {
    links.find(zone).await?.ok_or_else(|| {
        Error::unavailable(format!(
            "there is no interface {zone}, which {address} names: create it, or correct the address"
        ))
    })
}

/// Opens the sockets of this host's end, with `inlets` for receiving.
pub(crate) async fn open(spec: &VxlanSpec, inlets: usize) -> Result<Vtep, Error> {
    let ties = ties(spec).await?;
    let group = spec.group.map(|group| Group { address: group.ip(), interface: ties.group });
    let local = with_scope(SocketAddr::new(spec.local.ip(), spec.port), ties.scope);
    let options = Options { local, inlets, checksum: spec.checksum, group };
    let endpoint = Vtep::open(&options).map_err(|error| refused(&options, error))?;
    endpoint.set_ttl(spec.ttl.fixed())?;
    Ok(endpoint)
}

fn refused(options: &Options, error: io::Error) -> Error {
    let (local, port) = (options.local.ip(), options.local.port());
    let why = match error.kind() {
        io::ErrorKind::AddrNotAvailable => return no_address(local),
        io::ErrorKind::AddrInUse => format!(
            "UDP port {port} of {local} is in use: delete the kernel's vxlan interface that has it, or set vxlan.port"
        ),
        io::ErrorKind::PermissionDenied => format!("no permission to open UDP port {port}: run as root"),
        _ => format!("cannot open UDP port {port} of {local}: {error}"),
    };
    Error::new(ErrorKind::from(error.kind()), why)
}

fn no_address(local: IpAddr) -> Error {
    let why = format!("no interface has the address {local}: give it to one, or correct vxlan.local");
    Error::unavailable(why)
}

/// The interface that has the address `local`.
async fn underlay(links: &Links, local: UnderlayAddr) -> Result<Link, Error> {
    match local.zone() {
        Some(zone) => zoned(links, local, zone).await,
        None => links.with_address(local.ip()).await?.ok_or_else(|| no_address(local.ip())),
    }
}

/// Where the endpoint sends to by declaration: learned peers may be forged.
pub(crate) fn remotes(state: &State) -> Vec<IpAddr> {
    let asked_for = state.ports().filter(|port| port.origin != Origin::Learned);
    asked_for.filter_map(|port| Some(port.spec.device.remote()?.ip())).collect()
}

/// Longest packet that the interfaces carry by which packets leave to `remotes`, in bytes. Without any, that of the
/// interface with the local address; of a loopback, which leads nowhere, `None`.
///
/// What routers report is not included: it comes and goes, and each path follows it by itself.
///
/// # Errors
/// No interface has the local address.
pub(crate) async fn measure(spec: &VxlanSpec, remotes: &[IpAddr]) -> Result<Option<u16>, Error> {
    let links = Links::open(Namespace::current()?)?;
    let own = underlay(&links, spec.local).await?;
    let mut least: Option<u32> = None;
    if spec.local.zone().is_none() {
        for remote in remotes.iter().filter(|remote| !remote.is_multicast()) {
            if let Some(way) = links.way_out(spec.local.ip(), *remote).await? {
                least = Some(least.map_or(way.mtu, |least| least.min(way.mtu)));
            }
        }
    }
    if let Some(group) = spec.group {
        let way = group_link(&links, spec, group).await?;
        least = Some(least.map_or(way.mtu, |least| least.min(way.mtu)));
    }
    let mtu = least.or_else(|| (!own.is_loopback()).then_some(own.mtu));
    Ok(mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)))
}

/// Looks up what the underlay carries, if the file does not say; where it cannot be seen, it is what was `known`.
pub(crate) async fn settle(config: &mut Config, known: Option<u16>) {
    let remotes: Vec<_> = config.ports.iter().filter_map(|port| Some(port.device.remote()?.ip())).collect();
    let endpoint = config.ports.iter_mut().find_map(|port| port.device.endpoint_mut());
    let Some(spec) = endpoint.filter(|spec| spec.underlay_mtu.is_none()) else { return };
    // A reload in passing does not change what is followed anyway.
    spec.measured_mtu = known;
    if known.is_some() {
        return;
    }
    match measure(spec, &remotes).await {
        Ok(mtu) => spec.measured_mtu = mtu,
        Err(error) => {
            let mtu = VxlanSpec::DEFAULT_UNDERLAY_MTU;
            warn!("the underlay is taken to carry packets of {mtu} bytes for now: {}", error.sentence);
        }
    }
}

/// The endpoint, its peers and its collectors, for one plan.
pub(crate) struct Tunnel<'a> {
    /// The endpoint's own port.
    pub(crate) own: PortId,
    /// Its specification.
    pub(crate) spec: &'a VxlanSpec,
    /// Its sockets.
    pub(crate) endpoint: &'a Arc<Vtep>,
    /// The peers, with their paths.
    pub(crate) peers: Vec<(PortId, &'a PeerSpec, &'a Arc<Path>)>,
    /// The collectors, with their paths.
    pub(crate) collectors: Vec<(PortId, &'a CollectorSpec, &'a Arc<Path>)>,
}

impl Tunnel<'_> {
    /// Builds the devices; the remotes in the order of the peers.
    pub(crate) fn devices(&self, state: &State) -> Devices {
        let rules = Rules {
            own: self.own,
            strict: self.spec.strict,
            learn: self.spec.learn_peers,
            clamp: self.spec.clamp_mss,
            dscp: self.spec.dscp,
            inherit_ttl: self.spec.ttl == Ttl::Inherit,
            underlay_mtu: self.spec.underlay_mtu(),
            isolation: self.spec.isolated_group.map(|group| Isolation { group, ports: isolated(state) }),
        };
        let way = |port: PortId, remote: UnderlayAddr, remote_port: Option<u16>, path: &Arc<Path>| Peer {
            port,
            address: self.endpoint.address(remote.ip(), remote_port.unwrap_or(self.spec.port)),
            path: Arc::clone(path),
        };
        let peers = self.peers.iter().map(|(port, it, path)| way(*port, it.remote, it.remote_port, path));
        let collectors = self
            .collectors
            .iter()
            .map(|(port, it, path)| (way(*port, it.remote, it.remote_port, path), it.vni));
        let (peers, collectors): (Vec<_>, Vec<_>) = (peers.collect(), collectors.collect());
        let networks = state.networks().filter_map(|network| Some((network.spec.vni?, network.id)));
        let fragmented: Vec<_> =
            state.networks().filter(|network| network.spec.fragment).map(|network| network.id).collect();
        if !fragmented.is_empty()
            && let Err(error) = self.endpoint.allow_fragments(self.spec.ttl.fixed())
        {
            warn!("no packet crosses the tunnel in fragments: its sockets cannot be opened ({error})");
        }
        device::devices(self.endpoint, &rules, &peers, &collectors, networks, mtus(state), fragmented)
    }
}

/// This host's isolated ports.
fn isolated(state: &State) -> Vec<PortId> {
    let isolated = state.ports().filter(|port| port.spec.isolated && !port.spec.device.is_tunnel());
    isolated.map(|port| port.id).collect()
}

/// The smallest MTU of this host's ports in each network, in bytes.
fn mtus(state: &State) -> BTreeMap<NetworkId, u16> {
    let ids: HashMap<Name, NetworkId> =
        state.networks().map(|network| (network.spec.name.clone(), network.id)).collect();
    let mut mtus = BTreeMap::new();
    for port in state.ports() {
        let networks = match &port.spec.carries {
            Carries::Access { network } => vec![network],
            Carries::Trunk { trunk, native } => trunk.iter().chain(native).collect(),
            Carries::Tunnel { .. } | Carries::Mirror { .. } => continue,
        };
        for id in networks.into_iter().filter_map(|name| ids.get(name)) {
            let mtu = mtus.entry(*id).or_insert_with(|| port.mtu.get());
            *mtu = port.mtu.get().min(*mtu);
        }
    }
    mtus
}
