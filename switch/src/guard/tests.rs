//! Every drop of the guard, by frames as they are on the wire; what stations legally send; and a naive model.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const OWN: [u8; 6] = [0x02, 0x42, 0x0a, 9, 0, 4];
const OTHER: [u8; 6] = [0x02, 0x42, 0x0a, 9, 0, 3];
/// The MAC address of VRRP's virtual router 10 (RFC 9568 section 7.3).
const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 10];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(text: &str) -> Vec<u8> {
    match ip(text) {
        IpAddr::V4(it) => it.octets().to_vec(),
        IpAddr::V6(it) => it.octets().to_vec(),
    }
}

fn guard() -> Guard {
    Guard::new(MacAddr(OWN), ["10.9.0.4", "fd00:9::4"].map(ip), [], [])
}

fn with(also: &[(&str, u8)], macs: &[[u8; 6]]) -> Guard {
    let also = also.iter().map(|(address, prefix)| (ip(address), *prefix));
    Guard::new(MacAddr(OWN), ["10.9.0.4", "fd00:9::4"].map(ip), also, macs.iter().map(|mac| MacAddr(*mac)))
}

/// What the guard says where the station with [`OTHER`] is known.
fn judged(guard: &Guard, frame: &[u8]) -> &'static str {
    let taken = link_local_of(MacAddr(OTHER));
    guard.judge(frame, |address| address == taken).map_or_else(DropReason::name, |()| "")
}

fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

fn from_own(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    ethernet([0xff; 6], OWN, ethertype, payload)
}

fn arp(sender: [u8; 6], address: &str, target: &str) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    from_own(0x0806, &[&head[..], &sender, &octets(address), &[0; 6], &octets(target)].concat())
}

fn ipv4(src: &str, dst: &str, protocol: u8, fragment: u16, upper: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + upper.len()).unwrap().to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let head = [0x45, 0, length[0], length[1], 0, 1, fragment[0], fragment[1], 64, protocol, 0, 0];
    from_own(0x0800, &[&head[..], &octets(src), &octets(dst), upper].concat())
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

fn packet6(src: &str, dst: &str, next: u8, upper: &[u8]) -> Vec<u8> {
    let length = u16::try_from(upper.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], next, 255][..], &octets(src), &octets(dst), upper].concat()
}

fn ipv6(src: &str, dst: &str, next: u8, upper: &[u8]) -> Vec<u8> {
    from_own(0x86dd, &packet6(src, dst, next, upper))
}

/// A message of neighbour discovery with options: type, and MAC address.
fn neighbour(kind: u8, target: &str, options: &[(u8, [u8; 6])]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    if kind != 133 {
        message.extend(octets(target));
    }
    for (option, mac) in options {
        message.extend([*option, 1]);
        message.extend(mac);
    }
    message
}

const RA: &[u8] = &[134, 0, 0, 0, 64, 8, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_station_speaks_for_itself_only() {
    let guard = guard();
    let cases = [
        ("its own MAC", "", from_own(0x88b5, b"x")),
        ("another's MAC", "GUARD_MAC", ethernet([0xff; 6], OTHER, 0x88b5, b"x")),
        ("its own IP", "", ipv4("10.9.0.4", "10.9.0.2", 17, 0, &udp(7, 9))),
        ("another's IP", "GUARD_IP", ipv4("10.9.0.3", "10.9.0.2", 17, 0, &udp(7, 9))),
        ("another's IP in a later fragment", "GUARD_IP", ipv4("10.9.0.3", "10.9.0.2", 17, 185, &udp(7, 9))),
        ("a later fragment", "", ipv4("10.9.0.4", "10.9.0.2", 17, 185, &udp(67, 68))),
        ("half an IPv4 header", "GUARD_IP", from_own(0x0800, &[0x45; 19])),
        ("another version", "GUARD_IP", from_own(0x0800, &packet6("fd00:9::4", "fd00:9::2", 59, &[]))),
        ("its own IPv6", "", ipv6("fd00:9::4", "fd00:9::2", 17, &udp(7, 9))),
        ("another's IPv6", "GUARD_IP", ipv6("fd00:9::3", "fd00:9::2", 17, &udp(7, 9))),
        ("of its subnet, but not on record", "GUARD_IP", ipv6("fd00:9::42:aff:fe09:4", "fd00:9::2", 6, &[])),
        ("half an IPv6 header", "GUARD_IP", from_own(0x86dd, &[0x60; 39])),
        ("link-local, of its MAC", "", ipv6("fe80::42:aff:fe09:4", "ff02::1", 17, &udp(7, 9))),
        ("link-local, stable and private", "", ipv6("fe80::1234:5678:9abc:def0", "ff02::1", 17, &udp(7, 9))),
        (
            "link-local, of a known neighbour",
            "GUARD_IP",
            ipv6("fe80::42:aff:fe09:3", "ff02::1", 17, &udp(7, 9)),
        ),
        ("its own ARP", "", arp(OWN, "10.9.0.4", "10.9.0.2")),
        ("a gratuitous one", "", arp(OWN, "10.9.0.4", "10.9.0.4")),
        ("a probe", "", arp(OWN, "0.0.0.0", "10.9.0.4")),
        ("ARP for another's IP", "GUARD_ARP", arp(OWN, "10.9.0.3", "10.9.0.2")),
        ("ARP with another's MAC", "GUARD_ARP", arp(OTHER, "10.9.0.4", "10.9.0.2")),
        ("half an ARP", "GUARD_ARP", from_own(0x0806, &[0, 1, 8, 0, 6, 4, 0, 2])),
    ];
    for (what, expected, frame) in cases {
        assert_eq!(judged(&guard, &frame), expected, "{what}");
    }
}

#[test]
fn a_station_claims_its_own_addresses_only() {
    let (own, other, all) = ("fd00:9::4", "fd00:9::3", "ff02::1");
    let guard = guard();
    let message = |src: &str, kind, target: &str, options: &[(u8, [u8; 6])]| {
        ipv6(src, all, 58, &neighbour(kind, target, options))
    };
    let mut bad_option = neighbour(136, own, &[(2, OWN)]);
    bad_option[25] = 0;
    let mut long_option = neighbour(136, own, &[(2, OWN)]);
    long_option[25] = 2;
    let mut padded = message(own, 135, other, &[(1, OWN)]);
    padded.extend([0; 20]);
    let cases = [
        ("its own address", "", message(own, 136, own, &[(2, OWN)])),
        ("its link-local address", "", message("fe80::7", 136, "fe80::7", &[(2, OWN)])),
        ("another's address", "GUARD_ND", message(own, 136, other, &[(2, OWN)])),
        ("another's default link-local address", "GUARD_ND", message(own, 136, "fe80::42:aff:fe09:3", &[])),
        ("another's MAC", "GUARD_ND", message(own, 136, own, &[(2, OTHER)])),
        ("asks for another", "", message(own, 135, other, &[(1, OWN)])),
        ("asks, in a frame of the least length", "", padded),
        ("asks as another", "GUARD_ND", message(own, 135, other, &[(1, OTHER)])),
        ("duplicate address detection", "", message("::", 135, own, &[])),
        ("of a link-local address", "", message("::", 135, "fe80::7", &[])),
        ("of another's address", "GUARD_ND", message("::", 135, other, &[])),
        ("asks for routers", "", message("fe80::7", 133, "", &[(1, OWN)])),
        ("asks for routers, without an address", "", message("::", 133, "", &[])),
        ("asks for routers as another", "GUARD_ND", message("fe80::7", 133, "", &[(1, OTHER)])),
        ("an option without length", "GUARD_ND", ipv6(own, all, 58, &bad_option)),
        ("an option beyond the end", "GUARD_ND", ipv6(own, all, 58, &long_option)),
        ("without its target", "GUARD_ND", ipv6(own, all, 58, &[136, 0, 0, 0, 0, 0, 0, 0])),
        ("a redirect", "GUARD_RA", message(own, 137, own, &[])),
        ("a router's advertisement", "GUARD_RA", ipv6("fe80::7", all, 58, RA)),
        ("an echo", "", ipv6(own, all, 58, &[128, 0, 0, 0])),
        (
            "hears a group",
            "",
            ipv6("::", "ff02::16", 0, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("without address to a station", "GUARD_IP", ipv6("::", "fd00:9::2", 58, &[128, 0, 0, 0])),
        ("an IPv4 redirect", "GUARD_RA", ipv4("10.9.0.4", "10.9.0.2", 1, 0, &[5, 1, 0, 0])),
        ("an IPv4 router's advertisement", "GUARD_RA", ipv4("10.9.0.4", "224.0.0.1", 1, 0, &[9, 0, 0, 0])),
        ("an IPv4 echo", "", ipv4("10.9.0.4", "10.9.0.2", 1, 0, &[8, 0, 0, 0])),
    ];
    for (what, expected, frame) in cases {
        assert_eq!(judged(&guard, &frame), expected, "{what}");
    }
}

#[test]
fn a_station_is_no_dhcp_server() {
    let guard = guard();
    let cases = [
        ("a client", "", ipv4("0.0.0.0", "255.255.255.255", 17, 0, &udp(68, 67))),
        ("renews", "", ipv4("10.9.0.4", "10.9.0.1", 17, 0, &udp(68, 67))),
        ("a server", "GUARD_DHCP", ipv4("10.9.0.4", "255.255.255.255", 17, 0, &udp(67, 68))),
        ("a server to a relay", "GUARD_DHCP", ipv4("10.9.0.4", "10.9.0.1", 17, 0, &udp(67, 67))),
        ("a server by another port", "GUARD_DHCP", ipv4("10.9.0.4", "10.9.0.2", 17, 0, &udp(4000, 68))),
        ("a server's first fragment", "GUARD_DHCP", ipv4("10.9.0.4", "10.9.0.2", 17, 0x2000, &udp(67, 68))),
        ("hides its ports", "GUARD_DHCP", ipv4("10.9.0.4", "10.9.0.2", 17, 0x2000, &[0])),
        ("without address to a station", "GUARD_IP", ipv4("0.0.0.0", "10.9.0.1", 17, 0, &udp(68, 67))),
        ("IGMP without address", "", ipv4("0.0.0.0", "224.0.0.22", 2, 0, &[0x22, 0, 0, 0])),
        ("a client of DHCPv6", "", ipv6("fe80::7", "ff02::1:2", 17, &udp(546, 547))),
        ("a server of DHCPv6", "GUARD_DHCP", ipv6("fe80::7", "fe80::8", 17, &udp(547, 546))),
        ("by another port", "GUARD_DHCP", ipv6("fe80::7", "fe80::8", 17, &udp(4000, 546))),
    ];
    for (what, expected, frame) in cases {
        assert_eq!(judged(&guard, &frame), expected, "{what}");
    }
}

/// RFC 7113: what is behind extension headers and in fragments is no better hidden.
#[test]
fn a_router_does_not_hide_behind_headers() {
    let (own, all) = ("fe80::7", "ff02::1");
    let guard = guard();
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |next: u8, offset: u16, more: bool| {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        [next, 0, high, low, 0, 0, 0, 1]
    };
    let behind = |first: u8, headers: &[&[u8]], upper: &[u8]| {
        ipv6(own, all, first, &[&headers.concat()[..], upper].concat())
    };
    let na = neighbour(136, own, &[(2, OWN)]);
    let mut cut = behind(44, &[&fragment(60, 0, true), &[58, 1, 1, 4, 0, 0, 0, 0]], &[]);
    // Padding to the least length of a frame: no header, though it could be read as the rest of one.
    cut.resize(14 + 40 + 40, 0);
    let cases = [
        ("hop by hop", "GUARD_RA", behind(0, &[&options(58)], RA)),
        ("destination options", "GUARD_RA", behind(60, &[&options(58)], RA)),
        ("several", "GUARD_RA", behind(0, &[&options(60), &options(43), &options(60), &options(58)], RA)),
        ("authenticated", "GUARD_RA", behind(51, &[&[58, 4, 0, 0], &[0; 20]], RA)),
        ("an atomic fragment", "GUARD_RA", behind(44, &[&fragment(58, 0, false)], RA)),
        ("a first fragment", "GUARD_RA", behind(44, &[&fragment(58, 0, true)], RA)),
        (
            "a first fragment, behind options",
            "GUARD_RA",
            behind(60, &[&options(44), &fragment(58, 0, true)], RA),
        ),
        ("options in a first fragment", "GUARD_RA", behind(44, &[&fragment(60, 0, true), &options(58)], RA)),
        (
            "options that go on in a later one",
            "GUARD_RA",
            behind(44, &[&fragment(60, 0, true), &[58, 1]], &[]),
        ),
        ("the same, padded", "GUARD_RA", cut),
        ("nothing but a fragment header", "GUARD_RA", behind(44, &[&fragment(58, 0, true)], &[])),
        ("half a fragment header", "GUARD_RA", behind(44, &[&[58, 0]], &[])),
        ("a later fragment", "", behind(44, &[&fragment(58, 1, false)], RA)),
        ("neighbour discovery in a fragment", "GUARD_ND", behind(44, &[&fragment(58, 0, true)], &na)),
        ("in an atomic one", "GUARD_ND", behind(44, &[&fragment(58, 0, false)], &na)),
        ("an echo in a fragment", "", behind(44, &[&fragment(58, 0, true)], &[128, 0, 0, 0])),
        ("a DHCPv6 server behind options", "GUARD_DHCP", behind(60, &[&options(17)], &udp(547, 546))),
        ("a DHCPv6 server's fragment", "GUARD_DHCP", behind(44, &[&fragment(17, 0, true)], &udp(547, 546))),
        (
            "as many headers as are skipped",
            "",
            behind(60, &[&[60, 0, 1, 4, 0, 0, 0, 0].repeat(15), &options(6)], &[]),
        ),
        ("more of them", "GUARD_RA", behind(60, &[&[60, 0, 1, 4, 0, 0, 0, 0].repeat(16), &options(6)], &[])),
        ("opaque", "", behind(50, &[], &[0; 40])),
        ("nothing", "", behind(59, &[], &[])),
    ];
    for (what, expected, frame) in cases {
        assert_eq!(judged(&guard, &frame), expected, "{what}");
    }
}

#[test]
fn nothing_hides_behind_tags_or_llc() {
    let guard = guard();
    let frames = [
        ("GUARD_RA", 0x86dd, packet6("fe80::7", "ff02::1", 58, RA)),
        ("GUARD_IP", 0x86dd, packet6("fd00:9::3", "ff02::1", 6, &[])),
        ("", 0x86dd, packet6("fd00:9::4", "ff02::1", 6, &[])),
        ("GUARD_ARP", 0x0806, arp(OWN, "10.9.0.3", "10.9.0.2")[14..].to_vec()),
        ("", 0x0806, arp(OWN, "10.9.0.4", "10.9.0.2")[14..].to_vec()),
    ];
    let snap = |length: u16| [&length.to_be_bytes()[..], &[0xaa, 0xaa, 3, 0, 0, 0]].concat();
    let covers: [(&str, Vec<u8>); 9] = [
        ("a tag", vec![0x81, 0, 0, 10]),
        ("a priority", vec![0x81, 0, 0xe0, 0]),
        ("a service tag", vec![0x88, 0xa8, 0, 10]),
        ("two", vec![0x88, 0xa8, 0, 10, 0x81, 0, 0, 20]),
        ("an older type", vec![0x91, 0, 0, 10]),
        ("LLC", snap(80)),
        ("LLC with a wrong length", snap(1)),
        ("LLC behind a tag", [&[0x81, 0, 0, 0][..], &snap(80)].concat()),
        ("a tag behind LLC", [&snap(80)[..], &[0x81, 0, 0, 0]].concat()),
    ];
    for (expected, ethertype, packet) in &frames {
        for (what, cover) in &covers {
            let rest = [&cover[..], &u16::to_be_bytes(*ethertype), packet].concat();
            let frame = [&[0xff; 6][..], &OWN, &rest].concat();
            assert_eq!(judged(&guard, &frame), *expected, "{ethertype:x} behind {what}");
        }
    }
    let many = |tags: usize| [&[0xff; 6][..], &OWN, &[0x81, 0, 0, 0].repeat(tags), &[0x88, 0xb5]].concat();
    assert_eq!(judged(&guard, &many(MOST_HEADERS - 1)), "");
    assert_eq!(judged(&guard, &many(MOST_HEADERS)), "GUARD_RA");
    assert_eq!(
        judged(&guard, &from_own(0x0600, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 6])),
        "",
        "a type, and no length"
    );
}

#[test]
fn what_it_may_use_besides_passes() {
    let vrrp = with(&[("10.9.0.100", 32), ("10.9.1.0", 24), ("fd00:9:1::", 64)], &[VIRTUAL]);
    let mut advertisement = ipv4("10.9.0.4", "224.0.0.18", 112, 0, &[0x31, 10, 100, 1]);
    advertisement[6..12].copy_from_slice(&VIRTUAL);
    let mut gratuitous = arp(VIRTUAL, "10.9.0.100", "10.9.0.100");
    gratuitous[6..12].copy_from_slice(&VIRTUAL);
    let cases = [
        ("an advertisement of VRRP", "", advertisement),
        ("the virtual address by the virtual MAC", "", gratuitous),
        ("the virtual address by the own MAC", "", arp(OWN, "10.9.0.100", "10.9.0.100")),
        ("a subnet's first address", "", ipv4("10.9.1.0", "10.9.0.2", 6, 0, &[])),
        ("its last", "", ipv4("10.9.1.255", "10.9.0.2", 6, 0, &[])),
        ("the one after it", "GUARD_IP", ipv4("10.9.2.0", "10.9.0.2", 6, 0, &[])),
        ("the one before it", "GUARD_IP", ipv4("10.9.0.255", "10.9.0.2", 6, 0, &[])),
        ("of an IPv6 subnet", "", ipv6("fd00:9:1::ffff", "ff02::1", 6, &[])),
        ("its own", "", ipv6("fd00:9::4", "ff02::1", 6, &[])),
        ("another's MAC", "GUARD_MAC", ethernet([0xff; 6], OTHER, 0x88b5, b"x")),
    ];
    for (what, expected, frame) in cases {
        assert_eq!(judged(&vrrp, &frame), expected, "{what}");
    }
    let all = with(&[("0.0.0.0", 0), ("::", 0)], &[]);
    assert_eq!(judged(&all, &ipv4("192.0.2.7", "10.9.0.2", 6, 0, &[])), "");
    assert_eq!(judged(&all, &ipv6("2001:db8::7", "ff02::1", 6, &[])), "");
}

#[test]
fn without_addresses_on_record_only_its_mac_is_known() {
    let plain = Guard::new(MacAddr(OWN), [], [], []);
    let cases = [
        ("", ipv4("192.0.2.7", "10.9.0.2", 6, 0, &[])),
        ("", arp(OWN, "192.0.2.7", "10.9.0.2")),
        ("GUARD_ARP", arp(OTHER, "192.0.2.7", "10.9.0.2")),
        ("", ipv6("2001:db8::7", "ff02::1", 58, &neighbour(136, "2001:db8::7", &[(2, OWN)]))),
        ("GUARD_ND", ipv6("2001:db8::7", "ff02::1", 58, &neighbour(136, "2001:db8::7", &[(2, OTHER)]))),
        ("GUARD_RA", ipv6("fe80::7", "ff02::1", 58, RA)),
        ("GUARD_DHCP", ipv4("10.9.0.4", "255.255.255.255", 17, 0, &udp(67, 68))),
    ];
    for (expected, frame) in cases {
        assert_eq!(judged(&plain, &frame), expected);
    }
}

proptest! {
    /// Input cannot panic the guard, and whatever passes has a source of the station.
    #[test]
    fn any_bytes_are_judged(
        ethertype in prop_oneof![Just(0x0800_u16), Just(0x86dd), Just(0x0806), Just(0x8100), Just(40), any::<u16>()],
        own_source in any::<bool>(),
        mut payload in prop::collection::vec(prop_oneof![3 => any::<u8>(), 2 => Just(0), 1 => Just(58), 1 => Just(44), 1 => Just(60)], 0..200),
    ) {
        if own_source && ethertype == 0x86dd && payload.len() >= 40 {
            payload[0] = 0x60;
            payload[8..24].copy_from_slice(&octets("fd00:9::4"));
        }
        let frame = from_own(ethertype, &payload);
        let verdict = judged(&guard(), &frame);
        if verdict.is_empty() && ethertype == 0x0800 {
            let source: [u8; 4] = payload[12..16].try_into().unwrap();
            prop_assert!(source == [10, 9, 0, 4] || source == [0; 4]);
        }
        for cut in 0..frame.len() {
            let _ = guard().judge(&frame[..cut], |_| false);
        }
    }

    /// Ranges hold what one of their prefixes holds.
    #[test]
    fn prefixes_are_ranges(nets in prop::collection::vec((any::<u32>(), 0..=32_u8), 0..8), near in 0..8_usize, by in -2..=2_i64, any in any::<u32>()) {
        let also = nets.iter().map(|(address, prefix)| (IpAddr::V4(std::net::Ipv4Addr::from_bits(*address)), *prefix));
        let guard = Guard::new(MacAddr(OWN), [ip("10.9.0.4")], also, []);
        let near = nets.get(near).map_or(any, |(address, _)| u32::try_from((i64::from(*address) + by).clamp(0, i64::from(u32::MAX))).unwrap());
        for address in [near, any] {
            let within = |(net, prefix): &(u32, u8)| *prefix == 0 || (net ^ address) >> (32 - prefix) == 0;
            let expected = address == 0x0a09_0004 || nets.iter().any(within);
            prop_assert_eq!(guard.has_v4(address), expected);
        }
    }
}

proptest! {
    /// The short way accepts only what the long way does, whatever is on record.
    #[test]
    fn what_is_common_is_judged_alike(
        addresses in proptest::collection::vec(prop::sample::select(vec!["10.9.0.4", "10.9.0.5", "fd00:9::4", "0.0.0.0"]), 0..3),
        source in prop::sample::select(vec!["10.9.0.4", "10.9.0.5", "10.9.0.6", "0.0.0.0"]),
        mac in prop::sample::select(vec![OWN, OTHER, [0xff; 6]]),
        protocol in prop::sample::select(vec![6_u8, 17, 1]),
        changes in proptest::collection::vec((0_usize..40, any::<u8>()), 0..2),
        len in 0_usize..60,
    ) {
        let guard = Guard::new(MacAddr(OWN), addresses.into_iter().map(ip), [], []);
        let mut frame = ipv4(source, "10.9.0.9", protocol, 0, &udp(67, 68));
        frame[6..12].copy_from_slice(&mac);
        for (at, byte) in changes {
            frame[at] = byte;
        }
        frame.truncate(len);
        let long = guard.judge_any(&frame, |_| false);
        prop_assert_eq!(guard.judge(&frame, |_| false), long);
    }
}
