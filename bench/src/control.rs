//! The control plane: how long `network create`, `connect`, `ls` and a restart take with many endpoints present, and how long
//! reading does while others write.
//!
//! Measured at the API's socket, hence without the start of a command. The endpoints are real: a thousand persistent
//! TAPs in a hundred namespaces, each with an address, a MAC, a default route and a record in the store. If a Docker
//! Engine can be started, the same requests are sent alternately to its own driver, at its socket, with one container
//! present.

use std::{
    fmt,
    io::{Read, Write},
    os::unix::net::UnixStream,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use vswitch_tests::{Mounts, engine::address};

use crate::{
    engine::{Engine, IMAGE},
    error::{Doing, Error, Result},
    interrupt,
    lab::{Host, Lab, Namespace, more_namespaces},
    process::{Process, tail},
};

/// Time limit until the daemon's API answers.
const READY: Duration = Duration::from_secs(60);

/// Clients that write while reads are measured.
const WRITERS: usize = 8;

/// Reads per sample of other calls, so that several are above the 99th percentile.
const READS: usize = 10;

/// Namespaces that share the endpoints.
const SANDBOXES: usize = 100;

/// Parameters of the measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The daemon's binary.
    pub binary: PathBuf,
    /// Number of endpoints, and for `ls` networks, present.
    pub present: usize,
    /// Number of measurements per call.
    pub samples: usize,
}

/// Duration of a call in milliseconds, and its target.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The call.
    pub name: String,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// Upper bound.
    pub limit: Limit,
    /// Docker's duration for the same, if measured.
    pub docker: Option<Versus>,
}

/// Upper bound of what a call takes, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Of the median.
    Median(f64),
    /// Of the 99th percentile.
    P99(f64),
}

/// The same call to Docker, made alternately with ours.
#[derive(Clone, Copy, Debug)]
pub struct Versus {
    /// Docker's median, in milliseconds.
    pub p50: f64,
    /// Ours divided by Docker's, per pair: 10th, 50th and 90th percentile.
    pub ratio: [f64; 3],
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, p50, p99, limit, docker } = self;
        let (took, limit, of) = match limit {
            Limit::Median(limit) => (p50, limit, ""),
            Limit::P99(limit) => (p99, limit, " at p99"),
        };
        let verdict = if took <= limit { "met" } else { "MISSED" };
        write!(f, "{name:<44} p50 {p50:8.2} ms   p99 {p99:8.2} ms   at most {limit:>5} ms{of}: {verdict}")?;
        let Some(Versus { p50, ratio: [low, middle, high] }) = docker else { return Ok(()) };
        write!(
            f,
            "\n{:<44} p50 {p50:8.2} ms   ours {middle:.2}x of that ({low:.2} to {high:.2})",
            "  Docker's bridge driver"
        )
    }
}

/// Measures everything once and passes each figure to `tell`.
///
/// # Errors
/// Without root, or when the daemon refuses or ends.
pub fn run(plan: &Plan, mut tell: impl FnMut(Figure)) -> Result<()> {
    let lab = Lab::create(None)?;
    let sandboxes = more_namespaces(SANDBOXES.min(plan.present.max(1)))?;
    // In memory, where hosts have /run: beside the socket is a copy of the store.
    let run = tempfile::tempdir_in("/dev/shm").doing("make a folder in memory")?;
    let socket = run.path().join("api.sock");
    let mut daemon = Daemon::start(plan, lab.host(), &socket)?;
    let post = |path: &str, body: &str| call(&socket, "POST", path, body);
    post("/v1/networks", r#"{"name": "blue", "ipam": "default"}"#)?;
    for number in 0..plan.present {
        interrupt::check()?;
        connect(&socket, &sandboxes[number % sandboxes.len()], &format!("e{number}"))?;
    }
    let present = format!("{} endpoints present", plan.present);

    let docker = Docker::start(lab.host())?;
    let mut create = Samples::default();
    for number in 0..plan.samples {
        let (ours, theirs) = (format!("/v1/networks/n{number}"), format!("/networks/n{number}"));
        let body = format!(r#"{{"name": "n{number}", "ipam": "default"}}"#);
        let asked = format!(r#"{{"Name": "n{number}"}}"#);
        create.take(
            number,
            || timed(|| post("/v1/networks", &body)),
            docker.as_ref().map(|it| {
                let asked = &asked;
                move || timed(|| it.post("/networks/create", asked))
            }),
        )?;
        call(&socket, "DELETE", &ours, "")?;
        docker.iter().try_for_each(|it| call(&it.socket, "DELETE", &theirs, ""))?;
    }
    tell(create.figure("network create", &present, Limit::Median(20.0)));
    let (mut joined, mut left) = (Samples::default(), Samples::default());
    for number in 0..plan.samples {
        let name = format!("m{number}");
        joined.take(
            number,
            || timed(|| connect(&socket, &sandboxes[number % sandboxes.len()], &name)),
            docker.as_ref().map(|it| move || timed(|| it.post("/networks/red/connect", MEMBER))),
        )?;
        let path = format!("/v1/networks/blue/endpoints/{name}");
        left.take(
            number,
            || timed(|| call(&socket, "DELETE", &path, "")),
            docker.as_ref().map(|it| move || timed(|| it.post("/networks/red/disconnect", MEMBER))),
        )?;
    }
    tell(joined.figure("network connect", &present, Limit::Median(50.0)));
    tell(left.figure("network disconnect", &present, Limit::Median(50.0)));
    drop(docker);
    read_while_others_write(plan, &socket, &sandboxes, &mut tell)?;

    daemon = daemon.restart(plan, lab.host(), &socket)?;
    let took = daemon.ready;
    tell(Samples::of([took]).figure(
        "restart after kill -9, until it answers",
        &present,
        Limit::Median(5000.0),
    ));

    for number in 0..plan.present {
        interrupt::check()?;
        post("/v1/networks", &format!(r#"{{"name": "l{number}", "internal": true}}"#))?;
    }
    let ls = (0..plan.samples).map(|_| timed(|| call(&socket, "GET", "/v1/networks", "")));
    let ls = Samples::of(ls.collect::<Result<Vec<_>>>()?);
    tell(ls.figure("network ls", &format!("{} networks present", plan.present), Limit::Median(100.0)));
    Ok(())
}

/// Measures reads while clients create networks, connect to them, disconnect and remove them, all the time.
fn read_while_others_write(
    plan: &Plan,
    socket: &Path,
    sandboxes: &[Namespace],
    tell: &mut impl FnMut(Figure),
) -> Result<()> {
    let reads = [
        ("status", "/v1/status"),
        ("one port", "/v1/ports/e0.blue"),
        ("one network with all of them", "/v1/networks/blue"),
        ("all networks", "/v1/networks"),
        ("the MAC table", "/v1/fdb"),
    ];
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let write = |client: usize| -> Result<()> {
        let network = format!("w{client}");
        let (created, endpoints) =
            (format!("/v1/networks/{network}"), format!("/v1/networks/{network}/endpoints"));
        let body = format!(r#"{{"name": "{network}", "ipam": "default"}}"#);
        let sandbox = sandboxes[client % sandboxes.len()].name();
        let member = format!(r#"{{"sandbox": "{sandbox}", "name": "w{client}"}}"#);
        while !stop.load(Relaxed) {
            call(socket, "POST", "/v1/networks", &body)?;
            call(socket, "POST", &endpoints, &member)?;
            call(socket, "DELETE", &format!("{endpoints}/w{client}"), "")?;
            call(socket, "DELETE", &created, "")?;
            rounds.fetch_add(1, Relaxed);
        }
        Ok(())
    };
    let read = || -> Result<Vec<Samples>> {
        let begun = Instant::now();
        while rounds.load(Relaxed) == 0 && begun.elapsed() < READY {
            interrupt::check()?;
            thread::sleep(Duration::from_millis(10));
        }
        let mut samples: Vec<_> = reads.iter().map(|_| Samples::default()).collect();
        for _ in 0..plan.samples * READS {
            interrupt::check()?;
            for ((_, path), samples) in reads.iter().zip(&mut samples) {
                samples.ours.push(millis(timed(|| call(socket, "GET", path, ""))?));
            }
        }
        Ok(samples)
    };
    let samples = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|client| scope.spawn(move || write(client))).collect();
        let samples = read();
        stop.store(true, Relaxed);
        let written: Result<Vec<()>> =
            writers.into_iter().map(|it| it.join().unwrap_or_else(|panic| resume_unwind(panic))).collect();
        written.and(samples)
    })?;
    let beside = format!("{WRITERS} writers beside it");
    for ((name, _), samples) in reads.iter().zip(samples) {
        tell(samples.figure(name, &beside, Limit::P99(5.0)));
    }
    Ok(())
}

/// The container that Docker connects and disconnects.
const MEMBER: &str = r#"{"Container": "member"}"#;

/// An engine with a container in one of its networks, and another network, `red`.
struct Docker {
    socket: PathBuf,
    _engine: Engine,
}

impl Docker {
    /// `None` without Docker: reported, and nothing is compared.
    fn start(host: &Host) -> Result<Option<Self>> {
        if let Some(missing) = Engine::missing() {
            eprintln!("not compared with Docker: {missing}");
            return Ok(None);
        }
        let engine = Engine::start(host, Mounts::new())?;
        engine.docker(&["network", "create", "base"])?;
        engine.docker(&["network", "create", "red"])?;
        engine.docker(&[
            "run",
            "--detach",
            "--name",
            "member",
            "--network",
            "base",
            IMAGE,
            "sleep",
            "100000",
        ])?;
        let socket = address(&host.folder.join("docker")).trim_start_matches("unix://").into();
        Ok(Some(Self { socket, _engine: engine }))
    }

    fn post(&self, path: &str, body: &str) -> Result<()> {
        call(&self.socket, "POST", path, body)
    }
}

/// Durations in milliseconds; ours and Docker's in pairs.
#[derive(Default)]
struct Samples {
    ours: Vec<f64>,
    dockers: Vec<f64>,
}

impl Samples {
    fn of(took: impl IntoIterator<Item = Duration>) -> Self {
        Self { ours: took.into_iter().map(millis).collect(), dockers: Vec::new() }
    }

    /// Makes both calls, alternately with Docker's first.
    fn take(
        &mut self,
        number: usize,
        ours: impl FnOnce() -> Result<Duration>,
        dockers: Option<impl FnOnce() -> Result<Duration>>,
    ) -> Result<()> {
        interrupt::check()?;
        if number.is_multiple_of(2) {
            self.ours.push(millis(ours()?));
            self.dockers.extend(dockers.map(|call| call()).transpose()?.map(millis));
        } else {
            self.dockers.extend(dockers.map(|call| call()).transpose()?.map(millis));
            self.ours.push(millis(ours()?));
        }
        Ok(())
    }

    fn figure(self, name: &str, present: &str, limit: Limit) -> Figure {
        let ratios: Vec<_> =
            self.ours.iter().zip(&self.dockers).map(|(ours, dockers)| ours / dockers).collect();
        let docker = (!ratios.is_empty()).then(|| Versus {
            p50: percentile(&self.dockers, 50),
            ratio: [10, 50, 90].map(|percent| percentile(&ratios, percent)),
        });
        let (p50, p99) = (percentile(&self.ours, 50), percentile(&self.ours, 99));
        Figure { name: format!("{name}, {present}"), p50, p99, limit, docker }
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// The percentile `percent`; 0 without values.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
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

/// One request; any status but success is an error.
pub(crate) fn call(socket: &Path, method: &str, path: &str, body: &str) -> Result<()> {
    let command = format!("{method} {path}");
    let mut stream = UnixStream::connect(socket).doing("reach vswitchd")?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
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
    /// Time from its start until its API answers.
    ready: Duration,
}

/// Starts the daemon by `command`, with its log in `folder`, and waits until its API answers at `socket`.
pub(crate) fn serve(command: &mut Command, folder: &Path, socket: &Path) -> Result<Process> {
    let log = folder.join("vswitchd.log");
    let mut process = Process::serve(command, &log)?;
    let ready = || {
        let answers = call(socket, "GET", "/v1/status", "").is_ok();
        (answers || process.has_ended()).then_some(answers)
    };
    if interrupt::wait_for("the API of vswitchd", READY, ready)? {
        return Ok(process);
    }
    let message = tail(&std::fs::read_to_string(&log).unwrap_or_default());
    Err(Error::Command { command: "vswitchd".to_owned(), status: "it ended".to_owned(), message })
}

impl Daemon {
    fn start(plan: &Plan, host: &Host, socket: &Path) -> Result<Self> {
        let folder = &host.folder;
        let config = folder.join("net.toml");
        let text = format!(
            "[switch]\nstate = \"{}/state\"\n[api]\nsocket = \"{}\"\n[ipam]\nlocal = [{{ base = \"10.0.0.0/8\", size = 20 }}]\n",
            folder.display(),
            socket.display()
        );
        std::fs::write(&config, text).doing("write net.toml")?;
        let binary = plan.binary.canonicalize().doing("find vswitchd")?;
        let start = Instant::now();
        let process = serve(host.namespace.command(binary).arg("--config").arg(&config), folder, socket)?;
        Ok(Self { process, ready: start.elapsed() })
    }

    /// Kills it like a crash, and starts it again.
    fn restart(mut self, plan: &Plan, host: &Host, socket: &Path) -> Result<Self> {
        let pid = self.process.pid().to_string();
        Command::new("kill").args(["-KILL", &pid]).status().doing("kill vswitchd")?;
        interrupt::wait_for("the end of vswitchd", READY, || self.process.has_ended().then_some(()))?;
        drop(self);
        Self::start(plan, host, socket)
    }
}
