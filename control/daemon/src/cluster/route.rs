//! Which requests go to the cluster first: those that create, change or use a global network.
//!
//! All clients take this way: the API, and Docker's plugin.

use std::sync::Arc;

use jiff::Timestamp;
use vswitch_cluster::core::Ask;
use vswitch_model::{
    Connect, Driver, Error, ErrorKind, Id, Name, NetworkSpec, NetworkUpdate, Reference, Vni,
    api::{Prune, Pruned},
    ipam::Holder,
    is_predefined, options,
};

use super::Call;
use crate::{
    core::{Handle, Request},
    sight,
    state::{NetworkError, Origin},
    view::Snapshot,
};

/// A value, and the snapshot in which its effect is visible.
pub(crate) struct Routed<T> {
    pub(crate) value: T,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Handle {
    /// Creates a network: in a cluster an overlay for all hosts, anything else for this one. A network of a swarm is created on each
    /// host by its engine.
    ///
    /// # Errors
    /// It is refused, or the cluster's store is needed and lost.
    pub(crate) async fn add_network(&self, mut spec: NetworkSpec) -> Result<Routed<Name>, Error> {
        if !self.cluster().is_member() || spec.driver() != Driver::Overlay || spec.swarm {
            let done = self.ask(|reply| Request::AddNetwork(Box::new(spec), reply)).await?;
            return Ok(Routed { value: done.value, snapshot: done.snapshot });
        }
        let name = spec.name.clone();
        if is_predefined(name.as_str()) {
            return Err(NetworkError::Predefined(name.into()).into());
        }
        let state = &self.snapshot().state;
        if state.network(&name).is_some_and(|it| it.origin != Origin::Cluster) {
            return Err(NetworkError::Exists(name).into());
        }
        options::absorb(&mut spec).map_err(NetworkError::from)?;
        let own = || state.networks().filter(|it| it.origin != Origin::Cluster);
        let subnets = |it: &NetworkSpec| {
            let holder = |net| Some(Holder::Network(it.name.clone(), net));
            it.subnets.iter().map(|it| (it.subnet, holder(it.subnet))).collect::<Vec<_>>()
        };
        let mut avoid: Vec<_> = own().flat_map(|it| subnets(&it.spec)).collect();
        let host = sight::host(state).await?;
        // The halves of a default route lead everywhere, and say nothing about where.
        let routes = host.routes.into_iter().filter(|route| route.to.prefix_len() > 1);
        avoid.extend(routes.map(|route| (route.to, Some(Holder::Route(route.to, route.ifname)))));
        avoid.extend(host.nameservers.into_iter().map(|address| (address.into(), None)));
        let taken = own().filter_map(|it| it.spec.vni).map(Vni::as_u32).collect();
        if spec.id.is_none() {
            spec.id = Some(vswitch_host::random::id()?);
        }
        spec.created = Some(Timestamp::now());
        let ask = Ask::CreateNetwork { spec: Box::new(spec), avoid, taken };
        self.cluster().call(|reply| Call::Ask(ask, reply)).await?;
        self.log(format_args!("global network {name} created"));
        Ok(Routed { value: name, snapshot: self.snapshot() })
    }

    /// Changes a network while containers stay connected.
    ///
    /// # Errors
    /// It is refused, or the cluster's store is needed and lost.
    pub(crate) async fn update_network(
        &self,
        network: Reference,
        update: NetworkUpdate,
    ) -> Result<Routed<Name>, Error> {
        let Some(spec) = self.global(&network).await else {
            let done = self.ask(|reply| Request::UpdateNetwork(network, Box::new(update), reply)).await?;
            return Ok(Routed { value: done.value, snapshot: done.snapshot });
        };
        let name = spec.name.clone();
        let new = self.snapshot().state.updated_network(&name, update)?;
        self.cluster().call(|reply| Call::Ask(Ask::UpdateNetwork(Box::new(new)), reply)).await?;
        Ok(Routed { value: name, snapshot: self.snapshot() })
    }

    /// Deletes a network that no endpoint uses, in a cluster on no host.
    ///
    /// # Errors
    /// It is used, or the cluster's store is needed and lost.
    pub(crate) async fn delete_network(&self, network: Reference) -> Result<(), Error> {
        let Some(spec) = self.global(&network).await else {
            return self.ask(|reply| Request::DeleteNetwork(network, reply)).await.map(drop);
        };
        self.delete_global(&spec).await
    }

    async fn delete_global(&self, spec: &NetworkSpec) -> Result<(), Error> {
        self.snapshot().state.check_unused(&spec.name)?;
        let id = spec.id();
        self.cluster().call(|reply| Call::Ask(Ask::RemoveNetwork(id), reply)).await?;
        self.log(format_args!("global network {} removed", spec.name));
        Ok(())
    }

    /// Deletes the unused networks of the API, and those of the cluster that no host uses.
    ///
    /// # Errors
    /// One cannot be removed.
    pub(crate) async fn prune_networks(&self, prune: Prune) -> Result<Pruned, Error> {
        let mut pruned = self.ask(|reply| Request::Prune(prune.clone(), reply)).await?.value;
        if !self.cluster().is_member() {
            return Ok(pruned);
        }
        let snapshot = self.snapshot();
        let globals = snapshot.state.networks().filter(|it| it.origin == Origin::Cluster);
        for spec in globals.map(|it| it.spec).filter(|it| prune.wants(it)) {
            match self.delete_global(&spec).await {
                Ok(()) => pruned.networks.push(spec.name.clone()),
                // It is in use, here or elsewhere.
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }

    /// Connects a sandbox to a network, after this host has addresses of it to assign.
    ///
    /// # Errors
    /// It is refused, or no address is left and the cluster's store is lost.
    pub(crate) async fn connect(&self, network: Reference, connect: Connect) -> Result<Routed<Id>, Error> {
        self.reserve(&network, &connect).await?;
        self.meet_services(&connect.services).await;
        let done = self.ask(|reply| Request::Connect(network, Box::new(connect), reply)).await?;
        Ok(Routed { value: done.value, snapshot: done.snapshot })
    }

    /// Sees to it that this host has addresses to assign, if the network is the cluster's.
    ///
    /// # Errors
    /// None is left, and the cluster's store is lost.
    pub(crate) async fn reserve(&self, network: &Reference, connect: &Connect) -> Result<(), Error> {
        match self.global(network).await {
            Some(spec) => self.cluster().reserve(&spec, connect).await,
            None => Ok(()),
        }
    }

    /// Waits for services that another host has created a moment ago.
    async fn meet_services(&self, services: &[Name]) {
        let state = &self.snapshot().state;
        let unknown: Vec<_> = services.iter().filter(|it| state.service(it).is_none()).cloned().collect();
        if self.cluster().is_member() {
            self.cluster().meet_services(&unknown).await;
        }
    }

    /// The global network of a reference.
    pub(super) async fn global(&self, network: &Reference) -> Option<Arc<NetworkSpec>> {
        if !self.cluster().is_member() {
            return None;
        }
        if self.snapshot().state.find_network(network).is_err() {
            self.cluster().meet(network).await;
        }
        self.cluster().find(network).await
    }
}
