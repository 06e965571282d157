//! What container engines ask of the daemon besides what everybody may ask: endpoints whose interfaces they fetch.
//!
//! An engine that dies leaves endpoints behind and never tells. So a bare interface is looked after: one that is nowhere any
//! more went with its container, and one that lies in our own namespace for long was forgotten.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use ipnet::IpNet;

use super::{Core, Daemon, Manner, Missing, sight};
use crate::{
    api::{Answer, ApiError, types::Endpoint},
    daemon::device,
    docker::Plumbing,
    gateway::Publish,
    model::{Connect, Driver, EndpointSpec, Id, Name, Netns, SubnetSpec},
    state::{Command, EndpointUpdate, NetworkError},
};

/// How long an engine may take to fetch an interface that it asked for.
const FETCH: Duration = Duration::from_secs(60);

impl Core {
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

    /// Disconnects endpoints of engines whose place a new one takes: an engine gives an address out once, so an endpoint
    /// that has it already and is in no container is one that it has forgotten.
    async fn make_room(&mut self, network: &Name, ask: &Connect) -> Result<(), ApiError> {
        let asked = [ask.ip.map(IpAddr::V4), ask.ip6.map(IpAddr::V6)];
        let rivals = self.state.endpoints_of(network).filter(|it| {
            let has = |address: &IpAddr| it.addresses.iter().any(|net| net.addr() == *address);
            it.sandbox.is_none() && (asked.iter().flatten().any(has) || ask.mac == Some(it.mac))
        });
        let rivals: Vec<_> = rivals.cloned().collect();
        let mut forgotten = Vec::new();
        for rival in rivals {
            let is_here = sight::own_ifnames().await?.contains(&rival.ifname);
            if is_here || !self.is_open(&rival) && !self.is_anywhere(&rival).await? {
                forgotten.push(rival.id.clone());
            }
        }
        if !forgotten.is_empty() {
            let manner = Manner { missing: Missing::Retry, handed: None };
            self.execute(Command::Disconnect(forgotten), manner).await?;
        }
        Ok(())
    }

    /// Whether an endpoint's device works, as far as we know without trying.
    fn is_open(&self, endpoint: &EndpointSpec) -> bool {
        let port = self.state.port(&endpoint.port).and_then(|port| self.edge.port(port.id));
        let device = port.and_then(|port| port.device.as_ref().ok());
        device.is_some_and(|device| !device.is_abandoned() && !device.is_gone())
    }

    async fn is_anywhere(&self, endpoint: &EndpointSpec) -> Result<bool, ApiError> {
        let Some(port) = self.state.port(&endpoint.port) else { return Ok(false) };
        let Some(interface) = port.spec.interface() else { return Ok(false) };
        Ok(device::locate(interface, &endpoint.ifname).await?.is_some())
    }

    async fn update_endpoint(&mut self, id: Id, update: EndpointUpdate) -> Result<(), ApiError> {
        let manner = Manner { missing: Missing::Refuse, handed: None };
        self.execute(Command::UpdateEndpoint { id, update }, manner).await.map(drop)
    }
}

impl Plumbing for Daemon {
    fn endpoint(&self, id: Id) -> Answer<'_, Endpoint> {
        async move { self.core.lock().await.endpoint(&id) }.boxed()
    }

    fn make_room<'a>(&'a self, network: &'a Name, ask: &'a Connect) -> Answer<'a, ()> {
        async move { self.core.lock().await.make_room(network, ask).await }.boxed()
    }

    fn moved(&self, id: Id, to: Netns) -> Answer<'_, ()> {
        async move { self.core.lock().await.update_endpoint(id, EndpointUpdate::Moved(to)).await }.boxed()
    }

    fn publish(&self, id: Id, publish: Vec<Publish>) -> Answer<'_, ()> {
        async move {
            let mut core = self.core.lock().await;
            let endpoint = core.state.endpoints().find(|it| it.id == id).cloned();
            let endpoint = endpoint.ok_or_else(|| NetworkError::NoEndpoint(id.clone()))?;
            let mut published = Vec::new();
            if !publish.is_empty() {
                let network = core.state.find_network(&endpoint.network.clone().into())?.spec;
                published = core.reserve_for(&network, &endpoint.addresses, publish).await?;
            }
            let done = core.update_endpoint(id, EndpointUpdate::Published(published.clone())).await;
            if done.is_err() && !published.is_empty() {
                core.gate(move |gateway| gateway.release(&published)).await?;
            }
            done
        }
        .boxed()
    }

    fn choose_subnet(&self, driver: Driver, ipv6: bool, held: Vec<IpNet>) -> Answer<'_, IpNet> {
        async move {
            let mut core = self.core.lock().await;
            let host = sight::host(&core.state).await?;
            core.state.observe(host);
            Ok(core.state.choose_subnet(driver, ipv6, &held).map_err(NetworkError::from)?)
        }
        .boxed()
    }

    fn choose_address(&self, subnet: SubnetSpec, held: Vec<IpAddr>) -> Answer<'_, IpAddr> {
        async move { Ok(self.core.lock().await.state.choose_address(&subnet, &held)?) }.boxed()
    }

    fn adopted(&self, id: Id) -> Answer<'_, Option<Name>> {
        async move { Ok(self.core.lock().await.store.adopted(&id)?) }.boxed()
    }

    fn adopt(&self, id: Id, network: Option<Name>) -> Answer<'_, ()> {
        async move { Ok(self.core.lock().await.store.adopt(&id, network.as_ref())?) }.boxed()
    }
}
