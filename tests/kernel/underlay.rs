//! Tunnels whose underlay changes: its MTU, its addresses, its interface; and endpoints on one link of an interface.

use serde_json::Value;
use vswitch_tests::{Config, Netns, Vswitchd, eventually, net};

/// Two hosts with a link `under` between them, and a container each.
struct Pair {
    hosts: [Netns; 2],
    webs: [Netns; 2],
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            hosts: [1, 2].map(|number| Netns::new(&format!("host{number}"))),
            webs: [1, 2].map(|number| Netns::new(&format!("web{number}"))),
        };
        link(&pair.hosts[0], &pair.hosts[1], 1500);
        pair
    }

    fn start(self, config: impl Fn(usize, &Netns) -> Config) -> ([Vswitchd; 2], [Netns; 2]) {
        let Self { hosts, webs } = self;
        let [one, two] = hosts;
        let daemons =
            [Vswitchd::start_in(one, &config(1, &webs[0])), Vswitchd::start_in(two, &config(2, &webs[1]))];
        (daemons, webs)
    }
}

/// Makes the link between two hosts, with its addresses.
fn link(one: &Netns, two: &Netns, mtu: u16) {
    one.ip(&format!("link add under mtu {mtu} type veth peer name under mtu {mtu} netns {}", two.name()));
    for (host, number) in [(one, 1), (two, 2)] {
        address(host, number);
        host.ip("link set under up");
    }
}

fn address(host: &Netns, number: usize) {
    host.ip(&format!("addr add 10.8.0.{number}/24 dev under"));
    host.ip(&format!("addr add fd08::{number}/64 dev under nodad"));
    host.ip(&format!("addr add fe80::{number}/64 dev under nodad"));
}

fn web(config: Config, number: usize, netns: &Netns) -> Config {
    config.network("blue").keys("vni = 4096").tap("web", netns).address(&format!("10.9.0.{number}/24"))
}

fn mtu(web: &Netns) -> u64 {
    let links: Value = serde_json::from_str(&web.ip("-j link show dev eth0")).unwrap();
    links[0]["mtu"].as_u64().unwrap()
}

fn mtu_is(web: &Netns, expected: u64) {
    eventually(&format!("the container's mtu is {expected}"), || (mtu(web) == expected).then_some(()));
}

/// As with BGP on the host: the local address is on the loopback, whose MTU of 65,536 bytes means nothing.
#[test]
fn networks_follow_the_mtu_of_the_ways_to_the_peers() {
    let pair = Pair::new();
    for (number, host) in (1..).zip(&pair.hosts) {
        host.ip(&format!("addr add 10.255.0.{number}/32 dev lo"));
        host.ip(&format!("route add 10.255.0.{}/32 via 10.8.0.{}", 3 - number, 3 - number));
    }
    let (daemons, webs) = pair.start(|number, netns| {
        let config = net().vxlan(&format!("10.255.0.{number}")).peer(&format!("10.255.0.{}", 3 - number));
        web(config, number, netns)
    });
    assert_eq!(webs.each_ref().map(mtu), [1450; 2]);
    webs[0].reaches("10.9.0.2");
    daemons.iter().for_each(|daemon| drop(daemon.host.ip("link set under mtu 1400")));
    webs.iter().for_each(|web| mtu_is(web, 1350));
    daemons[0].logs(&["networks follow", "1400"]);
    // Nothing comes down for that.
    assert!(!daemons[0].log().contains("down:"), "{}", daemons[0].log());
    webs[0].reaches("10.9.0.2");
}

#[test]
fn a_local_address_that_comes_late_brings_its_mtu() {
    let pair = Pair::new();
    let host = &pair.hosts[0];
    host.ip("link set under mtu 1400");
    host.ip("addr del 10.8.0.1/24 dev under");
    let (daemons, webs) = pair.start(|number, netns| {
        let config = net().vxlan(&format!("10.8.0.{number}")).peer(&format!("10.8.0.{}", 3 - number));
        web(config, number, netns)
    });
    let daemon = &daemons[0];
    daemon.host.ip("addr add 10.8.0.1/24 dev under");
    mtu_is(&webs[0], 1350);
    // A reload while it is away changes nothing, and status says what is missing.
    daemon.host.ip("addr del 10.8.0.1/24 dev under");
    let warns = || {
        let warnings = daemon.ctl(&["status"]).to_string();
        warnings.contains("no interface has the address 10.8.0.1")
    };
    eventually("status says so", || warns().then_some(()));
    daemon.ctl(&["reload"]);
    assert_eq!(mtu(&webs[0]), 1350);
    daemon.host.ip("addr add 10.8.0.1/24 dev under");
    eventually("status is silent", || (!warns()).then_some(()));
    webs[0].reaches("10.9.0.2");
}

fn group_survives(local: impl Fn(usize) -> String, group: &str) {
    let (daemons, webs) = Pair::new().start(|number, netns| {
        let keys = format!("group = \"{group}\"\nlearn_peers = true");
        web(net().vxlan(&local(number)).keys(&keys), number, netns)
    });
    webs[0].reaches("10.9.0.2");
    let again = || {
        for (daemon, web) in daemons.iter().zip(&webs) {
            daemon.port_is("vxlan", "up");
            daemon.ctl(&["fdb", "flush", "--all"]);
            web.ip("neigh flush dev eth0");
        }
        webs[0].reaches("10.9.0.2");
    };
    // Down and up; IPv6 addresses go with it.
    daemons[1].host.ip("link set under down");
    daemons[1].host.ip("link set under up");
    daemons[1].host.ip("addr flush dev under");
    address(&daemons[1].host, 2);
    again();
    // Made anew.
    daemons[1].host.ip("link del under");
    let endpoint = daemons[1].port_is("vxlan", "down");
    assert!(
        endpoint["reason"].as_str().is_some_and(|reason| reason.contains("no interface")),
        "{endpoint:#}"
    );
    link(&daemons[0].host, &daemons[1].host, 1500);
    again();
}

#[test]
fn a_group_is_joined_again_at_an_interface_that_is_made_anew() {
    group_survives(|number| format!("10.8.0.{number}"), "239.1.1.1");
}

#[test]
fn a_group_over_ipv6_too() {
    group_survives(|number| format!("fd08::{number}"), "ff05::1234");
}

#[test]
fn an_endpoint_at_a_link_local_address() {
    group_survives(|number| format!("fe80::{number}%under"), "ff02::1234%under");
}

#[test]
fn peers_at_link_local_addresses() {
    let (daemons, webs) = Pair::new().start(|number, netns| {
        let config = net().vxlan(&format!("fe80::{number}%under"));
        web(config, number, netns)
    });
    for (number, daemon) in (1..).zip(&daemons) {
        let (_, refusal) = daemon.refusal(&["peer", "add", "fe80::7%lo"]);
        assert!(refusal.contains("is not on the link of the local address"), "{refusal}");
        let port = daemon.ctl(&["peer", "add", &format!("fe80::{}%under", 3 - number)]);
        assert_eq!(port["name"], format!("fe80--{}-under", 3 - number), "{port:#}");
    }
    webs[0].reaches("10.9.0.2");
    let probe = daemons[0].ctl(&["peer", "probe", "fe80::2%under"]);
    assert_eq!(probe["path_mtu"], 1500, "{probe:#}");
    // The sockets are bound to the link: made anew, they follow.
    daemons[0].host.ip("link del under");
    let endpoint = daemons[0].port_is("vxlan", "down");
    assert!(endpoint["reason"].as_str().is_some_and(|reason| reason.contains("there is no interface under")));
    link(&daemons[0].host, &daemons[1].host, 1500);
    daemons.iter().for_each(|daemon| drop(daemon.port_is("vxlan", "up")));
    webs[0].reaches("10.9.0.2");
}
