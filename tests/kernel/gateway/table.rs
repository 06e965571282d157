//! The nftables table: updates, crashes, and other programs' tables.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use vswitch_tests::control::{
    gateway::{Gateway, GatewayError, Interference, Outside},
    publish::{Protocol, Published},
};
use vswitch_tests::{Netns, PATIENCE};

use super::{Mirror, SILENCE, World, nft, seen, socket, unreachable};

#[test]
fn a_refused_change_leaves_all_as_it_was() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    world.publish(&["8080:80"]);
    let _taken = world.host.run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    let more = Published::new(Protocol::Tcp, socket("0.0.0.0", 9000), socket("10.9.1.2", 80)).unwrap();
    let wanted = [world.blue.outside(vec![more])];
    let before = nft(&world.host, &["list", "ruleset"]);
    let error = world.at_host(|gateway| gateway.set(&wanted)).unwrap_err();
    assert!(matches!(error, GatewayError::InUse { .. }), "{error}");
    assert_eq!(nft(&world.host, &["list", "ruleset"]), before);
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    world.host.run(|| assert!(TcpListener::bind("0.0.0.0:8080").is_err()));
}

#[test]
fn a_crash_loses_nothing_and_leaves_nothing() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.blue.web, 80);
    let published = world.publish(&["8080:80", "8081:80"]);
    let listener = world.outside.listen("192.0.2.2");
    let mut stream = world.blue.client.connect(listener.local_addr().unwrap());
    let (mut far, _) = listener.accept().unwrap();

    // A crash leaves the table but no sockets. Then another process binds a port, and the state changes.
    world.gateway = Gateway::new();
    assert!(world.tables().contains("vswitch"));
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    let taken = world.host.run(|| TcpListener::bind("0.0.0.0:8081").unwrap());
    let wanted = [world.blue.outside(published.clone())];
    let refused = world.at_host(|gateway| gateway.restore(&wanted)).unwrap();
    let left_out: Vec<_> = refused.iter().map(|(published, _)| published.at()).collect();
    assert_eq!(left_out, [socket("0.0.0.0", 8081)], "{refused:?}");

    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    assert_eq!(seen(&world.outside, socket("2001:db8::1", 8081)), "2001:db8::2");
    unreachable(&world.outside, socket("192.0.2.1", 8082));
    // Established connections continue.
    stream.write_all(b"still").unwrap();
    let mut heard = [0; 5];
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");

    // The port is free again: it is published on the next request.
    drop(taken);
    world.set(&wanted);
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8081)), "192.0.2.2");
    world.set(&[]);
    assert_eq!(world.tables(), "");
    unreachable(&world.outside, socket("192.0.2.1", 8080));
}

#[test]
fn tables_of_others_stay_and_a_lost_table_comes_back() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.outside, 80);
    nft(
        &world.host,
        &["add table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; }; }"],
    );
    nft(
        &world.host,
        &["add table inet mine { chain input { type filter hook input priority 0; tcp dport 7 drop; }; }"],
    );
    let others = nft(&world.host, &["list", "ruleset"]);
    let wanted = [world.blue.outside(Vec::new())];
    world.set(&wanted);
    let with_ours = nft(&world.host, &["list", "ruleset"]);
    assert!(with_ours.starts_with(&others) && with_ours.contains("table inet vswitch"), "{with_ours}");
    world.set(&wanted);
    assert_eq!(nft(&world.host, &["list", "ruleset"]), with_ours);

    nft(&world.host, &["delete table inet vswitch"]);
    world.at_host(|gateway| gateway.renew(&wanted)).unwrap();
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "192.0.2.1");

    world.set(&[]);
    world.set(&[]);
    assert_eq!(nft(&world.host, &["list", "ruleset"]), others);
}

fn checked(world: &mut World, wanted: &[Outside]) -> Interference {
    world.at_host(|gateway| gateway.check(wanted)).unwrap()
}

/// A change of our table by another program is noticed, and what it was is restored; one that changes its own tables is
/// left alone, and so are our own changes.
#[test]
fn what_others_do_to_our_table_is_noticed() {
    let mut world = World::new();
    let _mirrors = [&world.blue.web, &world.outside].map(|netns| Mirror::start(netns, 80));
    let published = world.reserve(&["8080:80"], &[world.blue.ip(2)]).unwrap();
    let wanted = [world.blue.outside(published)];
    world.set(&wanted);
    let table = |world: &World| nft(&world.host, &["list", "table", "inet", "vswitch"]);
    let whole = table(&world);
    assert_eq!(checked(&mut world, &wanted), Interference::default(), "our own change");
    nft(
        &world.host,
        &["add table inet vswitch2 { chain c { drop; }; }; add table ip vswitch { chain c { drop; }; }"],
    );
    assert_eq!(checked(&mut world, &wanted), Interference::default(), "tables of others");
    for damage in [
        "flush table inet vswitch",
        "flush chain inet vswitch forward",
        "flush map inet vswitch any_address4",
        "delete element inet vswitch gateways { gw-blue }",
        "add rule inet vswitch forward drop",
        "add element inet vswitch internal { gw-blue }",
        "delete table inet vswitch",
        "flush ruleset",
    ] {
        nft(&world.host, &[damage]);
        let told = checked(&mut world, &wanted);
        assert!(told.table.is_some_and(|it| it.contains("was changed by nft (process ")), "{damage}");
        assert!(world.at_host(|gateway| gateway.mend(&wanted)).unwrap().is_empty());
        assert_eq!(table(&world), whole, "{damage}");
        assert_eq!(checked(&mut world, &wanted), Interference::default(), "{damage}: mended");
    }
    assert_eq!(seen(&world.outside, socket("192.0.2.1", 8080)), "192.0.2.2");
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "192.0.2.1");
}

/// A sender that never pauses began while there were no rules.
#[test]
fn what_began_without_rules_is_translated_when_they_are_back() {
    let mut world = World::new();
    let _mirrors = [&world.blue.web, &world.outside].map(|netns| Mirror::start(netns, 80));
    let published = world.reserve(&["192.0.2.1:8080:80/udp"], &[world.blue.ip(2)]).unwrap();
    let wanted = [world.blue.outside(published)];
    world.set(&wanted);
    nft(&world.host, &["flush table inet vswitch"]);
    let (inward, outward) = (world.outside.udp("0.0.0.0"), world.blue.client.udp("0.0.0.0"));
    let ask = |from: &UdpSocket, at: SocketAddr| {
        from.set_read_timeout(Some(SILENCE)).unwrap();
        from.send_to(b"?", at).unwrap();
        let mut answer = [0; 64];
        from.recv(&mut answer).ok().map(|len| String::from_utf8_lossy(&answer[..len]).into_owned())
    };
    let places = [(&inward, socket("192.0.2.1", 8080)), (&outward, socket("192.0.2.2", 80))];
    for (from, at) in places {
        assert_eq!(ask(from, at), None, "{at}");
    }
    assert!(checked(&mut world, &wanted).table.is_some());
    world.at_host(|gateway| gateway.mend(&wanted)).unwrap();
    let answers = places.map(|(from, at)| ask(from, at).unwrap_or_default());
    assert_eq!(answers, ["192.0.2.2", "192.0.2.1"]);
}

/// `sysctl --system`, hardening and other services set back what containers need.
#[test]
fn what_others_do_to_our_settings_is_undone_and_told() {
    let mut world = World::new();
    let published = world.reserve(&["8080:80"], &[world.blue.ip(2)]).unwrap();
    let wanted = [world.blue.outside(published)];
    world.set(&wanted);
    assert_eq!(checked(&mut world, &wanted), Interference::default());
    for (name, value, ours) in [
        ("ipv4/ip_forward", "0", "1"),
        ("ipv4/conf/gw-blue/forwarding", "0", "1"),
        ("ipv4/conf/gw-blue/route_localnet", "0", "1"),
        ("ipv6/conf/all/forwarding", "0", "1"),
        ("ipv6/conf/gw-blue/forwarding", "0", "1"),
        ("ipv6/conf/gw-blue/accept_ra", "1", "0"),
    ] {
        let path = format!("/proc/sys/net/{name}");
        world.host.run(|| fs::write(&path, value)).unwrap();
        let told = checked(&mut world, &wanted).settings;
        let expected =
            format!("net/{name} was set to {value} by another program and is {ours} again: without it ");
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{name}: {told:?}");
        assert_eq!(world.host.run(|| fs::read_to_string(&path)).unwrap().trim(), ours, "{name}");
        assert_eq!(checked(&mut world, &wanted), Interference::default(), "{name}");
    }
}

/// The table is updated element by element; the outcome must equal that of building it anew.
#[test]
fn many_changes_come_to_the_same_as_one() {
    let mut world = World::new();
    let at =
        |at: &str, to: &str| Published::new(Protocol::Tcp, at.parse().unwrap(), to.parse().unwrap()).unwrap();
    let web = at("0.0.0.0:8080", "10.9.1.2:80");
    let moved = at("0.0.0.0:8080", "10.9.1.3:80");
    let more = [at("[::]:8080", "[fd00:9:1::2]:80"), at("192.0.2.1:443", "10.9.1.2:443"), web];
    // One subnet next to blue's, and one that contains it.
    let nets = |ifname: &str, subnet: &str, masquerade: bool| Outside {
        ifname: ifname.into(),
        internal: false,
        subnets: vec![subnet.parse().unwrap()],
        masquerade,
        published: Vec::new(),
        tunnels: Arc::new(["10.8.0.1:4789".parse().unwrap(), "[::]:8472".parse().unwrap()].into()),
    };
    let beside = nets("gw-beside", "10.9.0.0/24", true);
    let around = nets("gw-around", "10.9.0.0/16", false);
    let (blue, red) = (&world.blue, &world.red);
    let steps = [
        vec![blue.outside(vec![])],
        vec![blue.outside(vec![web]), beside.clone()],
        vec![beside.clone(), blue.outside(vec![moved])],
        vec![blue.outside(more.to_vec()), red.outside(vec![]), beside.clone()],
        vec![blue.outside(more[..2].to_vec()), red.routed(), around.clone()],
        vec![red.outside(vec![]), around],
        vec![red.outside(vec![]), beside],
    ];
    let table = |host: &Netns| {
        let listed = nft(host, &["-a", "list", "table", "inet", "vswitch"]);
        let (handle, text) = listed.split_once('\n').map(|(first, rest)| (first.to_owned(), rest)).unwrap();
        // Sorted, as elements are listed in any order, and without rule handles.
        let words = text.split_whitespace().map(|word| word.trim_end_matches(','));
        let mut words: Vec<_> =
            words.filter(|word| word.parse::<u32>().is_err()).map(str::to_owned).collect();
        words.sort();
        (handle, words)
    };
    let mut handle = None;
    for (step, outsides) in steps.iter().enumerate() {
        world.set(outsides);
        let (now, followed) = table(&world.host);
        assert_eq!(*handle.get_or_insert_with(|| now.clone()), now, "{step}: the table is the same one");
        world.set(&steps[step.saturating_sub(1)]);
        world.set(outsides);
        assert_eq!(table(&world.host), (now, followed.clone()), "{step}: there and back");
        world.gateway = Gateway::new();
        assert!(world.at_host(|gateway| gateway.restore(outsides)).unwrap().is_empty());
        let (now, anew) = table(&world.host);
        assert_eq!(followed, anew, "{step}");
        handle = Some(now);
    }
}

#[test]
fn the_chain_that_programs_share_lets_pass_what_is_ours() {
    let mut world = World::new();
    let _mirror = Mirror::start(&world.outside, 80);
    // As created by Docker, with an operator's rule.
    let policy = |policy: &str| {
        format!("add chain ip filter FORWARD {{ type filter hook forward priority 0; policy {policy}; }}")
    };
    nft(&world.host, &["add table ip filter"]);
    nft(&world.host, &[&policy("drop")]);
    nft(&world.host, &["add rule ip filter FORWARD ip daddr 192.0.2.99 drop"]);
    let others = nft(&world.host, &["list", "ruleset"]);
    let wanted = [world.blue.outside(Vec::new())];
    world.set(&wanted);
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "192.0.2.1");
    // Other traffic is subject to the policy: red has no gateway yet.
    unreachable(&world.red.client, socket("192.0.2.2", 80));
    world.set(&[world.blue.outside(Vec::new()), world.red.outside(Vec::new())]);
    assert_eq!(seen(&world.red.client, socket("192.0.2.2", 80)), "192.0.2.1");
    // The operator's rule takes precedence.
    world.outside.ip("addr add 192.0.2.99/24 dev wan");
    unreachable(&world.blue.client, socket("192.0.2.99", 80));

    // Other programs flush the chain or change its policy: a periodic check repairs it.
    world.set(&wanted);
    nft(&world.host, &["flush chain ip filter FORWARD"]);
    nft(&world.host, &["delete table inet vswitch"]);
    let table = checked(&mut world, &wanted).table.unwrap();
    assert!(table.starts_with("the table inet vswitch was changed by nft (process "), "{table}");
    world.at_host(|gateway| gateway.mend(&wanted)).unwrap();
    assert_eq!(checked(&mut world, &wanted), Interference::default());
    assert_eq!(seen(&world.blue.client, socket("192.0.2.2", 80)), "192.0.2.1");
    nft(&world.host, &[&policy("accept")]);
    assert_eq!(checked(&mut world, &wanted), Interference::default());
    assert!(!nft(&world.host, &["list", "chain", "ip", "filter", "FORWARD"]).contains("vswitch"));

    nft(&world.host, &[&policy("drop")]);
    assert_eq!(checked(&mut world, &wanted), Interference::default());
    world.set(&[]);
    nft(&world.host, &["add rule ip filter FORWARD ip daddr 192.0.2.99 drop"]);
    assert_eq!(nft(&world.host, &["list", "ruleset"]), others);
}
