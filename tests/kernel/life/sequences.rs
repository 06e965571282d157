//! Whatever was reloaded before: interfaces, routes and rules are those of a fresh start with the last file.

use std::{fs, process::Command};

use serde_json::{Value, json};
use vswitch_tests::{Config, Netns, Vswitchd, eventually, net};

/// Sequences, and files of each.
const SEEDS: [u64; 4] = [1, 2, 3, 4];
const FILES: usize = 6;

/// Splitmix64: small numbers by a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[usize::try_from(self.below(texts.len() as u64)).unwrap()]
    }
}

/// A file with networks, ports in `places`, and the end of a tunnel or none.
fn file(dice: &mut Dice, places: &[(&str, &Netns)]) -> Config {
    let tunnel = dice.below(3);
    let mut config = net().switch("workers = 1");
    for (number, name) in ["blue", "red"].into_iter().enumerate() {
        config = config.network(name);
        if tunnel > 0 && dice.one_in(2) {
            config = config.keys(&format!("vni = {}", 100 + number));
        }
        config = config.keys(dice.pick(&["", "", "mtu = 1400"]));
        if dice.one_in(2) {
            config = config.subnet(&format!("10.{number}.0.0/24"));
        }
    }
    for (number, (name, netns)) in places.iter().enumerate() {
        if dice.one_in(5) {
            continue;
        }
        let network = dice.below(2);
        config = config.within(["blue", "red"][usize::try_from(network).unwrap()]);
        config = config
            .port(name, dice.pick(&["tap", "veth"]), netns)
            .mac(&format!("02:42:0b:00:00:{number:02x}"));
        config = config.address(&format!("10.{network}.0.{}/24", 10 + number));
        config = config.keys(dice.pick(&["", "", "mtu = 1300"])).keys(dice.pick(&["", "isolated = true"]));
    }
    match tunnel {
        0 => config,
        1 => config.vxlan("192.0.2.1"),
        _ => config.vxlan("192.0.2.1").keys("underlay_mtu = 1400"),
    }
}

/// Removes what differs from one start to the next, and sorts what has no order.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let changing = [
                "handle",
                "ifindex",
                "link_index",
                "link_netnsid",
                "txqlen",
                "valid_life_time",
                // Whether it was tried: one that replaces another is not.
                "nodad",
                "preferred_life_time",
            ];
            changing.iter().for_each(|key| drop(fields.remove(*key)));
            for (key, value) in fields {
                settle(value);
                if let (true, Value::Array(items)) = (key == "elem" || key == "addr_info", value) {
                    items.sort_by_key(ToString::to_string);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

fn output(netns: &Netns, program: &str, arguments: &str) -> Value {
    let run = || Command::new(program).args(arguments.split(' ')).output().unwrap();
    let output = netns.run(run);
    let mut value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    settle(&mut value);
    value
}

/// Interfaces with addresses, and routes, by name; the loopback's are the kernel's.
fn inside(netns: &Netns) -> Value {
    let sorted = |mut list: Value| {
        if let Value::Array(items) = &mut list {
            items.retain(|it| it["ifname"] != "lo" && it["dev"] != "lo");
            // The host's ends of veth pairs have an address of the kernel's choice, which is not used.
            for end in
                items.iter_mut().filter(|it| it["ifname"].as_str().is_some_and(|it| it.starts_with("vp-")))
            {
                end["address"] = Value::Null;
            }
            items.sort_by_key(ToString::to_string);
        }
        list
    };
    json!({
        "links": sorted(output(netns, "ip", "-d -j address show")),
        "routes": sorted(output(netns, "ip", "-j route show table main")),
    })
}

fn state(switch: &Vswitchd, places: &[(&str, &Netns)]) -> Value {
    let ports = switch.ctl(&["port", "ls"]);
    let ports = ports.as_array().unwrap().iter().map(|port| {
        let keys =
            ["name", "kind", "network", "trunk", "device", "netns", "mtu", "state", "reason", "offload"];
        Value::Object(keys.iter().map(|key| ((*key).to_owned(), port[*key].clone())).collect())
    });
    let places = places.iter().map(|(name, netns)| ((*name).to_owned(), inside(netns)));
    json!({
        "ports": ports.collect::<Vec<_>>(),
        "host": inside(&switch.host),
        "rules": output(&switch.host, "nft", "-j list table inet vswitch"),
        "places": Value::Object(places.collect()),
    })
}

/// Adds to `found` what differs, part by part.
fn compare(reloaded: &Value, fresh: &Value, at: &str, found: &mut Vec<String>) {
    match (reloaded, fresh) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => {
            one.iter().for_each(|(key, value)| compare(value, &other[key], &format!("{at}.{key}"), found));
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).enumerate().for_each(|(index, (one, other))| {
                compare(one, other, &format!("{at}[{index}]"), found);
            });
        }
        (one, other) if one == other => {}
        _ => found.push(format!("{at}: {reloaded} after the reloads, {fresh} after a fresh start")),
    }
}

#[test]
fn reloads_end_where_a_fresh_start_begins() {
    for seed in SEEDS {
        let mut dice = Dice(seed);
        let places = [Netns::new("a"), Netns::new("b"), Netns::new("c")];
        let places: Vec<_> = ["a", "b", "c"].into_iter().zip(&places).collect();
        let host = Netns::new("host");
        host.ip("address add 192.0.2.1/32 dev lo");
        let mut last = file(&mut dice, &places);
        let mut switch = Vswitchd::start_in(host, &last);
        for _ in 1..FILES {
            last = file(&mut dice, &places);
            switch.configure(&last);
            switch.ctl(&["reload"]);
        }
        let quiet = |switch: &Vswitchd| {
            // Carriers and duplicate address detection take a moment.
            let mut before = Value::Null;
            eventually("nothing changes any more", || {
                let now = state(switch, &places);
                let is_quiet = now == before && !now.to_string().contains("tentative");
                before = now;
                is_quiet.then(|| std::mem::take(&mut before))
            })
        };
        let reloaded = quiet(&switch);
        switch.stop();
        fs::remove_dir_all(switch.folder().join("state")).unwrap();
        let links = output(&switch.host, "ip", "-j link show");
        for link in links.as_array().unwrap().iter().filter(|link| link["ifname"] != "lo") {
            switch.host.ip(&format!("link delete {}", link["ifname"].as_str().unwrap()));
        }
        let _ = switch.host.run(|| Command::new("nft").args(["delete", "table", "inet", "vswitch"]).output());
        switch.run();
        let text = last.text(switch.folder());
        let mut found = Vec::new();
        compare(&reloaded, &quiet(&switch), "", &mut found);
        assert!(found.is_empty(), "seed {seed}:\n{}\nwith\n{text}", found.join("\n"));
    }
}
