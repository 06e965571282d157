//! The guard of endpoints and of declared ports: what a container can do to others, and what it may do.

use std::{thread, time::Duration};

use serde_json::{Value, json};
use vswitch_tests::{
    Config, Netns, PATIENCE, Raw, Vswitchd, eventually, net,
    raw::{BROADCAST, EXPERIMENT, frame},
};

const KINDS: [&str; 2] = ["tap", "veth"];

/// VRRP's virtual router 10 (RFC 9568 section 7.3).
const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 10];

/// Three containers: a, b and c, with 10.9.0.2 to 10.9.0.4.
struct Trio {
    switch: Vswitchd,
    netns: [Netns; 3],
}

impl Trio {
    /// As endpoints of a network.
    fn connected(kind: &str, options: &str) -> Self {
        let switch = Vswitchd::start(&net());
        let trio = Self { switch, netns: ["a", "b", "c"].map(Netns::new) };
        trio.ctl(&[
            "network",
            "create",
            "--subnet",
            "10.9.0.0/24",
            "--subnet",
            "fd00:9::/64",
            "--opt",
            options,
            "blue",
        ]);
        for (index, netns) in trio.netns.iter().enumerate() {
            let (ip, place) = (format!("10.9.0.{}", index + 2), format!("netns:{}", netns.name()));
            let kind = format!("kind={kind}");
            let name = ["a", "b", "c"][index];
            trio.ctl(&["network", "connect", "--name", name, "--ip", &ip, "-o", &kind, "blue", &place]);
        }
        trio
    }

    /// As declared ports; `guard` is the key of each.
    fn declared(kind: &str, guard: &str) -> Self {
        let netns = ["a", "b", "c"].map(Netns::new);
        let switch = Vswitchd::start(&config(kind, guard, &netns));
        Self { switch, netns }
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.switch.try_ctl(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}", output.stderr);
        output.stdout
    }

    fn raw(&self, place: usize) -> Raw {
        self.netns[place].run(|| Raw::open("eth0").unwrap())
    }

    /// Frames that were dropped for `reason`.
    fn drops(&self, reason: &str) -> u64 {
        drops(&self.switch, reason)
    }

    /// Sends frames from c and waits until all of them were dropped for `reason`.
    fn refuses(&self, reason: &str, frames: &[Vec<u8>]) {
        let before = self.drops(reason);
        let raw = self.raw(2);
        frames.iter().for_each(|frame| raw.send(frame));
        let expected = before + frames.len() as u64;
        eventually(reason, || (self.drops(reason) >= expected).then_some(()));
    }
}

fn config(kind: &str, guard: &str, netns: &[Netns; 3]) -> Config {
    let mut config = net().network("blue");
    for (index, netns) in netns.iter().enumerate() {
        let number = index + 2;
        config = config.port(["a", "b", "c"][index], kind, netns).mac(&format!("02:42:0a:09:00:0{number}"));
        config = config.address(&format!("10.9.0.{number}/24 fd00:9::{number}/64")).keys(guard);
    }
    config
}

fn drops(switch: &Vswitchd, reason: &str) -> u64 {
    let drops = switch.ctl(&["drops"]);
    let of = drops.as_array().unwrap().iter().filter(|drop| drop["reason"] == reason);
    of.map(|drop| drop["frames"].as_u64().unwrap()).sum()
}

fn mac(last: u8) -> [u8; 6] {
    [0x02, 0x42, 0x0a, 9, 0, last]
}

fn arp(src: [u8; 6], sender: [u8; 6], address: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let payload = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &sender, &address, &[0; 6], &target, &[0; 18]].concat();
    frame(BROADCAST, src, 0x0806, &payload)
}

fn udp(src: [u8; 4], dst: [u8; 4], dport: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + payload.len()).unwrap();
    let [high, low] = length.to_be_bytes();
    let mut ip = [&[0x45, 0, high, low, 0, 1, 0, 0, 64, 17, 0, 0][..], &src, &dst].concat();
    let sum: u32 = ip.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
    let folded = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&folded.to_be_bytes());
    let mut udp = vec![0x13, 0x88];
    udp.extend(dport.to_be_bytes());
    udp.extend((length - 20).to_be_bytes());
    udp.extend([0, 0]);
    frame(mac(2), mac(4), 0x0800, &[&ip[..], &udp, payload].concat())
}

/// One router advertisement from c, with prefix 2001:db8:bad::/64.
fn advertisement() -> Vec<u8> {
    let hex = "33330000000102420a09000486dd6000000000383afffe8000000000000000420afffe090004ff02000000000000000000000000\
               000186001775400007080000000000000000030440c000015180000038400000000020010db80bad000000000000000000000101024\
               20a090004";
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The four attacks of a container on its neighbours: each fails, by its name.
fn resists(trio: &Trio, who: &str) {
    let [a, b, c] = &trio.netns;
    a.reaches("10.9.0.3");
    c.reaches("10.9.0.2");
    // Taking over an address.
    trio.refuses("GUARD_MAC", &[frame(BROADCAST, mac(3), EXPERIMENT, &[0; 46])]);
    for _ in 0..5 {
        assert!(a.pings("10.9.0.3"), "{who}: b has lost its address");
    }
    let entry = trio.switch.ctl(&["fdb", "ls"]);
    let entry = entry.as_array().unwrap().iter().find(|entry| entry["mac"] == "02:42:0a:09:00:03").cloned();
    let entry = entry.unwrap();
    assert!(entry["port"].as_str().unwrap().starts_with('b') && entry["origin"] == "pinned", "{entry}");
    // Claiming it by ARP.
    let claims = vec![arp(mac(4), mac(4), [10, 9, 0, 3], [10, 9, 0, 2]); 20];
    trio.refuses("GUARD_ARP", &claims);
    let neighbours = a.ip("neigh show 10.9.0.3");
    assert!(neighbours.contains("02:42:0a:09:00:03"), "{who}: {neighbours}");
    // Sending with it.
    let socket = a.udp("10.9.0.2");
    let to = socket.local_addr().unwrap().port();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    trio.refuses("GUARD_IP", &[udp([10, 9, 0, 3], [10, 9, 0, 2], to, b"forged")]);
    trio.raw(2).send(&udp([10, 9, 0, 4], [10, 9, 0, 2], to, b"own"));
    let mut buffer = [0; 16];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"own"[..], "10.9.0.4"), "{who}");
    // Becoming everybody's router.
    trio.refuses("GUARD_RA", &[advertisement()]);
    let routes = a.ip("-6 route show default");
    assert!(!routes.contains("fe80::42:aff:fe09:4"), "{who}: {routes}");
    assert!(!a.ip("-6 address show dev eth0").contains("2001:db8:bad:"), "{who}");
    eventually("the guard's event", || {
        let events = trio.switch.try_ctl(&["events"]).stdout;
        events.contains("refuses what its station sends").then_some(())
    });
    b.reaches("10.9.0.4");
    c.reaches("fd00:9::2");
}

#[test]
fn endpoints_are_guarded_by_default_and_stay_so_after_a_restart() {
    for kind in KINDS {
        let mut trio = Trio::connected(kind, "mtu=1500");
        resists(&trio, kind);
        trio.switch.stop();
        trio.switch.run();
        resists(&trio, kind);
        let hex: String =
            arp(mac(4), mac(4), [10, 9, 0, 3], [10, 9, 0, 2]).iter().map(|it| format!("{it:02x}")).collect();
        let trace = trio.switch.ctl(&["trace", "--port", "c.blue", "--hex", &hex]);
        assert!(trace.to_string().contains("GUARD_ARP"), "{trace}");
    }
}

#[test]
fn declared_ports_are_guarded_where_they_say_so_and_a_reload_changes_it() {
    for kind in KINDS {
        let trio = Trio::declared(kind, "guard = true");
        resists(&trio, kind);
        let forged = frame(BROADCAST, mac(9), EXPERIMENT, &[0; 46]);
        let raw = [trio.raw(0), trio.raw(2)];
        let arrives = || {
            raw[1].send(&forged);
            raw[0].find(Duration::from_millis(300), |frame| frame[6..12] == mac(9)).is_some()
        };
        assert!(!arrives(), "{kind}");
        for (guard, expected) in [
            ("guard = { also = [\"02:42:0a:09:00:09\"] }", true),
            ("guard = { also = [\"10.9.0.100\", \"10.9.0.0/28\"] }", false),
            ("guard = false", true),
            ("guard = true", false),
            ("", true),
        ] {
            trio.switch.configure(&config(kind, guard, &trio.netns));
            trio.ctl(&["reload"]);
            assert_eq!(arrives(), expected, "{kind}: {guard:?}");
        }
    }
}

/// What containers legally do: detect duplicates, announce themselves, ask for routers and addresses, join groups.
#[test]
fn what_is_its_own_passes() {
    for kind in KINDS {
        let trio = Trio::connected(kind, "mtu=1500");
        let [a, _, c] = &trio.netns;
        // The kernel detects duplicates of these, and then uses them; one is like those that RFC 7217 makes.
        c.ip("address add fe80::1234:5678:9abc:def0/64 dev eth0");
        eventually("its duplicate detection ends", || {
            (!c.ip("-6 address show dev eth0 tentative").contains("fe80")).then_some(())
        });
        assert!(!c.ip("-6 address show dev eth0").contains("dadfailed"), "{kind}");
        c.reaches("fd00:9::2");
        let (raw, others) = (trio.raw(2), trio.raw(0));
        let announcement = arp(mac(4), mac(4), [10, 9, 0, 4], [10, 9, 0, 4]);
        let probe = arp(mac(4), mac(4), [0; 4], [10, 9, 0, 4]);
        let mut discover = udp([0; 4], [255; 4], 67, &[1; 240]);
        discover[34..36].copy_from_slice(&68_u16.to_be_bytes());
        discover[..6].copy_from_slice(&BROADCAST);
        for frame in [announcement, probe, discover] {
            raw.send(&frame);
            let came = others.find(PATIENCE, |got| got.starts_with(&frame));
            assert!(came.is_some(), "{kind}: {frame:02x?}");
        }
        a.reaches("10.9.0.4");
        for reason in ["GUARD_MAC", "GUARD_IP", "GUARD_ARP", "GUARD_ND", "GUARD_RA", "GUARD_DHCP"] {
            assert_eq!(trio.drops(reason), 0, "{kind}: {reason}");
        }
    }
}

/// keepalived: a virtual address behind a virtual MAC address moves from one container to another.
#[test]
fn a_virtual_router_moves_where_both_may_be_it() {
    for kind in KINDS {
        let trio = Trio::connected(kind, "guard.also=10.9.0.100,00:00:5e:00:01:0a");
        let [a, b, c] = &trio.netns;
        let be_master = |netns: &Netns, raw: &Raw| {
            netns.ip("link add vrrp.10 link eth0 type macvlan mode private");
            netns.ip("link set vrrp.10 address 00:00:5e:00:01:0a up");
            netns.ip("address add 10.9.0.100/32 dev vrrp.10");
            netns.run(|| {
                // As keepalived does: only the virtual address's own interface answers for it.
                for (file, value) in
                    [("all/arp_ignore", "1"), ("all/rp_filter", "0"), ("vrrp.10/rp_filter", "0")]
                {
                    std::fs::write(format!("/proc/sys/net/ipv4/conf/{file}"), value).unwrap();
                }
            });
            raw.send(&arp(VIRTUAL, VIRTUAL, [10, 9, 0, 100], [10, 9, 0, 100]));
        };
        let (of_b, of_c) = (trio.raw(1), trio.raw(2));
        be_master(b, &of_b);
        a.reaches("10.9.0.100");
        b.ip("link del vrrp.10");
        be_master(c, &of_c);
        a.reaches("10.9.0.100");
        for reason in ["GUARD_MAC", "GUARD_ARP"] {
            assert_eq!(trio.drops(reason), 0, "{kind}: {reason}");
        }
        // Not for others.
        trio.refuses("GUARD_MAC", &[frame(BROADCAST, [0, 0, 0x5e, 0, 1, 11], EXPERIMENT, &[0; 46])]);
    }
}

#[test]
fn a_guard_is_switched_off_for_an_endpoint_or_a_network() {
    let trio = Trio::connected("tap", "guard=off");
    let forged = frame(BROADCAST, mac(3), EXPERIMENT, b"forged frame of another's address");
    let others = trio.raw(0);
    trio.raw(2).send(&forged);
    assert!(others.find(PATIENCE, |got| got.starts_with(&forged)).is_some());
    trio.ctl(&["network", "update", "--opt", "guard=on", "blue"]);
    trio.refuses("GUARD_MAC", std::slice::from_ref(&forged));
    trio.ctl(&["network", "disconnect", "blue", "c"]);
    let place = format!("netns:{}", trio.netns[2].name());
    trio.ctl(&["network", "connect", "--name", "c", "--ip", "10.9.0.4", "--guard=off", "blue", &place]);
    assert_eq!(trio.switch.port("c.blue")["guard"], Value::Null);
    assert_eq!(trio.switch.port("b.blue")["guard"], json!(true));
    // b's address is pinned, for b is guarded: from elsewhere it is dropped all the same.
    trio.refuses("LOCAL_MAC", &[forged]);
}

/// A container in two networks sends with either address by either interface.
#[test]
fn the_addresses_of_a_container_in_other_networks_pass() {
    let trio = Trio::connected("tap", "mtu=1500");
    trio.ctl(&["network", "create", "--subnet", "10.8.0.0/24", "red"]);
    let place = format!("netns:{}", trio.netns[2].name());
    trio.ctl(&["network", "connect", "--name", "c", "--ip", "10.8.0.4", "red", &place]);
    let others = trio.raw(0);
    trio.refuses("GUARD_IP", &[udp([10, 8, 0, 5], [10, 9, 0, 2], 9, b"of another station")]);
    trio.raw(2).send(&udp([10, 8, 0, 4], [10, 9, 0, 2], 9, b"of its other network"));
    assert!(others.find(PATIENCE, |frame| frame.ends_with(b"of its other network")).is_some());
}

/// One's own gateway's address cannot be taken, guarded or not.
#[test]
fn the_address_of_a_gateway_stays_with_it() {
    for (option, reason) in [("guard=on", "GUARD_MAC"), ("guard=off", "LOCAL_MAC")] {
        let trio = Trio::connected("tap", option);
        let [a, ..] = &trio.netns;
        a.reaches("10.9.0.1");
        trio.refuses(reason, &vec![frame(BROADCAST, mac(1), EXPERIMENT, &[0; 46]); 10]);
        for _ in 0..5 {
            assert!(a.pings("10.9.0.1"), "{option}");
        }
        let refusal = trio.switch.try_ctl(&["fdb", "del", "blue", "02:42:0a:09:00:01"]);
        assert!(refusal.stderr.contains("belongs to gw.blue and stays there"), "{}", refusal.stderr);
    }
}

/// The host's own interface in a network takes no container for its router, nor what comes from there for a tunnel's.
#[test]
fn the_hosts_own_interface_believes_no_router() {
    let c = Netns::new("c");
    let config = net().network("own").keys("[[port]]\nname = \"own0\"\nnetwork = \"own\"\nkind = \"tap\"");
    let switch = Vswitchd::start(&config.tap("c", &c).mac("02:42:0a:09:00:04").address("10.9.0.4/24"));
    let raw = c.run(|| Raw::open("eth0").unwrap());
    for setting in ["ipv6/conf/own0/accept_ra", "ipv6/conf/own0/accept_redirects", "ipv6/conf/own0/autoconf"]
    {
        let value = switch.host.run(|| std::fs::read_to_string(format!("/proc/sys/net/{setting}")).unwrap());
        assert_eq!(value.trim(), "0", "{setting}");
    }
    for _ in 0..3 {
        raw.send(&advertisement());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!switch.host.ip("-6 route show default").contains("fe80::42:aff:fe09:4"));
}
