//! The task that owns the core: serves requests one by one and publishes the outcome of each.
//!
//! ```text
//! API, engines, helpers ┐
//! reload, health, clock ┴─ requests, bounded ─> Core ─ Arc<Snapshot> ─> API, metrics, web page, why, trace
//! ```
//! It has its own thread: a plan for a thousand ports takes milliseconds to compute, nft(8) and durable writes block, and none
//! of this may delay a reader. The runtime drives its I/O.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, thread, time::Instant};

use jiff::Timestamp;
use tokio::{
    runtime,
    sync::{Notify, mpsc, oneshot, watch},
};
use tracing::{info, warn};

use super::{
    Core, Handle,
    engines::Engines,
    outside::Rules,
    reap::Unfetched,
    request::{Answered, Asked, Asker, EngineRequest, Request},
    underlay::Underlay,
    upkeep::Mended,
};
use crate::{
    Failure,
    cluster::Client,
    edge::{Attempt, Edge},
    journal::{Journal, Observer},
    machine::Machine,
    names::Naming,
    state::{Command, State, Transition},
    store::Store,
    view::{Outages, Problems, Process, Snapshot},
};
use vswitch_model::api::{Trouble, TroubleKind, events::What};

/// Capacity of the queue; a request that finds it full is refused.
pub(super) const WAITING: usize = 1024;

/// Signals to the core that there is something to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    /// A port has failed.
    pub(crate) fault: Arc<Notify>,
    /// An unknown sender was seen at the tunnel.
    pub(crate) stranger: Arc<Notify>,
    /// A capture's client has closed the connection, or has the frames it asked for.
    pub(crate) capture_over: Arc<Notify>,
}

/// What stays on this host when the core has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The interfaces that persist, and the rules of the gateway: the next start adopts them.
    Persistent,
    /// None of them.
    Nothing,
}

/// The running core.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) signals: Signals,
    stop: oneshot::Sender<Leave>,
    ended: oneshot::Receiver<()>,
}

impl Running {
    /// Serves the queued requests, refuses further ones, stops forwarding and removes all interfaces that are not to be left.
    pub(crate) async fn stop(self, leave: Leave) {
        let Self { stop, ended, .. } = self;
        let _ = stop.send(leave);
        // An answer or an error: either way it has ended.
        let _ = ended.await;
    }
}

/// Opens the ports of `plan` and starts forwarding. Ports that cannot be opened are down and retried.
///
/// # Errors
/// No thread or descriptor is available, or something that cannot be retried fails.
pub(crate) async fn start(
    config: PathBuf,
    plan: Transition,
    store: Store,
    cluster: Client,
) -> Result<Running, Failure> {
    launch(config, plan, store, Machine::Real, cluster).await
}

pub(super) async fn launch(
    config: PathBuf,
    plan: Transition,
    store: Store,
    machine: Machine,
    cluster: Client,
) -> Result<Running, Failure> {
    let (report, started) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let (done, ended) = oneshot::channel();
    let runtime = runtime::Handle::current();
    let live = move || async move {
        match Core::open(config, plan, store, machine).await {
            Ok(core) => {
                let (requests, queue) = mpsc::channel(WAITING);
                // The receiver waits in `launch`.
                let _ = report.send(Ok((core.handle(requests, cluster), core.signals.clone())));
                core.serve_all(queue, stopped).await;
            }
            Err(failure) => drop(report.send(Err(failure))),
        }
        let _ = done.send(());
    };
    thread::Builder::new().name("core".into()).spawn(move || runtime.block_on(live()))?;
    let (handle, signals) = started.await.map_err(|_| "the core failed before it had started")??;
    Ok(Running { handle, signals, stop, ended })
}

impl Core {
    async fn open(
        config: PathBuf,
        plan: Transition,
        store: Store,
        machine: Machine,
    ) -> Result<Self, Failure> {
        let signals = Signals::default();
        let (fault, stranger) = (Arc::clone(&signals.fault), Arc::clone(&signals.stranger));
        let mut edge = Edge::start(
            plan.next.switch(),
            machine,
            Arc::new(move || fault.notify_one()),
            Arc::new(move || stranger.notify_one()),
        )?;
        edge.keep_flows(&plan.next.api().socket);
        let observer = Observer::new(Journal::new());
        observer.note(What::Started);
        let engines = Arc::new(Engines { adopted: store.adoptions(), lent: store.lent() });
        for detail in store.notes() {
            warn!("{detail}");
            observer.note(What::StoreMended { detail });
        }
        let state = State::default();
        let process = Arc::new(Process {
            config,
            started: Instant::now(),
            outages: Outages::default(),
            progress: Arc::clone(edge.progress()),
        });
        let nothing = Snapshot::new(
            state.clone(),
            edge.live(),
            Arc::clone(&process),
            Problems::default(),
            Arc::default(),
        );
        let mut core = Self {
            state,
            asker: Asker::default(),
            reload_refused: None,
            edge,
            store,
            observer,
            rules: Rules::new(machine),
            mended: Mended::default(),
            unconnected: BTreeMap::new(),
            unfetched: Unfetched::default(),
            crowd_warned: None,
            underlay: Underlay::default(),
            naming: Naming::new(plan.next.dns(), machine)?,
            engines,
            process,
            signals,
            snapshots: watch::Sender::new(Arc::new(nothing)),
        };
        core.rules.claim(plan.next.outside()).map_err(|error| error.sentence)?;
        core.carry_out(plan, Attempt::resuming()).await.map_err(|error| error.sentence)?;
        core.naming.give(core.store.names());
        core.naming.retry().await;
        if let Err(error) = core.note_declared() {
            warn!("cannot store the file's declaration: {error}");
        }
        core.rules.forget(core.state.outside());
        core.disconnect_undeclared().await;
        core.connect_declared().await;
        if core.store.has_lost() {
            core.edge.tell_orphans().await;
        } else {
            core.edge.remove_orphans().await;
        }
        core.edge.restore_fast();
        let (networks, ports) = (core.state.networks().count(), core.state.ports().count());
        info!(networks, ports, workers = core.edge.workers.count(), "switch started");
        core.publish();
        Ok(core)
    }

    fn handle(&self, requests: mpsc::Sender<Asked>, cluster: Client) -> Handle {
        Handle {
            requests,
            by: Asker::default(),
            refused: Arc::default(),
            snapshots: self.snapshots.subscribe(),
            journal: Arc::clone(self.observer.journal()),
            looker: Arc::default(),
            cluster,
            names: self.naming.server(),
        }
    }

    /// Serves requests until `stop`, or until the last handle is dropped; then closes everything.
    async fn serve_all(mut self, mut queue: mpsc::Receiver<Asked>, mut stop: oneshot::Receiver<Leave>) {
        let (mut goes_on, mut leave) = (true, Leave::Persistent);
        loop {
            let request = tokio::select! {
                biased;
                // Queued requests are still served.
                told = &mut stop, if goes_on => {
                    goes_on = false;
                    leave = told.unwrap_or(leave);
                    queue.close();
                    continue;
                }
                changed = self.edge.links_changed() => {
                    self.edge.follow_changed(&changed);
                    continue;
                }
                request = queue.recv() => request,
            };
            let Some(Asked { by, request }) = request else { break };
            self.asker = by;
            let answered = self.serve(request).await;
            answered.by(&self.publish());
        }
        self.naming.stop(leave).await;
        self.edge.stop(leave).await;
        if leave == Leave::Nothing {
            self.rules.remove_all();
        }
    }

    async fn serve(&mut self, request: Request) -> Answered {
        match request {
            Request::Execute(command, reply) => reply.with(self.execute(*command, Attempt::now())).await,
            Request::Follow(membership, reply) => {
                let command = Command::Follow(membership);
                reply.with(async { self.execute(command, Attempt::retrying()).await.map(drop) }).await
            }
            Request::Announce(networks, reply) => reply.with(self.announce(networks)).await,
            Request::AddNetwork(spec, reply) => reply.with(self.add_network(*spec)).await,
            Request::UpdateNetwork(network, update, reply) => {
                reply.with(self.update_network(network, *update)).await
            }
            Request::DeleteNetwork(network, reply) => reply.with(self.delete_network(network)).await,
            Request::Prune(prune, reply) => reply.with(self.prune(prune)).await,
            Request::Connect(network, connect, reply) => reply.with(self.connect(network, *connect)).await,
            Request::Disconnect(network, endpoint, reply) => {
                reply.with(self.disconnect(network, endpoint)).await
            }
            Request::Attach(attachment, reply) => reply.with(self.attach(*attachment)).await,
            Request::Measured(peer, mtu, reply) => reply.with(async { self.measured(&peer, mtu) }).await,
            Request::Pin(entry, reply) => reply.with(async { self.pin_and_keep(&entry) }).await,
            Request::Forget(key, reply) => reply.with(async { self.forget_address(&key) }).await,
            Request::Flush(flush, reply) => reply.with(async { self.flush(flush) }).await,
            Request::Direct(network, change, reply) => reply.with(self.direct(network, change)).await,
            Request::Directory(network, reply) => reply.with(async { self.directory(&network) }).await,
            Request::Names(network, records, reply) => {
                reply.with(async { self.set_names(network, records) }).await
            }
            Request::PrepareService(spec, reply) => {
                let prepared = async { Ok(self.state.prepared_service(*spec, Timestamp::now())?) };
                reply.with(prepared).await
            }
            Request::AddName(name, reply) => reply.with(async { self.add_name(name) }).await,
            Request::RemoveName(network, name, reply) => {
                reply.with(async { self.remove_name(network, name) }).await
            }
            Request::Capture(wanted, reply) => reply.with(self.capture(*wanted)).await,
            Request::EndCaptures(which, reply) => {
                reply.with(async { Ok(self.end_captures(which).await) }).await
            }
            Request::Reload { dry_run, reply } => reply.with(self.reload(dry_run)).await,
            Request::Engine(request) => self.serve_engine(request).await,
            Request::Fault(reply) => reply.after(self.collect_faults()).await,
            Request::Strangers(reply) => reply.after(self.meet_strangers()).await,
            Request::Tick(reply) => reply.after(self.tick()).await,
        }
    }

    async fn serve_engine(&mut self, request: EngineRequest) -> Answered {
        match request {
            EngineRequest::MakeRoom(network, ask, reply) => reply.with(self.make_room(&network, &ask)).await,
            EngineRequest::Clear(network, reply) => reply.with(self.clear(&network)).await,
            EngineRequest::Moved(id, to, reply) => reply.with(self.moved(id, to)).await,
            EngineRequest::Called(id, called, reply) => reply.with(self.called(id, *called)).await,
            EngineRequest::Publish(id, publish, reply) => reply.with(self.publish_ports(id, publish)).await,
            EngineRequest::Adopt(id, network, reply) => reply.with(async { self.adopt(id, network) }).await,
            EngineRequest::Lend(subnet, address, reply) => {
                reply.with(async { self.lend(subnet, address) }).await
            }
            EngineRequest::TakeBack(addresses, reply) => {
                reply.with(async { self.take_back(&addresses) }).await
            }
        }
    }

    /// What the core cannot do as it should.
    fn problems(&self) -> Problems {
        let trouble = |kind| move |detail| Trouble { kind, of: None, detail };
        let store = self.store.trouble().map(trouble(TroubleKind::Store));
        let gateway = self.rules.troubles().cloned().map(trouble(TroubleKind::Gateway));
        let reload = self.reload_refused.clone().map(trouble(TroubleKind::Reload));
        let names = self.naming.troubles().into_iter().map(trouble(TroubleKind::Dns));
        let unconnected = self.unconnected.iter().map(|(what, why)| Trouble {
            kind: TroubleKind::Port,
            of: Some(what.clone()),
            detail: why.clone(),
        });
        let underlay = self.underlay.trouble().map(trouble(TroubleKind::Tunnel));
        let single = store.into_iter().chain(gateway).chain(reload);
        Problems {
            warnings: self.store.warnings().into_iter().chain(self.mended.warnings()).collect(),
            troubles: single.chain(unconnected).chain(underlay).chain(names).collect(),
        }
    }

    /// Publishes a snapshot of the current state.
    pub(super) fn publish(&mut self) -> Arc<Snapshot> {
        self.naming.follow(&self.state);
        let snapshot = Arc::new(Snapshot::new(
            self.state.clone(),
            self.edge.live(),
            Arc::clone(&self.process),
            self.problems(),
            Arc::clone(&self.engines),
        ));
        self.snapshots.send_replace(Arc::clone(&snapshot));
        snapshot
    }
}
