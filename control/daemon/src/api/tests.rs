//! The API from both ends: a core over devices in memory, the real client, CLI and raw bytes before it.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::PathBuf};

use clap::Parser;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use vswitch::drops::DropReason;
use vswitch_cli::{
    client::{Client, ClientError},
    ctl::{Cli, execute, exit_code},
};
use vswitch_model::{
    ErrorKind, NetworkSpec, PortSpec, Reference,
    api::{
        API_VERSION, Direction, Drop, DropsFilter, FdbFilter, FdbKey, Flush, StaticEntry,
        capture::CaptureRequest,
        events::{Event, EventsFilter},
    },
    attach::socket_path,
};

use super::{extract::BODY_LIMIT, serve};
use crate::{
    attach::{self, Listener},
    core::simulated::{Simulated, name},
    metrics,
    state::Command,
};

/// A served core; everything ends with the value.
struct Daemon {
    core: Simulated,
    socket: PathBuf,
    client: Client,
}

impl Daemon {
    async fn start() -> Self {
        Self::declaring("").await
    }

    async fn declaring(config: &str) -> Self {
        let core = Simulated::start(config).await;
        let socket = core.path("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(serve(listener, core.clone(), std::future::pending()));
        let helpers = Listener::bind(&socket_path(&socket), None).unwrap();
        let handle = core.clone();
        tokio::spawn(attach::serve(helpers, move |attachment| {
            let (core, spec) = (handle.clone(), attachment.request.port);
            async move {
                let name = spec.name.clone();
                core.execute(Command::AddPort(spec)).await?.snapshot.port(&name)
            }
        }));
        let client = Client::new(&socket);
        Self { core, socket, client }
    }

    /// Seven frames were received at `port`, and three of them died.
    fn carry(&self, port: &str) {
        self.core.count(port, |counters| {
            counters.rx_frames.add(7);
            counters.rx_bytes.add(700);
            (0..3).for_each(|_| counters.drop(DropReason::NoReceiver));
        });
    }

    /// Three stations were heard on `port` in network blue.
    fn hear(&self, port: &str) {
        let snapshot = self.core.snapshot();
        let network = snapshot.find_network(&name("blue")).unwrap().id;
        let port = snapshot.find_port(&name(port)).unwrap().id;
        for station in 1..=3 {
            let mac = vswitch::addr::MacAddr([2, 0, 0, 0, 1, station]);
            let fdb = &snapshot.live.fdb;
            fdb.learn(fdb.station(network, mac), port, None, snapshot.live.workers.now());
        }
    }

    /// Sends bytes as they are; answers the status line's number and the body.
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    async fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        self.raw(&(head + body)).await
    }

    async fn cli(&self, line: &str) -> Result<String, ClientError> {
        let socket = self.socket.to_str().unwrap();
        let words = ["vswitchctl", "--socket", socket].into_iter().chain(line.split_whitespace());
        execute(&Cli::try_parse_from(words).unwrap()).await
    }
}

fn blue() -> NetworkSpec {
    serde_json::from_str(r#"{"name": "blue", "vlan": 10}"#).unwrap()
}

fn web() -> PortSpec {
    serde_json::from_str(r#"{"name": "web", "network": "blue", "kind": "tap"}"#).unwrap()
}

fn drop_of(port: &str) -> Drop {
    Drop {
        port: name(port),
        direction: Direction::Rx,
        reason: "NO_RECEIVER".into(),
        frames: 3,
        hint: DropReason::NoReceiver.hint().into(),
    }
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (ErrorKind, String) {
    match result.unwrap_err() {
        ClientError::Refused(error) => (error.kind, error.sentence),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_call_does_what_it_says() {
    let daemon = &Daemon::start().await;
    let Daemon { client, core, .. } = daemon;
    let status = client.status().await.unwrap();
    assert_eq!((&*status.name, &*status.api_version), ("host1", API_VERSION));

    let made = client.add_network(&blue()).await.unwrap().spec;
    assert_eq!((&made.name, made.vlan), (&blue().name, blue().vlan));
    assert_eq!(client.networks().await.unwrap().len(), 3, "with those that are there from the start");
    assert_eq!(client.network(&reference("blue")).await.unwrap().spec, made);

    assert_eq!(client.add_port(&web()).await.unwrap().kind, "tap");
    daemon.carry("web");
    assert_eq!(client.ports().await.unwrap().len(), 1);
    assert_eq!(client.port(&name("web")).await.unwrap().drops, [drop_of("web")]);
    assert_eq!(client.network(&reference("blue")).await.unwrap().ports, [name("web")]);
    assert_eq!(client.stats().await.unwrap().ports[0].rx.bytes, 700);

    let mac = "02:42:0a:09:00:02".parse().unwrap();
    let entry = StaticEntry { network: name("blue"), mac, port: name("web") };
    assert_eq!(client.add_fdb(&entry).await.unwrap().mac, mac);
    let filter = FdbFilter { network: Some(name("blue")), port: Some(name("web")), mac: Some(mac) };
    assert_eq!(client.fdb(&filter).await.unwrap().len(), 1);
    client.delete_fdb(&FdbKey { network: name("blue"), mac }).await.unwrap();
    assert_eq!(client.fdb(&FdbFilter::default()).await.unwrap(), []);
    for flush in [Flush::All, Flush::Port(name("web")), Flush::Network(name("blue"))] {
        daemon.hear("web");
        assert_eq!(client.network(&reference("blue")).await.unwrap().macs, 3, "{flush:?}");
        assert_eq!(client.flush_fdb(&flush).await.unwrap().entries, 3, "{flush:?}");
        assert_eq!(client.network(&reference("blue")).await.unwrap().macs, 0, "{flush:?}");
    }

    assert_eq!(client.drops(&DropsFilter { port: None }).await.unwrap(), [drop_of("web")]);
    assert_eq!(client.drops(&DropsFilter { port: Some(name("web")) }).await.unwrap(), [drop_of("web")]);
    core.declare("[[network]]\nname = \"red\"\n");
    for dry_run in [true, false] {
        let reload = client.reload(dry_run).await.unwrap();
        assert_eq!((reload.dry_run, reload.changes[0].name.as_str()), (dry_run, "red"));
        assert_eq!(client.network(&reference("red")).await.is_ok(), !dry_run);
    }

    client.delete_port(&name("web")).await.unwrap();
    client.delete_network(&reference("blue")).await.unwrap();
    assert_eq!(client.networks().await.unwrap().len(), 3);
}

#[tokio::test]
async fn events_are_a_line_each() {
    let daemon = Daemon::start().await;
    daemon.client.add_network(&blue()).await.unwrap();
    daemon.client.add_port(&web()).await.unwrap();
    daemon.hear("web");
    let (status, text) = daemon.request("GET", "/v1/events?since_ms=1", "").await;
    assert_eq!(status, 200);
    assert!(text.contains(r#""event":"port_up","port":"web""#), "{text}");
    assert!(text.contains(r#""event":"mac_learned""#), "what the table has seen is a part of it: {text}");
    // Those who follow are told of the end.
    let mut seen = Vec::new();
    let each = |event: Event| {
        seen.push(event.seq);
        if seen.len() == 2 {
            daemon.core.farewell();
        }
        Ok(())
    };
    let end = daemon.client.events(&EventsFilter { since_ms: None, follow: true }, each).await.unwrap_err();
    assert!(matches!(end, ClientError::Ended(_)) && exit_code(&end) == 3, "{end}");
    assert!(seen.len() > 3 && (1..).zip(&seen).all(|(number, seq)| number == *seq), "{seen:?}");
    let shown = daemon.cli("events").await.unwrap();
    assert!(shown.lines().any(|line| line.ends_with("port web is up")), "{shown}");
}

#[tokio::test]
async fn metrics_are_the_counters_in_the_words_of_prometheus() {
    let daemon = Daemon::start().await;
    daemon.client.add_network(&blue()).await.unwrap();
    daemon.client.add_port(&web()).await.unwrap();
    daemon.carry("web");
    let text = metrics::scrape(&daemon.core).await.unwrap();
    for line in [
        "# TYPE vswitch_port_receive_frames_total counter",
        "vswitch_port_receive_frames_total{port=\"web\"} 7",
        "vswitch_port_receive_bytes_total{port=\"web\"} 700",
        "vswitch_port_info{port=\"web\",kind=\"tap\",network=\"blue\"} 1",
        "vswitch_port_dropped_frames_total{port=\"web\",direction=\"receive\",reason=\"NO_RECEIVER\"} 3",
        "vswitch_network_ports{network=\"blue\"} 1",
        "vswitch_refused_requests_total 0",
        "# TYPE vswitch_worker_busy_seconds histogram",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn refusals_keep_their_code_and_sentence() {
    let Daemon { client, .. } = &Daemon::start().await;
    let missing = (ErrorKind::NotFound, "there is no port web".to_owned());
    assert_eq!(refusal(client.port(&name("web")).await), missing);
    assert_eq!(refusal(client.delete_port(&name("web")).await), missing);
    assert_eq!(refusal(client.network(&reference("red")).await).0, ErrorKind::NotFound);
    client.add_network(&blue()).await.unwrap();
    let conflict = refusal(client.add_network(&blue()).await);
    assert_eq!(conflict, (ErrorKind::Conflict, "network with name blue already exists".into()));
    let key = FdbKey { network: name("blue"), mac: "02:00:00:00:00:01".parse().unwrap() };
    assert_eq!(refusal(client.delete_fdb(&key).await).0, ErrorKind::NotFound);
}

#[tokio::test]
async fn nonsense_gets_a_sentence_and_never_a_panic() {
    let daemon = Daemon::start().await;
    let long = format!(r#"{{"name": "{}"}}"#, "x".repeat(BODY_LIMIT));
    let deep = "[".repeat(BODY_LIMIT / 2);
    for (method, path, body, status, part) in [
        ("GET", "/", "", 404, "there is no /: GET /v1/openapi.json lists what there is"),
        ("GET", "/v2/status", "", 404, "there is no /v2/status"),
        ("PUT", "/v1/ports", "{}", 405, "/v1/ports cannot be used with PUT"),
        ("POST", "/v1/networks", "", 400, "EOF while parsing"),
        ("POST", "/v1/networks", "{", 400, "EOF while parsing"),
        ("POST", "/v1/networks", "{}", 400, "missing field `name`"),
        ("POST", "/v1/networks", r#"{"name": 7}"#, 400, "invalid type: integer `7`"),
        ("POST", "/v1/networks", r#"{"name": "-"}"#, 400, "is not a valid name: use 1 to 63 letters"),
        ("POST", "/v1/networks", r#"{"name": "blue", "vlan": 4095}"#, 400, "4095 is reserved"),
        ("POST", "/v1/networks", r#"{"name": "blue", "colour": 1}"#, 400, "unknown field `colour`"),
        ("POST", "/v1/networks", r#"{"name": "blue"} x"#, 400, "trailing characters"),
        ("POST", "/v1/networks", &long, 413, "the body is longer than 64 KiB"),
        ("POST", "/v1/networks", &deep, 400, "invalid type: sequence"),
        ("POST", "/v1/ports", "\u{0}", 400, "expected value"),
        ("POST", "/v1/reload", r#"{"dry": true}"#, 400, "unknown field `dry`"),
        ("POST", "/v1/fdb/flush", r#""some""#, 400, "unknown variant `some`"),
        (
            "POST",
            "/v1/fdb",
            r#"{"network": "blue", "mac": "02:42", "port": "web"}"#,
            400,
            "not a MAC address",
        ),
        ("GET", "/v1/ports/a%2Fb", "", 400, "is not a valid name"),
        ("GET", "/v1/ports/%ff", "", 400, "UTF-8"),
        ("GET", "/v1/fdb?mac=zz", "", 400, "not a MAC address"),
        ("GET", "/v1/fdb?colour=1", "", 400, "unknown field `colour`"),
        ("GET", "/v1/drops?port=", "", 400, "is not a valid name"),
        ("DELETE", "/v1/fdb/blue/zz", "", 400, "not a MAC address"),
    ] {
        let (got, text) = daemon.request(method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {text}");
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        let sentence = error["error"].as_str().unwrap();
        assert!(sentence.contains(part), "{method} {path}: {sentence}");
        assert!(error["code"].is_string());
    }
    assert_eq!(daemon.raw("nonsense\r\n\r\n").await.0, 400);
    assert!(daemon.client.status().await.is_ok(), "it still answers");
}

#[tokio::test]
async fn the_openapi_document_names_every_path() {
    let daemon = Daemon::start().await;
    let (status, text) = daemon.request("GET", "/v1/openapi.json", "").await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut methods = 0;
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            let concrete = path.replace("{name}", "-").replace("{network}", "-").replace("{mac}", "-");
            let concrete = concrete.replace("{id}", "0").replace("{endpoint}", "-");
            let (status, text) = daemon.request(&method.to_uppercase(), &concrete, "").await;
            assert!(
                !text.contains("there is no /") && status != 405,
                "{method} {path} is described, not served"
            );
            methods += 1;
        }
    }
    assert_eq!(methods, 51, "each route has its description");
    assert_eq!(document["info"]["version"], API_VERSION);
    for schema in ["Port", "Network", "FdbEntry", "Error", "Stats", "Reload"] {
        assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
    }
}

#[tokio::test]
async fn a_capture_comes_piece_by_piece_and_a_refusal_as_a_sentence() {
    let daemon = Daemon::start().await;
    let mut capture = daemon.client.capture(&CaptureRequest::default()).await.unwrap();
    let head = capture.next().await.unwrap().unwrap();
    // The block type of a section's header, which reads the same from both ends.
    assert_eq!(head[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let running: serde_json::Value =
        serde_json::from_str(&daemon.cli("capture --ls --json").await.unwrap()).unwrap();
    assert_eq!(running[0]["id"], capture.id);
    daemon.client.end_capture(capture.id).await.unwrap();
    while capture.next().await.unwrap().is_some() {}
    let (status, text) = daemon.request("POST", "/v1/captures", r#"{"port": "web"}"#).await;
    assert!(status == 400 && text.contains("unknown field `port`"), "{status} {text}");
    let error = daemon.client.end_capture(8).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), exit_code(&error)), ("there is no capture 8: it has ended", 4));
    assert_eq!(daemon.cli("capture --ls").await.unwrap(), "no active captures\n");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_told_from_one_that_died_or_is_closed_to_us() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let client = Client::new(&socket);
    let missing = client.status().await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!(
            "vswitchd is not running at {}: start it with `vswitchd --config net.toml`",
            socket.display()
        )
    );
    assert_eq!(exit_code(&missing), 3);

    drop(UnixListener::bind(&socket).unwrap());
    let died = client.status().await.unwrap_err();
    assert!(matches!(died, ClientError::Died(_)) && exit_code(&died) == 3, "{died}");

    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert_ne!(stream.read(&mut request).await.unwrap(), 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
    });
    let strange = client.status().await.unwrap_err();
    assert!(strange.to_string().contains("cannot be parsed"), "{strange}");
}

#[tokio::test]
async fn a_socket_without_permission_says_who_may() {
    if rustix::process::geteuid().is_root() {
        return; // Root may always.
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, Permissions::from_mode(0o0)).unwrap();
    let error = Client::new(&socket).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NoRights(_)) && exit_code(&error) == 5);
}

#[tokio::test]
async fn the_command_line_does_what_it_says() {
    let daemon = Daemon::start().await;
    let id = daemon.cli("network create blue --vlan 10 --ipam-driver null").await.unwrap();
    assert_eq!(id.trim().len(), 64, "as Docker, it prints the id: {id}");
    daemon.cli("network create red --vlan 20 --ipam-driver null").await.unwrap();
    let made = daemon.cli("port add web --network blue --ifname eth0").await.unwrap();
    assert_eq!(made, "port web on blue: tap eth0, up\n");
    let uplink =
        daemon.cli("port add uplink --kind packet --device eth1 --trunk red --native blue").await.unwrap();
    assert_eq!(uplink, "port uplink on blue+1: packet eth1, up\n");
    ["web", "uplink"].iter().for_each(|port| daemon.carry(port));
    let listed = daemon.cli("port ls").await.unwrap();
    let expected = "\
NAME    NETWORK  DEVICE       STATE  MACS  RX  TX  DROPS
uplink  blue+1   packet eth1  up        0   7   0      3
web     blue     tap eth0     up        0   7   0      3
";
    assert_eq!(listed, expected);
    let json: serde_json::Value =
        serde_json::from_str(&daemon.cli("port show web --json").await.unwrap()).unwrap();
    assert_eq!(json["device"], "eth0");
    daemon.hear("web");
    assert_eq!(daemon.cli("fdb flush --all").await.unwrap(), "3 learned addresses removed\n");
    let pinned = daemon.cli("fdb add blue 02:42:0a:09:00:02 web").await.unwrap();
    assert_eq!(pinned, "02:42:0a:09:00:02 pinned to port web\n");
    daemon.core.declare("[[network]]\nname = \"green\"\n");
    assert_eq!(daemon.cli("reload --dry-run").await.unwrap(), "would change:\n+ network green\n");
    assert_eq!(daemon.cli("detach web").await.unwrap(), "port web detached\n");
    assert_eq!(daemon.cli("port del uplink --json").await.unwrap(), "");
    for (line, code) in [
        ("port show web", 4),
        ("network create blue", 1),
        ("attach --netns vt-control-none grey", 4),
        ("attach --netns vt-control-none blue", 4),
        ("attach --pid 4194305 blue", 4),
        ("attach --netns /tmp/+ blue", 1),
        ("port add x --network blue --kind packet --device eth1 --ip 10.0.0.1/8", 1),
    ] {
        let error = daemon.cli(line).await.unwrap_err();
        assert_eq!(exit_code(&error), code, "{line}: {error}");
    }
}

/// A network over three hosts, of which this is the first.
const ACROSS: &str = r#"
[vxlan]
local = "10.8.0.1"
underlay_mtu = 1500
[[vxlan.peer]]
name = "host2"
address = "10.8.0.2"
[[vxlan.peer]]
name = "host3"
address = "10.8.0.3"
[[network]]
name = "blue"
vni = 4096
[[port]]
name = "web"
network = "blue"
kind = "tap"
mac = "02:42:0a:09:00:02"
address = ["10.9.0.2/24"]
"#;

/// The directory's path, and its record of the station that has 10.9.0.7.
const DIRECTORY: &str = "/v1/networks/blue/directory";
fn station(host: &str, sequence: u64) -> String {
    let addresses = r#"["10.9.0.7","fd00:9::7"]"#;
    format!(
        r#"[{{"mac":"02:42:0a:09:00:07","addresses":{addresses},"host":"{host}","sequence":{sequence}}}]"#
    )
}

#[tokio::test]
async fn a_directory_is_replaced_changed_and_removed() {
    let daemon = Daemon::declaring(ACROSS).await;
    let fdb = async || daemon.cli("fdb ls").await.unwrap();
    let ask = async |method, body: &str| daemon.request(method, DIRECTORY, body).await;
    assert_eq!(ask("GET", "").await, (200, r#"{"stations":[]}"#.into()));

    let whole = format!(r#"{{"hosts":["10.8.0.3"],"stations":{}}}"#, station("10.8.0.2", 1));
    assert_eq!(ask("PUT", &whole).await.0, 204);
    assert_eq!(ask("GET", "").await, (200, whole));
    let table = fdb().await;
    assert!(table.contains("02:42:0a:09:00:07") && table.contains("host2"), "{table}");

    let why = daemon.cli("why --ip 10.9.0.7").await.unwrap();
    assert!(why.contains("the directory of network blue says that 02:42:0a:09:00:07 has it"), "{why}");

    // It moves to the other host; news of before is late.
    let moved = format!(r#"{{"set":{}}}"#, station("10.8.0.3", 2));
    assert_eq!(ask("PATCH", &moved).await.0, 204);
    assert!(fdb().await.contains("host3"));
    let late = format!(r#"{{"set":{}}}"#, station("10.8.0.2", 1));
    assert_eq!(ask("PATCH", &late).await.0, 204);
    assert!(!fdb().await.contains("host2"));

    // A station of this host is here, whatever the directory says.
    let own = r#"{"set":[{"mac":"02:42:0a:09:00:02","host":"10.8.0.2"}]}"#;
    assert_eq!(ask("PATCH", own).await.0, 204);
    assert!(!fdb().await.contains("host2"));

    assert_eq!(ask("DELETE", "").await.0, 204);
    assert!(!fdb().await.contains("02:42:0a:09:00:07"), "it is forgotten");
    let group = r#"{"stations":[{"mac":"ff:ff:ff:ff:ff:ff","host":"10.8.0.2"}]}"#;
    let (status, why) = ask("PUT", group).await;
    assert!(status == 400 && why.contains("no station can have"), "{status} {why}");
    assert_eq!(daemon.request("PUT", "/v1/networks/red/directory", "{}").await.0, 404);
}

#[tokio::test]
async fn a_directory_follows_peers_ports_and_networks() {
    let daemon = Daemon::declaring(ACROSS).await;
    let place = async || {
        let table = daemon.cli("fdb ls").await.unwrap();
        let line = table.lines().find(|line| line.contains("02:42:0a:09:00:07"));
        line.map(|line| line.split_whitespace().find(|word| word.starts_with("host")).unwrap().to_owned())
    };
    let whole = format!(r#"{{"stations":{}}}"#, station("10.8.0.4", 0));
    assert_eq!(daemon.request("PUT", DIRECTORY, &whole).await.0, 204);
    assert_eq!(place().await, None, "its host is no peer yet");
    daemon.cli("peer add 10.8.0.4 --name host4").await.unwrap();
    assert_eq!(place().await.unwrap(), "host4");
    daemon.cli("peer rm host4").await.unwrap();
    assert_eq!(place().await, None);
    daemon.cli("peer add 10.8.0.4 --name host5").await.unwrap();
    assert_eq!(place().await.unwrap(), "host5");
    // A port of this host has the address meanwhile.
    let port = r#"{"name":"db","network":"blue","kind":"tap","mac":"02:42:0a:09:00:07"}"#;
    assert_eq!(daemon.request("POST", "/v1/ports", port).await.0, 201);
    assert_eq!(place().await, None, "it is not pinned elsewhere");
    daemon.cli("detach db").await.unwrap();
    assert_eq!(place().await.unwrap(), "host5");
}

#[tokio::test]
async fn a_large_directory_makes_the_table_grow() {
    let daemon = Daemon::declaring(ACROSS).await;
    let many: Vec<_> = (0..60_000_u32)
        .map(|id| {
            let [_, a, b, c] = id.to_be_bytes();
            format!(r#"{{"mac":"02:43:00:{a:02x}:{b:02x}:{c:02x}","addresses":["10.1{a}.{b}.{c}"],"host":"10.8.0.2"}}"#)
        })
        .collect();
    daemon.hear("web");
    let known = || daemon.core.snapshot().fdb(&FdbFilter::default()).unwrap();
    let before = known().len();
    let whole = format!(r#"{{"stations":[{}]}}"#, many.join(","));
    assert_eq!(daemon.request("PUT", DIRECTORY, &whole).await.0, 204);
    let entries = known();
    assert!(before > 0);
    assert_eq!(entries.len(), before + 60_000, "and none is lost that was learned");
    let slots = daemon.core.snapshot().live.fdb.entries(daemon.core.snapshot().live.workers.now()).count();
    assert_eq!(slots, entries.len());
}

/// Served or not, names can be listed.
#[tokio::test]
async fn names_are_told_where_they_are_not_served() {
    const WEB: &str = "[[network]]\nname = \"blue\"\n[[port]]\nname = \"web\"\nnetwork = \"blue\"\nkind = \"tap\"\naddress = [\"10.9.0.2/24\"]\n";
    let off = Daemon::declaring(WEB).await;
    let on = Daemon::declaring(&format!("{WEB}[dns]\nenabled = true\n")).await;
    let told = off.cli("dns ls").await.unwrap();
    assert!(told.contains("web") && told.contains("10.9.0.2"), "{told}");
    assert_eq!(told, on.cli("dns ls").await.unwrap());
}
