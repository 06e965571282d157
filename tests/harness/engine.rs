//! A private Docker Engine next to the switch of a host.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Output, daemon::Vswitchd, netns::inside, within};

/// Timeout of engine operations, generous enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client packaged with the engine; a newer one may reject the engine's API version.
pub const CLIENT: &str = "/usr/bin/docker";

/// A mount namespace with empty /run and CNI folders, so that an engine sees our plugin only, and our plugin that engine
/// only.
#[derive(Debug)]
pub struct Mounts(Child);

impl Mounts {
    /// Creates a mount namespace, which is kept alive by a child process until drop.
    pub fn new() -> Self {
        let script = "set -e; mount --make-rprivate /
            for folder in /run /etc/cni /opt/cni /var/lib/cni; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
            mkdir /run/netns /etc/cni/net.d /opt/cni/bin; echo ready; exec cat";
        let mut command = Command::new("unshare");
        // The child exits at end of input, that is, however the test process ends.
        command.args(["--mount", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("util-linux is installed");
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// A command that runs in the mount namespace, and in the caller's network namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.0.id().to_string()]).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }
}

impl Default for Mounts {
    fn default() -> Self {
        Self::new()
    }
}

impl Mounts {
    /// Processes in the mount namespace and all their descendants; containers have mount namespaces of their own.
    fn inhabitants(&self) -> Vec<Pid> {
        let Ok(own) = fs::read_link(format!("/proc/{}/ns/mnt", self.0.id())) else { return Vec::new() };
        let processes: Vec<_> =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|it| process(&it)).collect();
        let lives = |process: &Process| process.mounts.as_ref() == Some(&own);
        let mut found: Vec<i32> = processes.iter().filter(|it| lives(it)).map(|it| it.pid).collect();
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            let children = processes.iter().filter(|it| it.parent == parent).map(|it| it.pid);
            let children: Vec<_> = children.filter(|pid| !found.contains(pid)).collect();
            found.extend(children);
            next += 1;
        }
        found.into_iter().filter_map(Pid::from_raw).collect()
    }
}

/// A running process.
struct Process {
    pid: i32,
    parent: i32,
    mounts: Option<PathBuf>,
}

fn process(entry: &fs::DirEntry) -> Option<Process> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    // proc_pid_stat(5): the command name, in parentheses, may contain anything; state and parent follow.
    let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { pid, parent, mounts: fs::read_link(entry.path().join("ns/mnt")).ok() })
}

impl Drop for Mounts {
    /// A failing test leaves engines behind, whose helpers would keep containers running.
    fn drop(&mut self) {
        for pid in self.inhabitants() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Creates a root file system with just busybox, in `folder`.
pub fn busybox(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    let bin = root.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for name in
        ["sh", "ping", "wget", "nc", "ip", "sleep", "cat", "httpd", "true", "echo", "grep", "nslookup"]
    {
        let _ = std::os::unix::fs::symlink("busybox", bin.join(name));
    }
    fs::write(root.join("index.html"), "hello\n").unwrap();
    root
}

/// Packs a root file system into an archive for `docker import`.
pub fn archive(root: &Path) -> PathBuf {
    let archive = root.with_extension("tar");
    let tar = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg(".").status().unwrap();
    assert!(tar.success());
    archive
}

/// The command for dockerd with its plugins from `mounts` and its files in `folder`, run in the caller's network
/// namespace.
///
/// `containers` is the containerd namespace, which must differ between engines that share a containerd.
pub fn dockerd(mounts: &Mounts, folder: &Path, containers: &str) -> Command {
    let mut command = mounts.command("dockerd");
    for (flag, file) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        command.arg(flag).arg(folder.join(file));
    }
    command.args(["--host", &address(folder), "--bridge", "none", "--containerd-namespace", containers]);
    command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
    command
}

/// The engine's address, as for `docker --host`.
pub fn address(folder: &Path) -> String {
    format!("unix://{}", folder.join("docker.sock").display())
}

/// dockerd with its state in a folder of its own.
#[derive(Debug)]
pub struct Engine {
    host: String,
    folder: PathBuf,
    mounts: Arc<Mounts>,
    child: Option<Child>,
}

impl Engine {
    /// Starts an engine on the host of `switch`, with that switch's plugin and the image `box`.
    pub fn start(switch: &Vswitchd) -> Self {
        let mounts = switch.mounts().expect("the switch has mounts of its own");
        let folder = switch.folder().join("docker");
        fs::create_dir_all(&folder).unwrap();
        let mut engine = Self { host: switch.host.name().into(), folder, mounts, child: None };
        engine.run();
        let archive = archive(&busybox(&engine.folder));
        engine.docker(&["import", archive.to_str().unwrap(), "box:latest"]);
        engine
    }

    /// Starts the process and waits until it responds.
    pub fn run(&mut self) {
        // Left by an engine that was killed; the process id may have been reused.
        let _ = fs::remove_file(self.folder.join("pid"));
        // containerd dies with the engine; without an init that reaps orphans, its process id would still look alive.
        let _ = fs::remove_file(self.folder.join("exec/containerd/containerd.pid"));
        let log = File::options().append(true).create(true).open(self.folder.join("log")).unwrap();
        let mut command = dockerd(&self.mounts, &self.folder, &self.host);
        let config = self.config();
        if config.exists() {
            command.arg("--config-file").arg(config);
        }
        command.args(["--storage-driver", "vfs"]).stdout(Stdio::null()).stderr(log);
        self.child = Some(inside(&self.host, || command.spawn().unwrap()));
        within(PATIENCE, "dockerd answers", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "dockerd ended\n{}", self.log());
            (self.try_docker(&["info"]).code == 0).then_some(())
        });
    }

    /// Its configuration file, read at the next start if it is there.
    pub fn config(&self) -> PathBuf {
        self.folder.join("daemon.json")
    }

    /// Stops it with its containers.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        terminate(&child);
        let ended = within(PATIENCE, "dockerd stops", || child.try_wait().unwrap());
        assert!(ended.success(), "{}", self.log());
    }

    /// Kills it with SIGKILL. containerd and the containers keep running.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs docker.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        self.try_run(&[&[CLIENT, "--host", &address(&self.folder)], arguments].concat())
    }

    /// Its API's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// The command that runs docker, to be spawned on the engine's host.
    pub fn command_of(&self, arguments: &[&str]) -> Command {
        let mut command = self.mounts.command(CLIENT);
        command.args(["--host", &address(&self.folder)]).args(arguments);
        command
    }

    /// Runs docker in a thread, to be joined after the engine was killed.
    pub fn in_background(&self, arguments: &[&str]) -> JoinHandle<Output> {
        let mut command = self.command(&[&[CLIENT, "--host", &address(&self.folder)], arguments].concat());
        let host = self.host.clone();
        thread::spawn(move || Output::of(inside(&host, || command.output().unwrap())))
    }

    /// Runs docker-compose on `file` and returns its output.
    pub fn compose(&self, file: &Path, arguments: &[&str]) -> String {
        let base = ["docker-compose", "--host", &address(&self.folder), "--file", file.to_str().unwrap()];
        let output = self.try_run(&[&base, arguments].concat());
        assert_eq!(output.code, 0, "docker-compose {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        Output::of(inside(&self.host, || command.output().unwrap()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.mounts.command("timeout");
        command.arg("100").args(arguments);
        command
    }

    /// Output of a docker command, without the trailing newline.
    ///
    /// # Panics
    /// The command fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert_eq!(output.code, 0, "docker {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// Creates Docker's network of the switch's one of the same name, with the addresses of this host.
    pub fn create(&self, network: &str, subnet: &str) {
        let named = format!("vswitch.network={network}");
        let ours = ["network", "create", "-d", "vswitch", "--ipam-driver", "vswitch", "-o", &named];
        self.docker(&[&ours[..], &["--subnet", subnet, network]].concat());
    }

    /// Error output of a docker command that must fail.
    ///
    /// # Panics
    /// It succeeds.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert_ne!(output.code, 0, "docker {arguments:?} should be refused: {}", output.stdout);
        output.stderr.trim_end().to_owned()
    }

    /// Runs vswitchctl with this engine at Docker's default socket.
    pub fn try_ctl(&self, switch: &Vswitchd, arguments: &[&str]) -> Output {
        let socket = self.socket();
        let linked = self.try_run(&["ln", "-sf", socket.to_str().unwrap(), "/run/docker.sock"]);
        assert_eq!(linked.code, 0, "{}", linked.stderr);
        let (program, socket) = (crate::daemon::binary("vswitchctl"), switch.socket());
        let base = [program.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
        self.try_run(&[&base, arguments].concat())
    }

    /// Waits until `container` can ping `address`.
    pub fn reaches(&self, container: &str, address: &str) {
        within(PATIENCE, &format!("{container} reaches {address}"), || {
            let ping = self.try_docker(&["exec", container, "ping", "-c", "1", "-W", "1", address]);
            (ping.code == 0).then_some(())
        });
    }
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let _ = kill_process(pid, Signal::TERM);
}

impl Drop for Engine {
    fn drop(&mut self) {
        let containers = self.try_docker(&["ps", "--all", "--quiet"]).stdout;
        let containers: Vec<_> = containers.split_whitespace().collect();
        if !containers.is_empty() {
            let _ = self.try_docker(&[&["rm", "--force"], &containers[..]].concat());
        }
        if let Some(mut child) = self.child.take() {
            terminate(&child);
            for _ in 0..200 {
                if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!(
                "--- the log of dockerd in {}, the last line first\n{}\n---",
                self.host,
                last.join("\n")
            );
        }
    }
}
