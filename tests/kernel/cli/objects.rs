//! Creating, showing, refusing and deleting networks, ports and interfaces.

use serde_json::{Value, json};
use vswitch_tests::{Container, Netns};

use super::{start, texts};
use crate::pair::Pair;

#[test]
fn networks_are_made_shown_and_deleted() {
    let Pair { switch, web: _web, db: _db } = start();
    let create = ["network", "create", "--ipam-driver", "null"];
    let keys =
        ["--driver", "overlay", "--vlan", "20", "--vni", "4096", "--mtu", "9000", "--pass-tags", "red"];
    let red = switch.ctl(&[&create[..], &keys].concat());
    for (key, value) in [
        ("name", json!("red")),
        ("vlan", json!(20)),
        ("vni", json!(4096)),
        ("mtu", json!(9000)),
        ("tags", json!("pass")),
        ("driver", json!("overlay")),
        ("declared", json!(false)),
    ] {
        assert_eq!(red[key], value, "{key}");
    }
    assert_eq!(switch.ctl(&["network", "inspect", "red"]), json!([red]));
    assert_eq!(texts(&switch.ctl(&["network", "ls"]), "name"), ["blue", "host", "none", "red"]);
    let blue = &switch.ctl(&["network", "inspect", "blue"])[0];
    assert_eq!([&blue["declared"], &blue["ports"]], [&json!(true), &json!(["db", "web"])]);

    for (arguments, code, part) in [
        (&["network", "create", "red"][..], 1, "network with name red already exists"),
        (&["network", "create", "green", "--vlan", "20"], 1, "20"),
        (&["network", "create", "green", "--vlan", "4095"], 2, "4095 is reserved"),
        (&["network", "create", "green", "--mtu", "67"], 2, "67"),
        (&["network", "create", "not a name"], 2, "is not a valid name"),
        (&["network", "inspect", "green"], 4, "network green not found"),
        (&["network", "rm", "green"], 4, "network green not found"),
        (&["network", "rm", "blue"], 1, "declared in the configuration file"),
    ] {
        let (got, sentence) = switch.refusal(arguments);
        assert_eq!(got, code, "{arguments:?}: {sentence}");
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
    }
    switch.ctl(&["port", "add", "lone", "--network", "red"]);
    let (code, sentence) = switch.refusal(&["network", "rm", "red"]);
    assert!(code == 1 && sentence.contains("lone"), "who uses it is named: {sentence}");
    assert_eq!(switch.ctl(&["port", "del", "lone"]), Value::Null);
    assert_eq!(switch.ctl(&["network", "rm", "red"]), Value::Null);
    assert_eq!(texts(&switch.ctl(&["network", "ls"]), "name"), ["blue", "host", "none"]);
}

#[test]
fn ports_are_made_shown_and_deleted() {
    let Pair { switch, web, db: _db } = start();
    switch.ctl(&["network", "create", "red", "--ipam-driver", "null", "--vlan", "20"]);
    let more = switch.ctl(&[
        "port",
        "add",
        "more",
        "--network",
        "blue",
        "--netns",
        web.name(),
        "--ifname",
        "eth1",
        "--ip",
        "10.9.1.1/24",
        "--ip",
        "fd00:9:1::1/64",
        "--mac",
        "02:42:0a:09:01:01",
        "--mtu",
        "1400",
        "--isolated",
        "--mac-limit",
        "4",
        "--no-offload",
    ]);
    for (key, value) in [
        ("name", json!("more")),
        ("network", json!("blue")),
        ("kind", json!("tap")),
        ("device", json!("eth1")),
        ("state", json!("up")),
        ("mtu", json!(1400)),
        ("offload", json!(false)),
        ("declared", json!(false)),
        ("netns", json!(web.name())),
    ] {
        assert_eq!(more[key], value, "{key}");
    }
    let inside = web.ip("-d address show dev eth1");
    for part in ["mtu 1400", "02:42:0a:09:01:01", "10.9.1.1/24", "fd00:9:1::1/64", "tun type tap"] {
        assert!(inside.contains(part), "{part} in\n{inside}");
    }
    switch.host.ip("link add nic0 type veth peer name wire");
    switch.host.ip("link set nic0 up");
    let uplink = switch.ctl(&[
        "port", "add", "uplink", "--kind", "packet", "--device", "nic0", "--trunk", "red", "--native", "blue",
    ]);
    assert_eq!([&uplink["network"], &uplink["trunk"]], [&json!("blue"), &json!(["red"])]);
    let veth = switch.ctl(&[
        "port",
        "add",
        "pair",
        "--kind",
        "veth",
        "--network",
        "blue",
        "--netns",
        web.name(),
        "--ifname",
        "eth2",
    ]);
    assert_eq!(veth["device"], "vp-pair");
    assert_eq!(texts(&switch.ctl(&["port", "ls"]), "name"), ["db", "more", "pair", "uplink", "web"]);

    let netns = web.name();
    for (arguments, code, part) in [
        (&["port", "show", "none"][..], 4, "no port none"),
        (&["port", "del", "none"], 4, "no port none"),
        (&["port", "del", "web"], 1, "declared in the configuration file"),
        (&["port", "add", "web", "--network", "blue"], 1, "port web exists already"),
        (&["port", "add", "x", "--network", "green"], 1, "green"),
        (
            &["port", "add", "x", "--network", "blue", "--netns", "vt-kernel-none"],
            4,
            "no namespace named vt-kernel-none",
        ),
        (
            &["port", "add", "x", "--network", "blue", "--netns", netns, "--ifname", "eth1"],
            1,
            "port more has the interface eth1 already",
        ),
        (&["port", "add", "x", "--network", "blue", "--netns", netns, "--ip", "10.9.0.2/24"], 1, "10.9.0.2"),
        (&["port", "add", "x", "--network", "blue", "--mac", "02:42:0a:09:01:01"], 1, "02:42:0a:09:01:01"),
        (&["port", "add", "x", "--network", "blue", "--mtu", "1451"], 1, "1451"),
        (
            &["port", "add", "x", "--network", "blue", "--ifname", "wire"],
            1,
            "wire exists already in namespace",
        ),
        (
            &["port", "add", "x", "--network", "blue", "--ifname", "wire", "--kind", "veth"],
            1,
            "wire already exists",
        ),
        (
            &["port", "add", "x", "--kind", "packet", "--network", "blue", "--device", "nic1"],
            4,
            "no interface nic1",
        ),
        (&["port", "add", "x", "--kind", "packet", "--network", "blue"], 2, "--device"),
        (&["port", "add", "x", "--network", "blue", "--ip", "10.9.0.2"], 2, "prefix length"),
        (&["port", "add", "x", "--network", "blue", "--mac", "01:00:5e:00:00:01"], 2, "group"),
        (&["port", "add", "x"], 2, "--network"),
    ] {
        let (got, sentence) = switch.refusal(arguments);
        assert_eq!(got, code, "{arguments:?}: {sentence}");
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
        assert_eq!(switch.try_ctl(&["port", "show", "x"]).code, 4, "{arguments:?} leaves nothing");
        assert!(!web.has_link("x") && !switch.host.has_link("x"), "{arguments:?} leaves no interface");
    }
    for name in ["more", "pair", "uplink"] {
        switch.ctl(&["port", "del", name]);
    }
    assert!(!web.has_link("eth1") && !web.has_link("eth2") && !switch.host.has_link("vp-pair"));
    assert!(switch.host.has_link("nic0"), "what was there before stays");
}

#[test]
fn interfaces_are_attached_to_containers_and_detached() {
    let Pair { switch, web, db } = start();
    let container = Container::start();
    let pid = container.pid().to_string();
    let target = Netns::new("target");
    for (place, kind, last) in [
        (["--netns", target.name()], "tap", 11),
        (["--netns", target.name()], "veth", 12),
        (["--pid", &pid], "tap", 13),
        (["--pid", &pid], "veth", 14),
    ] {
        let (name, ifname) = (format!("a{last}"), format!("eth{last}"));
        let (ip, mac) = (format!("10.9.0.{last}/24"), format!("02:42:0a:09:01:{last}"));
        let mut arguments =
            vec!["attach", place[0], place[1], "blue", "--name", &name, "--ifname", &ifname, "--kind", kind];
        arguments.extend(["--ip", &ip, "--mac", &mac, "--mtu", "1400"]);
        if kind == "tap" {
            arguments.extend(["--gateway", "10.9.0.1"]);
        }
        let port = switch.ctl(&arguments);
        assert_eq!([&port["name"], &port["kind"], &port["state"]], [name.as_str(), kind, "up"]);
        assert_eq!(port["mtu"], 1400);
        let show = |what: &str| match place[0] {
            "--pid" => container.ip(what),
            _ => target.ip(what),
        };
        let inside = show(&format!("address show dev {ifname}"));
        for part in [ip.as_str(), &mac, "mtu 1400", "state U"] {
            assert!(inside.contains(part), "{part} in\n{inside}");
        }
        if kind == "tap" {
            assert!(show("route show").contains(&format!("default via 10.9.0.1 dev {ifname}")));
        }
        web.reaches(ip.trim_end_matches("/24"));
        assert_eq!(switch.ctl(&["detach", &name]), Value::Null);
        assert!(!show("-o link show").contains(&ifname), "{name} is gone");
    }

    let free = ["attach", "--netns", db.name(), "blue", "--name", "x", "--ifname"];
    let refused = |more: &[&str]| switch.refusal(&[&free[..], more].concat());
    for (more, code, part) in [
        (&["eth0"][..], 1, "eth0 already exists in namespace"),
        (&["eth1", "--ip", "10.9.0.2/24"], 1, "10.9.0.2"),
        (&["eth1", "--ip", "10.9.0.1/24"], 1, "10.9.0.1"),
        (&["eth1", "--ip", "10.9.7.1/24", "--gateway", "192.0.2.1"], 1, "192.0.2.1 is in no subnet"),
        (&["eth1", "--mtu", "1451"], 1, "1451"),
        (&["not/a/name"], 2, "is not an interface name"),
        (&["eth1", "--kind", "bridge"], 2, "bridge"),
    ] {
        let (got, sentence) = refused(more);
        assert_eq!(got, code, "{more:?}: {sentence}");
        assert!(sentence.contains(part), "{more:?}: {sentence}");
        assert!(!db.has_link("eth1"), "{more:?} leaves nothing");
        assert_eq!(switch.try_ctl(&["port", "show", "x"]).code, 4, "{more:?} leaves nothing");
    }
    for (arguments, code, part) in [
        (&["attach", "--netns", "vt-kernel-none", "blue"][..], 4, "no namespace named vt-kernel-none"),
        (&["attach", "--pid", "4194305", "blue"], 4, "process 4194305 is gone"),
        (&["attach", "--netns", db.name(), "green"], 4, "network green not found"),
        (&["attach", "--netns", "/etc/hosts", "blue"], 1, "is not a network namespace"),
        (&["attach", "blue"], 2, "--netns"),
        (&["detach", "none"], 4, "no port none"),
    ] {
        let (got, sentence) = switch.refusal(arguments);
        assert_eq!(got, code, "{arguments:?}: {sentence}");
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
    }
}
