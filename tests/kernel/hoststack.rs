//! The host's own IP stack and the host's ends of veth ports: neither hears the other, and each interface keeps its name.
//!
//! ```text
//!  lan ----wan--- host: vswitchd ---- vp-web.secret ==== eth0, web
//! 198.51.100.9   198.51.100.7
//! ```
//!
//! The host is as talkative as a host can be: no reverse path filter, ARP for every address on every interface, forwarding,
//! router advertisements believed.

use std::{
    fs,
    net::Ipv6Addr,
    process::Command,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use serde_json::Value;
use vswitch_tests::{
    Netns, Raw, Vswitchd, net,
    raw::{BROADCAST, frame},
};

/// How long nothing may come before it counts as not coming: everything here is a hop or two in one kernel.
const SILENCE: Duration = Duration::from_millis(1500);

/// The host's address on its LAN, and another station's there.
const HOST: [u8; 4] = [198, 51, 100, 7];
const LAN: [u8; 4] = [198, 51, 100, 9];
const HOST6: &str = "2001:db8::7";
const LAN6: &str = "2001:db8::9";

/// What a container sends, to know it again wherever it comes out.
const SECRET: &[u8] = b"out of a container, past the switch";

/// A host between a LAN and its containers.
fn talkative_host() -> (Netns, Netns) {
    let (host, lan) = (Netns::new("host"), Netns::new("lan"));
    host.run(|| {
        for (name, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/conf/all/arp_ignore", "0"),
            ("ipv4/conf/default/accept_local", "1"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_ra", "2"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
        }
    });
    host.ip(&format!("link add wan type veth peer name wan netns {}", lan.name()));
    for (netns, own) in [(&host, 7), (&lan, 9)] {
        netns.ip(&format!("address add 198.51.100.{own}/24 dev wan"));
        netns.ip(&format!("address add 2001:db8::{own}/64 dev wan nodad"));
        netns.ip("link set wan up");
    }
    host.ip("route add default via 198.51.100.9");
    host.ip("-6 route add default via 2001:db8::9");
    (host, lan)
}

/// Connects a container by a veth, and tells the name of the host's end.
fn connect(switch: &Vswitchd, network: &str, name: &str, sandbox: &Netns) -> String {
    let place = format!("netns:{}", sandbox.name());
    switch.ctl(&["network", "connect", "--name", name, "--driver-opt", "kind=veth", network, &place]);
    host_end(switch, &format!("{name}.{network}"))
}

fn host_end(switch: &Vswitchd, port: &str) -> String {
    switch.port_is(port, "up")["device"].as_str().unwrap().to_owned()
}

fn create(switch: &Vswitchd, arguments: &[&str]) {
    let output = switch.try_ctl(&[&["network", "create"], arguments].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
}

fn index(netns: &Netns, ifname: &str) -> u64 {
    let links: Value = serde_json::from_str(&netns.ip(&format!("-j link show dev {ifname}"))).unwrap();
    links[0]["ifindex"].as_u64().unwrap()
}

/// Who says that it has `target`, asked by a station of `raw`'s wire: a MAC for each answer.
fn who_has(raw: &Raw, own: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<[u8; 6]> {
    let ask = [&[0, 1, 8, 0, 6, 4, 0, 1], &own.0[..], &own.1, &[0; 6], &target].concat();
    raw.send(&frame(BROADCAST, own.0, 0x0806, &ask));
    let deadline = Instant::now() + SILENCE;
    let mut answers = Vec::new();
    while let Some(heard) = raw.receive(deadline.saturating_duration_since(Instant::now())) {
        if heard[12..14] == [8, 6] && heard[20..22] == [0, 2] && heard[28..32] == target {
            answers.push(heard[22..28].try_into().unwrap());
        }
    }
    answers
}

/// All that a container of 10.8.0.2 may try at the host whose end of the pair has the address `end`.
fn everything_at(end: [u8; 6], own: [u8; 6]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let v4 = |to: [u8; 6], target| PacketBuilder::ethernet2(own, to).ipv4([10, 8, 0, 2], target, 64);
    for to in [end, BROADCAST] {
        for target in [HOST, LAN, [255; 4], [224, 0, 0, 1], [10, 8, 0, 1]] {
            let mut udp = Vec::new();
            v4(to, target).udp(4000, 5000).write(&mut udp, SECRET).unwrap();
            let mut echo = Vec::new();
            v4(to, target).icmpv4_echo_request(7, 7).write(&mut echo, SECRET).unwrap();
            frames.extend([udp, echo]);
        }
    }
    let link_local = "fe80::bad".parse::<Ipv6Addr>().unwrap().octets();
    let v6 = |to: [u8; 6], target: &str| {
        let target = target.parse::<Ipv6Addr>().unwrap().octets();
        PacketBuilder::ethernet2(own, to).ipv6(link_local, target, 255)
    };
    let all_nodes = [0x33, 0x33, 0, 0, 0, 1];
    for (to, target) in [(end, HOST6), (end, LAN6), (all_nodes, "ff02::1"), (end, "ff02::1")] {
        let mut udp = Vec::new();
        v6(to, target).udp(4000, 5000).write(&mut udp, SECRET).unwrap();
        let mut echo = Vec::new();
        v6(to, target).icmpv6_echo_request(7, 7).write(&mut echo, SECRET).unwrap();
        // "I am your router" (RFC 4861 section 4.2): for half an hour, with our MAC address.
        let mut advertisement = Vec::new();
        let router = [&[0; 8][..], &[1, 1], &own].concat();
        v6(to, target).icmpv6_raw(134, 0, [64, 0, 7, 8]).write(&mut advertisement, &router).unwrap();
        frames.extend([udp, echo, advertisement]);
    }
    // "Who has the host's address?" (section 4.3), to it and to those that may have it.
    let wanted = HOST6.parse::<Ipv6Addr>().unwrap().octets();
    for (to, target) in [([0x33, 0x33, 0xff, 0, 0, 7], "ff02::1:ff00:7"), (end, HOST6)] {
        let mut solicitation = Vec::new();
        let body = [&wanted[..], &[1, 1], &own].concat();
        v6(to, target).icmpv6_raw(135, 0, [0; 4]).write(&mut solicitation, &body).unwrap();
        frames.push(solicitation);
    }
    frames
}

/// What the host's stack has heard and said: IPv4 on all interfaces, which are silent but for one, and IPv6 on that one.
fn counted(host: &Netns, ifname: &str) -> Vec<String> {
    host.run(|| {
        let all = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let v4 = all.lines().filter(|line| line.starts_with("Ip:") || line.starts_with("Icmp:"));
        let v6 = fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{ifname}")).unwrap();
        v4.chain(v6.lines()).map(str::to_owned).collect()
    })
}

fn ipv6_is_silent(host: &Netns, ifname: &str) {
    let counters =
        host.run(|| fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{ifname}")).unwrap());
    for line in counters.lines().filter(|line| !line.starts_with("ifIndex")) {
        assert!(line.ends_with("\t0"), "IPv6 of {ifname}: {line}");
    }
}

#[test]
fn a_gateway_answers_once() {
    let (host, _lan) = talkative_host();
    let switch = Vswitchd::start_in(host, &net());
    let (web, spy) = (Netns::new("web"), Netns::new("spy"));
    create(&switch, &["--subnet", "10.9.0.0/24", "blue"]);
    create(&switch, &["--internal", "--subnet", "10.8.0.0/24", "secret"]);
    connect(&switch, "blue", "web", &web);
    connect(&switch, "secret", "spy", &spy);
    for (network, container, subnet) in [("blue", &web, 9), ("secret", &spy, 8)] {
        let gateway = switch.port(&format!("gw.{network}"))["device"].as_str().unwrap().to_owned();
        assert!(gateway.starts_with("vg-"), "{gateway}");
        let gateway = switch.host.mac(&gateway);
        let (raw, own) = (container.raw("eth0"), (container.mac("eth0"), [10, subnet, 0, 2]));
        assert_eq!(who_has(&raw, own, [10, subnet, 0, 1]), [gateway], "{network}");
        // The host's other addresses are outside of an internal network.
        let expected: &[_] = if network == "secret" { &[] } else { &[gateway] };
        assert_eq!(who_has(&raw, own, HOST), expected, "{network}");
    }
}

#[test]
fn nothing_passes_between_the_hosts_stack_and_a_veth_port() {
    let (host, lan) = talkative_host();
    let switch = Vswitchd::start_in(host, &net());
    let spy = Netns::new("spy");
    spy.silence();
    create(&switch, &["--internal", "--ipam-driver", "null", "secret"]);
    let end = connect(&switch, "secret", "spy", &spy);
    let (raw, outside) = (spy.raw("eth0"), lan.raw("wan"));
    let received = || switch.port("spy.secret")["rx"]["frames"].as_u64().unwrap();
    let (before, frames) =
        (counted(&switch.host, &end), everything_at(switch.host.mac(&end), spy.mac("eth0")));
    let due = received() + u64::try_from(frames.len()).unwrap();
    frames.iter().for_each(|frame| raw.send(frame));
    vswitch_tests::eventually("the switch receives all of them", || (received() >= due).then_some(()));

    let is_ours = |frame: &[u8]| frame.windows(SECRET.len()).any(|window| window == SECRET);
    assert_eq!(outside.find(SILENCE, is_ours), None, "the host forwards");
    assert_eq!(counted(&switch.host, &end), before, "the host's stack hears");
    let route = switch.host.ip("-6 route show default");
    assert!(!route.contains("fe80::bad"), "the host believes a container that it is a router: {route}");
    assert!(!switch.host.ip("neigh show").contains(&end), "the host knows a container for its neighbour");

    // Nor does the host say anything, as it does on other interfaces when they come up and again seconds later.
    assert_eq!(raw.receive(2 * SILENCE), None, "the host's stack says something");
    ipv6_is_silent(&switch.host, &end);
}

/// Makes the host's end of a pair what versions before made of it.
fn as_before(host: &Netns, end: &str, former: &str, alias: &str) {
    let mut tc = Command::new("tc");
    tc.args(["-n", host.name(), "qdisc", "del", "dev", end, "ingress"]);
    assert!(tc.status().unwrap().success());
    host.run(|| fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "0").unwrap());
    host.ip(&format!("link set {end} arp on"));
    let mut rename = Command::new("ip");
    rename.args(["-n", host.name(), "link", "set", end, "name", former, "alias", alias]);
    assert!(rename.status().unwrap().success());
}

#[test]
fn what_a_version_before_has_left_is_taken_over() {
    let (host, _lan) = talkative_host();
    let mut switch = Vswitchd::start_in(host, &net());
    let (web, db, spy) = (Netns::new("web"), Netns::new("db"), Netns::new("spy"));
    let nft = |host: &Netns, rules: &str| {
        let output = host.run(|| Command::new("nft").arg(rules).output().unwrap());
        assert!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    nft(&switch.host, "add table ip filter");
    nft(&switch.host, "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
    create(&switch, &["--subnet", "10.9.0.0/24", "blue"]);
    create(&switch, &["--internal", "--ipam-driver", "null", "secret"]);
    connect(&switch, "blue", "web", &web);
    connect(&switch, "blue", "db", &db);
    let end = connect(&switch, "secret", "spy", &spy);
    let gateway = switch.port("gw.blue")["device"].as_str().unwrap().to_owned();
    let places = [
        (&switch.host, &*gateway),
        (&switch.host, &*end),
        (&switch.host, "vp-web.blue"),
        (&web, "eth0"),
        (&spy, "eth0"),
    ]
    .map(|(netns, ifname)| index(netns, ifname));

    switch.kill();
    let alias = format!("vswitch {}", switch.folder().join("state").display());
    let former = gateway.replace("vg-", "vs-");
    switch.host.ip(&format!("link set {gateway} name {former}"));
    as_before(&switch.host, &end, "vs-spy.secret", &alias);
    // One that a helper made has nothing written on it.
    as_before(&switch.host, "vp-web.blue", "vs-web.blue", "");
    // As long as no daemon runs, only the host's stack can answer: so it would.
    let (raw, own) = (spy.raw("eth0"), (spy.mac("eth0"), [10, 8, 0, 2]));
    assert_eq!(who_has(&raw, own, HOST), [switch.host.mac("vs-spy.secret")]);
    nft(&switch.host, "flush chain ip filter FORWARD");
    for key in ["iifname", "oifname"] {
        nft(&switch.host, &format!("add rule ip filter FORWARD {key} \"vs-*\" accept comment \"vswitch\""));
    }

    switch.run();
    let after = [
        (&switch.host, &*gateway),
        (&switch.host, &*end),
        (&switch.host, "vp-web.blue"),
        (&web, "eth0"),
        (&spy, "eth0"),
    ]
    .map(|(netns, ifname)| index(netns, ifname));
    assert_eq!(after, places, "the interfaces are those from before");
    assert!(!switch.host.ip("-o link show").contains(" vs-"), "{}", switch.host.ip("-o link show"));
    assert!(who_has(&raw, own, HOST).is_empty(), "the host's stack hears what it heard before");
    web.reaches("10.9.0.1");
    web.reaches("198.51.100.9");
    web.reaches(
        db.ip("-o -4 address show dev eth0").split(['/', ' ']).find(|it| it.starts_with("10.9.")).unwrap(),
    );
    let chain = nft(&switch.host, "list chain ip filter FORWARD");
    assert_eq!((chain.matches("\"vg-*\"").count(), chain.matches("\"vs-*\"").count()), (2, 0), "{chain}");

    // It is no different the next time, and goes with its port.
    switch.kill();
    switch.run();
    assert!(who_has(&raw, own, HOST).is_empty());
    switch.ctl(&["network", "disconnect", "secret", &format!("netns:{}", spy.name())]);
    assert!(!switch.host.has_link(&end) && !spy.has_link("eth0"));
}

#[test]
fn an_interface_that_is_not_the_ports_is_neither_taken_nor_deleted() {
    let switch = Vswitchd::start(&net());
    let (web, db) = (Netns::new("web"), Netns::new("db"));
    create(&switch, &["--subnet", "10.9.0.0/24", "blue"]);
    let attach = |name: &str, netns: &Netns| {
        let place = format!("netns:{}", netns.name());
        let connect = ["network", "connect", "--driver-opt", "kind=veth", "--name", name, "blue", &place];
        switch.refusal(&connect).1
    };
    // An operator's.
    switch.host.ip("link add vp-web.blue type veth peer name other");
    let operators = index(&switch.host, "vp-web.blue");
    let refusal = attach("web", &web);
    assert!(refusal.contains("the interface vp-web.blue is not of port web.blue"), "{refusal}");
    assert_eq!(index(&switch.host, "vp-web.blue"), operators);
    // Another container's: both names have one hash.
    let end = connect(&switch, "blue", "aaaabcjiamhp", &web);
    let places = (index(&switch.host, &end), index(&web, "eth0"));
    let refusal = attach("aaaaepgelpal", &db);
    assert!(refusal.contains(&format!("the interface {end} is not of port aaaaepgelpal.blue")), "{refusal}");
    assert_eq!((index(&switch.host, &end), index(&web, "eth0")), places);
    // A gateway's, which is called by the digits that the port is called by.
    let gateway = switch.port("gw.blue")["device"].as_str().unwrap().to_owned();
    let id = gateway.trim_start_matches("vg-").to_owned();
    switch.ctl(&[
        "attach",
        "--netns",
        db.name(),
        "--kind",
        "veth",
        "--name",
        &id,
        "--ifname",
        "eth1",
        "blue",
    ]);
    assert_eq!(host_end(&switch, &id), format!("vp-{id}"));
    assert!(switch.host.has_link(&gateway) && switch.host.has_link(&format!("vp-{id}")));
}

#[test]
fn where_the_kernel_cannot_drop_the_port_says_what_the_host_hears() {
    let mut switch = Vswitchd::start(&net());
    let web = Netns::new("web");
    create(&switch, &["--internal", "--subnet", "10.8.0.0/24", "secret"]);
    let end = connect(&switch, "secret", "web", &web);
    assert_eq!(switch.port("web.secret").get("warnings"), None);
    // A filter of another kind in the place of ours is refused as one that the kernel does not know.
    switch.kill();
    for arguments in [
        &["qdisc", "del", "dev", &end, "ingress"][..],
        &["qdisc", "add", "dev", &end, "ingress"],
        &[
            "filter", "add", "dev", &end, "ingress", "prio", "1", "protocol", "all", "u32", "match", "u8",
            "0", "0",
        ],
    ] {
        let mut tc = Command::new("tc");
        assert!(
            tc.args(["-n", switch.host.name()]).args(arguments).status().unwrap().success(),
            "{arguments:?}"
        );
    }
    switch.run();
    let port = switch.port_is("web.secret", "up");
    let warning = port["warnings"][0].as_str().unwrap();
    assert!(warning.contains(&format!("the host's IPv4 hears what comes in by {end}")), "{warning}");
    switch.logs(&["WARN", "the host's IPv4 hears"]);
    let shown = switch.try_ctl(&["port", "show", "web.secret"]).stdout;
    assert!(shown.contains("the host's IPv4 hears"), "{shown}");
    let setting = |name: &str| {
        let path = format!("/proc/sys/net/{}", name.replace("IF", &end));
        switch.host.run(|| fs::read_to_string(path).unwrap().trim().to_owned())
    };
    let settings =
        ["ipv4/conf/IF/rp_filter", "ipv4/conf/IF/forwarding", "ipv6/conf/IF/disable_ipv6"].map(setting);
    assert_eq!(settings, ["1", "0", "1"]);
}
