//! An acknowledged `put` outlives the process, however it ends.
//!
//! The test starts itself again as a child that puts networks in a loop and says so after each; then
//! it kills the child with SIGKILL at an arbitrary moment. That shows that the file is whole at every
//! moment and nothing is acknowledged early. It does not show what a power cut does: for that the
//! test would have to take the page cache away.

use std::{
    env,
    io::{BufRead, BufReader, Write, stdout},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use vswitch_daemon::{state::Record, store::Store};
use vswitch_model::NetworkSpec;

/// What reads the database.
const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");
const FOLDER: &str = "VSWITCH_TEST_STORE";
const FIRST: &str = "VSWITCH_TEST_FIRST";

fn network(number: usize) -> NetworkSpec {
    serde_json::from_value(serde_json::json!({ "name": format!("n{number}"), "vni": number + 1 }))
        .expect("a network")
}

/// The child: does nothing when the test runner calls it by itself.
#[test]
fn put_until_killed() {
    let (Ok(folder), Ok(first)) = (env::var(FOLDER), env::var(FIRST)) else { return };
    let store = Store::open_with(Path::new(&folder), None, Path::new(VSWITCHD))
        .expect("the store opens after every crash");
    for number in first.parse().expect("a number").. {
        store.put_network(&network(number)).expect("a put");
        let mut out = stdout().lock();
        writeln!(out, "\nput {number}").and_then(|()| out.flush()).expect("the parent listens");
    }
}

#[test]
fn acknowledged_puts_survive_kill_9() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged = 0;
    for round in 0..10_u64 {
        let mut child = Command::new(env::current_exe().expect("this test"))
            .args(["--exact", "put_until_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(FIRST, acknowledged.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test starts again");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut puts =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("put ")?.parse::<usize>().ok());
        acknowledged = 1 + puts.next().expect("a first put");
        // An odd moment of a put, another in each round.
        thread::sleep(Duration::from_micros(1_000 + round * 3_333));
        child.kill().expect("SIGKILL");
        child.wait().expect("the child is gone");
        // What it said before it died is in the pipe still.
        acknowledged = puts.last().map_or(acknowledged, |last| last + 1);

        let store = Store::open_with(folder.path(), None, Path::new(VSWITCHD)).expect("the store opens");
        assert!(!store.has_lost(), "{:?}", store.notes());
        let kept = store.load();
        assert!(
            kept.len() == acknowledged || kept.len() == acknowledged + 1,
            "{} of {acknowledged}",
            kept.len()
        );
        for number in 0..acknowledged {
            assert!(
                kept.contains(&Record::Network(network(number).into())),
                "n{number} is lost in round {round}"
            );
        }
    }
    assert!(acknowledged > 10, "only {acknowledged} puts");
}
