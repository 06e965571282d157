//! Isolation across hosts: networks with `icc=false`, and single isolated ports.

use vswitch_tests::{Config, Netns, Vswitchd, eventually, net};

/// Two hosts with a link between them.
fn hosts() -> [Netns; 2] {
    let hosts = [1, 2].map(|number| Netns::new(&format!("host{number}")));
    hosts[0].ip(&format!("link add under type veth peer name under netns {}", hosts[1].name()));
    for (number, host) in (1..).zip(&hosts) {
        host.ip(&format!("addr add 10.8.0.{number}/24 dev under"));
        host.ip("link set under up");
    }
    hosts
}

fn tunnel(number: usize, keys: &str, peer: &str) -> Config {
    net().vxlan(&format!("10.8.0.{number}")).keys(keys).peer(&format!("10.8.0.{}", 3 - number)).keys(peer)
}

fn create(daemon: &Vswitchd, range: &str) {
    let text = "network create -d overlay -o vni=5000 -o icc=false --subnet 10.0.5.0/24 --gateway 10.0.5.1 --subnet fd05::/64 \
                --gateway fd05::1 --ipv6";
    let mut arguments: Vec<_> = text.split(' ').filter(|it| !it.is_empty()).collect();
    arguments.extend(["--ip-range", range, "wide"]);
    daemon.ctl(&arguments);
}

/// A container, and an address of each family.
fn connect(daemon: &Vswitchd, netns: &Netns, address: &str, address6: &str) {
    let place = format!("netns:{}", netns.name());
    daemon.ctl(&["network", "connect", "--ip", address, "--ip6", address6, "wide", &place]);
}

#[test]
fn containers_of_an_isolated_network_reach_their_gateways_only() {
    let [one, two] = hosts();
    let daemons = [Vswitchd::start_in(one, &tunnel(1, "", "")), Vswitchd::start_in(two, &tunnel(2, "", ""))];
    let [a, b] = ["a", "b"].map(Netns::new);
    create(&daemons[0], "10.0.5.0/25");
    create(&daemons[1], "10.0.5.128/25");
    connect(&daemons[0], &a, "10.0.5.2", "fd05::2");
    connect(&daemons[1], &b, "10.0.5.130", "fd05::130");
    for web in [&a, &b] {
        web.reaches("10.0.5.1");
        web.reaches("fd05::1");
    }
    // Known to each other by now or not, nothing passes either way.
    for (from, to, to6) in [(&a, "10.0.5.130", "fd05::130"), (&b, "10.0.5.2", "fd05::2")] {
        assert!(!from.pings(to) && !from.pings(to6));
    }
    // Allowed at run time, and forbidden again.
    let icc = |value: &str| {
        daemons
            .iter()
            .for_each(|it| drop(it.ctl(&["network", "update", "--opt", &format!("icc={value}"), "wide"])));
    };
    icc("true");
    a.reaches("10.0.5.130");
    b.reaches("fd05::2");
    icc("false");
    assert!(!a.pings("10.0.5.130") && !b.pings("fd05::2"));
    a.reaches("10.0.5.1");
}

/// Host 1 has the isolated `a` and `router`, which is not; host 2 the isolated `b`.
fn static_ports(keys: &str, peer: &str) -> ([Vswitchd; 2], [Netns; 3]) {
    let webs = ["a", "router", "b"].map(Netns::new);
    let network = |config: Config| config.network("blue").keys("vni = 4096");
    let [one, two] = hosts();
    let [a, router, b] = &webs;
    let near = network(tunnel(1, keys, peer)).tap("a", a).address("10.9.0.1/24").keys("isolated = true");
    let near = near.tap("router", router).address("10.9.0.3/24");
    let far = network(tunnel(2, keys, peer)).tap("b", b).address("10.9.0.2/24").keys("isolated = true");
    ([Vswitchd::start_in(one, &near), Vswitchd::start_in(two, &far)], webs)
}

#[test]
fn marked_frames_keep_single_ports_apart() {
    let (daemons, [a, router, b]) = static_ports("isolated_group = 7", "");
    b.reaches("10.9.0.3");
    router.reaches("10.9.0.2");
    a.reaches("10.9.0.3");
    assert!(!a.pings("10.9.0.2") && !b.pings("10.9.0.1"));
    // An address that is known, without the broadcast before it.
    let mac = a.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    b.ip(&format!("neigh replace 10.9.0.1 lladdr {mac} dev eth0"));
    a.ip("neigh flush dev eth0");
    assert!(!b.pings("10.9.0.1"));
    eventually("the drop has a name", || (daemons[0].dropped("10.8.0.2", "PORT_ISOLATED") > 0).then_some(()));
    assert_eq!(daemons[0].ctl(&["tunnel", "ls"])["endpoint"]["isolated_group"], 7);
}

#[test]
fn without_marks_isolation_ends_at_the_host_and_status_says_so() {
    let (daemons, [a, _, b]) = static_ports("", "");
    b.reaches("10.9.0.1");
    a.reaches("10.9.0.2");
    let warnings = daemons[0].ctl(&["status"])["warnings"].to_string();
    assert!(warnings.contains("port a is isolated on this host only"), "{warnings}");
}

#[test]
fn a_peer_may_count_as_isolated() {
    let (daemons, [a, router, b]) = static_ports("", "isolated = true");
    router.reaches("10.9.0.1");
    assert!(!a.pings("10.9.0.2") && !b.pings("10.9.0.1"));
    assert!(!b.pings("10.9.0.3"), "every station behind the peer counts as isolated");
    let warnings = daemons[0].ctl(&["status"])["warnings"].to_string();
    assert!(!warnings.contains("isolated"), "{warnings}");
}

/// The kernel's device with `gbp` takes marked frames, and without it drops those alone.
#[test]
fn the_kernels_device_understands_the_mark() {
    let [one, two] = hosts();
    let [a, free] = ["a", "free"].map(Netns::new);
    let config = tunnel(1, "isolated_group = 7", "").network("blue").keys("vni = 4096");
    let config = config.tap("a", &a).address("10.9.0.1/24").keys("isolated = true");
    let _daemon = Vswitchd::start_in(one, &config.tap("free", &free).address("10.9.0.3/24"));
    let device = |gbp: &str| {
        two.ip(&format!("link add vx0 type vxlan id 4096 local 10.8.0.2 remote 10.8.0.1 dstport 4789{gbp}"));
        two.ip("addr add 10.9.0.2/24 dev vx0");
        two.ip("link set vx0 up");
    };
    device(" gbp");
    a.reaches("10.9.0.2");
    free.reaches("10.9.0.2");
    two.ip("link del vx0");
    device("");
    free.ip("neigh flush dev eth0");
    free.reaches("10.9.0.2");
    a.ip("neigh flush dev eth0");
    assert!(!a.pings("10.9.0.2"));
}
