//! podman and containerd with our CNI plugin, for real.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::{Value, json};
use vswitch_tests::{
    Netns, Output, Vswitchd, daemon::binary, engine::busybox, eventually, process, tcp::Flow,
};

/// podman, and `ctr` with a containerd, that keep all they have in the folder of a switch.
struct Runtimes<'s> {
    switch: &'s Vswitchd,
    folder: PathBuf,
    containerd: Option<Child>,
}

impl<'s> Runtimes<'s> {
    /// Installs the plugin and the network's configuration for them, and makes the image `box`.
    fn new(switch: &'s Vswitchd, network: &str) -> Self {
        let runtimes = Self { switch, folder: switch.folder().to_owned(), containerd: None };
        let path = |name: &str| runtimes.path(name);
        let plugin = binary("vswitch-cni");
        let (bin, configs) = (path("cni-bin"), path("net.d"));
        switch.ctl(&["cni", "install", "--plugin", plugin.to_str().unwrap(), "--into", &bin]);
        switch.ctl(&["cni", "conflist", network, "--into", &configs]);
        let text = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{bin}\", \"/usr/lib/cni\"]\nnetwork_config_dir = \"{configs}\"\n"
        );
        fs::write(path("containers.conf"), text).unwrap();
        let root = busybox(&runtimes.folder);
        let archive = path("box.tar");
        let tar = Command::new("tar").arg("-C").arg(&root).args(["-cf", &archive, "."]).status().unwrap();
        assert!(tar.success());
        runtimes.podman(&["import", &archive, "localhost/box:latest"]);
        runtimes
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, mut command: Command) -> Output {
        let output = self.switch.host.run(|| command.output().unwrap());
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = self.switch.mounts().unwrap().command("timeout");
        command.args(["60", program]);
        command
    }

    fn try_podman(&self, arguments: &[&str]) -> Output {
        let mut command = self.inside("podman");
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.args(["--root", &self.path("storage"), "--runroot", &self.path("run")]);
        command.args(["--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]);
        command.args(["--events-backend", "none"]).args(arguments);
        self.run(command)
    }

    fn podman(&self, arguments: &[&str]) -> String {
        let output = self.try_podman(arguments);
        assert_eq!(output.code, 0, "podman {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// `podman run` with limits that need no more rights than a test has.
    fn start(&self, name: &str, options: &[&str], command: &[&str]) {
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--log-driver", "none"];
        let image = ["localhost/box:latest"];
        self.podman(&[&["run", "-d", "--name", name], &limits[..], options, &image, command].concat());
    }

    fn reaches(&self, container: &str, address: &str) {
        eventually(&format!("{container} reaches {address}"), || {
            let ping = self.try_podman(&["exec", container, "ping", "-c", "1", "-W", "1", address]);
            (ping.code == 0).then_some(())
        });
    }

    /// Whether the server of a container answers at the host's port 8080.
    fn page_of(&self, container: &str) -> Option<()> {
        let fetch = ["exec", container, "wget", "-q", "-O", "-", "http://10.9.0.1:8080/index.html"];
        (self.try_podman(&fetch).stdout == "hello\n").then_some(())
    }

    fn start_containerd(&mut self) {
        let log = File::create(self.folder.join("containerd.log")).unwrap();
        fs::write(
            self.path("containerd.toml"),
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
        )
        .unwrap();
        let mut command = self.switch.mounts().unwrap().command("containerd");
        command.args(["--config", &self.path("containerd.toml"), "--root", &self.path("ctr-root")]);
        command.args(["--state", &self.path("ctr-state"), "--address", &self.path("ctr.sock")]);
        command.stdout(Stdio::null()).stderr(log);
        self.containerd = Some(self.switch.host.run(|| command.spawn().unwrap()));
        eventually("containerd answers", || (self.try_ctr(&["version"]).code == 0).then_some(()));
    }

    fn try_ctr(&self, arguments: &[&str]) -> Output {
        let mut command = self.inside("ctr");
        command.args(["--address", &self.path("ctr.sock")]).args(arguments);
        self.run(command)
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        let output = self.try_ctr(arguments);
        assert_eq!(output.code, 0, "ctr {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// Runs our plugin itself, as a runtime does.
    fn plugin(&self, verb: &str, container: &str, netns: &str, config: &Value) -> (i32, Value) {
        self.deed(&binary("vswitch-cni"), verb, container, netns, config)
    }

    /// Runs a chain of plugins: each is told what those before it came to, and, when all is done, what the last one did.
    fn chain(&self, verb: &str, netns: &str, plugins: &[Value], mut result: Value) -> Value {
        let mut plugins: Vec<_> = plugins.to_vec();
        if verb == "DEL" {
            plugins.reverse();
        }
        for mut plugin in plugins {
            let kind = plugin["type"].as_str().unwrap().to_owned();
            let ours = kind == "vswitch";
            let program = if ours { binary("vswitch-cni") } else { Path::new("/usr/lib/cni").join(&kind) };
            if !result.is_null() {
                plugin["prevResult"] = result.clone();
            }
            let (code, answer) = self.deed(&program, verb, "pod", netns, &plugin);
            assert_eq!(code, 0, "{verb} of {kind}: {answer}");
            if verb == "ADD" {
                result = answer;
            }
        }
        result
    }

    fn deed(&self, program: &Path, verb: &str, container: &str, netns: &str, config: &Value) -> (i32, Value) {
        let mut command = Command::new(program);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_NETNS", netns);
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", "/usr/lib/cni");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.switch.host.run(|| command.spawn().unwrap());
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

impl Drop for Runtimes<'_> {
    fn drop(&mut self) {
        if self.switch.mounts().is_some() {
            let _ = self.try_podman(&["rm", "--all", "--force", "--time", "0"]);
        }
        if let Some(mut child) = self.containerd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn endpoints(switch: &Vswitchd, network: &str) -> usize {
    switch.ctl(&["network", "inspect", network])[0]["endpoints"].as_array().map_or(0, Vec::len)
}

fn path(netns: &Netns) -> String {
    netns.path().to_str().unwrap().to_owned()
}

/// A switch with the network `blue`.
fn host(switch: Vswitchd) -> Vswitchd {
    switch.ctl(&[
        "network",
        "create",
        "--subnet",
        "10.9.0.0/24",
        "--ipv6",
        "--subnet",
        "fd00:9::/64",
        "blue",
    ]);
    switch
}

#[test]
fn podman_runs_containers() {
    let mut switch = host(Vswitchd::start_apart(Netns::new("host"), ""));
    {
        let podman = Runtimes::new(&switch, "blue");
        switch.ctl(&["network", "create", "--subnet", "10.10.0.0/24", "red"]);
        switch.ctl(&["cni", "conflist", "red", "--into", &podman.path("net.d")]);
        let networks = podman.podman(&["network", "ls"]);
        assert!(networks.contains("blue") && networks.contains("red"), "{networks}");
        podman.start(
            "web",
            &["--network", "blue:ip=10.9.0.50,mac=02:00:00:00:00:50", "-p", "8080:80"],
            &["httpd", "-f", "-h", "/"],
        );
        podman.start("job", &["--network", "blue"], &["sleep", "1000"]);
        podman.reaches("job", "10.9.0.50");
        podman.reaches("job", "fd00:9::1");
        let inside = podman.podman(&["exec", "web", "ip", "addr", "show", "dev", "eth0"]);
        assert!(inside.contains("10.9.0.50/24") && inside.contains("02:00:00:00:00:50"), "{inside}");
        assert_eq!(switch.host.page("10.9.0.1:8080"), "hello\n");
        // Who publishes the same port is refused, and not for what podman itself holds.
        let taken = podman.try_podman(&[
            "run",
            "--rm",
            "--network",
            "blue",
            "-p",
            "8080:80",
            "localhost/box",
            "true",
        ]);
        assert!(taken.stderr.contains("port is already allocated"), "{}", taken.stderr);
        podman.podman(&["restart", "-t", "0", "web"]);
        eventually("it is published again", || podman.page_of("web"));
        // Several networks, while it runs.
        podman.podman(&["network", "connect", "red", "job"]);
        let inside = podman.podman(&["exec", "job", "ip", "addr"]);
        assert!(inside.contains("10.10.0.2/24") && inside.contains("10.9.0."), "{inside}");
        podman.reaches("job", "10.10.0.1");
        podman.podman(&["network", "disconnect", "red", "job"]);
        assert!(!podman.podman(&["exec", "job", "ip", "addr"]).contains("10.10.0."));
        podman.start("both", &["--network", "blue", "--network", "red"], &["sleep", "1000"]);
        podman.reaches("both", "10.9.0.50");
        podman.reaches("both", "10.10.0.1");
        podman.podman(&["rm", "-f", "-t", "0", "both"]);
        assert_eq!(endpoints(&switch, "red"), 0);
        std::mem::forget(podman);
    }
    switch.kill();
    switch.run();
    let podman = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    podman.reaches("job", "10.9.0.50");
    podman.podman(&["rm", "-f", "-t", "0", "web", "job"]);
    assert_eq!(endpoints(&switch, "blue"), 0);
}

#[test]
fn containerd_runs_containers() {
    let switch = host(Vswitchd::start_apart(Netns::new("host"), ""));
    let mut runtimes = Runtimes::new(&switch, "blue");
    let archive = runtimes.path("oci.tar");
    runtimes.podman(&["save", "--format", "oci-archive", "-o", &archive, "localhost/box:latest"]);
    // ctr looks here and nowhere else.
    for (folder, content) in [("/opt/cni/bin", "cni-bin"), ("/etc/cni/net.d", "net.d")] {
        let mut mount = runtimes.inside("mount");
        mount.args(["--bind", &runtimes.path(content), folder]);
        assert_eq!(runtimes.run(mount).code, 0, "{folder}");
    }
    runtimes.start_containerd();
    runtimes.ctr(&["images", "import", "--snapshotter", "native", &archive]);
    let run = |id: &str, command: &[&str]| {
        let options = ["run", "--rm", "--cni", "--snapshotter", "native", "localhost/box:latest", id];
        runtimes.ctr(&[&options, command].concat())
    };
    let inside = run("one", &["ip", "addr", "show", "dev", "eth0"]);
    assert!(inside.contains("10.9.0.2/24") && inside.contains("fd00:9::"), "{inside}");
    assert!(run("two", &["ping", "-c", "1", "10.9.0.1"]).contains(" 0% packet loss"));
    eventually("nothing is left", || (endpoints(&switch, "blue") == 0).then_some(()));
}

#[test]
fn the_deeds_of_the_specification() {
    let switch = host(Vswitchd::start("", ""));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let (one, two) = (Netns::new("one"), Netns::new("two"));
    let config = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "vswitch", "network": "blue", "socket": switch.socket(),
    });
    let add = |container: &str, netns: &Netns| runtimes.plugin("ADD", container, &path(netns), &config);
    assert_eq!(runtimes.plugin("STATUS", "", "", &config).0, 0);
    let (code, result) = add("one", &one);
    assert_eq!(code, 0, "{result}");
    assert_eq!(result["ips"][0]["address"], "10.9.0.2/24");
    assert_eq!(result["ips"][0]["gateway"], "10.9.0.1");
    assert_eq!(result["interfaces"][0]["sandbox"], path(&one));
    assert_eq!(add("two", &two).0, 0);
    one.reaches("10.9.0.3");

    // The interface is there already; the configuration is checked against what is.
    assert_eq!(add("one", &one).1["code"], 4);
    let mut after = config.clone();
    after["prevResult"] = result.clone();
    assert_eq!(runtimes.plugin("CHECK", "one", &path(&one), &after), (0, Value::Null));
    after["prevResult"]["ips"][0]["address"] = "10.9.0.99/24".into();
    assert_eq!(runtimes.plugin("CHECK", "one", &path(&one), &after).1["code"], 100);
    // Damage is found, whatever it is.
    let mut after = config.clone();
    after["prevResult"] = result;
    let check = || runtimes.plugin("CHECK", "one", &path(&one), &after);
    for (damage, repair, missing) in [
        ("addr del 10.9.0.2/24 dev eth0", "addr add 10.9.0.2/24 dev eth0", "the address 10.9.0.2/24"),
        ("-6 route del default", "-6 route add default via fd00:9::1", "the route to ::/0"),
        ("link set eth0 address 02:00:00:00:00:01", "link set eth0 address 02:42:0a:09:00:02", "with MAC"),
        ("link set eth0 down", "link set eth0 up", "as it was made, up"),
    ] {
        one.ip(damage);
        let (code, failure) = check();
        assert!(code != 0 && failure["code"] == 100, "{damage}: {failure}");
        assert!(failure["msg"].as_str().unwrap().contains(missing), "{damage}: {failure}");
        one.ip(repair);
        // What went with it.
        for address in ["10.9.0.2/24", "fd00:9::2/64"] {
            one.ip(&format!("addr replace {address} dev eth0 nodad"));
        }
        for route in ["route replace default via 10.9.0.1", "-6 route replace default via fd00:9::1"] {
            one.ip(route);
        }
    }
    assert_eq!(check(), (0, Value::Null));

    // What is not valid any more goes; what is gone may go again, and without its namespace.
    let mut valid = config.clone();
    valid["cni.dev/valid-attachments"] = json!([{ "containerID": "two", "ifname": "eth0" }]);
    assert_eq!(runtimes.plugin("GC", "", "", &valid), (0, Value::Null));
    assert_eq!(endpoints(&switch, "blue"), 1);
    two.ip("link del eth0");
    let (_, failure) = runtimes.plugin("CHECK", "two", &path(&two), &after);
    assert_eq!(failure["code"], 100, "its interface is gone: {failure}");
    for netns in [path(&one), path(&two), "/run/netns/vt-gone".into(), String::new()] {
        assert_eq!(runtimes.plugin("DEL", "two", &netns, &config), (0, Value::Null), "{netns}");
    }
    assert_eq!(endpoints(&switch, "blue"), 0);

    // Another gives the addresses out, and takes them back when we fail.
    switch.ctl(&["network", "create", "--ipam-driver", "null", "plain"]);
    let leases = switch.folder().join("leases");
    let mut delegated = config.clone();
    delegated["network"] = "plain".into();
    delegated["ipam"] = json!({
        "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": "10.7.0.0/24" }]],
    });
    delegated["cniVersion"] = "1.0.0".into();
    let (code, result) = runtimes.plugin("ADD", "one", &path(&one), &delegated);
    assert_eq!((code, &result["ips"][0]["address"]), (0, &"10.7.0.2/24".into()), "{result}");
    assert!(one.ip("addr show dev eth0").contains("10.7.0.2/24"));
    assert_eq!(runtimes.plugin("DEL", "one", &path(&one), &delegated), (0, Value::Null));
    delegated["network"] = "blue".into();
    assert_eq!(runtimes.plugin("ADD", "one", &path(&one), &delegated).1["code"], 7);
    let left: Vec<_> = fs::read_dir(leases.join("net")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().starts_with("10.7.")), "{left:?}");

    // The daemon is away: whoever needs it says so.
    let mut away = config.clone();
    away["socket"] = "/nowhere/api.sock".into();
    assert_eq!(runtimes.plugin("STATUS", "", "", &away).1["code"], 50);
    assert_eq!(runtimes.plugin("ADD", "one", &path(&one), &away).1["code"], 11);
    assert_eq!(runtimes.plugin("DEL", "one", &path(&one), &away).1["code"], 11);
    assert_eq!(runtimes.plugin("DEL", "one", "", &away), (0, Value::Null));
    assert_eq!(runtimes.plugin("VERSION", "", "", &away).1["supportedVersions"][4], "1.1.0");
}

#[test]
fn other_plugins_stand_before_and_behind() {
    let switch = host(Vswitchd::start("", ""));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let (pod, far) = (Netns::new("pod"), Netns::new("far"));
    switch.host.ip(&format!("link add wan type veth peer name wan netns {}", far.name()));
    for (netns, own) in [(&switch.host, 1), (&far, 2)] {
        netns.ip(&format!("addr add 192.0.2.{own}/24 dev wan"));
        netns.ip("link set wan up");
    }
    let chain = |plugins: &[Value]| -> Vec<Value> {
        let whole = |plugin: &Value| {
            let mut plugin = plugin.clone();
            plugin["cniVersion"] = "1.0.0".into();
            plugin["name"] = "net".into();
            plugin
        };
        plugins.iter().map(whole).collect()
    };
    let ours = json!({ "type": "vswitch", "network": "blue", "socket": switch.socket() });

    // What the one before has made stays in the result.
    let behind = chain(&[json!({ "type": "loopback" }), ours.clone()]);
    let result = runtimes.chain("ADD", &path(&pod), &behind, Value::Null);
    let names: Vec<_> = result["interfaces"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["lo", "eth0"], "{result}");
    let ip = result["ips"].as_array().unwrap().iter().find(|ip| ip["address"] == "10.9.0.2/24").unwrap();
    assert_eq!(ip["interface"], 1);
    runtimes.chain("CHECK", &path(&pod), &behind, result.clone());
    runtimes.chain("DEL", &path(&pod), &behind, result);

    let ports = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    let data = switch.folder().join("tuning");
    let before = chain(&[
        ours,
        json!({ "type": "tuning", "mac": "02:00:00:00:00:99", "mtu": 1400, "dataDir": data }),
        json!({ "type": "portmap", "snat": true, "runtimeConfig": { "portMappings": ports } }),
    ]);
    let result = runtimes.chain("ADD", &path(&pod), &before, Value::Null);
    let link = pod.ip("link show eth0");
    assert!(link.contains("02:00:00:00:00:99") && link.contains("mtu 1400"), "{link}");
    // portmap 1.1 looks for the rules of IPv4 among those of IPv6, and finds none: its check fails behind any plugin.
    runtimes.chain("CHECK", &path(&pod), &before[..2], result.clone());
    let server = pod.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let serving = thread::spawn(move || server.accept().unwrap().0.write_all(b"hello\n").unwrap());
    let mut answer = String::new();
    far.connect("192.0.2.1:8080".parse().unwrap()).read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello\n");
    serving.join().unwrap();

    runtimes.chain("DEL", &path(&pod), &before, result);
    assert_eq!(endpoints(&switch, "blue"), 0);
    assert!(!pod.has_link("eth0"));
    let rules = switch.host.run(|| Command::new("nft").args(["list", "ruleset"]).output().unwrap());
    assert!(!String::from_utf8(rules.stdout).unwrap().contains("8080"));
}

#[test]
fn fifty_at_once() {
    let switch = host(Vswitchd::start("", ""));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let config =
        json!({ "cniVersion": "1.1.0", "name": "blue", "type": "vswitch", "socket": switch.socket() });
    let pods: Vec<_> = (0..50).map(|_| Netns::new("pod")).collect();
    let descriptors = process::descriptors(switch.pid());
    let all = |deed: &(dyn Fn(&Netns) + Sync)| {
        thread::scope(|scope| pods.iter().for_each(|pod| drop(scope.spawn(move || deed(pod)))));
    };
    all(&|pod| {
        let (code, result) = runtimes.plugin("ADD", pod.name(), &path(pod), &config);
        assert_eq!(code, 0, "{result}");
        let mut after = config.clone();
        after["prevResult"] = result;
        assert_eq!(runtimes.plugin("CHECK", pod.name(), &path(pod), &after), (0, Value::Null));
    });
    assert_eq!(endpoints(&switch, "blue"), 50);
    let addresses: HashSet<String> = pods.iter().map(|pod| pod.ip("-br -4 addr show dev eth0")).collect();
    assert_eq!(addresses.len(), 50);
    pods[0].reaches("10.9.0.51");
    // Two at once for each: one of them does it, and neither is an error.
    all(&|pod| {
        let del = || assert_eq!(runtimes.plugin("DEL", pod.name(), &path(pod), &config), (0, Value::Null));
        thread::scope(|scope| {
            scope.spawn(del);
            scope.spawn(del);
        });
    });
    assert_eq!(endpoints(&switch, "blue"), 0);
    assert!(!pods.iter().any(|pod| pod.has_link("eth0")));
    // ADD and DEL of one container at the same time: a DEL that comes after leaves nothing.
    all(&|pod| {
        thread::scope(|scope| {
            scope.spawn(|| runtimes.plugin("ADD", pod.name(), &path(pod), &config));
            scope.spawn(|| runtimes.plugin("DEL", pod.name(), &path(pod), &config));
        });
        assert_eq!(runtimes.plugin("DEL", pod.name(), &path(pod), &config), (0, Value::Null));
    });
    assert_eq!(endpoints(&switch, "blue"), 0);
    assert!(!pods.iter().any(|pod| pod.has_link("eth0")));
    eventually("no descriptor is left", || (process::descriptors(switch.pid()) <= descriptors).then_some(()));
}

#[test]
fn every_version_has_its_own_result() {
    let switch = host(Vswitchd::start("", ""));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let pod = Netns::new("pod");
    for (version, family) in [
        ("0.3.0", "4".into()),
        ("0.3.1", "4".into()),
        ("0.4.0", "4".into()),
        ("1.0.0", Value::Null),
        ("1.1.0", Value::Null),
    ] {
        let mut config =
            json!({ "cniVersion": version, "name": "blue", "type": "vswitch", "socket": switch.socket() });
        let (code, result) = runtimes.plugin("ADD", "pod", &path(&pod), &config);
        assert_eq!((code, &result["cniVersion"]), (0, &version.into()), "{result}");
        assert_eq!(result["ips"][0]["version"], family, "{result}");
        assert_eq!(result["ips"][0]["interface"], 0, "{result}");
        assert_eq!(result["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": "10.9.0.1" }), "{result}");
        config["prevResult"] = result;
        assert_eq!(runtimes.plugin("CHECK", "pod", &path(&pod), &config), (0, Value::Null), "{version}");
        assert_eq!(runtimes.plugin("DEL", "pod", &path(&pod), &config), (0, Value::Null), "{version}");
    }
    for version in ["0.2.0", "2.0.0", ""] {
        let config =
            json!({ "cniVersion": version, "name": "blue", "type": "vswitch", "socket": switch.socket() });
        assert_eq!(runtimes.plugin("ADD", "pod", &path(&pod), &config).1["code"], 1, "{version}");
    }
}

#[test]
fn a_pods_bandwidth_limits_its_port() {
    let switch = host(Vswitchd::start("", ""));
    let runtimes = Runtimes { switch: &switch, folder: switch.folder().to_owned(), containerd: None };
    let (one, two) = (Netns::new("one"), Netns::new("two"));
    let written = switch.ctl(&["cni", "conflist", "blue", "--print"]);
    assert_eq!(written["plugins"][0]["capabilities"]["bandwidth"], true);
    let add = |container: &str, netns: &Netns, bandwidth: Value| {
        let config = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "vswitch", "network": "blue", "socket": switch.socket(),
            "options": { "limit.rx": "1 Gbit/s", "limit.rx_burst": "65536" },
            "runtimeConfig": { "bandwidth": bandwidth },
        });
        runtimes.plugin("ADD", container, netns.path().to_str().unwrap(), &config)
    };
    // As containerd writes what a pod is annotated with: a rate, and the largest burst there is.
    let rates = json!({
        "ingressRate": 1_000_000_000, "ingressBurst": 80_000_000, "egressRate": 10_000_000, "egressBurst": u32::MAX,
    });
    assert_eq!(add("one", &one, rates).0, 0);
    assert_eq!(add("two", &two, json!({ "ingressRate": 0, "ingressBurst": 0 })).0, 0);
    let limit = |ifname: &str| switch.port(&format!("{ifname}-eth0.blue"))["limit"].clone();
    let expected = json!({ "rx": "10 Mbit/s", "tx": "1 Gbit/s", "tx_burst": 10_000_000 });
    assert_eq!(limit("one"), expected);
    assert_eq!(limit("two"), json!({ "rx": "1 Gbit/s", "rx_burst": 65536 }));
    let flow = Flow::start(&one, &two, "10.9.0.3");
    eventually("frames above the rate are dropped", || {
        (switch.dropped("one-eth0.blue", "LIMIT_RX") > 0).then_some(())
    });
    flow.flows(1_250_000);
    flow.stop();

    let three = Netns::new("three");
    let (code, refusal) = add("three", &three, json!({ "egressBurst": 1000 }));
    assert_eq!((code, &refusal["code"]), (1, &7.into()), "{refusal}");
    assert!(refusal["msg"].as_str().unwrap().contains("there is no egressRate: add it"), "{refusal}");
    let (_, refusal) = add("three", &three, json!({ "egressRate": -1 }));
    assert_eq!(refusal["code"], 6, "{refusal}");
    assert_eq!(endpoints(&switch, "blue"), 2, "what is refused leaves nothing");
}
