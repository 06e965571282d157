//! Time to attach a container: by Docker, from start to end of the command, and by CNI, only the plugin.
//!
//! Every round measures every variant once, starting with a different one each time, on an otherwise idle machine: the
//! variants are compared in the same engine and on the same host.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use vswitch_tests::Mounts;

use crate::{
    engine::{Engine, IMAGE},
    environment,
    error::{Doing, Error, Result},
    interrupt,
    lab::{self, Host, INTERFACE, Lab, Namespace, more_namespaces},
    process::{self, Process},
    report::{Better, Figure, Report, Subject},
    systems::{PLUGIN, Port, System, Vswitchd, beside},
    targets,
};

/// Time limit for one attachment.
const LIMIT: Duration = Duration::from_secs(60);

/// Parameters of the measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of measurements per variant.
    pub rounds: u32,
    /// The daemon; its other programs are beside it.
    pub vswitchd: PathBuf,
    /// The folder with the CNI plugins to compare with.
    pub plugins: PathBuf,
}

/// A way to attach a container: a column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The engine's own: Docker's driver `bridge`, CNI's plugins `bridge` and `host-local`.
    Bridge,
    /// vswitchd, with ports of this kind.
    Ours(Port),
    /// The minimum: Docker's network `none`, CNI's bridge without gateway and masquerade.
    Bare,
}

impl Way {
    const ALL: [Self; 4] = [Self::Bridge, Self::Ours(Port::Tap), Self::Ours(Port::Veth), Self::Bare];

    /// The name of its column.
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ours(Port::Tap) => "vswitchd-tap",
            Self::Ours(Port::Veth) => "vswitchd-veth",
            Self::Ours(Port::Fast) => "vswitchd-fast",
            Self::Bare => "bare",
        }
    }

    fn subject(self) -> Subject {
        let what = match self {
            Self::Bridge => "Docker's driver bridge, CNI's bridge with gateway and masquerade",
            Self::Ours(_) => "Docker's driver vswitch, CNI's plugin vswitch",
            Self::Bare => "Docker's network none, CNI's bridge without gateway and masquerade",
        };
        Subject { name: self.name().to_owned(), details: [("is".to_owned(), what.to_owned())].into() }
    }

    /// Docker's network for it.
    fn network(self) -> String {
        match self {
            Self::Bare => "none".to_owned(),
            Self::Bridge | Self::Ours(_) => format!("bench-{}", self.name()),
        }
    }
}

/// Measures every variant, in an engine and by CNI.
///
/// # Errors
/// Without root, when a program is missing, or when one fails.
pub fn run(plan: &Plan) -> Result<Report> {
    if let Some(missing) = missing(plan) {
        return Err(Error::Missing(missing));
    }
    lab::sweep()?;
    let mut report = Report {
        title: "Attaching a container".to_owned(),
        baseline: Some(Way::Bridge.name().to_owned()),
        environment: environment::describe(),
        subjects: Way::ALL.map(Way::subject).into(),
        targets: targets::of_attaching(),
        ..Report::default()
    };
    report.environment.insert("engine".to_owned(), Engine::version()?);
    report.environment.insert("vswitchd".to_owned(), switch(plan).version()?);
    by_docker(plan, &mut report)?;
    by_cni(plan, &mut report)?;
    Ok(report)
}

/// The missing prerequisite, if any.
fn missing(plan: &Plan) -> Option<String> {
    let absent =
        ["bridge", "host-local"].map(|name| plan.plugins.join(name)).into_iter().find(|it| !it.is_file());
    let plugin = absent.map(|it| format!("no {}: install containernetworking-plugins", it.display()));
    plugin.or_else(Engine::missing)
}

fn by_docker(plan: &Plan, report: &mut Report) -> Result<()> {
    let lab = Lab::create(None)?;
    let (host, mounts) = (lab.host(), Mounts::new());
    let _switch = switch(plan).start(host, |command| beside(host, &mounts, command), PLUGIN)?;
    let engine = Engine::start(host, mounts)?;
    for (way, third) in Way::ALL.into_iter().zip(1..) {
        let subnet = format!("10.99.{third}.0/24");
        let create = |driver: &[&str]| {
            let names = ["--subnet", &subnet, &way.network()];
            engine.docker(&[&["network", "create", "--driver"], driver, &names[..]].concat())
        };
        match way {
            Way::Bridge => _ = create(&["bridge"])?,
            Way::Ours(port) => _ = create(&["vswitch", "--opt", &format!("kind={}", port.kind())])?,
            Way::Bare => {}
        }
    }
    let run = Figure::new("docker.run", "docker run --rm … true", "ms", Better::Lower);
    for (round, way) in visits(plan.rounds) {
        let took = timed(|| engine.docker(&["run", "--rm", "--network", &way.network(), IMAGE, "true"]))?;
        report.record(round, way.name(), vec![run.clone().is(took)]);
    }
    Ok(())
}

fn by_cni(plan: &Plan, report: &mut Report) -> Result<()> {
    let lab = Lab::create(None)?;
    let host = lab.host();
    let _daemon = switch(plan).start(host, |command| host.namespace.inside(command), "")?;
    let mut vswitchctl = host.namespace.command(beside_vswitchd(plan, "vswitchctl")?);
    vswitchctl.arg("--socket").arg(host.folder.join("api.sock"));
    process::run(vswitchctl.args(["network", "create", "--subnet", "10.99.9.0/24", "bench"]))?;
    let containers = more_namespaces(Way::ALL.len())?;
    let wires = Way::ALL.into_iter().zip(&containers).map(|(way, to)| Wire::prepare(plan, host, way, to));
    let wires = wires.collect::<Result<Vec<_>>>()?;
    let deeds = [("ADD", "cni.add"), ("DEL", "cni.del")];
    let deeds = deeds.map(|(verb, key)| (verb, Figure::new(key, format!("CNI {verb}"), "ms", Better::Lower)));
    for (round, way) in visits(plan.rounds) {
        for wire in wires.iter().filter(|wire| wire.way == way) {
            for (verb, figure) in &deeds {
                let took = timed(|| wire.ask(verb))?;
                report.record(round, way.name(), vec![figure.clone().is(took)]);
            }
        }
    }
    Ok(())
}

/// The plugin of one variant, with its configuration and its container.
struct Wire<'a> {
    way: Way,
    host: &'a Host,
    container: &'a Namespace,
    plugin: PathBuf,
    config: PathBuf,
    /// Where plugins find other plugins.
    plugins: &'a Path,
}

impl<'a> Wire<'a> {
    fn prepare(plan: &'a Plan, host: &'a Host, way: Way, container: &'a Namespace) -> Result<Self> {
        let name = way.name();
        let config = match way {
            Way::Ours(port) => json!({
                "cniVersion": "1.0.0", "name": name, "type": "vswitch", "network": "bench",
                "socket": host.folder.join("api.sock"), "options": { "kind": port.kind() },
            }),
            Way::Bridge | Way::Bare => json!({
                "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": name,
                "isGateway": way == Way::Bridge, "ipMasq": way == Way::Bridge,
                "ipam": {
                    "type": "host-local", "dataDir": host.folder.join("leases"),
                    "ranges": [[{ "subnet": if way == Way::Bare { "10.99.7.0/24" } else { "10.99.8.0/24" } }]],
                },
            }),
        };
        let plugin = match way {
            Way::Ours(_) => beside_vswitchd(plan, "vswitch-cni")?,
            Way::Bridge | Way::Bare => plan.plugins.join("bridge"),
        };
        let path = host.folder.join(format!("{name}.json"));
        fs::write(&path, config.to_string()).doing("write the configuration of a plugin")?;
        Ok(Self { way, host, container, plugin, config: path, plugins: &plan.plugins })
    }

    /// Runs the plugin like a container runtime.
    fn ask(&self, verb: &str) -> Result<String> {
        let mut command = Command::new(&self.plugin);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", self.container.name());
        command.env("CNI_NETNS", self.container.path()).env("CNI_IFNAME", INTERFACE);
        command.env("CNI_PATH", self.plugins);
        let config = File::open(&self.config).doing("read the configuration of a plugin")?;
        // The starting thread waits for its end.
        self.host.namespace.enter(|| Process::fed(&mut command, config)?.finish(LIMIT))?
    }
}

/// Duration of a call in milliseconds.
fn timed(deed: impl FnOnce() -> Result<String>) -> Result<f64> {
    interrupt::check()?;
    let start = Instant::now();
    deed()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Every variant once per round, starting with a different one each time.
fn visits(rounds: u32) -> impl Iterator<Item = (u32, Way)> {
    let ways =
        |round| Way::ALL.into_iter().cycle().skip(round as usize % Way::ALL.len()).take(Way::ALL.len());
    (1..=rounds).flat_map(move |round| ways(round).map(move |way| (round, way)))
}

fn switch(plan: &Plan) -> Vswitchd {
    Vswitchd { binary: plan.vswitchd.clone(), port: Port::Tap, extra: None }
}

/// A program built together with the daemon.
fn beside_vswitchd(plan: &Plan, program: &str) -> Result<PathBuf> {
    plan.vswitchd.with_file_name(program).canonicalize().doing(&format!("find {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_the_first_as_often_as_the_others() {
        let all: Vec<_> = visits(8).collect();
        assert_eq!(all.len(), 32);
        for way in Way::ALL {
            let first = all.chunks(4).filter(|round| round[0].1 == way).count();
            assert_eq!(first, 2, "{way:?}");
            assert!(all.chunks(4).all(|round| round.iter().any(|visit| visit.1 == way)));
        }
    }
}
