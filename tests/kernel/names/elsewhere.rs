//! Names over a cluster: every host answers for the endpoints of all.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;
use vswitch_tests::{Config, Engine, Netns, Vswitchd, eventually, net, within};

use super::{connect, dig, short};

/// Two hosts of a cluster on one link, 10.8.0.1 and 10.8.0.2, with network blue.
struct Pair {
    hosts: [Vswitchd; 2],
    _link: Netns,
}

impl Pair {
    fn start(start: fn(Netns, &Config) -> Vswitchd) -> Self {
        let link = Netns::new("link");
        link.ip("link add br0 type bridge");
        link.ip("link set br0 up");
        let hosts = [1, 2].map(|number| {
            let host = Netns::new(&format!("host{number}"));
            host.ip(&format!("link add eth0 type veth peer name h{number} netns {}", link.name()));
            link.ip(&format!("link set h{number} master br0 up"));
            host.ip(&format!("addr add 10.8.0.{number}/24 dev eth0"));
            host.ip("link set eth0 up");
            let config = net().switch(&format!("name = \"host{number}\"")).keys("[dns]\nenabled = true");
            start(host, &config)
        });
        let pair = Self { hosts, _link: link };
        pair.ctl(0, "cluster init --advertise 10.8.0.1");
        let token = pair.ctl(0, "cluster token")["token"].as_str().unwrap().to_owned();
        pair.ctl(1, &format!("cluster join --token {token} 10.8.0.1"));
        pair.ctl(0, "network create -d overlay --subnet 10.20.0.0/16 blue");
        eventually("the other host has the network", || {
            (pair.hosts[1].try_ctl(&["network", "inspect", "blue"]).code == 0).then_some(())
        });
        pair
    }

    fn ctl(&self, host: usize, line: &str) -> Value {
        self.hosts[host].ctl(&line.split(' ').collect::<Vec<_>>())
    }
}

#[test]
fn a_name_is_known_on_all_hosts_at_once_and_a_dead_host_is_left_out() {
    let mut pair = Pair::start(Vswitchd::start_in);
    let (web, db, twin) = (Netns::new("web"), Netns::new("db"), Netns::new("twin"));
    let at_web = connect(&pair.hosts[1], "blue", &web, "web", &["--alias", "pool"]);
    let at_db = connect(&pair.hosts[0], "blue", &db, "db", &["--alias", "sql", "--alias", "pool"]);
    let connected = Instant::now();
    within(Duration::from_secs(5), "the other host answers", || {
        (short(&web, "db") == [at_db.as_str()]).then_some(())
    });
    eprintln!("a name is on the other host {:?} after connect, with the time of dig", connected.elapsed());
    for question in ["sql", "db.blue.vswitch.internal"] {
        assert_eq!(short(&web, question), [at_db.as_str()], "{question}");
    }
    assert_eq!(short(&web, &format!("-x {at_db}")), ["db.blue.vswitch.internal."]);
    eventually("names go both ways", || (short(&db, "web") == [at_web.as_str()]).then_some(()));
    let mut both = [at_web.clone(), at_db.clone()];
    both.sort();
    assert_eq!(short(&db, "pool"), both);
    web.reaches(&at_db);

    // The names of a host that is dead are left out where others have them, and given where none has.
    // It is not killed before its copy of the store has the network: that is written every two seconds.
    let copy = pair.hosts[1].folder().join("state/cluster/copy.json");
    eventually("the copy is kept", || fs::read_to_string(&copy).ok()?.contains(&at_web).then_some(()));
    pair.hosts[1].kill();
    within(Duration::from_secs(40), "the dead host is left out", || {
        (short(&db, "pool") == [at_db.as_str()]).then_some(())
    });
    assert_eq!(short(&db, "web"), [at_web.as_str()]);
    pair.hosts[1].run();
    within(Duration::from_secs(40), "it is back", || (short(&db, "pool") == both).then_some(()));

    // What is disconnected has no name on any host.
    let at_twin = connect(&pair.hosts[0], "blue", &twin, "twin", &[]);
    eventually("it is known", || (short(&web, "twin") == [at_twin.as_str()]).then_some(()));
    pair.ctl(0, "network disconnect blue twin");
    eventually("it is gone", || dig(&web, "@169.254.53.53 twin").contains("NXDOMAIN").then_some(()));
}

/// Engines that know nothing of each other: no swarm.
#[test]
fn docker_on_two_hosts() {
    let pair = Pair::start(Vswitchd::start_apart);
    let engines = [0, 1].map(|host| Engine::start(&pair.hosts[host]));
    for engine in &engines {
        engine.create("blue", "10.20.0.0/16");
    }
    let run = |engine: &Engine, name: &str| {
        let base = ["run", "-d", "--dns", "169.254.53.53", "--network", "blue", "--name", name];
        engine.docker(&[&base[..], &["box", "sleep", "1000"]].concat());
    };
    run(&engines[0], "db");
    run(&engines[1], "web");
    engines[1].reaches("web", "db");
    engines[0].reaches("db", "web");
    engines[0].reaches("db", "web.blue.vswitch.internal");
    engines[0].docker(&["rename", "db", "store"]);
    engines[1].reaches("web", "store");
}
