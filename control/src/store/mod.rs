//! What the API made, kept over restarts.
//!
//! One `redb` file in the state folder holds networks, ports and pinned addresses as JSON, the very text the
//! API speaks. Every method that changes something returns only when the change is on the disk. What the
//! file `net.toml` declares is not kept here: it has its place already.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

use vswitch::addr::MacAddr;

use crate::{
    api::types::StaticEntry,
    model::{EndpointSpec, Id, Name, NetworkSpec, PortSpec},
    state::{Kind, Record},
};

/// The version of the tables below. A change of their meaning raises it.
const VERSION: u64 = 2;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<'_, &str, &str> = TableDefinition::new("networks");
const PORTS: TableDefinition<'_, &str, &str> = TableDefinition::new("ports");
/// By id.
const ENDPOINTS: TableDefinition<'_, &str, &str> = TableDefinition::new("endpoints");
/// Addresses pinned to a port, by network and address.
const PINS: TableDefinition<'_, &str, &str> = TableDefinition::new("pins");

/// Networks as the file declared them last, by name.
const DECLARED: TableDefinition<'_, &str, &str> = TableDefinition::new("declared");

/// Networks that are called otherwise elsewhere, by the id they have there.
const ADOPTED: TableDefinition<'_, &str, &str> = TableDefinition::new("adopted");

/// An open store. One process has it at a time.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or the file cannot be read or written.
    #[error("{}: {source}: see that the folder exists and this user may write to it", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{}: another vswitchd uses this store: stop it, or set another [switch] state", .0.display())]
    Locked(PathBuf),
    /// It is damaged, or no store at all.
    #[error("{}: the store is damaged ({what}): restore it from a backup, or move it away to start without what the API made", path.display())]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A later vswitchd wrote it.
    #[error("{}: the store has version {found}, and this vswitchd knows {VERSION}: use the newer vswitchd", path.display())]
    Newer {
        /// The store's file.
        path: PathBuf,
        /// The version found.
        found: u64,
    },
}

impl Store {
    /// Opens the store in `folder`, which must exist, or begins one there.
    ///
    /// # Errors
    /// See [`StoreError`]. A file that is no store is left as it is.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, StoreError> {
        let folder = folder.as_ref();
        let path = folder.join("store.redb");
        // Without this check redb trusts the file, and may panic over a damaged one. It reads the whole
        // file, which is small.
        let database = Database::builder()
            .set_check_integrity_on_open(true)
            .create(&path)
            .map_err(|error| refused(&path, error))?;
        let store = Self { database, path };
        store.agree_on_version()?;
        // A new file survives a power cut only if its folder's entry does.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| store.io(error))?;
        Ok(store)
    }

    /// Everything kept: networks first, each kind by name.
    ///
    /// # Errors
    /// It cannot be read, or is no network or port.
    pub fn load(&self) -> Result<Vec<Record>, StoreError> {
        let networks = self.read(NETWORKS)?.into_iter().map(|spec| Record::Network(Arc::new(spec)));
        let ports = self.read(PORTS)?.into_iter().map(|spec| Record::Port(Arc::new(spec)));
        let endpoints = self.read(ENDPOINTS)?.into_iter().map(|spec| Record::Endpoint(Arc::new(spec)));
        Ok(networks.chain(ports).chain(endpoints).collect())
    }

    /// Keeps a record, in the place of another of its kind and name. On the disk when this returns.
    ///
    /// # Errors
    /// It is not kept.
    pub fn put(&self, record: &Record) -> Result<(), StoreError> {
        match record {
            Record::Network(spec) => self.put_network(spec),
            Record::Port(spec) => self.put_port(spec),
            Record::Endpoint(spec) => self.write(ENDPOINTS, spec.id.as_str(), Some(&**spec)),
        }
    }

    /// As [`Store::put`].
    ///
    /// # Errors
    /// It is not kept.
    pub fn put_network(&self, spec: &NetworkSpec) -> Result<(), StoreError> {
        self.write(NETWORKS, spec.name.as_str(), Some(spec))
    }

    /// As [`Store::put`].
    ///
    /// # Errors
    /// It is not kept.
    pub fn put_port(&self, spec: &PortSpec) -> Result<(), StoreError> {
        self.write(PORTS, spec.name.as_str(), Some(spec))
    }

    /// Keeps it no longer; what is not there stays not there. On the disk when this returns.
    ///
    /// # Errors
    /// It is kept still.
    pub fn remove(&self, kind: Kind, key: &str) -> Result<(), StoreError> {
        match kind {
            Kind::Network => self.write::<NetworkSpec>(NETWORKS, key, None),
            Kind::Port => self.write::<PortSpec>(PORTS, key, None),
            Kind::Endpoint => self.write::<EndpointSpec>(ENDPOINTS, key, None),
        }
    }

    /// The addresses pinned to ports.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn pins(&self) -> Result<Vec<StaticEntry>, StoreError> {
        self.read(PINS)
    }

    /// Keeps a pinned address, in the place of what it was pinned to before. On the disk when this returns.
    ///
    /// # Errors
    /// It is not kept.
    pub fn put_pin(&self, pin: &StaticEntry) -> Result<(), StoreError> {
        self.write(PINS, &pin_key(&pin.network, pin.mac), Some(pin))
    }

    /// Keeps a pinned address no longer; what is not there stays not there. On the disk when this returns.
    ///
    /// # Errors
    /// It is kept still.
    pub fn remove_pin(&self, network: &Name, mac: MacAddr) -> Result<(), StoreError> {
        self.write::<StaticEntry>(PINS, &pin_key(network, mac), None)
    }

    /// The networks that the file declared when it was read last.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn declared(&self) -> Result<Vec<NetworkSpec>, StoreError> {
        self.read(DECLARED)
    }

    /// Keeps what the file declares now, and nothing that it declared before. On the disk when this returns.
    ///
    /// # Errors
    /// It is as before.
    pub fn declare<'n>(&self, networks: impl IntoIterator<Item = &'n NetworkSpec>) -> Result<(), StoreError> {
        let texts = networks.into_iter().map(|spec| Ok((spec.name.as_str(), serde_json::to_string(spec)?)));
        let texts: BTreeMap<&str, String> =
            texts.collect::<serde_json::Result<_>>().map_err(|error| self.io(error.into()))?;
        self.attempt(|database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(DECLARED)?;
                table.retain(|name, _| texts.contains_key(name))?;
                for (name, text) in &texts {
                    table.insert(*name, text.as_str())?;
                }
            }
            Ok(transaction.commit()?)
        })
    }

    /// The network that was adopted under `id`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn adopted(&self, id: &Id) -> Result<Option<Name>, StoreError> {
        let text = self.attempt(|database| {
            let table = database.begin_read()?.open_table(ADOPTED)?;
            Ok(table.get(id.as_str())?.map(|text| text.value().to_owned()))
        })?;
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|error| self.corrupt(format!("{id}: {error}")))
        };
        text.map(parse).transpose()
    }

    /// Keeps under which `id` a network is adopted; `None`: under it no longer. On the disk when this returns.
    ///
    /// # Errors
    /// It is as before.
    pub fn adopt(&self, id: &Id, network: Option<&Name>) -> Result<(), StoreError> {
        self.write(ADOPTED, id.as_str(), network)
    }

    fn agree_on_version(&self) -> Result<(), StoreError> {
        let found = self.attempt(|database| {
            let transaction = database.begin_write()?;
            let found = {
                let mut meta = transaction.open_table(META)?;
                let found = meta.get("version")?.map_or(VERSION, |version| version.value());
                // An older store has fewer tables and keys, and nothing that means another thing now.
                if (1..=VERSION).contains(&found) {
                    meta.insert("version", VERSION)?;
                    VERSION
                } else {
                    found
                }
            };
            if found == VERSION {
                transaction.open_table(NETWORKS)?;
                transaction.open_table(PORTS)?;
                transaction.open_table(PINS)?;
                transaction.open_table(ENDPOINTS)?;
                transaction.open_table(ADOPTED)?;
                transaction.open_table(DECLARED)?;
                transaction.commit()?;
            }
            Ok(found)
        })?;
        match found {
            VERSION => Ok(()),
            found if found > VERSION => Err(StoreError::Newer { path: self.path.clone(), found }),
            found => Err(self.corrupt(format!("version {found} never was"))),
        }
    }

    fn read<S: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &str, &str>,
    ) -> Result<Vec<S>, StoreError> {
        let texts = self.attempt(|database| {
            let table = database.begin_read()?.open_table(table)?;
            let mut texts = Vec::new();
            for row in table.iter()? {
                let (name, text) = row?;
                texts.push((name.value().to_owned(), text.value().to_owned()));
            }
            Ok(texts)
        })?;
        let parse = |(name, text): (String, String)| {
            serde_json::from_str(&text).map_err(|error| self.corrupt(format!("{name}: {error}")))
        };
        texts.into_iter().map(parse).collect()
    }

    /// `None` removes. redb's transactions are durable once committed, unless told otherwise.
    fn write<S: Serialize>(
        &self,
        table: TableDefinition<'_, &str, &str>,
        key: &str,
        spec: Option<&S>,
    ) -> Result<(), StoreError> {
        let text = spec.map(serde_json::to_string).transpose().map_err(|error| self.io(error.into()))?;
        self.attempt(|database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(table)?;
                match text.as_deref() {
                    Some(text) => table.insert(key, text)?,
                    None => table.remove(key)?,
                };
            }
            Ok(transaction.commit()?)
        })
    }

    fn attempt<T>(&self, job: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        job(&self.database).map_err(|error| match error {
            redb::Error::Io(source) => self.io(source),
            other => self.corrupt(other.to_string()),
        })
    }

    fn io(&self, source: io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), source }
    }

    fn corrupt(&self, what: String) -> StoreError {
        StoreError::Corrupt { path: self.path.clone(), what }
    }
}

fn pin_key(network: &Name, mac: MacAddr) -> String {
    format!("{network}/{mac}")
}

/// Why the file could not be opened. redb reports a foreign file as invalid data.
fn refused(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path),
        DatabaseError::Storage(StorageError::Io(source))
            if !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Io { path, source }
        }
        other => StoreError::Corrupt { path, what: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn network(name: &str, vlan: u16) -> NetworkSpec {
        serde_json::from_value(serde_json::json!({ "name": name, "vlan": vlan })).unwrap()
    }

    fn port(name: &str) -> PortSpec {
        let value = serde_json::json!({
            "name": name, "network": "blue", "kind": "tap", "netns": "web", "address": ["10.9.0.2/24"],
            "mac": "02:42:0a:09:00:02", "storm": { "broadcast": 5 }, "isolated": true, "limit": { "rx": "5 Gbit/s", "rx_burst": 7 },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load().unwrap(), []);
        store.put_network(&network("blue", 1)).unwrap();
        store.put_network(&network("blue", 2)).unwrap();
        store.put_network(&network("red", 3)).unwrap();
        store.put_port(&port("web")).unwrap();
        store.remove(Kind::Network, "red").unwrap();
        store.remove(Kind::Port, "never").unwrap();
        drop(store);
        let expected = [Record::Network(network("blue", 2).into()), Record::Port(port("web").into())];
        assert_eq!(Store::open(folder.path()).unwrap().load().unwrap(), expected);
    }

    #[test]
    fn what_the_file_declared_last() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.declare(&[network("blue", 1), network("red", 2)]).unwrap();
        store.declare(&[network("blue", 3)]).unwrap();
        assert_eq!(store.declared().unwrap(), [network("blue", 3)]);
        assert_eq!(store.load().unwrap(), []);
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let _store = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Locked(_)), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there() {
        let error = Store::open("/nonexistent/vswitch").unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/vswitch/store.redb: No such file"), "{error}");
    }

    #[test]
    fn a_newer_version() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 3, .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_store() {
        for content in [b"no store at all".to_vec(), vec![0x5a; 1 << 16]] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store.redb");
            fs::write(&path, &content).unwrap();
            let error = Store::open(folder.path()).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), content, "it is left as it was");
        }
    }

    /// A store that lost its end, or has a hole, is an error or still right; it never panics.
    #[test]
    fn a_store_that_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Store::open(folder.path()).unwrap();
        for vlan in 1..50 {
            store.put_network(&network(&format!("n{vlan}"), vlan)).unwrap();
        }
        let expected = store.load().unwrap();
        drop(store);
        let whole = fs::read(&path).unwrap();
        let mut noticed = 0;
        for start in (0..whole.len()).step_by(whole.len() / 32) {
            let mut hole = whole.clone();
            hole[start..][..64].fill(0xa5);
            for damaged in [&whole[..start], &hole[..]] {
                fs::write(&path, damaged).unwrap();
                match Store::open(folder.path()).and_then(|store| store.load()) {
                    Ok(found) => assert!(found == expected || damaged.is_empty(), "{start}: {found:?}"),
                    Err(StoreError::Corrupt { .. }) => noticed += 1,
                    Err(other) => panic!("{start}: {other}"),
                }
            }
        }
        assert!(noticed > 0);
    }

    #[test]
    fn a_record_that_is_no_port() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(PORTS).unwrap().insert("web", r#"{"name": "web"}"#).unwrap();
        transaction.commit().unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("the store is damaged (web: network: missing"), "{error}");
    }
}
