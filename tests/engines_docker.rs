//! Docker Engine with our plugin, for real: the life of containers, and of both daemons.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    thread,
};

use vswitch_tests::{Engine, Netns, Vswitchd, eventually};

fn endpoints(switch: &Vswitchd) -> usize {
    let ports = switch.ctl(&["port", "ls"]);
    ports
        .as_array()
        .unwrap()
        .iter()
        .filter(|port| port["device"].as_str().unwrap().starts_with("vse"))
        .count()
}

/// Waits until no container's interface is left in the switch and in the host.
fn nothing_is_left(switch: &Vswitchd) {
    eventually("no endpoint is left", || (endpoints(switch) == 0).then_some(()));
    eventually("no interface is left", || (!switch.host.ip("-br link").contains("vse")).then_some(()));
}

#[test]
#[ignore = "needs root: make test runs it"]
fn the_life_of_containers() {
    let mut switch = Vswitchd::start_apart(Netns::new("host"), "");
    let engine = Engine::start(&switch);
    engine.docker(&[
        "network",
        "create",
        "-d",
        "vswitch",
        "--ipv6",
        "--subnet",
        "10.9.0.0/24",
        "--subnet",
        "fd00:9::/64",
        "-o",
        "vswitch.network=blue",
        "-o",
        "mtu=1400",
        "blue",
    ]);
    let network = switch.ctl(&["network", "inspect", "blue"]);
    let id = engine.docker(&["network", "inspect", "-f", "{{.Id}}", "blue"]);
    assert_eq!(network[0]["id"], id);

    // A server, found by its name, over both families, and from outside.
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "blue",
        "-p",
        "8080:80",
        "box",
        "httpd",
        "-f",
        "-h",
        "/",
    ]);
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "job",
        "--network",
        "blue",
        "--ip",
        "10.9.0.77",
        "box",
        "sleep",
        "1000",
    ]);
    engine.reaches("job", "web");
    let inside = engine.docker(&["exec", "job", "ip", "addr", "show", "dev", "eth0"]);
    assert!(
        inside.contains("10.9.0.77/24") && inside.contains("fd00:9::") && inside.contains("mtu 1400"),
        "{inside}"
    );
    assert_eq!(engine.docker(&["exec", "job", "wget", "-q", "-O", "-", "http://web/index.html"]), "hello");
    engine.reaches("job", "fd00:9::1");
    engine.reaches("job", "10.9.0.1");
    assert!(!engine.docker(&["network", "ls"]).contains("docker_gwbridge"));
    let published = SocketAddr::new(IpAddr::from([10, 9, 0, 1]), 8080);
    let mut stream = switch.host.connect(published);
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello\n"), "{answer}");

    // A second network comes and goes while the container runs.
    engine.docker(&[
        "network",
        "create",
        "-d",
        "vswitch",
        "--internal",
        "--ipam-driver",
        "vswitch",
        "-o",
        "kind=veth",
        "red",
    ]);
    engine.docker(&["network", "connect", "red", "job"]);
    assert!(engine.docker(&["exec", "job", "ip", "addr"]).contains("eth1"));
    engine.docker(&["network", "disconnect", "red", "job"]);
    assert!(!engine.docker(&["exec", "job", "ip", "addr"]).contains("eth1"));
    engine.docker(&["network", "rm", "red"]);

    // The switch is killed: what it made goes on where it was.
    switch.kill();
    switch.run();
    engine.reaches("job", "web");
    engine.docker(&["restart", "-t", "0", "web"]);
    engine.reaches("job", "web");

    // The engine is killed, and forgets its endpoints: addresses can be had again.
    let mut engine = engine;
    engine.kill();
    engine.run();
    eventually("the containers are gone", || (engine.docker(&["ps", "-q"]).is_empty()).then_some(()));
    engine.docker(&["start", "job", "web"]);
    assert!(engine.docker(&["exec", "job", "ip", "addr"]).contains("10.9.0.77/24"));
    engine.reaches("job", "web");

    // Both stop, and start again in either order.
    switch.stop();
    engine.stop();
    engine.run();
    switch.run();
    engine.docker(&["start", "job", "web"]);
    engine.reaches("job", "web");

    engine.docker(&["rm", "-f", "job", "web"]);
    nothing_is_left(&switch);
    engine.docker(&["network", "rm", "blue"]);
    assert!(switch.refusal(&["network", "inspect", "blue"]).1.contains("not found"));
}

#[test]
#[ignore = "needs root: make test runs it"]
fn many_containers_at_once_and_what_is_refused() {
    let switch = Vswitchd::start_apart(Netns::new("host"), "");
    let engine = Engine::start(&switch);
    switch.ctl(&["network", "create", "--subnet", "10.9.0.0/24", "blue"]);
    let refusal =
        engine.refusal(&["network", "create", "-d", "vswitch", "-o", "vswitch.network=blue", "blue"]);
    assert!(refusal.contains("add --ipam-driver vswitch --subnet 10.9.0.0/24"), "{refusal}");
    let refusal = engine.refusal(&["network", "create", "-d", "vswitch", "-o", "vlna=7", "red"]);
    assert!(refusal.contains("option vlna: is unknown"), "{refusal}");
    // What was made here is adopted there, with its addresses.
    engine.docker(&[
        "network",
        "create",
        "-d",
        "vswitch",
        "-o",
        "vswitch.network=blue",
        "--ipam-driver",
        "vswitch",
        "--subnet",
        "10.9.0.0/24",
        "blue",
    ]);
    thread::scope(|scope| {
        for number in 0..20 {
            let engine = &engine;
            scope.spawn(move || {
                let name = format!("box{number}");
                engine.docker(&["run", "-d", "--name", &name, "--network", "blue", "box", "sleep", "1000"])
            });
        }
    });
    assert_eq!(endpoints(&switch), 20);
    let endpoints = switch.ctl(&["network", "inspect", "blue"])[0]["endpoints"].as_array().unwrap().len();
    assert_eq!(endpoints, 20);
    engine.reaches("box3", "box17");
    let taken = engine.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "box3"]);
    let refusal = engine.refusal(&["run", "--rm", "--network", "blue", "--ip", &taken, "box", "true"]);
    assert!(refusal.contains("ddress already in use"), "{refusal}");
    let names: Vec<String> = (0..20).map(|number| format!("box{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    engine.docker(&[&["rm", "-f"], &names[..]].concat());
    nothing_is_left(&switch);
    // Docker lets its name for it go, and it stays.
    engine.docker(&["network", "rm", "blue"]);
    switch.ctl(&["network", "inspect", "blue"]);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn two_engines_over_one_overlay() {
    let (a, b) = (Netns::new("host"), Netns::new("host"));
    a.ip(&format!("link add under type veth peer name under netns {}", b.name()));
    for (host, address) in [(&a, "10.8.0.1/24"), (&b, "10.8.0.2/24")] {
        host.ip(&format!("addr add {address} dev under"));
        host.ip("link set under up");
    }
    let tunnel = |own: &str, other: &str| {
        format!("[vxlan]\nlocal = \"{own}\"\n[[vxlan.peer]]\naddress = \"{other}\"\n")
    };
    let a = Vswitchd::start_apart(a, &tunnel("10.8.0.1", "10.8.0.2"));
    let b = Vswitchd::start_apart(b, &tunnel("10.8.0.2", "10.8.0.1"));
    let (first, second) = (Engine::start(&a), Engine::start(&b));
    for (engine, range) in [(&first, "10.9.0.0/25"), (&second, "10.9.0.128/25")] {
        engine.docker(&[
            "network",
            "create",
            "-d",
            "vswitch",
            "-o",
            "vni=4096",
            "-o",
            "vswitch.network=blue",
            "--subnet",
            "10.9.0.0/24",
            "--ip-range",
            range,
            "--gateway",
            "10.9.0.254",
            "blue",
        ]);
    }
    first.docker(&["run", "-d", "--name", "web", "--network", "blue", "box", "httpd", "-f", "-h", "/"]);
    second.docker(&["run", "-d", "--name", "job", "--network", "blue", "box", "sleep", "1000"]);
    let web = first.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "web"]);
    second.reaches("job", &web);
    let fetched =
        second.docker(&["exec", "job", "wget", "-q", "-O", "-", &format!("http://{web}/index.html")]);
    assert_eq!(fetched, "hello");
    let inside = second.docker(&["exec", "job", "ip", "addr", "show", "dev", "eth0"]);
    assert!(inside.contains("mtu 1450"), "{inside}");
}
