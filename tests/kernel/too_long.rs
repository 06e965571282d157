//! Packets longer than the egress port's MTU: dropped by name, and answered, on ports of every kind, and whether the host
//! or the container changed an MTU.

use std::process::Command;

use vswitch_tests::{Netns, Vswitchd, eventually, net};

/// Sends a ping of `size` bytes to `address` with "don't fragment"; true if it is answered by its receiver.
fn ping(netns: &Netns, address: &str, size: usize) -> bool {
    let size = size.to_string();
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-c", "1", "-W", "1", "-M", "do", "-s", &size, address]);
    netns.run(|| ping.output().unwrap().status.success())
}

/// The path MTU to `address` that the kernel has been told.
fn told(netns: &Netns, address: &str) -> Option<usize> {
    let route = netns.ip(&format!("route get {address}"));
    route.split_once(" mtu ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
}

/// Asserts that a packet from `from` that is too long for port `port` is dropped there, and `from` told its `mtu`.
fn is_answered(switch: &Vswitchd, from: &Netns, address: &str, port: &str, mtu: usize) {
    from.reaches(address);
    let before = switch.dropped(port, "PKT_TOO_BIG");
    assert!(!ping(from, address, 5000), "it cannot arrive");
    let seen = eventually("the sender is told", || told(from, address));
    assert_eq!(seen, mtu, "{address} by {port}");
    assert!(switch.dropped(port, "PKT_TOO_BIG") > before, "and it is counted");
    let headers = if address.contains(':') { 48 } else { 28 };
    assert!(ping(from, address, mtu - headers), "what was told fits");
}

#[test]
fn a_container_that_raises_its_mtu_is_told_by_every_kind() {
    for (sender, receiver) in [("tap", "tap"), ("tap", "veth"), ("veth", "tap"), ("veth", "veth")] {
        let [a, b] = ["a", "b"].map(Netns::new);
        let config = net().network("blue").port("a", sender, &a).address("10.9.0.2/24 fd09::2/64");
        let switch = Vswitchd::start(&config.port("b", receiver, &b).address("10.9.0.3/24 fd09::3/64"));
        a.ip("link set eth0 mtu 9000");
        for address in ["10.9.0.3", "fd09::3"] {
            is_answered(&switch, &a, address, "b", 1500);
        }
    }
}

#[test]
fn an_interface_of_the_host_has_its_own_mtu() {
    let [host, a, b] = ["host", "a", "b"].map(Netns::new);
    host.ip(&format!("link add nic mtu 1400 type veth peer name eth0 netns {}", b.name()));
    host.ip("link set nic up");
    b.ip("address add 10.9.0.3/24 dev eth0");
    b.ip("link set eth0 up");
    let config = net().network("blue").keys("mtu = 9000").veth("a", &a).address("10.9.0.2/24");
    let switch = Vswitchd::start_in(host, &config.packet("nic", "nic"));
    is_answered(&switch, &a, "10.9.0.3", "nic", 1400);
    // It is lowered while the switch works, and raised again.
    for mtu in [1300, 1450] {
        a.ip("route flush cache");
        a.ip("link set eth0 down");
        switch.host.ip(&format!("link set nic mtu {mtu}"));
        a.ip("link set eth0 up");
        eventually("the sender has forgotten", || told(&a, "10.9.0.3").is_none().then_some(()));
        eventually("the port has noticed", || {
            ping(&a, "10.9.0.3", 5000);
            (told(&a, "10.9.0.3") == Some(mtu)).then_some(()).or_else(|| {
                a.ip("route flush cache");
                None
            })
        });
    }
}
