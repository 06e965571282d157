//! Docker Engine with our plugin: the life of containers and of both daemons.

mod containers;
mod names;
mod networks;
mod same;
mod swarm;
mod trouble;

use std::process::Command;

use vswitch_tests::{Vswitchd, eventually};

fn endpoints(switch: &Vswitchd) -> usize {
    let ports = switch.ctl(&["port", "ls"]);
    ports
        .as_array()
        .unwrap()
        .iter()
        .filter(|port| port["device"].as_str().unwrap().starts_with("vse"))
        .count()
}

/// Waits until no interface of a container is left in the switch or on the host.
fn nothing_is_left(switch: &Vswitchd) {
    eventually("no endpoint is left", || (endpoints(switch) == 0).then_some(()));
    eventually("no interface is left", || (!switch.host.ip("-br link").contains("vse")).then_some(()));
}

/// The host's nftables rules.
fn rules(switch: &Vswitchd) -> String {
    let mut nft = Command::new("nft");
    let output = switch.host.run(|| nft.args(["list", "ruleset"]).output().unwrap());
    String::from_utf8(output.stdout).unwrap()
}
