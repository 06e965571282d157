//! Devices of ports: opened, taken over and removed.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{task::JoinSet, time::sleep};
use tracing::warn;
use vswitch::device::{
    Device,
    packet::PacketSocket,
    tap::{Tap, TapOptions},
};

use vswitch_fastpath::FastPort;
use vswitch_vxlan::{device::Path, endpoint::Vtep};

use super::{edge::Share, tunnel, view::LiveDevice};
use crate::{machine::Machine, state};
use vswitch_host::{
    link::{self, InfoKind, Link, Links},
    netns::{Inode, Namespace, Presences, run_in},
    queue::Queue,
    tun,
};
use vswitch_model::{
    Bare, DeviceSpec, Error, ErrorKind, Identity, InterfaceSpec, Name, Netns, Offloads, PortSpec, ifname,
};

/// Maximum wait for readers of a closed device, in milliseconds.
const RELEASE: u32 = 2000;

/// The open device of a port, and what is needed to remove its interface.
#[derive(Clone, Debug)]
pub(crate) enum OpenDevice {
    /// Removed with its last descriptor, unless it is persistent.
    Tap {
        /// The workers' device.
        tap: Arc<Tap>,
        /// The namespace that the device keeps alive; see [`OpenDevice::is_abandoned`].
        keeps: Option<(Netns, Identity)>,
        /// The drops of the kernel's queue.
        queue: Arc<Queue>,
    },
    /// The host's end of a pair that we created; the other end is removed with it.
    Veth {
        /// The workers' device.
        device: Arc<PacketSocket>,
        /// The interface's name.
        host: String,
        /// Warnings about what this kernel lacks to keep the host's IP stack off it: sentences.
        warnings: Vec<String>,
        /// Its share of the fast path, or why it has none.
        fast: Result<Arc<FastPort>, String>,
    },
    /// An interface of others.
    Foreign(Arc<PacketSocket>),
    /// The tunnel's sockets. Its devices are recreated with every plan.
    Endpoint(Arc<Vtep>),
    /// A device of tests.
    #[cfg(test)]
    Memory(Arc<vswitch::device::mem::MemDevice>),
    /// A peer or a collector, to which the endpoint sends.
    Remote {
        /// The path to it.
        path: Arc<Path>,
        /// Whether the path was measured, which is better than the kernel's knowledge.
        measured: bool,
    },
}

/// The source of a port's device.
#[derive(Debug)]
pub(crate) enum Source {
    /// Created here, or found where it was created before.
    Make,
    /// A TAP that a helper has created and set up.
    Handed(Tap),
}

/// Opens the device of `port`, or takes it over if it exists. Nothing is set up yet.
///
/// `inlets`: number of workers that receive from a tunnel's endpoint; `owner`: alias of interfaces that the kernel keeps after
/// our end.
pub(crate) async fn open(
    machine: Machine,
    port: &state::Port,
    source: Source,
    inlets: usize,
    owner: &str,
    share: &Share<'_>,
) -> Result<OpenDevice, Error> {
    let spec = &port.spec;
    match machine {
        Machine::Real => {}
        #[cfg(test)]
        Machine::InMemory => return Ok(OpenDevice::in_memory(port)),
    }
    match &spec.device {
        DeviceSpec::Tap(interface) => {
            let (mut tap, home) = match (source, &interface.bare) {
                (Source::Handed(tap), _) => {
                    let home = interface.netns.as_ref().map(Namespace::open).transpose()?;
                    (tap, home.map(|home| home.inode()))
                }
                (Source::Make, Some(bare)) => open_bare(interface, bare, spec.ifname()).await?,
                (Source::Make, None) => {
                    let namespace = namespace(interface)?;
                    take_former_gateway(interface, spec.ifname()).await?;
                    remove_former_pair(spec, interface, owner).await?;
                    let tap = open_tap(&namespace, spec.ifname(), interface.persist)?;
                    (tap, interface.netns.is_some().then(|| namespace.inode()))
                }
            };
            tap.set_offload(spec.offload.any())?;
            tap.set_merging(spec.offload == Offloads::Udp);
            let name = interface.bare.as_ref().map_or(&interface.netns, |bare| &bare.moved);
            let keeps = name.clone().zip(home.map(Inode::identity));
            Ok(OpenDevice::Tap { tap: Arc::new(tap), keeps, queue: Arc::default() })
        }
        DeviceSpec::Veth(interface) => {
            let host = ifname::veth_host_ifname(&spec.name);
            let outside = Links::open(Namespace::current()?)?;
            let warnings = match host_end(&outside, spec, interface, owner).await? {
                Some(end) => outside.prepare_host_end(&end).await?,
                None if interface.bare.as_ref().is_some_and(|bare| bare.moved.is_some()) => {
                    return Err(gone());
                }
                None => {
                    let inside = Links::open(namespace(interface)?)?;
                    remove_former_tap(&inside, interface, spec.ifname()).await?;
                    outside.create_veth(&host, &inside, spec.ifname(), port.mtu.get()).await?
                }
            };
            outside.set_alias(&host, &claim(owner, &spec.name)).await?;
            warnings.iter().for_each(|warning| warn!(port = %spec.name, "{warning}"));
            let fast = share.open(&outside, port, interface, &host).await;
            let device = open_packet(&host, spec.offload.any(), fast.as_ref().ok())?;
            let fast = fast.and_then(|lane| match lane.attach(&host) {
                Ok(()) => Ok(lane),
                Err(error) => Err(format!("the kernel attaches no program to {host}: {error}")),
            });
            Ok(OpenDevice::Veth { device, host, warnings, fast })
        }
        DeviceSpec::Packet { device } => {
            Ok(OpenDevice::Foreign(open_packet(device, spec.offload.any(), None)?))
        }
        DeviceSpec::Vxlan(endpoint) => {
            Ok(OpenDevice::Endpoint(Arc::new(tunnel::open(endpoint, inlets).await?)))
        }
        DeviceSpec::Peer(_) | DeviceSpec::Collector(_) => {
            Ok(OpenDevice::Remote { path: Arc::new(Path::new(u16::MAX)), measured: false })
        }
    }
}

/// The alias of the host's end of a port's veth pair, to recognize it.
fn claim(owner: &str, port: &Name) -> String {
    format!("{owner} port {port}")
}

/// The existing host's end of a port's veth pair: created by this daemon, by a helper, or by an earlier version under another
/// name.
///
/// # Errors
/// Its name belongs to a foreign interface: an operator's, or another port's, as long names may have the same hash.
async fn host_end(
    outside: &Links,
    spec: &PortSpec,
    interface: &InterfaceSpec,
    owner: &str,
) -> Result<Option<Link>, Error> {
    let host = ifname::veth_host_ifname(&spec.name);
    if let Some(link) = outside.find(&host).await? {
        let is_claimed = link.alias.as_deref() == Some(&claim(owner, &spec.name));
        if link.kind == Some(InfoKind::Veth) && (is_claimed || is_pair(&link, spec, interface).await?) {
            return Ok(Some(link));
        }
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the interface {host} is not of port {}, whose end on the host would have that name: delete it, or choose another \
                 name for the port",
                spec.name
            ),
        ));
    }
    match outside.find(&ifname::former_veth_host_ifname(&spec.name)).await? {
        Some(link) if is_pair(&link, spec, interface).await? => {
            outside.rename(&link, &host).await?;
            Ok(Some(Link { name: host, ..link }))
        }
        _ => Ok(None),
    }
}

/// Whether the other end of `end` is the port's interface.
async fn is_pair(end: &Link, spec: &PortSpec, interface: &InterfaceSpec) -> Result<bool, Error> {
    let (Some(InfoKind::Veth), Some(peer)) = (&end.kind, end.peer) else { return Ok(false) };
    let inside = match &interface.bare {
        Some(_) => match locate(interface, spec.ifname()).await? {
            Some(place) => Some((Links::open(place.namespace)?, place.ifname)),
            None => None,
        },
        None => Some((Links::open(namespace(interface)?)?, spec.ifname().to_owned())),
    };
    let Some((links, ifname)) = inside else { return Ok(false) };
    let Some(other) = links.find(&ifname).await? else { return Ok(false) };
    let is_elsewhere = links.namespace().inode() != Namespace::current()?.inode();
    let points_at =
        |peer: link::Peer, link: &Link| peer.index == link.index && peer.is_elsewhere == is_elsewhere;
    Ok(points_at(peer, &other) && other.peer.is_some_and(|peer| points_at(peer, end)))
}

/// Takes over the gateway's interface of an earlier version, which had another name.
async fn take_former_gateway(interface: &InterfaceSpec, ifname: &str) -> Result<(), Error> {
    let Some(former) = ifname::former_gateway_ifname(ifname).filter(|_| interface.persist) else {
        return Ok(());
    };
    let links = Links::open(namespace(interface)?)?;
    if let Some(link) = links.find(&former).await?
        && link.kind == Some(InfoKind::Tun)
        && !links.exists(ifname).await?
    {
        links.rename(&link, ifname).await?;
    }
    Ok(())
}

/// Removes the veth pair that the host's own interface was in an earlier run, and is no longer.
async fn remove_former_pair(spec: &PortSpec, interface: &InterfaceSpec, owner: &str) -> Result<(), Error> {
    let is_former = interface.persist && interface.netns.is_none();
    if !is_former {
        return Ok(());
    }
    let links = Links::open(Namespace::current()?)?;
    let host = ifname::veth_host_ifname(&spec.name);
    if links.find(&host).await?.and_then(|link| link.alias) == Some(claim(owner, &spec.name)) {
        links.delete(&host).await?;
    }
    Ok(())
}

/// Removes the TAP that the host's own interface was in an earlier run, and is no longer.
async fn remove_former_tap(inside: &Links, interface: &InterfaceSpec, ifname: &str) -> Result<(), Error> {
    let is_former = interface.persist && interface.netns.is_none() && interface.bare.is_none();
    if is_former && inside.find(ifname).await?.and_then(|link| link.kind) == Some(InfoKind::Tun) {
        inside.delete(ifname).await?;
    }
    Ok(())
}

/// Creates a bare interface in our own namespace, or takes it over where it is now; also returns its namespace, if that is not
/// our own.
async fn open_bare(
    interface: &InterfaceSpec,
    bare: &Bare,
    ifname: &str,
) -> Result<(Tap, Option<Inode>), Error> {
    match locate(interface, ifname).await? {
        Some(place) => {
            let tap = open_tap(&place.namespace, &place.ifname, interface.persist)?;
            Ok((tap, place.is_moved.then(|| place.namespace.inode())))
        }
        // A new one would belong to no container.
        None if bare.moved.is_some() => Err(gone()),
        None => Ok((open_tap(&Namespace::current()?, ifname, interface.persist)?, None)),
    }
}

/// The place of a bare interface.
pub(crate) struct Home {
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// Its name there.
    pub(crate) ifname: String,
    /// Whether it was moved out of our namespace.
    pub(crate) is_moved: bool,
}

/// Finds a bare interface: where it was created, or where it was moved. `None`: it is in neither place.
///
/// # Errors
/// It is unknown whether it is there.
pub(crate) async fn locate(interface: &InterfaceSpec, ifname: &str) -> Result<Option<Home>, Error> {
    if Links::open(Namespace::current()?)?.exists(ifname).await? {
        let namespace = Namespace::current()?;
        return Ok(Some(Home { namespace, ifname: ifname.into(), is_moved: false }));
    }
    let moved = interface.bare.as_ref().and_then(|bare| bare.moved.as_ref());
    let there = match moved.map(Namespace::open) {
        Some(Ok(there)) => there,
        // The container may have ended, and its namespace with it.
        Some(Err(error)) if error.is_gone() => return Ok(None),
        Some(Err(error)) => return Err(error.into()),
        None => return Ok(None),
    };
    let links = Links::open(there)?;
    let found = links.all().await?.into_iter().find(|link| link.mac.is_some() && link.mac == interface.mac);
    let namespace = links.close();
    Ok(found.map(|link| Home { namespace, ifname: link.name, is_moved: true }))
}

/// The error of a bare interface that is gone.
pub(crate) fn gone() -> Error {
    Error::not_found("its interface is gone, with the container it was moved to")
}

/// Opens a TAP. A new one is not persistent, whatever was requested, until [`OpenDevice::keep`]: if the daemon ends before its
/// record is stored, nothing is left behind. A persistent one is taken over as it is.
fn open_tap(namespace: &Namespace, ifname: &str, persist: bool) -> Result<Tap, Error> {
    let opened = run_in(namespace, || {
        let new = Tap::open(ifname, TapOptions { exclusive: true, persist: false });
        match new.as_ref().err().and_then(Errno::from_io_error) {
            Some(Errno::BUSY | Errno::EXIST | Errno::INVAL) if persist => {
                Tap::open(ifname, TapOptions { exclusive: false, persist: true })
            }
            _ => new,
        }
    })?;
    opened.map_err(|error| {
        let why = match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::ACCESS | Errno::NOENT | Errno::NXIO | Errno::NODEV)
                if let Some(trouble) = tun::trouble() =>
            {
                trouble
            }
            Some(Errno::BUSY | Errno::EXIST) => {
                format!(
                    "{ifname} exists already in namespace {namespace}: choose another ifname, or delete it"
                )
            }
            Some(Errno::INVAL) if !persist => {
                format!("{ifname} exists already in namespace {namespace}, or is not an interface name")
            }
            Some(Errno::PERM) => format!(
                "no permission to create {ifname} in namespace {namespace}: run as root, or with CAP_NET_ADMIN"
            ),
            _ => format!("cannot create {ifname} in namespace {namespace}: {error}"),
        };
        Error::new(ErrorKind::from(error.kind()), why)
    })
}

fn open_packet(
    ifname: &str,
    offload: bool,
    fast: Option<&Arc<FastPort>>,
) -> Result<Arc<PacketSocket>, Error> {
    let bypass = fast.map(|fast| Arc::clone(fast) as _);
    match PacketSocket::open(ifname, offload, bypass) {
        Ok(device) => Ok(Arc::new(device)),
        Err(error) => Err(match Errno::from_io_error(&error) {
            Some(Errno::NODEV) => Error::not_found(format!("there is no interface {ifname}")),
            Some(Errno::NETDOWN) => {
                Error::unavailable(format!("{ifname} is down: `ip link set {ifname} up`"))
            }
            Some(Errno::PERM) => Error::new(
                ErrorKind::from(error.kind()),
                format!("no permission to open {ifname}: run as root, or with CAP_NET_RAW and CAP_NET_ADMIN"),
            ),
            _ => Error::from(error),
        }),
    }
}

impl OpenDevice {
    #[cfg(test)]
    fn in_memory(port: &state::Port) -> Self {
        use vswitch::{device::mem::MemDevice, offload::Capabilities};
        if port.spec.device.is_tunnel() {
            Self::Remote { path: Arc::new(Path::new(u16::MAX)), measured: false }
        } else {
            Self::Memory(Arc::new(MemDevice::new(Capabilities::NONE, 64)))
        }
    }

    /// The workers' device; `None`: it is created with every plan.
    pub(crate) fn device(&self) -> Option<Arc<dyn Device>> {
        match self {
            Self::Tap { tap, .. } => Some(Arc::clone(tap) as _),
            Self::Veth { device, .. } | Self::Foreign(device) => Some(Arc::clone(device) as _),
            Self::Endpoint(_) | Self::Remote { .. } => None,
            #[cfg(test)]
            Self::Memory(device) => Some(Arc::clone(device) as _),
        }
    }

    /// A view for readers that does not keep it open.
    pub(crate) fn live(&self) -> LiveDevice {
        match self {
            Self::Tap { tap, queue, .. } => LiveDevice::Tap(Arc::downgrade(tap), Arc::clone(queue)),
            Self::Veth { device, .. } | Self::Foreign(device) => LiveDevice::Packet(Arc::downgrade(device)),
            Self::Endpoint(endpoint) => LiveDevice::Endpoint(Arc::downgrade(endpoint)),
            Self::Remote { path, .. } => LiveDevice::Remote(Arc::clone(path)),
            #[cfg(test)]
            Self::Memory(_) => LiveDevice::None,
        }
    }

    /// Its share of the fast path, or why it has none; `None` where there can be none.
    pub(crate) fn fast(&self) -> Option<Result<&Arc<FastPort>, &str>> {
        match self {
            Self::Veth { fast, .. } => Some(fast.as_ref().map_err(String::as_str)),
            Self::Tap { .. } => Some(Err("the kernel forwards between ports of kind veth only")),
            Self::Foreign(_) => Some(Err("the kernel forwards between ports of kind veth only")),
            _ => None,
        }
    }

    /// Warnings about what this kernel lacks: sentences.
    pub(crate) fn warnings(&self) -> &[String] {
        match self {
            Self::Veth { warnings, .. } => warnings,
            _ => &[],
        }
    }

    /// Whether the device's namespace no longer exists under the name by which the port knows it.
    ///
    /// The kernel reports when an interface disappears with its namespace, but an open TAP belongs to the namespace it was
    /// created in and keeps it alive (`tun_chr_open` in drivers/net/tun.c): an ended container would linger as long as the TAP
    /// is open. Creating the TAP elsewhere and moving it would avoid that, but costs 17 ms per port (measured on Linux 6.18)
    /// and is not possible for one that is taken over.
    pub(crate) fn is_abandoned(&self, now: &Presences) -> bool {
        let Self::Tap { keeps, .. } = self else { return false };
        keeps.as_ref().is_some_and(|(netns, identity)| now.is_other(netns, identity))
    }

    /// The name of the namespace that the device keeps alive.
    pub(crate) fn keeps(&self) -> Option<&Netns> {
        let Self::Tap { keeps, .. } = self else { return None };
        keeps.as_ref().map(|(netns, _)| netns)
    }

    /// Whether the kernel has removed the interface without a fault being noticed.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Tap { tap, .. } if tap.name().is_err())
    }

    /// Makes the interface persistent, or not, where that is possible.
    pub(crate) fn keep(&self, persist: bool) -> io::Result<()> {
        match self {
            Self::Tap { tap, .. } => tap.set_persist(persist),
            _ => Ok(()),
        }
    }
}

/// Removes interfaces, persistent or not. They are gone when the workers have dropped the devices too.
///
/// The kernel takes some 20 ms to remove one, most of which it waits (`netdev_run_todo`, net/core/dev.c), and it waits for many at
/// the same time. Measured (2026-11-27, AMD EPYC, Linux 6.18): 300 TAPs take 6.4 s one after the other, 0.4 s by 32 threads.
pub(crate) async fn remove_all(devices: Vec<OpenDevice>) {
    let (mut hosts, mut taps, mut closing) = (Vec::new(), Vec::new(), JoinSet::new());
    for device in devices {
        match device {
            OpenDevice::Tap { tap, .. } => {
                if let Err(error) = tap.set_persist(false) {
                    warn!("an interface may be left behind: {error}");
                }
                taps.push(Arc::downgrade(&tap));
                if closing.len() >= TOGETHER {
                    closing.join_next().await;
                }
                closing.spawn_blocking(|| drop(tap));
            }
            OpenDevice::Veth { host, .. } => hosts.push(host),
            OpenDevice::Endpoint(endpoint) => {
                let left = Arc::downgrade(&endpoint);
                drop(endpoint);
                released(left).await;
            }
            OpenDevice::Foreign(_) | OpenDevice::Remote { .. } => {}
            #[cfg(test)]
            OpenDevice::Memory(_) => {}
        }
    }
    if let Err(error) = remove_links(&hosts).await {
        warn!("an interface may be left behind: {}", error.sentence);
    }
    while closing.join_next().await.is_some() {}
    for tap in taps {
        released(tap).await;
    }
}

/// Number of interfaces removed at the same time.
const TOGETHER: usize = 64;

/// Waits until the last reader is done. Readers hold a device for microseconds; the wait is bounded anyway.
pub(crate) async fn released<T>(what: Weak<T>) {
    for _ in 0..RELEASE {
        if what.strong_count() == 0 {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    warn!("a closed device is still being read: its interface is removed a little later");
}

/// Removes the host's ends of veth pairs that `owner` created and no port has: the daemon ended between creating and storing
/// one, or ports were removed while it was not running.
pub(crate) async fn remove_orphans(owner: &str, wanted: &HashSet<String>) -> Result<(), Error> {
    let links = Links::open(Namespace::current()?)?;
    for ifname in orphans(owner, wanted).await? {
        warn!(ifname, "an interface without a port is removed");
        links.delete(&ifname).await?;
    }
    Ok(())
}

/// Names of the host's ends that `owner` created and no port has.
pub(crate) async fn orphans(owner: &str, wanted: &HashSet<String>) -> Result<Vec<String>, Error> {
    let links = Links::open(Namespace::current()?)?.all().await?.into_iter();
    // Earlier versions wrote no port after the owner.
    let is_ours =
        |alias: &str| alias.strip_prefix(owner).is_some_and(|it| it.is_empty() || it.starts_with(" port "));
    let is_orphan = |link: &Link| link.alias.as_deref().is_some_and(is_ours) && !wanted.contains(&link.name);
    Ok(links.filter(is_orphan).map(|link| link.name).collect())
}

async fn remove_links(hosts: &[String]) -> Result<(), Error> {
    if hosts.is_empty() {
        return Ok(());
    }
    let links = Links::open(Namespace::current()?)?;
    links.delete_all(hosts).await?;
    Ok(())
}

/// The namespace of a port's interface, by default the daemon's own.
///
/// # Errors
/// It is gone, or its name names another one than the interface belongs to.
pub(crate) fn namespace(interface: &InterfaceSpec) -> Result<Namespace, Error> {
    Ok(match (&interface.netns, &interface.identity) {
        (Some(netns), Some(identity)) => Namespace::open_again(netns, identity)?,
        (netns, _) => Namespace::of(netns.as_ref())?,
    })
}
