//! The store on the disk, with the program itself reading the database: what is kept, and what comes of damages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use vswitch_daemon::{
    state::{Kind, Record},
    store::{Store, StoreError},
};
use vswitch_model::{NetworkSpec, PortSpec};

/// What reads the database.
const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");

fn open(folder: &Path) -> Store {
    try_open(folder).unwrap()
}

fn try_open(folder: &Path) -> Result<Store, StoreError> {
    Store::open_with(folder, None, Path::new(VSWITCHD))
}

fn network(name: &str, vlan: u16) -> NetworkSpec {
    serde_json::from_value(serde_json::json!({ "name": name, "vlan": vlan })).unwrap()
}

fn port(name: &str) -> PortSpec {
    let value = serde_json::json!({
        "name": name, "network": "blue", "kind": "tap", "netns": "web", "address": ["10.9.0.2/24"],
        "mac": "02:42:0a:09:00:02", "storm": { "broadcast": 5 }, "isolated": true, "limit": { "rx": "5 Gbit/s", "rx_burst": 7 },
    });
    serde_json::from_value(value).unwrap()
}

/// A store with 20 networks, of which the last was made last.
fn example(folder: &Path) -> Vec<Record> {
    let store = open(folder);
    (1..=20).for_each(|vlan| store.put_network(&network(&format!("n{vlan}"), vlan)).unwrap());
    store.load()
}

/// Names of the files in a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn only(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(store.load(), []);
    store.put_network(&network("blue", 1)).unwrap();
    store.put_network(&network("blue", 2)).unwrap();
    store.put_network(&network("red", 3)).unwrap();
    store.put_port(&port("web")).unwrap();
    store.remove(Kind::Network, "red").unwrap();
    store.remove(Kind::Port, "never").unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.load(), [Record::Network(network("blue", 2).into()), Record::Port(port("web").into())]);
    assert_eq!(store.notes(), [""; 0]);
    assert_eq!(files(folder.path()), only(&["store.copy", "store.redb"]));
}

#[test]
fn what_the_file_declared_last() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.declare(&[network("blue", 1), network("red", 2)]).unwrap();
    store.declare(&[network("blue", 3)]).unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.declared(), [network("blue", 3)]);
    assert_eq!(store.load(), []);
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    store.put_network(&network("blue", 1)).unwrap();
}

#[test]
fn a_folder_that_is_not_there() {
    let error = try_open(Path::new("/nonexistent/vswitch")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/vswitch: No such file"), "{error}");
}

#[test]
fn it_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    example(folder.path());
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("store.redb"), mode("store.copy")], [0o600; 2]);
    for name in ["store.redb", "store.copy"] {
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    open(folder.path());
    assert_eq!([mode("store.redb"), mode("store.copy")], [0o600; 2]);
}

#[test]
fn a_newer_version_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    example(folder.path());
    let path = folder.path().join("store.redb");
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("version", 4).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let before = fs::read(&path).unwrap();
    let error = try_open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 4, .. }), "{error}");
    assert!(error.to_string().contains("knows versions 1 to 3"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(files(folder.path()), only(&["store.copy", "store.redb"]));
}

/// Puts `content` in the place of a file, opens the store and expects everything to be there, said to be mended.
fn mended(folder: &Path, name: &str, put: impl FnOnce(&Path), expected: &[Record], case: &str) {
    put(&folder.join(name));
    let store = open(folder);
    assert_eq!(store.load(), expected, "{case}");
    assert_eq!(store.notes().len(), 1, "{case}: {:?}", store.notes());
    assert!(store.notes()[0].contains(name), "{case}: {:?}", store.notes());
    drop(store);
    let store = open(folder);
    assert_eq!((store.load(), store.notes()), (expected.to_vec(), vec![]), "{case}, at the next start");
}

#[test]
fn files_that_are_no_store_are_kept_aside_and_the_other_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let expected = example(folder.path());
    for name in ["store.redb", "store.copy"] {
        let overwrite = |content: &'static [u8]| move |path: &Path| fs::write(path, content).unwrap();
        mended(folder.path(), name, overwrite(b""), &expected, "empty");
        mended(folder.path(), name, overwrite(b"no store at all"), &expected, "text");
        mended(folder.path(), name, overwrite(&[0x5a; 1 << 16]), &expected, "foreign");
        let gone = |path: &Path| fs::remove_file(path).unwrap();
        mended(folder.path(), name, gone, &expected, "missing");
        let folder_instead = |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        };
        mended(folder.path(), name, folder_instead, &expected, "folder");
        let damaged: Vec<_> = files(folder.path())
            .into_iter()
            .filter(|it| it.starts_with(&format!("{name}.damaged-")))
            .collect();
        assert_eq!(damaged.len(), 4, "{damaged:?}");
        let last = fs::read(folder.path().join(&damaged[2])).unwrap();
        assert_eq!(last, [0x5a; 1 << 16], "the file is kept as it was found");
    }
}

#[test]
fn with_a_disk_that_is_lost_as_a_whole_what_runs_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let (state, live) = (folder.path().join("state"), folder.path().join("run/api.sock.store"));
    let open = || Store::open_with(&state, Some(&live), Path::new(VSWITCHD)).unwrap();
    fs::create_dir(&state).unwrap();
    let store = open();
    (1..=300).for_each(|vlan| store.put_network(&network(&format!("n{}", vlan % 20), vlan)).unwrap());
    let expected = store.load();
    drop(store);
    assert_eq!(fs::metadata(&live).unwrap().permissions().mode() & 0o777, 0o600);
    let wipe = || {
        fs::remove_dir_all(&state).unwrap();
        fs::create_dir(&state).unwrap();
    };
    let empty = || {
        ["store.redb", "store.copy"].iter().for_each(|name| fs::write(state.join(name), "").unwrap());
    };
    for (damage, case) in [(&wipe as &dyn Fn(), "wiped"), (&empty, "emptied")] {
        damage();
        let store = open();
        assert_eq!(
            (store.load(), store.has_lost()),
            (expected.clone(), false),
            "{case}: {:?}",
            store.notes()
        );
        assert!(store.notes().last().unwrap().contains("api.sock.store"), "{case}: {:?}", store.notes());
        drop(store);
        assert_eq!(open().notes(), [""; 0], "{case}");
    }
    // Without either, it is told.
    empty();
    fs::remove_file(&live).unwrap();
    let store = open();
    assert_eq!((store.load(), store.has_lost()), (vec![], true));
    assert!(store.notes()[1].contains("are lost"), "{:?}", store.notes());
}

/// Damages like those of a bad disk, a power cut or a slip of the pen; the program that reads the database never ends the test.
#[test]
fn a_database_that_is_damaged_loses_nothing() {
    let folder =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let expected = example(folder.path());
    let path = folder.path().join("store.redb");
    let (whole, copy) = (fs::read(&path).unwrap(), fs::read(folder.path().join("store.copy")).unwrap());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        // xorshift64*, Vigna 2016.
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        usize::try_from((seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % below as u64).unwrap()
    };
    let mut noticed = 0;
    for case in 0..60 {
        let mut damaged = whole.clone();
        let at = random(if case % 3 == 0 { 320 } else { whole.len() });
        match case % 4 {
            0 | 1 => damaged[at] ^= 1 << random(8),
            2 => damaged.truncate(at),
            _ => damaged[at..].iter_mut().take(64).for_each(|byte| *byte = 0xa5),
        }
        fs::write(&path, &damaged).unwrap();
        fs::write(folder.path().join("store.copy"), &copy).unwrap();
        let store = open(folder.path());
        assert_eq!(store.load(), expected, "case {case}: {:?}", store.notes());
        noticed += store.notes().len();
        drop(store);
    }
    assert!(noticed > 10, "only {noticed} of 60 damages were noticed");
}

/// Nothing that was known is lost by what others do to the files of a running daemon.
#[test]
fn files_that_are_taken_away_while_it_is_open_are_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = example(folder.path());
    let store = open(folder.path());
    let inside = folder.path().to_owned();
    let put = |name: &str, vlan| {
        store.put_network(&network(name, vlan)).map(|()| Record::Network(network(name, vlan).into()))
    };
    fs::remove_file(inside.join("store.copy")).unwrap();
    expected.push(put("n21", 21).unwrap());
    fs::remove_file(inside.join("store.redb")).unwrap();
    expected.push(put("n22", 22).unwrap());
    // Without the folder nothing can be kept, and nothing is half done.
    let away: PathBuf = inside.with_extension("away");
    fs::rename(&inside, &away).unwrap();
    let refusal = put("n23", 23).unwrap_err().to_string();
    assert!(refusal.contains("No such file"), "{refusal}");
    assert_eq!(store.warnings().len(), 1, "{:?}", store.warnings());
    fs::rename(&away, &inside).unwrap();
    expected.push(put("n24", 24).unwrap());
    assert_eq!(store.warnings(), [""; 0]);
    drop(store);
    let store = open(folder.path());
    let sorted = |mut records: Vec<Record>| {
        records.sort_by(|a, b| a.key().cmp(b.key()));
        records
    };
    assert_eq!((sorted(store.load()), store.notes()), (sorted(expected), vec![]));
}

#[test]
fn a_copy_that_grows_long_is_written_anew() {
    let folder =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let store = open(folder.path());
    let copy = folder.path().join("store.copy");
    let mut longest = 0;
    for round in 0..1000 {
        store.put_network(&network("blue", round % 4000 + 1)).unwrap();
        longest = longest.max(fs::metadata(&copy).unwrap().len());
    }
    assert!((64_000..68_000).contains(&longest), "{longest}");
    assert!(fs::metadata(&copy).unwrap().len() < longest);
    drop(store);
    let store = open(folder.path());
    assert_eq!((store.load(), store.notes()), (vec![Record::Network(network("blue", 1000).into())], vec![]));
}

/// One that a row of is of no use does not cost the others.
#[test]
fn a_record_that_is_no_port_is_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let expected = example(folder.path());
    let database = redb::Database::open(folder.path().join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let ports = redb::TableDefinition::<&str, &str>::new("ports");
    transaction.open_table(ports).unwrap().insert("web", r#"{"name": "web"}"#).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let store = open(folder.path());
    assert_eq!(store.load(), expected);
    let notes = store.notes().join("\n");
    assert!(notes.contains("web among the ports of the store is left out: network: missing"), "{notes}");
}

#[test]
fn an_adopted_network_that_is_unreadable_is_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    example(folder.path());
    let database = redb::Database::open(folder.path().join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let adopted = redb::TableDefinition::<&str, &str>::new("adopted");
    for (key, text) in [("0123456789abcdef", "7"), ("no id", "\"blue\"")] {
        transaction.open_table(adopted).unwrap().insert(key, text).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    let store = open(folder.path());
    assert!(!store.adoptions().keys().any(|id| id.as_str().starts_with("0123456789abcdef")));
    let notes = store.notes().join("\n");
    assert!(notes.contains("0123456789abcdef among the adopted of the store is left out"), "{notes}");
    assert!(notes.contains("no id among the adopted of the store is left out"), "{notes}");
}
