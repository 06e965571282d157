//! The table against its manual: what it learns, forgets, holds and gives up.

use proptest::prelude::*;

use super::*;

const BLUE: NetworkId = NetworkId(1);
const RED: NetworkId = NetworkId(2);
const WEB: PortId = PortId(1);
const DB: PortId = PortId(2);

fn mac(id: u32) -> MacAddr {
    let [a, b, c, d] = id.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn table(limit: u32) -> Fdb {
    Fdb::new(Settings { limit, seed: 0x5eed, ..Settings::default() })
}

fn learn(fdb: &Fdb, id: u32, port: PortId, seconds: u64) -> Learned {
    fdb.learn(fdb.station(BLUE, mac(id)), port, None, at(seconds))
}

fn lookup(fdb: &Fdb, network: NetworkId, id: u32, seconds: u64) -> Option<PortId> {
    fdb.lookup(fdb.station(network, mac(id)), at(seconds))
}

#[test]
fn learns_moves_and_keeps_networks_apart() {
    let fdb = table(100);
    assert_eq!(learn(&fdb, 1, WEB, 0), Learned::New);
    assert_eq!(learn(&fdb, 1, WEB, 1), Learned::Known);
    assert_eq!(lookup(&fdb, BLUE, 1, 1), Some(WEB));
    assert_eq!(lookup(&fdb, RED, 1, 1), None);
    assert_eq!(learn(&fdb, 1, DB, 2), Learned::Moved { from: WEB });
    assert_eq!(lookup(&fdb, BLUE, 1, 2), Some(DB));
    assert_eq!((fdb.learned_on(WEB), fdb.learned_on(DB), fdb.len()), (0, 1, 1));
}

#[test]
fn forgets_after_the_ageing_time_unless_heard_again() {
    let fdb = table(100);
    learn(&fdb, 1, WEB, 0);
    learn(&fdb, 2, WEB, 0);
    learn(&fdb, 2, WEB, 200);
    assert_eq!(lookup(&fdb, BLUE, 1, 300), Some(WEB));
    assert_eq!(lookup(&fdb, BLUE, 1, 301), None, "expired is not used before it is swept");
    assert_eq!(lookup(&fdb, BLUE, 2, 301), Some(WEB));
    assert_eq!(fdb.len(), 2);
    fdb.sweep(0, 1, at(301));
    assert_eq!((fdb.len(), fdb.totals().expired), (1, 1));
}

#[test]
fn a_flush_forgets_what_was_learned_and_only_that() {
    let fdb = table(100);
    learn(&fdb, 1, WEB, 0);
    learn(&fdb, 2, DB, 0);
    fdb.learn(fdb.station(RED, mac(3)), WEB, None, at(0));
    assert!(fdb.pin(BLUE, mac(4), WEB, Origin::Static, at(0)));
    fdb.flush_port(WEB);
    let seen = |network, id| lookup(&fdb, network, id, 1);
    assert_eq!([seen(BLUE, 1), seen(RED, 3)], [None, None]);
    assert_eq!([seen(BLUE, 2), seen(BLUE, 4)], [Some(DB), Some(WEB)]);
    assert_eq!(learn(&fdb, 1, WEB, 1), Learned::New);
    assert_eq!(seen(BLUE, 1), Some(WEB), "learned after the flush");
    fdb.flush_network(BLUE);
    assert_eq!([seen(BLUE, 1), seen(BLUE, 2), seen(BLUE, 4)], [None, None, Some(WEB)]);
    fdb.sweep(0, 1, at(1));
    assert_eq!((fdb.len(), fdb.learned_on(WEB), fdb.learned_on(DB)), (1, 0, 0));
}

#[test]
fn flush_numbers_may_run_out() {
    let fdb = table(8);
    for _ in 0..=slot::BORN_MAX {
        fdb.flush_port(DB);
    }
    learn(&fdb, 1, DB, 0);
    assert_eq!(lookup(&fdb, BLUE, 1, 0), Some(DB));
    fdb.flush_port(DB);
    assert_eq!(lookup(&fdb, BLUE, 1, 0), None);
}

#[test]
fn pinned_beats_learned_and_stronger_beats_weaker() {
    let fdb = table(100);
    learn(&fdb, 1, WEB, 0);
    assert!(fdb.pin(BLUE, mac(1), DB, Origin::Control, at(0)));
    assert_eq!(learn(&fdb, 1, WEB, 1), Learned::Pinned(Origin::Control));
    assert!(fdb.pin(BLUE, mac(1), WEB, Origin::Static, at(1)));
    assert!(!fdb.pin(BLUE, mac(1), DB, Origin::Control, at(1)));
    assert_eq!(lookup(&fdb, BLUE, 1, 1_000_000), Some(WEB), "does not age");
    assert!(fdb.forget(BLUE, mac(1)));
    assert!(!fdb.forget(BLUE, mac(1)));
    assert!(fdb.is_empty());
}

#[test]
fn what_is_no_station_is_never_there() {
    let fdb = table(100);
    for mac in [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr([1, 0, 0, 0, 0, 0])] {
        for network in [NetworkId(0), BLUE, NetworkId(u16::MAX)] {
            assert!(!fdb.pin(network, mac, WEB, Origin::Static, at(0)), "{mac}");
            assert!(!fdb.forget(network, mac), "{mac}");
        }
    }
    // Frames are sent there, though none come from there.
    assert_eq!(fdb.lookup(fdb.station(NetworkId(0), MacAddr::ZERO), at(0)), None);
    assert!(fdb.is_empty());
}

/// Moves a station between two ports once a second, until it is held on `DB` at five seconds.
fn held() -> Fdb {
    let fdb = table(100);
    learn(&fdb, 1, WEB, 0);
    for (second, port) in [(1, DB), (2, WEB), (3, DB), (4, WEB), (5, DB)] {
        assert!(matches!(learn(&fdb, 1, port, second), Learned::Moved { .. }));
        assert_eq!(fdb.entries(at(second)).all(|entry| entry.held), second == 5);
    }
    fdb
}

fn changes(fdb: &Fdb) -> Vec<Change> {
    let mut changes = Vec::new();
    fdb.drain_events(|event| changes.push(event.what));
    changes
}

#[test]
fn an_address_that_keeps_moving_is_reported_and_moves_once_a_second() {
    let fdb = held();
    assert!(changes(&fdb).ends_with(&[Change::Held { rival: DB }, Change::Moved { from: WEB }]));
    assert_eq!([learn(&fdb, 1, WEB, 5), learn(&fdb, 1, WEB, 5)], [Learned::Held; 2]);
    assert_eq!(lookup(&fdb, BLUE, 1, 5), Some(DB));
    assert_eq!(learn(&fdb, 1, WEB, 6), Learned::Moved { from: DB }, "never kept from its last sender");
    assert!(fdb.entries(at(6)).all(|entry| entry.held));
    for second in 7..1805 {
        learn(&fdb, 1, WEB, second);
        fdb.sweep(0, 1, at(second));
    }
    assert!(fdb.entries(at(1804)).all(|entry| entry.held));
    fdb.sweep(0, 1, at(1805));
    assert!(fdb.entries(at(1805)).all(|entry| !entry.held), "released after half an hour");
    assert_eq!(changes(&fdb), [Change::Moved { from: DB }, Change::Released]);
    assert_eq!(fdb.totals().held, 1);
}

#[test]
fn a_hold_ends_when_the_holder_is_silent_and_the_address_is_heard_elsewhere() {
    let fdb = held();
    changes(&fdb);
    assert_eq!(learn(&fdb, 1, WEB, 7), Learned::Moved { from: DB });
    assert!(fdb.entries(at(7)).all(|entry| !entry.held));
    assert_eq!(changes(&fdb), [Change::Released, Change::Moved { from: DB }]);
    assert_eq!(learn(&fdb, 1, DB, 7), Learned::Moved { from: WEB }, "its moves are counted anew");
}

#[test]
fn what_a_loop_brings_around_is_no_move_that_counts() {
    let fdb = table(100);
    for round in 0..2000 {
        let now = Timestamp::from_millis(round);
        for port in [WEB, DB, PortId(3)] {
            fdb.learn(fdb.station(BLUE, mac(1)), port, None, now);
        }
    }
    assert_eq!((fdb.totals().held, fdb.totals().moved), (0, 10), "five moves a second");
    assert!(matches!(learn(&fdb, 1, WEB, 3), Learned::Moved { .. } | Learned::Known));
    assert_eq!(lookup(&fdb, BLUE, 1, 3), Some(WEB));
}

#[test]
fn a_hold_ends_on_time_whatever_part_of_the_table_is_swept() {
    for part in 0..4 {
        let fdb = held();
        for second in 6..1805 {
            learn(&fdb, 1, DB, second);
            fdb.sweep(part, 4, at(second));
        }
        assert!(fdb.entries(at(1804)).all(|entry| entry.held));
        fdb.sweep(part, 4, at(1805));
        assert!(fdb.entries(at(1805)).all(|entry| !entry.held));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the history of an address, and even if other ports go on claiming it: its station is reachable again within
    /// little more than a second for each port that claims it, and at the first frame when the others are silent.
    #[test]
    fn damping_never_keeps_an_address_from_its_sender(
        moves in 0..4_u32,
        past in prop::collection::vec((0..3_u16, prop_oneof![0..20_u64, 0..2_000_u64, 0..100_000_u64]), 0..60),
        rivals in any::<bool>(),
    ) {
        let damping = Damping { moves, ..Damping::default() };
        let fdb = Fdb::new(Settings { limit: 100, damping, seed: 0x5eed, ..Settings::default() });
        let station = fdb.station(BLUE, mac(1));
        let mut now = 0;
        let mut heard = |port, after| {
            now += after;
            let at = Timestamp::from_millis(now);
            let learned = fdb.learn(station, PortId(port), None, at);
            prop_assert_eq!(learned == Learned::Held, fdb.lookup(station, at) != Some(PortId(port)));
            prop_assert!(learned != Learned::Held || moves > 0);
            Ok(learned != Learned::Held)
        };
        for (port, after) in past {
            heard(port, after)?;
        }
        if rivals {
            let mut reached = false;
            for _ in 0..25 {
                heard(1, 50)?;
                reached |= heard(0, 50)?;
            }
            prop_assert!(reached);
        } else {
            prop_assert!(heard(0, 1_280)?);
        }
    }
}

#[test]
fn a_port_never_exceeds_its_own_limit() {
    let fdb = table(100);
    let learn = |id, port| fdb.learn(fdb.station(BLUE, mac(id)), port, Some(2), at(0));
    assert_eq!([learn(1, WEB), learn(2, WEB), learn(3, WEB)], [Learned::New, Learned::New, Learned::Full]);
    assert_eq!(learn(4, DB), Learned::New);
    assert_eq!(learn(4, WEB), Learned::Full, "nor by moves");
    assert_eq!(fdb.learned_on(WEB), 2);
}

#[test]
fn a_port_that_floods_the_table_displaces_only_itself() {
    let fdb = table(1000);
    for id in 0..100 {
        learn(&fdb, id, WEB, 0);
    }
    for id in 1000..101_000 {
        assert_eq!(learn(&fdb, id, DB, 1), Learned::New);
        assert!(fdb.len() <= 1000);
    }
    assert_eq!((fdb.learned_on(WEB), fdb.learned_on(DB)), (100, 900));
    let (web, db) = (fdb.learning_of_port(WEB), fdb.learning_of_port(DB));
    assert_eq!((web.learned, web.evicted), (100, 0));
    assert_eq!((db.learned, db.evicted), (100_000, fdb.totals().evicted));
    assert_eq!(fdb.learning_of_network(BLUE).learned, fdb.totals().learned);
    assert!((0..100).all(|id| lookup(&fdb, BLUE, id, 1) == Some(WEB)));
}

#[test]
fn a_table_of_pinned_entries_refuses_and_says_so() {
    let fdb = table(8);
    assert!((0..8).all(|id| fdb.pin(BLUE, mac(id), WEB, Origin::Static, at(0))));
    assert!(!fdb.pin(BLUE, mac(8), WEB, Origin::Static, at(0)));
    assert_eq!(learn(&fdb, 9, DB, 0), Learned::Full);
    assert_eq!(fdb.totals().refused, 1);
}

#[test]
fn holds_as_many_as_it_promises() {
    for limit in [8, 100, 4096, 65_536] {
        let fdb = table(limit);
        for id in 0..limit {
            assert_eq!(learn(&fdb, id, WEB, 0), Learned::New);
        }
        assert_eq!(fdb.totals().evicted, 0, "limit {limit}");
        assert!((0..limit).all(|id| lookup(&fdb, BLUE, id, 0) == Some(WEB)), "limit {limit}");
    }
}

/// Readers must never see one station's port under another's address, whatever writers do.
#[test]
fn concurrent_readers_see_only_what_was_written() {
    let fdb = Fdb::new(Settings {
        limit: 64,
        damping: Damping { moves: 0, ..Damping::default() },
        ..Settings::default()
    });
    // Station `id` is only ever on port `id % 7`; 512 stations fight for 64 places.
    let home = |id: u32| PortId(u16::try_from(id % 7).unwrap());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    for id in 0..512 {
                        if let Some(port) = lookup(&fdb, BLUE, id, 1) {
                            assert_eq!(port, home(id));
                        }
                    }
                }
            });
        }
        for round in 0..300_u32 {
            for id in 0..512 {
                fdb.learn(fdb.station(BLUE, mac(id)), home(id), None, at(1));
            }
            if round % 16 == 0 {
                fdb.flush_port(PortId(3));
                fdb.sweep(0, 1, at(1));
            }
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_network_learns_as_many_addresses_as_its_limit_allows() {
    let fdb = table(100);
    fdb.limit_networks([(BLUE, 2)]);
    assert_eq!([1, 2, 3].map(|id| learn(&fdb, id, WEB, 0)), [Learned::New, Learned::New, Learned::Full]);
    assert_eq!(fdb.would_learn(fdb.station(BLUE, mac(3)), DB, None, at(1)).0, Learned::Full);
    assert_eq!(learn(&fdb, 3, DB, 1), Learned::Full, "on whatever port");
    assert_eq!(
        fdb.learn(fdb.station(RED, mac(3)), WEB, None, at(1)),
        Learned::New,
        "other networks have no limit"
    );
    assert_eq!(learn(&fdb, 2, DB, 2), Learned::Moved { from: WEB });
    assert_eq!((fdb.learning_of_network(BLUE).refused, fdb.totals().refused), (2, 2));
    let mut told = Vec::new();
    fdb.drain_events(|event| told.extend((event.what == Change::Refused { limit: 2 }).then_some(event.mac)));
    assert_eq!(told, [mac(3)], "once a minute");
    // An expired or flushed entry makes room for its own station, and when it is swept for others.
    fdb.flush_network(BLUE);
    assert_eq!(fdb.would_learn(fdb.station(BLUE, mac(1)), WEB, None, at(3)).0, Learned::New);
    assert_eq!(learn(&fdb, 1, WEB, 3), Learned::New);
    assert_eq!(learn(&fdb, 3, WEB, 3), Learned::Full);
    fdb.sweep(0, 1, at(3));
    assert_eq!(learn(&fdb, 3, WEB, 4), Learned::New);
    fdb.limit_networks([(BLUE, 1)]);
    assert_eq!(lookup(&fdb, BLUE, 3, 5), Some(WEB), "a lower limit takes none away");
    fdb.limit_networks([]);
    assert_eq!(learn(&fdb, 4, WEB, 6), Learned::New);
}

#[test]
fn a_loop_is_reported_with_its_two_ports() {
    let (fdb, other) = (table(100), PortId(3));
    learn(&fdb, 1, WEB, 0);
    for millis in 0..2000 {
        let port = if millis % 2 == 0 { DB } else { other };
        fdb.learn(fdb.station(BLUE, mac(1)), port, None, Timestamp::from_millis(millis));
    }
    let mut loops = Vec::new();
    fdb.drain_events(|event| {
        if let Change::Looped { rival } = event.what {
            loops.push((event.network, event.mac, event.port, rival));
        }
    });
    assert_eq!(loops, [(BLUE, mac(1), DB, other)]);
    let found = fdb.loops(at(2));
    assert_eq!(found.iter().map(|it| it.ports).collect::<Vec<_>>(), [[DB, other]]);
    assert_eq!(fdb.totals().loops, 1);
    fdb.purge(|_, port| port == other);
    assert_eq!(fdb.loops(at(2)), []);
}

#[test]
fn a_loop_of_pinned_addresses_is_found_as_well() {
    let (fdb, other) = (table(100), PortId(3));
    assert!(fdb.pin(BLUE, mac(1), WEB, Origin::Static, at(0)));
    for millis in 0..200 {
        let port = if millis % 2 == 0 { DB } else { other };
        let learned = fdb.learn(fdb.station(BLUE, mac(1)), port, None, Timestamp::from_millis(millis));
        assert_eq!(learned, Learned::Pinned(Origin::Static));
    }
    assert_eq!(fdb.loops(at(0)).iter().map(|it| it.ports).collect::<Vec<_>>(), [[DB, other]]);
}
