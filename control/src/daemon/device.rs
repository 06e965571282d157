//! Making the device behind a port, and taking it away again.

use std::{collections::HashSet, io, sync::Arc};

use tracing::warn;
use vswitch::device::{
    Device,
    packet::Packet,
    tap::{Tap, TapOptions},
};

use vswitch_vxlan::{device::Path, endpoint::Endpoint};

use super::{queue::Queue, tunnel};
use crate::{
    api::{ApiError, ErrorCode},
    link::{Link, Links, host_ifname},
    model::{Bare, DeviceSpec, InterfaceSpec, Netns},
    netns::{Identity, Namespace, run_in},
    state,
};

/// What stands open behind a port, and what it takes to remove its interface.
#[derive(Clone, Debug)]
pub(super) enum OpenDevice {
    /// Goes with its last descriptor, unless it persists.
    Tap {
        /// What the workers use.
        tap: Arc<Tap>,
        /// The namespace that the device keeps alive; see [`OpenDevice::is_abandoned`].
        keeps: Option<(Netns, Identity)>,
        /// What the kernel could not queue for us.
        queue: Arc<Queue>,
    },
    /// The host's end of a pair that we made; the other end goes with it.
    Veth {
        /// What the workers use.
        device: Arc<Packet>,
        /// The interface's name.
        host: String,
    },
    /// An interface that is not ours.
    Foreign(Arc<Packet>),
    /// The tunnel's sockets. Its devices are made anew with every plan.
    Endpoint(Arc<Endpoint>),
    /// A peer or a collector, to which the endpoint sends.
    Remote {
        /// What is known of the way to it.
        path: Arc<Path>,
        /// Whether that was measured, and so is better than what the kernel knows.
        measured: bool,
    },
}

/// Makes the device of `port`, or takes it over if it is there already. Nothing is set up yet.
///
/// `handed` is a TAP that a helper made; `inlets`: how many workers a tunnel's endpoint is received by; `owner`:
/// what is written on interfaces that the kernel keeps when we end.
pub(super) async fn open(
    port: &state::Port,
    handed: Option<Tap>,
    inlets: usize,
    owner: &str,
) -> Result<OpenDevice, ApiError> {
    let spec = &port.spec;
    match &spec.device {
        DeviceSpec::Tap(interface) => {
            let (mut tap, netns) = match (handed, &interface.bare) {
                (Some(tap), _) => (tap, interface.netns.clone()),
                (None, Some(bare)) => open_bare(interface, bare, spec.ifname()).await?,
                (None, None) => {
                    let namespace = namespace(interface.netns.as_ref())?;
                    (open_tap(&namespace, spec.ifname(), interface.persist)?, interface.netns.clone())
                }
            };
            tap.set_offload(spec.offload)?;
            let keeps = netns.and_then(|netns| Identity::of(&netns).map(|it| (netns, it)));
            Ok(OpenDevice::Tap { tap: Arc::new(tap), keeps, queue: Arc::default() })
        }
        DeviceSpec::Veth(interface) => {
            let host = host_ifname(&spec.name);
            let outside = Links::open(Namespace::current()?)?;
            if !outside.exists(&host).await? {
                if interface.bare.as_ref().is_some_and(|bare| bare.moved.is_some()) {
                    return Err(gone());
                }
                let inside = Links::open(namespace(interface.netns.as_ref())?)?;
                outside.create_veth(&host, &inside, spec.ifname(), port.mtu).await?;
                outside.set_alias(&host, owner).await?;
            }
            let device = open_packet(&host, spec.offload)?;
            Ok(OpenDevice::Veth { device, host })
        }
        DeviceSpec::Packet { device } => Ok(OpenDevice::Foreign(open_packet(device, spec.offload)?)),
        DeviceSpec::Vxlan(endpoint) => {
            Ok(OpenDevice::Endpoint(Arc::new(tunnel::open(endpoint, inlets).await?)))
        }
        DeviceSpec::Peer(_) | DeviceSpec::Collector(_) => {
            Ok(OpenDevice::Remote { path: Arc::new(Path::new(u16::MAX)), measured: false })
        }
    }
}

/// Makes a bare interface where it is to be fetched from, or takes it over where it is by now; and which namespace, if not
/// our own, that is.
async fn open_bare(
    interface: &InterfaceSpec,
    bare: &Bare,
    ifname: &str,
) -> Result<(Tap, Option<Netns>), ApiError> {
    match locate(interface, ifname).await? {
        Some(place) => {
            let tap = open_tap(place.links.namespace(), &place.ifname, interface.persist)?;
            Ok((tap, bare.moved.clone().filter(|_| place.is_moved)))
        }
        // A new one would be nobody's.
        None if bare.moved.is_some() => Err(gone()),
        None => Ok((open_tap(&Namespace::current()?, ifname, interface.persist)?, None)),
    }
}

/// Where a bare interface is.
pub(super) struct Place {
    /// The namespace.
    pub(super) links: Links,
    /// What it is called there.
    pub(super) ifname: String,
    /// Whether somebody has fetched it.
    pub(super) is_moved: bool,
}

/// Where a bare interface is: where it was made, or where it was moved. `None`: nowhere that we know.
pub(super) async fn locate(interface: &InterfaceSpec, ifname: &str) -> Result<Option<Place>, ApiError> {
    let links = Links::open(Namespace::current()?)?;
    if links.exists(ifname).await? {
        return Ok(Some(Place { links, ifname: ifname.into(), is_moved: false }));
    }
    let moved = interface.bare.as_ref().and_then(|bare| bare.moved.as_ref());
    // Who moved it may have ended, and its namespace with it.
    let Some(there) = moved.and_then(|netns| Namespace::open(netns).ok()) else { return Ok(None) };
    let links = Links::open(there)?;
    let found = links.all().await?.into_iter().find(|link| link.mac.is_some() && link.mac == interface.mac);
    Ok(found.map(|link| Place { links, ifname: link.name, is_moved: true }))
}

/// Nobody has a bare interface any more.
pub(super) fn gone() -> ApiError {
    ApiError::not_found("its interface is gone, with the container it was moved to")
}

/// A new TAP goes with us, whatever it was asked to be, until [`OpenDevice::keep`]: if we end before it is known that it
/// shall stay, nothing is left behind. One that persists is taken over as it is.
fn open_tap(namespace: &Namespace, ifname: &str, persist: bool) -> Result<Tap, ApiError> {
    let opened = run_in(namespace, || {
        let new = Tap::open(ifname, TapOptions { exclusive: true, persist: false });
        match new.as_ref().err().and_then(io::Error::raw_os_error) {
            Some(EBUSY | EEXIST | EINVAL) if persist => {
                Tap::open(ifname, TapOptions { exclusive: false, persist: true })
            }
            _ => new,
        }
    })?;
    opened.map_err(|error| {
        let why = match error.raw_os_error() {
            Some(EBUSY | EEXIST) => {
                format!(
                    "{ifname} exists already in namespace {namespace}: choose another ifname, or delete it"
                )
            }
            Some(EINVAL) if !persist => {
                format!("{ifname} exists already in namespace {namespace}, or is no interface name")
            }
            Some(EPERM) => format!(
                "no right to make {ifname} in namespace {namespace}: run as root, or with CAP_NET_ADMIN"
            ),
            Some(ENOENT | ENXIO | ENODEV) => {
                "there is no /dev/net/tun: load the kernel's tun module".to_owned()
            }
            _ => format!("cannot make {ifname} in namespace {namespace}: {error}"),
        };
        ApiError::new(ErrorCode::from(error.kind()), why)
    })
}

fn open_packet(ifname: &str, offload: bool) -> Result<Arc<Packet>, ApiError> {
    match Packet::open(ifname, offload) {
        Ok(device) => Ok(Arc::new(device)),
        Err(error) => Err(match error.raw_os_error() {
            Some(ENODEV) => ApiError::not_found(format!("there is no interface {ifname}")),
            Some(ENETDOWN) => ApiError::unavailable(format!("{ifname} is down: `ip link set {ifname} up`")),
            Some(EPERM) => ApiError::new(
                ErrorCode::from(error.kind()),
                format!("no right to open {ifname}: run as root, or with CAP_NET_RAW and CAP_NET_ADMIN"),
            ),
            _ => ApiError::from(error),
        }),
    }
}

impl OpenDevice {
    /// What the workers use; `None`: it is made with every plan.
    pub(super) fn device(&self) -> Option<Arc<dyn Device>> {
        match self {
            Self::Tap { tap, .. } => Some(Arc::clone(tap) as _),
            Self::Veth { device, .. } | Self::Foreign(device) => Some(Arc::clone(device) as _),
            Self::Endpoint(_) | Self::Remote { .. } => None,
        }
    }

    /// Frames that the kernel dropped before we could receive them; of a TAP, when [its queue](Queue) was looked at last.
    pub(super) fn overflow(&self) -> u64 {
        match self {
            Self::Tap { queue, .. } => queue.dropped(),
            Self::Endpoint(endpoint) => endpoint.overflow(),
            _ => self.device().map_or(0, |device| device.overflow()),
        }
    }

    /// Whether the device's namespace is not there any more under the name by which the port knows it.
    ///
    /// The kernel tells us when an interface goes with its namespace, but an open TAP belongs to the namespace it was
    /// made in and keeps it alive (`tun_chr_open` in drivers/net/tun.c): a container that ended would linger for
    /// as long as we wait. Making the TAP elsewhere and moving it would avoid that, at 17 ms a port (measured on
    /// Linux 6.18) and not for one that is taken over.
    pub(super) fn is_abandoned(&self) -> bool {
        let Self::Tap { keeps, .. } = self else { return false };
        keeps.as_ref().is_some_and(|(netns, identity)| Identity::of(netns) != Some(*identity))
    }

    /// Whether the kernel has taken the interface away, and nobody has noticed yet.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Tap { tap, .. } if tap.name().is_err())
    }

    /// Lets an interface outlive us that shall.
    pub(super) fn keep(&self, persist: bool) -> io::Result<()> {
        match self {
            Self::Tap { tap, .. } => tap.set_persist(persist),
            _ => Ok(()),
        }
    }

    /// Lets the interface go, whether it persists or not. It is gone when the workers have let the device go too.
    pub(super) async fn remove(self) {
        let result = match self {
            Self::Tap { tap, .. } => tap.set_persist(false).map_err(ApiError::from),
            Self::Veth { host, .. } => remove_link(&host).await,
            Self::Foreign(_) | Self::Endpoint(_) | Self::Remote { .. } => Ok(()),
        };
        if let Err(error) = result {
            warn!("an interface may be left behind: {}", error.error);
        }
    }
}

/// Removes the hosts' ends of veth pairs that `owner` made and that no port has: it ended between making and keeping one,
/// or ports went while it was not there.
pub(super) async fn remove_orphans(owner: &str, wanted: &HashSet<String>) -> Result<(), ApiError> {
    let links = Links::open(Namespace::current()?)?;
    for ifname in orphans(owner, wanted).await? {
        warn!(ifname, "an interface that no port has is removed");
        links.delete(&ifname).await?;
    }
    Ok(())
}

/// Names of the hosts' ends that `owner` made and that no port has.
pub(super) async fn orphans(owner: &str, wanted: &HashSet<String>) -> Result<Vec<String>, ApiError> {
    let links = Links::open(Namespace::current()?)?.all().await?.into_iter();
    let is_ours = |link: &Link| link.alias.as_deref() == Some(owner) && !wanted.contains(&link.name);
    Ok(links.filter(is_ours).map(|link| link.name).collect())
}

async fn remove_link(host: &str) -> Result<(), ApiError> {
    let links = Links::open(Namespace::current()?)?;
    links.delete(host).await?;
    Ok(())
}

/// The namespace a port's interface stands in: the daemon's own unless told.
pub(super) fn namespace(netns: Option<&Netns>) -> Result<Namespace, ApiError> {
    Ok(Namespace::of(netns)?)
}

// include/uapi/asm-generic/errno-base.h, errno.h
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENETDOWN: i32 = 100;
