//! What the switch tells of itself: events, metrics, the live view.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use vswitch_tests::{Netns, PATIENCE, Vswitchd, daemon::binary, eventually};

/// Two containers on one network, and where metrics are served.
struct Pair {
    switch: Vswitchd,
    web: Netns,
    db: Netns,
}

impl Pair {
    fn start() -> Self {
        let (web, db) = (Netns::new("web"), Netns::new("db"));
        let port = |name: &str, netns: &Netns, last: u8| {
            format!(
                "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\nkind = \"tap\"\nnetns = \"{}\"\nifname = \"eth0\"\n\
                 address = \"10.9.0.{last}/24\"\n",
                netns.name()
            )
        };
        let rest = format!(
            "metrics = \"127.0.0.1:9477\"\n[[network]]\nname = \"blue\"\n{}{}",
            port("web", &web, 2),
            port("db", &db, 3)
        );
        let pair = Self { switch: Vswitchd::start("", &rest), web, db };
        pair.web.reaches("10.9.0.3");
        pair
    }

    fn events(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.switch.try_ctl(&[&["events", "--json"], arguments].concat());
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What a GET brings from a server on the switch's host.
    fn get(&self, port: u16, path: &str) -> Option<String> {
        let mut stream = self.switch.host.run(|| TcpStream::connect(("127.0.0.1", port))).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.split(' ').nth(1).filter(|status| *status == "200").map(|_| body.to_owned())
    }

    /// The value of the only series that `query` selects in Prometheus.
    fn ask(&self, query: &str) -> Option<u64> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer: Value =
            serde_json::from_str(&self.get(9090, &format!("/api/v1/query?query={query}"))?).unwrap();
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file)
}

fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("Debian's prometheus is installed");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn events_tell_what_happens() {
    let mut pair = Pair::start();
    let mac: String = pair.web.mac("eth0").map(|octet| format!("{octet:02x}")).join(":");
    let has = |events: &[Value], event: &str, key: &str, value: &str| {
        events.iter().any(|it| it["event"] == event && it[key] == value)
    };
    let events = pair.events(&[]);
    assert_eq!((&events[0]["event"], &events[0]["seq"]), (&"started".into(), &1.into()));
    assert!(has(&events, "network_added", "network", "blue"), "{events:?}");
    assert!(has(&events, "port_added", "port", "web") && has(&events, "port_up", "port", "db"), "{events:?}");
    let learned = events.iter().find(|it| it["event"] == "mac_learned" && it["mac"] == mac).unwrap();
    assert_eq!((&learned["network"], &learned["port"]), (&"blue".into(), &"web".into()));
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert_eq!(pair.events(&["--since", "1h"]).len(), pair.events(&[]).len());
    assert!(pair.events(&["--since", "2100-01-01T00:00:00Z"]).is_empty());
    assert_eq!(pair.switch.refusal(&["events", "--since", "yesterday"]).0, 2);

    // Who follows hears of it when it happens.
    let mut follow = Command::new(binary("vswitchctl"));
    follow.arg("--socket").arg(pair.switch.socket()).args(["events", "--follow", "--json"]);
    let mut follow = Running(follow.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
    let mut until = |event: &str, key: &str, value: &str| loop {
        let it: Value = serde_json::from_str(&lines.next().expect("the stream goes on").unwrap()).unwrap();
        if it["event"] == event && it[key] == value {
            return it;
        }
    };
    pair.switch.ctl(&["network", "create", "--ipam-driver", "null", "red"]);
    until("network_added", "network", "red");
    pair.switch.ctl(&["network", "rm", "red"]);
    until("network_removed", "network", "red");
    pair.db.delete();
    let down = until("port_down", "port", "db");
    assert!(down["reason"].as_str().unwrap().contains("namespace"), "{down}");
    pair.switch.ctl(&["reload"]);
    until("reloaded", "event", "reloaded");
    // The daemon does not wait for who follows.
    assert!(pair.switch.stop().success());
    assert!(lines.all(|line| line.is_ok()), "the stream ends in order");
    assert!(follow.0.wait().unwrap().success());
}

#[test]
#[ignore = "needs root: make test runs it"]
fn prometheus_scrapes_what_the_switch_counts() {
    let pair = Pair::start();
    let text = pair.get(9477, "/metrics").expect("metrics are served");
    promtool(&["check", "metrics"], &text);
    promtool(&["check", "rules", packaging("prometheus/vswitch.rules.yml").to_str().unwrap()], "");
    // What the dashboard and the rules ask for is there.
    let dashboard = fs::read_to_string(packaging("grafana/vswitch.json")).unwrap();
    serde_json::from_str::<Value>(&dashboard).unwrap();
    let rules = fs::read_to_string(packaging("prometheus/vswitch.rules.yml")).unwrap();
    for word in (dashboard + &rules).split(|letter: char| !(letter.is_alphanumeric() || letter == '_')) {
        if let Some(name) = word.strip_prefix("vswitch_") {
            assert!(text.contains(&format!("# TYPE vswitch_{}", family(name))), "there is no {word}");
        }
    }

    let folder = pair.switch.folder();
    for file in ["prometheus.yml", "vswitch.rules.yml"] {
        fs::copy(packaging(&format!("prometheus/{file}")), folder.join(file)).unwrap();
    }
    let config = fs::read_to_string(folder.join("prometheus.yml")).unwrap();
    fs::write(folder.join("prometheus.yml"), config.replace("scrape_interval: 15s", "scrape_interval: 1s"))
        .unwrap();
    let mut prometheus = Command::new("prometheus");
    prometheus.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
    prometheus.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
    prometheus.arg("--web.listen-address=127.0.0.1:9090").stdin(Stdio::null());
    prometheus.stderr(File::create(folder.join("prometheus.log")).unwrap());
    let _prometheus = Running(pair.switch.host.run(|| prometheus.spawn().unwrap()));
    let frames = "vswitch_port_receive_frames_total{job=\"vswitch\",port=\"web\"}";
    eventually("Prometheus has the port", || pair.ask(frames));
    assert_eq!(pair.ask("vswitch_port_up{port=\"db\"}"), Some(1));
    for _ in 0..5 {
        assert!(pair.web.pings("10.9.0.3"));
    }
    eventually("Prometheus has every frame", || {
        let counted = pair.switch.port("web")["rx"]["frames"].as_u64().unwrap();
        (pair.ask(frames)? == counted && counted >= 5).then_some(())
    });
    let turns = eventually("the histogram", || pair.ask("sum(vswitch_worker_batch_frames_count)"));
    assert!(turns > 0);
    let rules: Value = serde_json::from_str(&pair.get(9090, "/api/v1/rules").unwrap()).unwrap();
    assert_eq!(rules["data"]["groups"][0]["name"], "vswitch");
}

/// The family of a series that Prometheus makes of it.
fn family(series: &str) -> &str {
    let suffixes = ["_bucket", "_count", "_sum"];
    suffixes.iter().find_map(|suffix| series.strip_suffix(suffix)).unwrap_or(series)
}

/// A terminal of 80 columns and 24 lines in which `top` runs.
struct Screen(String);

impl Screen {
    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.0, "-f", "/dev/null"]).args(arguments).output();
        String::from_utf8(output.expect("tmux is installed").stdout).unwrap()
    }

    fn shows(&self, what: &str) -> String {
        eventually(&format!("the screen shows {what}"), || {
            Some(self.tmux(&["capture-pane", "-p", "-t", "top"])).filter(|text| text.contains(what))
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn top_fits_a_terminal_and_leaves_it_as_it_was() {
    let pair = Pair::start();
    let screen = Screen(format!("vt-kernel-{}", std::process::id()));
    screen.tmux(&["new-session", "-d", "-s", "top", "-x", "80", "-y", "24", "env", "PS1=ready>", "sh"]);
    screen.shows("ready>");
    let command = format!(
        "{} --socket {} top; echo ended $?",
        binary("vswitchctl").display(),
        pair.switch.socket().display()
    );
    let keys = |keys: &[&str]| screen.tmux(&[&["send-keys", "-t", "top"], keys].concat());
    keys(&[&command, "Enter"]);
    let text = screen.shows("q quit");
    assert!(text.contains("2 of 2 ports up") && text.contains("DROPS/s  MACS"), "{text}");
    assert!(text.contains("tap blue"), "{text}");
    keys(&["/", "d", "b", "Enter"]);
    let text = screen.shows("filter: db");
    assert!(!text.contains("web "), "{text}");
    keys(&["2"]);
    screen.shows("FLOOD/s");
    screen.tmux(&["resize-window", "-t", "top", "-x", "40", "-y", "10"]);
    keys(&["Escape"]);
    screen.shows("blue");
    screen.tmux(&["resize-window", "-t", "top", "-x", "80", "-y", "24"]);
    keys(&["q"]);
    let text = screen.shows("ended 0");
    assert!(text.contains("ready>") && !text.contains("FLOOD/s"), "the shell's screen is back: {text}");
}
