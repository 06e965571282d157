//! One host's core and a store in memory, step by step: what it does when the store is slow, refuses, or has lost an event.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use vswitch_cluster::{
    core::{Ask, AskId, Cluster, Event, Input, Me, Output, Refused, Standing},
    keys::{Key, PREFIX},
    mirror::Mirror,
    record::{Alive, Availability, FORMAT, Meta, Node, Pools, Record},
    store::{Op, StoreError, Txn, memory::Content},
};
use vswitch_model::{Id, Ipam, Name, NetworkSpec, PoolsSpec};

/// A host that follows a store.
struct Host {
    cluster: Cluster,
    store: Content,
    now: Duration,
    /// What the store says to the next transactions, instead of executing them.
    refuses: Option<&'static str>,
    /// Whether the store answers.
    answers_calls: bool,
    /// Whether events reach the host.
    hears: bool,
    watched: i64,
    events: Vec<Event>,
    answers: Vec<(AskId, Result<(), Refused>)>,
}

fn put(key: Key, record: &Record) -> Op {
    Op::Put { key: format!("{PREFIX}{key}"), value: record.write(), lease: None }
}

fn late() -> StoreError {
    StoreError::Unreachable("no answer within 5 s".into())
}

impl Host {
    /// A host whose copy is complete.
    fn following() -> Self {
        let id = Id::of("cluster");
        let mut store = Content::new(1);
        let pools = Pools { overlay: PoolsSpec::default().overlay, ipv6: Vec::new() };
        let meta = Meta { format: FORMAT, id: id.clone(), restored: 0 };
        let first = vec![put(Key::Meta, &Record::Meta(meta)), put(Key::Pools, &Record::Pools(pools))];
        store.transact(Txn { when: Vec::new(), then: first }).unwrap();
        let node = Node {
            id: Id::of("node"),
            address: "10.8.0.1".parse().unwrap(),
            port: 4789,
            version: String::new(),
            manager: true,
            availability: Availability::Active,
            labels: BTreeMap::new(),
            restored: 0,
        };
        let me = Me { name: "host1".parse().unwrap(), cluster: id, node, run: "first".into(), seed: 1 };
        let mut host = Self {
            cluster: Cluster::new(me, Mirror::new(PREFIX)),
            store,
            now: Duration::from_secs(1),
            refuses: None,
            answers_calls: true,
            hears: true,
            watched: 1,
            events: Vec::new(),
            answers: Vec::new(),
        };
        host.pass(Duration::from_secs(5));
        assert!(host.cluster.is_following());
        host
    }

    /// Takes an input, and everything that follows from it at once.
    fn feed(&mut self, input: Input) {
        let mut queue = VecDeque::from([input]);
        while let Some(input) = queue.pop_front() {
            for output in self.cluster.step(input, self.now) {
                match output {
                    Output::List if !self.answers_calls => queue.push_back(Input::Listed(Err(late()))),
                    Output::List => queue.push_back(Input::Listed(Ok(self.store.list(PREFIX)))),
                    Output::Transact(_) if !self.answers_calls => {
                        queue.push_back(Input::Transacted(Err(late())));
                    }
                    Output::Watch(from) => self.watched = from,
                    Output::Transact(txn) => {
                        let refused = self.refuses.map(|why| Err(StoreError::Refused(why.into())));
                        let result = refused.unwrap_or_else(|| self.store.transact(txn));
                        queue.push_back(Input::Transacted(result));
                    }
                    Output::Grant => {
                        let lease = self.store.grant(Duration::from_secs(10));
                        queue.push_back(Input::Granted(Ok(lease)));
                    }
                    Output::KeepAlive(lease) => {
                        queue.push_back(Input::Kept(Ok(self.store.keep_alive(lease))));
                    }
                    Output::Count(revision) => {
                        queue.push_back(Input::Counted(revision, self.store.census(PREFIX, revision)));
                    }
                    Output::Event(event) => self.events.push(event),
                    Output::Answer(id, answer) => self.answers.push((id, answer)),
                    Output::Changed(_) => {}
                }
            }
            if self.hears {
                let batch = self.store.events(PREFIX, self.watched).unwrap();
                self.watched = self.watched.max(batch.revision + 1);
                if !batch.events.is_empty() {
                    queue.push_back(Input::Heard(batch));
                }
            }
        }
    }

    /// Lets time pass, a tenth of a second at a time.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(100);
            self.store.advance(self.now);
            self.feed(Input::Tick);
        }
    }

    fn ask(&mut self, id: AskId, ask: Ask) {
        self.feed(Input::Asked(id, ask));
    }

    /// The answer to a request, if it was given.
    fn answer(&self, id: AskId) -> Option<Result<(), String>> {
        let answer = self.answers.iter().find(|(it, _)| *it == id)?;
        Some(answer.1.clone().map_err(|refused| refused.sentence))
    }
}

fn network(name: &str) -> Ask {
    let mut spec = NetworkSpec::plain(name.parse().unwrap());
    spec.id = Some(Id::of(name));
    spec.ipam = Ipam::Default;
    Ask::CreateNetwork { spec: Box::new(spec), avoid: Vec::new(), taken: Vec::new() }
}

/// A network that another host was told is there: this host waits for it, for as long as it waits for anything.
#[test]
fn what_another_host_has_done_is_waited_for() {
    let mut host = Host::following();
    host.hears = false;
    let other = Txn {
        when: Vec::new(),
        then: vec![put(Key::NetworkName("blue".parse().unwrap()), &Record::Taken(Id::of("blue")))],
    };
    let done = host.store.transact(other).unwrap();
    host.ask(1, Ask::Reach(done.revision));
    host.ask(2, Ask::Reach(done.revision + 100));
    host.pass(Duration::from_secs(2));
    assert_eq!(host.answer(1), None, "the event is on its way");
    host.hears = true;
    host.feed(Input::Tick);
    assert_eq!(host.answer(1), Some(Ok(())));
    assert_eq!(host.answer(2), None);
    host.pass(Duration::from_secs(12));
    assert!(host.answer(2).unwrap().unwrap_err().contains("does not answer in time"));
}

/// A quota that is used up is trouble with the store; when it accepts again, the trouble is over.
#[test]
fn a_refusal_is_over_when_the_store_accepts() {
    let mut host = Host::following();
    host.refuses = Some("etcdserver: mvcc: database space exceeded");
    host.ask(1, network("blue"));
    let why = host.answer(1).unwrap().unwrap_err();
    assert!(why.contains("database space exceeded"), "{why}");
    assert!(host.cluster.lost().is_some());
    assert!(matches!(&host.events[..], [Event::StoreLost(why)] if why.contains("space exceeded")));
    host.refuses = None;
    host.pass(Duration::from_secs(3));
    host.ask(2, network("blue"));
    assert_eq!(host.answer(2), Some(Ok(())));
    assert_eq!(host.cluster.lost(), None);
    assert_eq!(host.events.last(), Some(&Event::StoreBack));
}

/// A right that a host lacks is told to who asks for what needs it, and is no trouble with the store.
#[test]
fn what_a_host_may_not_do_is_refused_to_who_asks() {
    let mut host = Host::following();
    let other = host.another("host2", true);
    host.refuses = Some("etcdserver: permission denied");
    host.ask(1, Ask::RemoveHost(other));
    let why = host.answer(1).unwrap().unwrap_err();
    assert!(why.contains("permission denied"), "{why}");
    assert_eq!(host.cluster.lost(), None);
    host.refuses = None;
    host.ask(2, network("blue"));
    assert_eq!(host.answer(2), Some(Ok(())));
}

/// A store that is slow is back in a moment, and what was asked for meanwhile is done then. One that is lost for long is not
/// waited for.
#[test]
fn a_store_that_was_just_lost_is_waited_for() {
    let mut host = Host::following();
    host.answers_calls = false;
    host.feed(Input::Ended(late()));
    host.pass(Duration::from_secs(3));
    host.ask(1, network("blue"));
    assert_eq!(host.answer(1), None);
    host.answers_calls = true;
    host.pass(Duration::from_secs(8));
    assert_eq!(host.answer(1), Some(Ok(())));

    host.answers_calls = false;
    host.feed(Input::Ended(late()));
    host.pass(Duration::from_secs(5));
    host.ask(2, network("red"));
    host.pass(Duration::from_secs(8));
    let why = host.answer(2).unwrap().unwrap_err();
    assert!(why.contains("try again when it is back; running containers are not affected"), "{why}");
    host.ask(3, network("green"));
    assert!(host.answer(3).unwrap().is_err(), "at once");
}

impl Host {
    fn write(&mut self, key: Key, record: &Record) {
        let txn = Txn { when: Vec::new(), then: vec![put(key, record)] };
        assert!(self.store.transact(txn).unwrap().succeeded);
    }

    /// Another host joins, with a lease or without.
    fn another(&mut self, name: &str, alive: bool) -> Name {
        let name: Name = name.parse().unwrap();
        let address = format!("10.8.0.{}", self.cluster.hosts().len() + 1).parse().unwrap();
        let node = Node { id: Id::of(name.as_str()), address, ..self.cluster.me().node.clone() };
        self.write(Key::Node(name.clone()), &Record::Node(node.into()));
        if alive {
            self.write(Key::Alive(name.clone()), &Record::Alive(Alive { run: "it".into() }));
        }
        self.feed(Input::Tick);
        name
    }
}

/// Old versions of etcd lose events across compactions: the audit finds the difference, and mends it.
#[test]
fn the_audit_finds_and_mends_what_a_watch_has_lost() {
    let mut host = Host::following();
    host.another("host2", true);
    // A host goes and another one comes, and nothing is told of it.
    host.hears = false;
    let gone = format!("{PREFIX}{}", Key::Node("host2".parse().unwrap()));
    host.store.transact(Txn { when: Vec::new(), then: vec![Op::Delete(gone)] }).unwrap();
    host.another("host3", true);
    host.watched = host.store.revision() + 1;
    host.hears = true;
    // The next event is told: the copy is as far as the store, and differs.
    host.another("host4", true);
    let names =
        |host: &Host| -> Vec<String> { host.cluster.hosts().iter().map(|it| it.name.to_string()).collect() };
    assert_eq!(names(&host), ["host1", "host2", "host4"]);
    assert_eq!(host.cluster.mirror().revision(), host.store.revision());
    host.events.clear();
    host.pass(Duration::from_mins(6));
    assert_eq!(names(&host), ["host1", "host3", "host4"]);
    // host2, and host3 with its sign of life.
    assert!(host.events.contains(&Event::Mended(3)), "{:?}", host.events);
    assert_eq!(host.cluster.audits().1, 1);
    host.pass(Duration::from_mins(6));
    assert_eq!(host.cluster.audits(), (1, 1), "and finds no other");
}

/// A lease that has ended makes a host suspect, whatever the tunnel says; silence of both makes it down, and no single one does.
#[test]
fn down_takes_two_witnesses() {
    let mut host = Host::following();
    let other = host.another("host2", true);
    let third = host.another("host3", true);
    host.pass(Duration::from_secs(20));
    assert_eq!(host.cluster.standing(&other), Standing::Ready, "the tunnel alone says nothing");
    let alive = |name: &Name| format!("{PREFIX}{}", Key::Alive(name.clone()));
    let ends = [&other, &third].map(|name| Op::Delete(alive(name))).to_vec();
    host.store.transact(Txn { when: Vec::new(), then: ends }).unwrap();
    for _ in 0..20 {
        host.feed(Input::Met(other.clone()));
        host.pass(Duration::from_secs(1));
    }
    assert_eq!(host.cluster.standing(&other), Standing::Suspect, "it is heard");
    assert_eq!(host.cluster.standing(&third), Standing::Down);
    assert_eq!(host.events.iter().filter(|it| matches!(it, Event::Host(..))).count(), 3);
    host.pass(Duration::from_secs(11));
    assert_eq!(host.cluster.standing(&other), Standing::Down);
    host.feed(Input::Met(other.clone()));
    host.pass(Duration::from_secs(1));
    assert_eq!(host.cluster.standing(&other), Standing::Suspect, "it is there at least");
    host.write(Key::Alive(other.clone()), &Record::Alive(Alive { run: "it".into() }));
    host.pass(Duration::from_secs(1));
    assert_eq!(host.cluster.standing(&other), Standing::Ready);
    assert!(host.cluster.hosts().iter().any(|it| it.name == third), "nothing of it is removed");
}

/// A claim of a block that reaches a store which was restored meanwhile is none: what it is worth is known when all hosts have put
/// again what they hold.
#[test]
fn a_claim_that_a_restored_store_answers_is_given_back() {
    let mut host = Host::following();
    host.ask(1, network("blue"));
    host.pass(Duration::from_secs(1));
    let backup = host.store.clone();
    host.ask(2, network("red"));
    host.pass(Duration::from_secs(1));
    let blue = Id::of("blue");
    let held = host.cluster.held(&blue);
    let red = host.cluster.held(&Id::of("red"));
    assert_eq!((held.len(), red.len()), (1, 1));

    // Nothing tells the host: its watch is silent, and the next it does is a claim.
    host.store.restore(&backup, 2);
    host.hears = false;
    let other = if held[0].contains(&"10.0.0.100".parse::<std::net::IpAddr>().unwrap()) {
        "10.0.0.200"
    } else {
        "10.0.0.100"
    };
    host.ask(3, Ask::Reserve { network: blue.clone(), address: Some(other.parse().unwrap()) });
    assert_eq!(host.cluster.held(&blue), held);
    assert!(!host.cluster.is_following());
    assert_eq!(host.answer(3), None);

    host.hears = true;
    host.feed(Input::Endpoints(Vec::new()));
    host.pass(Duration::from_secs(4));
    assert!(host.events.contains(&Event::Restored));
    assert_eq!(host.cluster.mirror().meta().map(|meta| meta.restored), Some(1));
    assert_eq!(host.cluster.held(&Id::of("red")), red, "the network and its block are there again");
    // It was given back, and claimed again when it was known that no host has it.
    assert_eq!(host.answer(3), Some(Ok(())));
    assert_eq!(host.cluster.held(&blue).len(), 2);
}

/// What a host has that is not back is not known, however long this one was stopped and sees nothing of it: it claims no block.
#[test]
fn after_a_restore_no_block_is_claimed_until_all_hosts_are_back() {
    let mut host = Host::following();
    host.ask(1, network("blue"));
    let other = host.another("host2", true);
    host.pass(Duration::from_secs(1));
    let backup = host.store.clone();
    host.store.restore(&backup, 2);
    host.feed(Input::Endpoints(Vec::new()));
    host.feed(Input::Ended(late()));
    host.pass(Duration::from_secs(1));
    // Both have a lease, and a minute is over at once.
    host.now += Duration::from_mins(1);
    host.feed(Input::Tick);
    let reserve =
        |address: &str| Ask::Reserve { network: Id::of("blue"), address: Some(address.parse().unwrap()) };
    host.ask(2, reserve("10.0.0.100"));
    host.ask(3, reserve("10.0.0.200"));
    let refused = [2, 3].map(|id| host.answer(id).and_then(Result::err));
    let why = refused.into_iter().flatten().next().unwrap();
    assert!(why.contains("it is not known which addresses host2 have"), "{why}");

    let node = host.cluster.hosts().into_iter().find(|it| it.name == other).unwrap().node;
    host.write(Key::Node(other), &Record::Node(Node { restored: 1, ..Node::clone(&node) }.into()));
    host.feed(Input::Tick);
    host.ask(4, reserve("10.0.0.100"));
    host.ask(5, reserve("10.0.0.200"));
    host.pass(Duration::from_secs(1));
    assert_eq!([4, 5].map(|id| host.answer(id)), [Some(Ok(())), Some(Ok(()))]);
}
