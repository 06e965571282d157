//! Rate limits, measured with real connections.

use std::time::{Duration, Instant};

use serde_json::json;
use vswitch_tests::{Config, Netns, Vswitchd, eventually, net, tcp::Flow};

/// The rate limit of most tests in bytes per second: 10 Mbit/s, which even a busy machine carries.
const RATE: u64 = 1_250_000;
/// Its burst in bytes: 200 ms.
const BURST: u64 = RATE / 5;

/// A switch with the ports `web`, which has a `limit`, and `db`.
fn switch(limit: &str) -> (Vswitchd, Netns, Netns) {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    (Vswitchd::start(&config(limit, &web, &db)), web, db)
}

fn config(limit: &str, web: &Netns, db: &Netns) -> Config {
    let web = net().network("blue").tap("web", web).address("10.9.0.2/24");
    let web = if limit.is_empty() { web } else { web.keys(&format!("limit = {limit}")) };
    web.tap("db", db).address("10.9.0.3/24")
}

/// Asserts that a stream flows to port `to` at [`RATE`]: never more than that plus one burst, and not much less, with a
/// wide margin for a busy machine.
fn flows_at_the_rate(switch: &Vswitchd, flow: &Flow, to: &str) {
    let sent = || switch.port(to)["tx"]["bytes"].as_u64().unwrap();
    let begin = Instant::now();
    let before = sent();
    flow.flows(RATE * 2);
    let flowed = begin.elapsed().as_secs_f64();
    let bytes = sent() - before;
    // The workers' clock has a resolution of a millisecond.
    let most = RATE as f64 * (begin.elapsed().as_secs_f64() + 0.005) + BURST as f64;
    println!("{:.0} % of the rate", 200. / flowed);
    assert!((bytes as f64) < most, "{bytes} bytes in {flowed} s");
    assert!(flowed < 2. / 0.4, "two seconds' bytes in {flowed} s");
}

/// Waits until frames are dropped, that is, until the burst is used up.
fn exhausts(switch: &Vswitchd, port: &str, reason: &str) -> u64 {
    eventually(&format!("{reason} at {port}"), || Some(switch.dropped(port, reason)).filter(|it| *it > 0))
}

/// Every frame is accounted for.
fn assert_laws(port: &serde_json::Value) {
    let drops = |way: &str| {
        let drops = port["drops"].as_array().unwrap().iter().filter(|drop| drop["direction"] == way);
        drops.map(|drop| drop["frames"].as_u64().unwrap()).sum::<u64>()
    };
    let count = |of: &str, key: &str| port[of][key].as_u64().unwrap();
    assert_eq!(count("rx", "frames"), count("fates", "unicast") + count("fates", "flooded") + drops("rx"));
    assert_eq!(count("fates", "offered"), count("tx", "frames") + drops("tx"));
}

#[test]
fn a_limited_port_carries_its_rate_each_way() {
    let (switch, web, db) = switch("{ rx = \"10 Mbit/s\", tx = \"10 Mbit/s\" }");
    for (client, server, address, reason, to) in
        [(&web, &db, "10.9.0.3", "LIMIT_RX", "db"), (&db, &web, "10.9.0.2", "LIMIT_TX", "web")]
    {
        let flow = Flow::start(client, server, address);
        exhausts(&switch, "web", reason);
        flows_at_the_rate(&switch, &flow, to);
        flow.stop();
    }
    let quiet = eventually("the counters stand still", || {
        let before = switch.port("web");
        std::thread::sleep(Duration::from_millis(20));
        Some(switch.port("web")).filter(|after| *after == before)
    });
    assert_laws(&quiet);
    assert_eq!(quiet["limit"], json!({ "rx": "10 Mbit/s", "tx": "10 Mbit/s" }));
    let shown = switch.try_ctl(&["port", "show", "web"]).stdout;
    assert!(shown.contains(" rx 10 Mbit/s, tx 10 Mbit/s\n"), "{shown}");
    let trace =
        |from: &str, to: &str| switch.try_ctl(&["trace", "--port", from, &format!("icmp {to}")]).stdout;
    assert!(trace("web", "10.9.0.3").contains("unless the port's 10 Mbit/s are used up"));
    assert!(trace("db", "10.9.0.2").contains("web: unless its 10 Mbit/s are used up"));
}

#[test]
fn a_limit_changes_while_bytes_flow() {
    let (switch, web, db) = switch("");
    let flow = Flow::start(&web, &db, "10.9.0.3");
    flow.flows(RATE);
    let opened = switch.logs(&["ready"]);
    let reload = |limit: &str| {
        switch.configure(&config(limit, &web, &db));
        switch.ctl(&["reload"])["changes"].clone()
    };
    let changes = reload("{ rx = \"10 Mbit/s\" }");
    assert_eq!(
        (&changes[0]["name"], &changes[0]["detail"]),
        (&json!("web"), &json!("limit.rx unset -> 10 Mbit/s"))
    );
    exhausts(&switch, "web", "LIMIT_RX");
    flows_at_the_rate(&switch, &flow, "db");
    // Debt from a slow rate does not delay a faster one.
    reload("{ rx = \"8 kbit/s\", rx_burst = 1 }");
    let before = switch.dropped("web", "LIMIT_RX");
    eventually("the rate is lower", || (switch.dropped("web", "LIMIT_RX") > before).then_some(()));
    reload("{ rx = \"10 Gbit/s\" }");
    flow.flows(RATE * 4);
    reload("");
    flow.flows(RATE * 4);
    flow.stop();
    assert_eq!(switch.logs(&["ready"]), opened);
}

#[test]
fn containers_are_limited_as_they_or_their_network_were_told() {
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    let mut switch = Vswitchd::start(&net());
    switch.ctl(&["network", "create", "--subnet", "10.9.0.0/24", "--opt", "limit.tx=1gbit", "blue"]);
    let sandbox = |netns: &Netns| format!("netns:{}", netns.name());
    switch.ctl(&["network", "connect", "--name", "web", "--rx-limit", "10Mbit/s", "blue", &sandbox(&web)]);
    switch.ctl(&["network", "connect", "--name", "db", "blue", &sandbox(&db)]);
    let limit = |switch: &Vswitchd, port: &str| switch.port(port)["limit"].clone();
    assert_eq!(limit(&switch, "web.blue"), json!({ "rx": "10 Mbit/s", "tx": "1 Gbit/s" }));
    assert_eq!(limit(&switch, "db.blue"), json!({ "tx": "1 Gbit/s" }));

    switch.kill();
    switch.run();
    assert_eq!(limit(&switch, "web.blue")["rx"], "10 Mbit/s", "it is kept");
    let flow = Flow::start(&web, &db, "10.9.0.3");
    exhausts(&switch, "web.blue", "LIMIT_RX");
    switch.ctl(&["network", "update", "--opt", "limit.rx=10gbit", "--opt-rm", "limit.tx", "blue"]);
    assert_eq!(limit(&switch, "web.blue"), json!({ "rx": "10 Mbit/s" }), "its own stays");
    assert_eq!(limit(&switch, "db.blue"), json!({ "rx": "10 Gbit/s" }));
    flows_at_the_rate(&switch, &flow, "db.blue");
    flow.stop();

    let job = Netns::new("job");
    let wrong = ["network", "connect", "--driver-opt", "limit.rx=much", "blue", &sandbox(&job)];
    let (_, refusal) = switch.refusal(&wrong);
    assert!(refusal.contains("option limit.rx: \"much\" is not a rate: use a whole number"), "{refusal}");
    let (_, refusal) = switch.refusal(&["network", "update", "--opt", "limit.tx_burst=9", "blue"]);
    assert!(refusal.contains("option limit.tx_burst: there is no limit.tx that it belongs to"), "{refusal}");
}
