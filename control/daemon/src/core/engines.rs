//! Requests of container engines beyond those of every client: endpoints whose interfaces the engine moves.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;

use super::{
    Core, Handle,
    request::{EngineRequest, Reply, Request},
};
use crate::{
    edge::Attempt,
    sight,
    state::{Called, Command, EndpointUpdate, NetworkError},
};
use vswitch_model::{
    Connect, Driver, EndpointSpec, Error, Family, Id, Name, Netns, ipam::Lent, publish::Publish,
};

/// What the store has for container engines, besides networks and endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Engines {
    /// The networks that they know by ids of their own.
    pub(crate) adopted: BTreeMap<Id, Name>,
    /// The addresses that they were given for networks of other drivers, with their subnets.
    pub(crate) lent: BTreeMap<Lent, IpNet>,
}

impl Core {
    /// Disconnects stale endpoints that a new one replaces: an engine assigns an address once, so an endpoint that already has
    /// it and is in no container is one that the engine has forgotten.
    pub(super) async fn make_room(&mut self, network: &Name, ask: &Connect) -> Result<(), Error> {
        let asked = [ask.ip.map(IpAddr::V4), ask.ip6.map(IpAddr::V6)];
        let rivals = self.state.endpoints_of(network).filter(|it| {
            let has = |address: &IpAddr| it.addresses.iter().any(|net| net.addr() == *address);
            it.sandbox.is_none() && (asked.iter().flatten().any(has) || ask.mac == Some(it.mac))
        });
        let rivals = rivals.cloned().collect();
        self.forget(rivals).await
    }

    /// Disconnects the endpoints of a network that an engine has forgotten.
    pub(super) async fn clear(&mut self, network: &Name) -> Result<(), Error> {
        let bare = self.state.endpoints_of(network).filter(|it| it.sandbox.is_none()).cloned().collect();
        self.forget(bare).await
    }

    /// Disconnects those of `endpoints` whose interfaces are gone.
    async fn forget(&mut self, endpoints: Vec<Arc<EndpointSpec>>) -> Result<(), Error> {
        if endpoints.is_empty() {
            return Ok(());
        }
        let here = sight::own_ifnames().await?;
        let now = self.presences();
        let mut forgotten = Vec::new();
        for endpoint in endpoints {
            let lies_here = here.contains(endpoint.ifname.as_str());
            if lies_here || !self.is_open(&endpoint, &now) && !self.is_anywhere(&endpoint).await? {
                forgotten.push(endpoint.id.clone());
            }
        }
        if !forgotten.is_empty() {
            self.execute(Command::Disconnect { ids: forgotten, now: Timestamp::now() }, Attempt::retrying())
                .await?;
        }
        Ok(())
    }

    /// Notes where a bare interface was moved.
    pub(super) async fn moved(&mut self, id: Id, to: Netns) -> Result<(), Error> {
        self.update_endpoint(id, EndpointUpdate::Moved(to)).await
    }

    /// Notes what the engine calls an endpoint.
    pub(super) async fn called(&mut self, id: Id, called: Called) -> Result<(), Error> {
        self.update_endpoint(id, EndpointUpdate::Called(called)).await
    }

    /// Publishes exactly these ports of the host for an endpoint.
    pub(super) async fn publish_ports(&mut self, id: Id, publish: Vec<Publish>) -> Result<(), Error> {
        let endpoint = self.state.endpoints().find(|it| it.id == id).cloned();
        let endpoint = endpoint.ok_or_else(|| NetworkError::NoEndpoint(id.clone()))?;
        let mut published = Vec::new();
        if !publish.is_empty() {
            let network = self.state.find_network(&endpoint.network.clone().into())?.spec;
            published = self.reserve_for(&network, &endpoint.addresses, endpoint.options.hold, publish)?;
        }
        let done = self.update_endpoint(id, EndpointUpdate::Published(published.clone())).await;
        if done.is_err() {
            self.rules.release(&published);
        }
        done
    }

    /// Lends addresses of `subnet` to another network driver.
    pub(super) fn lend(&mut self, subnet: IpNet, address: Lent) -> Result<(), Error> {
        if self.engines.lent.contains_key(&address) {
            return Err(Error::conflict("Address already in use"));
        }
        self.store.lend([(address, Some(subnet))])?;
        Arc::make_mut(&mut self.engines).lent.insert(address, subnet);
        Ok(())
    }

    /// Takes back lent addresses; others are ignored.
    pub(super) fn take_back(&mut self, addresses: &[Lent]) -> Result<(), Error> {
        let lent = |address: &&Lent| self.engines.lent.contains_key(*address);
        let lent: Vec<_> = addresses.iter().filter(lent).copied().collect();
        if lent.is_empty() {
            return Ok(());
        }
        self.store.lend(lent.iter().map(|address| (*address, None)))?;
        let engines = Arc::make_mut(&mut self.engines);
        engines.lent.retain(|address, _| !lent.contains(address));
        Ok(())
    }

    /// Notes which network an engine knows by an id of its own, or removes that note.
    pub(super) fn adopt(&mut self, id: Id, network: Option<Name>) -> Result<(), Error> {
        self.store.adopt(&id, network.as_ref())?;
        let adopted = &mut Arc::make_mut(&mut self.engines).adopted;
        match network {
            Some(network) => drop(adopted.insert(id, network)),
            None => drop(adopted.remove(&id)),
        }
        Ok(())
    }

    async fn update_endpoint(&mut self, id: Id, update: EndpointUpdate) -> Result<(), Error> {
        self.execute(Command::UpdateEndpoint { id, update }, Attempt::now()).await.map(drop)
    }
}

impl Handle {
    /// Disconnects endpoints whose interfaces are gone and that conflict with a coming request.
    ///
    /// # Errors
    /// They cannot be looked up, or not be disconnected.
    pub(crate) async fn make_room(&self, network: Name, ask: Connect) -> Result<(), Error> {
        self.engine(|reply| EngineRequest::MakeRoom(network, Box::new(ask), reply)).await
    }

    /// Disconnects all endpoints of a network whose interfaces are gone.
    ///
    /// # Errors
    /// Those of [`Handle::make_room`].
    pub(crate) async fn clear(&self, network: Name) -> Result<(), Error> {
        self.engine(|reply| EngineRequest::Clear(network, reply)).await
    }

    /// Notes where a bare interface was moved.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub(crate) async fn moved(&self, id: Id, to: Netns) -> Result<(), Error> {
        self.engine(|reply| EngineRequest::Moved(id, to, reply)).await
    }

    /// Notes what the engine calls an endpoint. Waits for room in the queue: the engine says it once.
    ///
    /// # Errors
    /// There is no such endpoint any more, or it cannot be stored.
    pub(crate) async fn called(&self, id: Id, called: Called) -> Result<(), Error> {
        let request = |reply| Request::Engine(EngineRequest::Called(id, Box::new(called), reply));
        self.tell(request).await.map(drop)
    }

    /// Publishes exactly these ports of the host for an endpoint.
    ///
    /// # Errors
    /// There is no such endpoint, or a port is in use.
    pub(crate) async fn publish(&self, id: Id, publish: Vec<Publish>) -> Result<(), Error> {
        self.engine(|reply| EngineRequest::Publish(id, publish, reply)).await
    }

    /// Notes which network an engine knows by an id of its own, or removes that note.
    ///
    /// # Errors
    /// It cannot be stored.
    pub(crate) async fn adopt(&self, id: Id, network: Option<Name>) -> Result<(), Error> {
        self.engine(|reply| EngineRequest::Adopt(id, network, reply)).await
    }

    /// Lends an address of `subnet` to another network driver.
    ///
    /// # Errors
    /// It is lent already, or it cannot be stored.
    pub(crate) async fn lend(&self, subnet: IpNet, address: Lent) -> Result<(), Error> {
        self.engine(|reply| EngineRequest::Lend(subnet, address, reply)).await
    }

    /// Takes back lent addresses; others are ignored.
    ///
    /// # Errors
    /// It cannot be stored.
    pub(crate) async fn take_back(&self, addresses: Vec<Lent>) -> Result<(), Error> {
        if addresses.is_empty() {
            return Ok(());
        }
        self.engine(|reply| EngineRequest::TakeBack(addresses, reply)).await
    }

    async fn engine(&self, request: impl FnOnce(Reply<()>) -> EngineRequest) -> Result<(), Error> {
        self.ask(|reply| Request::Engine(request(reply))).await.map(drop)
    }

    /// A subnet that is free on this host and not in `held`.
    ///
    /// # Errors
    /// None is free, or the host's routes cannot be read.
    pub(crate) async fn choose_subnet(
        &self,
        driver: Driver,
        family: Family,
        held: &[IpNet],
    ) -> Result<IpNet, Error> {
        let mut state = self.snapshot().state.clone();
        state.observe(sight::host(&state).await?);
        Ok(state.choose_subnet(driver, family, held).map_err(NetworkError::from)?)
    }
}
