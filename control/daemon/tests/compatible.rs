//! What a version before wrote and said is understood still: its configuration, its store, its API's answers.
//!
//! The files in `data/v2` are of one host with version 2 of the store: what it was told, what it answered, and its store as
//! kill -9 left it. They are never changed; a version that breaks with one of them needs a way to take it over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use vswitch_daemon::{config, state::Record, store::Store};
use vswitch_model::{
    DeviceSpec, Name,
    api::{Endpoint, FdbEntry, Network, Port, Status},
};

/// What reads the database.
const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v2").join(name)
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
    let config = config::load(data("net.toml")).unwrap();
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
    let old = fs::read(data("store.redb")).unwrap();
    fs::write(folder.path().join("store.redb"), &old).unwrap();
    let open = || Store::open_with(folder.path(), None, Path::new(VSWITCHD)).unwrap();
    let store = open();
    assert_eq!(store.notes(), [""; 0]);
    let records = store.load();
    let kept: Vec<_> = records.iter().map(|it| (it.kind().to_string(), it.key())).collect();
    let ids = answer("endpoints.json");
    let mut ids: Vec<_> = ids.as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    let networks = ["blue", "inner", "plain"].map(|name| ("network".to_owned(), name));
    let endpoints = ids.iter().map(|id| ("endpoint".to_owned(), *id));
    assert_eq!(kept, networks.into_iter().chain(endpoints).collect::<Vec<_>>());

    // All of what the daemon of that time said about them.
    let said = [answer("endpoints.json"), answer("networks.json")];
    for record in &records {
        let (record, said, key) = match record {
            Record::Network(it) => (serde_json::to_value(&**it).unwrap(), &said[1], "name"),
            Record::Endpoint(it) => (serde_json::to_value(&**it).unwrap(), &said[0], "id"),
            Record::Port(_) => panic!("there is none"),
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

/// What programs were written for: every key is there, and means what it meant.
fn has_its_shape<T: DeserializeOwned + Serialize>(file: &str) {
    let old = answer(file);
    let read: T = serde_json::from_value(old.clone()).unwrap_or_else(|error| panic!("{file}: {error}"));
    says_all(&old, &serde_json::to_value(read).unwrap(), file);
}

#[test]
fn the_answers_of_the_api_have_their_shape() {
    has_its_shape::<Status>("status.json");
    has_its_shape::<Vec<Network>>("networks.json");
    has_its_shape::<Vec<Network>>("network.json");
    has_its_shape::<Vec<Endpoint>>("endpoints.json");
    has_its_shape::<Vec<Port>>("ports.json");
    has_its_shape::<Port>("port.json");
    has_its_shape::<Vec<FdbEntry>>("fdb.json");
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
