//! Docker Engine with our plugin, for real: the life of containers, and of both daemons.

use std::{fs, process::Command, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::{Engine, Netns, Vswitchd, eventually, process};

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

/// The host's rules.
fn rules(switch: &Vswitchd) -> String {
    let mut nft = Command::new("nft");
    let output = switch.host.run(|| nft.args(["list", "ruleset"]).output().unwrap());
    String::from_utf8(output.stdout).unwrap()
}

/// An interface of a container, as `ip` prints it.
fn interface(engine: &Engine, container: &str, ifname: &str) -> String {
    engine.docker(&["exec", container, "ip", "addr", "show", "dev", ifname])
}

/// Kills a container's process behind Docker's back, and waits until Docker has started it again.
fn dies_and_comes_back(engine: &Engine, container: &str) {
    let state = || engine.docker(&["inspect", "-f", "{{.RestartCount}} {{.State.Pid}}", container]);
    let before = state();
    let (count, pid) = before.split_once(' ').unwrap();
    let next = (count.parse::<u32>().unwrap() + 1).to_string();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    eventually(&format!("{container} is started again"), || {
        let now = state();
        (now.split_once(' ').unwrap().0 == next && !now.ends_with(" 0")).then_some(())
    });
}

#[test]
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
    assert_eq!(switch.host.page("10.9.0.1:8080"), "hello\n");

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
    let descriptors = process::descriptors(switch.pid());
    thread::scope(|scope| {
        for number in 0..50 {
            let engine = &engine;
            scope.spawn(move || {
                let name = format!("box{number}");
                engine.docker(&["run", "-d", "--name", &name, "--network", "blue", "box", "sleep", "1000"])
            });
        }
    });
    assert_eq!(endpoints(&switch), 50);
    let endpoints = switch.ctl(&["network", "inspect", "blue"])[0]["endpoints"].as_array().unwrap().len();
    assert_eq!(endpoints, 50);
    engine.reaches("box3", "box47");
    let taken = engine.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "box3"]);
    let refusal = engine.refusal(&["run", "--rm", "--network", "blue", "--ip", &taken, "box", "true"]);
    assert!(refusal.contains("ddress already in use"), "{refusal}");
    let names: Vec<String> = (0..50).map(|number| format!("box{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    engine.docker(&[&["rm", "-f"], &names[..]].concat());
    nothing_is_left(&switch);
    // dockerd keeps a few connections to the plugin for the next time.
    eventually("no descriptor is left", || {
        (process::descriptors(switch.pid()) <= descriptors + 10).then_some(())
    });
    // Docker lets its name for it go, and it stays.
    engine.docker(&["network", "rm", "blue"]);
    switch.ctl(&["network", "inspect", "blue"]);
}

#[test]
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
    for (engine, range, range6) in
        [(&first, "10.9.0.0/25", "fd00:9::1:0/112"), (&second, "10.9.0.128/25", "fd00:9::2:0/112")]
    {
        let named = ["network", "create", "-d", "vswitch", "-o", "vni=4096", "-o", "vswitch.network=blue"];
        let v4 = ["--subnet", "10.9.0.0/24", "--ip-range", range, "--gateway", "10.9.0.254"];
        let v6 = ["--ipv6", "--subnet", "fd00:9::/64", "--ip-range", range6, "--gateway", "fd00:9::fe"];
        engine.docker(&[&named[..], &v4, &v6, &["blue"]].concat());
    }
    first.docker(&["run", "-d", "--name", "web", "--network", "blue", "box", "httpd", "-f", "-h", "/"]);
    second.docker(&["run", "-d", "--name", "job", "--network", "blue", "box", "sleep", "1000"]);
    let web6 =
        first.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.blue.GlobalIPv6Address}}", "web"]);
    second.reaches("job", &web6);
    let web = first.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "web"]);
    second.reaches("job", &web);
    let fetched =
        second.docker(&["exec", "job", "wget", "-q", "-O", "-", &format!("http://{web}/index.html")]);
    assert_eq!(fetched, "hello");
    let inside = second.docker(&["exec", "job", "ip", "addr", "show", "dev", "eth0"]);
    assert!(inside.contains("mtu 1450"), "{inside}");
}

#[test]
fn addresses_networks_and_ports_as_docker_promises() {
    let switch = Vswitchd::start_apart(Netns::new("host"), "");
    let far = Netns::new("far");
    switch.host.ip(&format!("link add wan type veth peer name wan netns {}", far.name()));
    for (netns, own) in [(&switch.host, 1), (&far, 2)] {
        netns.ip(&format!("addr add 192.0.2.{own}/24 dev wan"));
        netns.ip(&format!("addr add 2001:db8::{own}/64 dev wan nodad"));
        netns.ip("link set wan up");
    }
    let engine = Engine::start(&switch);
    let run = |name: &str, options: &[&str], command: &[&str]| {
        engine.docker(&[&["run", "-d", "--name", name], options, &["box"], command].concat());
    };
    let sleep = ["sleep", "1000"];
    let subnets = ["--ipv6", "--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64"];
    let named = ["network", "create", "-d", "vswitch", "-o", "vswitch.network=blue"];
    engine.docker(&[&named[..], &subnets, &["blue"]].concat());
    engine.docker(&["network", "create", "-d", "vswitch", "--internal", "--subnet", "10.10.0.0/24", "inner"]);
    let addresses = ["--ip", "10.9.0.77", "--ip6", "fd00:9::77", "--mac-address", "02:00:00:00:00:77"];
    let options = ["--restart", "always", "--network", "blue", "-p", "8080:80"];
    run("web", &[&addresses[..], &options].concat(), &["httpd", "-f", "-h", "/"]);
    run("job", &["--restart", "on-failure:3", "--network", "blue"], &sleep);

    // Who dies comes back as what it was.
    let job = interface(&engine, "job", "eth0");
    let own = |text: &str| text.lines().filter(|line| line.contains("inet ")).collect::<String>();
    for container in ["web", "job"] {
        dies_and_comes_back(&engine, container);
    }
    let web = interface(&engine, "web", "eth0");
    for address in ["10.9.0.77/24", "fd00:9::77/64", "02:00:00:00:00:77"] {
        assert!(web.contains(address), "{web}");
    }
    assert_eq!(own(&interface(&engine, "job", "eth0")), own(&job));

    // Published from outside, though Docker drops all that is forwarded; to containers as well, and to itself.
    assert!(rules(&switch).contains("policy drop"), "{}", rules(&switch));
    for at in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
        assert_eq!(far.page(at), "hello\n", "{at}");
        for container in ["job", "web"] {
            let url = format!("http://{at}/index.html");
            assert_eq!(engine.docker(&["exec", container, "wget", "-q", "-O", "-", &url]), "hello", "{at}");
        }
    }
    engine.reaches("job", "192.0.2.2");
    engine.reaches("job", "2001:db8::2");
    // Docker lists the ports of its own drivers only; we tell.
    assert_eq!(engine.docker(&["port", "web"]), "");
    let told = switch.ctl(&["network", "inspect", "blue"]);
    assert!(told[0]["endpoints"].to_string().contains("8080"), "{told}");

    // An internal network is for those within.
    run("deep", &["--network", "inner"], &sleep);
    let wishes = ["--ip", "10.10.0.50", "--alias", "bridgehead", "--driver-opt", "limit.tx=50mbit"];
    engine.docker(&[&["network", "connect"], &wishes[..], &["inner", "job"]].concat());
    let limited = |port: &&serde_json::Value| port["limit"]["tx"] == "50 Mbit/s";
    let ports = switch.ctl(&["port", "ls"]);
    assert_eq!(ports.as_array().unwrap().iter().filter(limited).count(), 1, "{ports}");
    engine.reaches("deep", "bridgehead");
    assert!(interface(&engine, "job", "eth1").contains("10.10.0.50/24"));
    let ping = engine.try_docker(&["exec", "deep", "ping", "-c", "1", "-W", "1", "192.0.2.2"]);
    assert_ne!(ping.code, 0, "{}", ping.stdout);
    // The way out goes with its network, and comes back.
    engine.docker(&["network", "disconnect", "blue", "job"]);
    assert!(!engine.docker(&["exec", "job", "ip", "route"]).contains("default"));
    engine.docker(&["network", "connect", "blue", "job"]);
    engine.reaches("job", "web");
    engine.reaches("job", "192.0.2.2");

    engine.docker(&["rm", "-f", "web", "job", "deep"]);
    nothing_is_left(&switch);
    engine.docker(&["network", "rm", "blue", "inner"]);
    assert!(!rules(&switch).contains("vswitch"), "{}", rules(&switch));

    a_container_stands_in_the_lan(&switch, &engine);
}

/// The LAN is a bridge elsewhere; the container has a MAC address of its own in it.
fn a_container_stands_in_the_lan(switch: &Vswitchd, engine: &Engine) {
    let lan = Netns::new("lan");
    lan.ip("link add br0 type bridge");
    lan.ip("addr add 192.168.50.1/24 dev br0");
    lan.ip("link set br0 up");
    lan.ip(&format!("link add port type veth peer name eth1 netns {}", switch.host.name()));
    lan.ip("link set port master br0 up");
    switch.host.ip("link set eth1 up");
    let subnet =
        ["--subnet", "192.168.50.0/24", "--gateway", "192.168.50.1", "--ip-range", "192.168.50.128/25"];
    engine.docker(
        &[&["network", "create", "-d", "vswitch", "-o", "parent=eth1"], &subnet[..], &["lan"]].concat(),
    );
    let mac = "02:00:00:00:01:01";
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "lan",
        "--network",
        "lan",
        "--mac-address",
        mac,
        "box",
        "httpd",
        "-f",
        "-h",
        "/",
    ]);
    engine.reaches("lan", "192.168.50.1");
    let address = engine.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.lan.IPAddress}}", "lan"]);
    assert_eq!(lan.page(&format!("{address}:80")), "hello\n");
    assert!(lan.ip("neigh").contains(mac));
    engine.docker(&["rm", "-f", "lan"]);
    engine.docker(&["network", "rm", "lan"]);
    nothing_is_left(switch);
}

#[test]
fn killed_at_awkward_moments() {
    let mut switch = Vswitchd::start_apart(Netns::new("host"), "");
    let mut engine = Engine::start(&switch);
    let create = ["network", "create", "-d", "vswitch", "--subnet"];
    engine.docker(&[&create[..], &["10.9.0.0/24", "blue"]].concat());
    engine.docker(&[&create[..], &["10.10.0.0/24", "red"]].concat());
    let run = ["run", "-d", "--network", "blue", "--ip", "10.9.0.66", "-p", "8080:80", "--name"];
    let new = |name| [&run[..], &[name, "box", "sleep", "1000"]].concat();

    // A moment on the way of `docker run`, from before the first call to after the last.
    for moment in [30, 90, 200].map(Duration::from_millis) {
        let running = engine.in_background(&new("first"));
        thread::sleep(moment);
        switch.kill();
        switch.run();
        let done = running.join().unwrap();
        // dockerd asks again until the switch is back; what it had asked and has no answer to fails, and may be tried again.
        if done.code != 0 {
            assert!(done.stderr.contains("try again"), "{}", done.stderr);
            engine.docker(&["start", "first"]);
        }
        engine.reaches("first", "10.9.0.1");
        engine.docker(&["rm", "-f", "first"]);
        nothing_is_left_but_what_is_forgotten(&switch);
    }
    for moment in [60, 150].map(Duration::from_millis) {
        let running = engine.in_background(&new("first"));
        thread::sleep(moment);
        engine.kill();
        engine.run();
        let _ = running.join().unwrap();
        // The same address and the same port can be had again, whatever the first has left.
        let _ = engine.try_docker(&["rm", "-f", "first"]);
        engine.docker(&new("second"));
        engine.reaches("second", "10.9.0.1");
        engine.docker(&["rm", "-f", "second"]);
        nothing_is_left_but_what_is_forgotten(&switch);
    }

    // A network whose endpoint the engine has forgotten can be removed at once.
    engine.docker(&[&create[..], &["10.11.0.0/24", "green"]].concat());
    let running =
        engine.in_background(&["run", "-d", "--name", "third", "--network", "green", "box", "true"]);
    thread::sleep(Duration::from_millis(130));
    engine.kill();
    engine.run();
    let _ = running.join().unwrap();
    let _ = engine.try_docker(&["rm", "-f", "third"]);
    engine.docker(&["network", "rm", "green"]);
    engine.docker(&["run", "-d", "--name", "job", "--network", "blue", "box", "sleep", "1000"]);
    for (verb, moment, kills_switch) in
        [("connect", 10, true), ("connect", 30, false), ("disconnect", 10, false), ("disconnect", 30, true)]
    {
        let before = if verb == "connect" { "disconnect" } else { "connect" };
        let _ = engine.try_docker(&["network", before, "red", "job"]);
        let running = engine.in_background(&["network", verb, "red", "job"]);
        thread::sleep(Duration::from_millis(moment));
        if kills_switch {
            switch.kill();
            switch.run();
        } else {
            engine.kill();
            engine.run();
        }
        let _ = running.join().unwrap();
        engine.docker(&["start", "job"]);
        let _ = engine.try_docker(&["network", "disconnect", "red", "job"]);
        engine.docker(&["network", "connect", "red", "job"]);
        engine.reaches("job", "10.10.0.1");
        engine.reaches("job", "10.9.0.1");
    }
    engine.docker(&["rm", "-f", "job"]);
    engine.docker(&["network", "rm", "red"]);
    engine.docker(&["network", "rm", "blue"]);
    nothing_is_left(&switch);
}

/// An endpoint whose end the engine could not tell lies in the host for a minute; it is in nobody's way.
fn nothing_is_left_but_what_is_forgotten(switch: &Vswitchd) {
    eventually("at most one endpoint is left", || (endpoints(switch) <= 1).then_some(()));
}

#[test]
fn compose_files() {
    let switch = Vswitchd::start_apart(Netns::new("host"), "");
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

/// Without the plugin: a container that Docker gave no network is connected by its name, as any sandbox is.
#[test]
fn a_running_container_is_connected_by_its_name() {
    let switch = Vswitchd::start_apart(Netns::new("host"), "");
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
    // A container that ends takes its endpoint with it.
    engine.docker(&["rm", "--force", "job"]);
    eventually("the endpoint of a container that ended is reaped", || {
        let network = switch.ctl(&["network", "inspect", "blue"]);
        network[0]["endpoints"].as_array().is_none_or(Vec::is_empty).then_some(())
    });
    switch.logs(&["reaped", "job"]);
}
