//! The daemon and its command line, as shipped.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use vswitch_fastpath::FastPath;

use crate::{
    Config, Netns, PATIENCE,
    engine::Mounts,
    http::{http, request},
    within,
};

/// A daemon in a namespace that acts as its host, with a folder for its files. Killed on drop; its log is printed if the
/// test fails.
#[derive(Debug)]
pub struct Vswitchd {
    /// The host's namespace.
    pub host: Netns,
    folder: TempDir,
    child: Option<Child>,
    mounts: Option<Arc<Mounts>>,
    notifications: UnixDatagram,
    program: PathBuf,
    /// Where it finds other programs, if not where the test does.
    path: Option<PathBuf>,
}

/// The result of a command.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Vswitchd {
    /// Starts a daemon on a new host and waits until it is ready.
    pub fn start(config: &Config) -> Self {
        Self::start_in(Netns::new("host"), config)
    }

    /// Like [`start`](Self::start), on an existing host.
    pub fn start_in(host: Netns, config: &Config) -> Self {
        let mut daemon = Self::prepare(host, config);
        daemon.run();
        daemon
    }

    /// Prepares everything except the process, which [`run`](Self::run) starts.
    pub fn prepare(host: Netns, config: &Config) -> Self {
        let folder = tempfile::Builder::new().prefix("vt-kernel-").tempdir().unwrap();
        let notifications = UnixDatagram::bind(folder.path().join("notify.sock")).unwrap();
        let program = binary("vswitchd");
        let daemon = Self { host, folder, child: None, mounts: None, notifications, program, path: None };
        daemon.configure(config);
        daemon
    }

    /// The same daemon on a host without nft and all other programs.
    pub fn without_programs(mut self) -> Self {
        self.path = Some(self.folder().join("nothing"));
        self
    }

    /// Starts a daemon as Docker's plugin, in a mount namespace that an [`Engine`](crate::Engine) can share.
    pub fn start_apart(host: Netns, config: &Config) -> Self {
        let mut daemon = Self::prepare(host, &config.clone().keys("[docker]\nenabled = true"));
        daemon.mounts = Some(Arc::new(Mounts::new()));
        daemon.run();
        daemon
    }

    /// Starts a debug build, which can be made to crash with [`crash_after`](Self::crash_after).
    pub fn start_fragile(config: &Config) -> Self {
        let mut daemon = Self::prepare(Netns::new("host"), config);
        daemon.program = built("debug", "vswitchd");
        assert!(daemon.program.exists(), "vswitchd is not built: `cargo build -p vswitch-daemon`");
        daemon.run();
        daemon
    }

    /// Makes the daemon die, as by kill -9, at a crash point after passing `steps` of them.
    pub fn crash_after(&self, steps: u32) {
        fs::write(self.folder().join("crash"), steps.to_string()).unwrap();
    }

    /// Cancels a pending crash.
    pub fn crash_no_more(&self) {
        fs::remove_file(self.folder().join("crash")).unwrap();
    }

    /// Waits until the daemon has crashed.
    pub fn crashed(&mut self) {
        let mut child = self.child.take().unwrap();
        within(PATIENCE, "vswitchd has crashed", || ends(&mut child, Duration::ZERO).then_some(()));
    }

    /// Its mount namespace, if it has one of its own.
    pub fn mounts(&self) -> Option<Arc<Mounts>> {
        self.mounts.clone()
    }

    /// Rewrites net.toml.
    pub fn configure(&self, config: &Config) {
        fs::write(self.config(), config.text(self.folder())).unwrap();
    }

    /// Starts the process and waits until it reports that it is ready.
    pub fn run(&mut self) {
        let log = File::options().append(true).create(true).open(self.folder().join("log")).unwrap();
        let mut command = self.command();
        command.env("NOTIFY_SOCKET", self.folder().join("notify.sock")).stderr(log);
        self.child = Some(self.host.run(|| command.spawn().unwrap()));
        let deadline = Instant::now() + PATIENCE;
        while !self.notification(Duration::from_millis(20)).is_some_and(|text| text.contains("READY=1")) {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "vswitchd ended: {}\n{}", ended.unwrap(), self.log());
            assert!(Instant::now() < deadline, "vswitchd is not ready\n{}", self.log());
        }
    }

    /// Runs a daemon that is expected to exit by itself.
    pub fn run_to_its_end(&self) -> Output {
        let mut command = self.command();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.host.run(|| child.spawn().unwrap());
        if !ends(&mut child, PATIENCE) {
            let _ = child.kill();
        }
        Output::of(child.wait_with_output().unwrap())
    }

    fn command(&self) -> Command {
        let apart = self.mounts.as_ref().map(|mounts| mounts.command(&self.program));
        let mut command = apart.unwrap_or_else(|| Command::new(&self.program));
        command.arg("--config").arg(self.config()).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command.env("VSWITCHD_CRASH", self.folder().join("crash"));
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    /// The daemon's next message to the service manager (sd_notify(3)), or `None` after `limit`.
    pub fn notification(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.notifications.set_read_timeout(Some(limit)).unwrap();
        match self.notifications.recv(&mut buffer) {
            Ok(len) => Some(String::from_utf8_lossy(&buffer[..len]).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a message to the service manager that contains `what`. Earlier ones are discarded.
    pub fn tells(&self, what: &str) -> String {
        crate::eventually(&format!("the daemon tells {what}"), || {
            self.notification(Duration::from_millis(50)).filter(|text| text.contains(what))
        })
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of net.toml.
    pub fn config(&self) -> PathBuf {
        self.folder().join("net.toml")
    }

    /// Path of the API socket.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("api.sock")
    }

    /// The folder of what it leaves to the kernel, if it dies.
    pub fn pins(&self) -> PathBuf {
        let state = self.folder().join("state");
        let hash = Sha256::digest(fs::canonicalize(&state).unwrap_or(state).as_os_str().as_encoded_bytes());
        let id: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Path::new("/sys/fs/bpf/vswitchd").join(id)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Waits for a log line that contains all `parts`, and returns it.
    pub fn logs(&self, parts: &[&str]) -> String {
        crate::eventually(&format!("a line in the log with {parts:?}"), || {
            self.log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Stops it with SIGTERM and waits until it has exited.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let mut child = self.child.take().unwrap();
        within(PATIENCE, "vswitchd stops", || ends(&mut child, Duration::ZERO).then_some(()));
        child.wait().unwrap()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs vswitchctl.
    pub fn try_ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("vswitchctl"));
        command.arg("--socket").arg(self.socket()).args(arguments).stdin(Stdio::null());
        Output::of(self.host.run(|| command.output().unwrap()))
    }

    /// Runs vswitchctl and parses its JSON output; `null` if there is none.
    ///
    /// # Panics
    /// The command fails, or its output is not JSON.
    pub fn ctl(&self, arguments: &[&str]) -> Value {
        let output = self.try_ctl(&[arguments, &["--json"]].concat());
        assert_eq!(output.code, 0, "vswitchctl {arguments:?}: {}", output.stderr);
        if output.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error} in {}", output.stdout))
    }

    /// Sends a request to the API; returns the status and the body of the answer.
    pub fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        http(&self.socket(), &request(method, path, body))
    }

    /// Exit code and message of a vswitchctl command that must fail.
    ///
    /// # Panics
    /// It succeeds.
    pub fn refusal(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.try_ctl(arguments);
        assert_ne!(output.code, 0, "vswitchctl {arguments:?} should be refused: {}", output.stdout);
        (output.code, output.stderr.trim_end().to_owned())
    }

    /// A port as reported by the API.
    pub fn port(&self, name: &str) -> Value {
        self.ctl(&["port", "show", name])
    }

    /// Waits until a port's state is `up` or `down`, and returns the port.
    pub fn port_is(&self, name: &str, state: &str) -> Value {
        crate::eventually(&format!("port {name} is {state}"), || {
            Some(self.port(name)).filter(|port| port["state"] == state)
        })
    }

    /// Frames dropped at a port for a reason.
    pub fn dropped(&self, port: &str, reason: &str) -> u64 {
        let port = self.port(port);
        let drops = port["drops"].as_array().unwrap();
        drops.iter().find(|drop| drop["reason"] == reason).map_or(0, |drop| drop["frames"].as_u64().unwrap())
    }
}

impl Output {
    pub(crate) fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Vswitchd {
    /// Removes the veth pairs of a daemon that was killed. Left to the end of its host's namespace, they would be there in the
    /// containers for some time after that, and in the way of the next daemon.
    fn remove_pairs(&self) {
        let ip = |arguments: &[&str]| {
            let ip = Command::new("ip").args(["-n", self.host.name()]).args(arguments).output();
            ip.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        let listed = ip(&["-o", "link", "show", "type", "veth"]);
        let names = listed.lines().filter_map(|line| line.split([' ', '@']).nth(1));
        let pairs: Vec<_> = names.filter(|name| name.starts_with("vp-")).collect();
        for pair in &pairs {
            ip(&["link", "set", pair, "group", "9"]);
        }
        if !pairs.is_empty() {
            ip(&["link", "delete", "group", "9"]);
        }
    }
}

impl Drop for Vswitchd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Nothing can be done for what cannot be removed.
        let _ = FastPath::clear(&self.pins());
        self.remove_pairs();
        if thread::panicking() {
            eprintln!("--- the log of vswitchd in {}\n{}---", self.host.name(), self.log());
        }
    }
}

/// Whether the process exits within `limit`.
fn ends(child: &mut Child, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Path of the binary `name`: from `VSWITCH_BIN_DIR`, or else the newest build of this workspace.
///
/// # Panics
/// It is not built.
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("VSWITCH_BIN_DIR") {
        let path = PathBuf::from(folder).join(name);
        assert!(path.exists(), "VSWITCH_BIN_DIR has no {name}");
        return path;
    }
    let newest = ["release", "debug"].map(|profile| built(profile, name));
    let newest = newest.into_iter().max_by_key(|path| fs::metadata(path).and_then(|it| it.modified()).ok());
    newest
        .filter(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not built: `make build`, or set VSWITCH_BIN_DIR"))
}

/// Path of the binary `name` in the build `profile` of this workspace.
fn built(profile: &str, name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    // target/<profile>/deps/<test>
    exe.ancestors().nth(3).unwrap().join(profile).join(name)
}
