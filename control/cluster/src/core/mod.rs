//! The core of a host's membership: what it hears, what it wants, and what it therefore writes. No I/O, no clock.
//!
//! ```text
//! store ─ listings, events, answers ┐
//! this host ─ endpoints, requests   ├─> Cluster::step(input, now) ─> outputs: calls of the store, changes, events, answers
//! tunnel, clock ────────────────────┘
//! ```
//! Everything a host writes follows from comparing what it has with its copy of the store (`reconcile`), so a restart, a lost
//! answer and a restored backup need no code of their own. One transaction is under way at a time.
//!
//! Without the store nothing changes: the copy stays as it is, hosts keep their standing, and addresses of the blocks that the
//! host holds are assigned as before.

mod ask;
mod hosts;
mod reconcile;
mod restore;
mod service;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use vswitch_model::{Id, Name, NetworkSpec, ServiceSpec};

pub use self::{
    ask::{Ask, Refused},
    hosts::{Host, Standing},
};
use crate::{
    blocks,
    keys::{Key, Short},
    mirror::{Mirror, Saved},
    record::{Block, Endpoint, Node, Record},
    store::{Batch, Census, Done, LeaseId, Listing, Revision, StoreError, Txn},
};

/// Time after which a host that has fallen silent is suspect: the length of its lease.
pub const TTL: Duration = Duration::from_secs(10);

/// First and longest pause before the store is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Interval of audits: the copy is compared with the store.
const AUDIT: Duration = Duration::from_mins(5);

/// Keys that all hosts together read in an [`AUDIT`] at most, until an hour is reached.
const READ_AT_ONCE: u64 = 10_000_000;

/// Longest time between two inputs that counts as passed: who was stopped for longer has not seen what happened meanwhile.
const LONGEST_STEP: Duration = Duration::from_secs(2);

/// How long a request may wait for the store: a call of it, what follows if that is not answered, and another one.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// This host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its name.
    pub name: Name,
    /// The cluster it belongs to.
    pub cluster: Id,
    /// What the others shall know of it.
    pub node: Node,
    /// Differs from run to run.
    pub run: String,
    /// Differs from host to host: times are spread by it.
    pub seed: u64,
}

/// Number of a request of this host.
pub type AskId = u64;

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The store was listed.
    Listed(Result<Listing, StoreError>),
    /// The watch has told events.
    Heard(Batch),
    /// The watch has ended.
    Ended(StoreError),
    /// A transaction was answered.
    Transacted(Result<Done, StoreError>),
    /// A lease was granted.
    Granted(Result<LeaseId, StoreError>),
    /// The lease was kept alive, or is gone.
    Kept(Result<bool, StoreError>),
    /// The store was counted at the revision that was asked for.
    Counted(Revision, Result<Census, StoreError>),
    /// The endpoints that this host has in global networks: all of them, with their networks.
    Endpoints(Vec<(Id, Endpoint)>),
    /// This host's record has changed.
    Node(Node),
    /// A request of this host.
    Asked(AskId, Ask),
    /// Frames came through the tunnel from this host.
    Met(Name),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// List the store. Ends the present watch.
    List,
    /// Watch it from this revision on.
    Watch(Revision),
    /// Execute a transaction.
    Transact(Txn),
    /// Grant a lease of [`TTL`].
    Grant,
    /// Keep the lease alive.
    KeepAlive(LeaseId),
    /// Count the store at this revision.
    Count(Revision),
    /// These keys have changed, or what this host holds.
    Changed(Vec<Key>),
    /// To be told to people.
    Event(Event),
    /// The answer to a request.
    Answer(AskId, Result<(), Refused>),
}

/// What people are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The store does not answer: why.
    StoreLost(String),
    /// It answers again.
    StoreBack,
    /// The store was restored from a backup.
    Restored,
    /// The copy differed from the store: number of keys.
    Mended(usize),
    /// A host has another standing.
    Host(Name, Standing),
    /// An address, or a block of them, is claimed by two hosts: a sentence.
    Conflict(String),
    /// This host is no longer a member: a sentence.
    Fenced(String),
}

/// The link to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Link {
    /// It is tried again at this time.
    Down { retry: Duration },
    /// A listing is under way.
    Listing,
    /// The watch is on.
    Following,
}

/// A host's membership. See the [module](self).
#[derive(Clone, Debug)]
pub struct Cluster {
    me: Me,
    mirror: Mirror,
    link: Link,
    /// Why the store does not answer, since when; said once.
    lost: Option<(String, Duration)>,
    failures: u32,
    dice: u64,
    lease: Option<LeaseId>,
    leasing: bool,
    keep_alive: Duration,
    audit: Duration,
    counting: Option<(Revision, Census)>,
    audits: u64,
    differences: u64,
    /// The time of the latest restore that was noticed, while it is not over.
    restored: Option<Duration>,
    /// The caller's time of the latest input.
    seen: Option<Duration>,
    /// The time that has passed for this host, by which it decides.
    awake: Duration,
    /// What this host has: the endpoints to be in the store.
    mine: BTreeMap<Key, Endpoint>,
    /// Whether `mine` is known: after a start the owner tells it.
    knows_mine: bool,
    /// The blocks from which this host assigns addresses.
    held: BTreeMap<Key, Block>,
    asks: VecDeque<ask::Pending>,
    flight: Option<reconcile::Purpose>,
    /// The revision of the copy when that was begun.
    begun: Revision,
    /// Upkeep that the store refuses is left to others until this time.
    upkeep: Duration,
    /// The next transaction waits until the copy is at this revision, or until this time.
    settle: (Revision, Duration),
    hosts: BTreeMap<Name, hosts::Track>,
    /// Time of the latest listing.
    following_since: Duration,
    /// Time of the latest sign of the store.
    contact: Duration,
    fenced: Option<String>,
}

impl Cluster {
    /// A member that has this copy, from an earlier run or empty.
    pub fn new(me: Me, mut mirror: Mirror) -> Self {
        let dice = me.seed | 1;
        let held = mirror.take_held();
        let mut cluster = Self {
            me,
            mirror,
            link: Link::Down { retry: Duration::ZERO },
            lost: None,
            failures: 0,
            dice,
            lease: None,
            leasing: false,
            keep_alive: Duration::ZERO,
            audit: Duration::ZERO,
            counting: None,
            audits: 0,
            differences: 0,
            restored: None,
            seen: None,
            awake: Duration::ZERO,
            mine: BTreeMap::new(),
            knows_mine: false,
            held: held.clone().unwrap_or_default(),
            asks: VecDeque::new(),
            flight: None,
            begun: 0,
            upkeep: Duration::ZERO,
            settle: (0, Duration::ZERO),
            hosts: BTreeMap::new(),
            following_since: Duration::ZERO,
            contact: Duration::ZERO,
            fenced: None,
        };
        if held.is_none() {
            cluster.take_up_blocks();
        }
        cluster
    }

    /// The outputs of an input at a monotonic time.
    pub fn step(&mut self, input: Input, now: Duration) -> Vec<Output> {
        let passed = now.saturating_sub(self.seen.replace(now).unwrap_or_default());
        self.awake += if self.awake.is_zero() { passed } else { passed.min(LONGEST_STEP) };
        let now = self.awake;
        let mut out = Vec::new();
        if self.fenced.is_some() {
            if let Input::Asked(id, _) = input {
                out.push(Output::Answer(id, Err(Refused::conflict(self.fenced.clone().unwrap_or_default()))));
            }
            return out;
        }
        match input {
            Input::Listed(Ok(listing)) => self.listed(listing, now, &mut out),
            Input::Listed(Err(error)) | Input::Ended(error) => self.lose(error, now, &mut out),
            Input::Heard(batch) => {
                self.contact = now;
                if self.link == Link::Following {
                    let changed = self.mirror.apply(batch);
                    self.look(changed, &mut out);
                    if self.mirror.counted() > self.mirror.history() {
                        // Another host has noticed a restore that this one has missed.
                        self.link = Link::Listing;
                        out.push(Output::List);
                    }
                }
            }
            Input::Transacted(result) => self.transacted(result, now, &mut out),
            Input::Granted(result) => {
                self.leasing = false;
                match result {
                    Ok(lease) => self.lease = Some(lease),
                    Err(error) => self.lose(error, now, &mut out),
                }
                self.keep_alive = now + TTL / 3;
            }
            Input::Kept(Ok(is_there)) => {
                self.contact = now;
                if !is_there {
                    self.lease = None;
                }
            }
            // The watch notices a store that is lost.
            Input::Kept(Err(_)) => {}
            Input::Counted(revision, result) => self.counted(revision, result, now, &mut out),
            Input::Endpoints(endpoints) => {
                self.knows_mine = true;
                let key = |network: &Id, it: &Endpoint| Key::Endpoint(network.into(), (&it.id).into());
                self.mine = endpoints.into_iter().map(|(network, it)| (key(&network, &it), it)).collect();
            }
            Input::Node(node) => self.me.node = node,
            Input::Asked(id, ask) => self.asks.push_back(ask::Pending::new(id, ask, now)),
            Input::Met(name) => self.hosts.entry(name).or_default().met(now),
            Input::Tick => self.tick(now, &mut out),
        }
        if self.fenced.is_none() {
            self.serve_asks(now, &mut out);
            self.reconcile(now, &mut out);
        }
        out
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        match self.link {
            Link::Down { retry } if now >= retry => {
                self.link = Link::Listing;
                out.push(Output::List);
            }
            Link::Down { .. } | Link::Listing => {}
            Link::Following => {
                self.look_at_hosts(now, out);
                if let Some(lease) = self.lease.filter(|_| now >= self.keep_alive) {
                    self.keep_alive = now + TTL / 3;
                    out.push(Output::KeepAlive(lease));
                }
                if now >= self.audit {
                    self.audit = now + self.until_audit();
                    self.counting = Some((self.mirror.revision(), self.mirror.census()));
                    out.push(Output::Count(self.mirror.revision()));
                }
                let changed = self.lay_ghosts(now);
                if !changed.is_empty() {
                    self.look(changed, out);
                }
            }
        }
    }

    fn listed(&mut self, listing: Listing, now: Duration, out: &mut Vec<Output>) {
        self.contact = now;
        let meta = self.mirror.meta_of(&listing);
        let foreign = match meta {
            None => Some("it has no cluster: was it emptied? Restore it from a backup".to_owned()),
            Some(meta) if meta.id != self.me.cluster => Some(format!(
                "it belongs to another cluster, {}: was an address given to another etcd?",
                meta.id.short()
            )),
            Some(meta) if meta.format != crate::record::FORMAT => Some(format!(
                "its format is {}, and this vswitchd knows {}: use the same version on all hosts",
                meta.format,
                crate::record::FORMAT
            )),
            Some(_) => None,
        };
        if let Some(why) = foreign {
            return self.lose(StoreError::Refused(why), now, out);
        }
        let first = self.mirror.revision() == 0;
        let resync = self.mirror.resync(listing);
        if self.lost.take().is_some() {
            out.push(Output::Event(Event::StoreBack));
            out.push(Output::Changed(Vec::new()));
        }
        if resync.restored {
            self.restored = Some(now);
            out.push(Output::Event(Event::Restored));
        } else if self.mirror.ghosts() > 0 && self.restored.is_none() {
            // Noticed by an earlier run.
            self.restored = Some(now);
        }
        if self.counting.take().is_some() {
            // The audit had differed: this is what it found.
            out.push(Output::Event(Event::Mended(resync.changed.len())));
        }
        self.link = Link::Following;
        (self.failures, self.following_since) = (0, now);
        self.flight = None;
        if first || self.audit == Duration::ZERO {
            self.audit = now + self.until_audit();
        }
        out.push(Output::Watch(self.mirror.revision() + 1));
        self.look(resync.changed, out);
    }

    /// Draws the consequences of changes of the copy.
    fn look(&mut self, changed: Vec<Key>, out: &mut Vec<Output>) {
        let name = self.me.name.clone();
        if let Some(Record::Gone(gone)) = self.mirror.get(&Key::Gone(name.clone())).map(|it| &it.record)
            && gone.node.as_ref().is_none_or(|node| *node == self.me.node.id)
        {
            return self
                .fence(format!("host {name} was removed from the cluster: leave it, and join again"), out);
        }
        if let Some(Record::Node(node)) = self.mirror.get(&Key::Node(name.clone())).map(|it| &it.record)
            && node.id != self.me.node.id
        {
            return self.fence(
                format!("another host has joined as {name}: leave the cluster, and join by another name"),
                out,
            );
        }
        let conflicts = self.take_up_blocks();
        out.extend(conflicts.into_iter().map(|why| Output::Event(Event::Conflict(why))));
        if !changed.is_empty() {
            out.push(Output::Changed(changed));
        }
    }

    fn fence(&mut self, why: String, out: &mut Vec<Output>) {
        for pending in self.asks.drain(..) {
            out.push(Output::Answer(pending.id, Err(Refused::conflict(why.clone()))));
        }
        self.fenced = Some(why.clone());
        out.push(Output::Event(Event::Fenced(why)));
        out.push(Output::Changed(Vec::new()));
    }

    /// The store does not answer, or its history is gone.
    fn lose(&mut self, error: StoreError, now: Duration, out: &mut Vec<Output>) {
        self.flight = None;
        let pause = match error {
            // Only the watch is lost: all hosts may be in the same situation.
            StoreError::Compacted(_) => self.spread(Duration::from_secs(2)),
            _ => {
                let pause = BACKOFF.0 * 2_u32.pow(self.failures.min(6));
                self.failures += 1;
                if self.lost.is_none() {
                    self.lost = Some((error.to_string(), now));
                    out.push(Output::Event(Event::StoreLost(error.to_string())));
                    // From now on other hosts may have endpoints that the copy does not know: see `members`.
                    out.push(Output::Changed(Vec::new()));
                } else if let Some((why, _)) = &mut self.lost {
                    *why = error.to_string();
                }
                pause.min(BACKOFF.1) + self.spread(pause.min(BACKOFF.1) / 2)
            }
        };
        self.link = Link::Down { retry: now + pause };
    }

    fn counted(
        &mut self,
        revision: Revision,
        result: Result<Census, StoreError>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let Some((at, expected)) = self.counting.filter(|_| self.link == Link::Following) else { return };
        match result {
            Ok(census) if at == revision && census == expected => {
                self.contact = now;
                self.audits += 1;
                self.counting = None;
            }
            // A difference, or a revision of which the store only knows that it was: look closer. `counting` stays set, so the
            // listing is counted as a repair.
            Ok(_) => {
                self.differences += 1;
                self.link = Link::Listing;
                out.push(Output::List);
            }
            Err(StoreError::Compacted(_)) => {
                self.counting = None;
                self.link = Link::Listing;
                out.push(Output::List);
            }
            // It is counted again at the next audit.
            Err(_) => self.counting = None,
        }
    }

    /// Takes over from the copy which blocks this host holds; sentences about those that it lost.
    fn take_up_blocks(&mut self) -> Vec<String> {
        let mut conflicts = Vec::new();
        let mirror = &self.mirror;
        let me = &self.me.name;
        self.held.retain(|key, block| match mirror.get(key).map(|it| &it.record) {
            Some(Record::Block(other)) if other.host != *me => {
                conflicts.push(format!(
                    "addresses {} of this host are assigned by {} as well: reconnect the endpoints of this host that have them",
                    block.range, other.host
                ));
                false
            }
            // While it is absent it is put again, as long as the network is there.
            _ => match key {
                Key::Block(network, _) => mirror.holds(&Key::Network(*network)),
                _ => false,
            },
        });
        // After a restore only what was held before is: see `strays`.
        if !self.is_back(me) {
            return conflicts;
        }
        for (key, entry) in mirror.owned(me) {
            if let (Key::Block(network, _), Record::Block(block)) = (key, &entry.record)
                && mirror.holds(&Key::Network(*network))
            {
                self.held.insert(key.clone(), block.clone());
            }
        }
        conflicts
    }

    /// The pause until the next audit: longer where many hosts have many keys read, for one store answers all.
    fn until_audit(&mut self) -> Duration {
        let read = self.mirror.census().keys * self.mirror.nodes().count() as u64;
        let pause = AUDIT * u32::try_from(read / READ_AT_ONCE).unwrap_or(u32::MAX).clamp(1, 12);
        pause + self.spread(AUDIT / 10)
    }

    /// A time up to `most`, spread over hosts.
    fn spread(&mut self, most: Duration) -> Duration {
        // xorshift (Marsaglia 2003): no secret depends on it.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.dice % most)
    }

    /// This host.
    pub fn me(&self) -> &Me {
        &self.me
    }

    /// The copy of the store.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Whether the copy follows the store.
    pub fn is_following(&self) -> bool {
        self.link == Link::Following
    }

    /// Why the store does not answer, and since when.
    pub fn lost(&self) -> Option<(&str, Duration)> {
        self.lost.as_ref().map(|(why, since)| (why.as_str(), *since))
    }

    /// Why this host is no longer a member.
    pub fn fenced(&self) -> Option<&str> {
        self.fenced.as_deref()
    }

    /// How long the store has given no sign, at a time as of [`step`](Self::step).
    pub fn silence(&self, now: Duration) -> Duration {
        self.awake.saturating_sub(self.contact) + now.saturating_sub(self.seen.unwrap_or(now))
    }

    /// The copy, and what this host holds, to be kept on disk.
    pub fn save(&self) -> Saved {
        self.mirror.save(&self.held, true)
    }

    /// The same without endpoints: small, and to be kept before something is done by it. A host that comes up without it would not
    /// know a network that its containers are in, nor a block that their addresses are of.
    pub fn save_plan(&self) -> Saved {
        self.mirror.save(&self.held, false)
    }

    /// Audits that found no difference, and those that did.
    pub fn audits(&self) -> (u64, u64) {
        (self.audits, self.differences)
    }

    /// The networks of the cluster.
    pub fn networks(&self) -> impl Iterator<Item = &Arc<NetworkSpec>> {
        self.mirror.networks()
    }

    /// The services of the cluster.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceSpec>> {
        self.mirror.services()
    }

    /// The ranges of a network from which this host assigns addresses.
    pub fn held(&self, network: &Id) -> Vec<IpNet> {
        let network = Short::from(network);
        let ours = self.held.iter().filter(|(key, _)| matches!(key, Key::Block(it, _) if *it == network));
        ours.map(|(_, block)| block.range).collect()
    }

    /// The hosts that may have endpoints in a network: those of which it is known, and, while they or this host do not reach the
    /// store, those that hold addresses of it.
    pub fn members(&self, network: &Id) -> Vec<Name> {
        let short = Short::from(network);
        let known = self.mirror.endpoints(short).map(|(endpoint, _)| &endpoint.host);
        let is_silent = |name: &&Name| self.lost.is_some() || self.standing(name) != Standing::Ready;
        let holders = self.mirror.blocks(short).map(|block| &block.host).filter(is_silent);
        let mut members: Vec<Name> =
            known.chain(holders).filter(|name| **name != self.me.name).cloned().collect();
        members.sort_unstable();
        members.dedup();
        members.retain(|name| self.standing(name) != Standing::Down);
        members
    }

    /// Number of addresses of a subnet that this host can still assign at once.
    fn free(&self, network: &NetworkSpec, subnet: IpNet) -> u64 {
        let short = Short::from(&network.id());
        let first = subnet.network();
        let is_within = |key: &Key| matches!(key, Key::Block(it, at) if *it == short && subnet.contains(at));
        let blocks: Vec<IpNet> =
            self.held.iter().filter(|(key, _)| is_within(key)).map(|(_, block)| block.range).collect();
        let taken_by_endpoints = self
            .mine
            .range(Key::Endpoint(short, Short::ALL[0])..=Key::Endpoint(short, Short::ALL[1]))
            .flat_map(|(_, endpoint)| endpoint.ips.iter().copied());
        let taken_by_services = self.services_of(&network.name).flat_map(|it| it.address.iter().copied());
        let specs = network.subnets.iter().filter(|it| it.subnet == subnet);
        let fixed = specs.flat_map(|it| it.gateway.into_iter().chain(it.aux.values().copied()));
        let edges = [first, subnet.broadcast()]
            .into_iter()
            .filter(|_| subnet.max_prefix_len() - subnet.prefix_len() > 1);
        let mut taken: Vec<_> =
            taken_by_endpoints.chain(taken_by_services).chain(fixed).chain(edges).collect();
        taken.sort_unstable();
        taken.dedup();
        let used = taken.iter().filter(|ip| blocks.iter().any(|block| block.contains(*ip))).count() as u64;
        blocks.iter().map(|block| blocks::size(*block)).sum::<u64>().saturating_sub(used)
    }
}
