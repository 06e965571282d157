//! The fast path among the ports: which of them the kernel forwards for, by which rules.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::statfs;
use sha2::{Digest, Sha256};
use tracing::warn;
use vswitch::{
    addr::{MacAddr, PortId},
    counters::PortCounters,
    fdb::Fdb,
    plan::Plan,
    worker::Readings,
};
use vswitch_fastpath::{FastPath, FastPort, Interface, Rules, Slow};

use super::{Edge, EdgePort};
use crate::{
    device::{self, OpenDevice},
    state,
};
use vswitch_host::link::{Changes, Links};
use vswitch_model::{Accelerate, InterfaceSpec, SwitchSpec};

/// Where programs and tables are pinned, to outlive the daemon.
const BPF_FS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The fast path, or why there is none: a sentence.
pub(super) type Fast = Result<FastPath, String>;

/// Starts the fast path.
pub(super) fn start(spec: &SwitchSpec, is_real: bool, fdb: &Arc<Fdb>, clock: Readings) -> Fast {
    const OFF: &str = "switched off: set switch.accelerate = \"auto\"";
    if !is_real {
        return Err(OFF.into());
    }
    let home = home(&spec.state);
    let fast = if spec.accelerate.is_auto() {
        FastPath::start(home.as_deref(), Arc::clone(fdb), move || clock.now()).map_err(|why| why.to_string())
    } else {
        Err(OFF.into())
    };
    if let (Err(_), Some(home)) = (&fast, &home)
        && let Err(error) = FastPath::clear(home)
    {
        warn!("the kernel may forward frames a second time: {} cannot be removed: {error}", home.display());
    }
    match &fast {
        Ok(fast) => {
            fast.set_ageing(Duration::from_secs(spec.ageing.into()));
            if !fast.outlives() {
                warn!(
                    "there is no BPF file system at {BPF_FS}, so the kernel stops forwarding with the daemon: `mount -t bpf bpf {BPF_FS}`"
                );
            }
        }
        Err(why) if spec.accelerate.is_auto() => warn!("the kernel forwards nothing by itself: {why}"),
        Err(_) => {}
    }
    fast
}

/// This daemon's folder for pins, by its state folder; `None` without a BPF file system.
fn home(state: &Path) -> Option<PathBuf> {
    let is_bpf = statfs(BPF_FS).is_ok_and(|it| it.f_type == BPF_FS_MAGIC);
    // The folder of the state exists, and may have several names.
    let state = fs::canonicalize(state).unwrap_or_else(|_| state.to_owned());
    let hash = Sha256::digest(state.as_os_str().as_encoded_bytes());
    let id: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    is_bpf.then(|| Path::new(BPF_FS).join("vswitchd").join(id))
}

/// What a port needs to be opened with a share of the fast path.
pub(crate) struct Share<'a> {
    pub(super) fast: &'a Fast,
    pub(super) counters: &'a Arc<[PortCounters]>,
}

impl Share<'_> {
    /// A lane for `port`, whose veth pair has the end `host` here.
    ///
    /// # Errors
    /// There is none, and why: a sentence.
    pub(crate) async fn open(
        &self,
        outside: &Links,
        port: &state::Port,
        interface: &InterfaceSpec,
        host: &str,
    ) -> Result<Arc<FastPort>, String> {
        let fast = self.fast.as_ref().map_err(Clone::clone)?;
        let end = outside.find(host).await.map_err(|error| error.to_string())?;
        let ifindex = end.ok_or_else(|| format!("{host} is gone"))?.index;
        let own = own(port, interface).await;
        let opened = fast.open(port.id, &Interface { ifname: host, ifindex, own }, Arc::clone(self.counters));
        opened.map_err(|error: io::Error| format!("the kernel takes no more ports: {error}"))
    }
}

/// The MAC address of a port's interface, if that is in another namespace: the kernel hands frames over to nothing else.
async fn own(port: &state::Port, interface: &InterfaceSpec) -> Option<MacAddr> {
    let is_elsewhere =
        interface.bare.as_ref().map_or_else(|| interface.netns.is_some(), |bare| bare.moved.is_some());
    if !is_elsewhere || interface.mac.is_some() {
        return interface.mac.filter(|_| is_elsewhere);
    }
    let inside = Links::open(device::namespace(interface).ok()?).ok()?;
    inside.find(port.spec.ifname()).await.ok()??.mac
}

impl Edge {
    /// Why the kernel cannot forward for any port; `None` if it can.
    pub(super) fn why_not_fast(&self) -> Option<String> {
        self.fast.as_ref().err().cloned()
    }

    fn fast_ports(&self) -> impl Iterator<Item = &Arc<FastPort>> {
        self.ports.values().filter_map(|port| port.device.as_ref().ok()?.fast()?.ok())
    }

    /// The rules of `plan` for the fast path.
    fn rules_of<'a>(&self, layout: &'a state::Layout, plan: &'a Plan) -> Rules<'a> {
        let barred = |(id, port): (&PortId, &EdgePort)| match &port.wanted.spec {
            spec if spec.accelerate == Accelerate::Off => Some((*id, Slow::Off)),
            spec if !spec.offload.any() => Some((*id, Slow::NoOffload)),
            _ => None,
        };
        Rules {
            ports: layout.ports.iter().map(|rules| (rules.id, rules)).collect(),
            barred: self.ports.iter().filter_map(barred).collect(),
            plan,
        }
    }

    /// Leaves to the workers what the kernel may not forward by the next plan, before they adopt it.
    pub(super) fn prepare_fast(&self, layout: &state::Layout, next: &Plan) {
        if let Ok(fast) = &self.fast {
            fast.prepare(self.fast_ports(), &self.rules_of(layout, next));
        }
    }

    /// Lets the kernel forward by the plan that the workers have adopted.
    pub(super) fn adopt_fast(&self, layout: &state::Layout) {
        if let Ok(fast) = &self.fast {
            // The others' are followed as they change.
            self.follow_links(|fast| matches!(fast.slow(), Some(Slow::Starting | Slow::LinkDown)));
            fast.adopt(self.fast_ports(), &self.rules_of(layout, self.workers.plan()));
        }
    }

    /// Waits until interfaces change that the kernel may forward to.
    pub(crate) async fn links_changed(&self) -> Changes {
        self.links.changed().await
    }

    /// Notes which of the changed interfaces are up: frames to one that is down would be lost in the kernel.
    pub(crate) fn follow_changed(&self, changed: &Changes) {
        self.follow_links(|fast| changed.has_number(fast.ifindex()));
    }

    /// Notes which ports of the fast path have an interface that is up.
    pub(super) fn follow_links(&self, which: impl Fn(&FastPort) -> bool) {
        for port in self.ports.values() {
            if let Ok(OpenDevice::Veth { device, fast: Ok(fast), .. }) = &port.device
                && which(fast)
            {
                fast.set_link(device.is_running());
            }
        }
    }

    /// Lets a port's frames be handed over to its interface by the address that this has by now.
    pub(super) async fn follow_own(&self, port: &state::Port, interface: &InterfaceSpec) {
        let known = self.ports.get(&port.id).and_then(|port| port.device.as_ref().ok()?.fast()?.ok());
        if let Some(known) = known {
            known.set_own(own(port, interface).await);
        }
    }

    /// Takes over what the kernel has forwarded by since an earlier run.
    pub(crate) fn restore_fast(&self) {
        if let Ok(fast) = &self.fast {
            fast.restore();
        }
    }

    /// Returns when the kernel knows every change of the MAC table.
    pub(crate) fn settle_fast(&self) {
        if let Ok(fast) = &self.fast
            && !fast.settle()
        {
            warn!("the kernel's table lags behind the MAC table by more than two seconds");
        }
    }
}
