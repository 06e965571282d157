//! Network namespaces.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{
    PATIENCE, Raw,
    control::{Namespace, Place, run_in},
    eventually,
};

/// A network namespace known to `ip netns`. Deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    deleted: bool,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Netns {
    /// Creates `vt-kernel-<purpose>-<process>-<number>`, a unique name, with its loopback up.
    pub fn new(purpose: &str) -> Self {
        let name = format!("vt-kernel-{purpose}-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        run(&["netns", "add", &name]);
        let netns = Self { name, deleted: false };
        netns.ip("link set lo up");
        // A new namespace has the host's IPv4 settings (net.core.devconf_inherit_init_net), and what ran on it may have set this.
        netns.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "0")).unwrap();
        netns
    }

    /// Its name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Its inode number, unique while the namespace exists.
    pub fn inode(&self) -> u64 {
        fs::metadata(self.path()).unwrap().ino()
    }

    /// Runs `closure` inside. Sockets and processes it creates stay there.
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        inside(&self.name, closure)
    }

    /// Output of `ip` inside. `arguments` are separated by blanks.
    pub fn ip(&self, arguments: &str) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run(&all)
    }

    /// Whether the interface exists.
    pub fn has_link(&self, ifname: &str) -> bool {
        let output =
            Command::new("ip").args(["-n", &self.name, "link", "show", "dev", ifname]).output().unwrap();
        output.status.success()
    }

    /// The MAC address of an interface.
    pub fn mac(&self, ifname: &str) -> [u8; 6] {
        let links: serde_json::Value =
            serde_json::from_str(&self.ip(&format!("-j link show dev {ifname}"))).unwrap();
        let text = links[0]["address"].as_str().unwrap().to_owned();
        text.parse::<vswitch::addr::MacAddr>().unwrap().0
    }

    /// Silences the kernel: interfaces created from now on send nothing unless they have an address.
    pub fn silence(&self) {
        self.run(|| {
            for conf in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "1").unwrap();
            }
        });
    }

    /// A TCP listener inside, on a free port of `address`.
    pub fn listen(&self, address: &str) -> TcpListener {
        let address: IpAddr = address.parse().unwrap();
        self.run(|| TcpListener::bind((address, 0)).unwrap())
    }

    /// A TCP connection from inside; its reads and writes fail after [`PATIENCE`].
    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        let stream = self.run(|| TcpStream::connect_timeout(&address, PATIENCE));
        let stream = stream.unwrap_or_else(|error| panic!("{} to {address}: {error}", self.name));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The page served at `at`, which is `/index.html` of the test image.
    pub fn page(&self, at: &str) -> String {
        let mut stream = self.connect(at.parse().unwrap());
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().to_owned()
    }

    /// A UDP socket inside, on a free port of `address`; its reads fail after [`PATIENCE`].
    pub fn udp(&self, address: &str) -> UdpSocket {
        let address: IpAddr = address.parse().unwrap();
        let socket = self.run(|| UdpSocket::bind((address, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Opens an interface for raw frames.
    pub fn raw(&self, ifname: &str) -> Raw {
        self.run(|| Raw::open(ifname).unwrap())
    }

    /// Whether one ping is answered within a second.
    pub fn pings(&self, address: &str) -> bool {
        let mut ping = Command::new("ping");
        ping.args(["-n", "-q", "-c", "1", "-W", "1", address]);
        self.run(|| ping.output().expect("iputils-ping is installed").status.success())
    }

    /// Waits until `address` answers pings.
    pub fn reaches(&self, address: &str) {
        eventually(&format!("{} reaches {address}", self.name), || self.pings(address).then_some(()));
    }

    /// Deletes it now. Its contents live on until the last reference is gone.
    pub fn delete(&mut self) {
        run(&["netns", "delete", &self.name]);
        self.deleted = true;
    }

    /// Creates it again under the same name.
    pub fn make_again(&mut self) {
        run(&["netns", "add", &self.name]);
        self.deleted = false;
        self.ip("link set lo up");
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.deleted {
            let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
        }
        // A daemon that was killed leaves the sandbox's resolv.conf.
        let _ = fs::remove_dir_all(PathBuf::from("/etc/netns").join(&self.name));
    }
}

/// Runs `closure` in the namespace `name`. Sockets and processes it creates stay there.
pub(crate) fn inside<T: Send>(name: &str, closure: impl FnOnce() -> T + Send) -> T {
    let namespace = Namespace::open(&Place::Name(name.to_owned())).unwrap();
    run_in(&namespace, closure).unwrap()
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
