//! One host's core and a store in memory, step by step: what it does when the store is slow, refuses, or has lost an event.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use vswitch_cluster::{
    core::{Ask, AskId, Cluster, Event, Input, Me, Output, Refused},
    keys::{Key, PREFIX},
    mirror::Mirror,
    record::{Availability, FORMAT, Meta, Node, Pools, Record},
    store::{Op, StoreError, Txn, memory::Content},
};
use vswitch_model::{Id, Ipam, NetworkSpec, PoolsSpec};

/// A host that follows a store.
struct Host {
    cluster: Cluster,
    store: Content,
    now: Duration,
    /// What the store says to the next transactions, instead of executing them.
    refuses: Option<&'static str>,
    /// Whether events reach the host.
    hears: bool,
    watched: i64,
    events: Vec<Event>,
    answers: Vec<(AskId, Result<(), Refused>)>,
}

fn put(key: Key, record: &Record) -> Op {
    Op::Put { key: format!("{PREFIX}{key}"), value: record.write(), lease: None }
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
        };
        let me = Me { name: "host1".parse().unwrap(), cluster: id, node, run: "first".into(), seed: 1 };
        let mut host = Self {
            cluster: Cluster::new(me, Mirror::new(PREFIX)),
            store,
            now: Duration::from_secs(1),
            refuses: None,
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
                    Output::List => queue.push_back(Input::Listed(Ok(self.store.list(PREFIX)))),
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
