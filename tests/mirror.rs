//! Mirrors to another host: what a kernel's VXLAN device there, or another vswitchd, sees of what is copied here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{collections::BTreeMap, fmt::Write as _, process::Command};

use serde_json::Value;
use vswitch::{
    checksum::verify,
    headers::{Headers, IpVersion, Transport},
};
use vswitch_tests::{
    Netns, PATIENCE, Raw, Vswitchd, eventually,
    pattern::Pattern,
    raw::{BROADCAST, EXPERIMENT, frame, tagged},
    tcp,
    underlay::Underlay,
};

/// Octets of one direction of a stream that is watched: so few that no queue of a kernel on the way can overflow.
const WATCHED: u64 = 150_000;

/// Two containers of one host, and another host that watches. Both hosts' link carries packets of 1500 octets, like the containers'.
///
/// ```text
/// web 10.9.0.2 - vswitchd - 10.8.0.1 ===== 10.8.0.9 - whatever watches
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
    /// `vxlan` are keys of `[vxlan]` and tables below it, `more` other tables.
    fn start(underlay: Underlay, vxlan: &str, more: &str) -> Self {
        let [host, watch, web, db] = ["ours", "watch", "web", "db"].map(Netns::new);
        host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", watch.name()));
        underlay.up(&host, "eth0", 1);
        underlay.up(&watch, "eth0", 9);
        // Until a kernel knows its neighbour, it keeps only so much for it.
        host.reaches(&underlay.address(9));
        let text = Self::config(underlay, vxlan, more, &[("web", &web, 2), ("db", &db, 3)]);
        Self { switch: Vswitchd::start_in(host, "", &text), watch, web, db, underlay }
    }

    fn config(underlay: Underlay, vxlan: &str, more: &str, containers: &[(&str, &Netns, u8)]) -> String {
        let mut text = format!(
            "[vxlan]\nlocal = \"{}\"\n{vxlan}\n[[network]]\nname = \"blue\"\n{more}\n",
            underlay.address(1)
        );
        for (name, netns, last) in containers {
            let netns = netns.name();
            let _ = write!(
                text,
                "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\nkind = \"tap\"\nnetns = \"{netns}\"\nifname = \"eth0\"\n\
                 address = [\"10.9.0.{last}/24\", \"fd09::{last}/64\"]\n"
            );
        }
        text
    }

    /// Another net.toml.
    fn reload(&self, vxlan: &str, more: &str) -> Value {
        let containers = [("web", &self.web, 2), ("db", &self.db, 3)];
        self.switch.configure("", &Self::config(self.underlay, vxlan, more, &containers));
        self.switch.ctl(&["reload"])
    }

    /// A kernel's VXLAN device at the other host that takes in copies, one by one.
    fn kernel(&self, vni: u32) -> Raw {
        kernel(&self.watch, self.underlay, vni)
    }

    /// Streams between web and db in both families; what a watcher saw of it.
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
    // It shall say nothing, and show packets as they come.
    watch.ip(&format!("link set {device} addrgenmode none"));
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-K", &device, "gro", "off"]);
    assert!(watch.run(|| ethtool.output().unwrap().status.success()));
    watch.ip(&format!("link set {device} up"));
    watch.raw(&device)
}

/// The streams that TCP segments make, by who sends them; every checksum is right if `sealed`.
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
        stream[at..at + payload.len()]
            .iter_mut()
            .zip(payload)
            .for_each(|(place, octet)| *place = Some(*octet));
    }
    let whole = |stream: Vec<Option<u8>>| {
        stream.into_iter().map(|octet| octet.expect("no segment is missing")).collect()
    };
    streams.into_iter().map(|(source, stream)| (source, whole(stream))).collect()
}

/// Both directions in both families were seen, octet by octet.
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

/// Frames that were dropped at a port on the way out.
fn lost(port: &Value) -> u64 {
    let drops = port["drops"].as_array().unwrap().iter();
    drops.filter(|drop| drop["direction"] == "tx").map(|drop| number(&drop["frames"])).sum()
}

/// Each frame that came in or left by `watched` has one copy, and no copy has another. Hosts go on talking of neighbours.
fn assert_copied_once(switch: &Vswitchd, mirror: &str, watched: &str) {
    eventually("as many copies as frames", || {
        let [copies, port] = [mirror, watched].map(|port| switch.port(port));
        let frames = number(&port["rx"]["frames"]) + number(&port["fates"]["offered"]);
        let copied = (number(&copies["fates"]["offered"]), number(&copies["tx"]["frames"]));
        (copied == (frames, frames)).then_some(())
    });
}

/// A declared mirror to `host` under `vni`.
fn declared(host: &str, vni: u32) -> String {
    format!(
        "[[port]]\nname = \"ids\"\nkind = \"collector\"\nremote = \"{host}\"\nvni = {vni}\nmirror = {{ ports = [\"web\"] }}\n"
    )
}

/// The link carries no longer packets than the containers send, so every full copy leaves in fragments.
fn a_kernel_sees_every_segment_of_both_directions(underlay: Underlay) {
    let site = Site::start(underlay, "", &declared(&underlay.address(9), 9000));
    let watcher = site.kernel(9000);
    let seen = site.watched(&watcher);
    assert_seen(&seen, true);
    // Nobody was told to send less, and nobody's connections ask for less.
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
    // Whatever it is, it is copied as it is: of any length, tagged, also what dies at the port.
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
    // Copies are counted at the mirror alone.
    assert_copied_once(&site.switch, "ids", "web");
    let lost = ["web", "db", "ids"].map(|port| lost(&site.switch.port(port)));
    assert_eq!((lost, number(&site.switch.port("vxlan")["tx"]["frames"])), ([0, 0, 0], 0));
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_kernel_sees_every_segment_over_ipv4() {
    a_kernel_sees_every_segment_of_both_directions(Underlay::V4);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_kernel_sees_every_segment_over_ipv6() {
    a_kernel_sees_every_segment_of_both_directions(Underlay::V6);
}

/// Made, listed, traced, kept, changed and removed; and who watches is nobody to talk to, however eager we are for peers.
#[test]
#[ignore = "needs root: make test runs it"]
fn a_mirror_to_a_host_lives_like_any_port_and_takes_nothing_in() {
    let mut site = Site::start(Underlay::V4, "learn_peers = true", "");
    let watcher = site.kernel(9000);
    let switch = &site.switch;
    for (arguments, why) in [
        (&["--remote", "10.8.0.1", "--vni", "9000"][..], "10.8.0.1 is this host's own address"),
        (&["--remote", "fd08::9", "--vni", "9000"], "is not of the family of the local address 10.8.0.1"),
        (&["--remote", "10.8.0.9"], "--vni"),
        (&["--vni", "9000"], "--remote"),
        (&["--remote", "10.8.0.9", "--vni", "9000", "--netns", "x"], "cannot be used with"),
        (&["--remote", "10.8.0.9", "--vni", "0"], "0 is not in 1..=16777215"),
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
    // It is heard by nobody, and becomes nobody.
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

    // It outlives the daemon.
    site.switch.stop();
    site.switch.run();
    seen(&site, &watcher);
    let switch = &site.switch;
    assert_eq!(switch.try_ctl(&["mirror", "rm", "ids"]).code, 0);

    // One that is declared follows the file, at once.
    site.reload("", &declared("10.8.0.9", 9001));
    let other = site.kernel(9001);
    seen(&site, &other);
    let told = site.reload("", &declared("10.8.0.9", 9000)).to_string();
    assert!(told.contains("ids"), "{told}");
    while watcher.receive(std::time::Duration::from_millis(1)).is_some() {}
    seen(&site, &watcher);
    // Without an end here there is no way; the file must not say both.
    site.switch.configure("", "[[port]]\nname = \"ids\"\nkind = \"collector\"\nremote = \"10.8.0.9\"\nvni = 1\nmirror = { ports = [\"ids\"] }");
    let refused = site.switch.refusal(&["reload"]).1;
    assert!(
        refused.contains("a collector is sent to by the tunnel, and there is none: write [vxlan]"),
        "{refused}"
    );
}

/// The collector is a peer as well, and what is copied is what goes to it and comes from it: nothing goes round, and what it
/// sends is still a peer's. There vswitchd takes the copies in as a network, and a mirror of that network shows them.
#[test]
#[ignore = "needs root: make test runs it"]
fn a_peer_may_collect_what_goes_to_it() {
    let [host1, host2, web, db, far] = ["host1", "host2", "web", "db", "far"].map(Netns::new);
    host1.ip(&format!("link add eth0 type veth peer name eth0 netns {}", host2.name()));
    Underlay::V4.up(&host1, "eth0", 1);
    Underlay::V4.up(&host2, "eth0", 9);
    host1.reaches("10.8.0.9");
    let config = |own: u8, other: u8, last: u8, container: &Netns, more: &str| {
        format!(
            "[vxlan]\nlocal = \"10.8.0.{own}\"\n[[vxlan.peer]]\nname = \"other\"\naddress = \"10.8.0.{other}\"\n\
             [[network]]\nname = \"blue\"\nvni = 4096\n[[port]]\nname = \"web\"\nnetwork = \"blue\"\nkind = \"tap\"\n\
             netns = \"{}\"\nifname = \"eth0\"\naddress = [\"10.9.0.{last}/24\", \"fd09::{last}/64\"]\n{more}",
            container.name()
        )
    };
    let mirror = "[[port]]\nname = \"ids\"\nkind = \"collector\"\nremote = \"10.8.0.9\"\nvni = 9000\nmirror = { ports = [\"other\"] }\n";
    let near = Vswitchd::start_in(host1, "", &config(1, 9, 2, &web, mirror));
    far.silence();
    let copies = format!(
        "[[network]]\nname = \"copies\"\nvni = 9000\nmtu = 1500\n[[port]]\nname = \"ids\"\nkind = \"tap\"\nnetns = \"{}\"\n\
         ifname = \"eth0\"\nmirror = {{ networks = [\"copies\"] }}\n",
        far.name()
    );
    let there = Vswitchd::start_in(host2, "", &config(9, 1, 3, &db, &copies));
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

/// The way to the collector leads through the very network that is mirrored. Each frame is copied once, and no copy is.
#[test]
#[ignore = "needs root: make test runs it"]
fn copies_of_copies_are_not_made() {
    let [watch, web] = ["watch", "web"].map(Netns::new);
    let port = |name: &str, netns: &Netns, last: u8| {
        format!(
            "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\nkind = \"tap\"\nnetns = \"{}\"\nifname = \"eth0\"\n\
             address = \"10.8.0.{last}/24\"\n",
            netns.name()
        )
    };
    // The host's own address stands in the network, on its gateway's interface.
    let rest = format!(
        "[vxlan]\nlocal = \"10.8.0.1\"\n[[network]]\nname = \"blue\"\n[[network.subnet]]\nsubnet = \"10.8.0.0/24\"\n\
         gateway = \"10.8.0.1\"\n[[port]]\nname = \"ids\"\nkind = \"collector\"\nremote = \"10.8.0.9\"\nvni = 9000\n\
         mirror = {{ networks = [\"blue\"], ports = [\"watch\"] }}\n{}{}",
        port("watch", &watch, 9),
        port("web", &web, 2)
    );
    let switch = Vswitchd::start("", &rest);
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
    // What comes in as one super-frame is one.
    assert!(switch.dropped("ids", "MIRROR_LOOP") > 0);
    eventually("it is quiet", || {
        let before = number(&switch.port("ids")["fates"]["offered"]);
        std::thread::sleep(std::time::Duration::from_millis(100));
        (number(&switch.port("ids")["fates"]["offered"]) == before).then_some(())
    });
}
