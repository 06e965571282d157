//! The control plane: how long `network create`, `connect`, `ls` and a restart take with many endpoints present.
//!
//! Measured at the API's socket, so without the start of a command. The endpoints are real: a thousand persistent TAPs in a
//! hundred namespaces, each with an address, a MAC, a default route and a record in the store.

use std::{
    fmt,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    error::{Doing, Error, Result},
    interrupt,
    lab::{Host, Lab, Namespace, more_namespaces},
    process::{Process, tail},
};

/// How long the daemon may take until its API answers.
const READY: Duration = Duration::from_secs(60);

/// Namespaces that share the endpoints.
const SANDBOXES: usize = 100;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The daemon's binary.
    pub binary: PathBuf,
    /// Endpoints, and for `ls` networks, that are present.
    pub present: usize,
    /// How often each call is measured.
    pub samples: usize,
}

/// What a call took, in milliseconds, and what it may.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The call.
    pub name: String,
    /// The median.
    pub p50: f64,
    /// Of a hundred, the second slowest.
    pub p99: f64,
    /// What the median may be.
    pub limit: f64,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, p50, p99, limit } = self;
        let verdict = if p50 <= limit { "met" } else { "MISSED" };
        write!(f, "{name:<44} p50 {p50:8.2} ms   p99 {p99:8.2} ms   at most {limit:>5} ms: {verdict}")
    }
}

/// Measures everything once; `tell` hears of each figure.
///
/// # Errors
/// Without root, or when the daemon refuses or ends.
pub fn run(plan: &Plan, mut tell: impl FnMut(Figure)) -> Result<()> {
    let lab = Lab::create(None)?;
    let sandboxes = more_namespaces(SANDBOXES.min(plan.present.max(1)))?;
    let mut daemon = Daemon::start(plan, lab.host())?;
    let socket = lab.host().folder.join("api.sock");
    let post = |path: &str, body: &str| call(&socket, "POST", path, body);
    post("/v1/networks", r#"{"name": "blue", "ipam": "default"}"#)?;
    for number in 0..plan.present {
        interrupt::check()?;
        connect(&socket, &sandboxes[number % sandboxes.len()], &format!("e{number}"))?;
    }
    let present = format!("{} endpoints present", plan.present);

    let create = |number: usize| {
        let body = format!(r#"{{"name": "n{number}", "ipam": "default"}}"#);
        timed(|| post("/v1/networks", &body))
    };
    tell(figure("network create", &present, 20.0, (0..plan.samples).map(create))?);
    for number in 0..plan.samples {
        call(&socket, "DELETE", &format!("/v1/networks/n{number}"), "")?;
    }
    let mut removed = Vec::new();
    let connected = (0..plan.samples).map(|number| {
        let name = format!("m{number}");
        let took = timed(|| connect(&socket, &sandboxes[number % sandboxes.len()], &name))?;
        let path = format!("/v1/networks/blue/endpoints/{name}");
        removed.push(timed(|| call(&socket, "DELETE", &path, "")));
        Ok(took)
    });
    tell(figure("network connect", &present, 50.0, connected)?);
    tell(figure("network disconnect", &present, 50.0, removed.into_iter())?);

    daemon = daemon.restart(plan, lab.host())?;
    let took = daemon.ready;
    tell(figure("restart after kill -9, until it answers", &present, 5000.0, std::iter::once(Ok(took)))?);

    for number in 0..plan.present {
        interrupt::check()?;
        post("/v1/networks", &format!(r#"{{"name": "l{number}", "internal": true}}"#))?;
    }
    let ls = (0..plan.samples).map(|_| timed(|| call(&socket, "GET", "/v1/networks", "")));
    tell(figure("network ls", &format!("{} networks present", plan.present), 100.0, ls)?);
    Ok(())
}

fn connect(socket: &Path, sandbox: &Namespace, name: &str) -> Result<()> {
    let body = format!(r#"{{"sandbox": "{}", "name": "{name}"}}"#, sandbox.name());
    call(socket, "POST", "/v1/networks/blue/endpoints", &body)
}

fn timed(job: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    job()?;
    Ok(start.elapsed())
}

fn figure(
    name: &str,
    present: &str,
    limit: f64,
    samples: impl Iterator<Item = Result<Duration>>,
) -> Result<Figure> {
    let mut millis: Vec<f64> = samples.map(|took| Ok(took?.as_secs_f64() * 1000.0)).collect::<Result<_>>()?;
    millis.sort_by(f64::total_cmp);
    let at = |percent: usize| millis.get((millis.len() * percent / 100).min(millis.len() - 1)).copied();
    let (p50, p99) = (at(50).unwrap_or_default(), at(99).unwrap_or_default());
    Ok(Figure { name: format!("{name}, {present}"), p50, p99, limit })
}

/// One request; anything but success is an error.
fn call(socket: &Path, method: &str, path: &str, body: &str) -> Result<()> {
    let command = format!("{method} {path}");
    let mut stream = UnixStream::connect(socket).doing("reach vswitchd")?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)).doing(&command)?;
    if answer.starts_with(b"HTTP/1.1 2") {
        return Ok(());
    }
    let message = tail(&String::from_utf8_lossy(&answer));
    Err(Error::Command { command, status: "refused".to_owned(), message })
}

struct Daemon {
    process: Process,
    /// From its start until its API answered.
    ready: Duration,
}

impl Daemon {
    fn start(plan: &Plan, host: &Host) -> Result<Self> {
        let folder = &host.folder;
        let config = folder.join("net.toml");
        let text = format!(
            "[switch]\nstate = \"{0}/state\"\n[api]\nsocket = \"{0}/api.sock\"\n[ipam]\nlocal = [{{ base = \"10.0.0.0/8\", size = 20 }}]\n",
            folder.display()
        );
        std::fs::write(&config, text).doing("write net.toml")?;
        let binary = plan.binary.canonicalize().doing("find vswitchd")?;
        let log = folder.join("vswitchd.log");
        let start = Instant::now();
        let mut process = Process::serve(host.namespace.command(binary).arg("--config").arg(&config), &log)?;
        let socket = folder.join("api.sock");
        let ready = || {
            let answers = call(&socket, "GET", "/v1/status", "").is_ok();
            (answers || process.has_ended()).then_some(answers)
        };
        if interrupt::wait_for("the API of vswitchd", READY, ready)? {
            return Ok(Self { process, ready: start.elapsed() });
        }
        let message = tail(&std::fs::read_to_string(&log).unwrap_or_default());
        Err(Error::Command { command: "vswitchd".to_owned(), status: "it ended".to_owned(), message })
    }

    /// Kills it, as a crash would, and starts it again.
    fn restart(mut self, plan: &Plan, host: &Host) -> Result<Self> {
        let pid = self.process.pid().to_string();
        Command::new("kill").args(["-KILL", &pid]).status().doing("kill vswitchd")?;
        interrupt::wait_for("the end of vswitchd", READY, || self.process.has_ended().then_some(()))?;
        drop(self);
        Self::start(plan, host)
    }
}
