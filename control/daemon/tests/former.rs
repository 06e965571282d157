//! What versions before wrote is read: `former/` holds what vswitchd 0.1.0 was configured with, answered and kept when its state
//! was in one crate (commit 7806ecb), captured from a run with networks of every driver, endpoints, published ports, a tunnel,
//! mirrors and a pinned address.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use vswitch_daemon::{
    config,
    state::{Record, State},
    store::Store,
};
use vswitch_model::{
    Config, Connect, IfName, NetworkUpdate,
    api::{Endpoint, FdbEntry, Network, Port, Stats, Status, events::Event, tunnel::Tunnel},
    attach::AttachRequest,
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/former");
/// What reads the database.
const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(FOLDER).join(name)).unwrap()
}

/// Reads a value and writes it again: nothing is lost, and nothing is new.
fn both_ways<T: DeserializeOwned + Serialize>(written: &Value) -> T {
    let read: T =
        serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), *written);
    read
}

fn answer<T: DeserializeOwned + Serialize>(name: &str) -> T {
    both_ways(&serde_json::from_str(&text(name)).unwrap())
}

fn configured() -> Config {
    let path = Path::new(FOLDER).join("net.toml");
    config::load(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn answers_of_the_api_are_read_and_written_alike() {
    let networks: Vec<Network> = answer("networks.json");
    assert_eq!(networks.len(), 8);
    let ports: Vec<Port> = answer("ports.json");
    assert_eq!(ports.len(), 15);
    let endpoints: Vec<Endpoint> = answer("endpoints.json");
    assert_eq!(endpoints[0].spec.published.len(), 3);
    assert!(answer::<Tunnel>("tunnel.json").endpoint.is_some());
    assert_eq!(answer::<Vec<FdbEntry>>("fdb.json").len(), 8);
    assert_eq!(answer::<Status>("status.json").networks, 6);
    assert_eq!(answer::<Stats>("stats.json").ports.len(), 15);
    let events = text("events.jsonl");
    let events = events.lines().map(|line| both_ways::<Event>(&serde_json::from_str(line).unwrap()));
    assert!(events.count() > 20);
}

#[test]
fn requests_are_understood() {
    let update: NetworkUpdate = both_ways(&json!({
        "mtu": 1400, "labels": { "team": "a", "old": null }, "options": { "icc": "false", "limit.rx": null },
        "peers_add": ["host2"], "peers_remove": ["host3"],
    }));
    assert_eq!(update.mtu.map(|mtu| mtu.get()), Some(1400));
    both_ways::<Connect>(&json!({
        "sandbox": "pid:7", "name": "web", "ip": "10.9.0.2", "mac": "02:42:0a:09:00:02", "ifname": "eth1",
        "aliases": ["db"], "options": { "kind": "veth", "com.docker.network.endpoint.ifname": "lan0" },
        "publish": ["127.0.0.1:8000-8002:80-82/udp"],
    }));
    let mut request = json!({
        "port": {
            "name": "web", "network": "blue", "kind": "veth", "ifname": "eth0", "persist": false, "mtu": 1450,
            "isolated": false, "storm": {}, "limit": {}, "offload": true,
        },
        "host_ifname": "vs-web",
    });
    let attach: AttachRequest = serde_json::from_value(request.clone()).unwrap();
    // A helper of that time does not tell its version, which is the first.
    request["version"] = 1.into();
    assert_eq!(serde_json::to_value(&attach).unwrap(), request);
    assert_eq!(attach.host_ifname.as_ref().map(IfName::as_str), Some("vs-web"));
}

#[test]
fn the_configuration_file_declares_what_it_declared() {
    let answered: Vec<Network> = answer("networks.json");
    for spec in configured().networks {
        let known = answered.iter().find(|it| it.spec.name == spec.name).unwrap();
        let filled = vswitch_model::NetworkSpec {
            mtu: known.spec.mtu,
            driver: Some(spec.driver()),
            id: Some(spec.id()),
            ..spec
        };
        assert_eq!(filled, known.spec);
    }
}

#[test]
fn what_the_store_kept_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(Path::new(FOLDER).join("store.redb"), folder.path().join("store.redb")).unwrap();
    let store = Store::open_with(folder.path(), None, Path::new(VSWITCHD)).unwrap();
    assert!(!store.has_lost(), "{:?}", store.notes());
    let mut kept: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let records = store.load();
    for record in &records {
        let kind = match record {
            Record::Network(_) => "networks",
            Record::Port(_) => "ports",
            Record::Endpoint(_) => "endpoints",
        };
        kept.entry(kind).or_default().push(record.key().to_owned());
    }
    assert_eq!(kept["networks"], ["blue", "green", "plain"]);
    assert_eq!(kept["ports"], ["127.0.0.5", "far", "tapx"]);
    let endpoints: Vec<Endpoint> = answer("endpoints.json");
    for Endpoint { spec, .. } in endpoints {
        assert!(records.contains(&Record::Endpoint(spec.into())));
    }
    assert_eq!(store.pins().len(), 1);

    let started = State::start(configured(), records).unwrap().next;
    let ports: Vec<Port> = answer("ports.json");
    for port in ports {
        let now = started.port(&port.name).unwrap_or_else(|| panic!("port {} is gone", port.name));
        assert_eq!(now.mtu, port.mtu, "{}", port.name);
        assert_eq!(now.spec.limit, port.limit, "{}", port.name);
    }
}
