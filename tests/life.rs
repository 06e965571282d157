//! The life of a daemon and its ports: starting, changing, failing, dying, coming back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{fs, process::Command, time::Duration};

use rustix::process::Signal;
use vswitch_tests::{
    Container, Netns, PATIENCE, Vswitchd, eventually, process,
    tcp::{self, Flow},
    within,
};

/// A port's table; `keys` has the rest of it, `netns` apart.
fn port(name: &str, netns: &str, keys: &str) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\nnetns = \"{netns}\"\nifname = \"eth0\"\n{keys}\n"
    )
}

fn tap(name: &str, netns: &Netns, last: u8) -> String {
    port(name, netns.name(), &format!("kind = \"tap\"\naddress = \"10.9.0.{last}/24\""))
}

fn veth(name: &str, netns: &Netns, last: u8) -> String {
    port(name, netns.name(), &format!("kind = \"veth\"\naddress = \"10.9.0.{last}/24\""))
}

/// A MAC address for a port that comes back while its neighbours remember it.
const MAC: &str = "mac = \"02:42:0a:09:00:04\"\n";

const BLUE: &str = "[[network]]\nname = \"blue\"\n";

#[test]
#[ignore = "needs root: make test runs it"]
fn a_namespace_that_goes_under_load_disturbs_nobody_else() {
    for kind in [tap, veth] {
        let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
        let mut doomed = Netns::new("doomed");
        let ports = tap("a", &a, 1) + &tap("b", &b, 2) + &tap("c", &c, 3) + &kind("doomed", &doomed, 4) + MAC;
        let switch = Vswitchd::start("", &(BLUE.to_owned() + &ports));
        let flow = Flow::start(&a, &b, "10.9.0.2");
        let lost = Flow::start(&c, &doomed, "10.9.0.4");
        flow.flows(1_000_000);
        lost.flows(1_000_000);

        doomed.delete();
        lost.abandon();
        switch.port_is("doomed", "down");
        let sentence = format!("no namespace named {}", doomed.name());
        eventually("the port's reason tells what is missing", || {
            switch.port("doomed")["reason"].as_str().unwrap().contains(&sentence).then_some(())
        });
        switch.logs(&["doomed", "down:"]);
        flow.flows(5_000_000);
        flow.stop();
        let load = process::load(switch.pid(), Duration::from_secs(1));
        assert!(load < 0.02, "the daemon is busy with nothing: {load}");

        doomed.make_again();
        switch.port_is("doomed", "up");
        tcp::exchange(&c, &doomed, "10.9.0.4", 1_000_000, 64 << 10);
        switch.logs(&["doomed", "up again"]);
        let descriptors = process::descriptors(switch.pid());
        doomed.delete();
        switch.port_is("doomed", "down");
        doomed.make_again();
        switch.port_is("doomed", "up");
        eventually("nothing is left open", || {
            (process::descriptors(switch.pid()) == descriptors).then_some(())
        });

        // Faster than anybody looks: the name is there all the time, but it means another namespace.
        doomed.delete();
        doomed.make_again();
        eventually("the port moves to the new namespace", || doomed.has_link("eth0").then_some(()));
        switch.port_is("doomed", "up");
        c.reaches("10.9.0.4");
    }
}

/// The kernel frees a namespace when nobody holds it. A TAP's descriptor does, as long as the daemon has it; the other end
/// of a veth pair that stands in the namespace tells us when it is really gone.
#[test]
#[ignore = "needs root: make test runs it"]
fn a_namespace_that_ended_is_freed_though_a_tap_was_in_it() {
    let web = Netns::new("web");
    let witness = Netns::new("witness");
    let container = Container::start();
    let declared = port("pid", &format!("pid:{}", container.pid()), "kind = \"tap\"");
    let mut named = Netns::new("named");
    let switch =
        Vswitchd::start("", &(BLUE.to_owned() + &tap("web", &web, 1) + &tap("named", &named, 2) + &declared));
    switch.ctl(&["attach", "--netns", named.name(), "blue", "--name", "attached", "--ifname", "eth1"]);
    let target = container.pid().to_string();
    switch.ctl(&["attach", "--pid", &target, "blue", "--name", "attached-pid", "--ifname", "eth1"]);
    witness.ip(&format!("link add w0 type veth peer name w0 netns {}", named.name()));
    witness.ip(&format!("link add w1 type veth peer name w1 netns {target}"));

    named.delete();
    within(Duration::from_secs(2), "the namespace with a name is freed", || {
        (!witness.has_link("w0")).then_some(())
    });
    assert!(witness.has_link("w1"));
    drop(container);
    within(Duration::from_secs(2), "the namespace of a process is freed", || {
        (!witness.has_link("w1")).then_some(())
    });
    for name in ["named", "attached"] {
        let reason = switch.port_is(name, "down")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("no namespace named"), "{name}: {reason}");
    }
    for name in ["pid", "attached-pid"] {
        let reason = switch.port_is(name, "down")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(&format!("process {target} is gone")), "{name}: {reason}");
    }
    assert_eq!(switch.port("web")["state"], "up");

    named.make_again();
    for name in ["named", "attached"] {
        switch.port_is(name, "up");
    }
    named.reaches("10.9.0.1");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_packet_port_follows_its_link_down_and_up() {
    let (web, other) = (Netns::new("web"), Netns::new("other"));
    let host = Netns::new("host");
    let packet = "[[port]]\nname = \"other\"\nnetwork = \"blue\"\nkind = \"packet\"\ndevice = \"premade0\"\n";
    // The host's namespace goes to the daemon; here it is known by another value.
    let name = host.name().to_owned();
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(["-n", &name]).args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    };
    let premake = || {
        ip(&format!(
            "link add premade0 type veth peer name eth0 address 02:42:0a:09:00:02 netns {}",
            other.name()
        ));
        ip("link set premade0 up");
        other.ip("link set eth0 up");
        other.ip("address add 10.9.0.2/24 dev eth0");
    };
    premake();
    let switch = Vswitchd::start_in(host, "", &(BLUE.to_owned() + &tap("web", &web, 1) + packet));
    web.reaches("10.9.0.2");
    ip("link set premade0 down");
    let reason = switch.port_is("other", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("down"), "{reason}");
    assert!(!web.pings("10.9.0.2"));
    ip("link set premade0 up");
    switch.port_is("other", "up");
    web.reaches("10.9.0.2");

    ip("link delete premade0");
    let gone = |switch: &Vswitchd| {
        let port = switch.port("other");
        port["reason"].as_str().is_some_and(|reason| reason.contains("no interface premade0")).then_some(())
    };
    eventually("the port says that its interface is gone", || gone(&switch));
    premake();
    switch.port_is("other", "up");
    web.reaches("10.9.0.2");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_reload_under_load_changes_what_differs_and_nothing_else() {
    let (a, b, c, d) = (Netns::new("a"), Netns::new("b"), Netns::new("c"), Netns::new("d"));
    let before = BLUE.to_owned() + &tap("a", &a, 1) + &veth("b", &b, 2) + &tap("c", &c, 3);
    let switch = Vswitchd::start("ageing = 300", &before);
    let flow = Flow::start(&a, &b, "10.9.0.2");
    flow.flows(1_000_000);
    assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 0, "nothing differs yet");

    let after = BLUE.to_owned()
        + "[[network]]\nname = \"red\"\n"
        + &tap("a", &a, 1)
        + &veth("b", &b, 2)
        + &tap("d", &d, 4)
        + MAC;
    switch.configure("ageing = 60", &after);
    let said = switch.ctl(&["reload", "--dry-run"]);
    assert_eq!(said["dry_run"], true);
    assert!(c.has_link("eth0") && !d.has_link("eth0"), "a dry run does nothing");
    let done = switch.ctl(&["reload"]);
    assert_eq!(said["changes"], done["changes"], "what was said is what is done");
    let lines = done["changes"].as_array().unwrap().iter().map(|change| {
        let text = |key: &str| change[key].as_str().unwrap_or("").to_owned();
        format!("{} {} {} {}", text("action"), text("object"), text("name"), text("detail"))
    });
    let lines: Vec<String> = lines.collect();
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    assert_eq!(
        lines,
        ["change switch vswitch ageing 300 -> 60", "add network red", "remove port c", "add port d"]
    );
    assert!(!c.has_link("eth0"));
    a.reaches("10.9.0.4");
    flow.flows(1_000_000);

    // Forward and back again, by signal, many times while the stream flows.
    for round in 0..10 {
        let (text, there, gone) = if round % 2 == 0 { (&before, &c, &d) } else { (&after, &d, &c) };
        switch.configure("ageing = 60", text);
        switch.signal(Signal::HUP);
        switch.tells("RELOADING=1");
        switch.tells("READY=1");
        assert!(there.has_link("eth0") && !gone.has_link("eth0"), "round {round}");
    }
    flow.flows(1_000_000);
    let total = flow.stop();
    println!("{total} octets during 11 reloads");

    // A file with a mistake changes nothing and says where the mistake is.
    let wrong = after.replace("name = \"red\"", "name = \"red\"\nvlan = 4095");
    switch.configure("ageing = 60", &wrong);
    let (code, sentence) = switch.refusal(&["reload"]);
    assert_eq!(code, 1);
    assert!(
        sentence.contains("net.toml:") && sentence.contains("network[1].vlan: 4095 is reserved"),
        "{sentence}"
    );
    a.reaches("10.9.0.4");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn what_can_be_changed_in_place_is() {
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let others = BLUE.to_owned() + &tap("a", &a, 1) + &tap("c", &c, 3);
    for kind in ["tap", "veth"] {
        let before = format!("kind = \"{kind}\"\naddress = \"10.9.0.2/24\"");
        let after = format!(
            "kind = \"{kind}\"\naddress = [\"10.9.0.22/24\", \"fd00:9::22/64\"]\nmtu = 1400\nisolated = true\n\
             mac = \"02:42:0a:09:00:16\""
        );
        let switch = Vswitchd::start("", &(others.clone() + &port("b", b.name(), &before)));
        a.reaches("10.9.0.2");
        let index = |netns: &Netns| netns.ip("-o link show dev eth0").split(':').next().unwrap().to_owned();
        let (interface, flow) = (index(&b), Flow::start(&a, &c, "10.9.0.3"));
        flow.flows(100_000);
        switch.configure("", &(others.clone() + &port("b", b.name(), &after)));
        let changes = switch.ctl(&["reload"])["changes"].clone();
        let changes = changes.as_array().unwrap();
        assert_eq!(
            (changes.len(), &changes[0]["name"], &changes[0]["action"]),
            (1, &"b".into(), &"change".into())
        );
        let detail = changes[0]["detail"].as_str().unwrap();
        assert!(detail.contains("isolated false -> true") && detail.contains("mtu 1500 -> 1400"), "{detail}");
        assert_eq!(index(&b), interface, "{kind}: the interface is the same");
        let shown = b.ip("address show dev eth0");
        for part in ["10.9.0.22/24", "fd00:9::22/64", "mtu 1400", "02:42:0a:09:00:16"] {
            assert!(shown.contains(part), "{kind}: {part} is missing in\n{shown}");
        }
        assert!(!shown.contains("10.9.0.2/24"), "{kind}: {shown}");
        a.reaches("10.9.0.22");
        flow.flows(100_000);
        flow.stop();
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn streams_survive_a_crash_of_the_daemon() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let persistent = |it: String| it + "persist = true\n";
    for (server, kind) in [("tap", tap as fn(&str, &Netns, u8) -> String), ("veth", veth)] {
        let ports = persistent(tap("web", &web, 1)) + &persistent(kind("db", &db, 2));
        let mut switch = Vswitchd::start("", &(BLUE.to_owned() + &ports));
        let macs = [web.mac("eth0"), db.mac("eth0")];
        let flow = Flow::start(&web, &db, "10.9.0.2");
        flow.flows(1_000_000);
        for _ in 0..2 {
            switch.kill();
            assert!(web.has_link("eth0") && db.has_link("eth0"), "{server}: the interfaces stay");
            switch.run();
            for name in ["web", "db"] {
                assert_eq!(switch.port(name)["state"], "up", "{server}");
            }
            flow.flows(1_000_000);
        }
        flow.stop();
        assert_eq!([web.mac("eth0"), db.mac("eth0")], macs, "{server}: nobody's address changed");
        for (netns, address) in [(&web, "10.9.0.1/24"), (&db, "10.9.0.2/24")] {
            assert!(netns.ip("-o address show dev eth0").contains(address), "{server}");
        }
        // Told to stop, it leaves persistent interfaces as well; without persist in the file they are taken away.
        assert!(switch.stop().success());
        assert!(web.has_link("eth0") && db.has_link("eth0"), "{server}: they outlive an ordinary stop, too");
        switch.configure("", &(BLUE.to_owned() + &tap("web", &web, 1) + &kind("db", &db, 2)));
        web.ip("link delete eth0");
        db.ip("link delete eth0");
        switch.run();
        assert!(switch.stop().success());
        assert!(!web.has_link("eth0") && !db.has_link("eth0"), "{server}: these do not persist");
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_persistent_interface_goes_with_its_port() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let persistent = |it: String| it + "persist = true\n";
    let all = BLUE.to_owned() + &persistent(tap("web", &web, 1)) + &persistent(veth("db", &db, 2));
    let switch = Vswitchd::start("", &all);
    switch.ctl(&["attach", "--netns", web.name(), "blue", "--name", "more", "--ifname", "eth1", "--persist"]);
    web.reaches("10.9.0.2");
    switch.ctl(&["detach", "more"]);
    assert!(!web.has_link("eth1"));
    switch.configure("", BLUE);
    assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 2);
    assert!(!web.has_link("eth0") && !db.has_link("eth0") && !switch.host.has_link("vp-db"));
    // It may be had again at once.
    switch.configure("", &all);
    switch.ctl(&["reload"]);
    for name in ["web", "db"] {
        assert_eq!(switch.port(name)["state"], "up");
    }
}

/// A file that changes what a port stands on, under the same name.
#[test]
#[ignore = "needs root: make test runs it"]
fn a_port_changes_its_kind_and_place_by_reload() {
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let fixed = BLUE.to_owned() + &tap("a", &a, 1);
    let keys = |kind: &str| format!("kind = \"{kind}\"\naddress = \"10.9.0.4/24\"\n{MAC}");
    let switch = Vswitchd::start("", &(fixed.clone() + &port("x", b.name(), &keys("tap"))));
    a.reaches("10.9.0.4");
    for (place, kind, other) in
        [(&b, "veth", &c), (&c, "veth", &b), (&c, "tap", &b), (&b, "tap", &c), (&b, "veth", &c)]
    {
        switch.configure("", &(fixed.clone() + &port("x", place.name(), &keys(kind))));
        assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 1);
        let now = switch.port("x");
        assert_eq!([&now["state"], &now["kind"]], ["up", kind], "{now:#}");
        assert!(place.has_link("eth0") && !other.has_link("eth0"), "{kind}");
        a.reaches("10.9.0.4");
    }
}

/// A container may do with its interface what it likes: that is its own trouble, and it ends when the container ends it.
#[test]
#[ignore = "needs root: make test runs it"]
fn what_a_container_does_to_its_interface_hurts_itself_alone() {
    for kind in [tap, veth] {
        let (a, b, rogue) = (Netns::new("a"), Netns::new("b"), Netns::new("rogue"));
        let ports = tap("a", &a, 1) + &tap("b", &b, 2) + &kind("rogue", &rogue, 4) + MAC;
        let switch = Vswitchd::start("", &(BLUE.to_owned() + &ports));
        let flow = Flow::start(&a, &b, "10.9.0.2");
        a.reaches("10.9.0.4");

        rogue.ip("link set eth0 down");
        assert!(!a.pings("10.9.0.4"));
        flow.flows(100_000);
        rogue.ip("link set eth0 up");
        a.reaches("10.9.0.4");
        rogue.ip("link set eth0 down");
        rogue.ip("link set eth0 name lan0");
        rogue.ip("link set lan0 up");
        a.reaches("10.9.0.4");
        rogue.ip("link delete lan0");
        eventually("the port has an interface again", || rogue.has_link("eth0").then_some(()));
        switch.port_is("rogue", "up");
        a.reaches("10.9.0.4");
        switch.logs(&["rogue", "its interface is"]);
        flow.flows(100_000);
        flow.stop();
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn what_the_api_made_comes_back_after_a_crash() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let mut switch = Vswitchd::start("", "");
    switch.ctl(&["network", "create", "--ipam-driver", "null", "--vlan", "10", "--mtu", "1400", "blue"]);
    let mac = "02:42:0a:09:00:01";
    switch.ctl(&[
        "port",
        "add",
        "web",
        "--network",
        "blue",
        "--netns",
        web.name(),
        "--ifname",
        "eth0",
        "--ip",
        "10.9.0.1/24",
        "--mac",
        mac,
    ]);
    switch.ctl(&[
        "attach",
        "--netns",
        db.name(),
        "blue",
        "--name",
        "db",
        "--ifname",
        "eth0",
        "--ip",
        "10.9.0.2/24",
    ]);
    switch.ctl(&[
        "attach",
        "--netns",
        db.name(),
        "blue",
        "--name",
        "pair",
        "--kind",
        "veth",
        "--ifname",
        "eth1",
        "--ip",
        "10.9.1.2/24",
    ]);
    web.reaches("10.9.0.2");
    let spec = |name: &str, switch: &Vswitchd| {
        let port = switch.port(name);
        ["name", "declared", "network", "kind", "device", "netns", "mtu", "state"]
            .map(|key| port[key].clone())
    };
    let before = ["web", "db", "pair"].map(|name| spec(name, &switch));
    let network = switch.ctl(&["network", "inspect", "blue"])[0].clone();
    switch.ctl(&["fdb", "add", "blue", "02:42:00:00:00:99", "web"]);
    let pinned = |switch: &Vswitchd| switch.ctl(&["fdb", "ls", "--mac", "02:42:00:00:00:99"]);
    let pin = pinned(&switch);

    switch.kill();
    assert!(!web.has_link("eth0"), "a TAP that does not persist goes with its descriptor");
    switch.run();
    for (name, before) in ["web", "db", "pair"].iter().zip(before) {
        switch.port_is(name, "up");
        assert_eq!(spec(name, &switch), before);
    }
    let again = switch.ctl(&["network", "inspect", "blue"])[0].clone();
    assert_eq!(
        ["name", "vlan", "mtu", "declared", "ports"].map(|key| again[key].clone()),
        ["name", "vlan", "mtu", "declared", "ports"].map(|key| network[key].clone())
    );
    assert_eq!(web.mac("eth0"), [2, 0x42, 10, 9, 0, 1]);
    assert_eq!(pinned(&switch), pin, "pinned addresses as well");
    web.reaches("10.9.0.2");

    switch.ctl(&["detach", "web"]);
    assert!(pinned(&switch).as_array().unwrap().is_empty(), "they go with their port");
    switch.kill();
    switch.run();
    assert_eq!(switch.refusal(&["port", "show", "web"]).0, 4, "what was deleted stays so");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn told_to_stop_it_leaves_nothing_behind() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let mut switch = Vswitchd::start("", &(BLUE.to_owned() + &tap("web", &web, 1) + &veth("db", &db, 2)));
    switch.ctl(&["attach", "--netns", web.name(), "blue", "--name", "more", "--ifname", "eth1"]);
    switch.ctl(&[
        "attach",
        "--netns",
        db.name(),
        "blue",
        "--name",
        "pair",
        "--ifname",
        "eth1",
        "--kind",
        "veth",
    ]);
    assert!(switch.host.has_link("vp-db") && switch.host.has_link("vp-pair"));
    let socket = switch.socket();
    assert!(socket.exists());
    assert!(switch.stop().success());
    for netns in [&web, &db, &switch.host] {
        let left = netns.ip("-o link show");
        assert_eq!(left.lines().count(), 1, "only the loopback is left: {left}");
    }
    let left: Vec<_> =
        fs::read_dir(switch.folder()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("api.sock")), "{left:?}");
    assert_eq!(switch.try_ctl(&["status"]).code, 3);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn a_second_daemon_is_told_that_it_is_one_too_many() {
    let switch = Vswitchd::start("", "");
    let second = switch.run_to_its_end();
    assert_eq!(second.code, 1);
    let expected =
        format!("vswitchd runs already with the state folder {}", switch.folder().join("state").display());
    assert!(second.stderr.contains(&expected), "{}", second.stderr);
    assert!(second.stderr.contains(&format!("(process {})", switch.pid())), "{}", second.stderr);
    assert_eq!(switch.ctl(&["status"])["pid"], switch.pid(), "the first goes on");

    // Another state folder, but the same socket.
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
#[ignore = "needs root: make test runs it"]
fn mistakes_in_the_file_are_all_told_with_their_places() {
    let host = Netns::new("host");
    let switch = Vswitchd::prepare(
        host,
        "workers = 0\ncolour = \"red\"",
        "[[network]]\nname = \"blue\"\nvlan = 4095\n[[port]]\nname = \"web\"\nnetwork = \"green\"\nkind = \"tap\"",
    );
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
#[ignore = "needs root: make test runs it"]
fn the_service_manager_is_told_what_happens() {
    // Being ready is what every test here waits for.
    let mut switch = Vswitchd::start("", BLUE);
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

#[test]
#[ignore = "needs root: make test runs it"]
fn a_port_whose_namespace_comes_later_waits_for_it() {
    let web = Netns::new("web");
    let mut late = Netns::new("late");
    late.delete();
    let switch = Vswitchd::start("", &(BLUE.to_owned() + &tap("web", &web, 1) + &tap("late", &late, 2)));
    let port = switch.port("late");
    assert_eq!(port["state"], "down");
    let sentence =
        format!("no namespace named {0} in /run/netns: create it with `ip netns add {0}`", late.name());
    assert_eq!(port["reason"], sentence.as_str());
    assert_eq!(switch.ctl(&["status"])["ports_up"], 1);
    late.make_again();
    within(PATIENCE, "the port is up", || (switch.port("late")["state"] == "up").then_some(()));
    web.reaches("10.9.0.2");
}
