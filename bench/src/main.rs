//! `vswitch-bench`: measures vswitchd in memory, and on the wire against other systems.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use vswitch_bench::{
    attach, control, environment, interrupt, lab, memory, names,
    probes::Load,
    report::{self, Report, Target},
    systems::{self, System, tuntap},
    targets,
    underlay::{Family, Link, Underlay},
    wire::{self, Plan, Site},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures vswitchd in memory, and on the wire against other systems.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the matrix of systems and loads between two containers of one host (needs root).
    Wire(Matrix),
    /// Run the matrix of VXLAN tunnels between two hosts with a container each (needs root).
    Tunnel {
        /// Only these links between the hosts: wire4, veth4, wire6, veth6.
        #[arg(long, value_delimiter = ',')]
        underlay: Vec<Underlay>,
        #[command(flatten)]
        matrix: Matrix,
    },
    /// Run the matrix between Docker containers, in networks of Docker's own drivers and of vswitchd, on one host and
    /// on two (needs root).
    Engines {
        /// Only with this number of hosts: 1, 2.
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=2))]
        hosts: Vec<u8>,
        #[command(flatten)]
        matrix: Matrix,
    },
    /// Measure the time to attach a container, with Docker and with CNI (needs root).
    Attach {
        /// Measurements per variant.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// The daemon under test; vswitchctl and vswitch-cni are beside it.
        #[arg(long, default_value = "target/release/vswitchd")]
        vswitchd: PathBuf,
        /// The folder with the CNI plugins `bridge` and `host-local`.
        #[arg(long, default_value = "/usr/lib/cni")]
        plugins: PathBuf,
        /// Save every sample to this file.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Measure forwarding in memory; needs neither root nor other systems.
    Memory {
        /// A fraction of the frames: a functional check, without meaningful figures.
        #[arg(long)]
        quick: bool,
        /// Only figures whose name contains this text.
        #[arg(default_value = "")]
        name: String,
    },
    /// Measure names with dnsperf, beside Docker's own server (needs root).
    Names {
        /// Rounds of the comparison with Docker.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// The daemon under test.
        #[arg(long, default_value = "target/release/vswitchd")]
        vswitchd: PathBuf,
    },
    /// Measure the commands of the control plane with many endpoints present (needs root).
    Control {
        /// Number of endpoints and networks present.
        #[arg(long, default_value_t = 1000)]
        present: usize,
        /// Measurements per command.
        #[arg(long, default_value_t = 100)]
        samples: usize,
        /// The daemon under test.
        #[arg(long, default_value = "target/release/vswitchd")]
        vswitchd: PathBuf,
    },
    /// Print and draw a saved report.
    Report {
        /// A file written by `wire --json`.
        file: PathBuf,
        /// Draw the chart to this file.
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// Create two TAPs with the tun-tap crate and forward between them: one of the systems under test.
    #[command(name = tuntap::SUBCOMMAND, hide = true)]
    TuntapForwarder { a: String, b: String },
}

/// Arguments of all matrices.
#[derive(Debug, Args)]
struct Matrix {
    /// Number of rounds; each measures every system once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Duration of each load in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Two rounds of one second each: a functional check, without meaningful figures.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Only these systems, such as `bridge,vswitchd-tap,ovs`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these loads: tcp, udp, pps, rtt.
    #[arg(long, value_delimiter = ',', value_parser = ["tcp", "udp", "pps", "rtt"])]
    loads: Vec<String>,
    /// Congestion controls; the first is used for everything, the others for one stream [default: the machine's, cubic].
    #[arg(long, value_delimiter = ',')]
    cc: Vec<String>,
    /// The daemon under test.
    #[arg(long, default_value = "target/release/vswitchd")]
    vswitchd: PathBuf,
    /// One more vswitchd with a line for its [switch] section, such as `tap:workers = 1` (may be repeated).
    #[arg(long, value_name = "KIND:LINE")]
    variant: Vec<String>,
    /// Save every sample to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the chart to this file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Wire(matrix) => wire(&matrix),
        Command::Tunnel { underlay, matrix } => tunnel(&underlay, &matrix),
        Command::Engines { hosts, matrix } => engines(&hosts, &matrix),
        Command::Attach { rounds, vswitchd, plugins, json } => {
            measure_attaching(&attach::Plan { rounds, vswitchd, plugins }, json.as_deref())
        }
        Command::Memory { quick, name } => {
            memory::run(quick, &name, |figure| println!("{figure}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Names { rounds, seconds, vswitchd } => measure_names(rounds, seconds, vswitchd),
        Command::Control { present, samples, vswitchd } => measure_control(present, samples, vswitchd),
        Command::Report { file, svg } => show(&file, svg.as_deref()),
        Command::TuntapForwarder { a, b } => {
            tuntap::forward(&a, &b).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("vswitch-bench: {error}");
        ExitCode::FAILURE
    })
}

fn measure_names(rounds: usize, seconds: u32, binary: PathBuf) -> Result<ExitCode> {
    if let Some(missing) = names::missing() {
        return Err(missing.into());
    }
    interrupt::listen()?;
    lab::sweep()?;
    names::run(&names::Plan { binary, rounds, seconds }, |figure| println!("{figure}"))?;
    Ok(ExitCode::SUCCESS)
}

fn measure_control(present: usize, samples: usize, binary: PathBuf) -> Result<ExitCode> {
    interrupt::listen()?;
    lab::sweep()?;
    let samples = samples.max(1);
    control::run(&control::Plan { binary, present, samples }, |figure| println!("{figure}"))?;
    Ok(ExitCode::SUCCESS)
}

fn measure_attaching(plan: &attach::Plan, json: Option<&Path>) -> Result<ExitCode> {
    interrupt::listen()?;
    let report = attach::run(plan)?;
    if let Some(path) = json {
        report::save(&report, path)?;
    }
    publish(&report, None)?;
    Ok(ExitCode::SUCCESS)
}

fn show(file: &Path, svg: Option<&Path>) -> Result<ExitCode> {
    publish(&report::load(file)?, svg)?;
    Ok(ExitCode::SUCCESS)
}

fn publish(report: &Report, svg: Option<&Path>) -> Result<()> {
    println!("{}", report::print(report));
    if let Some(path) = svg {
        fs::write(path, report::chart(report))?;
    }
    Ok(())
}

fn wire(matrix: &Matrix) -> Result<ExitCode> {
    let controls = controls(&matrix.cc);
    let site = Site { underlay: None, loads: matrix.loads(Load::on_one_host(&controls)) };
    let title = "Two containers on one host, connected by one switch";
    let plan = matrix.plan(title, vec![site], targets::on_one_host(&controls[0]));
    matrix.run(&plan, systems::on_one_host(&matrix.vswitchd, &matrix.variant)?)
}

fn tunnel(underlays: &[Underlay], matrix: &Matrix) -> Result<ExitCode> {
    let controls = controls(&matrix.cc);
    let chosen = Underlay::ALL.into_iter().filter(|known| underlays.is_empty() || underlays.contains(known));
    let site = |underlay: Underlay| {
        let loads = matrix.loads(Load::on_two_hosts(&controls, underlay.family));
        Site { underlay: Some(underlay), loads }
    };
    let title = "A container on each of two hosts, connected by VXLAN";
    let plan = matrix.plan(title, chosen.map(site).collect(), targets::on_two_hosts(&controls[0]));
    matrix.run(&plan, systems::on_two_hosts(&matrix.vswitchd, &matrix.variant)?)
}

fn engines(hosts: &[u8], matrix: &Matrix) -> Result<ExitCode> {
    let controls = controls(&matrix.cc);
    let wire = Underlay { link: Link::Wire, family: Family::V4 };
    let sites = [(1, None), (2, Some(wire))];
    let sites = sites.into_iter().filter(|(count, _)| hosts.is_empty() || hosts.contains(count));
    let site = |(_, underlay)| Site { underlay, loads: matrix.loads(Load::of_engines(&controls)) };
    let title =
        "Docker containers, in networks of Docker's own drivers (bridge; overlay of a swarm) and of vswitchd";
    let plan = matrix.plan(title, sites.map(site).collect(), targets::of_engines(&controls[0]));
    let plan = Plan { baseline: systems::BASELINE_OF_ENGINES, ..plan };
    matrix.run(&plan, systems::of_engines(&matrix.vswitchd, &matrix.variant)?)
}

impl Matrix {
    /// The selected `loads`.
    fn loads(&self, mut loads: Vec<Load>) -> Vec<Load> {
        loads.retain(|load| self.loads.is_empty() || self.loads.iter().any(|name| name == load.family()));
        loads
    }

    fn plan(&self, title: &'static str, sites: Vec<Site>, targets: Vec<Target>) -> Plan {
        let (rounds, seconds) = if self.quick { (2, 1) } else { (self.rounds, self.seconds) };
        let time = Duration::from_secs(seconds);
        Plan { title, rounds, time, sites, baseline: systems::BASELINE, targets }
    }

    /// A missed target is a result; a system that did not run is a failure.
    fn run(&self, plan: &Plan, systems: Vec<Box<dyn System>>) -> Result<ExitCode> {
        interrupt::listen()?;
        let chosen = chosen(systems, &self.only)?;
        let (missing, present): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|system| system.missing().is_some());
        let skipped = missing.iter().filter_map(|system| Some((system.name(), system.missing()?))).collect();
        let mut report = wire::run(plan, &present)?;
        report.skipped = skipped;
        if let Some(path) = &self.json {
            report::save(&report, path)?;
        }
        publish(&report, self.svg.as_deref())?;
        // A system named explicitly must be measured.
        let complete = report.failures.is_empty() && (report.skipped.is_empty() || self.only.is_empty());
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The selected ones, or the machine's default and cubic, which most machines have.
fn controls(asked: &[String]) -> Vec<String> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let mut controls = vec![environment::default_control(), "cubic".to_owned()];
    controls.dedup();
    controls
}

fn chosen(mut systems: Vec<Box<dyn System>>, only: &[String]) -> Result<Vec<Box<dyn System>>> {
    let names: Vec<_> = systems.iter().map(|system| system.name()).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        return Err(format!("--only {unknown}: no such system; known: {}", names.join(", ")).into());
    }
    systems.retain(|system| only.is_empty() || only.contains(&system.name()));
    Ok(systems)
}
