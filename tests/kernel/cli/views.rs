//! Views: status, MAC table, counters, drops; as text and as JSON.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{start, texts};
use crate::pair::Pair;

#[test]
fn the_daemon_at_a_glance() {
    let Pair { switch, web: _web, db: _db } = start();
    let status = switch.ctl(&["status"]);
    assert_eq!(status["name"], "host1");
    assert_eq!(status["pid"], switch.pid());
    assert_eq!([&status["networks"], &status["ports"], &status["ports_up"]], [1, 2, 2]);
    assert_eq!(status["config"], switch.config().to_str().unwrap());
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let text = switch.try_ctl(&["status"]).stdout;
    assert!(text.contains("host1") && !text.starts_with('{'), "{text}");
}

#[test]
fn the_mac_table_is_listed_pinned_and_flushed() {
    let pair = start();
    let switch = &pair.switch;
    // Neighbour discovery of a container's kernel would be learned again after a flush.
    pair.web.silence();
    pair.db.silence();
    pair.talk();
    switch.ctl(&["network", "create", "red", "--ipam-driver", "null"]);
    let learned = |filter: &[&str]| switch.ctl(&[&["fdb", "ls"], filter].concat());
    assert_eq!(texts(&learned(&[]), "mac"), ["02:42:0a:09:00:00", "02:42:0a:09:00:01"]);
    assert_eq!(texts(&learned(&["--port", "db"]), "mac"), ["02:42:0a:09:00:01"]);
    assert_eq!(texts(&learned(&["--mac", "02:42:0a:09:00:00"]), "port"), ["web"]);
    assert_eq!(texts(&learned(&["--network", "red"]), "mac"), [""; 0]);
    let entry = &learned(&["--port", "web"])[0];
    assert_eq!([&entry["origin"], &entry["held"]], [&json!("learned"), &json!(false)]);
    assert!(entry["age_ms"].as_u64().unwrap() < 60_000);

    let pin = ["fdb", "add", "blue", "02:42:00:00:00:99", "web"];
    assert_eq!(switch.ctl(&pin)["origin"], "static");
    assert_eq!(texts(&learned(&["--mac", "02:42:00:00:00:99"]), "origin"), ["static"]);
    assert_eq!(switch.ctl(&["fdb", "flush", "--port", "web"])["entries"], 1);
    assert_eq!(texts(&learned(&[]), "mac"), ["02:42:00:00:00:99", "02:42:0a:09:00:01"]);
    assert_eq!(switch.ctl(&["fdb", "flush", "--network", "blue"])["entries"], 1);
    pair.talk();
    assert_eq!(switch.ctl(&["fdb", "flush", "--all"])["entries"], 2);
    assert_eq!(texts(&learned(&[]), "mac"), ["02:42:00:00:00:99"], "pinned ones stay");
    assert_eq!(switch.ctl(&["fdb", "del", "blue", "02:42:00:00:00:99"]), Value::Null);
    assert_eq!(learned(&[]), json!([]));

    for (arguments, code, part) in [
        (&["fdb", "del", "blue", "02:42:00:00:00:99"][..], 4, "is not known in network blue"),
        (&["fdb", "ls", "--port", "none"], 4, "no port none"),
        (&["fdb", "ls", "--network", "none"], 4, "no network none"),
        (&["fdb", "ls", "--mac", "zz"], 2, "zz"),
        (&["fdb", "add", "red", "02:42:00:00:00:99", "web"], 1, "port web does not carry network red"),
        (&["fdb", "add", "blue", "02:42:00:00:00:99", "none"], 4, "no port none"),
        (&["fdb", "add", "blue", "ff:ff:ff:ff:ff:ff", "web"], 2, "group"),
        (&["fdb", "flush"], 2, "--all"),
        (&["fdb", "flush", "--all", "--port", "web"], 2, "cannot be used with"),
        (&["fdb", "flush", "--port", "none"], 4, "no port none"),
    ] {
        let (got, sentence) = switch.refusal(arguments);
        assert_eq!(got, code, "{arguments:?}: {sentence}");
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
    }
}

#[test]
fn counters_and_drops_are_told() {
    let pair = start();
    let switch = &pair.switch;
    pair.talk();
    let stats = switch.ctl(&["stats"]);
    assert_eq!(texts(&stats["ports"], "port"), ["db", "web"]);
    for port in stats["ports"].as_array().unwrap() {
        assert!(port["rx"]["frames"].as_u64() > Some(0) && port["tx"]["bytes"].as_u64() > Some(0), "{port}");
    }
    assert_eq!(switch.ctl(&["drops"]), json!([]));
    assert_eq!(switch.refusal(&["drops", "--port", "none"]).0, 4);
    assert_eq!(switch.refusal(&["stats", "--watch=0"]).0, 2);

    // `stats --watch` ends when its reader is gone.
    let mut watch = Command::new(vswitch_tests::daemon::binary("vswitchctl"));
    watch.arg("--socket").arg(switch.socket()).args(["stats", "--watch", "--json"]).stdout(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(watch.stdout.take().unwrap()), &mut line)
        .unwrap();
    let counters: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(texts(&counters["ports"], "port"), ["db", "web"]);
    assert!(watch.wait().unwrap().success());
}

#[test]
fn everything_can_be_had_as_json_refusals_too() {
    let Pair { switch, web: _web, db: _db } = start();
    for arguments in [
        &["status"][..],
        &["port", "ls"],
        &["port", "show", "web"],
        &["network", "ls"],
        &["fdb", "ls"],
        &["fdb", "flush", "--all"],
        &["stats"],
        &["drops"],
        &["reload", "--dry-run"],
        &["reload"],
    ] {
        assert!(!switch.ctl(arguments).is_null(), "{arguments:?}");
        let text = switch.try_ctl(arguments).stdout;
        assert!(
            serde_json::from_str::<Value>(&text).is_err(),
            "{arguments:?} prints text unless told: {text}"
        );
    }
    let output = switch.try_ctl(&["port", "show", "none", "--json"]);
    let refusal: Value = serde_json::from_str(&output.stderr).unwrap();
    assert_eq!((output.code, &refusal["code"]), (4, &json!("not_found")));
    assert!(refusal["error"].as_str().unwrap().contains("no port none"));
}
