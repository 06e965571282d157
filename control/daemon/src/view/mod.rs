//! The desired state and the real one, for readers.
//!
//! The [core](crate::core) publishes a [`Snapshot`] after each request. A reader takes the latest and never waits. The
//! configuration in it is fixed; counters are live: it holds the counters themselves, the MAC table and the workers' clock, so
//! numbers are those of the moment of reading.
//!
//! A snapshot keeps no device open: its references are [weak](Weak), and upgraded only while a number is read. The edge waits
//! for such a read before it reports an interface as gone.
//!
//! | file | contents |
//! |---|---|
//! | `status`, `network`, `port`, `tunnel`, `fdb`, `stats` | answers of the API |
//! | `trace`, `why` | traces of a frame; diagnoses of an address |
//! | `names`, `census` | numbers to names; number of addresses |

mod census;
mod change;
mod fdb;
mod names;
mod network;
mod port;
mod service;
mod stats;
mod status;
mod trace;
mod tunnel;
mod why;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use vswitch::{
    addr::{NetworkId, PortId, Timestamp},
    balance::Balance,
    counters::{NetworkCounters, NetworkTotals, PortCounters, PortTotals},
    device::{Device, packet::PacketSocket, tap::Tap},
    fdb::{Fdb, Learning},
    neighbours::Neighbours,
    plan::Plan,
    worker::Readings,
};
use vswitch_fastpath::FastPort;
use vswitch_vxlan::{device::Path, endpoint::Vtep};

use self::census::Census;
pub(crate) use self::{
    change::{change, declared},
    fdb::pinned,
    names::Names,
};
use crate::{
    capture::Running,
    core::Engines,
    progress::Progress,
    state::{self, Kind, Refusal, State},
};
use vswitch_host::queue::{Queue, Queues};
use vswitch_model::{
    Error, Name, VxlanSpec,
    api::{PortState, Trouble, TroubleKind, capture::Capture},
};

/// The desired state and the real one. See the [module](self).
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) state: State,
    pub(crate) live: Live,
    pub(crate) process: Arc<Process>,
    problems: Problems,
    pub(crate) engines: Arc<Engines>,
    names: OnceLock<Arc<Names>>,
    census: Census,
}

/// Constants of this process.
#[derive(Debug)]
pub(crate) struct Process {
    /// The configuration file.
    pub(crate) config: PathBuf,
    pub(crate) started: Instant,
    pub(crate) outages: Outages,
    pub(crate) progress: Arc<Progress>,
}

/// What the core cannot do as it should.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// What is worth knowing: sentences.
    pub(crate) warnings: Vec<String>,
    /// What does not work.
    pub(crate) troubles: Vec<Trouble>,
}

/// Keys of `[api]` whose addresses are not served, and why.
#[derive(Debug, Default)]
pub(crate) struct Outages(Mutex<BTreeMap<&'static str, String>>);

impl Outages {
    /// Notes why the address of `key` is not served; `None`: it is. True: that is news.
    pub(crate) fn note(&self, key: &'static str, why: Option<String>) -> bool {
        // A panic under the lock leaves a sentence that is out of date.
        let mut outages = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = match &why {
            Some(why) => outages.insert(key, why.clone()),
            None => outages.remove(key),
        };
        before != why
    }

    fn troubles(&self) -> Vec<Trouble> {
        let outages = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let trouble = |(key, why): (&&'static str, &String)| Trouble {
            kind: TroubleKind::Listener,
            of: Some((*key).to_owned()),
            detail: why.clone(),
        };
        outages.iter().map(trouble).collect()
    }
}

/// Live counters and handles.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) fdb: Arc<Fdb>,
    /// The addresses of neighbours that directories tell of.
    pub(crate) neighbours: Arc<Neighbours>,
    /// Services, and the flows of their clients.
    pub(crate) balance: Arc<Balance>,
    pub(crate) workers: Readings,
    pub(crate) plan: Weak<Plan>,
    pub(crate) ports: BTreeMap<PortId, LivePort>,
    pub(crate) networks: BTreeMap<NetworkId, LiveNetwork>,
    /// Why the kernel cannot forward for any port; `None` if it can.
    pub(crate) why_not_fast: Option<String>,
    pub(crate) captures: Vec<Arc<Running>>,
}

/// The real side of a port.
#[derive(Debug)]
pub(crate) struct LivePort {
    pub(crate) counters: Arc<[PortCounters]>,
    /// Learning on earlier ports of the same number.
    pub(crate) taught_before: Learning,
    pub(crate) worker: usize,
    /// Why it carries no frames; `None` if it does.
    pub(crate) why_down: Option<String>,
    /// Warnings about what this kernel lacks: sentences.
    pub(crate) warnings: Vec<String>,
    pub(crate) device: LiveDevice,
    /// Its share of the fast path, or why it has none; absent where there can be none.
    pub(crate) fast: Option<Result<Weak<FastPort>, String>>,
    pub(crate) heard: Arc<Heard>,
}

/// A device, for reading only. It is not kept open.
#[derive(Debug)]
pub(crate) enum LiveDevice {
    None,
    Tap(Weak<Tap>, Arc<Queue>),
    Packet(Weak<PacketSocket>),
    Endpoint(Weak<Vtep>),
    /// A peer or a collector, and the path to it.
    Remote(Arc<Path>),
}

/// The counters of a network.
#[derive(Debug)]
pub(crate) struct LiveNetwork {
    pub(crate) counters: Arc<[NetworkCounters]>,
    /// Learning in earlier networks of the same number.
    pub(crate) taught_before: Learning,
}

/// When frames were last received, as far as observed.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Milliseconds of the workers' clock.
    at: AtomicU64,
    /// Number of frames by then.
    frames: AtomicU64,
}

impl Heard {
    /// Notes at `now` that `frames` were received so far. Concurrent readers may note: the latest is right.
    pub(crate) fn note(&self, frames: u64, now: Timestamp) {
        if self.frames.fetch_max(frames, Relaxed) < frames {
            self.at.fetch_max(now.as_millis(), Relaxed);
        }
    }

    /// Milliseconds since frames were last received; `None` if there were none.
    fn since(&self, now: Timestamp) -> Option<u64> {
        (self.frames.load(Relaxed) > 0).then(|| now.as_millis().saturating_sub(self.at.load(Relaxed)))
    }
}

impl LivePort {
    pub(crate) fn totals(&self) -> PortTotals {
        self.count_fast();
        PortTotals::sum(&self.counters)
    }

    /// Brings the counters up to date with what the kernel has forwarded.
    fn count_fast(&self) {
        if let Some(fast) = self.fast_port() {
            fast.count();
        }
    }

    pub(crate) fn fast_port(&self) -> Option<Arc<FastPort>> {
        self.fast.as_ref()?.as_ref().ok()?.upgrade()
    }

    /// Notes whether frames were received since the last call.
    pub(crate) fn listen(&self, now: Timestamp) {
        self.heard.note(self.totals().rx_frames, now);
    }

    /// Frames that the kernel dropped before the switch could receive them.
    fn overflow(&self) -> u64 {
        match &self.device {
            LiveDevice::Tap(_, queue) => queue.dropped(),
            LiveDevice::Packet(packet) => packet.upgrade().map_or(0, |packet| packet.overflow()),
            LiveDevice::Endpoint(endpoint) => {
                endpoint.upgrade().map_or(0, |endpoint| endpoint.lost().overflow)
            }
            LiveDevice::None | LiveDevice::Remote(_) => 0,
        }
    }

    /// Datagrams of the tunnel that the kernel dropped because of their outer UDP checksum.
    fn damaged(&self) -> u64 {
        match &self.device {
            LiveDevice::Endpoint(endpoint) => {
                endpoint.upgrade().map_or(0, |endpoint| endpoint.lost().damaged)
            }
            _ => 0,
        }
    }
}

impl Snapshot {
    pub(crate) fn new(
        state: State,
        live: Live,
        process: Arc<Process>,
        problems: Problems,
        engines: Arc<Engines>,
    ) -> Self {
        Self { state, live, process, problems, engines, names: OnceLock::new(), census: Census::default() }
    }

    /// Names by number.
    pub(crate) fn names(&self) -> &Arc<Names> {
        self.names.get_or_init(|| Arc::new(Names::of(&self.state)))
    }

    /// Time since the daemon's start.
    pub(crate) fn uptime(&self) -> Duration {
        self.process.started.elapsed()
    }

    /// The time of the workers' clock.
    fn now(&self) -> Timestamp {
        self.live.workers.now()
    }

    fn live(&self, port: PortId) -> Option<&LivePort> {
        self.live.ports.get(&port)
    }

    /// Why a port carries no frames; `None` if it does.
    fn why_down(&self, port: PortId) -> Option<String> {
        self.live(port).and_then(|port| port.why_down.clone())
    }

    fn is_up(&self, port: PortId) -> bool {
        self.live(port).is_some_and(|port| port.why_down.is_none())
    }

    fn totals(&self, port: PortId) -> PortTotals {
        self.live(port).map(LivePort::totals).unwrap_or_default()
    }

    fn overflow(&self, port: PortId) -> u64 {
        self.live(port).map_or(0, LivePort::overflow)
    }

    fn damaged(&self, port: PortId) -> u64 {
        self.live(port).map_or(0, LivePort::damaged)
    }

    /// The counters of a network, and the learning in it.
    fn network_totals(&self, id: NetworkId) -> (NetworkTotals, Learning) {
        self.live.ports.values().for_each(LivePort::count_fast);
        let totals = self.live.networks.get(&id).map(|network| {
            let taught = self.live.fdb.learning_of_network(id).since(network.taught_before);
            (NetworkTotals::sum(&network.counters), taught)
        });
        totals.unwrap_or_default()
    }

    /// The tunnel's sockets, if they are open.
    fn tunnel_endpoint(&self) -> Option<Arc<Vtep>> {
        let endpoint = |port: &LivePort| match &port.device {
            LiveDevice::Endpoint(endpoint) => endpoint.upgrade(),
            _ => None,
        };
        self.live.ports.values().find_map(endpoint)
    }

    /// The TAPs whose queues are to be read. Asks the kernel for their current namespaces.
    pub(crate) fn queues(&self) -> Queues {
        let mut queues = Queues::default();
        for (id, port) in &self.live.ports {
            if let LiveDevice::Tap(tap, queue) = &port.device
                && let Some(tap) = tap.upgrade()
                && let Err(error) = queues.add(&tap, queue)
            {
                tracing::debug!(port = self.names().port(*id), "cannot read the drops of its queue: {error}");
            }
        }
        queues
    }

    /// The local and remote address of the path to a peer, and the underlay's MTU. `None` if the port is not a peer, or the
    /// tunnel is down.
    pub(crate) fn way_to(&self, peer: &state::Port) -> Option<(SocketAddr, SocketAddr, u16)> {
        let spec = peer.spec.device.peer()?;
        let LiveDevice::Remote(_) = self.live(peer.id)?.device else { return None };
        let endpoint = self.tunnel_endpoint()?;
        let remote = endpoint.address(spec.remote.ip(), 0);
        Some((endpoint.local(), remote, self.vxlan()?.underlay_mtu()))
    }

    /// The specification of this host's end of all tunnels.
    fn vxlan(&self) -> Option<VxlanSpec> {
        self.state.endpoint()?.device.endpoint().cloned()
    }

    /// The captures in progress.
    pub(crate) fn captures(&self) -> Vec<Capture> {
        self.live.captures.iter().filter(|it| !it.is_over()).map(|running| running.show()).collect()
    }

    /// The port of that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find_port(&self, name: &Name) -> Result<state::Port, Error> {
        self.state.port(name).ok_or_else(|| missing(Kind::Port, name))
    }

    /// The network of exactly that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find_network(&self, name: &Name) -> Result<state::Network, Error> {
        self.state.network(name).ok_or_else(|| missing(Kind::Network, name))
    }
}

fn missing(kind: Kind, name: &Name) -> Error {
    Refusal::Missing { kind, name: name.clone() }.into()
}

/// The state of a port that is down for this reason, or up without one.
fn state_of(why_down: Option<&String>) -> PortState {
    if why_down.is_none() { PortState::Up } else { PortState::Down }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_was_heard_when_its_count_had_grown() {
        let (heard, at) = (Heard::default(), Timestamp::from_millis);
        heard.note(0, at(1000));
        assert_eq!(heard.since(at(5000)), None);
        heard.note(3, at(2000));
        heard.note(3, at(3000));
        assert_eq!(heard.since(at(5000)), Some(3000));
        // A slow reader that had counted before.
        heard.note(2, at(4000));
        assert_eq!(heard.since(at(5000)), Some(3000));
    }
}
