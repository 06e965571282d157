//! Frames that do not fit the egress port: a named drop, and an answer to the sender on every kind of port.

use super::lab::{Lab, mac};
use super::superframe::{Addresses, Spec, Transport};
use vswitch::{
    addr::{NetworkId, PortId, Timestamp, VlanId},
    device::mem::OwnedFrame,
    drops::DropReason,
    frame::Tag,
    mirror::Mirror,
    offload::Offload,
    topology::{Network, PortMode, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
/// An access port, one for packets of 1000 bytes, a trunk, a tunnel, and a mirror for packets of 500 bytes.
const WEB: u16 = 0;
const NARROW: u16 = 1;
const TRUNK: u16 = 2;
const TUNNEL: u16 = 3;
const WATCH: u16 = 4;
const NOW: Timestamp = Timestamp::from_millis(1_000);

fn lab() -> Lab {
    let networks = [Network { vlan: VlanId::try_from(10).ok(), ..Network::new(BLUE) }];
    let port = |id, mode, mtu| PortRules { mode, mtu, ..PortRules::access(PortId(id), BLUE) };
    let rules = [
        PortRules::access(PortId(WEB), BLUE),
        port(NARROW, PortMode::Access(BLUE), 1000),
        port(TRUNK, PortMode::Trunk { tagged: vec![BLUE], native: None }, 1500),
        port(TUNNEL, PortMode::Tunnel(vec![BLUE]), 1500),
        port(WATCH, PortMode::Mirror, 500),
    ];
    let mut lab = Lab::new(&networks, &rules);
    lab.mirror(vec![Mirror {
        to: PortId(WATCH),
        ports: [PortId(WEB), PortId(TRUNK)].into(),
        networks: [].into(),
        direction: None,
    }]);
    lab.configure(&networks, &rules);
    lab.wire(TUNNEL).carry(BLUE);
    // The station that all are sent to is known.
    lab.receive(NARROW, OwnedFrame::plain(spec(&[], false, 10).wire_from(2, 1)), NOW);
    lab
}

fn spec(tags: &[[u8; 4]], v6: bool, payload: usize) -> Spec {
    let addresses = if v6 { Addresses::V6([0xfd; 32]) } else { Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]) };
    let transport = Transport::Tcp { sequence: 1, flags: 0x10, options: 0 };
    Spec {
        tags: tags.to_vec(),
        addresses,
        ip_options: 0,
        extensions: Vec::new(),
        id: 7,
        transport,
        accurate: false,
        payload: vec![0x42; payload],
    }
}

impl Spec {
    /// The frame from station `from` to station `to`.
    fn wire_from(&self, from: u8, to: u8) -> Vec<u8> {
        addressed(self.wire(), from, to)
    }
}

fn addressed(mut bytes: Vec<u8>, from: u8, to: u8) -> Vec<u8> {
    bytes[..6].copy_from_slice(&mac(to).0);
    bytes[6..12].copy_from_slice(&mac(from).0);
    bytes
}

/// The MTU that the answer tells, behind `tags` bytes of tags.
fn told(answer: &[u8], tags: usize) -> u16 {
    let ip = &answer[14 + tags..];
    let at = if ip[0] >> 4 == 4 {
        assert_eq!(ip[20..22], [3, 4], "fragmentation needed");
        26
    } else {
        assert_eq!(ip[40..42], [2, 0], "packet too big");
        46
    };
    u16::from_be_bytes([ip[at], ip[at + 1]])
}

#[test]
fn every_port_answers_the_port_that_it_came_from() {
    let tag = Tag(0x600a).to_bytes();
    for v6 in [false, true] {
        for (from, tags) in [(WEB, &[][..]), (TRUNK, &[tag]), (TUNNEL, &[])] {
            let mut lab = lab();
            let sent = lab.receive(from, OwnedFrame::plain(spec(tags, v6, 1200).wire_from(1, 2)), NOW);
            let sent: Vec<_> = sent.into_iter().filter(|(port, _)| *port != WATCH).collect();
            let [(to, answer)] = &sent[..] else { panic!("{from}: {sent:?}") };
            assert_eq!(*to, from);
            assert_eq!(answer.bytes[..12], [mac(1).0, mac(2).0].concat());
            assert_eq!(told(&answer.bytes, 4 * tags.len()), 1000);
            let drops: Vec<_> = lab.totals(NARROW).drops().collect();
            assert_eq!(drops, [(DropReason::PktTooBig, 1)]);
        }
    }
}

#[test]
fn super_frames_are_judged_by_their_segments() {
    let mut lab = lab();
    let spec = spec(&[], false, 9000);
    for (size, fits) in [(960, true), (1200, false)] {
        let bytes = addressed(spec.offloaded(), 1, 2);
        let offload = Offload::parse(&spec.gso_header(size), &bytes).expect("its own");
        let sent = lab.receive(WEB, OwnedFrame { offload, bytes }, NOW);
        let to: Vec<_> = sent.iter().map(|(port, _)| *port).filter(|port| *port != WATCH).collect();
        assert_eq!(to, [if fits { NARROW } else { WEB }], "{size}");
    }
}

#[test]
fn what_is_flooded_or_copied_is_not_answered() {
    let mut lab = lab();
    // Station 9 may be anywhere.
    let sent = lab.receive(WEB, OwnedFrame::plain(spec(&[], false, 1200).wire_from(1, 9)), NOW);
    let to: Vec<_> = sent.iter().map(|(port, _)| *port).collect();
    assert_eq!(to, [TRUNK, TUNNEL]);
    assert_eq!(lab.totals(NARROW).drops().collect::<Vec<_>>(), [(DropReason::PktTooBig, 1)]);
    // It fits its port, and not the mirror's.
    let sent = lab.receive(WEB, OwnedFrame::plain(spec(&[], false, 700).wire_from(1, 2)), NOW);
    assert_eq!(sent.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [NARROW]);
    assert!(lab.totals(WATCH).drops().any(|(reason, _)| reason == DropReason::PktTooBig));
}
