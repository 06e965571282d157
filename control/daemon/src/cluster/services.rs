//! Services of the cluster, between the store and the switch: who serves here, and who elsewhere.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use vswitch_cluster::{
    core::{Ask, Cluster, Host, Standing},
    keys::Key,
    record::{Availability, Endpoint},
};
use vswitch_model::{
    Connect, EndpointMode, Error, Id, Name, NetworkSpec, Reference, ServiceSpec, ServiceUpdate,
};
use vswitch_names::Record;

use super::{Call, Client, folder::Member, route::Routed};
use crate::{
    core::{Handle, Request},
    names,
    state::{Command, Origin, RemoteBackend, State},
};

/// By endpoint of this host, the services that it serves, and whether it passes their checks.
pub(super) fn served(state: &State) -> HashMap<&Id, BTreeMap<Name, bool>> {
    let serving = state.serving();
    let of_endpoint = |(id, services): (_, Vec<(&Name, &crate::state::Backend<'_>)>)| {
        let services = services.into_iter().map(|(name, backend)| (name.clone(), backend.passes));
        (id, services.collect())
    };
    serving.by_endpoint().into_iter().map(of_endpoint).collect()
}

/// Whether the endpoints of a host are answered for: others are left out while a name or a service has ready ones.
pub(super) fn is_ready(host: &Host) -> bool {
    host.standing == Standing::Ready && host.node.availability == Availability::Active
}

/// By service, its endpoints on other hosts.
pub(super) fn backends(member: &Member, cluster: &Cluster) -> BTreeMap<Name, Vec<RemoteBackend>> {
    let mut backends: BTreeMap<Name, Vec<RemoteBackend>> = BTreeMap::new();
    let networks: HashSet<&Name> = cluster.services().map(|it| &it.network).collect();
    if networks.is_empty() {
        return backends;
    }
    let ready: HashSet<Name> = cluster.hosts().into_iter().filter(is_ready).map(|it| it.name).collect();
    for network in cluster.networks().filter(|it| networks.contains(&it.name)) {
        let endpoints = cluster.mirror().endpoints((&network.id()).into());
        let others = endpoints.map(|(it, _)| it).filter(|it| it.host != member.name);
        for endpoint in others {
            for (service, passes) in &endpoint.serves {
                backends.entry(service.clone()).or_default().push(RemoteBackend {
                    id: endpoint.id.clone(),
                    name: endpoint.name.clone(),
                    host: endpoint.host.clone(),
                    is_there: ready.contains(&endpoint.host),
                    mac: endpoint.mac,
                    addresses: endpoint.ips.clone(),
                    passes: *passes,
                });
            }
        }
    }
    backends
}

/// The modes of the services of a network.
pub(super) fn modes(cluster: &Cluster, network: &NetworkSpec) -> HashMap<Name, EndpointMode> {
    let of_network = cluster.services().filter(|it| it.network == network.name);
    of_network.map(|it| (it.name.clone(), it.mode)).collect()
}

/// Adds the names that an endpoint of another host has by serving.
pub(super) fn name(endpoint: &Endpoint, modes: &HashMap<Name, EndpointMode>, record: &mut Record) {
    for (service, passes) in &endpoint.serves {
        if let Some(mode) = modes.get(service) {
            names::serve(service, *mode, *passes, record);
        }
    }
}

impl Client {
    /// Waits until this host knows services that another host has just created.
    pub(crate) async fn meet_services(&self, services: &[Name]) {
        for service in services {
            let key = Key::ServiceName(service.clone());
            let found = self.call(|reply| Call::Revision(vec![key], reply)).await;
            if let Ok(Some(revision)) = found {
                let _ = self.call(|reply| Call::Ask(Ask::Reach(revision), reply)).await;
            }
        }
    }
}

impl Handle {
    /// Creates a service, of a global network for all hosts.
    ///
    /// # Errors
    /// It is refused, or the cluster's store is needed and lost.
    pub(crate) async fn add_service(&self, mut spec: ServiceSpec) -> Result<Routed<Name>, Error> {
        let (name, now) = (spec.name.clone(), Timestamp::now());
        spec.created = Some(now);
        let network: Reference = spec.network.clone().into();
        let Some(global) = self.global(&network).await else {
            let done = self.execute(Command::AddService { spec, now }).await?;
            return Ok(Routed { value: name, snapshot: done.snapshot });
        };
        self.snapshot().state.check_new_service(&spec)?;
        if spec.mode == EndpointMode::Vip {
            let mut asked = Connect::default();
            for address in &spec.address {
                match address {
                    std::net::IpAddr::V4(address) => asked.ip = Some(*address),
                    std::net::IpAddr::V6(address) => asked.ip6 = Some(*address),
                }
            }
            self.cluster().reserve(&global, &asked).await?;
        }
        let spec = self.ask(|reply| Request::PrepareService(Box::new(spec), reply)).await?.value;
        self.cluster().call(|reply| Call::Ask(Ask::CreateService(Box::new(spec)), reply)).await?;
        self.log(format_args!("service {name} created for all hosts"));
        Ok(Routed { value: name, snapshot: self.snapshot() })
    }

    /// Changes a service while its clients stay connected.
    ///
    /// # Errors
    /// It is refused, or the cluster's store is needed and lost.
    pub(crate) async fn update_service(
        &self,
        name: Name,
        update: ServiceUpdate,
    ) -> Result<Routed<Name>, Error> {
        if !self.is_global_service(&name).await {
            let done = self.execute(Command::UpdateService { name: name.clone(), update }).await?;
            return Ok(Routed { value: name, snapshot: done.snapshot });
        }
        let new = self.snapshot().state.updated_service(&name, update)?;
        self.cluster().call(|reply| Call::Ask(Ask::UpdateService(Box::new(new)), reply)).await?;
        Ok(Routed { value: name, snapshot: self.snapshot() })
    }

    /// Removes a service; its endpoints stay.
    ///
    /// # Errors
    /// There is none, or the cluster's store is needed and lost.
    pub(crate) async fn delete_service(&self, name: Name) -> Result<(), Error> {
        if !self.is_global_service(&name).await {
            return self.execute(Command::RemoveService { name, now: Timestamp::now() }).await.map(drop);
        }
        self.cluster().call(|reply| Call::Ask(Ask::RemoveService(name.clone()), reply)).await?;
        self.log(format_args!("service {name} removed on all hosts"));
        Ok(())
    }

    /// Whether a service is one of the cluster's; that another host has created it a moment ago is waited for.
    async fn is_global_service(&self, name: &Name) -> bool {
        if !self.cluster().is_member() {
            return false;
        }
        if self.snapshot().state.service(name).is_none() {
            self.cluster().meet_services(std::slice::from_ref(name)).await;
        }
        self.snapshot().state.service(name).is_some_and(|it| it.origin == Origin::Cluster)
    }
}

/// The services of the cluster.
pub(super) fn all(cluster: &Cluster) -> Vec<Arc<ServiceSpec>> {
    cluster.services().cloned().collect()
}
