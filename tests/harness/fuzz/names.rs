//! Any bytes as a query, of every kind of asker.

use std::{net::IpAddr, sync::Arc};

use vswitch_names::{Asker, Network, Outcome, Record, Table, Transport, answer};

const STATION: &str = "10.9.0.2";

/// The answer to the query that follows the turn is as long as it may be, and its header is that of a response.
pub fn names(data: &[u8]) {
    let Some((turn, query)) = data.split_first() else { return };
    let table = table();
    let station = Asker::Station(STATION.parse().expect("it is an address"));
    for asker in [station, Asker::Host, Asker::Stranger] {
        for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, usize::from(u16::MAX))] {
            match answer(&table, query, asker, transport, (*turn).into()) {
                Outcome::Respond(bytes, _) => {
                    assert!((12..=limit).contains(&bytes.len()), "{} bytes of {limit}", bytes.len());
                    assert_eq!(bytes[..2], query[..2], "the query's id");
                    assert_eq!(bytes[2] & 0x80, 0x80, "a response");
                    assert_eq!(query[2] & 0x80, 0, "to a query");
                }
                Outcome::Upstream => assert_ne!(asker, Asker::Stranger, "others are not served"),
                Outcome::Ignore => {}
            }
        }
    }
}

fn table() -> Table {
    let crowd = (0..60).map(|number| Record {
        name: format!("one{number}"),
        aliases: vec!["db".into(), "a.b".into()],
        addresses: vec![IpAddr::from([10, 9, 1, number])],
        service: Some("api".into()),
        ..Record::default()
    });
    let network =
        Network::new("blue", ["10.9.0.0/16".parse().expect("a subnet")], &crowd.collect::<Vec<_>>());
    let station = (STATION.parse().expect("it is an address"), vec!["blue".to_owned()]);
    Table::new("vswitch.internal", 5, [Arc::new(network)], [station])
}
