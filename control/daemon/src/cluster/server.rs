//! The store that a manager runs: Debian's etcd, as a child of the daemon.
//!
//! It is started with the daemon and ends with it, also when the daemon is killed; if it ends by itself, it is started again.
//! The other hosts go on without it meanwhile.

use std::{net::IpAddr, process::Stdio, time::Duration};

use tokio::{
    process::{Child, Command},
    time::sleep,
};
use tracing::{info, warn};
use vswitch_model::{Error, Id, Name};

use super::folder::Folder;

/// The ports that etcd's clients and members use by convention.
const CLIENTS: u16 = 2379;
const MEMBERS: u16 = 2380;

/// A member of the store.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) cluster: Id,
    pub(super) name: Name,
    pub(super) address: IpAddr,
    pub(super) folder: Folder,
}

impl Server {
    /// Where its clients reach it.
    pub(super) fn url(address: IpAddr) -> String {
        url(address, CLIENTS)
    }

    /// Checks that it can be started.
    ///
    /// # Errors
    /// It is not installed.
    pub(super) fn check() -> Result<(), Error> {
        let missing = |program: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).all(|folder| !folder.join(program).exists())
        };
        if missing("etcd") {
            return Err(Error::unavailable(
                "a cluster needs etcd, which is not installed: `apt-get install etcd-server`, or name one that runs with --store",
            ));
        }
        Ok(())
    }

    fn start(&self) -> std::io::Result<Child> {
        let Self { cluster, name, address, folder } = self;
        let (clients, members) = (url(*address, CLIENTS), url(*address, MEMBERS));
        let [authority, certificate, key] = ["ca.crt", "host.crt", "host.key"].map(|file| folder.path(file));
        // setpriv(1): the child ends with the daemon, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd", "--name", name.as_str()]);
        command.arg("--data-dir").arg(folder.path("etcd"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &members, "--initial-advertise-peer-urls", &members]);
        command.args([
            "--initial-cluster",
            &format!("{name}={members}"),
            "--initial-cluster-token",
            cluster.short(),
        ]);
        for (option, file) in [
            ("--trusted-ca-file", &authority),
            ("--cert-file", &certificate),
            ("--key-file", &key),
            ("--peer-trusted-ca-file", &authority),
            ("--peer-cert-file", &certificate),
            ("--peer-key-file", &key),
        ] {
            command.arg(option).arg(file);
        }
        command.args(["--client-cert-auth", "--peer-client-cert-auth", "--auto-compaction-retention", "1h"]);
        command.args(["--logger", "zap", "--log-level", "error"]);
        // Its settings are these, and none of the environment's.
        for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("ETCD_")) {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()
    }

    /// Runs it until the task is dropped.
    pub(super) async fn run(self) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.start() {
                Ok(mut child) => {
                    info!(pid = child.id(), "the store runs");
                    match child.wait().await {
                        Ok(status) => warn!("the store has ended ({status}): it is started again"),
                        Err(error) => warn!("the store is lost: {error}"),
                    }
                }
                Err(error) => warn!("the store cannot be started: {error}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}
