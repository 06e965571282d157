//! Services of a cluster: clients and endpoints on different hosts.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;
use vswitch_tests::{Netns, eventually, within};

use super::{Server, curl};
use crate::cluster::Hosts;

/// The endpoints of a service as a host sees them: name and state.
fn states(hosts: &Hosts, host: usize) -> Vec<(String, String)> {
    let service = hosts.ctl(host, "service ps web");
    let text = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
    let backends = service[0]["backends"].as_array().unwrap();
    backends.iter().map(|it| (text(it, "name"), text(it, "state"))).collect()
}

fn sees(hosts: &Hosts, host: usize, wanted: &[(&str, &str)]) {
    eventually(&format!("host{host} sees {wanted:?}"), || {
        let seen = states(hosts, host);
        let same =
            seen.iter().map(|(name, state)| (name.as_str(), state.as_str())).eq(wanted.iter().copied());
        same.then_some(())
    });
}

fn serve(hosts: &Hosts, host: usize, name: &str, netns: &Netns) {
    let line = format!("network connect --service web --name {name} blue netns:{}", netns.name());
    hosts.ctl(host, &line);
}

#[test]
fn clients_of_all_hosts_reach_endpoints_of_all_hosts() {
    let hosts = Hosts::joined(3);
    hosts.ctl(1, "network create -d overlay --subnet 10.9.0.0/24 --subnet fd09::/64 blue");
    let made = hosts.ctl(2, "service create --network blue web");
    let addresses: Vec<String> =
        made["address"].as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 2, "{made}");

    // Its name, its address and its network are its own, whichever host is asked.
    let why = hosts.refused(3, "service create --network blue web");
    assert!(why.contains("service web exists already"), "{why}");
    let why = hosts.refused(1, &format!("service create --network blue --ip {} api", addresses[0]));
    assert!(why.contains("held by service web") || why.contains("that of service web"), "{why}");
    let why = hosts.refused(1, "network rm blue");
    assert!(why.contains("network blue has services (web): remove them first"), "{why}");

    let (one, two, client) = (Netns::new("one"), Netns::new("two"), Netns::new("client"));
    // At once after it was created elsewhere.
    serve(&hosts, 1, "one", &one);
    serve(&hosts, 3, "two", &two);
    hosts.connect(3, "blue", &client);
    let servers = [Server::start(&one, "one"), Server::start(&two, "two")];
    for host in 1..=3 {
        sees(&hosts, host, &[("one", "ready"), ("two", "ready")]);
    }
    eventually("its addresses are usable", || {
        (!client.ip("-6 address show").contains("tentative")).then_some(())
    });
    for address in &addresses {
        let seen: BTreeSet<String> = (0..30).map(|_| curl(&client, address).1).collect();
        assert_eq!(seen, ["one", "two"].map(str::to_owned).into(), "{address}");
        client.reaches(address);
    }
    let own = client.ip("-4 -brief address show eth0");
    for server in &servers {
        let seen = server.clients();
        assert!(seen.iter().any(|it| own.contains(&format!("{it}/"))), "{seen:?} {own}");
    }
    // Hosts are clients as well, and endpoints of their own service.
    for netns in [&one, &two] {
        let seen: BTreeSet<String> = (0..30).map(|_| curl(netns, &addresses[0]).1).collect();
        assert_eq!(seen.len(), 2);
    }

    // A change is made on any host: one is drained, all take it out.
    hosts.ctl(2, "service update --drain one web");
    sees(&hosts, 3, &[("one", "draining"), ("two", "ready")]);
    assert!((0..20).all(|_| curl(&client, &addresses[0]).1 == "two"));
    hosts.ctl(1, "service update --resume one web");
    sees(&hosts, 3, &[("one", "ready"), ("two", "ready")]);

    // Its own host alone checks an endpoint, and all hosts act by it.
    hosts.ctl(3, "service update --health http:80/ --health-interval 1 --health-retries 2 web");
    sees(&hosts, 2, &[("one", "ready"), ("two", "ready")]);
    hosts.ctl(3, "service update --health tcp:81 --health-interval 1 --health-retries 2 web");
    sees(&hosts, 2, &[("one", "unready"), ("two", "unready")]);
    assert!((0..10).all(|_| !curl(&client, &addresses[0]).1.is_empty()), "none passes: all get some");
    hosts.ctl(3, "service update --no-healthcheck web");
    sees(&hosts, 3, &[("one", "ready"), ("two", "ready")]);

    // One leaves: the others know within moments.
    let told = Instant::now();
    hosts.ctl(1, "network disconnect blue one");
    let told_in = told.elapsed();
    let known = Instant::now();
    sees(&hosts, 3, &[("two", "ready")]);
    println!("disconnected in {told_in:?}, known elsewhere after {:?} more", known.elapsed());
    assert!(known.elapsed() < Duration::from_secs(2));
    assert!((0..20).all(|_| curl(&client, &addresses[0]).1 == "two"));
    hosts.ctl(1, "service rm web");
    for host in 1..=3 {
        eventually("it is gone everywhere", || {
            (hosts.ctl(host, "service ls") == serde_json::json!([])).then_some(())
        });
    }
}

#[test]
fn endpoints_of_a_host_that_dies_get_nothing_and_without_the_store_all_goes_on() {
    let mut hosts = Hosts::joined(3);
    hosts.ctl(1, "network create -d overlay --subnet 10.9.0.0/24 blue");
    let made = hosts.ctl(1, "service create --network blue web");
    let address = made["address"][0].as_str().unwrap().to_owned();
    let (one, two, client) = (Netns::new("one"), Netns::new("two"), Netns::new("client"));
    serve(&hosts, 2, "one", &one);
    serve(&hosts, 3, "two", &two);
    hosts.connect(3, "blue", &client);
    let _servers = [Server::start(&one, "one"), Server::start(&two, "two")];
    sees(&hosts, 3, &[("one", "ready"), ("two", "ready")]);
    let seen: BTreeSet<String> = (0..30).map(|_| curl(&client, &address).1).collect();
    assert_eq!(seen.len(), 2);

    eventually("host3 has kept what it knows", || {
        let copy = fs::read_to_string(hosts.host(3).folder().join("state/cluster/copy.json")).ok()?;
        (copy.matches("\\\"serves\\\"").count() == 2).then_some(())
    });

    // The store goes, and the daemon of the client's host is restarted meanwhile.
    hosts.hosts[0].kill();
    hosts.hosts[2].kill();
    hosts.hosts[2].run();
    eventually("names and tunnels are back", || (curl(&client, &address).0 == 0).then_some(()));
    let seen: BTreeSet<String> = (0..30).map(|_| curl(&client, &address).1).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let why = hosts.refused(3, "service update --drain two web");
    assert!(why.contains("running containers are not affected"), "{why}");
    hosts.hosts[0].run();
    eventually("the store is followed again", || {
        (hosts.ctl(3, "cluster status")["store"]["up"] == true).then_some(())
    });

    // A host dies.
    hosts.host(2).host.ip("link set eth0 down");
    hosts.hosts[1].kill();
    let died = Instant::now();
    within(Duration::from_secs(60), "its endpoint is down", || {
        (states(&hosts, 3)[0].1 == "down").then_some(())
    });
    println!("known after {:?}", died.elapsed());
    assert!((0..20).all(|_| curl(&client, &address) == (0, "two".to_owned())));
}
