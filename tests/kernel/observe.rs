//! What the switch reports about itself: events, frames lost before they reached it, live views.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use vswitch_tests::{
    Netns, Vswitchd,
    daemon::binary,
    eventually, net,
    process::Running,
    raw::{BROADCAST, EXPERIMENT, frame},
};

use crate::pair::Pair;

fn start() -> Pair {
    let pair = Pair::start(&net().network("blue"));
    pair.talk();
    pair
}

/// Events as printed by vswitchctl.
fn events(switch: &Vswitchd, arguments: &[&str]) -> Vec<Value> {
    let output = switch.try_ctl(&[&["events", "--json"], arguments].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_tell_what_happens() {
    let mut pair = start();
    let mac: String = pair.web.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    let has = |events: &[Value], event: &str, key: &str, value: &str| {
        events.iter().any(|it| it["event"] == event && it[key] == value)
    };
    let told = events(&pair.switch, &[]);
    assert_eq!((&told[0]["event"], &told[0]["seq"]), (&"started".into(), &1.into()));
    assert!(has(&told, "network_added", "network", "blue"), "{told:?}");
    assert!(has(&told, "port_added", "port", "web") && has(&told, "port_up", "port", "db"), "{told:?}");
    let learned = told.iter().find(|it| it["event"] == "mac_learned" && it["mac"] == mac).unwrap();
    assert_eq!((&learned["network"], &learned["port"]), (&"blue".into(), &"web".into()));
    let numbers: Vec<_> = told.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert_eq!(events(&pair.switch, &["--since", "1h"]).len(), events(&pair.switch, &[]).len());
    assert!(events(&pair.switch, &["--since", "2100-01-01T00:00:00Z"]).is_empty());
    assert_eq!(pair.switch.refusal(&["events", "--since", "yesterday"]).0, 2);

    // A follower receives events as they happen.
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
    // The daemon does not wait for followers.
    assert!(pair.switch.stop().success());
    assert!(lines.all(|line| line.is_ok()), "the stream ends in order");
    assert_eq!(follow.0.wait().unwrap().code(), Some(3), "the daemon is unreachable");
}

/// Frames that find a TAP's queue full are dropped by the kernel without notice; they are counted all the same, even if
/// the interface was moved or renamed.
#[test]
fn what_a_full_queue_lost_is_told() {
    const SENT: u64 = 5_000;
    let pair = start();
    let lost = |pair: &Pair| pair.switch.dropped("web", "TAP_FULL_RING");
    let received = |pair: &Pair| pair.switch.port("web")["rx"]["frames"].as_u64().unwrap();
    assert_eq!(lost(&pair), 0);
    let shout = |netns: &Netns, ifname: &str| {
        let before = (received(&pair), lost(&pair));
        let raw = netns.raw(ifname);
        pair.switch.signal(Signal::STOP);
        for _ in 0..SENT {
            // Fails when the queue is full.
            let _ = raw.try_send(&frame(BROADCAST, [2, 0, 0, 0, 0, 9], EXPERIMENT, b"all at once"));
        }
        pair.switch.signal(Signal::CONT);
        eventually("each frame was received or lost", || {
            let (received, lost) = (received(&pair) - before.0, lost(&pair) - before.1);
            // The container sends a few frames of its own.
            (received + lost >= SENT && lost > 0).then_some(())
        });
    };
    shout(&pair.web, "eth0");

    // The number is the same everywhere.
    let port = pair.switch.port("web");
    let dropped = lost(&pair);
    assert_eq!(port["fates"]["overflow"], dropped);
    let stats = pair.switch.ctl(&["stats"]);
    let counted = stats["ports"].as_array().unwrap().iter().find(|it| it["port"] == "web").unwrap();
    assert!(counted["drops"].as_u64().unwrap() >= dropped, "{counted}");
    let told = pair.switch.try_ctl(&["drops", "--port", "web"]).stdout;
    assert!(told.contains("TAP_FULL_RING: the interface's queue was full"), "{told}");
    let links: Value = serde_json::from_str(&pair.web.ip("-s -j link show dev eth0")).unwrap();
    assert_eq!(links[0]["stats64"]["tx"]["dropped"], dropped, "the kernel's own");

    // The interface is renamed and moved to another namespace.
    let elsewhere = Netns::new("elsewhere");
    pair.web.ip(&format!("link set dev eth0 down name net7 netns {}", elsewhere.name()));
    elsewhere.ip("link set dev net7 up");
    shout(&elsewhere, "net7");
    assert!(lost(&pair) > dropped);
}

/// The same for sockets: a veth port's and the tunnel's.
#[test]
fn what_a_full_socket_lost_is_told() {
    let (web, host) = (Netns::new("web"), Netns::new("host"));
    web.silence();
    host.ip("addr add 10.8.0.1/32 dev lo");
    let config = net().vxlan("10.8.0.1").network("blue").keys("vni = 4096").veth("web", &web);
    let switch = Vswitchd::start_in(host, &config);
    let (raw, stranger) = (web.raw("eth0"), switch.host.udp("10.8.0.1"));
    // More than any buffer holds.
    let shout = frame(BROADCAST, [2, 0, 0, 0, 0, 9], EXPERIMENT, &[0; 1400]);
    switch.signal(Signal::STOP);
    for _ in 0..30_000 {
        let _ = raw.try_send(&shout);
        let _ = stranger.send_to(&shout, "10.8.0.1:4789");
    }
    switch.signal(Signal::CONT);
    for port in ["web", "vxlan"] {
        let lost = eventually(&format!("{port} tells what was lost"), || {
            Some(switch.dropped(port, "SOCKET_RCVBUFF")).filter(|lost| *lost > 0)
        });
        assert_eq!(switch.port(port)["fates"]["overflow"], lost, "the kernel counts each once");
        assert!(lost < 30_000, "some were received");
    }
}

#[test]
fn the_daemon_is_watched() {
    let pair = start();
    let watch = |arguments: &[&str]| {
        let mut watch = Command::new(binary("vswitchctl"));
        watch.arg("--socket").arg(pair.switch.socket()).args(arguments).stdout(Stdio::piped());
        let mut watch = Running(pair.switch.host.run(|| watch.spawn().unwrap()));
        let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
        (watch, lines.map(Result::unwrap))
    };
    let received = |status: &str| {
        let status: Value = serde_json::from_str(status).unwrap();
        status["workers"].as_array().unwrap().iter().map(|it| it["frames"].as_u64().unwrap()).sum::<u64>()
    };
    let (_watch, mut lines) = watch(&["status", "--watch=1", "--json"]);
    let first = received(&lines.next().unwrap());
    assert!(pair.web.pings("10.9.0.2"));
    assert!(lines.any(|line| received(&line) >= first + 2), "it goes on while frames come");
    // Text output repeats the same view, without control characters if it is not a terminal.
    let (_watch, lines) = watch(&["status", "--watch=1"]);
    let names = lines.inspect(|line| assert!(!line.contains('\x1b'))).filter(|line| line.starts_with("name"));
    assert_eq!(names.take(2).count(), 2);
    let (_watch, lines) = watch(&["stats", "--watch=1"]);
    assert!(lines.take(3).any(|line| line.starts_with("web ")));
}

/// A tmux terminal of 80 columns and 24 lines that runs `top`.
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
fn top_fits_a_terminal_and_leaves_it_as_it_was() {
    let pair = start();
    let screen = Screen(pair.switch.host.name().to_owned());
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
    screen.tmux(&["resize-window", "-t", "top", "-x", "60", "-y", "20"]);
    keys(&["1"]);
    let text = screen.shows("DROPS/s");
    assert!(text.contains("q quit") && text.contains("2/2 up"), "{text}");
    screen.tmux(&["resize-window", "-t", "top", "-x", "80", "-y", "24"]);
    keys(&["q"]);
    let text = screen.shows("ended 0");
    assert!(text.contains("ready>") && !text.contains("FLOOD/s"), "the shell's screen is back: {text}");
}
