//! A cluster in virtual time: hosts, a store, and everything that can go wrong between them, from a seed.
//!
//! `VSWITCH_SEEDS=10000 cargo test --release -p vswitch-cluster --test simulation` runs more seeds; `VSWITCH_SEED=N` one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

#[path = "simulation/services.rs"]
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use vswitch_cluster::{
    core::{Ask, Cluster, Event, Input, Me, Output, Standing, TTL},
    keys::{Key, PREFIX},
    mirror::Mirror,
    record::{Endpoint, FORMAT, Meta, Node, Pools, Record},
    store::{Batch, Op, StoreError, Txn, memory::Content},
};
use vswitch_model::{Id, Ipam, Name, NetworkSpec, PoolsSpec};

const TICK: Duration = Duration::from_millis(500);

/// A generator of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.roll() % most
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most))
    }
}

/// A host: its core, its endpoints, and what is on the way to it.
struct Machine {
    cluster: Cluster,
    /// Endpoints by id, with their networks: what really runs here.
    endpoints: BTreeMap<Id, (Id, Endpoint)>,
    /// Addresses that it has chosen for services.
    promised: services::Promised,
    /// Inputs on their way, by time of arrival.
    inbox: VecDeque<(Duration, Input)>,
    /// Where its watch is, if it has one; and whether that was cut.
    watch: Option<i64>,
    cut_off: bool,
    /// What its clock is ahead of the true one.
    ahead: Duration,
    next_tick: Duration,
    asked: u64,
    changed: bool,
    events: Vec<Event>,
}

struct World {
    seed: u64,
    dice: Dice,
    now: Duration,
    store: Content,
    stopped: bool,
    backup: Option<Content>,
    restores: u64,
    machines: Vec<Machine>,
    cluster: Id,
    faults: bool,
    ids: u64,
}

fn name(index: usize) -> Name {
    format!("host{index}").parse().unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let cluster = Id::of(&format!("cluster {seed}"));
        let mut store = Content::new(1000);
        let put = |key: Key, record: Record| Op::Put {
            key: format!("{PREFIX}{key}"),
            value: record.write(),
            lease: None,
        };
        let pools = Pools { overlay: PoolsSpec::default().overlay, ipv6: Vec::new() };
        let meta = Meta { format: FORMAT, id: cluster.clone(), restored: 0 };
        let first = vec![put(Key::Meta, Record::Meta(meta)), put(Key::Pools, Record::Pools(pools))];
        store.transact(Txn { when: Vec::new(), then: first }).unwrap();
        let count = 2 + usize::try_from(dice.below(5)).unwrap();
        let mut world = Self {
            seed,
            dice,
            now: Duration::from_secs(1),
            store,
            stopped: false,
            backup: None,
            restores: 0,
            machines: Vec::new(),
            cluster,
            faults: true,
            ids: 0,
        };
        for index in 0..count {
            let machine = world.machine(index, Mirror::new(PREFIX), BTreeMap::new());
            world.machines.push(machine);
        }
        world
    }

    fn fresh(&mut self) -> Id {
        self.ids += 1;
        Id::of(&format!("{} {}", self.seed, self.ids))
    }

    /// A host that starts, with what an earlier run has left.
    fn machine(&mut self, index: usize, mirror: Mirror, endpoints: BTreeMap<Id, (Id, Endpoint)>) -> Machine {
        let node = Node {
            id: Id::of(&format!("node {index}")),
            address: format!("10.8.0.{}", index + 1).parse().unwrap(),
            port: 4789,
            version: String::new(),
            manager: index == 0,
            availability: vswitch_cluster::record::Availability::Active,
            labels: BTreeMap::new(),
            restored: 0,
        };
        let me = Me {
            name: name(index),
            cluster: self.cluster.clone(),
            node,
            run: self.dice.roll().to_string(),
            seed: self.dice.roll(),
        };
        Machine {
            cluster: Cluster::new(me, mirror),
            endpoints,
            promised: BTreeSet::new(),
            inbox: VecDeque::new(),
            watch: None,
            cut_off: false,
            ahead: Duration::from_secs(self.dice.below(1000)),
            next_tick: self.now + self.dice.millis(500),
            asked: 0,
            changed: true,
            events: Vec::new(),
        }
    }

    fn feed(&mut self, index: usize, input: Input) {
        let machine = &mut self.machines[index];
        let out = machine.cluster.step(input, self.now + machine.ahead);
        out.into_iter().for_each(|output| self.perform(index, output));
    }

    fn later(&mut self, index: usize, after: Duration, input: Input) {
        let at = self.now + after;
        let inbox = &mut self.machines[index].inbox;
        let place = inbox.iter().position(|(time, _)| *time > at).unwrap_or(inbox.len());
        inbox.insert(place, (at, input));
    }

    /// Whether a message to or from the store arrives.
    fn arrives(&mut self, index: usize) -> bool {
        let lost = self.faults && self.dice.one_in(40);
        !(lost || self.stopped || self.machines[index].cut_off)
    }

    fn lost() -> StoreError {
        StoreError::Unreachable("lost".into())
    }

    fn perform(&mut self, index: usize, output: Output) {
        let late = Duration::from_secs(2);
        let delay = if self.faults { self.dice.millis(300) } else { self.dice.millis(20) };
        match output {
            Output::List => {
                self.machines[index].watch = None;
                self.machines[index]
                    .inbox
                    .retain(|(_, input)| !matches!(input, Input::Heard(_) | Input::Ended(_)));
                let listing = self.store.list(PREFIX);
                match self.arrives(index) {
                    true => self.later(index, delay, Input::Listed(Ok(listing))),
                    false => self.later(index, late, Input::Listed(Err(Self::lost()))),
                }
            }
            Output::Watch(from) => self.machines[index].watch = Some(from),
            Output::Transact(txn) => {
                let answer = self.arrives(index).then(|| self.store.transact(txn));
                // Executed, and the answer is lost.
                let heard = self.arrives(index);
                match answer.filter(|_| heard) {
                    Some(answer) => self.later(index, delay, Input::Transacted(answer)),
                    None => self.later(index, late, Input::Transacted(Err(Self::lost()))),
                }
            }
            Output::Grant => match self.arrives(index) {
                true => {
                    let lease = self.store.grant(TTL);
                    self.later(index, delay, Input::Granted(Ok(lease)));
                }
                false => self.later(index, late, Input::Granted(Err(Self::lost()))),
            },
            Output::KeepAlive(lease) => {
                let kept =
                    if self.arrives(index) { Ok(self.store.keep_alive(lease)) } else { Err(Self::lost()) };
                self.later(index, delay, Input::Kept(kept));
            }
            Output::Count(revision) => {
                let census =
                    if self.arrives(index) { self.store.census(PREFIX, revision) } else { Err(Self::lost()) };
                self.later(index, delay, Input::Counted(revision, census));
            }
            Output::Changed(_) => self.machines[index].changed = true,
            Output::Event(event) => self.machines[index].events.push(event),
            Output::Answer(..) => {}
        }
    }

    /// Brings what the store has to tell to the watches.
    fn deliver(&mut self) {
        for index in 0..self.machines.len() {
            let Some(from) = self.machines[index].watch else { continue };
            if self.stopped || self.machines[index].cut_off {
                // The connection dies of it, after a while.
                if self.dice.one_in(8) {
                    self.machines[index].watch = None;
                    self.later(index, Duration::ZERO, Input::Ended(Self::lost()));
                }
                continue;
            }
            match self.store.events(PREFIX, from) {
                Ok(Batch { events, .. }) if events.is_empty() => {}
                Ok(mut batch) => {
                    self.machines[index].watch = Some(batch.revision + 1);
                    if self.faults && self.dice.one_in(200) {
                        // The faults that Debian's etcd has: an event is not told.
                        batch.events.pop();
                    }
                    let delay = if self.faults { self.dice.millis(200) } else { self.dice.millis(10) };
                    // Streams keep their order.
                    let last = self.machines[index]
                        .inbox
                        .iter()
                        .filter(|it| matches!(it.1, Input::Heard(_)))
                        .map(|it| it.0)
                        .max();
                    let at = (self.now + delay).max(last.unwrap_or_default());
                    self.later(index, at - self.now, Input::Heard(batch));
                }
                Err(error) => {
                    self.machines[index].watch = None;
                    self.later(index, Duration::ZERO, Input::Ended(error));
                }
            }
        }
    }

    /// One of the things that happen to a cluster.
    fn mishap(&mut self) {
        let count = self.machines.len() as u64;
        let index = usize::try_from(self.dice.below(count)).unwrap();
        match self.dice.below(14) {
            0 => self.stopped = !self.stopped,
            1 | 2 => self.machines[index].cut_off = !self.machines[index].cut_off,
            3 => {
                let behind = i64::try_from(self.dice.below(20)).unwrap();
                let revision = self.store.revision() - behind;
                self.store.compact(revision);
            }
            4 => self.backup = Some(self.store.clone()),
            5 => {
                if let Some(backup) = self.backup.clone().filter(|_| self.dice.one_in(3)) {
                    self.restore(&backup);
                }
            }
            // A clock jumps ahead: a suspended machine.
            6 => self.machines[index].ahead += Duration::from_secs(self.dice.below(100)),
            // A host is restarted, with the copy that it keeps on disk.
            7 => {
                let saved = self.machines[index].cluster.save();
                let endpoints = std::mem::take(&mut self.machines[index].endpoints);
                let promised = std::mem::take(&mut self.machines[index].promised);
                let cut_off = self.machines[index].cut_off;
                self.machines[index] = self.machine(index, Mirror::load(saved), endpoints);
                (self.machines[index].cut_off, self.machines[index].promised) = (cut_off, promised);
            }
            // An `alive` is deleted by hand.
            8 => drop(self.store.transact(Txn {
                when: Vec::new(),
                then: vec![Op::Delete(format!("{PREFIX}alive/host{index}"))],
            })),
            _ => {}
        }
    }

    /// The store is what it was, under a new identity or the same, and goes on at once. What is under way is lost, or is answered
    /// by the restored store; that the connections are lost the hosts notice sooner or later.
    fn restore(&mut self, backup: &Content) {
        self.restores += 1;
        let id = if self.dice.one_in(3) { self.store.list(PREFIX).store } else { 1000 + self.restores };
        self.store.restore(backup, id);
        for index in 0..self.machines.len() {
            let machine = &mut self.machines[index];
            machine.inbox.retain(|(_, input)| !matches!(input, Input::Heard(_)));
            for (_, input) in &mut machine.inbox {
                match input {
                    Input::Listed(result) => *result = Err(Self::lost()),
                    Input::Transacted(result) if self.dice.one_in(2) => *result = Err(Self::lost()),
                    Input::Granted(result) => *result = Err(Self::lost()),
                    _ => {}
                }
            }
            if machine.watch.take().is_some() {
                let after = self.dice.millis(3000);
                self.later(index, after, Input::Ended(Self::lost()));
            }
        }
    }

    /// One of the things that people do on a host.
    fn act(&mut self) {
        let count = self.machines.len() as u64;
        let index = usize::try_from(self.dice.below(count)).unwrap();
        let networks: Vec<_> = self.machines[index].cluster.networks().cloned().collect();
        let chosen = (!networks.is_empty())
            .then(|| networks[usize::try_from(self.dice.below(networks.len() as u64)).unwrap()].clone());
        self.machines[index].asked += 1;
        let id = self.machines[index].asked;
        if self.dice.one_in(5) {
            return self.act_on_services(index, id);
        }
        match self.dice.below(8) {
            0 if networks.len() < 6 => {
                let mut spec = NetworkSpec::plain(format!("net{}", self.dice.below(8)).parse().unwrap());
                spec.id = Some(self.fresh());
                spec.ipam = Ipam::Default;
                let ask = Ask::CreateNetwork { spec: Box::new(spec), avoid: Vec::new(), taken: Vec::new() };
                self.feed(index, Input::Asked(id, ask));
            }
            1 if self.dice.one_in(3) => {
                let Some(network) = chosen else { return };
                // A host refuses to remove a network in which it has endpoints itself.
                if self.machines[index].endpoints.values().all(|(it, _)| *it != network.id()) {
                    self.feed(index, Input::Asked(id, Ask::RemoveNetwork(network.id())));
                }
            }
            2 | 3 => {
                let gone = self.machines[index].endpoints.keys().next().cloned();
                if let Some(gone) = gone {
                    self.machines[index].endpoints.remove(&gone);
                    self.machines[index].changed = true;
                }
            }
            4 => {
                let Some(network) = chosen else { return };
                let address =
                    network.subnets[0].subnet.hosts().nth(usize::try_from(self.dice.below(200)).unwrap());
                self.feed(index, Input::Asked(id, Ask::Reserve { network: network.id(), address }));
            }
            _ => {
                if let Some(network) = chosen {
                    self.connect(index, &network);
                }
            }
        }
    }

    /// Connects a container as the daemon does: from the blocks of this host, without asking.
    fn connect(&mut self, index: usize, network: &NetworkSpec) {
        let machine = &self.machines[index];
        if machine.cluster.fenced().is_some() {
            return;
        }
        let id = network.id();
        let Some(ip) = self.free_address(index, network) else { return };
        let IpAddr::V4(v4) = ip else { return };
        let [a, b, c, d] = v4.octets();
        let fresh = self.fresh();
        let endpoint = Endpoint {
            id: fresh.clone(),
            host: name(index),
            name: format!("c{}", self.ids).parse().unwrap(),
            mac: vswitch::addr::MacAddr([2, 0x42, a, b, c, d]),
            ips: vec![ip],
            aliases: Vec::new(),
            service: None,
            serves: BTreeMap::new(),
            unready: false,
            seq: 0,
            since: None,
        };
        self.machines[index].endpoints.insert(fresh, (id, endpoint));
        self.machines[index].changed = true;
        self.check();
    }

    /// What must hold at any moment.
    fn check(&self) {
        let mut owners: BTreeMap<(&Id, IpAddr), Vec<&Name>> = BTreeMap::new();
        for machine in &self.machines {
            for (network, endpoint) in machine.endpoints.values() {
                for ip in &endpoint.ips {
                    owners.entry((network, *ip)).or_default().push(&endpoint.host);
                }
            }
        }
        let double = owners.iter().find(|(_, hosts)| hosts.len() > 1);
        assert!(double.is_none(), "seed {}: {double:?} at {:?}", self.seed, self.now);
    }

    fn run(&mut self, until: Duration) {
        while self.now < until {
            self.now += Duration::from_millis(if self.faults { 50 } else { 250 });
            self.store.advance(self.now);
            self.deliver();
            for index in 0..self.machines.len() {
                while self.machines[index].inbox.front().is_some_and(|(at, _)| *at <= self.now) {
                    let (_, input) = self.machines[index].inbox.pop_front().unwrap();
                    self.feed(index, input);
                }
                if std::mem::take(&mut self.machines[index].changed) {
                    let endpoints = self.machines[index].endpoints.values().cloned().collect();
                    self.feed(index, Input::Endpoints(endpoints));
                }
                if self.now >= self.machines[index].next_tick {
                    self.machines[index].next_tick = self.now + TICK;
                    self.feed(index, Input::Tick);
                }
            }
            if self.faults {
                if self.dice.one_in(60) {
                    self.mishap();
                }
                if self.dice.one_in(5) {
                    self.act();
                }
            }
        }
    }

    /// What must hold when all is well again.
    fn settle(&mut self) {
        self.faults = false;
        self.stopped = false;
        self.machines.iter_mut().for_each(|machine| machine.cut_off = false);
        let until = self.now + Duration::from_secs(420);
        self.run(until);
        let seed = self.seed;
        let listing = self.store.list(PREFIX);
        let mut truth = Mirror::new(PREFIX);
        truth.resync(listing.clone());
        let mut names = BTreeSet::new();
        let mut vnis = BTreeSet::new();
        let mut subnets = Vec::new();
        for network in truth.networks() {
            assert!(names.insert(network.name.clone()), "seed {seed}: two networks {}", network.name);
            assert!(
                vnis.insert(network.vni.map(vswitch_model::Vni::as_u32)),
                "seed {seed}: two networks of a vni"
            );
            let own = network.subnets[0].subnet;
            assert!(subnets.iter().all(|it: &ipnet::IpNet| !it.contains(&own)), "seed {seed}: {own} twice");
            subnets.push(own);
        }
        self.check_services(&truth);
        for (index, machine) in self.machines.iter().enumerate() {
            let host = &machine.cluster;
            assert!(host.is_following(), "seed {seed}: host{index} does not follow: {:?}", host.lost());
            let mut copy = Mirror::new(PREFIX);
            copy.resync(listing.clone());
            let rows = |mirror: &Mirror| -> BTreeSet<String> {
                let saved = serde_json::to_value(mirror.save(&BTreeMap::new(), true)).unwrap();
                saved["entries"].as_array().unwrap().iter().map(ToString::to_string).collect()
            };
            let (ours, theirs) = (rows(host.mirror()), rows(&copy));
            let unlike: Vec<_> = ours.symmetric_difference(&theirs).take(3).collect();
            assert!(unlike.is_empty(), "seed {seed}: host{index} differs from the store: {unlike:?}");
            assert_eq!(host.mirror().ghosts(), 0, "seed {seed}: host{index}");
            for other in host.hosts() {
                assert_eq!(
                    other.standing,
                    Standing::Ready,
                    "seed {seed}: {} seen by host{index}",
                    other.name
                );
            }
            for (network, endpoint) in machine.endpoints.values() {
                let key = Key::Endpoint(network.into(), (&endpoint.id).into());
                let there = truth.get(&key).map(|it| it.record.clone());
                if truth.get(&Key::Network(network.into())).is_none() {
                    continue;
                }
                let Some(Record::Endpoint(there)) = there else {
                    panic!("seed {seed}: {} of host{index} is not in the store", endpoint.name)
                };
                assert_eq!(there.ips, endpoint.ips, "seed {seed}");
            }
            let stored = host
                .mirror()
                .owned(&host.me().name)
                .filter(|(key, _)| matches!(key, Key::Endpoint(..)))
                .count();
            let wanted = machine
                .endpoints
                .values()
                .filter(|(network, _)| truth.get(&Key::Network(network.into())).is_some())
                .count();
            assert_eq!(
                stored, wanted,
                "seed {seed}: endpoints of host{index} that are gone are still in the store"
            );
        }
    }
}

fn simulate(seed: u64) -> World {
    let mut world = World::new(seed);
    world.run(Duration::from_secs(90));
    world.settle();
    world
}

#[test]
fn the_directory_is_the_store_on_every_host_and_no_address_is_given_twice() {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("VSWITCH_SEED") {
        drop(simulate(seed));
        return;
    }
    let seeds = number("VSWITCH_SEEDS").unwrap_or(100);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let begin = number("VSWITCH_FIRST_SEED").unwrap_or(0);
    let mut totals = [0_u64; 5];
    std::thread::scope(|scope| {
        let run = |thread: u64| {
            let mut totals = [0; 5];
            for seed in (begin + thread..begin + seeds).step_by(usize::try_from(threads).unwrap()) {
                let world = simulate(seed);
                let endpoints: usize = world.machines.iter().map(|it| it.endpoints.len()).sum();
                let events = world.machines.iter().flat_map(|it| &it.events);
                totals[0] += endpoints as u64;
                totals[1] += events.clone().filter(|it| matches!(it, Event::StoreLost(_))).count() as u64;
                totals[2] += events.clone().filter(|it| matches!(it, Event::Restored)).count() as u64;
                totals[4] += world.count_services();
                totals[3] += events.filter(|it| matches!(it, Event::Mended(_))).count() as u64;
            }
            totals
        };
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        for handle in handles {
            let part = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            totals.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
    });
    let [endpoints, lost, restored, mended, services] = totals;
    println!(
        "{seeds} seeds: {endpoints} endpoints and {services} services at the end, store lost {lost} times, restored {restored}, copies mended {mended}"
    );
    // A simulation in which nothing goes wrong proves nothing.
    assert!(endpoints > seeds && services > seeds / 2 && lost > seeds && restored > 0 && mended > 0);
}
