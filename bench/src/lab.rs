//! The laboratory: two containers and the room of the switch between them, each a network namespace.
//!
//! ```text
//!   container a             switch              container b
//!   eth0 10.99.0.1/24  ──  (system under test)  ──  eth0 10.99.0.2/24
//! ```
//!
//! The switch has a namespace of its own so that nothing it makes (bridges, device ends, sockets) appears in
//! the host's. Names hold the process id of their maker: what a killed run left is told from a live run's,
//! and swept at the next start.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::{
    error::{Doing, Result},
    interrupt,
    process::{run, run_line},
};

/// How the names of all our namespaces and folders start.
const PREFIX: &str = "vt-bench-";

/// The interface of a container.
pub const INTERFACE: &str = "eth0";

/// The MTU of every interface here, in bytes without Ethernet header.
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
        // Router solicitations and duplicate address detection would be frames that nobody sent on purpose.
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

    /// A program that will run in this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip ARGUMENTS` on this namespace.
    ///
    /// # Errors
    /// Fails when `ip` does.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Runs `act` on a thread that stands in this namespace. A socket made there stays there.
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

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not by `process::run`, which gives up once the user has asked to stop: this is how we stop.
        let deleted = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} stays until the next start", self.name);
        }
    }
}

/// One end of the experiment.
#[derive(Debug)]
pub struct Container {
    /// Where it lives.
    pub namespace: Namespace,
    /// The address of its [`INTERFACE`], of a /24.
    pub address: Ipv4Addr,
}

impl Container {
    fn create(letter: &str, last: u8) -> Result<Self> {
        let namespace = Namespace::create(format!("{PREFIX}{}-{letter}", std::process::id()))?;
        Ok(Self { namespace, address: Ipv4Addr::new(10, 99, 0, last) })
    }

    /// Gives [`INTERFACE`] its MTU and address, and sets it up.
    ///
    /// # Errors
    /// Fails when there is no such interface yet.
    pub fn configure(&self) -> Result<()> {
        self.namespace.ip(&format!("link set {INTERFACE} mtu {MTU} up"))?;
        self.namespace.ip(&format!("address add {}/24 broadcast + dev {INTERFACE}", self.address))?;
        Ok(())
    }
}

/// Two containers, the namespace of the switch, and a folder for its files. Dropping it removes them all.
#[derive(Debug)]
pub struct Lab {
    /// The container that sends, unless a figure says otherwise.
    pub a: Container,
    /// The container that receives, unless a figure says otherwise.
    pub b: Container,
    /// Where the system under test lives.
    pub switch: Namespace,
    folder: TempDir,
}

impl Lab {
    /// A fresh laboratory with nothing between its containers yet.
    ///
    /// # Errors
    /// Fails without CAP_NET_ADMIN and CAP_SYS_ADMIN, or when one of this process exists already.
    pub fn create() -> Result<Self> {
        let own = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&own).tempdir().doing("make a folder")?;
        let switch = Namespace::create(format!("{own}s"))?;
        Ok(Self { a: Container::create("a", 1)?, b: Container::create("b", 2)?, switch, folder })
    }

    /// Both containers with the name of the switch port that leads to each.
    pub fn ends(&self) -> [(&'static str, &Container); 2] {
        [("porta", &self.a), ("portb", &self.b)]
    }

    /// A folder for sockets, databases and logs of the system under test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Joins each container to the switch by a veth pair: [`INTERFACE`] there, `porta` and `portb` here.
    ///
    /// # Errors
    /// Fails when `ip` does.
    pub fn veths(&self) -> Result<()> {
        for (port, container) in self.ends() {
            let peer = container.namespace.name();
            self.switch.ip(&format!("link add {port} type veth peer name {INTERFACE} netns {peer}"))?;
            self.switch.ip(&format!("link set {port} mtu {MTU} up"))?;
            container.configure()?;
        }
        Ok(())
    }

    /// Moves `porta` and `portb`, which the system under test makes as TAPs, into the containers.
    ///
    /// # Errors
    /// Fails when the system has not made them within five seconds.
    pub fn adopt_taps(&self) -> Result<()> {
        for (port, container) in self.ends() {
            let target = container.namespace.name();
            let arguments = format!("link set {port} netns {target} name {INTERFACE}");
            interrupt::wait_for(port, Duration::from_secs(5), || self.switch.ip(&arguments).ok())?;
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

/// Removes what killed runs left behind: namespaces and folders whose maker is gone.
///
/// Their programs are gone already: each dies with the process that started it.
///
/// # Errors
/// Fails when a namespace cannot be deleted.
pub fn sweep() -> Result<()> {
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
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| maker(name).is_some_and(|pid| !is_bench(pid))).collect()
}

/// The process id in one of our names.
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
        let lab = Lab::create().unwrap();
        let (name, folder) = (lab.a.namespace.name().to_owned(), lab.folder().to_owned());
        lab.veths().unwrap();
        assert!(lab.a.namespace.ip("address show dev eth0").unwrap().contains("10.99.0.1/24"));
        drop(lab);
        assert!(!Path::new("/run/netns").join(name).exists() && !folder.exists());
    }
}
