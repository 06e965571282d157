//! What survives crashes and changes of the file, and that nothing else is left behind.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use vswitch_tests::{Container, Netns, PATIENCE, Vswitchd, eventually, net, process, tcp};

use super::{address, connect, inspect, network, refused, switch};

/// The host and its containers must come up, whatever happened to the file meanwhile.
#[test]
fn a_network_that_the_file_dropped_is_kept_for_its_endpoints() {
    let blue = net().network("blue").keys("mtu = 1400").subnet("10.0.0.0/24");
    let both = blue.clone().network("red").keys("mtu = 1400").subnet("10.1.0.0/24");
    let mut switch = Vswitchd::start(&both);
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    connect(&switch, "blue", &web, &[]);
    let to = address(&connect(&switch, "blue", &db, &[]), 0);
    let before = inspect(&switch, "blue");
    // At run time, a reload that would remove a network in use is refused.
    switch.configure(&net());
    let (_, refusal) = switch.refusal(&["reload"]);
    assert!(refusal.contains("network blue has active endpoints"), "{refusal}");
    switch.kill();
    switch.run();
    switch.logs(&["the file no longer declares it", "network=blue", "vswitchctl network rm blue"]);
    assert_eq!(inspect(&switch, "blue"), before);
    assert_eq!(refused(&switch, "inspect red").0, 4, "nobody used it");
    web.reaches(&to);
    switch.kill();
    switch.run();
    assert_eq!(inspect(&switch, "blue"), before, "it lasts");
    // Declared again, it belongs to the file again.
    switch.configure(&blue);
    switch.ctl(&["reload"]);
    assert_eq!(inspect(&switch, "blue"), before);
    web.reaches(&to);
    assert!(refused(&switch, "rm blue").1.contains("active endpoints"));
    for container in [&web, &db] {
        network(&switch, &format!("disconnect blue {}", container.name()));
    }
    assert!(refused(&switch, "rm blue").1.contains("declared in the configuration file"));
    // Removed from the file while unused, it is gone.
    switch.kill();
    switch.configure(&net());
    switch.run();
    assert_eq!(refused(&switch, "inspect blue").0, 4);
}

#[test]
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

    // A namespace ends while the daemon is down: its endpoint is reaped and its address freed.
    switch.kill();
    gone.delete();
    // What a daemon leaves behind that dies between creating a veth pair and storing its endpoint; and an interface of
    // another owner.
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
    // The same while the daemon is up.
    drop(db);
    eventually("the endpoint goes with its namespace", || {
        (inspect(&switch, "blue")["Containers"].as_object().unwrap().len() == 1).then_some(())
    });
    // A reload of a file that never declared them does not affect them.
    assert_eq!(switch.ctl(&["reload"])["changes"], json!([]));
    assert_eq!(inspect(&switch, "blue")["Labels"], json!({"team": "a"}));
}

/// Killed at any moment, a daemon has kept what it confirmed; what it did not confirm it has done completely or not at
/// all.
#[test]
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
                            // The outcome is unknown.
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
        // Interfaces match endpoints, each with its address.
        let interfaces = sandbox.ip("-o -4 address show");
        let there = interfaces.lines().filter(|line| line.contains(": eth")).count();
        assert_eq!(there, found.len(), "{interfaces}\n{found:?}");
        for address in found.values() {
            assert!(interfaces.contains(address), "{address} is not in\n{interfaces}");
        }
        known = found;
    }
}

/// Two hundred concurrent clients leave nothing behind: no interface, rule, address or descriptor.
#[test]
fn two_hundred_at_once_leave_nothing_behind() {
    let switch = switch();
    let sandboxes: Vec<_> = (0..10).map(|number| Netns::new(&format!("many{number}"))).collect();
    network(&switch, "create blue");
    let container = Container::start();
    // The relay for what the kernel does not translate starts with the first published port, and stays.
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
