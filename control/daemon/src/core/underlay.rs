//! What the tunnel's underlay carries at this host, and whether it is there at all: both may change while the daemon runs.
//!
//! Looked at every second. A group's or a link-local endpoint's sockets are tied to an interface, and opened again with it
//! (`edge::health`); what is left to do here is to follow the MTU, and to say when no interface has the local address.

use tracing::{info, warn};

use super::Core;
use crate::{edge::Attempt, state::Command, tunnel};
use vswitch_model::Error;

/// What was seen of the underlay.
#[derive(Debug, Default)]
pub(super) struct Underlay {
    /// The MTU that was seen last, in bytes: one that is seen twice is followed, so that a link that is being set up changes nothing.
    seen: Option<u16>,
    /// The MTU that could not be followed.
    refused: Option<u16>,
    /// Why it cannot be looked at.
    trouble: Option<String>,
}

impl Underlay {
    /// What is wrong: a sentence.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// Notes the outcome of a look; returns the MTU if it was seen twice in a row.
    fn note(&mut self, looked: Result<Option<u16>, Error>) -> Option<u16> {
        match looked {
            Ok(mtu) => {
                if self.trouble.take().is_some() {
                    info!("the underlay is there again");
                }
                let before = std::mem::replace(&mut self.seen, mtu);
                mtu.filter(|_| before == mtu)
            }
            Err(error) => {
                if self.trouble.is_none() {
                    warn!("nothing is sent to peers: {}", error.sentence);
                }
                self.trouble = Some(error.sentence);
                self.seen = None;
                None
            }
        }
    }
}

impl Core {
    /// Follows what the ways to the peers carry, where the file does not say.
    pub(super) async fn follow_underlay(&mut self) {
        let Some(port) = self.state.endpoint().filter(|_| self.edge.is_real()) else {
            self.underlay = Underlay::default();
            return;
        };
        let Some(spec) = port.device.endpoint() else { return };
        let looked = tunnel::measure(spec, &tunnel::remotes(&self.state)).await;
        // An endpoint that is down says why itself.
        let looked =
            looked.or_else(|error| if self.edge.endpoint().is_some() { Err(error) } else { Ok(None) });
        let Some(mtu) = self.underlay.note(looked) else { return };
        if spec.underlay_mtu.is_some() || spec.measured_mtu == Some(mtu) || self.underlay.refused == Some(mtu)
        {
            return;
        }
        let before = spec.underlay_mtu();
        match self.execute(Command::MeasureUnderlay(mtu), Attempt::retrying()).await {
            Ok(_) => {
                self.underlay.refused = None;
                info!(before, mtu, "the ways to the peers carry packets of another length: networks follow");
            }
            Err(error) => {
                self.underlay.refused = Some(mtu);
                warn!(mtu, "networks do not follow what the ways to the peers carry: {}", error.sentence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_twice_is_followed() {
        let mut underlay = Underlay::default();
        assert_eq!(underlay.note(Ok(Some(1500))), None);
        assert_eq!(underlay.note(Ok(Some(1400))), None);
        assert_eq!(underlay.note(Ok(Some(1400))), Some(1400));
        assert_eq!(underlay.note(Err(Error::unavailable("gone"))), None);
        assert_eq!(underlay.trouble().as_deref(), Some("gone"));
        assert_eq!(underlay.note(Ok(Some(1400))), None);
        assert_eq!(underlay.trouble(), None);
        assert_eq!(underlay.note(Ok(None)), None);
        assert_eq!(underlay.note(Ok(None)), None, "nothing is known");
    }
}
