//! What a store has, in one file, and how an emptied store gets it back.
//!
//! A backup is of records, not of etcd's own data: it can be read, and put into any store. Only what is missing is put back;
//! the hosts, which notice that the history is another, put their own records again.

use std::fs;

use tracing::info;
use vswitch_cluster::{
    keys::Key,
    record::{Meta, Record},
    store::{Op, Store, Txn},
};
use vswitch_model::{Error, api::cluster as api};

use super::session::Session;

/// Keys of one transaction: etcd allows 128 operations.
const AT_ONCE: usize = 100;

/// What the store has, as far as this host knows.
pub(super) fn of(session: &Session) -> Result<api::Backup, Error> {
    let mirror = session.cluster().mirror();
    let value = |record: &Record| serde_json::from_slice(&record.write());
    let entries = mirror
        .entries()
        .map(|(key, record)| Ok((key.to_string(), value(record)?)))
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(api::Backup { cluster: session.member.cluster.clone(), revision: mirror.revision(), entries })
}

/// Puts back what the store lacks of a backup.
pub(super) async fn put_back(session: &Session, restore: &api::Restore) -> Result<api::Restored, Error> {
    let file = &restore.file;
    let unreadable = |error: &dyn std::fmt::Display| Error::invalid(format!("{file} is no backup: {error}"));
    let text = fs::read_to_string(file).map_err(|error| unreadable(&error))?;
    let backup: api::Backup = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
    if backup.cluster != session.member.cluster {
        return Err(Error::conflict(format!(
            "{file} is of cluster {}, and this host is in {}",
            backup.cluster.short(),
            session.member.cluster.short()
        )));
    }
    let lost = |error: vswitch_cluster::store::StoreError| Error::unavailable(error.to_string());
    let prefix = &session.member.prefix;
    let there = session.store().list(prefix).await.map_err(lost)?;
    let is_there = |key: &Key| there.entries.iter().any(|it| it.key == format!("{prefix}{key}"));
    let mut puts = Vec::new();
    for (key, value) in &backup.entries {
        let read = key.parse::<Key>().ok().and_then(|key| {
            let record = Record::read(&key, value.to_string().as_bytes()).ok()?;
            Some((key, record))
        });
        let (key, record) = read.ok_or_else(|| unreadable(&format!("{key} is of another version")))?;
        if !is_there(&key) {
            let record = match record {
                Record::Meta(meta) => Record::Meta(Meta { restored: meta.restored + 1, ..meta }),
                other => other,
            };
            puts.push((key, record));
        }
    }
    // The hosts follow the store as soon as it says whose it is: that comes last.
    puts.sort_by_key(|(key, _)| *key == Key::Meta);
    let ops: Vec<Op> = puts
        .iter()
        .map(|(key, record)| Op::Put { key: format!("{prefix}{key}"), value: record.write(), lease: None })
        .collect();
    for some in ops.chunks(AT_ONCE) {
        session.store().transact(Txn { when: Vec::new(), then: some.to_vec() }).await.map_err(lost)?;
    }
    info!(keys = ops.len(), "put back into the cluster's store");
    Ok(api::Restored { keys: u32::try_from(ops.len()).unwrap_or(u32::MAX) })
}
