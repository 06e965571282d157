//! Changes of the configuration while the daemon runs.

use rustix::process::Signal;
use vswitch_tests::{Config, Netns, Vswitchd, net, tcp::Flow};

use super::{MAC, blue};

#[test]
fn a_reload_under_load_changes_what_differs_and_nothing_else() {
    let (a, b, c, d) = (Netns::new("a"), Netns::new("b"), Netns::new("c"), Netns::new("d"));
    let blue = |config: Config| {
        let a = config.network("blue").tap("a", &a).address("10.9.0.1/24");
        a.veth("b", &b).address("10.9.0.2/24")
    };
    let before = |ageing: &str| blue(net().switch(ageing)).tap("c", &c).address("10.9.0.3/24");
    let switch = Vswitchd::start(&before("ageing = 300"));
    let flow = Flow::start(&a, &b, "10.9.0.2");
    flow.flows(1_000_000);
    assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 0, "nothing differs yet");

    let red = |keys: &str| net().switch("ageing = 60").network("red").keys(keys);
    let with_d = |red: Config| blue(red).tap("d", &d).address("10.9.0.4/24").mac(MAC);
    let (before, after) = (before("ageing = 60"), with_d(red("")));
    switch.configure(&after);
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

    // Back and forth, by signal, many times while the stream is running.
    for round in 0..10 {
        let (config, there, gone) = if round % 2 == 0 { (&before, &c, &d) } else { (&after, &d, &c) };
        switch.configure(config);
        switch.signal(Signal::HUP);
        switch.tells("RELOADING=1");
        switch.tells("READY=1");
        assert!(there.has_link("eth0") && !gone.has_link("eth0"), "round {round}");
    }
    flow.flows(1_000_000);
    let total = flow.stop();
    println!("{total} bytes during 11 reloads");

    // A file with an error changes nothing; the refusal gives its place.
    switch.configure(&with_d(red("vlan = 4095")));
    let (code, sentence) = switch.refusal(&["reload"]);
    assert_eq!(code, 1);
    assert!(
        sentence.contains("net.toml:") && sentence.contains("network[0].vlan: 4095 is reserved"),
        "{sentence}"
    );
    a.reaches("10.9.0.4");
}

#[test]
fn what_can_be_changed_in_place_is() {
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let others =
        net().network("blue").tap("a", &a).address("10.9.0.1/24").tap("c", &c).address("10.9.0.3/24");
    for kind in ["tap", "veth"] {
        let port = others.clone().port("b", kind, &b);
        let switch = Vswitchd::start(&port.clone().address("10.9.0.2/24"));
        a.reaches("10.9.0.2");
        let index = |netns: &Netns| netns.ip("-o link show dev eth0").split(':').next().unwrap().to_owned();
        let (interface, flow) = (index(&b), Flow::start(&a, &c, "10.9.0.3"));
        flow.flows(100_000);
        let port = port.address("10.9.0.22/24 fd00:9::22/64").mac("02:42:0a:09:00:16");
        switch.configure(&port.keys("mtu = 1400\nisolated = true"));
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

/// The file changes the kind and place of a port of the same name.
#[test]
fn an_interface_that_cannot_be_changed_leaves_all_as_they_were() {
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    a.ip("link add other type veth peer name other2");
    a.ip("address add 10.9.0.11/24 dev other");
    let config = |mtu: u16, address: &str| {
        let network = net().network("blue").keys(&format!("mtu = {mtu}"));
        network.tap("a", &a).address(address).tap("b", &b).address("10.9.0.2/24")
    };
    let switch = Vswitchd::start(&config(1500, "10.9.0.1/24"));
    let flow = Flow::start(&a, &b, "10.9.0.2");
    flow.flows(100_000);
    switch.configure(&config(1400, "10.9.0.11/24"));
    let (code, sentence) = switch.refusal(&["reload"]);
    assert_eq!(code, 1);
    assert!(sentence.contains("10.9.0.11") && sentence.contains("other"), "{sentence}");
    for container in [&a, &b] {
        assert!(
            container.ip("link show eth0").contains("mtu 1500"),
            "b, set up before or after it, is undone"
        );
    }
    assert_eq!(switch.ctl(&["status"])["ports_up"], 2, "and it goes on");
    flow.flows(100_000);
    a.ip("link del other2");
    switch.ctl(&["reload"]);
    b.reaches("10.9.0.11");
    assert!(b.ip("link show eth0").contains("mtu 1400"));
}

#[test]
fn a_port_changes_its_kind_and_place_by_reload() {
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let config =
        |kind: &str, place: &Netns| blue(&[("a", &a)]).port("x", kind, place).address("10.9.0.4/24").mac(MAC);
    let switch = Vswitchd::start(&config("tap", &b));
    a.reaches("10.9.0.4");
    for (place, kind, other) in
        [(&b, "veth", &c), (&c, "veth", &b), (&c, "tap", &b), (&b, "tap", &c), (&b, "veth", &c)]
    {
        switch.configure(&config(kind, place));
        assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 1);
        let now = switch.port("x");
        assert_eq!([&now["state"], &now["kind"]], ["up", kind], "{now:#}");
        assert!(place.has_link("eth0") && !other.has_link("eth0"), "{kind}");
        a.reaches("10.9.0.4");
    }
}
