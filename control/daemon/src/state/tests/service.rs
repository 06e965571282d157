use serde_json::json;

use super::{config, labels, name, network};
use crate::state::{Command, Record, Sandbox, State};
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
