//! What container engines ask of the daemon besides what everybody may ask: endpoints whose interfaces they fetch.

use std::{net::IpAddr, sync::Arc};

use futures_util::FutureExt;
use ipnet::IpNet;

use super::{
    Daemon, Missing,
    core::{Core, Manner},
};
use crate::{
    api::Answer,
    docker::Plumbing,
    sight,
    state::{Command, EndpointUpdate, NetworkError},
};
use vswitch_model::{
    Connect, Driver, EndpointSpec, Error, Family, Id, Name, Netns, SubnetSpec, api::Endpoint,
    publish::Publish,
};

impl Core {
    /// Disconnects endpoints of engines whose place a new one takes: an engine gives an address out once, so an endpoint
    /// that has it already and is in no container is one that it has forgotten.
    async fn make_room(&mut self, network: &Name, ask: &Connect) -> Result<(), Error> {
        let asked = [ask.ip.map(IpAddr::V4), ask.ip6.map(IpAddr::V6)];
        let rivals = self.state.endpoints_of(network).filter(|it| {
            let has = |address: &IpAddr| it.addresses.iter().any(|net| net.addr() == *address);
            it.sandbox.is_none() && (asked.iter().flatten().any(has) || ask.mac == Some(it.mac))
        });
        let rivals = rivals.cloned().collect();
        self.forget(rivals).await
    }

    /// Disconnects what an engine has forgotten of a network.
    async fn clear(&mut self, network: &Name) -> Result<(), Error> {
        let bare = self.state.endpoints_of(network).filter(|it| it.sandbox.is_none()).cloned().collect();
        self.forget(bare).await
    }

    /// Disconnects those of `endpoints` whose interfaces nobody has.
    async fn forget(&mut self, endpoints: Vec<Arc<EndpointSpec>>) -> Result<(), Error> {
        if endpoints.is_empty() {
            return Ok(());
        }
        let here = sight::own_ifnames().await?;
        let mut forgotten = Vec::new();
        for endpoint in endpoints {
            let lies_here = here.contains(endpoint.ifname.as_str());
            if lies_here || !self.is_open(&endpoint) && !self.is_anywhere(&endpoint).await? {
                forgotten.push(endpoint.id.clone());
            }
        }
        if !forgotten.is_empty() {
            let manner = Manner { missing: Missing::Retry, handed: None };
            self.execute(Command::Disconnect(forgotten), manner).await?;
        }
        Ok(())
    }

    async fn update_endpoint(&mut self, id: Id, update: EndpointUpdate) -> Result<(), Error> {
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

    fn clear<'a>(&'a self, network: &'a Name) -> Answer<'a, ()> {
        async move { self.core.lock().await.clear(network).await }.boxed()
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
                published =
                    core.reserve_for(&network, &endpoint.addresses, endpoint.options.hold, publish).await?;
            }
            let done = core.update_endpoint(id, EndpointUpdate::Published(published.clone())).await;
            if done.is_err() && !published.is_empty() {
                core.gate(move |gateway| gateway.release(&published)).await?;
            }
            done
        }
        .boxed()
    }

    fn choose_subnet(&self, driver: Driver, family: Family, held: Vec<IpNet>) -> Answer<'_, IpNet> {
        async move {
            let mut core = self.core.lock().await;
            let host = sight::host(&core.state).await?;
            core.state.observe(host);
            Ok(core.state.choose_subnet(driver, family, &held).map_err(NetworkError::from)?)
        }
        .boxed()
    }

    fn choose_address(&self, subnet: SubnetSpec, held: Vec<IpAddr>) -> Answer<'_, IpAddr> {
        async move { Ok(self.core.lock().await.state.choose_address(&subnet, &held)?) }.boxed()
    }

    fn adopted(&self, id: Id) -> Answer<'_, Option<Name>> {
        async move { Ok(self.core.lock().await.store.adopted(&id)) }.boxed()
    }

    fn adopt(&self, id: Id, network: Option<Name>) -> Answer<'_, ()> {
        async move { Ok(self.core.lock().await.store.adopt(&id, network.as_ref())?) }.boxed()
    }
}
