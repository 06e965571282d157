//! Services as the workers see them: made of the state with each plan, and the flows that outlive plans.
//!
//! Flows are kept in files beside the API's socket, one for each port that may have clients, so that connections through services
//! go on when the daemon has been killed and started again. Where there is no room for a file, they live as long as the process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::warn;
use vswitch::{
    addr::{NetworkId, PortId, Timestamp},
    balance::{Backend, Balance, Client, Flows, Gateways, Mark, STATION, Service},
    fdb::Origin,
    topology::{PortMode, PortRules},
};

use super::Edge;
use crate::state::{self, Layout, State};
use vswitch_host::{kept::Kept, random};
use vswitch_model::{EndpointMode, Id, Name, NetworkSpec, ServiceSpec};

/// The most flows of a port: 4.7 MB, of which it takes what is used.
const FLOWS: usize = 65_536;

/// What is kept from plan to plan.
#[derive(Debug, Default)]
pub(super) struct Balancing {
    pub(super) current: Arc<Balance>,
    /// The flows of each port, with its name: a number is used again.
    clients: BTreeMap<PortId, (Name, Arc<Client>)>,
    /// By service and endpoint, since when it is drained.
    draining: HashMap<(Name, Id), Timestamp>,
    /// The networks in which the services' station is pinned.
    pinned: BTreeSet<NetworkId>,
    /// Where flows are kept; `None`: in memory.
    folder: Option<PathBuf>,
    /// Whether files of ports that are gone were removed.
    is_swept: bool,
}

/// The folder of flows that live as long as the host: the API's socket with `.flows` appended.
pub(crate) fn folder(api: &Path) -> PathBuf {
    let mut path = api.as_os_str().to_owned();
    path.push(".flows");
    path.into()
}

impl Balancing {
    /// Keeps flows in this folder, which is made with the first of them.
    pub(super) fn keep_in(&mut self, folder: PathBuf) {
        self.folder = Some(folder);
    }

    /// Forgets all flows, if nothing is to be left.
    pub(super) fn clear(&mut self) {
        self.clients.clear();
        if let Some(folder) = self.folder.take() {
            let _ = fs::remove_dir_all(folder);
        }
    }

    fn make_folder(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)
    }

    fn file(&self, port: &Name) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(port.as_str()))
    }

    /// The flows of a port.
    fn open(&self, port: &Name, now: Timestamp) -> io::Result<Client> {
        let words = Flows::words(FLOWS);
        let kept =
            self.file(port).map(|path| (self.make_folder().and_then(|()| Kept::open(&path, words)), path));
        let kept = match kept {
            Some((Ok(kept), _)) => kept,
            Some((Err(error), path)) => {
                warn!(
                    "{}: {error}: connections of {port} through services end with the daemon",
                    path.display()
                );
                // What it has is old by the next start, and takes room.
                let _ = fs::remove_file(path);
                Kept::anonymous(words)?
            }
            None => Kept::anonymous(words)?,
        };
        let seed = u64::from_ne_bytes(random::bytes()?);
        Ok(Client::new(Flows::new(Box::new(kept), seed, now)))
    }

    /// When the connections of each backend are over: of those that are drained, if the service says so.
    fn drain(
        &mut self,
        spec: &ServiceSpec,
        backends: &[state::Backend<'_>],
        now: Timestamp,
    ) -> Vec<Option<Timestamp>> {
        if spec.drain.is_empty() && self.draining.is_empty() {
            return Vec::new();
        }
        let ends = backends.iter().map(|backend| {
            let key = (spec.name.clone(), backend.id().clone());
            if backend.is_wanted {
                self.draining.remove(&key);
                return None;
            }
            let since = *self.draining.entry(key).or_insert(now);
            let time = u64::from(spec.drain_time?) * 1_000;
            Some(Timestamp::from_millis(since.as_millis() + time))
        });
        ends.collect()
    }

    /// Removes the files of ports that have no clients any more.
    fn sweep(&mut self) {
        let Some(folder) = self.folder.as_ref().filter(|_| !self.is_swept) else { return };
        let names: BTreeSet<&str> = self.clients.values().map(|(name, _)| name.as_str()).collect();
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            if file.file_name().to_str().is_none_or(|name| !names.contains(name)) {
                let _ = fs::remove_file(file.path());
            }
        }
        self.is_swept = true;
    }
}

impl Edge {
    /// The services of `state`, with what can be shared of those before.
    pub(super) fn balance(&mut self, state: &State, layout: &Layout) -> Arc<Balance> {
        let mut balance = Balance::default();
        if state.services().next().is_none() && self.balancing.clients.is_empty() {
            // A thousand ports are not looked through for what hosts without services have not.
            self.balancing.sweep();
            self.balancing.draining.clear();
            self.balancing.current = Arc::new(balance);
            return Arc::clone(&self.balancing.current);
        }
        let (mut networks, now) = (BTreeSet::new(), self.workers.now());
        let (serving, mut has_remote) = (state.serving(), false);
        let ports: HashMap<Name, PortId> =
            state.ports().map(|port| (port.spec.name.clone(), port.id)).collect();
        for service in state.services() {
            let spec = &*service.spec;
            let Some(network) = state.network(&spec.network).filter(|_| spec.mode == EndpointMode::Vip)
            else {
                continue;
            };
            networks.insert(network.id);
            let backends = serving.of(&spec.name);
            for backend in backends {
                match backend.here() {
                    Some(endpoint) => balance.serve_at(ports.get(&endpoint.port)),
                    None => has_remote = true,
                }
            }
            let ends = self.balancing.drain(spec, backends, now);
            for address in &spec.address {
                let before = self.balancing.current.services.get(&(network.id, *address));
                let service = service_at(spec, *address, backends, &ends, before);
                balance.services.insert((network.id, *address), service);
            }
        }
        let is_served = |service: &Name| state.service(service).is_some();
        self.balancing.draining.retain(|(service, _), _| is_served(service));
        if has_remote {
            let peers = state.ports().filter(|port| port.spec.device.peer().is_some());
            peers.for_each(|port| balance.serve_at(Some(&port.id)));
        }
        for network in state.networks().filter(|it| networks.contains(&it.id)) {
            let marks = &mut balance.marks;
            marks.resize(marks.len().max(network.id.index() + 1), Mark::default());
            marks[network.id.index()] = mark(&network.spec);
            if let Some((own, others)) = state.gateways_of(&network.spec) {
                balance.gateways.insert(network.id, Gateways { own, others: others.into() });
            }
        }
        balance.clients = self.clients(state, layout, &networks);
        self.balancing.current = Arc::new(balance);
        Arc::clone(&self.balancing.current)
    }

    /// The flows of the ports that clients of services in these networks may be behind, by port number.
    fn clients(
        &mut self,
        state: &State,
        layout: &Layout,
        networks: &BTreeSet<NetworkId>,
    ) -> Vec<Option<Arc<Client>>> {
        let now = self.workers.now();
        let may_have = |rules: &&PortRules| match &rules.mode {
            PortMode::Access(network) => networks.contains(network),
            PortMode::Trunk { tagged, native } => tagged.iter().chain(native).any(|it| networks.contains(it)),
            PortMode::Tunnel(_) | PortMode::Mirror => false,
        };
        let names: HashMap<PortId, Name> =
            state.ports().map(|port| (port.id, port.spec.name.clone())).collect();
        let mut clients = Vec::new();
        for rules in layout.ports.iter().filter(may_have) {
            let Some(name) = names.get(&rules.id) else { continue };
            let known = self.balancing.clients.get(&rules.id).filter(|(known, _)| known == name);
            let client = match known {
                Some((_, client)) => Arc::clone(client),
                None => match self.balancing.open(name, now) {
                    Ok(client) => Arc::new(client),
                    Err(error) => {
                        warn!(port = %name, "its clients reach no services: {error}");
                        continue;
                    }
                },
            };
            self.balancing.clients.insert(rules.id, (name.clone(), Arc::clone(&client)));
            clients.resize(clients.len().max(rules.id.index() + 1), None);
            clients[rules.id.index()] = Some(client);
        }
        // A port that is down for a while keeps its flows.
        let is_gone = |id: &PortId, name: &Name| names.get(id) != Some(name) || networks.is_empty();
        let gone: Vec<_> = self
            .balancing
            .clients
            .iter()
            .filter(|(id, (name, _))| is_gone(id, name))
            .map(|(id, (name, _))| (*id, name.clone()))
            .collect();
        for (id, name) in gone {
            self.balancing.clients.remove(&id);
            if let Some(path) = self.balancing.file(&name).filter(|_| !names.values().any(|it| *it == name)) {
                let _ = fs::remove_file(path);
            }
        }
        self.balancing.sweep();
        clients
    }

    /// Pins the services' station where there are some, and nowhere else.
    pub(super) fn pin_services(&mut self) {
        let wanted: BTreeSet<_> =
            self.balancing.current.services.keys().map(|(network, _)| *network).collect();
        for network in self.balancing.pinned.difference(&wanted) {
            self.fdb.unpin(*network, STATION, Origin::Control);
        }
        for network in &wanted {
            // Again with each plan, since a removed network takes the pins of its number along.
            if !self.fdb.pin(*network, STATION, PortId::SERVICES, Origin::Control, self.workers.now()) {
                warn!(
                    "services are not reached: {STATION} is pinned by command, or the table is full of pinned addresses"
                );
            }
        }
        self.balancing.pinned = wanted;
    }
}

/// What the flows of a network are known by: the first digits of its id, which outlives its number.
fn mark(network: &NetworkSpec) -> Mark {
    let id = network.id();
    Mark(id.as_str().get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok()).unwrap_or_default())
}

/// A service at one of its addresses: the one of the plan before, if nothing about it differs.
fn service_at(
    spec: &ServiceSpec,
    address: IpAddr,
    backends: &[state::Backend<'_>],
    ends: &[Option<Timestamp>],
    before: Option<&Arc<Service>>,
) -> Arc<Service> {
    let before_at = |address: IpAddr| {
        let backends = before?.backends();
        let place = backends.binary_search_by_key(&address, |it| it.address).ok()?;
        Some(&backends[place])
    };
    let ends = ends.iter().copied().chain(std::iter::repeat(None));
    let backend = |(backend, ends): (&state::Backend<'_>, Option<Timestamp>)| {
        let own = backend.address_like(address)?;
        Some(Backend {
            address: own,
            mac: backend.mac(),
            is_ready: backend.is_ready,
            ends,
            given: before_at(own).map(|it| Arc::clone(&it.given)).unwrap_or_default(),
        })
    };
    let backends: Vec<_> = backends.iter().zip(ends).filter_map(backend).collect();
    let is_known = |one: &Backend| {
        let facts = |it: &Backend| (it.address, it.mac, it.is_ready, it.ends);
        let same = |other: &Backend| facts(one) == facts(other);
        before_at(one.address).is_some_and(same)
    };
    let affinity = spec.affinity.into();
    let is_unchanged = |before: &&Arc<Service>| {
        before.affinity() == affinity
            && backends.len() == before.backends().len()
            && backends.iter().all(is_known)
    };
    match before.filter(is_unchanged) {
        Some(before) => Arc::clone(before),
        None => Arc::new(Service::new(address, affinity, backends)),
    }
}
