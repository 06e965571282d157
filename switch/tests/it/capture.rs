//! Captures through a real engine: which session sees which frames, and what is lost.

use std::{collections::BTreeSet, sync::Arc};

use super::lab::{Lab, Wiring, frame, mac};
use super::superframe::{ACK, Addresses, Spec, Transport};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp, VlanId},
    capture::{Direction, Fate, Filter, Instruction, Reader, Record, Session, Wanted},
    device::mem::OwnedFrame,
    drops::DropReason,
    fdb::{Learned, Settings},
    offload::{Capabilities, Csum, Offload},
    storm::Flood,
    topology::{Network, PortMode, PortRules},
};

const BLUE: NetworkId = NetworkId(0);
const LONELY: NetworkId = NetworkId(1);
const NOW: Timestamp = Timestamp::from_millis(1_000);
const EVERYTHING: usize = 1 << 17;

/// Two access ports and a trunk in one network, and one port alone in another.
fn setup() -> (Vec<Network>, Vec<PortRules>) {
    let network = |id, vlan| Network { id, vlan: VlanId::try_from(vlan).ok(), ..Network::new(id) };
    let trunk = PortRules {
        mode: PortMode::Trunk { tagged: vec![BLUE], native: None },
        ..PortRules::access(PortId(2), BLUE)
    };
    let ports = vec![
        PortRules::access(PortId(0), BLUE),
        PortRules::access(PortId(1), BLUE),
        trunk,
        PortRules::access(PortId(3), LONELY),
    ];
    (vec![network(BLUE, 10), network(LONELY, 0)], ports)
}

/// A lab with a session for `wanted`; its clock reads 7.
fn watched(wanted: Wanted, bytes: usize) -> (Lab, Arc<Session>, Reader) {
    let (networks, ports) = setup();
    let mut lab = Lab::new(&networks, &ports);
    let (session, mut readers) = Session::new(wanted, 1, bytes, || 7);
    let session = Arc::new(session);
    lab.watch(vec![Arc::clone(&session)]);
    lab.configure(&networks, &ports);
    (lab, session, readers.remove(0))
}

fn all(reader: &mut Reader) -> Vec<(Record, Vec<u8>)> {
    std::iter::from_fn(|| {
        let mut bytes = Vec::new();
        Some((reader.take(&mut bytes)?, bytes))
    })
    .collect()
}

fn everything() -> Wanted {
    Wanted { snaplen: 100, ..Wanted::default() }
}

#[test]
fn a_frame_is_seen_where_it_comes_in_and_wherever_it_leaves() {
    let (mut lab, _session, mut reader) = watched(everything(), EVERYTHING);
    let bytes = frame(MacAddr::BROADCAST, mac(1), &[]);
    lab.receive(0, OwnedFrame::plain(bytes.clone()), NOW);
    let seen = all(&mut reader);
    let expected = Record {
        at: 7,
        frame: seen[0].0.frame,
        port: PortId(0),
        direction: Direction::Rx,
        network: Some(BLUE),
        learned: Some(Learned::New),
        fate: Fate::Flooded(Flood::Broadcast),
        len: 19,
        segment: 0,
        lost: 0,
    };
    assert_eq!(seen[0], (expected, bytes.clone()));
    let sent = Record { direction: Direction::Tx, learned: None, fate: Fate::Sent(1), ..expected };
    assert_eq!(seen[1], (Record { port: PortId(1), ..sent }, bytes));
    // With the tag it leaves by.
    let tagged = frame(MacAddr::BROADCAST, mac(1), &[10]);
    assert_eq!(seen[2], (Record { port: PortId(2), len: 23, ..sent }, tagged));

    lab.receive(1, OwnedFrame::plain(frame(mac(1), mac(2), &[])), NOW);
    let fates: Vec<_> = all(&mut reader).iter().map(|(record, _)| (record.port.0, record.fate)).collect();
    assert_eq!(fates, [(1, Fate::Unicast(PortId(0))), (0, Fate::Sent(1))]);
}

#[test]
fn drops_are_seen_with_their_reason() {
    let (mut lab, _session, mut reader) = watched(Wanted { drops: true, ..everything() }, EVERYTHING);
    lab.receive(0, OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(1), &[])), NOW);
    lab.receive(3, OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(3), &[])), NOW);
    lab.receive(0, OwnedFrame::plain(frame(mac(9), mac(1), &[77])), NOW);
    lab.receive(0, OwnedFrame::plain(vec![0; 8]), NOW);
    lab.wire(1).memory.fail(Some(5));
    lab.receive(0, OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(1), &[])), NOW);
    let seen: Vec<_> =
        all(&mut reader).iter().map(|(record, _)| (record.port.0, record.direction, record.fate)).collect();
    let dropped = |port, direction, reason| (port, direction, Fate::Dropped(reason));
    let expected = [
        dropped(3, Direction::Rx, DropReason::NoReceiver),
        dropped(0, Direction::Rx, DropReason::VlanNotAllowed),
        dropped(0, Direction::Rx, DropReason::PktTooSmall),
        dropped(1, Direction::Tx, DropReason::DevReady),
    ];
    assert_eq!(seen, expected);
}

/// A frame that contradicts its offload header is refused, but captured.
#[test]
fn a_refused_frame_is_seen_as_it_came() {
    let ethertype = |value| {
        let program = [(0x28, 0, 0, 12), (0x15, 0, 1, value), (0x06, 0, 0, 1), (0x06, 0, 0, 0)];
        Filter::new(&program.map(|(code, jt, jf, k)| Instruction { code, jt, jf, k }))
    };
    let lie = Offload { csum: Csum::Partial { start: 200, offset: 16 }, gso: None };
    let bytes = frame(MacAddr::BROADCAST, mac(1), &[]);
    let ours = u32::from(u16::from_be_bytes([bytes[12], bytes[13]]));
    for (value, seen) in [(ours, 1), (ours + 1, 0)] {
        let filter = Some(ethertype(value).unwrap());
        let (mut lab, _session, mut reader) = watched(Wanted { filter, ..everything() }, EVERYTHING);
        lab.receive(0, OwnedFrame { offload: lie, bytes: bytes.clone() }, NOW);
        let records = all(&mut reader);
        assert_eq!(records.len(), seen);
        for (record, captured) in records {
            assert_eq!((record.fate, record.len), (Fate::Dropped(DropReason::DevHdr), 19));
            assert_eq!(captured, bytes);
        }
    }
}

#[test]
fn a_session_sees_only_what_it_wants() {
    let arp = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x806), (0x06, 0, 0, 1), (0x06, 0, 0, 0)];
    let arp = arp.map(|(code, jt, jf, k)| Instruction { code, jt, jf, k });
    let filter = Some(Filter::new(&arp).expect("libpcap made it"));
    let ports = BTreeSet::from([PortId(1)]);
    let table = [
        (Wanted { ports: ports.clone(), ..everything() }, vec![(1, Direction::Tx)]),
        (Wanted { ports, direction: Some(Direction::Rx), ..everything() }, vec![]),
        (Wanted { networks: BTreeSet::from([LONELY]), ..everything() }, vec![(3, Direction::Rx)]),
        (
            Wanted { direction: Some(Direction::Rx), ..everything() },
            vec![(0, Direction::Rx), (3, Direction::Rx)],
        ),
        // Behind a tag there is no ARP at 12; where the frame came in there was.
        (
            Wanted { filter: filter.clone(), ..everything() },
            vec![(0, Direction::Rx), (1, Direction::Tx), (3, Direction::Rx)],
        ),
        (
            Wanted { filter, ports: BTreeSet::from([PortId(0)]), follow: true, ..everything() },
            vec![(0, Direction::Rx), (1, Direction::Tx), (2, Direction::Tx)],
        ),
    ];
    for (wanted, expected) in table {
        let (mut lab, _session, mut reader) = watched(wanted.clone(), EVERYTHING);
        lab.receive(0, OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(1), &[])), NOW);
        lab.receive(3, OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(3), &[])), NOW);
        let seen: Vec<_> =
            all(&mut reader).iter().map(|(record, _)| (record.port.0, record.direction)).collect();
        assert_eq!(seen, expected, "{wanted:?}");
    }
}

#[test]
fn a_reader_that_sleeps_loses_frames_and_is_told_how_many() {
    let (mut lab, session, mut reader) = watched(Wanted { snaplen: 10, ..everything() }, 200);
    for _ in 0..10 {
        assert_eq!(lab.receive(0, OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(1), &[])), NOW).len(), 2);
    }
    let seen = all(&mut reader);
    assert!(seen.iter().all(|(record, bytes)| bytes.len() == 10 && record.len >= 19));
    assert_eq!(seen.len() as u64 + session.lost(), 30);
    lab.receive(0, OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(1), &[])), NOW);
    assert_eq!(u64::from(all(&mut reader)[0].0.lost), 30 - seen.len() as u64);
}

#[test]
fn sessions_come_and_go_between_turns() {
    let (mut lab, first, mut reader) = watched(everything(), EVERYTHING);
    let (networks, ports) = setup();
    let (second, mut readers) = Session::new(everything(), 1, EVERYTHING, || 8);
    lab.watch(vec![first, Arc::new(second)]);
    lab.configure(&networks, &ports);
    let arp = || OwnedFrame::plain(frame(MacAddr::BROADCAST, mac(1), &[]));
    lab.receive(0, arp(), NOW);
    assert_eq!(all(&mut reader).len(), 3, "a new plan takes nothing from a session that goes on");
    assert!(all(&mut readers[0]).iter().all(|(record, _)| record.at == 8));
    lab.watch(Vec::new());
    lab.configure(&networks, &ports);
    lab.receive(0, arp(), NOW);
    assert_eq!(all(&mut reader).len() + all(&mut readers[0]).len(), 0);
}

#[test]
fn a_super_frame_is_seen_whole_and_what_it_is_cut_into_is_told() {
    let (networks, ports) = setup();
    let wiring = Wiring {
        capabilities: |port| if port == 1 { Capabilities::NONE } else { Capabilities::ALL },
        ..Wiring::default()
    };
    let mut lab = Lab::with(wiring, Settings::default(), &networks, &ports);
    let (session, mut readers) =
        Session::new(Wanted { snaplen: 1 << 17, ..Wanted::default() }, 1, 1 << 20, || 7);
    lab.watch(vec![Arc::new(session)]);
    lab.configure(&networks, &ports);
    let packet = super_frame(10_000, 1_000);
    let bytes = packet.bytes.clone();
    lab.receive(0, packet, NOW);
    let seen = all(&mut readers[0]);
    assert_eq!((seen[0].0.segment, &seen[0].1), (1_000, &bytes));
    assert_eq!((seen[1].0.port, seen[1].0.fate), (PortId(1), Fate::Sent(10)));
    assert_eq!((seen[2].0.port, seen[2].0.fate), (PortId(2), Fate::Sent(1)));
}

/// A TCP super-frame of `payload` bytes, in segments of `size`.
fn super_frame(payload: usize, size: u16) -> OwnedFrame {
    let spec = Spec {
        tags: vec![],
        addresses: Addresses::V4([10, 9, 0, 2, 10, 9, 0, 3]),
        ip_options: 0,
        extensions: vec![],
        id: 1,
        transport: Transport::Tcp { sequence: 1, flags: ACK, options: 0 },
        accurate: false,
        payload: vec![7; payload],
    };
    let bytes = spec.offloaded();
    OwnedFrame {
        offload: Offload::parse(&spec.gso_header(size), &bytes).expect("it is a super-frame"),
        bytes,
    }
}
