//! The MAC table: learning, ageing, pinning, damping, limits.

use std::time::{Duration, Instant};

use vswitch_tests::{
    PATIENCE, eventually,
    raw::{BROADCAST, EXPERIMENT, frame},
};

use super::{Quiet, mac, station};

const NOTHING: Duration = Duration::from_millis(30);

#[test]
fn a_station_is_learned_and_forgotten_when_it_is_silent() {
    let quiet = Quiet::start("ageing = 1", &["", "", ""]);
    let ports = quiet.raw();
    let (a, b) = (station(1), station(2));
    ports[0].send(&frame(b, a, EXPERIMENT, b"where is b?"));
    for other in &ports[1..] {
        assert_eq!(
            other.until(PATIENCE, b"where is b?").len(),
            0,
            "an unknown station is looked for everywhere"
        );
    }
    ports[1].send(&frame(a, b, EXPERIMENT, b"here"));
    assert_eq!(ports[0].until(PATIENCE, b"here").len(), 0);
    ports[0].send(&frame(b, a, EXPERIMENT, b"to b alone"));
    assert_eq!(ports[1].until(PATIENCE, b"to b alone").len(), 0);
    assert_eq!(ports[2].receive(NOTHING), None, "a known station's frames go nowhere else");

    let silent = Instant::now();
    eventually("both are forgotten", || quiet.table().is_empty().then_some(()));
    assert!(silent.elapsed() >= Duration::from_millis(800), "too early: {:?}", silent.elapsed());
    assert!(silent.elapsed() < Duration::from_secs(4), "too late: {:?}", silent.elapsed());
    ports[0].send(&frame(b, a, EXPERIMENT, b"where is b now?"));
    assert_eq!(ports[2].until(PATIENCE, b"where is b now?").len(), 0);
}

#[test]
fn a_pinned_station_neither_moves_nor_ages() {
    let quiet = Quiet::start("ageing = 1", &["", "", ""]);
    let ports = quiet.raw();
    quiet.switch.ctl(&["fdb", "add", "blue", &mac(7), "p1"]);
    ports[0].send(&frame(BROADCAST, station(7), EXPERIMENT, b"I am seven"));
    assert_eq!(ports[2].until(PATIENCE, b"I am seven").len(), 0);
    assert_eq!(quiet.table(), [format!("{}@p1", mac(7))]);
    ports[0].send(&frame(BROADCAST, station(8), EXPERIMENT, b"I am eight"));
    eventually("a learned one ages meanwhile", || (quiet.table().len() == 1).then_some(()));
    ports[0].send(&frame(station(7), station(8), EXPERIMENT, b"to seven"));
    let heard = ports[1].until(PATIENCE, b"to seven");
    assert_eq!(heard.len(), 2, "what was broadcast before");
    assert_eq!(ports[2].find(NOTHING, |frame| frame.ends_with(b"to seven")), None);
}

#[test]
fn an_address_in_two_places_is_held_reported_and_never_lost() {
    let quiet = Quiet::start("damping = { moves = 3, window = 60, hold = 3 }", &["", "", ""]);
    let ports = quiet.raw();
    let mut sent = [0, 0];
    let mut claim = |side: usize| {
        sent[side] += 1;
        ports[side].send(&frame(BROADCAST, station(5), EXPERIMENT, b"I am five"));
        quiet.received(&format!("p{side}"), sent[side]);
    };
    let held = || quiet.switch.ctl(&["fdb", "ls", "--mac", &mac(5)])[0]["held"] == true;
    // Within a second both claim it many times: that counts as one move.
    for _ in 0..6 {
        (0..2).for_each(&mut claim);
    }
    assert!(!held());
    let begin = Instant::now();
    eventually("it is held", || {
        (0..2).for_each(&mut claim);
        held().then_some(())
    });
    assert!(begin.elapsed() > Duration::from_secs(1), "moves are a second apart: {:?}", begin.elapsed());
    quiet.switch.logs(&["moves too often and is limited", &mac(5)]);
    for side in [0, 1, 0] {
        let other = 1 - side;
        eventually("it follows its last sender while another port claims it", || {
            claim(other);
            claim(side);
            quiet.knows(&format!("{}@p{side}", mac(5))).then_some(())
        });
    }
    quiet.switch.logs(&["a held address is released", &mac(5)]);
    ports[1].send(&frame(BROADCAST, station(5), EXPERIMENT, b"I am still five"));
    eventually("it moves", || quiet.knows(&format!("{}@p1", mac(5))).then_some(()));
}

/// A station that invents addresses fills its own share of the table, not that of others.
#[test]
fn a_flood_of_addresses_evicts_the_flooders_own() {
    let quiet = Quiet::start("mac_limit = 64", &["", "", "mac_limit = 8"]);
    let ports = quiet.raw();
    let honest: Vec<_> = (0..8).map(|number| 0x1000 + number).collect();
    for number in &honest {
        ports[0].send(&frame(BROADCAST, station(*number), EXPERIMENT, b"honest"));
    }
    quiet.received("p0", 8);
    let flood: Vec<_> =
        (0..5000).map(|number| frame(BROADCAST, station(number % 0x1000), EXPERIMENT, b"flood")).collect();
    quiet.pour("p1", &ports[1], &flood);
    for number in 0x2000..0x2100 {
        ports[2].send(&frame(BROADCAST, station(number), EXPERIMENT, b"limited"));
    }
    quiet.received("p2", 256);
    let table = quiet.table();
    let behind = |port: &str| table.iter().filter(|entry| entry.ends_with(port)).count();
    assert!(table.len() <= 64, "{}", table.len());
    for number in honest {
        assert!(quiet.knows(&format!("{}@p0", mac(number))), "{number:x} is still known");
    }
    assert_eq!(behind("@p2"), 8, "a port's own limit");
    assert!(behind("@p1") >= 40, "the flooder has what is left: {}", behind("@p1"));
}
