//! What the API made, kept over restarts.
//!
//! Networks, ports, endpoints and pinned addresses are kept as JSON, the very text the API speaks. What the file `net.toml`
//! declares has its place already; of that only what it declared last is kept. Everything lies in memory and, twice, on the
//! disk: in a database by redb, and in a copy of lines. A method that changes something returns only when both have it;
//! if either fails, neither has it, and whatever was there goes on.
//!
//! | file | |
//! |---|---|
//! | `store.redb` | the database |
//! | `store.copy` | the copy |
//! | `store.redb.v2` | the database as an older version of the program left it |
//! | `store.redb.damaged-TIME`, `store.copy.damaged-TIME` | what was found damaged; the latest four of each |
//! | the API's socket with `.store` behind its name | a further copy, in memory as a rule: what runs, while the host is up |
//!
//! At the start both are read, the database in a process of its own (`apart`), and held against each other (`recover`): whatever
//! is wrong with one is mended from the other and told in [`Store::notes`]. A disk that is full or cannot be written
//! keeps no start from succeeding; changes are refused until it can be.

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
use vswitch_model::{Error, ErrorKind, Id, Name, NetworkSpec, PortSpec, api::StaticEntry};

/// The version of the store's form on the disk. A change of its meaning raises it.
///
/// 1 and 2 had no copy, and no revision to hold it against.
const VERSION: u64 = 3;

/// The program that runs, whatever has become of its file.
const PROGRAM: &str = "/proc/self/exe";

/// How often it is tried whether a store that could not be written can be by now.
const RETRY: Duration = Duration::from_secs(10);

/// Where the copy is kept that goes when the host does: the API's socket with `.store` behind its name.
pub(crate) fn live_path(api: &Path) -> PathBuf {
    let mut path = api.as_os_str().to_owned();
    path.push(".store");
    path.into()
}

/// An open store. One process has it at a time.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    /// What reads a database that may be damaged.
    program: PathBuf,
    id: u64,
    /// How many changes were made.
    revision: u64,
    content: Content,
    database: Slot<Database>,
    copy: Slot<Copy>,
    live: Option<Live>,
    /// What was found wrong when it was opened, and what came of it.
    notes: Vec<String>,
    has_lost: bool,
    trouble: Option<Trouble>,
}

/// One of the two places on the disk.
#[derive(Debug)]
enum Slot<T> {
    Open(T),
    /// As it was found; this is still to be done.
    Due(Mend),
    /// Something failed in the middle of a change, or it is not where it was: it may be anything.
    Unsure,
}

/// The copy that lives as long as the host is up.
#[derive(Debug)]
struct Live {
    path: PathBuf,
    /// None where it could not be written; then it is tried again with the next change.
    copy: Option<Copy>,
}

/// Why nothing can be changed.
#[derive(Debug)]
struct Trouble {
    why: String,
    tried: Instant,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file cannot be read or written.
    #[error("{}: {source}: see that the folder exists and this user may write to it", path.display())]
    Io {
        /// The folder or the file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is full, or what this user may have of it.
    #[error("the disk with {} is full ({source}): nothing was changed, and what is there goes on; make room and try again", folder.display())]
    Full {
        /// The store's folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{}: another vswitchd uses this store: stop it, or set another [switch] state", .0.display())]
    Locked(PathBuf),
    /// A later vswitchd wrote it.
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
    /// Opens the store in `folder`, which must exist, or begins one there. What was damaged is mended, and told in
    /// [`Store::notes`]. `live` is where a further copy is kept that goes when the host does.
    ///
    /// # Errors
    /// It cannot be read, another process has it, or a newer program wrote it. It is left as it is.
    pub fn open(folder: &Path, live: &Path) -> Result<Self, StoreError> {
        Self::open_with(folder, Some(live), Path::new(PROGRAM))
    }

    /// The same, where `program` is the vswitchd that reads the database in a process of its own.
    ///
    /// # Errors
    /// As [`Store::open`].
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
            // What is known is known: changes are refused until it can be written.
            Err(error) => inner.begin_trouble(&StoreError::of(folder, error)),
        }
        inner.enliven(&[]);
        [database::NAME, copy::NAME].iter().for_each(|name| file::prune(folder, name));
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// What was found wrong when it was opened, and what came of it: a sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.inner().notes.clone()
    }

    /// Whether something that was kept may have been missing when it was opened: a part of it could not be read, or there was
    /// nothing at all.
    pub fn has_lost(&self) -> bool {
        self.inner().has_lost
    }

    /// What an operator should know: the [notes](Store::notes), and why nothing can be changed at the moment.
    pub fn warnings(&self) -> Vec<String> {
        let notes = self.inner().notes.clone();
        notes.into_iter().chain(self.trouble()).collect()
    }

    /// Why nothing can be changed at the moment, if so.
    pub fn trouble(&self) -> Option<String> {
        self.inner().trouble.as_ref().map(|trouble| format!("nothing can be changed: {}", trouble.why))
    }

    /// Tries, now and then, whether a store that could not be written can be by now.
    pub fn retry(&self) {
        let mut inner = self.inner();
        if inner.trouble.as_ref().is_some_and(|trouble| trouble.tried.elapsed() >= RETRY) {
            // A change that changes nothing. What comes of it is told by `write`.
            let _ = inner.write(Vec::new());
        }
    }

    /// Everything kept: networks first, each kind by name. What is no network, port or endpoint is left out, and told.
    pub fn load(&self) -> Vec<Record> {
        let mut inner = self.inner();
        let networks = inner.parse(Table::Networks, |spec| Record::Network(Arc::new(spec)));
        let ports = inner.parse(Table::Ports, |spec| Record::Port(Arc::new(spec)));
        let endpoints = inner.parse(Table::Endpoints, |spec| Record::Endpoint(Arc::new(spec)));
        networks.into_iter().chain(ports).chain(endpoints).collect()
    }

    /// Keeps a record, in the place of another of its kind and name. On the disk when this returns.
    ///
    /// # Errors
    /// It is not kept.
    pub fn put(&self, record: &Record) -> Result<(), StoreError> {
        match record {
            Record::Network(spec) => self.put_network(spec),
            Record::Port(spec) => self.put_port(spec),
            Record::Endpoint(spec) => self.write(Table::Endpoints, spec.id.as_str(), Some(&**spec)),
        }
    }

    /// As [`Store::put`].
    ///
    /// # Errors
    /// It is not kept.
    pub fn put_network(&self, spec: &NetworkSpec) -> Result<(), StoreError> {
        self.write(Table::Networks, spec.name.as_str(), Some(spec))
    }

    /// As [`Store::put`].
    ///
    /// # Errors
    /// It is not kept.
    pub fn put_port(&self, spec: &PortSpec) -> Result<(), StoreError> {
        self.write(Table::Ports, spec.name.as_str(), Some(spec))
    }

    /// Keeps it no longer; what is not there stays not there. On the disk when this returns.
    ///
    /// # Errors
    /// It is kept still.
    pub fn remove(&self, kind: Kind, key: &str) -> Result<(), StoreError> {
        let table = match kind {
            Kind::Network => Table::Networks,
            Kind::Port => Table::Ports,
            Kind::Endpoint => Table::Endpoints,
        };
        self.write::<()>(table, key, None)
    }

    /// The addresses pinned to ports.
    pub fn pins(&self) -> Vec<StaticEntry> {
        self.inner().parse(Table::Pins, |pin| pin)
    }

    /// Keeps a pinned address, in the place of what it was pinned to before. On the disk when this returns.
    ///
    /// # Errors
    /// It is not kept.
    pub fn put_pin(&self, pin: &StaticEntry) -> Result<(), StoreError> {
        self.write(Table::Pins, &pin_key(&pin.network, pin.mac), Some(pin))
    }

    /// Keeps a pinned address no longer; what is not there stays not there. On the disk when this returns.
    ///
    /// # Errors
    /// It is kept still.
    pub fn remove_pin(&self, network: &Name, mac: MacAddr) -> Result<(), StoreError> {
        self.write::<()>(Table::Pins, &pin_key(network, mac), None)
    }

    /// The networks that the file declared when it was read last.
    pub fn declared(&self) -> Vec<NetworkSpec> {
        self.inner().parse(Table::Declared, |network| network)
    }

    /// Keeps what the file declares now, and nothing that it declared before. On the disk when this returns.
    ///
    /// # Errors
    /// It is as before.
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

    /// The networks that were adopted, by the ids they are known under.
    pub fn adoptions(&self) -> BTreeMap<Id, Name> {
        let adopted = self.inner().parse_rows(Table::Adopted, |id, name| Ok((id.parse::<Id>()?, name)));
        adopted.into_iter().collect()
    }

    /// Keeps under which `id` a network is adopted; `None`: under it no longer. On the disk when this returns.
    ///
    /// # Errors
    /// It is as before.
    pub fn adopt(&self, id: &Id, network: Option<&Name>) -> Result<(), StoreError> {
        self.write(Table::Adopted, id.as_str(), network)
    }

    /// `None` removes.
    fn write<S: Serialize>(&self, table: Table, key: &str, spec: Option<&S>) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let row = inner.row(table, key, spec)?;
        inner.change(vec![row])
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // What is in memory changes last, so a panic on the way leaves it as it was.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    fn row<S: Serialize>(&self, table: Table, key: &str, spec: Option<&S>) -> Result<Change, StoreError> {
        let text = spec.map(serde_json::to_string).transpose();
        let text = text.map_err(|error| StoreError::of(&self.folder, error.into()))?;
        Ok(Change { table, key: key.to_owned(), text })
    }

    /// The rows of a table that are what they should be; others are told once, and stay where they are.
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

    /// Makes those of `changes` that make a difference, all or none.
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

    /// To the copy first: it is small, and where there is no room it refuses before the database is touched.
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

    /// Opens what is not open, mends what is to be mended, and puts back what was taken away meanwhile. The copy first: while
    /// the database is being replaced, everything is there.
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
                    // It may have begun to repair something.
                    self.database = Slot::Unsure;
                    return Err(error);
                }
            },
        };
        self.database = Slot::Open(database);
        Ok(())
    }

    /// What is to be done with a database of which something may have been written that was not answered.
    fn examine(&self) -> io::Result<Mend> {
        let is_right = match database::find(&self.folder, &self.program)? {
            Found::Whole(it) => {
                (it.id, it.revision) == (Some(self.id), self.revision) && it.content == self.content
            }
            Found::Nothing | Found::Damaged(_) => false,
        };
        Ok(if is_right { Mend::Keep } else { Mend::Renew(None) })
    }

    /// Follows a change in the copy that lives as long as the host is up. Nobody relies on it: if it cannot be written, there is
    /// none, so that it never says what was true once.
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

    /// Writes a copy anew that has grown long. If that fails, the long one serves.
    fn shorten(&mut self) {
        let Slot::Open(copy) = &self.copy else { return };
        if copy.is_long() {
            let path = self.folder.join(copy::NAME);
            match Copy::write(&path, None, self.id, self.revision, &self.content) {
                Ok(copy) => self.copy = Slot::Open(copy),
                Err(error) => debug!("the store's copy stays long: {error}"),
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

fn pin_key(network: &Name, mac: MacAddr) -> String {
    format!("{network}/{mac}")
}
