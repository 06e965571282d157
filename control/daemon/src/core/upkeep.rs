//! What changes by itself: ports that fail and come back, unknown senders, captures that are over, addresses that age.

use tracing::{info, warn};

use super::{Captures, Core};
use crate::{capture, edge::Attempt, state::Command};
use vswitch_model::DeviceSpec;

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
        let (DeviceSpec::Vxlan(vxlan), Some(endpoint)) = (&spec.device, self.edge.endpoint()) else { return };
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
                Err(error) => warn!("{}", error.sentence),
            }
        }
    }

    /// What is done every second: ageing, and another try for ports that are down.
    pub(super) async fn tick(&mut self) {
        self.edge.listen();
        self.edge.sweep();
        self.reap().await;
        self.rules.retry(self.state.outside());
        self.rules.check(self.state.outside());
        self.store.retry();
        if self.edge.begin(self.state.clone(), Attempt::retrying()).try_again().await {
            self.publish();
        }
        self.look();
    }
}
