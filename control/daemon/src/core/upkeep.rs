//! What changes by itself: ports that fail and come back, unknown senders, captures that are over, addresses that age.

use std::time::{Duration, Instant};

use tracing::{info, warn};
use vswitch::counters::PortTotals;

use super::{Captures, Core};
use crate::{
    capture,
    edge::Attempt,
    state::{self, Command},
};

/// The least time between two warnings that unknown senders do not become peers.
const CROWD: Duration = Duration::from_mins(1);

impl Core {
    /// Takes ports that failed out of forwarding.
    pub(super) async fn collect_faults(&mut self) {
        if self.edge.begin(self.state.clone(), Attempt::retrying()).take_down_faulty().await {
            self.publish();
            self.look();
        }
    }

    /// Ends the captures that are meant, and those that are over. True: there were some.
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

    /// Takes unknown senders in as peers where that is wanted, and tells of them where it is not.
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
                Ok(_) => info!(address = %stranger.address, "taken in as a peer"),
                // Senders can forge any number of addresses: the log does not grow with them.
                Err(error) if self.crowd_warned.is_none_or(|last| last.elapsed() >= CROWD) => {
                    self.crowd_warned = Some(Instant::now());
                    warn!("{}", error.sentence);
                }
                Err(_) => {}
            }
        }
    }

    /// Floods to those learned peers that have answered: a forged sender is sent nothing that it could answer. An answer is
    /// a frame for a station here after one for a station there.
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

    /// What is done every second: ageing, and another try for ports that are down.
    pub(super) async fn tick(&mut self) {
        self.edge.listen();
        self.edge.sweep();
        let now = self.presences();
        self.reap(&now).await;
        self.follow_underlay().await;
        self.believe_peers().await;
        self.rules.retry(self.state.outside());
        self.rules.check(self.state.outside());
        self.store.retry();
        if self.edge.begin(self.state.clone(), Attempt::retrying()).try_again(&now).await {
            self.publish();
        }
        self.look();
    }
}
