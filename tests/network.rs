//! Docker's network model on the running daemon: networks, containers in them, what lasts, what is refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use vswitch_tests::{Container, Netns, PATIENCE, Vswitchd, eventually, process, tcp};

/// A daemon with nothing declared.
fn switch() -> Vswitchd {
    Vswitchd::start("", "")
}

/// Runs `vswitchctl network …`; arguments are parted by blanks.
fn network(switch: &Vswitchd, arguments: &str) -> String {
    let words: Vec<_> = ["network"].into_iter().chain(arguments.split(' ')).collect();
    let output = switch.try_ctl(&words);
    assert_eq!(output.code, 0, "network {arguments}: {}", output.stderr);
    output.stdout
}

fn refused(switch: &Vswitchd, arguments: &str) -> (i32, String) {
    let words: Vec<_> = ["network"].into_iter().chain(arguments.split(' ')).collect();
    let (code, sentence) = switch.refusal(&words);
    (code, sentence.trim_start_matches("vswitchctl: ").to_owned())
}

fn connect(switch: &Vswitchd, network: &str, sandbox: &Netns, more: &[&str]) -> Value {
    let place = format!("netns:{}", sandbox.name());
    switch.ctl(&[&["network", "connect"], more, &[network, &place]].concat())
}

fn address(endpoint: &Value, at: usize) -> String {
    endpoint["addresses"][at].as_str().unwrap().split('/').next().unwrap().to_owned()
}

fn inspect(switch: &Vswitchd, network: &str) -> Value {
    let text = switch.try_ctl(&["network", "inspect", network]).stdout;
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// Another host, on the wire with the daemon's: 203.0.113.1 and .2.
fn outside(switch: &Vswitchd) -> Netns {
    let other = Netns::new("outside");
    switch.host.ip(&format!("link add wire type veth peer name eth0 netns {}", other.name()));
    switch.host.ip("address add 203.0.113.1/24 dev wire");
    switch.host.ip("link set wire up");
    other.ip("address add 203.0.113.2/24 dev eth0");
    other.ip("link set eth0 up");
    other
}

#[test]
#[ignore = "needs root: make test runs it"]
fn containers_of_a_network_reach_each_other_and_nobody_else() {
    let switch = switch();
    let (web, db, job) = (Netns::new("web"), Netns::new("db"), Netns::new("job"));
    assert_eq!(network(&switch, "create blue").trim().len(), 64);
    network(&switch, "create --subnet 10.9.0.0/24 --subnet fd09::/64 --gateway 10.9.0.254 red");
    let first = connect(&switch, "blue", &web, &[]);
    let second = connect(&switch, "blue", &db, &["--driver-opt", "kind=veth"]);
    let third = connect(&switch, "red", &job, &["--ip", "10.9.0.7", "--mac-address", "02:00:00:00:00:07"]);
    assert_eq!([&first["ifname"], &first["name"]], [&json!("eth0"), &json!(web.name())]);
    assert_eq!(third["mac"], "02:00:00:00:00:07");
    assert_eq!(third["addresses"], json!(["10.9.0.7/24", "fd09::2/64"]));
    web.reaches(&address(&second, 0));
    tcp::exchange(&web, &db, &address(&second, 0), 1_000_000, 64 << 10);
    assert!(job.ip("route show").contains("default via 10.9.0.254"), "the gateway is the network's");
    job.reaches("10.9.0.254");
    job.reaches("fd09::1");
    assert!(!web.pings("10.9.0.7"), "networks are apart");
    // Even on one wire: the same station in another network is not heard.
    connect(&switch, "red", &web, &[]);
    web.reaches("10.9.0.7");
    web.reaches("fd09::2");
    assert_eq!(web.ip("route show").matches("default").count(), 1);

    // The default route goes to the endpoint that is left.
    network(&switch, &format!("disconnect blue {}", web.name()));
    assert!(!web.has_link("eth0") && web.has_link("eth1"));
    assert!(web.ip("route show").contains("default via 10.9.0.254 dev eth1"));
    let sandboxes = switch.try_ctl(&["sandbox", "ls"]).stdout;
    assert!(sandboxes.contains(&format!("netns:{}", web.name())), "{sandboxes}");
    let place = format!("netns:{}", web.name());
    assert_eq!(switch.ctl(&["sandbox", "inspect", &place]).as_array().unwrap().len(), 1);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn containers_do_not_talk_where_that_is_forbidden() {
    let switch = switch();
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    network(&switch, "create --opt icc=false quiet");
    connect(&switch, "quiet", &web, &[]);
    let other = address(&connect(&switch, "quiet", &db, &[]), 0);
    web.reaches("172.17.0.1");
    assert!(!web.pings(&other));
    network(&switch, "update --opt com.docker.network.bridge.enable_icc=true quiet");
    web.reaches(&other);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn the_outside_is_reached_and_reaches_what_is_published() {
    let switch = switch();
    let (web, db, other) = (Netns::new("web"), Netns::new("db"), outside(&switch));
    network(&switch, "create blue");
    network(&switch, "create --internal inner");
    let inner = connect(&switch, "inner", &db, &[]);
    assert_eq!(inner["gateways"], Value::Null, "an internal network leads nowhere");
    assert!(!db.pings("203.0.113.2"));
    let endpoint =
        connect(&switch, "blue", &web, &["--publish", "8080:80", "--publish", "127.0.0.1::53/udp"]);
    web.reaches("203.0.113.2");
    let at = address(&endpoint, 0);
    let listener = web.run(|| std::net::TcpListener::bind((at.as_str(), 80)).unwrap());
    for (client, called) in
        [(&other, "203.0.113.1:8080"), (&switch.host, "203.0.113.1:8080"), (&web, "203.0.113.1:8080")]
    {
        let accepted = listener.try_clone().unwrap();
        let served = thread::spawn(move || accepted.accept().unwrap());
        client.connect(called.parse().unwrap());
        served.join().unwrap();
    }
    // By IPv6 as well, where no address of the host is named.
    assert_eq!(endpoint["published"].as_array().unwrap().len(), 3);
    let taken = refused(&switch, &format!("connect --publish 8080:81 --name again blue netns:{}", db.name()));
    assert_eq!(taken, (1, "Bind for 0.0.0.0:8080 failed: port is already allocated".into()));
    let busy = switch.host.run(|| std::net::TcpListener::bind("0.0.0.0:8081").unwrap());
    let (code, sentence) = refused(&switch, &format!("connect --publish 8081:81 blue netns:{}", db.name()));
    assert!(code == 1 && sentence.contains("address already in use"), "{sentence}");
    drop(busy);
    assert!(!db.has_link("eth1"), "nothing of it is left behind");
    let nowhere = refused(&switch, &format!("connect --publish 80 --name x inner netns:{}", web.name()));
    assert_eq!(nowhere, (1, "ports cannot be published in network inner: it is internal".into()));

    network(&switch, &format!("disconnect blue {}", web.name()));
    let rules =
        switch.host.run(|| std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap());
    assert!(
        !String::from_utf8_lossy(&rules.stdout).contains("8080"),
        "published ports go with their endpoint"
    );
    network(&switch, &format!("disconnect inner {}", db.name()));
    network(&switch, "rm blue inner");
    let rules =
        switch.host.run(|| std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap());
    assert!(!String::from_utf8_lossy(&rules.stdout).contains("172.17"), "rules go with their network");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn an_uplink_puts_containers_on_the_lan() {
    let host = Netns::new("host");
    // The LAN: a bridge of the kernel with a station, and a cable to the host. The host tags what is VLAN 10.
    let lan = Netns::new("lan");
    lan.ip("link add br0 type bridge");
    lan.ip("link set br0 up");
    lan.ip("address add 192.0.2.254/24 dev br0");
    lan.ip(&format!("link add cable type veth peer name eth1 netns {}", host.name()));
    lan.ip("link set cable master br0 up");
    host.ip("link set eth1 up");
    let switch = Vswitchd::start_in(host, "", "");
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let create = "create --driver uplink --opt parent=eth1 --opt host=true --subnet 192.0.2.0/24 --gateway 192.0.2.254 lan";
    network(&switch, create);
    let first = connect(&switch, "lan", &web, &[]);
    let second = connect(&switch, "lan", &db, &[]);
    web.reaches("192.0.2.254");
    web.reaches(&address(&second, 0));
    lan.reaches(&address(&first, 0));
    let mac = lan.ip(&format!("neighbour show {}", address(&first, 0)));
    assert!(mac.contains(first["mac"].as_str().unwrap()), "with its own MAC address: {mac}");
    // Unlike macvlan, the host reaches them when asked to.
    switch.host.reaches(&address(&first, 0));
    assert!(inspect(&switch, "lan")["IPAM"]["Config"][0]["AuxiliaryAddresses"]["host"].is_string());
    assert_eq!(
        refused(&switch, "create --driver uplink --opt parent=eth1 --subnet 198.51.100.0/24 lan2").0,
        1,
        "one untagged network a parent"
    );
    network(&switch, "create --driver uplink --opt parent=eth1.10 --subnet 198.51.100.0/24 tagged");
    assert_eq!(switch.port("uplink-eth1")["trunk"], json!(["tagged"]));
}

/// The host must come up, and its containers too, whatever was done to the file meanwhile.
#[test]
#[ignore = "needs root: make test runs it"]
fn a_network_that_the_file_dropped_is_kept_for_its_endpoints() {
    let declared = |names: &[&str]| {
        let one = |(number, name): (usize, &&str)| {
            format!(
                "[[network]]\nname = \"{name}\"\nmtu = 1400\n[[network.subnet]]\nsubnet = \"10.{number}.0.0/24\"\n"
            )
        };
        names.iter().enumerate().map(one).collect::<String>()
    };
    let mut switch = Vswitchd::start("", &declared(&["blue", "red"]));
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    connect(&switch, "blue", &web, &[]);
    let to = address(&connect(&switch, "blue", &db, &[]), 0);
    let before = inspect(&switch, "blue");
    // While it runs, the daemon refuses to take the network from under its containers.
    switch.configure("", "");
    let (_, refusal) = switch.refusal(&["reload"]);
    assert!(refusal.contains("network blue has active endpoints"), "{refusal}");
    switch.kill();
    switch.run();
    switch.logs(&["the file declares it no longer", "network=blue", "vswitchctl network rm blue"]);
    assert_eq!(inspect(&switch, "blue"), before);
    assert_eq!(refused(&switch, "inspect red").0, 4, "nobody used it");
    web.reaches(&to);
    switch.kill();
    switch.run();
    assert_eq!(inspect(&switch, "blue"), before, "it lasts");
    // Declared again, it is the file's again.
    switch.configure("", &declared(&["blue"]));
    switch.ctl(&["reload"]);
    assert_eq!(inspect(&switch, "blue"), before);
    web.reaches(&to);
    assert!(refused(&switch, "rm blue").1.contains("active endpoints"));
    for container in [&web, &db] {
        network(&switch, &format!("disconnect blue {}", container.name()));
    }
    assert!(refused(&switch, "rm blue").1.contains("declared in the configuration file"));
    // Dropped while nobody uses it, it is gone.
    switch.kill();
    switch.configure("", "");
    switch.run();
    assert_eq!(refused(&switch, "inspect blue").0, 4);
}

/// A host of an underlay, 10.8.0.`number`, with a daemon whose only peer is the other of the two.
fn tunnel_host(number: u8) -> (Netns, String) {
    let rest = format!(
        "[vxlan]\nlocal = \"10.8.0.{number}\"\n[[vxlan.peer]]\naddress = \"10.8.0.{}\"\n",
        3 - number
    );
    (Netns::new("host"), rest)
}

#[test]
#[ignore = "needs root: make test runs it"]
fn an_overlay_reaches_containers_of_another_host() {
    let ((one, first), (two, second)) = (tunnel_host(1), tunnel_host(2));
    one.ip(&format!("link add under type veth peer name under netns {}", two.name()));
    for (host, number) in [(&one, 1), (&two, 2)] {
        host.ip(&format!("address add 10.8.0.{number}/24 dev under"));
        host.ip("link set under up");
    }
    let one = Vswitchd::start_in(one, "", &first);
    let two = Vswitchd::start_in(two, "", &second);
    for (switch, range) in [(&one, "10.0.5.0/25"), (&two, "10.0.5.128/25")] {
        // Nobody coordinates the two: each gives out a part, and both have the same gateway.
        network(
            switch,
            &format!(
                "create --driver overlay --opt vni=5000 --subnet 10.0.5.0/24 --gateway 10.0.5.1 --ip-range {range} wide"
            ),
        );
    }
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let near = connect(&one, "wide", &web, &[]);
    let far = connect(&two, "wide", &db, &[]);
    assert_eq!([address(&near, 0), address(&far, 0)], ["10.0.5.2", "10.0.5.128"]);
    web.reaches("10.0.5.128");
    tcp::exchange(&web, &db, "10.0.5.128", 1_000_000, 64 << 10);
    assert!(web.ip("link show dev eth0").contains("mtu 1450"));
    // Each host has a gateway with the same address; a container's is the one beside it, however often it asks.
    web.reaches("10.0.5.1");
    db.reaches("10.0.5.1");
    for (switch, container) in [(&one, &web), (&two, &db)] {
        let before = switch.port("gw.wide")["rx"]["frames"].as_u64().unwrap();
        container.reaches("10.0.5.1");
        assert!(switch.port("gw.wide")["rx"]["frames"].as_u64().unwrap() > before);
    }
    // One host is left out of the network, and taken in again, while containers stay connected.
    network(&one, "update --peer-rm 10.8.0.2 wide");
    assert!(!web.pings("10.0.5.128"));
    assert_eq!(inspect(&one, "wide")["Options"]["peers"], "");
    assert_eq!(
        refused(&one, "update --peer-add 10.8.0.9 wide").1,
        "there is no peer 10.8.0.9: see `vswitchctl peer ls`, or add it"
    );
    network(&one, "update --peer-add 10.8.0.2 wide");
    web.reaches("10.0.5.128");
    let verbose = one.try_ctl(&["network", "inspect", "--verbose", "wide"]).stdout;
    let verbose: Value = serde_json::from_str(&verbose).unwrap();
    assert_eq!(verbose[0]["Peers"][0]["IP"], "10.8.0.2");
    assert!(verbose[0]["FDB"].as_array().unwrap().len() >= 2);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn all_of_it_survives_kill_9_and_a_live_connection_too() {
    let mut switch = switch();
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let mut gone = Netns::new("gone");
    network(&switch, "create --label team=a blue");
    network(&switch, "create --ipv6 red");
    let to = address(&connect(&switch, "blue", &db, &["--publish", "8080:80", "--alias", "store"]), 0);
    connect(&switch, "blue", &web, &[]);
    connect(&switch, "red", &web, &["--driver-opt", "kind=veth"]);
    connect(&switch, "red", &gone, &[]);
    let shown = || ["blue", "red"].map(|it| inspect(&switch, it));
    let (before, ports) = (shown(), switch.ctl(&["sandbox", "ls"]));
    let rules = |switch: &Vswitchd| {
        let list =
            || std::process::Command::new("nft").args(["list", "table", "inet", "vswitch"]).output().unwrap();
        String::from_utf8(switch.host.run(list).stdout).unwrap()
    };
    let table = rules(&switch);
    let flow = tcp::Flow::start(&web, &db, &to);
    flow.flows(1_000_000);

    switch.kill();
    let interfaces = web.ip("-o -4 address show");
    switch.run();
    assert_eq!(["blue", "red"].map(|it| inspect(&switch, it)), before);
    assert_eq!(switch.ctl(&["sandbox", "ls"]), ports);
    assert_eq!(rules(&switch), table);
    assert_eq!(web.ip("-o -4 address show"), interfaces);
    flow.flows(1_000_000);
    flow.stop();

    // While nobody looks, a namespace ends: its endpoint is reaped, its address free.
    switch.kill();
    gone.delete();
    // What a daemon leaves that ends between making a veth pair and keeping its endpoint; and somebody else's.
    let state = switch.folder().join("state");
    let state = state.to_str().unwrap();
    let half_made = format!("vswitch {state} port half-made");
    let (before, foreign) = (format!("vswitch {state}"), "vswitch /elsewhere".to_owned());
    for (ifname, alias) in [("vp-half-made", half_made), ("vs-before", before), ("vp-foreign", foreign)] {
        switch.host.ip(&format!("link add {ifname} type veth"));
        let mut set = std::process::Command::new("ip");
        set.args(["-n", switch.host.name(), "link", "set", ifname, "alias", &alias]);
        assert!(set.status().unwrap().success());
    }
    switch.run();
    let there = ["vp-half-made", "vs-before", "vp-foreign"].map(|it| switch.host.has_link(it));
    assert_eq!(there, [false, false, true]);
    switch.logs(&["reaped", "network=red"]);
    assert_eq!(inspect(&switch, "red")["Containers"].as_object().unwrap().len(), 1);
    // And while somebody looks.
    drop(db);
    eventually("the endpoint goes with its namespace", || {
        (inspect(&switch, "blue")["Containers"].as_object().unwrap().len() == 1).then_some(())
    });
    // A reload of a file without them leaves them alone.
    assert_eq!(switch.ctl(&["reload"])["changes"], json!([]));
    assert_eq!(inspect(&switch, "blue")["Labels"], json!({"team": "a"}));
}

/// Killed at any moment, a daemon knows what it answered, and of what it did not answer all or nothing.
#[test]
#[ignore = "needs root: make test runs it"]
fn no_moment_leaves_half_an_endpoint() {
    let mut switch = switch();
    let sandbox = Netns::new("sandbox");
    network(&switch, "create blue");
    let place = format!("netns:{}", sandbox.name());
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..12_u64 {
        let folder = switch.socket();
        let (first, answered) = (known.len(), std::sync::mpsc::channel());
        let (sender, place) = (answered.0, place.clone());
        // Connects and disconnects until the daemon is gone.
        let client = switch.host.run(|| {
            let binary = vswitch_tests::daemon::binary("vswitchctl");
            thread::spawn(move || {
                for number in 0.. {
                    let name = format!("e{round}-{first}-{number}");
                    let run = |arguments: &[&str]| {
                        let output = std::process::Command::new(&binary)
                            .arg("--socket")
                            .arg(&folder)
                            .args(arguments)
                            .output()
                            .unwrap();
                        output.status.success()
                    };
                    if !run(&["network", "connect", "--name", &name, "blue", &place]) {
                        return;
                    }
                    let _ = sender.send((name.clone(), true));
                    if number % 3 == 2 {
                        if !run(&["network", "disconnect", "blue", &name]) {
                            // Whether it was done, nobody knows.
                            let _ = sender.send((name, false));
                            return;
                        }
                        let _ = sender.send((name, false));
                    }
                }
            })
        });
        thread::sleep(Duration::from_millis(60 + round * 17));
        switch.kill();
        client.join().unwrap();
        switch.run();
        let mut unsure = None;
        for (name, is_there) in answered.1.try_iter() {
            unsure = Some(name.clone());
            if is_there {
                known.insert(name, String::new())
            } else {
                known.remove(&name)
            };
        }
        let shown = inspect(&switch, "blue");
        let found: BTreeMap<String, String> = shown["Containers"]
            .as_object()
            .unwrap()
            .values()
            .map(|it| {
                (it["Name"].as_str().unwrap().to_owned(), it["IPv4Address"].as_str().unwrap().to_owned())
            })
            .collect();
        for name in known.keys().filter(|name| Some(*name) != unsure.as_ref()) {
            assert!(found.contains_key(name), "{name} was answered and is gone");
        }
        assert!(found.len() <= known.len() + 1, "one may have been done and not answered: {found:?}");
        // The interfaces are those of the endpoints, and each has its address.
        let interfaces = sandbox.ip("-o -4 address show");
        let there = interfaces.lines().filter(|line| line.contains(": eth")).count();
        assert_eq!(there, found.len(), "{interfaces}\n{found:?}");
        for address in found.values() {
            assert!(interfaces.contains(address), "{address} is not in\n{interfaces}");
        }
        known = found;
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn what_is_used_or_not_ours_is_not_removed() {
    let rest = "[[network]]\nname = \"declared\"\n[[network.subnet]]\nsubnet = \"10.7.0.0/24\"\n";
    let switch = Vswitchd::start("", rest);
    let web = Netns::new("web");
    for text in ["blue", "red", "green"] {
        network(&switch, &format!("create --label color={text} {text}"));
    }
    connect(&switch, "blue", &web, &[]);
    switch.ctl(&["port", "add", "lone", "--network", "red"]);
    for (arguments, code, sentence) in [
        ("rm host", 5, "host is a pre-defined network and cannot be removed"),
        ("rm bridge", 5, "bridge is a pre-defined network and cannot be removed"),
        ("rm none", 5, "none is a pre-defined network and cannot be removed"),
        ("rm nope", 4, "network nope not found"),
        ("inspect nope", 4, "network nope not found"),
        ("rm red", 1, "network red is in use by port lone: remove them first"),
        (
            "rm declared",
            1,
            "network declared is declared in the configuration file: remove it there and reload",
        ),
        ("create none", 5, "operation is not permitted on predefined none network"),
        ("create blue", 1, "network with name blue already exists"),
        ("create --driver host x", 5, "only one instance of \"host\" network is allowed"),
        ("create --scope global x", 1, "a bridge network is local, not global: leave --scope out"),
        ("create --ip-range 10.3.0.0/25 x", 1, "every ip-range or gateway must have a corresponding subnet"),
        ("create --subnet 10.3.0.0/24 --gateway 10.4.0.1 x", 1, "no matching subnet for gateway 10.4.0.1"),
        ("update --opt vni=7 blue", 1, "network blue: vni cannot change while the network lives"),
        ("disconnect blue nobody", 4, "container nobody is not connected to network blue"),
        (
            "disconnect host nobody",
            5,
            "container cannot be disconnected from host network or connected to host network",
        ),
        ("ls --filter colour=red", 1, "invalid filter 'colour'"),
    ] {
        let (got, said) = refused(&switch, arguments);
        assert!(got == code && said.starts_with(sentence), "{arguments}: {got} {said}");
    }
    let (code, said) = refused(&switch, "rm blue");
    assert_eq!(code, 5);
    assert_eq!(
        said,
        format!("error while removing network: network blue has active endpoints ({})", web.name())
    );
    let place = format!("netns:{}", web.name());
    for (network, part) in [
        ("host", "container cannot be disconnected from host network or connected to host network"),
        (
            "none",
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
    ] {
        assert_eq!(refused(&switch, &format!("connect {network} {place}")), (5, part.to_owned()));
    }
    assert_eq!(refused(&switch, "connect blue netns:vt-kernel-none").0, 4);
    assert_eq!(refused(&switch, "connect blue web").0, 2, "a bare name is no sandbox");

    assert_eq!(network(&switch, "ls --filter dangling=true --format {{.Name}}"), "declared\ngreen\nred\n");
    assert_eq!(
        network(&switch, "ls --filter label=color=blue --format {{.Name}}:{{.Driver}}"),
        "blue:bridge\n"
    );
    assert_eq!(network(&switch, "ls --filter type=builtin -q --no-trunc").lines().count(), 2);
    assert_eq!(network(&switch, "prune --force --filter label!=color=green"), "");
    assert_eq!(network(&switch, "prune --force"), "Deleted Networks:\ngreen\n\n");
    assert_eq!(network(&switch, "ls --filter type=custom --format {{.Name}}"), "blue\ndeclared\nred\n");
    let id = network(&switch, "ls --filter name=blue -q");
    assert_eq!(network(&switch, &format!("inspect --format {{{{.Name}}}} {}", id.trim())), "blue\n");
}

/// Two hundred clients at once leave nothing behind: no interface, rule, address or descriptor.
#[test]
#[ignore = "needs root: make test runs it"]
fn two_hundred_at_once_leave_nothing_behind() {
    let switch = switch();
    let sandboxes: Vec<_> = (0..10).map(|number| Netns::new(&format!("many{number}"))).collect();
    network(&switch, "create blue");
    let container = Container::start();
    // What relays what the kernel does not translate is made with the first published port, and stays.
    let place = format!("pid:{}", container.pid());
    switch.ctl(&["network", "connect", "--publish", "9000:80", "blue", &place]);
    let descriptors = process::descriptors(switch.pid());
    let before = inspect(&switch, "blue");
    thread::scope(|scope| {
        for client in 0..200 {
            let (switch, sandbox) = (&switch, &sandboxes[client % 10]);
            scope.spawn(move || {
                let (name, place) = (format!("c{client}"), format!("netns:{}", sandbox.name()));
                let publish = format!("{}:80", 10_000 + client);
                let endpoint = switch.ctl(&[
                    "network",
                    "connect",
                    "--name",
                    &name,
                    "--publish",
                    &publish,
                    "blue",
                    &place,
                ]);
                assert!(sandbox.has_link(endpoint["ifname"].as_str().unwrap()));
                switch.ctl(&["network", "disconnect", "blue", &name]);
            });
        }
    });
    assert_eq!(inspect(&switch, "blue"), before);
    for sandbox in &sandboxes {
        assert_eq!(sandbox.ip("-o link show").lines().count(), 1);
    }
    let rules =
        switch.host.run(|| std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap());
    assert!(!String::from_utf8_lossy(&rules.stdout).contains("1000"), "no published port is left");
    eventually("descriptors are closed", || {
        (process::descriptors(switch.pid()) <= descriptors).then_some(())
    });
    assert_eq!(switch.ctl(&["port", "ls"]).as_array().unwrap().len(), 2);
    let start = Instant::now();
    network(&switch, "inspect blue");
    assert!(start.elapsed() < PATIENCE);
}
