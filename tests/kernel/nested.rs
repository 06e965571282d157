//! Tunnels of containers' own between TAP ports, whose super-frames pass whole since Linux 6.17.

use std::process::Command;

use vswitch_tests::{Netns, Vswitchd, eventually, net, tcp, underlay::Underlay};

/// How the containers encapsulate.
#[derive(Clone, Copy, Debug)]
struct Nest {
    outside: Underlay,
    /// Whether outer datagrams have a checksum.
    csum: bool,
}

impl Nest {
    /// A VXLAN device in container number `number` whose peer is the other one, with addresses in 10.77.0.0/24 and fd77::/64.
    fn build(self, container: &Netns, number: u8, mtu: usize) {
        let Self { outside, csum } = self;
        let [own, other] = [number, 5 - number].map(|number| match outside {
            Underlay::V4 => format!("10.9.0.{number}"),
            Underlay::V6 => format!("fd09::{number}"),
        });
        let csum = match (outside, csum) {
            (Underlay::V4, true) => "udpcsum",
            (Underlay::V4, false) => "noudpcsum",
            (Underlay::V6, true) => "noudp6zerocsumtx",
            (Underlay::V6, false) => "udp6zerocsumtx udp6zerocsumrx",
        };
        container.ip(&format!(
            "link add nest0 mtu {mtu} type vxlan id 77 local {own} remote {other} dstport 4789 dev eth0 {csum}"
        ));
        container.ip(&format!("address add 10.77.0.{number}/24 dev nest0"));
        container.ip(&format!("address add fd77::{number}/64 dev nest0 nodad"));
        container.ip("link set nest0 up");
    }
}

/// Every kind of outer header.
fn nests() -> impl Iterator<Item = Nest> {
    let outside = [Underlay::V4, Underlay::V6].into_iter();
    outside.flat_map(|outside| [false, true].map(|csum| Nest { outside, csum }))
}

/// Streams both ways, checked byte by byte, over both families inside.
fn carries(nest: Nest, [a, b]: [&Netns; 2]) {
    for address in ["10.77.0.3", "fd77::3"] {
        eprintln!("{nest:?} to {address}");
        a.reaches(address);
        tcp::exchange(a, b, address, 4_000_000, 64 << 10);
    }
}

/// Whether the kernel hands a TAP such super-frames, and we asked for them.
fn offloads(container: &Netns) -> bool {
    let mut command = Command::new("ethtool");
    command.args(["-k", "eth0"]);
    let output = container.run(|| command.output().expect("ethtool is installed"));
    String::from_utf8_lossy(&output.stdout).contains("tx-udp_tnl-segmentation: on")
}

fn count(switch: &Vswitchd, port: &str, pointer: &str) -> u64 {
    switch.port(port).pointer(pointer).and_then(serde_json::Value::as_u64).unwrap()
}

/// Frames that a port dropped, for whatever reason.
fn drops(switch: &Vswitchd, port: &str) -> u64 {
    switch.port(port)["drops"].as_array().unwrap().iter().filter_map(|drop| drop["frames"].as_u64()).sum()
}

#[test]
fn super_frames_pass_whole_between_taps() {
    for nest in nests() {
        let containers = ["a", "b"].map(Netns::new);
        let config = net().network("blue").tap("a", &containers[0]).address("10.9.0.2/24 fd09::2/64");
        let switch = Vswitchd::start(&config.tap("b", &containers[1]).address("10.9.0.3/24 fd09::3/64"));
        let [a, b] = &containers;
        nest.build(a, 2, 1430);
        nest.build(b, 3, 1430);
        carries(nest, [a, b]);
        if offloads(a) {
            let (received, cut) =
                (count(&switch, "a", "/rx/super_frames"), count(&switch, "b", "/fates/segments"));
            assert!(received > 50 && cut == 0, "{nest:?}: {received} super-frames, cut into {cut}");
        }
        assert_eq!([drops(&switch, "a"), drops(&switch, "b")], [0, 0], "{nest:?}");
    }
}

#[test]
fn super_frames_are_cut_for_a_veth_port() {
    for nest in nests() {
        let containers = ["a", "b"].map(Netns::new);
        let config = net().network("blue").tap("a", &containers[0]).address("10.9.0.2/24 fd09::2/64");
        let switch = Vswitchd::start(&config.veth("b", &containers[1]).address("10.9.0.3/24 fd09::3/64"));
        let [a, b] = &containers;
        nest.build(a, 2, 1430);
        nest.build(b, 3, 1430);
        carries(nest, [a, b]);
        if offloads(a) {
            let cut = count(&switch, "b", "/fates/segments");
            assert!(cut > 2000, "{nest:?}: cut into {cut}");
        }
        assert_eq!([drops(&switch, "a"), drops(&switch, "b")], [0, 0], "{nest:?}");
    }
}

/// Through our own tunnel, into whose datagrams they are cut; and what is longer than its path is refused by the length of a
/// packet, not of the super-frame.
#[test]
fn super_frames_are_cut_for_a_tunnel() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let hosts = ["one", "two"].map(Netns::new);
        let containers = ["a", "b"].map(Netns::new);
        hosts[0].ip(&format!("link add eth0 type veth peer name eth0 netns {}", hosts[1].name()));
        let [one, two] = hosts;
        underlay.up(&one, "eth0", 1);
        underlay.up(&two, "eth0", 2);
        let daemons = [(one, 1, 2), (two, 2, 1)].map(|(host, own, other)| {
            let config = net().vxlan(&underlay.address(own)).peer(&underlay.address(other));
            let config = config.network("blue").keys("vni = 4096");
            let number = own + 1;
            let config = config.tap(["a", "b"][usize::from(own) - 1], &containers[usize::from(own) - 1]);
            Vswitchd::start_in(host, &config.address(&format!("10.9.0.{number}/24 fd09::{number}/64")))
        });
        let [a, b] = &containers;
        let nest = Nest { outside: underlay, csum: true };
        // The containers' interfaces have the overlay MTU.
        nest.build(a, 2, underlay.overlay_mtu() - 70);
        nest.build(b, 3, underlay.overlay_mtu() - 70);
        carries(nest, [a, b]);
        assert_eq!([drops(&daemons[0], "a"), drops(&daemons[1], "b")], [0, 0], "{nest:?}");
        if offloads(a) {
            assert!(count(&daemons[0], "a", "/rx/super_frames") > 20);
        }
        // Its packets are 1 byte too long: an IPv4 packet that may be fragmented is not, and its sender not told.
        if underlay == Underlay::V4 && offloads(a) {
            for container in [a, b] {
                container.ip("link set eth0 mtu 1500");
                container.ip(&format!("link set nest0 mtu {}", underlay.overlay_mtu() - 50 + 1));
            }
            let mut stream = tcp::connect(a, b, "10.77.0.3").0;
            stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            let _ = std::io::Write::write_all(&mut stream, &[7; 1 << 20]);
            let dropped = || daemons[0].dropped("10.8.0.2", "PKT_TOO_BIG") > 0;
            eventually("the drop has a name", || dropped().then_some(()));
        }
    }
}
