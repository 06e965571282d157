//! Changes of the configuration while the daemon runs.

use rustix::process::Signal;
use vswitch_tests::{Netns, Vswitchd, tcp::Flow};

use super::{BLUE, MAC, port, tap, veth};

#[test]
fn a_reload_under_load_changes_what_differs_and_nothing_else() {
    let (a, b, c, d) = (Netns::new("a"), Netns::new("b"), Netns::new("c"), Netns::new("d"));
    let before = BLUE.to_owned() + &tap("a", &a, 1) + &veth("b", &b, 2) + &tap("c", &c, 3);
    let switch = Vswitchd::start("ageing = 300", &before);
    let flow = Flow::start(&a, &b, "10.9.0.2");
    flow.flows(1_000_000);
    assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 0, "nothing differs yet");

    let after = BLUE.to_owned()
        + "[[network]]\nname = \"red\"\n"
        + &tap("a", &a, 1)
        + &veth("b", &b, 2)
        + &tap("d", &d, 4)
        + MAC;
    switch.configure("ageing = 60", &after);
    let said = switch.ctl(&["reload", "--dry-run"]);
    assert_eq!(said["dry_run"], true);
    assert!(c.has_link("eth0") && !d.has_link("eth0"), "a dry run does nothing");
    let done = switch.ctl(&["reload"]);
    assert_eq!(said["changes"], done["changes"], "what was said is what is done");
    let lines = done["changes"].as_array().unwrap().iter().map(|change| {
        let text = |key: &str| change[key].as_str().unwrap_or("").to_owned();
        format!("{} {} {} {}", text("action"), text("object"), text("name"), text("detail"))
    });
    let lines: Vec<String> = lines.collect();
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    assert_eq!(
        lines,
        ["change switch vswitch ageing 300 -> 60", "add network red", "remove port c", "add port d"]
    );
    assert!(!c.has_link("eth0"));
    a.reaches("10.9.0.4");
    flow.flows(1_000_000);

    // Forward and back again, by signal, many times while the stream flows.
    for round in 0..10 {
        let (text, there, gone) = if round % 2 == 0 { (&before, &c, &d) } else { (&after, &d, &c) };
        switch.configure("ageing = 60", text);
        switch.signal(Signal::HUP);
        switch.tells("RELOADING=1");
        switch.tells("READY=1");
        assert!(there.has_link("eth0") && !gone.has_link("eth0"), "round {round}");
    }
    flow.flows(1_000_000);
    let total = flow.stop();
    println!("{total} octets during 11 reloads");

    // A file with a mistake changes nothing and says where the mistake is.
    let wrong = after.replace("name = \"red\"", "name = \"red\"\nvlan = 4095");
    switch.configure("ageing = 60", &wrong);
    let (code, sentence) = switch.refusal(&["reload"]);
    assert_eq!(code, 1);
    assert!(
        sentence.contains("net.toml:") && sentence.contains("network[1].vlan: 4095 is reserved"),
        "{sentence}"
    );
    a.reaches("10.9.0.4");
}

#[test]
fn what_can_be_changed_in_place_is() {
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let others = BLUE.to_owned() + &tap("a", &a, 1) + &tap("c", &c, 3);
    for kind in ["tap", "veth"] {
        let before = format!("kind = \"{kind}\"\naddress = \"10.9.0.2/24\"");
        let after = format!(
            "kind = \"{kind}\"\naddress = [\"10.9.0.22/24\", \"fd00:9::22/64\"]\nmtu = 1400\nisolated = true\n\
             mac = \"02:42:0a:09:00:16\""
        );
        let switch = Vswitchd::start("", &(others.clone() + &port("b", b.name(), &before)));
        a.reaches("10.9.0.2");
        let index = |netns: &Netns| netns.ip("-o link show dev eth0").split(':').next().unwrap().to_owned();
        let (interface, flow) = (index(&b), Flow::start(&a, &c, "10.9.0.3"));
        flow.flows(100_000);
        switch.configure("", &(others.clone() + &port("b", b.name(), &after)));
        let changes = switch.ctl(&["reload"])["changes"].clone();
        let changes = changes.as_array().unwrap();
        assert_eq!(
            (changes.len(), &changes[0]["name"], &changes[0]["action"]),
            (1, &"b".into(), &"change".into())
        );
        let detail = changes[0]["detail"].as_str().unwrap();
        assert!(detail.contains("isolated false -> true") && detail.contains("mtu 1500 -> 1400"), "{detail}");
        assert_eq!(index(&b), interface, "{kind}: the interface is the same");
        let shown = b.ip("address show dev eth0");
        for part in ["10.9.0.22/24", "fd00:9::22/64", "mtu 1400", "02:42:0a:09:00:16"] {
            assert!(shown.contains(part), "{kind}: {part} is missing in\n{shown}");
        }
        assert!(!shown.contains("10.9.0.2/24"), "{kind}: {shown}");
        a.reaches("10.9.0.22");
        flow.flows(100_000);
        flow.stop();
    }
}

/// A file that changes what a port stands on, under the same name.
#[test]
fn a_port_changes_its_kind_and_place_by_reload() {
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let fixed = BLUE.to_owned() + &tap("a", &a, 1);
    let keys = |kind: &str| format!("kind = \"{kind}\"\naddress = \"10.9.0.4/24\"\n{MAC}");
    let switch = Vswitchd::start("", &(fixed.clone() + &port("x", b.name(), &keys("tap"))));
    a.reaches("10.9.0.4");
    for (place, kind, other) in
        [(&b, "veth", &c), (&c, "veth", &b), (&c, "tap", &b), (&b, "tap", &c), (&b, "veth", &c)]
    {
        switch.configure("", &(fixed.clone() + &port("x", place.name(), &keys(kind))));
        assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 1);
        let now = switch.port("x");
        assert_eq!([&now["state"], &now["kind"]], ["up", kind], "{now:#}");
        assert!(place.has_link("eth0") && !other.has_link("eth0"), "{kind}");
        a.reaches("10.9.0.4");
    }
}
