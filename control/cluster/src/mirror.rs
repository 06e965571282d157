//! This host's copy of the store: what it has heard, in the order in which it happened.
//!
//! Entries go by an observed deletion, or by a listing of the same store that does not have them. After a restore of the store
//! from a backup an entry that the backup does not have is no deletion: it stays as a *ghost* until its owner had the time to
//! put it again.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch_model::Name;

use crate::{
    keys::{Key, Short},
    record::{Block, Endpoint, Meta, Record},
    store::{Batch, Census, Event, Listing, Revision},
};

/// A record and the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The record.
    pub record: Record,
    /// The revision.
    pub modified: Revision,
}

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    prefix: String,
    store: u64,
    revision: Revision,
    entries: BTreeMap<Key, Entry>,
    /// Keys below the prefix that this version cannot read, with their revisions.
    unreadable: BTreeMap<String, Revision>,
    ghosts: BTreeMap<Key, Entry>,
    /// The number of restores that this copy has seen: see [`Meta::restored`].
    history: u32,
    /// The blocks that its host held, if it was loaded.
    held: Option<BTreeMap<Key, Block>>,
}

/// What a listing was, compared with the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resync {
    /// Whether its history is another: a backup was restored.
    pub restored: bool,
    /// The keys that differed.
    pub changed: Vec<Key>,
}

impl Mirror {
    /// An empty copy of the keys below `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..Self::default() }
    }

    /// Identity of the store.
    pub(crate) fn store(&self) -> u64 {
        self.store
    }

    /// The number of restores that it has seen. The store counts fewer until a host has told it.
    pub(crate) fn history(&self) -> u32 {
        self.history
    }

    /// How many restores the store counts.
    pub(crate) fn counted(&self) -> u32 {
        self.meta().map_or(0, |meta| meta.restored)
    }

    /// The blocks that its host held when it was saved; none are told of a copy that was not loaded.
    pub(crate) fn take_held(&mut self) -> Option<BTreeMap<Key, Block>> {
        self.held.take()
    }

    /// The prefix of all keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The revision up to which it is complete; 0 before the first listing.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// A key with its prefix.
    pub fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What the store must have at this revision if the copy is right.
    pub fn census(&self) -> Census {
        let modified = self.entries.values().map(|entry| entry.modified);
        Census::of(modified.chain(self.unreadable.values().copied()))
    }

    /// Number of keys that this version cannot read.
    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// Number of entries that only a history has that was overwritten by a restore.
    pub fn ghosts(&self) -> usize {
        self.ghosts.len()
    }

    /// The meta record of a listing.
    pub fn meta_of(&self, listing: &Listing) -> Option<Meta> {
        let key = self.full(&Key::Meta);
        let entry = listing.entries.iter().find(|entry| entry.key == key)?;
        serde_json::from_slice(&entry.value).ok()
    }

    /// Takes over a listing: the difference only.
    pub fn resync(&mut self, listing: Listing) -> Resync {
        let before = (self.store, self.revision);
        let mut entries = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for entry in listing.entries {
            let Some(text) = entry.key.strip_prefix(&self.prefix) else { continue };
            let read = text.parse().ok().and_then(|key| Some((Record::read(&key, &entry.value).ok()?, key)));
            match read {
                Some((record, key)) => drop(entries.insert(key, Entry { record, modified: entry.modified })),
                None => drop(unreadable.insert(entry.key, entry.modified)),
            }
        }
        let unlike = entries.iter().filter(|(key, entry)| self.entries.get(key) != Some(entry));
        let missing = self.entries.keys().filter(|key| !entries.contains_key(key));
        let changed: Vec<Key> = unlike.map(|(key, _)| key).chain(missing).cloned().collect();
        let known = before.1 > 0;
        let old = std::mem::replace(&mut self.entries, entries);
        (self.store, self.revision, self.unreadable) = (listing.store, listing.revision, unreadable);
        let is_other = known && (before.0 != self.store || listing.revision < before.1);
        let is_counted = self.counted() > self.history;
        self.history = self.counted().max(self.history + u32::from(is_other && !is_counted));
        if is_other || known && is_counted {
            let lost = old.into_iter().filter(|(key, _)| is_haunting(key) && !self.entries.contains_key(key));
            self.ghosts.extend(lost);
            self.lay_present();
            return Resync { restored: true, changed };
        }
        self.lay_present();
        Resync { restored: false, changed }
    }

    /// A ghost whose key is there again is none.
    fn lay_present(&mut self) {
        self.ghosts.retain(|key, _| !self.entries.contains_key(key));
    }

    /// Takes over events, and returns the changed keys. Events that are not news are skipped.
    pub fn apply(&mut self, batch: Batch) -> Vec<Key> {
        let mut changed = Vec::new();
        for event in batch.events {
            let Some(text) = event.key().strip_prefix(&self.prefix) else { continue };
            let key = text.parse::<Key>().ok();
            changed.extend(key.clone());
            match event {
                Event::Put(entry) if entry.modified > self.revision => {
                    let record = key.clone().and_then(|key| Record::read(&key, &entry.value).ok());
                    match (key, record) {
                        (Some(key), Some(record)) => {
                            self.ghosts.remove(&key);
                            self.unreadable.remove(&entry.key);
                            self.entries.insert(key, Entry { record, modified: entry.modified });
                        }
                        (key, _) => {
                            if let Some(key) = key {
                                self.entries.remove(&key);
                            }
                            self.unreadable.insert(entry.key, entry.modified);
                        }
                    }
                }
                Event::Delete { key: text, revision } if revision > self.revision => {
                    self.unreadable.remove(&text);
                    if let Some(key) = key {
                        self.ghosts.remove(&key);
                        self.entries.remove(&key);
                    }
                }
                Event::Put(_) | Event::Delete { .. } => {}
            }
        }
        self.revision = self.revision.max(batch.revision);
        changed
    }

    /// Ends ghosts for which this does not hold.
    pub(crate) fn lay(&mut self, haunts: impl Fn(&Key, &Record) -> bool) -> Vec<Key> {
        let mut laid = Vec::new();
        self.ghosts.retain(|key, entry| {
            let stays = haunts(key, &entry.record);
            if !stays {
                laid.push(key.clone());
            }
            stays
        });
        laid
    }

    /// The entry of a key; none for a ghost.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Whether the key is there, or is a ghost.
    pub fn holds(&self, key: &Key) -> bool {
        self.entries.contains_key(key) || self.ghosts.contains_key(key)
    }

    pub(crate) fn ghostly(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.ghosts.iter().map(|(key, entry)| (key, &entry.record))
    }

    /// All entries and ghosts between two keys.
    fn between(&self, first: Key, last: Key) -> impl Iterator<Item = (&Key, &Entry)> {
        let range = first..=last;
        self.entries.range(range.clone()).chain(self.ghosts.range(range))
    }

    /// The cluster as a whole.
    pub fn meta(&self) -> Option<&Meta> {
        match &self.get(&Key::Meta)?.record {
            Record::Meta(meta) => Some(meta),
            _ => None,
        }
    }

    /// All hosts, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &std::sync::Arc<crate::record::Node>)> {
        // Behind the two keys that are there once.
        let hosts = self.entries.range(Key::Pools..).skip_while(|(key, _)| **key == Key::Pools);
        hosts.map_while(|(key, entry)| match (key, &entry.record) {
            (Key::Node(name), Record::Node(node)) => Some((name, node)),
            _ => None,
        })
    }

    /// The hosts that were removed.
    pub fn removed(&self) -> impl Iterator<Item = &Name> {
        self.entries.keys().filter_map(|key| match key {
            Key::Gone(name) => Some(name),
            _ => None,
        })
    }

    /// All networks.
    pub fn networks(&self) -> impl Iterator<Item = &std::sync::Arc<vswitch_model::NetworkSpec>> {
        let [first, last] = Short::ALL.map(Key::Network);
        self.between(first, last).filter_map(|(_, entry)| match &entry.record {
            Record::Network(network) => Some(network),
            _ => None,
        })
    }

    /// All blocks of a network.
    pub fn blocks(&self, network: Short) -> impl Iterator<Item = &Block> {
        let first = Key::Block(network, std::net::Ipv4Addr::UNSPECIFIED.into());
        let last = Key::Block(network, std::net::Ipv6Addr::from_bits(u128::MAX).into());
        self.between(first, last).filter_map(|(_, entry)| match &entry.record {
            Record::Block(block) => Some(block),
            _ => None,
        })
    }

    /// All endpoints of a network, with the revisions of their records.
    pub fn endpoints(&self, network: Short) -> impl Iterator<Item = (&std::sync::Arc<Endpoint>, Revision)> {
        let [first, last] = Short::ALL.map(|endpoint| Key::Endpoint(network, endpoint));
        self.between(first, last).filter_map(|(_, entry)| match &entry.record {
            Record::Endpoint(endpoint) => Some((endpoint, entry.modified)),
            _ => None,
        })
    }

    /// All services, by network and name.
    pub fn services(&self) -> impl Iterator<Item = &std::sync::Arc<vswitch_model::ServiceSpec>> {
        // No network has this id, so any name will do; the last of them is followed by another kind of key.
        let first = Key::Service(Short::ALL[0], Name::unnamed());
        let is_one = |(key, _): &(&Key, &Entry)| matches!(key, Key::Service(..));
        let all = [&self.entries, &self.ghosts].into_iter();
        all.flat_map(move |entries| entries.range(first.clone()..).take_while(is_one)).filter_map(
            |(_, entry)| match &entry.record {
                Record::Service(service) => Some(service),
                _ => None,
            },
        )
    }

    /// Everything that one host alone writes, with the revisions.
    pub fn owned<'m>(&'m self, host: &'m Name) -> impl Iterator<Item = (&'m Key, &'m Entry)> {
        self.entries.iter().filter(move |(_, entry)| entry.record.owner() == Some(host))
    }

    /// Every subnet of every network.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.networks().flat_map(|network| network.subnets.iter().map(|it| it.subnet))
    }

    /// Everything but the signs of life: keys without their prefix, with their values.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Record)> {
        let lasting = self.entries.iter().filter(|(key, _)| !matches!(key, Key::Alive(_)));
        lasting.map(|(key, entry)| (key, &entry.record))
    }

    /// The copy as it is kept on disk, with the blocks that this host holds; of endpoints only when it is to be `whole`.
    pub fn save(&self, held: &BTreeMap<Key, Block>, whole: bool) -> Saved {
        let text = |record: &Record| String::from_utf8_lossy(&record.write()).into_owned();
        let rows = |entries: &BTreeMap<Key, Entry>| {
            entries
                .iter()
                .filter(|(key, _)| whole || !matches!(key, Key::Endpoint(..)))
                .map(|(key, entry)| (key.to_string(), entry.modified, text(&entry.record)))
                .collect()
        };
        let held = held.iter().map(|(key, block)| (key.to_string(), block.clone())).collect();
        Saved {
            prefix: self.prefix.clone(),
            store: self.store,
            revision: self.revision,
            entries: rows(&self.entries),
            ghosts: rows(&self.ghosts),
            history: self.history,
            held: Some(held),
        }
    }

    /// The copy that was kept on disk. What it cannot read it leaves out, and the next listing brings.
    pub fn load(saved: Saved) -> Self {
        let read = |rows: Vec<(String, Revision, String)>| {
            let entry = |(key, modified, text): (String, Revision, String)| {
                let key: Key = key.parse().ok()?;
                let record = Record::read(&key, text.as_bytes()).ok()?;
                Some((key, Entry { record, modified }))
            };
            rows.into_iter().filter_map(entry).collect()
        };
        Self {
            prefix: saved.prefix,
            store: saved.store,
            revision: saved.revision,
            entries: read(saved.entries),
            unreadable: BTreeMap::new(),
            ghosts: read(saved.ghosts),
            history: saved.history,
            held: saved.held.map(|held| {
                held.into_iter().filter_map(|(key, block)| Some((key.parse().ok()?, block))).collect()
            }),
        }
    }
}

impl Saved {
    /// A whole copy that is brought up to date by a later one without endpoints. What that lacks of them the next listing brings.
    pub fn with_plan(self, plan: Self) -> Self {
        if (plan.history, plan.revision) < (self.history, self.revision) {
            return self;
        }
        let endpoints = self.entries.into_iter().filter(|(key, _, _)| key.starts_with("ep/"));
        let entries = plan.entries.into_iter().chain(endpoints).collect();
        let ghosts = self.ghosts.into_iter().filter(|(key, _, _)| key.starts_with("ep/"));
        Self { entries, ghosts: plan.ghosts.into_iter().chain(ghosts).collect(), ..plan }
    }
}

/// Whether the loss of such a key in a restore is no deletion.
fn is_haunting(key: &Key) -> bool {
    match key {
        Key::Node(_)
        | Key::Network(_)
        | Key::NetworkName(_)
        | Key::Vni(_)
        | Key::Block(..)
        | Key::Service(..)
        | Key::ServiceName(_)
        | Key::Vip(..)
        | Key::Port(..)
        | Key::Endpoint(..) => true,
        Key::Meta | Key::Pools | Key::Alive(_) | Key::Gone(_) => false,
    }
}

/// A [`Mirror`] on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    prefix: String,
    store: u64,
    revision: Revision,
    entries: Vec<(String, Revision, String)>,
    #[serde(default)]
    ghosts: Vec<(String, Revision, String)>,
    #[serde(default)]
    history: u32,
    #[serde(default)]
    held: Option<Vec<(String, Block)>>,
}
