//! podman and containerd run containers.

use vswitch_tests::{Netns, Vswitchd, eventually, net};

use super::{Runtimes, endpoints, host};

#[test]
fn podman_runs_containers() {
    let mut switch = host(Vswitchd::start_apart(Netns::new("host"), &net()));
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
        // A port published twice is refused; a port held by podman itself is not.
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
        podman.podman(&["network", "reload", "web"]);
        eventually("it is published after a reload", || podman.page_of("web"));
        podman.reaches("job", "10.9.0.50");
        // Several networks, changed while the container runs.
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

/// The runtime tells the plugin what a container is called, and what else; podman's own server of names is not asked for.
#[test]
fn podmans_containers_have_names() {
    let switch = host(Vswitchd::start_apart(Netns::new("host"), &net().keys("[dns]\nenabled = true")));
    let podman = Runtimes::new(&switch, "blue");
    podman.start("db", &["--network", "blue:alias=sql"], &["sleep", "1000"]);
    podman.start("web", &["--network", "blue"], &["sleep", "1000"]);
    for name in ["db", "sql", "db.blue", "db.blue.vswitch.internal"] {
        podman.reaches("web", name);
    }
    let id = podman.podman(&["inspect", "-f", "{{.Id}}", "db"]);
    podman.reaches("web", &id[..12]);
    let file = podman.podman(&["exec", "web", "cat", "/etc/resolv.conf"]);
    assert!(file.contains("nameserver 169.254.53.53"), "{file}");
    podman.podman(&["rm", "-f", "-t", "0", "db"]);
    eventually("a container that is gone has no name", || {
        let ping = podman.try_podman(&["exec", "web", "ping", "-c", "1", "-W", "1", "db"]);
        ping.stderr.contains("bad address").then_some(())
    });
    // A server of the user's own is used alone.
    podman.start("own", &["--network", "blue", "--dns", "192.0.2.53"], &["sleep", "1000"]);
    let file = podman.podman(&["exec", "own", "cat", "/etc/resolv.conf"]);
    assert!(file.contains("192.0.2.53") && !file.contains("169.254"), "{file}");
    podman.podman(&["rm", "-f", "-t", "0", "web", "own"]);
}

#[test]
fn containerd_runs_containers() {
    let switch = host(Vswitchd::start_apart(Netns::new("host"), &net()));
    let mut runtimes = Runtimes::new(&switch, "blue");
    let archive = runtimes.path("oci.tar");
    runtimes.podman(&["save", "--format", "oci-archive", "-o", &archive, "localhost/box:latest"]);
    // ctr has these paths built in.
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
