//! Reachability between containers, hosts and LANs, for each network driver.

use std::{fs, thread};

use serde_json::{Value, json};
use vswitch_tests::{Netns, Vswitchd, net, tcp};

use super::{address, connect, inspect, network, refused, switch};

/// Another host on a link with the daemon's: 203.0.113.2 and 203.0.113.1.
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
    // The same station in two networks does not connect them.
    connect(&switch, "red", &web, &[]);
    web.reaches("10.9.0.7");
    web.reaches("fd09::2");
    assert_eq!(web.ip("route show").matches("default").count(), 1);

    // The default route moves to the remaining endpoint.
    network(&switch, &format!("disconnect blue {}", web.name()));
    assert!(!web.has_link("eth0") && web.has_link("eth1"));
    assert!(web.ip("route show").contains("default via 10.9.0.254 dev eth1"));
    let sandboxes = switch.try_ctl(&["sandbox", "ls"]).stdout;
    assert!(sandboxes.contains(&format!("netns:{}", web.name())), "{sandboxes}");
    let place = format!("netns:{}", web.name());
    assert_eq!(switch.ctl(&["sandbox", "inspect", &place]).as_array().unwrap().len(), 1);
}

/// Hardened hosts and the pause containers of pods have IPv6 off by default: a network that has it switches it on for its own
/// interfaces, and for no other.
#[test]
fn where_ipv6_is_off_by_default_it_is_on_for_our_interfaces() {
    let switch = switch();
    let web = Netns::new("web");
    for netns in [&switch.host, &web] {
        netns.ip("link add other type bridge");
        let off = |scope: &str| fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        netns.run(|| off("all").and_then(|()| off("default")).unwrap());
    }
    network(&switch, "create --subnet 10.9.0.0/24 --subnet fd09::/64 blue");
    network(&switch, "create --subnet 10.8.0.0/24 plain");
    connect(&switch, "blue", &web, &["--publish", "8080:80"]);
    connect(&switch, "plain", &web, &[]);
    web.reaches("10.9.0.1");
    web.reaches("fd09::1");
    let is_off = |netns: &Netns, ifname: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6");
        netns.run(|| fs::read_to_string(path).unwrap()) == "1\n"
    };
    assert!(!is_off(&web, "eth0") && is_off(&web, "eth1") && is_off(&web, "other"));
    assert!(is_off(&switch.host, "other") && is_off(&switch.host, "lo"));
}

#[test]
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
fn the_outside_is_reached_and_reaches_what_is_published() {
    let switch = switch();
    let (web, db, other) = (Netns::new("web"), Netns::new("db"), outside(&switch));
    network(&switch, "create blue");
    network(&switch, "create --internal inner");
    let inner = connect(&switch, "inner", &db, &[]);
    assert_eq!(inner["gateways"], Value::Null, "an internal network leads nowhere");
    assert!(!db.pings("203.0.113.2"));
    // As with Docker's bridge, the host and its containers reach each other.
    let (own, gateway) = (address(&inner, 0), address(&inner, 0).replace(".0.2", ".0.1"));
    db.reaches(&gateway);
    switch.host.reaches(&own);
    // A container with a route of its own is not let through by the host, in either direction.
    db.ip(&format!("route add default via {gateway}"));
    other.ip(&format!("route add {own} via 203.0.113.1"));
    assert!(!db.pings("203.0.113.2") && !other.pings(&own));
    db.ip("route del default");
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
    // IPv6 is published as well, where no address of the host is given.
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
fn an_uplink_puts_containers_on_the_lan() {
    let host = Netns::new("host");
    // The LAN: a kernel bridge with a station, and a cable to the host, whose VLAN 10 is tagged.
    let lan = Netns::new("lan");
    lan.ip("link add br0 type bridge");
    lan.ip("link set br0 up");
    lan.ip("address add 192.0.2.254/24 dev br0");
    lan.ip(&format!("link add cable type veth peer name eth1 netns {}", host.name()));
    lan.ip("link set cable master br0 up");
    host.ip("link set eth1 up");
    let switch = Vswitchd::start_in(host, &net());
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
    // Unlike with macvlan, the host can reach them if asked to.
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

#[test]
fn an_overlay_reaches_containers_of_another_host() {
    let (one, two) = (Netns::new("host"), Netns::new("host"));
    one.ip(&format!("link add under type veth peer name under netns {}", two.name()));
    for (host, number) in [(&one, 1), (&two, 2)] {
        host.ip(&format!("address add 10.8.0.{number}/24 dev under"));
        host.ip("link set under up");
    }
    let one = Vswitchd::start_in(one, &net().vxlan("10.8.0.1").peer("10.8.0.2"));
    let two = Vswitchd::start_in(two, &net().vxlan("10.8.0.2").peer("10.8.0.1"));
    for (switch, range) in [(&one, "10.0.5.0/25"), (&two, "10.0.5.128/25")] {
        // The two hosts are not coordinated: each allocates from its own range, and both have the same gateway.
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
    // Each host has a gateway with the same address; a container always reaches its local one.
    web.reaches("10.0.5.1");
    db.reaches("10.0.5.1");
    for (switch, container) in [(&one, &web), (&two, &db)] {
        let before = switch.port("gw.wide")["rx"]["frames"].as_u64().unwrap();
        container.reaches("10.0.5.1");
        assert!(switch.port("gw.wide")["rx"]["frames"].as_u64().unwrap() > before);
    }
    // A host is removed from the network and added again while containers stay connected.
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
