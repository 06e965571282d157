//! The daemon as a service: starting, refusing to start, notifying the service manager.

use std::{fs, process::Command};

use rustix::process::Signal;
use vswitch_tests::{Netns, Vswitchd, net};

use super::blue;

#[test]
fn a_second_daemon_is_told_that_it_is_one_too_many() {
    let switch = Vswitchd::start(&net());
    let second = switch.run_to_its_end();
    assert_eq!(second.code, 1);
    let expected =
        format!("vswitchd runs already with the state folder {}", switch.folder().join("state").display());
    assert!(second.stderr.contains(&expected), "{}", second.stderr);
    assert!(second.stderr.contains(&format!("(process {})", switch.pid())), "{}", second.stderr);
    assert_eq!(switch.ctl(&["status"])["pid"], switch.pid(), "the first goes on");

    // A different state folder, but the same socket.
    let text = fs::read_to_string(switch.config()).unwrap();
    let other = switch.folder().join("other.toml");
    fs::write(&other, text.replace("/state\"", "/other\"")).unwrap();
    let third =
        Command::new(vswitch_tests::daemon::binary("vswitchd")).arg("--config").arg(&other).output().unwrap();
    assert_eq!(third.status.code(), Some(1));
    let sentence = String::from_utf8_lossy(&third.stderr);
    assert!(sentence.contains("api.sock"), "{sentence}");
    assert_eq!(switch.ctl(&["status"])["pid"], switch.pid());
}

#[test]
fn mistakes_in_the_file_are_all_told_with_their_places() {
    let config = net().switch("workers = 0\ncolour = \"red\"").network("blue").keys("vlan = 4095");
    let config = config.keys("[[port]]\nname = \"web\"\nnetwork = \"green\"\nkind = \"tap\"");
    let switch = Vswitchd::prepare(Netns::new("host"), &config);
    let output = switch.run_to_its_end();
    assert_eq!(output.code, 2);
    let text = fs::read_to_string(switch.config()).unwrap();
    let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    for (part, what) in [
        ("workers", "switch.workers"),
        ("colour", "colour"),
        ("4095", "network[0].vlan: 4095 is reserved"),
        ("green", "port[0].network"),
    ] {
        let place = format!("net.toml:{}:", line(part));
        let told = output.stderr.lines().any(|line| line.contains(&place) && line.contains(what));
        assert!(told, "{place} {what} is missing in\n{}", output.stderr);
    }
    assert!(!switch.socket().exists(), "nothing was started");

    fs::remove_file(switch.config()).unwrap();
    let output = switch.run_to_its_end();
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("net.toml"), "{}", output.stderr);
}

#[test]
fn the_service_manager_is_told_what_happens() {
    // Readiness is awaited by every test.
    let mut switch = Vswitchd::start(&blue(&[]));
    switch.signal(Signal::HUP);
    let reloading = switch.tells("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    switch.tells("READY=1");
    switch.signal(Signal::HUP);
    switch.tells("RELOADING=1");
    switch.tells("READY=1");
    assert!(switch.stop().success());
    switch.tells("STOPPING=1");
}
