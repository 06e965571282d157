//! Hosts joined by a tunnel: peers, unknown senders, path MTU.

use serde_json::Value;
use vswitch_tests::{
    Config, Netns, PATIENCE, Vswitchd, eventually, net,
    raw::{BROADCAST, EXPERIMENT, frame},
    tcp,
};

/// Hosts 10.8.0.1, 10.8.0.2, … on one segment, each with a container 10.9.0.N in network `blue`.
struct Hosts {
    daemons: Vec<Vswitchd>,
    containers: Vec<Netns>,
    _segment: Netns,
}

/// A kernel bridge with a link to each of `count` hosts.
fn segment(count: usize) -> (Netns, Vec<Netns>) {
    let segment = Netns::new("segment");
    segment.ip("link add br0 type bridge mcast_snooping 0");
    segment.ip("link set br0 up");
    let hosts = (1..=count).map(|number| {
        let host = Netns::new(&format!("host{number}"));
        segment.ip(&format!("link add h{number} type veth peer name eth0 netns {}", host.name()));
        segment.ip(&format!("link set h{number} master br0 up"));
        host.ip(&format!("addr add 10.8.0.{number}/24 dev eth0"));
        host.ip("link set eth0 up");
        host
    });
    let hosts = hosts.collect();
    (segment, hosts)
}

/// Configuration of host `number`. `vxlan` are keys of `[vxlan]`.
fn config(number: usize, container: &Netns, vxlan: &str, peers: &[usize]) -> Config {
    let vxlan = net().vxlan(&format!("10.8.0.{number}")).keys(vxlan);
    let with_peers = peers.iter().fold(vxlan, |config, peer| config.peer(&format!("10.8.0.{peer}")));
    with_web(with_peers, number, container)
}

fn with_web(config: Config, number: usize, container: &Netns) -> Config {
    let web = config.network("blue").keys("vni = 4096").tap("web", container);
    web.address(&format!("10.9.0.{number}/24 fd09::{number}/64")).keys("persist = true")
}

impl Hosts {
    fn start(count: usize, vxlan: &str, peers: impl Fn(usize) -> Vec<usize>) -> Self {
        let (segment, hosts) = segment(count);
        let containers: Vec<_> = (1..=count).map(|number| Netns::new(&format!("web{number}"))).collect();
        let daemons = hosts.into_iter().zip(&containers).zip(1..).map(|((host, container), number)| {
            Vswitchd::start_in(host, &config(number, container, vxlan, &peers(number)))
        });
        let daemons = daemons.collect();
        Self { daemons, containers, _segment: segment }
    }

    /// Every host has every other as a peer.
    fn mesh(count: usize) -> Self {
        Self::start(count, "", |own| (1..=count).filter(|number| *number != own).collect())
    }
}

fn peer(daemon: &Vswitchd, name: &str) -> Value {
    let peers = daemon.ctl(&["peer", "ls"]);
    peers.as_array().unwrap().iter().find(|peer| peer["name"] == name).cloned().unwrap_or_default()
}

#[test]
fn three_hosts_share_one_network() {
    let hosts = Hosts::mesh(3);
    let [one, two, three] = &hosts.containers[..] else { unreachable!() };
    for (near, far, number) in [(one, two, 2), (two, three, 3), (three, one, 1)] {
        tcp::exchange(near, far, &format!("10.9.0.{number}"), 4_000_000, 64 << 10);
        tcp::exchange(near, far, &format!("fd09::{number}"), 4_000_000, 8 << 10);
    }
    // A broadcast reaches every other container once: nothing is forwarded from tunnel to tunnel.
    let receivers = [two.raw("eth0"), three.raw("eth0")];
    let sender = one.raw("eth0");
    let mark = |number: u8| frame(BROADCAST, one.mac("eth0"), EXPERIMENT, &[number; 50]);
    let marks: Vec<_> = (0..20).map(mark).collect();
    marks.iter().for_each(|mark| sender.send(mark));
    sender.send(&mark(99));
    for receiver in &receivers {
        let mut got = receiver.until(PATIENCE, &[99; 50]);
        got.retain(|frame| frame[12..14] == EXPERIMENT.to_be_bytes());
        assert_eq!(got, marks);
    }
    for daemon in &hosts.daemons {
        let tunnel = daemon.ctl(&["tunnel", "ls"]);
        assert_eq!(tunnel["endpoint"]["overlay_mtu"], 1450, "{tunnel:#}");
        assert_eq!(tunnel["endpoint"]["features"]["gro"], true, "{tunnel:#}");
        for peer in tunnel["peers"].as_array().unwrap() {
            assert_eq!((&peer["state"], &peer["macs"]), (&"up".into(), &1.into()), "{peer:#}");
        }
    }
}

#[test]
fn peers_come_and_go_under_load() {
    let hosts = Hosts::start(3, "", |own| if own == 3 { vec![1] } else { vec![3 - own] });
    let [one, two, three] = &hosts.containers[..] else { unreachable!() };
    let daemon = &hosts.daemons[0];
    let flow = tcp::Flow::start(one, two, "10.9.0.2");
    flow.flows(1_000_000);
    assert!(!one.pings("10.9.0.3"), "host 3 is no peer");
    for _ in 0..5 {
        let port = daemon.ctl(&["peer", "add", "10.8.0.3", "--name", "third", "--networks", "blue"]);
        assert_eq!((&port["kind"], &port["state"]), (&"peer".into(), &"up".into()));
        one.reaches("10.9.0.3");
        assert!(three.pings("10.9.0.1"));
        daemon.ctl(&["peer", "rm", "third"]);
        flow.flows(1_000_000);
    }
    let (_, refusal) = daemon.refusal(&["peer", "rm", "10.8.0.2"]);
    assert!(refusal.contains("is declared in the configuration file"), "{refusal}");
    let (_, refusal) = daemon.refusal(&["peer", "add", "10.8.0.2", "--name", "twice"]);
    assert!(refusal.contains("peer 10.8.0.2 has 10.8.0.2 already"), "{refusal}");
    flow.stop();
}

#[test]
fn a_peer_made_through_the_api_outlives_the_daemon() {
    let mut hosts = Hosts::start(2, "", |own| if own == 2 { vec![1] } else { vec![] });
    hosts.daemons[0].ctl(&["peer", "add", "10.8.0.2"]);
    hosts.containers[0].reaches("10.9.0.2");
    hosts.daemons[0].kill();
    hosts.daemons[0].run();
    hosts.containers[0].reaches("10.9.0.2");
    assert_eq!(peer(&hosts.daemons[0], "10.8.0.2")["origin"], "api");
}

#[test]
fn a_stranger_is_named_until_it_is_taken_in() {
    let hosts = Hosts::start(3, "", |own| if own == 1 { vec![3] } else { vec![1] });
    let [one, two, _] = &hosts.containers[..] else { unreachable!() };
    let daemon = &hosts.daemons[0];
    assert!(!two.pings("10.9.0.1"));
    assert!(daemon.dropped("vxlan", "VXLAN_PEER_UNKNOWN") > 0);
    let sentence = "10.8.0.2 is not a peer; 10.8.0.3 is: does it send from another address?";
    daemon.logs(&[sentence]);
    let drops = daemon.ctl(&["drops", "--port", "vxlan"]);
    assert_eq!(drops[0]["hint"], sentence, "{drops:#}");
    assert_eq!(daemon.ctl(&["tunnel", "ls"])["endpoint"]["strangers"][0]["address"], "10.8.0.2");

    daemon.configure(&config(1, one, "learn_peers = true", &[3]));
    daemon.ctl(&["reload"]);
    two.reaches("10.9.0.1");
    assert_eq!(peer(daemon, "10.8.0.2")["origin"], "learned");
    tcp::exchange(one, two, "10.9.0.2", 1_000_000, 64 << 10);
    // Declared now, it stays when learning is turned off.
    daemon.configure(&config(1, one, "", &[2, 3]));
    daemon.ctl(&["reload"]);
    assert_eq!(peer(daemon, "10.8.0.2")["origin"], "file");
    assert!(two.pings("10.9.0.1"));
}

#[test]
fn a_peer_dies_and_returns() {
    let mut hosts = Hosts::mesh(2);
    let flow = tcp::Flow::start(&hosts.containers[0], &hosts.containers[1], "10.9.0.2");
    flow.flows(1_000_000);
    hosts.daemons[1].kill();
    eventually("the peer is silent", || {
        let heard = peer(&hosts.daemons[0], "10.8.0.2")["heard_ms"].as_u64().unwrap();
        (heard > 2000).then_some(())
    });
    flow.abandon();
    hosts.daemons[1].run();
    hosts.containers[0].reaches("10.9.0.2");
    tcp::exchange(&hosts.containers[1], &hosts.containers[0], "10.9.0.1", 1_000_000, 64 << 10);
    eventually("the peer is heard", || {
        let heard = peer(&hosts.daemons[0], "10.8.0.2")["heard_ms"].as_u64().unwrap();
        (heard < 2000).then_some(())
    });
}

#[test]
fn a_flood_reaches_the_peers_through_a_group() {
    let vxlan = "group = \"239.1.1.1\"\nlearn_peers = true";
    let hosts = Hosts::start(3, vxlan, |_| vec![]);
    let [one, two, three] = &hosts.containers[..] else { unreachable!() };
    // A peer learned through the group is answered by unicast.
    one.reaches("10.9.0.2");
    one.reaches("10.9.0.3");
    two.reaches("10.9.0.3");
    tcp::exchange(two, three, "10.9.0.3", 1_000_000, 64 << 10);
    let group = hosts.daemons[0].port("vxlan-group");
    assert!(group["tx"]["frames"].as_u64() > Some(0), "{group:#}");
    let unicast = peer(&hosts.daemons[0], "10.8.0.2");
    assert_eq!(unicast["origin"], "learned", "{unicast:#}");
}

#[test]
fn an_underlay_that_comes_later() {
    let host = Netns::new("host");
    let web = Netns::new("web");
    let daemon = Vswitchd::start_in(host, &config(1, &web, "", &[2]));
    let endpoint = daemon.port("vxlan");
    let reason = "no interface has the address 10.8.0.1: give it to one, or correct vxlan.local";
    assert_eq!((&endpoint["state"], &endpoint["reason"]), (&"down".into(), &reason.into()));
    assert_eq!(peer(&daemon, "10.8.0.2")["state"], "down");
    daemon.host.ip("link add under0 type veth peer name under1");
    daemon.host.ip("link set under1 up");
    daemon.host.ip("addr add 10.8.0.1/24 dev under0");
    daemon.host.ip("link set under0 up");
    daemon.port_is("vxlan", "up");
    daemon.port_is("10.8.0.2", "up");
}

/// `host1 -- router -- host2`, where the second link has an MTU of 1400.
#[test]
fn a_narrow_way_is_found_and_told() {
    let router = Netns::new("router");
    router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    let containers = [1, 2].map(|number| Netns::new(&format!("web{number}")));
    let daemons: Vec<_> = [1, 2]
        .map(|number: usize| {
            let host = Netns::new(&format!("host{number}"));
            router.ip(&format!("link add h{number} type veth peer name eth0 netns {}", host.name()));
            router.ip(&format!("addr add 10.8.{number}.254/24 dev h{number}"));
            router.ip(&format!("link set h{number} up"));
            host.ip(&format!("addr add 10.8.{number}.1/24 dev eth0"));
            host.ip("link set eth0 up");
            host.ip(&format!("route add default via 10.8.{number}.254"));
            if number == 2 {
                router.ip("link set h2 mtu 1400");
            }
            let vxlan = net().vxlan(&format!("10.8.{number}.1")).keys("underlay_mtu = 1500");
            let config = vxlan.peer(&format!("10.8.{}.1", 3 - number));
            Vswitchd::start_in(host, &with_web(config, number, &containers[number - 1]))
        })
        .into();
    let [one, two] = &containers;
    one.reaches("10.9.0.2");

    // Packets that fit pass. Others are refused by the router and then by us, with the size that fits.
    let ping = |size: u32| {
        let size = size.to_string();
        let mut ping = std::process::Command::new("ping");
        ping.args(["-n", "-c", "1", "-W", "1", "-M", "do", "-s", &size, "10.9.0.2"]);
        let output = one.run(|| ping.output().unwrap());
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(ping(1350 - 28).0);
    let told = eventually("the sender is told", || {
        let (passed, text) = ping(1351 - 28);
        assert!(!passed, "{text}");
        text.contains("mtu").then_some(text)
    });
    assert!(told.contains("mtu = 1350") || told.contains("mtu=1350"), "{told}");
    assert!(daemons[0].dropped("10.8.2.1", "PKT_TOO_BIG") > 0);
    assert_eq!(peer(&daemons[0], "10.8.2.1")["path_mtu"], 1400);
    tcp::exchange(one, two, "10.9.0.2", 1_000_000, 64 << 10);

    let probe = daemons[0].ctl(&["peer", "probe", "10.8.2.1"]);
    assert_eq!((&probe["path_mtu"], &probe["overlay_mtu"]), (&1400.into(), &1350.into()), "{probe:#}");
    let (code, refusal) = daemons[0].refusal(&["peer", "probe", "10.8.1.99"]);
    assert_eq!(code, 4, "{refusal}");
}
