//! Docker Engine on a test host.
//!
//! All its data is in the host's folder, and it finds plugins in mounts shared only with the switch of its host, so an
//! engine of the machine is not touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use vswitch_tests::engine::{CLIENT, Mounts, address, archive, busybox, dockerd};

use crate::{
    error::{Doing, Error, Result},
    interrupt,
    lab::{Container, Host},
    process::{Process, installed, run, tail},
};

/// The image of every container: busybox and iperf3.
pub const IMAGE: &str = "box";

/// Time limit until the engine answers.
const READY: Duration = Duration::from_secs(60);

/// Time limit for a request.
const LIMIT: Duration = Duration::from_secs(60);

/// A dockerd. Dropping it removes its containers and ends it.
#[derive(Debug)]
pub struct Engine {
    dockerd: Process,
    folder: PathBuf,
    _mounts: Mounts,
}

impl Engine {
    /// The missing prerequisite, if any.
    pub fn missing() -> Option<String> {
        let packages = [("dockerd", "docker.io"), (CLIENT, "docker.io"), ("busybox", "busybox-static")];
        let absent = packages.into_iter().find(|(program, _)| !installed(program));
        absent.map(|(program, package)| format!("no `{program}`: install {package}"))
    }

    /// Its version, as reported by itself.
    ///
    /// # Errors
    /// Fails if it cannot be queried.
    pub fn version() -> Result<String> {
        Ok(run(Command::new("dockerd").arg("--version"))?.trim().to_owned())
    }

    /// Runs an engine on a host, and builds its image. It finds plugins that run in `mounts`.
    ///
    /// # Errors
    /// Fails if it does not start.
    pub fn start(host: &Host, mounts: Mounts) -> Result<Self> {
        let folder = host.folder.join("docker");
        fs::create_dir(&folder).doing("make the engine's folder")?;
        let mut command = host.namespace.inside(&dockerd(&mounts, &folder, host.namespace.name()));
        let dockerd = Process::serve(&mut command, &folder.join("log"))?;
        let mut engine = Self { dockerd, folder, _mounts: mounts };
        let ready =
            || engine.answers().then_some(true).or_else(|| engine.dockerd.has_ended().then_some(false));
        if !interrupt::wait_for("dockerd", READY, ready)? {
            let message = tail(&fs::read_to_string(engine.folder.join("log")).unwrap_or_default());
            return Err(Error::Command { command: "dockerd".into(), status: "it ended".into(), message });
        }
        let image = archive(&root(&engine.folder)?);
        engine.docker(&["import", &image.to_string_lossy(), IMAGE])?;
        Ok(engine)
    }

    /// The output of `docker ARGUMENTS`, without the trailing newline.
    ///
    /// # Errors
    /// Fails if the command does, or takes longer than a minute.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let said = Process::start(self.command().args(arguments))?.finish(LIMIT)?;
        Ok(said.trim_end().to_owned())
    }

    /// Replaces `container` by one of this engine, with this name and in this network.
    ///
    /// # Errors
    /// Fails when docker does.
    pub fn run(&self, name: &str, network: &str, container: &Container) -> Result<()> {
        let ip = container.address.to_string();
        let place = ["--name", name, "--network", network, "--ip", &ip];
        self.docker(&[&["run", "--detach"], &place[..], &[IMAGE, "sleep", "100000"]].concat())?;
        let process = self.docker(&["inspect", "--format", "{{.State.Pid}}", name])?;
        let exec = [CLIENT, "--host", &address(&self.folder), "exec", name].map(str::to_owned);
        container.adopt(&process, exec.into())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(CLIENT);
        command.args(["--host", &address(&self.folder)]);
        command
    }

    fn answers(&self) -> bool {
        self.command().arg("info").output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Not by `Engine::docker`, which fails after an interrupt: this is part of stopping.
        let host = address(&self.folder);
        let docker = |arguments: &[&str]| {
            Command::new("timeout").args(["60", CLIENT, "--host", &host]).args(arguments).output()
        };
        let Ok(all) = docker(&["ps", "--all", "--quiet"]) else { return };
        let all = String::from_utf8_lossy(&all.stdout).into_owned();
        let all: Vec<_> = all.split_whitespace().collect();
        if !all.is_empty()
            && !docker(&[&["rm", "--force"], &all[..]].concat()).is_ok_and(|it| it.status.success())
        {
            eprintln!("containers of {host} may be left");
        }
    }
}

/// The root file system of containers: busybox, and iperf3 with its shared libraries.
fn root(folder: &Path) -> Result<PathBuf> {
    let root = busybox(folder);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let iperf3 = std::env::split_paths(&path).map(|folder| folder.join("iperf3")).find(|path| path.is_file());
    let iperf3 = iperf3.ok_or_else(|| Error::Answer { from: "PATH".into(), missing: "iperf3".into() })?;
    let linked = run(Command::new("ldd").arg(&iperf3))?;
    // iperf3 keeps its payload in a file there.
    fs::create_dir_all(root.join("tmp")).doing("make the image")?;
    fs::copy(&iperf3, root.join("bin/iperf3")).doing("copy iperf3")?;
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let within = root.join(&library[1..]);
        fs::create_dir_all(within.parent().unwrap_or(&root)).doing("make the image")?;
        fs::copy(library, &within).doing("copy a library")?;
    }
    Ok(root)
}
