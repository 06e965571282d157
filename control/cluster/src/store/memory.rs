//! The engine in memory: a store without a process, for tests and simulations. Its clock is the caller's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    Batch, Census, Compare, Done, Event, KeyValue, LeaseId, Listing, Op, Revision, Store, StoreError, Txn,
    Watch,
};

/// The content of a store, without I/O and without a clock of its own. A clone is a backup.
#[derive(Clone, Debug)]
pub struct Content {
    id: u64,
    revision: Revision,
    /// The oldest revision whose events are still there.
    oldest: Revision,
    entries: BTreeMap<String, (KeyValue, Option<LeaseId>)>,
    history: BTreeMap<Revision, Vec<Event>>,
    leases: HashMap<LeaseId, Lease>,
    next_lease: LeaseId,
    now: Duration,
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    ends: Duration,
}

impl Content {
    /// An empty store of that identity.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            revision: 1,
            oldest: 1,
            entries: BTreeMap::new(),
            history: BTreeMap::new(),
            leases: HashMap::new(),
            next_lease: 1,
            now: Duration::ZERO,
        }
    }

    /// The present revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Becomes what `backup` was, its revision and its keys, as a store of this identity. Its leases are there again, and last as
    /// if they were kept alive just now: so does etcd.
    pub fn restore(&mut self, backup: &Self, id: u64) {
        let now = self.now;
        *self = Self { now, id, ..backup.clone() };
        self.leases.values_mut().for_each(|lease| lease.ends = now + lease.ttl);
    }

    /// All keys that begin with `prefix`.
    pub fn list(&self, prefix: &str) -> Listing {
        let entries = self.below(prefix).cloned().collect();
        Listing { store: self.id, revision: self.revision, entries }
    }

    /// What is below `prefix`. Only the present revision is kept, so an older one is refused as compacted.
    ///
    /// # Errors
    /// [`StoreError::Compacted`].
    pub fn census(&self, prefix: &str, revision: Revision) -> Result<Census, StoreError> {
        if self.history.range(revision + 1..).any(|(_, events)| touches(events, prefix)) {
            return Err(StoreError::Compacted(self.revision));
        }
        Ok(Census::of(self.below(prefix).map(|entry| entry.modified)))
    }

    fn below<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = &'s KeyValue> {
        let range = self.entries.range(prefix.to_owned()..);
        range.take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, entry)| &entry.0)
    }

    /// Executes a transaction.
    ///
    /// # Errors
    /// A lease that it needs is gone.
    pub fn transact(&mut self, txn: Txn) -> Result<Done, StoreError> {
        let succeeded = txn.when.iter().all(|compare| self.holds(compare));
        if succeeded {
            let lost = txn.then.iter().find_map(|op| match op {
                Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease) => Some(*lease),
                _ => None,
            });
            if lost.is_some() {
                return Err(StoreError::Refused("requested lease not found".into()));
            }
            self.write(txn.then);
        }
        Ok(Done { succeeded, store: self.id, revision: self.revision })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.entries.contains_key(key),
            Compare::Present(key) => self.entries.contains_key(key),
            Compare::NoneBelow(prefix) => self.below(prefix).next().is_none(),
            Compare::Modified(key, revision) => {
                self.entries.get(key).is_some_and(|entry| entry.0.modified == *revision)
            }
        }
    }

    fn write(&mut self, ops: Vec<Op>) {
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    let entry = KeyValue { key: key.clone(), value, modified: revision };
                    events.push(Event::Put(entry.clone()));
                    self.entries.insert(key, (entry, lease));
                }
                Op::DeleteBelow(prefix) => {
                    let below: Vec<_> = self.below(&prefix).map(|entry| entry.key.clone()).collect();
                    for key in below {
                        self.entries.remove(&key);
                        events.push(Event::Delete { key, revision });
                    }
                }
                Op::Delete(key) => {
                    if self.entries.remove(&key).is_some() {
                        events.push(Event::Delete { key, revision });
                    }
                }
            }
        }
        if !events.is_empty() {
            self.revision = revision;
            self.history.insert(revision, events);
        }
    }

    /// The events below `prefix` from revision `from` to the present one.
    ///
    /// # Errors
    /// They were compacted.
    pub fn events(&self, prefix: &str, from: Revision) -> Result<Batch, StoreError> {
        if from < self.oldest {
            return Err(StoreError::Compacted(self.oldest));
        }
        let since = self.history.range(from..).flat_map(|(_, events)| events);
        let events = since.filter(|event| event.key().starts_with(prefix)).cloned().collect();
        Ok(Batch { revision: self.revision.max(from - 1), events })
    }

    /// A new lease.
    pub fn grant(&mut self, ttl: Duration) -> LeaseId {
        let id = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(id, Lease { ttl, ends: self.now + ttl });
        id
    }

    /// Keeps a lease alive; whether it is there.
    pub fn keep_alive(&mut self, lease: LeaseId) -> bool {
        let now = self.now;
        self.leases.get_mut(&lease).map(|lease| lease.ends = now + lease.ttl).is_some()
    }

    /// Ends a lease.
    pub fn revoke(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let orphans = self.entries.iter().filter(|(_, entry)| entry.1 == Some(lease));
        let orphans: Vec<_> = orphans.map(|(key, _)| Op::Delete(key.clone())).collect();
        self.write(orphans);
    }

    /// Time has passed: leases end.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        let ended: BTreeSet<_> =
            self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|lease| self.revoke(lease));
    }

    /// Forgets the history before `revision`.
    pub fn compact(&mut self, revision: Revision) {
        self.oldest = self.oldest.max(revision.min(self.revision));
        self.history = self.history.split_off(&self.oldest);
    }
}

fn touches(events: &[Event], prefix: &str) -> bool {
    events.iter().any(|event| event.key().starts_with(prefix))
}

/// A [`Content`] as a [`Store`].
#[derive(Clone, Debug)]
pub struct Memory(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    content: Content,
    watches: Vec<Follower>,
}

/// A watch as its store sees it.
#[derive(Debug)]
struct Follower {
    prefix: String,
    from: Revision,
    events: mpsc::UnboundedSender<Result<Batch, StoreError>>,
}

impl Memory {
    /// An empty store of that identity.
    pub fn new(id: u64) -> Self {
        Self(Arc::new(Mutex::new(Shared { content: Content::new(id), watches: Vec::new() })))
    }

    /// Changes the content, and tells those who watch.
    fn change<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { content, watches } = &mut *shared;
        let result = change(content);
        watches.retain_mut(|watch| watch.follow(content));
        result
    }

    /// Time has passed: leases end.
    pub fn advance(&self, now: Duration) {
        self.change(|content| content.advance(now));
    }
}

impl Follower {
    /// Tells what is new. Returns whether the watch goes on.
    fn follow(&mut self, content: &Content) -> bool {
        match content.events(&self.prefix, self.from) {
            Ok(batch) => {
                self.from = batch.revision + 1;
                batch.events.is_empty() && !self.events.is_closed() || self.events.send(Ok(batch)).is_ok()
            }
            Err(error) => {
                let _ = self.events.send(Err(error));
                false
            }
        }
    }
}

impl Store for Memory {
    type Watch = MemoryWatch;

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Ok(self.change(|content| content.list(prefix)))
    }

    async fn census(&self, prefix: &str, revision: Revision) -> Result<Census, StoreError> {
        self.change(|content| content.census(prefix, revision))
    }

    async fn transact(&self, txn: Txn) -> Result<Done, StoreError> {
        self.change(|content| content.transact(txn))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<MemoryWatch, StoreError> {
        let (sender, events) = mpsc::unbounded_channel();
        let mut follower = Follower { prefix: prefix.to_owned(), from, events: sender };
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if follower.follow(&shared.content) {
            shared.watches.push(follower);
        }
        Ok(MemoryWatch(events))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        Ok(self.change(|content| content.grant(ttl)))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        Ok(self.change(|content| content.keep_alive(lease)))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.change(|content| content.revoke(lease));
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.change(|content| content.compact(revision));
        Ok(())
    }
}

/// The watch of a [`Memory`].
#[derive(Debug)]
pub struct MemoryWatch(mpsc::UnboundedReceiver<Result<Batch, StoreError>>);

impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        let ended = || Err(StoreError::Unreachable("the watch has ended".into()));
        self.0.recv().await.unwrap_or_else(ended)
    }
}
