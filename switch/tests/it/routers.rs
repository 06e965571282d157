//! Multicast for routers: reports, solicitations, and probes for addresses that nobody else can have.

use std::time::Duration;

use super::lab::{Lab, mac};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    device::mem::OwnedFrame,
    topology::{Network, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);
/// Three containers and the host in blue, a container in red.
const WEB: u16 = 0;
const DB: u16 = 1;
const ROUTER: u16 = 2;
const HOST: u16 = 3;
const OTHER: u16 = 4;
const START: Timestamp = Timestamp::from_millis(5_000);

const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const ALL_ROUTERS: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 2]);
const MLDV2: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 0x16]);
const IGMPV3: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 0x16]);
const MDNS: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 0xfb]);

fn lab() -> Lab {
    let container =
        |id, network| PortRules { leads_to_routers: false, ..PortRules::access(PortId(id), network) };
    let rules = [
        container(WEB, BLUE),
        container(DB, BLUE),
        container(ROUTER, BLUE),
        PortRules::access(PortId(HOST), BLUE),
        container(OTHER, RED),
    ];
    let mut lab = Lab::new(&[Network::new(BLUE), Network::new(RED)], &rules);
    lab.hear_routers();
    lab.configure(&[Network::new(BLUE), Network::new(RED)], &rules);
    lab
}

/// An IPv6 packet of ICMPv6 with this type and target, behind a router alert if it is of MLD.
fn icmp(dst: MacAddr, src: MacAddr, source: [u8; 16], kind: u8, target: [u8; 16]) -> OwnedFrame {
    let is_mld = matches!(kind, 130 | 143);
    let mut bytes = [&dst.0[..], &src.0, b"\x86\xdd\x60\0\0\0"].concat();
    let length: u8 = if is_mld { 32 } else { 24 };
    bytes.extend([0, length, if is_mld { 0 } else { 58 }, 255]);
    bytes.extend(source);
    bytes.extend([0xff; 16]);
    if is_mld {
        bytes.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    }
    bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(target);
    OwnedFrame::plain(bytes)
}

fn to(dst: MacAddr, kind: u8) -> OwnedFrame {
    icmp(dst, mac(1), [0xfe; 16], kind, [0; 16])
}

/// The probe of station `id` for fe80::ff:fe00:`of`.
fn probe(id: u8, of: u8) -> OwnedFrame {
    let target = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, of];
    icmp(MacAddr([0x33, 0x33, 0xff, 0, 0, of]), mac(id), [0; 16], 135, target)
}

fn ports(lab: &mut Lab, from: u16, frame: OwnedFrame, at: Timestamp) -> Vec<u16> {
    lab.receive(from, frame, at).into_iter().map(|(port, _)| port).collect()
}

#[test]
fn what_is_for_routers_goes_to_ports_that_lead_to_them() {
    let mut lab = lab();
    for (dst, kind) in [(MLDV2, 143), (ALL_ROUTERS, 133), (ALL_ROUTERS, 132), (IGMPV3, 0)] {
        assert_eq!(ports(&mut lab, WEB, to(dst, kind), START), [HOST], "{dst}");
    }
    assert_eq!(ports(&mut lab, WEB, probe(1, 1), START), [HOST], "its own by its MAC address");
    assert_eq!(lab.totals(WEB).flooded, 5);
    // All else goes to all.
    let everybody = [DB, ROUTER, HOST];
    for (dst, kind) in [(MDNS, 1), (ALL_NODES, 136), (MacAddr::BROADCAST, 1)] {
        assert_eq!(ports(&mut lab, WEB, to(dst, kind), START), everybody, "{dst}");
    }
    assert_eq!(ports(&mut lab, WEB, probe(1, 2), START), everybody, "an address that another may have");
    let asked = icmp(MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), mac(1), [0xfe; 16], 135, [0; 16]);
    assert_eq!(ports(&mut lab, WEB, asked, START), everybody, "a question");
}

#[test]
fn a_router_among_the_stations_is_heard_and_gets_them() {
    for (dst, kind) in [(ALL_NODES, 134), (ALL_NODES, 130)] {
        let mut lab = lab();
        let everybody = [DB, ROUTER, HOST];
        assert_eq!(ports(&mut lab, WEB, to(MLDV2, 143), START), [HOST]);
        lab.receive(ROUTER, icmp(dst, mac(3), [0xfe; 16], kind, [0; 16]), START);
        for after in [0, 1, 29 * 60] {
            let at = Timestamp::from_millis(START.as_millis() + after * 1000);
            assert_eq!(ports(&mut lab, WEB, to(MLDV2, 143), at), everybody, "{after} s later");
            assert_eq!(ports(&mut lab, OTHER, to(MLDV2, 143), at), [0; 0], "of another network");
        }
        let at = Timestamp::from_millis(START.as_millis() + 31 * 60 * 1000);
        assert_eq!(
            ports(&mut lab, WEB, to(MLDV2, 143), at),
            [HOST],
            "it was silent for {:?}",
            Duration::from_mins(31)
        );
    }
    // One behind a port that leads to routers is reached anyway.
    let mut lab = lab();
    lab.receive(HOST, icmp(ALL_NODES, mac(9), [0xfe; 16], 134, [0; 16]), START);
    assert_eq!(ports(&mut lab, WEB, to(MLDV2, 143), START), [HOST]);
}
