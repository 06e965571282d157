//! Mirrors to an interface of this host.

use vswitch_tests::{
    Netns, PATIENCE, eventually,
    raw::{BROADCAST, EXPERIMENT, frame},
};

use super::{DB, Office, WEB};

/// Port web is mirrored as declared in the file, network blue by command, and no other port is affected.
#[test]
fn mirrors_are_declared_or_made_and_get_what_they_ask_for() {
    let [watch, more] = ["watch", "more"].map(Netns::new);
    watch.silence();
    more.silence();
    let office = Office::start_with(|config| config.mirror("ids", &watch, "{ ports = [\"web\"] }"));
    let switch = &office.switch;
    let add = ["mirror", "add", "blues", "--network", "blue", "--netns", more.name(), "--ifname", "eth0"];
    assert_eq!(switch.try_ctl(&add).code, 0);
    let listed = switch.try_ctl(&["mirror", "ls"]).stdout;
    assert!(listed.contains("mirrors web") && listed.contains("mirrors blue"), "{listed}");
    let (watched, all) = (watch.raw("eth0"), more.raw("eth0"));
    office.web.reaches("10.9.0.3");
    for raw in [&watched, &all] {
        for (from, to) in [(WEB, DB), (DB, WEB)] {
            let echo = |frame: &[u8]| frame[..6] == to && frame[6..12] == from && frame[12..14] == [8, 0];
            assert!(raw.find(PATIENCE, echo).is_some(), "both ways");
        }
    }
    // Frames sent into a mirror port are dropped; the port is in no network.
    watched.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 9], EXPERIMENT, b"hello?"));
    eventually("it died", || (switch.dropped("ids", "MIRROR_ONLY") == 1).then_some(()));
    for port in ["web", "db", "ids", "blues"] {
        let port = switch.port(port);
        let (fates, count) = (&port["fates"], |value: &serde_json::Value| value.as_u64().unwrap());
        let dropped = |way: &str| -> u64 {
            let drops = port["drops"].as_array().unwrap().iter();
            drops.filter(|drop| drop["direction"] == way).map(|drop| count(&drop["frames"])).sum()
        };
        let received = count(&fates["unicast"]) + count(&fates["flooded"]) + dropped("rx");
        assert_eq!(count(&port["rx"]["frames"]), received, "{port}");
        assert_eq!(count(&fates["offered"]), count(&port["tx"]["frames"]) + dropped("tx"), "{port}");
    }
    let (_, why) = switch.refusal(&["mirror", "add", "x", "--port", "ids"]);
    assert!(why.contains("ids gets copies itself"), "{why}");
    let (_, why) = switch.refusal(&["mirror", "rm", "web"]);
    assert!(why.contains("port web is not a mirror"), "{why}");
    // It survives a restart, until it is removed.
    let mut office = office;
    office.switch.stop();
    office.switch.run();
    assert_eq!(office.switch.ctl(&["mirror", "ls"]).as_array().unwrap().len(), 2);
    assert_eq!(office.switch.try_ctl(&["mirror", "rm", "blues"]).code, 0);
    assert!(!more.has_link("eth0"));
}
