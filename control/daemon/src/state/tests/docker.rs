use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};
use serde_json::json;
use vswitch::topology::PortMode;

use super::{config, labels, name, network};
use crate::state::{Called, Command, Effect, EndpointUpdate, Host, Origin, Record, Sandbox, State};
use vswitch_host::link::Route;
use vswitch_model::{
    Connect, Driver, Family, Id, Ipam, Mtu, Name, Netns, NetworkSpec, NetworkUpdate, PoolSpec, Reference,
    publish::Published,
};

fn created(text: &str) -> NetworkSpec {
    let mut spec = network(json!({ "name": text }));
    spec.ipam = Ipam::Default;
    spec
}

fn sandbox(number: u64) -> Box<Sandbox> {
    Box::new(Sandbox {
        identity: None,
        ifnames: ["lo".to_owned()].into(),
        default_routes: Vec::new(),
        id: Id::of(&number.to_string()),
        published: Vec::new(),
        now: jiff::Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(),
    })
}

fn connect(network: &str, netns: &str, number: u64) -> Command {
    let connect = Connect { sandbox: Some(Netns::Name(netns.into())), ..Connect::default() };
    Command::Connect { network: name(network), connect: Box::new(connect), sandbox: sandbox(number) }
}

/// At `second` of the tests' time.
fn disconnect(ids: &[&Id], second: i64) -> Command {
    let now = jiff::Timestamp::from_second(second).unwrap();
    Command::Disconnect { ids: ids.iter().map(|id| (*id).clone()).collect(), now }
}

fn connected(connect: serde_json::Value, network: &str, number: u64) -> Command {
    let connect = Box::new(serde_json::from_value(connect).unwrap());
    Command::Connect { network: name(network), connect, sandbox: sandbox(number) }
}

fn published(at: &str, to: &str) -> Published {
    Published::new("tcp".parse().unwrap(), at.parse().unwrap(), to.parse().unwrap()).unwrap()
}

/// What an endpoint has: interface, MAC, addresses and default routes.
fn has(state: &State, port: &str) -> String {
    let port = state.port(&name(port)).unwrap();
    let interface = port.spec.interface().unwrap();
    let addresses: Vec<_> = interface.address.iter().map(ToString::to_string).collect();
    let gateways: Vec<_> = interface.gateway.iter().map(ToString::to_string).collect();
    format!(
        "{} {} {} via {}",
        port.spec.ifname(),
        interface.mac.unwrap(),
        addresses.join(" "),
        gateways.join(" ")
    )
}

fn route(to: &str, on_link: bool) -> Route {
    Route { to: to.parse().unwrap(), ifname: "eth0".into(), on_link }
}

#[test]
fn a_network_and_two_containers() {
    let mut state = State::default();
    let effects = state.apply(Command::AddNetwork(created("blue"))).unwrap();
    assert_eq!(labels(&effects), ["open gw.blue=0", "set outside", "store network blue"]);
    let spec = state.network(&name("blue")).unwrap().spec;
    assert_eq!(spec.subnets[0].subnet, "172.17.0.0/16".parse::<IpNet>().unwrap());
    assert_eq!(
        has(&state, "gw.blue"),
        format!("vg-{} 02:42:ac:11:00:01 172.17.0.1/16 via ", spec.id().short())
    );

    let effects = state.apply(connect("blue", "web", 1)).unwrap();
    let id = Id::of("1");
    assert_eq!(labels(&effects), ["open web.blue=1", &format!("store endpoint {id}")]);
    state.apply(connect("blue", "db", 2)).unwrap();
    assert_eq!(has(&state, "web.blue"), "eth0 02:42:ac:11:00:02 172.17.0.2/16 via 172.17.0.1");
    assert_eq!(has(&state, "db.blue"), "eth0 02:42:ac:11:00:03 172.17.0.3/16 via 172.17.0.1");
    assert_eq!(state.port(&name("web.blue")).unwrap().origin, Origin::Derived);

    let effects = state.apply(disconnect(&[&id], 3)).unwrap();
    assert_eq!(labels(&effects), ["close web.blue=1", &format!("unstore endpoint {id}")]);
    state.apply(connect("blue", "job", 3)).unwrap();
    assert_eq!(
        has(&state, "job.blue"),
        "eth0 02:42:ac:11:00:04 172.17.0.4/16 via 172.17.0.1",
        "the next one"
    );
}

#[test]
fn the_oldest_endpoint_is_the_default_route_until_it_goes() {
    let mut state = State::default();
    for text in ["blue", "red"] {
        state.apply(Command::AddNetwork(created(text))).unwrap();
    }
    state.apply(connect("red", "web", 1)).unwrap();
    state.apply(connect("blue", "web", 2)).unwrap();
    assert_eq!(has(&state, "web.red"), "eth0 02:42:ac:12:00:02 172.18.0.2/16 via 172.18.0.1");
    assert_eq!(has(&state, "web.blue"), "eth1 02:42:ac:11:00:02 172.17.0.2/16 via ");
    let effects = state.apply(disconnect(&[&Id::of("1")], 3)).unwrap();
    assert_eq!(labels(&effects)[..2], ["close web.red=2", "update web.blue=3"]);
    assert_eq!(has(&state, "web.blue"), "eth1 02:42:ac:11:00:02 172.17.0.2/16 via 172.17.0.1");

    // A sandbox that somebody else routes keeps its route.
    let mut routed = sandbox(4);
    routed.default_routes = vec![(Family::V4, "docker0".into())];
    let command = connected(json!({"sandbox": "job"}), "blue", 4);
    let Command::Connect { network, connect, .. } = command else { unreachable!() };
    state.apply(Command::Connect { network, connect, sandbox: routed }).unwrap();
    assert!(has(&state, "job.blue").ends_with("via "));
}

#[test]
fn a_container_has_its_own_limits_or_those_of_its_network() {
    let mut state = State::default();
    let spec =
        json!({"name": "blue", "ipam": "default", "options": {"limit.rx": "1gbit", "limit.tx": "2gbit"}});
    state.apply(Command::AddNetwork(network(spec))).unwrap();
    state.apply(connect("blue", "web", 1)).unwrap();
    let own = json!({"sandbox": "db", "options": {"limit.rx": "5 Mbit/s", "limit.rx_burst": "200000"}});
    state.apply(connected(own, "blue", 2)).unwrap();
    let limit = |state: &State, port: &str| state.port(&name(port)).unwrap().spec.limit.to_string();
    assert_eq!(limit(&state, "gw.blue"), "", "the gateway serves them all");
    assert_eq!(limit(&state, "web.blue"), "rx 1 Gbit/s, tx 2 Gbit/s");
    assert_eq!(limit(&state, "db.blue"), "rx 5 Mbit/s (burst 200000), tx 2 Gbit/s");

    let update =
        serde_json::from_value(json!({"options": {"limit.rx": "3 Gbit/s", "limit.tx": null}})).unwrap();
    let effects = state.apply(Command::UpdateNetwork { name: name("blue"), update }).unwrap();
    assert_eq!(
        labels(&effects),
        ["update db.blue=2", "update web.blue=1", "restore network blue"],
        "they stay connected"
    );
    assert_eq!(limit(&state, "web.blue"), "rx 3 Gbit/s");
    assert_eq!(limit(&state, "db.blue"), "rx 5 Mbit/s (burst 200000)");

    let wrong = json!({"sandbox": "job", "options": {"limit.tx": "much"}});
    let refusal = state.apply(connected(wrong, "blue", 3)).unwrap_err().to_string();
    assert!(refusal.starts_with("option limit.tx: \"much\" is not a rate: use a whole number"), "{refusal}");
}

#[test]
fn an_endpoint_is_what_was_asked_for() {
    let mut state = State::default();
    let spec = json!({"name": "blue", "ipv6": true, "ipam": "default", "options": {"icc": "false", "prefix": "lan"}});
    state.observe(Host {
        routes: vec![route("172.17.0.0/16", true)],
        ipv6: Some(PoolSpec { base: "fd09::/48".parse().unwrap(), size: 64 }),
        ..Host::default()
    });
    state.apply(Command::AddNetwork(network(spec))).unwrap();
    let asked = json!({
        "sandbox": "/proc/7/ns/net", "name": "web", "ip": "172.18.9.9", "ip6": "fd09::99",
        "mac": "02:00:00:00:00:01", "link_local": ["fe80::7", "169.254.7.7"], "aliases": ["www"],
        "options": {"kind": "veth"},
    });
    state.apply(connected(asked, "blue", 1)).unwrap();
    let expected =
        "lan0 02:00:00:00:00:01 172.18.9.9/16 fd09::99/64 fe80::7/64 169.254.7.7/16 via 172.18.0.1 fd09::1";
    assert_eq!(has(&state, "web.blue"), expected);
    let port = state.port(&name("web.blue")).unwrap();
    assert!(port.spec.isolated && matches!(port.spec.device, vswitch_model::DeviceSpec::Veth(_)));

    // For somebody who moves the interface himself, it is bare.
    state.apply(connected(json!({"name": "other"}), "blue", 2)).unwrap();
    let bare = has(&state, "other.blue");
    assert_eq!(bare, format!("vse{} 02:42:ac:12:00:02  via ", Id::of("2").short()));
    let kept = state.endpoints().find(|it| it.name == name("other")).unwrap();
    assert_eq!(kept.addresses.len(), 2, "its addresses are its own all the same");
}

#[test]
fn a_bare_interface_is_moved_and_published_without_being_opened_again() {
    let mut state = State::default();
    state.apply(Command::AddNetwork(created("blue"))).unwrap();
    state.apply(connected(json!({"name": "web"}), "blue", 1)).unwrap();
    let id = Id::of("1");
    let there = Netns::Path("/run/docker/netns/0123".into());
    let update = |update| Command::UpdateEndpoint { id: id.clone(), update };
    let effects = state.apply(update(EndpointUpdate::Moved(there.clone()))).unwrap();
    assert_eq!(labels(&effects), ["update web.blue=1", &format!("restore endpoint {id}")]);
    let port = state.port(&name("web.blue")).unwrap();
    assert_eq!(port.spec.interface().unwrap().bare.as_ref().unwrap().moved, Some(there));
    let leads = vec![published("0.0.0.0:8080", "172.17.0.2:80")];
    let effects = state.apply(update(EndpointUpdate::Published(leads))).unwrap();
    assert_eq!(labels(&effects), ["set outside", &format!("restore endpoint {id}")]);
    let ghost = Command::UpdateEndpoint { id: Id::of("2"), update: EndpointUpdate::Published(vec![]) };
    assert!(state.apply(ghost).unwrap_err().to_string().starts_with("there is no endpoint"));
}

#[test]
fn a_subnet_that_is_part_of_a_lan_is_told() {
    let mut state = State::default();
    let routes = vec![route("192.0.2.0/24", true), route("10.0.0.0/8", false), route("0.0.0.0/1", true)];
    state.observe(Host { routes, nameservers: Vec::new(), ipv6: None });
    let told = |subnet: &str| {
        let spec = NetworkSpec {
            subnets: vec![subnet.parse::<IpNet>().unwrap().into()],
            ..NetworkSpec::plain(name("n"))
        };
        state.shadowed(&spec)
    };
    let part = told("192.0.2.128/25");
    assert_eq!(part.len(), 1);
    assert!(part[0].starts_with("192.0.2.128/25 is a part of 192.0.2.0/24 on eth0: "), "{}", part[0]);
    assert!(told("10.9.0.0/24").is_empty(), "a router leads there");
    assert!(told("172.17.0.0/16").is_empty());
}

#[test]
fn an_endpoint_is_called_what_its_engine_calls_it() {
    let mut state = State::default();
    state.apply(Command::AddNetwork(created("blue"))).unwrap();
    for (number, asked) in [(1, json!({})), (2, json!({})), (3, json!({"name": "taken"}))] {
        state.apply(connected(asked, "blue", number)).unwrap();
    }
    let call = |state: &mut State, number: &str, container: &str, name: &str| {
        let called = Called {
            labels: [("app".to_owned(), "web".to_owned())].into(),
            container: container.into(),
            name: name.into(),
            aliases: vec!["sql".into(), name.into()],
            service: Some("api".into()),
            unready: true,
        };
        let update = EndpointUpdate::Called(called);
        state.apply(Command::UpdateEndpoint { id: Id::of(number), update }).unwrap()
    };
    let of = |state: &State, number: &str| {
        let found = state.endpoints().find(|it| it.id == Id::of(number)).unwrap();
        format!("{} {}", found.name, found.aliases.join(","))
    };
    let labelled = |state: &State| {
        state
            .endpoints()
            .filter(|it| it.labels.contains_key("app"))
            .map(|it| it.id.clone())
            .collect::<Vec<_>>()
    };
    let effects = call(&mut state, "1", "c1", "db");
    assert_eq!(labelled(&state), [Id::of("1")]);
    assert_eq!(labels(&effects), [format!("restore endpoint {}", Id::of("1"))], "nothing but its record");
    assert_eq!(of(&state, "1"), "db sql");
    assert!(call(&mut state, "1", "c1", "db").is_empty(), "again it changes nothing");
    // A health check that flaps is not written to the disk each time.
    let is_unready = |state: &State| state.endpoints().find(|it| it.id == Id::of("1")).unwrap().unready;
    for unready in [false, true] {
        let called = Called {
            labels: [("app".to_owned(), "web".to_owned())].into(),
            container: "c1".into(),
            name: "db".into(),
            aliases: vec!["sql".into()],
            service: Some("api".into()),
            unready,
        };
        let update = EndpointUpdate::Called(called);
        let effects = state.apply(Command::UpdateEndpoint { id: Id::of("1"), update }).unwrap();
        assert!(effects.is_empty() && is_unready(&state) == unready, "{effects:?}");
    }
    // A name that another has is one of those that several may have.
    let before = of(&state, "1");
    call(&mut state, "1", "c1", "taken");
    assert_eq!((before.as_str(), of(&state, "1").as_str()), ("db sql", "db taken,sql"));
    // An engine that was killed has forgotten the endpoint of the container's earlier life: it has no name any more.
    call(&mut state, "1", "c1", "db");
    call(&mut state, "2", "c1", "db");
    assert_eq!(of(&state, "2"), "db sql");
    assert_eq!(of(&state, "1"), format!("ep-{} ", Id::of("1").short()));
    assert_eq!(labelled(&state), [Id::of("2")], "and serves nothing");
}

#[test]
fn subnets_are_chosen_beside_what_the_host_reaches() {
    let chosen = |routes: &[(&str, bool)], nameservers: &[&str]| {
        let mut state = State::default();
        let routes = routes.iter().map(|(to, on_link)| route(to, *on_link)).collect();
        let nameservers = nameservers.iter().map(|it| it.parse().unwrap()).collect();
        state.observe(Host { routes, nameservers, ipv6: None });
        let chosen = state.choose_subnet(Driver::Bridge, Family::V4, &[]);
        chosen.map_or_else(|error| error.to_string(), |net| net.to_string())
    };
    assert_eq!(chosen(&[], &[]), "172.17.0.0/16");
    assert_eq!(chosen(&[("172.17.9.0/24", true)], &[]), "172.18.0.0/16");
    assert_eq!(chosen(&[], &["172.17.0.53", "fe80::1"]), "172.18.0.0/16");
    // What is behind a router is left alone as far as possible.
    assert_eq!(chosen(&[("172.17.0.0/24", false)], &["172.18.0.1"]), "172.19.0.0/16");
    // All private addresses are behind one; and a whole default route is, in two halves.
    let private = [("10.0.0.0/8", false), ("172.16.0.0/12", false), ("192.168.0.0/16", false)];
    assert_eq!(chosen(&[&private[..], &[("172.17.3.0/24", true)]].concat(), &[]), "172.18.0.0/16");
    for on_link in [false, true] {
        assert_eq!(chosen(&[("0.0.0.0/1", on_link), ("128.0.0.0/1", on_link)], &[]), "172.17.0.0/16");
    }
    let full = [("172.16.0.0/12", true), ("192.168.0.0/16", true)];
    assert_eq!(chosen(&full, &[]), "all predefined address pools have been fully subnetted");
}

#[test]
fn addresses_and_subnets_are_chosen_beside_what_is_held() {
    let mut state = State::default();
    state.apply(Command::AddNetwork(created("blue"))).unwrap();
    state.apply(connect("blue", "web", 1)).unwrap();
    let address = |subnet: &str, held: &[&str]| {
        let held: Vec<IpAddr> = held.iter().map(|it| it.parse().unwrap()).collect();
        let subnet = subnet.parse::<IpNet>().unwrap().into();
        state.choose_address(&subnet, &held, None, jiff::Timestamp::UNIX_EPOCH).unwrap().to_string()
    };
    // The gateway's and the endpoint's are taken where there is a network.
    assert_eq!(address("172.17.0.0/16", &[]), "172.17.0.3");
    assert_eq!(address("172.17.0.0/16", &["172.17.0.3", "172.17.0.2"]), "172.17.0.4");
    assert_eq!(address("10.9.0.0/24", &["10.9.0.1"]), "10.9.0.2");
    let held = ["172.18.0.0/16".parse().unwrap()];
    let chosen = state.choose_subnet(Driver::Bridge, Family::V4, &held).unwrap();
    assert_eq!(chosen.to_string(), "172.19.0.0/16");
    assert_eq!(state.choose_subnet(Driver::Overlay, Family::V4, &[]).unwrap().to_string(), "10.0.0.0/24");
}

#[test]
fn overlay_networks_have_vnis_and_uplinks_share_a_trunk() {
    let mut state = State::default();
    let overlay = |text: &str, vni: Option<&str>| {
        let options = vni.map_or_else(|| json!({}), |vni| json!({ "vni": vni }));
        Command::AddNetwork(network(
            json!({"name": text, "driver": "overlay", "ipam": "default", "options": options}),
        ))
    };
    for (text, vni) in [("a", None), ("b", Some("4097")), ("c", None)] {
        state.apply(overlay(text, vni)).unwrap();
    }
    let vni = |text: &str| state.network(&name(text)).unwrap().spec.vni.unwrap().as_u32();
    assert_eq!([vni("a"), vni("b"), vni("c")], [4096, 4097, 4098]);
    let subnet = state.network(&name("c")).unwrap().spec.subnets[0].subnet;
    assert_eq!(subnet, "10.0.2.0/24".parse::<IpNet>().unwrap());
    let gateway = state.layout().ports.iter().find(|it| it.id == state.port(&name("gw.a")).unwrap().id);
    assert!(gateway.unwrap().flood_horizon.is_some(), "no gateway hears of another host's");
    assert!(gateway.unwrap().horizon.is_none(), "but who knows its MAC address reaches it");

    let uplink = |text: &str, parent: &str, net: &str| {
        Command::AddNetwork(network(json!({
            "name": text, "driver": "uplink", "options": {"parent": parent}, "subnet": [{"subnet": net}],
        })))
    };
    state.apply(uplink("lan", "eth1", "192.0.2.0/24")).unwrap();
    let effects = state.apply(uplink("guests", "eth1.10", "198.51.100.0/24")).unwrap();
    assert!(labels(&effects).contains(&"update uplink-eth1=3".to_owned()), "{:?}", labels(&effects));
    let port = state.port(&name("uplink-eth1")).unwrap().spec;
    assert_eq!((port.carries.tagged(), port.carries.untagged()), (&[name("guests")][..], Some(&name("lan"))));
    assert!(state.outside().iter().all(|it| it.ifname != "eth1"), "the LAN has its own router");
}

#[test]
fn a_network_changes_while_containers_stay() {
    let mut state = State::default();
    state.apply(Command::AddNetwork(created("blue"))).unwrap();
    state.apply(connect("blue", "web", 1)).unwrap();
    let update = |value: serde_json::Value| Command::UpdateNetwork {
        name: name("blue"),
        update: serde_json::from_value(value).unwrap(),
    };
    let change = json!({"mtu": 1400, "labels": {"team": "a"}, "options": {"icc": "false"}});
    let effects = state.apply(update(change)).unwrap();
    let expected = ["update gw.blue=0", "update web.blue=1", "restore network blue"];
    assert_eq!(labels(&effects), expected, "nothing is opened or closed");
    let effects = state.apply(update(json!({"options": {"masquerade": "false"}}))).unwrap();
    assert_eq!(labels(&effects), ["set outside", "restore network blue"]);
    state.apply(update(json!({"labels": {"team": null}, "options": {"icc": null}, "mtu": 1300}))).unwrap();
    let spec = state.network(&name("blue")).unwrap().spec;
    assert_eq!((spec.mtu.map(Mtu::get), spec.labels.len(), spec.options.text().len()), (Some(1300), 0, 1));
    for (change, expected) in [
        (
            json!({"options": {"parent": "eth1"}}),
            "network blue: parent cannot change while the network lives: its containers would be cut off; \
             create another network and connect them to it",
        ),
        (
            json!({"options": {"com.docker.network.driver.overlay.vxlanid_list": "7"}}),
            "network blue: vni cannot change while the network lives: its tunnels carry it by that number; \
             create another network",
        ),
        (
            json!({"subnet": []}),
            "network blue: subnet cannot change while the network lives: its containers have addresses in the subnets; \
             create another network",
        ),
        (
            json!({"colour": "red"}),
            "network blue: colour cannot change while the network lives: there is no such key to change: \
             mtu, labels, options and peers can change",
        ),
        (json!({"options": {"iccc": "1"}}), "option iccc: is unknown: did you mean icc?"),
    ] {
        assert_eq!(state.apply(update(change)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_network_reaches_the_peers_it_is_told() {
    let file = r#"
        [vxlan]
        local = "10.8.0.1"
        [[vxlan.peer]]
        name = "a"
        address = "10.8.0.2"
        [[vxlan.peer]]
        name = "b"
        address = "10.8.0.3"
        [[network]]
        name = "declared"
        vni = 7
        [network.options]
        peers = "b"
    "#;
    let mut state = State::start(config(file), []).unwrap().next;
    let reached = |state: &State, network: &str| -> Vec<String> {
        let id = state.network(&name(network)).unwrap().id;
        let is_reached = |port: &str| {
            let number = state.port(&name(port)).unwrap().id;
            let rules = state.layout().ports.iter().find(|rules| rules.id == number).unwrap();
            matches!(&rules.mode, PortMode::Tunnel(networks) if networks.contains(&id))
        };
        ["a", "b"].into_iter().filter(|port| is_reached(port)).map(str::to_owned).collect()
    };
    assert_eq!(reached(&state, "declared"), ["b"]);
    let spec = json!({"name": "wide", "driver": "overlay", "ipam": "default"});
    state.apply(Command::AddNetwork(network(spec))).unwrap();
    state.apply(connect("wide", "web", 1)).unwrap();
    assert_eq!(reached(&state, "wide"), ["a", "b"]);
    let update = |value: serde_json::Value| Command::UpdateNetwork {
        name: name("wide"),
        update: serde_json::from_value(value).unwrap(),
    };
    for (change, expected) in [
        (json!({"peers_remove": ["a"]}), &["b"][..]),
        (json!({"peers_add": ["a"], "peers_remove": ["b"]}), &["a"]),
        (json!({"peers_remove": ["a"]}), &[]),
        (json!({"options": {"peers": "b"}}), &["b"]),
        (json!({"options": {"peers": null}}), &["a", "b"]),
    ] {
        let effects = state.apply(update(change.clone())).unwrap();
        assert_eq!(labels(&effects), ["restore network wide"], "{change}: nothing is opened or closed");
        assert_eq!(reached(&state, "wide"), expected, "{change}");
    }
    assert_eq!(state.apply(update(json!({"peers_add": ["a"]}))).unwrap(), [], "it reaches all already");
    let missing = "there is no peer c: see `vswitchctl peer ls`, or add it";
    for change in
        [json!({"peers_add": ["c"]}), json!({"peers_remove": ["c"]}), json!({"options": {"peers": "a,c"}})]
    {
        assert_eq!(state.apply(update(change)).unwrap_err().to_string(), missing);
    }
    let local = network(json!({"name": "local", "driver": "bridge", "options": {"peers": "a"}}));
    let refusal = state.apply(Command::AddNetwork(local)).unwrap_err().to_string();
    assert_eq!(refusal, "option peers: belongs to driver overlay: leave it out");
    let odd = json!({"options": {"peers": "a b"}});
    assert!(
        state
            .apply(update(odd))
            .unwrap_err()
            .to_string()
            .starts_with("option peers: \"a b\" is not a valid name")
    );
}

/// Every sentence that Docker has for what does not go, and ours.
#[test]
fn refusals_are_dockers() {
    let file = "[[network]]\nname = 'declared'\n[[network.subnet]]\nsubnet = '10.7.0.0/24'\n";
    let mut state = State::start(config(file), []).unwrap().next;
    state.observe(Host { routes: vec![route("192.168.7.0/24", true)], ..Host::default() });
    let with = |text: &str, more: serde_json::Value| {
        let mut value = json!({ "name": text });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Command::AddNetwork(network(value))
    };
    state.apply(with("blue", json!({"subnet": [{"subnet": "10.9.0.0/29"}]}))).unwrap();
    state.apply(with("inner", json!({"internal": true, "ipam": "default"}))).unwrap();
    state.apply(with("plain", json!({}))).unwrap();
    state.apply(connected(json!({"sandbox": "web", "ip": "10.9.0.6"}), "blue", 1)).unwrap();
    let mut publishing = sandbox(9);
    publishing.published = vec![published("0.0.0.0:80", "172.17.0.2:80")];
    let publish = |network: &str| Command::Connect {
        network: name(network),
        connect: Box::new(Connect { name: Some(name("p")), ..Connect::default() }),
        sandbox: publishing.clone(),
    };
    let subnet = |net: &str| with("new", json!({"subnet": [{ "subnet": net }]}));
    for (command, expected) in [
        (with("host", json!({})), "operation is not permitted on predefined host network "),
        (with("bridge", json!({})), "operation is not permitted on predefined bridge network "),
        (with("default", json!({})), "operation is not permitted on predefined default network "),
        (with("new", json!({"driver": "host"})), "only one instance of \"host\" network is allowed"),
        (with("new", json!({"driver": "null"})), "only one instance of \"null\" network is allowed"),
        (with("blue", json!({})), "network with name blue already exists"),
        (
            subnet("10.9.0.0/16"),
            "Pool overlaps with other one on this address space: 10.9.0.0/16 overlaps network blue (10.9.0.0/29)",
        ),
        (
            subnet("192.168.0.0/16"),
            "Pool overlaps with other one on this address space: 192.168.0.0/16 overlaps the host's route to \
             192.168.7.0/24 by eth0",
        ),
        (subnet("10.9.1.1/24"), "invalid subnet 10.9.1.1/24: it should be 10.9.1.0/24"),
        (
            with("new", json!({"subnet": [{"subnet": "10.8.0.0/24"}, {"subnet": "10.8.1.0/24"}]})),
            "bridge driver doesn't support multiple subnets: write one for IPv4 and one for IPv6",
        ),
        (
            with("new", json!({"ipam": "default", "ipv6": true})),
            "all predefined address pools have been fully subnetted",
        ),
        (
            Command::RemoveNetwork(name("blue")),
            "error while removing network: network blue has active endpoints (web)",
        ),
        (
            Command::RemoveNetwork(name("declared")),
            "network declared is declared in the configuration file: remove it there and reload",
        ),
        (
            Command::UpdateNetwork { name: name("declared"), update: NetworkUpdate::default() },
            "network declared is declared in the configuration file: change it there and reload",
        ),
        (connect("nope", "web", 2), "network nope not found"),
        (connect("blue", "web", 2), "endpoint with name web already exists in network blue"),
        (
            connected(json!({"sandbox": "db", "ip": "10.9.0.6"}), "blue", 2),
            "Address already in use: 10.9.0.6 is held by endpoint web",
        ),
        (
            connected(json!({"sandbox": "db", "ip": "10.9.0.1"}), "blue", 2),
            "Address already in use: 10.9.0.1 is held by the gateway of network blue",
        ),
        (connected(json!({"sandbox": "db", "ip": "10.9.0.7"}), "blue", 2), "Address already in use"),
        (
            connected(json!({"sandbox": "db", "ip": "10.9.1.1"}), "blue", 2),
            "requested address is out of range",
        ),
        (
            connected(json!({"sandbox": "db", "ip6": "fd09::1"}), "blue", 2),
            "network blue has no IPv6 subnet to take that address from: create it with one",
        ),
        (
            connected(json!({"sandbox": "db", "mac": "02:42:0a:09:00:06"}), "blue", 2),
            "02:42:0a:09:00:06 is in network blue already: use another",
        ),
        (
            connected(json!({"sandbox": "db", "options": {"kid": "tap"}}), "blue", 2),
            "option kid: is unknown: did you mean kind?",
        ),
        (
            connected(json!({"sandbox": "/x/+"}), "blue", 2),
            "\"+\" is not a valid name for an endpoint: choose one with --name",
        ),
        (publish("inner"), "ports cannot be published in network inner: it is internal"),
        (publish("plain"), "ports cannot be published in network plain: it has no subnet, and so no gateway"),
        (
            Command::RemovePort(name("web.blue")),
            "port web.blue belongs to endpoint web of network blue: disconnect it with `network disconnect`",
        ),
        (
            Command::RemovePort(name("gw.blue")),
            "port gw.blue belongs to network blue: it is removed with the network",
        ),
        (
            Command::Reload(config(&file.replace("10.7.0.0/24", "10.9.0.0/24"))),
            "network declared: subnet[0]: Pool overlaps with other one on this address space: 10.9.0.0/24 overlaps network \
             blue (10.9.0.0/29)",
        ),
    ] {
        let before = format!("{state:?}");
        let refusal = state.apply(command.clone()).expect_err(&format!("{command:?}"));
        assert_eq!(refusal.to_string(), expected, "{command:?}");
        assert_eq!(format!("{state:?}"), before);
    }
    // Exhausted: .0 and .7 are nobody's, .1 is the gateway's, .6 was asked for.
    for (number, netns) in ["a", "b", "c", "d"].into_iter().enumerate() {
        state.apply(connect("blue", netns, 10 + number as u64)).unwrap();
    }
    let refusal = state.apply(connect("blue", "e", 20)).unwrap_err();
    assert_eq!(refusal.to_string(), "no available addresses on this pool");

    // What the file declares may not go, nor lose its subnet, from under containers.
    state.apply(connect("declared", "web", 30)).unwrap();
    let gone = state.apply(Command::Reload(config(""))).unwrap_err().to_string();
    assert_eq!(gone, "error while removing network: network declared has active endpoints (web)");
    let moved = state.apply(Command::Reload(config(&file.replace("10.7", "10.6")))).unwrap_err().to_string();
    assert_eq!(
        moved,
        "network declared: its subnets cannot change while endpoints have addresses in them (web): disconnect them first"
    );
}

#[test]
fn networks_are_found_by_name_id_and_its_beginning() {
    let mut state = State::default();
    for (text, id) in [("blue", "aa00"), ("red", "aa11"), ("aa", "bb00")] {
        let mut spec = created(text);
        spec.id = Some(format!("{id}{}", "0".repeat(60)).parse().unwrap());
        state.apply(Command::AddNetwork(spec)).unwrap();
    }
    let find = |text: &str| {
        let reference: Reference = text.parse().unwrap();
        state.find_network(&reference).map(|it| it.spec.name.to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(find("aa1"), Ok("red".into()));
    assert_eq!(find(&format!("aa11{}", "0".repeat(60))), Ok("red".into()));
    assert_eq!(find("aa"), Ok("aa".into()), "a name goes first");
    assert_eq!(find("a"), Err("network a is ambiguous (2 matches found based on ID prefix)".into()));
    assert_eq!(find("cc"), Err("network cc not found".into()));
    assert_eq!(state.unused_networks().len(), 3);
    state.apply(connect("blue", "web", 1)).unwrap();
    assert_eq!(state.unused_networks().len(), 2);
    let endpoint = |text: &str| {
        let found = state.find_endpoint(&name("blue"), &text.parse().unwrap());
        found.map(|it| it.name.to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(endpoint("web"), Ok("web".into()));
    assert_eq!(endpoint(Id::of("1").short()), Ok("web".into()));
    assert_eq!(endpoint("db"), Err("container db is not connected to network blue".into()));
}

/// An edge that keeps what it is told to, and what a naive reader of commands expects.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept(BTreeMap<String, Record>);

impl Kept {
    fn perform(&mut self, effect: &Effect) {
        let key = |record: &Record| format!("{} {}", record.kind(), record.key());
        match effect.clone() {
            Effect::Store(record) => assert_eq!(self.0.insert(key(&record), record), None),
            Effect::Unstore(record) => assert_eq!(self.0.remove(&key(&record)), Some(record)),
            Effect::Restore { old, new } => assert_eq!(self.0.insert(key(&new), new), Some(old)),
            _ => {}
        }
    }
}

/// Networks by name, with their endpoints by name.
type Naive = BTreeMap<Name, BTreeMap<Name, u64>>;

#[derive(Clone, Debug)]
enum Step {
    Create(u8, u8),
    Remove(u8),
    Connect(u8, u8, Option<u8>),
    Disconnect(u8, u8),
    Update(u8, u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3_u8, 0..4_u8).prop_map(|(network, kind)| Step::Create(network, kind)),
        1 => (0..3_u8).prop_map(Step::Remove),
        5 => (0..3_u8, 0..5_u8, proptest::option::of(0..10_u8)).prop_map(|(a, b, c)| Step::Connect(a, b, c)),
        3 => (0..3_u8, 0..5_u8).prop_map(|(network, endpoint)| Step::Disconnect(network, endpoint)),
        1 => (0..3_u8, 1300..1400_u16).prop_map(|(network, mtu)| Step::Update(network, mtu)),
    ]
}

proptest! {
    /// Any sequence: what was answered is what is there, no address has two owners or none, no port without its endpoint,
    /// everything that was stored brings back the same, and every effect can be taken back.
    #[test]
    fn endpoints_in_any_order(steps in vec(any_step(), 1..60)) {
        let (mut state, mut naive, mut kept) = (State::default(), Naive::new(), Kept::default());
        for (turn, step) in steps.into_iter().enumerate() {
            let number = turn as u64 + 1;
            let called = |it: u8| name(&format!("n{it}"));
            let command = match &step {
                Step::Create(it, kind) => {
                    let mut spec = created(called(*it).as_str());
                    spec.subnets.extend((*kind == 1).then(|| "10.9.0.0/29".parse::<IpNet>().unwrap().into()));
                    spec.driver = (*kind == 2).then_some(Driver::Overlay);
                    spec.ipam = if *kind == 3 { Ipam::Null } else { Ipam::Default };
                    spec.id = Some(Id::of(&number.to_string()));
                    Command::AddNetwork(spec)
                }
                Step::Remove(it) => Command::RemoveNetwork(called(*it)),
                Step::Connect(it, netns, last) => {
                    let subnet = state.network(&called(*it)).and_then(|it| Some(it.spec.subnets.first()?.subnet));
                    let ip = subnet.zip(*last).and_then(|(net, last)| match net.network() {
                        IpAddr::V4(base) => Some(std::net::Ipv4Addr::from_bits(base.to_bits() + u32::from(last))),
                        IpAddr::V6(_) => None,
                    });
                    let connect = Connect { sandbox: Some(Netns::Name(format!("s{netns}"))), ip, ..Connect::default() };
                    Command::Connect { network: called(*it), connect: Box::new(connect), sandbox: sandbox(number) }
                }
                Step::Disconnect(it, netns) => {
                    let found = state.find_endpoint(&called(*it), &format!("s{netns}").parse().unwrap());
                    disconnect(&found.iter().map(|it| &it.id).collect::<Vec<_>>(), 0)
                }
                Step::Update(it, mtu) => {
                    let update = NetworkUpdate { mtu: Mtu::try_from(*mtu).ok(), ..NetworkUpdate::default() };
                    Command::UpdateNetwork { name: called(*it), update }
                }
            };
            let Ok(plan) = state.plan(command) else { continue };
            match step {
                Step::Create(it, _) => drop(naive.insert(called(it), BTreeMap::new())),
                Step::Remove(it) => {
                    let gone = naive.remove(&called(it));
                    prop_assert_eq!(gone, Some(BTreeMap::new()), "nobody is left behind");
                }
                Step::Connect(it, netns, _) => {
                    let endpoints = naive.get_mut(&called(it)).unwrap();
                    prop_assert_eq!(endpoints.insert(name(&format!("s{netns}")), number), None);
                }
                Step::Disconnect(it, netns) => {
                    if let Some(endpoints) = naive.get_mut(&called(it)) {
                        endpoints.remove(&name(&format!("s{netns}")));
                    }
                }
                Step::Update(..) => {}
            }
            let before = kept.clone();
            plan.effects.iter().for_each(|it| kept.perform(it));
            let mut undone = kept.clone();
            plan.effects.iter().rev().for_each(|it| undone.perform(&it.clone().undo()));
            prop_assert_eq!(&undone, &before);
            state = plan.next;

            let mut found = Naive::new();
            for network in state.networks() {
                found.insert(network.spec.name.clone(), BTreeMap::new());
            }
            let (mut addresses, mut macs, mut ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for endpoint in state.endpoints() {
                let number = endpoint.created.as_second().try_into().unwrap();
                found.get_mut(&endpoint.network).unwrap().insert(endpoint.name.clone(), number);
                for net in &endpoint.addresses {
                    prop_assert!(addresses.insert((endpoint.network.clone(), net.addr())), "{} twice", net);
                }
                prop_assert!(macs.insert((endpoint.network.clone(), endpoint.mac)));
                prop_assert!(ports.insert(endpoint.port.clone()));
                prop_assert!(state.port(&endpoint.port).is_some_and(|port| port.origin == Origin::Derived));
            }
            prop_assert_eq!(&found, &naive);
            // What nobody has is free: each subnet counts what is reserved, and its endpoints.
            for network in state.networks() {
                for subnet in state.subnets_of(&network.spec).unwrap() {
                    let own = addresses.iter().filter(|(name, _)| *name == network.spec.name).count() as u64;
                    prop_assert_eq!(subnet.usage().0, 3 + own);
                }
            }
            let derived = state.ports().filter(|port| port.origin == Origin::Derived).count();
            let gateways = state.networks().filter(|it| !it.spec.subnets.is_empty()).count();
            prop_assert_eq!(derived, ports.len() + gateways);

            // A restart brings back the same.
            let again = State::start(vswitch_model::Config::default(), kept.0.values().cloned()).unwrap().next;
            prop_assert_eq!(
                again.endpoints().collect::<Vec<_>>(),
                state.endpoints().collect::<Vec<_>>()
            );
            let specs = |state: &State| state.ports().map(|it| it.spec).collect::<Vec<_>>();
            prop_assert_eq!(specs(&again), specs(&state));
            prop_assert_eq!(again.outside(), state.outside());
        }
    }
}

#[test]
fn an_overlays_gateway_has_a_mac_address_of_its_own_on_each_host() {
    let host = |local: &str, address: &str| {
        let file = format!("[vxlan]\nlocal = \"{local}\"\nunderlay_mtu = 1500");
        let mut state = State::start(config(&file), []).unwrap().next;
        let subnet = json!({"subnet": "10.9.0.0/24", "gateway": "10.9.0.1", "aux": {"host": address}});
        let options = json!({"vni": "5000", "host": "true"});
        let spec = json!({"name": "blue", "driver": "overlay", "options": options, "subnet": [subnet]});
        state.apply(Command::AddNetwork(network(spec))).unwrap();
        has(&state, "gw.blue")
    };
    let [one, other] = [host("10.8.0.1", "10.9.0.2"), host("10.8.0.2", "10.9.0.3")];
    assert!(one.contains(" 10.9.0.2/24 10.9.0.1/24 "), "its own address is first: {one}");
    assert!(other.contains(" 10.9.0.3/24 10.9.0.1/24 "), "{other}");
    let mac = |text: &str| text.split(' ').nth(1).unwrap().to_owned();
    assert_ne!(mac(&one), mac(&other));
    assert_eq!(host("10.8.0.1", "10.9.0.2"), one, "and always the same");
}

/// A subnet of six addresses, one of them the gateway's. Containers come and go at the seconds that they are numbered by.
#[test]
fn addresses_rest_before_they_are_given_out_again() {
    let mut state = State::default();
    let subnet = json!({"subnet": "10.9.0.0/29", "gateway": "10.9.0.1"});
    state.apply(Command::AddNetwork(network(json!({"name": "blue", "subnet": [subnet]})))).unwrap();
    let come = |state: &mut State, second: u64| {
        state.apply(connect("blue", &format!("c{second}"), second)).map(|_| {
            let endpoint = state.endpoints().find(|it| it.id == Id::of(&second.to_string())).unwrap();
            endpoint.addresses[0].addr().to_string()
        })
    };
    let go = |state: &mut State, number: u64, second: i64| {
        state.apply(disconnect(&[&Id::of(&number.to_string())], second)).unwrap();
    };
    assert_eq!(come(&mut state, 1).unwrap(), "10.9.0.2");
    go(&mut state, 1, 2);
    assert_eq!(
        [3, 4, 5, 6].map(|at| come(&mut state, at).unwrap()),
        ["3", "4", "5", "6"].map(|it| format!("10.9.0.{it}"))
    );
    // Round the subnet: the only free one rests, but it is better than none.
    assert_eq!(come(&mut state, 7).unwrap(), "10.9.0.2");
    assert_eq!(come(&mut state, 8).unwrap_err().to_string(), "no available addresses on this pool");
    // Of those that rest the one that has rested longest.
    go(&mut state, 5, 20);
    go(&mut state, 4, 21);
    assert_eq!(come(&mut state, 22).unwrap(), "10.9.0.5");
    go(&mut state, 3, 23);
    // That of 4 has rested, that of 3 has not.
    assert_eq!(come(&mut state, 82).unwrap(), "10.9.0.4");
    // An address that is asked for need not rest.
    let asked = connected(json!({"sandbox": "asks", "ip": "10.9.0.3"}), "blue", 83);
    state.apply(asked).unwrap();
    // After a restart the youngest endpoint says where to go on.
    let (web, db) = ("10.9.0.5/29".parse::<IpNet>().unwrap(), "10.9.0.3/29".parse::<IpNet>().unwrap());
    let endpoints = state.endpoints().filter(|it| [web, db].contains(&it.addresses[0]));
    let stored: Vec<_> = endpoints.map(|it| Record::Endpoint(it.clone())).collect();
    let network = Record::Network(state.network(&name("blue")).unwrap().spec);
    let mut again = State::start(config(""), [network].into_iter().chain(stored)).unwrap().next;
    assert_eq!(come(&mut again, 90).unwrap(), "10.9.0.4", "that after 10.9.0.3, which came last");
}
