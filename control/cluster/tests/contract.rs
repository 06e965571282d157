//! What every engine of the store must do, checked in memory and with a real etcd.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

mod common;

use std::time::Duration;

use vswitch_cluster::store::{
    Batch, Census, Compare, Event, Listing, Op, Store, StoreError, Txn, Watch, memory::Memory,
};

use self::common::Server;

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: None }
}

fn when(when: Vec<Compare>, then: Vec<Op>) -> Txn {
    Txn { when, then }
}

fn always(then: Vec<Op>) -> Txn {
    Txn { when: Vec::new(), then }
}

fn keys(listing: &Listing) -> Vec<(&str, &str)> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    listing.entries.iter().map(|it| (it.key.as_str(), text(&it.value))).collect()
}

/// An event in words: `a=1@+0` was written by the first revision after `since`.
fn told(batch: &Batch, since: i64) -> Vec<String> {
    let tell = |event: &Event| match event {
        Event::Put(it) => {
            format!("{}={}@+{}", it.key, String::from_utf8_lossy(&it.value), it.modified - since)
        }
        Event::Delete { key, revision } => format!("-{key}@+{}", revision - since),
    };
    batch.events.iter().map(tell).collect()
}

/// All of it. `pass` lets time pass until leases of a second have ended.
async fn contract<S: Store>(store: S, pass: impl AsyncFn()) {
    // Transactions: all or nothing, each with a revision of its own.
    let first =
        store.transact(always(vec![put("/t/a", "1"), put("/t/b", "1"), put("/other", "x")])).await.unwrap();
    assert!(first.succeeded);
    let again = store
        .transact(when(vec![Compare::Absent("/t/a".into())], vec![put("/t/a", "2"), put("/t/c", "2")]))
        .await
        .unwrap();
    assert_eq!((again.succeeded, again.revision), (false, first.revision), "nothing was written");
    let listing = store.list("/t/").await.unwrap();
    assert_eq!(keys(&listing), [("/t/a", "1"), ("/t/b", "1")]);
    assert_eq!(listing.revision, first.revision);
    assert!(listing.entries.iter().all(|entry| entry.modified == first.revision));

    // Conditions.
    for (compare, holds) in [
        (Compare::Present("/t/a".into()), true),
        (Compare::Present("/t/z".into()), false),
        (Compare::Absent("/t/z".into()), true),
        (Compare::Modified("/t/a".into(), first.revision), true),
        (Compare::Modified("/t/a".into(), first.revision + 1), false),
        (Compare::Modified("/t/z".into(), first.revision), false),
        (Compare::NoneBelow("/t/".into()), false),
        (Compare::NoneBelow("/t/a/".into()), true),
        (Compare::NoneBelow("/u/".into()), true),
    ] {
        let done = store.transact(when(vec![compare.clone()], Vec::new())).await.unwrap();
        assert_eq!(done.succeeded, holds, "{compare:?}");
        assert_eq!(done.revision, first.revision, "a transaction that writes nothing has no revision");
    }

    // Watches begin in the past, tell whole revisions in order, and only their prefix.
    let mut watch = store.watch("/t/", first.revision).await.unwrap();
    let past = watch.next().await.unwrap();
    assert_eq!(told(&past, first.revision), ["/t/a=1@+0", "/t/b=1@+0"]);
    assert_eq!(past.revision, first.revision);
    let second = store
        .transact(always(vec![put("/t/a", "2"), Op::Delete("/t/b".into()), Op::Delete("/t/none".into())]))
        .await
        .unwrap();
    assert_eq!(told(&watch.next().await.unwrap(), first.revision), ["/t/a=2@+1", "-/t/b@+1"]);
    store.transact(always(vec![put("/other", "y")])).await.unwrap();
    store.transact(always(vec![put("/t/c/1", "1"), put("/t/c/2", "1")])).await.unwrap();
    assert_eq!(told(&watch.next().await.unwrap(), second.revision), ["/t/c/1=1@+2", "/t/c/2=1@+2"]);
    store.transact(always(vec![Op::DeleteBelow("/t/c/".into())])).await.unwrap();
    assert_eq!(told(&watch.next().await.unwrap(), second.revision), ["-/t/c/1@+3", "-/t/c/2@+3"]);

    // A census is what a copy is compared with.
    let now = store.list("/t/").await.unwrap();
    let census = store.census("/t/", now.revision).await.unwrap();
    assert_eq!(census, Census::of([second.revision]));
    assert_eq!(store.census("/none/", now.revision).await.unwrap(), Census::of([]));

    // Leases: their keys go with them, and that is an event like any other.
    let lease = store.grant(Duration::from_secs(1)).await.unwrap();
    let alive = Op::Put { key: "/t/alive".into(), value: "1".into(), lease: Some(lease) };
    let at = store.transact(always(vec![alive.clone()])).await.unwrap().revision;
    assert!(store.keep_alive(lease).await.unwrap());
    assert_eq!(told(&watch.next().await.unwrap(), at), ["/t/alive=1@+0"]);
    pass().await;
    assert_eq!(told(&watch.next().await.unwrap(), at), ["-/t/alive@+1"]);
    assert!(!store.keep_alive(lease).await.unwrap(), "it has ended, and that is no error");
    let late = store.transact(always(vec![put("/t/late", "1"), alive])).await.unwrap_err();
    assert!(
        matches!(&late, StoreError::Refused(why) if why.ends_with("requested lease not found")),
        "{late}"
    );
    assert!(store.list("/t/late").await.unwrap().entries.is_empty(), "all or nothing");
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let alive = Op::Put { key: "/t/alive".into(), value: "2".into(), lease: Some(lease) };
    let at = store.transact(always(vec![alive])).await.unwrap().revision;
    store.revoke(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    let mut ends = told(&watch.next().await.unwrap(), at);
    if ends.len() == 1 {
        // Revisions may come together or one by one.
        ends.extend(told(&watch.next().await.unwrap(), at));
    }
    assert_eq!(ends, ["/t/alive=2@+0", "-/t/alive@+1"]);

    // Long listings, which etcd answers in pages.
    for hundred in 0..100 {
        let ops = (0..100).map(|one| put(&format!("/long/{hundred:02}{one:02}"), &"x".repeat(200))).collect();
        assert!(store.transact(always(ops)).await.unwrap().succeeded);
    }
    let long = store.list("/long/").await.unwrap();
    assert_eq!(long.entries.len(), 10_000);
    assert!(long.entries.is_sorted_by(|a, b| a.key < b.key));
    let modified = long.entries.iter().map(|entry| entry.modified);
    assert_eq!(store.census("/long/", long.revision).await.unwrap(), Census::of(modified));

    // What was compacted is refused, by watches as well.
    store.compact(long.revision).await.unwrap();
    let mut behind = store.watch("/t/", second.revision).await.unwrap();
    assert!(matches!(behind.next().await, Err(StoreError::Compacted(_))));
    store.transact(always(vec![put("/t/a", "3")])).await.unwrap();
    assert_eq!(told(&watch.next().await.unwrap(), long.revision), ["/t/a=3@+1"], "one that kept up goes on");
}

#[tokio::test]
async fn in_memory() {
    let store = Memory::new(1);
    let time = store.clone();
    contract(store, async || time.advance(Duration::from_secs(30))).await;
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn with_etcd() {
    let server = Server::start();
    let passed = async || tokio::time::sleep(Duration::from_secs(1)).await;
    contract(server.store(), passed).await;
}

/// A dead or stopped etcd is noticed by calls within their deadline, and by watches within seconds.
#[tokio::test]
#[ignore = "needs etcd"]
async fn a_store_that_stands_still_is_unreachable() {
    let server = Server::start();
    let store = server.store();
    store.transact(always(vec![put("/t/a", "1")])).await.unwrap();
    let mut watch = store.watch("/t/", 1).await.unwrap();
    watch.next().await.unwrap();
    server.signal("STOP");
    let started = std::time::Instant::now();
    assert!(matches!(store.list("/t/").await, Err(StoreError::Unreachable(_))));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert!(matches!(watch.next().await, Err(StoreError::Unreachable(_))));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    server.signal("CONT");
    let back = async || loop {
        if let Ok(listing) = store.list("/t/").await {
            break listing;
        }
    };
    assert_eq!(keys(&back().await), [("/t/a", "1")], "the same handle goes on");
}
