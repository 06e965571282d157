use std::sync::Arc;

use serde_json::json;
use vswitch::topology::PortMode;

use super::{Command, Effect, Kind, Origin, Record, Refusal, State};
use vswitch_model::{Config, Id, Name, NetworkSpec, PortSpec, Vni};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn network(value: serde_json::Value) -> NetworkSpec {
    serde_json::from_value(value).unwrap()
}

fn port(value: serde_json::Value) -> PortSpec {
    serde_json::from_value(value).unwrap()
}

fn tap(name: &str, network: &str) -> PortSpec {
    port(json!({ "name": name, "network": network, "kind": "tap" }))
}

fn config(source: &str) -> Config {
    crate::config::parse("net.toml", source).unwrap()
}

/// Effects by name, for reading.
fn labels(effects: &[Effect]) -> Vec<String> {
    let tell = |effect: &Effect| match effect {
        Effect::SetSwitch { .. } => "set switch".into(),
        Effect::ClosePort(port) => format!("close {}={}", port.spec.name, port.id.0),
        Effect::UpdatePort { new, .. } => format!("update {}={}", new.spec.name, new.id.0),
        Effect::OpenPort(port) => format!("open {}={}", port.spec.name, port.id.0),
        Effect::Store(record) => format!("store {} {}", record.kind(), record.key()),
        Effect::Unstore(record) => format!("unstore {} {}", record.kind(), record.key()),
        Effect::SetOutside { .. } => "set outside".into(),
        Effect::Restore { new, .. } => format!("restore {} {}", new.kind(), new.key()),
    };
    effects.iter().map(tell).collect()
}

const FILE: &str = r#"
    [[network]]
    name = "blue"
    [[port]]
    name = "db"
    network = "blue"
    kind = "tap"
    [[port]]
    name = "web"
    network = "blue"
    kind = "tap"
"#;

/// A network that the API made: it has an id of its own.
fn made(name: &str) -> NetworkSpec {
    NetworkSpec { id: Some(Id::of(&format!("made {name}"))), ..network(json!({ "name": name })) }
}

fn started() -> State {
    State::start(config(FILE), []).unwrap().next
}

#[test]
fn a_daemon_starts_with_the_file_and_the_store() {
    let stored =
        [Record::Network(network(json!({"name": "red"})).into()), Record::Port(tap("new", "red").into())];
    let plan = State::start(config(FILE), stored).unwrap();
    assert_eq!(labels(&plan.effects), ["open db=1", "open new=0", "open web=2"]);
    assert_eq!(plan.next.port(&name("new")).unwrap().origin, Origin::Api);
    assert_eq!(plan.next.port(&name("web")).unwrap().origin, Origin::File);
}

#[test]
fn what_the_api_makes_is_stored() {
    let mut state = started();
    let effects = state.apply(Command::AddNetwork(network(json!({"name": "red"})))).unwrap();
    assert_eq!(labels(&effects), ["store network red"]);
    let effects = state.apply(Command::AddPort(tap("new", "red"))).unwrap();
    assert_eq!(labels(&effects), ["open new=2", "store port new"]);
    let effects = state.apply(Command::RemovePort(name("new"))).unwrap();
    assert_eq!(labels(&effects), ["close new=2", "unstore port new"]);
    let effects = state.apply(Command::AddPort(tap("newer", "blue"))).unwrap();
    assert_eq!(labels(&effects), ["open newer=3", "store port newer"], "a released number rests");
    let effects = state.apply(Command::RemoveNetwork(name("red"))).unwrap();
    assert_eq!(labels(&effects), ["unstore network red"]);
}

const TUNNEL: &str = r#"
    [vxlan]
    local = "10.8.0.1"
    [[vxlan.peer]]
    address = "10.8.0.2"
    [[network]]
    name = "blue"
    vni = 4096
    [[network]]
    name = "local"
    [[port]]
    name = "web"
    network = "blue"
    kind = "tap"
"#;

#[test]
fn the_endpoint_is_opened_before_its_peers_and_nothing_goes_from_tunnel_to_tunnel() {
    let plan = State::start(config(TUNNEL), []).unwrap();
    assert_eq!(labels(&plan.effects), ["open vxlan=2", "open 10.8.0.2=1", "open web=0", "set outside"]);
    let state = plan.next;
    assert_eq!(state.network(&name("blue")).unwrap().mtu.get(), 1450, "50 bytes less than the underlay");
    assert_eq!(state.network(&name("local")).unwrap().mtu.get(), 1500);
    assert_eq!(state.port(&name("web")).unwrap().mtu.get(), 1450);
    let layout = state.layout();
    let carried = |id: usize| match &layout.ports[id].mode {
        PortMode::Tunnel(networks) => networks.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((carried(1), carried(2)), (1, 0), "the peer carries what has a vni, the endpoint nothing");
    assert!(layout.ports[1].horizon.is_some() && layout.ports[1].horizon == layout.ports[2].horizon);
    let with_group = TUNNEL.replace("[[vxlan.peer]]", "group = \"239.1.1.1\"\n[[vxlan.peer]]");
    let state = State::start(config(&with_group), []).unwrap().next;
    let floods = |port: &str| {
        let id = state.port(&name(port)).unwrap().id;
        state.layout().ports.iter().find(|rules| rules.id == id).unwrap().flood
    };
    assert!(floods("vxlan-group") && !floods("10.8.0.2"), "the group reaches the peers");
}

#[test]
fn a_collector_is_sent_to_by_the_endpoint_and_its_vni_is_no_networks() {
    let mut state = State::start(config(TUNNEL), []).unwrap().next;
    let collector = |vni: u32, remote: &str| {
        port(
            json!({"name": "ids", "mirror": {"ports": ["web"]}, "kind": "collector", "remote": remote, "vni": vni}),
        )
    };
    let refused = state.clone().apply(Command::AddPort(collector(4096, "10.8.0.9"))).unwrap_err().to_string();
    assert!(refused.contains("port ids: vni: network blue has vni 4096"), "{refused}");
    // A peer's address will do.
    let effects = state.apply(Command::AddPort(collector(4097, "10.8.0.2"))).unwrap();
    assert_eq!(labels(&effects), ["open ids=3", "store port ids"]);
    let layout = state.layout();
    assert_eq!((layout.ports[3].mode.clone(), layout.ports[3].horizon), (PortMode::Mirror, None));
    assert_eq!(layout.mirrors[0].to, state.port(&name("ids")).unwrap().id);
    // A network asks for that number, and another is given one.
    let overlay = |text: &str, vni: serde_json::Value| {
        Command::AddNetwork(network(
            json!({"name": text, "driver": "overlay", "ipam": "default", "vni": vni}),
        ))
    };
    let refused = state.clone().apply(overlay("green", json!(4097))).unwrap_err().to_string();
    assert!(refused.contains("network green has vni 4097, and copies would be frames of it"), "{refused}");
    state.apply(overlay("green", json!(null))).unwrap();
    assert_eq!(state.network(&name("green")).unwrap().spec.vni.map(Vni::as_u32), Some(4098));
}

/// Its number is changed in place; another host is another way.
#[test]
fn a_collector_is_changed_by_a_reload() {
    let file = |remote: &str, vni: u32| {
        config(&format!(
            "{TUNNEL}\n[[port]]\nname = 'ids'\nkind = 'collector'\nmirror = {{ports = ['web']}}\nremote = '{remote}'\nvni = {vni}"
        ))
    };
    let mut state = State::start(file("10.8.0.9", 9000), []).unwrap().next;
    let id = state.port(&name("ids")).unwrap().id.0;
    let effects = state.apply(Command::Reload(file("10.8.0.9", 9001))).unwrap();
    assert_eq!(labels(&effects), [format!("update ids={id}")]);
    let effects = state.apply(Command::Reload(file("10.8.0.8", 9001))).unwrap();
    assert_eq!(labels(&effects), [format!("close ids={id}"), format!("open ids={id}")]);
}

/// What the gateways' networks may not send to: the ends of tunnels, as they come and go.
#[test]
fn the_ends_of_tunnels_are_closed_to_gateways() {
    let ends = |state: &State| -> Vec<String> {
        let [gated, own] = state.outside() else { panic!("{:?}", state.outside()) };
        assert!(own.tunnels == gated.tunnels, "the host's own port is as closed as the gateway");
        gated.tunnels.iter().map(ToString::to_string).collect()
    };
    let gated = json!({
        "name": "gated", "driver": "bridge", "subnet": [{"subnet": "10.9.1.0/24", "gateway": "10.9.1.1"}],
    });
    let start = |vxlan: &str| {
        let source = TUNNEL.replace("[[vxlan.peer]]", &format!("{vxlan}\n[[vxlan.peer]]"));
        let mut state = State::start(config(&source), []).unwrap().next;
        state.apply(Command::AddNetwork(network(gated.clone()))).unwrap();
        state
    };
    let mut state = start("group = \"239.1.1.1\"");
    assert_eq!(ends(&state), ["10.8.0.1:4789", "10.8.0.2:4789", "239.1.1.1:4789"]);
    let peer = json!({"name": "host3", "kind": "peer", "remote": "10.8.0.3", "remote_port": 8472});
    let effects = state.apply(Command::AddPort(port(peer))).unwrap();
    assert!(labels(&effects).contains(&"set outside".to_owned()), "{effects:?}");
    assert!(ends(&state).contains(&"10.8.0.3:8472".to_owned()), "{:?}", ends(&state));
    let mut state = start("learn_peers = true");
    assert_eq!(ends(&state), ["0.0.0.0:4789", "10.8.0.1:4789", "10.8.0.2:4789"], "any host may be one");
    let effects = state.apply(Command::LearnPeer([10, 8, 1, 3].into())).unwrap();
    assert_eq!(labels(&effects), ["open 10.8.1.3=4"], "covered, and so no transaction");
}

#[test]
fn peers_that_were_taken_in_give_way_to_those_asked_for() {
    let mut state = State::start(config(TUNNEL), []).unwrap().next;
    let learn = |number: u8| Command::LearnPeer([10, 8, 1, number].into());
    let effects = state.apply(learn(3)).unwrap();
    assert_eq!(labels(&effects), ["open 10.8.1.3=3", "set outside"], "nothing is stored");
    assert_eq!(labels(&state.apply(learn(3)).unwrap()), Vec::<String>::new(), "it is one already");
    let asked = port(json!({"name": "host3", "kind": "peer", "remote": "10.8.1.3"}));
    let effects = state.apply(Command::AddPort(asked)).unwrap();
    let expected = ["close 10.8.1.3=3", "open host3=4", "store port host3"];
    assert_eq!(labels(&effects), expected);
    // Under the name that it has already, as by `vswitchctl peer add ADDRESS`.
    state.apply(learn(2)).unwrap();
    let asked = port(json!({"name": "10.8.1.2", "kind": "peer", "remote": "10.8.1.2"}));
    let effects = state.apply(Command::AddPort(asked)).unwrap();
    assert_eq!(labels(&effects), ["update 10.8.1.2=5", "store port 10.8.1.2"]);
    state.apply(learn(4)).unwrap();
    let file = TUNNEL.replace("10.8.0.2", "10.8.1.4");
    state.apply(Command::Reload(config(&file))).unwrap();
    assert_eq!(state.port(&name("10.8.1.4")).unwrap().origin, Origin::File);
    let taken: Vec<_> = (5..=255).map(|number| state.apply(learn(number)).is_ok()).collect();
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 251);
    for number in 0..5 {
        state.apply(Command::LearnPeer([10, 8, 2, number].into())).unwrap();
    }
    let refusal = state.apply(Command::LearnPeer([10, 8, 2, 9].into())).unwrap_err().to_string();
    assert!(refusal.contains("limit of 256 learned peers"), "{refusal}");
}

/// A forged sender is flooded nothing.
#[test]
fn a_peer_that_was_taken_in_is_flooded_once_it_has_answered() {
    let mut state = State::start(config(TUNNEL), []).unwrap().next;
    state.apply(Command::LearnPeer([10, 8, 1, 3].into())).unwrap();
    let peer = name("10.8.1.3");
    let is_flooded = |state: &State| {
        let id = state.port(&peer).unwrap().id;
        state.layout().ports.iter().find(|rules| rules.id == id).unwrap().flood
    };
    let silent: Vec<_> = state.silent_peers().map(|port| port.spec.name.clone()).collect();
    assert_eq!((silent, is_flooded(&state)), (vec![peer.clone()], false));
    let effects = state.apply(Command::BelievePeer(peer.clone())).unwrap();
    assert_eq!(labels(&effects), ["update 10.8.1.3=3"], "nothing is stored, no socket opened anew");
    assert!(is_flooded(&state) && state.silent_peers().next().is_none());
    // Those of the file are flooded as it says.
    state.apply(Command::BelievePeer(name("10.8.0.2"))).unwrap();
    assert_eq!(state.port(&name("10.8.0.2")).unwrap().origin, Origin::File);
}

#[test]
fn ports_that_are_too_wide_for_the_tunnel_are_told() {
    let file = TUNNEL.replace("vni = 4096", "vni = 4096\nmtu = 1500");
    let state = State::start(config(&file), []).unwrap().next;
    let warnings = state.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("port web: its mtu of 1500 exceeds the 1450 bytes"));
    assert!(State::start(config(TUNNEL), []).unwrap().next.warnings().is_empty());
}

#[test]
fn a_reload_applies_the_difference_and_tells_it() {
    let mut state = started();
    state.apply(Command::AddPort(tap("new", "blue"))).unwrap();
    let file = r#"
        [switch]
        ageing = 60
        [[network]]
        name = "blue"
        mtu = 1450
        [[network]]
        name = "red"
        [[port]]
        name = "app"
        network = "red"
        kind = "tap"
        [[port]]
        name = "web"
        network = "blue"
        kind = "tap"
        isolated = true
        storm = { broadcast = 7 }
        limit = { tx = "1000mbit" }
    "#;
    let plan = state.plan(Command::Reload(config(file))).unwrap();
    let lines: Vec<_> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "~ switch: ageing 300 -> 60",
            "~ network blue: mtu 1500 -> 1450",
            "+ network red",
            "+ port app",
            "- port db",
            "~ port new: mtu 1500 -> 1450",
            "~ port web: isolated false -> true, limit.tx unset -> 1 Gbit/s, mtu 1500 -> 1450, storm.broadcast unset -> 7",
        ]
    );
    let expected = ["set switch", "close db=0", "update new=2", "update web=1", "open app=3"];
    assert_eq!(labels(&plan.effects), expected);
    let again = plan.next.plan(Command::Reload(config(file))).unwrap();
    assert_eq!((again.changes.len(), again.effects.len()), (0, 0));
}

#[test]
fn what_changes_in_place_and_what_does_not() {
    let base = json!({"name": "p", "network": "blue", "kind": "tap", "address": "10.0.0.1/8"});
    let table = [
        (json!({"isolated": true}), vec!["update p=0"]),
        (json!({"network": "red"}), vec!["update p=0"]),
        (json!({"storm": {"unknown": 0}}), vec!["update p=0"]),
        (json!({"mac_limit": 3}), vec!["update p=0"]),
        (json!({"limit": {"rx": "1 Gbit/s"}}), vec!["update p=0"]),
        (json!({"mtu": 1400}), vec!["update p=0"]),
        (json!({"address": "10.0.0.2/8", "gateway": "10.0.0.1"}), vec!["update p=0"]),
        (json!({"mac": "02:00:00:00:00:01"}), vec!["update p=0"]),
        (json!({"ifname": "p"}), vec!["update p=0"]),
        (json!({"ifname": "q"}), vec!["close p=0", "open p=0"]),
        (json!({"netns": "x"}), vec!["close p=0", "open p=0"]),
        (json!({"kind": "veth"}), vec!["close p=0", "open p=0"]),
        (json!({"offload": false}), vec!["close p=0", "open p=0"]),
        (json!({"persist": true}), vec!["close p=0", "open p=0"]),
    ];
    let file = |port| Config {
        networks: ["blue", "red"].map(|name| network(json!({ "name": name }))).into(),
        ports: vec![port],
        ..Config::default()
    };
    let state = State::start(file(port(base.clone())), []).unwrap().next;
    for (keys, expected) in table {
        let mut value = base.clone();
        value.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let plan = state.plan(Command::Reload(file(port(value)))).unwrap();
        assert_eq!(labels(&plan.effects), expected, "{keys}");
    }
}

/// It counts as made by the API as long as the file does not declare it.
#[test]
fn what_the_file_dropped_it_may_declare_again() {
    let dropped =
        [Record::Network(network(json!({"name": "red"})).into()), Record::Port(tap("new", "red").into())];
    let mut state = State::start(config(FILE), dropped).unwrap().next;
    assert_eq!(state.network(&name("red")).unwrap().origin, Origin::Api);
    let effects =
        state.apply(Command::Reload(config(&format!("[[network]]\nname = \"red\"\n{FILE}")))).unwrap();
    assert_eq!(labels(&effects), ["unstore network red"]);
    assert_eq!(state.network(&name("red")).unwrap().origin, Origin::File);
    assert!(state.port(&name("new")).is_some());
}

#[test]
fn refusals_say_what_to_do() {
    let mut state = started();
    state.apply(Command::AddNetwork(made("red"))).unwrap();
    state.apply(Command::AddPort(tap("a", "red"))).unwrap();
    state.apply(Command::AddPort(tap("b", "red"))).unwrap();
    state.apply(Command::AddPort(tap("c", "blue"))).unwrap();
    let file = |more: &str| Command::Reload(config(&format!("{more}\n{FILE}")));
    let mut unable = tap("d", "blue");
    unable.mac_limit = Some(0);
    let table = [
        (Command::RemoveNetwork(name("red")), "network red is in use by ports a, b: remove them first"),
        (Command::RemoveNetwork(name("green")), "there is no network green"),
        (
            Command::RemovePort(name("web")),
            "port web is declared in the configuration file: remove it there and reload",
        ),
        (
            Command::AddPort(tap("web", "red")),
            "port web exists already: choose another name, or remove it first",
        ),
        (Command::AddPort(tap("d", "reds")), "port d: network: no network is named reds: did you mean red?"),
        (Command::AddPort(unable), "port d: mac_limit: 0 is out of range: use 1 to 4194304"),
        (
            Command::AddPort(port(json!({"name": "d", "network": "blue", "kind": "veth", "ifname": "web"}))),
            "port d: ifname: port web has the interface web already: use another",
        ),
        (Command::Reload(Config::default()), "network blue is in use by port c: remove them first"),
        (
            file("[[network]]\nname='red'"),
            "network red is declared in the configuration file, and network red was made through the API: \
             rename one, or remove one",
        ),
        (
            file("[switch]\nworkers=4\nstate='/x'\n[api]\ngroup='g'"),
            "api.group (unset -> g), switch.state (/var/lib/vswitch -> /x), switch.workers (auto -> 4) cannot change \
             while running: restart the daemon to apply it",
        ),
        (
            file("[switch]\nmac_limit=9"),
            "switch.mac_limit (65536 -> 9) cannot change while running: restart the daemon to apply it",
        ),
    ];
    let before = format!("{state:?}");
    for (command, expected) in table {
        let refusal = state.apply(command.clone()).expect_err("a refusal");
        assert_eq!(refusal.to_string(), expected, "{command:?}");
    }
    assert_eq!(format!("{state:?}"), before, "a refusal changes nothing");
    let stored = [Record::Network(made("blue").into())];
    let refusal = State::start(config(FILE), stored).unwrap_err();
    assert_eq!(refusal, Refusal::Both { kind: Kind::Network, name: name("blue") });
}

/// Networks and endpoints as Docker's users have them.
mod docker;
mod service;

/// Random commands against a model that knows only names.
mod model {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use vswitch_host::gateway::Outside;
    use vswitch_model::rules::{self, Index};

    /// An edge that does what it is told, and finds fault with what it cannot do.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Edge {
        open: BTreeMap<u16, super::super::Port>,
        outside: Arc<Vec<Outside>>,
        stored: BTreeMap<(String, String), Record>,
    }

    impl Edge {
        fn perform(&mut self, effect: &Effect) {
            match effect.clone() {
                Effect::SetSwitch { .. } => {}
                Effect::OpenPort(port) => {
                    let namesake = |it: &super::super::Port| it.spec.ifname() == port.spec.ifname();
                    assert!(!self.open.values().any(namesake), "its interface is taken");
                    assert_eq!(self.open.insert(port.id.0, port), None, "its number is taken");
                }
                Effect::ClosePort(port) => assert_eq!(self.open.remove(&port.id.0), Some(port)),
                Effect::UpdatePort { old, new } => {
                    assert_eq!(old.id, new.id);
                    assert_eq!(self.open.insert(new.id.0, new), Some(old));
                }
                Effect::Store(record) => {
                    let key = (record.kind().to_string(), record.key().to_owned());
                    assert_eq!(self.stored.insert(key, record), None);
                }
                Effect::Unstore(record) => {
                    let key = (record.kind().to_string(), record.key().to_owned());
                    assert_eq!(self.stored.remove(&key), Some(record));
                }
                Effect::SetOutside { old, new } => {
                    assert_eq!(self.outside, old);
                    self.outside = new;
                }
                Effect::Restore { old, new } => {
                    assert_eq!((old.kind(), old.key()), (new.kind(), new.key()));
                    let key = (new.kind().to_string(), new.key().to_owned());
                    assert_eq!(self.stored.insert(key, new), Some(old));
                }
            }
        }

        /// The edge that `state` asks for.
        fn wanted(state: &State) -> Self {
            let networks =
                state.networks().filter(|it| it.origin == Origin::Api).map(|it| Record::Network(it.spec));
            let ports = state.ports().filter(|it| it.origin == Origin::Api).map(|it| Record::Port(it.spec));
            let endpoints = state.endpoints().map(|it| Record::Endpoint(it.clone()));
            Self {
                open: state.ports().map(|port| (port.id.0, port)).collect(),
                outside: state.outside().to_vec().into(),
                stored: networks
                    .chain(ports)
                    .chain(endpoints)
                    .map(|record| ((record.kind().to_string(), record.key().to_owned()), record))
                    .collect(),
            }
        }
    }

    fn any_network() -> impl Strategy<Value = NetworkSpec> {
        let mtu = prop_oneof![Just(None), Just(Some(1400)), Just(Some(9000))];
        (0..4_u8, proptest::option::of(1..6_u16), mtu).prop_map(|(name, vlan, mtu)| {
            network(json!({"name": format!("n{name}"), "vlan": vlan, "mtu": mtu}))
        })
    }

    fn any_port() -> impl Strategy<Value = PortSpec> {
        let carries = prop_oneof![
            3 => (0..4_u8).prop_map(|it| json!({"network": format!("n{it}")})),
            1 => (0..4_u8, 0..4_u8).prop_map(|(a, b)| json!({"trunk": [format!("n{a}")], "native": format!("n{b}")})),
        ];
        (0..6_u8, carries, 0..3_u8, any::<bool>(), proptest::option::of(0..8_u8)).prop_map(
            |(name, carries, kind, isolated, ifname)| {
                let mut value = json!({"name": format!("p{name}"), "isolated": isolated});
                let keys = value.as_object_mut().unwrap();
                keys.extend(carries.as_object().unwrap().clone());
                keys.insert("kind".into(), ["tap", "veth", "packet"][usize::from(kind)].into());
                match ifname.map(|it| format!("p{it}")) {
                    _ if kind == 2 => drop(keys.insert("device".into(), format!("p{name}").into())),
                    Some(ifname) => drop(keys.insert("ifname".into(), ifname.into())),
                    None => {}
                }
                port(value)
            },
        )
    }

    fn any_config() -> impl Strategy<Value = Config> {
        (vec(any_network(), 0..4), vec(any_port(), 0..5), 1..3_u32).prop_map(
            |(mut networks, mut ports, ageing)| {
                networks.sort_by(|a, b| a.name.cmp(&b.name));
                networks.dedup_by(|a, b| a.name == b.name);
                ports.sort_by(|a, b| a.name.cmp(&b.name));
                ports.dedup_by(|a, b| a.name == b.name);
                let mut config = Config { networks, ports, ..Config::default() };
                config.switch.ageing = ageing;
                obedient(config)
            },
        )
    }

    /// Without the objects that break a rule, or most commands would be refused.
    fn obedient(mut config: Config) -> Config {
        loop {
            let networks: Vec<_> = config.networks.iter().collect();
            let ports: Vec<_> = config.ports.iter().collect();
            match rules::check(&networks, &ports).first().map(|fault| fault.at.object) {
                None => return config,
                Some(Index::Network(index)) => drop(config.networks.remove(index)),
                Some(Index::Port(index)) => drop(config.ports.remove(index)),
            }
        }
    }

    fn any_command() -> impl Strategy<Value = Command> {
        prop_oneof![
            2 => any_config().prop_map(Command::Reload),
            2 => any_network().prop_map(Command::AddNetwork),
            2 => any_network().prop_map(|it| Command::AddNetwork(NetworkSpec { id: made(it.name.as_str()).id, ..it })),
            1 => (0..4_u8).prop_map(|it| Command::RemoveNetwork(name(&format!("n{it}")))),
            4 => any_port().prop_map(Command::AddPort),
            2 => (0..6_u8).prop_map(|it| Command::RemovePort(name(&format!("p{it}")))),
        ]
    }

    fn any_command_of_peers() -> impl Strategy<Value = Command> {
        let host = || 2..6_u8;
        let named = |number: u8| name(&format!("10.8.0.{number}"));
        prop_oneof![
            4 => host().prop_map(|it| Command::LearnPeer([10, 8, 0, it].into())),
            2 => host().prop_map(move |it| Command::BelievePeer(named(it))),
            3 => (host(), any::<bool>()).prop_map(move |(it, other)| {
                let name = if other { format!("host{it}") } else { named(it).to_string() };
                Command::AddPort(port(json!({"name": name, "kind": "peer", "remote": format!("10.8.0.{it}")})))
            }),
            2 => host().prop_map(move |it| Command::RemovePort(named(it))),
            1 => host().prop_map(|it| Command::Reload(config(&TUNNEL.replace("10.8.0.2", &format!("10.8.0.{it}"))))),
        ]
    }

    /// What should be there, by the names alone.
    #[derive(Clone, Default)]
    struct Naive {
        networks: BTreeMap<Name, (Origin, NetworkSpec)>,
        ports: BTreeMap<Name, (Origin, PortSpec)>,
    }

    impl Naive {
        fn obey(&mut self, command: Command) {
            match command {
                Command::Reload(config) => {
                    self.networks.retain(|_, it| it.0 == Origin::Api);
                    self.ports.retain(|_, it| it.0 == Origin::Api);
                    let networks =
                        config.networks.into_iter().map(|it| (it.name.clone(), (Origin::File, it)));
                    self.networks.extend(networks);
                    self.ports
                        .extend(config.ports.into_iter().map(|it| (it.name.clone(), (Origin::File, it))));
                }
                Command::AddNetwork(it) => drop(self.networks.insert(it.name.clone(), (Origin::Api, it))),
                Command::AddPort(it) => drop(self.ports.insert(it.name.clone(), (Origin::Api, it))),
                Command::RemoveNetwork(name) => drop(self.networks.remove(&name)),
                Command::RemovePort(name) => drop(self.ports.remove(&name)),
                other => unreachable!("{other:?} has a model of its own"),
            }
        }

        fn of(state: &State) -> Self {
            let networks = state.networks().map(|it| (it.spec.name.clone(), (it.origin, (*it.spec).clone())));
            let ports = state.ports().map(|it| (it.spec.name.clone(), (it.origin, (*it.spec).clone())));
            Self { networks: networks.collect(), ports: ports.collect() }
        }
    }

    proptest! {
        #[test]
        fn commands_in_any_order(commands in vec(any_command(), 1..40)) {
            let (mut state, mut naive, mut edge) = (State::default(), Naive::default(), Edge::default());
            for command in commands {
                let numbers: BTreeMap<_, _> = state.ports().map(|it| (it.spec.name.clone(), it.id)).collect();
                let Ok(plan) = state.plan(command.clone()) else { continue };
                naive.obey(command);

                // What is done can be taken back, from any point on.
                let before = edge.clone();
                for end in 0..=plan.effects.len() {
                    let mut trial = before.clone();
                    plan.effects[..end].iter().for_each(|it| trial.perform(it));
                    plan.effects[..end].iter().rev().for_each(|it| trial.perform(&it.clone().undo()));
                    prop_assert_eq!(&trial, &before);
                }
                prop_assert!(!plan.changes.is_empty() || plan.effects.is_empty());

                plan.effects.iter().for_each(|it| edge.perform(it));
                state = plan.next;
                prop_assert_eq!(&edge, &Edge::wanted(&state));
                prop_assert!(state.layout().build().is_ok(), "{:?}", state.layout());
                let found = Naive::of(&state);
                prop_assert_eq!(&found.networks, &naive.networks);
                prop_assert_eq!(&found.ports, &naive.ports);
                for port in state.ports() {
                    if let Some(number) = numbers.get(&port.spec.name) {
                        prop_assert_eq!(*number, port.id, "a number is stable while its port lives");
                    }
                    for network in port.spec.carries.named() {
                        prop_assert!(state.network(network).is_some(), "{} is nowhere", network);
                    }
                }
                prop_assert_eq!(edge.open.len(), state.ports().count(), "numbers are unique");
            }
        }

        /// Peers are learned, asked for under the name that they have or another, believed, declared and removed.
        #[test]
        fn peers_in_any_order(commands in vec(any_command_of_peers(), 1..40)) {
            let mut state = State::start(config(TUNNEL), []).unwrap().next;
            let mut edge = Edge::wanted(&state);
            for command in commands {
                let numbers: BTreeMap<_, _> = state.ports().map(|it| (it.spec.name.clone(), it.id)).collect();
                let Ok(plan) = state.plan(command) else { continue };
                plan.effects.iter().for_each(|it| edge.perform(it));
                state = plan.next;
                prop_assert_eq!(&edge, &Edge::wanted(&state));
                for port in state.ports() {
                    if let Some(number) = numbers.get(&port.spec.name) {
                        prop_assert_eq!(*number, port.id, "a number is stable while its port lives");
                    }
                }
            }
        }

        #[test]
        fn there_and_back(a in any_config(), b in any_config()) {
            let mut state = State::default();
            prop_assert_eq!(state.apply(Command::Reload(a.clone())).err(), None);
            let first = Naive::of(&state);
            prop_assert_eq!(state.apply(Command::Reload(b)).err(), None);
            prop_assert_eq!(state.apply(Command::Reload(a)).err(), None);
            let last = Naive::of(&state);
            prop_assert_eq!(first.networks, last.networks);
            prop_assert_eq!(first.ports, last.ports);
        }
    }
}
