//! What this host has, compared with what the store has, and the transaction that follows.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use ipnet::IpNet;
use vswitch_model::{Id, Name, NetworkSpec, SubnetSpec};

use super::{
    Cluster, Event, Link, Output, TTL,
    ask::{Pending, Refusal},
};
use crate::{
    blocks,
    keys::{Key, Short},
    record::{Alive, Block, Endpoint, Gone, Node, Record},
    store::{Compare, Done, Op, Revision, StoreError, Txn},
};

/// Changes of one transaction: etcd allows 128 operations, and each has a condition.
const AT_ONCE: usize = 60;

/// How long the copy may take to show what a transaction has done.
const SETTLE: Duration = Duration::from_secs(1);

/// Time after which a silent host is removed.
const FORGET_AFTER: Duration = Duration::from_hours(24);

/// What etcd says to a user that lacks a right.
const FORBIDDEN: &str = "permission denied";

/// Pause before upkeep that was forbidden is tried again.
const FORBEARANCE: Duration = Duration::from_mins(10);

/// Where the search for a free block begins at most.
const SEARCHED: u64 = 1 << 20;

/// What the transaction under way is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A request, which is judged again by the copy.
    Ask,
    /// This host's own records, and what a restore has lost.
    Own,
    /// A block for this host.
    Block(Key, Block),
    /// What others have left.
    Upkeep,
}

impl Cluster {
    pub(super) fn put(&self, key: &Key, record: &Record) -> Op {
        Op::Put { key: self.mirror.full(key), value: record.write(), lease: None }
    }

    /// Takes note of the outcome of the transaction under way.
    pub(super) fn transacted(
        &mut self,
        result: Result<Done, StoreError>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let Some(purpose) = self.flight.take() else { return };
        match result {
            Ok(done) if done.store != self.mirror.store() || done.revision < self.begun => {
                // It was executed by a store that was restored meanwhile, and means nothing.
                self.lose(StoreError::Unreachable("it was restored from a backup".into()), now, out);
            }
            Ok(done) => {
                self.contact = now;
                // It had refused: a quota that was used up, a right that was missing.
                if self.lost.take().is_some() {
                    out.push(Output::Event(Event::StoreBack));
                    out.push(Output::Changed(Vec::new()));
                }
                if done.succeeded {
                    self.settle = (done.revision, now + SETTLE);
                    if let Purpose::Block(key, block) = purpose {
                        self.held.insert(key, block);
                        out.push(Output::Changed(Vec::new()));
                    }
                } else {
                    // The copy is behind: the event that it lacks comes soon.
                    self.settle = (
                        Revision::MAX,
                        now + Duration::from_millis(20) + self.spread(Duration::from_millis(80)),
                    );
                }
            }
            Err(StoreError::Refused(why)) if why.contains("lease not found") => self.lease = None,
            // A right that only this request needs, or this upkeep: the store is used as before.
            Err(StoreError::Refused(why)) if purpose == Purpose::Ask && why.contains(FORBIDDEN) => {
                let (begun, rest) = self.asks.drain(..).partition(|it| it.begun);
                self.asks = rest;
                self.refuse(begun, &why, out);
            }
            Err(StoreError::Refused(why)) if purpose == Purpose::Upkeep && why.contains(FORBIDDEN) => {
                self.upkeep = now + FORBEARANCE;
            }
            Err(StoreError::Refused(why)) => {
                if self.lost.is_none() {
                    out.push(Output::Event(Event::StoreLost(why.clone())));
                }
                self.lost = Some((why.clone(), now));
                if purpose == Purpose::Ask {
                    let asks = std::mem::take(&mut self.asks);
                    self.refuse(asks, &why, out);
                }
                self.settle = (Revision::MAX, now + Duration::from_secs(2));
            }
            Err(error) => self.lose(error, now, out),
        }
    }

    fn refuse(&self, asks: VecDeque<Pending>, why: &str, out: &mut Vec<Output>) {
        let refused = |pending: Pending| Output::Answer(pending.id, Err(Refusal::unavailable(why)));
        out.extend(asks.into_iter().map(refused));
    }

    /// Begins the next transaction, if there is something to write.
    pub(super) fn reconcile(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.link != Link::Following {
            return;
        }
        if self.lease.is_none() && !self.leasing {
            self.leasing = true;
            out.push(Output::Grant);
        }
        if self.flight.is_some() || self.mirror.revision() < self.settle.0 && now < self.settle.1 {
            return;
        }
        // Blocks before the sign of life: who sees that sees them.
        let next = self
            .recovery()
            .or_else(|| self.own_blocks())
            .or_else(|| self.revival().map(|txn| (Purpose::Own, txn)))
            .or_else(|| self.service_revival().map(|txn| (Purpose::Own, txn)))
            .or_else(|| self.own_records().map(|txn| (Purpose::Own, txn)))
            .or_else(|| self.next_block())
            .or_else(|| self.collection(now).map(|txn| (Purpose::Upkeep, txn)));
        if let Some((purpose, txn)) = next {
            self.begin(purpose, txn, out);
        }
    }

    /// Begins a transaction.
    pub(super) fn begin(&mut self, purpose: Purpose, mut txn: Txn, out: &mut Vec<Output>) {
        // A host that was removed changes nothing more, and one that has missed a restore nothing before it has noticed.
        txn.when.push(Compare::Absent(self.mirror.full(&Key::Gone(self.me.name.clone()))));
        txn.when.push(self.in_this_history());
        (self.flight, self.begun) = (Some(purpose), self.mirror.revision());
        out.push(Output::Transact(txn));
    }

    /// This host's record, its lease, its endpoints.
    fn own_records(&self) -> Option<Txn> {
        let mut txn = Txn::default();
        let name = &self.me.name;
        let full = |key: &Key| self.mirror.full(key);
        let node = Key::Node(name.clone());
        match self.mirror.get(&node).map(|it| &it.record) {
            Some(Record::Node(there)) => {
                // Availability and labels are changed by requests of any host.
                let mut wanted = self.me.node.clone();
                (wanted.availability, wanted.labels) = (there.availability, there.labels.clone());
                wanted.restored = if self.has_put_all() { self.mirror.history() } else { there.restored };
                if **there != wanted {
                    txn.then.push(self.put(&node, &Record::Node(wanted.into())));
                }
            }
            // It joined before, and a restore has lost it.
            _ => {
                let restored = if self.has_put_all() { self.mirror.history() } else { 0 };
                let record = Node { restored, ..self.me.node.clone() };
                txn.then.push(self.put(&node, &Record::Node(record.into())));
            }
        }
        let alive = Key::Alive(name.clone());
        let wanted = Record::Alive(Alive { run: self.me.run.clone() });
        if let Some(lease) = self.lease
            && self.mirror.get(&alive).is_none_or(|entry| entry.record != wanted)
        {
            txn.then.push(Op::Put { key: full(&alive), value: wanted.write(), lease: Some(lease) });
        }
        if self.knows_mine {
            let mut networks = std::collections::BTreeSet::new();
            for (key, endpoint) in &self.mine {
                if txn.then.len() + txn.when.len() >= AT_ONCE {
                    break;
                }
                let Key::Endpoint(network, _) = key else { continue };
                // Without the network there is nothing to put it in: it was removed while this host was away.
                if self.mirror.get(&Key::Network(*network)).is_none() {
                    continue;
                }
                if let Some(record) = self.to_put(key, *network, endpoint) {
                    txn.then.push(self.put(key, &record));
                    networks.insert(*network);
                }
            }
            txn.when.extend(networks.iter().map(|it| Compare::Present(full(&Key::Network(*it)))));
            for (key, entry) in self.mirror.owned(name) {
                if txn.then.len() + txn.when.len() >= AT_ONCE {
                    break;
                }
                if matches!(key, Key::Endpoint(..)) && !self.mine.contains_key(key) {
                    txn.when.push(Compare::Modified(full(key), entry.modified));
                    txn.then.push(Op::Delete(full(key)));
                }
            }
        }
        (!txn.then.is_empty()).then_some(txn)
    }

    /// The record of an endpoint of this host, if the store has none or another.
    fn to_put(&self, key: &Key, network: Short, endpoint: &Endpoint) -> Option<Record> {
        if let Some(Record::Endpoint(there)) = self.mirror.get(key).map(|it| &it.record) {
            let same = Endpoint { seq: there.seq, ..endpoint.clone() };
            if same == **there {
                return None;
            }
            if there.host == endpoint.host && there.mac == endpoint.mac {
                return Some(Record::Endpoint(same.into()));
            }
        }
        // The address was elsewhere: this record follows that one.
        let others =
            self.mirror.endpoints(network).filter(|(it, _)| it.mac == endpoint.mac && it.id != endpoint.id);
        let seq = others.map(|(it, _)| it.seq + 1).max().unwrap_or(0);
        Some(Record::Endpoint(Endpoint { seq, ..endpoint.clone() }.into()))
    }

    /// A block that this host holds, or has addresses of in use, and the store has lost.
    fn own_blocks(&self) -> Option<(Purpose, Txn)> {
        let is_lost = |(key, _): &(&Key, &Block)| match key {
            Key::Block(network, _) => {
                self.mirror.get(key).is_none() && self.mirror.get(&Key::Network(*network)).is_some()
            }
            _ => false,
        };
        let lost = self.held.iter().find(is_lost).map(|(key, block)| (key.clone(), block.clone()));
        let (key, block) = lost.or_else(|| self.block_in_use())?;
        let Key::Block(network, _) = key else { return None };
        let txn = self.claim(network, block.range);
        Some((Purpose::Block(key, block), txn))
    }

    /// The transaction by which this host claims a block.
    pub(super) fn claim(&self, network: Short, range: IpNet) -> Txn {
        let key = Key::Block(network, range.network());
        let block = Record::Block(Block { host: self.me.name.clone(), range });
        let full = |key: &Key| self.mirror.full(key);
        Txn {
            when: vec![Compare::Absent(full(&key)), Compare::Present(full(&Key::Network(network)))],
            then: vec![self.put(&key, &block)],
        }
    }

    /// A block of a network from which this host will soon assign addresses.
    fn next_block(&self) -> Option<(Purpose, Txn)> {
        if self.caution().is_some() {
            return None;
        }
        let hosts = self.mirror.nodes().count() as u64;
        for network in self.networks() {
            let short = Short::from(&network.id());
            if self.mirror.get(&Key::Network(short)).is_none() {
                continue;
            }
            let [first, last] = Short::ALL.map(|endpoint| Key::Endpoint(short, endpoint));
            let is_used = self.mine.range(first..=last).next().is_some();
            for subnet in &network.subnets {
                let size = blocks::size(blocks::nth(subnet.subnet, 0));
                // Where all hosts find room, each has a block before it needs one.
                let is_roomy = blocks::count(subnet.subnet) >= hosts.saturating_mul(4);
                let wanted = if is_used { size.div_ceil(2) } else { u64::from(is_roomy) };
                if self.free(network, subnet.subnet) >= wanted {
                    continue;
                }
                if let Some(range) = self.free_block(network, subnet) {
                    let block = Block { host: self.me.name.clone(), range };
                    let purpose = Purpose::Block(Key::Block(short, range.network()), block);
                    return Some((purpose, self.claim(short, range)));
                }
            }
        }
        None
    }

    /// A block that no host holds, behind those that this host has claimed, round the subnet.
    pub(super) fn free_block(&self, network: &NetworkSpec, subnet: &SubnetSpec) -> Option<IpNet> {
        let short = Short::from(&network.id());
        let count = blocks::count(subnet.subnet);
        let has_room = |block: &IpNet| {
            let range = subnet.ip_range.unwrap_or(subnet.subnet);
            let inside = range.contains(block) || block.contains(&range);
            let single = blocks::size(*block) == 1;
            let addr: IpAddr = block.network();
            let is_edge = addr == subnet.subnet.network() || addr == subnet.subnet.broadcast();
            let is_fixed = subnet.gateway == Some(addr) || subnet.aux.values().any(|aux| *aux == addr);
            inside && !(single && (is_edge || is_fixed))
        };
        let start = self.me.seed % count.min(SEARCHED);
        (0..count.min(SEARCHED))
            .map(|step| blocks::nth(subnet.subnet, (start + step) % count.min(SEARCHED)))
            .find(|block| {
                has_room(block)
                    && !self.mirror.holds(&Key::Block(short, block.network()))
                    && !self.held.contains_key(&Key::Block(short, block.network()))
            })
    }

    /// The transaction that removes a host.
    pub(super) fn expulsion(&self, name: &Name, node: Option<Id>, modified: Revision) -> Txn {
        let full = |key: &Key| self.mirror.full(key);
        Txn {
            when: vec![Compare::Modified(full(&Key::Node(name.clone())), modified)],
            then: vec![
                self.put(&Key::Gone(name.clone()), &Record::Gone(Gone { node })),
                Op::Delete(full(&Key::Node(name.clone()))),
                Op::Delete(full(&Key::Alive(name.clone()))),
            ],
        }
    }

    /// What removed hosts have left, and hosts that are silent for long. Done by the first of the hosts that are there.
    fn collection(&self, now: Duration) -> Option<Txn> {
        let first =
            self.mirror.nodes().map(|(name, _)| name).find(|name| {
                **name == self.me.name || self.mirror.get(&Key::Alive((*name).clone())).is_some()
            })?;
        if *first != self.me.name || now < (self.following_since + TTL).max(self.upkeep) {
            return None;
        }
        let full = |key: &Key| self.mirror.full(key);
        for host in self.mirror.removed() {
            let left: Vec<_> =
                self.mirror.owned(host).map(|(key, _)| Op::Delete(full(key))).take(AT_ONCE).collect();
            if !left.is_empty() {
                let when = vec![
                    Compare::Present(full(&Key::Gone(host.clone()))),
                    Compare::Absent(full(&Key::Node(host.clone()))),
                ];
                return Some(Txn { when, then: left });
            }
        }
        let is_forgotten = |name: &&Name| self.track(name).absent_for(now) >= FORGET_AFTER;
        let name = self.mirror.nodes().map(|(name, _)| name).find(is_forgotten)?;
        let entry = self.mirror.get(&Key::Node(name.clone()))?;
        let Record::Node(node) = &entry.record else { return None };
        let mut txn = self.expulsion(name, Some(node.id.clone()), entry.modified);
        txn.when.push(Compare::Absent(full(&Key::Alive(name.clone()))));
        Some(txn)
    }
}
