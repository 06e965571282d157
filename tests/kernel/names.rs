//! Names: containers find each other by them, and others by other servers.

mod elsewhere;

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use vswitch_tests::{Netns, Vswitchd, eventually, net};

/// A server for other names, as net.toml has it: it is on the host, where the daemon asks it.
const UPSTREAM: &str = "127.0.0.9:5399";

pub(crate) fn switch(keys: &str) -> Vswitchd {
    Vswitchd::start(&net().keys(&format!("[dns]\nenabled = true\nupstream = [\"{UPSTREAM}\"]\n{keys}")))
}

pub(crate) fn network(switch: &Vswitchd, arguments: &str) {
    let words: Vec<_> = ["network"].into_iter().chain(arguments.split(' ')).collect();
    let output = switch.try_ctl(&words);
    assert_eq!(output.code, 0, "network {arguments}: {}", output.stderr);
}

/// Connects a sandbox under a name; answers its address.
pub(crate) fn connect(
    switch: &Vswitchd,
    network: &str,
    sandbox: &Netns,
    name: &str,
    more: &[&str],
) -> String {
    // A daemon with mounts of its own does not see the host's names of namespaces.
    let place = match switch.mounts() {
        Some(_) => format!("/proc/{}/root/run/netns/{}", std::process::id(), sandbox.name()),
        None => format!("netns:{}", sandbox.name()),
    };
    let named = ["network", "connect", "--name", name];
    let endpoint = switch.ctl(&[&named[..], more, &[network, &place]].concat());
    let net = endpoint["addresses"][0].as_str().unwrap();
    net.split('/').next().unwrap().to_owned()
}

/// What `dig` prints.
pub(crate) fn dig(netns: &Netns, arguments: &str) -> String {
    let mut dig = Command::new("dig");
    dig.args(["+tries=1", "+time=5"]).args(arguments.split(' '));
    let output = netns.run(|| dig.output().expect("bind9-dnsutils is installed"));
    String::from_utf8(output.stdout).unwrap()
}

/// The data of the answer to `dig +short` at the address of all networks.
pub(crate) fn short(netns: &Netns, question: &str) -> Vec<String> {
    let answer = dig(netns, &format!("@169.254.53.53 +short {question}"));
    let mut lines: Vec<_> = answer.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What the C library finds in the sandbox, with the resolv.conf that `ip netns exec` gives it.
fn getent(netns: &Netns, name: &str) -> String {
    let output = Command::new("ip")
        .args(["netns", "exec", netns.name(), "getent", "ahostsv4", name])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn resolv_conf(netns: &Netns) -> std::path::PathBuf {
    Path::new("/etc/netns").join(netns.name()).join("resolv.conf")
}

/// A server on the host that answers each query with NXDOMAIN, until it is dropped.
struct Upstream(std::sync::Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Upstream {
    fn start(switch: &Vswitchd) -> Self {
        let socket = switch.host.run(|| UdpSocket::bind(UPSTREAM).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let is_over = std::sync::Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !is_over.load(Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                buffer[2] |= 0x80;
                buffer[3] = 0x83;
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

#[test]
fn two_sandboxes_of_a_network_find_each_other_and_others_go_upstream() {
    let switch = switch("");
    let _upstream = Upstream::start(&switch);
    let (web, db, job) = (Netns::new("web"), Netns::new("db"), Netns::new("job"));
    network(&switch, "create --subnet 10.9.0.0/24 --subnet fd09::/64 blue");
    network(&switch, "create --subnet 10.8.0.0/24 red");
    let at_web = connect(&switch, "blue", &web, "web", &[]);
    let at_db = connect(&switch, "blue", &db, "db", &["--alias", "sql", "--publish", "15432:5432"]);
    let at_job = connect(&switch, "red", &job, "job", &[]);

    // As soon as the command is done.
    for name in ["db", "sql", "db.blue", "db.blue.vswitch.internal", "DB.Blue"] {
        assert_eq!(short(&web, name), [at_db.as_str()], "{name}");
    }
    assert_eq!(short(&db, "web"), [at_web]);
    assert_eq!(short(&web, "db AAAA"), ["fd09::3"]);
    assert_eq!(short(&web, &format!("-x {at_db}")), ["db.blue.vswitch.internal."]);
    assert_eq!(short(&web, "_5432._tcp.db SRV"), ["0 0 5432 db.blue.vswitch.internal."]);
    // At the gateways too, of both families, and by TCP.
    for server in ["10.9.0.1", "fd09::1"] {
        assert_eq!(dig(&web, &format!("@{server} +short db")).trim(), at_db, "{server}");
        assert_eq!(dig(&web, &format!("@{server} +tcp +short db")).trim(), at_db, "{server}");
    }
    // Networks are apart, in names as in frames.
    let answer = dig(&job, "@169.254.53.53 db");
    assert!(answer.contains("status: NXDOMAIN") && answer.contains("flags: qr aa"), "{answer}");
    let answer = dig(&web, "@169.254.53.53 example.com");
    assert!(answer.contains("status: NXDOMAIN") && !answer.contains(" aa"), "the other server's: {answer}");

    // The programs of a sandbox find the server by themselves.
    assert!(getent(&web, "db").starts_with(&at_db), "{}", getent(&web, "db"));
    network(&switch, "disconnect blue web");
    assert!(!resolv_conf(&web).exists() && resolv_conf(&db).exists());
    let answer = dig(&db, "@169.254.53.53 web");
    assert!(answer.contains("status: NXDOMAIN"), "{answer}");

    // The host sees all networks by their full names, and nothing else.
    assert_eq!(short(&switch.host, "job.red.vswitch.internal"), [at_job]);
    assert!(dig(&switch.host, "@169.254.53.53 example.com").contains("status: REFUSED"));
    let found = switch.ctl(&["dns", "lookup", "sql", "--from", &at_db]);
    assert_eq!((&found[0]["name"], &found[0]["addresses"]), (&json!("db"), &json!([at_db, "fd09::3"])));
    let all = switch.ctl(&["dns", "ls", "--network", "blue"]);
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let why = switch.ctl(&["why", "--name", "db.blue"]);
    assert_eq!(
        why[0]["declared"][0]["port"],
        switch.ctl(&["sandbox", "inspect", &format!("netns:{}", db.name())])[0]["port"]
    );
    let (code, sentence) = switch.refusal(&["dns", "lookup", "ghost"]);
    assert_eq!((code, sentence.as_str()), (4, "vswitchctl: there is no ghost in the networks of the asker"));
}

#[test]
fn internal_and_ipv6_only_networks_have_names() {
    let switch = switch("[[network]]\nname = \"six\"\nsubnet = [{ subnet = \"fd07::/64\" }]");
    let (web, db, six) = (Netns::new("web"), Netns::new("db"), Netns::new("six"));
    network(&switch, "create --internal --subnet 10.7.0.0/24 inner");
    let at_web = connect(&switch, "inner", &web, "web", &[]);
    connect(&switch, "inner", &db, "db", &[]);
    let at_six = connect(&switch, "six", &six, "six", &[]);
    assert_eq!(dig(&db, "@10.7.0.1 +short web").trim(), at_web);
    assert!(getent(&db, "web").starts_with(&at_web), "by {}", fs::read_to_string(resolv_conf(&db)).unwrap());
    assert_eq!(dig(&six, "@fd07::1 +short six AAAA").trim(), at_six);
    assert!(fs::read_to_string(resolv_conf(&six)).unwrap().contains("nameserver fd07::1\n"));
}

#[test]
fn a_file_of_the_operators_is_left_alone() {
    let switch = switch("");
    let web = Netns::new("web");
    network(&switch, "create blue");
    fs::create_dir_all(resolv_conf(&web).parent().unwrap()).unwrap();
    fs::write(resolv_conf(&web), "nameserver 192.0.2.53\n").unwrap();
    connect(&switch, "blue", &web, "web", &[]);
    let before = fs::read_to_string(resolv_conf(&web)).unwrap();
    network(&switch, "disconnect blue web");
    let after = fs::read_to_string(resolv_conf(&web)).unwrap();
    fs::remove_dir_all(resolv_conf(&web).parent().unwrap()).unwrap();
    assert_eq!([before.as_str(), after.as_str()], ["nameserver 192.0.2.53\n"; 2]);
}

#[test]
fn changes_lose_no_query_and_a_dead_upstream_delays_none() {
    let switch = switch("");
    let (web, db, other) = (Netns::new("web"), Netns::new("db"), Netns::new("other"));
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    connect(&switch, "blue", &web, "web", &[]);
    let at_db = connect(&switch, "blue", &db, "db", &[]);
    let over = AtomicBool::new(false);
    let mut query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01".to_vec();
    let foreign = b"\0\x08\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let socket = web.udp("0.0.0.0");
            socket.connect("169.254.53.53:53").unwrap();
            let lost = web.udp("0.0.0.0");
            lost.connect("169.254.53.53:53").unwrap();
            let (mut answered, mut slowest) = (0_u32, Duration::ZERO);
            while !over.load(Relaxed) {
                query[1] = query[1].wrapping_add(1);
                // Nothing answers there.
                lost.send(foreign).unwrap();
                let begun = Instant::now();
                socket.send(&query).unwrap();
                let mut answer = [0; 512];
                let length = socket.recv(&mut answer).expect("no query is lost");
                assert_eq!(answer[..2], query[..2]);
                assert_eq!(&answer[length - 4..length], [10, 9, 0, 3], "{at_db}");
                slowest = slowest.max(begun.elapsed());
                answered += 1;
            }
            (answered, slowest)
        });
        for _ in 0..20 {
            connect(&switch, "blue", &other, "other", &[]);
            network(&switch, "disconnect blue other");
            switch.ctl(&["reload"]);
        }
        over.store(true, Relaxed);
        let (answered, slowest) = client.join().unwrap();
        assert!(answered > 100, "{answered} answers");
        assert!(slowest < Duration::from_secs(1), "{slowest:?} for one of {answered}");
    });
}

/// RFC 8906 section 8 with `dig`, as its text has the commands.
#[test]
fn the_battery_of_rfc_8906() {
    let switch = switch("");
    let web = Netns::new("web");
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    connect(&switch, "blue", &web, "web", &[]);
    let zone = "vswitch.internal";
    // Arguments, what the answer has, and what it has not.
    let cases: [(&str, &[&str], &[&str]); 19] = [
        ("+noedns +noad +norec soa", &["NOERROR", " aa", "SOA\t"], &["OPT PSEUDO"]),
        ("+noedns +noad +norec type1000", &["NOERROR", " aa", "ANSWER: 0"], &["OPT PSEUDO"]),
        ("+noedns +noad +rec soa", &["NOERROR", " aa", " rd", "SOA\t"], &["OPT PSEUDO"]),
        ("+noedns +noad +norec +zflag soa", &["NOERROR", " aa", "SOA\t"], &["MBZ", "OPT PSEUDO"]),
        ("+noedns +norec +ad soa", &["NOERROR", " aa", "SOA\t"], &[" ad", "OPT PSEUDO"]),
        ("+noedns +noad +norec +cd soa", &["NOERROR", " aa", "SOA\t"], &["OPT PSEUDO"]),
        ("+noedns +noad +opcode=15 +norec +header-only", &["NOTIMP", "ANSWER: 0"], &[" aa", "SOA\t"]),
        ("+noedns +noad +norec +tcp soa", &["NOERROR", " aa", "SOA\t"], &["OPT PSEUDO"]),
        ("+nocookie +edns=0 +noad +norec soa", &["NOERROR", " aa", "SOA\t", "EDNS: version: 0"], &[]),
        ("+nocookie +edns=1 +noednsneg +noad +norec soa", &["BADVERS", "EDNS: version: 0"], &["SOA\t"]),
        (
            "+nocookie +edns=0 +noad +norec +ednsopt=100 soa",
            &["NOERROR", " aa", "SOA\t", "EDNS: version: 0"],
            &["OPT=100"],
        ),
        (
            "+nocookie +edns=0 +noad +norec +ednsflags=0x40 soa",
            &["NOERROR", "SOA\t", "EDNS: version: 0"],
            &["MBZ"],
        ),
        (
            "+nocookie +edns=1 +noednsneg +noad +norec +ednsflags=0x40 soa",
            &["BADVERS", "EDNS: version: 0"],
            &["SOA\t", "MBZ"],
        ),
        (
            "+nocookie +edns=1 +noednsneg +noad +norec +ednsopt=100 soa",
            &["BADVERS", "EDNS: version: 0"],
            &["SOA\t", "OPT=100"],
        ),
        (
            "+nocookie +noad +norec +dnssec +bufsize=512 +ignore dnskey",
            &["NOERROR", "EDNS: version: 0", " do"],
            &[],
        ),
        ("+nocookie +edns=0 +noad +norec +dnssec soa", &["NOERROR", "SOA\t", "EDNS: version: 0", " do"], &[]),
        (
            "+nocookie +edns=1 +noednsneg +noad +norec +dnssec soa",
            &["BADVERS", "EDNS: version: 0", " do"],
            &["SOA\t"],
        ),
        (
            "+edns=0 +noad +norec +nsid +cookie +expire +subnet=0/0 soa",
            &["NOERROR", "SOA\t", "EDNS: version: 0"],
            &[],
        ),
        ("+noedns +noad +norec nosuch.vswitch.internal", &["NXDOMAIN", " aa", "SOA\t"], &["OPT PSEUDO"]),
    ];
    for (arguments, has, has_not) in cases {
        let answer = dig(&web, &format!("@169.254.53.53 {arguments} {zone}"));
        for part in has {
            assert!(answer.contains(part), "{arguments}: no {part:?} in\n{answer}");
        }
        let said: String = answer.lines().filter(|line| !line.starts_with("; <<>>")).collect();
        for part in has_not {
            assert!(!said.contains(part), "{arguments}: {part:?} in\n{answer}");
        }
    }
}

#[test]
fn fifty_addresses_and_the_sizes_of_edns() {
    let switch = switch("");
    let web = Netns::new("web");
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    connect(&switch, "blue", &web, "web", &[]);
    let crowd: Vec<_> = (0..50).map(|_| Netns::new("crowd")).collect();
    for (number, sandbox) in crowd.iter().enumerate() {
        connect(&switch, "blue", sandbox, &format!("one{number}"), &["--alias", "crowd"]);
    }
    let whole = |arguments: &str| dig(&web, &format!("@169.254.53.53 {arguments} crowd"));
    for (arguments, is_cut) in [
        ("+noedns +ignore", true),
        ("+bufsize=512 +ignore", true),
        ("+bufsize=700 +ignore", true),
        ("+bufsize=1232 +ignore", false),
        ("+bufsize=4096 +ignore", false),
        ("+tcp", false),
    ] {
        let answer = whole(arguments);
        let records = answer.lines().filter(|line| line.contains("IN\tA\t")).count();
        assert_eq!(answer.contains(" tc"), is_cut, "{arguments}: {answer}");
        assert!(if is_cut { records < 50 } else { records == 50 }, "{arguments}: {records} of 50");
    }
    assert_eq!(short(&web, "crowd").len(), 50, "dig asks again by TCP");
    let first = || dig(&web, "@169.254.53.53 +short crowd").lines().next().unwrap().to_owned();
    let firsts: std::collections::BTreeSet<_> = (0..10).map(|_| first()).collect();
    assert_eq!(firsts.len(), 10, "the order turns");
}

#[test]
fn an_address_that_another_server_has_is_told_and_the_others_are_served() {
    let host = Netns::new("host");
    let holder = host.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let switch = Vswitchd::start_in(host, &net().keys("[dns]\nenabled = true"));
    let web = Netns::new("web");
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    let at_web = connect(&switch, "blue", &web, "web", &[]);
    let troubles = || switch.ctl(&["status"])["troubles"].clone();
    let is_told =
        |troubles: &Value| troubles.as_array().unwrap().iter().filter(|it| it["kind"] == "dns").count();
    assert_eq!(is_told(&troubles()), 2, "{}", troubles());
    drop(holder);
    eventually("names are served", || (short(&web, "web") == [at_web.as_str()]).then_some(()));
    eventually("nothing is in trouble", || troubles().as_array().is_none_or(Vec::is_empty).then_some(()));
}

#[test]
fn names_by_hand_are_kept_and_go_with_their_network() {
    let mut switch = switch("");
    let web = Netns::new("web");
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    connect(&switch, "blue", &web, "web", &[]);
    switch.ctl(&["dns", "add", "--network", "blue", "printer", "10.9.0.200", "fd09::200"]);
    assert_eq!(short(&web, "printer"), ["10.9.0.200"]);
    assert_eq!(short(&web, "printer AAAA"), ["fd09::200"]);
    assert_eq!(short(&web, "-x 10.9.0.200"), ["printer.blue.vswitch.internal."]);
    switch.ctl(&["dns", "add", "--network", "blue", "printer", "10.9.0.201"]);
    switch.kill();
    switch.run();
    eventually("it is kept", || (short(&web, "printer") == ["10.9.0.201"]).then_some(()));
    assert!(short(&web, "printer AAAA").is_empty());
    let (code, sentence) = switch.refusal(&["dns", "rm", "--network", "blue", "web"]);
    assert_eq!(
        (code, sentence.as_str()),
        (4, "vswitchctl: no web was added to network blue: names of endpoints go with these")
    );
    switch.ctl(&["dns", "rm", "--network", "blue", "printer"]);
    assert!(short(&web, "printer").is_empty());

    // With its network a name is gone, and does not come back with one of that name.
    switch.ctl(&["dns", "add", "--network", "blue", "printer", "10.9.0.200"]);
    network(&switch, "disconnect blue web");
    network(&switch, "rm blue");
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    connect(&switch, "blue", &web, "web", &[]);
    assert!(short(&web, "printer").is_empty());
    let events = switch.try_ctl(&["events"]).stdout;
    assert!(events.contains("name printer removed from network blue"), "{events}");
}

/// One container on two networks, under another name in each; and clients of each.
#[test]
fn an_alias_means_what_it_means_in_the_network_of_the_client() {
    let switch = switch("");
    let (db, job, both) = (Netns::new("db"), Netns::new("job"), Netns::new("both"));
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    network(&switch, "create --subnet 10.8.0.0/24 red");
    let in_blue = connect(&switch, "blue", &db, "db", &["--alias", "store"]);
    let in_red = connect(&switch, "red", &db, "db", &["--alias", "store", "--alias", "archive"]);
    connect(&switch, "red", &job, "job", &[]);
    connect(&switch, "blue", &both, "both", &[]);
    assert_eq!(short(&job, "store"), [in_red.as_str()]);
    assert_eq!(short(&job, "archive"), [in_red.as_str()]);
    assert_eq!(short(&both, "store"), [in_blue.as_str()]);
    assert!(short(&both, "archive").is_empty());
    // In both networks the first one that was joined is searched first.
    connect(&switch, "red", &both, "both", &[]);
    assert_eq!(short(&both, "store"), [in_blue.as_str()]);
    assert_eq!(short(&both, "archive"), [in_red.as_str()]);
    assert_eq!(short(&both, "store.red"), [in_red.as_str()]);
}

/// A resolver beside the switch, whose address is allowed to ask, and one that is not.
#[test]
fn other_resolvers_ask_for_the_zone_if_they_are_allowed() {
    let host = Netns::new("host");
    let lan = Netns::new("lan");
    host.ip(&format!("link add eth0 type veth peer name eth0 netns {}", lan.name()));
    for (side, address) in [(&host, "192.0.2.1/24"), (&lan, "192.0.2.7/24")] {
        side.ip(&format!("addr add {address} dev eth0"));
        side.ip("link set eth0 up");
    }
    lan.ip("addr add 192.0.2.8/24 dev eth0");
    lan.ip("route add 10.9.0.0/24 via 192.0.2.1");
    let keys = "[dns]\nenabled = true\nallow = [\"192.0.2.7/32\"]";
    let switch = Vswitchd::start_in(host, &net().keys(keys));
    let web = Netns::new("web");
    network(&switch, "create --subnet 10.9.0.0/24 blue");
    let at_web = connect(&switch, "blue", &web, "web", &[]);
    let question = "web.blue.vswitch.internal";
    let answer = |from: &str, name: &str| dig(&lan, &format!("-b {from} @10.9.0.1 {name}"));
    assert!(answer("192.0.2.7", question).contains(&at_web), "{}", answer("192.0.2.7", question));
    assert!(answer("192.0.2.7", "example.com").contains("REFUSED"), "the zone, and nothing else");
    assert!(answer("192.0.2.8", question).contains("REFUSED"), "{}", answer("192.0.2.8", question));

    // Other servers pass the zone on, as docs/names.md has it.
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("unbound.conf");
    let text = format!(
        "server:\n  directory: \"{0}\"\n  chroot: \"\"\n  username: \"\"\n  pidfile: \"{0}/pid\"\n  interface: 127.0.0.1\n  \
         use-syslog: no\n  outgoing-interface: 192.0.2.7\n  domain-insecure: \"vswitch.internal\"\nforward-zone:\n  \
         name: \"vswitch.internal\"\n  forward-addr: 10.9.0.1\n",
        folder.path().display()
    );
    fs::write(&config, text).unwrap();
    let mut unbound = Command::new("unbound");
    unbound.arg("-d").arg("-c").arg(&config);
    answers_for_the_zone(&lan, unbound, question, &at_web);

    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
    dnsmasq.args(["--listen-address=127.0.0.1", "--user=root", "--pid-file", "--stop-dns-rebind"]);
    dnsmasq.args(["--server=/vswitch.internal/10.9.0.1@192.0.2.7", "--rebind-domain-ok=/vswitch.internal/"]);
    answers_for_the_zone(&lan, dnsmasq, question, &at_web);
}

/// Runs a resolver until it has answered a question of our zone.
fn answers_for_the_zone(at: &Netns, mut resolver: Command, question: &str, expected: &str) {
    let mut running = at.run(|| resolver.spawn().expect("the resolver is installed"));
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&format!("{resolver:?} answers for the zone"), || {
            (dig(at, &format!("@127.0.0.1 +short {question}")).trim() == expected).then_some(())
        });
    }));
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(found.is_ok());
}
