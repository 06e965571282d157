//! Endpoints that nobody has any more: their sandboxes have ended, or an engine died and never told.
//!
//! So a bare interface is looked after: one that is nowhere any more went with its container, and one that lies in our own
//! namespace for long was forgotten.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::{
    Missing,
    core::{Core, Manner},
};
use crate::{
    api::ApiError,
    daemon::{device, sight},
    model::EndpointSpec,
    state::Command,
};

/// How long an engine may take to fetch an interface that it asked for.
const FETCH: Duration = Duration::from_secs(60);

impl Core {
    /// Disconnects endpoints whose sandboxes have ended.
    pub(super) async fn reap(&mut self) {
        let mut orphans: Vec<_> = self.state.endpoints().filter(|it| sight::is_orphan(it)).cloned().collect();
        match self.strays().await {
            Ok(strays) => orphans.extend(strays),
            Err(error) => warn!("cannot look for interfaces that nobody has: {}", error.error),
        }
        if orphans.is_empty() {
            return;
        }
        let ids = orphans.iter().map(|it| it.id.clone()).collect();
        let manner = Manner { missing: Missing::Retry, handed: None };
        match self.execute(Command::Disconnect(ids), manner).await {
            Ok(_) => {
                for endpoint in orphans {
                    warn!(endpoint = %endpoint.name, network = %endpoint.network, "reaped: its namespace is gone");
                }
            }
            Err(error) => error!("endpoints without a namespace cannot be reaped: {}", error.error),
        }
    }

    /// Endpoints with bare interfaces that nobody has.
    pub(super) async fn strays(&mut self) -> Result<Vec<Arc<EndpointSpec>>, ApiError> {
        let bare: Vec<_> = self.state.endpoints().filter(|it| it.sandbox.is_none()).cloned().collect();
        if bare.is_empty() {
            self.unfetched.clear();
            return Ok(Vec::new());
        }
        let here = sight::own_ifnames().await?;
        self.unfetched.retain(|id, _| bare.iter().any(|it| it.id == *id && here.contains(&it.ifname)));
        let mut strays = Vec::new();
        for endpoint in bare {
            if here.contains(&endpoint.ifname) {
                let since = *self.unfetched.entry(endpoint.id.clone()).or_insert_with(Instant::now);
                if since.elapsed() >= FETCH {
                    strays.push(endpoint);
                }
            } else if !self.is_open(&endpoint) && !self.is_anywhere(&endpoint).await? {
                strays.push(endpoint);
            }
        }
        Ok(strays)
    }

    /// Whether an endpoint's device works, as far as we know without trying.
    pub(super) fn is_open(&self, endpoint: &EndpointSpec) -> bool {
        let port = self.state.port(&endpoint.port).and_then(|port| self.edge.port(port.id));
        let device = port.and_then(|port| port.device.as_ref().ok());
        device.is_some_and(|device| !device.is_abandoned() && !device.is_gone())
    }

    pub(super) async fn is_anywhere(&self, endpoint: &EndpointSpec) -> Result<bool, ApiError> {
        let Some(port) = self.state.port(&endpoint.port) else { return Ok(false) };
        let Some(interface) = port.spec.interface() else { return Ok(false) };
        Ok(device::locate(interface, &endpoint.ifname).await?.is_some())
    }
}
