//! The systems under test: each joins the two containers of a [`Lab`] in its own way.

mod bridge;
mod openvswitch;
pub mod tuntap;
mod vde;
mod vswitchd;

use std::{collections::BTreeMap, path::Path};

use crate::{
    error::{Doing, Error, Result},
    lab::{Container, INTERFACE, Lab},
    process::{Process, run},
};

pub use self::{
    bridge::Bridge,
    openvswitch::{OpenVswitch, Tso},
    tuntap::TunTap,
    vde::Vde,
    vswitchd::{Port, Vswitchd},
};

/// The system all others are compared with.
pub const BASELINE: &str = "bridge";

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

/// Every system of the matrix, the baseline first.
///
/// `vswitchd` is the daemon's binary. Each variant is `KIND:LINE`, KIND being `tap` or `veth` and LINE a line
/// for the `[switch]` section of its configuration.
///
/// # Errors
/// Names the variant that is no such pair.
pub fn all(vswitchd: &Path, variants: &[String]) -> std::result::Result<Vec<Box<dyn System>>, String> {
    let mut systems: Vec<Box<dyn System>> = vec![Box::new(Bridge)];
    for port in [Port::Tap, Port::Veth] {
        systems.push(Box::new(Vswitchd { binary: vswitchd.to_path_buf(), port, extra: None }));
    }
    for variant in variants {
        let (port, line) = variant.split_once(':').ok_or_else(|| format!("`{variant}` is not KIND:LINE"))?;
        let port = port.parse()?;
        systems.push(Box::new(Vswitchd {
            binary: vswitchd.to_path_buf(),
            port,
            extra: Some(line.trim().to_owned()),
        }));
    }
    systems.push(Box::new(OpenVswitch { tso: Tso::Off }));
    systems.push(Box::new(OpenVswitch { tso: Tso::On }));
    systems.push(Box::new(Vde));
    systems.push(Box::new(TunTap));
    Ok(systems)
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
