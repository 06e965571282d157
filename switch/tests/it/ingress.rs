//! Clients from outside, who call another host than that of their backend; and networks with the same addresses.

use std::{net::IpAddr, sync::Arc};

use super::lab::{Lab, mac};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    balance::{Affinity, Backend, STATION, Service},
    device::mem::OwnedFrame,
    topology::{Network, PortMode, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);
const NOW: Timestamp = Timestamp::from_millis(5_000);
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// The tunnel to another host, the host's own gateway, a backend's port.
const TUNNEL: u16 = 1;
const GATEWAY: u16 = 2;
const WEB: u16 = 3;
/// The other host's gateway.
const THEIRS: u8 = 77;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

/// Ends of a connection: addresses of IPv4 or IPv6, and ports.
#[derive(Clone, Copy)]
struct Ends {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}

impl Ends {
    fn turned(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// A segment of TCP, with the checksums left to the reader: nothing here looks at them.
fn segment(ends: Ends, link: [MacAddr; 2], flags: u8, tag: Option<u16>) -> OwnedFrame {
    let mut bytes = [link[1].0, link[0].0].concat();
    if let Some(vlan) = tag {
        bytes.extend([0x81, 0x00]);
        bytes.extend(vlan.to_be_bytes());
    }
    match (ends.from.0, ends.to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
            bytes.extend([from.octets(), to.octets()].concat());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            bytes.extend([from.octets(), to.octets()].concat());
        }
        _ => unreachable!("of one family"),
    }
    bytes.extend([ends.from.1.to_be_bytes(), ends.to.1.to_be_bytes()].concat());
    bytes.extend([0, 0, 3, 232, 0, 0, 0, 7, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    OwnedFrame::plain(bytes)
}

fn backend(last: u8, port: u16) -> Backend {
    let mac = mac(u8::try_from(port).expect("few ports"));
    Backend { address: ip(last), mac, is_ready: true, ends: None, given: Arc::default() }
}

/// A host with a backend, a gateway, and a tunnel to a host with a gateway of its own.
fn host() -> Lab {
    let network = [Network::new(BLUE)];
    let tunnel = PortRules { mode: PortMode::Tunnel(vec![BLUE]), ..PortRules::access(PortId(TUNNEL), BLUE) };
    let rules = [
        PortRules::access(PortId(0), BLUE),
        tunnel,
        PortRules::access(PortId(GATEWAY), BLUE),
        PortRules::access(PortId(WEB), BLUE),
    ];
    let mut lab = Lab::new(&network, &rules);
    lab.wire(TUNNEL).carry(BLUE);
    lab.serve(BLUE, Service::new(ip(100), Affinity::None, [backend(3, WEB)]));
    lab.gate(BLUE, mac(2), &[mac(THEIRS)]);
    lab.configure(&network, &rules);
    for (port, station) in [(TUNNEL, THEIRS), (GATEWAY, 2), (WEB, 3)] {
        let hello = [&MacAddr::BROADCAST.0[..], &mac(station).0, b"\x88\xb5hello"].concat();
        lab.receive(port, OwnedFrame::plain(hello), NOW);
    }
    lab
}

#[test]
fn an_answer_returns_by_the_host_that_the_client_has_called() {
    let v6 = |last: u16| IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, last]);
    let outside = [("192.0.2.9".parse().unwrap(), ip(3)), ("2001:db8::9".parse().unwrap(), v6(3))];
    for (client, web) in outside {
        let mut lab = host();
        let called = Ends { from: (client, 40_000), to: (web, 80) };
        let answer = |to: MacAddr, flags| segment(called.turned(), [mac(3), to], flags, None);
        // Of a client that has called this host, or none, they leave by the own gateway.
        assert_eq!(lab.receive(WEB, answer(mac(2), ACK), NOW)[0].0, GATEWAY);

        let there = segment(called, [mac(THEIRS), mac(3)], SYN, None);
        assert_eq!(lab.receive(TUNNEL, there.clone(), NOW), [(WEB, there)]);
        let sent = lab.receive(WEB, answer(mac(2), SYN | ACK), NOW);
        assert_eq!(sent, [(TUNNEL, answer(mac(THEIRS), SYN | ACK))], "changed in nothing but where it goes");
        // Other flows of the backend, and frames to other stations, are left alone.
        let other = Ends { from: (client, 40_001), ..called };
        let sent = lab.receive(WEB, segment(other.turned(), [mac(3), mac(2)], ACK, None), NOW);
        assert_eq!(sent[0].0, GATEWAY);
        assert_eq!(lab.receive(WEB, answer(mac(9), ACK), NOW).len(), 3, "an unknown station: flooded");

        // It outlives idleness, and not its end.
        let week = Timestamp::from_millis(7 * 86_400_000);
        assert_eq!(lab.receive(WEB, answer(mac(2), ACK), week)[0].1.bytes[..6], mac(THEIRS).0);
        lab.receive(TUNNEL, segment(called, [mac(THEIRS), mac(3)], FIN | ACK, None), week);
        assert_eq!(lab.receive(WEB, answer(mac(2), FIN | ACK), week)[0].1.bytes[..6], mac(THEIRS).0);
        assert!(lab.flows(WEB).list(week).is_empty());

        // The same ports from the own gateway begin a flow that returns by that.
        let own = segment(called, [mac(2), mac(3)], SYN, None);
        let again = segment(called, [mac(THEIRS), mac(3)], SYN, None);
        lab.receive(TUNNEL, again, week);
        lab.receive(TUNNEL, segment(called, [mac(THEIRS), mac(3)], RST, None), week);
        lab.receive(GATEWAY, own, week);
        assert!(lab.flows(WEB).list(week).is_empty());
    }
}

#[test]
fn networks_with_the_same_addresses_share_no_flows() {
    let networks = [Network::new(BLUE), Network::new(RED)];
    let vlan = |number| VlanId::try_from(number).unwrap();
    let networks = [
        Network { vlan: Some(vlan(10)), ..networks[0].clone() },
        Network { vlan: Some(vlan(20)), ..networks[1].clone() },
    ];
    let trunk = PortRules {
        mode: PortMode::Trunk { tagged: vec![BLUE, RED], native: None },
        ..PortRules::access(PortId(1), BLUE)
    };
    let rules = [
        PortRules::access(PortId(0), BLUE),
        trunk,
        PortRules::access(PortId(2), BLUE),
        PortRules::access(PortId(3), RED),
    ];
    let mut lab = Lab::new(&networks, &rules);
    lab.serve(BLUE, Service::new(ip(100), Affinity::None, [backend(2, 2)]));
    lab.serve(RED, Service::new(ip(100), Affinity::None, [backend(3, 3)]));
    lab.configure(&networks, &rules);
    for station in [2_u8, 3] {
        let hello = [&MacAddr::BROADCAST.0[..], &mac(station).0, b"\x88\xb5hello"].concat();
        lab.receive(station.into(), OwnedFrame::plain(hello), NOW);
    }
    let ends = Ends { from: (ip(50), 40_000), to: (ip(100), 80) };
    let ask = |vlan, flags| segment(ends, [mac(50), STATION], flags, Some(vlan));
    assert_eq!(lab.receive(1, ask(10, SYN), NOW)[0].0, 2);
    assert_eq!(lab.receive(1, ask(20, SYN), NOW)[0].0, 3);
    assert_eq!(lab.flows(1).len(), 2);
    assert_eq!(lab.receive(1, ask(10, ACK), NOW)[0].0, 2, "and not \"its backend is gone\"");
    for (port, station) in [(2, 2), (3, 3)] {
        let answer = Ends { from: (ip(station), 80), to: (ip(50), 40_000) };
        let sent = lab.receive(port, segment(answer, [mac(station), mac(50)], SYN | ACK, None), NOW);
        let (1, frame) = &sent[0] else { panic!("{sent:?}") };
        assert_eq!(frame.bytes[30..34], [10, 9, 0, 100], "from the service");
    }
}
