//! podman and containerd with our CNI plugin.

mod plugin;
mod runtimes;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use vswitch_tests::{Netns, Output, Vswitchd, daemon::binary, engine::busybox, eventually};

/// podman, and `ctr` with a containerd, with their state in the folder of a switch.
struct Runtimes<'s> {
    switch: &'s Vswitchd,
    folder: PathBuf,
    containerd: Option<Child>,
}

impl<'s> Runtimes<'s> {
    /// Installs the plugin and the network configuration, and creates the image `box`.
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

    /// `podman run` with limits that need no privileges beyond the test's own.
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

    /// Whether the web server of a container answers at port 8080 of the host.
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

    /// Runs our plugin directly, as a runtime does.
    fn plugin(&self, verb: &str, container: &str, netns: &str, config: &Value) -> (i32, Value) {
        self.plugin_for("eth0", verb, container, netns, config)
    }

    /// The same for another interface than eth0.
    fn plugin_for(
        &self,
        ifname: &str,
        verb: &str,
        container: &str,
        netns: &str,
        config: &Value,
    ) -> (i32, Value) {
        self.deed(&binary("vswitch-cni"), [verb, container, ifname], netns, config)
    }

    /// Runs a chain of plugins. Each gets the result of its predecessor; the result of the last is returned.
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
            let (code, answer) = self.deed(&program, [verb, "pod", "eth0"], netns, &plugin);
            assert_eq!(code, 0, "{verb} of {kind}: {answer}");
            if verb == "ADD" {
                result = answer;
            }
        }
        result
    }

    fn deed(&self, program: &Path, what: [&str; 3], netns: &str, config: &Value) -> (i32, Value) {
        self.told(program, what, netns, config, "")
    }

    /// The same with arguments, `KEY=VALUE` with semicolons between.
    fn told(
        &self,
        program: &Path,
        what: [&str; 3],
        netns: &str,
        config: &Value,
        arguments: &str,
    ) -> (i32, Value) {
        let [verb, container, ifname] = what;
        let mut command = Command::new(program);
        command.env("CNI_ARGS", arguments);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", container).env("CNI_NETNS", netns);
        command.env("CNI_IFNAME", ifname).env("CNI_PATH", "/usr/lib/cni");
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
