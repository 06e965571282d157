//! Floods to hundreds of ports, which are sent between turns.

use std::{net::IpAddr, ops::Range};

use super::lab::{Lab, Wire, frame, mac};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    device::mem::OwnedFrame,
    drops::DropReason,
    offload::Capabilities,
    spread::MANY,
    topology::{Network, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
const RED: NetworkId = NetworkId(1);
const PORTS: u16 = 300;
const NOW: Timestamp = Timestamp::from_millis(1_000);
const _: () = assert!(PORTS as usize > MANY + 10);

fn networks() -> [Network; 2] {
    [Network::new(BLUE), Network::new(RED)]
}

/// Ports of blue; the station of the last one has 10.9.0.1.
fn rules(ports: Range<u16>) -> Vec<PortRules> {
    let port = |id: u16| {
        let addresses = if id == PORTS - 1 { vec![IpAddr::from([10, 9, 0, 1])] } else { Vec::new() };
        PortRules { addresses, ..PortRules::access(PortId(id), BLUE) }
    };
    ports.map(port).collect()
}

fn lab() -> Lab {
    Lab::new(&networks(), &rules(0..PORTS))
}

fn broadcast(from: u8, number: u8) -> OwnedFrame {
    let mut bytes = frame(MacAddr::BROADCAST, mac(from), &[]);
    bytes.push(number);
    OwnedFrame::plain(bytes)
}

/// "Who has 10.9.0.1?"
fn request(asker: u8) -> OwnedFrame {
    let mut bytes = frame(MacAddr::BROADCAST, mac(asker), &[]);
    bytes.truncate(bytes.len() - 5);
    bytes.extend(b"\x00\x01\x08\x00\x06\x04\x00\x01");
    bytes.extend(mac(asker).0);
    bytes.extend([10, 9, 0, 99, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1]);
    OwnedFrame::plain(bytes)
}

/// All that is sent until nothing waits any more.
fn rest(lab: &mut Lab) -> Vec<(u16, OwnedFrame)> {
    while lab.spread(NOW) {}
    lab.take_all()
}

fn ports(sent: &[(u16, OwnedFrame)]) -> Vec<u16> {
    sent.iter().map(|(port, _)| *port).collect()
}

#[test]
fn a_flood_to_many_ports_is_sent_between_turns_and_others_pass_it() {
    let mut lab = lab();
    lab.receive(7, broadcast(7, 0), NOW);
    assert_eq!(rest(&mut lab).len(), usize::from(PORTS) - 1, "station 7 is known now");

    assert_eq!(lab.receive(0, broadcast(0, 1), NOW), [], "it waits");
    assert!(lab.spread(NOW), "and is not sent to all at once");
    let first = lab.take_all();
    assert!(!first.is_empty() && first.len() < 200, "{}", first.len());
    let unicast = OwnedFrame::plain(frame(mac(7), mac(1), &[]));
    assert_eq!(ports(&lab.receive(1, unicast, NOW)), [7]);
    let mut all = ports(&first);
    all.extend(ports(&rest(&mut lab)));
    all.sort_unstable();
    assert_eq!(all, (1..PORTS).collect::<Vec<_>>(), "each port but its own, once");
    assert_eq!(lab.totals(0).flooded, 1);
    assert_eq!((lab.totals(9).offered, lab.totals(9).tx_frames), (2, 2));
}

#[test]
fn each_port_gets_a_sources_frames_in_order() {
    let mut lab = lab();
    for number in 0..5 {
        for port in [3, 4] {
            lab.receive(port, broadcast(3, number), NOW);
        }
    }
    let sent = rest(&mut lab);
    let to_nine = sent.iter().filter(|(port, _)| *port == 9).map(|(_, frame)| *frame.bytes.last().unwrap());
    assert_eq!(to_nine.collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    assert_eq!(sent.len(), 10 * (usize::from(PORTS) - 1));
}

#[test]
fn what_asks_for_a_known_station_is_heard_there_at_once_and_by_all_others_later() {
    let mut lab = lab();
    lab.receive(0, broadcast(0, 0), NOW);
    assert_eq!(ports(&lab.receive(5, request(5), NOW)), [PORTS - 1]);
    let sent = rest(&mut lab);
    let is_request = |(port, frame): &(u16, OwnedFrame)| (frame.bytes == request(5).bytes).then_some(*port);
    let mut asked: Vec<_> = sent.iter().filter_map(is_request).collect();
    asked.sort_unstable();
    assert_eq!(asked, (0..PORTS - 1).filter(|port| *port != 5).collect::<Vec<_>>());
}

#[test]
fn a_station_that_floods_has_its_share_and_no_more() {
    let mut lab = lab();
    for number in 0..100 {
        lab.receive(2, broadcast(2, number), NOW);
    }
    assert_eq!((lab.totals(2).waiting, lab.totals(2).drops[DropReason::FloodBacklog.index()]), (64, 36));
    lab.receive(3, broadcast(3, 0), NOW);
    assert_eq!(lab.totals(3).waiting, 1, "others have theirs");
    assert_eq!(ports(&lab.receive(2, request(2), NOW)), [PORTS - 1], "and its questions are heard");
    assert_eq!(rest(&mut lab).len(), 65 * (usize::from(PORTS) - 1));
    lab.receive(2, broadcast(2, 0), NOW);
    assert_eq!((lab.totals(2).flooded, lab.totals(2).waiting), (65, 1), "what was sent waits no more");
}

#[test]
fn a_port_that_is_gone_or_in_another_network_is_not_heard_any_more() {
    for leaves in [true, false] {
        let mut lab = lab();
        lab.receive(2, broadcast(2, 0), NOW);
        lab.receive(3, broadcast(3, 0), NOW);
        assert!(lab.spread(NOW), "a round has begun");
        lab.receive(2, broadcast(2, 1), NOW);
        lab.take_all();
        let mut after = rules(0..PORTS);
        if leaves {
            // Another one with its number.
            lab.attach(PortId(2), Wire::new(Capabilities::ALL, 1024));
        } else {
            after[2] = PortRules::access(PortId(2), RED);
        }
        lab.configure(&networks(), &after);
        let sent = rest(&mut lab);
        assert!(!sent.is_empty());
        assert!(sent.iter().all(|(_, frame)| frame.bytes[6..12] == mac(3).0));
        if !leaves {
            let totals = lab.totals(2);
            let dropped = totals.drops[DropReason::FloodGone.index()];
            assert_eq!((totals.rx_frames, totals.flooded, totals.waiting, dropped), (2, 1, 0, 1));
            let blue = lab.network_totals().next().unwrap();
            assert_eq!(
                (blue.frames, blue.flooded, blue.waiting, blue.dropped, blue.unicast()),
                (3, 2, 0, 1, 0)
            );
        }
    }
}

#[test]
fn few_ports_are_flooded_to_within_the_turn() {
    let few = u16::try_from(MANY).unwrap();
    let mut lab = Lab::new(&networks(), &rules(0..few));
    assert_eq!(lab.receive(0, broadcast(0, 0), NOW).len(), MANY - 1);
    assert!(!lab.spread(NOW));
}

#[test]
fn unknown_stations_are_flooded_to_within_the_turn() {
    let mut lab = lab();
    let unknown = OwnedFrame::plain(frame(mac(200), mac(0), &[]));
    assert_eq!(lab.receive(0, unknown, NOW).len(), usize::from(PORTS) - 1);
}
