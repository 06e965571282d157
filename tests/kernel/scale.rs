//! A switch with a thousand ports. Runs alone: see `make test-kernel`.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use vswitch::spread::MANY;
use vswitch_tests::{Config, Netns, Vswitchd, eventually, net, process, tcp};

use crate::accelerate::{pinned, with_pins};

const PORTS: usize = 1000;

/// Ports of one network in ten namespaces; the first two have addresses.
fn thousand(containers: &[Netns], mtu: u16) -> Config {
    let mut config = net().network("blue").keys(&format!("mtu = {mtu}"));
    for number in 0..PORTS {
        let (name, netns) = (format!("p{number}"), containers[number % 10].name());
        config = config.interface(&name, "tap", netns, &format!("eth{number}"));
        // The two that communicate.
        if number < 2 {
            config = config.address(&format!("10.9.0.{}/24", number + 1));
        }
    }
    config
}

/// Every interface multicasts when it comes up: it looks for duplicates of its address, joins groups, solicits routers. Each of these
/// frames goes to all the others, which is minutes of work; those who talk to one another do not wait for it.
#[test]
fn what_a_thousand_ports_multicast_keeps_nobody_waiting() {
    let containers: Vec<_> = (0..10).map(|number| Netns::new(&format!("loud{number}"))).collect();
    let mut switch = Vswitchd::prepare(Netns::new("host"), &thousand(&containers, 1500));
    switch.run();
    let start = Instant::now();
    containers[0].reaches("10.9.0.2");
    let waited = start.elapsed();
    eventually("they do multicast", || {
        let blue = &switch.ctl(&["stats"])["networks"][0];
        let count = |key: &str| blue[key].as_u64().unwrap();
        (count("flooded") + count("waiting") > PORTS as u64).then_some(())
    });
    let mut worst = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        containers[0].reaches("10.9.0.2");
        worst = worst.max(start.elapsed());
    }
    println!("first answer {waited:?} after the start, later ones within {worst:?}");
    assert!(waited < Duration::from_secs(2) && worst < Duration::from_secs(1), "{waited:?}, {worst:?}");
    assert!(switch.stop().success());
}

/// Containers of one network, which are connected by 16 clients at the same time; then the daemon is killed. Two that were there
/// before reach each other all the time, but for the moment in which there is none.
#[test]
fn storms_of_connects_and_a_restart_keep_nobody_waiting() {
    const CLIENTS: usize = 16;
    let switch = Vswitchd::start(&net());
    let containers: Vec<_> =
        (0..MANY + 2 * CLIENTS).map(|number| Netns::new(&format!("s{number}"))).collect();
    switch.ctl(&["network", "create", "--subnet", "10.9.0.0/16", "blue"]);
    let connect = |container: &Netns| {
        switch.ctl(&["network", "connect", "blue", &format!("netns:{}", container.name())]);
        container.ip("link set lo up");
    };
    let (first, others) = containers.split_at(2);
    first.iter().for_each(connect);
    let reach = || {
        let start = Instant::now();
        first[0].reaches("10.9.0.3");
        start.elapsed()
    };
    reach();
    let (next, mut worst) = (AtomicUsize::new(0), Duration::ZERO);
    let storm = Instant::now();
    thread::scope(|scope| {
        let client = || {
            while let Some(container) = others.get(next.fetch_add(1, Relaxed)) {
                connect(container);
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            worst = worst.max(reach());
        }
    });
    let storm = storm.elapsed();
    let mut switch = switch;
    switch.kill();
    let restart = Instant::now();
    switch.run();
    first[0].reaches("10.9.0.3");
    let restart = restart.elapsed();
    println!(
        "{} containers connected in {storm:?}, the others' answers within {worst:?}; again {restart:?} after a start",
        others.len()
    );
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    assert!(restart < Duration::from_secs(2), "{restart:?}");
    assert!(switch.stop().success());
}

#[test]
fn a_thousand_ports_start_fast_and_cost_little() {
    let containers: Vec<_> = (0..10).map(|number| Netns::new(&format!("many{number}"))).collect();
    for container in &containers {
        container.silence();
    }
    let mut switch = Vswitchd::prepare(Netns::new("host"), &thousand(&containers, 1500));
    let start = Instant::now();
    switch.run();
    let started = start.elapsed();
    let status = switch.ctl(&["status"]);
    assert_eq!([&status["ports"], &status["ports_up"]], [PORTS, PORTS]);
    let resident = process::resident(switch.pid());
    let load = process::load(switch.pid(), Duration::from_secs(3));

    tcp::exchange(&containers[0], &containers[1], "10.9.0.2", 10_000_000, 64 << 10);
    let start = Instant::now();
    assert_eq!(switch.ctl(&["port", "ls"]).as_array().unwrap().len(), PORTS);
    let listed = start.elapsed();
    let start = Instant::now();
    assert_eq!(switch.ctl(&["reload"])["changes"].as_array().unwrap().len(), 0);
    let reloaded = start.elapsed();
    switch.configure(&thousand(&containers, 1400));
    let start = Instant::now();
    switch.ctl(&["reload"]);
    let shrunk = start.elapsed();
    assert!(containers[9].ip("link show eth999").contains("mtu 1400"));
    let later = process::resident(switch.pid());
    let start = Instant::now();
    assert!(switch.stop().success());
    let stopped = start.elapsed();
    println!(
        "{PORTS} TAP ports: ready in {started:?}, {} MB resident ({} MB after a stream), {:.2} % of a CPU idle, \
         listed in {listed:?}, reloaded in {reloaded:?}, with another MTU in {shrunk:?}, stopped in {stopped:?}",
        resident >> 20,
        later >> 20,
        load * 100.0
    );
    for container in &containers {
        assert_eq!(container.ip("-o link show").lines().count(), 1, "nothing is left behind");
    }
    assert!(resident < 100 << 20, "{resident} bytes");
    assert!(load < 0.01, "{load}");
    assert!(started < Duration::from_secs(5), "{started:?}");
    // 0.1 s and 0.8 s on a machine that is quiet: a tenth of what each may take, as others may be busy.
    assert!(shrunk < Duration::from_secs(2) && stopped < Duration::from_secs(8), "{shrunk:?}, {stopped:?}");
}

/// The first `ports` of [`PORTS`] veth ports that the kernel forwards between; two have addresses.
fn accelerated(ports: usize, containers: &[Netns]) -> Config {
    let mut config = net().switch("accelerate = \"auto\"").network("blue");
    for number in 0..ports {
        let (name, netns) = (format!("p{number}"), containers[number % containers.len()].name());
        config = config.interface(&name, "veth", netns, &format!("eth{number}"));
        if number < 2 {
            config = config.address(&format!("10.9.0.{}/24", number + 1));
        }
    }
    config
}

#[test]
fn a_thousand_accelerated_ports_come_and_go_and_leave_nothing() {
    with_pins();
    let containers: Vec<_> = (0..10).map(|number| Netns::new(&format!("quick{number}"))).collect();
    containers.iter().for_each(Netns::silence);
    // In steps, as the kernel takes some 20 ms to make or delete a pair.
    let mut switch = Vswitchd::start(&accelerated(100, &containers));
    for ports in [400, 700, PORTS] {
        switch.configure(&accelerated(ports, &containers));
        switch.ctl(&["reload"]);
    }
    let are_fast = |switch: &Vswitchd, wanted: usize| {
        eventually(&format!("{wanted} ports are accelerated"), || {
            let ports = switch.ctl(&["port", "ls"]);
            let fast = ports.as_array().unwrap().iter().filter(|port| port["acceleration"]["on"] == true);
            (fast.count() == wanted).then_some(())
        });
    };
    let held = |switch: &Vswitchd| (pinned(switch).len(), process::descriptors(switch.pid()));
    are_fast(&switch, PORTS);
    tcp::exchange(&containers[0], &containers[1], "10.9.0.2", 10_000_000, 64 << 10);
    let all = held(&switch);
    assert!(all.0 > PORTS, "a link of each port is pinned, and the tables: {all:?}");
    let mut fewer = None;
    for _ in 0..3 {
        switch.configure(&accelerated(PORTS - 100, &containers));
        switch.ctl(&["reload"]);
        are_fast(&switch, PORTS - 100);
        let now = held(&switch);
        assert!(*fewer.get_or_insert(now) == now && now.0 == all.0 - 100, "{fewer:?}, {now:?}");
        switch.configure(&accelerated(PORTS, &containers));
        switch.ctl(&["reload"]);
        are_fast(&switch, PORTS);
        assert_eq!(held(&switch), all);
    }
    // The next daemon takes all of it over.
    switch.kill();
    switch.run();
    are_fast(&switch, PORTS);
    assert_eq!(pinned(&switch).len(), all.0);
    tcp::exchange(&containers[0], &containers[1], "10.9.0.2", 10_000_000, 64 << 10);
    let load = process::load(switch.pid(), Duration::from_secs(3));
    println!("{PORTS} accelerated ports: {:.2} % of a CPU idle", load * 100.0);
    for ports in [700, 400, 100] {
        switch.configure(&accelerated(ports, &containers));
        switch.ctl(&["reload"]);
        assert_eq!(pinned(&switch).len(), all.0 - PORTS + ports);
    }
    assert!(switch.stop().success());
    assert!(pinned(&switch).is_empty(), "nothing is pinned any more");
    for container in &containers {
        assert_eq!(container.ip("-o link show").lines().count(), 1, "nothing is left behind");
    }
}
