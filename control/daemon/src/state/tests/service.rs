use serde_json::json;

use super::{config, labels, name, network};
use crate::state::{Command, Membership, Origin, PeerHost, Record, RemoteBackend, Sandbox, State};
use vswitch_model::{Connect, Id, Name, NetworkSpec, ServiceSpec, ServiceUpdate};

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn blue() -> NetworkSpec {
    network(json!({ "name": "blue", "subnet": [{ "subnet": "10.9.0.0/24" }, { "subnet": "fd09::/64" }] }))
}

fn service(spec: serde_json::Value) -> Command {
    Command::AddService { spec: serde_json::from_value(spec).unwrap(), now: NOW }
}

fn connect(number: u64, connect: serde_json::Value) -> Command {
    let connect: Connect = serde_json::from_value(connect).unwrap();
    let sandbox = Sandbox {
        identity: None,
        ifnames: ["lo".to_owned()].into(),
        default_routes: Vec::new(),
        id: Id::of(&number.to_string()),
        published: Vec::new(),
        now: NOW,
    };
    Command::Connect { network: name("blue"), connect: Box::new(connect), sandbox: Box::new(sandbox) }
}

fn update(service: &str, update: serde_json::Value) -> Command {
    let update: ServiceUpdate = serde_json::from_value(update).unwrap();
    Command::UpdateService { name: name(service), update }
}

fn with_web() -> State {
    let mut state = State::default();
    state.apply(Command::AddNetwork(blue())).unwrap();
    let effects = state.apply(service(json!({ "name": "web", "network": "blue" }))).unwrap();
    assert_eq!(labels(&effects), ["store service web"]);
    state
}

fn web(state: &State) -> std::sync::Arc<ServiceSpec> {
    state.service(&name("web")).unwrap().spec
}

fn serving(state: &State) -> Vec<Name> {
    state.backends(&web(state)).into_iter().map(|it| it.name().clone()).collect()
}

fn refusal(state: &State, command: Command) -> String {
    state.plan(command).unwrap_err().to_string()
}

#[test]
fn a_service_and_its_endpoints() {
    let mut state = with_web();
    let addresses = ["10.9.0.2", "fd09::2"].map(|it| it.parse::<std::net::IpAddr>().unwrap());
    assert_eq!(web(&state).address, addresses);
    state.apply(connect(1, json!({ "name": "a", "services": ["web"] }))).unwrap();
    state.apply(connect(2, json!({ "name": "b", "labels": { "app": "web", "tier": "x" } }))).unwrap();
    assert_eq!(serving(&state), [name("a")]);
    let own: Vec<_> = state.endpoints().flat_map(|it| &it.addresses).map(|net| net.addr()).collect();
    assert!(own.iter().all(|address| !addresses.contains(address)), "its own address is not given out");
    let effects =
        state.apply(update("web", json!({ "selector": { "app": "web" }, "drain": ["a"] }))).unwrap();
    assert_eq!(labels(&effects), ["restore service web"]);
    assert_eq!(serving(&state), [name("a"), name("b")]);
    let ready = |state: &State| {
        let spec = web(state);
        state.backends(&spec).into_iter().map(|it| it.is_ready).collect::<Vec<_>>()
    };
    assert_eq!(ready(&state), [false, true]);
    state.apply(update("web", json!({ "resume": ["a"] }))).unwrap();
    assert_eq!(ready(&state), [true, true]);
    // Another network's endpoints do not serve, whatever their labels.
    state.apply(Command::AddNetwork(network(json!({ "name": "red" })))).unwrap();
    let Command::Connect { connect, sandbox, .. } =
        connect(3, json!({ "name": "c", "labels": { "app": "web" } }))
    else {
        unreachable!("it connects")
    };
    state.apply(Command::Connect { network: name("red"), connect, sandbox }).unwrap();
    assert_eq!(serving(&state).len(), 2);
    let effects = state.apply(Command::RemoveService { name: name("web"), now: NOW }).unwrap();
    assert_eq!(labels(&effects), ["unstore service web"]);
}

#[test]
fn a_passed_check_is_remembered_while_there_is_none() {
    let mut state = with_web();
    state.apply(connect(1, json!({ "name": "a", "services": ["web"] }))).unwrap();
    let checked = json!({ "health": { "check": "tcp:80" } });
    state.apply(update("web", checked.clone())).unwrap();
    let has_passed = |state: &State| {
        let spec = web(state);
        state.backends(&spec).into_iter().all(|it| state.has_passed(&spec, it.here().unwrap()))
    };
    assert!(!has_passed(&state));
    let endpoint = state.endpoints().next().unwrap().id.clone();
    state.apply(Command::NoteHealth { service: name("web"), endpoint, passes: true }).unwrap();
    state.apply(update("web", json!({ "no_health": true }))).unwrap();
    state.apply(update("web", checked)).unwrap();
    assert!(has_passed(&state), "so checks must begin from there, or a failure is no change to them");
}

#[test]
fn what_is_stored_is_there_after_a_restart() {
    let state = with_web();
    let records = [Record::Network(state.network(&name("blue")).unwrap().spec), Record::Service(web(&state))];
    let again = State::start(config(""), records).unwrap();
    assert_eq!(web(&again.next), web(&state));
    assert!(labels(&again.effects).iter().all(|effect| !effect.contains("service")));
}

#[test]
fn refusals_say_what_to_do() {
    let mut state = with_web();
    let add = |spec| service(spec);
    for (command, sentence) in [
        (add(json!({ "name": "web", "network": "blue" })), "service web exists already"),
        (add(json!({ "name": "api", "network": "red" })), "network red not found"),
        (add(json!({ "name": "api", "network": "blue", "address": ["10.9.0.2"] })), "Address already in use"),
        (add(json!({ "name": "api", "network": "blue", "address": ["10.8.0.2"] })), "out of range"),
        (
            add(json!({ "name": "api", "network": "blue", "address": ["10.9.0.8", "10.9.0.9"] })),
            "two addresses of one family",
        ),
        (
            add(json!({ "name": "api", "network": "blue", "mode": "dnsrr", "address": ["10.9.0.9"] })),
            "leave the address out",
        ),
        (connect(1, json!({ "name": "a", "services": ["api"] })), "service create --network blue api"),
        (connect(1, json!({ "name": "a", "ip": "10.9.0.2" })), "10.9.0.2 is held by service web"),
        (Command::RemoveNetwork(name("blue")), "network blue has services (web): remove them first"),
        (update("api", json!({})), "there is no service api"),
    ] {
        let refused = refusal(&state, command.clone());
        assert!(refused.contains(sentence), "{command:?}: {refused}");
    }
    // A network without subnets has no address for a service.
    state.apply(Command::AddNetwork(network(json!({ "name": "plain" })))).unwrap();
    let refused = refusal(&state, service(json!({ "name": "api", "network": "plain" })));
    assert!(refused.contains("use --endpoint-mode dnsrr"), "{refused}");
    state.apply(service(json!({ "name": "api", "network": "plain", "mode": "dnsrr" }))).unwrap();
}

#[test]
fn the_file_declares_services() {
    let file = |address: &str| {
        config(&format!(
            "[[network]]\nname = \"blue\"\n[[network.subnet]]\nsubnet = \"10.9.0.0/24\"\n[[service]]\nname = \"web\"\nnetwork = \"blue\"\naddress = [\"{address}\"]\naffinity = \"client-ip:1h\"\nselector = {{ app = \"web\" }}\n"
        ))
    };
    let mut state = State::start(file("10.9.0.100"), []).unwrap().next;
    assert_eq!(web(&state).selector.len(), 1);
    let refused = refusal(&state, update("web", json!({ "drain": ["a"] })));
    assert!(refused.contains("declared in the configuration file"), "{refused}");
    let reloaded = state.plan(Command::Reload(file("10.9.0.101"))).unwrap();
    let lines: Vec<_> = reloaded.changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["~ service web: address [\"10.9.0.100\"] -> [\"10.9.0.101\"]"]);
    // An address that another has, or that is in no subnet.
    state.apply(connect(1, json!({ "name": "a", "ip": "10.9.0.7" }))).unwrap();
    for address in ["10.9.0.7", "10.9.0.1", "10.8.0.1"] {
        let refused = refusal(&state, Command::Reload(file(address)));
        assert!(refused.contains("is no free address of its network's subnets"), "{refused}");
    }
}

/// What a cluster gives: network blue, service web, and an endpoint of host2 that serves.
fn membership(service: serde_json::Value, passes: bool, is_there: bool) -> Command {
    let subnet = json!({ "subnet": "10.9.0.0/24", "gateway": "10.9.0.1" });
    let global = json!({ "name": "blue", "vni": 4096, "subnet": [subnet] });
    let peer = PeerHost { name: name("host2"), address: [10, 8, 0, 2].into(), port: 4789 };
    let remote = RemoteBackend {
        id: Id::of("far"),
        name: name("b"),
        host: name("host2"),
        is_there,
        mac: "02:42:0a:09:00:63".parse().unwrap(),
        addresses: vec![[10, 9, 0, 99].into()],
        passes,
    };
    let spec: ServiceSpec = serde_json::from_value(service).unwrap();
    let backends = [(spec.name.clone(), vec![remote])].into();
    Command::Follow(
        Membership {
            advertise: Some([10, 8, 0, 1].into()),
            networks: vec![network(global).into()],
            hosts: vec![peer],
            blocks: [(name("blue"), vec!["10.9.0.0/29".parse().unwrap()])].into(),
            services: vec![spec.into()],
            backends,
        }
        .into(),
    )
}

fn global_web() -> serde_json::Value {
    json!({ "name": "web", "network": "blue", "address": ["10.9.0.5"] })
}

#[test]
fn endpoints_of_other_hosts_serve() {
    let mut state = State::default();
    let effects = state.apply(membership(global_web(), true, true)).unwrap();
    assert!(labels(&effects).iter().all(|effect| !effect.contains("service")), "it is kept by the cluster");
    assert_eq!(state.service(&name("web")).unwrap().origin, Origin::Cluster);
    state.apply(connect(1, json!({ "name": "a", "services": ["web"] }))).unwrap();
    let ready = |state: &State| {
        let spec = web(state);
        let backends = state.backends(&spec);
        backends.iter().map(|it| (it.name().to_string(), it.is_ready)).collect::<Vec<_>>()
    };
    let both = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    assert_eq!(ready(&state), both(true, true));
    // Its host says that it does not pass, or is not there.
    for (passes, is_there) in [(false, true), (true, false)] {
        state.apply(membership(global_web(), passes, is_there)).unwrap();
        assert_eq!(ready(&state), both(true, false));
    }
    // None passes, or one is drained and the other does not pass: one that only seems not to serve is better than none.
    let mut drained = global_web();
    drained["drain"] = json!(["a"]);
    state.apply(membership(drained, false, true)).unwrap();
    assert_eq!(ready(&state), both(false, true));
    // An address of it is given to no endpoint of this host.
    let refused = refusal(&state, connect(2, json!({ "name": "c", "ip": "10.9.0.5" })));
    assert!(refused.contains("10.9.0.5 is held by service web"), "{refused}");
    let gateways = state.gateways_of(&state.network(&name("blue")).unwrap().spec).unwrap();
    assert_eq!(gateways.1.len(), 1);
    assert_ne!(gateways.0, gateways.1[0]);
    // The service is removed.
    let mut other = global_web();
    other["name"] = json!("api");
    state.apply(membership(other, true, true)).unwrap();
    assert!(state.service(&name("web")).is_none() && state.service(&name("api")).is_some());
}

#[test]
fn a_service_of_the_cluster_gives_way_to_what_this_host_has() {
    let mut state = State::default();
    state
        .apply(Command::AddNetwork(network(
            json!({ "name": "own", "subnet": [{ "subnet": "10.7.0.0/24" }] }),
        )))
        .unwrap();
    state.apply(service(json!({ "name": "web", "network": "own" }))).unwrap();
    state.apply(membership(global_web(), true, true)).unwrap();
    assert_eq!(state.service(&name("web")).unwrap().origin, Origin::Api);
    let told = state.unserved();
    assert!(told[&name("web")].contains("a service of this host has its name"), "{told:?}");
    state.apply(Command::RemoveService { name: name("web"), now: NOW }).unwrap();
    assert_eq!(state.service(&name("web")).unwrap().origin, Origin::Cluster);
    assert!(state.unserved().is_empty());
    // An endpoint has got its address meanwhile, while the store was away.
    let mut late = global_web();
    (late["name"], late["address"]) = (json!("late"), json!(["10.9.0.6"]));
    state.apply(connect(1, json!({ "name": "a", "ip": "10.9.0.6" }))).unwrap();
    state.apply(membership(late, true, true)).unwrap();
    let told = state.unserved();
    assert!(told[&name("late")].contains("endpoint a has its address"), "{told:?}");
    assert!(state.service(&name("late")).is_none());
}

/// The ports of the host, and where they lead.
fn open(state: &State) -> Vec<String> {
    state.outside().iter().flat_map(|it| &it.published).map(ToString::to_string).collect()
}

#[test]
fn ports_lead_to_the_service_or_to_an_endpoint_of_the_host() {
    let mut state = with_web();
    state.apply(update("web", json!({ "publish": ["8080-8081:80-81", "53:53/udp"] }))).unwrap();
    let wanted = [
        "0.0.0.0:8080:10.9.0.2:80/tcp",
        "0.0.0.0:8081:10.9.0.2:81/tcp",
        "[::]:8080:[fd09::2]:80/tcp",
        "[::]:8081:[fd09::2]:81/tcp",
        "0.0.0.0:53:10.9.0.2:53/udp",
        "[::]:53:[fd09::2]:53/udp",
    ];
    assert_eq!(open(&state), wanted);
    state.apply(update("web", json!({ "unpublish": ["80", "53/udp"] }))).unwrap();
    assert!(open(&state).is_empty(), "the range was published as one");

    let host = "published=7000,target=80,mode=host";
    state
        .apply(service(json!({ "name": "api", "network": "blue", "mode": "dnsrr", "publish": [host] })))
        .unwrap();
    assert!(open(&state).is_empty());
    for (number, endpoint) in [(1, "b"), (2, "a")] {
        state.apply(connect(number, json!({ "name": endpoint, "services": ["api"] }))).unwrap();
    }
    let a = state.endpoints().find(|it| it.name == name("a")).unwrap().addresses[0].addr();
    assert_eq!(open(&state)[0], format!("0.0.0.0:7000:{a}:80/tcp"));
    // It does not pass, and the other one does.
    state.apply(update("api", json!({ "health": { "check": "tcp:80" } }))).unwrap();
    let b = state.endpoints().find(|it| it.name == name("b")).unwrap();
    let (id, b) = (b.id.clone(), b.addresses[0].addr());
    state.apply(Command::NoteHealth { service: name("api"), endpoint: id, passes: true }).unwrap();
    assert_eq!(open(&state)[0], format!("0.0.0.0:7000:{b}:80/tcp"));

    for (publish, sentence) in [
        (json!(["7000:81"]), "service web: port 7000/tcp of the hosts is published by service api"),
        (json!(["1000-1100:1000-1100"]), "it publishes 101 ports: 100 at most"),
    ] {
        let refused = refusal(&state, update("web", json!({ "publish": publish })));
        assert!(refused.contains(sentence), "{refused}");
    }
    let refused = refusal(&state, update("api", json!({ "publish": ["7001:81"] })));
    assert!(refused.contains("publish it with mode=host, or use mode vip"), "{refused}");
    state
        .apply(Command::AddNetwork(network(
            json!({ "name": "inner", "internal": true, "subnet": [{ "subnet": "10.7.0.0/24" }] }),
        )))
        .unwrap();
    let refused = refusal(&state, service(json!({ "name": "x", "network": "inner", "publish": ["1:1"] })));
    assert!(refused.contains("it is internal"), "{refused}");
}
