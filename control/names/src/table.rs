//! The names of each network, and who asks for them.
//!
//! A [`Network`] is made of [`Part`]s, which hold some thousand stations each. A part is two sorted arrays over one text: from names
//! to stations, and from addresses to stations. A look-up is a binary search in each part; 100,000 names take some 15 MB. A part never
//! changes: what does is built again, alone, and the others are shared by the tables before and after (`Arc`). So a change costs what
//! a part does, however many names there are.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// The zone of all our names by default. `internal` is reserved for private use.
pub const DOMAIN: &str = "vswitch.internal";

/// What is known of a station in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its name in the network.
    pub name: String,
    /// Further names of it.
    pub aliases: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The service it is a task of.
    pub service: Option<String>,
    /// Whether it does not serve at the moment. It is left out of an answer that has others.
    pub unready: bool,
    /// The ports it is known to serve.
    pub ports: Vec<Port>,
}

/// A port that a station serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, or its number as text: `_NAME._tcp.STATION`.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its number.
    pub number: u16,
}

/// The names of one network.
#[derive(Debug, Default)]
pub struct Network {
    name: Box<str>,
    subnets: Box<[IpNet]>,
    parts: Box<[Arc<Part>]>,
}

/// Some of the stations of a network.
#[derive(Debug, Default)]
pub struct Part {
    /// All names, in lower case, one after another.
    text: Box<str>,
    /// Sorted by name, then by station.
    names: Box<[Entry]>,
    /// Sorted.
    reverse: Box<[(IpAddr, u32)]>,
    stations: Box<[Station]>,
    addresses: Box<[IpAddr]>,
    ports: Box<[(u32, Port)]>,
}

/// A name of a station: a slice of the text.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    length: u8,
    of_service: bool,
    station: u32,
}

#[derive(Clone, Copy, Debug)]
struct Station {
    /// Its entry in the text: start and length of its name.
    name: (u32, u8),
    addresses: u32,
    count: u8,
    unready: bool,
}

/// A station of a network: its part, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StationId(u32, u32);

/// Stations that answer to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The addresses of those that are ready; of all if none is.
    pub addresses: Vec<IpAddr>,
    /// The stations.
    pub stations: Vec<StationId>,
    /// Whether it is the name of a service, whose stations come and go.
    pub is_service: bool,
}

/// Longest name in text (RFC 1035 section 2.3.4), and longest label.
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// Whether `text` can be asked for: labels of 1 to 63 bytes, 253 in all.
fn is_askable(text: &str) -> bool {
    text.len() <= NAME_MAX && text.split('.').all(|label| (1..=LABEL_MAX).contains(&label.len()))
}

impl Part {
    /// Those of `records` that can be asked for.
    pub fn new<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut draft = Draft::default();
        for record in records.into_iter().filter(|record| is_askable(&record.name)) {
            draft.add(record);
        }
        let Draft { text, mut names, mut reverse, stations, addresses, ports } = draft;
        let of = |entry: &Entry| slice(&text, entry.start, entry.length);
        // Of two entries that are one, that of the service stays: it says that stations come and go.
        names.sort_unstable_by(|a, b| {
            (of(a), a.station, !a.of_service).cmp(&(of(b), b.station, !b.of_service))
        });
        names.dedup_by(|a, b| a.station == b.station && of(a) == of(b));
        reverse.sort_unstable();
        Self {
            names: names.into(),
            text: text.into(),
            reverse: reverse.into(),
            stations: stations.into(),
            addresses: addresses.into(),
            ports: ports.into(),
        }
    }

    /// The entries of `name`, which is in lower case.
    fn called<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        let from = self.names.partition_point(|entry| self.text_of(entry) < name);
        self.names[from..].iter().take_while(move |entry| self.text_of(entry) == name)
    }

    /// The stations that have `address`.
    fn at(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let from = self.reverse.partition_point(|(known, _)| *known < address);
        let stations = self.reverse[from..].iter().take_while(move |(known, _)| *known == address);
        stations.map(|(_, station)| *station)
    }

    fn is_ready(&self, station: u32) -> bool {
        !self.stations[station as usize].unready
    }

    fn text_of(&self, entry: &Entry) -> &str {
        slice(&self.text, entry.start, entry.length)
    }
}

impl Network {
    /// The network called `name`, with those of `records` that can be asked for.
    pub fn new<'a>(
        name: &str,
        subnets: impl IntoIterator<Item = IpNet>,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Self {
        Self::of_parts(name, subnets, [Arc::new(Part::new(records))])
    }

    /// The network called `name`, with the stations of all parts.
    pub fn of_parts(
        name: &str,
        subnets: impl IntoIterator<Item = IpNet>,
        parts: impl IntoIterator<Item = Arc<Part>>,
    ) -> Self {
        Self {
            name: name.to_ascii_lowercase().into(),
            subnets: subnets.into_iter().collect(),
            parts: parts.into_iter().filter(|part| !part.names.is_empty()).collect(),
        }
    }

    /// Its name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its names; one that stations of several parts have counts in each.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.names.len()).sum()
    }

    /// Whether it has no names.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether `address` is in one of its subnets.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    fn each(&self) -> impl Iterator<Item = (u32, &Part)> {
        (0..).zip(self.parts.iter().map(|part| &**part))
    }

    fn part(&self, station: StationId) -> &Part {
        &self.parts[station.0 as usize]
    }

    /// The stations called `name`, which is in lower case; of a service only, if `tasks`.
    pub fn find(&self, name: &str, tasks: bool) -> Option<Found> {
        let mut is_service = false;
        let mut stations: Vec<StationId> = Vec::new();
        for (number, part) in self.each() {
            for entry in part.called(name).filter(|entry| entry.of_service || !tasks) {
                is_service |= entry.of_service;
                stations.push(StationId(number, entry.station));
            }
        }
        if stations.is_empty() {
            return None;
        }
        let is_ready = |station: &StationId| self.part(*station).is_ready(station.1);
        // None is ready: all are given, since one that only seems so is better than none.
        if stations.iter().any(is_ready) {
            stations.retain(is_ready);
        }
        let addresses = stations.iter().flat_map(|station| self.addresses_of(*station)).copied().collect();
        Some(Found { addresses, stations, is_service })
    }

    /// The names of the stations that have `address`.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.each().flat_map(move |(number, part)| {
            part.at(address).map(move |station| self.name_of(StationId(number, station)))
        })
    }

    /// The ports of a station called `port`, which is in lower case, of a protocol.
    pub fn ports<'a>(
        &'a self,
        station: StationId,
        port: &'a str,
        protocol: &'a str,
    ) -> impl Iterator<Item = u16> + 'a {
        let ports = &self.part(station).ports;
        let from = ports.partition_point(|(of, _)| *of < station.1);
        let own = ports[from..].iter().take_while(move |(of, _)| *of == station.1);
        own.filter(move |(_, it)| it.name == port && it.protocol == protocol).map(|(_, it)| it.number)
    }

    /// The name of a station.
    pub fn name_of(&self, station: StationId) -> &str {
        let part = self.part(station);
        let (start, length) = part.stations[station.1 as usize].name;
        slice(&part.text, start, length)
    }

    /// The addresses of a station.
    pub fn addresses_of(&self, station: StationId) -> &[IpAddr] {
        let part = self.part(station);
        let Station { addresses, count, .. } = part.stations[station.1 as usize];
        &part.addresses[addresses as usize..][..usize::from(count)]
    }

    /// Every name and the stations that have it, sorted.
    pub fn names(&self) -> impl Iterator<Item = (&str, Found)> {
        let mut names: Vec<&str> =
            self.parts.iter().flat_map(|part| part.names.iter().map(|entry| part.text_of(entry))).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| Some((name, self.find(name, false)?)))
    }
}

fn slice(text: &str, start: u32, length: u8) -> &str {
    &text[start as usize..][..usize::from(length)]
}

/// A part as it grows.
#[derive(Default)]
struct Draft {
    text: String,
    names: Vec<Entry>,
    reverse: Vec<(IpAddr, u32)>,
    stations: Vec<Station>,
    addresses: Vec<IpAddr>,
    ports: Vec<(u32, Port)>,
}

impl Draft {
    fn add(&mut self, record: &Record) {
        let number = |length: usize| u32::try_from(length).expect("a host has fewer than 2^32 names");
        let station = number(self.stations.len());
        let name = self.name(&record.name, false, station);
        for alias in record.aliases.iter().filter(|alias| is_askable(alias)) {
            self.name(alias, false, station);
        }
        if let Some(service) = record.service.as_ref().filter(|service| is_askable(service)) {
            self.name(service, true, station);
        }
        let addresses = number(self.addresses.len());
        let count = u8::try_from(record.addresses.len()).unwrap_or(u8::MAX);
        let own = record.addresses.iter().take(count.into());
        self.addresses.extend(own.clone());
        self.reverse.extend(own.map(|address| (*address, station)));
        self.ports.extend(record.ports.iter().map(|port| (station, port.clone())));
        self.stations.push(Station { name, addresses, count, unready: record.unready });
    }

    fn name(&mut self, name: &str, of_service: bool, station: u32) -> (u32, u8) {
        let start = u32::try_from(self.text.len()).expect("names of a host fit into 4 GB");
        let length = u8::try_from(name.len()).expect("an askable name has 253 bytes at most");
        self.text.push_str(&name.to_ascii_lowercase());
        self.names.push(Entry { start, length, of_service, station });
        (start, length)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A station, or what has an address in the subnet of a network.
    Station(IpAddr),
    /// This host itself, or a resolver that is allowed to ask for the zone. It sees every network and is never asked upstream
    /// for: it has its own servers, and may be one that asks us.
    Host,
    /// Neither.
    Stranger,
}

/// All names of a host, for all who ask.
#[derive(Clone, Debug)]
pub struct Table {
    /// The zone, in lower case.
    pub domain: Arc<str>,
    /// How long an answer may be kept, in seconds. One for a service may not.
    pub ttl: u32,
    /// By name.
    networks: Vec<Arc<Network>>,
    /// The networks of local stations by address, in the order in which they are searched.
    stations: HashMap<IpAddr, Box<[u32]>>,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(DOMAIN, 5, [], [])
    }
}

impl Table {
    /// The table of `networks`, for local stations with these addresses and networks by name.
    pub fn new(
        domain: &str,
        ttl: u32,
        networks: impl IntoIterator<Item = Arc<Network>>,
        stations: impl IntoIterator<Item = (IpAddr, Vec<String>)>,
    ) -> Self {
        let mut networks: Vec<_> = networks.into_iter().collect();
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        let index = |name: &String| {
            let name = name.to_ascii_lowercase();
            let found = networks.binary_search_by(|network| (*network.name).cmp(&name)).ok();
            found.and_then(|found| u32::try_from(found).ok())
        };
        let of =
            |(address, names): (IpAddr, Vec<String>)| (address, names.iter().filter_map(index).collect());
        let stations = stations.into_iter().map(of).collect();
        Self { domain: domain.to_ascii_lowercase().into(), ttl, networks, stations }
    }

    /// All networks, by name.
    pub fn networks(&self) -> &[Arc<Network>] {
        &self.networks
    }

    /// The network called `name`.
    pub fn network(&self, name: &str) -> Option<&Arc<Network>> {
        let name = name.to_ascii_lowercase();
        self.networks.binary_search_by(|network| (*network.name).cmp(&name)).ok().map(|at| &self.networks[at])
    }

    /// Whether a station of a network, known or not, has this address.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        self.stations.contains_key(&address) || self.networks.iter().any(|network| network.covers(address))
    }

    /// The networks whose names `asker` sees, in the order in which they are searched.
    pub fn scope(&self, asker: Asker) -> Vec<&Arc<Network>> {
        match asker {
            Asker::Host => self.networks.iter().collect(),
            Asker::Stranger => Vec::new(),
            Asker::Station(address) => match self.stations.get(&address) {
                Some(own) => own.iter().map(|index| &self.networks[*index as usize]).collect(),
                None => self.networks.iter().filter(|network| network.covers(address)).collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, address: &str) -> Record {
        Record { name: name.into(), addresses: vec![address.parse().unwrap()], ..Record::default() }
    }

    fn names(found: Option<Found>) -> Vec<String> {
        found.map(|it| it.addresses.iter().map(IpAddr::to_string).collect()).unwrap_or_default()
    }

    #[test]
    fn a_station_is_found_by_each_of_its_names_and_by_address() {
        let db = Record { aliases: vec!["SQL".into(), "db".into()], ..record("Db", "10.9.0.2") };
        let network = Network::new("blue", [], &[db, record("web", "10.9.0.3")]);
        assert_eq!(names(network.find("db", false)), ["10.9.0.2"]);
        assert_eq!(names(network.find("sql", false)), ["10.9.0.2"]);
        assert_eq!(network.find("dbx", false), None);
        assert_eq!(network.at("10.9.0.3".parse().unwrap()).collect::<Vec<_>>(), ["web"]);
        assert_eq!(network.len(), 3, "a name that is given twice is one name");
    }

    #[test]
    fn a_service_that_is_an_alias_as_well_is_a_service() {
        let task = Record {
            aliases: vec!["api".into()],
            service: Some("api".into()),
            ..record("shop-api-1", "10.9.0.2")
        };
        let network = Network::new("blue", [], &[task]);
        assert!(network.find("api", false).unwrap().is_service);
        assert_eq!(names(network.find("api", true)), ["10.9.0.2"]);
    }

    #[test]
    fn who_is_not_ready_is_left_out_while_another_is() {
        let task = |name: &str, address: &str, unready| Record {
            service: Some("api".into()),
            unready,
            ..record(name, address)
        };
        let of = |states: [bool; 2]| {
            let [a, b] = states;
            Network::new("blue", [], &[task("api.1", "10.9.0.2", a), task("api.2", "10.9.0.3", b)])
        };
        assert_eq!(names(of([false, true]).find("api", false)), ["10.9.0.2"]);
        assert_eq!(names(of([true, true]).find("api", false)), ["10.9.0.2", "10.9.0.3"], "fail open");
        assert_eq!(names(of([false, false]).find("api", true)), ["10.9.0.2", "10.9.0.3"]);
        assert_eq!(names(of([false, true]).find("api.2", false)), ["10.9.0.3"], "alone it is given");
        assert_eq!(of([false; 2]).find("api.1", true), None, "no service is called that");
    }

    #[test]
    fn a_station_sees_its_networks_and_another_its_subnet() {
        let blue = Network::new("blue", ["10.9.0.0/24".parse().unwrap()], &[]);
        let red = Network::new("red", ["10.8.0.0/24".parse().unwrap()], &[]);
        let station = ("10.9.0.2".parse().unwrap(), vec!["red".to_owned(), "BLUE".to_owned()]);
        let table = Table::new(DOMAIN, 5, [blue, red].map(Arc::new), [station]);
        let scope = |asker| table.scope(asker).iter().map(|it| it.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(scope(Asker::Station("10.9.0.2".parse().unwrap())), ["red", "blue"]);
        assert_eq!(scope(Asker::Station("10.9.0.9".parse().unwrap())), ["blue"]);
        assert_eq!(scope(Asker::Host), ["blue", "red"]);
        assert!(scope(Asker::Stranger).is_empty());
    }

    #[test]
    fn what_cannot_be_asked_for_is_no_name() {
        let long = "x".repeat(64);
        let records = [record("", "10.9.0.2"), record(&long, "10.9.0.3"), record("a..b", "10.9.0.4")];
        assert!(Network::new("blue", [], &records).is_empty());
    }
}
