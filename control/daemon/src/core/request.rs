//! Requests to the core, and their answers.

use std::{fmt, sync::Arc};

use ipnet::IpNet;
use tokio::sync::oneshot;
use tracing::info;

use crate::{
    attach::Attachment,
    capture::CaptureStream,
    directory::DirectoryChange,
    state::{Called, Change, Command, Membership},
    view::Snapshot,
};
use vswitch_host::channel::Caller;
use vswitch_model::{
    Connect, Error, Id, Name, Netns, NetworkSpec, NetworkUpdate, Reference, ServiceSpec,
    api::{
        FdbKey, Flush, Flushed, Prune, Pruned, Reload, StaticEntry, StaticName, capture::CaptureRequest,
        directory::Directory,
    },
    ipam::Lent,
    publish::Publish,
};
use vswitch_names::Record;

/// A request that changes the switch, or a periodic task. Served one by one, in order.
#[derive(Debug)]
pub(crate) enum Request {
    /// Executes a command as it is.
    Execute(Box<Command>, Reply<Vec<Change>>),
    /// Takes over what the cluster gives this host.
    Follow(Arc<Membership>, Reply<()>),
    /// Announces an endpoint of each of these networks again, by which other hosts hear that this one is there.
    Announce(Vec<Name>, Reply<()>),
    /// Creates a network, and chooses what is not given; answers its name.
    AddNetwork(Box<NetworkSpec>, Reply<Name>),
    /// Changes a network while containers stay connected; answers its name.
    UpdateNetwork(Reference, Box<NetworkUpdate>, Reply<Name>),
    /// Deletes an unused network.
    DeleteNetwork(Reference, Reply<()>),
    /// Deletes the unused networks of the API.
    Prune(Prune, Reply<Pruned>),
    /// Connects a sandbox to a network; answers the endpoint's id.
    Connect(Reference, Box<Connect>, Reply<Id>),
    /// Disconnects an endpoint of a network.
    Disconnect(Reference, Reference, Reply<()>),
    /// Creates a port from an interface that a helper has made; answers its name.
    Attach(Box<Attachment>, Reply<Name>),
    /// Notes a measured path MTU of a peer, in bytes.
    Measured(Name, u16, Reply<()>),
    /// Pins an address to a port.
    Pin(StaticEntry, Reply<()>),
    /// Removes an address, pinned or learned.
    Forget(FdbKey, Reply<()>),
    /// Removes learned addresses.
    Flush(Flush, Reply<Flushed>),
    /// Changes the directory of a network: its stations on other hosts.
    Direct(Reference, DirectoryChange, Reply<()>),
    /// The directory of a network, as it was given.
    Directory(Reference, Reply<Directory>),
    /// Replaces the names that other hosts' endpoints have in a network.
    Names(Name, Arc<[Record]>, Reply<()>),
    /// A service of a global network as it is to be created: with addresses, which are not given out again soon.
    PrepareService(Box<ServiceSpec>, Reply<ServiceSpec>),
    /// Gives a name by hand.
    AddName(StaticName, Reply<()>),
    /// Takes a name away that was given by hand: of a network, the name.
    RemoveName(Name, Name, Reply<()>),
    /// Begins a capture.
    Capture(Box<CaptureRequest>, Reply<CaptureStream>),
    /// Ends these captures, and those that are over.
    EndCaptures(Captures, Reply<bool>),
    /// Reads the configuration file again and applies the difference; with `dry_run` only reports it.
    Reload { dry_run: bool, reply: Reply<Reload> },
    /// A request of a container engine.
    Engine(EngineRequest),
    /// A port has failed.
    Fault(Reply<()>),
    /// An unknown sender was seen at the tunnel.
    Strangers(Reply<()>),
    /// A second has passed: addresses age, and ports that are down are retried.
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
    /// The sender of this signal.
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

/// Which captures to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Captures {
    /// Only those that are over: their clients have closed the connection, or have the frames they asked for.
    Over,
    /// This one.
    One(u64),
    /// All, because the daemon stops.
    All,
}

/// Requests of container engines beyond those of every client.
#[derive(Debug)]
pub(crate) enum EngineRequest {
    /// Disconnects forgotten endpoints that conflict with a coming request.
    MakeRoom(Name, Box<Connect>, Reply<()>),
    /// Disconnects all forgotten endpoints of a network.
    Clear(Name, Reply<()>),
    /// Notes where a bare interface was moved.
    Moved(Id, Netns, Reply<()>),
    /// Notes what the engine calls an endpoint.
    Called(Id, Box<Called>, Reply<()>),
    /// Publishes exactly these ports of the host for an endpoint.
    Publish(Id, Vec<Publish>, Reply<()>),
    /// Notes which network an engine knows by an id of its own, or removes that note.
    Adopt(Id, Option<Name>, Reply<()>),
    /// Lends an address of this subnet to another network driver.
    Lend(IpNet, Lent, Reply<()>),
    /// Takes back lent addresses.
    TakeBack(Vec<Lent>, Reply<()>),
}

/// An answer, and the snapshot in which its effect is visible.
#[derive(Debug)]
pub(crate) struct Done<T> {
    pub(crate) value: T,
    pub(crate) snapshot: Arc<Snapshot>,
}

/// Where the answer to a request is sent.
#[derive(Debug)]
pub(crate) struct Reply<T>(oneshot::Sender<Result<Done<T>, Error>>);

/// The receiving end of a [`Reply`].
pub(super) type Answer<T> = oneshot::Receiver<Result<Done<T>, Error>>;

/// An answer that waits for its snapshot.
pub(super) struct Answered(Option<Send>);

type Send = Box<dyn FnOnce(&Arc<Snapshot>)>;

impl<T: 'static> Reply<T> {
    pub(super) fn new() -> (Self, Answer<T>) {
        let (sender, answer) = oneshot::channel();
        (Self(sender), answer)
    }

    /// Executes the request, unless the caller has given up: then nothing is begun.
    pub(super) async fn with(self, work: impl Future<Output = Result<T, Error>>) -> Answered {
        if self.0.is_closed() {
            return Answered(None);
        }
        let result = work.await;
        Answered(Some(Box::new(move |snapshot| {
            let done = result.map(|value| Done { value, snapshot: Arc::clone(snapshot) });
            // The caller may have given up meanwhile.
            let _ = self.0.send(done);
        })))
    }
}

impl Reply<()> {
    /// Executes a request that cannot fail.
    pub(super) async fn after(self, work: impl Future<Output = ()>) -> Answered {
        self.with(async {
            work.await;
            Ok(())
        })
        .await
    }
}

impl Answered {
    /// Sends the answer: its effect is visible in `snapshot`.
    pub(super) fn by(self, snapshot: &Arc<Snapshot>) {
        if let Some(send) = self.0 {
            send(snapshot);
        }
    }
}
