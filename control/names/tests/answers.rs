//! Answers, in bytes: what each who asks gets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use vswitch_names::{Asker, Network, Outcome, Port, Record, Table, Transport, Verdict, answer};

const WEB: &str = "10.9.0.2";
const DB: &str = "10.9.0.3";
const OUTSIDE: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn record(name: &str, addresses: &[&str]) -> Record {
    Record { name: name.into(), addresses: addresses.iter().copied().map(ip).collect(), ..Record::default() }
}

/// Two networks: `web` is in both, `db` in blue, `api` a service of two in red, `crowd` 50 stations.
fn table() -> Table {
    let port = Port { name: "5432".into(), protocol: "tcp".into(), number: 5432 };
    let db = Record {
        aliases: vec!["sql".into(), "Cache.v2".into()],
        ports: vec![port],
        ..record("db", &[DB, "fd00::3"])
    };
    let task = |name: &str, at: &str| Record { service: Some("api".into()), ..record(name, &[at]) };
    let crowd = (0..50).map(|n| Record {
        aliases: vec!["crowd".into()],
        ..record(&format!("one{n}"), &[&format!("10.9.1.{n}")])
    });
    let blue: Vec<_> = [record("web", &[WEB]), db].into_iter().chain(crowd).collect();
    let red = [task("api.1", "10.8.0.4"), task("api.2", "10.8.0.5"), record("web", &["10.8.0.2"])];
    let networks = [
        Network::new("blue", ["10.9.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()], &blue),
        Network::new("red", ["10.8.0.0/24".parse().unwrap()], &red),
    ];
    let both = vec!["blue".to_owned(), "red".to_owned()];
    let stations = [(ip(WEB), both.clone()), (ip("10.8.0.2"), both), (ip(DB), vec!["blue".to_owned()])];
    Table::new("vswitch.internal", 5, networks.map(Arc::new), stations)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask_as(asker: Asker, query: &Message, transport: Transport, turn: usize) -> Option<Message> {
    match answer(&table(), &query.to_vec().unwrap(), asker, transport, turn) {
        Outcome::Respond(bytes, _) => Some(Message::from_vec(&bytes).unwrap()),
        Outcome::Upstream => None,
        Outcome::Ignore => panic!("a query is never ignored"),
    }
}

/// The answer to a station; `None` if another server is to be asked.
fn ask(station: &str, name: &str, kind: RecordType) -> Option<Message> {
    ask_as(Asker::Station(ip(station)), &query(name, kind), Transport::Udp, 0)
}

/// The data of all answers, in their order; empty if another server is to be asked.
fn given(message: Option<Message>) -> Vec<String> {
    let records = message.map(|it| it.answers).unwrap_or_default();
    records.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn two_stations_of_a_network_find_each_other() {
    assert_eq!(given(ask(WEB, "db.", RecordType::A)), [DB]);
    assert_eq!(given(ask(WEB, "db.", RecordType::AAAA)), ["fd00::3"]);
    assert_eq!(given(ask(DB, "web.", RecordType::A)), [WEB]);
    let answer = ask(WEB, "db.", RecordType::A).unwrap();
    assert_eq!((answer.id, answer.response_code), (4711, ResponseCode::NoError));
    assert!(answer.authoritative && answer.recursion_available && answer.recursion_desired);
    assert_eq!(answer.answers[0].ttl, 5);
}

#[test]
fn every_form_of_a_name() {
    let forms = [
        ("db.", vec![DB]),
        ("db.blue.", vec![DB]),
        ("db.blue.vswitch.internal.", vec![DB]),
        ("db.vswitch.internal.", vec![DB]),
        ("sql.", vec![DB]),
        ("cache.v2.", vec![DB]),
        ("cache.v2.blue.vswitch.internal.", vec![DB]),
        ("DB.Blue.VSWITCH.internal.", vec![DB]),
        ("api.", vec!["10.8.0.4", "10.8.0.5"]),
        ("tasks.api.", vec!["10.8.0.4", "10.8.0.5"]),
        ("tasks.api.red.vswitch.internal.", vec!["10.8.0.4", "10.8.0.5"]),
        ("api.1.red.", vec!["10.8.0.4"]),
        ("web.red.", vec!["10.8.0.2"]),
        // The first network of the asker's that has it.
        ("web.", vec![WEB]),
        ("tasks.db.", vec![]),
    ];
    for (name, addresses) in forms {
        assert_eq!(given(ask(WEB, name, RecordType::A)), addresses, "{name}");
    }
}

#[test]
fn a_station_sees_its_own_networks_only() {
    assert_eq!(ask(DB, "api.", RecordType::A).unwrap().response_code, ResponseCode::NXDomain);
    assert!(ask(DB, "api.red.", RecordType::A).is_none(), "not ours to know, for it");
    let name = "api.red.vswitch.internal.";
    assert_eq!(ask(DB, name, RecordType::A).unwrap().response_code, ResponseCode::NXDomain);
    // Not declared anywhere, but in the subnet.
    assert_eq!(given(ask("10.8.0.77", "api.1.", RecordType::A)), ["10.8.0.4"]);
}

#[test]
fn a_name_without_that_type_is_not_no_name() {
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS, RecordType::from(1000)] {
        let answer = ask(WEB, "web.blue.vswitch.internal.", kind).unwrap();
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
        assert!(answer.authoritative);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        assert_eq!(
            (answer.authorities[0].ttl, answer.authorities[0].name.to_string().as_str()),
            (1, "vswitch.internal.")
        );
    }
}

#[test]
fn what_would_be_ours_never_leaves_this_host() {
    for name in
        ["ghost.", "ghost.vswitch.internal.", "ghost.blue.vswitch.internal.", "9.0.9.10.in-addr.arpa."]
    {
        let answer = ask(WEB, name, RecordType::A).unwrap();
        assert_eq!(answer.response_code, ResponseCode::NXDomain, "{name}");
        assert!(answer.authoritative, "dockerd stops at an authoritative answer only");
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        let owner = &answer.authorities[0].name;
        assert!(owner.zone_of(&Name::from_ascii(name).unwrap()), "{owner} is no zone of {name}");
    }
    for name in ["example.com.", "ghost.blue.", ".", "internal.example.", "1.2.0.192.in-addr.arpa."] {
        assert!(ask(WEB, name, RecordType::A).is_none(), "{name}");
    }
}

#[test]
fn addresses_have_names() {
    assert_eq!(given(ask(WEB, "3.0.9.10.in-addr.arpa.", RecordType::PTR)), ["db.blue.vswitch.internal."]);
    let v6 = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(given(ask(WEB, v6, RecordType::PTR)), ["db.blue.vswitch.internal."]);
    let hidden = ask(DB, "4.0.8.10.in-addr.arpa.", RecordType::PTR).unwrap();
    assert_eq!(hidden.response_code, ResponseCode::NXDomain);
}

#[test]
fn a_port_leads_to_its_station() {
    let answer = ask(WEB, "_5432._tcp.db.", RecordType::SRV).unwrap();
    assert_eq!(answer.answers[0].record_type(), RecordType::SRV);
    assert_eq!(answer.answers[0].data.to_string(), "0 0 5432 db.blue.vswitch.internal.");
    assert_eq!(answer.additionals.len(), 2, "and its addresses");
    let none = ask(WEB, "_80._tcp.db.", RecordType::SRV).unwrap();
    assert_eq!(none.response_code, ResponseCode::NXDomain);
}

#[test]
fn the_order_of_several_addresses_turns() {
    let turn = |turn| {
        let query = query("api.", RecordType::A);
        let answer = ask_as(Asker::Station(ip(WEB)), &query, Transport::Udp, turn).unwrap();
        assert!(answer.answers.iter().all(|record| record.ttl == 0), "tasks come and go");
        given(Some(answer))
    };
    assert_eq!(turn(0), ["10.8.0.4", "10.8.0.5"]);
    assert_eq!(turn(1), ["10.8.0.5", "10.8.0.4"]);
    assert_eq!(turn(2), turn(0));
}

#[test]
fn fifty_addresses_fit_or_say_that_they_do_not() {
    let sizes =
        [(None, Transport::Udp, 512), (Some(700), Transport::Udp, 700), (Some(4096), Transport::Udp, 1232)];
    for (edns, transport, limit) in sizes {
        let mut query = query("crowd.", RecordType::A);
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            query.set_edns(edns);
        }
        let bytes = query.to_vec().unwrap();
        let Outcome::Respond(bytes, _) = answer(&table(), &bytes, Asker::Station(ip(WEB)), transport, 7)
        else {
            panic!("it is ours")
        };
        let answer = Message::from_vec(&bytes).unwrap();
        let whole = answer.answers.len() == 50;
        assert!(bytes.len() <= limit, "{} bytes of {limit}", bytes.len());
        assert_eq!(answer.truncation, !whole);
        assert!(whole || bytes.len() + 16 > limit, "{} bytes of {limit}: one more would fit", bytes.len());
        assert_eq!(answer.edns.is_some(), edns.is_some(), "RFC 6891 section 7");
    }
    let tcp = ask_as(Asker::Station(ip(WEB)), &query("crowd.", RecordType::A), Transport::Tcp, 0).unwrap();
    assert_eq!((tcp.answers.len(), tcp.truncation), (50, false));
}

#[test]
fn the_case_of_the_question_is_kept() {
    let asked = Name::from_ascii("dB.BLue.vSwitch.INTERNAL.").unwrap();
    let answer = ask(WEB, "dB.BLue.vSwitch.INTERNAL.", RecordType::A).unwrap();
    assert!(answer.queries[0].name().eq_case(&asked));
    assert!(answer.answers[0].name.eq_case(&asked));
}

#[test]
fn this_host_is_answered_and_never_forwarded() {
    let host = |name| ask_as(Asker::Host, &query(name, RecordType::A), Transport::Udp, 0).unwrap();
    assert_eq!(given(Some(host("db.blue.vswitch.internal."))), [DB]);
    assert_eq!(host("example.com.").response_code, ResponseCode::Refused, "it may have asked on our behalf");
    let stranger = ask_as(Asker::Stranger, &query("db.blue.", RecordType::A), Transport::Udp, 0).unwrap();
    assert_eq!(stranger.response_code, ResponseCode::Refused);
}

/// RFC 8906 section 8, at our zone: each test's expectations.
#[test]
fn rfc_8906() {
    let soa = || query("vswitch.internal.", RecordType::SOA);
    let ask = |query: &Message| ask_as(Asker::Station(ip(OUTSIDE)), query, Transport::Udp, 0).unwrap();
    let has_soa = |answer: &Message| answer.answers.iter().any(|it| it.record_type() == RecordType::SOA);
    // 8.1.1, 8.1.3.1, 8.1.3.2, 8.1.3.4: flags.
    for (rd, ad, cd) in
        [(false, false, false), (true, false, false), (false, true, false), (false, false, true)]
    {
        let mut query = soa();
        query.metadata.recursion_desired = rd;
        query.metadata.authentic_data = ad;
        query.metadata.checking_disabled = cd;
        let answer = ask(&query);
        assert!(has_soa(&answer) && answer.authoritative && answer.response_code == ResponseCode::NoError);
        assert_eq!((answer.recursion_desired, answer.authentic_data), (rd, false));
        assert!(answer.edns.is_none());
    }
    // 8.1.2: an unknown type.
    let answer = ask(&query("vswitch.internal.", RecordType::from(1000)));
    assert!(
        answer.response_code == ResponseCode::NoError && answer.answers.is_empty() && answer.authoritative
    );
    // 8.1.3.3: the last reserved flag.
    let mut bytes = soa().to_vec().unwrap();
    bytes[3] |= 0x40;
    let Outcome::Respond(reply, _) = answer_udp(&bytes) else { panic!("it is a query") };
    assert_eq!(reply[3] & 0x40, 0);
    // 8.1.4: an unknown opcode, header only.
    let mut bytes = [0; 12];
    (bytes[1], bytes[2]) = (7, 15 << 3);
    let Outcome::Respond(reply, _) = answer_udp(&bytes) else { panic!("it is a query") };
    assert_eq!((reply.len(), reply[1], reply[2] >> 3, reply[3] & 0xf), (12, 7, 0x1f, 4));
    // 8.2.1 to 8.2.9: EDNS, of this version and the next, with an unknown option and an unknown flag.
    for (version, flags, option) in [
        (0, 0, false),
        (1, 0, false),
        (0, 0, true),
        (0, 0x40, false),
        (1, 0x40, true),
        (0, 0x8000, false),
        (1, 0x8000, false),
    ] {
        let mut bytes = soa().to_vec().unwrap();
        bytes[11] = 1;
        bytes.extend([0, 0, 41, 4, 208, 0, version]);
        bytes.extend(u16::to_be_bytes(flags));
        bytes.extend(if option { &[0, 4, 0, 100, 0, 0][..] } else { &[0, 0] });
        let Outcome::Respond(reply, _) = answer_udp(&bytes) else { panic!("it is a query") };
        let reply = Message::from_vec(&reply).unwrap();
        let edns = reply.edns.as_ref().expect("EDNS is answered with EDNS");
        assert_eq!(edns.version(), 0);
        assert!(edns.options().as_ref().is_empty(), "an unknown option is not sent back");
        assert_eq!(edns.flags().z, 0, "nor is an unknown flag");
        if version == 0 {
            assert!(has_soa(&reply) && reply.response_code == ResponseCode::NoError);
        } else {
            // 16 is BADVERS here, and BADSIG elsewhere.
            assert!(!has_soa(&reply) && u16::from(reply.response_code) == 16);
        }
    }
}

fn answer_udp(bytes: &[u8]) -> Outcome {
    answer(&table(), bytes, Asker::Station(ip(WEB)), Transport::Udp, 0)
}

#[test]
fn what_is_no_query_is_not_answered_and_what_is_malformed_is() {
    assert_eq!(answer_udp(&[0; 11]), Outcome::Ignore);
    let mut response = query("db.", RecordType::A).to_vec().unwrap();
    response[2] |= 0x80;
    assert_eq!(answer_udp(&response), Outcome::Ignore, "two servers must not talk to each other for ever");
    let mut cut = query("db.", RecordType::A).to_vec().unwrap();
    cut.truncate(14);
    assert!(matches!(answer_udp(&cut), Outcome::Respond(reply, Verdict::Malformed) if reply[3] & 0xf == 1));
    let mut two = query("db.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert!(matches!(answer_udp(&two.to_vec().unwrap()), Outcome::Respond(_, Verdict::Malformed)));
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(matches!(answer_udp(&chaos.to_vec().unwrap()), Outcome::Respond(_, Verdict::Refused)));
    let transfer = query("vswitch.internal.", RecordType::AXFR).to_vec().unwrap();
    assert!(matches!(answer_udp(&transfer), Outcome::Respond(_, Verdict::Refused)));
}
