//! What clients can take up, and what a request can ask for.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use vswitch_tests::{Netns, PATIENCE, Vswitchd, eventually, net, process};

fn pid(switch: &Vswitchd) -> Option<Pid> {
    Pid::from_raw(i32::try_from(switch.pid()).unwrap())
}

/// Lets the daemon have at most `most` descriptors.
fn limit_descriptors(switch: &Vswitchd, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    prlimit(pid(switch), Resource::Nofile, limit).unwrap();
}

#[test]
fn unfinished_requests_leave_descriptors_for_the_switch() {
    let web = Netns::new("web");
    let switch = Vswitchd::start(&net().api("metrics = \"127.0.0.1:9477\"\nweb = \"127.0.0.1:9478\""));
    limit_descriptors(&switch, 256);
    let mut held = Vec::new();
    for address in ["127.0.0.1:9477", "127.0.0.1:9478"] {
        for _ in 0..300 {
            let mut stream = switch.host.run(|| TcpStream::connect(address)).unwrap();
            // One that was sent away may say so already.
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n");
            held.push(stream);
        }
    }
    assert!(process::descriptors(switch.pid()) < 200, "{}", process::descriptors(switch.pid()));
    switch.ctl(&["network", "create", "--subnet", "10.66.0.0/24", "blue"]);
    switch.ctl(&["network", "connect", "blue", &format!("netns:{}", web.name())]);
    let mut scrape = switch.host.run(|| TcpStream::connect("127.0.0.1:9477")).unwrap();
    scrape.set_read_timeout(Some(PATIENCE)).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    scrape.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("vswitch_networks 1"), "{answer}");
}

#[test]
fn a_buffer_that_memory_does_not_hold_is_refused() {
    let switch = Vswitchd::start(&net().network("blue"));
    let used = fs::read_to_string(format!("/proc/{}/statm", switch.pid())).unwrap();
    let pages: u64 = used.split(' ').next().unwrap().parse().unwrap();
    let limit = pages * rustix::param::page_size() as u64 + 300_000_000;
    prlimit(pid(&switch), Resource::As, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
    let file = switch.folder().join("x.pcapng");
    let capture = ["capture", "-w", file.to_str().unwrap(), "--count", "1", "--buffer", "1024"];
    let (_, refusal) = switch.refusal(&capture);
    assert!(refusal.contains("MiB of memory") && refusal.contains("smaller buffer"), "{refusal}");
    assert_eq!(switch.ctl(&["status"])["pid"], switch.pid());
}

/// Descriptors run out while ports are published: refused as a whole, and all else goes on.
#[test]
fn more_ports_than_descriptors_are_refused_by_the_name_of_the_limit() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let switch = Vswitchd::start(&net());
    limit_descriptors(&switch, 512);
    switch.ctl(&["network", "create", "--subnet", "10.66.0.0/24", "blue"]);
    let before = process::descriptors(switch.pid());
    let place = format!("netns:{}", web.name());
    let publish = ["network", "connect", "--publish", "20000-20599:20000-20599/udp", "blue", &place];
    let (_, refusal) = switch.refusal(&publish);
    assert!(refusal.contains("LimitNOFILE") && refusal.contains("512"), "{refusal}");
    eventually("nothing of it is left open", || {
        (process::descriptors(switch.pid()) <= before + 2).then_some(())
    });
    // A port costs one for each family of the host.
    let few = ["network", "connect", "--publish", "20000-20099:20000-20099/udp", "blue", &place];
    switch.ctl(&few);
    let cost = process::descriptors(switch.pid()) - before;
    assert!(cost <= 2 * 100 + 20, "{cost}");
    switch.ctl(&["network", "connect", "blue", &format!("netns:{}", db.name())]);
    db.reaches("10.66.0.2");
}

#[test]
fn one_daemon_sets_the_gateways_of_a_namespace() {
    let config = |name: &str, subnet: &str| net().network(name).subnet(subnet);
    let first = Vswitchd::start(&config("a", "10.9.0.0/24"));
    let lan = first.host.name().to_owned();
    let table = || {
        first
            .host
            .run(|| std::process::Command::new("nft").args(["list", "table", "inet", "vswitch"]).output())
    };
    let before = table().unwrap().stdout;
    // In the same namespace, with files of its own.
    let folder = tempfile::tempdir().unwrap();
    let second = folder.path().join("net.toml");
    fs::write(&second, config("b", "10.10.0.0/24").text(folder.path())).unwrap();
    let run = || {
        let mut command = std::process::Command::new(vswitch_tests::daemon::binary("vswitchd"));
        command.arg("--config").arg(&second);
        command.output().unwrap()
    };
    let refused = first.host.run(run);
    assert_eq!(refused.status.code(), Some(1));
    let sentence = String::from_utf8_lossy(&refused.stderr);
    assert!(sentence.contains("another vswitchd has the gateways of this network namespace"), "{sentence}");
    assert!(sentence.contains(&format!("process {}", first.pid())), "{sentence}");
    assert_eq!(String::from_utf8_lossy(&table().unwrap().stdout), String::from_utf8_lossy(&before), "{lan}");
}

/// A path with control characters, as a file, an engine or a helper may name it.
#[test]
fn names_write_neither_lines_of_the_log_nor_to_terminals() {
    let config = net().network("blue").keys(
        "[[port]]\nname = \"p\"\nnetwork = \"blue\"\nkind = \"tap\"\nifname = \"x\"\n\
         netns = \"/nope/\\u001b[31mRED\\n2026-01-01T00:00:00Z ERROR forged\\u009b\"",
    );
    let switch = Vswitchd::start(&config);
    switch.logs(&["port=p", "down:", "\\u001b[31mRED\\n2026"]);
    let is_tame =
        |text: &str| !text.chars().any(|it| it.is_control() && it != '\n') && !text.contains("\n2026-01-01T");
    assert!(is_tame(&switch.log()), "{}", switch.log());
    for command in [&["port", "ls"][..], &["port", "show", "p"], &["status"], &["events"], &["drops"]] {
        let output = switch.try_ctl(command);
        assert!(is_tame(&output.stdout) && is_tame(&output.stderr), "{command:?}: {output:?}");
    }
    let (_, refusal) = switch.refusal(&["network", "connect", "blue", "/nope/\u{1b}[31m\nforged"]);
    assert!(is_tame(&refusal) && refusal.lines().count() == 1, "{refusal}");
    // As JSON it is what it is.
    assert!(switch.port("p")["netns"].as_str().unwrap().contains('\u{1b}'));
}
