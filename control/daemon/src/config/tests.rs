use std::fmt::Write;

use super::{load, parse};
use vswitch_model::{Carries, CollectorSpec, Config, DeviceSpec, Dscp, Mtu, Netns, Offloads, Tags, Ttl};

fn good(source: &str) -> Config {
    parse("net.toml", source).unwrap_or_else(|errors| panic!("{errors}\nin\n{source}"))
}

fn errors(source: &str) -> Vec<String> {
    match parse("net.toml", source) {
        Ok(config) => panic!("accepted:\n{source}\n{config:#?}"),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_design_example() {
    let config = good(
        r#"
        [switch]
        name = "host1"
        workers = "auto"
        state = "/var/lib/vswitch"
        damping = { moves = 0 }
        group_forward_mask = 0x4000
        [[network]]
        name = "blue"
        vni = 4096
        vlan = 10
        mtu = 1450
        [[network]]
        name = "red"
        vlan = 20
        [[network]]
        name = "green"
        tags = "pass"
        [[port]]
        name = "web"
        network = "blue"
        kind = "tap"
        netns = "web"
        ifname = "eth0"
        mac = "02:42:0a:09:00:02"
        address = ["10.9.0.2/24"]
        gateway = "10.9.0.1"
        storm.broadcast = 0
        limit = { rx = "100 Mbit/s", tx = "1 Gbit/s", tx_burst = 1_000_000 }
        [[port]]
        name = "uplink"
        kind = "packet"
        device = "eth1"
        trunk = ["blue"]
        native = "red"
        [api]
        socket = "/run/vswitch/api.sock"
        "#,
    );
    assert_eq!(config.switch.name, "host1");
    assert_eq!(config.switch.workers, None);
    assert_eq!((config.switch.damping.moves, config.switch.damping.window.as_secs()), (0, 180));
    assert_eq!(config.switch.group_forward_mask, 1 << 14);
    assert_eq!(config.networks[2].tags, Tags::Pass);
    let [web, uplink] = &config.ports[..] else { panic!("{:?}", config.ports) };
    let interface = web.interface().unwrap();
    assert_eq!(interface.netns, Some(Netns::Name("web".into())));
    assert_eq!(interface.gateway.len(), 1);
    assert_eq!(web.storm.broadcast, Some(0));
    assert_eq!(web.limit.to_string(), "rx 100 Mbit/s, tx 1 Gbit/s (burst 1000000)");
    assert!(matches!(&uplink.carries, Carries::Trunk { trunk, native: Some(_) } if trunk.len() == 1));
    assert_eq!(uplink.device, DeviceSpec::Packet { device: "eth1".parse().unwrap() });
}

#[test]
fn an_empty_file_is_a_switch_without_ports() {
    assert_eq!(good(""), Config::default());
}

#[test]
fn the_web_page_leaves_this_host_only_when_told_so() {
    for text in ["web = '127.0.0.1:9478'", "web = '[::1]:9478'", "web = '0.0.0.0:9478'\nweb_public = true"] {
        let address = good(&format!("[api]\n{text}")).api.web.unwrap();
        assert_eq!(address.port(), 9478);
    }
    assert_eq!(good("[api]").api.web, None, "nobody is shown anything unasked");
    let named = good("[api]\nweb = '127.0.0.1:9478'\nweb_hosts = ['Switch.example.org', 'host1']").api;
    assert!(named.web_hosts[0] == *"switch.example.org" && named.web_hosts[1] == *"host1");
}

/// The whole of it: each error has its line, none hides another, none follows from another.
#[test]
fn all_errors_at_once() {
    let found = errors(
        r#"[switch]
workers = 65
ageing = "5m"

[vxlan]
ttl = 0

[[network]]
name = "blue"
vlan = 4095
mut = 1450

[[network]]
name = "blue"

[[port]]
name = "web"
network = "bleu"
kind = "tap"
address = ["10.9.0.2/24", "10.9.0.300/24"]

[[port]]
network = "blue"
kind = "tun"
netns = 7

[[port]]
name = "up"
kind = "packet"
ifname = "eth0"
trunk = [
  "blue",
  "green",
]

[api]
metrics = "localhost"
"#,
    );
    let expected = [
        "net.toml:2: switch.workers: 65 is out of range: use 1 to 64",
        "net.toml:3: switch.ageing: is a text, not a whole number: use 1 to 1000000",
        "net.toml:5: vxlan.local: missing: name the address of this host that peers send to",
        "net.toml:6: vxlan.ttl: 0 is out of range: use 1 to 255",
        "net.toml:10: network[0].vlan: 4095 is reserved: use 1 to 4094",
        "net.toml:11: network[0].mut: unknown key: did you mean mtu?",
        "net.toml:14: network[1].name: another network is named blue: rename one",
        "net.toml:18: port[0].network: no network is named bleu: did you mean blue?",
        "net.toml:20: port[0].address[1]: \"10.9.0.300/24\" is not an IP address: write it like 10.9.0.2/24",
        "net.toml:22: port[1].name: missing: name the port",
        "net.toml:24: port[1].kind: \"tun\" is not a kind of port: use \"tap\", \"veth\" or \"packet\", or \"collector\" for a mirror to another host",
        "net.toml:25: port[1].netns: is a whole number: write it in quotes",
        "net.toml:27: port[2].device: missing: name the interface to use",
        "net.toml:30: port[2].ifname: belongs to kind tap or veth: a packet port takes its interface as it is",
        "net.toml:33: port[2].trunk[1]: no network is named green: declare it",
        "net.toml:37: api.metrics: \"localhost\" is not an address with a port: write it like \"127.0.0.1:9477\"",
    ];
    assert_eq!(found, expected);
}

/// One wrong line each, within an otherwise right file.
#[test]
fn one_error_each() {
    let port = |lines: &str| {
        format!(
            "[[network]]\nname='blue'\nvlan=10\n[[network]]\nname='red'\n[[port]]\nname='web'\nnetwork='blue'\n\
             kind='tap'\nmac='02:00:00:00:00:01'\naddress='10.9.0.2/24'\n[[port]]\nname='db'\n{lines}"
        )
    };
    let tap = |lines: &str| port(&format!("kind='tap'\nnetwork='blue'\n{lines}"));
    let trunk = |lines: &str| port(&format!("kind='tap'\n{lines}"));
    let collector = |lines: &str| {
        port(&format!(
            "kind='collector'\nmirror={{ports=['web']}}\nremote='10.8.0.9'\nvni=9000\n{lines}\n[vxlan]\nlocal='10.8.0.1'"
        ))
    };
    let table = [
        ("x = 1".into(), "net.toml:1: x: unknown key: remove it"),
        ("[swich]".into(), "net.toml:1: swich: unknown key: did you mean switch?"),
        ("[docker]\nsocket='/run/x'".into(), "docker.socket: does not end in .sock: the file name without .sock is Docker's name for the driver"),
        ("switch = 3".into(), "net.toml:1: switch: is a whole number: write a table, [switch]"),
        ("[port]\nname='a'".into(), "net.toml:1: port: is a table: write one [[port]] for each"),
        ("port = [1]".into(), "net.toml:1: port[0]: is a whole number: write a table, [[port]]"),
        ("[switch]\nname=''".into(), "switch.name: is empty"),
        ("[switch]\nworkers='many'".into(), "switch.workers: is a text, not a whole number: use 1 to 64"),
        ("[switch]\nworkers=0".into(), "switch.workers: 0 is out of range: use 1 to 64"),
        ("[switch]\nstate='lib'".into(), "switch.state: \"lib\" is relative"),
        ("[switch]\nageing=0".into(), "use 1 to 1000000"),
        ("[switch]\nbusy_poll=1001".into(), "use 0 to 1000"),
        ("[switch]\nmac_limit=4194305".into(), "use 1 to 4194304"),
        ("[switch]\ngroup_forward_mask=0x10000".into(), "0x10000 is out of range: use 0 to 65535"),
        ("[switch]\ngroup_forward_mask='0x4000'".into(), "is a text, not a whole number"),
        ("[switch]\ndamping={moves=-1}".into(), "switch.damping.moves: -1 is out of range"),
        ("[switch]\ndamping={move=1}".into(), "switch.damping.move: unknown key: did you mean moves?"),
        (format!("[api]\nsocket='/{}'", "s".repeat(100)), "api.socket: is longer than 99 bytes"),
        ("[api]\ngroup=''".into(), "api.group: is empty"),
        ("[api]\nweb='9478'".into(), "api.web: \"9478\" is not an address with a port: write it like 127.0.0.1:9478"),
        ("[api]\nweb='localhost:9478'".into(), "write it like 127.0.0.1:9478"),
        ("[api]\nweb='127.0.0.1:0'".into(), "api.web: has port 0"),
        (
            "[api]\nweb='0.0.0.0:9478'".into(),
            "net.toml:2: api.web: 0.0.0.0 can be reached by other hosts, and the page shows ports, addresses and traffic to everyone who can reach it, without password or encryption: use 127.0.0.1 and a tunnel, or set web_public = true",
        ),
        ("[api]\nweb='[fd00::1]:80'\nweb_public=false".into(), "api.web: fd00::1 can be reached"),
        ("[api]\nweb_public=true".into(), "api.web_public: belongs to web"),
        ("[api]\nweb_hosts=['host1']".into(), "api.web_hosts: belongs to web"),
        (
            "[api]\nweb='127.0.0.1:80'\nweb_hosts=['host1', 'host1:80']".into(),
            "net.toml:3: api.web_hosts[1]: \"host1:80\" is not a host name: write it like switch.example.org, without port",
        ),
        ("[[network]]\nname='a b'".into(), "network[0].name: \"a b\" is not a valid name"),
        ("[[network]]\nvlan=1".into(), "net.toml:1: network[0].name: missing"),
        ("[[network]]\nname='a'\nvlan=0".into(), "0 means \"priority tag, no VLAN\": use 1 to 4094"),
        ("[[network]]\nname='a'\nvlan=70000".into(), "network[0].vlan: 70000 is"),
        ("[[network]]\nname='a'\nvlan='10'".into(), "network[0].vlan: is a text"),
        ("[[network]]\nname='a'\nvni=16777216".into(), "network[0].vni: 16777216 is out of range"),
        ("[[network]]\nname='a'\nvni=-1".into(), "network[0].vni: -1 is out of range: use 0 to 16777215"),
        (
            "[[network]]\nname='a'\n[[network.subnet]]\nsubnet='10.9.0.0/30'\naux={a='10.9.0.1',b='10.9.0.2'}".into(),
            "network[0].subnet[0]: no available addresses on this pool",
        ),
        ("[[network]]\nname='a'\nmtu=67".into(), "network[0].mtu: 67 is out of range: use 68 to 9198"),
        ("[[network]]\nname='a'\ntags='keep'".into(), "network[0].tags: \"keep\" is not valid"),
        (
            "[[network]]\nname='a'\nvlan=1\n[[network]]\nname='b'\nvlan=1".into(),
            "net.toml:6: network[1].vlan: network a has vlan 1 already: use another",
        ),
        ("[[network]]\nname='a'\nvni=1\n[[network]]\nname='b'\nvni=1".into(), "network a has vni 1 already"),
        (
            "[[network]]\nname='q'\ntags='pass'\n[[network]]\nname='v'\nvlan=3\n[[port]]\nname='u'\nkind='packet'\ndevice='e'\ntrunk=['v']\nnative='q'".into(),
            "port[0].native: network q passes tags, which would be taken for this trunk's own: carry it tagged",
        ),
        (port("kind='tap'"), "net.toml:12: port[1].network: missing"),
        (port("network='blue'"), "net.toml:12: port[1].kind: missing"),
        (tap("name='x'"), "duplicate key"),
        (tap("trunk=['blue']"), "port[1].network: a port has network (access) or trunk, not both"),
        (tap("native='red'"), "port[1].native: an access port's network is untagged already"),
        (trunk("native='red'"), "port[1].native: belongs to a trunk"),
        (trunk("trunk=[]"), "port[1].trunk: is empty"),
        (trunk("trunk=['red']"), "port[1].trunk[0]: network red has no vlan to be tagged with"),
        (trunk("trunk=['blue','blue']"), "port[1].trunk[1]: network blue is listed twice"),
        (
            trunk("trunk=['blue']\nnative='blue'"),
            "port[1].native: network blue is tagged on this trunk as well",
        ),
        (tap("mirror={ports=['web']}"), "port[1].network: a port that mirrors others carries no network"),
        (trunk("mirror={}"), "net.toml:15: port[1].mirror: names nothing to copy from: write ports, or networks"),
        (trunk("mirror={ports=['wbe']}"), "port[1].mirror: no port is named wbe"),
        (trunk("mirror={ports=['db']}"), "port[1].mirror: db gets copies itself"),
        (trunk("mirror={networks=['green']}"), "port[1].mirror: no network is named green"),
        (trunk("mirror={ports=['web'],direction='in'}"), "port[1].mirror.direction: not a direction: use rx or tx"),
        (trunk("mirror={ports=['web'],port=1}"), "port[1].mirror.port: unknown key: did you mean ports?"),
        (
            port("kind='collector'\nmirror={ports=['web']}\nvni=9000\n[vxlan]\nlocal='10.8.0.1'"),
            "port[1].remote: missing: name the collector's address",
        ),
        (
            port("kind='collector'\nmirror={ports=['web']}\nremote='10.8.0.9'\n[vxlan]\nlocal='10.8.0.1'"),
            "port[1].vni: missing: choose the number by which the collector knows the copies",
        ),
        (
            port("kind='collector'\nremote='10.8.0.9'\nvni=9000\n[vxlan]\nlocal='10.8.0.1'"),
            "port[1].mirror: missing: a collector gets copies",
        ),
        (
            port("kind='collector'\nmirror={ports=['web']}\nremote='10.8.0.9'\nvni=9000"),
            "net.toml:14: port[1].kind: a collector is reached through the tunnel, and there is no [vxlan]: add it",
        ),
        (collector("ifname='eth0'"), "port[1].ifname: belongs to other kinds of port: a collector has no interface"),
        (collector("network='blue'"), "port[1].network: a port that mirrors others carries no network"),
        (collector("remote_port=0"), "port[1].remote_port: 0 is out of range: use 1 to 65535"),
        (tap("vni=5"), "port[1].vni: belongs to kind collector: remove it; a network's vni says how peers know it"),
        (tap("remote='10.8.0.9'"), "port[1].remote: belongs to kinds peer and collector: remove it"),
        (trunk("trunk=['blue']\nnative='rot'"), "port[1].native: no network is named rot: declare it"),
        (trunk("trunk=['blue']\naddress='10.1.0.1/24'"), "port[1].address: untagged frames of this trunk"),
        (tap("mtu=1501"), "port[1].mtu: 1501 is more than the 1500 of network blue"),
        (tap("mtu=67"), "port[1].mtu: 67 is out of range"),
        (tap("mac_limit=0"), "port[1].mac_limit: 0 is out of range: use 1 to 4194304"),
        (tap("isolated=1"), "port[1].isolated: is a whole number: use true or false"),
        (tap("storm={unknwn=1}"), "port[1].storm.unknwn: unknown key: did you mean unknown?"),
        (tap("storm={unknown=-1}"), "port[1].storm.unknown: -1 is out of range"),
        (tap("limit={rx='fast'}"), "net.toml:16: port[1].limit.rx: \"fast\" is not a rate: use a whole number and bit/s"),
        (tap("limit={rx=100}"), "port[1].limit.rx: is a whole number: write it in quotes"),
        (tap("limit={tx='1 Gbit/s',tx_burst=0}"), "port[1].limit.tx_burst: 0 is out of range: use 1 to 4294967295"),
        (
            tap("limit={rx='1 Gbit/s',tx_burst=7}"),
            "port[1].limit.tx_burst: there is no limit.tx that it belongs to: add it, or remove this",
        ),
        (tap("limit={egress='1 Gbit/s'}"), "port[1].limit.egress: unknown key"),
        (tap("device='eth1'"), "port[1].device: belongs to kind packet"),
        (port("kind='packet'\nnetwork='blue'"), "port[1].device: missing"),
        (port("kind='packet'\nnetwork='blue'\ndevice='et h'"), "port[1].device: \"et h\" is not an interface name"),
        (
            port("kind='packet'\nnetwork='blue'\ndevice='web'"),
            "port[1].device: port web has the interface web",
        ),
        (tap("ifname='web'"), "port[1].ifname: port web has the interface web already"),
        (tap("ifname=''"), "port[1].ifname: \"\" is not an interface name"),
        (tap("ifname='..'"), "port[1].ifname: \"..\" is not an interface name"),
        (tap("ifname='a/b'"), "port[1].ifname: \"a/b\" is not an interface name: use 1 to 15"),
        (tap("ifname='abcdefghijklmnop'"), "port[1].ifname: \"abcdefghijklmnop\" is not an interface name"),
        (
            "[[network]]\nname='blue'\n[[port]]\nname='abcdefghijklmnop'\nkind='tap'\nnetwork='blue'".into(),
            "port[0].ifname: the port's name is the interface's, too, and \"abcdefghijklmnop\" is longer than the 15",
        ),
        (tap("netns=''"), "port[1].netns: \"\" names no namespace"),
        (tap("netns='pid:x'"), "port[1].netns: \"pid:x\" is not a process"),
        (tap("netns='pid:0'"), "port[1].netns: there is no process 0"),
        (tap("netns='run/netns/a'"), "port[1].netns: \"run/netns/a\" is relative"),
        (tap("mac='02:42'"), "port[1].mac: not a MAC address"),
        (tap("mac='01:00:5e:00:00:01'"), "port[1].mac: 01:00:5e:00:00:01 is a multicast address or zero"),
        (tap("mac='00:00:00:00:00:00'"), "port[1].mac: 00:00:00:00:00:00 is a multicast address or zero"),
        (
            tap("mac='02:00:00:00:00:01'"),
            "port[1].mac: port web of network blue has 02:00:00:00:00:01 already",
        ),
        (tap("address='10.9.0.2/16'"), "port[1].address[0]: port web of network blue has 10.9.0.2 already"),
        (
            tap("address='10.9.0.3'"),
            "port[1].address: 10.9.0.3 has no prefix length: write it like 10.9.0.3/24",
        ),
        (tap("address='fd00::3'"), "port[1].address: fd00::3 has no prefix length: write it like fd00::3/64"),
        (tap("address=[3]"), "port[1].address[0]: is a whole number: write it in quotes"),
        (tap("address='10.9.0.3/0'"), "makes all addresses the local subnet"),
        (tap("address='10.9.0.0/24'"), "10.9.0.0 is the subnet 10.9.0.0/24 itself"),
        (tap("address='10.9.0.255/24'"), "10.9.0.255 is the broadcast address of 10.9.0.0/24"),
        (tap("address='224.0.0.1/24'"), "224.0.0.1 is not a station's address"),
        (tap("address='fd00::/64'"), "fd00:: is the subnet fd00::/64 itself"),
        (tap("address=['10.9.0.3/24','10.9.0.3/16']"), "port[1].address[1]: 10.9.0.3 is listed twice"),
        (tap("mtu=1279\naddress='fd00::3/64'"), "IPv6 needs an mtu of 1280 or more, and the port's is 1279"),
        (tap("gateway='10.9.0.1'"), "port[1].gateway[0]: 10.9.0.1 is in no subnet"),
        (tap("gateway='10.9.0.1/24'"), "port[1].gateway: \"10.9.0.1/24\" is not an IP address"),
        (tap("address='10.9.0.3/24'\ngateway='10.8.0.1'"), "10.8.0.1 is in no subnet"),
        (tap("address='10.9.0.3/24'\ngateway='10.9.0.3'"), "10.9.0.3 is the port's own address"),
        (tap("address='10.9.0.3/24'\ngateway='10.9.0.255'"), "10.9.0.255 is the broadcast address"),
        (
            tap("address='10.9.0.3/24'\ngateway=['10.9.0.1','10.9.0.4']"),
            "port[1].gateway[1]: a second IPv4 gateway: keep one",
        ),
        (tap("guard=true"), "port[1].guard: needs the address that it guards: set mac"),
        (tap("mac='02:00:00:00:00:09'\nguard='yes'"), "port[1].guard: is a text"),
        (tap("mac='02:00:00:00:00:09'\nguard={also=['web']}"), "port[1].guard.also[0]: \"web\" is no address of a station"),
        (tap("mac='02:00:00:00:00:09'\nguard={alos=[]}"), "port[1].guard.alos: unknown key: did you mean also?"),
        (
            port("network='blue'\nkind='packet'\ndevice='eth9'\nguard=true"),
            "port[1].guard: belongs to kind tap or veth",
        ),
        (port("trunk=['blue']\nkind='tap'\nguard=true"), "port[1].guard: belongs to access ports"),
        (port("network='blue'\nkind='tap'\nname2='x'"), "port[1].name2: unknown key: did you mean name?"),
    ];
    let mut wrong = String::new();
    for (source, expected) in table {
        let found = errors(&source);
        if found.len() != 1 || !found[0].contains(expected) {
            let _ = writeln!(wrong, "expected {expected:?}, found {found:#?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_is_unusual_but_right() {
    for port in [
        "kind='tap'\nnetwork='blue'\naddress=['10.9.0.2/31','10.9.0.3/32']",
        "kind='tap'\nnetwork='blue'\naddress='fd00::2/64'\ngateway='fe80::1'",
        "kind='veth'\nnetwork='blue'\nnetns='/run/netns/x'\nifname='eth0'",
        "kind='veth'\nnetwork='blue'\nnetns='pid:77'\nifname='eth0'",
        "kind='packet'\ntrunk=['blue']\nmtu=9000\ndevice='eth1'",
        "kind='tap'\ntrunk=['blue']\nnative='red'\naddress='10.9.0.2/24'",
        "kind='tap'\nmirror={networks=['blue'],direction='rx'}",
        "kind='tap'\nnetwork='blue'\nstorm={broadcast=0,multicast=10,unknown=4_294_967_295}",
    ] {
        good(&format!(
            "[[network]]\nname='blue'\nvlan=1\n[[network]]\nname='red'\n[[port]]\nname='a'\n{port}"
        ));
    }
    // The same address or MAC on two networks meets nobody.
    good(
        "[[network]]\nname='a'\n[[network]]\nname='b'\n[[port]]\nname='x'\nkind='tap'\nnetwork='a'\n\
         mac='02:00:00:00:00:01'\naddress='10.0.0.1/8'\n[[port]]\nname='y'\nkind='tap'\nnetwork='b'\n\
         mac='02:00:00:00:00:01'\naddress='10.0.0.1/8'",
    );
}

#[test]
fn text_that_is_no_toml() {
    let found = errors("[switch\nname = \"a\"\nworkers = = 2\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("net.toml:1: is not valid TOML: "), "{found:?}");
    assert!(found.last().unwrap().starts_with("net.toml:3: is not valid TOML: "), "{found:?}");
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.toml");
    let error = load(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{}: there is no such file: create it, or name another", path.display()));
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn the_example_file() {
    let networks =
        load(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/networks.toml")).unwrap().networks;
    assert_eq!(networks[0].subnets[0].gateway, Some("10.9.0.128".parse().unwrap()));
    assert!(networks[1].internal);
    let endpoints = load(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/host.toml")).unwrap().endpoints;
    assert_eq!(endpoints.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["web", "db"]);
    let config = load(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/net.toml")).unwrap();
    let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["web", "db"]);
    assert!(config.ports.iter().all(|port| port.ifname() == "eth0" && !port.interface().unwrap().persist));
}

/// The manual may not promise what the reader refuses.
#[test]
fn every_example_of_the_manual() {
    let manual = include_str!("../../../../docs/config.md");
    let examples: Vec<_> =
        manual.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 3, "{}", examples.len());
    for example in examples {
        good(example);
    }
}

mod hostile {
    use proptest::prelude::*;

    use crate::config::parse;

    proptest! {
        /// A file is no wire, but an operator's slip must not end in a panic either.
        #[test]
        fn no_text_panics(lines in proptest::collection::vec(
            prop_oneof![
                Just("[[port]]".to_owned()), Just("[[network]]".to_owned()), Just("[switch]".to_owned()),
                "(name|network|trunk|kind|mtu|vlan|address|gateway|netns|storm|limit|native) = ('[a-f0-9.:/]{0,9}'|-?[0-9]{1,40}|\\[\\]|\\['x', 3\\]|\\{\\}|1.5|true|1979-05-27)",
                "\\PC{0,20}",
            ], 0..12)) {
            let _ = parse("net.toml", &lines.join("\n"));
        }
    }
}

#[test]
fn a_tunnel_is_an_endpoint_and_its_peers() {
    let config = parse(
        "net.toml",
        r#"
        [vxlan]
        local = "10.8.0.1"
        underlay_mtu = 9000
        ttl = "inherit"
        dscp = "inherit"
        group = "239.1.1.1"
        [[vxlan.peer]]
        address = "10.8.0.2"
        [[vxlan.peer]]
        name = "old"
        address = "10.8.0.3"
        port = 8472
        networks = ["blue"]
        flood = true
        [[network]]
        name = "blue"
        vni = 4096
        fragment = true
        "#,
    )
    .unwrap();
    let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["10.8.0.2", "old", "vxlan", "vxlan-group"]);
    let DeviceSpec::Vxlan(endpoint) = &config.ports[2].device else { panic!("{:?}", config.ports[2]) };
    assert_eq!((endpoint.port, endpoint.ttl, endpoint.dscp), (4789, Ttl::Inherit, Dscp::Inherit));
    assert!(config.networks[0].fragment);
    assert_eq!(config.networks[0].mtu(Some(endpoint.overlay_mtu())).get(), 8950);
    assert!(config.ports[0].holds(&config.networks[0]));
}

#[test]
fn merging_and_fragments_have_their_place() {
    let text = |port: &str, network: &str| {
        format!("[[network]]\nname = \"blue\"\n{network}\n[[port]]\nname = \"a\"\n{port}\n")
    };
    let config =
        parse("net.toml", &text("network = \"blue\"\nkind = \"tap\"\noffload = \"udp\"", "")).unwrap();
    assert_eq!(config.ports[0].offload, Offloads::Udp);
    let misplaced = "\"udp\" is for ports of kind tap that carry a network: use true or false";
    let veth = text("network = \"blue\"\nkind = \"veth\"\noffload = \"udp\"", "");
    assert_eq!(errors(&veth), [format!("net.toml:8: port[0].offload: {misplaced}")]);
    let mirror = text("mirror = { networks = [\"blue\"] }\nkind = \"tap\"\noffload = \"udp\"", "");
    assert_eq!(errors(&mirror), [format!("net.toml:8: port[0].offload: {misplaced}")]);
    let found = errors(&text("network = \"blue\"\nkind = \"tap\"", "fragment = true"));
    let needed = "concerns tunnels, which carry networks with a vni: give it one, or leave this out";
    assert_eq!(found, [format!("net.toml:3: network[0].fragment: {needed}")]);
    let options = "vni = 7\noptions = { fragment = \"true\" }";
    let config = parse("net.toml", &text("network = \"blue\"\nkind = \"tap\"", options)).unwrap();
    assert!(config.networks[0].fragment && config.networks[0].options.text().is_empty());
}

/// A link-local address is ambiguous without its link.
#[test]
fn link_local_addresses_of_tunnels_name_their_interface() {
    let config = good(
        "[vxlan]\nlocal = 'fe80::1%eth1'\ngroup = 'ff02::7'\n[[vxlan.peer]]\naddress = 'fe80::2%eth1'\n",
    );
    assert_eq!(config.ports[0].name.as_str(), "fe80--2-eth1");
    let why = "is a link-local address, which does not name its link: write the interface as well, like";
    let found = errors("[vxlan]\nlocal = \"fd00::1\"\n[[vxlan.peer]]\naddress = \"fe80::1\"\n");
    assert_eq!(found, [format!("net.toml:4: vxlan.peer[0].address: fe80::1 {why} fe80::1%eth1")]);
    let found = errors("[vxlan]\nlocal = \"fe80::1\"\n");
    assert_eq!(found, [format!("net.toml:2: vxlan.local: fe80::1 {why} fe80::1%eth1")]);
    let found = errors("[vxlan]\nlocal = 'fe80::1%eth1'\n[[vxlan.peer]]\naddress = 'fe80::2%eth2'\n");
    let other = "fe80::2%eth2 is not on the link of the local address fe80::1%eth1: link-local peers need a link-local address of this host on the same interface";
    assert_eq!(found, [format!("net.toml:4: vxlan.peer[0].address: {other}")]);
}

#[test]
fn all_errors_of_a_tunnel_at_once() {
    let found = errors(
        r#"[vxlan]
local = "10.8.0.1"
group = "10.8.0.9"
dscp = 64
strikt = true

[[vxlan.peer]]
address = "10.8.0.2"
networks = ["blue", "bleu", "red"]

[[vxlan.peer]]
name = "again"
address = "10.8.0.2"

[[vxlan.peer]]
address = "fd00::2"

[[vxlan.peer]]
address = "10.8.0.1"

[[vxlan.peer]]
address = "239.0.0.1"

[[vxlan.peer]]
port = 0

[[network]]
name = "blue"
vni = 1

[[network]]
name = "red"
"#,
    );
    let expected = [
        "net.toml:3: vxlan.group: 10.8.0.9 is not a multicast group: use one of 224.0.0.0/4 or ff00::/8",
        "net.toml:4: vxlan.dscp: 64 is out of range: use 0 to 63",
        "net.toml:5: vxlan.strikt: unknown key: did you mean strict?",
        "net.toml:9: vxlan.peer[0].networks[1]: no network is named bleu: did you mean blue?",
        "net.toml:9: vxlan.peer[0].networks[2]: network red has no vni to cross the tunnel with: give it one",
        "net.toml:13: vxlan.peer[1].address: peer 10.8.0.2 has 10.8.0.2 already: use another, or remove one",
        "net.toml:16: vxlan.peer[2].address: fd00::2 and the local address 10.8.0.1 are of different families: an underlay is either IPv4 or IPv6",
        "net.toml:19: vxlan.peer[3].address: 10.8.0.1 is this host's own address: name the other host's",
        "net.toml:22: vxlan.peer[4].address: 239.0.0.1 is a group: name a host, and the group with vxlan.group",
        "net.toml:24: vxlan.peer[5].address: missing: name the peer's address",
        "net.toml:25: vxlan.peer[5].port: 0 is out of range: use 1 to 65535",
    ];
    assert_eq!(found, expected);
}

#[test]
fn collectors() {
    // One that is a peer as well, and two mirrors to one.
    let config = good(
        r#"
        [vxlan]
        local = "10.8.0.1"
        [[vxlan.peer]]
        address = "10.8.0.2"
        [[network]]
        name = "blue"
        vni = 4096
        [[port]]
        name = "web"
        kind = "tap"
        network = "blue"
        [[port]]
        name = "ids"
        kind = "collector"
        remote = "10.8.0.2"
        remote_port = 8472
        vni = 9000
        mirror = { ports = ["web"] }
        [[port]]
        name = "more"
        kind = "collector"
        remote = "10.8.0.2"
        vni = 9000
        mtu = 1450
        mirror = { networks = ["blue"], direction = "rx" }
        "#,
    );
    let DeviceSpec::Collector(ids) = &config.ports[1].device else { panic!("{:?}", config.ports[1]) };
    let vni = "9000".parse().unwrap();
    let expected = CollectorSpec { remote: "10.8.0.2".parse().unwrap(), remote_port: Some(8472), vni };
    assert_eq!(*ids, expected);
    let found = errors(
        r#"[vxlan]
local = "10.8.0.1"
[[network]]
name = "blue"
vni = 4096
[[port]]
name = "a"
kind = "collector"
remote = "10.8.0.2"
vni = 4096
mirror = { networks = ["blue"] }
[[port]]
name = "b"
kind = "collector"
remote = "239.0.0.1"
vni = 16777216
mirror = { networks = ["blue"] }
[[port]]
name = "c"
kind = "collector"
remote = "10.8.0.1"
vni = 1
mirror = { ports = ["a"] }
[[port]]
name = "d"
kind = "collector"
remote = "fd00::2"
vni = 1
mirror = { networks = ["blue"] }
"#,
    );
    let expected = [
        "net.toml:10: port[0].vni: network blue has vni 4096, and copies would be frames of it: choose another",
        "net.toml:15: port[1].remote: 239.0.0.1 is a group: name the one host that gets the copies",
        "net.toml:16: port[1].vni: 16777216 is out of range: use 0 to 16777215",
        "net.toml:21: port[2].remote: 10.8.0.1 is this host's own address: name the other host's",
        "net.toml:23: port[2].mirror: a gets copies itself: name the ports that it copies from",
        "net.toml:27: port[3].remote: fd00::2 and the local address 10.8.0.1 are of different families: an underlay is either IPv4 or IPv6",
    ];
    assert_eq!(found, expected);
}

#[test]
fn networks_as_docker_knows_them() {
    let config = good(
        r#"
        [ipam]
        local = [{ base = "10.99.0.0/16", size = 24 }]
        [[network]]
        name = "blue"
        labels = { team = "a" }
        options = { icc = "false", "com.docker.network.driver.mtu" = "1400" }
        [[network.subnet]]
        subnet = "10.9.0.0/24"
        ip_range = "10.9.0.128/25"
        aux = { router = "10.9.0.128" }
        [[network.subnet]]
        subnet = "fd09::/64"
        gateway = "fd09::ff"
        [[network]]
        name = "lan"
        driver = "uplink"
        options = { parent = "eth1.10", host = "true" }
        subnet = [{ subnet = "192.0.2.0/24", gateway = "192.0.2.254" }]
        "#,
    );
    let [blue, lan] = &config.networks[..] else { panic!("{:?}", config.networks) };
    assert_eq!((blue.mtu.map(Mtu::get), blue.ipv6), (Some(1400), true));
    assert_eq!(
        blue.subnets[0].gateway,
        Some("10.9.0.129".parse().unwrap()),
        "the first free one of the range"
    );
    assert_eq!(blue.id(), vswitch_model::Id::of("blue"));
    assert_eq!(lan.vlan.map(|vlan| vlan.as_u16()), Some(10));
    assert_eq!(lan.subnets[0].aux["host"], "192.0.2.1".parse::<std::net::IpAddr>().unwrap());
    assert_eq!((config.ipam.local[0].size, config.ipam.overlay.len()), (24, 1));
    assert!(good("[ipam]\nlocal = []").ipam.local.is_empty(), "no pools at all");
}

#[test]
fn errors_of_networks_have_their_places() {
    let found = errors(
        r#"[ipam]
local = [{ base = "10.99.0.1/16", size = 24 }, { base = "10.98.0.0/16", size = 8 }]
ipv6 = [{ base = "10.97.0.0/16", size = 24 }]
[[network]]
name = "host"
[[network]]
name = "blue"
driver = "overlay"
[[network.subnet]]
subnet = "10.9.0.1/24"
[[network.subnet]]
ip_range = "10.9.0.0/25"
[[network]]
name = "red"
driver = "uplink"
options = { paren = "eth1", icc = 7 }
[[network]]
name = "green"
driver = "briddge"
subnet = [{ subnet = "10.8.0.0/16" }]
[[network]]
name = "grey"
subnet = [{ subnet = "10.8.9.0/24", gateway = "10.8.8.1", aux = { x = "y" } }]
vni = 7
options = { icc = "maybe" }
[[network]]
name = "lan1"
driver = "uplink"
options = { parent = "eth9" }
[[network]]
name = "lan2"
driver = "uplink"
options = { parent = "eth9" }
"#,
    );
    for expected in [
        "net.toml:2: ipam.local[0].base: has host bits: write 10.99.0.0/16",
        "net.toml:2: ipam.local[1].size: 8 is out of range: use 16 to 31",
        "net.toml:3: ipam.ipv6[0].base: 10.97.0.0/16 is not IPv6",
        "net.toml:5: network[0].name: host is a pre-defined network: choose another name",
        "net.toml:6: network[1].vni: missing: tunnels carry an overlay network by it, on all hosts by the same",
        "net.toml:9: network[1].subnet[0]: invalid subnet 10.9.0.1/24: it should be 10.9.0.0/24",
        "net.toml:11: network[1].subnet[1].subnet: missing: write all its addresses, like 10.9.0.0/24",
        "net.toml:16: network[2].options.paren: is unknown: did you mean parent?",
        "net.toml:19: network[3].driver: could not find plugin briddge in v1 plugin registry: use bridge, overlay or uplink",
        "net.toml:23: network[4].subnet[0].aux.x: \"y\" is not an IP address",
        "net.toml:25: network[4].options.icc: \"maybe\" is not valid: use true or false",
        "net.toml:33: network[6].options: network lan1 uses the same parent already: give one a VLAN",
    ] {
        assert!(found.iter().any(|line| line == expected), "{expected}\nis not in\n{}", found.join("\n"));
    }
}

#[test]
fn endpoints_and_their_published_ports() {
    let config = good(
        r#"
        [[network]]
        name = "blue"
        subnet = [{ subnet = "10.9.0.0/24" }, { subnet = "fd09::/64" }]
        [[endpoint]]
        name = "web"
        network = "blue"
        netns = "web"
        ip = "10.9.0.2"
        ip6 = "fd09::2"
        mac = "02:42:0a:09:00:02"
        ifname = "eth7"
        aliases = ["www"]
        publish = ["8080:80", "127.0.0.1:53:53/udp"]
        services = ["shop"]
        labels = { app = "web" }
        options = { kind = "veth", "limit.rx" = "10 Mbit/s" }
        [[endpoint]]
        name = "db"
        network = "blue"
        netns = "/proc/7/ns/net"
        publish = ["127.0.0.2:53:53/udp", "8080:80/udp", "80"]
        "#,
    );
    let [web, db] = &config.endpoints[..] else { panic!("{:?}", config.endpoints) };
    assert_eq!((web.name.as_str(), web.network.as_str()), ("web", "blue"));
    assert_eq!(web.connect.publish.len(), 2);
    assert_eq!((web.connect.services[0].as_str(), web.connect.labels["app"].as_str()), ("shop", "web"));
    assert_eq!(web.connect.sandbox, Some(Netns::Name("web".into())));
    assert_eq!(db.connect.sandbox, Some(Netns::Path("/proc/7/ns/net".into())));
    assert_ne!(web.digest(), db.digest());
}

#[test]
fn errors_of_endpoints_have_their_places() {
    let found = errors(
        r#"[[network]]
name = "blue"
subnet = [{ subnet = "10.9.0.0/24" }]
[[endpoint]]
network = "blue"
netns = "a"
[[endpoint]]
name = "web"
network = "green"
netns = "a"
[[endpoint]]
name = "db"
network = "blue"
netns = "a"
ip = "10.9.0.2"
publish = ["8080:80"]
[[endpoint]]
name = "db"
network = "blue"
netns = "b"
ip = "10.9.0.2"
publish = ["127.0.0.1:8080:80", "x"]
optoins = {}
[[endpoint]]
name = "c"
network = "blue"
netns = "c"
ip = "10.8.0.2"
ip6 = "fd09::1"
publish = ["9000-9002:1-3", "9002:1"]
options = { kind = "tub" }
[[endpoint]]
name = "d"
network = "blue"
netns = "d"
ip = "10.9.0.1"
"#,
    );
    for expected in [
        "net.toml:4: endpoint[0].name: missing: name the endpoint, uniquely in its network",
        "net.toml:9: endpoint[1].network: there is no network green: declare it in this file",
        "net.toml:18: endpoint[3].name: network blue has an endpoint db already: use another name",
        "net.toml:21: endpoint[3].ip: 10.9.0.2 is that of endpoint db already: use another",
        "net.toml:22: endpoint[3].publish[0]: the host's port leads to endpoint db already: use another",
        "net.toml:23: endpoint[3].optoins: unknown key: did you mean options?",
        "net.toml:28: endpoint[4].ip: 10.8.0.2 is in no subnet of network blue: use an address of one",
        "net.toml:29: endpoint[4].ip6: fd09::1 is in no subnet of network blue: use an address of one",
        "net.toml:30: endpoint[4].publish[1]: the host's port leads to endpoint c already: use another",
        "net.toml:36: endpoint[5].ip: 10.9.0.1 is the gateway of network blue: use another",
    ] {
        assert!(found.iter().any(|line| line == expected), "{expected}\nis not in\n{}", found.join("\n"));
    }
    let says = |start: &str| found.iter().any(|line| line.starts_with(start));
    assert!(says("net.toml:22: endpoint[3].publish[1]: "), "{}", found.join("\n"));
    assert!(says("net.toml:31: endpoint[4].options.kind: "), "{}", found.join("\n"));
}

#[test]
fn services() {
    let config = good(
        r#"
        [[network]]
        name = "blue"
        [[network.subnet]]
        subnet = "10.9.0.0/24"
        [[service]]
        name = "web"
        network = "blue"
        address = ["10.9.0.100"]
        selector = { app = "web" }
        affinity = "client-ip:10m"
        publish = ["8080:80", "published=7000,target=70,protocol=udp,mode=host"]
        drain = ["web-1"]
        health = { check = "http:80/", interval = 1, retries = 2 }
        [[service]]
        name = "all"
        network = "blue"
        mode = "dnsrr"
        "#,
    );
    let web = &config.services[0];
    let ports: Vec<_> = web.publish.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["8080:80/tcp", "published=7000,target=70,protocol=udp,mode=host"]);
    assert_eq!((web.selector.len(), web.drain.len(), web.health.as_ref().unwrap().retries), (1, 1, 2));
    let found = errors(
        r#"[[network]]
name = "blue"
[[service]]
network = "blue"
[[service]]
name = "a"
address = ["10.9.0.300"]
mode = "dsrr"
affinity = "client-ip:25h"
publish = ["80"]
health = { check = "ping" }
[[service]]
name = "b"
network = "blue"
adress = ["10.9.0.100"]
"#,
    );
    for (line, sentence) in [
        (3, "service[0].name: missing: name the service"),
        (3, "service[0].address: missing: choose an address of the network's subnet"),
        (5, "service[1].network: missing: name the network that it is in"),
        (7, "service[1].address"),
        (8, "service[1].mode: \"dsrr\" is neither: use \"vip\" or \"dnsrr\""),
        (9, "service[1].affinity: \"client-ip:25h\" is no affinity"),
        (10, "service[1].publish[0]: 80: choose the port of the hosts as well"),
        (11, "service[1].health"),
        (12, "service[2].address: missing"),
        (15, "service[2].adress"),
    ] {
        let there = format!("net.toml:{line}: {sentence}");
        assert!(found.iter().any(|it| it.starts_with(&there)), "{there}: {found:#?}");
    }
}
