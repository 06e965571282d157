//! Names of Docker's containers, for all that Docker does not answer: sandboxes, other engines, the host.

use std::fs;

use serde_json::{Value, json};
use vswitch_tests::{Engine, Netns, Vswitchd, eventually, net};

use crate::names::{connect, dig, short};

/// A host with an engine, names, and network blue in both.
fn host() -> (Vswitchd, Engine) {
    let switch = Vswitchd::start_apart(Netns::new("host"), &net().keys("[dns]\nenabled = true"));
    let engine = Engine::start(&switch);
    engine.create("blue", "10.9.0.0/24");
    (switch, engine)
}

/// Runs a container that sleeps; answers its address in network blue.
fn run(engine: &Engine, name: &str, more: &[&str]) -> String {
    let base = ["run", "-d", "--name", name, "--network", "blue"];
    engine.docker(&[&base[..], more, &["box", "sleep", "1000"]].concat());
    address(engine, name)
}

fn address(engine: &Engine, name: &str) -> String {
    engine.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", name])
}

/// Waits until a question is answered so.
fn is_answered(netns: &Netns, question: &str, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let what = format!("{question} is answered by {expected:?}");
    eventually(&what, || (short(netns, question) == expected).then_some(()));
}

#[test]
fn containers_serve_by_their_labels() {
    let (switch, engine) = host();
    let client = Netns::new("client");
    connect(&switch, "blue", &client, "client", &[]);
    let selector = "com.docker.compose.service=api";
    let line =
        ["service", "create", "--network", "blue", "--selector", selector, "--publish", "8080:80", "shop"];
    assert_eq!(switch.try_ctl(&line).code, 0);
    for name in ["api-1", "api-2"] {
        run(&engine, name, &["--label", selector, "--label", "other=x"]);
    }
    run(&engine, "db", &["--label", "com.docker.compose.service=db"]);
    eventually("both serve", || {
        let service = switch.ctl(&["service", "ps", "shop"]);
        let backends = service[0]["backends"].as_array().unwrap();
        let names: Vec<_> = backends.iter().map(|it| it["name"].as_str().unwrap()).collect();
        (names == ["api-1", "api-2"]).then_some(())
    });
    // None listens: refused by a container, not for want of one.
    let address = switch.ctl(&["service", "inspect", "shop"])[0]["address"][0].as_str().unwrap().to_owned();
    let to = std::net::SocketAddr::new(address.parse().unwrap(), 80);
    let refused = client.run(|| std::net::TcpStream::connect(to)).map_err(|error| error.kind());
    assert_eq!(refused.map(drop), Err(std::io::ErrorKind::ConnectionRefused));
    let service = switch.ctl(&["service", "ps", "shop"]);
    let backends = service[0]["backends"].as_array().unwrap();
    assert_eq!(backends.iter().map(|it| it["given"].as_u64().unwrap()).sum::<u64>(), 1);
    engine.docker(&["rm", "-f", "api-1"]);
    eventually("one is gone", || {
        (switch.ctl(&["service", "ps", "shop"])[0]["backends"].as_array().unwrap().len() == 1).then_some(())
    });
}

#[test]
fn containers_are_called_what_docker_calls_them() {
    let (mut switch, mut engine) = host();
    let sandbox = Netns::new("sandbox");
    let at_sandbox = connect(&switch, "blue", &sandbox, "plain", &[]);
    let db = run(&engine, "db", &["--network-alias", "sql"]);
    let id = engine.docker(&["inspect", "-f", "{{.Id}}", "db"]);
    for name in ["db", "sql", "db.blue", &id[..12]] {
        is_answered(&sandbox, name, &[&db]);
    }
    is_answered(&sandbox, &format!("-x {db}"), &["db.blue.vswitch.internal."]);
    let network = switch.ctl(&["network", "inspect", "blue"]);
    let names: Vec<_> = network[0]["endpoints"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert!(names.contains(&&json!("db")) && names.contains(&&json!("plain")), "{names:?}");

    // What Docker does not know comes from us: a container asks Docker's server, and that one ours.
    run(&engine, "web", &["--dns", "169.254.53.53"]);
    engine.reaches("web", "plain");
    engine.reaches("web", "plain.blue.vswitch.internal");

    // Renamed; in a second network under another name.
    engine.docker(&["rename", "db", "base"]);
    is_answered(&sandbox, "base", &[&db]);
    is_answered(&sandbox, "db", &[]);
    is_answered(&sandbox, "sql", &[&db]);
    engine.create("red", "10.8.0.0/24");
    let job = Netns::new("job");
    connect(&switch, "red", &job, "job", &[]);
    engine.docker(&["network", "connect", "--alias", "store", "red", "base"]);
    let in_red = engine.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.red.IPAddress}}", "base"]);
    is_answered(&job, "store", &[&in_red]);
    is_answered(&job, "base", &[&in_red]);
    is_answered(&job, "sql", &[]);
    engine.docker(&["network", "disconnect", "red", "base"]);
    is_answered(&job, "store", &[]);

    // Ours is restarted, and something happens meanwhile.
    switch.stop();
    engine.docker(&["rename", "web", "front"]);
    switch.run();
    // A query while its interface has no carrier yet is lost, and asked again after 5 s only.
    sandbox.reaches("169.254.53.53");
    assert_eq!(short(&sandbox, "base"), [db.as_str()], "kept");
    let front = address(&engine, "front");
    is_answered(&sandbox, "front", &[&front]);

    // The engine is away: names stay. It comes back and has forgotten all.
    engine.kill();
    assert_eq!(short(&sandbox, "base"), [db.as_str()]);
    engine.run();
    eventually("the containers are gone", || (engine.docker(&["ps", "-q"]).is_empty()).then_some(()));
    engine.docker(&["start", "base"]);
    let db = address(&engine, "base");
    is_answered(&sandbox, "base", &[&db]);
    is_answered(&sandbox, "sql", &[&db]);
    engine.docker(&["rm", "-f", "base", "front"]);
    is_answered(&sandbox, "base", &[]);
    assert_eq!(short(&sandbox, "plain"), [at_sandbox]);
}

#[test]
fn a_name_that_another_has_and_members_that_are_not_ready() {
    let (switch, engine) = host();
    let sandbox = Netns::new("sandbox");
    let ours = connect(&switch, "blue", &sandbox, "db", &[]);
    let theirs = run(&engine, "db", &[]);
    is_answered(&sandbox, "db", &[&ours, &theirs]);

    let check = ["--health-cmd", "cat /ok", "--health-interval", "1s", "--health-retries", "1"];
    let pool = [&["--network-alias", "pool"], &check[..]].concat();
    let (a, b) = (run(&engine, "one", &pool), run(&engine, "two", &pool));
    // None is ready: one that only seems so is better than none.
    is_answered(&sandbox, "pool", &[&a, &b]);
    engine.docker(&["exec", "one", "sh", "-c", "echo > /ok"]);
    is_answered(&sandbox, "pool", &[&a]);
    engine.docker(&["exec", "two", "sh", "-c", "echo > /ok"]);
    is_answered(&sandbox, "pool", &[&a, &b]);
    engine.docker(&["exec", "one", "sh", "-c", "busybox rm /ok"]);
    is_answered(&sandbox, "pool", &[&b]);
    assert_eq!(short(&sandbox, "one"), [a], "alone it is given");
}

#[test]
fn services_of_compose() {
    let (switch, engine) = host();
    let sandbox = Netns::new("sandbox");
    connect(&switch, "blue", &sandbox, "plain", &[]);
    let file = switch.folder().join("docker-compose.yml");
    let services =
        "version: \"3.8\"\nservices: { api: { image: box, command: [sleep, \"1000\"], networks: [blue] } }\n";
    fs::write(&file, format!("{services}networks: {{ blue: {{ external: true }} }}\n")).unwrap();
    let compose =
        |arguments: &[&str]| engine.compose(&file, &[&["--project-name", "shop"], arguments].concat());
    compose(&["up", "-d", "--scale", "api=3"]);
    let found = |question: &str| short(&sandbox, question).len();
    eventually("a service has all its containers", || (found("api") == 3).then_some(()));
    assert_eq!(found("tasks.api"), 3);
    let answer = dig(&sandbox, "@169.254.53.53 api");
    let is_brief = |line: &&str| line.starts_with("api.") && line.split_whitespace().nth(1) == Some("0");
    assert_eq!(answer.lines().filter(is_brief).count(), 3, "they come and go: {answer}");
    compose(&["up", "-d", "--scale", "api=1"]);
    eventually("and no more", || (found("api") == 1).then_some(()));
    compose(&["down"]);
}

/// Docker's own file: containers ask us without a word of theirs.
#[test]
fn docker_is_told_of_the_server() {
    let (switch, mut engine) = host();
    let sandbox = Netns::new("sandbox");
    connect(&switch, "blue", &sandbox, "plain", &[]);
    let config = engine.config();
    fs::write(&config, r#"{ "dns": ["192.0.2.1"], "max-concurrent-downloads": 2 }"#).unwrap();
    let path = config.to_str().unwrap();
    let told = switch.try_ctl(&["docker", "dns", "--config", path]);
    assert!(told.code == 0 && told.stdout.contains("restart Docker"), "{told:?}");
    let read = || serde_json::from_str::<Value>(&fs::read_to_string(&config).unwrap()).unwrap();
    assert_eq!(read(), json!({ "dns": ["169.254.53.53", "192.0.2.1"], "max-concurrent-downloads": 2 }));
    engine.stop();
    engine.run();
    run(&engine, "web", &[]);
    engine.reaches("web", "plain");
    switch.ctl(&["docker", "dns", "--config", path, "--remove"]);
    assert_eq!(read(), json!({ "dns": ["192.0.2.1"], "max-concurrent-downloads": 2 }));
}
