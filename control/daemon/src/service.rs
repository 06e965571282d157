//! The daemon as its clients see it: one command at a time, done wholly or not at all.

mod backend;
mod core;
mod engines;
mod find;
mod outside;
mod pins;
mod reap;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, MutexGuard, Notify};
use tracing::{info, warn};

use self::{
    core::{Core, Manner},
    reap::Unfetched,
};
use super::{
    Failure, capture,
    edge::{Edge, Missing},
    journal::{Journal, Observer},
};
use crate::attach::Attachment;
use crate::{
    state::{self, Command, Plan, State},
    store::Store,
};
use vswitch_host::queue::Looker;
use vswitch_model::{
    DeviceSpec, DockerSpec, Error,
    api::{Port, events::What},
};

/// How often it is told that strangers are not taken in as peers.
const CROWD: Duration = Duration::from_mins(1);

/// The running daemon.
pub(crate) struct Daemon {
    core: Mutex<Core>,
    faults: Arc<Notify>,
    strangers: Arc<Notify>,
    captures_over: Arc<Notify>,
    looker: Looker,
    journal: Arc<Journal>,
    config: PathBuf,
    started: Instant,
}

impl Daemon {
    /// Opens what `plan` wants and starts forwarding. Ports that cannot be opened are down, and tried again.
    pub(crate) async fn start(config: PathBuf, plan: Plan, store: Store) -> Result<Self, Failure> {
        let faults = Arc::new(Notify::new());
        let notify = Arc::clone(&faults);
        let strangers = Arc::new(Notify::new());
        let notify_stranger = Arc::clone(&strangers);
        let edge = Edge::start(
            plan.next.switch(),
            Arc::new(move || notify.notify_one()),
            Arc::new(move || notify_stranger.notify_one()),
        )?;
        let journal = Journal::new();
        let observer = Observer::new(Arc::clone(&journal));
        observer.note(What::Started);
        for detail in store.notes() {
            warn!("{detail}");
            observer.note(What::StoreMended { detail });
        }
        let gateway = Arc::default();
        let mut core = Core {
            state: State::default(),
            edge,
            store,
            observer,
            gateway,
            outside_is_due: false,
            outside_checked: Instant::now(),
            crowd_told: None,
            unfetched: Unfetched::default(),
        };
        core.carry_out(plan, Manner { missing: Missing::Retry, handed: None })
            .await
            .map_err(|error| error.sentence)?;
        if let Err(error) = core.note_declared() {
            warn!("what the file declares is not kept for later: {error}");
        }
        core.forget_outside().await?;
        core.edge.remove_orphans().await;
        let (networks, ports) = (core.state.networks().count(), core.state.ports().count());
        info!(networks, ports, workers = core.edge.workers.count(), "switch started");
        let captures_over = Arc::default();
        Ok(Self {
            core: Mutex::new(core),
            faults,
            strangers,
            captures_over,
            looker: Looker::default(),
            journal,
            config,
            started: Instant::now(),
        })
    }

    /// Whether, and where, Docker finds us.
    pub(crate) async fn docker(&self) -> DockerSpec {
        self.core.lock().await.state.docker().clone()
    }

    /// Makes a port of an interface that a helper has made.
    pub(crate) async fn attach(&self, attachment: Attachment) -> Result<Port, Error> {
        let Attachment { request, tap, .. } = attachment;
        let manner = Manner { missing: Missing::Refuse, handed: tap };
        let mut core = self.core.lock().await;
        let name = request.port.name.clone();
        core.execute(Command::AddPort(request.port), manner).await?;
        core.port(&name)
    }

    /// What is wanted and what is real, once the queues that the kernel has for us were looked at.
    async fn counted(&self) -> MutexGuard<'_, Core> {
        self.looker.look(async { self.core.lock().await.edge.queues() }).await;
        self.core.lock().await
    }

    /// Ready when a port has failed since the last time.
    pub(crate) async fn fault(&self) {
        self.faults.notified().await;
    }

    /// Takes ports that failed out of forwarding.
    pub(crate) async fn collect_faults(&self) {
        let core = &mut *self.core.lock().await;
        if core.edge.collect_faults() {
            core.edge.rebuild(&core.state).await;
            core.look();
        }
    }

    /// Ready when a capture's client has gone or has enough.
    pub(crate) async fn capture_over(&self) {
        self.captures_over.notified().await;
    }

    /// Ends the captures that `gone` picks, and those that are over. True: there were some.
    pub(crate) async fn end_captures(&self, gone: impl Fn(u64) -> bool + Send) -> bool {
        let core = &mut *self.core.lock().await;
        let ends = core.edge.captures.take(gone);
        let any = !ends.is_empty();
        if any {
            core.edge.rebuild(&core.state).await;
        }
        ends.into_iter().for_each(capture::End::end);
        any
    }

    /// Ready when somebody sent to the tunnel who is no peer, for the first time of late.
    pub(crate) async fn stranger(&self) {
        self.strangers.notified().await;
    }

    /// Takes strangers in as peers where that is wanted, and tells of them where it is not.
    pub(crate) async fn meet_strangers(&self) {
        let core = &mut *self.core.lock().await;
        let Some(spec) = core.state.endpoint() else { return };
        let (DeviceSpec::Vxlan(vxlan), Some(endpoint)) = (&spec.device, core.edge.endpoint()) else { return };
        if !vxlan.learn_peers {
            if let Some(last) = endpoint.strangers.list().last() {
                warn!("{}", core.state.about_stranger(last.address));
            }
            return;
        }
        for stranger in endpoint.strangers.take() {
            let command = Command::LearnPeer(stranger.address);
            match core.execute(command, Manner { missing: Missing::Retry, handed: None }).await {
                Ok(_) => info!(address = %stranger.address, "taken in as a peer"),
                // Anybody can send from many addresses: the log does not grow with them.
                Err(error) if core.crowd_told.is_none_or(|told| told.elapsed() >= CROWD) => {
                    core.crowd_told = Some(Instant::now());
                    warn!("{}", error.sentence);
                }
                Err(_) => {}
            }
        }
    }

    /// Floods to those peers that were taken in and have answered since: a forged sender is sent nothing it could answer. An answer is a
    /// frame for a station here after one for a station there.
    async fn believe_peers(core: &mut Core) {
        let answers = |port: &state::Port| {
            let totals = super::view::totals(&core.edge, port.id);
            totals.tx_frames > 0 && totals.unicast > 0
        };
        let names: Vec<_> =
            core.state.silent_peers().filter(answers).map(|port| port.spec.name.clone()).collect();
        for name in names {
            let manner = Manner { missing: Missing::Retry, handed: None };
            if let Err(error) = core.execute(Command::BelievePeer(name), manner).await {
                warn!("{}", error.sentence);
            }
        }
    }

    /// What is done every second: ageing, and another try for ports that are down.
    pub(crate) async fn heartbeat(&self) {
        let core = &mut *self.core.lock().await;
        core.edge.listen();
        core.edge.sweep();
        core.reap().await;
        Self::believe_peers(core).await;
        if core.outside_is_due {
            // Its errors are told the first time.
            let _ = core.set_outside(core.state.outside().to_vec(), Missing::Retry).await;
        }
        core.check_outside().await;
        core.store.retry();
        if core.edge.collect_abandoned() | core.edge.retry().await {
            core.edge.rebuild(&core.state).await;
        }
        core.look();
    }

    /// Ends the streams of events, so that nobody is waited for who follows them.
    pub(crate) fn farewell(&self) {
        self.journal.close();
    }

    /// Stops forwarding, and leaves nothing behind but what persists.
    pub(crate) async fn close(&self) {
        let core = &mut *self.core.lock().await;
        core.edge.stop().await;
    }
}
