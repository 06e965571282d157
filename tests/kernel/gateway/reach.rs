//! Reachability between the networks, the host and the outside.

use std::{fs, net::SocketAddr, sync::Arc};

use vswitch_host::gateway::Outside;

use super::{Mirror, World, is_answered, seen, seen_udp, socket, unreachable};

#[test]
fn containers_reach_the_outside_with_the_hosts_address() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.outside, 80);
    world.set(&[world.blue.outside(Vec::new())]);
    let client = &world.blue.client;
    assert_eq!(seen(client, socket("192.0.2.2", 80)), "192.0.2.1");
    assert_eq!(seen(client, socket("2001:db8::2", 80)), "2001:db8::1");
    assert_eq!(seen_udp(client, socket("192.0.2.2", 80)), "192.0.2.1");
    client.reaches("192.0.2.2");
    client.reaches("2001:db8::2");

    // Without masquerading the outside needs a route, and sees the container's address.
    world.set(&[world.blue.routed()]);
    unreachable(&world.blue.client, socket("192.0.2.2", 80));
    world.route_inward();
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "10.9.1.3");
    assert_eq!(seen(&world.blue.client, socket("2001:db8::2", 80)), "fd00:9:1::3");
}

#[test]
fn networks_are_isolated_from_each_other_and_from_who_knows_the_way() {
    let mut world = World::new();
    world.route_inward();
    let _mirrors = [&world.blue.web, &world.red.web].map(|netns| Mirror::start(netns, 80));
    world.publish(&["8080:80"]);
    for (from, to, to6) in [
        (&world.blue.client, "10.9.2.2", "fd00:9:2::2"),
        (&world.red.client, "10.9.1.2", "fd00:9:1::2"),
        // A port published on the host is not reachable at the container's address.
        (&world.outside, "10.9.1.2", "fd00:9:1::2"),
    ] {
        unreachable(from, socket(to, 80));
        unreachable(from, socket(to6, 80));
        assert!(!from.pings(to) && !from.pings(to6), "{} pings {to}", from.name());
    }
    assert_eq!(seen(&world.blue.client, socket("10.9.1.2", 80)), "10.9.1.3");
    assert_eq!(seen(&world.host, socket("10.9.2.2", 80)), "10.9.2.1");
}

/// The host and the containers of an internal network reach each other, and nothing else: neither by routes, nor by published
/// ports, be they translated or relayed.
#[test]
fn an_internal_network_is_the_hosts_alone() {
    let mut world = World::new();
    world.route_inward();
    let _mirrors =
        [&world.blue.web, &world.red.web, &world.outside, &world.host].map(|netns| Mirror::start(netns, 80));
    let published = world.reserve(&["8080:80", "[::]:8081:80"], &[world.blue.ip(2)]).unwrap();
    assert!(published.iter().any(|it| it.is_relayed()), "{published:?}");
    let inner = Outside::of_internal(world.red.ifname.clone(), Arc::default());
    world.set(&[world.blue.outside(published), inner]);
    let spy = &world.red.client;
    assert_eq!(seen(&world.host, socket("10.9.2.2", 80)), "10.9.2.1");
    assert_eq!(seen(spy, socket("10.9.2.1", 80)), "10.9.2.3");
    assert_eq!(seen(spy, socket("fd00:9:2::1", 80)), "fd00:9:2::3");
    assert_eq!(seen(&world.outside, socket("2001:db8::1", 8081)), "10.9.1.1", "the relay works");
    for (from, to, port) in [
        (spy, "192.0.2.2", 80),
        (spy, "2001:db8::2", 80),
        (spy, "10.9.1.2", 80),
        (spy, "10.9.2.1", 8080),
        (spy, "192.0.2.1", 8080),
        (spy, "fd00:9:2::1", 8080),
        (spy, "2001:db8::1", 8081),
        (&world.outside, "10.9.2.2", 80),
        (&world.blue.client, "10.9.2.2", 80),
    ] {
        unreachable(from, socket(to, port));
    }
}

#[test]
fn settings_are_made_where_they_are_needed_only() {
    let mut world = World::new();
    let sysctl = |world: &World, name: &str| {
        let path = format!("/proc/sys/net/{name}");
        world.host.run(|| fs::read_to_string(path).unwrap().trim().to_owned())
    };
    world.set(&[]);
    assert_eq!(sysctl(&world, "ipv6/conf/all/forwarding"), "0");
    world.set(&[world.blue.outside(Vec::new())]);
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        // The uplink still accepts router advertisements; the gateway accepts none from containers.
        ("ipv6/conf/wan/accept_ra", "2"),
        ("ipv6/conf/gw-blue/accept_ra", "0"),
        ("ipv4/conf/gw-blue/route_localnet", "0"),
    ] {
        assert_eq!(sysctl(&world, name), value, "{name}");
    }
    world.publish(&["8080:80"]);
    assert_eq!(sysctl(&world, "ipv4/conf/gw-blue/route_localnet"), "1");
    assert_eq!(sysctl(&world, "ipv4/conf/gw-red/route_localnet"), "0");
    assert_eq!(sysctl(&world, "ipv4/conf/wan/route_localnet"), "0");
}

/// What a container sends is nowhere taken for a tunnel's datagram, be it in fragments; it has its own tunnels to elsewhere.
#[test]
fn nothing_from_a_container_goes_to_where_a_tunnel_ends() {
    let mut world = World::new();
    let _mirrors = [(&world.outside, 4789), (&world.outside, 4790), (&world.host, 4789)]
        .map(|(netns, port)| Mirror::start(netns, port));
    let ends = ["192.0.2.2:4789", "[2001:db8::2]:4789", "192.0.2.1:4789", "[2001:db8::1]:4789"];
    let ends = ends.map(|end| end.parse::<SocketAddr>().unwrap());
    let elsewhere = [socket("192.0.2.2", 4790), socket("2001:db8::2", 4790)];
    let sealed = |world: &World, tunnels: &[SocketAddr]| Outside {
        tunnels: Arc::new(tunnels.iter().copied().collect()),
        ..world.blue.outside(Vec::new())
    };
    world.set(&[sealed(&world, &[])]);
    for end in ends.iter().chain(&elsewhere) {
        seen_udp(&world.blue.client, *end);
        assert!(is_answered(&world.blue.client, *end, 4000), "{end}, in fragments");
    }
    world.set(&[sealed(&world, &ends)]);
    for end in ends {
        for len in [1, 4000] {
            assert!(!is_answered(&world.blue.client, end, len), "{end}, {len} bytes");
        }
    }
    for end in elsewhere {
        seen_udp(&world.blue.client, end);
    }
    // A container's own tunnel to a host that is no peer.
    world.set(&[sealed(&world, &ends[1..])]);
    seen_udp(&world.blue.client, ends[0]);
    // Any host may be a peer.
    world.set(&[sealed(&world, &[socket("0.0.0.0", 4789)])]);
    for end in ends {
        assert!(!is_answered(&world.blue.client, end, 1), "{end}");
    }
    assert!(is_answered(&world.host, socket("192.0.2.2", 4789), 1), "the host's own are not concerned");
}
