//! The daemon's side: receives interfaces and hands them to the daemon.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use rustix::net::SocketType;
use tokio::{
    net::UnixListener,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{info, warn};
use vswitch::device::tap::Tap;

use super::{AttachRequest, Caller, Reply, channel::Channel};
use crate::{
    api::{ApiError, types::Port},
    link::check_ifname,
    model::DeviceSpec,
    socket::{SocketError, SocketFile, listen_at},
};

/// Conversations at a time; others wait in the socket's backlog.
const CONVERSATIONS: usize = 16;

/// How long a helper may take to ask after it connected.
const PATIENCE: Duration = Duration::from_secs(5);

/// What arrived: an interface that shall become a port.
#[derive(Debug)]
pub struct Attachment {
    /// What the helper asks.
    pub request: AttachRequest,
    /// The TAP, its offloads not chosen yet; `None` for a veth pair.
    pub tap: Option<Tap>,
    /// Who asks.
    pub caller: Caller,
}

/// A socket that waits for helpers; its file goes with the value.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    _file: SocketFile,
}

impl Listener {
    /// Listens at `path`; see [`listen_at`]. Needs a tokio runtime.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let (socket, file) = listen_at(path, SocketType::SEQPACKET, group)?;
        let socket =
            UnixListener::from_std(socket.into()).map_err(|error| SocketError::Os(path.to_owned(), error))?;
        Ok(Self { socket, _file: file })
    }
}

/// Answers helpers with what `attach` says, until the future is dropped; open conversations end with it.
///
/// What reaches `attach` is complete: a TAP comes with a descriptor that is one, a veth with its host end's name.
pub async fn serve<A, F>(listener: Listener, attach: A)
where
    A: Fn(Attachment) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Port, ApiError>> + Send + 'static,
{
    let attach = Arc::new(attach);
    let mut conversations = JoinSet::new();
    loop {
        if conversations.len() >= CONVERSATIONS {
            conversations.join_next().await;
        }
        while conversations.try_join_next().is_some() {}
        match listener.socket.accept().await {
            Ok((socket, _)) => {
                conversations.spawn(converse(Channel::new(socket), Arc::clone(&attach)));
            }
            Err(error) => {
                // Out of descriptors or memory: what others free in a moment.
                warn!("cannot accept a helper: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<A, F>(channel: Channel, attach: Arc<A>)
where
    A: Fn(Attachment) -> F,
    F: Future<Output = Result<Port, ApiError>>,
{
    let result = match timeout(PATIENCE, receive(&channel)).await {
        Ok(Ok(attachment)) => attach(attachment).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ApiError::invalid("no request came within five seconds")),
    };
    let reply = match result {
        Ok(port) => {
            info!("port {} attached", port.name);
            Reply::Attached { port: Box::new(port) }
        }
        Err(error) => Reply::Refused(error),
    };
    let sent = match serde_json::to_vec(&reply) {
        Ok(text) => channel.send(&text, None).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = sent {
        warn!("a helper did not wait for its answer: {error}");
    }
}

async fn receive(channel: &Channel) -> Result<Attachment, ApiError> {
    let caller = channel.peer()?;
    let (text, descriptor) = channel.receive().await.map_err(|error| ApiError::invalid(error.to_string()))?;
    let request = serde_json::from_slice(&text)
        .map_err(|error| ApiError::invalid(format!("the request is not what is expected here: {error}")))?;
    complete(request, descriptor, caller)
}

fn complete(
    request: AttachRequest,
    descriptor: Option<OwnedFd>,
    caller: Caller,
) -> Result<Attachment, ApiError> {
    let tap = match (&request.port.device, &request.host_ifname, descriptor) {
        (DeviceSpec::Tap(_), None, Some(descriptor)) => Some(Tap::adopt(descriptor)?),
        (DeviceSpec::Veth(_), Some(ifname), None) => {
            check_ifname(ifname)?;
            None
        }
        (DeviceSpec::Tap(_), ..) => {
            return Err(ApiError::invalid("a tap comes with its descriptor and nothing else"));
        }
        (DeviceSpec::Veth(_), ..) => {
            return Err(ApiError::invalid("a veth comes with host_ifname and no descriptor"));
        }
        (DeviceSpec::Packet { .. }, ..) => {
            return Err(ApiError::invalid(
                "a packet port needs no helper: use `vswitchctl port add --kind packet`",
            ));
        }
    };
    Ok(Attachment { request, tap, caller })
}
