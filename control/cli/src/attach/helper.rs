//! The client side of attach: creates an interface in a container, configures it, and passes it to the daemon.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;
use vswitch::device::tap::{Tap, TapOptions};

use super::target::{DOCKER_SOCKET, Target};
use crate::client::{Client, ClientError, connect_error};
use vswitch_host::{
    channel::Channel,
    link::{self, Links, Wanted},
    netns::{Namespace, run_in},
    tun,
};
use vswitch_model::{
    Carries, DeviceSpec, Error, ErrorKind, IfName, InterfaceSpec, LimitSpec, Mtu, Name, PortSpec,
    api::Port,
    attach::{AttachRequest, Reply, VERSION, socket_path},
    ifname::veth_host_ifname,
};

/// Time limit for the daemon to create a port.
const PATIENCE: Duration = Duration::from_secs(30);

/// An attachment to make.
#[derive(Clone, Debug)]
pub struct Order {
    /// The network.
    pub network: Name,
    /// The port's name.
    pub name: Name,
    /// Target whose namespace gets the interface.
    pub target: Target,
    /// Kind of interface.
    pub kind: Kind,
    /// Its configuration; `netns` is resolved from `target`.
    pub interface: InterfaceSpec,
    /// Longest IP packet in bytes; the network's by default.
    pub mtu: Option<Mtu>,
    /// Rate limits in both directions.
    pub limit: LimitSpec,
}

/// Kinds of interfaces that attach can create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TAP: the daemon gets its descriptor.
    Tap,
    /// A veth pair: the daemon gets the host end, which stays in the caller's namespace.
    Veth,
}

/// Executes `order` with the daemon whose API socket is `api`.
///
/// Nothing is created before the daemon has answered and is known to have the network. If a later step fails, the
/// interface is deleted again.
pub async fn attach(api: PathBuf, order: Order) -> Result<Port, ClientError> {
    let network = Client::new(&api).network(&order.network.clone().into()).await?;
    let mtu = order.mtu.unwrap_or_else(|| network.spec.mtu(None));
    let netns = order.target.resolve(DOCKER_SOCKET.as_ref()).await?.netns;
    let inside = Links::open(Namespace::open(&netns).map_err(Error::from)?).map_err(Error::from)?;
    let mut interface = InterfaceSpec { netns: Some(netns), ..order.interface };
    let ifname = match &interface.ifname {
        Some(ifname) => ifname.clone(),
        None => order.name.as_str().parse().map_err(Error::from)?,
    };
    interface.ifname = Some(ifname.clone());
    inside.check_free(&ifname).await.map_err(Error::from)?;

    let made = match order.kind {
        Kind::Tap => make_tap(&inside, &ifname, interface.persist)?,
        Kind::Veth => make_veth(&inside, &ifname, &order.name, mtu).await?,
    };
    let device = match order.kind {
        Kind::Tap => DeviceSpec::Tap(interface.clone()),
        Kind::Veth => DeviceSpec::Veth(interface.clone()),
    };
    let carries = Carries::Access { network: order.network };
    let port = PortSpec { mtu: order.mtu, limit: order.limit, ..PortSpec::new(order.name, carries, device) };
    let super_frame = network.spec.vni.map(|_| link::super_frame(mtu.get()));
    let wanted = Wanted {
        ifname: ifname.to_string(),
        spec: interface,
        mtu: Some(mtu.get()),
        super_frame,
        described_offloads: order.kind == Kind::Veth,
        ..Wanted::default()
    };
    let request = AttachRequest { version: VERSION, port, host_ifname: made.host_ifname };
    let handed_over = match inside.configure(&wanted).await {
        Ok(()) => hand_over(&socket_path(&api), &request, made.tap).await,
        Err(error) => Err(Error::from(error).into()),
    };
    if handed_over.is_err() {
        let _ = inside.delete(&ifname).await;
    }
    handed_over
}

/// The created interface: a TAP's descriptor, or the name of the host end of a veth pair.
struct Made {
    tap: Option<OwnedFd>,
    host_ifname: Option<IfName>,
}

fn make_tap(inside: &Links, ifname: &str, persist: bool) -> Result<Made, Error> {
    let open = || Tap::open(ifname, TapOptions { exclusive: true, persist });
    let tap = run_in(inside.namespace(), open)?.map_err(|error| {
        let why = tun::trouble().unwrap_or_else(|| {
            format!("cannot create the TAP {ifname} in namespace {}: {error}", inside.namespace())
        });
        Error::new(ErrorKind::from(error.kind()), why)
    })?;
    Ok(Made { tap: Some(tap.into_fd()), host_ifname: None })
}

async fn make_veth(inside: &Links, ifname: &str, port: &Name, mtu: Mtu) -> Result<Made, Error> {
    let host = veth_host_ifname(port);
    let outside = Links::open(Namespace::current()?)?;
    outside.create_veth(&host, inside, ifname, mtu.get()).await?;
    Ok(Made { tap: None, host_ifname: Some(host.parse()?) })
}

async fn hand_over(path: &Path, request: &AttachRequest, tap: Option<OwnedFd>) -> Result<Port, ClientError> {
    let broken = |why: String| ClientError::Broken(path.to_owned(), why);
    let text = serde_json::to_vec(request).map_err(|error| broken(error.to_string()))?;
    let channel = Channel::connect(path).map_err(|error| connect_error(path, error))?;
    let conversation = async {
        channel.send(&text, tap.as_ref().map(AsFd::as_fd)).await?;
        channel.receive().await
    };
    let answer =
        timeout(PATIENCE, conversation).await.map_err(|_| broken("no answer within 30 seconds".into()))?;
    let (text, _) = answer.map_err(|error| broken(error.to_string()))?;
    match serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))? {
        Reply::Attached { port } => Ok(*port),
        Reply::Refused(error) => Err(error.into()),
    }
}
