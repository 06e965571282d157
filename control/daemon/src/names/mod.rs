//! Who has which name, and the DNS server that says so.
//!
//! ```text
//! State ─ records ──┬> Table ─> Server (vswitch-names)    with each change, before it is answered
//!       └ sandboxes' resolv.conf, the addresses to serve
//! cluster ─ records ┘  of other hosts
//! ```
//! Names are derived from the desired state, as ports are, and stored nowhere. The core follows each change at once: who was told that
//! an endpoint is connected can ask for its name.
//!
//! | file | contents |
//! |---|---|
//! | `records` | the names of the state's objects; pure |
//! | `sandboxes` | /etc/netns/NAME/resolv.conf |

mod records;
mod sandboxes;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use tracing::{info, warn};

use crate::{Failure, core::Leave, machine::Machine, state::State};
use vswitch_host::{link::Links, netns::Namespace};
use vswitch_model::{
    DnsSpec, EndpointSpec, Error, Name,
    api::{NameEntry, NamesFilter, StaticName},
};
use vswitch_names::{
    Asker, Network, Part, Record, StationId, Table,
    question::{self, Meaning},
    server::{Server, Settings, Upstream},
};

pub(crate) use self::records::{aliases, serve};
use self::{records::addresses_served, sandboxes::Sandboxes};

/// The port of DNS.
const PORT: u16 = 53;

/// The interface that has the address of all networks: one that no container sees, and that is always up.
const LOOPBACK: &str = "lo";

/// Whether `text` can be the zone of our names. A single label would take that label's names from all other servers.
pub(crate) fn is_zone(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
    };
    text.len() <= 190 && text.contains('.') && text.split('.').all(is_label)
}

/// The servers that answer an endpoint for the names of its networks; none if names are not served.
///
/// The address of all networks, if there is a way to it, and else those of its own network.
pub(crate) fn servers(state: &State, endpoint: &EndpointSpec) -> Vec<IpAddr> {
    let dns = state.dns();
    if !dns.enabled {
        return Vec::new();
    }
    let leads = |gateway: &IpAddr| gateway.is_ipv4() == dns.address.is_ipv4();
    if endpoint.gateways.iter().any(leads) {
        return vec![dns.address];
    }
    state.network(&endpoint.network).map(|network| records::gateways(&network.spec)).unwrap_or_default()
}

/// The table that is served, or one made now where names are not served.
pub(crate) fn table(state: &State, server: &Server) -> Arc<Table> {
    if state.dns().enabled {
        return server.table();
    }
    let networks = records::records(state).into_iter().map(|(name, (subnets, records))| {
        Arc::new(Network::new(name.as_str(), subnets.iter().copied(), &records))
    });
    Arc::new(table_of(state, networks))
}

fn table_of(state: &State, networks: impl Iterator<Item = Arc<Network>>) -> Table {
    let dns = state.dns();
    Table::new(&dns.domain, dns.ttl, networks, records::stations(state))
}

/// The names that `filter` asks for.
///
/// # Errors
/// There is no such network, or a filter excludes another.
pub(crate) fn list(state: &State, table: &Table, filter: &NamesFilter) -> Result<Vec<NameEntry>, Error> {
    if let Some(name) = &filter.name {
        return look_up(table, name, filter.from);
    }
    if filter.from.is_some() {
        return Err(Error::invalid("from belongs to name: say what is asked for"));
    }
    if let Some(network) = filter.network.as_ref().filter(|name| state.network(name).is_none()) {
        return Err(Error::not_found(format!("network {network} not found")));
    }
    let is_wanted = |network: &&Arc<Network>| {
        filter.network.as_ref().is_none_or(|name| name.as_str().eq_ignore_ascii_case(network.name()))
    };
    let entries = table.networks().iter().filter(is_wanted).flat_map(|network| {
        network.names().map(|(name, found)| entry(table, network, name, found.addresses, found.is_service))
    });
    let words = filter.words.as_deref().unwrap_or_default().to_ascii_lowercase();
    let words: Vec<&str> = words.split_whitespace().collect();
    let fits = |entry: &NameEntry| words.iter().all(|word| has(entry, word));
    Ok(entries.filter(fits).take(filter.limit.unwrap_or(usize::MAX)).collect())
}

/// Whether a word, in lower case, is a part of the name, its network or one of its addresses; an IPv4 address is itself alone.
fn has(entry: &NameEntry, word: &str) -> bool {
    let address = |address: &IpAddr| match word.parse::<IpAddr>() {
        Ok(whole) => whole == *address,
        Err(_) => address.to_string().contains(word),
    };
    entry.full.contains(word) || entry.addresses.iter().any(address)
}

fn look_up(table: &Table, name: &str, from: Option<IpAddr>) -> Result<Vec<NameEntry>, Error> {
    let asker = from.map_or(Asker::Host, Asker::Station);
    if let Ok(address) = name.parse::<IpAddr>() {
        let scope = table.scope(asker);
        let at = scope.iter().flat_map(|network| network.at(address).map(move |name| (network, name)));
        return Ok(at.map(|(network, name)| entry(table, network, name, vec![address], false)).collect());
    }
    match question::meaning_of(table, asker, name) {
        Meaning::Stations(network, found) => {
            let of = |station: &StationId| {
                entry(
                    table,
                    network,
                    network.name_of(*station),
                    network.addresses_of(*station).to_vec(),
                    found.is_service,
                )
            };
            Ok(found.stations.iter().map(of).collect())
        }
        Meaning::Foreign => {
            Err(Error::not_found(format!("{name} is no name of a network: other servers are asked for it")))
        }
        _ => Err(Error::not_found(format!("there is no {name} in the networks of the asker"))),
    }
}

fn entry(table: &Table, network: &Network, name: &str, addresses: Vec<IpAddr>, service: bool) -> NameEntry {
    NameEntry {
        name: name.to_owned(),
        network: network.name().to_owned(),
        full: format!("{name}.{}.{}", network.name(), table.domain),
        addresses,
        service,
    }
}

/// A network of the table, and what it was made from.
#[derive(Default)]
struct Made {
    subnets: Vec<IpNet>,
    own: Vec<Record>,
    of_own: Arc<Part>,
    elsewhere: Option<Arc<[Record]>>,
    of_elsewhere: Vec<Arc<Part>>,
    network: Arc<Network>,
}

/// Names of other hosts that one part of a network has, on average: what a change on one of them costs.
const EACH: usize = 2048;

impl Made {
    /// The network of these records, of which the parts that are the same are taken from `self`.
    fn again(
        self,
        name: &Name,
        subnets: Vec<IpNet>,
        own: Vec<Record>,
        elsewhere: Option<Arc<[Record]>>,
    ) -> Self {
        // Not compared one by one: the cluster says when they change.
        let is_same = self.elsewhere.as_ref().map(Arc::as_ptr) == elsewhere.as_ref().map(Arc::as_ptr);
        if self.network.name().eq_ignore_ascii_case(name.as_str())
            && is_same
            && self.subnets == subnets
            && self.own == own
        {
            return self;
        }
        let of_own = if self.own == own { self.of_own } else { Arc::new(Part::new(&own)) };
        let of_elsewhere = match &elsewhere {
            _ if is_same => self.of_elsewhere,
            Some(now) => divided(self.elsewhere.as_deref().unwrap_or_default(), &self.of_elsewhere, now),
            None => Vec::new(),
        };
        let parts = of_elsewhere.iter().chain([&of_own]).cloned();
        let network = Arc::new(Network::of_parts(name.as_str(), subnets.iter().copied(), parts));
        Self { subnets, own, of_own, elsewhere, of_elsewhere, network }
    }
}

/// Parts of the records `now`. Each record has its part by its name, so most parts are those of the records `before`.
fn divided(before: &[Record], parts: &[Arc<Part>], now: &[Record]) -> Vec<Arc<Part>> {
    // In powers of two: otherwise each new name would move all of them.
    let count = now.len().div_ceil(EACH).next_power_of_two();
    let groups = |records: &'_ [Record]| {
        let mut groups = vec![Vec::new(); count];
        for (place, record) in records.iter().enumerate() {
            let mut hasher = DefaultHasher::new();
            record.name.hash(&mut hasher);
            let group = usize::try_from(hasher.finish() % count as u64).unwrap_or_default();
            groups[group].push(place);
        }
        groups
    };
    let (old, new) = (if parts.len() == count { groups(before) } else { Vec::new() }, groups(now));
    let part = |(number, group): (usize, &Vec<usize>)| {
        let is_same =
            |old: &&Vec<usize>| old.iter().map(|it| &before[*it]).eq(group.iter().map(|it| &now[*it]));
        match old.get(number).filter(is_same) {
            Some(_) => Arc::clone(&parts[number]),
            None => Arc::new(Part::new(group.iter().map(|it| &now[*it]))),
        }
    };
    new.iter().enumerate().map(part).collect()
}

/// The names and all that serves them, as the core owns it.
pub(crate) struct Naming {
    server: Arc<Server>,
    machine: Machine,
    /// What the table was made from.
    followed: Option<State>,
    /// The names that were given by hand.
    by_hand: Vec<StaticName>,
    /// The names of other hosts' endpoints, by network.
    elsewhere: BTreeMap<Name, Arc<[Record]>>,
    /// The networks of the table: one that is the same is not made again.
    networks: BTreeMap<Name, Made>,
    sandboxes: Sandboxes,
    /// The address of all networks, if it was we who have added it.
    own: Option<IpAddr>,
    /// Why the address of all networks is not there.
    failed: Option<String>,
    addresses: BTreeSet<SocketAddr>,
    /// Failures that were logged.
    told: BTreeSet<SocketAddr>,
}

impl Naming {
    /// Names of nothing yet.
    ///
    /// # Errors
    /// The server cannot be started.
    pub(crate) fn new(spec: &DnsSpec, machine: Machine) -> Result<Self, Failure> {
        let upstream = match &*spec.upstream {
            [] => Upstream::File("/etc/resolv.conf".into()),
            servers => Upstream::Servers(servers.iter().map(|server| server.0).collect()),
        };
        let server = Server::start(Settings { upstream, allow: spec.allow.clone() })?;
        Ok(Self {
            server: Arc::new(server),
            machine,
            followed: None,
            by_hand: Vec::new(),
            elsewhere: BTreeMap::new(),
            networks: BTreeMap::new(),
            sandboxes: Sandboxes::default(),
            own: None,
            failed: None,
            addresses: BTreeSet::new(),
            told: BTreeSet::new(),
        })
    }

    /// The server.
    pub(crate) fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    /// Serves the names of `state` from now on.
    pub(crate) fn follow(&mut self, state: &State) {
        if self.followed.as_ref().is_some_and(|followed| followed.is(state)) {
            return;
        }
        self.followed = Some(state.clone());
        self.elsewhere.retain(|network, _| state.network(network).is_some());
        // Otherwise made when asked for: a change does not pay for what is not served.
        if state.dns().enabled {
            let table = self.table(state);
            self.server.set_table(table);
        }
        if self.machine.is_real() {
            self.addresses = addresses_served(state);
            self.listen();
            self.sandboxes.follow(sandboxes::wanted(state));
        }
    }

    /// Takes in the names that other hosts' endpoints have in a network; the next [`follow`](Self::follow) serves them.
    pub(crate) fn hear(&mut self, network: Name, records: Arc<[Record]>) {
        self.elsewhere.insert(network, records);
        self.followed = None;
    }

    /// Takes in all names that were given by hand; the next [`follow`](Self::follow) serves them.
    pub(crate) fn give(&mut self, names: Vec<StaticName>) {
        self.by_hand = names;
        self.followed = None;
    }

    /// The table of `state`, made of the networks of the table before where they are the same.
    fn table(&mut self, state: &State) -> Table {
        let mut before = std::mem::take(&mut self.networks);
        for (name, (subnets, mut own)) in records::records(state) {
            own.extend(self.by_hand.iter().filter(|it| it.network == name).map(records::of_hand));
            let elsewhere = self.elsewhere.get(&name).cloned();
            let made = before.remove(&name).unwrap_or_default().again(&name, subnets, own, elsewhere);
            self.networks.insert(name, made);
        }
        table_of(state, self.networks.values().map(|it| Arc::clone(&it.network)))
    }

    /// Binds what is wanted and not bound yet.
    fn listen(&mut self) {
        self.server.listen(&self.addresses);
        let failures = self.server.failures();
        for (address, why) in failures.iter().filter(|(address, _)| !self.told.contains(address)) {
            warn!("{}", not_served(*address, why));
        }
        let now: BTreeSet<_> = failures.into_iter().map(|(address, _)| address).collect();
        for address in self.told.difference(&now).filter(|address| self.addresses.contains(address)) {
            info!("names are served at {} by now", address.ip());
        }
        self.told = now;
    }

    /// Tries again what has failed, once a second.
    pub(crate) async fn retry(&mut self) {
        let Some(state) = self.followed.as_ref().filter(|_| self.machine.is_real()) else { return };
        let dns = state.dns();
        if dns.enabled && self.own.is_none() {
            let address = dns.address;
            match self.assume(address).await {
                Ok(()) => self.failed = None,
                Err(error) => {
                    let why = format!("names are not served at {address}: {error}");
                    if self.failed.as_ref() != Some(&why) {
                        warn!("{why}");
                    }
                    self.failed = Some(why);
                }
            }
        }
        if !self.told.is_empty() {
            self.listen();
        }
    }

    /// Adds the address of all networks to this host, unless it has it.
    async fn assume(&mut self, address: IpAddr) -> Result<(), Failure> {
        let links = Links::open(Namespace::current()?)?;
        let link = links.link(LOOPBACK).await?;
        links.add_address(&link, address.into()).await?;
        self.own = Some(address);
        Ok(())
    }

    /// What does not work: sentences.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let failures = self.server.failures();
        let taken = failures.iter().map(|(address, why)| not_served(*address, why));
        self.failed.iter().cloned().chain(taken).collect()
    }

    /// Ends the service. Sandboxes keep their files, as they keep their interfaces, unless nothing is to be left.
    pub(crate) async fn stop(&mut self, leave: Leave) {
        self.server.listen(&BTreeSet::new());
        if leave == Leave::Nothing {
            self.sandboxes.follow(BTreeMap::new());
        }
        let Some(address) = self.own.take() else { return };
        let removed = async {
            let links = Links::open(Namespace::current()?)?;
            let link = links.link(LOOPBACK).await?;
            links.remove_address(&link, address.into()).await?;
            Ok::<_, Failure>(())
        };
        if let Err(error) = removed.await {
            warn!("{address} stays on {LOOPBACK}: {error}");
        }
    }
}

fn not_served(address: SocketAddr, why: &str) -> String {
    format!(
        "names are not served at {}: {why}; if another server has port {PORT} there, let it leave this address out",
        address.ip()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32) -> Record {
        let addresses = vec![IpAddr::from((0x0a00_0000 + number).to_be_bytes())];
        Record { name: format!("db-{number}"), addresses, ..Record::default() }
    }

    #[test]
    fn a_change_makes_only_the_part_again_that_it_is_in() {
        let name: Name = "blue".parse().unwrap();
        let elsewhere: Vec<Record> = (0..10_000).map(record).collect();
        let own = vec![record(20_000)];
        let made = Made::default().again(&name, Vec::new(), own.clone(), Some(elsewhere.clone().into()));
        let fresh = |made: &Made, before: &[Arc<Part>]| {
            assert_eq!(made.of_elsewhere.len(), before.len());
            made.of_elsewhere.iter().zip(before).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
        };
        assert_eq!((made.of_elsewhere.len(), made.network.len()), (8, 10_001));

        // Of this host.
        let (before, same) = (made.of_elsewhere.clone(), made.elsewhere.clone());
        let made = made.again(&name, Vec::new(), vec![record(20_001)], same);
        assert_eq!(fresh(&made, &before), 0);
        assert!(
            made.network.find("db-20001", false).is_some() && made.network.find("db-20000", false).is_none()
        );

        // Of another: one is gone, which moves all others in the list, and one is new.
        let mut changed = elsewhere;
        changed.remove(7);
        changed.push(record(30_000));
        let before = made.of_elsewhere.clone();
        let made = made.again(&name, Vec::new(), own, Some(changed.into()));
        assert!((1..=2).contains(&fresh(&made, &before)));
        for (name, is_there) in [("db-7", false), ("db-8", true), ("db-30000", true), ("db-20000", true)] {
            assert_eq!(made.network.find(name, false).is_some(), is_there, "{name}");
        }
        assert_eq!(made.network.at("10.0.0.8".parse().unwrap()).collect::<Vec<_>>(), ["db-8"]);
    }

    #[test]
    fn a_network_without_names_is_called_so_from_the_start() {
        let made = Made::default().again(&"blue".parse().unwrap(), Vec::new(), Vec::new(), None);
        assert_eq!(made.network.name(), "blue");
    }
}
