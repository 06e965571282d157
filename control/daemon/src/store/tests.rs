//! Damages of every kind, held against what must come of them: nothing is lost that one of the two places still has, nothing
//! comes back older without a word, nothing aborts.
//!
//! Here the database is read in this process, where a panic can be caught, so that thousands of damages take seconds. What
//! the program itself does about them is seen in `control/tests/store.rs`.

use std::{fs, panic::catch_unwind, path::Path};

use proptest::{prelude::*, sample::Index};

use super::{
    Store,
    content::{Change, Content, Table},
    copy::{self, Copy},
    database::{self, Database, Snapshot},
    lines::{self, Lines},
    recover::{Asides, Found, Mend, Verdict, judge},
};

const ID: u64 = 4711;

/// A store as it lies on the disk.
struct Disk {
    /// After a clean end, and while the daemon ran.
    databases: [Vec<u8>; 2],
    copy: Vec<u8>,
    latest: Content,
    revision: u64,
}

fn change(revision: u64) -> Change {
    let (table, key) = match revision % 3 {
        0 => (Table::Networks, format!("n{}", revision % 10)),
        1 => (Table::Ports, format!("p{revision}")),
        _ => (Table::Endpoints, format!("e{}", revision % 20)),
    };
    let text =
        (!revision.is_multiple_of(7)).then(|| format!("{{\"name\":\"{key}\",\"revision\":{revision}}}"));
    Change { table, key, text }
}

impl Disk {
    /// One with `rows` changes of which some are in the beginning of the copy already.
    fn with(changes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut latest = Content::default();
        let early = changes / 3;
        (1..=early).for_each(|revision| latest.apply([change(revision)]));
        let database = Database::write(folder.path(), None, ID, early, &latest).unwrap();
        let mut copy = Copy::write(&folder.path().join(copy::NAME), None, ID, early, &latest).unwrap();
        for revision in early + 1..=changes {
            copy.append(revision, &[change(revision)]).unwrap();
            database.commit(revision, &[change(revision)]).unwrap();
            latest.apply([change(revision)]);
        }
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        let running = read(database::NAME);
        drop(database);
        let databases = [read(database::NAME), running];
        Self { databases, copy: read(copy::NAME), latest, revision: changes }
    }
}

/// What a process of its own would tell.
fn found(bytes: &[u8]) -> Found {
    match catch_unwind(|| database::read(bytes)) {
        Ok(Ok(snapshot)) => Found::Whole(snapshot),
        Ok(Err(error)) => Found::Damaged(error.to_string()),
        Err(_) => Found::Damaged("panic".to_owned()),
    }
}

fn judged(database: &[u8], copy: &[u8]) -> Verdict {
    judge(found(database), Some(lines::read(copy)), None, &asides())
}

fn asides() -> Asides {
    Asides { database: "store.redb.damaged-now".to_owned(), copy: "store.copy.damaged-now".to_owned() }
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(Vec<(Index, u8)>),
    Cut(Index),
    Hole(Index, u8, usize),
    /// What was written last did not reach the disk: zeros from there.
    Lost(Index),
    Foreign(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let flip = (any::<Index>(), 1..=255_u8);
    prop_oneof![
        6 => prop::collection::vec(flip, 1..4).prop_map(Damage::Flip),
        2 => any::<Index>().prop_map(Damage::Cut),
        2 => (any::<Index>(), any::<u8>(), 1..5000_usize).prop_map(|(at, byte, len)| Damage::Hole(at, byte, len)),
        1 => any::<Index>().prop_map(Damage::Lost),
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Damage::Foreign),
    ]
}

fn damaged(bytes: &[u8], damage: &Damage) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match damage {
        Damage::Flip(flips) => {
            for (at, flip) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
        }
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Hole(at, byte, len) => {
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + len);
            bytes[at..end].fill(*byte);
        }
        Damage::Lost(at) => {
            let at = at.index(bytes.len());
            bytes[at..].fill(0);
        }
        Damage::Foreign(other) => bytes.clone_from(other),
    }
    bytes
}

thread_local! {
    static DISK: Disk = Disk::with(60);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_database_loses_nothing(damage in damage(), running in 0..2_usize) {
        DISK.with(|disk| {
            let bytes = damaged(&disk.databases[running], &damage);
            let verdict = judged(&bytes, &disk.copy);
            prop_assert_eq!(&verdict.content, &disk.latest);
            prop_assert_eq!((verdict.revision, verdict.id, verdict.has_lost), (disk.revision, Some(ID), false));
            let is_right = matches!(found(&bytes), Found::Whole(it) if it.content == disk.latest);
            prop_assert_eq!(verdict.notes.is_empty(), is_right, "{:?}", verdict.notes);
            Ok(())
        })?;
    }

    #[test]
    fn a_damaged_copy_loses_nothing(damage in damage()) {
        DISK.with(|disk| {
            let bytes = damaged(&disk.copy, &damage);
            let verdict = judged(&disk.databases[0], &bytes);
            prop_assert_eq!(&verdict.content, &disk.latest);
            prop_assert_eq!((verdict.revision, verdict.has_lost), (disk.revision, false));
            let is_right = lines::read(&bytes).content() == disk.latest && lines::read(&bytes).is_complete();
            prop_assert_eq!(verdict.notes.is_empty(), is_right, "{:?}", verdict.notes);
            Ok(())
        })?;
    }

    #[test]
    fn where_both_are_damaged_nothing_is_lost_without_a_word(one in damage(), other in damage()) {
        DISK.with(|disk| {
            let (database, copy) = (damaged(&disk.databases[1], &one), damaged(&disk.copy, &other));
            let verdict = judged(&database, &copy);
            prop_assert!(verdict.content == disk.latest || !verdict.notes.is_empty());
            Ok(())
        })?;
    }
}

/// redb falls back to an older state in silence: why there is a copy with revisions. If this fails, an upgrade of redb has made
/// that unnecessary.
#[test]
fn what_redb_does_over_damages() {
    let disk = Disk::with(60);
    let (mut older, mut refused) = (0, 0);
    for bytes in &disk.databases {
        // Both heads of the file, and a part of the rest.
        for bit in (0..400 * 8).chain((400 * 8..bytes.len() * 8).step_by(997)) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match found(&flipped) {
                Found::Whole(it) if it.revision < disk.revision => older += 1,
                Found::Whole(it) => assert_eq!(it.content, disk.latest, "bit {bit}"),
                Found::Damaged(_) => refused += 1,
                Found::Nothing => unreachable!("there are bytes"),
            }
        }
    }
    println!("{older} came back older, {refused} were refused");
    assert!(older > 0 && refused > 0, "{older} came back older, {refused} were refused");
}

fn snapshot(version: u64, id: Option<u64>, revision: u64) -> Snapshot {
    let mut content = Content::default();
    (1..=revision).for_each(|revision| content.apply([change(revision)]));
    Snapshot { version, id, revision, content }
}

/// The copy of a store that was written anew at `begin`, up to `revision`.
fn copy_of(id: u64, begin: u64, revision: u64) -> Lines {
    let mut text = lines::of_content(id, begin, &snapshot(3, None, begin).content);
    (begin + 1..=revision).for_each(|revision| text.push_str(&lines::change(revision, &[change(revision)])));
    lines::read(text.as_bytes())
}

#[test]
fn who_is_believed() {
    let whole = |revision| Found::Whole(snapshot(3, Some(ID), revision));
    let damaged = || Found::Damaged("broken".to_owned());
    let renew = |aside: &str| Mend::Renew(Some(aside.to_owned()));
    let (redb, copy) = ("store.redb.damaged-now", "store.copy.damaged-now");
    let torn = |lines: Lines| Some(Lines { is_torn: true, ..lines });
    let holed = |lines: Lines| Some(Lines { damaged: 1, header: None, ..lines });
    let (keep, anew) = (Mend::Keep, Mend::Renew(None));
    for (case, found, copied, revision, database, second, word) in [
        ("first start", Found::Nothing, None, 0, anew.clone(), anew.clone(), ""),
        ("first start, killed", Found::Nothing, Some(copy_of(ID, 0, 0)), 0, anew.clone(), keep.clone(), ""),
        ("equal", whole(9), Some(copy_of(ID, 3, 9)), 9, keep.clone(), keep.clone(), ""),
        (
            "killed while appending",
            whole(9),
            torn(copy_of(ID, 3, 9)),
            9,
            keep.clone(),
            keep.clone(),
            "is incomplete",
        ),
        (
            "killed between",
            whole(8),
            Some(copy_of(ID, 3, 9)),
            9,
            anew.clone(),
            keep.clone(),
            "lacked the last change",
        ),
        (
            "database older",
            whole(6),
            Some(copy_of(ID, 3, 9)),
            9,
            renew(redb),
            keep.clone(),
            "lacked the last 3",
        ),
        (
            "much older",
            whole(2),
            Some(copy_of(ID, 5, 9)),
            9,
            renew(redb),
            keep.clone(),
            "Everything was restored",
        ),
        (
            "copy older",
            whole(9),
            Some(copy_of(ID, 3, 7)),
            9,
            keep.clone(),
            renew(copy),
            "lacks the last 2 changes",
        ),
        (
            "copy's last line cut",
            whole(9),
            torn(copy_of(ID, 3, 8)),
            9,
            keep.clone(),
            renew(copy),
            "is damaged",
        ),
        (
            "copy damaged",
            whole(9),
            holed(copy_of(ID, 3, 9)),
            9,
            keep.clone(),
            renew(copy),
            "its beginning is missing",
        ),
        ("copy missing", whole(9), None, 9, keep.clone(), anew.clone(), "was missing"),
        (
            "copy of another",
            whole(9),
            Some(copy_of(1, 3, 20)),
            9,
            keep.clone(),
            renew(copy),
            "of another store",
        ),
        (
            "database missing",
            Found::Nothing,
            Some(copy_of(ID, 3, 9)),
            9,
            anew.clone(),
            keep.clone(),
            "is missing",
        ),
        ("database damaged", damaged(), Some(copy_of(ID, 3, 9)), 9, renew(redb), keep.clone(), "(broken)"),
        ("both damaged", damaged(), holed(copy_of(ID, 3, 9)), 9, renew(redb), renew(copy), "are lost"),
        ("damaged, no copy", damaged(), None, 0, renew(redb), anew.clone(), "are lost"),
        (
            "older and holed",
            whole(8),
            holed(copy_of(ID, 3, 9)),
            9,
            anew.clone(),
            renew(copy),
            "lacked the last change",
        ),
    ] {
        let verdict = judge(found, copied, None, &asides());
        assert_eq!(
            (verdict.revision, &verdict.database, &verdict.copy),
            (revision, &database, &second),
            "{case}"
        );
        let expected = if case == "damaged, no copy" { 0 } else { revision };
        assert_eq!(verdict.content, snapshot(3, None, expected).content, "{case}");
        let notes = verdict.notes.join("\n");
        assert!(notes.contains(word) && notes.is_empty() == word.is_empty(), "{case}: {notes}");
        assert_eq!(
            verdict.has_lost,
            ["first start", "both damaged", "damaged, no copy"].contains(&case),
            "{case}"
        );
    }
}

/// What was kept while the host has been up is asked where the disk does not know everything, and only there.
#[test]
fn a_disk_that_is_lost_as_a_whole() {
    let broken = || Found::Damaged("broken".to_owned());
    let path = Path::new("/run/vswitch/api.sock.store");
    let holed = |lines: Lines| Some(Lines { damaged: 1, header: None, ..lines });
    let torn_out = |lines: Lines| Some(Lines { damaged: 1, ..lines });
    for (case, found, copied, live, revision, has_lost, words) in [
        ("wiped", Found::Nothing, None, copy_of(ID, 3, 9), 9, false, "To start empty"),
        ("first start of a host", Found::Nothing, None, Lines::default(), 0, true, ""),
        ("first start, nothing made before", Found::Nothing, None, copy_of(ID, 0, 0), 0, true, ""),
        ("both damaged", broken(), holed(copy_of(ID, 3, 7)), copy_of(ID, 3, 9), 9, false, "nothing is lost"),
        ("both empty", broken(), Some(Lines::default()), copy_of(ID, 3, 9), 9, false, "nothing is lost"),
        (
            "damaged, and of another store",
            broken(),
            torn_out(copy_of(ID, 3, 9)),
            copy_of(1, 3, 20),
            9,
            true,
            "are lost",
        ),
        (
            "damaged, and an older one",
            broken(),
            torn_out(copy_of(ID, 3, 9)),
            copy_of(ID, 3, 8),
            9,
            true,
            "missing rows were restored",
        ),
        (
            "copy ends early",
            broken(),
            Some(copy_of(ID, 3, 7)),
            copy_of(ID, 3, 9),
            9,
            false,
            "nothing is lost",
        ),
        (
            "put back by hand",
            Found::Nothing,
            Some(copy_of(ID, 3, 7)),
            copy_of(ID, 3, 9),
            7,
            false,
            "is missing",
        ),
        (
            "damaged too",
            broken(),
            torn_out(copy_of(ID, 3, 9)),
            holed(copy_of(ID, 3, 9)).unwrap(),
            9,
            true,
            "are lost",
        ),
        (
            "whole",
            Found::Whole(snapshot(3, Some(ID), 9)),
            Some(copy_of(ID, 3, 9)),
            copy_of(ID, 3, 12),
            9,
            false,
            "",
        ),
    ] {
        let verdict = judge(found, copied, Some((path, live)), &asides());
        let notes = verdict.notes.join("\n");
        assert_eq!((verdict.revision, verdict.has_lost), (revision, has_lost), "{case}: {notes}");
        assert_eq!(verdict.content, snapshot(3, None, revision).content, "{case}");
        assert!(notes.contains(words) && notes.is_empty() == words.is_empty(), "{case}: {notes}");
    }
}

/// Where it ends: the older store of an older version, or the newer of a daemon that was killed while it took it over.
#[test]
fn a_store_of_an_older_version_is_kept_as_it_was() {
    let old = || Found::Whole(snapshot(2, None, 9));
    let aside = Mend::Renew(Some("store.redb.v2".to_owned()));
    for (copied, second, is_told) in [
        (None, Mend::Renew(None), false),
        (Some(copy_of(ID, 9, 9)), Mend::Renew(None), false),
        (Some(copy_of(ID, 3, 7)), Mend::Renew(Some("store.copy.damaged-now".to_owned())), true),
    ] {
        let verdict = judge(old(), copied, None, &asides());
        assert_eq!((&verdict.database, &verdict.copy), (&aside, &second));
        assert_eq!((verdict.content, verdict.id), (snapshot(3, None, 9).content, None));
        assert_eq!(verdict.notes.is_empty(), !is_told);
    }
}

#[test]
fn what_is_no_database_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = redb::Database::create(folder.path().join("foreign")).unwrap();
    let transaction = foreign.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("other")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(foreign);
    let bytes = fs::read(folder.path().join("foreign")).unwrap();
    for (bytes, word) in [(&bytes[..], "meta"), (b"", "empty"), (b"no store at all", "")] {
        let Found::Damaged(why) = found(bytes) else { panic!("{word}") };
        assert!(why.contains(word), "{why}");
    }
    assert!(matches!(database::find(Path::new("/"), Path::new("/nonexistent")).unwrap(), Found::Nothing));
}

#[test]
fn a_newer_copy_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines::header(lines::Header { store: 4, id: Some(ID), revision: 1, rows: 0 });
    fs::write(folder.path().join(copy::NAME), &text).unwrap();
    let refusal = Store::open_with(folder.path(), None, Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(
        refusal.contains("store.copy: the store has version 4, and this vswitchd knows versions 1 to 3"),
        "{refusal}"
    );
    assert_eq!(fs::read_to_string(folder.path().join(copy::NAME)).unwrap(), text);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn of_a_newer_version_nothing_but_that_is_read() {
    let folder = tempfile::tempdir().unwrap();
    drop(Database::write(folder.path(), None, ID, 1, &snapshot(3, None, 1).content).unwrap());
    let newer = redb::Database::open(folder.path().join(database::NAME)).unwrap();
    let transaction = newer.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("version", 4).unwrap();
    transaction.commit().unwrap();
    drop(newer);
    let bytes = fs::read(folder.path().join(database::NAME)).unwrap();
    let Found::Whole(snapshot) = found(&bytes) else { panic!("it is whole") };
    assert_eq!((snapshot.version, snapshot.content), (4, Content::default()));
}
