//! The life of a daemon and its ports: starting, changing, failing, dying, coming back.

mod namespaces;
mod persistence;
mod reload;
mod service;

use vswitch_tests::Netns;

/// A port's table; `keys` has the rest of it, `netns` apart.
fn port(name: &str, netns: &str, keys: &str) -> String {
    format!(
        "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\nnetns = \"{netns}\"\nifname = \"eth0\"\n{keys}\n"
    )
}

fn tap(name: &str, netns: &Netns, last: u8) -> String {
    port(name, netns.name(), &format!("kind = \"tap\"\naddress = \"10.9.0.{last}/24\""))
}

fn veth(name: &str, netns: &Netns, last: u8) -> String {
    port(name, netns.name(), &format!("kind = \"veth\"\naddress = \"10.9.0.{last}/24\""))
}

/// A MAC address for a port that comes back while its neighbours remember it.
const MAC: &str = "mac = \"02:42:0a:09:00:04\"\n";

const BLUE: &str = "[[network]]\nname = \"blue\"\n";
