//! Configuration, store and API answers of earlier versions are still understood.
//!
//! Both folders in `data` are of hosts with version 2 of the store: their configuration, answers and store. `v2` is a store as
//! kill -9 left it; `v2-tunnel` is a run of vswitchd 0.1.0 (commit 7806ecb) with networks of every driver, endpoints, published
//! ports, a tunnel, mirrors and a pinned address. The files are never changed; a version that breaks with one of them needs a
//! way to take it over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use vswitch_daemon::{
    config,
    state::{Record, State},
    store::Store,
};
use vswitch_model::{
    Config, Connect, DeviceSpec, IfName, Name, NetworkSpec, NetworkUpdate,
    api::{Endpoint, FdbEntry, Network, Port, Stats, Status, events::Event, tunnel::Tunnel},
    attach::AttachRequest,
};

/// What reads the database.
const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn configuration(folder: &str) -> Config {
    config::load(data(folder).join("net.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn answer(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(data(name)).unwrap()).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Fails unless `new` says everything that `old` says, in the same form. It may say more.
fn says_all(old: &Value, new: &Value, at: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, old) in old {
                let at = format!("{at}.{key}");
                says_all(old, new.get(key).unwrap_or_else(|| panic!("{at} is missing")), &at);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            old.iter().zip(new).enumerate().for_each(|(index, (old, new))| {
                says_all(old, new, &format!("{at}[{index}]"));
            });
        }
        (old, new) => assert_eq!(old, new, "{at}"),
    }
}

#[test]
fn the_configuration_is_read() {
    let config = configuration("v2");
    assert_eq!((config.switch.name.as_str(), config.switch.ageing), ("host1", 120));
    let [segment, front] = &config.networks[..] else { panic!("{:?}", config.networks) };
    assert_eq!(
        (&segment.name, segment.vlan.map(|vlan| vlan.to_string())),
        (&name("segment"), Some("10".into()))
    );
    assert_eq!(front.subnets[0].gateway, Some("10.20.0.1".parse().unwrap()));
    let [desk] = &config.ports[..] else { panic!("{:?}", config.ports) };
    assert!(matches!(desk.device, DeviceSpec::Tap(_)));
    assert_eq!(desk.mac_limit, Some(8));
}

#[test]
fn the_store_is_taken_over_and_kept_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let old = fs::read(data("v2/store.redb")).unwrap();
    fs::write(folder.path().join("store.redb"), &old).unwrap();
    let open = || Store::open_with(folder.path(), None, Path::new(VSWITCHD)).unwrap();
    let store = open();
    assert_eq!(store.notes(), [""; 0]);
    let records = store.load();
    let kept: Vec<_> = records.iter().map(|it| (it.kind().to_string(), it.key())).collect();
    let ids = answer("v2/endpoints.json");
    let mut ids: Vec<_> = ids.as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let networks = ["blue", "inner", "plain"].map(|name| ("network".to_owned(), name));
    let endpoints = ids.iter().map(|id| ("endpoint".to_owned(), *id));
    assert_eq!(kept, networks.into_iter().chain(endpoints).collect::<Vec<_>>());

    // All of what the daemon of that time said about them.
    let said = [answer("v2/endpoints.json"), answer("v2/networks.json")];
    for record in &records {
        let (record, said, key) = match record {
            Record::Network(it) => (serde_json::to_value(&**it).unwrap(), &said[1], "name"),
            Record::Endpoint(it) => (serde_json::to_value(&**it).unwrap(), &said[0], "id"),
            Record::Port(_) | Record::Service(_) => panic!("there is none"),
        };
        let said = said.as_array().unwrap().iter().find(|it| it[key] == record[key]).unwrap();
        // The other way round: the answer has what follows from it besides.
        says_all(&record, said, record[key].as_str().unwrap());
    }
    assert_eq!(store.pins().len(), 1);
    let declared: Vec<_> = store.declared().into_iter().map(|it| it.name).collect();
    assert_eq!(declared, [name("front"), name("segment")]);

    assert_eq!(fs::read(folder.path().join("store.redb.v2")).unwrap(), old, "there is a way back");
    drop(store);
    let store = open();
    assert_eq!((store.load(), store.notes()), (records, vec![]));
}

/// Reads a value and writes it again: every key is there, and means what it meant.
fn both_ways<T: DeserializeOwned + Serialize>(written: &Value, what: &str) -> T {
    let read: T = serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    says_all(written, &serde_json::to_value(&read).unwrap(), what);
    read
}

fn read<T: DeserializeOwned + Serialize>(file: &str) -> T {
    both_ways(&answer(file), file)
}

#[test]
fn the_answers_of_the_api_have_their_shape() {
    assert_eq!(read::<Status>("v2/status.json").name, "host1");
    assert_eq!(read::<Vec<Network>>("v2/network.json").len(), 1);
    for (folder, counts) in [("v2", [7, 3, 6, 7]), ("v2-tunnel", [8, 2, 15, 8])] {
        let file = |name: &str| format!("{folder}/{name}.json");
        assert_eq!(read::<Vec<Network>>(&file("networks")).len(), counts[0], "{folder}");
        assert_eq!(read::<Vec<Endpoint>>(&file("endpoints")).len(), counts[1], "{folder}");
        assert_eq!(read::<Vec<Port>>(&file("ports")).len(), counts[2], "{folder}");
        assert_eq!(read::<Vec<FdbEntry>>(&file("fdb")).len(), counts[3], "{folder}");
    }
    read::<Port>("v2/port.json");
    assert_eq!(read::<Vec<Endpoint>>("v2-tunnel/endpoints.json")[0].spec.published.len(), 3);
    assert!(read::<Tunnel>("v2-tunnel/tunnel.json").endpoint.is_some());
    assert_eq!(read::<Status>("v2-tunnel/status.json").networks, 6);
    assert_eq!(read::<Stats>("v2-tunnel/stats.json").ports.len(), 15);
    let events = fs::read_to_string(data("v2-tunnel/events.jsonl")).unwrap();
    let events = events.lines().map(|line| both_ways::<Event>(&serde_json::from_str(line).unwrap(), line));
    assert!(events.count() > 20);
}

#[test]
fn requests_are_understood() {
    let update = json!({
        "mtu": 1400, "labels": { "team": "a", "old": null }, "options": { "icc": "false", "limit.rx": null },
        "peers_add": ["host2"], "peers_remove": ["host3"],
    });
    let update: NetworkUpdate = both_ways(&update, "update");
    assert_eq!(update.mtu.map(|mtu| mtu.get()), Some(1400));
    let connect = json!({
        "sandbox": "pid:7", "name": "web", "ip": "10.9.0.2", "mac": "02:42:0a:09:00:02", "ifname": "eth1",
        "aliases": ["db"], "options": { "kind": "veth", "com.docker.network.endpoint.ifname": "lan0" },
        "publish": ["127.0.0.1:8000-8002:80-82/udp"],
    });
    both_ways::<Connect>(&connect, "connect");
    // Without a version: the helper of that time had the first.
    let attach = json!({
        "port": {
            "name": "web", "network": "blue", "kind": "veth", "ifname": "eth0", "persist": false, "mtu": 1450,
            "isolated": false, "storm": {}, "limit": {}, "offload": true,
        },
        "host_ifname": "vs-web",
    });
    let attach: AttachRequest = both_ways(&attach, "attach");
    assert_eq!(attach.version, 1);
    assert_eq!(attach.host_ifname.as_ref().map(IfName::as_str), Some("vs-web"));
}

#[test]
fn the_configuration_declares_what_it_declared() {
    let answered: Vec<Network> = read("v2-tunnel/networks.json");
    for spec in configuration("v2-tunnel").networks {
        let known = answered.iter().find(|it| it.spec.name == spec.name).unwrap();
        let filled =
            NetworkSpec { mtu: known.spec.mtu, driver: Some(spec.driver()), id: Some(spec.id()), ..spec };
        assert_eq!(filled, known.spec);
    }
}

#[test]
fn the_switch_starts_with_what_the_store_kept() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(data("v2-tunnel/store.redb"), folder.path().join("store.redb")).unwrap();
    let store = Store::open_with(folder.path(), None, Path::new(VSWITCHD)).unwrap();
    assert!(!store.has_lost(), "{:?}", store.notes());
    let mut kept: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let records = store.load();
    for record in &records {
        kept.entry(record.kind().to_string()).or_default().push(record.key());
    }
    assert_eq!(kept["network"], ["blue", "green", "plain"]);
    assert_eq!(kept["port"], ["127.0.0.5", "far", "tapx"]);
    for Endpoint { spec, .. } in read::<Vec<Endpoint>>("v2-tunnel/endpoints.json") {
        assert!(records.contains(&Record::Endpoint(spec.into())));
    }
    assert_eq!(store.pins().len(), 1);

    let started = State::start(configuration("v2-tunnel"), records).unwrap().next;
    for port in read::<Vec<Port>>("v2-tunnel/ports.json") {
        let now = started.port(&port.name).unwrap_or_else(|| panic!("port {} is gone", port.name));
        assert_eq!(now.mtu, port.mtu, "{}", port.name);
        assert_eq!(now.spec.limit, port.limit, "{}", port.name);
    }
}

#[test]
fn what_is_missing_or_means_something_else_is_seen() {
    let old = serde_json::json!({ "name": "web", "ports": [1, 2] });
    says_all(&old, &serde_json::json!({ "ports": [1, 2], "name": "web", "more": 1 }), "");
    for new in [
        serde_json::json!({ "ports": [1, 2] }),
        serde_json::json!({ "name": "web", "ports": [1] }),
        serde_json::json!({ "name": "web", "ports": [1, "2"] }),
        serde_json::json!({ "name": null, "ports": [1, 2] }),
    ] {
        assert!(std::panic::catch_unwind(|| says_all(&old, &new, "")).is_err(), "{new}");
    }
}
