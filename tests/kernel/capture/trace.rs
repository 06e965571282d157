//! Traces of hypothetical and of real frames, and `why`.

use vswitch_tests::{
    Netns, eventually,
    raw::{BROADCAST, EXPERIMENT, frame},
};

use super::{DB, Office};

#[test]
fn a_trace_tells_every_decision_and_changes_nothing() {
    let office = Office::start();
    let switch = &office.switch;
    // Containers are announced when they are attached.
    switch.ctl(&["fdb", "flush", "--all"]);
    let counted = || switch.port("web")["rx"]["frames"].clone();
    let before = counted();
    let trace = switch.ctl(&["trace", "--port", "web", "arp who-has 10.9.0.3"]);
    assert_eq!(trace["verdict"]["fate"], "flooded");
    assert_eq!(trace["exits"][0]["port"], "db");
    let steps: Vec<_> =
        trace["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["parse", "classify", "learn", "look up", "reach"]);
    assert_eq!(switch.ctl(&["fdb", "ls"]).as_array().unwrap().len(), 0, "nothing was learned");
    assert_eq!(counted(), before, "nothing was counted");

    office.web.reaches("10.9.0.3");
    let text = switch.try_ctl(&["trace", "--port", "web", "icmp 10.9.0.3 len 3000"]).stdout;
    for part in [
        "02:42:0a:09:00:02 > 02:42:0a:09:00:03, ICMP 10.9.0.2 > 10.9.0.3 echo request, 3042 bytes at web",
        "its source is known on web",
        "02:42:0a:09:00:03 is behind db",
        "dropped: PKT_TOO_BIG",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let hex = "ffffffffffff 024200000009 8100000a 0806 0001";
    let trace = switch.ctl(&["trace", "--port", "web", "--hex", hex]);
    assert_eq!(trace["verdict"]["reason"], "VLAN_NOT_ALLOWED");
    let (code, why) = switch.refusal(&["trace", "--port", "web", "arp whohas 10.9.0.1"]);
    assert!(code == 1 && why.contains("arp who-has IP [tell IP]"), "{why}");

    // From a capture file.
    let file = office.file("one.pcapng");
    let capture = office.capture(&[
        "capture",
        "--port",
        "web",
        "--direction",
        "rx",
        "-c",
        "1",
        "-w",
        file.to_str().unwrap(),
    ]);
    office.web.reaches("10.9.0.3");
    capture.wait();
    let trace = switch.ctl(&["trace", "--port", "web", "--pcap", file.to_str().unwrap()]);
    assert!(trace["exits"].as_array().is_some_and(|exits| exits.len() == 1), "{trace}");
}

#[test]
fn a_trace_tells_storm_limits_as_they_stand() {
    let loud = Netns::new("loud");
    let storm = "storm = { broadcast = 0, unknown = 100 }";
    let office = Office::start_with(|blue| blue.tap("loud", &loud).keys(storm));
    let trace = |frame| office.switch.ctl(&["trace", "--port", "loud", frame]);
    let storm = |trace: &serde_json::Value| {
        let steps = trace["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["step"] == "storm").unwrap();
        step["outcome"].as_str().unwrap().to_owned()
    };
    let flooded = trace("from 02:00:00:00:00:09 arp who-has 10.9.0.3 tell 10.9.0.9");
    assert_eq!(flooded["verdict"]["reason"], "STORM_BROADCAST");
    assert!(storm(&flooded).starts_with("dropped: STORM_BROADCAST: "), "{flooded}");
    for _ in 0..2 {
        let unknown = trace("from 02:00:00:00:00:09 to 02:00:00:00:00:10 ether 0x88b5");
        assert_eq!(storm(&unknown), "10 more may be flooded from here at this moment, 100 a second");
        assert_eq!(unknown["verdict"]["fate"], "flooded");
    }
}

#[test]
fn real_frames_are_followed() {
    let office = Office::start();
    let live = office.capture(&["trace", "--live", "--filter", "icmp", "-n", "2"]);
    office.web.reaches("10.9.0.3");
    let (told, _) = live.wait();
    let parts = [
        " web rx 02:42:0a:09:00:02 > 02:42:0a:09:00:03, ICMP 10.9.0.2 > 10.9.0.3 echo request, 98 bytes\n    network blue: its destination is behind db\n    -> db: sent\n",
        " db rx 02:42:0a:09:00:03 > 02:42:0a:09:00:02, ICMP 10.9.0.3 > 10.9.0.2 echo reply, 98 bytes\n    network blue: its destination is behind web\n    -> web: sent\n",
    ];
    for part in parts {
        assert!(told.contains(part), "{told}");
    }
    let live = office.capture(&["trace", "--live", "--filter", "icmp", "-n", "1", "--json"]);
    office.web.reaches("10.9.0.3");
    let (told, _) = live.wait();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["port"], &told["exits"][0]["port"]), (&"web".into(), &"db".into()), "{told}");
}

#[test]
fn what_is_known_of_an_address() {
    let office = Office::start();
    let switch = &office.switch;
    // It was announced when it was attached.
    switch.ctl(&["fdb", "flush", "--all"]);
    let why = switch.try_ctl(&["why", "--ip", "10.9.0.3"]).stdout;
    assert!(why.contains("no frame was received from it"), "{why}");
    office.web.reaches("10.9.0.3");
    let why = switch.ctl(&["why", "--ip", "10.9.0.3"]);
    assert_eq!(why["declared"][0]["port"], "db");
    assert_eq!(why["entries"][0]["mac"], "02:42:0a:09:00:03");
    assert_eq!(why["findings"].as_array().unwrap().len(), 0, "{why}");
    // A port uses an address declared for another.
    office.web.raw("eth0").send(&frame(BROADCAST, DB, EXPERIMENT, b"it is me"));
    let found = eventually("the address is heard elsewhere", || {
        let why = switch.try_ctl(&["why", "--mac", "02:42:0a:09:00:03"]).stdout;
        why.contains("was learned on web but is declared for another port").then_some(why)
    });
    assert!(found.contains("DECLARED AT"), "{found}");
    assert_eq!(switch.refusal(&["why"]).0, 2);
}
