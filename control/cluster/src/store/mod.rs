//! The store of a cluster: keys with revisions, conditional transactions, watches and leases.
//!
//! The trait is what etcd offers, no more. Two engines implement it: [`etcd`] for clusters, and [`memory`] for tests and
//! simulations. One contract test runs against both (`tests/contract.rs`).

pub mod etcd;
pub mod memory;
mod proto;

use std::{future::Future, time::Duration};

/// The number of a change: each transaction that writes has the next one.
pub type Revision = i64;

/// A lease: keys that are attached to it go when it ends.
pub type LeaseId = i64;

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of its last change.
    pub modified: Revision,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, or its lease has ended.
    Delete {
        /// The key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl Event {
    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// The events of some revisions, complete and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The last of these revisions.
    pub revision: Revision,
    /// The events; none if the store only tells how far it is.
    pub events: Vec<Event>,
}

/// All keys of a prefix at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Identity of the store: another one, or one restored from a backup with a new identity, has another.
    pub store: u64,
    /// The revision.
    pub revision: Revision,
    /// The keys, in order.
    pub entries: Vec<KeyValue>,
}

/// What a store has of a prefix at one revision, to compare a copy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Number of keys.
    pub keys: u64,
    /// The sum of the revisions of their latest changes, modulo 2^64: a change that is missed shows in it.
    pub sum: u64,
}

impl Census {
    /// Of keys that were last changed by these revisions.
    pub fn of(modified: impl IntoIterator<Item = Revision>) -> Self {
        modified.into_iter().fold(Self { keys: 0, sum: 0 }, |census, modified| Self {
            keys: census.keys + 1,
            sum: census.sum.wrapping_add(modified.cast_unsigned()),
        })
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key is there.
    Present(String),
    /// No key begins with this.
    NoneBelow(String),
    /// The key was last changed by this revision.
    Modified(String, Revision),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease that it is attached to, if any.
        lease: Option<LeaseId>,
    },
    /// Deletes a key, if it is there.
    Delete(String),
    /// Deletes all keys that begin with this.
    DeleteBelow(String),
}

/// Writes that are done together if all conditions hold, or not at all. A key is written at most once.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Txn {
    /// The conditions.
    pub when: Vec<Compare>,
    /// The writes.
    pub then: Vec<Op>,
}

/// The outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Whether the conditions held.
    pub succeeded: bool,
    /// Identity of the store, as in a [`Listing`].
    pub store: u64,
    /// The revision of the store after it.
    pub revision: Revision,
}

/// Why the store did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or does not answer in time. A transaction may have been executed nevertheless.
    #[error("the store does not answer: {0}")]
    Unreachable(String),
    /// It refuses: a right that is missing, a quota that is used up. Nothing was done.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// The revision was compacted: (the oldest one that is left).
    #[error("revision {0} is the oldest that the store still has")]
    Compacted(Revision),
}

/// A store. A clone is another handle to the same one.
pub trait Store: Clone + Send + Sync + 'static {
    /// A stream of events.
    type Watch: Watch;

    /// All keys that begin with `prefix`, at one revision.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// What the store has below `prefix` at `revision`.
    fn census(
        &self,
        prefix: &str,
        revision: Revision,
    ) -> impl Future<Output = Result<Census, StoreError>> + Send;

    /// Executes a transaction.
    fn transact(&self, txn: Txn) -> impl Future<Output = Result<Done, StoreError>> + Send;

    /// The events of keys that begin with `prefix`, from revision `from` on.
    fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    /// A new lease that ends `ttl` after it was last kept alive. The store may round it up to seconds.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Keeps a lease alive. Returns whether it is there: one that has ended is not.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Ends a lease, if it is there.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Forgets the history before `revision`.
    fn compact(&self, revision: Revision) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The events of a prefix, in the order of their revisions, none left out and none split.
pub trait Watch: Send + 'static {
    /// The next events.
    ///
    /// # Errors
    /// The watch has ended: the history it needs was compacted, or the store is lost. It does not go on.
    fn next(&mut self) -> impl Future<Output = Result<Batch, StoreError>> + Send;
}
