//! Objects created through the API, kept across restarts.
//!
//! Networks, ports, endpoints, services and pinned addresses are kept as JSON, in the form of the API. Of `net.toml` only the last
//! declaration is kept. All rows are in memory and, twice, on the disk: in a redb database, and in a copy of lines. A method
//! that changes something returns only when both have it; if either fails, neither has it, and the daemon continues with what
//! it had.
//!
//! | file | |
//! |---|---|
//! | `store.redb` | the database |
//! | `store.copy` | the copy |
//! | `store.redb.v2` | the database as an older version of the program left it |
//! | `store.redb.damaged-TIME`, `store.copy.damaged-TIME` | damaged files; the latest four of each |
//! | the API's socket with `.store` behind its name | a further copy, normally in memory: it lives as long as the host is up |
//!
//! On opening both are read, the database in a separate process (`apart`), and compared (`recover`): damage to one is repaired
//! from the other and reported in [`Store::notes`]. A disk that is full or read-only does not prevent a start; changes are
//! refused until it is writable.

mod apart;
mod content;
mod copy;
mod database;
pub(crate) mod file;
mod lines;
mod recover;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use tracing::{debug, error, info};
use vswitch::addr::MacAddr;

pub use self::apart::read_to_stdout;
use self::{
    content::{Change, Content, Table},
    copy::Copy,
    database::Database,
    recover::{Asides, Found, Mend, judge},
};
use crate::state::{Kind, Record};
use vswitch_host::random;
use vswitch_model::{
    Error, ErrorKind, Id, Name, NetworkSpec, PortSpec,
    api::{StaticEntry, StaticName},
    ipam::Lent,
};

/// Version of the store's format on the disk. It is raised when the meaning changes.
///
/// 1 and 2 had no copy, and no revision to compare with it.
const VERSION: u64 = 3;

/// The running program, even if its file was replaced or deleted.
const PROGRAM: &str = "/proc/self/exe";

/// Interval of attempts to write a store that could not be written.
const RETRY: Duration = Duration::from_secs(10);

/// Path of the copy that lives as long as the host: the API's socket with `.store` appended.
pub(crate) fn live_path(api: &Path) -> PathBuf {
    let mut path = api.as_os_str().to_owned();
    path.push(".store");
    path.into()
}

/// An open store. Only one process can have it.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// The program that reads a possibly damaged database.
    program: PathBuf,
    id: u64,
    /// Number of changes made.
    revision: u64,
    content: Content,
    database: Slot<Database>,
    copy: Slot<Copy>,
    live: Option<Live>,
    /// What was found damaged on opening, and how it was repaired.
    notes: Vec<String>,
    has_lost: bool,
    trouble: Option<Trouble>,
}

/// One of the two places on the disk.
#[derive(Debug)]
enum Slot<T> {
    Open(T),
    /// As found; this remains to be done.
    Due(Mend),
    /// A change failed midway, or the file is not in its place: its content is unknown.
    Unsure,
}

/// The copy that lives as long as the host is up.
#[derive(Debug)]
struct Live {
    path: PathBuf,
    /// `None` after a failed write; the next change tries again.
    copy: Option<Copy>,
}

/// Why changes are refused.
#[derive(Debug)]
struct Trouble {
    why: String,
    tried: Instant,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file cannot be read or written.
    #[error("{}: {source}: check that the folder exists and that this user may write to it", path.display())]
    Io {
        /// The folder or the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk is full, or the quota is used up.
    #[error("the disk with {} is full ({source}): nothing was changed, and existing objects keep working; make room and try again", folder.display())]
    Full {
        /// The store's folder.
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("{}: another vswitchd uses this store: stop it, or set another [switch] state", .0.display())]
    Locked(PathBuf),
    /// A newer vswitchd wrote it.
    #[error(
        "{}: the store has version {found}, and this vswitchd knows versions 1 to {VERSION}; nothing was changed: use the \
         newer vswitchd, or move store.redb and store.copy away and put in their place what the newer one kept of the store \
         as it was before, store.redb.v{VERSION}, as store.redb",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u64,
    },
}

impl StoreError {
    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { folder: path, source },
            io::ErrorKind::ResourceBusy => Self::Locked(path),
            _ => Self::Io { path, source },
        }
    }
}

impl Store {
    /// Opens the store in `folder`, which must exist, or creates one. Damage is repaired and reported in [`Store::notes`].
    /// `live` is the path of a further copy that lives as long as the host.
    ///
    /// # Errors
    /// It cannot be read, another process uses it, or a newer program wrote it. Its files are unchanged.
    pub fn open(folder: &Path, live: &Path) -> Result<Self, StoreError> {
        Self::open_with(folder, Some(live), Path::new(PROGRAM))
    }

    /// Like [`Store::open`], with `program` as the vswitchd that reads the database in a separate process.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_with(folder: &Path, live: Option<&Path>, program: &Path) -> Result<Self, StoreError> {
        fs::read_dir(folder).map_err(|error| StoreError::of(folder, error))?;
        file::restrict_all(folder);
        let of_file = |name: &str| {
            let path = folder.join(name);
            move |error| StoreError::of(&path, error)
        };
        let found = database::find(folder, program).map_err(of_file(database::NAME))?;
        let copy = copy::read(&folder.join(copy::NAME)).map_err(of_file(copy::NAME))?;
        let lived = live.and_then(|path| Some((path, copy::read(path).ok()??)));
        let versions = [
            (database::NAME, if let Found::Whole(snapshot) = &found { snapshot.version } else { 0 }),
            (copy::NAME, copy.as_ref().and_then(|copy| copy.header).map_or(0, |header| header.store)),
        ];
        if let Some((name, found)) = versions.into_iter().find(|(_, version)| *version > VERSION) {
            return Err(StoreError::Newer { path: folder.join(name), found });
        }
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let aside = |name| file::aside_name(folder, name, &stamp);
        let asides = Asides { database: aside(database::NAME), copy: aside(copy::NAME) };
        let verdict = judge(found, copy, lived, &asides);
        let id = match verdict.id {
            Some(id) => id,
            None => random::bytes().map(u64::from_ne_bytes).map_err(|error| StoreError::of(folder, error))?,
        };
        let mut inner = Inner {
            folder: folder.to_owned(),
            program: program.to_owned(),
            id,
            revision: verdict.revision,
            content: verdict.content,
            database: Slot::Due(verdict.database),
            copy: Slot::Due(verdict.copy),
            live: live.map(|path| Live { path: path.to_owned(), copy: None }),
            notes: verdict.notes,
            has_lost: verdict.has_lost,
            trouble: None,
        };
        match inner.settle() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(of_file(database::NAME)(error));
            }
            // The content is known: changes are refused until it can be written.
            Err(error) => inner.begin_trouble(&StoreError::of(folder, error)),
        }
        inner.enliven(&[]);
        [database::NAME, copy::NAME].iter().for_each(|name| file::prune(folder, name));
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// What was found damaged on opening, and how it was repaired: a sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.inner().notes.clone()
    }

    /// Whether rows may have been missing on opening: a part could not be read, or there was nothing at all.
    pub fn has_lost(&self) -> bool {
        self.inner().has_lost
    }

    /// Warnings for the operator: the [notes](Store::notes), and why changes are refused at the moment.
    pub fn warnings(&self) -> Vec<String> {
        let notes = self.inner().notes.clone();
        notes.into_iter().chain(self.trouble()).collect()
    }

    /// Why nothing can be changed at the moment, if so.
    pub fn trouble(&self) -> Option<String> {
        self.inner().trouble.as_ref().map(|trouble| format!("nothing can be changed: {}", trouble.why))
    }

    /// Tries, from time to time, to write a store that could not be written.
    pub(crate) fn retry(&self) {
        let mut inner = self.inner();
        if inner.trouble.as_ref().is_some_and(|trouble| trouble.tried.elapsed() >= RETRY) {
            // An empty change. Its outcome is reported by `write`.
            let _ = inner.write(Vec::new());
        }
    }

    /// All records, networks first, each kind by name. Rows that are not valid records are left out and reported.
    pub fn load(&self) -> Vec<Record> {
        let mut inner = self.inner();
        let networks = inner.parse(Table::Networks, |spec| Record::Network(Arc::new(spec)));
        let ports = inner.parse(Table::Ports, |spec| Record::Port(Arc::new(spec)));
        let endpoints = inner.parse(Table::Endpoints, |spec| Record::Endpoint(Arc::new(spec)));
        let services = inner.parse(Table::Services, |spec| Record::Service(Arc::new(spec)));
        networks.into_iter().chain(ports).chain(endpoints).chain(services).collect()
    }

    /// Stores a record, replacing one of the same kind and name. It is on the disk when this returns.
    ///
    /// # Errors
    /// It is not stored.
    pub fn put(&self, record: &Record) -> Result<(), StoreError> {
        match record {
            Record::Network(spec) => self.put_network(spec),
            Record::Port(spec) => self.put_port(spec),
            Record::Endpoint(spec) => self.write(Table::Endpoints, spec.id.as_str(), Some(&**spec)),
            Record::Service(spec) => self.write(Table::Services, spec.name.as_str(), Some(&**spec)),
        }
    }

    /// Like [`Store::put`].
    ///
    /// # Errors
    /// It is not stored.
    pub fn put_network(&self, spec: &NetworkSpec) -> Result<(), StoreError> {
        self.write(Table::Networks, spec.name.as_str(), Some(spec))
    }

    /// Like [`Store::put`].
    ///
    /// # Errors
    /// It is not stored.
    pub fn put_port(&self, spec: &PortSpec) -> Result<(), StoreError> {
        self.write(Table::Ports, spec.name.as_str(), Some(spec))
    }

    /// Deletes a record, if it is present. The disk is updated when this returns.
    ///
    /// # Errors
    /// It is still stored.
    pub fn remove(&self, kind: Kind, key: &str) -> Result<(), StoreError> {
        let table = match kind {
            Kind::Network => Table::Networks,
            Kind::Port => Table::Ports,
            Kind::Endpoint => Table::Endpoints,
            Kind::Service => Table::Services,
        };
        self.write::<()>(table, key, None)
    }

    /// All pinned addresses.
    pub fn pins(&self) -> Vec<StaticEntry> {
        self.inner().parse(Table::Pins, |pin| pin)
    }

    /// Stores a pinned address, replacing its previous port. It is on the disk when this returns.
    ///
    /// # Errors
    /// It is not stored.
    pub(crate) fn put_pin(&self, pin: &StaticEntry) -> Result<(), StoreError> {
        self.write(Table::Pins, &pin_key(&pin.network, pin.mac), Some(pin))
    }

    /// Deletes a pinned address, if it is present. The disk is updated when this returns.
    ///
    /// # Errors
    /// It is still stored.
    pub(crate) fn remove_pin(&self, network: &Name, mac: MacAddr) -> Result<(), StoreError> {
        self.write::<()>(Table::Pins, &pin_key(network, mac), None)
    }

    /// All names given by hand.
    pub(crate) fn names(&self) -> Vec<StaticName> {
        self.inner().parse(Table::Names, |name| name)
    }

    /// Stores a name given by hand, replacing what it meant. It is on the disk when this returns.
    ///
    /// # Errors
    /// It is not stored.
    pub(crate) fn put_name(&self, name: &StaticName) -> Result<(), StoreError> {
        self.write(Table::Names, &name_key(&name.network, &name.name), Some(name))
    }

    /// Deletes a name given by hand, if it is present. The disk is updated when this returns.
    ///
    /// # Errors
    /// It is still stored.
    pub(crate) fn remove_name(&self, network: &Name, name: &Name) -> Result<(), StoreError> {
        self.write::<()>(Table::Names, &name_key(network, name), None)
    }

    /// The networks of the file's last declaration.
    pub fn declared(&self) -> Vec<NetworkSpec> {
        self.inner().parse(Table::Declared, |network| network)
    }

    /// Replaces the file's last declaration. It is on the disk when this returns.
    ///
    /// # Errors
    /// The previous one remains.
    pub fn declare<'n>(&self, networks: impl IntoIterator<Item = &'n NetworkSpec>) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let before = inner.content.of(Table::Declared);
        let gone = before.map(|(key, _)| Change { table: Table::Declared, key: key.to_owned(), text: None });
        let mut changes: Vec<_> = gone.collect();
        for spec in networks {
            changes.retain(|it| it.key != spec.name.as_str());
            changes.push(inner.row(Table::Declared, spec.name.as_str(), Some(spec))?);
        }
        inner.change(changes)
    }

    /// Adopted networks, by their foreign ids.
    pub fn adoptions(&self) -> BTreeMap<Id, Name> {
        let adopted = self.inner().parse_rows(Table::Adopted, |id, name| Ok((id.parse::<Id>()?, name)));
        adopted.into_iter().collect()
    }

    /// Stores the network adopted as `id`; `None` deletes it. The disk is updated when this returns.
    ///
    /// # Errors
    /// The previous one remains.
    pub fn adopt(&self, id: &Id, network: Option<&Name>) -> Result<(), StoreError> {
        self.write(Table::Adopted, id.as_str(), network)
    }

    /// The addresses lent to other network drivers, with their subnets.
    pub fn lent(&self) -> BTreeMap<Lent, IpNet> {
        let lent = self.inner().parse_rows(Table::Lent, |address, subnet| Ok((address.parse()?, subnet)));
        lent.into_iter().collect()
    }

    /// Stores that addresses are lent, or no longer (`None`). The disk is updated when this returns.
    ///
    /// # Errors
    /// The previous ones remain.
    pub fn lend(&self, addresses: impl IntoIterator<Item = (Lent, Option<IpNet>)>) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let rows = addresses
            .into_iter()
            .map(|(address, subnet)| inner.row(Table::Lent, &address.to_string(), subnet.as_ref()))
            .collect::<Result<_, _>>()?;
        inner.change(rows)
    }

    /// `None` removes.
    fn write<S: Serialize>(&self, table: Table, key: &str, spec: Option<&S>) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let row = inner.row(table, key, spec)?;
        inner.change(vec![row])
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Memory changes last, so a panic midway leaves it unchanged.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    fn row<S: Serialize>(&self, table: Table, key: &str, spec: Option<&S>) -> Result<Change, StoreError> {
        let text = spec.map(serde_json::to_string).transpose();
        let text = text.map_err(|error| StoreError::of(&self.folder, error.into()))?;
        Ok(Change { table, key: key.to_owned(), text })
    }

    /// The valid rows of a table. Invalid ones are reported once and stay in place.
    fn parse<S: DeserializeOwned, T>(&mut self, table: Table, into: impl Fn(S) -> T) -> Vec<T> {
        self.parse_rows(table, |_, spec| Ok(into(spec)))
    }

    /// The same, of rows whose keys count as well.
    fn parse_rows<S: DeserializeOwned, T>(
        &mut self,
        table: Table,
        into: impl Fn(&str, S) -> Result<T, Box<dyn std::error::Error>>,
    ) -> Vec<T> {
        let mut parsed = Vec::new();
        for (key, text) in self.content.of(table) {
            match serde_json::from_str(text).map_err(Into::into).and_then(|spec| into(key, spec)) {
                Ok(row) => parsed.push(row),
                Err(error) => {
                    let note = format!("{key} among the {} of the store is left out: {error}", table.name());
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
            }
        }
        parsed
    }

    /// Applies those of `changes` that make a difference, all or none.
    fn change(&mut self, mut changes: Vec<Change>) -> Result<(), StoreError> {
        changes.retain(|change| self.content.is_changed_by(change));
        if changes.is_empty() { Ok(()) } else { self.write(changes) }
    }

    fn write(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        match self.settle().and_then(|()| self.append(&changes)) {
            Ok(()) => {
                self.content.apply(changes.iter().cloned());
                self.enliven(&changes);
                if self.trouble.take().is_some() {
                    info!("the store can be written again");
                }
                self.shorten();
                Ok(())
            }
            Err(error) => {
                let error = StoreError::of(&self.folder, error);
                self.begin_trouble(&error);
                Err(error)
            }
        }
    }

    /// The copy goes first: it is small, and where there is no room it refuses before the database is touched.
    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let (Slot::Open(database), Slot::Open(copy)) = (&self.database, &mut self.copy) else {
            return Err(io::Error::other("the store is not open"));
        };
        let (revision, before) = (self.revision + 1, copy.len());
        copy.append(revision, changes)?;
        if let Err(error) = database.commit(revision, changes) {
            copy.take_back(before);
            self.database = Slot::Unsure;
            return Err(error);
        }
        self.revision = revision;
        Ok(())
    }

    /// Opens what is not open, repairs what is damaged, and recreates what was removed meanwhile. The copy goes first: while
    /// the database is replaced, the copy has everything.
    fn settle(&mut self) -> io::Result<()> {
        self.settle_copy()?;
        self.settle_database()
    }

    fn settle_copy(&mut self) -> io::Result<()> {
        let path = self.folder.join(copy::NAME);
        let write = |aside: Option<&str>| Copy::write(&path, aside, self.id, self.revision, &self.content);
        let copy = match &self.copy {
            Slot::Open(copy) if copy.is_there() => return Ok(()),
            Slot::Open(_) | Slot::Unsure => write(None)?,
            Slot::Due(Mend::Renew(aside)) => write(aside.as_deref())?,
            Slot::Due(Mend::Keep) => Copy::open(&path)?,
        };
        self.copy = Slot::Open(copy);
        Ok(())
    }

    fn settle_database(&mut self) -> io::Result<()> {
        let Self { folder, id, revision, content, .. } = &*self;
        let mend = match &self.database {
            Slot::Open(database) if database.is_there(folder) => return Ok(()),
            Slot::Open(_) | Slot::Unsure => self.examine()?,
            Slot::Due(mend) => mend.clone(),
        };
        let database = match &mend {
            Mend::Renew(aside) => Database::write(folder, aside.as_deref(), *id, *revision, content)?,
            Mend::Keep => match Database::open(folder) {
                Ok(database) => database,
                Err(error) => {
                    // A repair may have begun.
                    self.database = Slot::Unsure;
                    return Err(error);
                }
            },
        };
        self.database = Slot::Open(database);
        Ok(())
    }

    /// How to treat a database that may contain a change that was not confirmed.
    fn examine(&self) -> io::Result<Mend> {
        let is_right = match database::find(&self.folder, &self.program)? {
            Found::Whole(it) => {
                (it.id, it.revision) == (Some(self.id), self.revision) && it.content == self.content
            }
            Found::Nothing | Found::Damaged(_) => false,
        };
        Ok(if is_right { Mend::Keep } else { Mend::Renew(None) })
    }

    /// Applies a change to the copy that lives as long as the host. It is best effort: a copy that cannot be written is
    /// removed, so it never has outdated content.
    fn enliven(&mut self, changes: &[Change]) {
        let Some(live) = &mut self.live else { return };
        let appended = match &mut live.copy {
            Some(copy) if copy.is_there() && !copy.is_long() => copy.append(self.revision, changes),
            _ => {
                let folder = live.path.parent().unwrap_or(&live.path);
                let written = fs::create_dir_all(folder)
                    .and_then(|()| Copy::write(&live.path, None, self.id, self.revision, &self.content));
                written.map(|copy| live.copy = Some(copy))
            }
        };
        if let Err(error) = appended {
            debug!("{}: {error}", live.path.display());
            live.copy = None;
            let _ = fs::remove_file(&live.path);
        }
    }

    /// Rewrites a long copy. On failure the long one stays in use.
    fn shorten(&mut self) {
        let Slot::Open(copy) = &self.copy else { return };
        if copy.is_long() {
            let path = self.folder.join(copy::NAME);
            match Copy::write(&path, None, self.id, self.revision, &self.content) {
                Ok(copy) => self.copy = Slot::Open(copy),
                Err(error) => debug!("cannot shorten the store's copy: {error}"),
            }
        }
    }

    fn begin_trouble(&mut self, why: &StoreError) {
        if self.trouble.is_none() {
            error!("nothing can be changed: {why}");
        }
        self.trouble = Some(Trouble { why: why.to_string(), tried: Instant::now() });
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Full { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

fn name_key(network: &Name, name: &Name) -> String {
    format!("{network}/{name}")
}

fn pin_key(network: &Name, mac: MacAddr) -> String {
    format!("{network}/{mac}")
}
