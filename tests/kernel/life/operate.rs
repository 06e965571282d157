//! The daemon in an operator's hands: what is missing is named and comes back, changes are in the log, nothing is left behind.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use vswitch_tests::{Netns, Vswitchd, daemon::binary, eventually, net};

use super::blue;

fn troubles(switch: &Vswitchd) -> Vec<Value> {
    switch.ctl(&["status"])["troubles"].as_array().cloned().unwrap_or_default()
}

/// The answer to a request for `path` at `address`; empty where nothing listens.
fn get(host: &Netns, address: &str, path: &str) -> String {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    };
    host.run(ask).unwrap_or_default()
}

#[test]
fn an_address_of_the_api_may_come_go_and_come_back() {
    let config = net().api("metrics = \"192.0.2.1:9477\"\nweb = \"192.0.2.1:9478\"\nweb_public = true");
    let switch = Vswitchd::start(&config.network("blue"));
    switch.host.ip("link set lo up");
    let told = switch.try_ctl(&["status", "--check"]);
    assert_eq!(told.code, 1);
    for key in ["api.metrics", "api.web"] {
        let line = format!("{key}: cannot listen on 192.0.2.1:");
        assert!(told.stdout.contains(&line), "{}", told.stdout);
        switch.logs(&[&line, "no interface of this host has it"]);
    }
    for round in ["comes", "comes back"] {
        switch.host.ip("address add 192.0.2.1/32 dev lo");
        eventually(&format!("the address {round} and is served"), || {
            let all_is_well = switch.try_ctl(&["status", "--check"]).code == 0;
            (all_is_well && get(&switch.host, "192.0.2.1:9477", "/metrics").contains("vswitch_ports"))
                .then_some(())
        });
        assert!(get(&switch.host, "192.0.2.1:9478", "/").contains("vswitchd"));
        switch.host.ip("address del 192.0.2.1/32 dev lo");
    }
}

#[test]
fn a_taken_address_of_the_api_is_served_when_it_is_free() {
    let mut switch = Vswitchd::prepare(Netns::new("host"), &net().api("metrics = \"127.0.0.1:9477\""));
    switch.host.ip("link set lo up");
    let other = switch.host.run(|| TcpListener::bind("127.0.0.1:9477").unwrap());
    switch.run();
    let trouble = &troubles(&switch)[0];
    assert_eq!((&trouble["kind"], &trouble["of"]), (&"listener".into(), &"api.metrics".into()));
    assert!(trouble["detail"].as_str().unwrap().contains("another process has it"), "{trouble}");
    drop(other);
    eventually("the trouble is over", || troubles(&switch).is_empty().then_some(()));
}

/// What other programs change of what is ours is set again within seconds, and told in the log, the status and an event.
#[test]
fn what_others_change_on_the_host_is_set_again_and_told() {
    let switch = Vswitchd::start(&net());
    switch.ctl(&["network", "create", "--subnet", "10.9.0.0/24", "--subnet", "fd09::/64", "blue"]);
    let gateway = switch.port("gw.blue")["device"].as_str().unwrap().to_owned();
    let host = &switch.host;
    let set = |name: &str, value: &str| {
        host.run(|| fs::write(format!("/proc/sys/net/{name}"), value)).unwrap();
    };
    let nft = |what: &str| {
        let done = host.run(|| Command::new("nft").arg(what).status()).unwrap();
        assert!(done.success(), "{what}");
    };
    let damages: [(&dyn Fn(), &str); 6] = [
        (
            &|| set("ipv4/ip_forward", "0"),
            "net/ipv4/ip_forward was set to 0 by another program and is 1 again",
        ),
        (&|| nft("flush table inet vswitch"), "the table inet vswitch was changed by nft (process "),
        (
            &|| drop(host.ip(&format!("link set {gateway} address 02:00:00:00:00:99"))),
            "the MAC address 02:42:0a:09:00:01",
        ),
        (&|| drop(host.ip(&format!("addr del 10.9.0.1/24 dev {gateway}"))), "the address 10.9.0.1/24 again"),
        (&|| drop(host.ip(&format!("link set {gateway} mtu 1400"))), "the MTU 1500 again"),
        // It takes the address away, too.
        (&|| set("ipv6/conf/all/disable_ipv6", "1"), "the address fd09::1/64 again"),
    ];
    for (damage, sentence) in damages {
        damage();
        let warned = || {
            let status = switch.ctl(&["status"]);
            let warnings =
                status["warnings"].as_array()?.iter().filter_map(|it| it.as_str().map(str::to_owned));
            warnings.into_iter().find(|it| it.contains(sentence))
        };
        eventually(sentence, warned);
        switch.logs(&["WARN", sentence]);
        let events = switch.try_ctl(&["events"]).stdout;
        assert!(events.contains(sentence), "{events}");
    }
    let shown = host.ip(&format!("addr show dev {gateway}"));
    for part in ["02:42:0a:09:00:01", "10.9.0.1/24", "fd09::1/64", "mtu 1500"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(switch.try_ctl(&["status", "--check"]).code, 0, "nothing is wrong any more");
}

/// firewalld rejects what is in no zone of its own. It may be started at any time, and reloaded.
#[test]
fn firewalld_has_a_zone_for_gateways() {
    let mut switch = Vswitchd::start_apart(Netns::new("host"), &net());
    let (web, lan) = (Netns::new("web"), Netns::new("lan"));
    switch.host.ip(&format!("link add wan type veth peer name wan netns {}", lan.name()));
    for (netns, own) in [(&switch.host, 1), (&lan, 2)] {
        netns.ip(&format!("addr add 192.0.2.{own}/24 dev wan"));
        netns.ip("link set wan up");
    }
    switch.ctl(&["network", "create", "--subnet", "10.9.0.0/24", "blue"]);
    switch.ctl(&[
        "network",
        "create",
        "--internal",
        "--subnet",
        "10.8.0.0/24",
        "-o",
        "ifname=inner0",
        "inner",
    ]);
    let mut container = web.run(|| Command::new("sleep").arg("1000").spawn().unwrap());
    for network in ["blue", "inner"] {
        switch.ctl(&["network", "connect", network, &format!("pid:{}", container.id())]);
    }
    let mounts = switch.mounts().unwrap();
    let run = |host: &Netns, program: &str, arguments: &[&str]| {
        let mut command = mounts.command(program);
        host.run(|| command.args(arguments).output().unwrap())
    };
    // Its configuration is not that of the machine.
    let own = "mount -t tmpfs tmpfs /etc/firewalld && mkdir -p /run/dbus && dbus-daemon --system --fork --nopidfile";
    assert!(run(&switch.host, "sh", &["-c", own]).status.success(), "dbus and firewalld are installed");
    let mut command = mounts.command("firewalld");
    command.args(["--nofork", "--nopid"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut firewalld = switch.host.run(|| command.spawn().unwrap());
    let ask = |host: &Netns, arguments: &[&str]| {
        String::from_utf8(run(host, "firewall-cmd", arguments).stdout).unwrap().trim().to_owned()
    };
    eventually("firewalld runs", || (ask(&switch.host, &["--state"]) == "running").then_some(()));
    let server = switch.host.run(|| TcpListener::bind("0.0.0.0:9000").unwrap());
    thread::spawn(move || server.incoming().for_each(drop));
    let all_is_well = || {
        let reaches = |at: &str| {
            web.run(|| TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_millis(300))).is_ok()
        };
        (reaches("10.9.0.1:9000") && reaches("10.8.0.1:9000") && web.pings("192.0.2.2")).then_some(())
    };
    eventually("the host and the outside are reached", all_is_well);
    assert_eq!(ask(&switch.host, &["--get-zone-of-interface=inner0"]), "vswitch");
    ask(&switch.host, &["--reload"]);
    eventually("they are after a reload", all_is_well);
    // Nothing of it is left when all is removed.
    switch.stop();
    let config = switch.folder().join("net.toml");
    let removed = run(
        &switch.host,
        binary("vswitchd").to_str().unwrap(),
        &["--config", config.to_str().unwrap(), "--remove-all"],
    );
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert!(!ask(&switch.host, &["--permanent", "--get-zones"]).contains("vswitch"));
    for process in [&mut firewalld, &mut container] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn each_change_by_command_is_logged_with_who_made_it() {
    let web = Netns::new("web");
    let switch = Vswitchd::start(&net());
    switch.ctl(&["network", "create", "--internal", "--subnet", "10.20.0.0/24", "blue"]);
    switch.ctl(&["network", "connect", "--name", "web", "blue", &format!("netns:{}", web.name())]);
    switch.ctl(&["fdb", "add", "blue", "02:00:00:00:00:01", "web.blue"]);
    switch.ctl(&["fdb", "flush", "--all"]);
    switch.ctl(&["network", "disconnect", "blue", "web"]);
    switch.ctl(&["network", "rm", "blue"]);
    for what in [
        "network blue created",
        "port web.blue created",
        "web connected to network blue",
        "02:00:00:00:00:01 pinned to port web.blue",
        "learned addresses removed",
        "web disconnected from network blue",
        "network blue removed",
    ] {
        switch.logs(&["INFO", what, "uid=0", "pid=", "command=\"vswitchctl\""]);
    }
}

#[test]
fn the_level_of_the_log_is_changed_while_it_runs() {
    let switch = Vswitchd::start(&net());
    assert_eq!(switch.ctl(&["log"])["level"], "info");
    let (code, sentence) = switch.refusal(&["log", "loud!"]);
    assert!(code == 1 && sentence.contains("is no level of the log"), "{sentence}");
    assert_eq!(switch.ctl(&["log", "warn"])["level"], "warn");
    switch.ctl(&["network", "create", "--ipam-driver", "null", "quiet"]);
    assert_eq!(switch.ctl(&["log", "info"])["level"], "info");
    switch.ctl(&["network", "create", "--ipam-driver", "null", "loud"]);
    switch.logs(&["network loud created"]);
    assert!(!switch.log().contains("network quiet created"), "{}", switch.log());
    let lines = switch.try_ctl(&["log", "--lines", "1"]).stdout;
    assert!(lines.lines().count() == 1 && lines.contains("network loud created"), "{lines}");
}

#[test]
fn everything_that_does_not_work_is_in_the_status() {
    let config = blue(&[]).vxlan("192.0.2.9").peer("192.0.2.10").within("blue").packet("up", "nothere");
    let switch = Vswitchd::start(&config);
    let kinds: Vec<_> = troubles(&switch).iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect();
    // The peer is down because the endpoint is: one trouble.
    assert_eq!(kinds, ["port", "tunnel"], "{:?}", troubles(&switch));
    let text = fs::read_to_string(switch.config()).unwrap();
    fs::write(switch.config(), text.replace("[switch]", "[switch]\nworkers = 3")).unwrap();
    assert_eq!(switch.try_ctl(&["reload"]).code, 1);
    let told = switch.try_ctl(&["status", "--check"]);
    assert_eq!(told.code, 1);
    for line in [
        "port up is down: there is no interface nothere",
        "the tunnel is down: ",
        "restart the daemon to apply it",
    ] {
        assert!(told.stdout.contains(line), "{line} is missing in\n{}", told.stdout);
    }
    fs::write(switch.config(), text).unwrap();
    switch.ctl(&["reload"]);
    assert!(!switch.try_ctl(&["status"]).stdout.contains("restart the daemon"));
}

/// The rules for a host's port in a network only keep what is behind it from the tunnel's peers; a network's gateway is another matter.
#[test]
fn without_nft_commands_work_where_no_network_depends_on_it() {
    let own = "[[port]]\nname = \"mine\"\nnetwork = \"own\"\nkind = \"tap\"\nifname = \"own0\"";
    let config = net().network("own").keys(own).vxlan("192.0.2.9");
    let mut switch = Vswitchd::prepare(Netns::new("host"), &config).without_programs();
    switch.run();
    switch.ctl(&["port", "add", "job", "--network", "own"]);
    assert!(switch.host.ip("-br link").contains("job"), "{}", switch.host.ip("-br link"));
    let told = switch.try_ctl(&["status", "--check"]);
    assert!(told.code == 1 && told.stdout.contains("nft"), "{}", told.stdout);
    let refused = switch.try_ctl(&["network", "create", "blue"]);
    assert!(refused.code == 1 && refused.stderr.contains("nft"), "{}{}", refused.stdout, refused.stderr);
    switch.ctl(&["port", "del", "job"]);
}

#[test]
fn followers_notice_the_end_of_the_daemon() {
    let mut switch = Vswitchd::start(&net());
    let mut command = Command::new(binary("vswitchctl"));
    command.arg("--socket").arg(switch.socket()).args(["events", "--follow"]);
    let mut follower = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has the first event, so it follows.
    let mut first = [0];
    follower.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    switch.stop();
    let output = follower.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has ended"));
}

#[test]
fn every_refusal_is_json_where_that_is_asked_for() {
    let switch = Vswitchd::prepare(Netns::new("host"), &net());
    for (arguments, code, kind) in [
        (&["--json", "status"][..], 3, "unavailable"),
        (&["--json", "frobnicate"], 2, "invalid"),
        (&["--json", "status", "--check"], 3, "unavailable"),
    ] {
        let output = switch.try_ctl(arguments);
        let refusal: Value =
            serde_json::from_str(&output.stderr).unwrap_or_else(|error| panic!("{error}: {}", output.stderr));
        assert_eq!((output.code, &refusal["code"]), (code, &kind.into()), "{arguments:?}: {refusal}");
    }
}

#[test]
fn a_report_of_a_bug_has_what_there_is_of_the_daemon() {
    let mut switch = Vswitchd::start(&blue(&[]));
    let file = switch.folder().join("report.tar");
    for files in [
        &["status.json", "networks.json", "log.json", "net.toml", "host/links.txt", "host/proc/version"][..],
        &["net.toml"],
    ] {
        switch.ctl(&["support", "--output", file.to_str().unwrap()]);
        let output = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
        let list = String::from_utf8_lossy(&output.stdout).into_owned();
        for file in files {
            assert!(
                list.lines().any(|line| line.ends_with(&format!("/{file}"))),
                "{file} is missing in\n{list}"
            );
        }
        if switch.socket().exists() {
            switch.stop();
        }
    }
}

#[test]
fn a_tap_driver_that_may_not_be_opened_is_named() {
    let web = Netns::new("web");
    let switch = Vswitchd::prepare(Netns::new("host"), &blue(&[("web", &web)]));
    let denied = "mount -t tmpfs -o nodev tmpfs /dev/net && mknod /dev/net/tun c 10 200 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "bash", "-c", denied, "x"])
        .arg(binary("vswitchd"))
        .arg("--config")
        .arg(switch.config());
    command.stderr(Stdio::null());
    let mut child = switch.host.run(|| command.spawn().unwrap());
    let said = eventually("the port says why it is down", || {
        let output = switch.try_ctl(&["port", "ls"]);
        output.stdout.contains("is down").then_some(output.stdout)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("no right to open /dev/net/tun"), "{said}");
}

/// In a user namespace of its own, as `unshare --user --map-root-user --net` makes it.
#[test]
fn taps_and_gateways_need_no_root_of_the_host() {
    let switch = Vswitchd::prepare(Netns::new("host"), &net());
    let script = r#"
        daemon=$1 ctl=$2 config=$3 socket=$4
        v() { "$ctl" --socket "$socket" "$@"; }
        "$daemon" --config "$config" & daemon=$!
        for _ in $(seq 100); do v status >/dev/null 2>&1 && break; sleep 0.1; done
        v network create --subnet 10.9.0.0/24 blue || exit 1
        unshare --net sleep 60 & web=$!
        for _ in $(seq 100); do [ "$(readlink /proc/$web/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.05; done
        v network connect --name web blue pid:$web || exit 2
        ping -c 1 -W 3 10.9.0.2 || exit 3
        v status --check || exit 4
        kill $daemon $web; wait $daemon"#;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "bash", "-c", script, "x"]);
    command.arg(binary("vswitchd")).arg(binary("vswitchctl")).arg(switch.config()).arg(switch.socket());
    let output = switch.host.run(|| command.output().unwrap());
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nothing_is_left_where_it_is_uninstalled() {
    let [web, db, job] = ["web", "db", "job"].map(Netns::new);
    let config = blue(&[("web", &web)]).keys("persist = true");
    let mut switch = Vswitchd::start(&config);
    switch.ctl(&["network", "create", "--subnet", "10.20.0.0/24", "green"]);
    switch.ctl(&["network", "connect", "--name", "db", "green", &format!("netns:{}", db.name())]);
    let veth = ["--driver-opt", "kind=veth", "--name", "job", "green", &format!("netns:{}", job.name())];
    switch.ctl(&[&["network", "connect", "--publish", "8080:80"], &veth[..]].concat());
    let table = |switch: &Vswitchd| {
        let output = switch.host.run(|| Command::new("nft").args(["list", "tables"]).output().unwrap());
        String::from_utf8_lossy(&output.stdout).contains("vswitch")
    };
    switch.stop();
    assert!(
        web.has_link("eth0") && db.has_link("eth0") && job.has_link("eth0") && table(&switch),
        "they outlive it"
    );
    let removed = switch.host.run(|| {
        Command::new(binary("vswitchd"))
            .arg("--config")
            .arg(switch.config())
            .arg("--remove-all")
            .output()
            .unwrap()
    });
    let said = String::from_utf8_lossy(&removed.stderr);
    assert!(removed.status.success() && !said.contains("WARN"), "{said}");
    assert!(!web.has_link("eth0") && !db.has_link("eth0") && !job.has_link("eth0"), "an interface is left");
    let links = switch.host.ip("-br link");
    assert!(!links.contains("vg-") && !links.contains("vp-") && !table(&switch), "{links}");
}

#[test]
fn a_shell_completes_the_names_of_what_there_is() {
    let switch = Vswitchd::start(&blue(&[]).network("black"));
    let names = |words: &[&str]| {
        let mut command = Command::new(binary("vswitchctl"));
        command
            .env("COMPLETE", "fish")
            .args(["--", "vswitchctl", "--socket"])
            .arg(switch.socket())
            .args(words);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(names(&["network", "inspect", "bl"]), "black\nblue\n");
    assert_eq!(names(&["port", "add", "x", "--trunk", "blue,bla"]), "blue,black\n");
    assert!(names(&["network", "i"]).starts_with("inspect"));
}
