//! Stale endpoints: their sandboxes have ended, or an engine died without notice.
//!
//! So bare interfaces are watched: one that is gone went with its container, and one that stays in our own namespace for long
//! was forgotten.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{debug, error, warn};

use super::Core;
use crate::{device, edge::Attempt, sight, state::Command};
use vswitch_host::netns::Presences;
use vswitch_model::{EndpointSpec, Error, Id};

/// Time limit for an engine to move an interface that it requested.
const FETCH: Duration = Duration::from_secs(60);

/// Bare interfaces that are still where they were created, and since when.
#[derive(Debug, Default)]
pub(super) struct Unfetched(HashMap<Id, Instant>);

impl Unfetched {
    /// Notes which interfaces are there `now`; missing ones were moved. Returns those whose time is over.
    fn look<'a>(&mut self, lying: impl Iterator<Item = &'a Id>, now: Instant) -> HashSet<Id> {
        let since = |id: &Id| self.0.get(id).copied().unwrap_or(now);
        self.0 = lying.map(|id| (id.clone(), since(id))).collect();
        let is_late = |since: &Instant| now.saturating_duration_since(*since) >= FETCH;
        self.0.iter().filter(|(_, since)| is_late(since)).map(|(id, _)| id.clone()).collect()
    }
}

impl Core {
    /// What the names of all namespaces name now that endpoints are in or devices keep alive.
    pub(super) fn presences(&self) -> Presences {
        let sandboxes = self.state.endpoints().filter_map(|it| it.sandbox.as_ref());
        Presences::of(sandboxes.chain(self.edge.kept_namespaces()))
    }

    /// Disconnects endpoints whose sandboxes have ended.
    pub(super) async fn reap(&mut self, now: &Presences) {
        let is_orphan = |it: &&Arc<EndpointSpec>| sight::is_orphan(it, now);
        let mut orphans: Vec<_> = self.state.endpoints().filter(is_orphan).cloned().collect();
        match self.strays(now).await {
            Ok(strays) => orphans.extend(strays),
            Err(error) => warn!("cannot look for interfaces that are gone: {}", error.sentence),
        }
        if orphans.is_empty() {
            return;
        }
        let ids = orphans.iter().map(|it| it.id.clone()).collect();
        match self.execute(Command::Disconnect { ids, now: Timestamp::now() }, Attempt::retrying()).await {
            Ok(_) => {
                for endpoint in orphans {
                    warn!(endpoint = %endpoint.name, network = %endpoint.network, "reaped: its interface is gone");
                }
            }
            Err(error) => error!("endpoints without a namespace cannot be reaped: {}", error.sentence),
        }
    }

    /// Endpoints with bare interfaces that are gone or were forgotten.
    async fn strays(&mut self, now: &Presences) -> Result<Vec<Arc<EndpointSpec>>, Error> {
        let bare: Vec<_> = self.state.endpoints().filter(|it| it.sandbox.is_none()).cloned().collect();
        if bare.is_empty() {
            self.unfetched = Unfetched::default();
            return Ok(Vec::new());
        }
        let here = sight::own_ifnames().await?;
        let (lying, fetched): (Vec<_>, Vec<_>) =
            bare.into_iter().partition(|it| here.contains(it.ifname.as_str()));
        let forgotten = self.unfetched.look(lying.iter().map(|it| &it.id), Instant::now());
        let mut strays: Vec<_> = lying.into_iter().filter(|it| forgotten.contains(&it.id)).collect();
        for endpoint in fetched {
            if self.is_open(&endpoint, now) {
                continue;
            }
            match self.is_anywhere(&endpoint).await {
                Ok(true) => {}
                Ok(false) => strays.push(endpoint),
                // Unknown does not mean gone.
                Err(error) => debug!(endpoint = %endpoint.name, "cannot be looked for: {}", error.sentence),
            }
        }
        Ok(strays)
    }

    /// Whether an endpoint's device works, as far as known without trying.
    pub(super) fn is_open(&self, endpoint: &EndpointSpec, now: &Presences) -> bool {
        let port = self.state.port(&endpoint.port).and_then(|port| self.edge.port(port.id));
        let device = port.and_then(|port| port.device.as_ref().ok());
        device.is_some_and(|device| !device.is_abandoned(now) && !device.is_gone())
    }

    pub(super) async fn is_anywhere(&self, endpoint: &EndpointSpec) -> Result<bool, Error> {
        let Some(port) = self.state.port(&endpoint.port) else { return Ok(false) };
        let Some(interface) = port.spec.interface() else { return Ok(false) };
        Ok(device::locate(interface, &endpoint.ifname).await?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_nobody_fetches_is_forgotten_after_a_minute() {
        let (slow, quick) = (Id::of("slow"), Id::of("quick"));
        let (start, mut unfetched) = (Instant::now(), Unfetched::default());
        let mut look = |lying: &[&Id], seconds: u64| {
            unfetched.look(lying.iter().copied(), start + Duration::from_secs(seconds))
        };
        assert!(look(&[&slow, &quick], 0).is_empty());
        assert!(look(&[&slow], 30).is_empty());
        // One that came back, when its container stopped, has a minute of its own.
        assert!(look(&[&slow, &quick], 59).is_empty());
        assert_eq!(look(&[&slow, &quick], 60), HashSet::from([slow.clone()]));
        assert_eq!(look(&[&slow, &quick], 118), HashSet::from([slow.clone()]));
        assert_eq!(look(&[&slow, &quick], 119), HashSet::from([slow, quick]));
        assert!(look(&[], 120).is_empty());
    }
}
