//! Ports that services publish: open on every host, and whoever calls them is who the endpoints see.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
};

use vswitch_tests::{Netns, PATIENCE, Vswitchd, eventually, net};

use super::{connect, ctl};
use crate::{
    cluster::Hosts,
    gateway::{Mirror, seen, seen_udp, socket},
};

/// A host on a link with a station that is nobody's container.
fn world() -> (Vswitchd, Netns) {
    let (host, outside) = (Netns::new("host"), Netns::new("outside"));
    host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", outside.name()));
    for (netns, last) in [(&host, 1), (&outside, 9)] {
        netns.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"));
        netns.ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"));
        netns.ip("link set eth0 up");
    }
    let switch = Vswitchd::start_in(host, &net());
    ctl(&switch, "network create --subnet 10.9.0.0/24 --subnet fd09::/64 blue");
    (switch, outside)
}

fn refused(switch: &Vswitchd, line: &str) -> String {
    switch.refusal(&line.split(' ').collect::<Vec<_>>()).1
}

/// What a connection comes to: the server's word, or the error.
fn call(from: &Netns, to: SocketAddr) -> Result<String, ErrorKind> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.kind())?;
    Ok(answer)
}

#[test]
fn a_port_of_the_host_leads_to_the_endpoints_and_they_see_their_clients() {
    let (switch, outside) = world();
    ctl(
        &switch,
        "service create --network blue --publish 8080:80 --publish 8080:80/udp --publish 9000-9001:80-81 web",
    );
    let at = socket("192.0.2.1", 8080);
    assert_eq!(call(&outside, at), Err(ErrorKind::ConnectionRefused), "no endpoint serves");
    let (one, two, client) = (Netns::new("one"), Netns::new("two"), Netns::new("client"));
    connect(&switch, &one, "one", "--service web ");
    connect(&switch, &two, "two", "--service web ");
    connect(&switch, &client, "client", "");
    let _mirrors = [&one, &two].map(|netns| [80, 81].map(|port| Mirror::start(netns, port)));

    for (to, from) in [("192.0.2.1", "192.0.2.9"), ("2001:db8::1", "2001:db8::9")] {
        for _ in 0..10 {
            assert_eq!(seen(&outside, socket(to, 8080)), from);
            assert_eq!(seen_udp(&outside, socket(to, 8080)), from);
        }
        assert_eq!(seen(&outside, socket(to, 9001)), from);
    }
    // Both had some.
    let services = switch.ctl(&["service", "ps", "web"]);
    let given = services[0]["backends"].as_array().unwrap().iter().map(|it| it["given"].as_u64().unwrap());
    assert!(given.clone().all(|given| given > 0), "{services}");
    // The host itself, at its addresses and its loopback; and a container, which appears as the host.
    assert_eq!(seen(&switch.host, at), "192.0.2.1");
    assert_eq!(seen(&switch.host, socket("127.0.0.1", 8080)), "10.9.0.1");
    assert_eq!(seen(&client, at), "10.9.0.1");
    assert_eq!(seen(&one, at), "10.9.0.1");

    // One is drained, and the other has all.
    ctl(&switch, "service update --drain one web");
    let before = switch.ctl(&["service", "ps", "web"])[0]["backends"][0]["given"].clone();
    (0..20).for_each(|_| drop(seen(&outside, at)));
    assert_eq!(switch.ctl(&["service", "ps", "web"])[0]["backends"][0]["given"], before);

    // What is open already, by whomever, is refused.
    let why = refused(&switch, "service create --network blue --publish 8080:81 other");
    assert!(why.contains("service other: port 8080/tcp of the hosts is published by service web"), "{why}");
    let late = Netns::new("late");
    let why = refused(&switch, &format!("network connect --publish 8080:80 blue netns:{}", late.name()));
    assert!(why.contains("port is already allocated"), "{why}");
    let _taken = switch.host.run(|| TcpListener::bind("0.0.0.0:8090").unwrap());
    let why = refused(&switch, "service update --publish-add 8090:80 web");
    assert!(why.contains("8090"), "{why}");
    for (publish, sentence) in [
        ("80", "choose the port of the hosts as well"),
        ("127.0.0.1:8081:80", "at all of its addresses"),
        ("8081:80/sctp", "services carry tcp and udp"),
    ] {
        let output = switch.try_ctl(&["service", "create", "--network", "blue", "-p", publish, "x"]);
        assert!(output.code != 0 && output.stderr.contains(sentence), "{}", output.stderr);
    }

    // Ports change while others stay, and all are closed with the service.
    ctl(&switch, "service update --publish-rm 81 --publish-add 8081:81 web");
    assert_eq!(seen(&outside, socket("192.0.2.1", 8081)), "192.0.2.9");
    assert_eq!(call(&outside, socket("192.0.2.1", 9001)), Err(ErrorKind::ConnectionRefused));
    ctl(&switch, "service rm web");
    assert_eq!(call(&outside, at), Err(ErrorKind::ConnectionRefused));
}

#[test]
fn a_port_of_mode_host_leads_to_an_endpoint_of_the_host() {
    let (switch, outside) = world();
    ctl(
        &switch,
        "service create --network blue --endpoint-mode dnsrr --publish published=8080,target=80,mode=host web",
    );
    let at = socket("192.0.2.1", 8080);
    assert_eq!(call(&outside, at), Err(ErrorKind::ConnectionRefused), "no endpoint is here");
    let one = Netns::new("one");
    connect(&switch, &one, "one", "--service web ");
    let _mirror = Mirror::start(&one, 80);
    assert_eq!(seen(&outside, at), "192.0.2.9");
}

/// Three hosts of a cluster on a link with a station outside, and a service that endpoints of some of them serve.
#[test]
fn every_host_answers_for_endpoints_of_all_and_none_hides_the_client() {
    let hosts = Hosts::joined(3);
    let outside = Netns::new("outside");
    outside.ip(&format!("link add eth0 type veth peer name outside netns {}", hosts.link.name()));
    hosts.link.ip("link set outside master br0 up");
    for (netns, last) in (1..).zip(&hosts.hosts).map(|(last, it)| (&it.host, last)).chain([(&outside, 9)]) {
        if last == 9 {
            netns.ip("addr add 10.8.0.9/24 dev eth0");
            netns.ip("link set eth0 up");
        }
        netns.ip(&format!("addr add fd08::{last}/64 dev eth0 nodad"));
    }
    hosts.ctl(1, "network create -d overlay --subnet 10.9.0.0/24 --subnet fd09::/64 blue");
    hosts.ctl(2, "service create --network blue --publish 8080:80 --publish 8080:80/udp web");
    for host in [1, 3] {
        let why = hosts.refused(host, "service create --network blue --publish 8080:81 other");
        assert!(why.contains("port 8080/tcp of the hosts is published by service web"), "{why}");
    }
    let containers = [1, 2, 3].map(|host| Netns::new(&format!("web{host}")));
    let _mirrors = containers.each_ref().map(|netns| Mirror::start(netns, 80));
    let serve = |host: usize| {
        let netns = containers[host - 1].name();
        hosts.ctl(host, &format!("network connect --service web --name web{host} blue netns:{netns}"));
    };
    let ready = |wanted: usize| {
        for host in 1..=3 {
            eventually(&format!("host{host} knows of {wanted} endpoints"), || {
                let service = hosts.ctl(host, "service ps web");
                let backends = service[0]["backends"].as_array().unwrap();
                let is_ready = backends.iter().filter(|it| it["state"] == "ready").count() == wanted;
                is_ready.then_some(())
            });
        }
    };
    let from_all = |times: usize| {
        for _ in 0..times {
            for host in 1..=3 {
                for (to, from) in
                    [(format!("10.8.0.{host}"), "10.8.0.9"), (format!("fd08::{host}"), "fd08::9")]
                {
                    assert_eq!(seen(&outside, socket(&to, 8080)), from, "{to}");
                    assert_eq!(seen_udp(&outside, socket(&to, 8080)), from, "{to}");
                }
            }
        }
    };
    // One endpoint, called at each host; then one on each.
    serve(2);
    ready(1);
    from_all(3);
    serve(1);
    serve(3);
    ready(3);
    from_all(20);
    // Each host has chosen endpoints of all hosts.
    for host in 1..=3 {
        let service = hosts.ctl(host, "service ps web");
        let backends = service[0]["backends"].as_array().unwrap();
        assert!(backends.iter().all(|it| it["given"].as_u64().unwrap() > 0), "{service}");
        let elsewhere: BTreeSet<_> = backends.iter().filter_map(|it| it["host"].as_str()).collect();
        assert_eq!(elsewhere.len(), 2, "{service}");
    }
    // A port that a process has on one host is not open there, and is told; it is open on the others.
    let _taken = hosts.host(3).host.run(|| TcpListener::bind("0.0.0.0:8090").unwrap());
    hosts.ctl(1, "service update --publish-add 8090:80 web");
    assert_eq!(seen(&outside, socket("10.8.0.1", 8090)), "10.8.0.9");
    eventually("host2 has opened it", || call(&outside, socket("10.8.0.2", 8090)).ok());
    let told = || hosts.ctl(3, "status")["troubles"].to_string().contains("8090").then_some(());
    eventually("host3 says why it has not", told);
    hosts.ctl(3, "service rm web");
    for host in 1..=3 {
        eventually("it is closed everywhere", || {
            let refused = call(&outside, socket(&format!("10.8.0.{host}"), 8080));
            (refused == Err(ErrorKind::ConnectionRefused)).then_some(())
        });
    }
}
