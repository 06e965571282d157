//! Loops outside of the switch, and networks that are full of addresses.

use serde_json::Value;
use vswitch_tests::{
    Netns, Vswitchd, eventually, net,
    raw::{BROADCAST, EXPERIMENT, frame},
};

fn events(switch: &Vswitchd, kind: &str) -> Vec<Value> {
    let output = switch.try_ctl(&["events", "--json"]);
    let events = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == kind).collect()
}

fn warnings(switch: &Vswitchd) -> String {
    switch.ctl(&["status"])["warnings"].to_string()
}

/// A container bridges its two interfaces; storm limits bound what circulates.
#[test]
fn a_loop_is_reported_with_its_two_ports_and_nothing_is_cut_off() {
    let (looped, web, db) = (Netns::new("looped"), Netns::new("web"), Netns::new("db"));
    let limits = "storm = { broadcast = 400, multicast = 400, unknown = 400 }";
    let config = net().network("blue").interface("left", "tap", looped.name(), "eth0").keys(limits);
    let config = config.interface("right", "tap", looped.name(), "eth1").keys(limits);
    let config = config.tap("web", &web).address("10.9.0.2/24").tap("db", &db).address("10.9.0.3/24");
    let switch = Vswitchd::start(&config);
    web.reaches("10.9.0.3");
    looped.ip("link add br0 type bridge mcast_snooping 0");
    for interface in ["eth0", "eth1"] {
        looped.ip(&format!("link set {interface} master br0"));
    }
    looped.ip("link set br0 up");
    let socket = web.raw("eth0");
    let ask = || socket.send(&frame(BROADCAST, web.mac("eth0"), EXPERIMENT, &[1; 50]));
    eventually("the loop is found", || {
        ask();
        warnings(&switch).contains("ports left and right are connected to each other").then_some(())
    });
    switch.logs(&["a loop", "left", "right"]);
    let [found, ..] = &events(&switch, "loop")[..] else { panic!("no event") };
    let mut ports = [&found["port"], &found["rival"]].map(|port| port.as_str().unwrap().to_owned());
    ports.sort();
    assert_eq!((ports, &found["network"]), (["left".to_owned(), "right".to_owned()], &"blue".into()));
    looped.ip("link del br0");
    web.reaches("10.9.0.3");
    eventually("it is over", || (!warnings(&switch).contains("a loop")).then_some(()));
}

#[test]
fn a_network_learns_no_more_addresses_than_its_limit() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    [&web, &db].into_iter().for_each(Netns::silence);
    let config =
        net().network("blue").keys("options = { mac_limit = \"3\" }").tap("web", &web).tap("db", &db);
    let switch = Vswitchd::start(&config);
    let (socket, receiver) = (web.raw("eth0"), db.raw("eth0"));
    let send = || {
        for last in 1..=5 {
            socket.send(&frame(BROADCAST, [2, 0, 0, 0, 9, last], EXPERIMENT, &[last; 50]));
        }
    };
    send();
    // All are forwarded, and three are learned; while the table is busy, with the next frame.
    receiver.until(vswitch_tests::PATIENCE, &[5; 50]);
    let refused = eventually("it is told", || {
        send();
        events(&switch, "mac_refused").pop()
    });
    assert_eq!(
        (&refused["limit"], &refused["network"], &refused["port"]),
        (&3.into(), &"blue".into(), &"web".into())
    );
    assert_eq!(switch.ctl(&["fdb", "ls"]).as_array().map(Vec::len), Some(3));
}
