//! What the core is asked, and where its answers go.

use std::{fmt, sync::Arc};

use tokio::sync::oneshot;
use tracing::info;

use crate::{
    attach::Attachment,
    capture::CaptureStream,
    state::{Change, Command},
    view::Snapshot,
};
use vswitch_host::channel::Caller;
use vswitch_model::{
    Connect, Error, Id, Name, Netns, NetworkSpec, NetworkUpdate, Reference,
    api::{FdbKey, Flush, Flushed, Prune, Pruned, Reload, StaticEntry, capture::CaptureRequest},
    publish::Publish,
};

/// Something that changes the switch, or lets it look after itself. Served one by one, in the order of asking.
#[derive(Debug)]
pub(crate) enum Request {
    /// Obey a command as it is.
    Execute(Box<Command>, Reply<Vec<Change>>),
    /// Make a network and choose what is not given; answers its name.
    AddNetwork(Box<NetworkSpec>, Reply<Name>),
    /// Change a network while containers stay connected; answers its name.
    UpdateNetwork(Reference, Box<NetworkUpdate>, Reply<Name>),
    /// Delete a network that nothing uses.
    DeleteNetwork(Reference, Reply<()>),
    /// Delete the networks that the API made and nothing uses.
    Prune(Prune, Reply<Pruned>),
    /// Connect a sandbox to a network; answers the endpoint's id.
    Connect(Reference, Box<Connect>, Reply<Id>),
    /// Disconnect an endpoint of a network.
    Disconnect(Reference, Reference, Reply<()>),
    /// Make a port of an interface that a helper has made; answers its name.
    Attach(Box<Attachment>, Reply<Name>),
    /// Note what was measured of the way to a peer: the longest packet, in bytes.
    Measured(Name, u16, Reply<()>),
    /// Pin an address to a port.
    Pin(StaticEntry, Reply<()>),
    /// Forget an address, pinned or learned.
    Forget(FdbKey, Reply<()>),
    /// Forget learned addresses.
    Flush(Flush, Reply<Flushed>),
    /// Begin a capture.
    Capture(Box<CaptureRequest>, Reply<CaptureStream>),
    /// End these captures, and those that are over.
    EndCaptures(Captures, Reply<bool>),
    /// Read the configuration file again and apply the difference; with `dry_run` only say it.
    Reload { dry_run: bool, reply: Reply<Reload> },
    /// Something that only a container engine asks.
    Engine(EngineRequest),
    /// A port has failed.
    Fault(Reply<()>),
    /// An unknown sender was seen at the tunnel.
    Strangers(Reply<()>),
    /// A second has passed: addresses age, and what is down is tried again.
    Tick(Reply<()>),
}

/// A request, and who made it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) by: Asker,
    pub(crate) request: Request,
}

/// Who asks for a change: logged with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The daemon itself, which logs what it does on its own account.
    #[default]
    Vswitchd,
    /// Whoever sent this signal.
    Signal(&'static str),
    /// Docker Engine, by its plugin's socket.
    Docker,
    /// A process, by the API or the attach socket.
    Process {
        /// Its user.
        uid: u32,
        /// Its number; `None` if it is in a pid namespace that is not visible here.
        pid: Option<i32>,
        /// Its program, if it still runs.
        command: Option<Arc<str>>,
    },
}

impl From<Caller> for Asker {
    fn from(caller: Caller) -> Self {
        Self::Process { uid: caller.uid, pid: caller.pid, command: caller.command().map(Into::into) }
    }
}

impl Asker {
    /// Logs what was done for it.
    pub(crate) fn log(&self, what: impl fmt::Display) {
        match self {
            Self::Vswitchd => {}
            Self::Signal(signal) => info!(signal, "{what}"),
            Self::Docker => info!(command = "dockerd", "{what}"),
            Self::Process { uid, pid, command } => info!(uid, pid, command = command.as_deref(), "{what}"),
        }
    }
}

/// Which captures are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Captures {
    /// Only those that are over: their clients have gone, or have enough.
    Over,
    /// This one.
    One(u64),
    /// All: the daemon stops.
    All,
}

/// What container engines ask besides what everybody may ask.
#[derive(Debug)]
pub(crate) enum EngineRequest {
    /// Disconnect forgotten endpoints that stand in the way of what will be asked for.
    MakeRoom(Name, Box<Connect>, Reply<()>),
    /// Disconnect all forgotten endpoints of a network.
    Clear(Name, Reply<()>),
    /// Note where a bare interface is moved.
    Moved(Id, Netns, Reply<()>),
    /// Make these ports of the host lead to an endpoint, and no others.
    Publish(Id, Vec<Publish>, Reply<()>),
    /// Note which network an engine knows by an id of its own, or that it does no longer.
    Adopt(Id, Option<Name>, Reply<()>),
}

/// What was done, and the snapshot in which it can be seen.
#[derive(Debug)]
pub(crate) struct Done<T> {
    pub(crate) value: T,
    pub(crate) snapshot: Arc<Snapshot>,
}

/// Where the answer to a request goes.
#[derive(Debug)]
pub(crate) struct Reply<T>(oneshot::Sender<Result<Done<T>, Error>>);

/// The other end of a [`Reply`].
pub(super) type Answer<T> = oneshot::Receiver<Result<Done<T>, Error>>;

/// An answer that waits for the snapshot in which it is true.
pub(super) struct Answered(Option<Send>);

type Send = Box<dyn FnOnce(&Arc<Snapshot>)>;

impl<T: 'static> Reply<T> {
    pub(super) fn new() -> (Self, Answer<T>) {
        let (sender, answer) = oneshot::channel();
        (Self(sender), answer)
    }

    /// Does what was asked, unless its asker has gone meanwhile: then nothing is begun.
    pub(super) async fn with(self, work: impl Future<Output = Result<T, Error>>) -> Answered {
        if self.0.is_closed() {
            return Answered(None);
        }
        let result = work.await;
        Answered(Some(Box::new(move |snapshot| {
            let done = result.map(|value| Done { value, snapshot: Arc::clone(snapshot) });
            // The asker may have gone while it was done.
            let _ = self.0.send(done);
        })))
    }
}

impl Reply<()> {
    /// Does what cannot fail, and says when it is done.
    pub(super) async fn after(self, work: impl Future<Output = ()>) -> Answered {
        self.with(async {
            work.await;
            Ok(())
        })
        .await
    }
}

impl Answered {
    /// Answers: what was done can be seen in `snapshot`.
    pub(super) fn by(self, snapshot: &Arc<Snapshot>) {
        if let Some(send) = self.0 {
            send(snapshot);
        }
    }
}
