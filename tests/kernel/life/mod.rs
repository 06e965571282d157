//! The life of a daemon and its ports: starting, changing, failing, dying, recovering.

mod declared;
mod namespaces;
mod operate;
mod persistence;
mod reload;
mod sequences;
mod service;

use vswitch_tests::{Config, Netns, net};

/// A fixed MAC address, for a port that comes back while neighbours still have it cached.
const MAC: &str = "02:42:0a:09:00:04";

/// Network blue with TAP ports 10.9.0.1, 10.9.0.2 and so on.
fn blue(ports: &[(&str, &Netns)]) -> Config {
    let blue = net().network("blue");
    let numbered = ports.iter().zip(1..);
    numbered.fold(blue, |config, ((name, netns), last)| {
        config.tap(name, netns).address(&format!("10.9.0.{last}/24"))
    })
}
