//! Services from outside: what clients and backends of one switch see of each other.

use std::{net::IpAddr, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{
    lab::{Lab, mac},
    nested::nested,
    superframe::{Addresses, Spec, Transport, specs},
};
use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    balance::{Affinity, Backend, Given, STATION, Service, Why},
    checksum::verify,
    device::mem::OwnedFrame,
    drops::DropReason,
    headers::Headers,
    offload::{LONG_HEADER, Offload},
    topology::{Network, PortRules},
    trace::{Hypothesis, trace},
};

const BLUE: NetworkId = NetworkId(0);
/// Ports and stations: a client, two backends.
const CLIENT: u16 = 1;
const WEB: u16 = 2;
const API: u16 = 3;
const NOW: Timestamp = Timestamp::from_millis(5_000);
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FIN: u8 = 1;

fn v4(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

fn v6(last: u8) -> IpAddr {
    IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, u16::from(last)])
}

/// The service's last digit.
const VIP: u8 = 100;

fn station(port: u16) -> u8 {
    u8::try_from(port).expect("few ports")
}

fn backend(address: IpAddr, port: u16) -> Backend {
    Backend {
        address,
        mac: mac(station(port)),
        is_ready: true,
        ends: None,
        given: Arc::new(Given::default()),
    }
}

fn network() -> [Network; 1] {
    [Network { answers: true, passes_tags: true, ..Network::new(BLUE) }]
}

fn rules() -> Vec<PortRules> {
    [0, CLIENT, WEB, API]
        .map(|port| PortRules { mtu: 65_535, ..PortRules::access(PortId(port), BLUE) })
        .to_vec()
}

/// A switch that has heard all stations, with a service of both families.
fn lab(backends: &[u16], affinity: Affinity) -> Lab {
    let mut lab = Lab::new(&network(), &rules());
    for port in [CLIENT, WEB, API] {
        let mut hello = [MacAddr::BROADCAST.0, mac(station(port)).0].concat();
        hello.extend(b"\x88\xb5hello");
        lab.receive(port, OwnedFrame::plain(hello), NOW);
    }
    set(&mut lab, backends, affinity);
    lab
}

fn set(lab: &mut Lab, backends: &[u16], affinity: Affinity) {
    for address in [v4, v6] {
        let backends = backends.iter().map(|port| backend(address(station(*port)), *port));
        lab.serve(BLUE, Service::new(address(VIP), affinity, backends));
    }
    lab.configure(&network(), &rules());
}

fn addresses(is_v4: bool, from: u8, to: u8) -> Addresses {
    if is_v4 {
        Addresses::V4([10, 9, 0, from, 10, 9, 0, to])
    } else {
        let octets = |last| match v6(last) {
            IpAddr::V6(address) => address.octets(),
            IpAddr::V4(_) => unreachable!("of IPv6"),
        };
        Addresses::V6([octets(from), octets(to)].concat().try_into().expect("two addresses"))
    }
}

/// `spec` with these stations as source and destination of the packet.
fn between(spec: &Spec, from: u8, to: u8) -> Spec {
    Spec { addresses: addresses(matches!(spec.addresses, Addresses::V4(_)), from, to), ..spec.clone() }
}

fn link(mut bytes: Vec<u8>, from: MacAddr, to: MacAddr) -> Vec<u8> {
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes
}

/// Exchanges the ports, which no sum notices.
fn turned(mut bytes: Vec<u8>, transport: usize) -> Vec<u8> {
    let (source, destination) = bytes[transport..transport + 4].split_at_mut(2);
    source.swap_with_slice(destination);
    bytes
}

/// A TCP segment of a flow between these stations, with the ports 40000 and 5001.
fn segment(is_v4: bool, from: u8, to: u8, flags: u8) -> Spec {
    Spec {
        tags: vec![],
        addresses: addresses(is_v4, from, to),
        ip_options: 0,
        extensions: vec![],
        id: 7,
        transport: Transport::Tcp { sequence: 1_000, flags, options: 0 },
        accurate: false,
        payload: vec![],
    }
}

fn request(is_v4: bool, flags: u8) -> OwnedFrame {
    let wire = segment(is_v4, station(CLIENT), VIP, flags).wire();
    OwnedFrame::plain(link(wire, mac(station(CLIENT)), STATION))
}

fn reply(is_v4: bool, from: u16, flags: u8) -> OwnedFrame {
    let spec = segment(is_v4, station(from), station(CLIENT), flags);
    let wire = turned(spec.wire(), spec.transport_at());
    OwnedFrame::plain(link(wire, mac(station(from)), mac(station(CLIENT))))
}

fn destination(frame: &OwnedFrame) -> &[u8] {
    if frame.bytes[12..14] == [0x08, 0] { &frame.bytes[30..34] } else { &frame.bytes[38..54] }
}

/// The port of the station that a frame was sent to, whether the table had it or not.
fn addressee(sent: &[(u16, OwnedFrame)]) -> u16 {
    let (_, frame) = sent.first().expect("it is sent");
    u16::from(frame.bytes[5])
}

fn is_valid(frame: &OwnedFrame) -> bool {
    Headers::measure(&frame.bytes).is_some_and(|headers| verify(&frame.bytes, &headers))
}

#[test]
fn a_client_reaches_a_backend_by_the_address_of_the_service() {
    for is_v4 in [true, false] {
        let mut lab = lab(&[WEB], Affinity::None);
        let sent = lab.receive(CLIENT, request(is_v4, SYN), NOW);
        let there = segment(is_v4, station(CLIENT), station(WEB), SYN).wire();
        let there = link(there, mac(station(CLIENT)), mac(station(WEB)));
        assert_eq!(sent, [(WEB, OwnedFrame::plain(there))]);
        let sent = lab.receive(WEB, reply(is_v4, WEB, SYN | ACK), NOW);
        let spec = segment(is_v4, VIP, station(CLIENT), SYN | ACK);
        let back = link(turned(spec.wire(), spec.transport_at()), STATION, mac(station(CLIENT)));
        assert_eq!(sent, [(CLIENT, OwnedFrame::plain(back))]);
        let [client, web] = [lab.totals(CLIENT), lab.totals(WEB)];
        assert_eq!((client.unicast, client.tx_frames, web.unicast, web.tx_frames), (1, 1 + 2, 1, 1 + 2));
        assert_eq!(lab.flows(CLIENT).len(), 1);
    }
}

/// What leaves is what the sender would have sent to the backend itself, byte for byte, and back: in every state of offload.
fn check_translation(is_v4: bool, port: usize, offload: Offload, build: impl Fn(u8, u8) -> Vec<u8>) {
    let mut lab = lab(&[WEB, API], Affinity::None);
    let [client, web] = [station(CLIENT), station(WEB)];
    let to_service = link(build(client, VIP), mac(client), STATION);
    let sent = lab.receive(CLIENT, OwnedFrame { offload, bytes: to_service }, NOW);
    let [(chosen, there)] = &sent[..] else { panic!("it goes to one backend: {sent:?}") };
    let chosen_station = station(*chosen);
    assert!([WEB, API].contains(chosen), "{web}");
    assert_eq!(there.bytes, link(build(client, chosen_station), mac(client), mac(chosen_station)));
    assert_eq!(there.offload, offload);
    let answer = link(turned(build(chosen_station, client), port), mac(chosen_station), mac(client));
    let sent = lab.receive(*chosen, OwnedFrame { offload, bytes: answer }, NOW);
    let back = link(turned(build(VIP, client), port), STATION, mac(client));
    assert_eq!(sent, [(CLIENT, OwnedFrame { offload, bytes: back })], "{is_v4}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn there_and_back_is_as_without_a_service(spec in specs(), size in 100..1_400_u16, unfinished in any::<bool>()) {
        // A routing header names another destination, and is refused.
        let mut spec = spec;
        spec.extensions.retain(|(kind, _)| *kind != 43);
        let is_v4 = matches!(spec.addresses, Addresses::V4(_));
        let port = spec.transport_at();
        check_translation(is_v4, port, Offload::NONE, |from, to| between(&spec, from, to).wire());
        let offloaded = |from, to| between(&spec, from, to).offloaded();
        let sample = offloaded(station(CLIENT), VIP);
        let header = if unfinished { spec.csum_header() } else { spec.gso_header(size) };
        if let Ok(offload) = Offload::parse(&header, &sample) {
            check_translation(is_v4, port, offload, offloaded);
        }
    }

    #[test]
    fn tunnels_of_containers_are_translated_as_well(nested in nested(), size in 100..1_400_u16) {
        let mut nested = nested;
        nested.outer.extensions.retain(|(kind, _)| *kind != 43);
        let is_v4 = matches!(nested.outer.addresses, Addresses::V4(_));
        let port = nested.outer.transport_at();
        let build = |from, to| {
            let outer = between(&nested.outer, from, to);
            super::nested::Nested { outer, ..nested.clone() }.offloaded()
        };
        let header: [u8; LONG_HEADER] = nested.header(size);
        if let Ok(offload) = Offload::parse_long(&header, &build(station(CLIENT), VIP)) {
            check_translation(is_v4, port, offload, build);
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_gets_none() {
    let spec = Spec { transport: Transport::Udp, payload: b"ask".to_vec(), ..segment(true, 0, 0, 0) };
    let build = |from, to| between(&spec, from, to).build(|_, _| 0);
    check_translation(true, spec.transport_at(), Offload::NONE, build);
}

#[test]
fn a_flow_stays_with_its_backend_and_new_ones_are_spread() {
    let mut lab = lab(&[WEB, API], Affinity::None);
    let mut shares = [0, 0];
    for client_port in 1_000..1_040_u16 {
        let mut bytes = request(true, SYN).bytes;
        // What the port changes in the checksum is of no matter here.
        bytes[34..36].copy_from_slice(&client_port.to_be_bytes());
        let first = lab.receive(CLIENT, OwnedFrame::plain(bytes.clone()), NOW)[0].0;
        shares[usize::from(first == API)] += 1;
        bytes[47] = ACK;
        let next = lab.receive(CLIENT, OwnedFrame::plain(bytes), NOW);
        assert_eq!(next[0].0, first);
    }
    assert!(shares.iter().all(|share| *share > 8), "{shares:?}");
}

#[test]
fn a_connection_idle_for_a_week_goes_on_and_one_from_before_a_restart_is_found_by_its_hash() {
    let mut lab = lab(&[WEB, API], Affinity::None);
    let chosen = lab.receive(CLIENT, request(true, SYN), NOW)[0].0;
    lab.receive(chosen, reply(true, chosen, SYN | ACK), NOW);
    let later = Timestamp::from_millis(7 * 86_400_000);
    set(&mut lab, &[if chosen == WEB { API } else { WEB }, chosen], Affinity::None);
    assert_eq!(addressee(&lab.receive(CLIENT, request(true, ACK), later)), chosen);
    let mut restarted = self::lab(&[WEB, API], Affinity::None);
    assert_eq!(addressee(&restarted.receive(CLIENT, request(true, ACK), later)), chosen);
}

#[test]
fn what_no_backend_takes_is_refused_aloud() {
    for is_v4 in [true, false] {
        let mut lab = lab(&[], Affinity::None);
        let sent = lab.receive(CLIENT, request(is_v4, SYN), NOW);
        let [(CLIENT, reset)] = &sent[..] else { panic!("{sent:?}") };
        let transport = if is_v4 { 34 } else { 54 };
        assert!(is_valid(reset));
        assert_eq!(reset.bytes[transport + 13], RST | ACK);
        assert_eq!(reset.bytes[transport + 8..transport + 12], 1_001_u32.to_be_bytes(), "the SYN counts");
        assert_eq!(reset.bytes[..12], [mac(station(CLIENT)).0, STATION.0].concat());
        assert_eq!(lab.totals(CLIENT).drops().collect::<Vec<_>>(), [(DropReason::ServiceNoBackend, 1)]);

        // Its backend goes.
        set(&mut lab, &[WEB], Affinity::None);
        lab.receive(CLIENT, request(is_v4, SYN), NOW);
        set(&mut lab, &[API], Affinity::None);
        let sent = lab.receive(CLIENT, request(is_v4, ACK), NOW);
        let [(CLIENT, reset)] = &sent[..] else { panic!("{sent:?}") };
        assert!(is_valid(reset));
        assert_eq!(
            (reset.bytes[transport + 13], &reset.bytes[transport + 4..transport + 8]),
            (RST, &[0, 0, 0, 7][..])
        );
        assert!(lab.flows(CLIENT).is_empty());
        // And connects again.
        assert_eq!(lab.receive(CLIENT, request(is_v4, SYN), NOW)[0].0, API);

        let ask = Spec { transport: Transport::Udp, payload: b"ask".to_vec(), ..segment(is_v4, 1, VIP, 0) };
        set(&mut lab, &[], Affinity::None);
        let ask = link(ask.wire(), mac(1), STATION);
        let sent = lab.receive(CLIENT, OwnedFrame::plain(ask), NOW);
        let icmp = if is_v4 { (34, [3, 3]) } else { (54, [1, 4]) };
        assert_eq!(sent[0].1.bytes[icmp.0..icmp.0 + 2], icmp.1, "port unreachable");
    }
}

#[test]
fn a_backend_that_is_not_ready_keeps_what_it_has_and_gets_nothing_new() {
    let mut lab = lab(&[WEB], Affinity::None);
    lab.receive(CLIENT, request(true, SYN), NOW);
    lab.receive(WEB, reply(true, WEB, SYN | ACK), NOW);
    let draining = Backend { is_ready: false, ..backend(v4(station(WEB)), WEB) };
    lab.serve(BLUE, Service::new(v4(VIP), Affinity::None, [draining, backend(v4(station(API)), API)]));
    lab.configure(&network(), &rules());
    assert_eq!(lab.receive(CLIENT, request(true, ACK), NOW)[0].0, WEB);
    assert_eq!(lab.receive(WEB, reply(true, WEB, ACK), NOW)[0].0, CLIENT);
    assert_eq!(lab.receive(CLIENT, request(true, SYN), NOW)[0].0, API, "a new connection by the same ports");
}

#[test]
fn a_backend_whose_time_is_over_has_no_flows_any_more() {
    let mut lab = lab(&[WEB], Affinity::None);
    lab.receive(CLIENT, request(true, SYN), NOW);
    lab.receive(WEB, reply(true, WEB, SYN | ACK), NOW);
    let at = |millis| Timestamp::from_millis(millis);
    let draining = Backend { is_ready: false, ends: Some(at(30_000)), ..backend(v4(station(WEB)), WEB) };
    lab.serve(BLUE, Service::new(v4(VIP), Affinity::None, [draining, backend(v4(station(API)), API)]));
    lab.configure(&network(), &rules());
    assert_eq!(lab.receive(CLIENT, request(true, ACK), at(29_999))[0].0, WEB);
    let sent = lab.receive(CLIENT, request(true, ACK), at(30_000));
    assert_eq!((sent[0].0, sent[0].1.bytes[34 + 13]), (CLIENT, RST), "its client is told");
    assert_eq!(lab.receive(CLIENT, request(true, SYN), at(30_001))[0].0, API);
}

#[test]
fn both_sides_end_a_connection() {
    let mut lab = lab(&[WEB], Affinity::None);
    lab.receive(CLIENT, request(true, SYN), NOW);
    assert_eq!(lab.flows(CLIENT).list(NOW).len(), 1);
    lab.receive(WEB, reply(true, WEB, SYN | ACK), NOW);
    lab.receive(CLIENT, request(true, FIN | ACK), NOW);
    assert_eq!(lab.flows(CLIENT).list(NOW).len(), 1, "the backend may have more to say");
    lab.receive(WEB, reply(true, WEB, FIN | ACK), NOW);
    assert!(lab.flows(CLIENT).list(NOW).is_empty());
    // The last acknowledgement still arrives.
    assert_eq!(lab.receive(CLIENT, request(true, ACK), NOW)[0].0, WEB);
}

#[test]
fn a_backend_reaches_the_service_that_it_is_itself() {
    for is_v4 in [true, false] {
        let mut lab = lab(&[WEB], Affinity::None);
        let own = station(WEB);
        let request = link(segment(is_v4, own, VIP, SYN).wire(), mac(own), STATION);
        let sent = lab.receive(WEB, OwnedFrame::plain(request), NOW);
        let looped = link(segment(is_v4, VIP, own, SYN).wire(), STATION, mac(own));
        assert_eq!(sent, [(WEB, OwnedFrame::plain(looped))]);
        let spec = segment(is_v4, own, VIP, SYN | ACK);
        let answer = link(turned(spec.wire(), spec.transport_at()), mac(own), STATION);
        let sent = lab.receive(WEB, OwnedFrame::plain(answer), NOW);
        let spec = segment(is_v4, VIP, own, SYN | ACK);
        let back = link(turned(spec.wire(), spec.transport_at()), STATION, mac(own));
        assert_eq!(sent, [(WEB, OwnedFrame::plain(back))]);
    }
}

#[test]
fn a_client_is_kept_with_its_backend_for_a_while() {
    let ttl = Duration::from_secs(100);
    let mut lab = lab(&[WEB], Affinity::Client(Some(ttl)));
    lab.receive(CLIENT, request(true, SYN), NOW);
    let port = |lab: &mut Lab, client_port: u16, at: u64| {
        let mut bytes = request(true, SYN).bytes;
        bytes[34..36].copy_from_slice(&client_port.to_be_bytes());
        addressee(&lab.receive(CLIENT, OwnedFrame::plain(bytes), Timestamp::from_millis(at * 1_000)))
    };
    // Where its hash would lead it elsewhere.
    let many: Vec<_> = [WEB, API].into_iter().collect();
    set(&mut lab, &many, Affinity::Client(None));
    let by_hash = port(&mut lab, 1, 6);
    set(&mut lab, &[if by_hash == WEB { API } else { WEB }], Affinity::Client(Some(ttl)));
    let other = port(&mut lab, 2, 200);
    set(&mut lab, &many, Affinity::Client(Some(ttl)));
    assert_ne!(by_hash, other);
    assert_eq!([port(&mut lab, 3, 290), port(&mut lab, 4, 380)], [other; 2]);
    assert_eq!(port(&mut lab, 5, 600), by_hash, "it was away for too long");
}

#[test]
fn a_question_for_the_address_is_answered_and_so_is_a_ping() {
    let mut lab = lab(&[WEB], Affinity::None);
    let mut question = [MacAddr::BROADCAST.0, mac(1).0].concat();
    question.extend(b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01");
    question.extend(mac(1).0);
    question.extend([10, 9, 0, 1, 0, 0, 0, 0, 0, 0, 10, 9, 0, VIP]);
    let sent = lab.receive(CLIENT, OwnedFrame::plain(question), NOW);
    let [(CLIENT, answer)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(answer.bytes[22..28], STATION.0);

    let mut ping = segment(true, 1, VIP, 0).wire();
    ping[23] = 1;
    ping.truncate(34);
    ping.extend(b"\x08\x00\x00\x00\x12\x34\x00\x01datadatadata");
    let total = u16::try_from(ping.len() - 14).unwrap();
    ping[16..18].copy_from_slice(&total.to_be_bytes());
    let sum = |bytes: &[u8]| vswitch::checksum::Sum::of(bytes).checksum().to_be_bytes();
    ping[24..26].fill(0);
    let header = sum(&ping[14..34]);
    ping[24..26].copy_from_slice(&header);
    let icmp = sum(&ping[34..]);
    ping[36..38].copy_from_slice(&icmp);
    let sent = lab.receive(CLIENT, OwnedFrame::plain(link(ping, mac(1), STATION)), NOW);
    let [(CLIENT, pong)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(pong.bytes[26..34], [10, 9, 0, VIP, 10, 9, 0, 1]);
    assert_eq!((pong.bytes[34], sum(&pong.bytes[34..]), sum(&pong.bytes[14..34])), (0, [0; 2], [0; 2]));
    assert_eq!(pong.bytes[38..], *b"\x12\x34\x00\x01datadatadata");
}

#[test]
fn fragments_follow_the_first_of_their_packet() {
    let mut lab = lab(&[WEB, API], Affinity::None);
    let payload = (0..200).collect::<Vec<u8>>();
    let spec = Spec { transport: Transport::Udp, payload, ..segment(true, 1, VIP, 0) };
    let wire = link(spec.wire(), mac(1), STATION);
    let fragment = |offset: usize, len: usize, more: bool| {
        let mut bytes = wire[..34].to_vec();
        bytes.extend(&wire[34 + offset..34 + offset + len]);
        let total = u16::try_from(20 + len).unwrap();
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        let field = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
        bytes[20..22].copy_from_slice(&field.to_be_bytes());
        bytes[24..26].fill(0);
        let sum = vswitch::checksum::Sum::of(&bytes[14..34]).checksum();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        OwnedFrame::plain(bytes)
    };
    assert!(lab.receive(CLIENT, fragment(104, 104, false), NOW).is_empty(), "the first was not seen");
    let first = lab.receive(CLIENT, fragment(0, 104, true), NOW);
    let rest = lab.receive(CLIENT, fragment(104, 104, false), NOW);
    assert_eq!(first[0].0, rest[0].0);
    assert_eq!(destination(&rest[0].1), destination(&first[0].1));
    // Put together they are what was sent to the backend.
    let mut whole = [&first[0].1.bytes[..], &rest[0].1.bytes[34..]].concat();
    let there = between(&spec, 1, station(first[0].0)).wire();
    assert_eq!(whole.split_off(34), there[34..]);
    assert_eq!(lab.totals(CLIENT).drops().collect::<Vec<_>>(), [(DropReason::ServiceFragment, 1)]);
}

#[test]
fn errors_of_backends_and_of_the_switch_speak_of_the_service() {
    for is_v4 in [true, false] {
        let mut lab = lab(&[WEB], Affinity::None);
        // The backend's port takes short packets only: the switch complains in its place.
        let mut rules = rules();
        rules[usize::from(WEB)].mtu = 1_280;
        lab.configure(&network(), &rules);
        let long = Spec { payload: vec![7; 1_300], ..segment(is_v4, 1, VIP, ACK) };
        let bytes = link(long.wire(), mac(1), STATION);
        let sent = lab.receive(CLIENT, OwnedFrame::plain(bytes.clone()), NOW);
        let [(CLIENT, error)] = &sent[..] else { panic!("{sent:?}") };
        let (icmp, source, address): (usize, usize, Vec<u8>) = match (is_v4, v4(VIP), v6(VIP)) {
            (true, IpAddr::V4(address), _) => (34, 26, address.octets().to_vec()),
            (_, _, IpAddr::V6(address)) => (54, 22, address.octets().to_vec()),
            _ => unreachable!("each of its family"),
        };
        assert_eq!(error.bytes[source..source + address.len()], address, "from the service");
        assert_eq!(error.bytes[6..12], STATION.0);
        let quote = &error.bytes[icmp + 8..];
        assert_eq!(quote, &bytes[14..14 + quote.len()], "about the packet as it was sent");
        let sum = vswitch::checksum::Sum::of(&error.bytes[icmp..]);
        let sum = if is_v4 {
            sum
        } else {
            sum + vswitch::checksum::Sum::pseudo(&error.bytes[22..54], 58, error.bytes.len() - icmp)
        };
        assert_eq!(sum.checksum(), 0);
    }
}

#[test]
fn no_station_takes_the_services_address() {
    let mut lab = lab(&[WEB], Affinity::None);
    let mut lie = [MacAddr::BROADCAST.0, STATION.0].concat();
    lie.extend(b"\x88\xb5hello");
    assert!(lab.receive(API, OwnedFrame::plain(lie), NOW).is_empty());
    assert_eq!(lab.totals(API).drops().collect::<Vec<_>>(), [(DropReason::LocalMac, 1)]);
    assert_eq!(lab.receive(CLIENT, request(true, SYN), NOW)[0].0, WEB);
}

#[test]
fn a_trace_names_the_backend_that_the_frame_then_goes_to() {
    let mut lab = lab(&[WEB, API], Affinity::None);
    let plan = lab.plan();
    let bytes = request(true, SYN).bytes;
    let (ingress, storm) = (PortId(CLIENT), lab.storm(CLIENT));
    let hypothesis = Hypothesis { ingress, network: None, offload: Offload::NONE, bytes: &bytes, storm };
    let traced = trace(NOW, &plan, &hypothesis).unwrap();
    let served = traced.decision.served.unwrap();
    assert_eq!((served.service, served.why), (v4(VIP), Why::Hash));
    assert!(lab.flows(CLIENT).is_empty(), "a trace makes no flow");
    let sent = lab.receive(CLIENT, request(true, SYN), NOW);
    assert_eq!(served.backend, v4(station(sent[0].0)));
    assert_eq!(traced.exits[0].port, PortId(sent[0].0));
    let traced = trace(NOW, &plan, &hypothesis).unwrap();
    assert_eq!(traced.decision.served.map(|served| served.why), Some(Why::Flow));
}

#[derive(Clone, Debug)]
enum Step {
    /// Of the client to the service: the family, the flags.
    Request(bool, u8),
    /// Of the client to a backend itself.
    Direct(bool, u16, u8),
    /// Of a backend to the client.
    Reply(bool, u16, u8),
    /// These serve from now on.
    Serve(Vec<u16>),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flags = || prop_oneof![4 => Just(SYN), 8 => Just(ACK), 4 => Just(SYN | ACK), 2 => Just(FIN | ACK), 1 => Just(RST)];
    let port = || prop_oneof![Just(WEB), Just(API)];
    let step = prop_oneof![
        10 => (any::<bool>(), flags()).prop_map(|(is_v4, flags)| Step::Request(is_v4, flags)),
        2 => (any::<bool>(), port(), flags()).prop_map(|(is_v4, port, flags)| Step::Direct(is_v4, port, flags)),
        10 => (any::<bool>(), port(), flags()).prop_map(|(is_v4, port, flags)| Step::Reply(is_v4, port, flags)),
        2 => prop::sample::subsequence(vec![WEB, API], 0..=2).prop_map(Step::Serve),
        2 => (0..100_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_trace_is_what_happens_to_a_frame_of_a_service(
        affinity in prop_oneof![Just(Affinity::None), Just(Affinity::Client(None)), Just(Affinity::Client(Some(Duration::from_secs(60))))],
        steps in steps(),
    ) {
        let mut lab = lab(&[WEB, API], affinity);
        let mut now = NOW;
        for step in steps {
            let (port, frame) = match step {
                Step::Request(is_v4, flags) => (CLIENT, request(is_v4, flags)),
                Step::Direct(is_v4, to, flags) => {
                    let wire = segment(is_v4, station(CLIENT), station(to), flags).wire();
                    (CLIENT, OwnedFrame::plain(link(wire, mac(station(CLIENT)), mac(station(to)))))
                }
                Step::Reply(is_v4, from, flags) => (from, reply(is_v4, from, flags)),
                Step::Serve(ports) => {
                    set(&mut lab, &ports, affinity);
                    continue;
                }
                Step::Wait(by) => {
                    now = Timestamp::from_millis(now.as_millis() + by);
                    continue;
                }
            };
            let plan = lab.plan();
            let hypothesis = Hypothesis {
                ingress: PortId(port), network: None, offload: Offload::NONE, bytes: &frame.bytes, storm: lab.storm(port),
            };
            let flows = lab.flows(CLIENT).list(now);
            let traced = trace(now, &plan, &hypothesis).expect("it is short");
            prop_assert_eq!(lab.flows(CLIENT).list(now), flows, "a trace changes nothing");

            let sent = lab.receive(port, frame, now);
            prop_assert!(sent.iter().all(|(_, frame)| is_valid(frame)), "{:?}", sent);
            let exits: Vec<_> = traced.exits.iter().filter(|exit| exit.result.is_ok()).map(|exit| exit.port.0).collect();
            if exits.is_empty() {
                // Dropped, or answered in its place: a reset.
                prop_assert!(sent.iter().all(|(to, _)| *to == port), "{:?}", sent);
                continue;
            }
            prop_assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), exits);
            if let Some(served) = traced.decision.served {
                let backend = match served.backend {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                prop_assert_eq!(destination(&sent[0].1), &*backend, "by {:?}", served.why);
            }
        }
    }
}
