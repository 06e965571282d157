//! Questions for neighbours that a control plane knows, and floods to the hosts that are in a network.

use std::{net::IpAddr, sync::Arc};

use super::lab::{Lab, frame, mac};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    device::mem::OwnedFrame,
    drops::DropReason,
    fdb::{Origin, Settings},
    topology::{Network, PortMode, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);
/// Two access ports of blue, a trunk of both networks, two tunnels.
const WEB: u16 = 0;
const DB: u16 = 1;
const TRUNK: u16 = 2;
const NEAR: u16 = 3;
const FAR: u16 = 4;
const NOW: Timestamp = Timestamp::from_millis(1_000);

fn address(id: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, id])
}

fn networks(floods_to: Option<Vec<PortId>>) -> [Network; 2] {
    let vlan = |vlan: u16| VlanId::try_from(vlan).ok();
    let blue = Network { vlan: vlan(10), answers: true, floods_to, ..Network::new(BLUE) };
    [blue, Network { vlan: vlan(20), ..Network::new(RED) }]
}

fn rules() -> Vec<PortRules> {
    let port = |id, mode, horizon| PortRules { mode, horizon, ..PortRules::access(PortId(id), BLUE) };
    let tunnels = std::num::NonZeroU16::new(1);
    vec![
        PortRules::access(PortId(WEB), BLUE),
        PortRules::access(PortId(DB), BLUE),
        port(TRUNK, PortMode::Trunk { tagged: vec![BLUE, RED], native: None }, None),
        port(NEAR, PortMode::Tunnel(vec![BLUE, RED]), tunnels),
        port(FAR, PortMode::Tunnel(vec![BLUE, RED]), tunnels),
    ]
}

/// A switch that knows station 7 at the far host by its address, and 8 by its address only.
fn lab() -> Lab {
    let lab = Lab::new(&networks(None), &rules());
    lab.wire(NEAR).carry(BLUE);
    lab.wire(FAR).carry(BLUE);
    lab.know((BLUE, address(7)), mac(7));
    lab.know((BLUE, address(8)), mac(8));
    assert!(lab.fdb.pin(BLUE, mac(7), PortId(FAR), Origin::Control, NOW));
    lab
}

/// "Who has 10.9.0.`target`?", asked by station `asker`.
fn request(asker: u8, target: u8, tags: &[u16]) -> OwnedFrame {
    let mut bytes = frame(MacAddr::BROADCAST, mac(asker), tags);
    bytes.truncate(bytes.len() - 5);
    bytes.extend(b"\x00\x01\x08\x00\x06\x04\x00\x01");
    bytes.extend(mac(asker).0);
    bytes.extend([10, 9, 0, asker]);
    bytes.extend([0; 6]);
    bytes.extend([10, 9, 0, target]);
    OwnedFrame::plain(bytes)
}

fn ports(sent: &[(u16, OwnedFrame)]) -> Vec<u16> {
    sent.iter().map(|(port, _)| *port).collect()
}

#[test]
fn a_known_neighbour_is_answered_for_and_nothing_is_flooded() {
    let mut lab = lab();
    let sent = lab.receive(WEB, request(1, 7, &[]), NOW);
    assert_eq!(ports(&sent), [WEB]);
    assert_eq!(sent[0].1.bytes[..12], [mac(1).0, mac(7).0].concat());
    assert_eq!(sent[0].1.bytes[22..28], mac(7).0, "and says who has it");
    let totals = lab.totals(WEB);
    assert_eq!((totals.rx_frames, totals.answered, totals.flooded, totals.tx_frames), (1, 1, 0, 1));
    let network = lab.network_totals().next().unwrap();
    assert_eq!((network.frames, network.answered, network.unicast()), (1, 1, 0));
    // Its asker is learned like any other sender.
    let reply = lab.receive(DB, OwnedFrame::plain(frame(mac(1), mac(2), &[])), NOW);
    assert_eq!(ports(&reply), [WEB]);
}

#[test]
fn an_asker_behind_a_trunk_gets_its_tag_back() {
    let mut lab = lab();
    let sent = lab.receive(TRUNK, request(1, 7, &[0x600a]), NOW);
    assert_eq!(ports(&sent), [TRUNK]);
    assert_eq!(sent[0].1.bytes[12..18], *b"\x81\x00\x60\x0a\x08\x06");
}

#[test]
fn what_is_not_known_or_not_reached_is_flooded() {
    let mut lab = lab();
    let all_but_web = [DB, TRUNK, NEAR, FAR];
    assert_eq!(ports(&lab.receive(WEB, request(1, 9, &[]), NOW)), all_but_web, "no such neighbour");
    assert_eq!(ports(&lab.receive(WEB, request(1, 8, &[]), NOW)), all_but_web, "its station is nowhere");
    assert_eq!(ports(&lab.receive(TRUNK, request(1, 7, &[20]), NOW)), [NEAR, FAR], "another network");
    assert_eq!(ports(&lab.receive(NEAR, request(5, 7, &[]), NOW)), [WEB, DB, TRUNK], "asked elsewhere");
    let gratuitous = request(7, 7, &[]);
    assert_eq!(lab.receive(FAR, gratuitous, NOW).len(), 3, "news for everybody");
    assert_eq!(lab.totals(WEB).answered, 0);
}

#[test]
fn a_whole_batch_of_questions_is_answered() {
    let mut lab = lab();
    (0..64).for_each(|_| lab.put(WEB, request(1, 7, &[])));
    lab.turn(WEB, NOW);
    assert_eq!(lab.take_all().len(), 64);
    assert_eq!(lab.totals(WEB).answered, 64);
}

#[test]
fn floods_go_to_hosts_in_the_network_and_frames_for_a_known_station_to_its_own() {
    let mut lab = lab();
    let to = |lab: &mut Lab, dst| ports(&lab.receive(WEB, OwnedFrame::plain(frame(dst, mac(1), &[])), NOW));
    lab.configure(&networks(Some(vec![PortId(NEAR)])), &rules());
    assert_eq!(to(&mut lab, MacAddr::BROADCAST), [DB, TRUNK, NEAR]);
    assert_eq!(to(&mut lab, mac(9)), [DB, TRUNK, NEAR], "an unknown station");
    assert_eq!(to(&mut lab, mac(7)), [FAR], "a host that is not flooded to is reached all the same");
    lab.configure(&networks(Some(Vec::new())), &rules());
    assert_eq!(to(&mut lab, MacAddr::BROADCAST), [DB, TRUNK]);
    lab.configure(&networks(None), &rules());
    assert_eq!(to(&mut lab, MacAddr::BROADCAST), [DB, TRUNK, NEAR, FAR]);
}

#[test]
fn frames_from_a_known_station_come_from_its_host_only() {
    let mut lab = lab();
    let from =
        |lab: &mut Lab, port| lab.receive(port, OwnedFrame::plain(frame(mac(1), mac(7), &[])), NOW).len();
    assert_eq!(from(&mut lab, NEAR), 0);
    assert_eq!(lab.totals(NEAR).drops().collect::<Vec<_>>(), [(DropReason::LocalMac, 1)]);
    assert_eq!(from(&mut lab, FAR), 3, "flooded, for station 1 is not known");
}

#[test]
fn stations_of_a_control_plane_do_not_count_and_are_not_displaced() {
    let settings = Settings { limit: 64, ..Settings::default() };
    let mut lab = Lab::with(Default::default(), settings, &networks(None), &rules());
    lab.wire(FAR).carry(BLUE);
    let numbered = |kind, id: u16| MacAddr([2, kind, 0, 0, id.to_be_bytes()[0], id.to_be_bytes()[1]]);
    let station = |id| numbered(1, id);
    let heard = |id| numbered(2, id);
    for id in 0..64 {
        lab.receive(DB, OwnedFrame::plain(frame(mac(1), heard(id), &[])), NOW);
    }
    // Far more than the limit: the table grows.
    for id in 0..1000 {
        if let Some(large) = lab.fdb.grown(usize::from(id) + 1, NOW) {
            lab.fdb = Arc::new(large);
            lab.configure(&networks(None), &rules());
        }
        assert!(lab.fdb.pin(BLUE, station(id), PortId(FAR), Origin::Control, NOW), "{id}");
    }
    let now = Timestamp::from_millis(200_000);
    assert_eq!(lab.fdb.entries(now).filter(|entry| entry.origin == Origin::Learned).count(), 64);
    // A flood of new senders displaces those that were learned, as many as the limit says, and no others.
    for id in 1000..3000 {
        lab.receive(WEB, OwnedFrame::plain(frame(mac(1), heard(id), &[])), now);
    }
    let of = |origin| lab.fdb.entries(now).filter(|entry| entry.origin == origin).count();
    assert_eq!((of(Origin::Control), of(Origin::Learned)), (1000, 64));
    for id in 0..1000 {
        let sent = lab.receive(WEB, OwnedFrame::plain(frame(station(id), mac(1), &[])), now);
        assert_eq!(ports(&sent), [FAR], "{id}");
    }
}
