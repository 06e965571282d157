//! The systems under test: each connects the two containers of a [`Lab`].

mod bridge;
mod docker;
mod openvswitch;
pub mod tuntap;
mod vde;
mod vswitchd;

use std::{collections::BTreeMap, path::Path};

use crate::{
    engine::Engine,
    error::{Doing, Error, Result},
    lab::{Container, INTERFACE, Lab},
    process::{Process, run},
};

pub(crate) use self::docker::{PLUGIN, beside};
pub use self::{
    bridge::Bridge,
    docker::Docker,
    openvswitch::{OpenVswitch, Tso},
    tuntap::TunTap,
    vde::Vde,
    vswitchd::{Port, Vswitchd},
};

/// The system all others are compared with.
pub const BASELINE: &str = "bridge";

/// The baseline for containers of an engine.
pub const BASELINE_OF_ENGINES: &str = "docker";

/// The VXLAN network identifier of the containers' network.
const VNI: u32 = 4096;

/// The UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

/// A system that connects two containers.
pub trait System {
    /// A short name: the column of the table and the argument of `--only`.
    fn name(&self) -> String;

    /// The missing prerequisite, if any.
    fn missing(&self) -> Option<String>;

    /// Its version, as reported by itself.
    ///
    /// # Errors
    /// Fails if it cannot be queried.
    fn version(&self) -> Result<String>;

    /// Connects the containers of `lab`, and returns when the system reports readiness.
    ///
    /// Afterwards both containers have a configured [`INTERFACE`].
    ///
    /// # Errors
    /// Fails if a part of the system does; then no part keeps running.
    fn setup(&self, lab: &Lab) -> Result<Running>;
}

/// A running system. Dropping it ends its processes; its devices disappear with the namespaces of the [`Lab`].
#[derive(Debug, Default)]
pub struct Running {
    /// The engines that the containers belong to. They end first, because they ask the processes to detach containers.
    pub engines: Vec<Engine>,
    /// The processes of the data path and of its control. None for the kernel's own bridge.
    pub processes: Vec<Process>,
    /// Settings beyond the system's defaults that it needs to work at all.
    pub remark: Option<&'static str>,
}

impl Running {
    /// Resident memory of all its processes in bytes; `None` without processes.
    pub fn resident(&self) -> Option<u64> {
        self.processes.iter().map(Process::resident).sum::<Option<u64>>().filter(|bytes| *bytes > 0)
    }
}

/// All systems for containers of one host, the baseline first.
///
/// `vswitchd` is the daemon's binary. Each variant is `KIND:LINE`, KIND being `tap`, `veth` or `fast` (veth, and the kernel forwards) and LINE a line
/// for the `[switch]` section of its configuration.
///
/// # Errors
/// Names the variant that is not such a pair.
pub fn on_one_host(
    vswitchd: &Path,
    variants: &[String],
) -> std::result::Result<Vec<Box<dyn System>>, String> {
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(Bridge)];
    systems.extend(boxed(vswitchds(vswitchd, &[Port::Tap, Port::Veth, Port::Fast], variants)?));
    systems.push(Box::new(OpenVswitch { tso: Tso::Off }));
    systems.push(Box::new(OpenVswitch { tso: Tso::On }));
    systems.push(Box::new(Vde));
    systems.push(Box::new(TunTap));
    Ok(systems)
}

/// All systems for containers of two hosts, by VXLAN, the baseline first; arguments as for [`on_one_host`].
///
/// Open vSwitch runs with default settings only: with super-frames on, TCP does not connect through its tunnels.
///
/// # Errors
/// Names the variant that is not such a pair.
pub fn on_two_hosts(
    vswitchd: &Path,
    variants: &[String],
) -> std::result::Result<Vec<Box<dyn System>>, String> {
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(Bridge)];
    systems.extend(boxed(vswitchds(vswitchd, &[Port::Tap], variants)?));
    systems.push(Box::new(OpenVswitch { tso: Tso::Off }));
    Ok(systems)
}

/// Docker with its own drivers, the baseline, and with vswitchd's; arguments as for [`on_one_host`].
///
/// # Errors
/// Names the variant that is not such a pair.
pub fn of_engines(vswitchd: &Path, variants: &[String]) -> std::result::Result<Vec<Box<dyn System>>, String> {
    let docker = |driver| -> Box<dyn System> { Box::new(Docker { driver }) };
    let ours = vswitchds(vswitchd, &[Port::Tap, Port::Fast], variants)?;
    Ok([None].into_iter().chain(ours.into_iter().map(Some)).map(docker).collect())
}

/// vswitchd with these kinds of ports, and its variants.
fn vswitchds(
    binary: &Path,
    ports: &[Port],
    variants: &[String],
) -> std::result::Result<Vec<Vswitchd>, String> {
    let mut kinds: Vec<_> = ports.iter().map(|&port| (port, None)).collect();
    for variant in variants {
        let (port, line) = variant.split_once(':').ok_or_else(|| format!("`{variant}` is not KIND:LINE"))?;
        kinds.push((port.parse()?, Some(line.trim().to_owned())));
    }
    let vswitchd = |(port, extra)| Vswitchd { binary: binary.to_path_buf(), port, extra };
    Ok(kinds.into_iter().map(vswitchd).collect())
}

fn boxed(systems: Vec<Vswitchd>) -> impl Iterator<Item = Box<dyn System>> {
    systems.into_iter().map(|system| -> Box<dyn System> { Box::new(system) })
}

/// The settings that determine the speed of a container's interface: MTU, queue, offloads.
///
/// # Errors
/// Fails when `ip` or `ethtool` do.
pub fn inspect(container: &Container) -> Result<BTreeMap<String, String>> {
    let link = container.namespace.ip(&format!("-j link show dev {INTERFACE}"))?;
    let link: serde_json::Value = serde_json::from_str(&link).doing("read the answer of ip")?;
    let link = link.get(0).ok_or_else(|| Error::Answer { from: "ip".into(), missing: INTERFACE.into() })?;
    let mut facts = BTreeMap::new();
    for (ours, theirs) in [("mtu", "mtu"), ("qdisc", "qdisc"), ("txqueuelen", "txqlen")] {
        facts.insert(ours.to_owned(), link[theirs].to_string().replace('"', ""));
    }
    let features = run(container.namespace.command("ethtool").args(["-k", INTERFACE]))?;
    let wanted = [
        "tx-checksumming",
        "tcp-segmentation-offload",
        "tx-udp-segmentation",
        "generic-segmentation-offload",
        "generic-receive-offload",
    ];
    let stated = features.lines().filter_map(|line| line.trim().split_once(": "));
    let stated = stated.filter(|(feature, _)| wanted.contains(feature));
    facts.extend(stated.map(|(feature, state)| (feature.to_owned(), state.to_owned())));
    Ok(facts)
}

/// The first line of the output of `program ARGUMENT`.
fn first_line(program: &str, argument: &str) -> Result<String> {
    let said = run(std::process::Command::new(program).arg(argument))?;
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}
