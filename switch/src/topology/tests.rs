//! Every kind of port and tag, and every contradiction.

use super::*;
use crate::addr::{MacAddr, VlanId};

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);

fn vlan(id: u16) -> VlanId {
    VlanId::try_from(id).unwrap()
}

fn networks() -> [Network; 2] {
    [
        Network { id: BLUE, vlan: Some(vlan(10)), ..Network::new(BLUE) },
        Network { id: RED, vlan: Some(vlan(20)), passes_tags: true, ..Network::new(RED) },
    ]
}

fn trunk(id: u16, tagged: &[NetworkId], native: Option<NetworkId>) -> PortRules {
    PortRules {
        mode: PortMode::Trunk { tagged: tagged.to_vec(), native },
        ..PortRules::access(PortId(id), BLUE)
    }
}

fn tagged(tag: Option<u16>) -> Frame {
    Frame { dst: MacAddr::BROADCAST, src: MacAddr([2; 6]), tag: tag.map(Tag), tagged_payload: false }
}

#[test]
fn every_kind_of_port_classifies_every_kind_of_tag() {
    let ports = [
        PortRules::access(PortId(0), BLUE),
        PortRules::access(PortId(1), RED),
        trunk(2, &[BLUE, RED], None),
        trunk(3, &[RED], Some(BLUE)),
        PortRules { mode: PortMode::Tunnel(vec![BLUE, RED]), ..PortRules::access(PortId(4), RED) },
    ];
    let topology = Topology::build(&networks(), &ports, 0).unwrap();
    let ok = |network, tag: Option<u16>| Ok(Classified { network, tag: tag.map(Tag) });
    let (blue10, red20, other, priority) = (Some(0x600a), Some(20), Some(30), Some(0xe000));
    for (port, tag, expected) in [
        (0, None, ok(BLUE, None)),
        (0, priority, ok(BLUE, priority)),
        (0, blue10, Err(DropReason::VlanNotAllowed)),
        (1, None, ok(RED, None)),
        (1, other, ok(RED, None)),
        (1, priority, ok(RED, None)),
        (2, None, Err(DropReason::VlanUntagged)),
        (2, priority, Err(DropReason::VlanUntagged)),
        (2, blue10, ok(BLUE, blue10)),
        (2, red20, ok(RED, red20)),
        (2, other, Err(DropReason::VlanNotAllowed)),
        (2, Some(0x0fff), Err(DropReason::VlanNotAllowed)),
        (3, None, ok(BLUE, None)),
        (3, priority, ok(BLUE, priority)),
        (3, blue10, ok(BLUE, blue10)),
        (3, red20, ok(RED, red20)),
        (9, None, Err(DropReason::PortGone)),
    ] {
        assert_eq!(topology.classify(PortId(port), None, &tagged(tag)), expected, "port {port}, tag {tag:?}");
    }
    let tunnelled = |network, tag| topology.classify(PortId(4), Some(network), &tagged(tag));
    assert_eq!(tunnelled(RED, None), ok(RED, None));
    assert_eq!(tunnelled(RED, priority), ok(RED, None), "red passes tags");
    assert_eq!(tunnelled(BLUE, priority), ok(BLUE, priority));
    assert_eq!(tunnelled(BLUE, blue10), Err(DropReason::VlanNotAllowed));
    assert_eq!(topology.classify(PortId(4), None, &tagged(None)), Err(DropReason::VxlanVniNotFound));
}

#[test]
fn a_tag_in_the_payload_cannot_hop_into_another_vlan() {
    let ports = [
        PortRules::access(PortId(0), BLUE),
        PortRules::access(PortId(1), RED),
        trunk(2, &[RED], Some(BLUE)),
        trunk(3, &[BLUE], None),
        PortRules { mode: PortMode::Tunnel(vec![BLUE]), ..PortRules::access(PortId(4), BLUE) },
    ];
    let topology = Topology::build(&networks(), &ports, 0).unwrap();
    let stacked = |outer| Frame { tagged_payload: true, ..tagged(Some(outer)) };
    let classify =
        |port, frame: &Frame| topology.classify(PortId(port), Some(BLUE), frame).map(|it| it.network);
    assert_eq!(classify(0, &stacked(0xe000)), Err(DropReason::VlanNotAllowed), "priority tag, then a tag");
    assert_eq!(classify(2, &stacked(0)), Err(DropReason::VlanNotAllowed));
    assert_eq!(classify(3, &stacked(10)), Err(DropReason::VlanNotAllowed));
    assert_eq!(classify(4, &tagged(Some(10))), Err(DropReason::VlanNotAllowed), "RFC 7348 section 6.1");
    assert_eq!(classify(4, &stacked(0xe000)), Err(DropReason::VlanNotAllowed));
    assert_eq!(classify(1, &stacked(0)), Ok(RED), "red passes tags");
    assert_eq!(classify(2, &stacked(20)), Ok(RED));
    // Of another type than 802.1Q it is payload by itself.
    let service = Frame { tagged_payload: true, ..tagged(None) };
    for port in [0, 2, 3, 4] {
        assert_eq!(classify(port, &service), Err(DropReason::VlanNotAllowed), "port {port}");
    }
    assert_eq!(classify(1, &service), Ok(RED));
}

#[test]
fn reach_leaves_out_ingress_group_and_fellow_isolated() {
    let isolated = |id| PortRules { isolated: true, ..PortRules::access(PortId(id), BLUE) };
    let tunnel = |id| PortRules {
        mode: PortMode::Tunnel(vec![BLUE]),
        horizon: NonZeroU16::new(1),
        ..PortRules::access(PortId(id), BLUE)
    };
    let ports = [
        PortRules::access(PortId(0), BLUE),
        isolated(1),
        isolated(2),
        tunnel(3),
        tunnel(4),
        PortRules::access(PortId(5), RED),
    ];
    let topology = Topology::build(&networks(), &ports, 0).unwrap();
    let members = |ingress| {
        topology.reach(BLUE, PortId(ingress), false).members().map(|m| m.port.0).collect::<Vec<_>>()
    };
    assert_eq!(members(0), [1, 2, 3, 4]);
    assert_eq!(members(1), [0, 3, 4]);
    assert_eq!(members(3), [0, 1, 2]);
    let why = |ingress, port| topology.reach(BLUE, PortId(ingress), false).member(PortId(port)).err();
    assert_eq!(why(0, 1), None);
    assert_eq!(why(0, 0), Some(DropReason::SamePort));
    assert_eq!(why(1, 2), Some(DropReason::PortIsolated));
    assert_eq!(why(3, 4), Some(DropReason::SplitHorizon));
    assert_eq!(why(0, 5), Some(DropReason::PortGone));
    assert_eq!(why(0, 99), Some(DropReason::PortGone));
}

#[test]
fn a_flood_horizon_holds_for_floods_alone() {
    let group = NonZeroU16::new(1);
    let tunnel = |id| PortRules {
        mode: PortMode::Tunnel(vec![BLUE]),
        horizon: group,
        flood_horizon: group,
        ..PortRules::access(PortId(id), BLUE)
    };
    let gateway = PortRules { flood_horizon: group, ..PortRules::access(PortId(1), BLUE) };
    let ports = [PortRules::access(PortId(0), BLUE), gateway, tunnel(2), tunnel(3)];
    let topology = Topology::build(&networks(), &ports, 0).unwrap();
    let flooded = |ingress| {
        topology.reach(BLUE, PortId(ingress), false).members().map(|m| m.port.0).collect::<Vec<_>>()
    };
    assert_eq!([flooded(0), flooded(1), flooded(2)], [vec![1, 2, 3], vec![0], vec![0]]);
    let passes = |ingress, port| topology.reach(BLUE, PortId(ingress), false).member(PortId(port)).is_ok();
    assert!(passes(1, 2) && passes(2, 1) && !passes(2, 3));
}

#[test]
fn contradictions_are_refused() {
    let build = |ports: &[PortRules]| Topology::build(&networks(), ports, 0).err();
    let (zero, blue) = (PortId(0), PortRules::access(PortId(0), BLUE));
    assert_eq!(build(&[blue.clone(), blue]), Some(TopologyError::CarriedTwice(zero, BLUE)));
    assert_eq!(
        build(&[PortRules::access(zero, BLUE), PortRules::access(zero, RED)]),
        Some(TopologyError::PortTwice(zero))
    );
    assert_eq!(
        build(&[PortRules::access(zero, NetworkId(7))]),
        Some(TopologyError::NoNetwork(zero, NetworkId(7)))
    );
    assert_eq!(build(&[trunk(0, &[BLUE], Some(BLUE))]), Some(TopologyError::CarriedTwice(zero, BLUE)));
    assert_eq!(build(&[trunk(0, &[], Some(RED))]), Some(TopologyError::NativePassesTags(zero, RED)));
    let no_vlan = [Network::new(BLUE)];
    assert_eq!(
        Topology::build(&no_vlan, &[trunk(0, &[BLUE], None)], 0).err(),
        Some(TopologyError::NoVlan(zero, BLUE))
    );
    let same = [networks()[0].clone(), Network { vlan: Some(vlan(10)), ..networks()[1].clone() }];
    assert_eq!(
        Topology::build(&same, &[trunk(0, &[BLUE, RED], None)], 0).err(),
        Some(TopologyError::VlanTwice(zero, vlan(10)))
    );
}

#[test]
fn reserved_groups_follow_the_mask() {
    let topology = Topology::build(&[], &[], 1 << 0xe).unwrap();
    assert!(topology.forwards_group(0x0e) && !topology.forwards_group(0x00));
}

#[test]
fn isolation_holds_across_tunnels() {
    let ports = |isolated| {
        let access = |id, isolated| PortRules { isolated, ..PortRules::access(PortId(id), BLUE) };
        let tunnel = PortRules {
            mode: PortMode::Tunnel(vec![BLUE, RED]),
            horizon: NonZeroU16::new(1),
            ..PortRules::access(PortId(3), BLUE)
        };
        let gateway = PortRules { horizon: NonZeroU16::new(1), ..access(2, false) };
        [access(0, true), access(1, false), gateway, PortRules { isolated, ..tunnel }]
    };
    let members = |topology: &Topology, ingress, isolated| {
        let reach = topology.reach(BLUE, PortId(ingress), isolated);
        reach.members().map(|member| member.port.0).collect::<Vec<_>>()
    };
    let [blue, red] = networks();
    let whole =
        Topology::build(&[Network { isolates_tunnels: true, ..blue.clone() }, red.clone()], &ports(false), 0);
    let whole = whole.unwrap();
    assert_eq!(members(&whole, 0, false), [1, 2], "neither the tunnel");
    assert_eq!(members(&whole, 3, false), [1], "nor from it, and no gateway");
    assert_eq!(members(&whole, 1, false), [0, 2, 3], "other ports are not concerned");
    assert_eq!(whole.reach(BLUE, PortId(3), false).member(PortId(0)), Err(DropReason::PortIsolated));
    // Without that it depends on the sender of each frame, or on the peer.
    let marked = Topology::build(&[blue.clone(), red.clone()], &ports(false), 0).unwrap();
    assert_eq!([members(&marked, 3, true), members(&marked, 3, false)], [vec![1], vec![0, 1]]);
    assert_eq!(members(&marked, 0, false), [1, 2, 3], "its frames are marked");
    let peer = Topology::build(&[blue, red], &ports(true), 0).unwrap();
    assert_eq!([members(&peer, 0, false), members(&peer, 3, false)], [vec![1, 2], vec![1]]);
}
