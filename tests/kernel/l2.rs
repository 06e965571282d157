//! Ethernet between all kinds of ports of one switch.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use vswitch_tests::{
    Netns, PATIENCE, Vswitchd, eventually, net,
    pattern::Pattern,
    tcp,
    udp::{self, Echo},
};

/// Ports of every kind: name, kind and keys. [`Mixed::start`] creates the interfaces of `packet` ports.
const KINDS: [(&str, &str, &str); 6] = [
    ("tap", "tap", ""),
    ("plaintap", "tap", "offload = false"),
    ("veth", "veth", ""),
    ("plainveth", "veth", "offload = false"),
    ("packet", "packet", ""),
    ("plainpacket", "packet", "offload = false"),
];

/// A network with a port of every kind, each connected to eth0 of a container.
struct Mixed {
    switch: Vswitchd,
    containers: Vec<Netns>,
}

fn v4(index: usize) -> String {
    format!("10.9.0.{}", index + 1)
}

fn v6(index: usize) -> String {
    format!("fd00:9::{}", index + 1)
}

impl Mixed {
    fn start(switch: &str, mtu: u16) -> Self {
        let host = Netns::new("host");
        let containers: Vec<_> = KINDS.iter().map(|(name, ..)| Netns::new(name)).collect();
        let mut config = net().switch(switch).network("blue").keys(&format!("mtu = {mtu}"));
        for (index, ((name, kind, keys), container)) in KINDS.iter().zip(&containers).enumerate() {
            if *kind == "packet" {
                let (device, inside) = (format!("premade{index}"), container.name());
                host.ip(&format!(
                    "link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {inside}"
                ));
                host.ip(&format!("link set {device} up"));
                container.ip("link set eth0 up");
                container.ip(&format!("address add {}/24 dev eth0", v4(index)));
                container.ip(&format!("address add {}/64 dev eth0 nodad", v6(index)));
                config = config.packet(name, &device).keys(keys);
            } else {
                let addresses = format!("{}/24 {}/64", v4(index), v6(index));
                config = config.port(name, kind, container).address(&addresses).keys(keys);
            }
        }
        Self { switch: Vswitchd::start_in(host, &config), containers }
    }

    /// All pairs of containers.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.containers.len();
        (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
    }

    /// Streams both ways between all pairs of containers.
    fn exchange(&self, address: fn(usize) -> String, bytes: u64, chunk: usize) {
        for (a, b) in self.pairs() {
            println!("{} <-> {}", KINDS[a].0, KINDS[b].0);
            tcp::exchange(&self.containers[a], &self.containers[b], &address(b), bytes, chunk);
        }
    }

    /// Asserts that no frame was dropped, except for reasons unrelated to the test.
    fn lost_nothing(&self) {
        let drops = self.switch.ctl(&["drops"]);
        let drops = drops.as_array().unwrap().iter();
        let lost: Vec<_> = drops.filter(|drop| drop["reason"] != "SAME_PORT").collect();
        assert!(lost.is_empty(), "{lost:#?}");
    }

    fn super_frames(&self, port: &str, way: &str) -> u64 {
        self.switch.port(port)[way]["super_frames"].as_u64().unwrap()
    }
}

#[test]
fn tcp_over_ipv4_is_whole_between_all_kinds() {
    let mixed = Mixed::start("workers = 2", 1500);
    mixed.exchange(v4, 3_000_000, 8 << 10);
    mixed.exchange(v4, 3_000_000, 64 << 10);
    for (kind, carries) in
        [("tap", true), ("plaintap", false), ("veth", true), ("packet", true), ("plainveth", false)]
    {
        assert_eq!(mixed.super_frames(kind, "tx") > 0, carries, "super-frames out by {kind}");
    }
    assert!(mixed.super_frames("tap", "rx") > 0 && mixed.super_frames("packet", "rx") > 0);
    assert_eq!(mixed.super_frames("plaintap", "rx"), 0);
}

#[test]
fn tcp_over_ipv6_is_whole_between_all_kinds() {
    let mixed = Mixed::start("workers = 1", 1500);
    mixed.exchange(v6, 3_000_000, 8 << 10);
    mixed.exchange(v6, 3_000_000, 64 << 10);
    assert!(mixed.super_frames("tap", "tx") > 0 && mixed.super_frames("tap", "rx") > 0);
}

#[test]
fn jumbo_frames_pass_between_all_kinds() {
    let mixed = Mixed::start("", 9000);
    mixed.exchange(v4, 3_000_000, 64 << 10);
    mixed.exchange(v6, 3_000_000, 64 << 10);
    for (a, b) in mixed.pairs() {
        let echo = Echo::start(&mixed.containers[b], &v4(b));
        // The longest unfragmented datagram: 9000 less the IPv4 and UDP headers.
        let client = mixed.containers[a].udp(&v4(a));
        assert!(echo.round_trip(&client, 8972, PATIENCE).is_some(), "{} to {}", KINDS[a].0, KINDS[b].0);
    }
    mixed.lost_nothing();
}

#[test]
fn datagrams_of_any_length_and_their_fragments_arrive() {
    let mixed = Mixed::start("", 1500);
    for (a, b) in mixed.pairs() {
        for address in [v4, v6] {
            let echo = Echo::start(&mixed.containers[b], &address(b));
            let client = mixed.containers[a].udp(&address(a));
            for len in [0, 1, 17, 18, 1452, 1453, 1472, 1473, 8000, 60_000] {
                let came = echo.round_trip(&client, len, PATIENCE);
                assert!(came.is_some(), "{len} bytes from {} to {}", KINDS[a].0, KINDS[b].0);
            }
        }
    }
    mixed.lost_nothing();
}

/// Datagrams segmented by the kernel (as QUIC servers send them) arrive at receivers of every kind.
#[test]
fn segmented_datagrams_arrive_intact() {
    let mixed = Mixed::start("", 1500);
    for (from, to) in mixed.pairs().flat_map(|(a, b)| [(a, b), (b, a)]) {
        for address in [v4, v6] {
            let receiver = mixed.containers[to].udp(&address(to));
            let sender = mixed.containers[from].udp(&address(from));
            udp::segment(&sender, 1200);
            let payload = Pattern(from as u64).make(0, 40 * 1200 + 77);
            let sent = sender.send_to(&payload, receiver.local_addr().unwrap()).unwrap();
            assert_eq!(sent, payload.len());
            let mut buffer = [0; 2048];
            for part in payload.chunks(1200) {
                let len = receiver.recv(&mut buffer).unwrap_or_else(|error| {
                    panic!("from {} to {}: {error}", KINDS[from].0, KINDS[to].0);
                });
                assert!(buffer[..len] == *part, "from {} to {}", KINDS[from].0, KINDS[to].0);
            }
        }
    }
    assert!(mixed.super_frames("tap", "rx") > 0, "the kernel left the cutting to us");
    mixed.lost_nothing();
}

#[test]
fn broadcast_and_multicast_reach_all_others() {
    let mixed = Mixed::start("", 1500);
    let everywhere = |group: Ipv4Addr, port: u16| -> Vec<UdpSocket> {
        let bind = |(index, container): (usize, &Netns)| {
            let port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            let socket = container.run(|| UdpSocket::bind(port).unwrap());
            if group.is_multicast() {
                socket.join_multicast_v4(&group, &v4(index).parse().unwrap()).unwrap();
            }
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        mixed.containers.iter().enumerate().map(bind).collect()
    };
    let groups = [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 9, 0, 255), Ipv4Addr::new(239, 1, 2, 3)];
    for (group, port) in groups.into_iter().zip(7000..) {
        let sockets = everywhere(group, port);
        for (from, container) in mixed.containers.iter().enumerate() {
            let sender = container.udp(&v4(from));
            sender.set_broadcast(true).unwrap();
            sender.set_multicast_loop_v4(false).unwrap();
            // The limited broadcast address uses the default route.
            if group == Ipv4Addr::BROADCAST {
                container.ip("route replace default dev eth0");
            }
            sender.send_to(&[u8::try_from(from).unwrap(); 100], (group, port)).unwrap();
            for (to, socket) in sockets.iter().enumerate().filter(|(to, _)| *to != from) {
                let mut buffer = [0; 2048];
                // A sender also hears its own broadcast, which is skipped.
                let from = u8::try_from(from).unwrap();
                loop {
                    let len =
                        socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{group} at {to}: {error}"));
                    assert_eq!(len, 100);
                    if buffer[0] == from {
                        break;
                    }
                    assert_eq!(usize::from(buffer[0]), to, "only its own comes besides");
                }
            }
        }
    }
    mixed.lost_nothing();
}

#[test]
fn neighbours_find_each_other_again_after_both_forget() {
    let mixed = Mixed::start("", 1500);
    for (a, b) in mixed.pairs() {
        for address in [v4, v6] {
            mixed.containers[a].ip("neighbour flush dev eth0");
            mixed.containers[b].ip("neighbour flush dev eth0");
            mixed.switch.ctl(&["fdb", "flush", "--all"]);
            mixed.containers[a].reaches(&address(b));
        }
    }
}

#[test]
fn what_is_too_long_for_a_port_is_dropped_and_counted_there() {
    let (big, small) = (Netns::new("big"), Netns::new("small"));
    let config = net().network("blue").keys("mtu = 9000").tap("big", &big).address("10.9.0.1/24");
    let switch = Vswitchd::start(&config.tap("small", &small).address("10.9.0.2/24").keys("mtu = 1500"));
    let echo = Echo::start(&small, "10.9.0.2");
    let client = big.udp("10.9.0.1");
    // Plus 20 bytes of IPv4 header and 8 of UDP. Like a kernel bridge (is_skb_forwardable), the switch allows a frame to
    // exceed the MTU by one tag.
    for len in [1472, 1476] {
        assert!(echo.round_trip(&client, len, PATIENCE).is_some(), "{len} bytes fit");
    }
    assert_eq!(switch.dropped("small", "PKT_TOO_BIG"), 0);
    assert_eq!(echo.round_trip(&client, 1477, Duration::from_millis(100)), None, "a byte more does not");
    assert_eq!(switch.dropped("small", "PKT_TOO_BIG"), 1);
    eventually("the sender has been told, and sends fragments", || {
        echo.round_trip(&client, 1477, Duration::from_millis(500))
    });
    assert_eq!(switch.dropped("small", "PKT_TOO_BIG"), 1);
    let drops = switch.ctl(&["drops", "--port", "small"]);
    assert_eq!(drops[0]["direction"], "tx");
    assert!(drops[0]["hint"].as_str().unwrap().contains("the same MTU"));
    // TCP negotiates the smaller segment size, so it is not affected.
    tcp::exchange(&big, &small, "10.9.0.2", 1_000_000, 64 << 10);
}
