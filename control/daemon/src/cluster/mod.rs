//! This host in a cluster: a sender of requests to the owner of the state.
//!
//! ```text
//! vswitchctl, API ─ Client ─> cluster task ── Session ── Cluster::step ── etcd
//!                                   └─ Request::Follow ─> the core
//! ```
//! Whether the host is in a cluster is known from its state folder, not from net.toml: `cluster init`, `join` and `leave` change
//! it while the daemon runs.
//!
//! | file | contents |
//! |---|---|
//! | `folder` | what is kept on the disk |
//! | `session` | a run as a member |
//! | `route` | which requests go to the cluster first |
//! | `enter` | how a host gets in and out: init, join, leave |
//! | `manager`, `renewal` | what a manager does for the others; the next certificate of a host |
//! | `server` | the store that a manager runs |
//! | `backup` | what a store has, and how it gets it back |
//! | `door`, `pki` | how a manager lets hosts in; certificates |

mod backup;
mod door;
mod enter;
mod folder;
mod manager;
mod pki;
mod renewal;
mod route;
mod server;
mod services;
mod session;

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};
use vswitch::addr::MacAddr;
use vswitch_cluster::{core::Ask, keys::Key, store::Revision};
use vswitch_model::{Connect, Error, Id, Name, NetworkSpec, Reference, api::cluster as api};

pub(crate) use self::folder::Folder;
use self::{
    enter::Running,
    session::{Session, membership},
};
use crate::{core::Handle, state::Membership};

/// Requests that may wait.
const WAITING: usize = 256;

/// Where the outcome of a call goes.
type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A call of the cluster task.
pub(crate) enum Call {
    /// The cluster as this host sees it.
    Show(Reply<api::Cluster>),
    /// The endpoints of all hosts.
    Endpoints(Reply<Vec<api::PlacedEndpoint>>),
    /// Whether a network is one of the cluster's; its id.
    Find(Reference, Reply<Option<Arc<NetworkSpec>>>),
    /// The revision at which the store got one of these keys, which this host does not know, if it has it.
    Revision(Vec<Key>, Reply<Option<Revision>>),
    /// Begin a cluster.
    Init(api::Init, Reply<api::JoinToken>),
    /// Join one.
    Join(api::Join, Reply<api::Cluster>),
    /// Leave it.
    Leave(api::Leave, Reply<()>),
    /// How hosts join; with `true` by a new token from now on.
    Token(bool, Reply<api::JoinToken>),
    /// What the store has.
    Backup(Reply<api::Backup>),
    /// Put back what the store has lost.
    Restore(api::Restore, Reply<api::Restored>),
    /// Something that needs the cluster's agreement.
    Ask(Ask, Reply<()>),
    /// A new host knocks.
    Admit(door::Said, Reply<door::Got>),
    /// Read the certificates again.
    Reconnect(Reply<()>),
}

/// Access to the cluster task.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    calls: mpsc::Sender<Call>,
    member: Arc<AtomicBool>,
}

/// Calls that wait for the cluster task.
pub(crate) struct Calls {
    queue: mpsc::Receiver<Call>,
    member: Arc<AtomicBool>,
}

/// A client, and the queue of its calls.
pub(crate) fn channel() -> (Client, Calls) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let member = Arc::<AtomicBool>::default();
    (Client { calls: sender, member: Arc::clone(&member) }, Calls { queue: receiver, member })
}

impl Client {
    /// Calls the cluster task, and waits for the outcome.
    ///
    /// # Errors
    /// Those of the call; `unavailable` while the daemon stops.
    pub(crate) async fn call<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, Error> {
        let stopping = || Error::unavailable("vswitchd is stopping");
        let (reply, answer) = oneshot::channel();
        self.calls.send(call(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Whether this host is in a cluster.
    pub(crate) fn is_member(&self) -> bool {
        self.member.load(Relaxed)
    }

    /// The global network of a reference, if this host is in a cluster that has one.
    pub(crate) async fn find(&self, network: &Reference) -> Option<Arc<NetworkSpec>> {
        self.call(|reply| Call::Find(network.clone(), reply)).await.ok().flatten()
    }

    /// Where the cluster has an address, and since when: sentences.
    ///
    /// # Errors
    /// `unavailable` while the daemon stops, or has left the cluster just now.
    pub(crate) async fn placed(
        &self,
        mac: Option<MacAddr>,
        ip: Option<IpAddr>,
    ) -> Result<Vec<String>, Error> {
        let mut endpoints = self.call(Call::Endpoints).await?;
        endpoints.retain(|it| Some(it.mac) == mac || ip.is_some_and(|ip| it.ips.contains(&ip)));
        if endpoints.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.call(Call::Show).await?.store;
        let place = |it: &api::PlacedEndpoint| {
            let since = it.since.map(|since| format!(" since {since}")).unwrap_or_default();
            let of = if store.up { "" } else { "; the store is lost, and this is the last copy of it" };
            format!(
                "the cluster has it as endpoint {} on host {} in network {}{since}, by revision {} of its store{of}",
                it.name, it.host, it.network, it.revision
            )
        };
        Ok(endpoints.iter().map(place).collect())
    }

    /// Waits until this host knows a network that another host has just created, if that is so. What was acknowledged there can be
    /// used here at once, however far behind this host is.
    pub(crate) async fn meet(&self, network: &Reference) {
        let text = network.as_str();
        let by_name = text.parse().ok().map(Key::NetworkName);
        let by_id = text.get(..12).and_then(|digits| digits.parse().ok()).map(Key::Network);
        let keys = by_name.into_iter().chain(by_id).collect();
        let found = self.call(|reply| Call::Revision(keys, reply)).await;
        if let Ok(Some(revision)) = found {
            // If it takes too long, the network is not found: that is what the caller is told.
            let _ = self.call(|reply| Call::Ask(Ask::Reach(revision), reply)).await;
        }
    }

    /// Sees to it that this host can assign an endpoint of a global network its addresses.
    ///
    /// # Errors
    /// None is free, or the store is needed and lost.
    pub(crate) async fn reserve(&self, spec: &NetworkSpec, connect: &Connect) -> Result<(), Error> {
        let asked = [connect.ip.map(IpAddr::V4), connect.ip6.map(IpAddr::V6)];
        let mut wanted: Vec<Option<IpAddr>> = asked.into_iter().flatten().map(Some).collect();
        if wanted.len() < spec.subnets.len() {
            wanted.push(None);
        }
        for address in wanted {
            let network = spec.id();
            self.call(|reply| Call::Ask(Ask::Reserve { network, address }, reply)).await?;
        }
        Ok(())
    }
}

/// What the last copy of the store gives this host, before there is a way to the store.
///
/// # Errors
/// The membership is there and cannot be read.
pub(crate) fn remembered(state_folder: &Path) -> Result<Arc<Membership>, Error> {
    let folder = Folder::of(state_folder);
    let Some(member) = folder.member()? else { return Ok(Arc::default()) };
    let cluster = member.core(folder.copy(&member.prefix), String::new(), 1);
    Ok(membership(&member, &cluster).into())
}

/// Serves calls, and follows the cluster that this host is in, until the last client is gone or it is dropped.
pub(crate) async fn serve(core: Handle, folder: Folder, calls: Calls) {
    let Calls { queue: mut calls, member } = calls;
    let mut running = match Running::resume(&core, &folder) {
        Ok(running) => running,
        Err(error) => {
            error!("this host does not follow its cluster: {}", error.sentence);
            None
        }
    };
    let mut endpoints = core.watch();
    loop {
        member.store(running.is_some(), Relaxed);
        let Some(session) = running.as_mut().map(|running| &mut running.session) else {
            let Some(call) = calls.recv().await else { return };
            running = alone(call, &core, &folder).await;
            continue;
        };
        tokio::select! {
            call = calls.recv() => {
                let Some(call) = call else { return };
                if let Call::Leave(leave, reply) = call {
                    let answer = enter::leave(&mut running, &leave, &core).await;
                    let _ = reply.send(answer);
                } else if let Some(running) = &mut running {
                    running.serve(call).await;
                }
            }
            Some(input) = session.queue.recv() => session.take(input).await,
            _ = session.tick.tick() => session.ticked().await,
            Ok(()) = endpoints.changed() => {
                session.look_at_endpoints();
                session.give().await;
            }
        }
    }
}

/// Serves a call while this host is in no cluster. Returns the membership that begins by it.
async fn alone(call: Call, core: &Handle, folder: &Folder) -> Option<Running> {
    let nowhere = || {
        Error::unavailable(
            "this host is in no cluster: begin one with `vswitchctl cluster init`, or join one with `vswitchctl cluster join`",
        )
    };
    match call {
        Call::Init(init, reply) => {
            let begun = enter::init(init, core, folder).await;
            let (running, answer) =
                begun.map_or_else(|error| (None, Err(error)), |(it, token)| (Some(it), Ok(token)));
            let _ = reply.send(answer);
            running
        }
        Call::Join(join, reply) => {
            let joined = enter::join(join, core, folder).await;
            let (running, answer) = match joined {
                Ok(running) => {
                    let shown = running.session.show();
                    (Some(running), Ok(shown))
                }
                Err(error) => (None, Err(error)),
            };
            let _ = reply.send(answer);
            running
        }
        Call::Find(_, reply) => {
            let _ = reply.send(Ok(None));
            None
        }
        Call::Revision(_, reply) => {
            let _ = reply.send(Ok(None));
            None
        }
        Call::Show(reply) => refuse(reply, nowhere()),
        Call::Backup(reply) => refuse(reply, nowhere()),
        Call::Restore(_, reply) => refuse(reply, nowhere()),
        Call::Endpoints(reply) => refuse(reply, nowhere()),
        Call::Leave(_, reply) | Call::Ask(_, reply) | Call::Reconnect(reply) => refuse(reply, nowhere()),
        Call::Token(_, reply) => refuse(reply, nowhere()),
        Call::Admit(_, reply) => refuse(reply, nowhere()),
    }
}

fn refuse<T, R>(reply: Reply<T>, error: Error) -> Option<R> {
    let _ = reply.send(Err(error));
    None
}

impl Running {
    /// Serves a call of a member.
    async fn serve(&mut self, call: Call) {
        let session = &mut self.session;
        match call {
            Call::Show(reply) => drop(reply.send(Ok(session.show()))),
            Call::Endpoints(reply) => drop(reply.send(Ok(session.endpoints()))),
            Call::Find(reference, reply) => {
                let text = reference.as_str();
                let by_name = session.networks().find(|it| it.name.as_str() == text);
                let by_id = || session.networks().find(|it| it.id().as_str().starts_with(text));
                let found = by_name.or_else(by_id).cloned();
                let _ = reply.send(Ok(found));
            }
            Call::Revision(keys, reply) => session.look_up(&keys, reply),
            Call::Init(_, reply) => refuse_member(reply, session),
            Call::Join(_, reply) => refuse_member(reply, session),
            Call::Leave(_, reply) => refuse_member(reply, session),
            Call::Token(rotate, reply) => drop(reply.send(self.token(rotate))),
            Call::Backup(reply) => drop(reply.send(backup::of(session))),
            Call::Restore(restore, reply) => drop(reply.send(backup::put_back(session, &restore).await)),
            Call::Ask(ask, reply) => {
                session.look_at_endpoints();
                session.ask(ask, reply);
                session.give().await;
            }
            Call::Admit(said, reply) => self.admit(said, reply),
            Call::Reconnect(reply) => {
                session.reconnect();
                let _ = reply.send(Ok(()));
            }
        }
    }
}

fn refuse_member<T>(reply: Reply<T>, session: &Session) {
    let why = format!(
        "this host is in cluster {} already, as {}: leave that first with `vswitchctl cluster leave`",
        session.member.cluster.short(),
        session.member.name
    );
    let _ = reply.send(Err(Error::conflict(why)));
}

/// The name of this host in a cluster.
fn host_name(core: &Handle, asked: Option<Name>) -> Result<Name, Error> {
    let name = core.snapshot().state.switch().name.clone();
    match asked {
        Some(name) => Ok(name),
        None => name.parse().map_err(|_| {
            Error::invalid(format!(
                "{name:?} is no name for a host in a cluster: set switch.name, or give one with --name"
            ))
        }),
    }
}

/// A new id of a membership.
fn fresh_id() -> Result<Id, Error> {
    let id = vswitch_host::random::id()?;
    info!(id = id.short(), "new membership");
    Ok(id)
}
