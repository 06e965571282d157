//! Frames of all kinds, replayed through the switch and through a kernel's bridge: the same arrive, byte by byte.
//!
//! ```text
//!  a eth0 ---- vswitchd ---- eth0 b          a eth0 ---- br0 ---- eth0 b
//!  a eth0 ---- vswitchd ===== vswitchd ---- eth0 b     and the same with bridges and VXLAN devices
//! ```
//! The network passes tags. Where it does not, what it does to them is a rule of its own (docs/config.md), which the last test
//! applies to what the bridge lets through. Frames that end within their tags or PPPoE header are left out.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use vswitch_tests::{
    Netns, PATIENCE, Raw, Vswitchd, net,
    raw::{BROADCAST, EXPERIMENT, frame},
    variety::Variety,
};

/// Frames of each replay.
const FRAMES: usize = 3000;

/// Frames sent before all that were sent are waited for: fewer than a TAP's queue holds.
const WINDOW: usize = 100;

/// Frames with how often each arrived.
type Arrived = BTreeMap<Vec<u8>, usize>;

/// Two stations, and whatever is between them.
struct Way {
    from: Raw,
    to: Raw,
    /// What carries frames between them.
    _hosts: Vec<Netns>,
    _switches: Vec<Vswitchd>,
}

fn silent(purpose: &str) -> Netns {
    let netns = Netns::new(purpose);
    netns.silence();
    netns
}

impl Way {
    /// Through one switch, whose ports are of these kinds.
    fn switch(kinds: [&str; 2], tags: &str) -> Self {
        let stations = ["a", "b"].map(silent);
        let mut config = net().network("blue").keys(&format!("tags = {tags:?}"));
        for ((name, kind), station) in ["a", "b"].into_iter().zip(kinds).zip(&stations) {
            config = config.port(name, kind, station);
        }
        let switch = Vswitchd::start(&config);
        Self::between(stations, Vec::new(), vec![switch])
    }

    /// Through a bridge.
    fn bridge() -> Self {
        let stations = ["a", "b"].map(silent);
        let host = silent("bridge");
        bridge(&host, 1500, &stations.each_ref());
        Self::between(stations, vec![host], Vec::new())
    }

    /// Through a tunnel between two hosts: switches, or bridges with VXLAN devices.
    fn tunnel(ours: bool) -> Self {
        let stations = ["a", "b"].map(silent);
        let hosts = ["h1", "h2"].map(silent);
        hosts[0].ip(&format!("link add lan type veth peer name lan netns {}", hosts[1].name()));
        let (mut switches, mut kept) = (Vec::new(), Vec::new());
        for (number, (host, station)) in (1..).zip(hosts.into_iter().zip(&stations)) {
            let other = 3 - number;
            host.ip(&format!("address add 10.8.0.{number}/24 dev lan"));
            host.ip("link set lan up");
            if ours {
                let config = net().vxlan(&format!("10.8.0.{number}")).peer(&format!("10.8.0.{other}"));
                let config = config.network("blue").keys("vni = 7\ntags = \"pass\"");
                switches.push(Vswitchd::start_in(host, &config.tap("c", station)));
            } else {
                bridge(&host, 1450, &[station]);
                host.ip(&format!(
                    "link add vx0 type vxlan id 7 local 10.8.0.{number} remote 10.8.0.{other} dstport 4789"
                ));
                host.ip("link set vx0 master br0 up");
                kept.push(host);
            }
        }
        Self::between(stations, kept, switches)
    }

    fn between(stations: [Netns; 2], mut hosts: Vec<Netns>, switches: Vec<Vswitchd>) -> Self {
        let [from, to] = stations.each_ref().map(|station| station.raw("eth0"));
        hosts.extend(stations);
        let way = Self { from, to, _hosts: hosts, _switches: switches };
        way.opens();
        way
    }

    /// Waits until it carries frames.
    fn opens(&self) {
        let deadline = Instant::now() + PATIENCE;
        let hello = mark(b"hello");
        while Instant::now() < deadline {
            self.from.send(&hello);
            if self.to.find(Duration::from_millis(50), |frame| *frame == *hello).is_some() {
                // Those that were late.
                while self.to.receive(Duration::from_millis(100)).is_some() {}
                return;
            }
        }
        panic!("nothing arrives");
    }

    /// Sends `frames` and returns what arrived, and which were refused by the sender's kernel.
    fn replay(&self, frames: &[Vec<u8>]) -> (Arrived, Vec<usize>) {
        let (mut arrived, mut refused) = (Arrived::new(), Vec::new());
        let end = mark(b"the end of a window");
        for (number, window) in frames.chunks(WINDOW).enumerate() {
            for (index, frame) in (number * WINDOW..).zip(window) {
                if self.from.try_send(frame).is_err() {
                    refused.push(index);
                }
            }
            self.from.send(&end);
            loop {
                let frame = self.to.receive(PATIENCE).expect("the end of the window arrives");
                if frame == end {
                    break;
                }
                *arrived.entry(frame).or_default() += 1;
            }
        }
        // A tunnel may let a flow overtake others.
        while let Some(frame) = self.to.receive(Duration::from_millis(300)) {
            *arrived.entry(frame).or_default() += 1;
        }
        (arrived, refused)
    }
}

/// A frame that is none of the replayed.
fn mark(text: &[u8]) -> Vec<u8> {
    frame(BROADCAST, [2, 0, 0, 0, 0xcc, 1], EXPERIMENT, &[text, &[0; 40]].concat())
}

/// A bridge in `host` with these stations.
fn bridge(host: &Netns, mtu: u16, stations: &[&Netns]) {
    // Where the filter of bridged packets is loaded, it is for all namespaces.
    host.run(|| {
        for family in ["iptables", "ip6tables", "arptables"] {
            let _ = fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), "0");
        }
    });
    host.ip("link add br0 type bridge mcast_snooping 0");
    host.ip("link set br0 up");
    for (number, station) in stations.iter().enumerate() {
        let peer = station.name();
        host.ip(&format!("link add p{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {peer}"));
        host.ip(&format!("link set p{number} master br0 up"));
        station.ip("link set eth0 up");
    }
}

/// Whether `frame` ends within its tags or a PPPoE header. The kernel loses such a frame where it reads them (`skb_vlan_untag`,
/// net/core/skbuff.c: the tag, a type, and two bytes more; where the filter of bridged packets is loaded, also
/// `nf_bridge_encap_header_len`, net/bridge/br_netfilter_hooks.c), on one way sooner than on another.
fn ends_within_link(frame: &[u8]) -> bool {
    let kind = |at: usize| frame.get(at..at + 2).map(|kind| u16::from_be_bytes([kind[0], kind[1]]));
    let mut at = 12;
    while let Some(0x8100 | 0x88a8) = kind(at) {
        at += 4;
    }
    at > 12 && frame.len() < at + 4 || kind(at) == Some(0x8864) && frame.len() < at + 2 + 8
}

/// Asserts that both ways let the same frames through.
fn same(name: &str, seed: u64, ours: &Arrived, theirs: &Arrived) {
    let only = |these: &Arrived, others: &Arrived| {
        let extra = these.iter().filter(|(frame, count)| others.get(*frame) != Some(count));
        extra.take(9).map(|(frame, count)| format!("{count} x {frame:02x?}")).collect::<Vec<_>>()
    };
    let (ours_only, theirs_only) = (only(ours, theirs), only(theirs, ours));
    assert!(
        ours_only.is_empty() && theirs_only.is_empty(),
        "{name}, seed {seed}: only by us {ours_only:#?}, only by the kernel {theirs_only:#?}"
    );
    assert!(ours.len() > FRAMES / 3, "{name}: only {} arrived", ours.len());
}

/// The frames of `seed`.
fn frames(seed: u64, mtu: usize) -> Vec<Vec<u8>> {
    let mut variety = Variety::new(seed, mtu);
    let whole = std::iter::repeat_with(|| variety.frame()).filter(|frame| !ends_within_link(frame));
    whole.take(FRAMES).collect()
}

#[test]
fn the_switch_passes_what_a_bridge_passes() {
    let theirs = Way::bridge();
    for (seed, kinds) in (1..).zip([["tap", "tap"], ["veth", "veth"], ["tap", "veth"], ["veth", "tap"]]) {
        let frames = frames(seed, 1500);
        let (expected, refused) = theirs.replay(&frames);
        let (arrived, also) = Way::switch(kinds, "pass").replay(&frames);
        assert_eq!(refused, also, "what the sender's kernel refuses");
        same(&kinds.join(" to "), seed, &arrived, &expected);
    }
}

#[test]
fn a_tunnel_passes_what_the_kernels_passes() {
    let (ours, theirs) = (Way::tunnel(true), Way::tunnel(false));
    for seed in 11..13 {
        let frames = frames(seed, 1450);
        let (expected, refused) = theirs.replay(&frames);
        let (arrived, also) = ours.replay(&frames);
        assert_eq!(refused, also, "what the sender's kernel refuses");
        same("tunnel", seed, &arrived, &expected);
    }
}

/// Access ports take no tags: a tagged frame is dropped, and one whose outer 802.1Q tag names no VLAN loses that.
#[test]
fn access_ports_differ_by_tags_alone() {
    let is_tag = |frame: &[u8], at: usize| {
        let kind = frame.get(at..at + 2).map(|kind| u16::from_be_bytes([kind[0], kind[1]]));
        matches!(kind, Some(0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300))
    };
    let untagged = |(frame, count): (Vec<u8>, usize)| {
        let is_priority =
            frame[12..14] == [0x81, 0] && frame.len() >= 18 && frame[14] & 0x0f == 0 && frame[15] == 0;
        let frame = if is_priority { [&frame[..12], &frame[16..]].concat() } else { frame };
        (!is_tag(&frame, 12)).then_some((frame, count))
    };
    let frames = frames(21, 1500);
    let (all, _) = Way::bridge().replay(&frames);
    let mut expected = Arrived::new();
    for (frame, count) in all.into_iter().filter_map(untagged) {
        *expected.entry(frame).or_default() += count;
    }
    for kinds in [["tap", "tap"], ["veth", "veth"]] {
        let (arrived, _) = Way::switch(kinds, "drop").replay(&frames);
        same(&kinds.join(" to "), 21, &arrived, &expected);
    }
}
