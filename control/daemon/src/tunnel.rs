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
    endpoint::{Group, Options, Vtep},
};

use crate::state::State;
use vswitch_host::{link::Links, netns::Namespace};
use vswitch_model::{Carries, CollectorSpec, Config, Error, ErrorKind, Name, PeerSpec, Ttl, VxlanSpec};

/// Opens the sockets of this host's end, with `inlets` for receiving.
pub(crate) async fn open(spec: &VxlanSpec, inlets: usize) -> Result<Vtep, Error> {
    let group = match spec.group {
        Some(address) => Some(Group { address, interface: underlay(spec.local).await?.index }),
        None => None,
    };
    let options =
        Options { local: SocketAddr::new(spec.local, spec.port), inlets, checksum: spec.checksum, group };
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

/// The interface with the address `local`.
pub(crate) async fn underlay(local: IpAddr) -> Result<vswitch_host::link::Link, Error> {
    let links = Links::open(Namespace::current()?)?;
    links.with_address(local).await?.ok_or_else(|| no_address(local))
}

/// Looks up the underlay's MTU, if the file does not set it.
pub(crate) async fn settle(config: &mut Config) {
    let endpoint = config.ports.iter_mut().find_map(|port| port.device.endpoint_mut());
    let Some(spec) = endpoint.filter(|spec| spec.underlay_mtu.is_none()) else { return };
    match underlay(spec.local).await {
        Ok(link) => spec.underlay_mtu = Some(u16::try_from(link.mtu).unwrap_or(u16::MAX)),
        Err(error) => {
            let mtu = VxlanSpec::DEFAULT_UNDERLAY_MTU;
            warn!("the MTU of the underlay is unknown and assumed to be {mtu}: {}", error.sentence);
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
        };
        let way = |port: PortId, remote, remote_port: Option<u16>, path: &Arc<Path>| Peer {
            port,
            address: SocketAddr::new(remote, remote_port.unwrap_or(self.spec.port)),
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
