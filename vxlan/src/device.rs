//! The tunnel as devices of the switch: an [`Inlet`] for each receiving socket, a [`Remote`] for each peer,
//! and a [`Collector`] for each host that gets copies.
//!
//! They hold immutable tables of the configuration and are rebuilt with every plan, so a worker's tables
//! always match its topology. The sockets stay open.

use std::{
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use socket2::SockAddr;
use vswitch::{
    addr::{NetworkId, PortId},
    batch::{Batch, GULP},
    device::{Device, DeviceError, Refuse},
    drops::DropReason,
    frame::ETHERNET_HEADER,
    transmit::{Scratch, Transmit},
};

use crate::{
    copies::Copies,
    decap::{self, MESSAGE, Message, decapsulate, refuse_all},
    encap::{self, Class, Dscp, encapsulate},
    endpoint::{Received, SOURCES, Vtep},
    header::{HEADER, Vni},
    losses::Lost,
    tables::{Isolation, Tables},
};

pub use crate::header::overhead;

/// Settings that may change while the sockets stay open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The endpoint's own port, which counts datagrams that belong to no peer.
    pub own: PortId,
    /// Whether headers with reserved bits are rejected.
    pub strict: bool,
    /// Whether unknown senders become peers.
    pub learn: bool,
    /// Whether the MSS of connections is clamped.
    pub clamp: bool,
    /// DSCP of outer headers.
    pub dscp: Dscp,
    /// Whether outer headers get the inner packet's time to live, or hop limit.
    pub inherit_ttl: bool,
    /// MTU of the underlay at this host, in bytes.
    pub underlay_mtu: u16,
    /// How frames of isolated ports are marked, if they are.
    pub isolation: Option<Isolation>,
}

/// A peer, the underlay's multicast group, or a collector.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its port of the switch.
    pub port: PortId,
    /// Destination address of its datagrams.
    pub address: SocketAddr,
    /// The path to it.
    pub path: Arc<Path>,
}

impl Peer {
    /// Bytes of outer headers before an inner packet for this peer, its Ethernet header included.
    pub fn overhead(&self) -> u16 {
        overhead(self.address.ip())
    }
}

/// The path to a peer. It outlives plans.
#[derive(Debug)]
pub struct Path {
    /// The path MTU in bytes.
    mtu: AtomicU16,
}

impl Path {
    /// A path with this MTU.
    pub fn new(mtu: u16) -> Self {
        Self { mtu: AtomicU16::new(mtu) }
    }

    /// The path MTU in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed)
    }

    /// Updates the path MTU.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
    }
}

/// The devices of a tunnel.
#[derive(Clone, Debug)]
pub struct Devices {
    /// One for each inlet socket; the first is also the device of the endpoint's own port.
    pub inlets: Vec<Arc<Inlet>>,
    /// In the order of the peers.
    pub remotes: Vec<Arc<Remote>>,
    /// One for each collector.
    pub collectors: Vec<Arc<Collector>>,
}

/// Builds the devices of `endpoint` for these peers, networks and collectors; each collector has its own VNI.
/// `mtus` are the smallest MTUs of the ports of networks, in bytes, where smaller than the tunnel's; `fragmented` are networks
/// whose long datagrams leave in fragments.
pub fn devices(
    endpoint: &Arc<Vtep>,
    rules: &Rules,
    peers: &[Peer],
    collectors: &[(Peer, Vni)],
    networks: impl IntoIterator<Item = (Vni, NetworkId)>,
    mtus: impl IntoIterator<Item = (NetworkId, u16)>,
    fragmented: impl IntoIterator<Item = NetworkId>,
) -> Devices {
    let station = |peer: &Peer| (peer.address.ip(), peer.port);
    let stations = peers.iter().filter(|peer| !peer.address.ip().is_multicast()).map(station);
    let watchers = collectors.iter().map(|(collector, _)| station(collector));
    let tables = Tables::new(stations, networks).with_collectors(watchers).with_mtus(mtus);
    let tables = tables.with_fragments(fragmented).with_isolation(rules.isolation.clone());
    let tables = Arc::new(tables);
    let overhead = overhead(endpoint.local().ip());
    let inlet = |number| {
        Arc::new(Inlet {
            endpoint: Arc::clone(endpoint),
            number,
            tables: Arc::clone(&tables),
            own: rules.own,
            learn: rules.learn,
            settings: decap::Settings {
                strict: rules.strict,
                overlay_mtu: rules.underlay_mtu.saturating_sub(overhead),
                clamp: rules.clamp,
            },
        })
    };
    let route = |peer: &Peer| PeerRoute {
        endpoint: Arc::clone(endpoint),
        peer: peer.clone(),
        address: peer.address.into(),
        underlay_mtu: rules.underlay_mtu,
    };
    let remote = |peer: &Peer| {
        Arc::new(Remote {
            route: route(peer),
            tables: Arc::clone(&tables),
            clamp: rules.clamp,
            class: Class::marked(rules.dscp),
            inherit_ttl: rules.inherit_ttl,
        })
    };
    let collector = |(peer, vni): &(Peer, Vni)| {
        let copies = Copies { to: peer.address, header: vni.header(), class: Class::unmarked(rules.dscp) };
        Arc::new(Collector { route: route(peer), copies })
    };
    Devices {
        inlets: (0..endpoint.inlets()).map(inlet).collect(),
        remotes: peers.iter().map(remote).collect(),
        collectors: collectors.iter().map(collector).collect(),
    }
}

/// A receiving device.
#[derive(Debug)]
pub struct Inlet {
    endpoint: Arc<Vtep>,
    number: usize,
    tables: Arc<Tables>,
    own: PortId,
    learn: bool,
    settings: decap::Settings,
}

impl Inlet {
    /// Processes the message that was received in the batch's next buffer.
    fn take(&self, received: &Received, batch: &mut Batch, refuse: &mut Refuse<'_>) {
        let &Received { source, ecn, len, stride } = received;
        let peer = self.tables.peer(source.ip());
        let message = Message { peer: peer.unwrap_or(self.own), ecn, len, stride };
        if peer.is_some() {
            decapsulate(&self.tables, &self.settings, &message, batch, refuse);
            return;
        }
        if let Some(collector) = self.tables.collector(source.ip()) {
            refuse_all(&Message { peer: collector, ..message }, DropReason::MirrorOnly, batch, refuse);
            return;
        }
        self.endpoint.strangers.note(source.ip());
        let reason = if self.learn { DropReason::VxlanPeerNew } else { DropReason::VxlanPeerUnknown };
        refuse_all(&message, reason, batch, refuse);
    }
}

impl Device for Inlet {
    fn recv(&self, _: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let mut bytes = 0;
        // Bounds messages as well as frames: those of unknown senders yield none.
        for _ in 0..max {
            if batch.len() >= max || bytes >= GULP {
                break;
            }
            let Some(buffer) = batch.spare().next() else { break };
            let received = match self.endpoint.recv(self.number, &mut buffer[MESSAGE..]) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            bytes += received.len;
            self.take(&received, batch, refuse);
        }
        Ok(true)
    }

    /// The endpoint's own port sends nothing: it carries no network.
    fn send(&self, frames: &Transmit<'_>, _: &mut Scratch) {
        for out in frames.outs {
            frames.count(*out, Err(DropReason::DevTxError));
        }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.endpoint.readiness(self.number))
    }

    fn overflow(&self) -> u64 {
        let Lost { overflow, damaged } = self.endpoint.lost();
        overflow + damaged
    }
}

/// The route to a peer.
#[derive(Debug)]
struct PeerRoute {
    endpoint: Arc<Vtep>,
    peer: Peer,
    address: SockAddr,
    underlay_mtu: u16,
}

impl PeerRoute {
    /// The known overlay MTU to the peer: length of the longest inner packet that is not fragmented, in
    /// bytes.
    fn overlay_mtu(&self) -> u16 {
        self.peer.path.mtu().min(self.underlay_mtu).saturating_sub(self.peer.overhead())
    }

    /// Updates the path MTU if `result` says that a packet was too long, and returns whether it does.
    fn learn_from(&self, result: &io::Result<()>) -> bool {
        let too_long = result.as_ref().is_err_and(|error| DeviceError::of(error) == DeviceError::TooLong);
        if too_long {
            self.measure();
        }
        too_long
    }

    #[cold]
    fn measure(&self) {
        if let Ok(mtu) = self.endpoint.path_mtu(self.peer.address) {
            self.peer.path.set_mtu(mtu);
        }
    }
}

/// The sending device of one peer.
#[derive(Debug)]
pub struct Remote {
    route: PeerRoute,
    tables: Arc<Tables>,
    clamp: bool,
    class: Class,
    inherit_ttl: bool,
}

impl Device for Remote {
    /// A peer's own device receives nothing: inlets set the ingress port of their frames.
    fn recv(&self, _: PortId, _: &mut Batch, _: usize, _: &mut Refuse<'_>) -> io::Result<bool> {
        Ok(false)
    }

    fn longest(&self) -> Option<usize> {
        Some(usize::from(self.route.overlay_mtu()) + ETHERNET_HEADER)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let PeerRoute { endpoint, address, .. } = &self.route;
        let settings = encap::Settings {
            overlay_mtu: self.route.overlay_mtu(),
            clamp: self.clamp,
            class: self.class,
            datagrams: endpoint.datagrams(),
            sources: SOURCES,
            inherit_ttl: self.inherit_ttl,
            whole_headers: true,
        };
        encapsulate(
            |network, from| self.tables.carriage(network, from),
            &settings,
            frames,
            scratch,
            &mut |train| {
                if train.fragment {
                    return endpoint.send_in_fragments(address, train);
                }
                let result = endpoint.send(address, train);
                self.route.learn_from(&result);
                result
            },
        );
    }
}

/// The sending device of one collector.
#[derive(Debug)]
pub struct Collector {
    route: PeerRoute,
    copies: Copies,
}

impl Collector {
    /// The mirror's port.
    pub fn port(&self) -> PortId {
        self.route.peer.port
    }
}

impl Device for Collector {
    /// Receives nothing.
    fn recv(&self, _: PortId, _: &mut Batch, _: usize, _: &mut Refuse<'_>) -> io::Result<bool> {
        Ok(false)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        let PeerRoute { endpoint, address, .. } = &self.route;
        self.copies.encapsulate(endpoint.datagrams(), frames, scratch, &mut |train| {
            let whole = HEADER + ETHERNET_HEADER + usize::from(self.route.overlay_mtu());
            if train.size <= whole {
                let result = endpoint.send_copies(address, train);
                if !self.route.learn_from(&result) {
                    return result;
                }
            }
            endpoint.send_copies_in_fragments(address, train)
        });
    }
}
