//! The systems under test: each joins the two containers of a [`Lab`] in its own way.

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

/// The system that others are compared with where containers belong to an engine.
pub const BASELINE_OF_ENGINES: &str = "docker";

/// The VXLAN network identifier by which hosts carry the containers' network.
const VNI: u32 = 4096;

/// The UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

/// A way to join two containers.
pub trait System {
    /// A short name: the column of the table and the word for `--only`.
    fn name(&self) -> String;

    /// What has to be installed first, when it is not.
    fn missing(&self) -> Option<String>;

    /// Its version, as it says itself.
    ///
    /// # Errors
    /// Fails when it cannot be asked.
    fn version(&self) -> Result<String>;

    /// Joins the containers of `lab`, and returns when the system says that it is ready.
    ///
    /// Afterwards both containers have a configured [`INTERFACE`].
    ///
    /// # Errors
    /// Fails when a part of the system does; nothing of it runs on then.
    fn setup(&self, lab: &Lab) -> Result<Running>;
}

/// A system at work. Dropping it ends its processes; its devices go with the namespaces of the [`Lab`].
#[derive(Debug, Default)]
pub struct Running {
    /// The engines that the containers belong to. They end first: they ask the processes to take leave of containers.
    pub engines: Vec<Engine>,
    /// The processes frames pass through, or that tell those what to do. None for the kernel's own bridge.
    pub processes: Vec<Process>,
    /// What had to be set other than the system does by itself, so that it works at all.
    pub remark: Option<&'static str>,
}

impl Running {
    /// Memory of all its processes that is in RAM now, in bytes; nothing when it has no process.
    pub fn resident(&self) -> Option<u64> {
        self.processes.iter().map(Process::resident).sum::<Option<u64>>().filter(|bytes| *bytes > 0)
    }
}

/// Every system that joins containers of one host, the baseline first.
///
/// `vswitchd` is the daemon's binary. Each variant is `KIND:LINE`, KIND being `tap` or `veth` and LINE a line
/// for the `[switch]` section of its configuration.
///
/// # Errors
/// Names the variant that is no such pair.
pub fn on_one_host(
    vswitchd: &Path,
    variants: &[String],
) -> std::result::Result<Vec<Box<dyn System>>, String> {
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(Bridge)];
    systems.extend(boxed(vswitchds(vswitchd, &[Port::Tap, Port::Veth], variants)?));
    systems.push(Box::new(OpenVswitch { tso: Tso::Off }));
    systems.push(Box::new(OpenVswitch { tso: Tso::On }));
    systems.push(Box::new(Vde));
    systems.push(Box::new(TunTap));
    Ok(systems)
}

/// Every system that joins containers of two hosts by VXLAN, the baseline first; arguments as for [`on_one_host`].
///
/// Open vSwitch comes as shipped only: with super-frames on, no TCP connection comes about through its tunnels.
///
/// # Errors
/// Names the variant that is no such pair.
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
/// Names the variant that is no such pair.
pub fn of_engines(vswitchd: &Path, variants: &[String]) -> std::result::Result<Vec<Box<dyn System>>, String> {
    let docker = |driver| -> Box<dyn System> { Box::new(Docker { driver }) };
    let ours = vswitchds(vswitchd, &[Port::Tap, Port::Veth], variants)?;
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

/// What decides about the speed of a container's interface: MTU, queue, offloads.
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

/// The first line of what `program ARGUMENT` prints.
fn first_line(program: &str, argument: &str) -> Result<String> {
    let said = run(std::process::Command::new(program).arg(argument))?;
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}
