//! Which endpoints serve, of this host and of others: an index, made once where many services are looked at.
//!
//! Both kinds are [`Backend`]s and are told apart only by their host. An endpoint of another host says itself which services it
//! serves and whether it passes their checks, for only its own host can try that; whether it gets new connections follows here from
//! all of them.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use vswitch::addr::MacAddr;

use super::State;
use vswitch_model::{EndpointSpec, Id, Name, ServiceSpec};

/// An endpoint of another host that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteBackend {
    /// Its id.
    pub id: Id,
    /// Its name, unique on its host.
    pub name: Name,
    /// Its host.
    pub host: Name,
    /// Whether that is there.
    pub is_there: bool,
    /// Its station.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it passes the check, as its host has found out.
    pub passes: bool,
}

/// An endpoint that serves, as one service sees it.
#[derive(Clone, Debug)]
pub(crate) struct Backend<'s> {
    /// Where it is.
    pub(crate) place: Place<'s>,
    /// Whether its service lets it have new connections at all.
    pub(crate) is_wanted: bool,
    /// Whether it passes the check, and its host is there.
    pub(crate) passes: bool,
    /// Whether it gets new connections: one that passes, or any if none does, for one that only seems not to serve is better than none.
    pub(crate) is_ready: bool,
}

/// Where a backend is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'s> {
    /// On this host.
    Here(&'s Arc<EndpointSpec>),
    /// On another.
    Elsewhere(&'s RemoteBackend),
}

impl<'s> Backend<'s> {
    /// Its endpoint, if it is on this host.
    pub(crate) fn here(&self) -> Option<&'s Arc<EndpointSpec>> {
        match self.place {
            Place::Here(endpoint) => Some(endpoint),
            Place::Elsewhere(_) => None,
        }
    }

    pub(crate) fn id(&self) -> &'s Id {
        match self.place {
            Place::Here(it) => &it.id,
            Place::Elsewhere(it) => &it.id,
        }
    }

    pub(crate) fn name(&self) -> &'s Name {
        match self.place {
            Place::Here(it) => &it.name,
            Place::Elsewhere(it) => &it.name,
        }
    }

    /// The other host that it is on.
    pub(crate) fn host(&self) -> Option<&'s Name> {
        match self.place {
            Place::Here(_) => None,
            Place::Elsewhere(it) => Some(&it.host),
        }
    }

    pub(crate) fn mac(&self) -> MacAddr {
        match self.place {
            Place::Here(it) => it.mac,
            Place::Elsewhere(it) => it.mac,
        }
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        match self.place {
            Place::Here(it) => it.addresses.iter().map(IpNet::addr).collect(),
            Place::Elsewhere(it) => it.addresses.clone(),
        }
    }

    /// Its address of the same family.
    pub(crate) fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        let is_like = |it: &IpAddr| it.is_ipv4() == other.is_ipv4();
        match self.place {
            Place::Here(it) => it.addresses.iter().map(IpNet::addr).find(is_like),
            Place::Elsewhere(it) => it.addresses.iter().copied().find(is_like),
        }
    }
}

/// The endpoints of each service, by the name of the service; theirs by name.
#[derive(Debug, Default)]
pub(crate) struct Serving<'s> {
    services: HashMap<&'s Name, Vec<Backend<'s>>>,
}

impl<'s> Serving<'s> {
    /// The endpoints of a service.
    pub(crate) fn of(&self, service: &Name) -> &[Backend<'s>] {
        self.services.get(service).map_or(&[], Vec::as_slice)
    }

    /// By endpoint of this host, the services that it serves.
    pub(crate) fn by_endpoint(&self) -> HashMap<&'s Id, Vec<(&'s Name, &Backend<'s>)>> {
        let mut all: HashMap<&Id, Vec<_>> = HashMap::new();
        for (service, backends) in &self.services {
            for backend in backends.iter().filter(|it| it.here().is_some()) {
                all.entry(backend.id()).or_default().push((*service, backend));
            }
        }
        all.values_mut().for_each(|services| services.sort_by_key(|(name, _)| *name));
        all
    }
}

impl State {
    /// Which endpoints serve, for all services.
    pub(crate) fn serving(&self) -> Serving<'_> {
        self.index(|_| true)
    }

    /// The endpoints that serve, by name.
    pub(crate) fn backends<'s>(&'s self, service: &ServiceSpec) -> Vec<Backend<'s>> {
        let mut serving = self.index(|it| it.name == service.name);
        serving.services.remove(&service.name).unwrap_or_default()
    }

    fn index(&self, is_meant: impl Fn(&ServiceSpec) -> bool) -> Serving<'_> {
        let mut services: HashMap<&Name, (&ServiceSpec, Vec<Backend<'_>>)> = HashMap::new();
        // By network and one label of the selector.
        let mut selectors: BTreeMap<(&Name, &String, &String), Vec<&Name>> = BTreeMap::new();
        for spec in self.services.entries().map(|entry| &*entry.spec).filter(|it| is_meant(it)) {
            services.insert(&spec.name, (spec, Vec::new()));
            if let Some((key, value)) = spec.selector.first_key_value() {
                selectors.entry((&spec.network, key, value)).or_default().push(&spec.name);
            }
        }
        if services.is_empty() {
            return Serving::default();
        }
        for endpoint in self.endpoints() {
            let labels = endpoint.labels.iter().map(|(key, value)| (&endpoint.network, key, value));
            let selected = labels.filter_map(|label| selectors.get(&label)).flatten().copied();
            let mut names: Vec<&Name> = endpoint.services.iter().chain(selected).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                if let Some((spec, backends)) = services.get_mut(name).filter(|(spec, _)| spec.has(endpoint))
                {
                    backends.push(Backend {
                        place: Place::Here(endpoint),
                        is_wanted: !spec.drain.contains(&endpoint.name),
                        passes: self.passes(spec, endpoint),
                        is_ready: false,
                    });
                }
            }
        }
        for (name, remote) in &self.membership.backends {
            let Some((spec, backends)) = services.get_mut(name) else { continue };
            backends.extend(remote.iter().map(|it| Backend {
                place: Place::Elsewhere(it),
                is_wanted: !spec.drain.contains(&it.name),
                passes: it.passes && it.is_there,
                is_ready: false,
            }));
        }
        let settled = services.into_iter().map(|(name, (_, mut backends))| {
            let any_passes = backends.iter().any(|it| it.is_wanted && it.passes);
            for backend in &mut backends {
                backend.is_ready = backend.is_wanted && (backend.passes || !any_passes);
            }
            backends.sort_by_key(|it| (it.name(), it.host()));
            (name, backends)
        });
        Serving { services: settled.collect() }
    }
}
