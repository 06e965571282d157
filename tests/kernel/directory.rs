//! Directories: what a control plane tells of other hosts, between two daemons.

use serde_json::{Value, json};
use vswitch_tests::{Netns, Vswitchd, eventually, net, underlay::Underlay};

/// Two hosts with one network, a container on each.
///
/// ```text
/// near - host 0, 10.8.0.1 ===== host 1, 10.8.0.2 - far
/// ```
struct Hosts {
    hosts: [Vswitchd; 2],
    near: Netns,
    far: Netns,
    near_is: Station,
    far_is: Station,
}

/// A container's or a gateway's addresses.
struct Station {
    mac: String,
    addresses: Vec<String>,
}

impl Station {
    /// Its record, at host `host`.
    fn record(&self, host: usize, sequence: u64) -> Value {
        let host = format!("10.8.0.{}", host + 1);
        json!({"mac": self.mac, "addresses": self.addresses, "host": host, "sequence": sequence})
    }
}

impl Hosts {
    fn start() -> Self {
        let [one, two, near, far] = ["one", "two", "near", "far"].map(Netns::new);
        one.ip(&format!("link add eth0 type veth peer name eth0 netns {}", two.name()));
        Underlay::V4.up(&one, "eth0", 1);
        Underlay::V4.up(&two, "eth0", 2);
        let start = |host: Netns, own: u8, other: u8| {
            let switch = Vswitchd::start_in(
                host,
                &net().vxlan(&format!("10.8.0.{own}")).peer(&format!("10.8.0.{other}")),
            );
            let range = format!("10.9.0.{}/25", (own - 1) * 128);
            let create =
                "network create -d overlay -o vni=5000 -o host=true --gateway 10.9.0.1 --subnet 10.9.0.0/24";
            let more = format!("{create} --ip-range {range} --subnet fd00:9::/64 --gateway fd00:9::1 blue");
            let output = switch.try_ctl(&more.split(' ').collect::<Vec<_>>());
            assert_eq!(output.code, 0, "{}", output.stderr);
            switch
        };
        let hosts = [start(one, 1, 2), start(two, 2, 1)];
        let near_is = connect(&hosts[0], &near, &[]);
        let far_is = connect(&hosts[1], &far, &["--ip6", "fd00:9::77"]);
        Self { hosts, near, far, near_is, far_is }
    }

    /// Host `at` is told `directory` as a whole.
    fn tell(&self, at: usize, directory: &Value) {
        self.request(at, "PUT", directory);
    }

    fn request(&self, at: usize, method: &str, body: &Value) {
        let (status, text) = self.hosts[at].request(method, "/v1/networks/blue/directory", &body.to_string());
        assert_eq!(status, 204, "{method} {body}: {text}");
    }

    /// How many frames of the port `port` of host `at` were flooded, and how many answered.
    fn fates(&self, at: usize, port: &str) -> [u64; 2] {
        let port = self.hosts[at].port(port);
        ["flooded", "answered"].map(|fate| port["fates"][fate].as_u64().unwrap())
    }
}

/// Connects a container to network blue.
fn connect(switch: &Vswitchd, container: &Netns, more: &[&str]) -> Station {
    let place = format!("netns:{}", container.name());
    let endpoint = switch.ctl(&[&["network", "connect"], more, &["blue", &place]].concat());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let addresses = endpoint["addresses"].as_array().unwrap().iter();
    let addresses = addresses.map(|net| text(net).split('/').next().unwrap().to_owned()).collect();
    container.ip("link set lo up");
    Station { mac: text(&endpoint["mac"]), addresses }
}

/// What a container remembers of its neighbours.
fn forget_neighbours(container: &Netns) {
    container.ip("neigh flush dev eth0");
}

/// A container asks; the switch at its own host answers, and the other host hears nothing of it.
#[test]
fn neighbours_are_answered_for_at_the_askers_host() {
    let link = Hosts::start();
    let Hosts { near, far, near_is, far_is, .. } = &link;
    let port = link.hosts[0].ctl(&["port", "ls"]);
    let named = |port: &&Value| {
        port["name"].as_str().is_some_and(|name| name.ends_with(".blue") && !name.starts_with("gw"))
    };
    let port = port.as_array().unwrap().iter().find(named).unwrap()["name"].as_str().unwrap().to_owned();
    for address in &far_is.addresses {
        near.reaches(address);
    }
    assert_eq!(link.fates(0, &port)[1], 0, "no station is known");

    link.tell(0, &json!({"hosts": ["10.8.0.2"], "stations": [far_is.record(1, 1)]}));
    link.tell(1, &json!({"hosts": ["10.8.0.1"], "stations": [near_is.record(0, 1)]}));
    for address in &far_is.addresses {
        // More than once where the container multicasts of its own accord meanwhile, which is flooded.
        eventually("the question is answered, and nothing is flooded", || {
            let [flooded, answered] = link.fates(0, &port);
            forget_neighbours(near);
            forget_neighbours(far);
            assert!(near.pings(address), "{address}");
            let neighbours = near.ip("neigh show");
            assert!(
                neighbours.contains(&format!("{address} dev eth0 lladdr {}", far_is.mac)),
                "{neighbours}"
            );
            let [flooded_by_now, answered_by_now] = link.fates(0, &port);
            let is_quiet = flooded_by_now == flooded || address.contains(':');
            (answered_by_now > answered && is_quiet).then_some(())
        });
    }

    // A trace tells of it, and whom a flood reaches.
    let text = |frame: &str| link.hosts[0].try_ctl(&["trace", "--port", &port, frame]).stdout;
    let answered = text(&format!("arp who-has {}", far_is.addresses[0]));
    assert!(answered.contains("the directory of network blue knows who has it"), "{answered}");
    assert!(answered.contains(&format!("answered: {} has it", far_is.mac)), "{answered}");
    let why = link.hosts[0].try_ctl(&["why", "--ip", &far_is.addresses[0]]).stdout;
    assert!(why.contains(&format!("says that {} has it", far_is.mac)), "{why}");

    // A container that no directory knows is found as ever, and not by hosts that it is not flooded to.
    let late = Netns::new("late");
    let late_is = connect(&link.hosts[1], &late, &[]);
    near.reaches(&late_is.addresses[0]);
    link.request(0, "PATCH", &json!({"hosts": []}));
    link.hosts[0].ctl(&["fdb", "flush", "--network", "blue"]);
    forget_neighbours(near);
    assert!(!near.pings(&late_is.addresses[0]), "its host is not in the network");
    assert!(near.pings(&far_is.addresses[0]), "a known station is reached all the same");
    link.request(0, "PATCH", &json!({"hosts": ["10.8.0.2"]}));
    near.reaches(&late_is.addresses[0]);
}

/// The directory's word for a move is followed at once, and late news is not.
#[test]
fn stations_move_by_their_numbers() {
    let mut link = Hosts::start();
    link.tell(0, &json!({"stations": [link.far_is.record(1, 5)]}));
    let place = |link: &Hosts| {
        let table = link.hosts[0].ctl(&["fdb", "ls"]);
        let entry = table.as_array().unwrap().iter().find(|it| it["mac"] == *link.far_is.mac);
        entry.map(|it| (it["port"].as_str().unwrap().to_owned(), it["origin"].as_str().unwrap().to_owned()))
    };
    assert_eq!(place(&link), Some(("10.8.0.2".into(), "pinned".into())));
    let elsewhere =
        |sequence| json!({"set": [{"mac": link.far_is.mac, "host": "10.8.0.99", "sequence": sequence}]});
    let (late, later) = (elsewhere(4), elsewhere(6));
    link.request(0, "PATCH", &late);
    assert!(place(&link).is_some() && link.near.pings(&link.far_is.addresses[0]));
    link.request(0, "PATCH", &later);
    assert_ne!(place(&link).map(|it| it.1), Some("pinned".into()), "its new host is no peer");
    // It is back, and its old withdrawal is late.
    link.request(0, "PATCH", &json!({"set": [link.far_is.record(1, 7)]}));
    link.request(0, "PATCH", &json!({"withdraw": [{"mac": link.far_is.mac, "sequence": 6}]}));
    assert_eq!(place(&link), Some(("10.8.0.2".into(), "pinned".into())));
    // The restarted daemon has been told nothing, and learns.
    link.hosts[0].kill();
    link.hosts[0].run();
    link.near.reaches(&link.far_is.addresses[0]);
}

/// Each host reaches the containers of the other, from an address of its own.
#[test]
fn a_host_reaches_containers_of_other_hosts() {
    let link = Hosts::start();
    // The gateway's own addresses are the same everywhere, and in no directory.
    let gateway = |at: usize| {
        let Vswitchd { host, .. } = &link.hosts[at];
        let ifname = link.hosts[at].port("gw.blue")["device"].as_str().unwrap().to_owned();
        let shown = host.ip(&format!("-o addr show dev {ifname} scope global"));
        let addresses = shown.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
        let own = addresses.filter(|address| !["10.9.0.1", "fd00:9::1"].contains(address));
        let mac = host.mac(&ifname).map(|byte| format!("{byte:02x}")).join(":");
        Station { mac, addresses: own.map(str::to_owned).collect() }
    };
    let gateways = [gateway(0), gateway(1)];
    assert_ne!(gateways[0].mac, gateways[1].mac);
    link.tell(0, &json!({"stations": [link.far_is.record(1, 1), gateways[1].record(1, 1)]}));
    link.tell(1, &json!({"stations": [link.near_is.record(0, 1), gateways[0].record(0, 1)]}));
    for (at, other, here, there) in [(0, 1, &link.near, &link.far_is), (1, 0, &link.far, &link.near_is)] {
        for address in &there.addresses {
            // Of IPv6, too: the kernel would take the gateway's if that has more bits in common with the destination.
            let way = link.hosts[at].host.ip(&format!("route get {address}"));
            let sends = way.split_whitespace().skip_while(|word| *word != "src").nth(1).unwrap();
            assert!(gateways[at].addresses.iter().any(|own| own == sends), "{way}");
            link.hosts[at].host.reaches(address);
        }
        here.reaches("10.9.0.1");
        // A container reaches the other host, too.
        here.reaches(&gateways[other].addresses[0]);
        link.hosts[at].host.reaches(&gateways[other].addresses[0]);
    }
    // The containers' gateway is still that of their own host.
    for (container, gateway) in [(&link.near, &gateways[0]), (&link.far, &gateways[1])] {
        let neighbours = container.ip("neigh show 10.9.0.1");
        assert!(neighbours.contains(&gateway.mac), "{neighbours}");
    }
}
