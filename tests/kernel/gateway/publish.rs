//! Published ports: who reaches them, and who owns them.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Instant,
};

use vswitch_tests::control::{
    gateway::Gateway,
    publish::{Protocol, Published},
};
use vswitch_tests::{Netns, PATIENCE, eventually};

use super::{Mirror, World, seen, seen_udp, socket, unreachable};

#[test]
fn a_published_port_is_reached_from_everywhere_but_past_the_host() {
    let mut world = World::new();
    let _mirrors = [80, 81].map(|port| Mirror::start(&world.blue.web, port));
    world.publish(&["8080:80", "8080:80/udp", "9000-9001:80-81", "192.0.2.1:443:80"]);
    let World { host, outside, blue, red, .. } = &world;

    // From outside, over both families and protocols; the container sees the client's address.
    for (at, from) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        assert_eq!(seen(outside, socket(at, 8080)), from);
        assert_eq!(seen(outside, socket(at, 9001)), from);
        assert_eq!(seen_udp(outside, socket(at, 8080)), from);
    }
    assert_eq!(seen(outside, socket("192.0.2.1", 443)), "192.0.2.2");
    unreachable(outside, socket("2001:db8::1", 443));
    unreachable(outside, socket("192.0.2.1", 9002));

    // From the host itself, at each of its addresses.
    assert_eq!(seen(host, socket("192.0.2.1", 8080)), "192.0.2.1");
    assert_eq!(seen(host, socket("2001:db8::1", 8080)), "2001:db8::1");
    assert_eq!(seen(host, socket("127.0.0.1", 8080)), "10.9.1.1");
    assert_eq!(seen_udp(host, socket("127.0.0.1", 8080)), "10.9.1.1");
    assert_eq!(seen(host, socket("::1", 8080)), "fd00:9:1::1");
    assert_eq!(seen_udp(host, socket("::1", 8080)), "fd00:9:1::1");
    unreachable(host, socket("127.0.0.1", 443));

    // Hairpin: from the container itself, its neighbour, and another network, all of which appear as the host.
    for (from, as_v4, as_v6) in [
        (&blue.web, "10.9.1.1", "fd00:9:1::1"),
        (&blue.client, "10.9.1.1", "fd00:9:1::1"),
        (&red.client, "10.9.1.1", "fd00:9:1::1"),
    ] {
        assert_eq!(seen(from, socket("192.0.2.1", 8080)), as_v4);
        assert_eq!(seen(from, socket("10.9.1.1", 8080)), as_v4);
        assert_eq!(seen_udp(from, socket("192.0.2.1", 8080)), as_v4);
        assert_eq!(seen(from, socket("2001:db8::1", 8080)), as_v6);
    }
}

#[test]
fn a_container_without_ipv6_is_reached_by_ipv6() {
    let mut world = World::new();
    let _mirrors = [80, 81].map(|port| Mirror::start(&world.blue.web, port));
    let v4_only = [world.blue.ip(2)];
    let publish = ["8080:80", "8080:80/udp", "[::1]:9000:81"];
    let published = world.reserve(&publish, &v4_only).unwrap();
    let ways: Vec<_> = published.iter().map(ToString::to_string).collect();
    assert!(ways.contains(&"[::]:8080:10.9.1.2:80/udp".to_owned()), "{ways:?}");
    let blue = world.blue.outside(published);
    world.set(std::slice::from_ref(&blue));
    let World { host, outside, .. } = &world;
    for (from, to) in [(outside, "2001:db8::1"), (host, "2001:db8::1"), (host, "::1")] {
        assert_eq!(seen(from, socket(to, 8080)), "10.9.1.1");
        assert_eq!(seen_udp(from, socket(to, 8080)), "10.9.1.1");
    }
    assert_eq!(seen(host, socket("::1", 9000)), "10.9.1.1");
    unreachable(outside, socket("2001:db8::1", 9000));

    // A long stream arrives, and each direction can be closed by itself.
    let server = world.blue.web.listen("10.9.1.2");
    let to = Published::new(Protocol::Tcp, socket("::", 7000), server.local_addr().unwrap()).unwrap();
    let mut with_server = blue.clone();
    with_server.published.push(to);
    world.set(&[with_server]);
    let mut client = world.outside.connect(socket("2001:db8::1", 7000));
    let (mut far, _) = server.accept().unwrap();
    let echo = thread::spawn(move || {
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).unwrap();
        far.write_all(&heard).unwrap();
        far
    });
    let said: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    client.write_all(&said).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = vec![0; said.len()];
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut heard).unwrap();
    assert!(heard == said, "the stream is what it was");
    let far = echo.join().unwrap();

    // Unpublishing ends the connections, and frees the port at once, whichever side closed first.
    world.set(std::slice::from_ref(&blue));
    assert_eq!(client.read(&mut heard).unwrap_or(0), 0);
    drop((client, far));
    unreachable(&world.outside, socket("2001:db8::1", 7000));
    world.set(&[]);
    world.set(&[blue]);
    assert_eq!(seen(&world.outside, socket("2001:db8::1", 8080)), "10.9.1.1");
}

#[test]
fn what_is_published_on_loopback_is_the_hosts_alone() {
    let mut world = World::new();
    let _mirrors = [
        Mirror::start(&world.blue.web, 80),
        Mirror::start(&world.host, 81),
        Mirror::start(&world.outside, 82),
    ];
    world.publish(&["127.0.0.1:8080:80"]);
    assert_eq!(seen(&world.host, socket("127.0.0.1", 8080)), "10.9.1.1");
    unreachable(&world.outside, socket("192.0.2.1", 8080));
    // A neighbour on the wire sends to 127.0.0.1 of the host: it reaches neither what is published there nor the host's
    // own servers, through the uplink or from a container.
    let wires = [
        (&world.outside, "192.0.2.1", "wan", "192.0.2.2"),
        (&world.blue.client, "10.9.1.1", "eth0", "10.9.1.3"),
    ];
    for (from, via, device, source) in wires {
        from.ip("route del local 127.0.0.0/8 dev lo table local");
        from.ip("route del local 127.0.0.1 dev lo table local");
        from.ip(&format!("route add 127.0.0.1 via {via} dev {device} src {source}"));
        from.run(|| fs::write(format!("/proc/sys/net/ipv4/conf/{device}/route_localnet"), "1").unwrap());
        let sent = || {
            let counters: serde_json::Value =
                serde_json::from_str(&from.ip(&format!("-j -s link show dev {device}"))).unwrap();
            counters[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
        };
        let before = sent();
        for port in [8080, 81] {
            unreachable(from, socket("127.0.0.1", port));
        }
        assert!(sent() >= before + 2, "{} sent nothing: this proves nothing", from.name());
    }
    // The links do work.
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 82)), "192.0.2.1");
}

#[test]
fn a_host_port_has_one_owner() {
    let mut world = World::new();
    let here = [world.blue.ip(2), world.blue.ip6(2)];
    world.publish(&["8080:80"]);
    for (publish, error) in [
        ("8080:81", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
        ("127.0.0.1:8080:81", "Bind for 127.0.0.1:8080 failed: port is already allocated"),
        ("[2001:db8::1]:8080:81", "Bind for [2001:db8::1]:8080 failed: port is already allocated"),
    ] {
        assert_eq!(world.reserve(&["7000:70", publish], &here).unwrap_err(), error);
    }
    let error = world.reserve(&["[::1]:80:80/sctp"], &here).unwrap_err();
    assert!(error.starts_with("cannot publish [::1]:80:80/sctp: SCTP is not carried on from ::1"), "{error}");
    // A refused list leaves nothing behind, and protocols have separate port spaces.
    let published = world.reserve(&["7000:70", "8080:80/udp", "7100:80/sctp"], &here).unwrap();
    world.at_host(|gateway| gateway.release(&published));

    // A process that binds a port first keeps it; one that comes later is refused.
    let taken = world.host.run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    assert_eq!(
        world.reserve(&["9000:80"], &here).unwrap_err(),
        "failed to bind host port for 0.0.0.0:9000:10.9.1.2:80/tcp: address already in use: find who has it with \
         `ss -anp --tcp sport = :9000`"
    );
    let error = world.reserve(&["192.0.2.9:80:80"], &here).unwrap_err();
    assert!(error.ends_with("no interface of this host has 192.0.2.9"), "{error}");
    world.host.run(|| {
        let refused = |result: std::io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        };
        refused(TcpListener::bind("192.0.2.1:8080").map(drop));
        refused(TcpListener::bind("[::]:8080").map(drop));
        assert!(UdpSocket::bind("0.0.0.0:8080").is_ok());
    });

    // Any port of a range, or any at all: the same for both families, and never one in use.
    let range = world.reserve(&["9000-9002:80"], &here).unwrap();
    assert_eq!(range.iter().map(|one| one.at().port()).collect::<Vec<_>>(), [9001, 9001]);
    let any = world.reserve(&["80-81", "127.0.0.1::80/udp"], &here).unwrap();
    let ports: Vec<_> = any.iter().map(|one| one.at().port()).collect();
    assert!(ports[0] == ports[1] && ports[2] == ports[3] && ports[0] != ports[2], "{any:?}");
    assert!(ports.iter().all(|port| *port >= 1024) && any[4].protocol == Protocol::Udp, "{any:?}");
    assert!(
        world.reserve(&["9000-9001:80"], &here).unwrap_err().starts_with("cannot publish 9000-9001:80/tcp")
    );

    // Unpublished ports are free; reserved ones are not.
    drop(taken);
    world.set(&[]);
    // A process just spawned by any test may hold our sockets until it calls exec.
    eventually("the port is free", || world.host.run(|| TcpListener::bind("192.0.2.1:8080").ok()));
    world.host.run(|| assert!(TcpListener::bind("192.0.2.1:9001").is_err()));
    // Two requests for one port are refused before anything is changed.
    let [one, two] = ["10.9.1.2:80", "10.9.1.3:80"]
        .map(|to| Published::new(Protocol::Tcp, socket("0.0.0.0", 80), to.parse().unwrap()).unwrap());
    let both = [world.blue.outside(vec![one, two])];
    let error = world.at_host(|gateway| gateway.set(&both)).unwrap_err();
    assert_eq!(error.to_string(), "Bind for 0.0.0.0:80 failed: port is already allocated");
    assert_eq!(world.tables(), "");
}

/// Sockets of TCP at a port of the host: those that listen, and the others, of IPv4 and of IPv6.
fn sockets(host: &Netns, port: u16) -> [[usize; 2]; 2] {
    let count = |file: &str| {
        let text = host.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap());
        let ours = format!(":{port:04X}");
        let at = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let states: Vec<_> = at.filter(|it| it[1].ends_with(&ours)).map(|it| it[3] == "0A").collect();
        let listening = states.iter().filter(|listens| **listens).count();
        [listening, states.len() - listening]
    };
    [count("tcp"), count("tcp6")]
}

/// A server of the host that answers one client and ends, so that its connection lingers (TIME_WAIT).
fn serve_once(host: &Netns, client: &Netns, port: u16, reuse: bool) {
    let server = host.run(|| {
        let server = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        server.set_reuse_address(reuse).unwrap();
        server.bind(&socket("0.0.0.0", port).into()).unwrap();
        server.listen(1).unwrap();
        server
    });
    let mut at_client = client.run(|| TcpStream::connect(socket("192.0.2.1", port)).unwrap());
    drop(server.accept().unwrap());
    assert_eq!(at_client.read(&mut [0]).unwrap(), 0);
    drop((at_client, server));
    eventually("it lingers", || (sockets(host, port)[0] == [0, 1]).then_some(()));
}

#[test]
fn the_port_of_a_server_that_has_ended_is_published_at_once() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    serve_once(&world.host, &world.outside, 8080, true);
    serve_once(&world.host, &world.outside, 8081, false);
    serve_once(&world.host, &world.outside, 8082, true);
    world.publish(&["8080:80", "8081:80", "192.0.2.1:8082:80"]);
    for port in [8080, 8081, 8082] {
        assert_eq!(seen(&world.outside, socket("192.0.2.1", port)), "192.0.2.2", "{port}");
    }
    // It is reserved where the server allowed that, and each port by one socket.
    assert_eq!(sockets(&world.host, 8080), [[0, 1], [1, 0]]);
    assert_eq!(sockets(&world.host, 8081), [[0, 1], [0, 0]]);
    assert_eq!(sockets(&world.host, 8082), [[1, 1], [0, 0]]);
    world.host.run(|| {
        for at in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8082"] {
            assert_eq!(TcpListener::bind(at).unwrap_err().kind(), std::io::ErrorKind::AddrInUse, "{at}");
        }
    });
}

#[test]
fn a_port_costs_one_socket_and_each_family_can_be_given_up_alone() {
    let mut world = World::new();
    let here = [world.blue.ip(2), world.blue.ip6(2)];
    let published = world.publish(&["8080:80"]);
    assert_eq!(sockets(&world.host, 8080), [[0, 0], [1, 0]]);
    let binds = |world: &World, at: &str| {
        let at: SocketAddr = at.parse().unwrap();
        world.host.run(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(at),
                socket2::Type::STREAM,
                Some(socket2::Protocol::TCP),
            )
            .unwrap();
            if at.is_ipv6() {
                socket.set_only_v6(true).unwrap();
            }
            socket.bind(&at.into()).is_ok()
        })
    };
    let [v4, v6] = ["0.0.0.0:8080", "[::]:8080"];
    for (kept, given_up) in [(v4, v6), (v6, v4)] {
        let left: Vec<_> = published.iter().copied().filter(|it| it.at().to_string() == kept).collect();
        world.set(&[world.blue.outside(left)]);
        // A process just spawned by any test may hold our sockets until it calls exec.
        eventually("the other is free", || binds(&world, given_up).then_some(()));
        assert!(!binds(&world, kept), "{kept}");
        world.set(&[world.blue.outside(Vec::new())]);
        eventually("both are free", || (binds(&world, v4) && binds(&world, v6)).then_some(()));
        let again = world.reserve(&["8080:80"], &here).unwrap();
        assert_eq!(again, published);
        world.set(&[world.blue.outside(again)]);
        assert!(!binds(&world, v4) && !binds(&world, v6));
    }
    // After a restart as well.
    let wanted = [world.blue.outside(published)];
    world.gateway = Gateway::new();
    assert!(world.at_host(|gateway| gateway.restore(&wanted)).unwrap().is_empty());
    assert_eq!(sockets(&world.host, 8080), [[0, 0], [1, 0]]);
}

#[test]
fn a_port_that_an_engine_holds_is_published_and_not_held() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    let (publish, to) = (["8080:80".parse().unwrap()], [world.blue.ip(2)]);
    let published = world.at_host(|gateway| gateway.reserve(&publish, &to, false)).unwrap();
    assert!(published.iter().all(|it| !it.held));
    let wanted = [world.blue.outside(published.clone())];
    world.set(&wanted);
    // A process just spawned by any test may hold our sockets until it calls exec.
    let engine =
        eventually("the port is not held", || world.host.run(|| TcpListener::bind("0.0.0.0:8080").ok()));
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    // The port cannot be published twice, and a restart tolerates the engine's socket.
    assert!(world.reserve(&["8080:81"], &[world.blue.ip(2)]).unwrap_err().contains("already allocated"));
    world.gateway = Gateway::new();
    assert!(world.at_host(|gateway| gateway.restore(&wanted)).unwrap().is_empty());
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    // Published anew, the engine still has it. For a port of ours, a process that has bound it is a conflict.
    world.set(&[]);
    let again = world.at_host(|gateway| gateway.reserve(&publish, &to, false)).unwrap();
    world.at_host(|gateway| gateway.release(&again));
    let refusal = world.reserve(&["8080:80"], &[world.blue.ip(2)]).unwrap_err();
    assert!(refusal.contains("address already in use"), "{refusal}");
    drop(engine);
}

#[test]
fn a_thousand_ports_are_set_at_once() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    let publish: Vec<_> = (0..1000).map(|index| format!("{}:80", 20_000 + index)).collect();
    let publish: Vec<_> = publish.iter().map(String::as_str).collect();
    let start = Instant::now();
    let published = world.reserve(&publish, &[world.blue.ip(2)]).unwrap();
    println!("1000 host ports reserved in {:?}", start.elapsed());
    let mut wanted = [world.blue.outside(published)];
    let start = Instant::now();
    world.set(&wanted);
    println!("1000 published ports set in {:?}", start.elapsed());
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 20_999)), "192.0.2.2");

    let published = &mut wanted[0].published;
    published.retain(|published| published.at().port() != 20_999);
    let start = Instant::now();
    world.set(&wanted);
    println!("one of them gone in {:?}", start.elapsed());
    let start = Instant::now();
    world.set(&wanted);
    println!("nothing changed in {:?}", start.elapsed());
    unreachable(&world.outside, socket("192.0.2.1", 20_999));
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 20_998)), "192.0.2.2");
}
