//! The outside world: what containers reach, what reaches them, and what nobody may reach.
//!
//! ```text
//!  outside ----wan--- host ----gw-blue---- blue: bridge ---- web, client
//! 192.0.2.2     192.0.2.1   \---gw-red---- red:  bridge ---- other
//! ```
//!
//! A network is a namespace with a kernel bridge, as the switch would be; the gateway acts in `host`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use vswitch_control::gateway::{Gateway, GatewayError, Outside, Protocol, Publish, Published};
use vswitch_tests::{Netns, PATIENCE, eventually};

/// How long nothing may come before it counts as not coming: everything here is a few hops in one kernel.
const SILENCE: Duration = Duration::from_millis(400);

/// The host, what is outside of it, and two networks.
struct World {
    gateway: Gateway,
    host: Netns,
    outside: Netns,
    blue: Network,
    red: Network,
}

/// A network with two containers.
struct Network {
    number: u8,
    ifname: String,
    web: Netns,
    client: Netns,
    _bridge: Netns,
}

impl Network {
    fn new(host: &Netns, name: &str, number: u8) -> Self {
        let bridge = Netns::new(name);
        bridge.ip("link add bridge type bridge");
        bridge.ip("link set bridge up");
        let join = |inside: &Netns, ifname: &str, port: &str, own: u8| {
            let peer = inside.name();
            bridge.ip(&format!("link add {port} type veth peer name {ifname} netns {peer}"));
            bridge.ip(&format!("link set {port} master bridge up"));
            inside.ip(&format!("address add 10.9.{number}.{own}/24 dev {ifname}"));
            inside.ip(&format!("address add fd00:9:{number}::{own}/64 dev {ifname} nodad"));
            inside.ip(&format!("link set {ifname} up"));
        };
        let ifname = format!("gw-{name}");
        join(host, &ifname, "port0", 1);
        let container = |own: u8| {
            let container = Netns::new(name);
            join(&container, "eth0", &format!("port{own}"), own);
            container.ip(&format!("route add default via 10.9.{number}.1"));
            container.ip(&format!("-6 route add default via fd00:9:{number}::1"));
            container
        };
        let (web, client) = (container(2), container(3));
        Self { number, ifname, web, client, _bridge: bridge }
    }

    fn ip(&self, own: u8) -> IpAddr {
        format!("10.9.{}.{own}", self.number).parse().unwrap()
    }

    fn ip6(&self, own: u8) -> IpAddr {
        format!("fd00:9:{}::{own}", self.number).parse().unwrap()
    }

    fn outside(&self, published: Vec<Published>) -> Outside {
        let subnets = [format!("10.9.{}.0/24", self.number), format!("fd00:9:{}::/64", self.number)];
        let subnets = subnets.iter().map(|net| net.parse().unwrap()).collect();
        Outside { ifname: self.ifname.clone(), subnets, masquerade: true, published }
    }

    /// As the outside knows the way, it sees who comes.
    fn routed(&self) -> Outside {
        Outside { masquerade: false, ..self.outside(Vec::new()) }
    }
}

impl World {
    fn new() -> Self {
        let (host, outside) = (Netns::new("host"), Netns::new("outside"));
        host.ip(&format!("link add wan type veth peer name wan netns {}", outside.name()));
        for (netns, own) in [(&host, 1), (&outside, 2)] {
            netns.ip(&format!("address add 192.0.2.{own}/24 dev wan"));
            netns.ip(&format!("address add 2001:db8::{own}/64 dev wan nodad"));
            netns.ip("link set wan up");
        }
        let (blue, red) = (Network::new(&host, "blue", 1), Network::new(&host, "red", 2));
        Self { gateway: Gateway::new(), host, outside, blue, red }
    }

    /// What the gateway does, does it in the host.
    fn at_host<T: Send>(&mut self, act: impl FnOnce(&mut Gateway) -> T + Send) -> T {
        let gateway = &mut self.gateway;
        self.host.run(|| act(gateway))
    }

    fn set(&mut self, outsides: &[Outside]) {
        self.at_host(|gateway| gateway.set(outsides)).unwrap();
    }

    fn reserve(&mut self, publish: &[&str], addresses: &[IpAddr]) -> Result<Vec<Published>, String> {
        let publish: Vec<Publish> = publish.iter().map(|text| text.parse().unwrap()).collect();
        let reserved = self.at_host(|gateway| gateway.reserve(&publish, addresses));
        reserved.map_err(|error| error.to_string())
    }

    /// Publishes ports of the blue web server, which nothing else is wanted beside.
    fn publish(&mut self, publish: &[&str]) -> Vec<Published> {
        let published = self.reserve(publish, &[self.blue.ip(2), self.blue.ip6(2)]).unwrap();
        self.set(&[self.blue.outside(published.clone()), self.red.outside(Vec::new())]);
        published
    }

    /// Lets what is outside know how to reach the networks without the host's address.
    fn route_inward(&self) {
        self.outside.ip("route add 10.9.0.0/16 via 192.0.2.1");
        self.outside.ip("-6 route add fd00:9::/32 via 2001:db8::1");
    }

    fn tables(&self) -> String {
        nft(&self.host, &["list", "tables"])
    }
}

fn nft(netns: &Netns, arguments: &[&str]) -> String {
    let output = netns.run(|| Command::new("nft").args(arguments).output().expect("nftables is installed"));
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn socket(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A server that tells everybody, by TCP and UDP, which address he has; ends with the value.
struct Mirror {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Mirror {
    fn start(netns: &Netns, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let at = socket("::", port);
        let (listener, datagrams) =
            netns.run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        listener.set_nonblocking(true).unwrap();
        datagrams.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (tcp, udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let tcp = thread::spawn(move || {
            while !tcp.load(Relaxed) {
                match listener.accept() {
                    // Who has gone away meanwhile needs no answer.
                    Ok((mut stream, from)) => drop(stream.write_all(name(from).as_bytes())),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let udp = thread::spawn(move || {
            while !udp.load(Relaxed) {
                if let Ok((_, from)) = datagrams.recv_from(&mut [0; 16]) {
                    drop(datagrams.send_to(name(from).as_bytes(), from));
                }
            }
        });
        Self { stop, threads: vec![tcp, udp] }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn name(from: SocketAddr) -> String {
    from.ip().to_canonical().to_string()
}

/// As whom `from` is seen by the mirror at `to`.
fn seen(from: &Netns, to: SocketAddr) -> String {
    eventually(&format!("{} reaches {to}", from.name()), || ask(from, to, PATIENCE))
}

fn ask(from: &Netns, to: SocketAddr, limit: Duration) -> Option<String> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, limit)).ok()?;
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn seen_udp(from: &Netns, to: SocketAddr) -> String {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = from.udp(any);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    eventually(&format!("{} reaches {to}/udp", from.name()), || {
        let mut answer = [0; 64];
        socket.send_to(b"?", to).ok()?;
        let (len, _) = socket.recv_from(&mut answer).ok()?;
        Some(String::from_utf8(answer[..len].to_vec()).unwrap())
    })
}

fn unreachable(from: &Netns, to: SocketAddr) {
    let answer = ask(from, to, SILENCE);
    assert_eq!(answer, None, "{} reaches {to}", from.name());
}

#[test]
#[ignore = "needs root: make test runs it"]
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

    // Without masquerade the outside has to know the way, and sees who it is.
    world.set(&[world.blue.routed()]);
    unreachable(&world.blue.client, socket("192.0.2.2", 80));
    world.route_inward();
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "10.9.1.3");
    assert_eq!(seen(&world.blue.client, socket("2001:db8::2", 80)), "fd00:9:1::3");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn networks_are_isolated_from_each_other_and_from_who_knows_the_way() {
    let mut world = World::new();
    world.route_inward();
    let _mirrors = [&world.blue.web, &world.red.web].map(|netns| Mirror::start(netns, 80));
    world.publish(&["8080:80"]);
    for (from, to, to6) in [
        (&world.blue.client, "10.9.2.2", "fd00:9:2::2"),
        (&world.red.client, "10.9.1.2", "fd00:9:1::2"),
        // What is published at the host is not published at the container.
        (&world.outside, "10.9.1.2", "fd00:9:1::2"),
    ] {
        unreachable(from, socket(to, 80));
        unreachable(from, socket(to6, 80));
        assert!(!from.pings(to) && !from.pings(to6), "{} pings {to}", from.name());
    }
    assert_eq!(seen(&world.blue.client, socket("10.9.1.2", 80)), "10.9.1.3");
    assert_eq!(seen(&world.host, socket("10.9.2.2", 80)), "10.9.2.1");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_published_port_is_reached_from_everywhere_but_past_the_host() {
    let mut world = World::new();
    let _mirrors = [80, 81].map(|port| Mirror::start(&world.blue.web, port));
    world.publish(&["8080:80", "8080:80/udp", "9000-9001:80-81", "192.0.2.1:443:80"]);
    let World { host, outside, blue, red, .. } = &world;

    // From outside, by both families and protocols; the container sees who it is.
    for (at, from) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        assert_eq!(seen(outside, socket(at, 8080)), from);
        assert_eq!(seen(outside, socket(at, 9001)), from);
        assert_eq!(seen_udp(outside, socket(at, 8080)), from);
    }
    assert_eq!(seen(outside, socket("192.0.2.1", 443)), "192.0.2.2");
    unreachable(outside, socket("2001:db8::1", 443));
    unreachable(outside, socket("192.0.2.1", 9002));

    // By the host itself, at each of its addresses.
    assert_eq!(seen(host, socket("192.0.2.1", 8080)), "192.0.2.1");
    assert_eq!(seen(host, socket("2001:db8::1", 8080)), "2001:db8::1");
    assert_eq!(seen(host, socket("127.0.0.1", 8080)), "10.9.1.1");
    assert_eq!(seen_udp(host, socket("127.0.0.1", 8080)), "10.9.1.1");
    assert_eq!(seen(host, socket("::1", 8080)), "fd00:9:1::1");
    assert_eq!(seen_udp(host, socket("::1", 8080)), "fd00:9:1::1");
    unreachable(host, socket("127.0.0.1", 443));

    // Hairpin: by the container itself, its neighbour, and another network, who cannot be told apart from the host.
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
#[ignore = "needs root: make test runs it"]
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

    // What the container says at length arrives, and each end of a connection by itself.
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

    // No longer published, its connections end, and the port is free at once, whoever closed first.
    world.set(std::slice::from_ref(&blue));
    assert_eq!(client.read(&mut heard).unwrap_or(0), 0);
    drop((client, far));
    unreachable(&world.outside, socket("2001:db8::1", 7000));
    world.set(&[]);
    world.set(&[blue]);
    assert_eq!(seen(&world.outside, socket("2001:db8::1", 8080)), "10.9.1.1");
}

#[test]
#[ignore = "needs root: make test runs it"]
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
    // Who is on the same wire as the host sends to 127.0.0.1 all the same: neither what is published there nor what
    // the host serves itself is reached, by the uplink or by a container.
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
    // The wires work.
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 82)), "192.0.2.1");
}

#[test]
#[ignore = "needs root: make test runs it"]
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
    // Nothing of a refused list is kept, and protocols are apart.
    let published = world.reserve(&["7000:70", "8080:80/udp", "7100:80/sctp"], &here).unwrap();
    world.at_host(|gateway| gateway.release(&published));

    // A process that was first keeps its port; one that comes later is refused.
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

    // One of a range, or any: the same for both families, and never one that is taken.
    let range = world.reserve(&["9000-9002:80"], &here).unwrap();
    assert_eq!(range.iter().map(|one| one.at().port()).collect::<Vec<_>>(), [9001, 9001]);
    let any = world.reserve(&["80-81", "127.0.0.1::80/udp"], &here).unwrap();
    let ports: Vec<_> = any.iter().map(|one| one.at().port()).collect();
    assert!(ports[0] == ports[1] && ports[2] == ports[3] && ports[0] != ports[2], "{any:?}");
    assert!(ports.iter().all(|port| *port >= 1024) && any[4].protocol == Protocol::Udp, "{any:?}");
    assert!(
        world.reserve(&["9000-9001:80"], &here).unwrap_err().starts_with("cannot publish 9000-9001:80/tcp")
    );

    // What is no longer published is free, what was reserved is not.
    drop(taken);
    world.set(&[]);
    world.host.run(|| {
        assert!(TcpListener::bind("192.0.2.1:8080").is_ok());
        assert!(TcpListener::bind("192.0.2.1:9001").is_err());
    });
    // Two who want one port are told before anything is done.
    let [one, two] = ["10.9.1.2:80", "10.9.1.3:80"]
        .map(|to| Published::new(Protocol::Tcp, socket("0.0.0.0", 80), to.parse().unwrap()).unwrap());
    let both = [world.blue.outside(vec![one, two])];
    let error = world.at_host(|gateway| gateway.set(&both)).unwrap_err();
    assert_eq!(error.to_string(), "Bind for 0.0.0.0:80 failed: port is already allocated");
    assert_eq!(world.tables(), "");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_refused_change_leaves_all_as_it_was() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    world.publish(&["8080:80"]);
    let _taken = world.host.run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    let more = Published::new(Protocol::Tcp, socket("0.0.0.0", 9000), socket("10.9.1.2", 80)).unwrap();
    let wanted = [world.blue.outside(vec![more])];
    let before = nft(&world.host, &["list", "ruleset"]);
    let error = world.at_host(|gateway| gateway.set(&wanted)).unwrap_err();
    assert!(matches!(error, GatewayError::InUse { .. }), "{error}");
    assert_eq!(nft(&world.host, &["list", "ruleset"]), before);
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    world.host.run(|| assert!(TcpListener::bind("0.0.0.0:8080").is_err()));
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_crash_loses_nothing_and_leaves_nothing() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    let published = world.publish(&["8080:80", "8081:80"]);
    let listener = world.outside.listen("192.0.2.2");
    let mut stream = world.blue.client.connect(listener.local_addr().unwrap());
    let (mut far, _) = listener.accept().unwrap();

    // What a crash leaves: the table, but no sockets. Then somebody takes a port, and the state changes.
    world.gateway = Gateway::new();
    assert!(world.tables().contains("vswitch"));
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    let taken = world.host.run(|| TcpListener::bind("0.0.0.0:8081").unwrap());
    let wanted = [world.blue.outside(published.clone())];
    let refused = world.at_host(|gateway| gateway.restore(&wanted)).unwrap();
    let left_out: Vec<_> = refused.iter().map(|(published, _)| published.at()).collect();
    assert_eq!(left_out, [socket("0.0.0.0", 8081)], "{refused:?}");

    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    assert_eq!(seen(&world.outside, socket("2001:db8::1", 8081)), "2001:db8::2");
    unreachable(&world.outside, socket("192.0.2.1", 8082));
    // Live connections go on.
    stream.write_all(b"still").unwrap();
    let mut heard = [0; 5];
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");

    // The port is free again: asked again, it is published.
    drop(taken);
    world.set(&wanted);
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8081)), "192.0.2.2");
    world.set(&[]);
    assert_eq!(world.tables(), "");
    unreachable(&world.outside, socket("192.0.2.1", 8080));
}

#[test]
#[ignore = "needs root: make test runs it"]
fn tables_of_others_stay_and_a_lost_table_comes_back() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.outside, 80);
    nft(
        &world.host,
        &["add table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; }; }"],
    );
    nft(
        &world.host,
        &["add table inet mine { chain input { type filter hook input priority 0; tcp dport 7 drop; }; }"],
    );
    let others = nft(&world.host, &["list", "ruleset"]);
    let wanted = [world.blue.outside(Vec::new())];
    world.set(&wanted);
    let with_ours = nft(&world.host, &["list", "ruleset"]);
    assert!(with_ours.starts_with(&others) && with_ours.contains("table inet vswitch"), "{with_ours}");
    world.set(&wanted);
    assert_eq!(nft(&world.host, &["list", "ruleset"]), with_ours);

    nft(&world.host, &["delete table inet vswitch"]);
    world.at_host(|gateway| gateway.renew(&wanted)).unwrap();
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "192.0.2.1");

    world.set(&[]);
    world.set(&[]);
    assert_eq!(nft(&world.host, &["list", "ruleset"]), others);
}

/// The table follows changes by its elements, and must be what it would be if it were made anew.
#[test]
#[ignore = "needs root: make test runs it"]
fn many_changes_come_to_the_same_as_one() {
    let mut world = World::new();
    let at =
        |at: &str, to: &str| Published::new(Protocol::Tcp, at.parse().unwrap(), to.parse().unwrap()).unwrap();
    let web = at("0.0.0.0:8080", "10.9.1.2:80");
    let moved = at("0.0.0.0:8080", "10.9.1.3:80");
    let more = [at("[::]:8080", "[fd00:9:1::2]:80"), at("192.0.2.1:443", "10.9.1.2:443"), web];
    // Side by side with blue, and around it.
    let nets = |ifname: &str, subnet: &str, masquerade: bool| Outside {
        ifname: ifname.into(),
        subnets: vec![subnet.parse().unwrap()],
        masquerade,
        published: Vec::new(),
    };
    let beside = nets("gw-beside", "10.9.0.0/24", true);
    let around = nets("gw-around", "10.9.0.0/16", false);
    let (blue, red) = (&world.blue, &world.red);
    let steps = [
        vec![blue.outside(vec![])],
        vec![blue.outside(vec![web]), beside.clone()],
        vec![beside.clone(), blue.outside(vec![moved])],
        vec![blue.outside(more.to_vec()), red.outside(vec![]), beside.clone()],
        vec![blue.outside(more[..2].to_vec()), red.routed(), around.clone()],
        vec![red.outside(vec![]), around],
        vec![red.outside(vec![]), beside],
    ];
    let table = |host: &Netns| {
        let listed = nft(host, &["-a", "list", "table", "inet", "vswitch"]);
        let (handle, text) = listed.split_once('\n').map(|(first, rest)| (first.to_owned(), rest)).unwrap();
        // In whichever order elements are listed, and without the numbers of rules.
        let words = text.split_whitespace().map(|word| word.trim_end_matches(','));
        let mut words: Vec<_> =
            words.filter(|word| word.parse::<u32>().is_err()).map(str::to_owned).collect();
        words.sort();
        (handle, words)
    };
    let mut handle = None;
    for (step, outsides) in steps.iter().enumerate() {
        world.set(outsides);
        let (now, followed) = table(&world.host);
        assert_eq!(*handle.get_or_insert_with(|| now.clone()), now, "{step}: the table is the same one");
        world.set(&steps[step.saturating_sub(1)]);
        world.set(outsides);
        assert_eq!(table(&world.host), (now, followed.clone()), "{step}: there and back");
        world.gateway = Gateway::new();
        assert!(world.at_host(|gateway| gateway.restore(outsides)).unwrap().is_empty());
        let (now, anew) = table(&world.host);
        assert_eq!(followed, anew, "{step}");
        handle = Some(now);
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn the_chain_that_programs_share_lets_pass_what_is_ours() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.outside, 80);
    // As Docker makes it, with a rule of an operator's.
    let policy = |policy: &str| {
        format!("add chain ip filter FORWARD {{ type filter hook forward priority 0; policy {policy}; }}")
    };
    nft(&world.host, &["add table ip filter"]);
    nft(&world.host, &[&policy("drop")]);
    nft(&world.host, &["add rule ip filter FORWARD ip daddr 192.0.2.99 drop"]);
    let others = nft(&world.host, &["list", "ruleset"]);
    let wanted = [world.blue.outside(Vec::new())];
    world.set(&wanted);
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "192.0.2.1");
    // What is not ours meets the policy: blue's neighbour has no gateway yet.
    unreachable(&world.red.client, socket("192.0.2.2", 80));
    world.set(&[world.blue.outside(Vec::new()), world.red.outside(Vec::new())]);
    assert_eq!(seen(&world.red.client, socket("192.0.2.2", 80)), "192.0.2.1");
    // The operator's rule comes first.
    world.outside.ip("addr add 192.0.2.99/24 dev wan");
    unreachable(&world.blue.client, socket("192.0.2.99", 80));

    // Others flush, and change their minds: it is looked at now and then.
    world.set(&wanted);
    nft(&world.host, &["flush chain ip filter FORWARD"]);
    nft(&world.host, &["delete table inet vswitch"]);
    assert!(!world.at_host(|gateway| gateway.check(&wanted)).unwrap());
    world.at_host(|gateway| gateway.restore(&wanted)).unwrap();
    assert!(world.at_host(|gateway| gateway.check(&wanted)).unwrap());
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "192.0.2.1");
    nft(&world.host, &[&policy("accept")]);
    assert!(world.at_host(|gateway| gateway.check(&wanted)).unwrap());
    assert!(!nft(&world.host, &["list", "chain", "ip", "filter", "FORWARD"]).contains("vswitch"));

    nft(&world.host, &[&policy("drop")]);
    assert!(world.at_host(|gateway| gateway.check(&wanted)).unwrap());
    world.set(&[]);
    nft(&world.host, &["add rule ip filter FORWARD ip daddr 192.0.2.99 drop"]);
    assert_eq!(nft(&world.host, &["list", "ruleset"]), others);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_port_that_an_engine_holds_is_published_and_not_held() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    let mut published = world.reserve(&["8080:80"], &[world.blue.ip(2)]).unwrap();
    published.iter_mut().for_each(|it| it.held = false);
    let wanted = [world.blue.outside(published.clone())];
    world.set(&wanted);
    // Programs that are started meanwhile have our sockets for a moment.
    let engine =
        eventually("the port is not held", || world.host.run(|| TcpListener::bind("0.0.0.0:8080").ok()));
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    // No other published port may have it, and a restart has nothing against the engine's.
    assert!(world.reserve(&["8080:81"], &[world.blue.ip(2)]).unwrap_err().contains("already allocated"));
    world.gateway = Gateway::new();
    assert!(world.at_host(|gateway| gateway.restore(&wanted)).unwrap().is_empty());
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    // Who has it before is in the way.
    world.set(&[]);
    let refusal = world.reserve(&["8080:80"], &[world.blue.ip(2)]).unwrap_err();
    assert!(refusal.contains("address already in use"), "{refusal}");
    drop(engine);
}

#[test]
#[ignore = "needs root: make test runs it"]
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
        // The uplink still believes its router, the gateway believes no container.
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

#[test]
#[ignore = "needs root: make test runs it"]
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
