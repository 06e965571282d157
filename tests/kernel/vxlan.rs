//! Tunnels to other implementations: the kernel's VXLAN device and Open vSwitch, and the packets on the link.

use std::{
    fs::{self, File},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use vswitch_tests::{Netns, Vswitchd, eventually, net, pattern::Pattern, tcp, udp::Echo, underlay::Underlay};

/// Our host and another, each with a container in the same network.
///
/// ```text
/// near 10.9.0.1 - vswitchd - 10.8.0.1 ===== 10.8.0.2 - another tunnel and bridge - far 10.9.0.2
/// ```
struct Link {
    daemon: Vswitchd,
    other: Netns,
    near: Netns,
    far: Netns,
    underlay: Underlay,
}

impl Link {
    /// `vxlan` are keys of `[vxlan]` and further tables. The other host has the link as `eth0`, without an address.
    fn start(underlay: Underlay, vxlan: &str) -> Self {
        Self::with(underlay, vxlan, "")
    }

    /// The same with these keys of the network.
    fn with(underlay: Underlay, vxlan: &str, network: &str) -> Self {
        let [host, other, near, far] = ["ours", "other", "near", "far"].map(Netns::new);
        host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", other.name()));
        underlay.up(&host, "eth0", 1);
        other.ip("link set eth0 up");
        // The container's end, and the end for a bridge.
        far.ip(&format!("link add eth0 type veth peer name far0 netns {}", other.name()));
        other.ip("link set far0 up");
        far.ip(&format!("link set eth0 mtu {}", underlay.overlay_mtu()));
        far.ip("addr add 10.9.0.2/24 dev eth0");
        far.ip("addr add fd09::2/64 dev eth0 nodad");
        far.ip("link set eth0 up");
        let config = net().vxlan(&underlay.address(1)).keys(vxlan);
        let config = config.network("blue").keys("vni = 4096").keys(network).tap("near", &near);
        let daemon = Vswitchd::start_in(host, &config.address("10.9.0.1/24 fd09::1/64"));
        Self { daemon, other, near, far, underlay }
    }

    /// Like [`start`](Self::start), with the other host as our peer.
    fn to_peer(underlay: Underlay, vxlan: &str) -> Self {
        Self::start(
            underlay,
            &format!("{vxlan}\n[[vxlan.peer]]\nname = \"other\"\naddress = \"{}\"", underlay.address(2)),
        )
    }

    /// Like [`with`](Self::with), with the kernel's VXLAN device of the other host as our peer.
    fn to_kernel(underlay: Underlay, vxlan: &str, network: &str) -> Self {
        let peer =
            format!("{vxlan}\n[[vxlan.peer]]\nname = \"other\"\naddress = \"{}\"", underlay.address(2));
        let link = Self::with(underlay, &peer, network);
        link.kernel(&format!("remote {}", underlay.address(1)), 4789);
        link.near.reaches("10.9.0.2");
        link
    }

    /// Creates the kernel's VXLAN device on the other host, bridged with its container. `to` is its remote address or
    /// group.
    fn kernel(&self, to: &str, port: u16) {
        self.underlay.up(&self.other, "eth0", 2);
        let local = self.underlay.address(2);
        let device = format!("link add vx0 type vxlan id 4096 local {local} {to} dstport {port} dev eth0");
        for command in [&device, "link add br0 type bridge mcast_snooping 0", "link set br0 up"] {
            self.other.ip(command);
        }
        for device in ["vx0", "far0"] {
            self.other.ip(&format!("link set {device} master br0 up"));
        }
    }

    /// Streams over both families with large and small writes, datagrams, and the longest packets that fit.
    fn carries_everything(&self, bytes: u64) {
        let Self { near, far, underlay, .. } = self;
        near.reaches("10.9.0.2");
        near.reaches("fd09::2");
        for (near, far, number) in [(near, far, 2), (far, near, 1)] {
            tcp::exchange(near, far, &format!("10.9.0.{number}"), bytes, 64 << 10);
            tcp::exchange(near, far, &format!("fd09::{number}"), bytes, 64 << 10);
            tcp::exchange(near, far, &format!("10.9.0.{number}"), bytes / 40, 100);
            // With "don't fragment": the longest packet that fits passes.
            let longest = underlay.overlay_mtu();
            for (address, headers) in [(format!("10.9.0.{number}"), 28), (format!("fd09::{number}"), 48)] {
                for size in [0, 1, 1000, longest - headers - 1, longest - headers] {
                    assert!(pings_whole(near, &address, size), "{size} bytes to {address}");
                }
                assert!(!pings_whole(near, &address, longest - headers + 1), "too long for {address}");
            }
        }
        let echo = Echo::start(far, "10.9.0.2");
        let client = near.udp("10.9.0.1");
        for len in [0, 1, 17, 1422, 1423, 20_000] {
            // Fragmented; each fragment crosses the tunnel.
            eventually(&format!("an echo of {len} bytes"), || {
                echo.round_trip(&client, len, std::time::Duration::from_millis(500))
            });
        }
    }
}

/// Whether a ping of `size` bytes with "don't fragment" is answered.
fn pings_whole(netns: &Netns, address: &str, size: usize) -> bool {
    let size = size.to_string();
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-c", "1", "-W", "5", "-M", "do", "-s", &size, address]);
    netns.run(|| ping.output().unwrap().status.success())
}

fn run(netns: &Netns, program: &str, arguments: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments.split(' '));
    let output = netns.run(|| command.output().unwrap_or_else(|error| panic!("{program}: {error}")));
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_kernel_is_a_peer_over_ipv4() {
    let link = Link::to_peer(Underlay::V4, "");
    link.kernel("remote 10.8.0.1", 4789);
    link.carries_everything(4_000_000);
    assert_eq!(link.daemon.port("vxlan")["drops"].as_array().unwrap().len(), 0);
}

#[test]
fn the_kernel_is_a_peer_over_ipv6_at_its_own_port() {
    let link = Link::to_peer(Underlay::V6, "port = 8472\nstrict = true");
    link.kernel("remote fd08::1", 8472);
    link.carries_everything(4_000_000);
}

/// Both checksum policies, and MSS clamping.
#[test]
fn the_kernel_is_a_peer_without_checksums() {
    let link = Link::to_peer(Underlay::V4, "checksum = false\nclamp_mss = true\ndscp = \"inherit\"");
    link.kernel("remote 10.8.0.1 noudpcsum", 4789);
    link.carries_everything(1_000_000);
    let link = Link::to_peer(Underlay::V6, "checksum = false");
    link.kernel("remote fd08::1 udp6zerocsumtx udp6zerocsumrx", 4789);
    link.carries_everything(1_000_000);
}

#[test]
fn the_kernel_is_a_member_of_the_same_group() {
    let link = Link::start(Underlay::V4, "group = \"239.1.1.1\"\nlearn_peers = true");
    link.kernel("group 239.1.1.1", 4789);
    link.far.reaches("10.9.0.1");
    link.near.reaches("10.9.0.2");
    tcp::exchange(&link.near, &link.far, "10.9.0.2", 1_000_000, 64 << 10);
    let link = Link::start(Underlay::V6, "group = \"ff05::100\"\nlearn_peers = true");
    link.kernel("group ff05::100", 4789);
    link.far.reaches("fd09::1");
    link.near.reaches("fd09::2");
    tcp::exchange(&link.near, &link.far, "fd09::2", 1_000_000, 64 << 10);
}

/// A packet that exceeds the tunnel's MTU and may be fragmented leaves in fragments where the network says so. One that may not
/// is answered in either case.
#[test]
fn long_packets_cross_in_fragments_where_that_is_wanted() {
    for underlay in [Underlay::V4, Underlay::V6] {
        for fragment in [false, true] {
            let link = Link::to_kernel(underlay, "", &format!("mtu = 1500\nfragment = {fragment}"));
            link.far.ip("link set eth0 mtu 1500");
            let ping = |may: &str| {
                let mut ping = Command::new("ping");
                ping.args(["-n", "-q", "-c", "1", "-W", "2", "-M", may, "-s", "1472", "10.9.0.2"]);
                link.near.run(|| ping.output().unwrap().status.success())
            };
            assert_eq!(ping("dont"), fragment, "{underlay:?}");
            assert_eq!(link.daemon.dropped("other", "PKT_TOO_BIG") == 0, fragment);
            assert!(!ping("do"), "it is told instead");
            let route = link.near.ip("route get 10.9.0.2");
            assert!(route.contains(&format!(" mtu {}", underlay.overlay_mtu())), "{route}");
            // Others are not affected.
            tcp::exchange(&link.near, &link.far, "10.9.0.2", 1_000_000, 64 << 10);
        }
    }
}

/// Outer headers have the inner packet's time to live where that is inherited; frames that have none get the default.
#[test]
fn the_time_to_live_is_fixed_or_inherited() {
    for (ttl, expected) in [("9", 9), ("\"inherit\"", 17)] {
        for underlay in [Underlay::V4, Underlay::V6] {
            let link = Link::to_kernel(underlay, &format!("ttl = {ttl}"), "");
            let wire = link.other.raw("eth0");
            let mut ping = Command::new("ping");
            ping.args(["-n", "-q", "-c", "1", "-W", "5", "-t", "17", "10.9.0.2"]);
            assert!(link.near.run(|| ping.output().unwrap().status.success()));
            // The outer header's position of the field, and where the inner frame begins.
            let (field, inner) = if underlay == Underlay::V4 { (22, 50) } else { (21, 70) };
            let is_echo = |frame: &[u8]| {
                frame.get(inner + 12..inner + 14) == Some(&[8, 0]) && frame.get(inner + 23) == Some(&1)
            };
            let echo = wire.find(vswitch_tests::PATIENCE, is_echo).expect("the echo was on the link");
            assert_eq!((echo[field], echo[inner + 22]), (expected, 17), "{underlay:?}");
            let fixed = if expected == 17 { 64 } else { expected };
            link.near.ip("neighbour flush dev eth0");
            link.near.reaches("10.9.0.2");
            let is_arp = |frame: &[u8]| frame.get(inner + 12..inner + 14) == Some(&[8, 6]);
            let arp = wire.find(vswitch_tests::PATIENCE, is_arp).expect("the question was on the link");
            assert_eq!(arp[field], fixed, "{underlay:?}");
        }
    }
}

/// Packets on the link: none is malformed, all checksums are right, and the fields of ours are as intended.
#[test]
fn packets_on_the_wire_are_well_formed() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let link = Link::to_peer(underlay, "");
        link.kernel(&format!("remote {}", link.underlay.address(1)), 4789);
        // As on a wire: packets unmerged, with complete checksums.
        for host in [&link.daemon.host, &link.other] {
            run(host, "ethtool", "-K eth0 tx off tso off gso off gro off");
        }
        link.near.reaches("10.9.0.2");
        let file = link.daemon.folder().join("link.pcap");
        let capture = Capture::start(&link.daemon.host, &file);
        tcp::exchange(&link.near, &link.far, "10.9.0.2", 300_000, 64 << 10);
        tcp::exchange(&link.far, &link.near, "fd09::1", 300_000, 1000);
        assert!(link.near.pings("fd09::2") && link.far.pings("10.9.0.1"));
        capture.stop();

        let source = if underlay == Underlay::V4 { "ip.src" } else { "ipv6.src" };
        let ours = format!("vxlan && {source} == {}", underlay.address(1));
        // Neighbour discovery has a hop limit of its own, and the kernel's echo replies may be fragmented.
        let of_ours = |wrong: &str| format!("{ours} && tcp && ({wrong})");
        let filters = [
            "vxlan".to_owned(),
            ours.clone(),
            "_ws.malformed || _ws.short".to_owned(),
            "ip.checksum.status == 0 || udp.checksum.status == 0 || tcp.checksum.status == 0".to_owned(),
            "vxlan && (vxlan.vni != 4096 || vxlan.flag_i == 0 || vxlan.flags_reserved != 0 || udp.dstport != 4789)"
                .to_owned(),
            "vxlan && frame.len > 1514".to_owned(),
            of_ours("udp.srcport < 49152"),
            of_ours("ip.ttl != 64 || ipv6.hlim < 64"),
            of_ours("ip.flags.df == 0"),
        ];
        let counts = packets(&file, &filters);
        assert!(counts[0] > 400 && counts[1] > 200, "{underlay:?}: {counts:?}");
        for (filter, count) in filters.iter().zip(counts).skip(2) {
            assert_eq!(count, 0, "{filter}, {underlay:?}");
        }
    }
}

/// A running tcpdump that writes to a file.
struct Capture(Child);

impl Capture {
    fn start(host: &Netns, file: &Path) -> Self {
        let log = file.with_extension("log");
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-i", "eth0", "-n", "-U", "-B", "65536", "-Z", "root", "-w"]).arg(file);
        tcpdump.stdin(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = host.run(|| tcpdump.spawn().expect("tcpdump is installed"));
        let capture = Self(child);
        eventually("tcpdump listens", || {
            fs::read_to_string(&log).unwrap().contains("listening on").then_some(())
        });
        capture
    }

    /// Stops it after it has written what it received.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Counts the packets of a capture that match each filter. All checksums are verified.
fn packets(file: &Path, filters: &[String]) -> Vec<usize> {
    let mut tshark = Command::new("tshark");
    for checked in ["ip", "udp", "tcp"] {
        tshark.arg("-o").arg(format!("{checked}.check_checksum:TRUE"));
    }
    // A single row: `| from <> to | frames | bytes | frames | bytes |`, two columns per filter.
    tshark.arg("-n").arg("-r").arg(file).args(["-q", "-z", &format!("io,stat,0,{}", filters.join(","))]);
    let output = tshark.output().expect("tshark is installed");
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    let row = table.lines().find(|line| line.starts_with('|') && line.contains("<>"));
    let row = row.unwrap_or_else(|| panic!("a row of counts: {table}"));
    let counts: Vec<usize> =
        row.split('|').skip(2).step_by(2).filter_map(|cell| cell.trim().parse().ok()).collect();
    assert_eq!(counts.len(), filters.len(), "{table}");
    counts
}

/// Garbage sent to the tunnel's port does not disturb traffic in the tunnel.
#[test]
fn garbage_on_the_port_harms_nobody() {
    let link = Link::to_peer(Underlay::V4, "");
    link.kernel("remote 10.8.0.1", 4789);
    link.other.ip("addr add 10.8.0.3/24 dev eth0");
    link.near.reaches("10.9.0.2");
    let flow = tcp::Flow::start(&link.near, &link.far, "10.9.0.2");
    flow.flows(1_000_000);
    let memory = vswitch_tests::process::resident(link.daemon.pid());
    for (address, port, reason) in
        [("10.8.0.2", "other", "VXLAN_INVALID_HDR"), ("10.8.0.3", "vxlan", "VXLAN_PEER_UNKNOWN")]
    {
        let socket = link.other.run(|| UdpSocket::bind((address, 0)).unwrap());
        for number in 0..30_000_u64 {
            let len = usize::try_from(number * 7 % 1473).unwrap();
            let mut bytes = Pattern(number).make(0, len);
            // A third has a valid VXLAN header, followed by something that is not a frame.
            if number % 3 == 0 && len >= 8 {
                bytes[..8].copy_from_slice(&[8, 0, 0, 0, 0, 0x10, 0, 0]);
            }
            socket.send_to(&bytes, "10.8.0.1:4789").unwrap();
        }
        assert!(link.daemon.dropped(port, reason) > 1000, "{reason}");
    }
    flow.flows(1_000_000);
    flow.stop();
    let grown = vswitch_tests::process::resident(link.daemon.pid()).saturating_sub(memory);
    assert!(grown < 64 << 20, "{grown} bytes more");
    link.carries_everything(1_000_000);
}

/// Open vSwitch with its userspace datapath, as tunnel and bridge of the other host. Stopped on drop.
struct OpenVswitch {
    folder: PathBuf,
    processes: Vec<Child>,
}

impl OpenVswitch {
    fn start(host: &Netns, folder: &Path) -> Self {
        let folder = folder.join("ovs");
        fs::create_dir(&folder).unwrap();
        let mut ovs = Self { folder, processes: Vec::new() };
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        ovs.run(host, "ovsdb-tool", &["create", &ovs.path("conf.db"), schema]);
        let remote = format!("--remote=punix:{}", ovs.path("db.sock"));
        ovs.spawn(host, "ovsdb-server", &[&ovs.path("conf.db"), &remote]);
        eventually("the database is there", || Path::new(&ovs.path("db.sock")).exists().then_some(()));
        ovs.vsctl(host, &["--no-wait", "init"]);
        ovs.spawn(host, "ovs-vswitchd", &[&format!("unix:{}", ovs.path("db.sock"))]);
        ovs
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, &self.folder);
        }
        command.stdin(Stdio::null());
        command
    }

    fn spawn(&mut self, host: &Netns, program: &str, arguments: &[&str]) {
        let log = File::create(self.path(&format!("{program}.out"))).unwrap();
        let mut command = self.command(program);
        command.args(arguments).stderr(log.try_clone().unwrap()).stdout(log);
        self.processes.push(host.run(|| command.spawn().expect("openvswitch-switch is installed")));
    }

    fn run(&self, host: &Netns, program: &str, arguments: &[&str]) {
        let mut command = self.command(program);
        command.args(arguments);
        let output = host.run(|| command.output().expect("openvswitch-switch is installed"));
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    }

    fn vsctl(&self, host: &Netns, arguments: &[&str]) {
        let database = format!("--db=unix:{}", self.path("db.sock"));
        self.run(host, "ovs-vsctl", &[&[database.as_str(), "--timeout=20"], arguments].concat());
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn open_vswitch_is_a_peer() {
    let link = Link::to_peer(Underlay::V4, "");
    // Its userspace datapath cannot complete checksums: according to its manual, senders must.
    run(&link.far, "ethtool", "-K eth0 tx off");
    run(&link.daemon.host, "ethtool", "-K eth0 tx off");
    let ovs = OpenVswitch::start(&link.other, link.daemon.folder());
    for (bridge, port) in [("br-link", "eth0"), ("br-int", "far0")] {
        ovs.vsctl(&link.other, &["add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"]);
        ovs.vsctl(&link.other, &["add-port", bridge, port]);
    }
    let options = ["type=vxlan", "options:remote_ip=10.8.0.1", "options:key=4096"];
    let tunnel = ["add-port", "br-int", "vxlan0", "--", "set", "interface", "vxlan0"];
    ovs.vsctl(&link.other, &[&tunnel[..], &options].concat());
    Underlay::V4.up(&link.other, "br-link", 2);
    link.carries_everything(1_000_000);
}
