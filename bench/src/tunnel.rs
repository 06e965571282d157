//! The tunnel in memory: frames to datagrams and back, without sockets.
//!
//! One crossing is the work of both ends for a frame: flow, segmentation with checksums, header, train; then one copy
//! in place of the wire; then header, network, verification, coalescing. Gigabits are those of the frames.

use std::{
    fmt,
    hint::black_box,
    io,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use vswitch::{
    addr::{MacAddr, NetworkId, PortId, Timestamp},
    batch::{BATCH, Batch, HEADROOM},
    checksum,
    counters::PortCounters,
    device::{Device, Refuse},
    engine::Engine,
    fdb::{Fdb, Settings},
    offload::{Offload, VNET_HEADER},
    plan::{Plan, Port, Receiver},
    topology::{Network, PortMode, PortRules, Topology},
    transmit::{Out, Scratch, TagOp, Transmit},
};
use vswitch_vxlan::{
    decap::{self, MESSAGE, Message, decapsulate},
    ecn::Ecn,
    encap::{self, Class, Dscp, MAX_DATAGRAMS, Train, encapsulate},
    header::{HEADER, Vni},
    tables::Tables,
};

use crate::memory::{Clock, Figures, Lazy};

const OUT: encap::Settings = encap::Settings {
    overlay_mtu: 1450,
    clamp: false,
    class: Class::marked(Dscp::Fixed(0)),
    datagrams: MAX_DATAGRAMS,
    sources: 16,
    inherit_ttl: false,
    whole_headers: true,
};
const BACK: decap::Settings = decap::Settings { strict: false, overlay_mtu: 1450, clamp: false };

/// Networks of the large mesh.
const NETWORKS: u16 = 100;

/// Measures all figures of the tunnel.
pub fn run(figures: &mut Figures<'_>) {
    let clock = figures.clock();
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        for (name, flows) in [("one flow", 1), ("64 flows", 64)] {
            let mut bench = Lazy::new(move || Crossing::of(BATCH, flows, |flow| small(v6, flow)));
            figures.take(format!("tunnel: small frames, {family}, {name}"), "Mframe/s", &mut || {
                bench.get().frames(&clock)
            });
        }
        let mut bench = Lazy::new(move || Crossing::of(BATCH, 64, |flow| full(v6, flow)));
        figures.take(format!("tunnel: frames of 1464 bytes, {family}"), "Mframe/s", &mut || {
            bench.get().frames(&clock)
        });
        for (name, flows) in [("one flow", 1), ("4 flows", 4)] {
            // The number that a turn of a TAP receives.
            let mut bench = Lazy::new(move || Crossing::of(4, flows, |flow| super_frame(v6, flow)));
            // A figure counts in millions: of kilobits for gigabits.
            figures.take(format!("tunnel: super-frames, {family}, {name}"), "Gbit/s", &mut || {
                bench.get().bytes(&clock) * 8.0 / 1e3
            });
        }
    }
    for peers in [10, 1000] {
        let mut mesh = Lazy::new(move || Mesh::new(peers, 1 << 20));
        figures.take(format!("tunnel: flooded to {peers} peers, a turn of 1"), "Mcopy/s", &mut || {
            mesh.get().flood(&clock, 1) * f64::from(peers)
        });
        figures.take(format!("tunnel: flooded to {peers} peers, a turn of 64"), "Mcopy/s", &mut || {
            mesh.get().flood(&clock, BATCH) * f64::from(peers)
        });
        figures.take(format!("tunnel: learning from {peers} peers"), "Mframe/s", &mut || {
            mesh.get().learn(&clock)
        });
        // All are kept, because freed memory would be reused by the next.
        let mut kept = Vec::new();
        figures.take(format!("tunnel: memory of {peers} peers"), "MB", &mut || {
            let before = resident();
            kept.push(Mesh::new(peers, 1 << 10));
            resident() - before
        });
    }
}

/// A frame with its offload header.
type Item = (Offload, Vec<u8>);

/// 60 bytes of UDP over IPv4, 80 over IPv6.
fn small(v6: bool, flow: u16) -> Item {
    (Offload::NONE, packet(v6, 17, flow, 18))
}

/// The longest that fits the tunnel.
fn full(v6: bool, flow: u16) -> Item {
    (Offload::NONE, packet(v6, 17, flow, if v6 { 1402 } else { 1422 }))
}

/// 64 KB of TCP.
fn super_frame(v6: bool, flow: u16) -> Item {
    let bytes = packet(v6, 6, flow, 65_160);
    let (mss, start) = if v6 { (1378_u16, 54_u16) } else { (1398, 34) };
    let mut header: [u8; VNET_HEADER] = [1, if v6 { 4 } else { 1 }, 0, 0, 0, 0, 0, 0, 16, 0];
    header[4..6].copy_from_slice(&mss.to_le_bytes());
    header[6..8].copy_from_slice(&start.to_le_bytes());
    (Offload::parse(&header, &bytes).expect("its own"), bytes)
}

/// A packet of `flow` from station 1 to station 2; the checksum of TCP is left partial.
fn packet(v6: bool, protocol: u8, flow: u16, payload: usize) -> Vec<u8> {
    let mut transport = flow.wrapping_add(40_000).to_be_bytes().to_vec();
    transport.extend([0x13, 0x89]);
    if protocol == 17 {
        transport.extend(u16::try_from(8 + payload).expect("fits").to_be_bytes());
        transport.extend([0, 0]);
    } else {
        transport.extend([0, 0, 0, 1, 0, 0, 0, 7, 0x80, 0x10, 2, 0, 0, 0, 0, 0]);
        transport.extend([1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
    }
    transport.extend((0..=255).cycle().take(payload));
    let length = u16::try_from(transport.len()).expect("fits");
    let mut frame = [mac(2).0, mac(1).0].concat();
    if v6 {
        let [high, low] = length.to_be_bytes();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, high, low, protocol, 64]);
        frame.extend([0xfd; 32]);
    } else {
        let [high, low] = (20 + length).to_be_bytes();
        let header = [0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
        frame.extend([8, 0]);
        frame.extend(header);
        let sum = checksum::Sum::of(&header).checksum();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let (start, addresses) = if v6 { (54, 22..54) } else { (34, 26..34) };
    frame.extend(transport);
    let sum = checksum::Sum::pseudo(&frame[addresses], protocol, usize::from(length));
    let field = start + if protocol == 17 { 6 } else { 16 };
    frame[field..field + 2].copy_from_slice(&sum.folded().to_be_bytes());
    if protocol == 17 {
        assert!(checksum::complete(&mut frame, start, 6));
    }
    frame
}

fn mac(id: u32) -> MacAddr {
    let [a, b, c, d] = id.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

/// Frames of one turn that cross a tunnel repeatedly.
struct Crossing {
    tables: Tables,
    sent: Batch,
    outs: Vec<Out>,
    counters: PortCounters,
    scratch: Scratch,
    received: Batch,
    bytes: usize,
}

impl Crossing {
    fn of(count: usize, flows: u16, item: impl Fn(u16) -> Item) -> Self {
        let (mut sent, mut outs, mut total) = (Batch::new(), Vec::new(), 0);
        for (slot, flow) in (0..).zip((0..flows).cycle().take(count)) {
            let (offload, bytes) = item(flow);
            total += bytes.len();
            assert!(sent.push_copy(PortId(0), None, offload, &bytes));
            outs.push(Out::new(slot, NetworkId(0), TagOp::Keep));
        }
        let tables = Tables::new([], [(Vni::try_from(4096).expect("valid"), NetworkId(0))]);
        let (counters, scratch) = (PortCounters::default(), Scratch::new());
        Self { tables, sent, outs, counters, scratch, received: Batch::new(), bytes: total }
    }

    /// Frames per second.
    fn frames(&mut self, clock: &Clock) -> f64 {
        let frames = self.outs.len();
        clock.rate(|| (frames, self.cross()))
    }

    /// Bytes of frames per second.
    fn bytes(&mut self, clock: &Clock) -> f64 {
        let bytes = self.bytes;
        clock.rate(|| (bytes, self.cross()))
    }

    fn cross(&mut self) -> std::time::Duration {
        let Self { tables, sent, outs, counters, scratch, received, .. } = self;
        let frames =
            Transmit { port: PortId(1), batch: sent, outs, max_frame: 70_000, counters, witness: None };
        let begin = Instant::now();
        received.clear();
        encapsulate(|network, from| tables.carriage(network, from), &OUT, &frames, scratch, &mut |train| {
            if received.len() >= BATCH {
                received.clear();
            }
            let message = carry(train, received);
            decapsulate(tables, &BACK, &message, received, &mut |_, reason, _| panic!("{reason}"));
            Ok(())
        });
        black_box(received.frames());
        begin.elapsed()
    }
}

/// Stands for the wire: one copy into the next buffer of the receiving end.
fn carry(train: &Train<'_>, received: &mut Batch) -> Message {
    let buffer = received.spare().next().expect("there is room for a train");
    let mut end = MESSAGE;
    for part in train.parts {
        buffer[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    Message { peer: PortId(1), ecn: Ecn::NotEct, len: end - MESSAGE, stride: train.size }
}

/// A switch with a station's port, many peers, and [`NETWORKS`], all of which extend to every peer.
struct Mesh {
    engine: Engine,
    stations: Receiver,
    endpoint: Receiver,
    flood: Arc<Flood>,
    inlet: Arc<Inlet>,
}

impl Mesh {
    /// `stations` is the capacity of the table.
    fn new(peers: u16, stations: u32) -> Self {
        let ids = (0..NETWORKS).map(NetworkId);
        let networks: Vec<_> = ids.clone().map(Network::new).collect();
        let tunnel = |port| PortRules {
            mode: PortMode::Tunnel(ids.clone().collect()),
            horizon: NonZeroU16::new(1),
            ..PortRules::access(PortId(port), NetworkId(0))
        };
        let access = PortRules::access(PortId(0), NetworkId(0));
        let rules: Vec<_> = [access].into_iter().chain((1..=peers).map(tunnel)).collect();
        let topology = Topology::build(&networks, &rules, 0).expect("it is consistent");
        let address = |peer: u16| {
            let [high, low] = peer.to_be_bytes();
            IpAddr::from(Ipv4Addr::new(10, 8, high, low))
        };
        let tables = Arc::new(Tables::new(
            (1..=peers).map(|peer| (address(peer), PortId(peer))),
            (0..NETWORKS).map(|id| (Vni::try_from(4096 + u32::from(id)).expect("valid"), NetworkId(id))),
        ));

        let fdb = Arc::new(Fdb::new(Settings { limit: stations, seed: 1, ..Settings::default() }));
        fdb.learn(fdb.station(NetworkId(0), mac(2)), PortId(0), None, Timestamp::default());
        let flood = Arc::new(Flood::default());
        let remote: Arc<dyn Device> = Arc::new(Remote { tables: Arc::clone(&tables) });
        let inlet =
            Arc::new(Inlet { tables, addresses: (1..=peers).map(address).collect(), next: Mutex::new(0) });
        let mut plan = Plan { topology, ..Plan::empty(fdb) };
        for port in 0..=peers {
            let device = if port == 0 { Arc::clone(&flood) as _ } else { Arc::clone(&remote) };
            plan.ports.push(Some(Arc::new(Port::new(PortId(port), device, PortCounters::of_workers(1)))));
        }
        let stations = Receiver { key: 0, device: Arc::clone(&flood) as _, port: PortId(0), worker: 0 };
        let endpoint = Receiver { key: 1, device: Arc::clone(&inlet) as _, port: PortId(1), worker: 0 };
        Self { engine: Engine::new(0, Arc::new(plan)), stations, endpoint, flood, inlet }
    }

    /// Broadcast frames per second, each of which leaves for every peer.
    fn flood(&mut self, clock: &Clock, size: usize) -> f64 {
        *self.flood.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
        let Self { engine, stations, .. } = self;
        clock.rate(|| turn(engine, stations, size))
    }

    /// Frames per second from alternating peers, each frame from an unknown station to a known one.
    fn learn(&mut self, clock: &Clock) -> f64 {
        *self.inlet.next.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        let Self { engine, endpoint, .. } = self;
        clock.rate(|| turn(engine, endpoint, BATCH))
    }
}

fn turn(engine: &mut Engine, receiver: &Receiver, frames: usize) -> (usize, std::time::Duration) {
    let begin = Instant::now();
    let turn = engine.turn(receiver, BATCH, Timestamp::default());
    assert!(turn.is_ok_and(|turn| turn.frames >= frames), "the source never ends");
    (frames, begin.elapsed())
}

/// A station that sends broadcasts and discards what it receives.
#[derive(Debug, Default)]
struct Flood {
    size: Mutex<usize>,
}

impl Device for Flood {
    fn recv(&self, port: PortId, batch: &mut Batch, _: usize, _: &mut Refuse<'_>) -> io::Result<bool> {
        let size = *self.size.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..size {
            let mut frame = [0; 60];
            frame[..6].fill(0xff);
            frame[6..12].copy_from_slice(&mac(2).0);
            frame[12..14].copy_from_slice(&[8, 6]);
            batch.push_copy(port, None, Offload::NONE, &frame);
        }
        Ok(true)
    }

    fn send(&self, frames: &Transmit<'_>, _: &mut Scratch) {
        for out in frames.outs {
            frames.count(*out, Ok(1));
        }
    }
}

/// A peer whose datagrams are discarded.
#[derive(Debug)]
struct Remote {
    tables: Arc<Tables>,
}

impl Device for Remote {
    fn recv(&self, _: PortId, _: &mut Batch, _: usize, _: &mut Refuse<'_>) -> io::Result<bool> {
        Ok(false)
    }

    fn send(&self, frames: &Transmit<'_>, scratch: &mut Scratch) {
        encapsulate(
            |network, from| self.tables.carriage(network, from),
            &OUT,
            frames,
            scratch,
            &mut |train| {
                black_box(train);
                Ok(())
            },
        );
    }
}

/// Receives single datagrams from the peers in turn.
struct Inlet {
    tables: Arc<Tables>,
    addresses: Vec<IpAddr>,
    next: Mutex<u32>,
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet").finish_non_exhaustive()
    }
}

impl Device for Inlet {
    fn recv(&self, _: PortId, batch: &mut Batch, max: usize, refuse: &mut Refuse<'_>) -> io::Result<bool> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while batch.len() < max {
            *next = next.wrapping_add(1);
            let mut datagram = [0; HEADER + 60];
            datagram[..HEADER].copy_from_slice(&[8, 0, 0, 0, 0, 0x10, 0, 0]);
            datagram[HEADER..HEADER + 6].copy_from_slice(&mac(2).0);
            datagram[HEADER + 6..HEADER + 12].copy_from_slice(&mac(3 + *next % 500_000).0);
            datagram[HEADER + 12..HEADER + 14].copy_from_slice(&[0x88, 0xb5]);
            let buffer = batch.spare().next().expect("there is room for a train");
            const _: () = assert!(MESSAGE + HEADER == HEADROOM);
            buffer[MESSAGE..MESSAGE + datagram.len()].copy_from_slice(&datagram);
            let address = self.addresses[*next as usize % self.addresses.len()];
            let peer = self.tables.peer(address).expect("it is a peer");
            let message = Message { peer, ecn: Ecn::NotEct, len: datagram.len(), stride: datagram.len() };
            decapsulate(&self.tables, &BACK, &message, batch, refuse);
        }
        Ok(true)
    }

    fn send(&self, _: &Transmit<'_>, _: &mut Scratch) {}
}

/// Memory of the process in bytes.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
    pages.unwrap_or(0.0) * 4096.0
}
