//! The life of containers: alone, with compose, and without the plugin.

use std::fs;

use vswitch_tests::{Engine, Netns, Vswitchd, eventually, net};

use super::{endpoints, nothing_is_left, rules};

#[test]
fn the_life_of_containers() {
    let mut switch = Vswitchd::start_apart(Netns::new("host"), &net());
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

    // A server is reached by name, over both families, and from outside.
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
    assert_eq!(switch.host.page("10.9.0.1:8080"), "hello\n");

    // A second network is connected and disconnected while the container runs.
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

    // The switch is killed: containers reach each other again when it is back.
    switch.kill();
    switch.run();
    engine.reaches("job", "web");
    engine.docker(&["restart", "-t", "0", "web"]);
    engine.reaches("job", "web");

    // The engine is killed and forgets its endpoints: their addresses can be allocated again.
    let mut engine = engine;
    engine.kill();
    engine.run();
    eventually("the containers are gone", || (engine.docker(&["ps", "-q"]).is_empty()).then_some(()));
    engine.docker(&["start", "job", "web"]);
    assert!(engine.docker(&["exec", "job", "ip", "addr"]).contains("10.9.0.77/24"));
    engine.reaches("job", "web");

    // Both are stopped, and started in either order.
    for switch_first in [false, true] {
        switch.stop();
        engine.stop();
        if switch_first {
            switch.run();
        }
        engine.run();
        if !switch_first {
            switch.run();
        }
        engine.docker(&["start", "job", "web"]);
        engine.reaches("job", "web");
        assert_eq!(switch.host.page("10.9.0.1:8080"), "hello\n");
    }

    engine.docker(&["rm", "-f", "job", "web"]);
    nothing_is_left(&switch);
    engine.docker(&["network", "rm", "blue"]);
    assert!(!rules(&switch).contains("vswitch"), "{}", rules(&switch));
    assert!(switch.refusal(&["network", "inspect", "blue"]).1.contains("not found"));
}

#[test]
fn compose_files() {
    let switch = Vswitchd::start_apart(Netns::new("host"), &net());
    let engine = Engine::start(&switch);
    let file = switch.folder().join("docker-compose.yml");
    fs::write(&file, include_str!("compose.yml")).unwrap();
    let compose =
        |arguments: &[&str]| engine.compose(&file, &[&["--project-name", "shop"], arguments].concat());
    compose(&["up", "-d"]);
    let networks = switch.ctl(&["network", "inspect", "shop-front"]);
    assert_eq!(
        (&networks[0]["mtu"], &networks[0]["subnet"][0]["subnet"]),
        (&1400.into(), &"10.21.0.0/24".into())
    );
    let from_job = |arguments: &[&str]| compose(&[&["exec", "-T", "job"], arguments].concat());
    assert_eq!(from_job(&["wget", "-q", "-O", "-", "http://store/index.html"]), "hello");
    assert!(from_job(&["ip", "addr"]).contains("10.21.0."));
    assert_eq!(switch.host.page("10.21.0.1:8080"), "hello\n");
    compose(&["up", "-d", "--scale", "job=3"]);
    eventually("all have their two interfaces", || (endpoints(&switch) == 7).then_some(()));
    compose(&["down"]);
    nothing_is_left(&switch);
    assert!(switch.refusal(&["network", "inspect", "shop-front"]).1.contains("not found"));
}

/// Without the plugin: a container with Docker's network `none` is connected by name, as any sandbox is.
#[test]
fn a_running_container_is_connected_by_its_name() {
    let switch = Vswitchd::start_apart(Netns::new("host"), &net());
    let engine = Engine::start(&switch);
    for name in ["web", "job"] {
        engine.docker(&["run", "-d", "--name", name, "--network", "none", "box", "sleep", "1000"]);
    }
    switch.ctl(&["network", "create", "blue"]);
    let ctl = |arguments: &[&str]| {
        let output = engine.try_ctl(&switch, arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
        output.stdout
    };
    ctl(&["network", "connect", "--alias", "www", "blue", "docker:web"]);
    ctl(&["network", "connect", "--ip", "172.17.0.9", "blue", "docker:job"]);
    engine.reaches("web", "172.17.0.9");
    engine.reaches("web", "172.17.0.1");
    let id = engine.docker(&["inspect", "-f", "{{.Id}}", "web"]);
    let inspected: serde_json::Value =
        serde_json::from_str(&switch.try_ctl(&["network", "inspect", "blue"]).stdout).unwrap();
    let container = &inspected[0]["Containers"][&id];
    assert_eq!((&container["Name"], &container["IPv4Address"]), (&"web".into(), &"172.17.0.2/16".into()));
    let found = ctl(&["sandbox", "inspect", "docker:job"]);
    assert!(found.contains("172.17.0.9/16"), "{found}");
    let missing = engine.try_ctl(&switch, &["network", "connect", "blue", "docker:nobody"]);
    assert!(missing.stderr.contains("no container named nobody: see `docker ps`"), "{}", missing.stderr);

    switch.ctl(&["network", "disconnect", "blue", &id[..12]]);
    assert!(!engine.docker(&["exec", "web", "ip", "addr"]).contains("eth0"));
    // The endpoint of a container is removed when the container ends.
    engine.docker(&["rm", "--force", "job"]);
    eventually("the endpoint of a container that ended is reaped", || {
        let network = switch.ctl(&["network", "inspect", "blue"]);
        network[0]["endpoints"].as_array().is_none_or(Vec::is_empty).then_some(())
    });
    switch.logs(&["reaped", "job"]);
}
