//! The daemon is killed between any two steps of a command: afterwards the command was carried out completely or not at
//! all.

use std::process::Command;

use serde_json::{Value, json};
use vswitch_tests::{Netns, Vswitchd, net};

/// A host and two containers.
struct World {
    switch: Vswitchd,
    containers: [Netns; 2],
}

impl World {
    /// All observable state of networks, without what changes each time: ids and timestamps.
    fn seen(&self) -> Value {
        let pick = |from: &Value, keys: &[&str]| -> Value {
            keys.iter().map(|key| from[key].clone()).collect::<Vec<_>>().into()
        };
        let networks = self.switch.ctl(&["network", "ls"]);
        let networks = networks.as_array().unwrap().iter().map(|network| {
            let endpoints = network["endpoints"].as_array().into_iter().flatten();
            let endpoints = endpoints.map(|it| {
                pick(it, &["name", "sandbox", "ifname", "mac", "addresses", "gateways", "published", "port"])
            });
            let about = pick(network, &["name", "driver", "mtu", "labels", "options", "subnet", "ports"]);
            json!([about, endpoints.collect::<Vec<_>>()])
        });
        let services = self.switch.ctl(&["service", "ls"]);
        let services = services.as_array().unwrap().iter().map(|service| {
            let backends = service["backends"].as_array().into_iter().flatten();
            let backends = backends.map(|it| pick(it, &["name", "addresses", "state"]));
            let about =
                pick(service, &["name", "network", "address", "selector", "publish", "drain", "health"]);
            json!([about, backends.collect::<Vec<_>>()])
        });
        let ports = self.switch.ctl(&["port", "ls"]);
        let ports = ports.as_array().unwrap().iter().map(|port| pick(port, &["name", "state", "mtu"]));
        json!({
            "networks": networks.collect::<Vec<_>>(),
            "services": services.collect::<Vec<_>>(),
            "ports": ports.collect::<Vec<_>>(),
            "rules": self.rules(),
            "host": interfaces(&self.switch.host),
            "containers": self.containers.each_ref().map(interfaces),
        })
    }

    /// The words of our nftables table, sorted, as elements are listed in any order.
    fn rules(&self) -> Vec<String> {
        let list = || Command::new("nft").args(["list", "table", "inet", "vswitch"]).output().unwrap();
        let listed = String::from_utf8(self.switch.host.run(list).stdout).unwrap();
        let mut words: Vec<_> = listed.split([' ', ',', '\n', '\t']).map(str::to_owned).collect();
        words.sort();
        words
    }
}

/// Interfaces with their MTU and addresses, and routes.
fn interfaces(of: &Netns) -> Vec<String> {
    let links = of.ip("-o link show up");
    let mut all: Vec<_> =
        links.lines().map(|line| line.split_whitespace().skip(1).take(4).collect::<String>()).collect();
    // Which end of a veth pair has which index does not matter.
    all.iter_mut().for_each(|line| *line = line.split('@').next().unwrap().to_owned());
    all.extend(
        of.ip("-o -4 address show").lines().map(|line| line.split_whitespace().skip(1).collect::<String>()),
    );
    all.extend(of.ip("route show").lines().map(|line| line.split_whitespace().collect::<String>()));
    all.sort();
    all
}

#[test]
fn a_command_is_done_wholly_or_not_at_all() {
    let containers = [Netns::new("web"), Netns::new("db")];
    let places = containers.each_ref().map(|it| format!("netns:{}", it.name()));
    let [web, db] = places.each_ref().map(String::as_str);
    let create =
        &["create", "--subnet", "10.9.0.0/24", "--mtu", "1500", "--opt", "ifname=gw-blue", "blue"][..];
    // With addresses, or each would be the next of the subnet.
    let connect = &["connect", "--name", "web", "--ip", "10.9.0.3", "--publish", "8080:80", "blue", web][..];
    let connect_veth =
        &["connect", "--name", "db", "--ip", "10.9.0.2", "--driver-opt", "kind=veth", "blue", db][..];
    let disconnect = &["disconnect", "blue", "web"][..];
    let update = &["update", "--mtu", "1400", "--label-add", "team=a", "--opt", "icc=false", "blue"][..];
    let back = &["update", "--mtu", "1500", "--label-rm", "team", "--opt-rm", "icc", "blue"][..];
    let remove = &["rm", "blue"][..];
    let mut world = World { switch: Vswitchd::start_fragile(&net()), containers };
    for (command, undo) in [
        (create, remove),
        (connect_veth, &["disconnect", "blue", "db"]),
        (connect, disconnect),
        (update, back),
        (back, update),
        (disconnect, connect),
        (&["disconnect", "blue", "db"], connect_veth),
        (remove, create),
    ] {
        let of_network = |arguments: &[_]| [&["network"], arguments].concat();
        wholly_or_not_at_all(&mut world, &of_network(command), &of_network(undo));
    }
    assert_eq!(world.rules(), [""], "nothing is left behind");
}

#[test]
fn so_is_a_command_for_services() {
    let containers = [Netns::new("web"), Netns::new("db")];
    let web = format!("netns:{}", containers[0].name());
    let mut world = World { switch: Vswitchd::start_fragile(&net()), containers };
    let done = |world: &World, line: &[&str]| assert_eq!(world.switch.try_ctl(line).code, 0, "{line:?}");
    done(&world, &["network", "create", "--subnet", "10.9.0.0/24", "--opt", "ifname=gw-blue", "blue"]);
    done(
        &world,
        &["network", "connect", "--name", "web", "--ip", "10.9.0.3", "--label", "app=web", "blue", &web],
    );
    let create =
        &["service", "create", "--network", "blue", "--ip", "10.9.0.100", "--publish", "8080:80", "shop"][..];
    let remove = &["service", "rm", "shop"][..];
    let select = [
        "service",
        "update",
        "--selector-add",
        "app=web",
        "--drain",
        "web",
        "--publish-add",
        "53:53/udp",
        "shop",
    ];
    let back =
        ["service", "update", "--selector-rm", "app", "--resume", "web", "--publish-rm", "53/udp", "shop"];
    for (command, undo) in
        [(create, remove), (&select[..], &back[..]), (&back[..], &select[..]), (remove, create)]
    {
        wholly_or_not_at_all(&mut world, command, undo);
    }
}

/// Kills the daemon at the first step of `command`, then at the second, and so on until it completes.
fn wholly_or_not_at_all(world: &mut World, command: &[&str], undo: &[&str]) {
    let before = world.seen();
    let mut done = None;
    for steps in 0.. {
        world.switch.crash_after(steps);
        let answer = world.switch.try_ctl(command);
        if answer.code == 0 {
            world.switch.crash_no_more();
            assert!(steps > 3, "{command:?} has more steps than {steps}: is this build one for development?");
            break;
        }
        world.switch.crashed();
        world.switch.crash_no_more();
        world.switch.run();
        let now = world.seen();
        if now == before {
            continue;
        }
        assert_eq!(*done.get_or_insert_with(|| now.clone()), now, "{command:?}, killed after {steps} steps");
        let undone = world.switch.try_ctl(undo);
        assert_eq!(undone.code, 0, "{command:?}, killed after {steps} steps: {now:#} was {before:#}");
        assert_eq!(world.seen(), before, "{undo:?}, after {command:?} that was killed after {steps} steps");
    }
    assert_eq!(done.expect("the last steps come after it is kept"), world.seen(), "{command:?}");
}
