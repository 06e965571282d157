//! Gateways: the kernel forwards between containers and the host, whose rules see every packet as before.

use std::{net::TcpListener, thread};

use super::*;

/// A container `web` of the network `blue` with a published port, the name of its port, and another host at 203.0.113.2.
fn world(config: &Config) -> (Vswitchd, Netns, String, Netns) {
    let (daemon, web, outside) = (Vswitchd::start(config), Netns::new("web"), Netns::new("outside"));
    daemon.host.ip(&format!("link add wire type veth peer name eth0 netns {}", outside.name()));
    for (netns, ifname, own) in [(&daemon.host, "wire", 1), (&outside, "eth0", 2)] {
        netns.ip(&format!("address add 203.0.113.{own}/24 dev {ifname}"));
        netns.ip(&format!("link set {ifname} up"));
    }
    daemon.ctl(&[
        "network",
        "create",
        "--opt",
        "kind=veth",
        "--subnet",
        "10.9.0.0/24",
        "--subnet",
        "fd09::/64",
        "blue",
    ]);
    let place = format!("netns:{}", web.name());
    let endpoint =
        daemon.ctl(&["network", "connect", "--ip", "10.9.0.2", "--publish", "8080:80", "blue", &place]);
    let port = endpoint["port"].as_str().unwrap().to_owned();
    (daemon, web, port, outside)
}

/// Who the server at port 80 of `at` sees, when `client` calls `called`.
fn seen(listener: &TcpListener, client: &Netns, called: &str) -> String {
    thread::scope(|scope| {
        let served = scope.spawn(|| listener.accept().unwrap().1.ip().to_string());
        client.connect(called.parse().unwrap());
        served.join().unwrap()
    })
}

#[test]
fn the_way_out_and_published_ports_pass_by_the_kernel_and_the_rules_of_the_host() {
    let (daemon, web, port, outside) = world(&fast());
    assert_eq!(way(&daemon, "gw.blue"), Ok(()));
    for address in ["10.9.0.1", "fd09::1", "203.0.113.2"] {
        is_fast(&daemon, &web, &port, address);
    }
    assert!(daemon.host.pings("10.9.0.2"));
    for (from, to, address) in
        [(&web, &daemon.host, "10.9.0.1"), (&daemon.host, &web, "10.9.0.2"), (&web, &outside, "203.0.113.2")]
    {
        tcp::exchange(from, to, address, 5_000_000, 200_000);
    }
    // Masqueraded on the way out; who calls a published port is who it is.
    let listener = outside.run(|| TcpListener::bind("203.0.113.2:80").unwrap());
    assert_eq!(seen(&listener, &web, "203.0.113.2:80"), "203.0.113.1");
    let listener = web.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    let before = forwarded(&daemon, &port);
    assert_eq!(seen(&listener, &outside, "203.0.113.1:8080"), "203.0.113.2");
    let now = forwarded(&daemon, &port);
    assert!(now[0] > before[0] && now[1] > before[1], "both directions: {before:?}, {now:?}");
    for port in [port.as_str(), "gw.blue"] {
        check_books(&daemon, port);
        let super_frames = &daemon.port(port)["rx"]["super_frames"];
        assert!(number(super_frames) > 10, "super-frames pass whole: {super_frames} of {port}");
    }
    // The host's own rules hold.
    let nft = |rules: &str| {
        let status = daemon.host.run(|| Command::new("nft").arg(rules).status().unwrap());
        assert!(status.success(), "{rules}");
    };
    nft(
        "table ip ours { chain forward { type filter hook forward priority -10; ip saddr 10.9.0.2 drop; }; }",
    );
    assert!(!web.pings("203.0.113.2"), "forbidden by the host");
    assert!(web.pings("10.9.0.1"));
    nft("delete table ip ours");
    assert!(web.pings("203.0.113.2"));
}

#[test]
fn the_way_out_stays_when_the_daemon_dies_and_follows_the_configuration() {
    with_pins();
    let (mut daemon, web, port, outside) = world(&fast());
    is_fast(&daemon, &web, &port, "203.0.113.2");
    let flow = Flow::start(&web, &outside, "203.0.113.2");
    flow.flows(1 << 20);
    daemon.kill();
    flow.flows(1 << 20);
    assert!(web.pings("203.0.113.2"));
    daemon.run();
    flow.flows(1 << 20);
    is_fast(&daemon, &web, &port, "203.0.113.2");
    flow.stop();
    // Its interface is of another kind where the kernel forwards nothing, and back.
    for (config, kind) in [(net(), "tap"), (fast(), "veth"), (net(), "tap")] {
        daemon.kill();
        daemon.configure(&config);
        daemon.run();
        assert_eq!(daemon.port("gw.blue")["kind"], kind);
        web.reaches("203.0.113.2");
        web.reaches("fd09::1");
    }
    daemon.stop();
}
