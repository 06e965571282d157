//! The test setup: two containers and the hosts between them, each a network namespace.
//!
//! ```text
//!   container a                   host                   container b
//!   eth0 10.99.0.1/24  ──  (system under test)  ──  eth0 10.99.0.2/24          one host
//!   eth0  ──  (system under test)  ──  underlay  ──  (system under test)  ──  eth0          two hosts
//! ```
//!
//! A host is a namespace of its own so that nothing a system creates (bridges, device ends, sockets) appears in the
//! machine's. Names contain the process id of their creator, which distinguishes leftovers of a killed run, removed at
//! the next start, from a live run.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tempfile::TempDir;

use crate::{
    error::{Doing, Result},
    interrupt,
    process::{run, run_line},
    underlay::{Underlay, Uplink},
};

/// Prefix of the names of all namespaces and folders of the bench.
const PREFIX: &str = "vt-bench-";

/// The interface of a container.
pub const INTERFACE: &str = "eth0";

/// The MTU of every interface, in bytes without Ethernet header; behind a tunnel it is less.
pub const MTU: u16 = 1500;

/// The broadcast address of the containers' network.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 255);

/// A network namespace; dropping it deletes it with every device in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn create(name: String) -> Result<Self> {
        run_line(&format!("ip netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        // Router solicitations and duplicate address detection would add unwanted frames.
        namespace.enter(|| {
            for scope in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
                if Path::new(&path).exists() {
                    std::fs::write(path, "1").doing("switch IPv6 off")?;
                }
            }
            Ok(())
        })??;
        Ok(namespace)
    }

    /// Its name, as `ip netns` and `net.toml` know it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command for a program in this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// The given command, run in this namespace.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = self.command(command.get_program());
        inside.args(command.get_args());
        inside
    }

    /// Runs `ip ARGUMENTS` on this namespace.
    ///
    /// # Errors
    /// Fails when `ip` does.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Runs `act` on a thread in this namespace. A socket created there stays there.
    ///
    /// # Errors
    /// Fails when the namespace cannot be entered, which needs CAP_SYS_ADMIN.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let target = File::open(self.path()).doing("open a namespace")?;
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| {
                move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network))
                    .doing("enter a namespace")?;
                Ok(act())
            });
            visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The path to open it by.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not by `process::run`, which fails after an interrupt: this is part of stopping.
        let deleted = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} stays until the next start", self.name);
        }
    }
}

/// One end of the experiment.
#[derive(Debug)]
pub struct Container {
    /// Its namespace.
    pub namespace: Namespace,
    /// The address of its [`INTERFACE`], of a /24.
    pub address: Ipv4Addr,
    /// The MTU of its [`INTERFACE`].
    pub mtu: u16,
    /// The command prefix by which a container engine runs a program in it; empty for a plain namespace.
    exec: OnceLock<Vec<String>>,
}

impl Container {
    fn create(letter: &str, last: u8, mtu: u16) -> Result<Self> {
        let namespace = Namespace::create(own(letter))?;
        Ok(Self { namespace, address: Ipv4Addr::new(10, 99, 0, last), mtu, exec: OnceLock::new() })
    }

    /// A command for a program in this container.
    pub fn command(&self, program: &str) -> Command {
        match self.exec.get().map(Vec::as_slice) {
            Some([first, rest @ ..]) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            _ => self.namespace.command(program),
        }
    }

    /// Replaces it by the container with this first process, of an engine that runs programs in it by the prefix
    /// `exec`.
    ///
    /// # Errors
    /// Fails when `ip` does.
    pub fn adopt(&self, process: &str, exec: Vec<String>) -> Result<()> {
        let name = self.namespace.name();
        run_line(&format!("ip netns delete {name}"))?;
        run_line(&format!("ip netns attach {name} {process}"))?;
        self.exec.get_or_init(|| exec);
        Ok(())
    }

    /// Sets MTU and address of [`INTERFACE`], and brings it up.
    ///
    /// # Errors
    /// Fails when there is no such interface yet.
    pub fn configure(&self) -> Result<()> {
        self.namespace.ip(&format!("link set {INTERFACE} mtu {} up", self.mtu))?;
        self.namespace.ip(&format!("address add {}/24 broadcast + dev {INTERFACE}", self.address))?;
        Ok(())
    }
}

/// A host of a system under test.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// For sockets, databases and logs.
    pub folder: PathBuf,
    /// The link to the other host, if there is one.
    pub uplink: Option<Uplink>,
}

impl Host {
    fn create(letter: &str, within: &Path) -> Result<Self> {
        let folder = within.join(letter);
        std::fs::create_dir(&folder).doing("make a host's folder")?;
        Ok(Self { namespace: Namespace::create(own(letter))?, folder, uplink: None })
    }
}

/// A container, and its connection to the system under test.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The name of the port that leads to it.
    pub port: &'static str,
    /// The container.
    pub container: &'a Container,
    /// Its host.
    pub host: &'a Host,
}

/// Two containers, their host or hosts, and a folder for all files. Dropping it removes them all.
#[derive(Debug)]
pub struct Lab {
    /// The container that sends by default.
    pub a: Container,
    /// The container that receives by default.
    pub b: Container,
    hosts: Vec<Host>,
    _folder: TempDir,
}

impl Lab {
    /// Creates a setup without a connection between its containers: on one host, or on two that are connected by
    /// `underlay`.
    ///
    /// # Errors
    /// Fails without CAP_NET_ADMIN and CAP_SYS_ADMIN, or when one of this process exists already.
    pub fn create(underlay: Option<Underlay>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(&own("")).tempdir().doing("make a folder")?;
        let letters: &[_] = if underlay.is_some() { &["s", "t"] } else { &["s"] };
        let hosts = letters.iter().map(|letter| Host::create(letter, folder.path()));
        let mut hosts = hosts.collect::<Result<Vec<_>>>()?;
        if let (Some(underlay), [first, second]) = (underlay, hosts.as_mut_slice()) {
            let uplinks = underlay.join(&first.namespace, &second.namespace)?;
            [first.uplink, second.uplink] = uplinks.map(Some);
        }
        let mtu = MTU - underlay.map_or(0, Underlay::overhead);
        Ok(Self {
            a: Container::create("a", 1, mtu)?,
            b: Container::create("b", 2, mtu)?,
            hosts,
            _folder: folder,
        })
    }

    /// The hosts, that of container a first.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of container a, of both containers if there is only one.
    pub fn host(&self) -> &Host {
        &self.hosts[0]
    }

    /// Both containers with their ports.
    pub fn ends(&self) -> [End<'_>; 2] {
        let [first, last] = [&self.hosts[0], &self.hosts[self.hosts.len() - 1]];
        [
            End { port: "porta", container: &self.a, host: first },
            End { port: "portb", container: &self.b, host: last },
        ]
    }

    /// The containers of one host.
    pub fn ends_at<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = End<'a>> {
        self.ends().into_iter().filter(|end| std::ptr::eq(end.host, host))
    }

    /// Connects each container to its host by a veth pair: [`INTERFACE`] there, `porta` and `portb` here.
    ///
    /// # Errors
    /// Fails when `ip` does.
    pub fn veths(&self) -> Result<()> {
        for End { port, container, host } in self.ends() {
            let peer = container.namespace.name();
            host.namespace.ip(&format!("link add {port} type veth peer name {INTERFACE} netns {peer}"))?;
            host.namespace.ip(&format!("link set {port} mtu {} up", container.mtu))?;
            container.configure()?;
        }
        Ok(())
    }

    /// Moves `porta` and `portb`, which the system under test creates as TAPs, into the containers.
    ///
    /// # Errors
    /// Fails if the system does not create them within five seconds.
    pub fn adopt_taps(&self) -> Result<()> {
        for End { port, container, host } in self.ends() {
            let target = container.namespace.name();
            let arguments = format!("link set {port} netns {target} name {INTERFACE}");
            interrupt::wait_for(port, Duration::from_secs(5), || host.namespace.ip(&arguments).ok())?;
            container.configure()?;
        }
        Ok(())
    }
}

/// Further namespaces, for many containers.
///
/// # Errors
/// As [`Lab::create`].
pub fn more_namespaces(count: usize) -> Result<Vec<Namespace>> {
    (0..count).map(|number| Namespace::create(format!("{PREFIX}{}-m{number}", std::process::id()))).collect()
}

/// A name of this run.
fn own(letter: &str) -> String {
    format!("{PREFIX}{}-{letter}", std::process::id())
}

/// Removes leftovers of killed runs: namespaces and folders whose creator is gone, and containers of engines.
///
/// Their programs are gone already: each ends with the process that started it.
///
/// # Errors
/// Fails when a namespace cannot be deleted.
pub fn sweep() -> Result<()> {
    for shim in orphaned_shims() {
        eprintln!("ending a container of an earlier run");
        let task = format!("/proc/{0}/task/{0}/children", shim.as_raw_pid());
        let children = std::fs::read_to_string(task).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        for process in children.chain([shim]) {
            // A process that has ended in the meantime is fine.
            let _ = kill_process(process, Signal::KILL);
        }
    }
    for name in leftovers(Path::new("/run/netns")) {
        eprintln!("removing namespace {name} of an earlier run");
        run_line(&format!("ip netns delete {name}"))?;
    }
    let folder = std::env::temp_dir();
    for name in leftovers(&folder) {
        std::fs::remove_dir_all(folder.join(name)).doing("remove a folder of an earlier run")?;
    }
    Ok(())
}

fn leftovers(folder: &Path) -> Vec<String> {
    names_in(folder).filter(|name| is_leftover(name)).collect()
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn is_leftover(name: &str) -> bool {
    maker(name).is_some_and(|pid| !is_bench(pid))
}

/// The processes that keep containers of an engine that is gone: they are meant to outlive the engine.
fn orphaned_shims() -> Vec<Pid> {
    let is_orphan = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0').skip_while(|word| *word != "-namespace");
        line.contains("containerd-shim") && words.nth(1).is_some_and(is_leftover)
    };
    let all = names_in(Path::new("/proc")).filter_map(|name| Pid::from_raw(name.parse().ok()?));
    all.filter(is_orphan).collect()
}

/// The process id in a name of the bench.
fn maker(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

fn is_bench(pid: u32) -> bool {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["vswitch-bench", "vswitch_bench"].iter().any(|name| comm.starts_with(name)) // as binary, as test binary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_have_a_maker() {
        assert_eq!(maker("vt-bench-812-a"), Some(812));
        for other in ["vt-bench-", "vt-bench-x-a", "vt-bench-7", "web", "vt-wire-812-a"] {
            assert_eq!(maker(other), None, "{other}");
        }
    }

    #[test]
    #[ignore = "needs CAP_NET_ADMIN and CAP_SYS_ADMIN"]
    fn a_laboratory_leaves_nothing() {
        let lab = Lab::create(None).unwrap();
        let (name, folder) = (lab.a.namespace.name().to_owned(), lab.host().folder.clone());
        lab.veths().unwrap();
        assert!(lab.a.namespace.ip("address show dev eth0").unwrap().contains("10.99.0.1/24"));
        drop(lab);
        assert!(!Path::new("/run/netns").join(name).exists() && !folder.exists());
    }
}
