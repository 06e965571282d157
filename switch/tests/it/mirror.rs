//! Mirrors: which ports get which copies, and that nothing else changes.

use std::collections::BTreeSet;

use super::lab::{Lab, frame, mac};
use proptest::prelude::*;
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    capture::Direction,
    device::mem::OwnedFrame,
    drops::DropReason,
    mirror::Mirror,
    topology::{Network, PortMode, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);
const WATCH: u16 = 4;

/// Two ports of blue, a trunk of both networks, a port of red, and one that watches.
fn setup() -> (Vec<Network>, Vec<PortRules>) {
    let network = |id, vlan| Network { id, vlan: VlanId::try_from(vlan).ok(), ..Network::new(id) };
    let mode = |id, mode| PortRules { mode, ..PortRules::access(PortId(id), BLUE) };
    let ports = vec![
        PortRules::access(PortId(0), BLUE),
        PortRules::access(PortId(1), BLUE),
        mode(2, PortMode::Trunk { tagged: vec![BLUE, RED], native: None }),
        PortRules::access(PortId(3), RED),
        mode(WATCH, PortMode::Mirror),
    ];
    (vec![network(BLUE, 10), network(RED, 20)], ports)
}

fn mirrored(ports: &[u16], networks: &[NetworkId], direction: Option<Direction>) -> Lab {
    let (all, rules) = setup();
    let mut lab = Lab::new(&all, &rules);
    let ports = ports.iter().map(|port| PortId(*port)).collect();
    let networks: BTreeSet<_> = networks.iter().copied().collect();
    lab.mirror(vec![Mirror { to: PortId(WATCH), ports, networks, direction }]);
    lab.configure(&all, &rules);
    lab
}

fn receive(lab: &mut Lab, port: u16, bytes: Vec<u8>) -> Vec<(u16, Vec<u8>)> {
    let sent = lab.receive(port, OwnedFrame::plain(bytes), Timestamp::from_millis(1_000));
    sent.into_iter().map(|(port, packet)| (port, packet.bytes)).collect()
}

#[test]
fn a_port_is_watched_both_ways_once() {
    let mut lab = mirrored(&[0, 1], &[], None);
    let hello = frame(MacAddr::BROADCAST, mac(1), &[]);
    let tagged = frame(MacAddr::BROADCAST, mac(1), &[10]);
    let sent = receive(&mut lab, 0, hello.clone());
    assert_eq!(
        sent,
        [(1, hello.clone()), (2, tagged), (WATCH, hello)],
        "in at one, out at the other: one copy"
    );
    // As it left, without the tag it came with.
    let sent = receive(&mut lab, 2, frame(mac(1), mac(7), &[10]));
    let untagged = frame(mac(1), mac(7), &[]);
    assert_eq!(sent, [(0, untagged.clone()), (WATCH, untagged)]);
    assert_eq!(receive(&mut lab, 3, frame(MacAddr::BROADCAST, mac(9), &[])).len(), 1, "red is not watched");
}

#[test]
fn directions_and_networks_are_told_apart() {
    let hello = || frame(MacAddr::BROADCAST, mac(1), &[]);
    for (direction, from_it, to_it) in [(Direction::Rx, 1, 0), (Direction::Tx, 0, 1)] {
        let mut lab = mirrored(&[0], &[], Some(direction));
        let copies = |sent: Vec<(u16, Vec<u8>)>| sent.iter().filter(|(port, _)| *port == WATCH).count();
        assert_eq!(copies(receive(&mut lab, 0, hello())), from_it);
        assert_eq!(copies(receive(&mut lab, 1, hello())), to_it);
    }
    let mut lab = mirrored(&[], &[RED], None);
    assert!(receive(&mut lab, 0, hello()).iter().all(|(port, _)| *port != WATCH));
    let red = frame(MacAddr::BROADCAST, mac(3), &[20]);
    assert!(receive(&mut lab, 2, red.clone()).contains(&(WATCH, red)), "as it came in");
}

#[test]
fn what_dies_is_copied_and_what_a_mirror_sends_dies() {
    let mut lab = mirrored(&[0], &[], None);
    let strange = frame(MacAddr::BROADCAST, mac(1), &[77]);
    assert_eq!(receive(&mut lab, 0, strange.clone()), [(WATCH, strange)]);
    assert_eq!(receive(&mut lab, WATCH, frame(MacAddr::BROADCAST, mac(8), &[])), []);
    assert_eq!(lab.totals(WATCH).drops[DropReason::MirrorOnly.index()], 1);
    assert_eq!(lab.fdb.len(), 0, "nobody is learned behind a mirror");
}

proptest! {
    /// A mirror changes nothing for others, and the books balance with it.
    #[test]
    fn nobody_notices_a_mirror(
        frames in prop::collection::vec((0..=WATCH, 0..6_u8, 1..6_u8, prop::option::of(prop_oneof![Just(10_u16), Just(20)])), 1..40),
        ports in prop::collection::btree_set(0..4_u16, 0..4),
        red in any::<bool>(),
    ) {
        let ports: Vec<_> = ports.into_iter().collect();
        let mut watched = mirrored(&ports, if red { &[RED] } else { &[] }, None);
        let (networks, rules) = setup();
        let mut alone = Lab::new(&networks, &rules);
        for (port, to, from, tag) in frames {
            let to = if to == 0 { MacAddr::BROADCAST } else { mac(to) };
            let bytes = frame(to, mac(from), tag.as_slice());
            let mut sent = receive(&mut watched, port, bytes.clone());
            sent.retain(|(port, _)| *port != WATCH);
            prop_assert_eq!(sent, receive(&mut alone, port, bytes));
        }
        for port in 0..=WATCH {
            let totals = watched.totals(port);
            let (ingress, egress): (Vec<_>, Vec<_>) = totals.drops().partition(|(reason, _)| !reason.is_egress());
            let count = |drops: &[(DropReason, u64)]| drops.iter().map(|(_, frames)| frames).sum::<u64>();
            prop_assert_eq!(totals.rx_frames, totals.unicast + totals.flooded + totals.answered + totals.waiting + count(&ingress));
            prop_assert_eq!(totals.offered, totals.tx_frames + count(&egress));
            if port != WATCH {
                prop_assert_eq!(totals, alone.totals(port));
            }
        }
    }
}
