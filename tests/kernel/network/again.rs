//! The same address again, with another MAC address.

use vswitch_tests::{Netns, Vswitchd, eventually, net};

use super::{connect, network, switch};

/// Waits until `asker` remembers `mac` for `address`, without asking.
fn learns(asker: &Netns, address: &str, mac: &str) {
    eventually(&format!("{address} is {mac}"), || {
        asker.ip(&format!("neigh show {address}")).contains(mac).then_some(())
    });
}

/// A container goes, and another comes with its addresses: neighbours and the host know it without a question.
#[test]
fn neighbours_learn_of_a_new_mac_address_at_once() {
    let switch = switch();
    network(&switch, "create --subnet 10.9.0.0/24 --subnet fd00:9::/64 blue");
    let [web, old, new] = ["web", "old", "new"].map(Netns::new);
    connect(&switch, "blue", &web, &[]);
    let addresses = ["--ip", "10.9.0.50", "--ip6", "fd00:9::50"];
    let come = |container: &Netns, mac: &str| {
        connect(&switch, "blue", container, &[&addresses[..], &["--mac-address", mac]].concat());
    };
    come(&old, "02:52:00:00:00:01");
    for address in ["10.9.0.50", "fd00:9::50"] {
        for asker in [&web, &switch.host] {
            asker.reaches(address);
        }
    }
    network(&switch, &format!("disconnect blue {}", old.name()));
    come(&new, "02:52:00:00:00:02");
    for address in ["10.9.0.50", "fd00:9::50"] {
        for asker in [&web, &switch.host] {
            learns(asker, address, "02:52:00:00:00:02");
            asker.reaches(address);
        }
    }
}

/// A declared port whose MAC address the kernel chooses, anew with every interface.
#[test]
fn a_declared_port_is_announced_whatever_its_mac_address() {
    let [web, db] = ["web", "db"].map(Netns::new);
    let with = |db_port: bool| {
        let config = net().network("blue").tap("web", &web).address("10.9.0.1/24");
        if db_port { config.tap("db", &db).address("10.9.0.2/24") } else { config }
    };
    let switch = Vswitchd::start(&with(true));
    web.reaches("10.9.0.2");
    let mac = |db: &Netns| db.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    let before = mac(&db);
    switch.configure(&with(false));
    switch.ctl(&["reload"]);
    switch.configure(&with(true));
    switch.ctl(&["reload"]);
    assert_ne!(mac(&db), before);
    learns(&web, "10.9.0.2", &mac(&db));
}
