//! Names: dnsperf against vswitchd, beside Docker's own server of the same container.
//!
//! A container of Docker in a network of vswitchd asks both: 127.0.0.11 for a container, 169.254.53.53 for a sandbox. So the client, its
//! namespace and the moment are the same; rounds alternate. Then vswitchd alone: at 10,000 queries a second as it is, while endpoints come
//! and go, and while the server for other names is silent.

use std::{
    fmt,
    net::UdpSocket,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use vswitch_tests::Mounts;

use crate::{
    control::{self, call, percentile},
    engine::{Engine, IMAGE},
    error::{Doing, Error, Result},
    interrupt,
    lab::{Host, Lab, Namespace, more_namespaces},
    process::{Process, installed},
    systems::{PLUGIN, beside},
};

/// The rate of the queries whose latency counts, a second.
const RATE: u32 = 10_000;

/// Clients that connect and disconnect endpoints; as many add and remove names by hand.
const WRITERS: usize = 2;

/// Changes a second that are wanted.
const CHANGES: f64 = 100.0;

/// A server for other names that never answers.
const SILENT: &str = "127.0.0.9:53";

/// Parameters of the measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The daemon's binary.
    pub binary: PathBuf,
    /// Rounds of the comparison with Docker.
    pub rounds: usize,
    /// Seconds of each measurement.
    pub seconds: u32,
}

/// A figure and its target.
#[derive(Clone, Debug)]
pub struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    target: Target,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// For comparison.
    None,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, unit, target } = self;
        write!(f, "{name:<58} {value:10.2} {unit:<10}")?;
        let verdict = |met: bool| if met { "met" } else { "MISSED" };
        match target {
            Target::AtLeast(least) => write!(f, " at least {least}: {}", verdict(value >= least)),
            Target::AtMost(most) => write!(f, " at most {most}: {}", verdict(value <= most)),
            Target::None => Ok(()),
        }
    }
}

/// The missing prerequisite, if any.
pub fn missing() -> Option<String> {
    let dnsperf = (!installed("dnsperf")).then(|| "no `dnsperf`: install dnsperf".to_owned());
    dnsperf.or_else(Engine::missing)
}

/// Measures everything once and passes each figure to `tell`.
///
/// # Errors
/// Without root, or when the daemon, the engine or dnsperf fails.
pub fn run(plan: &Plan, mut tell: impl FnMut(Figure)) -> Result<()> {
    let lab = Lab::create(None)?;
    let sandboxes = more_namespaces(1 + WRITERS)?;
    let mounts = Mounts::new();
    let socket = lab.host().folder.join("api.sock");
    let _daemon = start(plan, lab.host(), &mounts, &socket)?;
    let engine = Engine::start(lab.host(), mounts)?;
    let options = ["--driver", "vswitch", "--opt", "vswitch.network=bench", "--ipam-driver", "vswitch"];
    engine
        .docker(&[&["network", "create"], &options[..], &["--subnet", "10.99.0.0/24", "bench"]].concat())?;
    for name in ["db", "client"] {
        engine.docker(&[
            "run",
            "--detach",
            "--network",
            "bench",
            "--name",
            name,
            IMAGE,
            "sleep",
            "100000",
        ])?;
    }
    connect(&socket, &sandboxes[0], "store")?;
    let pid = engine.docker(&["inspect", "--format", "{{.State.Pid}}", "client"])?;
    let client = Client { pid, folder: lab.host().folder.clone() };

    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..plan.rounds.max(1) {
        interrupt::check()?;
        for (server, rates) in ["169.254.53.53 store", "127.0.0.11 db"].iter().zip(&mut rates) {
            rates.push(client.ask(server, plan.seconds, &[])?.rate);
        }
    }
    let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(ours, theirs)| ours / theirs).collect();
    let figure = |name: &str, value, unit, target| Figure { name: name.to_owned(), value, unit, target };
    tell(figure("as fast as possible: vswitchd", percentile(&rates[0], 50), "queries/s", Target::None));
    tell(figure(
        "as fast as possible: Docker's server",
        percentile(&rates[1], 50),
        "queries/s",
        Target::None,
    ));
    let ratio = percentile(&ratios, 50);
    tell(figure("as fast as possible: vswitchd to Docker", ratio, "x", Target::AtLeast(1.0)));

    let steady = |name: &str, done: &Asked| {
        let name = format!("{RATE} queries/s, {name}: ");
        [
            figure(&format!("{name}p99"), done.p99_ms, "ms", Target::AtMost(2.0)),
            figure(&format!("{name}lost"), done.lost, "queries", Target::AtMost(0.0)),
        ]
    };
    let rate = RATE.to_string();
    let limited = ["-Q", &rate, "-v"];
    let alone = client.ask("169.254.53.53 store", plan.seconds, &limited)?;
    steady("nothing else", &alone).into_iter().for_each(&mut tell);
    let (changing, changes) = while_changing(&socket, &sandboxes[1..], || {
        client.ask("169.254.53.53 store", plan.seconds, &limited)
    })?;
    tell(figure("changes beside it", changes, "a second", Target::AtLeast(CHANGES)));
    steady("endpoints and names come and go", &changing).into_iter().for_each(&mut tell);

    let silent = lab.host().namespace.enter(|| UdpSocket::bind(SILENT))?.doing("bind a silent server")?;
    let foreign = client.command("169.254.53.53 example.com", plan.seconds, &["-Q", "500"])?;
    let mut foreign = Process::start(&mut { foreign })?;
    let beside = client.ask("169.254.53.53 store", plan.seconds, &limited)?;
    let busy = !foreign.has_ended();
    drop((foreign, silent));
    if !busy {
        return Err(Error::Answer { from: "dnsperf".into(), missing: "queries for other names".into() });
    }
    steady("the server of other names is silent", &beside).into_iter().for_each(&mut tell);
    Ok(())
}

fn start(plan: &Plan, host: &Host, mounts: &Mounts, socket: &Path) -> Result<Process> {
    let folder = &host.folder;
    let config = folder.join("net.toml");
    let text = format!(
        "[switch]\nstate = \"{}/state\"\n[api]\nsocket = \"{}\"\n{PLUGIN}[dns]\nenabled = true\nupstream = [\"{SILENT}\"]\n",
        folder.display(),
        socket.display()
    );
    std::fs::write(&config, text).doing("write net.toml")?;
    let mut command = Command::new(plan.binary.canonicalize().doing("find vswitchd")?);
    command.arg("--config").arg(&config);
    control::serve(&mut beside(host, mounts, &command), folder, socket)
}

/// By path: the daemon has a /run of its own.
fn connect(socket: &Path, sandbox: &Namespace, name: &str) -> Result<()> {
    let place = format!("/proc/{}/root/run/netns/{}", std::process::id(), sandbox.name());
    let body = format!(r#"{{"sandbox": "{place}", "name": "{name}"}}"#);
    call(socket, "POST", "/v1/networks/bench/endpoints", &body)
}

/// Does `work` while clients connect endpoints and disconnect them, and add names and remove them, at the rate that is wanted in all.
/// Returns the changes a second.
fn while_changing<T>(
    socket: &Path,
    sandboxes: &[Namespace],
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    let (stop, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begun = Instant::now();
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let each = Duration::from_secs_f64(4.0 * sandboxes.len() as f64 / CHANGES);
    let repeat = |twice: &dyn Fn() -> Result<()>| -> Result<()> {
        let mut next = begun;
        while !stop.load(Relaxed) {
            twice()?;
            changes.fetch_add(2, Relaxed);
            next += each;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    };
    let endpoint = |sandbox: &Namespace| {
        let name = sandbox.name();
        repeat(&|| {
            connect(socket, sandbox, name)?;
            call(socket, "DELETE", &format!("/v1/networks/bench/endpoints/{name}"), "")
        })
    };
    let name = |name: &str| {
        let body = format!(r#"{{"network": "bench", "name": "hand-{name}", "addresses": ["10.99.0.250"]}}"#);
        repeat(&|| {
            call(socket, "POST", "/v1/names", &body)?;
            call(socket, "DELETE", &format!("/v1/names/bench/hand-{name}"), "")
        })
    };
    thread::scope(|scope| {
        let (endpoint, name) = (&endpoint, &name);
        let mut writers = Vec::new();
        for sandbox in sandboxes {
            writers.push(scope.spawn(move || endpoint(sandbox)));
            writers.push(scope.spawn(move || name(sandbox.name())));
        }
        let done = work();
        stop.store(true, Relaxed);
        let took = begun.elapsed().as_secs_f64();
        let written: Result<Vec<()>> =
            writers.into_iter().map(|it| it.join().unwrap_or_else(|panic| resume_unwind(panic))).collect();
        written?;
        #[expect(clippy::cast_precision_loss, reason = "some thousand")]
        Ok((done?, changes.load(Relaxed) as f64 / took))
    })
}

/// The container that asks.
struct Client {
    pid: String,
    folder: PathBuf,
}

/// What dnsperf found.
struct Asked {
    rate: f64,
    lost: f64,
    /// Milliseconds; 0 unless each query was reported.
    p99_ms: f64,
}

impl Client {
    /// dnsperf in the container's namespace: `SERVER NAME`, for so long.
    fn command(&self, question: &str, seconds: u32, more: &[&str]) -> Result<Command> {
        let (server, name) = question.split_once(' ').unwrap_or((question, "store"));
        let file = self.folder.join(format!("{name}.queries"));
        std::fs::write(&file, format!("{name} A\n")).doing("write the queries")?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.pid))
            .args(["dnsperf", "-s", server, "-d"])
            .arg(file);
        command.args(["-c", "4", "-T", "1", "-l", &seconds.to_string()]).args(more);
        Ok(command)
    }

    fn ask(&self, question: &str, seconds: u32, more: &[&str]) -> Result<Asked> {
        let limit = Duration::from_secs(u64::from(seconds) + 30);
        let said = Process::start(&mut self.command(question, seconds, more)?)?.finish(limit)?;
        let number = |label: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            number.ok_or_else(|| Error::Answer { from: "dnsperf".into(), missing: label.into() })
        };
        // "> NOERROR db A 0.000123", in seconds.
        let each =
            said.lines().filter_map(|line| line.strip_prefix("> ")?.split_whitespace().last()?.parse().ok());
        let each: Vec<f64> = each.collect();
        let wrong =
            said.lines().filter(|line| line.starts_with("> ") && !line.starts_with("> NOERROR")).count();
        if wrong > 0 {
            return Err(Error::Answer { from: "dnsperf".into(), missing: format!("{wrong} right answers") });
        }
        Ok(Asked {
            rate: number("Queries per second:")?,
            lost: number("Queries lost:")?,
            p99_ms: percentile(&each, 99) * 1000.0,
        })
    }
}
