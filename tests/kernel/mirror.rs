//! Mirrors to another host: what a VXLAN device of the kernel, or another vswitchd, receives of the copies.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;
use vswitch::{
    checksum::verify,
    headers::{Headers, IpVersion, Transport},
};
use vswitch_tests::{
    Config, Netns, PATIENCE, Raw, Vswitchd, eventually, net,
    pattern::Pattern,
    raw::{BROADCAST, EXPERIMENT, frame, tagged},
    tcp,
    underlay::Underlay,
};

/// Bytes in each direction of a mirrored stream: few enough that no queue of the kernel overflows.
const WATCHED: u64 = 150_000;

/// Two containers of one host, and another host as collector. The link between the hosts has an MTU of 1500, like the containers.
///
/// ```text
/// web 10.9.0.2 - vswitchd - 10.8.0.1 ===== 10.8.0.9 - collector
/// db  10.9.0.3 /
/// ```
struct Site {
    switch: Vswitchd,
    watch: Netns,
    web: Netns,
    db: Netns,
    underlay: Underlay,
}

impl Site {
    /// `vxlan` are keys of `[vxlan]`. With `mirror`, web is mirrored to the other host under that VNI.
    fn start(underlay: Underlay, vxlan: &str, mirror: Option<u32>) -> Self {
        let [host, watch, web, db] = ["ours", "watch", "web", "db"].map(Netns::new);
        host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", watch.name()));
        underlay.up(&host, "eth0", 1);
        underlay.up(&watch, "eth0", 9);
        // While a neighbour is unresolved, the kernel queues few packets for it.
        host.reaches(&underlay.address(9));
        let config = Self::config(underlay, [&web, &db], vxlan, mirror);
        Self { switch: Vswitchd::start_in(host, &config), watch, web, db, underlay }
    }

    fn config(underlay: Underlay, [web, db]: [&Netns; 2], vxlan: &str, mirror: Option<u32>) -> Config {
        let blue = net().vxlan(&underlay.address(1)).keys(vxlan).network("blue");
        let web = blue.tap("web", web).address("10.9.0.2/24 fd09::2/64");
        let both = web.tap("db", db).address("10.9.0.3/24 fd09::3/64");
        match mirror {
            Some(vni) => both.collector("ids", &underlay.address(9), vni, "{ ports = [\"web\"] }"),
            None => both,
        }
    }

    /// Mirrors web under another VNI, by a reload.
    fn mirror(&self, vni: u32) -> Value {
        let config = Self::config(self.underlay, [&self.web, &self.db], "", Some(vni));
        self.switch.configure(&config);
        self.switch.ctl(&["reload"])
    }

    /// Creates a VXLAN device of the kernel on the other host, which receives copies frame by frame.
    fn kernel(&self, vni: u32) -> Raw {
        kernel(&self.watch, self.underlay, vni)
    }

    /// Sends streams between web and db over both families, and returns what a watcher received.
    fn watched(&self, watcher: &Raw) -> Vec<Vec<u8>> {
        let mark = [0x5a; 60];
        for address in ["10.9.0.3", "fd09::3"] {
            tcp::exchange(&self.web, &self.db, address, WATCHED, 64 << 10);
        }
        self.web.raw("eth0").send(&frame(BROADCAST, self.web.mac("eth0"), EXPERIMENT, &mark));
        watcher.until(PATIENCE, &mark)
    }
}

fn kernel(watch: &Netns, underlay: Underlay, vni: u32) -> Raw {
    let (local, remote) = (underlay.address(9), underlay.address(1));
    let device = format!("vx{vni}");
    watch.ip(&format!(
        "link add {device} type vxlan id {vni} local {local} remote {remote} dstport 4789 dev eth0"
    ));
    // It must send nothing by itself, and not merge packets.
    watch.ip(&format!("link set {device} addrgenmode none"));
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-K", &device, "gro", "off"]);
    assert!(watch.run(|| ethtool.output().unwrap().status.success()));
    watch.ip(&format!("link set {device} up"));
    watch.raw(&device)
}

/// Reassembles TCP segments into streams, by source address. With `sealed`, checks every checksum.
fn streams(frames: &[Vec<u8>], sealed: bool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut begun = BTreeMap::new();
    let mut segments = Vec::new();
    for frame in frames {
        let Some(headers) = Headers::measure(frame).filter(|it| it.transport_kind == Transport::Tcp) else {
            continue;
        };
        assert!(!sealed || verify(frame, &headers), "{frame:02x?}");
        let source = match headers.version {
            IpVersion::V4 => &frame[headers.network + 12..headers.network + 16],
            IpVersion::V6 => &frame[headers.network + 8..headers.network + 24],
        };
        let sequence = u32::from_be_bytes(frame[headers.transport + 4..][..4].try_into().unwrap());
        if frame[headers.transport + 13] & 2 != 0 {
            begun.insert(source.to_vec(), sequence.wrapping_add(1));
        }
        segments.push((source.to_vec(), sequence, &frame[headers.payload..headers.end]));
    }
    let mut streams = BTreeMap::<Vec<u8>, Vec<Option<u8>>>::new();
    for (source, sequence, payload) in segments.into_iter().filter(|(.., payload)| !payload.is_empty()) {
        let at = sequence.wrapping_sub(begun[&source]) as usize;
        let stream = streams.entry(source).or_default();
        stream.resize(stream.len().max(at + payload.len()), None);
        stream[at..at + payload.len()].iter_mut().zip(payload).for_each(|(place, byte)| *place = Some(*byte));
    }
    let whole = |stream: Vec<Option<u8>>| {
        stream.into_iter().map(|byte| byte.expect("no segment is missing")).collect()
    };
    streams.into_iter().map(|(source, stream)| (source, whole(stream))).collect()
}

/// Asserts that both directions over both families were received completely.
fn assert_seen(frames: &[Vec<u8>], sealed: bool) {
    let streams = streams(frames, sealed);
    assert_eq!(streams.len(), 4, "{:?}", streams.keys());
    for (source, stream) in &streams {
        let pattern = if source.ends_with(&[2]) { Pattern(64 << 10) } else { Pattern(!(64 << 10)) };
        assert_eq!((stream.len() as u64, pattern.first_difference(0, stream)), (WATCHED, None), "{source:?}");
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// Frames dropped at a port on egress.
fn lost(port: &Value) -> u64 {
    let drops = port["drops"].as_array().unwrap().iter();
    drops.filter(|drop| drop["direction"] == "tx").map(|drop| number(&drop["frames"])).sum()
}

/// Asserts that each frame that `watched` received or sent was copied once. Neighbour discovery goes on meanwhile.
fn assert_copied_once(switch: &Vswitchd, mirror: &str, watched: &str) {
    eventually("as many copies as frames", || {
        let [copies, port] = [mirror, watched].map(|port| switch.port(port));
        let frames = number(&port["rx"]["frames"]) + number(&port["fates"]["offered"]);
        let copied = (number(&copies["fates"]["offered"]), number(&copies["tx"]["frames"]));
        (copied == (frames, frames)).then_some(())
    });
}

/// The link's MTU is that of the containers, so every full-sized copy is fragmented.
fn a_kernel_sees_every_segment_of_both_directions(underlay: Underlay) {
    let site = Site::start(underlay, "", Some(9000));
    let watcher = site.kernel(9000);
    let seen = site.watched(&watcher);
    assert_seen(&seen, true);
    // No sender was told to reduce its packet size, and no MSS was clamped.
    let syn = seen.iter().find_map(|frame| {
        let headers = Headers::measure(frame).filter(|it| it.transport_kind == Transport::Tcp)?;
        (frame[headers.transport + 13] & 2 != 0).then(|| frame[headers.transport + 20..][..4].to_vec())
    });
    assert_eq!(syn.unwrap(), [2, 4, 0x05, 0xb4], "1460");
    let icmp = |frame: &[u8]| {
        frame[12..14] == [8, 0] && frame[23] == 1
            || frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 2
    };
    assert!(!seen.iter().any(|frame| icmp(frame)), "somebody was told that it is too big");
    // Any frame is copied unchanged: of any length, tagged, and even if the port drops it.
    let (web, sender) = (site.web.mac("eth0"), site.web.raw("eth0"));
    let mut sent: Vec<_> = [0, 1, 45, 46, 1000, 1440, 1450, 1451, 1499, 1500]
        .map(|len| frame(BROADCAST, web, EXPERIMENT, &vec![7; len]))
        .into();
    sent.push(tagged(BROADCAST, web, 10, EXPERIMENT, &[7; 100]));
    sent.iter().for_each(|frame| sender.send(frame));
    sender.send(&frame(BROADCAST, web, EXPERIMENT, &[9; 50]));
    let mut got = watcher.until(PATIENCE, &[9; 50]);
    got.retain(|frame| frame[12..14] == EXPERIMENT.to_be_bytes() || frame[12..14] == [0x81, 0]);
    assert_eq!(got, sent);
    // Copies are counted at the mirror port only.
    assert_copied_once(&site.switch, "ids", "web");
    let lost = ["web", "db", "ids"].map(|port| lost(&site.switch.port(port)));
    assert_eq!((lost, number(&site.switch.port("vxlan")["tx"]["frames"])), ([0, 0, 0], 0));
}

#[test]
fn a_kernel_sees_every_segment_over_ipv4() {
    a_kernel_sees_every_segment_of_both_directions(Underlay::V4);
}

#[test]
fn a_kernel_sees_every_segment_over_ipv6() {
    a_kernel_sees_every_segment_of_both_directions(Underlay::V6);
}

/// A mirror to a host is created, listed, traced, kept, changed and removed like any port; the collector never becomes a
/// peer, even with `learn_peers`.
#[test]
fn a_mirror_to_a_host_lives_like_any_port_and_takes_nothing_in() {
    let mut site = Site::start(Underlay::V4, "learn_peers = true", None);
    let watcher = site.kernel(9000);
    let switch = &site.switch;
    for (arguments, why) in [
        (&["--remote", "10.8.0.1", "--vni", "9000"][..], "10.8.0.1 is this host's own address"),
        (
            &["--remote", "fd08::9", "--vni", "9000"],
            "and the local address 10.8.0.1 are of different families",
        ),
        (&["--remote", "10.8.0.9"], "--vni"),
        (&["--vni", "9000"], "--remote"),
        (&["--remote", "10.8.0.9", "--vni", "9000", "--netns", "x"], "cannot be used with"),
        (&["--remote", "10.8.0.9", "--vni", "16777216"], "16777216 is not a VNI: use 0 to 16777215"),
    ] {
        let all = [&["mirror", "add", "ids", "--port", "web"], arguments].concat();
        let refused = switch.refusal(&all).1;
        assert!(refused.contains(why), "{refused}");
    }
    let add = ["mirror", "add", "ids", "--port", "web,db", "--remote", "10.8.0.9", "--vni", "9000"];
    assert_eq!(switch.try_ctl(&add).code, 0);
    let listed = switch.try_ctl(&["mirror", "ls"]).stdout;
    assert!(listed.contains("collector 10.8.0.9 vni 9000") && listed.contains("mirrors web,db"), "{listed}");
    let traced = switch.try_ctl(&["trace", "--port", "web", "arp who-has 10.9.0.3"]).stdout;
    assert!(traced.contains("copy      ids: by VXLAN to 10.8.0.9, vni 9000"), "{traced}");
    assert!(traced.contains("=> flooded to 1 ports"), "a copy is no way to a destination: {traced}");
    let overlay = ["network", "create", "--driver", "overlay", "-o", "vni=9000", "red"];
    let refused = switch.refusal(&overlay).1;
    assert!(refused.contains("network red has vni 9000, and copies would be frames of it"), "{refused}");

    let seen = |site: &Site, watcher: &Raw| {
        site.web.reaches("10.9.0.3");
        let echo = |frame: &[u8]| frame[12..14] == [8, 0] && frame[23] == 1;
        assert!(watcher.find(PATIENCE, echo).is_some());
    };
    seen(&site, &watcher);
    // Its frames are dropped, and it does not become a peer.
    for _ in 0..3 {
        watcher.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 9], EXPERIMENT, b"hello?"));
    }
    eventually("what the watcher sends dies", || (switch.dropped("ids", "MIRROR_ONLY") >= 3).then_some(()));
    let tunnel = switch.ctl(&["tunnel", "ls"]);
    assert_eq!(
        (&tunnel["peers"], &tunnel["endpoint"]["strangers"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    let ids = switch.port("ids");
    assert_eq!(
        (&ids["macs"], number(&ids["rx"]["frames"])),
        (&0.into(), switch.dropped("ids", "MIRROR_ONLY"))
    );

    // It survives a restart.
    site.switch.stop();
    site.switch.run();
    seen(&site, &watcher);
    let switch = &site.switch;
    assert_eq!(switch.try_ctl(&["mirror", "rm", "ids"]).code, 0);

    // A declared mirror follows the file, at once.
    site.mirror(9001);
    let other = site.kernel(9001);
    seen(&site, &other);
    let told = site.mirror(9000).to_string();
    assert!(told.contains("ids"), "{told}");
    while watcher.receive(std::time::Duration::from_millis(1)).is_some() {}
    seen(&site, &watcher);
    // A mirror without a local endpoint has no route; and it must not name itself.
    site.switch.configure(&net().collector("ids", "10.8.0.9", 1, "{ ports = [\"ids\"] }"));
    let refused = site.switch.refusal(&["reload"]).1;
    assert!(
        refused.contains("a collector is reached through the tunnel, and there is no [vxlan]: add it"),
        "{refused}"
    );
}

/// The collector is a peer as well, and the mirrored traffic is the traffic with that peer: there is no loop, and its
/// frames still count as a peer's. At the other host vswitchd receives the copies as a network, and a mirror of that
/// network shows them.
#[test]
fn a_peer_may_collect_what_goes_to_it() {
    let [host1, host2, web, db, far] = ["host1", "host2", "web", "db", "far"].map(Netns::new);
    host1.ip(&format!("link add eth0 type veth peer name eth0 netns {}", host2.name()));
    Underlay::V4.up(&host1, "eth0", 1);
    Underlay::V4.up(&host2, "eth0", 9);
    host1.reaches("10.8.0.9");
    let config = |own: u8, other: u8, last: u8, container: &Netns| {
        let vxlan = net().vxlan(&format!("10.8.0.{own}"));
        let peer = vxlan.peer(&format!("10.8.0.{other}")).keys("name = \"other\"");
        let web = peer.network("blue").keys("vni = 4096").tap("web", container);
        web.address(&format!("10.9.0.{last}/24 fd09::{last}/64"))
    };
    let near = config(1, 9, 2, &web).collector("ids", "10.8.0.9", 9000, "{ ports = [\"other\"] }");
    let near = Vswitchd::start_in(host1, &near);
    far.silence();
    let copies = config(9, 1, 3, &db).network("copies").keys("vni = 9000\nmtu = 1500");
    let there = Vswitchd::start_in(host2, &copies.mirror("ids", &far, "{ networks = [\"copies\"] }"));
    let watcher = far.raw("eth0");
    web.reaches("10.9.0.3");
    web.reaches("fd09::3");
    for address in ["10.9.0.3", "fd09::3"] {
        tcp::exchange(&web, &db, address, WATCHED, 64 << 10);
    }
    let mark = [0x5a; 60];
    web.raw("eth0").send(&frame(BROADCAST, web.mac("eth0"), EXPERIMENT, &mark));
    assert_seen(&watcher.until(PATIENCE, &mark), false);
    assert_copied_once(&near, "ids", "other");
    let (peer, ids) = (near.port("other"), near.port("ids"));
    assert_eq!((lost(&ids), number(&ids["rx"]["frames"])), (0, 0), "{ids:#}");
    assert!(number(&peer["fates"]["unicast"]) > 0, "what it sends is a peer's: {peer:#}");
    assert_eq!(there.port("other")["state"], "up");
}

/// The route to the collector leads through the mirrored network itself. Each frame is copied once, and no copy is copied.
#[test]
fn copies_of_copies_are_not_made() {
    let [watch, web] = ["watch", "web"].map(Netns::new);
    // The host's own address is that of the network's gateway.
    let blue = net().vxlan("10.8.0.1").network("blue").subnet("10.8.0.0/24").keys("gateway = \"10.8.0.1\"");
    let watched = "{ networks = [\"blue\"], ports = [\"watch\"] }";
    let config = blue.collector("ids", "10.8.0.9", 9000, watched).tap("watch", &watch).address("10.8.0.9/24");
    let switch = Vswitchd::start(&config.tap("web", &web).address("10.8.0.2/24"));
    switch.port_is("ids", "up");
    let watcher = kernel(&watch, Underlay::V4, 9000);
    web.reaches("10.8.0.1");
    let web = web.raw("eth0");
    let marks: Vec<_> =
        (0..20_u8).map(|number| frame(BROADCAST, [2, 0, 0, 0, 0, 7], EXPERIMENT, &[number; 1450])).collect();
    marks.iter().for_each(|mark| web.send(mark));
    web.send(&frame(BROADCAST, [2, 0, 0, 0, 0, 7], EXPERIMENT, &[99; 50]));
    let mut got = watcher.until(PATIENCE, &[99; 50]);
    got.retain(|frame| frame[12..14] == EXPERIMENT.to_be_bytes());
    assert_eq!(got, marks);
    // A super-frame counts as one frame.
    assert!(switch.dropped("ids", "MIRROR_LOOP") > 0);
    eventually("it is quiet", || {
        let before = number(&switch.port("ids")["fates"]["offered"]);
        std::thread::sleep(std::time::Duration::from_millis(100));
        (number(&switch.port("ids")["fates"]["offered"]) == before).then_some(())
    });
}
