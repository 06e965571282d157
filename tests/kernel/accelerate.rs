//! The fast path: what the kernel forwards, what it leaves to the switch, and that nothing else tells the difference.

mod gateway;

use std::{
    collections::HashSet,
    fs,
    net::UdpSocket,
    os::fd::AsRawFd,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;
use vswitch_tests::{
    Config, Netns, PATIENCE, Vswitchd, eventually, net,
    raw::{frame, set_option},
    tcp::{self, Flow},
    udp::{self, Echo},
};

/// A port whose station is on record, as every container's is.
const GUARD: &str = "mac = \"02:00:00:00:00:0a\"\nguard = true";

const PINS: &str = "/sys/fs/bpf";

/// Mounts the BPF file system, where this machine has it not mounted.
fn with_pins() {
    if fs::metadata(format!("{PINS}/progs.debug")).is_err() {
        let mount = Command::new("mount").args(["-t", "bpf", "bpf", PINS]).status();
        assert!(mount.unwrap().success(), "the BPF file system cannot be mounted");
    }
}

/// The files that a daemon has pinned.
fn pinned(daemon: &Vswitchd) -> Vec<PathBuf> {
    let versions = fs::read_dir(daemon.pins()).into_iter().flatten().flatten();
    versions.flat_map(|it| fs::read_dir(it.path()).unwrap().flatten().map(|it| it.path())).collect()
}

/// Containers on veth ports, with addresses in 10.9.0.0/24 and fd09::/64; `keys` are those of each port.
fn switch<const N: usize>(names: [&str; N], keys: impl Fn(&str) -> &'static str) -> (Vswitchd, [Netns; N]) {
    let containers = names.map(Netns::new);
    (Vswitchd::start(&config(&names, &containers, keys)), containers)
}

/// A switch whose ports the kernel may forward for.
fn fast() -> Config {
    net().switch("accelerate = \"auto\"")
}

fn config<const N: usize>(
    names: &[&str; N],
    containers: &[Netns; N],
    keys: impl Fn(&str) -> &'static str,
) -> Config {
    on(fast(), names, containers, keys)
}

/// Containers on veth ports of `switch`.
fn on<const N: usize>(
    switch: Config,
    names: &[&str; N],
    containers: &[Netns; N],
    keys: impl Fn(&str) -> &'static str,
) -> Config {
    let mut config = switch.network("blue");
    for (number, (name, container)) in (2..).zip(names.iter().zip(containers)) {
        config = config.veth(name, container).address(&format!("10.9.0.{number}/24 fd09::{number}/64"));
        config = config.keys(keys(name));
    }
    config
}

/// Whether the kernel forwards for a port, or why not.
fn way(daemon: &Vswitchd, port: &str) -> Result<(), String> {
    let it = &daemon.port(port)["acceleration"];
    if it["on"] == true { Ok(()) } else { Err(it["reason"].as_str().unwrap_or("no reason").to_owned()) }
}

/// Frames from a port and to it that the kernel forwarded.
fn forwarded(daemon: &Vswitchd, port: &str) -> [u64; 2] {
    let it = &daemon.port(port)["acceleration"];
    ["rx_frames", "tx_frames"].map(|key| it[key].as_u64().unwrap())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// Every frame of a port has one fate.
fn check_books(daemon: &Vswitchd, port: &str) {
    let port = daemon.port(port);
    let drops = |way: &str| -> u64 {
        let drops = port["drops"].as_array().unwrap().iter();
        drops.filter(|drop| drop["direction"] == way).map(|drop| number(&drop["frames"])).sum()
    };
    let (rx, tx, fates) = (&port["rx"], &port["tx"], &port["fates"]);
    assert_eq!(
        number(&rx["frames"]),
        number(&fates["unicast"]) + number(&fates["flooded"]) + drops("rx"),
        "{port}"
    );
    assert_eq!(number(&fates["offered"]), number(&tx["frames"]) + drops("tx"), "{port}");
}

/// Waits until pings pass without the switch.
fn is_fast(daemon: &Vswitchd, from: &Netns, port: &str, to: &str) {
    eventually(&format!("the kernel forwards from {port} to {to}"), || {
        let before = forwarded(daemon, port);
        from.pings(to).then_some(())?;
        (forwarded(daemon, port) > before).then_some(())
    });
}

/// A ping passes, and the kernel has no part in it.
fn is_slow(daemon: &Vswitchd, from: &Netns, port: &str, to: &str) {
    from.reaches(to);
    let before = forwarded(daemon, port);
    assert!(from.pings(to));
    assert_eq!(forwarded(daemon, port), before, "from {port} to {to}");
}

#[test]
fn known_stations_pass_by_the_kernel_and_every_byte_and_number_is_right() {
    let (daemon, [a, b]) = switch(["a", "b"], |name| if name == "a" { GUARD } else { "" });
    for address in ["10.9.0.3", "fd09::3"] {
        is_fast(&daemon, &a, "a", address);
        tcp::exchange(&a, &b, address, 20_000_000, 200_000);
        tcp::exchange(&b, &a, &address.replace('3', "2"), 1_000_000, 77);
        // Fragments, and datagrams that the sender's kernel leaves to be cut.
        let (echo, client) = (Echo::start(&b, address), a.udp(&address.replace('3', "2")));
        for len in [1, 1400, 8000, 60_000] {
            assert!(echo.round_trip(&client, len, PATIENCE).is_some(), "{len} bytes to {address}");
        }
        let (server, client) = (b.udp(address), a.udp(&address.replace('3', "2")));
        udp::segment(&client, 1000);
        client.send_to(&[7; 30_000], server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 2000];
        (0..30).for_each(|_| assert_eq!(server.recv(&mut buffer).unwrap(), 1000));
    }
    let checksums = b.run(|| fs::read_to_string("/proc/self/net/snmp").unwrap());
    let tcp: Vec<_> = checksums.lines().filter(|line| line.starts_with("Tcp:")).collect();
    let [names, values] = [0, 1].map(|line| tcp[line].split(' ').collect::<Vec<_>>());
    let place = names.iter().position(|name| *name == "InCsumErrors").unwrap();
    assert_eq!(values[place], "0");

    for port in ["a", "b"] {
        check_books(&daemon, port);
        let [rx, tx] = forwarded(&daemon, port);
        let shown = daemon.port(port);
        assert!(rx > 100 && tx > 100, "{shown}");
        assert!(number(&shown["rx"]["frames"]) >= rx && number(&shown["tx"]["frames"]) >= tx, "{shown}");
        assert!(number(&shown["rx"]["super_frames"]) > 100, "super-frames pass whole: {shown}");
    }
    let stats = daemon.ctl(&["stats"]);
    let [received, sent] = ["rx", "tx"].map(|way| {
        let ports = stats["ports"].as_array().unwrap().iter();
        ports.map(|port| number(&port[way]["frames"])).sum::<u64>()
    });
    assert_eq!(received, number(&stats["networks"][0]["frames"]), "{stats}");
    assert_eq!(received, sent, "two ports, and nothing is lost: {stats}");
    let status = daemon.ctl(&["status"]);
    assert_eq!(status["acceleration"]["on"], true, "{status}");
}

#[test]
fn what_the_kernel_cannot_keep_passes_the_switch_and_says_so() {
    let table = [
        ("", "", ""),
        ("accelerate = \"off\"", "switched off", ""),
        ("limit = { rx = \"1 Gbit/s\" }", "rate limit", ""),
        ("limit = { tx = \"1 Gbit/s\" }", "rate limit", ""),
        ("offload = false", "offload = false", ""),
        ("learning = false", "learning = false", ""),
        (
            "mac = \"02:00:00:00:00:0a\"\nguard = { also = [\"10.1.0.1\", \"10.2.0.1\", \"10.3.0.1\", \"10.4.0.1\"] }",
            "subnets and addresses",
            "",
        ),
        ("storm = { broadcast = 10, unknown = 10 }", "", "floods pass the switch anyway"),
        ("hairpin = true", "", ""),
        ("mac_limit = 3", "", ""),
        ("mtu = 1400", "", ""),
    ];
    for (keys, reason, _) in table {
        let (daemon, [a, b]) = switch(["a", "b"], |name| if name == "a" { keys } else { "" });
        match reason {
            "" => {
                assert_eq!(way(&daemon, "a"), Ok(()), "{keys}");
                is_fast(&daemon, &a, "a", "10.9.0.3");
            }
            reason => {
                let why = way(&daemon, "a").unwrap_err();
                assert!(why.contains(reason), "{keys}: {why}");
                is_slow(&daemon, &a, "a", "10.9.0.3");
                is_slow(&daemon, &b, "b", "10.9.0.2");
            }
        }
        check_books(&daemon, "a");
    }
}

#[test]
fn other_ports_and_frames_stay_with_the_switch() {
    let containers = ["a", "b", "tap"].map(Netns::new);
    let [a, b, tap] = &containers;
    let config = fast().network("blue").veth("a", a).address("10.9.0.2/24").keys("isolated = true");
    let config = config.veth("b", b).address("10.9.0.3/24").keys("isolated = true");
    let daemon = Vswitchd::start(&config.tap("tap", tap).address("10.9.0.4/24"));
    is_slow(&daemon, a, "a", "10.9.0.4");
    is_slow(&daemon, tap, "a", "10.9.0.2");
    let why = way(&daemon, "tap").unwrap_err();
    assert!(why.contains("kind veth"), "{why}");
    // Two isolated ports that know each other's address.
    let mac = |netns: &Netns| netns.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    b.reaches("10.9.0.4");
    a.ip(&format!("neigh replace 10.9.0.3 lladdr {} dev eth0", mac(b)));
    assert!(!a.pings("10.9.0.3"));
    eventually("the drop has a name", || (daemon.dropped("a", "PORT_ISOLATED") > 0).then_some(()));
    assert_eq!(forwarded(&daemon, "a"), [0, 0]);
}

#[test]
fn a_guard_is_kept_by_the_kernel_or_asked() {
    let (daemon, [a, b]) = switch(["a", "b"], |name| if name == "a" { GUARD } else { "" });
    is_fast(&daemon, &a, "a", "10.9.0.3");
    let (from, to) = (a.mac("eth0"), b.mac("eth0"));
    let (raw, seen) = (a.raw("eth0"), b.raw("eth0"));
    let packet = |last: u8, mark: u8| {
        let ip = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, last, 10, 9, 0, 3];
        [&ip[..], &[mark; 20]].concat()
    };
    let before = forwarded(&daemon, "a");
    // Another's IP address, another's MAC address; then its own.
    raw.send(&frame(to, from, 0x0800, &packet(77, 1)));
    raw.send(&frame(to, [2, 0, 0, 0, 0, 0x77], 0x0800, &packet(2, 2)));
    raw.send(&frame(to, from, 0x0800, &packet(2, 3)));
    let came = seen.until(PATIENCE, &[3; 20]);
    assert!(!came.iter().any(|frame| frame.ends_with(&[1; 20]) || frame.ends_with(&[2; 20])), "{came:?}");
    eventually("the drops have names", || {
        (daemon.dropped("a", "GUARD_IP") == 1 && daemon.dropped("a", "GUARD_MAC") == 1).then_some(())
    });
    // The switch is done with the others first.
    eventually("its own passes by the kernel", || {
        raw.send(&frame(to, from, 0x0800, &packet(2, 4)));
        (forwarded(&daemon, "a")[0] > before[0]).then_some(())
    });
}

#[test]
fn a_capture_sees_every_frame_while_it_runs() {
    let (daemon, [a, _b]) = switch(["a", "b"], |_| "");
    is_fast(&daemon, &a, "a", "10.9.0.3");
    let file = daemon.folder().join("out.pcapng");
    let path = file.to_str().unwrap();
    let arguments = ["capture", "--port", "a", "--write", path, "--count", "10", "--filter", "icmp"];
    thread::scope(|scope| {
        let capture = scope.spawn(|| daemon.try_ctl(&arguments));
        eventually("the port is captured", || {
            way(&daemon, "a").err().filter(|why| why.contains("a capture records its frames"))
        });
        let before = forwarded(&daemon, "a");
        (0..5).for_each(|_| assert!(a.pings("10.9.0.3")));
        let output = capture.join().unwrap();
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(forwarded(&daemon, "a"), before);
    });
    eventually("it is over", || way(&daemon, "a").ok());
    is_fast(&daemon, &a, "a", "10.9.0.3");
}

#[test]
fn a_mirror_gets_every_frame() {
    let (containers, ids) = (["a", "b"].map(Netns::new), Netns::new("ids"));
    let config = config(&["a", "b"], &containers, |_| "").mirror("ids", &ids, "{ ports = [\"a\"] }");
    let daemon = Vswitchd::start(&config);
    let why = way(&daemon, "a").unwrap_err();
    assert!(why.contains("a mirror copies its frames"), "{why}");
    assert_eq!(way(&daemon, "b"), Ok(()));
    is_slow(&daemon, &containers[0], "a", "10.9.0.3");
}

#[test]
fn stations_move_expire_and_are_flushed() {
    let containers = ["a", "b", "c"].map(Netns::new);
    let config = config(&["a", "b", "c"], &containers, |_| "").switch("ageing = 3");
    let daemon = Vswitchd::start(&config);
    let [a, b, c] = &containers;
    is_fast(&daemon, a, "a", "10.9.0.3");
    let mac = a.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    let known = |mac: &str| {
        let entries = daemon.ctl(&["fdb", "ls"]);
        entries
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["mac"] == mac)
            .map(|it| it["port"].as_str().unwrap().to_owned())
    };
    // Longer than the ageing time only the kernel hears it.
    let (echo, client) = (Echo::start(b, "10.9.0.3"), a.udp("10.9.0.2"));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        assert!(echo.round_trip(&client, 100, PATIENCE).is_some());
        assert_eq!(known(&mac).as_deref(), Some("a"), "after {:?}", start.elapsed());
    }
    // Flushed: at once, for the kernel too.
    daemon.ctl(&["fdb", "flush", "--port", "a"]);
    assert_eq!(known(&mac), None);
    is_fast(&daemon, a, "a", "10.9.0.3");
    // It moves to another port, and the frames after it.
    a.ip("link set eth0 down");
    c.ip("link set eth0 down");
    c.ip(&format!("link set eth0 address {mac}"));
    c.ip("addr flush dev eth0");
    c.ip("addr add 10.9.0.2/24 dev eth0");
    c.ip("link set eth0 up");
    is_fast(&daemon, c, "c", "10.9.0.3");
    assert_eq!(known(&mac).as_deref(), Some("c"));
    assert!(b.pings("10.9.0.2"));
    // Silent: gone after the ageing time.
    c.ip("link set eth0 down");
    eventually("it expires", || known(&mac).is_none().then_some(()));
}

#[test]
fn an_interface_that_is_down_is_left_to_the_switch() {
    let (daemon, [a, b]) = switch(["a", "b"], |_| "");
    is_fast(&daemon, &a, "a", "10.9.0.3");
    b.ip("link set eth0 down");
    eventually("the port is slow", || {
        way(&daemon, "b").err().filter(|why| why.contains("down in the container"))
    });
    b.ip("link set eth0 up");
    eventually("the port is fast", || way(&daemon, "b").ok());
    b.ip("addr replace 10.9.0.3/24 dev eth0");
    is_fast(&daemon, &a, "a", "10.9.0.3");
}

/// Frames to what stands behind a container's interface are not for the interface itself.
#[test]
fn a_bridge_in_a_container_gets_frames_as_they_are_addressed() {
    let containers = ["a", "b"].map(Netns::new);
    let [a, b] = &containers;
    let config = fast().network("blue").veth("a", a).address("10.9.0.2/24").veth("b", b);
    let daemon = Vswitchd::start(&config);
    let inner = Netns::new("inner");
    b.ip("link add br0 type bridge");
    b.ip("link set eth0 master br0");
    b.ip(&format!("link add in0 type veth peer name eth0 netns {}", inner.name()));
    b.ip("link set in0 master br0");
    for link in ["eth0", "in0", "br0"] {
        b.ip(&format!("link set {link} up"));
    }
    inner.ip("addr add 10.9.0.9/24 dev eth0");
    inner.ip("link set eth0 up");
    is_fast(&daemon, a, "a", "10.9.0.9");
    tcp::exchange(a, &inner, "10.9.0.9", 5_000_000, 100_000);
}

/// Numbered datagrams from one container to another, until it is stopped.
struct Numbered {
    over: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Order>,
}

/// How numbered datagrams came.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    came: u64,
    twice: u64,
    /// After one with a greater number.
    late: u64,
}

impl Numbered {
    /// Starts them, in bursts, as queues build up, and with pauses, in which they drain.
    fn start(from: &Netns, to: &Netns, burst: usize) -> Self {
        let (server, client) = (to.udp("10.9.0.3"), from.udp("10.9.0.2"));
        set_option(server.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(64 << 20)).unwrap();
        let (over, address) = (Arc::new(AtomicBool::new(false)), server.local_addr().unwrap());
        let told = Arc::clone(&over);
        let sender = thread::spawn(move || {
            let mut number = 0_u64;
            while !told.load(Relaxed) {
                for _ in 0..burst {
                    client.send_to(&number.to_be_bytes(), address).unwrap();
                    number += 1;
                }
                thread::sleep(Duration::from_micros(300));
            }
            client.send_to(&u64::MAX.to_be_bytes(), address).unwrap();
            number
        });
        Self { over, sender, receiver: thread::spawn(move || order(&server)) }
    }

    /// Ends them; returns how many there were.
    ///
    /// # Panics
    /// They did not all come once and in order.
    fn stop(self) -> u64 {
        self.over.store(true, Relaxed);
        let sent = self.sender.join().unwrap();
        let order = self.receiver.join().unwrap();
        assert_eq!(order, Order { came: sent, ..Order::default() }, "of {sent}");
        sent
    }
}

fn order(server: &UdpSocket) -> Order {
    let (mut seen, mut order, mut next) = (HashSet::new(), Order::default(), 0);
    let mut buffer = [0; 8];
    loop {
        assert_eq!(server.recv(&mut buffer).unwrap(), 8);
        let number = u64::from_be_bytes(buffer);
        if number == u64::MAX {
            return order;
        }
        if seen.insert(number) {
            order.came += 1;
        } else {
            order.twice += 1;
        }
        order.late += u64::from(number < next);
        next = next.max(number + 1);
    }
}

#[test]
fn nothing_is_lost_doubled_or_overtaken_when_the_way_changes() {
    let (daemon, [a, b]) = switch(["a", "b"], |_| "");
    is_fast(&daemon, &a, "a", "10.9.0.3");
    let before = forwarded(&daemon, "a");
    // More than a debug build of the switch carries: its queue is not empty by itself when the way changes back.
    let numbered = Numbered::start(&a, &b, 50);
    for round in 0..50 {
        // Slow because a capture runs, or because it is forgotten who is where.
        if round % 2 == 0 {
            daemon.ctl(&["fdb", "flush", "--port", "a"]);
        } else {
            let arguments =
                ["capture", "--port", "a", "--count", "100", "--write", "/dev/null", "--filter", "udp"];
            let output = daemon.try_ctl(&arguments);
            assert_eq!(output.code, 0, "{}", output.stderr);
        }
        let then = forwarded(&daemon, "a");
        eventually("the kernel forwards again", || (forwarded(&daemon, "a") > then).then_some(()));
    }
    let sent = numbered.stop();
    let fast = forwarded(&daemon, "a")[0] - before[0];
    assert!(fast > sent / 20 && fast < sent, "{fast} of {sent} by the kernel: the test says little");
    check_books(&daemon, "a");
}

/// A daemon that dies stops nothing between ports that know each other, and the next one takes over without a gap.
#[test]
fn a_daemon_that_dies_stops_nothing() {
    with_pins();
    let (mut daemon, [a, b]) = switch(["a", "b"], |_| "");
    is_fast(&daemon, &a, "a", "10.9.0.3");
    assert!(!pinned(&daemon).is_empty());
    let flow = Flow::start(&a, &b, "10.9.0.3");
    flow.flows(1 << 20);
    let numbered = Numbered::start(&a, &b, 1);
    for _ in 0..3 {
        daemon.kill();
        flow.flows(1 << 20);
        assert!(a.pings("10.9.0.3"));
        daemon.run();
        flow.flows(1 << 20);
        is_fast(&daemon, &a, "a", "10.9.0.3");
    }
    assert!(numbered.stop() > 1000);
    flow.stop();
    check_books(&daemon, "a");
    daemon.stop();
    assert_eq!(pinned(&daemon), Vec::<PathBuf>::new(), "an orderly stop leaves nothing pinned");
}

/// What a daemon that died has left does not forward beside one that is not to use it.
#[test]
fn switched_off_after_a_crash_nothing_comes_twice() {
    with_pins();
    let containers = ["a", "b"].map(Netns::new);
    let mut daemon = Vswitchd::start(&config(&["a", "b"], &containers, |_| ""));
    let [a, b] = &containers;
    is_fast(&daemon, a, "a", "10.9.0.3");
    daemon.kill();
    assert!(!pinned(&daemon).is_empty());
    daemon.configure(&on(net(), &["a", "b"], &containers, |_| ""));
    daemon.run();
    assert_eq!(pinned(&daemon), Vec::<PathBuf>::new());
    let why = way(&daemon, "a").unwrap_err();
    assert!(why.contains("switched off"), "{why}");
    a.reaches("10.9.0.3");
    Numbered::start(a, b, 10).stop();
}

#[test]
fn stations_expire_while_no_daemon_runs() {
    with_pins();
    let containers = ["a", "b"].map(Netns::new);
    let mut daemon = Vswitchd::start(&config(&["a", "b"], &containers, |_| "").switch("ageing = 3"));
    let [a, b] = &containers;
    is_fast(&daemon, a, "a", "10.9.0.3");
    daemon.kill();
    assert!(a.pings("10.9.0.3"));
    // Silent for longer than the ageing time. There is no condition to wait for: nothing happens.
    b.ip("link set eth0 arp off");
    thread::sleep(Duration::from_secs(4));
    b.ip("link set eth0 arp on");
    let [to, from] = [b.mac("eth0"), a.mac("eth0")];
    let seen = b.raw("eth0");
    a.raw("eth0").send(&frame(to, from, 0x88b5, &[9; 60]));
    assert!(
        seen.find(Duration::from_secs(1), |it| it.ends_with(&[9; 60])).is_none(),
        "an expired station is not used"
    );
    daemon.run();
    is_fast(&daemon, a, "a", "10.9.0.3");
    daemon.stop();
}
