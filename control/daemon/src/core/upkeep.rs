//! Periodic tasks: failed ports, unknown senders, ended captures, ageing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};
use vswitch::counters::PortTotals;

use super::{Captures, Core};
use crate::{
    capture,
    edge::Attempt,
    state::{self, Command},
};
use vswitch_model::api::events::What;

/// For how long, and how many of, the things that were set right are warnings of the status.
const REMEMBERED: Duration = Duration::from_hours(1);
const MOST: usize = 8;

/// What other programs have changed lately, and was set again.
#[derive(Debug, Default)]
pub(super) struct Mended(Vec<(Instant, Timestamp, String)>);

impl Mended {
    fn note(&mut self, detail: String) {
        self.0.retain(|(_, _, other)| *other != detail);
        self.0.push((Instant::now(), Timestamp::now(), detail));
        self.0.drain(..self.0.len().saturating_sub(MOST));
    }

    /// Forgets what is long ago. Returns whether there was something.
    fn forget(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|(since, _, _)| since.elapsed() < REMEMBERED);
        self.0.len() != before
    }

    /// A sentence each.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(_, at, detail)| format!("{at:.0}: {detail}"))
    }
}

/// Minimum time between two warnings that unknown senders do not become peers.
const CROWD: Duration = Duration::from_mins(1);

impl Core {
    /// Takes failed ports out of forwarding.
    pub(super) async fn collect_faults(&mut self) {
        if self.edge.begin(self.state.clone(), Attempt::retrying()).take_down_faulty().await {
            self.publish();
            self.look();
        }
    }

    /// Ends the given captures, and those that are over. Returns whether there were any.
    pub(super) async fn end_captures(&mut self, which: Captures) -> bool {
        let ends = self.edge.captures.take(|id| match which {
            Captures::Over => false,
            Captures::One(one) => one == id,
            Captures::All => true,
        });
        let any = !ends.is_empty();
        if any {
            self.rebuild().await;
        }
        ends.into_iter().for_each(capture::End::end);
        any
    }

    /// Adds unknown senders as peers if that is configured, and reports them otherwise.
    pub(super) async fn meet_strangers(&mut self) {
        let Some(spec) = self.state.endpoint() else { return };
        let (Some(vxlan), Some(endpoint)) = (spec.device.endpoint(), self.edge.endpoint()) else { return };
        if !vxlan.learn_peers {
            if let Some(last) = endpoint.strangers.list().last() {
                warn!("{}", self.state.about_stranger(last.address));
            }
            return;
        }
        for stranger in endpoint.strangers.take() {
            let command = Command::LearnPeer(stranger.address);
            match self.execute(command, Attempt::retrying()).await {
                Ok(changes) if changes.is_empty() => {}
                Ok(_) => info!(address = %stranger.address, "added as a learned peer"),
                // Senders can forge any number of addresses: the log must not grow with them.
                Err(error) if self.crowd_warned.is_none_or(|last| last.elapsed() >= CROWD) => {
                    self.crowd_warned = Some(Instant::now());
                    warn!("{}", error.sentence);
                }
                Err(_) => {}
            }
        }
    }

    /// Enables flooding to learned peers that have answered, so that nothing is sent to a forged sender that it could answer.
    /// An answer is a frame for a station here after one for a station there.
    async fn believe_peers(&mut self) {
        let answers = |port: &state::Port| {
            let totals = self.edge.port(port.id).map(|real| PortTotals::sum(&real.counters));
            totals.is_some_and(|totals| totals.tx_frames > 0 && totals.unicast > 0)
        };
        let names: Vec<_> =
            self.state.silent_peers().filter(answers).map(|port| port.spec.name.clone()).collect();
        for name in names {
            if let Err(error) = self.execute(Command::BelievePeer(name), Attempt::retrying()).await {
                warn!("{}", error.sentence);
            }
        }
    }

    /// Connects the endpoints that the file declares, as far as their namespaces are there.
    pub(super) async fn connect_declared(&mut self) {
        let wanted: Vec<_> = self.state.unconnected().cloned().collect();
        let mut failed = BTreeMap::new();
        for declared in wanted {
            let what = format!("{}.{}", declared.name, declared.network);
            if let Err(error) = self.connect(declared.network.clone().into(), declared.request()).await {
                if self.unconnected.get(&what) != Some(&error.sentence) {
                    warn!(endpoint = what, "declared, and not connected for now: {}", error.sentence);
                }
                failed.insert(what, error.sentence);
            }
        }
        let is_news = failed != self.unconnected;
        self.unconnected = failed;
        if is_news {
            self.publish();
        }
    }

    /// Disconnects endpoints that the file declared at an earlier start.
    pub(super) async fn disconnect_undeclared(&mut self) {
        let ids = self.state.undeclared();
        if ids.is_empty() {
            return;
        }
        let command = Command::Disconnect { ids, now: Timestamp::now() };
        if let Err(error) = self.execute(command, Attempt::retrying()).await {
            warn!("endpoints that the file declares no more are still connected: {}", error.sentence);
        }
    }

    /// Tells what other programs have changed, and was set again.
    fn tell_mended(&mut self, details: Vec<String>) {
        let any = !details.is_empty();
        for detail in details {
            warn!("{detail}");
            self.mended.note(detail.clone());
            self.observer.note(What::HostMended { detail });
        }
        if self.mended.forget() || any {
            self.publish();
        }
    }

    /// Runs once per second: ageing, and retries of ports that are down.
    pub(super) async fn tick(&mut self) {
        self.edge.listen();
        self.edge.sweep();
        let now = self.presences();
        self.reap(&now).await;
        self.connect_declared().await;
        self.follow_underlay().await;
        self.believe_peers().await;
        self.rules.retry(self.state.outside());
        let mut mended = self.edge.mend_interfaces().await;
        mended.extend(self.rules.mend(self.state.outside()));
        self.tell_mended(mended);
        self.store.retry();
        self.naming.retry().await;
        if self.edge.begin(self.state.clone(), Attempt::retrying()).try_again(&now).await {
            self.publish();
        }
        self.look();
    }
}
