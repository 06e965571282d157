//! Access to the core: the queue to its task, and its latest snapshot.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    sync::{mpsc, mpsc::error::TrySendError, watch},
    task::spawn_blocking,
};
use tracing::warn;

use super::{
    actor::WAITING,
    request::{Asked, Asker, Captures, Done, Reply, Request},
};
use crate::{
    cluster::Client,
    journal::{EventStream, Journal},
    state::{Change, Command},
    view::Snapshot,
};
use vswitch_host::{probe, queue::Looker};
use vswitch_model::{
    Error, Name,
    api::{
        events::{EventsFilter, What},
        trace::{Trace, TraceRequest},
        tunnel::Probe,
    },
};
use vswitch_names::server::Server;

/// A handle to the core, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(super) requests: mpsc::Sender<Asked>,
    /// Who asks by it.
    pub(super) by: Asker,
    /// Number of requests refused because the queue was full.
    pub(super) refused: Arc<AtomicU64>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) journal: Arc<Journal>,
    pub(super) looker: Arc<Looker>,
    /// The way to the cluster task.
    pub(super) cluster: Client,
    /// The DNS server, and with it the names.
    pub(crate) names: Arc<Server>,
}

impl Handle {
    /// The same handle, for requests of another.
    pub(crate) fn by(&self, by: Asker) -> Self {
        Self { by, ..self.clone() }
    }

    /// Logs what was done for who asks by this handle, without the core.
    pub(crate) fn log(&self, what: impl fmt::Display) {
        self.by.log(what);
    }

    fn asked(&self, request: Request) -> Asked {
        Asked { by: self.by.clone(), request }
    }

    /// The way to the cluster task.
    pub(crate) fn cluster(&self) -> &Client {
        &self.cluster
    }

    /// Snapshots as they are published.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Notes something that happened beside the core.
    pub(crate) fn note(&self, what: What) {
        self.journal.note_now(what);
    }

    /// The state after the last request. Never waits.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// The same, with the drops of the TAPs' queues, read at most a second ago.
    pub(crate) async fn counted(&self) -> Arc<Snapshot> {
        let snapshot = self.snapshot();
        let there = Arc::clone(&snapshot);
        self.looker.look(move || there.queues()).await;
        snapshot
    }

    /// Executes a command, entirely or not at all.
    ///
    /// # Errors
    /// It is refused, cannot be performed, or the queue is full.
    pub(crate) async fn execute(&self, command: Command) -> Result<Done<Vec<Change>>, Error> {
        self.ask(|reply| Request::Execute(Box::new(command), reply)).await
    }

    /// Sends a request and awaits the answer, which arrives when its effect is visible to readers.
    ///
    /// # Errors
    /// Those of the request; `unavailable` if the queue is full or the daemon is stopping.
    pub(crate) async fn ask<T: 'static>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<Done<T>, Error> {
        let (reply, answer) = Reply::new();
        match self.requests.try_send(self.asked(request(reply))) {
            Ok(()) => answer.await.map_err(|_| stopping())?,
            Err(TrySendError::Closed(_)) => Err(stopping()),
            Err(TrySendError::Full(_)) => {
                let refused = self.refused.fetch_add(1, Relaxed) + 1;
                if refused.is_power_of_two() {
                    warn!(refused, "requests are refused: {WAITING} are waiting");
                }
                let why = format!("vswitchd is busy: {WAITING} requests are waiting; try again in a moment");
                Err(Error::unavailable(why))
            }
        }
    }

    /// Sends a request of the daemon itself, which waits for room in the queue rather than being refused.
    pub(crate) async fn tell<T: 'static>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<Done<T>, Error> {
        let (reply, answer) = Reply::new();
        self.requests.send(self.asked(request(reply))).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Number of requests refused because the queue was full.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Traces a frame without side effects.
    ///
    /// # Errors
    /// It is not a frame, or cannot arrive at that port.
    pub(crate) async fn trace(&self, request: &TraceRequest) -> Result<Trace, Error> {
        let mut snapshots = self.snapshots.clone();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if let Some(plan) = snapshot.live.plan.upgrade() {
                return snapshot.trace(&plan, request);
            }
            // The workers already have a newer plan: its snapshot follows.
            snapshots.changed().await.map_err(|_| stopping())?;
        }
    }

    /// The latest events, oldest first, and new ones as they occur.
    pub(crate) fn events(&self, filter: EventsFilter) -> EventStream {
        // Events of the table since the last heartbeat are part of the answer.
        let snapshot = self.snapshot();
        let live = &snapshot.live;
        self.journal.fetch(&live.fdb, || Arc::clone(snapshot.names()), live.workers.now());
        self.journal.read(filter)
    }

    /// Ends the streams of events, so that shutdown does not wait for followers.
    pub(crate) fn farewell(&self) {
        self.journal.close();
    }

    /// Ends all captures, which have no end of their own.
    pub(crate) async fn end_captures(&self) {
        // Refused only after the core has ended, and the captures with it.
        let _ = self.tell(|reply| Request::EndCaptures(Captures::All, reply)).await;
    }

    /// Measures the path to a peer, which takes seconds if packets are lost.
    ///
    /// # Errors
    /// There is no such peer, or it does not answer.
    pub(crate) async fn probe(&self, peer: Name) -> Result<Probe, Error> {
        let snapshot = self.snapshot();
        let way = snapshot.way_to(&snapshot.find_port(&peer)?);
        let (local, remote, most) =
            way.ok_or_else(|| Error::not_found(format!("port {peer} is not a peer, or the tunnel is down")))?;
        drop(snapshot);
        let way = spawn_blocking(move || probe::measure(local, remote, most)).await;
        let way = way.map_err(|error| Error::internal(error.to_string()))?;
        let way = way.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Error::unavailable(format!(
                "{} does not answer pings: is it up, and does nothing on the way drop ICMP?",
                remote.ip()
            )),
            _ => Error::unavailable(format!("cannot ping {}: {error}", remote.ip())),
        })?;
        self.ask(|reply| Request::Measured(peer.clone(), way.mtu, reply)).await?;
        Ok(Probe {
            peer,
            path_mtu: way.mtu,
            overlay_mtu: way.mtu.saturating_sub(vswitch_vxlan::device::overhead(local.ip())),
            rtt_us: u64::try_from(way.rtt.as_micros()).unwrap_or(u64::MAX),
        })
    }
}

fn stopping() -> Error {
    Error::unavailable("vswitchd is stopping")
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Instant};

    use super::*;
    use crate::{
        edge::Edge,
        machine::Machine,
        names::Naming,
        state::State,
        view::{Outages, Problems, Process},
    };
    use vswitch_model::{DnsSpec, ErrorKind, SwitchSpec};

    /// A handle to a core that serves nothing, and what it is asked.
    fn idle() -> (Handle, mpsc::Receiver<Asked>) {
        let spec = SwitchSpec { workers: Some(1), ..SwitchSpec::default() };
        let edge = Edge::start(&spec, Machine::InMemory, Arc::new(|| {}), Arc::new(|| {})).unwrap();
        let process = Process {
            config: PathBuf::new(),
            started: Instant::now(),
            outages: Outages::default(),
            progress: Arc::default(),
        };
        let snapshot =
            Snapshot::new(State::default(), edge.live(), process.into(), Problems::default(), Arc::default());
        let (requests, queue) = mpsc::channel(WAITING);
        let handle = Handle {
            requests,
            by: Asker::default(),
            refused: Arc::default(),
            snapshots: watch::Sender::new(Arc::new(snapshot)).subscribe(),
            journal: Journal::new(),
            looker: Arc::default(),
            cluster: crate::cluster::channel().0,
            names: Naming::new(&DnsSpec::default(), Machine::InMemory).unwrap().server(),
        };
        (handle, queue)
    }

    #[tokio::test]
    async fn a_full_queue_refuses_requests_and_delays_no_reader() {
        let (handle, queue) = idle();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                tokio::spawn({
                    let handle = handle.clone();
                    async move { handle.ask(Request::Tick).await.map(drop) }
                })
            })
            .collect();
        while queue.len() < WAITING {
            tokio::task::yield_now().await;
        }
        let error = handle.ask(Request::Tick).await.map(drop).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(error.sentence, "vswitchd is busy: 1024 requests are waiting; try again in a moment");
        assert_eq!(handle.refused.load(Relaxed), 1);
        assert_eq!(handle.snapshot().status().networks, 0);
        drop(queue);
        for waiting in waiting {
            let error = waiting.await.unwrap().unwrap_err();
            assert_eq!((error.kind, &*error.sentence), (ErrorKind::Unavailable, "vswitchd is stopping"));
        }
        assert_eq!(handle.tell(Request::Tick).await.map(drop).unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn a_request_whose_client_is_gone_is_not_begun() {
        let snapshot = idle().0.snapshot();
        let (reply, answer) = Reply::new();
        reply.with(async { Ok(1) }).await.by(&snapshot);
        assert_eq!(answer.await.unwrap().unwrap().value, 1);
        let (reply, answer) = Reply::<()>::new();
        drop(answer);
        reply.with(async { unreachable!("its asker has gone") }).await.by(&snapshot);
    }
}
