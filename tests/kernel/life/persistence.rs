//! What outlives the daemon.

use std::fs;

use vswitch_tests::{Netns, Vswitchd, net, tcp::Flow};

use super::blue;

#[test]
fn streams_survive_a_crash_of_the_daemon() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    for server in ["tap", "veth"] {
        let config = |keys: &str| {
            let web = blue(&[("web", &web)]).keys(keys);
            web.port("db", server, &db).address("10.9.0.2/24").keys(keys)
        };
        let mut switch = Vswitchd::start(&config("persist = true"));
        let macs = [web.mac("eth0"), db.mac("eth0")];
        let flow = Flow::start(&web, &db, "10.9.0.2");
        flow.flows(1_000_000);
        for _ in 0..2 {
            switch.kill();
            assert!(web.has_link("eth0") && db.has_link("eth0"), "{server}: the interfaces stay");
            switch.run();
            for name in ["web", "db"] {
                assert_eq!(switch.port(name)["state"], "up", "{server}");
            }
            flow.flows(1_000_000);
        }
        flow.stop();
        assert_eq!([web.mac("eth0"), db.mac("eth0")], macs, "{server}: nobody's address changed");
        for (netns, address) in [(&web, "10.9.0.1/24"), (&db, "10.9.0.2/24")] {
            assert!(netns.ip("-o address show dev eth0").contains(address), "{server}");
        }
        // A regular stop keeps persistent interfaces as well; without `persist` they are removed.
        assert!(switch.stop().success());
        assert!(web.has_link("eth0") && db.has_link("eth0"), "{server}: they outlive an ordinary stop, too");
        switch.configure(&config(""));
        web.ip("link delete eth0");
        db.ip("link delete eth0");
        switch.run();
        assert!(switch.stop().success());
        assert!(!web.has_link("eth0") && !db.has_link("eth0"), "{server}: these do not persist");
    }
}

#[test]
fn a_persistent_interface_goes_with_its_port() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let all = blue(&[("web", &web)]).keys("persist = true");
    let all = all.veth("db", &db).address("10.9.0.2/24").keys("persist = true");
    let switch = Vswitchd::start(&all);
    switch.ctl(&["attach", "--netns", web.name(), "blue", "--name", "more", "--ifname", "eth1", "--persist"]);
    web.reaches("10.9.0.2");
    switch.ctl(&["detach", "more"]);
    assert!(!web.has_link("eth1"));
    switch.configure(&blue(&[]));
    assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 2);
    assert!(!web.has_link("eth0") && !db.has_link("eth0") && !switch.host.has_link("vp-db"));
    // It can be created again at once.
    switch.configure(&all);
    switch.ctl(&["reload"]);
    for name in ["web", "db"] {
        assert_eq!(switch.port(name)["state"], "up");
    }
}

#[test]
fn what_the_api_made_comes_back_after_a_crash() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let mut switch = Vswitchd::start(&net());
    switch.ctl(&["network", "create", "--ipam-driver", "null", "--vlan", "10", "--mtu", "1400", "blue"]);
    let mac = "02:42:0a:09:00:01";
    switch.ctl(&[
        "port",
        "add",
        "web",
        "--network",
        "blue",
        "--netns",
        web.name(),
        "--ifname",
        "eth0",
        "--ip",
        "10.9.0.1/24",
        "--mac",
        mac,
    ]);
    switch.ctl(&[
        "attach",
        "--netns",
        db.name(),
        "blue",
        "--name",
        "db",
        "--ifname",
        "eth0",
        "--ip",
        "10.9.0.2/24",
    ]);
    switch.ctl(&[
        "attach",
        "--netns",
        db.name(),
        "blue",
        "--name",
        "pair",
        "--kind",
        "veth",
        "--ifname",
        "eth1",
        "--ip",
        "10.9.1.2/24",
    ]);
    web.reaches("10.9.0.2");
    let spec = |name: &str, switch: &Vswitchd| {
        let port = switch.port(name);
        ["name", "declared", "network", "kind", "device", "netns", "mtu", "state"]
            .map(|key| port[key].clone())
    };
    let before = ["web", "db", "pair"].map(|name| spec(name, &switch));
    let network = switch.ctl(&["network", "inspect", "blue"])[0].clone();
    switch.ctl(&["fdb", "add", "blue", "02:42:00:00:00:99", "web"]);
    let pinned = |switch: &Vswitchd| switch.ctl(&["fdb", "ls", "--mac", "02:42:00:00:00:99"]);
    let pin = pinned(&switch);

    switch.kill();
    assert!(!web.has_link("eth0"), "a TAP that does not persist goes with its descriptor");
    switch.run();
    for (name, before) in ["web", "db", "pair"].iter().zip(before) {
        switch.port_is(name, "up");
        assert_eq!(spec(name, &switch), before);
    }
    let again = switch.ctl(&["network", "inspect", "blue"])[0].clone();
    assert_eq!(
        ["name", "vlan", "mtu", "declared", "ports"].map(|key| again[key].clone()),
        ["name", "vlan", "mtu", "declared", "ports"].map(|key| network[key].clone())
    );
    assert_eq!(web.mac("eth0"), [2, 0x42, 10, 9, 0, 1]);
    assert_eq!(pinned(&switch), pin, "pinned addresses as well");
    web.reaches("10.9.0.2");

    switch.ctl(&["detach", "web"]);
    assert!(pinned(&switch).as_array().unwrap().is_empty(), "they go with their port");
    switch.kill();
    switch.run();
    assert_eq!(switch.refusal(&["port", "show", "web"]).0, 4, "what was deleted stays so");
}

#[test]
fn told_to_stop_it_leaves_nothing_behind() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let config = blue(&[("web", &web)]).veth("db", &db).address("10.9.0.2/24");
    let mut switch = Vswitchd::start(&config);
    switch.ctl(&["attach", "--netns", web.name(), "blue", "--name", "more", "--ifname", "eth1"]);
    switch.ctl(&[
        "attach",
        "--netns",
        db.name(),
        "blue",
        "--name",
        "pair",
        "--ifname",
        "eth1",
        "--kind",
        "veth",
    ]);
    assert!(switch.host.has_link("vp-db") && switch.host.has_link("vp-pair"));
    let socket = switch.socket();
    assert!(socket.exists());
    assert!(switch.stop().success());
    for netns in [&web, &db, &switch.host] {
        let left = netns.ip("-o link show");
        assert_eq!(left.lines().count(), 1, "only the loopback is left: {left}");
    }
    let left: Vec<_> =
        fs::read_dir(switch.folder()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    // The copy of the store lasts as long as the host is up.
    let is_socket = |name: &str| name.starts_with("api.sock") && name != "api.sock.store";
    assert!(!left.iter().any(|name| is_socket(&name.to_string_lossy())), "{left:?}");
    assert_eq!(switch.try_ctl(&["status"]).code, 3);
}
