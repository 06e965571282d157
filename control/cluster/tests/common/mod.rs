//! An etcd for a test.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use vswitch_cluster::store::etcd::{Access, Etcd};

/// A server of its own, killed on drop.
pub(crate) struct Server {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Server {
    /// Starts it and waits until it listens.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<_> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [client, peer] = [0, 1].map(|at: usize| format!("http://{}", ports[at].local_addr().unwrap()));
        drop(ports);
        let child = Command::new("etcd")
            .args(["--name", "one", "--initial-cluster", &format!("one={peer}"), "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed: `make test-kernel` does it");
        let socket = client.trim_start_matches("http://").to_owned();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "etcd does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, address: client, _folder: folder }
    }

    /// A handle to it.
    pub(crate) fn store(&self) -> Etcd {
        Etcd::new(&Access { members: vec![self.address.clone()], tls: None }).unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
