//! A run as a member: carries out what the core of the membership puts out, and brings it what happens.
//!
//! Each call of the store is a task of its own that sends its outcome back; the core decides when there is one. What the copy
//! says is given to the switch as one [`Membership`], and to each network as its directory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Unit;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};
use vswitch_cluster::{
    core::{Ask, AskId, Cluster, Event, Input, Output, Standing, TTL},
    keys::{Key, Short},
    record::{Availability, Endpoint},
    store::{Revision, Store, Watch, etcd::Etcd},
};
use vswitch_model::{
    Error, Id, Name, NetworkSpec,
    api::{
        cluster as api,
        directory::{Directory, DirectoryUpdate, Station, Withdrawal},
        events::What,
    },
};
use vswitch_names::Record;

use super::{
    Reply,
    folder::{Folder, Member},
    services,
};
use crate::{
    core::{Handle, Request},
    directory::DirectoryChange,
    names,
    state::{Membership, PeerHost},
};

/// How often the core is told that time has passed.
const TICK: Duration = Duration::from_millis(100);

/// Least pause between two writes of the copy to the disk.
const KEEPING: Duration = Duration::from_secs(2);

/// Silence of a peer's tunnel below which it counts as heard.
const HEARD: u64 = 10_000;

/// Interval at which a host without its store makes itself heard through the tunnel: some are lost before [`HEARD`] is over.
const ANNOUNCING: Duration = Duration::from_secs(3);

/// A run as a member.
pub(super) struct Session {
    pub(super) member: Member,
    pub(super) folder: Folder,
    core: Handle,
    cluster: Cluster,
    store: Etcd,
    started: Instant,
    inputs: mpsc::UnboundedSender<Input>,
    pub(super) queue: mpsc::UnboundedReceiver<Input>,
    watch: Option<JoinHandle<()>>,
    waiting: HashMap<AskId, Reply<()>>,
    next_ask: AskId,
    /// Answers that are given when their effect is visible.
    ready: Vec<(Reply<()>, Result<(), Error>)>,
    /// Whether the switch may have something else than the copy says.
    dirty: bool,
    given: Arc<Membership>,
    /// By network, the directory that the switch has.
    directories: BTreeMap<Name, Directory>,
    /// By network, the names of other hosts' endpoints that are answered.
    names: BTreeMap<Name, Arc<[Record]>>,
    /// The networks whose directories and names may have changed; `None`: all.
    redirect: Option<BTreeSet<Short>>,
    /// Whether the copy on the disk is old, and when it was written.
    stale: bool,
    kept: Instant,
    /// When this host has made itself heard, while the store is lost.
    announced: Instant,
    endpoints: Vec<(Id, Endpoint)>,
    /// Why the switch does not take what the cluster says.
    trouble: Option<String>,
    pub(super) tick: tokio::time::Interval,
}

impl Session {
    /// Begins a run with a core that may have a copy from an earlier one.
    ///
    /// # Errors
    /// The way to the store cannot be used: a sentence.
    pub(super) fn new(member: Member, folder: Folder, core: Handle, cluster: Cluster) -> Result<Self, Error> {
        let store = Etcd::new(&member.access()).map_err(Error::unavailable)?;
        let (inputs, queue) = mpsc::unbounded_channel();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            member,
            folder,
            core,
            cluster,
            store,
            started: Instant::now(),
            inputs,
            queue,
            watch: None,
            waiting: HashMap::new(),
            next_ask: 0,
            ready: Vec::new(),
            dirty: true,
            given: Arc::default(),
            directories: BTreeMap::new(),
            names: BTreeMap::new(),
            redirect: None,
            stale: false,
            kept: Instant::now(),
            announced: Instant::now(),
            endpoints: Vec::new(),
            trouble: None,
            tick,
        })
    }

    /// The time of the core.
    fn now(&self) -> Duration {
        // The first second is for what happened before.
        self.started.elapsed() + Duration::from_secs(1)
    }

    /// Asks for something that needs the cluster's agreement.
    pub(super) fn ask(&mut self, ask: Ask, reply: Reply<()>) {
        self.next_ask += 1;
        self.waiting.insert(self.next_ask, reply);
        self.feed(Input::Asked(self.next_ask, ask));
    }

    /// Looks in the store for one of these keys, which are not in the copy.
    pub(super) fn look_up(&self, keys: &[Key], reply: Reply<Option<Revision>>) {
        if !self.cluster.is_following() {
            return drop(reply.send(Ok(None)));
        }
        let keys: Vec<String> = keys.iter().map(|key| self.cluster.mirror().full(key)).collect();
        let store = self.store.clone();
        tokio::spawn(async move {
            for key in keys {
                // The listing is of all keys that begin with it.
                let entries = store.list(&key).await.map(|listing| listing.entries).unwrap_or_default();
                if let Some(entry) = entries.into_iter().find(|it| it.key == key) {
                    return drop(reply.send(Ok(Some(entry.modified))));
                }
            }
            let _ = reply.send(Ok(None));
        });
    }

    /// Reads the certificates again. Calls that are under way end by the old ones.
    pub(super) fn reconnect(&mut self) {
        match Etcd::new(&self.member.access()) {
            Ok(store) => self.store = store,
            Err(error) => warn!("the way to the store stays as it was: {error}"),
        }
    }

    /// Brings the core an input, and begins what it puts out.
    pub(super) fn feed(&mut self, input: Input) {
        for output in self.cluster.step(input, self.now()) {
            self.perform(output);
        }
    }

    /// Takes in everything that waits, then gives the switch what has changed.
    pub(super) async fn take(&mut self, first: Input) {
        self.feed(first);
        while let Ok(input) = self.queue.try_recv() {
            self.feed(input);
        }
        self.give().await;
    }

    fn perform(&mut self, output: Output) {
        let (store, inputs, prefix) = (self.store.clone(), self.inputs.clone(), self.member.prefix.clone());
        // The receiver lives as long as the session.
        let send = move |input| drop(inputs.send(input));
        match output {
            Output::List => {
                if let Some(watch) = self.watch.take() {
                    watch.abort();
                }
                // A certificate that was renewed may be what is lacking.
                if !self.cluster.is_following() && self.member.tls.is_some() {
                    self.reconnect();
                }
                let store = self.store.clone();
                tokio::spawn(async move { send(Input::Listed(store.list(&prefix).await)) });
            }
            Output::Watch(from) => {
                let follow = async move {
                    let mut watch = match store.watch(&prefix, from).await {
                        Ok(watch) => watch,
                        Err(error) => return send(Input::Ended(error)),
                    };
                    loop {
                        match watch.next().await {
                            Ok(batch) => send(Input::Heard(batch)),
                            Err(error) => return send(Input::Ended(error)),
                        }
                    }
                };
                self.watch = Some(tokio::spawn(follow));
            }
            Output::Transact(txn) => {
                tokio::spawn(async move { send(Input::Transacted(store.transact(txn).await)) });
            }
            Output::Grant => drop(tokio::spawn(async move { send(Input::Granted(store.grant(TTL).await)) })),
            Output::KeepAlive(lease) => {
                tokio::spawn(async move { send(Input::Kept(store.keep_alive(lease).await)) });
            }
            Output::Count(revision) => {
                tokio::spawn(async move {
                    send(Input::Counted(revision, store.census(&prefix, revision).await));
                });
            }
            Output::Changed(keys) => self.note(&keys),
            Output::Event(event) => self.tell(event),
            Output::Answer(id, result) => {
                if let Some(reply) = self.waiting.remove(&id) {
                    self.ready.push((reply, result.map_err(Error::from)));
                }
            }
        }
    }

    /// Notes what is to be given to the switch again.
    fn note(&mut self, keys: &[Key]) {
        self.stale = true;
        // Endpoints are backends as well.
        self.dirty |= !keys.is_empty() && self.cluster.services().next().is_some();
        for key in keys {
            match (key, &mut self.redirect) {
                // Endpoints are in directories only.
                (Key::Endpoint(network, _), Some(networks)) => drop(networks.insert(*network)),
                (Key::Endpoint(..), None) => {}
                _ => (self.dirty, self.redirect) = (true, None),
            }
        }
        if keys.is_empty() {
            // A host's standing, or what this host holds.
            (self.dirty, self.redirect) = (true, None);
        }
    }

    fn tell(&self, event: Event) {
        let what = match event {
            Event::StoreLost(why) => {
                warn!("the cluster's store is lost, and everything goes on without it: {why}");
                What::StoreLost { detail: why }
            }
            Event::StoreBack => {
                info!("the cluster's store is back");
                What::StoreBack
            }
            Event::Restored => {
                warn!("the cluster's store was restored from a backup: this host puts again what it has");
                What::StoreMended { detail: "the cluster's store was restored from a backup".into() }
            }
            Event::Mended(keys) => {
                warn!(keys, "the copy of the cluster's store differed from it, and was mended");
                What::StoreMended {
                    detail: format!("{keys} keys of the copy of the cluster's store differed"),
                }
            }
            Event::Host(host, standing) => {
                info!(%host, "{standing}");
                match standing {
                    Standing::Ready => What::NodeReady { node: host },
                    Standing::Suspect => What::NodeSuspect { node: host },
                    Standing::Down => What::NodeDown { node: host },
                }
            }
            Event::Conflict(why) => {
                warn!("{why}");
                What::AddressConflict { detail: why }
            }
            Event::Fenced(why) => {
                warn!("{why}");
                What::Fenced { detail: why }
            }
        };
        self.core.note(what);
    }

    /// Time has passed.
    pub(super) async fn ticked(&mut self) {
        self.look_at_endpoints();
        for name in self.heard() {
            self.feed(Input::Met(name));
        }
        self.feed(Input::Tick);
        self.give().await;
        if self.stale && self.kept.elapsed() >= KEEPING {
            self.keep().await;
        }
        if self.cluster.lost().is_some() && self.announced.elapsed() >= ANNOUNCING {
            self.announced = Instant::now();
            self.announce().await;
        }
    }

    /// Makes this host heard by those that share networks with it. An idle host that does not reach the store would else look
    /// like a dead one.
    async fn announce(&self) {
        let networks = self.networks().map(|network| network.name.clone()).collect();
        if let Err(error) = self.core.tell(|reply| Request::Announce(networks, reply)).await {
            debug!("not announced: {}", error.sentence);
        }
    }

    /// Writes the copy to the disk.
    pub(super) async fn keep(&mut self) {
        (self.stale, self.kept) = (false, Instant::now());
        let (folder, copy) = (self.folder.clone(), self.cluster.save());
        complain_of_disk(tokio::task::spawn_blocking(move || folder.keep_copy(&copy)).await);
    }

    /// Writes to the disk what the switch is about to get.
    async fn keep_plan(&self) {
        let (folder, plan) = (self.folder.clone(), self.cluster.save_plan());
        complain_of_disk(tokio::task::spawn_blocking(move || folder.keep_plan(&plan)).await);
    }

    /// The hosts whose tunnels were heard lately.
    fn heard(&self) -> Vec<Name> {
        let peers = self.core.snapshot().heard_peers(HEARD);
        let hosts = self.given.hosts.iter();
        hosts.filter(|host| peers.contains(&host.address)).map(|host| host.name.clone()).collect()
    }

    /// Tells the core which endpoints this host has in global networks.
    pub(super) fn look_at_endpoints(&mut self) {
        let snapshot = self.core.snapshot();
        let networks: HashMap<&Name, Id> =
            self.cluster.networks().map(|network| (&network.name, network.id())).collect();
        let mut served = services::served(&snapshot.state);
        let mut endpoints: Vec<(Id, Endpoint)> = snapshot
            .state
            .endpoints()
            .filter_map(|it| {
                let endpoint = Endpoint {
                    id: it.id.clone(),
                    host: self.member.name.clone(),
                    name: it.name.clone(),
                    mac: it.mac,
                    ips: it.addresses.iter().map(ipnet::IpNet::addr).collect(),
                    aliases: names::aliases(it),
                    service: it.service.clone(),
                    serves: served.remove(&it.id).unwrap_or_default(),
                    unready: it.unready,
                    seq: 0,
                    since: it.created.round(Unit::Second).ok(),
                };
                Some((networks.get(&it.network)?.clone(), endpoint))
            })
            .collect();
        endpoints.sort_by(|a, b| a.1.id.cmp(&b.1.id));
        if endpoints != self.endpoints || !self.endpoints_told() {
            self.endpoints.clone_from(&endpoints);
            self.feed(Input::Endpoints(endpoints));
        }
    }

    fn endpoints_told(&self) -> bool {
        self.next_ask > 0 || !self.endpoints.is_empty() || self.started.elapsed() > TICK * 2
    }

    /// Gives the switch what the copy says, then answers those whose requests are visible by it.
    pub(super) async fn give(&mut self) {
        if std::mem::take(&mut self.dirty) {
            let membership = Arc::new(membership(&self.member, &self.cluster));
            if membership != self.given {
                self.keep_plan().await;
                let given = Arc::clone(&membership);
                match self.core.tell(|reply| Request::Follow(given, reply)).await {
                    Ok(_) => (self.given, self.trouble) = (membership, None),
                    Err(error) => self.complain(&error),
                }
            }
        }
        self.direct().await;
        for (reply, result) in self.ready.drain(..) {
            // The caller may have given up.
            let _ = reply.send(result);
        }
    }

    /// The switch does not take it now: it is tried again with the next change, and told once.
    fn complain(&mut self, error: &Error) {
        self.dirty = true;
        if self.trouble.as_ref() != Some(&error.sentence) {
            warn!("the switch does not take what the cluster says: {}", error.sentence);
            self.trouble = Some(error.sentence.clone());
        }
    }

    /// Gives the switch the directories and names that have changed.
    async fn direct(&mut self) {
        let hosts: HashMap<Name, std::net::IpAddr> =
            self.given.hosts.iter().map(|host| (host.name.clone(), host.address)).collect();
        let (mut wanted, mut called) = (Vec::new(), Vec::new());
        let ready: HashSet<Name> =
            self.cluster.hosts().into_iter().filter(services::is_ready).map(|it| it.name).collect();
        for network in self.cluster.networks() {
            let touched = self.redirect.as_ref().is_none_or(|it| it.contains(&(&network.id()).into()));
            if touched {
                wanted.push((network.name.clone(), directory(&self.member, &self.cluster, network, &hosts)));
                called.push((network.name.clone(), records(&self.member, &self.cluster, network, &ready)));
            }
        }
        self.redirect = Some(BTreeSet::new());
        // Before the addresses: a name is asked for first.
        for (name, records) in called {
            if self.names.get(&name).map_or(records.is_empty(), |before| **before == *records) {
                continue;
            }
            let records: Arc<[Record]> = records.into();
            let given = Arc::clone(&records);
            match self.core.tell(|reply| Request::Names(name.clone(), given, reply)).await {
                Ok(_) => drop(self.names.insert(name, records)),
                Err(error) => {
                    debug!("the names of {name} are not taken: {}", error.sentence);
                    self.names.remove(&name);
                    self.redirect = None;
                }
            }
        }
        for (name, directory) in wanted {
            if self.directories.get(&name) == Some(&directory) {
                continue;
            }
            let change = match self.directories.get(&name) {
                Some(before) => DirectoryChange::Update(difference(before, &directory)),
                None => DirectoryChange::Replace(directory.clone()),
            };
            match self.core.tell(|reply| Request::Direct(name.clone().into(), change, reply)).await {
                Ok(_) => drop(self.directories.insert(name, directory)),
                Err(error) => {
                    debug!("the directory of {name} is not taken: {}", error.sentence);
                    self.directories.remove(&name);
                    self.redirect = None;
                }
            }
        }
        let networks: BTreeSet<&Name> = self.cluster.networks().map(|network| &network.name).collect();
        let over: Vec<Name> =
            self.directories.keys().filter(|name| !networks.contains(name)).cloned().collect();
        self.names.retain(|name, _| networks.contains(name));
        for name in over {
            self.directories.remove(&name);
            // With its network it is gone anyway.
            let _ =
                self.core.tell(|reply| Request::Direct(name.into(), DirectoryChange::Remove, reply)).await;
        }
    }

    /// Whether this host can assign an address of a network at once.
    pub(super) fn networks(&self) -> impl Iterator<Item = &Arc<NetworkSpec>> {
        self.cluster.networks()
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(super) fn store(&self) -> &Etcd {
        &self.store
    }

    /// The cluster as this host sees it.
    pub(super) fn show(&self) -> api::Cluster {
        let cluster = &self.cluster;
        let mut count: BTreeMap<Name, u32> = BTreeMap::new();
        for network in cluster.networks() {
            for (endpoint, _) in cluster.mirror().endpoints((&network.id()).into()) {
                *count.entry(endpoint.host.clone()).or_default() += 1;
            }
        }
        let hosts = cluster.hosts().into_iter().map(|host| api::Host {
            status: host.word().into(),
            this: host.name == self.member.name,
            endpoints: count.get(&host.name).copied().unwrap_or(0),
            id: host.node.id.clone(),
            address: host.node.address,
            port: host.node.port,
            availability: match host.node.availability {
                Availability::Active => "active".into(),
                Availability::Drain => "drain".into(),
            },
            manager: host.node.manager,
            version: host.node.version.clone(),
            labels: host.node.labels.clone(),
            name: host.name,
        });
        let (audits, differences) = cluster.audits();
        let mirror = cluster.mirror();
        let silence = cluster.silence(self.now());
        let up = cluster.is_following() && cluster.lost().is_none();
        let store = api::Store {
            members: self.member.store.clone(),
            kept_here: self.member.keeps_store,
            up,
            reason: cluster.lost().map(|(why, _)| why.to_owned()).filter(|_| !up),
            contact_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
            revision: mirror.revision(),
            keys: mirror.census().keys,
            audits,
            differences,
        };
        let state = &self.core.snapshot().state;
        let (networks, services) = (state.unfollowed(), state.unserved());
        let sentences = networks.into_iter().map(|(_, why)| why).chain(services.into_values());
        let mut troubles: Vec<String> = sentences.chain(self.trouble.clone()).collect();
        if mirror.unreadable() > 0 {
            troubles.push(format!(
                "{} keys of the store are of a newer version, or were damaged: use the same version on all hosts",
                mirror.unreadable()
            ));
        }
        api::Cluster {
            id: self.member.cluster.clone(),
            host: self.member.name.clone(),
            fenced: cluster.fenced().map(str::to_owned),
            store,
            hosts: hosts.collect(),
            networks: u32::try_from(cluster.networks().count()).unwrap_or(u32::MAX),
            endpoints: count.values().sum(),
            troubles,
        }
    }

    /// The endpoints of all hosts in global networks.
    pub(super) fn endpoints(&self) -> Vec<api::PlacedEndpoint> {
        let of = |network: &Arc<NetworkSpec>| {
            let name = network.name.clone();
            let endpoints = self.cluster.mirror().endpoints((&network.id()).into());
            endpoints.map(move |(it, revision)| api::PlacedEndpoint {
                id: it.id.clone(),
                name: it.name.clone(),
                network: name.clone(),
                host: it.host.clone(),
                mac: it.mac,
                ips: it.ips.clone(),
                revision,
                since: it.since,
            })
        };
        let mut endpoints: Vec<_> = self.cluster.networks().flat_map(of).collect();
        endpoints.sort_by(|a, b| (&a.network, &a.host, &a.name).cmp(&(&b.network, &b.host, &b.name)));
        endpoints
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }
}

/// A disk that is full stops no traffic.
fn complain_of_disk(kept: Result<Result<(), Error>, tokio::task::JoinError>) {
    if let Ok(Err(error)) = kept {
        warn!("the copy of the cluster is not kept: {}", error.sentence);
    }
}

/// The stations of other hosts in a network.
fn directory(
    member: &Member,
    cluster: &Cluster,
    network: &NetworkSpec,
    hosts: &HashMap<Name, std::net::IpAddr>,
) -> Directory {
    let id = network.id();
    // Of two records of an address the later one counts: the greater number of moves, then the later revision.
    let mut latest: HashMap<vswitch::addr::MacAddr, (u32, i64, Option<Station>)> = HashMap::new();
    for (endpoint, revision) in cluster.mirror().endpoints((&id).into()) {
        let rank = (endpoint.seq, revision);
        if latest.get(&endpoint.mac).is_some_and(|(seq, revision, _)| (*seq, *revision) > rank) {
            continue;
        }
        let station =
            hosts.get(&endpoint.host).filter(|_| endpoint.host != member.name).map(|host| Station {
                mac: endpoint.mac,
                addresses: endpoint.ips.clone(),
                host: *host,
                sequence: endpoint.seq.into(),
            });
        latest.insert(endpoint.mac, (rank.0, rank.1, station));
    }
    let mut stations: Vec<Station> = latest.into_values().filter_map(|(_, _, station)| station).collect();
    stations.sort_by_key(|station| station.mac);
    let members = cluster.members(&id).into_iter().filter_map(|name| hosts.get(&name).copied());
    Directory { hosts: Some(members.collect()), stations }
}

/// The names of other hosts' endpoints in a network.
fn records(member: &Member, cluster: &Cluster, network: &NetworkSpec, ready: &HashSet<Name>) -> Vec<Record> {
    let endpoints = cluster.mirror().endpoints((&network.id()).into());
    let others = endpoints.filter(|(endpoint, _)| endpoint.host != member.name);
    let modes = services::modes(cluster, network);
    let record = |endpoint: &Endpoint| {
        let mut record = Record {
            name: endpoint.name.to_string(),
            aliases: endpoint.aliases.clone(),
            addresses: endpoint.ips.clone(),
            service: endpoint.service.clone(),
            unready: endpoint.unready || !ready.contains(&endpoint.host),
            ports: Vec::new(),
        };
        services::name(endpoint, &modes, &mut record);
        record
    };
    others.map(|(endpoint, _)| record(endpoint)).collect()
}

/// What makes one directory of the other.
fn difference(before: &Directory, after: &Directory) -> DirectoryUpdate {
    let old: HashMap<_, _> = before.stations.iter().map(|it| (it.mac, it)).collect();
    let new: HashMap<_, _> = after.stations.iter().map(|it| (it.mac, it)).collect();
    // A record with a lower number is late for the switch, unless the one before was deleted.
    let is_over = |it: &&Station| new.get(&it.mac).is_none_or(|new| new.sequence < it.sequence);
    DirectoryUpdate {
        hosts: (before.hosts != after.hosts).then(|| after.hosts.clone().unwrap_or_default()),
        set: after.stations.iter().filter(|it| old.get(&it.mac) != Some(it)).cloned().collect(),
        withdraw: before
            .stations
            .iter()
            .filter(is_over)
            .map(|it| Withdrawal { mac: it.mac, sequence: u64::MAX })
            .collect(),
    }
}

/// What the copy gives this host.
pub(super) fn membership(member: &Member, cluster: &Cluster) -> Membership {
    let others = cluster.hosts().into_iter().filter(|host| host.name != member.name);
    let networks: Vec<_> = cluster.networks().cloned().collect();
    let blocks = networks.iter().map(|network| (network.name.clone(), cluster.held(&network.id()))).collect();
    Membership {
        advertise: Some(member.node.address),
        hosts: others
            .map(|host| PeerHost { name: host.name, address: host.node.address, port: host.node.port })
            .collect(),
        networks,
        blocks,
        services: services::all(cluster),
        backends: services::backends(member, cluster),
    }
}
