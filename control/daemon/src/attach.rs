//! The daemon's side of attach: receives interfaces from helpers.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use rustix::net::SocketType;
use tokio::{
    net::UnixListener,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::warn;
use vswitch::device::tap::Tap;

use vswitch_host::{
    channel::{Caller, Channel},
    socket::{SocketError, SocketFile, listen_at},
};
use vswitch_model::{
    DeviceSpec, Error,
    api::Port,
    attach::{AttachRequest, Reply},
};

/// Maximum number of conversations; further ones wait in the socket's backlog.
const CONVERSATIONS: usize = 16;

/// Time limit for a helper's request after it has connected.
const PATIENCE: Duration = Duration::from_secs(5);

/// A received interface that will become a port.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The helper's request.
    pub(crate) request: AttachRequest,
    /// The TAP, with its offloads still unset; `None` for a veth pair.
    pub(crate) tap: Option<Tap>,
    /// The helper's credentials.
    pub(crate) caller: Caller,
}

/// A socket for helpers; its file is deleted with the value.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    _file: SocketFile,
}

impl Listener {
    /// Listens at `path`; see [`listen_at`]. Needs a tokio runtime.
    pub(crate) fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let (socket, file) = listen_at(path, SocketType::SEQPACKET, group)?;
        let socket =
            UnixListener::from_std(socket.into()).map_err(|error| SocketError::Os(path.to_owned(), error))?;
        Ok(Self { socket, _file: file })
    }
}

/// Serves helpers with the answers of `attach`, until the future is dropped; open conversations end with it.
///
/// Only complete attachments reach `attach`: a TAP with a valid descriptor, a veth with the name of its host's end.
pub(crate) async fn serve<A, F>(listener: Listener, attach: A)
where
    A: Fn(Attachment) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Port, Error>> + Send + 'static,
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
                // Out of descriptors or memory: a temporary condition.
                warn!("cannot accept a helper: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<A, F>(channel: Channel, attach: Arc<A>)
where
    A: Fn(Attachment) -> F,
    F: Future<Output = Result<Port, Error>>,
{
    let result = match timeout(PATIENCE, receive(&channel)).await {
        Ok(Ok(attachment)) => attach(attachment).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::invalid("no request came within five seconds")),
    };
    let reply = match result {
        Ok(port) => Reply::Attached { port: Box::new(port) },
        Err(error) => Reply::Refused(error),
    };
    let sent = match serde_json::to_vec(&reply) {
        Ok(text) => channel.send(&text, None).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = sent {
        warn!("cannot answer a helper: {error}");
    }
}

async fn receive(channel: &Channel) -> Result<Attachment, Error> {
    let caller = channel.peer()?;
    let (text, descriptor) = channel.receive().await.map_err(|error| Error::invalid(error.to_string()))?;
    let request = AttachRequest::read(&text)?;
    complete(request, descriptor, caller)
}

fn complete(
    request: AttachRequest,
    descriptor: Option<OwnedFd>,
    caller: Caller,
) -> Result<Attachment, Error> {
    let tap = match (&request.port.device, &request.host_ifname, descriptor) {
        (DeviceSpec::Tap(_), None, Some(descriptor)) => {
            let no_tap =
                |error| Error::invalid(format!("the descriptor is not a TAP with offload headers: {error}"));
            Some(Tap::adopt(descriptor).map_err(no_tap)?)
        }
        (DeviceSpec::Veth(_), Some(_), None) => None,
        (DeviceSpec::Tap(_), ..) => {
            return Err(Error::invalid("a tap comes with its descriptor and nothing else"));
        }
        (DeviceSpec::Veth(_), ..) => {
            return Err(Error::invalid("a veth comes with host_ifname and no descriptor"));
        }
        _ => {
            return Err(Error::invalid(
                "only a tap or veth needs a helper: use `vswitchctl port add` or `vswitchctl peer add`",
            ));
        }
    };
    Ok(Attachment { request, tap, caller })
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod alone {
    use super::*;
    use std::os::fd::AsFd;

    async fn refusal(text: &str, descriptor: Option<OwnedFd>) -> String {
        let (helper, daemon) = Channel::pair().unwrap();
        helper.send(text.as_bytes(), descriptor.as_ref().map(AsFd::as_fd)).await.unwrap();
        receive(&daemon).await.unwrap_err().sentence
    }

    fn request(device: &str) -> String {
        format!(r#"{{"port": {{"name": "web", "network": "blue", {device}}}}}"#)
    }

    #[tokio::test]
    async fn only_complete_attachments_reach_the_daemon() {
        let null = || Some(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let veth = r#"{"port": {"name": "web", "network": "blue", "kind": "veth"}, "host_ifname": "vp-web"}"#;
        assert!(refusal("{", None).await.starts_with("the request is not what is expected here: EOF"));
        assert!(
            refusal(r#"{"version": 9, "who": "me"}"#, None).await.starts_with("this helper speaks version 9")
        );
        assert!(refusal(r#"{"who": "me"}"#, None).await.contains("unknown field `who`"));
        assert!(
            refusal(&request(r#""kind": "tap""#), None).await.starts_with("a tap comes with its descriptor")
        );
        assert!(
            refusal(&request(r#""kind": "veth""#), None).await.starts_with("a veth comes with host_ifname")
        );
        assert!(refusal(veth, null()).await.starts_with("a veth comes with host_ifname"));
        assert!(refusal(&veth.replace("vp-web", "a/b"), None).await.contains("is not an interface name"));
        assert!(
            refusal(&request(r#""kind": "packet", "device": "eth1""#), None)
                .await
                .contains("only a tap or veth needs a helper")
        );
        let no_tap = refusal(&request(r#""kind": "tap""#), null()).await;
        assert!(no_tap.starts_with("the descriptor is not a TAP with offload headers"), "{no_tap}");

        let (helper, daemon) = Channel::pair().unwrap();
        helper.send(veth.as_bytes(), None).await.unwrap();
        assert_eq!(receive(&daemon).await.unwrap().request.host_ifname.as_deref(), Some("vp-web"));
    }

    #[tokio::test]
    async fn a_helper_that_says_nothing_is_sent_away() {
        tokio::time::pause();
        let (helper, daemon) = Channel::pair().unwrap();
        let attach = |_| async { Err(Error::internal("not reached")) };
        tokio::spawn(converse(daemon, Arc::new(attach)));
        let (text, _) = helper.receive().await.unwrap();
        assert!(String::from_utf8(text).unwrap().contains("no request came within five seconds"));
    }
}
