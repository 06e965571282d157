//! Ports whose namespace, link or interface disappears and comes back.

use std::{process::Command, time::Duration};

use vswitch_tests::{
    Container, Netns, PATIENCE, Vswitchd, eventually, process,
    tcp::{self, Flow},
    within,
};

use super::{MAC, blue};

#[test]
fn a_namespace_that_goes_under_load_disturbs_nobody_else() {
    for kind in ["tap", "veth"] {
        let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
        let mut doomed = Netns::new("doomed");
        let config = blue(&[("a", &a), ("b", &b), ("c", &c)]);
        let config = config.port("doomed", kind, &doomed).address("10.9.0.4/24").mac(MAC);
        let switch = Vswitchd::start(&config);
        let flow = Flow::start(&a, &b, "10.9.0.2");
        let lost = Flow::start(&c, &doomed, "10.9.0.4");
        flow.flows(1_000_000);
        lost.flows(1_000_000);

        doomed.delete();
        lost.abandon();
        switch.port_is("doomed", "down");
        let sentence = format!("no namespace named {}", doomed.name());
        eventually("the port's reason tells what is missing", || {
            switch.port("doomed")["reason"].as_str().unwrap().contains(&sentence).then_some(())
        });
        switch.logs(&["doomed", "down:"]);
        flow.flows(5_000_000);
        flow.stop();
        let load = process::load(switch.pid(), Duration::from_secs(1));
        assert!(load < 0.02, "the daemon is busy with nothing: {load}");

        doomed.make_again();
        switch.port_is("doomed", "up");
        tcp::exchange(&c, &doomed, "10.9.0.4", 1_000_000, 64 << 10);
        switch.logs(&["doomed", "up again"]);
        let descriptors = process::descriptors(switch.pid());
        doomed.delete();
        switch.port_is("doomed", "down");
        doomed.make_again();
        switch.port_is("doomed", "up");
        eventually("nothing is left open", || {
            (process::descriptors(switch.pid()) == descriptors).then_some(())
        });

        // Faster than the poll interval: the name always exists, but refers to another namespace.
        doomed.delete();
        doomed.make_again();
        eventually("the port moves to the new namespace", || doomed.has_link("eth0").then_some(()));
        switch.port_is("doomed", "up");
        c.reaches("10.9.0.4");
    }
}

/// The kernel frees a namespace with its last reference, and the daemon's TAP descriptor is one. A veth pair with one end
/// in the namespace shows when it is freed.
#[test]
fn a_namespace_that_ended_is_freed_though_a_tap_was_in_it() {
    let web = Netns::new("web");
    let witness = Netns::new("witness");
    let container = Container::start();
    let mut named = Netns::new("named");
    let config = blue(&[("web", &web), ("named", &named)]);
    let switch =
        Vswitchd::start(&config.interface("pid", "tap", &format!("pid:{}", container.pid()), "eth0"));
    switch.ctl(&["attach", "--netns", named.name(), "blue", "--name", "attached", "--ifname", "eth1"]);
    let target = container.pid().to_string();
    switch.ctl(&["attach", "--pid", &target, "blue", "--name", "attached-pid", "--ifname", "eth1"]);
    witness.ip(&format!("link add w0 type veth peer name w0 netns {}", named.name()));
    witness.ip(&format!("link add w1 type veth peer name w1 netns {target}"));

    named.delete();
    within(Duration::from_secs(2), "the namespace with a name is freed", || {
        (!witness.has_link("w0")).then_some(())
    });
    assert!(witness.has_link("w1"));
    drop(container);
    within(Duration::from_secs(2), "the namespace of a process is freed", || {
        (!witness.has_link("w1")).then_some(())
    });
    for name in ["named", "attached"] {
        let reason = switch.port_is(name, "down")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("no namespace named"), "{name}: {reason}");
    }
    for name in ["pid", "attached-pid"] {
        let reason = switch.port_is(name, "down")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(&format!("process {target} is gone")), "{name}: {reason}");
    }
    assert_eq!(switch.port("web")["state"], "up");

    named.make_again();
    for name in ["named", "attached"] {
        switch.port_is(name, "up");
    }
    named.reaches("10.9.0.1");
}

#[test]
fn a_packet_port_follows_its_link_down_and_up() {
    let (web, other) = (Netns::new("web"), Netns::new("other"));
    let host = Netns::new("host");
    // The host's `Netns` is moved into the daemon; this is its name.
    let name = host.name().to_owned();
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(["-n", &name]).args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    };
    let premake = || {
        ip(&format!(
            "link add premade0 type veth peer name eth0 address 02:42:0a:09:00:02 netns {}",
            other.name()
        ));
        ip("link set premade0 up");
        other.ip("link set eth0 up");
        other.ip("address add 10.9.0.2/24 dev eth0");
    };
    premake();
    let switch = Vswitchd::start_in(host, &blue(&[("web", &web)]).packet("other", "premade0"));
    web.reaches("10.9.0.2");
    ip("link set premade0 down");
    let reason = switch.port_is("other", "down")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("down"), "{reason}");
    assert!(!web.pings("10.9.0.2"));
    ip("link set premade0 up");
    switch.port_is("other", "up");
    web.reaches("10.9.0.2");

    ip("link delete premade0");
    let gone = |switch: &Vswitchd| {
        let port = switch.port("other");
        port["reason"].as_str().is_some_and(|reason| reason.contains("no interface premade0")).then_some(())
    };
    eventually("the port says that its interface is gone", || gone(&switch));
    premake();
    switch.port_is("other", "up");
    web.reaches("10.9.0.2");
}

/// Whatever a container does to its interface affects that container alone, and is undone when the container undoes it.
#[test]
fn what_a_container_does_to_its_interface_hurts_itself_alone() {
    for kind in ["tap", "veth"] {
        let (a, b, rogue) = (Netns::new("a"), Netns::new("b"), Netns::new("rogue"));
        let config = blue(&[("a", &a), ("b", &b)]);
        let config = config.port("rogue", kind, &rogue).address("10.9.0.4/24").mac(MAC);
        let switch = Vswitchd::start(&config);
        let flow = Flow::start(&a, &b, "10.9.0.2");
        a.reaches("10.9.0.4");

        rogue.ip("link set eth0 down");
        assert!(!a.pings("10.9.0.4"));
        flow.flows(100_000);
        rogue.ip("link set eth0 up");
        a.reaches("10.9.0.4");
        rogue.ip("link set eth0 down");
        rogue.ip("link set eth0 name lan0");
        rogue.ip("link set lan0 up");
        a.reaches("10.9.0.4");
        rogue.ip("link delete lan0");
        eventually("the port has an interface again", || rogue.has_link("eth0").then_some(()));
        switch.port_is("rogue", "up");
        a.reaches("10.9.0.4");
        switch.logs(&["rogue", "its interface is"]);
        flow.flows(100_000);
        flow.stop();
    }
}

#[test]
fn a_port_whose_namespace_comes_later_waits_for_it() {
    let web = Netns::new("web");
    let mut late = Netns::new("late");
    late.delete();
    let switch = Vswitchd::start(&blue(&[("web", &web), ("late", &late)]));
    let port = switch.port("late");
    assert_eq!(port["state"], "down");
    let sentence =
        format!("no namespace named {0} in /run/netns: create it with `ip netns add {0}`", late.name());
    assert_eq!(port["reason"], sentence.as_str());
    assert_eq!(switch.ctl(&["status"])["ports_up"], 1);
    late.make_again();
    within(PATIENCE, "the port is up", || (switch.port("late")["state"] == "up").then_some(()));
    web.reaches("10.9.0.2");
}
