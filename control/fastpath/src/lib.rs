//! The fast path: the kernel forwards what vswitchd has decided.
//!
//! vswitchd stays the only one who decides. Programs at the host's ends of veth pairs repeat what is written down for them, and leave
//! everything else to it: they never drop, learn, flood or answer.
//!
//! ```text
//! bpf/forward.bpf.c   the programs, and what they do with a frame
//! kernel              loaded or adopted, attached, pinned
//! layout, memory      their tables, byte by byte; those that are shared memory
//! slow, odd           which ports may use them and why others may not; which frames they leave to the switch
//! lanes               ports by the numbers of the programs
//! feed, projection    the MAC table's way into the kernel, and back when stations were seen
//! port                a port's lane: filter, order, counters
//! ```
//! **Order.** A frame that the programs forward may not overtake one that waits in vswitchd's socket. They count what they leave to
//! it ([`vswitch::device::packet::Bypass`]), and forward nothing from a port before the worker is done with all of that.
//!
//! **Time.** Tables change after decisions: between a change of the MAC table and that of the kernel's lie some 100 µs, in which a
//! frame goes where it would have gone just before. A flush and every change of a port's rules take effect at once.

mod feed;
mod kernel;
mod lanes;
mod layout;
mod memory;
mod odd;
mod port;
mod projection;
mod slow;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};

use vswitch::{
    addr::{MacAddr, PortId, Timestamp},
    counters::{NetworkCounters, PortCounters},
    fdb::Fdb,
    plan::Plan,
    topology::PortRules,
};

pub use kernel::Unavailable;
pub use odd::odd;
pub use port::FastPort;
pub use slow::Slow;

use feed::Feed;
use kernel::{Kernel, Parts};
use lanes::Lanes;
use memory::Shared;
use projection::Projection;

/// The fast path of a switch. Its ports keep the programs alive; dropped in an orderly way, all of it leaves nothing behind.
#[derive(Debug)]
pub struct FastPath {
    common: Arc<Common>,
    projection: Option<JoinHandle<()>>,
}

/// What ports need of it.
#[derive(Debug)]
pub(crate) struct Common {
    kernel: Mutex<Kernel>,
    filter: OwnedFd,
    lanes: Arc<Lanes>,
    feed: Arc<Feed>,
}

impl Common {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        // A panic under the lock leaves the kernel's objects as they are.
        self.kernel.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a port is to the fast path.
#[derive(Debug)]
pub struct Interface<'a> {
    /// The host's end of its veth pair.
    pub ifname: &'a str,
    /// Its index.
    pub ifindex: u32,
    /// The MAC address of the other end, if that is in another namespace: frames to it can be handed over directly.
    pub own: Option<MacAddr>,
}

impl FastPath {
    /// Loads the programs, or adopts the tables that an earlier run has left below `home`, a folder of the caller's own on a BPF
    /// file system. Without one the programs end with the process.
    ///
    /// `fdb` is followed from now on, with `clock`, that of the workers.
    ///
    /// # Errors
    /// The kernel cannot do it: a sentence.
    pub fn start(
        home: Option<&Path>,
        fdb: Arc<Fdb>,
        clock: impl Fn() -> Timestamp + Send + 'static,
    ) -> Result<Self, Unavailable> {
        let (kernel, Parts { filter, stations, lanes, tallies, cpus }) = Kernel::load(home)?;
        let refuse = |error: io::Error| Unavailable::Refused(error.to_string());
        let slots = layout::LANES as usize;
        let lanes = Arc::new(Lanes::new(
            Shared::map(lanes.as_fd(), slots).map_err(refuse)?,
            Shared::map(tallies.as_fd(), slots * cpus).map_err(refuse)?,
        ));
        let feed = Arc::new(Feed::new(Arc::clone(&lanes)));
        feed.follow(&fdb);
        let projection =
            Projection::new(fdb, Box::new(clock), Arc::clone(&lanes), Arc::clone(&feed), stations);
        let thread = std::thread::Builder::new().name("projection".into());
        let projection = thread.spawn(move || projection.run()).map_err(refuse)?;
        let common = Common { kernel: Mutex::new(kernel), filter, lanes, feed };
        Ok(Self { common: Arc::new(common), projection: Some(projection) })
    }

    /// Ends what an earlier run has left below `home`, where no fast path is started: it would forward beside the switch.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn clear(home: &Path) -> io::Result<()> {
        kernel::clear(home)
    }

    /// Follows `fdb` from now on, which replaces the present table.
    pub fn follow(&self, fdb: &Arc<Fdb>) {
        self.common.feed.follow(fdb);
    }

    /// Whether it goes on forwarding if this process dies.
    pub fn outlives(&self) -> bool {
        self.common.kernel().is_pinned()
    }

    /// A lane for `port`. What is forwarded is added to the last of its `counters`, which no worker writes. Nothing is forwarded
    /// before the port is [attached](FastPort::attach) and its rules are [known](Self::adopt), unless an earlier run has left it.
    ///
    /// # Errors
    /// All lanes are taken, or the kernel refuses.
    pub fn open(
        &self,
        port: PortId,
        interface: &Interface<'_>,
        counters: Arc<[PortCounters]>,
    ) -> io::Result<Arc<FastPort>> {
        FastPort::open(&self.common, port, interface, counters).map(Arc::new)
    }

    /// Sets the ageing time of learned stations.
    pub fn set_ageing(&self, ageing: Duration) {
        self.common.lanes.set_ageing(ageing);
    }

    /// Stops forwarding for those of `ports` that the next plan has other rules for, before workers adopt it.
    pub fn prepare<'a>(&self, ports: impl IntoIterator<Item = &'a Arc<FastPort>>, next: &Rules<'_>) {
        for port in ports {
            port.prepare(next);
        }
    }

    /// Forwards by the rules of a plan that all workers have adopted. `networks` has the counters of its networks, of which the
    /// last is for what is forwarded here.
    pub fn adopt<'a>(&self, ports: impl IntoIterator<Item = &'a Arc<FastPort>>, now: &Rules<'_>) {
        let any = ports.into_iter().fold(false, |any, port| port.adopt(now) | any);
        if any {
            self.common.feed.add_all();
        }
    }

    /// Takes over what an earlier run knew, once all ports are open, and removes what it has left behind.
    pub fn restore(&self) {
        self.common.kernel().remove_links(|ifindex| self.common.lanes.is_of(ifindex));
        self.common.feed.restore();
    }

    /// Waits until the kernel has all changes of the MAC table up to now. False: it takes longer than two seconds.
    pub fn settle(&self) -> bool {
        self.common.feed.settle()
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.common.feed.end();
        if let Some(thread) = self.projection.take() {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

/// The rules of a plan: who may be forwarded, and how.
#[derive(Debug)]
pub struct Rules<'a> {
    /// Of the ports that are up.
    pub ports: BTreeMap<PortId, &'a PortRules>,
    /// Ports that may not be forwarded for, for a reason that is not among their rules.
    pub barred: BTreeMap<PortId, Slow>,
    /// Captures, mirrors, and the counters of networks.
    pub plan: &'a Plan,
}

impl Rules<'_> {
    fn counters(&self, network: vswitch::addr::NetworkId) -> Option<Arc<[NetworkCounters]>> {
        self.plan.networks.get(network.index())?.clone()
    }
}
