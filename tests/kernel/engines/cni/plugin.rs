//! The plugin, called directly as a runtime does.

use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    thread,
};

use serde_json::{Value, json};
use vswitch_tests::{Netns, Vswitchd, daemon::binary, eventually, net, process, tcp::Flow};

use super::{Runtimes, endpoints, host, path};
use crate::names::short;

#[test]
fn the_deeds_of_the_specification() {
    let switch = host(Vswitchd::start(&net()));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let (one, two) = (Netns::new("one"), Netns::new("two"));
    let config = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "vswitch", "network": "blue", "socket": switch.socket(),
    });
    let add = |container: &str, netns: &Netns| runtimes.plugin("ADD", container, &path(netns), &config);
    assert_eq!(runtimes.plugin("STATUS", "", "", &config).0, 0);
    let (code, result) = add("one", &one);
    assert_eq!(code, 0, "{result}");
    assert_eq!(result["ips"][0]["address"], "10.9.0.2/24");
    assert_eq!(result["ips"][0]["gateway"], "10.9.0.1");
    assert_eq!(result["interfaces"][0]["sandbox"], path(&one));
    assert_eq!(add("two", &two).0, 0);
    one.reaches("10.9.0.3");

    // ADD fails if the interface exists; CHECK compares the configuration with the actual state.
    assert_eq!(add("one", &one).1["code"], 4);
    let mut after = config.clone();
    after["prevResult"] = result.clone();
    assert_eq!(runtimes.plugin("CHECK", "one", &path(&one), &after), (0, Value::Null));
    after["prevResult"]["ips"][0]["address"] = "10.9.0.99/24".into();
    assert_eq!(runtimes.plugin("CHECK", "one", &path(&one), &after).1["code"], 100);
    // CHECK finds any damage.
    let mut after = config.clone();
    after["prevResult"] = result;
    let check = || runtimes.plugin("CHECK", "one", &path(&one), &after);
    for (damage, repair, missing) in [
        ("addr del 10.9.0.2/24 dev eth0", "addr add 10.9.0.2/24 dev eth0", "the address 10.9.0.2/24"),
        ("-6 route del default", "-6 route add default via fd00:9::1", "the route to ::/0"),
        ("link set eth0 address 02:00:00:00:00:01", "link set eth0 address 02:42:0a:09:00:02", "with MAC"),
        ("link set eth0 down", "link set eth0 up", "as it was created, up"),
    ] {
        one.ip(damage);
        let (code, failure) = check();
        assert!(code != 0 && failure["code"] == 100, "{damage}: {failure}");
        assert!(failure["msg"].as_str().unwrap().contains(missing), "{damage}: {failure}");
        one.ip(repair);
        // Restores what the kernel removed along with it.
        for address in ["10.9.0.2/24", "fd00:9::2/64"] {
            one.ip(&format!("addr replace {address} dev eth0 nodad"));
        }
        for route in ["route replace default via 10.9.0.1", "-6 route replace default via fd00:9::1"] {
            one.ip(route);
        }
    }
    assert_eq!(check(), (0, Value::Null));

    // GC removes attachments that are no longer valid. DEL may be repeated, even without its namespace.
    // Without a list nothing is removed; the specification has had two names for it.
    let (_, failure) = runtimes.plugin("GC", "", "", &config);
    assert_eq!(failure["code"], 7, "{failure}");
    let (both, second) =
        (json!([{ "containerID": "one", "ifname": "eth0" }, { "containerID": "two", "ifname": "eth0" }]), 2);
    for (key, list, left) in [
        ("cni.dev/attachments", both, second),
        ("cni.dev/valid-attachments", json!([{ "containerID": "two", "ifname": "eth0" }]), 1),
    ] {
        let mut valid = config.clone();
        valid[key] = list;
        assert_eq!(runtimes.plugin("GC", "", "", &valid), (0, Value::Null));
        assert_eq!(endpoints(&switch, "blue"), left, "{key}");
    }
    two.ip("link del eth0");
    let (_, failure) = runtimes.plugin("CHECK", "two", &path(&two), &after);
    assert_eq!(failure["code"], 100, "its interface is gone: {failure}");
    for netns in [path(&one), path(&two), "/run/netns/vt-gone".into(), String::new()] {
        assert_eq!(runtimes.plugin("DEL", "two", &netns, &config), (0, Value::Null), "{netns}");
    }
    assert_eq!(endpoints(&switch, "blue"), 0);

    // A delegated IPAM plugin allocates the addresses, and releases them if we fail.
    switch.ctl(&["network", "create", "--ipam-driver", "null", "plain"]);
    let leases = switch.folder().join("leases");
    let mut delegated = config.clone();
    delegated["network"] = "plain".into();
    delegated["ipam"] = json!({
        "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": "10.7.0.0/24" }]],
    });
    delegated["cniVersion"] = "1.0.0".into();
    let (code, result) = runtimes.plugin("ADD", "one", &path(&one), &delegated);
    assert_eq!((code, &result["ips"][0]["address"]), (0, &"10.7.0.2/24".into()), "{result}");
    assert!(one.ip("addr show dev eth0").contains("10.7.0.2/24"));
    assert_eq!(runtimes.plugin("DEL", "one", &path(&one), &delegated), (0, Value::Null));
    delegated["network"] = "blue".into();
    assert_eq!(runtimes.plugin("ADD", "one", &path(&one), &delegated).1["code"], 7);
    let left: Vec<_> = fs::read_dir(leases.join("net")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().starts_with("10.7.")), "{left:?}");

    // The daemon is not running: verbs that need it say so.
    let mut away = config.clone();
    away["socket"] = "/nowhere/api.sock".into();
    assert_eq!(runtimes.plugin("STATUS", "", "", &away).1["code"], 50);
    assert_eq!(runtimes.plugin("ADD", "one", &path(&one), &away).1["code"], 11);
    assert_eq!(runtimes.plugin("DEL", "one", &path(&one), &away).1["code"], 11);
    assert_eq!(runtimes.plugin("DEL", "one", "", &away), (0, Value::Null));
    assert_eq!(runtimes.plugin("VERSION", "", "", &away).1["supportedVersions"][4], "1.1.0");
}

/// As multus does it: each network has an interface of its own, and one of them the default route.
#[test]
fn a_pod_has_two_networks_and_one_default_route() {
    let switch = host(Vswitchd::start(&net()));
    switch.ctl(&["network", "create", "--subnet", "10.10.0.0/24", "red"]);
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let pod = Netns::new("pod");
    let config = |network: &str| json!({ "cniVersion": "1.0.0", "name": network, "type": "vswitch", "network": network, "socket": switch.socket() });
    let ask = |verb: &str, ifname: &str, config: &Value| {
        runtimes.plugin_for(ifname, verb, "pod", &path(&pod), config)
    };
    let mut routes = Vec::new();
    for (ifname, network) in [("eth0", "blue"), ("net1", "red")] {
        let (code, result) = ask("ADD", ifname, &config(network));
        assert_eq!(code, 0, "{result}");
        let own = result["routes"].as_array().into_iter().flatten();
        routes.push(own.map(|it| it["dst"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
        let mut after = config(network);
        after["prevResult"] = result;
        assert_eq!(ask("CHECK", ifname, &after), (0, Value::Null), "{ifname}");
    }
    assert_eq!(routes, [vec!["0.0.0.0/0", "::/0"], vec![]]);
    // The other takes over.
    assert_eq!(ask("DEL", "eth0", &config("blue")), (0, Value::Null));
    assert!(pod.ip("route show default").contains("10.10.0.1 dev net1"));
}

#[test]
fn other_plugins_stand_before_and_behind() {
    let switch = host(Vswitchd::start(&net()));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let (pod, far) = (Netns::new("pod"), Netns::new("far"));
    switch.host.ip(&format!("link add wan type veth peer name wan netns {}", far.name()));
    for (netns, own) in [(&switch.host, 1), (&far, 2)] {
        netns.ip(&format!("addr add 192.0.2.{own}/24 dev wan"));
        netns.ip("link set wan up");
    }
    let chain = |plugins: &[Value]| -> Vec<Value> {
        let whole = |plugin: &Value| {
            let mut plugin = plugin.clone();
            plugin["cniVersion"] = "1.0.0".into();
            plugin["name"] = "net".into();
            plugin
        };
        plugins.iter().map(whole).collect()
    };
    // `tuning` changes the address that the guard knows.
    let options = json!({ "guard.also": "02:00:00:00:00:99" });
    let ours = json!({ "type": "vswitch", "network": "blue", "socket": switch.socket(), "options": options });

    // The result includes what the previous plugin created.
    let behind = chain(&[json!({ "type": "loopback" }), ours.clone()]);
    let result = runtimes.chain("ADD", &path(&pod), &behind, Value::Null);
    let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["lo", "eth0"], "{result}");
    let ip = result["ips"].as_array().unwrap().iter().find(|ip| ip["address"] == "10.9.0.2/24").unwrap();
    assert_eq!(ip["interface"], 1);
    runtimes.chain("CHECK", &path(&pod), &behind, result.clone());
    runtimes.chain("DEL", &path(&pod), &behind, result);

    let ports = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    let data = switch.folder().join("tuning");
    let before = chain(&[
        ours,
        json!({ "type": "tuning", "mac": "02:00:00:00:00:99", "mtu": 1400, "dataDir": data }),
        json!({ "type": "portmap", "snat": true, "runtimeConfig": { "portMappings": ports } }),
    ]);
    let result = runtimes.chain("ADD", &path(&pod), &before, Value::Null);
    let link = pod.ip("link show eth0");
    assert!(link.contains("02:00:00:00:00:99") && link.contains("mtu 1400"), "{link}");
    // portmap 1.1 looks for the IPv4 rules among those of IPv6 and does not find them: its CHECK fails behind any plugin.
    runtimes.chain("CHECK", &path(&pod), &before[..2], result.clone());
    let server = pod.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let serving = thread::spawn(move || server.accept().unwrap().0.write_all(b"hello\n").unwrap());
    let mut answer = String::new();
    far.connect("192.0.2.1:8080".parse().unwrap()).read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello\n");
    serving.join().unwrap();

    runtimes.chain("DEL", &path(&pod), &before, result);
    assert_eq!(endpoints(&switch, "blue"), 0);
    assert!(!pod.has_link("eth0"));
    let rules = switch.host.run(|| Command::new("nft").args(["list", "ruleset"]).output().unwrap());
    assert!(!String::from_utf8(rules.stdout).unwrap().contains("8080"));
}

#[test]
fn fifty_at_once() {
    let switch = host(Vswitchd::start(&net()));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let config =
        json!({ "cniVersion": "1.1.0", "name": "blue", "type": "vswitch", "socket": switch.socket() });
    let pods: Vec<_> = (0..50).map(|_| Netns::new("pod")).collect();
    let descriptors = process::descriptors(switch.pid());
    let all = |deed: &(dyn Fn(&Netns) + Sync)| {
        thread::scope(|scope| pods.iter().for_each(|pod| drop(scope.spawn(move || deed(pod)))));
    };
    all(&|pod| {
        let (code, result) = runtimes.plugin("ADD", pod.name(), &path(pod), &config);
        assert_eq!(code, 0, "{result}");
        let mut after = config.clone();
        after["prevResult"] = result;
        assert_eq!(runtimes.plugin("CHECK", pod.name(), &path(pod), &after), (0, Value::Null));
    });
    assert_eq!(endpoints(&switch, "blue"), 50);
    let addresses: HashSet<String> = pods.iter().map(|pod| pod.ip("-br -4 addr show dev eth0")).collect();
    assert_eq!(addresses.len(), 50);
    pods[0].reaches("10.9.0.51");
    // Two concurrent DELs each: one does the work, and neither fails.
    all(&|pod| {
        let del = || assert_eq!(runtimes.plugin("DEL", pod.name(), &path(pod), &config), (0, Value::Null));
        thread::scope(|scope| {
            scope.spawn(del);
            scope.spawn(del);
        });
    });
    assert_eq!(endpoints(&switch, "blue"), 0);
    assert!(!pods.iter().any(|pod| pod.has_link("eth0")));
    // Concurrent ADD and DEL of one container: a later DEL leaves nothing behind.
    all(&|pod| {
        thread::scope(|scope| {
            scope.spawn(|| runtimes.plugin("ADD", pod.name(), &path(pod), &config));
            scope.spawn(|| runtimes.plugin("DEL", pod.name(), &path(pod), &config));
        });
        assert_eq!(runtimes.plugin("DEL", pod.name(), &path(pod), &config), (0, Value::Null));
    });
    assert_eq!(endpoints(&switch, "blue"), 0);
    assert!(!pods.iter().any(|pod| pod.has_link("eth0")));
    eventually("no descriptor is left", || (process::descriptors(switch.pid()) <= descriptors).then_some(()));
}

#[test]
fn every_version_has_its_own_result() {
    let switch = host(Vswitchd::start(&net()));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let pod = Netns::new("pod");
    for (version, family) in [
        ("0.3.0", "4".into()),
        ("0.3.1", "4".into()),
        ("0.4.0", "4".into()),
        ("1.0.0", Value::Null),
        ("1.1.0", Value::Null),
    ] {
        let mut config =
            json!({ "cniVersion": version, "name": "blue", "type": "vswitch", "socket": switch.socket() });
        let (code, result) = runtimes.plugin("ADD", "pod", &path(&pod), &config);
        assert_eq!((code, &result["cniVersion"]), (0, &version.into()), "{result}");
        assert_eq!(result["ips"][0]["version"], family, "{result}");
        assert_eq!(result["ips"][0]["interface"], 0, "{result}");
        assert_eq!(result["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": "10.9.0.1" }), "{result}");
        config["prevResult"] = result;
        assert_eq!(runtimes.plugin("CHECK", "pod", &path(&pod), &config), (0, Value::Null), "{version}");
        assert_eq!(runtimes.plugin("DEL", "pod", &path(&pod), &config), (0, Value::Null), "{version}");
    }
    for version in ["0.2.0", "2.0.0", ""] {
        let config =
            json!({ "cniVersion": version, "name": "blue", "type": "vswitch", "socket": switch.socket() });
        assert_eq!(runtimes.plugin("ADD", "pod", &path(&pod), &config).1["code"], 1, "{version}");
    }
}

#[test]
fn a_pods_bandwidth_limits_its_port() {
    let switch = host(Vswitchd::start(&net()));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let (one, two) = (Netns::new("one"), Netns::new("two"));
    let written = switch.ctl(&["cni", "conflist", "blue", "--print"]);
    assert_eq!(written["plugins"][0]["capabilities"]["bandwidth"], true);
    let add = |container: &str, netns: &Netns, bandwidth: Value| {
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "vswitch", "network": "blue", "socket": switch.socket(),
            "options": { "limit.rx": "1 Gbit/s", "limit.rx_burst": "65536" },
            "runtimeConfig": { "bandwidth": bandwidth },
        });
        runtimes.plugin("ADD", container, netns.path().to_str().unwrap(), &config)
    };
    // As containerd writes a pod's annotations: a rate, and the maximum burst.
    let rates = json!({
        "ingressRate": 1_000_000_000, "ingressBurst": 80_000_000, "egressRate": 10_000_000, "egressBurst": u32::MAX,
    });
    assert_eq!(add("one", &one, rates).0, 0);
    assert_eq!(add("two", &two, json!({ "ingressRate": 0, "ingressBurst": 0 })).0, 0);
    let limit = |ifname: &str| switch.port(&format!("{ifname}-eth0.blue"))["limit"].clone();
    let expected = json!({ "rx": "10 Mbit/s", "tx": "1 Gbit/s", "tx_burst": 10_000_000 });
    assert_eq!(limit("one"), expected);
    assert_eq!(limit("two"), json!({ "rx": "1 Gbit/s", "rx_burst": 65536 }));
    let flow = Flow::start(&one, &two, "10.9.0.3");
    eventually("frames above the rate are dropped", || {
        (switch.dropped("one-eth0.blue", "LIMIT_RX") > 0).then_some(())
    });
    flow.flows(1_250_000);
    flow.stop();

    let three = Netns::new("three");
    let (code, refusal) = add("three", &three, json!({ "egressBurst": 1000 }));
    assert_eq!((code, &refusal["code"]), (1, &7.into()), "{refusal}");
    assert!(refusal["msg"].as_str().unwrap().contains("there is no egressRate: add it"), "{refusal}");
    let (_, refusal) = add("three", &three, json!({ "egressRate": -1 }));
    assert_eq!(refusal["code"], 6, "{refusal}");
    assert_eq!(endpoints(&switch, "blue"), 2, "what is refused leaves nothing");
}

/// nerdctl tells no name, but what `--hostname` says; by default that is the beginning of the container's id.
#[test]
fn the_host_name_of_nerdctl_is_a_name() {
    let switch = host(Vswitchd::start(&net().keys("[dns]\nenabled = true")));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let (one, two) = (Netns::new("one"), Netns::new("two"));
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "vswitch", "network": "blue", "socket": switch.socket(),
    });
    let program = binary("vswitch-cni");
    for (id, netns, host) in [("aaaaaaaaaaaaaaaa", &one, "front"), ("bbbbbbbbbbbbbbbb", &two, "bbbbbbbbbbbb")]
    {
        let arguments = format!("IgnoreUnknown=1;NERDCTL_CNI_DHCP_HOSTNAME={host}");
        let (code, result) = runtimes.told(&program, ["ADD", id, "eth0"], &path(netns), &config, &arguments);
        assert_eq!(code, 0, "{result}");
        assert_eq!(result["dns"]["nameservers"][0], "169.254.53.53");
    }
    for (name, address) in [("front", "10.9.0.2"), ("aaaaaaaaaaaa", "10.9.0.2"), ("bbbbbbbbbbbb", "10.9.0.3")]
    {
        assert_eq!(short(&two, name), [address], "{name}");
    }
}
