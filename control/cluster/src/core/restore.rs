//! After a restore of the store from a backup: how the hosts find together again, and give out no address twice meanwhile.
//!
//! A restored store lacks what came after the backup, and has what was given up since. So, in this order:
//!
//! 1. The host that notices it first counts it, in `meta`. Each transaction has the condition that `meta` is as the host knows it:
//!    one that has not noticed yet changes nothing from here on.
//! 2. Each host puts again what it *holds*, which it knows by itself: its blocks, the networks they are in, its endpoints. What the
//!    store says it has, and it does not hold, it gives back: a claim that came between the restore and its notice, or an old one.
//! 3. Then it writes into its record that it is back. Until all hosts are, no block is claimed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use vswitch_model::{Name, NetworkSpec, ipam};

use super::{Cluster, reconcile::Purpose};
use crate::{
    blocks,
    keys::{Key, Short},
    record::{Block, Meta, Record},
    store::{Compare, Op, Txn},
};

/// How long an entry that only an overwritten history has is kept for its owner to put it again.
const GRACE: Duration = Duration::from_secs(30);

impl Cluster {
    /// Whether a host has put again what it holds since the latest restore.
    pub(super) fn is_back(&self, name: &Name) -> bool {
        match self.mirror.get(&Key::Node(name.clone())).map(|it| &it.record) {
            Some(Record::Node(node)) => node.restored >= self.mirror.history(),
            // It is about to write it for the first time, or the restore has lost it.
            _ => self.mirror.history() == 0,
        }
    }

    /// The hosts that are not back.
    fn missing(&self) -> BTreeSet<Name> {
        let ghosts = self.mirror.ghostly().filter_map(|(key, _)| match key {
            Key::Node(name) => Some(name),
            _ => None,
        });
        let all = self.mirror.nodes().map(|(name, _)| name).chain(ghosts);
        all.filter(|name| !self.is_back(name)).cloned().collect()
    }

    /// Why no block can be claimed now: after a restore it is not known which ones hosts have that are not back.
    pub(super) fn caution(&self) -> Option<String> {
        let missing: Vec<_> = self.missing().iter().map(Name::to_string).collect();
        (!missing.is_empty()).then(|| {
            format!(
                "the store was restored from a backup, and it is not known which addresses {} have: start them, or remove them with `vswitchctl cluster rm`",
                missing.join(", ")
            )
        })
    }

    /// Counts a restore that the store does not count yet.
    pub(super) fn count_restore(&self) -> Option<Txn> {
        let meta = self.mirror.meta().filter(|meta| meta.restored < self.mirror.history())?;
        let meta = Record::Meta(Meta { restored: self.mirror.history(), ..meta.clone() });
        Some(Txn { when: Vec::new(), then: vec![self.put(&Key::Meta, &meta)] })
    }

    /// The condition that the history is the one that this host knows.
    pub(super) fn in_this_history(&self) -> Compare {
        let modified = self.mirror.get(&Key::Meta).map_or(0, |entry| entry.modified);
        Compare::Modified(self.mirror.full(&Key::Meta), modified)
    }

    /// Whether this host can say that it is back.
    pub(super) fn has_put_all(&self) -> bool {
        let is_put = |(key, block): (&Key, &Block)| match self.mirror.get(key).map(|it| &it.record) {
            Some(Record::Block(there)) => there == block,
            _ => false,
        };
        self.knows_mine
            && self.mirror.counted() == self.mirror.history()
            && self.held.iter().all(is_put)
            && self.strays().next().is_none()
    }

    /// The blocks that the store says this host has, while it is not back, and does not hold.
    fn strays(&self) -> impl Iterator<Item = (&Key, &crate::mirror::Entry)> {
        let asks = self.knows_mine && !self.is_back(&self.me.name);
        let owned = asks.then(|| self.mirror.owned(&self.me.name)).into_iter().flatten();
        owned.filter(|(key, _)| matches!(key, Key::Block(..)) && !self.held.contains_key(key))
    }

    /// The transaction that gives back what this host does not hold.
    pub(super) fn give_back(&self) -> Option<Txn> {
        let (key, entry) = self.strays().next()?;
        let full = self.mirror.full(key);
        Some(Txn {
            when: vec![Compare::Modified(full.clone(), entry.modified)],
            then: vec![Op::Delete(full)],
        })
    }

    /// A block of which this host has addresses in use, and that no host holds: it holds it from now on.
    pub(super) fn block_in_use(&self) -> Option<(Key, Block)> {
        let of = |network: &Arc<NetworkSpec>| {
            let short = Short::from(&network.id());
            self.mirror.get(&Key::Network(short))?;
            let [first, last] = Short::ALL.map(|endpoint| Key::Endpoint(short, endpoint));
            let ips = self.mine.range(first..=last).flat_map(|(_, endpoint)| endpoint.ips.iter().copied());
            let subnets = |ip| network.subnets.iter().find_map(|it| blocks::of(it.subnet, ip));
            let keys = ips.filter_map(subnets).map(|range| (Key::Block(short, range.network()), range));
            let mut lacking =
                keys.filter(|(key, _)| self.mirror.get(key).is_none() && !self.held.contains_key(key));
            lacking.next()
        };
        let (key, range) = self.mirror.networks().find_map(of)?;
        Some((key, Block { host: self.me.name.clone(), range }))
    }

    /// A network that a restored store has lost, and that can be again.
    pub(super) fn revival(&self) -> Option<Txn> {
        self.restored?;
        self.mirror.ghostly().find_map(|(_, record)| match record {
            Record::Network(network) => self.revive(network),
            _ => None,
        })
    }

    fn revive(&self, network: &Arc<NetworkSpec>) -> Option<Txn> {
        let id = network.id();
        let mut keys = vec![
            (Key::Network((&id).into()), Record::Network(Arc::clone(network))),
            (Key::NetworkName(network.name.clone()), Record::Taken(id.clone())),
        ];
        keys.extend(network.vni.map(|vni| (Key::Vni(vni.as_u32()), Record::Taken(id.clone()))));
        if keys.iter().any(|(key, _)| self.mirror.get(key).is_some()) {
            return None;
        }
        let present =
            self.mirror.networks().filter(|it| self.mirror.get(&Key::Network((&it.id()).into())).is_some());
        let mut taken = present.flat_map(|it| &it.subnets);
        if taken.any(|taken| network.subnets.iter().any(|own| ipam::overlap(own.subnet, taken.subnet))) {
            return None;
        }
        let pools = self.mirror.get(&Key::Pools)?;
        let mut when: Vec<_> = keys.iter().map(|(key, _)| Compare::Absent(self.mirror.full(key))).collect();
        when.push(Compare::Modified(self.mirror.full(&Key::Pools), pools.modified));
        keys.push((Key::Pools, pools.record.clone()));
        Some(Txn { when, then: keys.iter().map(|(key, record)| self.put(key, record)).collect() })
    }

    /// Ends ghosts whose owners have had the time to put them again.
    pub(super) fn lay_ghosts(&mut self, now: Duration) -> Vec<Key> {
        if self.restored.is_none_or(|at| now < at + GRACE) {
            return Vec::new();
        }
        let missing = self.missing();
        let gone: BTreeSet<Name> = self.mirror.removed().cloned().collect();
        let changed = self.mirror.lay(|key, record| match (key, record.owner()) {
            (Key::Node(name), _) => !gone.contains(name),
            (_, Some(owner)) => missing.contains(owner) && !gone.contains(owner),
            // A network that no host has put again by now cannot be.
            (_, None) => false,
        });
        if missing.is_empty() {
            self.restored = None;
        }
        changed
    }

    /// What is to be done first after a restore, and is nothing at other times.
    pub(super) fn recovery(&self) -> Option<(Purpose, Txn)> {
        self.count_restore().or_else(|| self.give_back()).map(|txn| (Purpose::Own, txn))
    }
}
