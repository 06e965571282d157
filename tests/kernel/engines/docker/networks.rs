//! Docker's promises about addresses, networks and ports.

use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::{Engine, Netns, Vswitchd, eventually, net};

use super::{nothing_is_left, rules};

/// An interface of a container, as `ip` prints it.
fn interface(engine: &Engine, container: &str, ifname: &str) -> String {
    engine.docker(&["exec", container, "ip", "addr", "show", "dev", ifname])
}

/// Kills a container's process behind Docker's back, and waits until Docker has restarted it.
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
fn two_engines_over_one_overlay() {
    let (a, b) = (Netns::new("host"), Netns::new("host"));
    a.ip(&format!("link add under type veth peer name under netns {}", b.name()));
    for (host, address) in [(&a, "10.8.0.1/24"), (&b, "10.8.0.2/24")] {
        host.ip(&format!("addr add {address} dev under"));
        host.ip("link set under up");
    }
    let a = Vswitchd::start_apart(a, &net().vxlan("10.8.0.1").peer("10.8.0.2"));
    let b = Vswitchd::start_apart(b, &net().vxlan("10.8.0.2").peer("10.8.0.1"));
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
    let switch = Vswitchd::start_apart(Netns::new("host"), &net());
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

    // A restarted container keeps its addresses.
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

    // Published ports are reached from outside, though Docker drops forwarded traffic, from other containers, and from the
    // container itself.
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
    // Docker lists published ports of its own drivers only; vswitchctl shows ours.
    assert_eq!(engine.docker(&["port", "web"]), "");
    let told = switch.ctl(&["network", "inspect", "blue"]);
    assert!(told[0]["endpoints"].to_string().contains("8080"), "{told}");

    // An internal network has no way out.
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
    // The default route is removed and restored with its network.
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

/// The LAN is a bridge in another namespace; the container has a MAC address of its own on it.
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
