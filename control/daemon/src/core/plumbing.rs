//! What container engines ask besides.

use std::net::IpAddr;

use futures_util::FutureExt;
use ipnet::IpNet;

use super::{
    Handle,
    request::{EngineRequest, Request},
};
use crate::{api::Answer, docker::Plumbing, sight, state::NetworkError};
use vswitch_model::{
    Connect, Driver, Error, Family, Id, Name, Netns, SubnetSpec, api::Endpoint, publish::Publish,
};

impl Handle {
    async fn engine<T: 'static>(
        &self,
        request: impl FnOnce(super::request::Reply<T>) -> EngineRequest,
    ) -> Result<T, Error> {
        Ok(self.ask(|reply| Request::Engine(request(reply))).await?.value)
    }
}

impl Plumbing for Handle {
    fn endpoint(&self, id: Id) -> Answer<'_, Endpoint> {
        async move { self.snapshot().endpoint(&id) }.boxed()
    }

    fn make_room<'a>(&'a self, network: &'a Name, ask: &'a Connect) -> Answer<'a, ()> {
        self.engine(|reply| EngineRequest::MakeRoom(network.clone(), Box::new(ask.clone()), reply)).boxed()
    }

    fn clear<'a>(&'a self, network: &'a Name) -> Answer<'a, ()> {
        self.engine(|reply| EngineRequest::Clear(network.clone(), reply)).boxed()
    }

    fn moved(&self, id: Id, to: Netns) -> Answer<'_, ()> {
        self.engine(|reply| EngineRequest::Moved(id, to, reply)).boxed()
    }

    fn publish(&self, id: Id, publish: Vec<Publish>) -> Answer<'_, ()> {
        self.engine(|reply| EngineRequest::Publish(id, publish, reply)).boxed()
    }

    fn choose_subnet(&self, driver: Driver, family: Family, held: Vec<IpNet>) -> Answer<'_, IpNet> {
        async move {
            let mut state = self.snapshot().state.clone();
            state.observe(sight::host(&state).await?);
            Ok(state.choose_subnet(driver, family, &held).map_err(NetworkError::from)?)
        }
        .boxed()
    }

    fn choose_address(&self, subnet: SubnetSpec, held: Vec<IpAddr>) -> Answer<'_, IpAddr> {
        async move { Ok(self.snapshot().state.choose_address(&subnet, &held)?) }.boxed()
    }

    fn adopted(&self, id: Id) -> Answer<'_, Option<Name>> {
        async move { Ok(self.snapshot().adopted.get(&id).cloned()) }.boxed()
    }

    fn adopt(&self, id: Id, network: Option<Name>) -> Answer<'_, ()> {
        self.engine(|reply| EngineRequest::Adopt(id, network, reply)).boxed()
    }
}
