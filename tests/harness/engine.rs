//! A Docker Engine of a test's own, beside the switch of its host.

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

/// How long an engine may take for anything, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client that is packaged with the engine: a newer one refuses what such an engine can do.
pub const CLIENT: &str = "/usr/bin/docker";

/// A namespace of mounts in which /run and CNI's folders are empty, so that an engine finds our plugin and no other's, and
/// the other way round.
#[derive(Debug)]
pub struct Mounts(Child);

impl Mounts {
    /// Makes one; it goes with the value, when the last process in it has ended.
    pub fn new() -> Self {
        let script = "set -e; mount --make-rprivate /
            for folder in /run /etc/cni /opt/cni /var/lib/cni; do mkdir -p $folder; mount -t tmpfs tmpfs $folder; done
            mkdir /run/netns /etc/cni/net.d /opt/cni/bin; echo ready; exec cat";
        let mut command = Command::new("unshare");
        // Its standard input ends when we do, however that comes, and so does it.
        command.args(["--mount", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("util-linux is installed");
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// A command that runs inside; the namespace of the network is its caller's.
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
    /// The processes that live in it, and all that they have started: containers have mounts of their own.
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

/// A process that is there now.
struct Process {
    pid: i32,
    parent: i32,
    mounts: Option<PathBuf>,
}

fn process(entry: &fs::DirEntry) -> Option<Process> {
    let pid = entry.file_name().to_str()?.parse().ok()?;
    // proc_pid_stat(5): the name, in parentheses, may hold anything; the state and the parent follow.
    let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { pid, parent, mounts: fs::read_link(entry.path().join("ns/mnt")).ok() })
}

impl Drop for Mounts {
    /// A test that fails leaves engines behind, whose helpers would keep containers for ever.
    fn drop(&mut self) {
        for pid in self.inhabitants() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// A root file system with nothing but busybox, in `folder`.
pub fn busybox(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    let bin = root.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for name in ["sh", "ping", "wget", "nc", "ip", "sleep", "cat", "httpd", "true", "echo"] {
        let _ = std::os::unix::fs::symlink("busybox", bin.join(name));
    }
    fs::write(root.join("index.html"), "hello\n").unwrap();
    root
}

/// A root file system as an archive beside it, of which `docker import` makes an image.
pub fn archive(root: &Path) -> PathBuf {
    let archive = root.with_extension("tar");
    let tar = Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg(".").status().unwrap();
    assert!(tar.success());
    archive
}

/// dockerd, which finds its plugins in `mounts` and keeps all it has in `folder`; the namespace of the network is its caller's.
///
/// An engine of the host with a containerd has containers of a namespace, too: `containers` keeps them apart.
pub fn dockerd(mounts: &Mounts, folder: &Path, containers: &str) -> Command {
    let mut command = mounts.command("dockerd");
    for (flag, file) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        command.arg(flag).arg(folder.join(file));
    }
    command.args(["--host", &address(folder), "--bridge", "none", "--containerd-namespace", containers]);
    command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
    command
}

/// Where the dockerd with this folder answers, as `docker --host` knows it.
pub fn address(folder: &Path) -> String {
    format!("unix://{}", folder.join("docker.sock").display())
}

/// dockerd, with all that it keeps in a folder of its own.
#[derive(Debug)]
pub struct Engine {
    host: String,
    folder: PathBuf,
    mounts: Arc<Mounts>,
    child: Option<Child>,
}

impl Engine {
    /// Runs an engine in the host of `switch`, whose plugin it finds, and gives it the image `box`.
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

    /// Starts the process and waits until it answers.
    pub fn run(&mut self) {
        // What one that was killed leaves; the number may be another's by now.
        let _ = fs::remove_file(self.folder.join("pid"));
        // Its containerd ends with it, and may not be buried where nobody cares for orphans.
        let _ = fs::remove_file(self.folder.join("exec/containerd/containerd.pid"));
        let log = File::options().append(true).create(true).open(self.folder.join("log")).unwrap();
        let mut command = dockerd(&self.mounts, &self.folder, &self.host);
        command.args(["--storage-driver", "vfs"]).stdout(Stdio::null()).stderr(log);
        self.child = Some(inside(&self.host, || command.spawn().unwrap()));
        within(PATIENCE, "dockerd answers", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "dockerd ended\n{}", self.log());
            (self.try_docker(&["info"]).code == 0).then_some(())
        });
    }

    /// Tells it to stop, with its containers.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        terminate(&child);
        let ended = within(PATIENCE, "dockerd stops", || child.try_wait().unwrap());
        assert!(ended.success(), "{}", self.log());
    }

    /// Ends it as a crash would; containerd, which it started, and the containers go on.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What docker answers.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        self.try_run(&[&[CLIENT, "--host", &address(&self.folder)], arguments].concat())
    }

    /// What docker answers in the end, while the engine is killed.
    pub fn in_background(&self, arguments: &[&str]) -> JoinHandle<Output> {
        let mut command = self.command(&[&[CLIENT, "--host", &address(&self.folder)], arguments].concat());
        let host = self.host.clone();
        thread::spawn(move || Output::of(inside(&host, || command.output().unwrap())))
    }

    /// What docker-compose answers about the project `file`.
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

    /// What docker prints, without its end of line.
    ///
    /// # Panics
    /// It is refused.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert_eq!(output.code, 0, "docker {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout.trim_end().to_owned()
    }

    /// The sentence with which docker refuses.
    ///
    /// # Panics
    /// It is not refused.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        assert_ne!(output.code, 0, "docker {arguments:?} should be refused: {}", output.stdout);
        output.stderr.trim_end().to_owned()
    }

    /// What vswitchctl says, where it finds this engine at Docker's usual place.
    pub fn try_ctl(&self, switch: &Vswitchd, arguments: &[&str]) -> Output {
        let socket = self.folder.join("docker.sock");
        let linked = self.try_run(&["ln", "-sf", socket.to_str().unwrap(), "/run/docker.sock"]);
        assert_eq!(linked.code, 0, "{}", linked.stderr);
        let (program, socket) = (crate::daemon::binary("vswitchctl"), switch.socket());
        let base = [program.to_str().unwrap(), "--socket", socket.to_str().unwrap()];
        self.try_run(&[&base, arguments].concat())
    }

    /// Waits until a container answers echo requests from another.
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
