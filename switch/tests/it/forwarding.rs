//! The decision, through a real engine: what comes in, what leaves where and how, and why it does not.

use std::num::NonZeroU16;

use super::lab::{Lab, Wiring, frame, mac};
use super::nested::Nested;
use super::superframe::{ACK, Addresses, PSH, Spec, Transport};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    device::mem::OwnedFrame,
    drops::DropReason,
    fdb::{Origin, Settings},
    headers::Headers,
    offload::{Capabilities, Csum, Gso, GsoKind, Offload},
    storm::FloodLimits,
    topology::{Network, PortMode, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);
/// Lets tags pass as payload.
const PASSING: NetworkId = NetworkId(2);
/// Has one port.
const LONELY: NetworkId = NetworkId(3);

const NOW: Timestamp = Timestamp::from_millis(1_000);
const BROADCAST: MacAddr = MacAddr::BROADCAST;
const MULTICAST: MacAddr = MacAddr([0x01, 0x00, 0x5e, 0x00, 0x00, 0x01]);
const LLDP: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e]);
const PAUSE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0x00, 0x00, 0x01]);

fn networks() -> Vec<Network> {
    let network = |id, vlan, passes_tags| Network {
        id,
        vlan: VlanId::try_from(vlan).ok(),
        passes_tags,
        ..Network::new(id)
    };
    vec![
        network(BLUE, 10, false),
        network(RED, 20, false),
        network(PASSING, 30, true),
        network(LONELY, 0, false),
    ]
}

fn trunk(id: u16, tagged: &[NetworkId], native: Option<NetworkId>) -> PortRules {
    PortRules {
        mode: PortMode::Trunk { tagged: tagged.to_vec(), native },
        ..PortRules::access(PortId(id), BLUE)
    }
}

fn tunnel(id: u16) -> PortRules {
    PortRules {
        mode: PortMode::Tunnel(vec![BLUE, RED]),
        horizon: NonZeroU16::new(1),
        ..PortRules::access(PortId(id), BLUE)
    }
}

fn isolated(id: u16) -> PortRules {
    PortRules { isolated: true, ..PortRules::access(PortId(id), BLUE) }
}

/// Every kind of port. Tunnel 7 carries BLUE, tunnel 8 RED.
fn ports() -> Vec<PortRules> {
    vec![
        PortRules::access(PortId(0), BLUE),
        PortRules::access(PortId(1), BLUE),
        trunk(2, &[BLUE, RED], None),
        trunk(3, &[RED], Some(BLUE)),
        PortRules::access(PortId(4), RED),
        isolated(5),
        isolated(6),
        tunnel(7),
        tunnel(8),
        PortRules::access(PortId(9), PASSING),
        trunk(10, &[PASSING], None),
        PortRules::access(PortId(11), LONELY),
    ]
}

fn switch() -> Lab {
    let wiring = Wiring { mask: 1 << 0xe, ..Wiring::default() };
    let lab = Lab::with(wiring, Settings::default(), &networks(), &ports());
    lab.wire(7).carry(BLUE);
    lab.wire(8).carry(RED);
    lab
}

#[test]
fn a_frame_finds_the_station_that_was_heard() {
    let mut switch = Lab::new(
        &networks(),
        &[PortRules::access(PortId(0), BLUE), PortRules::access(PortId(1), BLUE), trunk(2, &[BLUE], None)],
    );
    let mut receive = |port, bytes: &[u8]| {
        let sent = switch.receive(port, OwnedFrame::plain(bytes), NOW);
        sent.into_iter().map(|(port, packet)| (port, packet.bytes)).collect::<Vec<_>>()
    };
    // Station 0a on port 0 asks everyone; the trunk hears it in VLAN 10.
    assert_eq!(
        receive(0, b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x0a\x08\x06who is 0c?"),
        [
            (1, b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x0a\x08\x06who is 0c?".to_vec()),
            (
                2,
                b"\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x0a\x81\x00\x00\x0a\x08\x06who is 0c?"
                    .to_vec()
            ),
        ]
    );
    // Station 0c behind the trunk answers it alone; the tag goes, with its priority.
    assert_eq!(
        receive(2, b"\x02\x00\x00\x00\x00\x0a\x02\x00\x00\x00\x00\x0c\x81\x00\xa0\x0a\x08\x06it is I"),
        [(0, b"\x02\x00\x00\x00\x00\x0a\x02\x00\x00\x00\x00\x0c\x08\x06it is I".to_vec())]
    );
    // And now it is found itself. A priority tag becomes the VLAN's, with its priority.
    assert_eq!(
        receive(0, b"\x02\x00\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x0a\x81\x00\xa0\x00\x08\x06so it is"),
        [(2, b"\x02\x00\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x0a\x81\x00\xa0\x0a\x08\x06so it is".to_vec())]
    );
}

/// What leaves: by which ports, behind which tags; or why nothing does.
type Fate = Result<&'static [(u16, &'static [u16])], DropReason>;

struct Row {
    why: &'static str,
    /// Stations heard before: which, and on what port.
    heard: &'static [(u8, u16)],
    ingress: u16,
    dst: MacAddr,
    tags: &'static [u16],
    fate: Fate,
}

#[test]
#[rustfmt::skip]
fn every_frame_has_the_fate_it_deserves() {
    use DropReason::*;
    let row = |why, heard, ingress, dst, tags, fate| Row { why, heard, ingress, dst, tags, fate };
    let rows = [
        row("flooded to its network", &[], 0, BROADCAST, &[],
            Ok(&[(1, &[]), (2, &[10]), (3, &[]), (5, &[]), (6, &[]), (7, &[]), (8, &[])])),
        row("a group is flooded", &[], 4, MULTICAST, &[], Ok(&[(2, &[20]), (3, &[20]), (7, &[]), (8, &[])])),
        row("an unknown station is flooded", &[], 4, mac(2), &[], Ok(&[(2, &[20]), (3, &[20]), (7, &[]), (8, &[])])),
        row("nobody's address is unknown", &[], 4, MacAddr::ZERO, &[], Ok(&[(2, &[20]), (3, &[20]), (7, &[]), (8, &[])])),
        row("in the first network too", &[], 2, MacAddr::ZERO, &[10],
            Ok(&[(0, &[]), (1, &[]), (3, &[]), (5, &[]), (6, &[]), (7, &[]), (8, &[])])),
        row("a known one is not", &[(2, 1)], 0, mac(2), &[], Ok(&[(1, &[])])),
        row("known in another network is unknown", &[(2, 1)], 4, mac(2), &[],
            Ok(&[(2, &[20]), (3, &[20]), (7, &[]), (8, &[])])),
        row("access takes priority tags", &[(2, 1)], 0, mac(2), &[0xe000], Ok(&[(1, &[])])),
        row("and no others, not even its own", &[(2, 1)], 0, mac(2), &[10], Err(VlanNotAllowed)),
        row("trunk to access pops", &[(2, 1)], 2, mac(2), &[10], Ok(&[(1, &[])])),
        row("trunk to trunk keeps, with priority", &[], 2, mac(2), &[0x6014],
            Ok(&[(3, &[0x6014]), (4, &[]), (7, &[]), (8, &[])])),
        row("native to trunk pushes", &[], 3, BROADCAST, &[],
            Ok(&[(0, &[]), (1, &[]), (2, &[10]), (5, &[]), (6, &[]), (7, &[]), (8, &[])])),
        row("native with priority to trunk replaces", &[(2, 0)], 3, BROADCAST, &[0xe000],
            Ok(&[(0, &[]), (1, &[]), (2, &[0xe00a]), (5, &[]), (6, &[]), (7, &[]), (8, &[])])),
        row("the native network comes tagged too", &[], 3, BROADCAST, &[0x600a],
            Ok(&[(0, &[]), (1, &[]), (2, &[0x600a]), (5, &[]), (6, &[]), (7, &[]), (8, &[])])),
        row("and leaves untagged", &[(2, 3)], 2, mac(2), &[10], Ok(&[(3, &[])])),
        row("untagged on a trunk without native", &[], 2, BROADCAST, &[], Err(VlanUntagged)),
        row("priority only on a trunk without native", &[], 2, BROADCAST, &[0xe000], Err(VlanUntagged)),
        row("a VLAN not carried", &[], 2, BROADCAST, &[30], Err(VlanNotAllowed)),
        row("the VLAN that is none", &[], 2, BROADCAST, &[0x0fff], Err(VlanNotAllowed)),
        row("tags pass as payload", &[], 9, BROADCAST, &[99], Ok(&[(10, &[30, 99])])),
        row("and come back", &[], 10, BROADCAST, &[30, 99], Ok(&[(9, &[99])])),
        row("priority too", &[], 9, BROADCAST, &[0xe000], Ok(&[(10, &[30, 0xe000])])),
        row("isolated does not flood to isolated", &[], 5, BROADCAST, &[],
            Ok(&[(0, &[]), (1, &[]), (2, &[10]), (3, &[]), (7, &[]), (8, &[])])),
        row("nor send", &[(2, 6)], 5, mac(2), &[], Err(PortIsolated)),
        row("but to others", &[(2, 1)], 5, mac(2), &[], Ok(&[(1, &[])])),
        row("tunnel does not flood to tunnel", &[], 7, BROADCAST, &[],
            Ok(&[(0, &[]), (1, &[]), (2, &[10]), (3, &[]), (5, &[]), (6, &[])])),
        row("the device knows the network", &[], 8, BROADCAST, &[], Ok(&[(2, &[20]), (3, &[20]), (4, &[])])),
        row("a priority by the tunnel", &[(2, 2)], 7, mac(2), &[0xe000], Ok(&[(2, &[0xe00a])])),
        row("is removed at an access port", &[(2, 0)], 7, mac(2), &[0xe000], Ok(&[(0, &[])])),
        row("a VLAN by the tunnel", &[], 7, BROADCAST, &[10], Err(VlanNotAllowed)),
        row("to a tunnel untagged", &[(2, 7)], 3, mac(2), &[0xe000], Ok(&[(7, &[])])),
        row("from where it is", &[(2, 0)], 0, mac(2), &[], Err(SamePort)),
        row("to itself", &[], 0, mac(1), &[], Err(SamePort)),
        row("nobody else there", &[], 11, BROADCAST, &[], Err(NoReceiver)),
        row("nobody else there, unknown", &[], 11, mac(2), &[], Err(NoReceiver)),
        row("what a bridge keeps to itself", &[], 0, PAUSE, &[], Err(LinkLocalGroup)),
        row("unless the mask lets it", &[], 4, LLDP, &[], Ok(&[(2, &[20]), (3, &[20]), (7, &[]), (8, &[])])),
    ];
    for Row { why, heard, ingress, dst, tags, fate } in rows {
        let mut switch = switch();
        for &(id, port) in heard {
            switch.fdb.learn(switch.fdb.station(BLUE, mac(id)), PortId(port), None, NOW);
        }
        let sent = switch.receive(ingress, OwnedFrame::plain(frame(dst, mac(1), tags)), NOW);
        let expected = fate.unwrap_or(&[]).iter();
        let expected: Vec<_> =
            expected.map(|(port, tags)| (*port, OwnedFrame::plain(frame(dst, mac(1), tags)))).collect();
        assert_eq!(sent, expected, "{why}");
        let totals = switch.totals(ingress);
        assert_eq!(totals.rx_frames, 1, "{why}");
        let drop = fate.err().map(|reason| (reason, 1));
        assert_eq!(totals.drops().collect::<Vec<_>>(), drop.into_iter().collect::<Vec<_>>(), "{why}");
    }
}

#[test]
fn a_tag_of_another_type_is_payload() {
    for ethertype in [0x88a8_u16, 0x9100, 0x9200, 0x9300] {
        for (ingress, tags, fate) in [
            (0, &[][..], Err(DropReason::VlanNotAllowed)),
            (0, &[0xe000], Err(DropReason::VlanNotAllowed)),
            (2, &[], Err(DropReason::VlanNotAllowed)),
            (2, &[10], Err(DropReason::VlanNotAllowed)),
            (3, &[], Err(DropReason::VlanNotAllowed)),
            (7, &[], Err(DropReason::VlanNotAllowed)),
            (9, &[], Ok((10, &[30][..]))),
            (10, &[30], Ok((9, &[][..]))),
        ] {
            let mut switch = switch();
            let tagged = |tags: &[u16]| {
                let mut bytes = frame(BROADCAST, mac(1), tags);
                let behind = 12 + 4 * tags.len();
                bytes.splice(behind..behind, [ethertype.to_be_bytes(), [0, 20]].concat());
                OwnedFrame::plain(bytes)
            };
            let sent = switch.receive(ingress, tagged(tags), NOW);
            match fate {
                Ok((port, tags)) => assert_eq!(sent, [(port, tagged(tags))], "{ethertype:x} by {ingress}"),
                Err(reason) => {
                    assert_eq!(sent, [], "{ethertype:x} by {ingress}");
                    assert_eq!(switch.totals(ingress).drops().collect::<Vec<_>>(), [(reason, 1)]);
                }
            }
        }
    }
}

#[test]
fn a_native_network_leaves_tagged_where_that_is_asked_for() {
    let tagging = PortRules { native_tagged: true, ..trunk(1, &[RED], Some(BLUE)) };
    let mut switch = Lab::new(&networks(), &[PortRules::access(PortId(0), BLUE), tagging]);
    let mut pass = |ingress, tags: &[u16]| {
        let sent = switch.receive(ingress, OwnedFrame::plain(frame(BROADCAST, mac(1), tags)), NOW);
        sent.into_iter().map(|(_, packet)| packet.bytes).collect::<Vec<_>>()
    };
    assert_eq!(pass(0, &[]), [frame(BROADCAST, mac(1), &[10])]);
    for tags in [&[][..], &[0xe000], &[10]] {
        assert_eq!(pass(1, tags), [frame(BROADCAST, mac(1), &[])], "{tags:?}");
    }
}

#[test]
fn a_port_that_does_not_learn_or_is_not_flooded_to_still_carries_what_is_known() {
    let quiet = PortRules { learning: false, flood: false, ..PortRules::access(PortId(0), BLUE) };
    let mut switch = Lab::new(
        &networks(),
        &[quiet, PortRules::access(PortId(1), BLUE), PortRules::access(PortId(2), BLUE)],
    );
    let mut pass = |ingress, dst, src| {
        let sent = switch.receive(ingress, OwnedFrame::plain(frame(dst, src, &[])), NOW);
        sent.into_iter().map(|(port, _)| port).collect::<Vec<_>>()
    };
    assert_eq!(pass(0, BROADCAST, mac(1)), [1, 2]);
    assert_eq!(
        [pass(1, BROADCAST, mac(2)), pass(1, mac(1), mac(2))],
        [[2], [2]],
        "not learned, not flooded to"
    );
    assert_eq!(pass(0, mac(2), mac(1)), [1]);
    assert_eq!(switch.fdb.totals().refused, 0, "nor is that a limit");
    assert!(switch.fdb.pin(BLUE, mac(1), PortId(0), Origin::Static, NOW));
    let sent = switch.receive(1, OwnedFrame::plain(frame(mac(1), mac(2), &[])), NOW);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, 0);
}

#[test]
fn a_hairpin_sends_back_what_is_for_its_own_side() {
    let hairpin = PortRules { hairpin: true, ..PortRules::access(PortId(0), BLUE) };
    let mut switch = Lab::new(&networks(), &[hairpin, PortRules::access(PortId(1), BLUE)]);
    let mut pass = |ingress, dst, src| {
        let sent = switch.receive(ingress, OwnedFrame::plain(frame(dst, src, &[])), NOW);
        sent.into_iter().map(|(port, _)| port).collect::<Vec<_>>()
    };
    assert_eq!(pass(0, BROADCAST, mac(1)), [0, 1]);
    assert_eq!(pass(0, mac(1), mac(2)), [0], "two stations behind one port");
    assert_eq!(pass(1, mac(3), mac(4)), [0], "others are not");
    assert_eq!(pass(1, mac(4), mac(3)), [0; 0]);
    assert_eq!(switch.totals(1).drops[DropReason::SamePort.index()], 1);
    let both = PortRules { hairpin: true, ..isolated(0) };
    let mut switch = Lab::new(&networks(), &[both]);
    assert_eq!(
        switch.receive(0, OwnedFrame::plain(frame(BROADCAST, mac(1), &[])), NOW),
        [],
        "isolated from itself"
    );
}

#[test]
fn split_horizon_holds_for_known_stations_too() {
    let mut switch = switch();
    switch.fdb.learn(switch.fdb.station(BLUE, mac(2)), PortId(8), None, NOW);
    assert_eq!(switch.receive(7, OwnedFrame::plain(frame(mac(2), mac(1), &[])), NOW), []);
    assert_eq!(switch.totals(7).drops[DropReason::SplitHorizon.index()], 1);
}

#[test]
fn broken_frames_are_dropped_by_name() {
    let cases: &[(&[u8], DropReason)] = &[
        (b"", DropReason::PktTooSmall),
        (b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08", DropReason::PktTooSmall),
        (b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x81\x00\x00\x0a\x08", DropReason::PktTooSmall),
        (b"\x02\x00\x00\x00\x00\x02\x03\x00\x00\x00\x00\x01\x08\x00", DropReason::MacInvalidSource),
        (b"\x02\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x08\x00", DropReason::MacInvalidSource),
    ];
    for (bytes, reason) in cases {
        let mut switch = switch();
        assert_eq!(switch.receive(0, OwnedFrame::plain(*bytes), NOW), [], "{bytes:02x?}");
        let totals = switch.totals(0);
        assert_eq!(totals.drops().collect::<Vec<_>>(), [(*reason, 1)], "{bytes:02x?}");
        assert_eq!((totals.rx_frames, totals.rx_bytes), (1, bytes.len() as u64));
        assert!(switch.fdb.is_empty());
    }
}

#[test]
fn a_pinned_station_stays_and_its_impostor_is_still_heard() {
    let mut switch = switch();
    assert!(switch.fdb.pin(BLUE, mac(2), PortId(1), Origin::Static, NOW));
    // The impostor on port 5 is not believed, but what it says is forwarded.
    let sent = switch.receive(5, OwnedFrame::plain(frame(MULTICAST, mac(2), &[])), NOW);
    assert_eq!(sent.len(), 6);
    let sent = switch.receive(0, OwnedFrame::plain(frame(mac(2), mac(1), &[])), NOW);
    assert_eq!(sent, [(1, OwnedFrame::plain(frame(mac(2), mac(1), &[])))]);
    // A station pinned to a port that does not carry the network.
    assert!(switch.fdb.pin(BLUE, mac(3), PortId(4), Origin::Static, NOW));
    assert_eq!(switch.receive(0, OwnedFrame::plain(frame(mac(3), mac(1), &[])), NOW), []);
    assert_eq!(switch.totals(0).drops[DropReason::PortGone.index()], 1);
}

#[test]
fn storms_are_limited_by_kind_and_by_port() {
    let storm = FloodLimits { broadcast: Some(20), multicast: Some(10), unknown: None };
    let limited = PortRules { storm, ..PortRules::access(PortId(0), BLUE) };
    let free = PortRules::access(PortId(1), BLUE);
    let mut switch = Lab::new(&networks(), &[limited, free]);
    let mut flood = |port, dst, at: u64| {
        let sent = (0..5).map(|_| {
            let packet = OwnedFrame::plain(frame(dst, mac(1 + u8::try_from(port).unwrap()), &[]));
            switch.receive(port, packet, Timestamp::from_millis(at)).len()
        });
        sent.sum::<usize>()
    };
    // A tenth of a second's worth at once, at least one frame.
    assert_eq!(flood(0, BROADCAST, 5_000), 2);
    assert_eq!(flood(0, MULTICAST, 5_000), 1);
    assert_eq!(flood(0, mac(9), 5_000), 5, "not limited");
    assert_eq!(flood(1, BROADCAST, 5_000), 5, "another port");
    assert_eq!(flood(0, BROADCAST, 5_050), 1, "one more after a twentieth of a second");
    let totals = switch.totals(0);
    assert_eq!(totals.drops[DropReason::StormBroadcast.index()], 7);
    assert_eq!(totals.drops[DropReason::StormMulticast.index()], 4);
}

#[test]
fn what_a_storm_brings_above_the_limit_teaches_nothing() {
    let storm = FloodLimits { broadcast: Some(10), multicast: Some(10), unknown: None };
    let looped = PortRules { storm, ..PortRules::access(PortId(0), BLUE) };
    let mut switch = Lab::new(&networks(), &[looped, PortRules::access(PortId(1), BLUE)]);
    for dst in [BROADCAST, MULTICAST] {
        let mut hear = |port| switch.receive(port, OwnedFrame::plain(frame(dst, mac(1), &[])), NOW).len();
        assert_eq!([hear(0), hear(1), hear(0)], [1, 1, 0]);
        let (network, at) = (switch.fdb.station(BLUE, mac(1)), NOW);
        assert_eq!(switch.fdb.lookup(network, at), Some(PortId(1)), "where it was seen within the limit");
    }
}

#[test]
fn a_port_sends_nothing_longer_than_its_mtu() {
    let narrow = PortRules { mtu: 1500, ..PortRules::access(PortId(1), BLUE) };
    let mut switch =
        Lab::new(&networks(), &[PortRules::access(PortId(0), BLUE), narrow, trunk(2, &[BLUE], None)]);
    let mut lengths = |len: usize, tags: &[u16], offload| {
        let mut bytes = frame(BROADCAST, mac(1), tags);
        bytes.resize(len, 0);
        let sent = switch.receive(if tags.is_empty() { 0 } else { 2 }, OwnedFrame { offload, bytes }, NOW);
        sent.into_iter().map(|(port, packet)| (port, packet.bytes.len())).collect::<Vec<_>>()
    };
    assert_eq!(lengths(1514, &[], Offload::NONE), [(1, 1514), (2, 1518)]);
    // As in the kernel, a tag is not held against a frame (is_skb_forwardable), whether it is there or not.
    assert_eq!(lengths(1518, &[], Offload::NONE), [(1, 1518), (2, 1522)]);
    assert_eq!(lengths(1519, &[], Offload::NONE), [(2, 1523)]);
    assert_eq!(lengths(1518, &[10], Offload::NONE), [(0, 1514), (1, 1514)]);
    let totals = switch.totals(1);
    assert_eq!(totals.drops[DropReason::PktTooBig.index()], 1);
    assert_eq!((totals.offered, totals.tx_frames), (4, 3));
}

#[test]
fn a_super_frame_is_measured_by_the_frames_it_stands_for() {
    let narrow = PortRules { mtu: 1500, ..PortRules::access(PortId(1), BLUE) };
    let mut switch = Lab::new(&networks(), &[PortRules::access(PortId(0), BLUE), narrow]);
    // Headers of 14 + 20 + 20 bytes.
    let spec = tcp(vec![], 20_000);
    for (size, fits) in [(1460, true), (1464, true), (1465, false)] {
        let packet = super_frame(&spec, size);
        let sent = switch.receive(0, packet.clone(), NOW);
        assert_eq!(sent, if fits { vec![(1, packet)] } else { vec![] }, "segments of {size}");
    }
    assert_eq!(switch.totals(1).drops[DropReason::PktTooBig.index()], 1);
    assert_eq!(switch.totals(1).tx_super, 2);

    // 50 bytes more around each.
    let outer = Spec { transport: Transport::Udp, payload: vec![], ..tcp(vec![], 0) };
    let nested = Nested { outer, shim: vec![0; 8], inner: tcp(vec![], 20_000), csum: false };
    for (size, fits) in [(1414, true), (1415, false)] {
        let bytes = nested.offloaded();
        let offload = Offload::parse_long(&nested.header(size), &bytes).expect("valid");
        let sent = switch.receive(0, OwnedFrame { offload, bytes }, NOW);
        assert_eq!(sent.len(), usize::from(fits), "segments of {size}");
    }
    assert_eq!(switch.totals(1).drops[DropReason::PktTooBig.index()], 2);
}

#[test]
fn an_offload_header_that_lies_is_a_drop_of_the_ingress() {
    let mut switch = switch();
    let gso = Gso { kind: GsoKind::Tcp4, size: size(1448), header_len: 54, ecn: false, tunnel: None };
    let lie = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Some(gso) };
    let packet = OwnedFrame { offload: lie, bytes: frame(BROADCAST, mac(1), &[]) };
    assert_eq!(switch.receive(0, packet, NOW), []);
    let totals = switch.totals(0);
    assert_eq!(totals.drops().collect::<Vec<_>>(), [(DropReason::DevHdr, 1)]);
    assert_eq!(totals.rx_frames, 1);
    assert!(switch.fdb.is_empty(), "its source is not believed either");
}

#[test]
fn a_device_that_fails_or_is_full_is_told_on_the_egress() {
    let wiring = Wiring { queue: 2, ..Wiring::default() };
    let ports = [PortRules::access(PortId(0), BLUE), PortRules::access(PortId(1), BLUE)];
    let mut switch = Lab::with(wiring, Settings::default(), &networks(), &ports);
    for _ in 0..3 {
        switch.put(0, OwnedFrame::plain(frame(BROADCAST, mac(1), &[])));
        switch.turn(0, NOW);
    }
    switch.wire(1).memory.fail(Some(5));
    switch.put(0, OwnedFrame::plain(frame(BROADCAST, mac(1), &[])));
    switch.turn(0, NOW);
    let totals = switch.totals(1);
    assert_eq!(totals.drops().collect::<Vec<_>>(), [(DropReason::DevReady, 1), (DropReason::FullRing, 1)]);
    assert_eq!((totals.offered, totals.tx_frames, switch.totals(0).flooded), (4, 2, 4));
}

/// Two ports that take super-frames (an access port and a trunk) and two that do not.
fn mixed() -> Lab {
    let wiring = Wiring {
        capabilities: |port| if port < 2 { Capabilities::ALL } else { Capabilities::NONE },
        ..Wiring::default()
    };
    let ports = [
        PortRules::access(PortId(0), BLUE),
        trunk(1, &[BLUE], None),
        PortRules::access(PortId(2), BLUE),
        trunk(3, &[BLUE], None),
    ];
    Lab::with(wiring, Settings::default(), &networks(), &ports)
}

#[test]
fn a_super_frame_passes_whole_or_is_cut_with_its_tag() {
    let (plain, tagged) = (tcp(vec![], 10_000), tcp(vec![[0x81, 0, 0, 10]], 10_000));
    // Into the access port, out of it, and out of the trunks behind a tag.
    let sent = mixed().receive(0, super_frame(&plain, 1448), NOW);
    let mut expected = vec![(1, super_frame(&tagged, 1448))];
    expected.extend(wire_frames(2, &plain.cut(1448)));
    expected.extend(wire_frames(3, &tagged.cut(1448)));
    assert_eq!(sent, expected);
    assert_eq!(expected[0].1.offload.gso.unwrap().header_len, 58);
    assert_eq!(expected[0].1.offload.csum, Csum::Partial { start: 38, offset: 16 });

    // Into the trunk: the tag goes again.
    let mut switch = mixed();
    let sent = switch.receive(1, super_frame(&tagged, 1448), NOW);
    let mut expected = vec![(0, super_frame(&plain, 1448))];
    expected.extend(wire_frames(2, &plain.cut(1448)));
    expected.extend(wire_frames(3, &tagged.cut(1448)));
    assert_eq!(sent, expected);
    let cut = switch.totals(2);
    assert_eq!((cut.tx_frames, cut.tx_segments, cut.tx_super), (1, 7, 0));
    assert_eq!((switch.totals(1).rx_super, switch.totals(0).tx_super), (1, 1));
}

#[test]
fn a_super_frame_in_a_tunnel_passes_whole_or_is_cut_with_its_tag() {
    let nested = |tags| Nested {
        outer: Spec { transport: Transport::Udp, payload: vec![], ..tcp(tags, 0) },
        shim: vec![8, 0, 0, 0, 0, 0, 77, 0],
        inner: tcp(vec![], 10_000),
        csum: true,
    };
    let whole = |nested: &Nested| {
        let bytes = nested.offloaded();
        OwnedFrame { offload: Offload::parse_long(&nested.header(1398), &bytes).expect("valid"), bytes }
    };
    let (plain, tagged) = (nested(vec![]), nested(vec![[0x81, 0, 0, 10]]));
    let mut switch = mixed();
    let sent = switch.receive(0, whole(&plain), NOW);
    let mut expected = vec![(1, whole(&tagged))];
    expected.extend(wire_frames(2, &plain.cut(1398)));
    expected.extend(wire_frames(3, &tagged.cut(1398)));
    assert_eq!(sent, expected);
    assert_eq!((switch.totals(2).tx_segments, switch.totals(1).tx_super), (8, 1));
}

#[test]
fn a_partial_checksum_is_completed_for_who_cannot() {
    for transport in [Transport::Udp, Transport::Tcp { sequence: 1, flags: ACK, options: 12 }] {
        let plain = Spec { transport, ..tcp(vec![], 333) };
        let tagged = Spec { tags: vec![[0x81, 0, 0, 10]], ..plain.clone() };
        let partial = |spec: &Spec| {
            let bytes = spec.offloaded();
            let offload = Offload::parse(&spec.csum_header(), &bytes).unwrap();
            OwnedFrame { offload, bytes }
        };
        let sent = mixed().receive(0, partial(&plain), NOW);
        let expected = [
            (1, partial(&tagged)),
            (2, OwnedFrame::plain(plain.wire())),
            (3, OwnedFrame::plain(tagged.wire())),
        ];
        assert_eq!(sent, expected);
        for (_, packet) in &sent[1..] {
            let headers = Headers::measure(&packet.bytes).unwrap();
            assert!(vswitch::checksum::verify(&packet.bytes, &headers));
        }
    }
}

fn tcp(tags: Vec<[u8; 4]>, payload: usize) -> Spec {
    Spec {
        tags,
        addresses: Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]),
        ip_options: 0,
        extensions: vec![],
        id: 7,
        transport: Transport::Tcp { sequence: 0xffff_f000, flags: PSH | ACK, options: 0 },
        accurate: false,
        payload: (0..251).cycle().take(payload).collect(),
    }
}

fn super_frame(spec: &Spec, size: u16) -> OwnedFrame {
    let bytes = spec.offloaded();
    OwnedFrame { offload: Offload::parse(&spec.gso_header(size), &bytes).expect("valid"), bytes }
}

fn wire_frames(port: u16, frames: &[Vec<u8>]) -> Vec<(u16, OwnedFrame)> {
    frames.iter().map(|bytes| (port, OwnedFrame::plain(bytes.clone()))).collect()
}

fn size(bytes: u16) -> NonZeroU16 {
    NonZeroU16::new(bytes).expect("not zero")
}
