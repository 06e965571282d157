//! Two switches joined by a trunk: VLANs on a real wire.

use std::time::Duration;

use vswitch_tests::{
    Netns, PATIENCE, Raw, Vswitchd, net,
    raw::{BROADCAST, EXPERIMENT, frame, tagged},
    tcp,
    udp::Echo,
};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Two hosts, each with a switch and a container in each of three networks; the native one is `green`.
///
/// ```text
/// blue1 red1 green1 - switch - trunk ===== trunk - switch - blue2 red2 green2
/// ```
struct Trunk {
    near: Vswitchd,
    far: Vswitchd,
    containers: [[Netns; 3]; 2],
}

const NETWORKS: [&str; 3] = ["blue", "red", "green"];

impl Trunk {
    /// `near_keys` and `far_keys` are keys of the trunk ports.
    fn start(near_keys: &str, far_keys: &str) -> Self {
        let hosts = [Netns::new("near"), Netns::new("far")];
        hosts[0].ip(&format!("link add trunk0 type veth peer name trunk0 netns {}", hosts[1].name()));
        let containers = [1, 2].map(|side| NETWORKS.map(|network| Netns::new(&format!("{network}{side}"))));
        let mut sides = hosts.into_iter().zip(&containers).zip([near_keys, far_keys]).zip(1..).map(
            |(((host, containers), keys), side)| {
                host.ip("link set trunk0 up");
                let mut config = net();
                for (number, (network, container)) in (1..).zip(NETWORKS.iter().zip(containers)) {
                    // All networks use the same addresses, as they are separate.
                    config = config.network(network).keys(&format!("vlan = {}", 10 * number));
                    config = config.tap(network, container).mac(&format!("02:42:0a:09:00:0{side}"));
                    config = config.address(&format!("10.9.0.{side}/24 fd00:9::{side}/64"));
                }
                Vswitchd::start_in(host, &config.trunk("trunk", "trunk0", keys))
            },
        );
        let (near, far) = (sides.next().unwrap(), sides.next().unwrap());
        drop(sides);
        Self { near, far, containers }
    }

    fn containers(&self, network: usize) -> (&Netns, &Netns) {
        (&self.containers[0][network], &self.containers[1][network])
    }

    fn eth0(&self, side: usize, network: usize) -> Raw {
        self.containers[side][network].raw("eth0")
    }
}

const NATIVE: &str = "trunk = [\"blue\", \"red\"]\nnative = \"green\"";

#[test]
fn every_network_crosses_the_trunk_whole() {
    let trunk = Trunk::start(NATIVE, NATIVE);
    for (network, name) in NETWORKS.iter().enumerate() {
        let (near, far) = trunk.containers(network);
        for (address, chunk) in [("10.9.0.2", 64 << 10), ("fd00:9::2", 64 << 10), ("10.9.0.2", 8 << 10)] {
            tcp::exchange(near, far, address, 4_000_000, chunk);
        }
        let echo = Echo::start(far, "10.9.0.2");
        let client = near.udp("10.9.0.1");
        for len in [1472, 60_000] {
            assert!(echo.round_trip(&client, len, PATIENCE).is_some(), "{len} bytes in {}", name);
        }
    }
    for switch in [&trunk.near, &trunk.far] {
        let port = switch.port("trunk");
        assert!(port["tx"]["super_frames"].as_u64() > Some(0), "super-frames leave tagged: {port:#}");
        assert!(port["rx"]["super_frames"].as_u64() > Some(0), "and come so: {port:#}");
        assert_eq!(port["drops"].as_array().unwrap().len(), 0, "{port:#}");
    }
}

#[test]
fn a_trunk_without_offload_carries_wire_frames_that_are_right() {
    let plain = format!("{NATIVE}\noffload = false");
    let trunk = Trunk::start(&plain, NATIVE);
    for network in [0, 2] {
        let (near, far) = trunk.containers(network);
        tcp::exchange(near, far, "10.9.0.2", 4_000_000, 64 << 10);
        tcp::exchange(far, near, "fd00:9::1", 4_000_000, 64 << 10);
    }
    assert_eq!(trunk.near.port("trunk")["tx"]["super_frames"], 0);
}

#[test]
fn networks_hear_nothing_of_each_other() {
    let trunk = Trunk::start(NATIVE, NATIVE);
    let mut ears: Vec<_> = Vec::new();
    for side in 0..2 {
        for network in 0..3 {
            ears.push((side, network, trunk.eth0(side, network)));
        }
    }
    for (network, name) in NETWORKS.iter().enumerate() {
        let mouth = trunk.eth0(0, network);
        let words = format!("only {name} hears that");
        let unknown = [2, 9, 9, 9, 9, 9];
        for to in [BROADCAST, [1, 0, 0x5e, 1, 2, 3], unknown] {
            mouth.send(&frame(to, STATION, EXPERIMENT, words.as_bytes()));
        }
    }
    // Frames that might leak are followed by one that must arrive: as order is kept within a network, none is in flight
    // then.
    for network in 0..3 {
        trunk.eth0(0, network).send(&frame(BROADCAST, STATION, EXPERIMENT, b"the end"));
    }
    for (side, network, ear) in &ears {
        if *side == 0 {
            continue;
        }
        let heard = ear.until(PATIENCE, b"the end");
        let heard: Vec<_> = heard.iter().filter(|frame| frame[12..14] == EXPERIMENT.to_be_bytes()).collect();
        assert_eq!(heard.len(), 3, "{} hears its own", NETWORKS[*network]);
        let words = format!("only {} hears that", NETWORKS[*network]);
        assert!(heard.iter().all(|frame| frame.ends_with(words.as_bytes())), "{}", NETWORKS[*network]);
    }
    // On the senders' side all frames were forwarded before those across the trunk arrived.
    for (side, network, ear) in &ears {
        if *side == 0 {
            let leak = ear.find(Duration::from_millis(50), |frame| frame[12..14] == EXPERIMENT.to_be_bytes());
            assert_eq!(leak, None, "{} hears nothing: it has but one port here", NETWORKS[*network]);
        }
    }
    // One station address in three networks is three table entries, none of which moved.
    let known = trunk.far.ctl(&["fdb", "ls", "--mac", "02:00:00:00:00:01"]);
    let known: Vec<_> =
        known.as_array().unwrap().iter().map(|entry| entry["network"].as_str().unwrap()).collect();
    assert_eq!(known, ["blue", "green", "red"]);
}

#[test]
fn tags_on_the_wire_are_those_of_the_networks() {
    let trunk = Trunk::start(NATIVE, NATIVE);
    let wire = trunk.far.host.raw("trunk0");
    for (network, tci) in [(0, Some(10_u16)), (1, Some(20)), (2, None)] {
        trunk.eth0(0, network).send(&frame(BROADCAST, STATION, EXPERIMENT, b"look"));
        let seen = wire.find(PATIENCE, |frame| frame.ends_with(b"look")).unwrap();
        let expected = match tci {
            Some(tci) => tagged(BROADCAST, STATION, tci, EXPERIMENT, b"look"),
            None => frame(BROADCAST, STATION, EXPERIMENT, b"look"),
        };
        assert_eq!(seen, expected, "{}", NETWORKS[network]);
    }
}

/// What a neighbour may put on the wire: priorities, priority tags, and unconfigured VLANs.
#[test]
fn tags_from_the_wire_are_judged() {
    let host = Netns::new("host");
    let wire = Netns::new("wire");
    let (blue, green) = (Netns::new("blue"), Netns::new("green"));
    host.ip(&format!("link add trunk0 type veth peer name trunk0 netns {}", wire.name()));
    for netns in [&host, &wire] {
        netns.ip("link set trunk0 up");
    }
    for netns in [&blue, &green] {
        netns.silence();
    }
    let config = net().network("blue").keys("vlan = 10").tap("blue", &blue);
    let config = config.network("green").keys("vlan = 30").tap("green", &green);
    let config = config.trunk("trunk", "trunk0", "trunk = [\"blue\"]\nnative = \"green\"");
    let switch = Vswitchd::start_in(host, &config);
    let (wire, blue, green) = (wire.raw("trunk0"), blue.raw("eth0"), green.raw("eth0"));

    let plain = frame(BROADCAST, STATION, EXPERIMENT, b"untagged");
    wire.send(&plain);
    assert_eq!(green.until(PATIENCE, b"untagged").len(), 0);

    let high = tagged(BROADCAST, STATION, 7 << 13 | 10, EXPERIMENT, b"urgent");
    wire.send(&high);
    let seen = blue.find(PATIENCE, |frame| frame.ends_with(b"urgent")).unwrap();
    assert_eq!(seen, frame(BROADCAST, STATION, EXPERIMENT, b"urgent"), "an access port shows no tag");

    // IEEE 802.1Q-2018 section 6.9: VID 0 means no VLAN, so the frame belongs to the native one.
    let priority = tagged(BROADCAST, STATION, 5 << 13, EXPERIMENT, b"priority");
    wire.send(&priority);
    let seen = green.find(PATIENCE, |frame| frame.ends_with(b"priority")).unwrap();
    assert!(
        seen == priority || seen == frame(BROADCAST, STATION, EXPERIMENT, b"priority"),
        "the payload is untouched: {seen:02x?}"
    );

    // Many neighbours tag their native VLAN, too.
    wire.send(&tagged(BROADCAST, STATION, 30, EXPERIMENT, b"native by its tag"));
    let seen = green.find(PATIENCE, |frame| frame.ends_with(b"native by its tag")).unwrap();
    assert_eq!(seen, frame(BROADCAST, STATION, EXPERIMENT, b"native by its tag"));

    for stranger in [11, 31, 4095] {
        wire.send(&tagged(BROADCAST, STATION, stranger, EXPERIMENT, b"stranger"));
    }
    wire.send(&frame(BROADCAST, STATION, EXPERIMENT, b"the end"));
    wire.send(&tagged(BROADCAST, STATION, 10, EXPERIMENT, b"the end"));
    for ear in [&green, &blue] {
        assert_eq!(ear.until(PATIENCE, b"the end"), Vec::<Vec<u8>>::new(), "strangers stay out");
    }
    assert_eq!(switch.dropped("trunk", "VLAN_NOT_ALLOWED"), 3);
}

#[test]
fn tags_of_containers_are_dropped_unless_the_network_passes_them() {
    for (tags, passes) in [("drop", false), ("pass", true)] {
        let (web, db) = (Netns::new("web"), Netns::new("db"));
        for netns in [&web, &db] {
            netns.silence();
        }
        let config = net().network("blue").keys(&format!("tags = \"{tags}\""));
        let switch = Vswitchd::start(&config.tap("web", &web).tap("db", &db));
        let (web, db) = (web.raw("eth0"), db.raw("eth0"));
        let inner = tagged(BROADCAST, STATION, 3 << 13 | 77, EXPERIMENT, b"tagged");
        web.send(&inner);
        web.send(&frame(BROADCAST, STATION, EXPERIMENT, b"the end"));
        let expected = if passes { vec![inner] } else { vec![] };
        assert_eq!(db.until(PATIENCE, b"the end"), expected, "tags = {tags}");
        assert_eq!(switch.dropped("web", "VLAN_NOT_ALLOWED"), u64::from(!passes));
    }
}
