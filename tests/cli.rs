//! What people and programs ask of the running daemon, by command line and by HTTP.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, in its helpers too")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use vswitch_tests::{Container, Netns, PATIENCE, Vswitchd, daemon::tap};

/// A daemon with the network `blue` and the TAP ports `web` and `db` in their namespaces.
struct Example {
    switch: Vswitchd,
    web: Netns,
    db: Netns,
}

impl Example {
    fn start() -> Self {
        let (web, db) = (Netns::new("web"), Netns::new("db"));
        let mut rest = "[[network]]\nname = \"blue\"\nvlan = 10\nmtu = 1450\n".to_owned();
        for (last, (name, netns)) in [("web", &web), ("db", &db)].into_iter().enumerate() {
            let keys = format!("mac = \"02:42:0a:09:00:0{last}\"\naddress = \"10.9.0.{}/24\"", last + 1);
            rest += &tap(name, "blue", netns, &keys);
        }
        Self { switch: Vswitchd::start("name = \"host1\"", &rest), web, db }
    }

    /// Lets both ports speak.
    fn talk(&self) {
        self.web.reaches("10.9.0.2");
    }
}

fn texts(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs root: make test runs it"]
fn the_daemon_at_a_glance() {
    let Example { switch, web: _web, db: _db } = Example::start();
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
#[ignore = "needs root: make test runs it"]
fn networks_are_made_shown_and_deleted() {
    let Example { switch, web: _web, db: _db } = Example::start();
    let create = ["network", "create", "--ipam-driver", "null"];
    let keys =
        ["--driver", "overlay", "--vlan", "20", "--vni", "4096", "--mtu", "9000", "--pass-tags", "red"];
    let red = switch.ctl(&[&create[..], &keys].concat());
    for (key, value) in [
        ("name", json!("red")),
        ("vlan", json!(20)),
        ("vni", json!(4096)),
        ("mtu", json!(9000)),
        ("tags", json!("pass")),
        ("driver", json!("overlay")),
        ("declared", json!(false)),
    ] {
        assert_eq!(red[key], value, "{key}");
    }
    assert_eq!(switch.ctl(&["network", "inspect", "red"]), json!([red]));
    assert_eq!(texts(&switch.ctl(&["network", "ls"]), "name"), ["blue", "host", "none", "red"]);
    let blue = &switch.ctl(&["network", "inspect", "blue"])[0];
    assert_eq!([&blue["declared"], &blue["ports"]], [&json!(true), &json!(["db", "web"])]);

    for (arguments, code, part) in [
        (&["network", "create", "red"][..], 1, "network with name red already exists"),
        (&["network", "create", "green", "--vlan", "20"], 1, "20"),
        (&["network", "create", "green", "--vlan", "4095"], 2, "4095 is reserved"),
        (&["network", "create", "green", "--mtu", "67"], 2, "67"),
        (&["network", "create", "not a name"], 2, "is no name"),
        (&["network", "inspect", "green"], 4, "network green not found"),
        (&["network", "rm", "green"], 4, "network green not found"),
        (&["network", "rm", "blue"], 1, "declared in the configuration file"),
    ] {
        let (got, sentence) = switch.refusal(arguments);
        assert_eq!(got, code, "{arguments:?}: {sentence}");
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
    }
    switch.ctl(&["port", "add", "lone", "--network", "red"]);
    let (code, sentence) = switch.refusal(&["network", "rm", "red"]);
    assert!(code == 1 && sentence.contains("lone"), "who uses it is named: {sentence}");
    assert_eq!(switch.ctl(&["port", "del", "lone"]), Value::Null);
    assert_eq!(switch.ctl(&["network", "rm", "red"]), Value::Null);
    assert_eq!(texts(&switch.ctl(&["network", "ls"]), "name"), ["blue", "host", "none"]);
}

#[test]
#[ignore = "needs root: make test runs it"]
fn ports_are_made_shown_and_deleted() {
    let Example { switch, web, db: _db } = Example::start();
    switch.ctl(&["network", "create", "red", "--ipam-driver", "null", "--vlan", "20"]);
    let more = switch.ctl(&[
        "port",
        "add",
        "more",
        "--network",
        "blue",
        "--netns",
        web.name(),
        "--ifname",
        "eth1",
        "--ip",
        "10.9.1.1/24",
        "--ip",
        "fd00:9:1::1/64",
        "--mac",
        "02:42:0a:09:01:01",
        "--mtu",
        "1400",
        "--isolated",
        "--mac-limit",
        "4",
        "--no-offload",
    ]);
    for (key, value) in [
        ("name", json!("more")),
        ("network", json!("blue")),
        ("kind", json!("tap")),
        ("device", json!("eth1")),
        ("state", json!("up")),
        ("mtu", json!(1400)),
        ("offload", json!(false)),
        ("declared", json!(false)),
        ("netns", json!(web.name())),
    ] {
        assert_eq!(more[key], value, "{key}");
    }
    let inside = web.ip("-d address show dev eth1");
    for part in ["mtu 1400", "02:42:0a:09:01:01", "10.9.1.1/24", "fd00:9:1::1/64", "tun type tap"] {
        assert!(inside.contains(part), "{part} in\n{inside}");
    }
    switch.host.ip("link add nic0 type veth peer name wire");
    switch.host.ip("link set nic0 up");
    let uplink = switch.ctl(&[
        "port", "add", "uplink", "--kind", "packet", "--device", "nic0", "--trunk", "red", "--native", "blue",
    ]);
    assert_eq!([&uplink["network"], &uplink["trunk"]], [&json!("blue"), &json!(["red"])]);
    let veth = switch.ctl(&[
        "port",
        "add",
        "pair",
        "--kind",
        "veth",
        "--network",
        "blue",
        "--netns",
        web.name(),
        "--ifname",
        "eth2",
    ]);
    assert_eq!(veth["device"], "vp-pair");
    assert_eq!(texts(&switch.ctl(&["port", "ls"]), "name"), ["db", "more", "pair", "uplink", "web"]);

    let netns = web.name();
    for (arguments, code, part) in [
        (&["port", "show", "none"][..], 4, "no port none"),
        (&["port", "del", "none"], 4, "no port none"),
        (&["port", "del", "web"], 1, "declared in the configuration file"),
        (&["port", "add", "web", "--network", "blue"], 1, "port web exists already"),
        (&["port", "add", "x", "--network", "green"], 1, "green"),
        (
            &["port", "add", "x", "--network", "blue", "--netns", "vt-kernel-none"],
            4,
            "no namespace named vt-kernel-none",
        ),
        (
            &["port", "add", "x", "--network", "blue", "--netns", netns, "--ifname", "eth1"],
            1,
            "port more has the interface eth1 already",
        ),
        (&["port", "add", "x", "--network", "blue", "--netns", netns, "--ip", "10.9.0.2/24"], 1, "10.9.0.2"),
        (&["port", "add", "x", "--network", "blue", "--mac", "02:42:0a:09:01:01"], 1, "02:42:0a:09:01:01"),
        (&["port", "add", "x", "--network", "blue", "--mtu", "1451"], 1, "1451"),
        (
            &["port", "add", "x", "--network", "blue", "--ifname", "wire"],
            1,
            "wire exists already in namespace",
        ),
        (
            &["port", "add", "x", "--network", "blue", "--ifname", "wire", "--kind", "veth"],
            1,
            "wire already exists",
        ),
        (
            &["port", "add", "x", "--kind", "packet", "--network", "blue", "--device", "nic1"],
            4,
            "no interface nic1",
        ),
        (&["port", "add", "x", "--kind", "packet", "--network", "blue"], 2, "--device"),
        (&["port", "add", "x", "--network", "blue", "--ip", "10.9.0.2"], 2, "prefix length"),
        (&["port", "add", "x", "--network", "blue", "--mac", "01:00:5e:00:00:01"], 2, "group"),
        (&["port", "add", "x"], 2, "--network"),
    ] {
        let (got, sentence) = switch.refusal(arguments);
        assert_eq!(got, code, "{arguments:?}: {sentence}");
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
        assert_eq!(switch.try_ctl(&["port", "show", "x"]).code, 4, "{arguments:?} leaves nothing");
        assert!(!web.has_link("x") && !switch.host.has_link("x"), "{arguments:?} leaves no interface");
    }
    for name in ["more", "pair", "uplink"] {
        switch.ctl(&["port", "del", name]);
    }
    assert!(!web.has_link("eth1") && !web.has_link("eth2") && !switch.host.has_link("vp-pair"));
    assert!(switch.host.has_link("nic0"), "what was there before stays");
}

#[test]
#[ignore = "needs root: make test runs it"]
fn interfaces_are_attached_to_containers_and_detached() {
    let Example { switch, web, db } = Example::start();
    let container = Container::start();
    let pid = container.pid().to_string();
    let target = Netns::new("target");
    for (place, kind, last) in [
        (["--netns", target.name()], "tap", 11),
        (["--netns", target.name()], "veth", 12),
        (["--pid", &pid], "tap", 13),
        (["--pid", &pid], "veth", 14),
    ] {
        let (name, ifname) = (format!("a{last}"), format!("eth{last}"));
        let (ip, mac) = (format!("10.9.0.{last}/24"), format!("02:42:0a:09:01:{last}"));
        let mut arguments =
            vec!["attach", place[0], place[1], "blue", "--name", &name, "--ifname", &ifname, "--kind", kind];
        arguments.extend(["--ip", &ip, "--mac", &mac, "--mtu", "1400"]);
        if kind == "tap" {
            arguments.extend(["--gateway", "10.9.0.1"]);
        }
        let port = switch.ctl(&arguments);
        assert_eq!([&port["name"], &port["kind"], &port["state"]], [name.as_str(), kind, "up"]);
        assert_eq!(port["mtu"], 1400);
        let show = |what: &str| match place[0] {
            "--pid" => container.ip(what),
            _ => target.ip(what),
        };
        let inside = show(&format!("address show dev {ifname}"));
        for part in [ip.as_str(), &mac, "mtu 1400", "state U"] {
            assert!(inside.contains(part), "{part} in\n{inside}");
        }
        if kind == "tap" {
            assert!(show("route show").contains(&format!("default via 10.9.0.1 dev {ifname}")));
        }
        web.reaches(ip.trim_end_matches("/24"));
        assert_eq!(switch.ctl(&["detach", &name]), Value::Null);
        assert!(!show("-o link show").contains(&ifname), "{name} is gone");
    }

    let free = ["attach", "--netns", db.name(), "blue", "--name", "x", "--ifname"];
    let refused = |more: &[&str]| switch.refusal(&[&free[..], more].concat());
    for (more, code, part) in [
        (&["eth0"][..], 1, "eth0 already exists in namespace"),
        (&["eth1", "--ip", "10.9.0.2/24"], 1, "10.9.0.2"),
        (&["eth1", "--ip", "10.9.0.1/24"], 1, "10.9.0.1"),
        (&["eth1", "--ip", "10.9.7.1/24", "--gateway", "192.0.2.1"], 1, "192.0.2.1 is in no subnet"),
        (&["eth1", "--mtu", "1451"], 1, "1451"),
        (&["not/a/name"], 1, "is no interface name"),
        (&["eth1", "--kind", "bridge"], 2, "bridge"),
    ] {
        let (got, sentence) = refused(more);
        assert_eq!(got, code, "{more:?}: {sentence}");
        assert!(sentence.contains(part), "{more:?}: {sentence}");
        assert!(!db.has_link("eth1"), "{more:?} leaves nothing");
        assert_eq!(switch.try_ctl(&["port", "show", "x"]).code, 4, "{more:?} leaves nothing");
    }
    for (arguments, code, part) in [
        (&["attach", "--netns", "vt-kernel-none", "blue"][..], 4, "no namespace named vt-kernel-none"),
        (&["attach", "--pid", "4194305", "blue"], 4, "process 4194305 is gone"),
        (&["attach", "--netns", db.name(), "green"], 4, "network green not found"),
        (&["attach", "--netns", "/etc/hosts", "blue"], 1, "is no network namespace"),
        (&["attach", "blue"], 2, "--netns"),
        (&["detach", "none"], 4, "no port none"),
    ] {
        let (got, sentence) = switch.refusal(arguments);
        assert_eq!(got, code, "{arguments:?}: {sentence}");
        assert!(sentence.contains(part), "{arguments:?}: {sentence}");
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn the_mac_table_is_listed_pinned_and_flushed() {
    let example = Example::start();
    let switch = &example.switch;
    // What a container's kernel sends of its own accord would be learned again after a flush.
    example.web.silence();
    example.db.silence();
    example.talk();
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
    example.talk();
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
#[ignore = "needs root: make test runs it"]
fn counters_and_drops_are_told() {
    let example = Example::start();
    let switch = &example.switch;
    example.talk();
    let stats = switch.ctl(&["stats"]);
    assert_eq!(texts(&stats["ports"], "port"), ["db", "web"]);
    for port in stats["ports"].as_array().unwrap() {
        assert!(port["rx"]["frames"].as_u64() > Some(0) && port["tx"]["bytes"].as_u64() > Some(0), "{port}");
    }
    assert_eq!(switch.ctl(&["drops"]), json!([]));
    assert_eq!(switch.refusal(&["drops", "--port", "none"]).0, 4);
    assert_eq!(switch.refusal(&["stats", "--watch=0"]).0, 2);

    // `stats --watch` goes on until nobody reads.
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
#[ignore = "needs root: make test runs it"]
fn everything_can_be_had_as_json_refusals_too() {
    let Example { switch, web: _web, db: _db } = Example::start();
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

#[test]
#[ignore = "needs root: make test runs it"]
fn without_a_daemon_the_sentence_says_so() {
    let mut switch = Vswitchd::start("", "");
    switch.kill();
    for arguments in [&["status"][..], &["port", "ls"], &["attach", "--pid", "1", "blue"], &["reload"]] {
        let (code, sentence) = switch.refusal(arguments);
        assert_eq!(code, 3, "{arguments:?}: {sentence}");
        assert!(sentence.contains("it died, see its log"), "{sentence}");
    }
    switch.run();
    assert_eq!(switch.ctl(&["status"])["ports"], 0, "a socket left behind is in nobody's way");
    assert!(switch.stop().success());
    let (code, sentence) = switch.refusal(&["status"]);
    assert_eq!(code, 3);
    assert!(
        sentence.contains("vswitchd is not running at") && sentence.contains("start it with"),
        "{sentence}"
    );
    for arguments in [&["frobnicate"][..], &[], &["port"], &["status", "--colour"]] {
        assert_eq!(switch.refusal(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
#[ignore = "needs root: make test runs it"]
fn help_completions_and_manual_need_no_daemon() {
    let switch = Vswitchd::prepare(Netns::new("host"), "", "");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = switch.try_ctl(&["completions", shell]);
        assert!(output.code == 0 && output.stdout.contains("vswitchctl"), "{shell}: {}", output.stderr);
    }
    let page = switch.try_ctl(&["man"]);
    assert!(page.code == 0 && page.stdout.contains(".TH vswitchctl"), "{}", page.stdout);
    let folder = switch.folder().join("man");
    assert_eq!(switch.try_ctl(&["man", folder.to_str().unwrap()]).code, 0);
    for page in ["vswitchctl.1", "vswitchctl-attach.1", "vswitchctl-port.1", "vswitchctl-port-add.1"] {
        assert!(fs::read_to_string(folder.join(page)).unwrap().contains(".SH"), "{page}");
    }
    assert!(switch.try_ctl(&["attach", "--help"]).stdout.contains("Example"));
    assert_eq!(
        switch.try_ctl(&["--version"]).stdout.trim(),
        format!("vswitchctl {}", env!("CARGO_PKG_VERSION"))
    );
}

/// What the API answers to a request as it is written: status and body.
fn http(socket: &Path, request: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server that has refused already may close before all is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned());
    (status, body)
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
#[ignore = "needs root: make test runs it"]
fn nonsense_over_http_is_refused_with_a_sentence() {
    let Example { switch, web: _web, db: _db } = Example::start();
    let socket = switch.socket();
    let ask = |method, path, body: &str| http(&socket, &request(method, path, body));
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(70_000));
    for (method, path, body, status, part) in [
        ("GET", "/v1/nothing", "", 404, "there is no /v1/nothing"),
        ("GET", "/", "", 404, "there is no /"),
        ("DELETE", "/v1/status", "", 405, "cannot be used with DELETE"),
        ("POST", "/v1/ports", "{", 400, "not what is expected"),
        ("POST", "/v1/ports", "[1, 2]", 400, "not what is expected"),
        ("POST", "/v1/ports", "{\"name\": \"x\", \"network\": 7, \"kind\": \"tap\"}", 400, "7"),
        (
            "POST",
            "/v1/ports",
            "{\"name\": \"x\", \"network\": \"blue\", \"kind\": \"tap\", \"colour\": 1}",
            400,
            "colour",
        ),
        ("POST", "/v1/ports", "{\"name\": \"x\", \"network\": \"blue\", \"kind\": \"tub\"}", 400, "tub"),
        (
            "POST",
            "/v1/ports",
            "{\"name\": \"../x\", \"network\": \"blue\", \"kind\": \"tap\"}",
            400,
            "is no name",
        ),
        ("POST", "/v1/networks", "{\"name\": \"red\", \"vlan\": -1}", 400, "-1"),
        ("POST", "/v1/networks", &long, 413, "64 KiB"),
        ("POST", "/v1/fdb/flush", "\"some\"", 400, "some"),
        ("GET", "/v1/fdb?mac=zz", "", 400, "zz"),
        ("GET", "/v1/ports/%2e%2e", "", 400, "is no name"),
    ] {
        let (got, text) = ask(method, path, body);
        assert_eq!(got, status, "{method} {path} {body:.60}: {text}");
        let refusal: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
        let sentence = refusal["error"].as_str().unwrap();
        assert!(sentence.contains(part), "{method} {path}: {sentence}");
    }
    assert_eq!(http(&socket, b"nonsense\r\n\r\n").0, 400);
    assert_eq!(http(&socket, &[0xff; 4096]).0, 400);
    // One who says nothing, and one who leaves in the middle, are in nobody's way.
    let _mute = UnixStream::connect(&socket).unwrap();
    UnixStream::connect(&socket)
        .unwrap()
        .write_all(b"POST /v1/ports HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    let (status, text) = ask("GET", "/v1/status", "");
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()["ports"].clone()), (200, json!(2)));
    let (status, text) = ask("GET", "/v1/openapi.json", "");
    assert!(status == 200 && serde_json::from_str::<Value>(&text).unwrap()["paths"]["/v1/ports"].is_object());
    assert!(!switch.log().contains("panicked"));
}

#[test]
#[ignore = "needs root: make test runs it"]
fn the_socket_is_for_root_and_its_group_alone() {
    let switch = Vswitchd::start("", "");
    for name in ["api.sock", "api.sock.attach"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(switch.folder().join(name)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o660, "{name}");
    }
}
