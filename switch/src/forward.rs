//! The decision: what becomes of each frame of a batch.
//!
//! parse -> classify -> learn -> look up -> reach. Two passes over a batch: the first reads headers and brings the
//! table's cache lines near, the second decides in arrival order, so that a frame finds what the one before it
//! taught. Nothing here does I/O, reads a clock or allocates.

use crate::{
    addr::{NetworkId, Timestamp},
    batch::{Batch, CAPACITY, Received},
    counters::PortCounters,
    drops::DropReason,
    fdb::{Learned, Place},
    frame::{Frame, Tag},
    plan::Plan,
    storm::{Flood, Storm},
    topology::{Classified, Member, Reach},
    transmit::{Egress, TagOp},
};

/// The fate of a frame.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Leaves by the port its destination is behind.
    Send(&'a Member),
    /// Leaves by every port it may reach.
    Flood(Reach<'a>),
}

/// What one worker needs to decide: the limits of the ports it receives on, and room for one batch's headers.
#[derive(Debug)]
pub struct Forwarder {
    worker: usize,
    /// By ingress port.
    storms: Vec<Storm>,
    headers: Vec<Result<Header, DropReason>>,
}

/// What the first pass learns of a frame.
#[derive(Clone, Copy, Debug)]
struct Header {
    network: NetworkId,
    /// The switch's own tag; see [`Classified::tag`].
    tag: Option<Tag>,
    /// Where its source stands in the table.
    from: Place,
    to: Destination,
}

/// Whom a frame is for.
#[derive(Clone, Copy, Debug)]
enum Destination {
    /// One station, which stands here in the table if it does.
    Station(Place),
    /// Several: flooded without asking the table.
    Group(Flood),
}

impl Forwarder {
    /// A forwarder for `worker`.
    pub fn new(worker: usize) -> Self {
        Self { worker, storms: Vec::new(), headers: Vec::with_capacity(CAPACITY) }
    }

    /// Makes room for ports below `ports`, so that forwarding never allocates.
    pub fn reserve(&mut self, ports: usize) {
        self.storms.resize_with(ports.max(self.storms.len()), Storm::default);
    }

    /// Decides every frame of `batch` and pushes what leaves to `egress`; counts each frame's fate on its ingress port.
    pub fn forward(&mut self, now: Timestamp, plan: &Plan, batch: &Batch, egress: &mut Egress) {
        let Self { worker, storms, headers } = self;
        read_headers(plan, *worker, batch, headers);
        for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
            let Some(port) = plan.port(rx.ingress) else { continue };
            let counters = port.counters(*worker);
            count_received(counters, rx, batch.bytes(slot).len());
            let storm = &mut storms[rx.ingress.index()];
            let header = match header {
                Ok(header) => header,
                Err(reason) => {
                    counters.drop(*reason);
                    continue;
                }
            };
            let mut leave =
                |member: &Member| egress.push(member.port, slot, header.network, tag_op(header.tag, member));
            match decide(now, plan, rx, header, storm) {
                Ok(Action::Send(member)) => {
                    counters.unicast.add(1);
                    leave(member);
                }
                Ok(Action::Flood(reach)) => {
                    counters.flooded.add(1);
                    count_flooded(plan, header.network, *worker);
                    reach.members().for_each(leave);
                }
                Err(reason) => {
                    counters.drop(reason);
                    count_dropped(plan, header.network, *worker);
                }
            }
        }
    }
}

/// The first pass: headers are read, and what the second pass will look up is brought near.
fn read_headers(plan: &Plan, worker: usize, batch: &Batch, headers: &mut Vec<Result<Header, DropReason>>) {
    headers.clear();
    let mut run = Run::of(NetworkId(0));
    for (slot, rx) in batch.frames().iter().enumerate() {
        let bytes = batch.bytes(slot);
        let header = read_header(plan, rx, bytes);
        if let Ok(Header { network, from, to, .. }) = &header {
            if run.network != *network {
                run.count(plan, worker);
                run = Run::of(*network);
            }
            run.frames += 1;
            run.bytes += bytes.len() as u64;
            run.super_frames += u64::from(rx.offload.gso.is_some());
            plan.fdb.prefetch(*from);
            if let Destination::Station(to) = to {
                plan.fdb.prefetch(*to);
            }
        }
        headers.push(header);
    }
    run.count(plan, worker);
}

// Calls, so that they weigh nothing on the ordinary frame's way.
#[inline(never)]
fn count_flooded(plan: &Plan, network: NetworkId, worker: usize) {
    plan.network(network, worker).inspect(|network| network.flooded.add(1));
}

#[cold]
fn count_dropped(plan: &Plan, network: NetworkId, worker: usize) {
    plan.network(network, worker).inspect(|network| network.dropped.add(1));
}

/// Frames of one network that follow each other: its counters are written once for all of them.
struct Run {
    network: NetworkId,
    frames: u64,
    bytes: u64,
    super_frames: u64,
}

impl Run {
    fn of(network: NetworkId) -> Self {
        Self { network, frames: 0, bytes: 0, super_frames: 0 }
    }

    fn count(&self, plan: &Plan, worker: usize) {
        let Some(counters) = plan.network(self.network, worker) else { return };
        counters.frames.add(self.frames);
        counters.bytes.add(self.bytes);
        counters.super_frames.add(self.super_frames);
    }
}

#[inline]
fn read_header(plan: &Plan, rx: &Received, bytes: &[u8]) -> Result<Header, DropReason> {
    let frame = Frame::parse(bytes)?;
    let Classified { network, tag } = plan.topology.classify(rx.ingress, rx.network, &frame)?;
    let to = match frame.dst {
        dst if !dst.is_group() => Destination::Station(plan.fdb.place(network, dst)),
        dst if dst.is_broadcast() => Destination::Group(Flood::Broadcast),
        dst if dst.reserved_group().is_some_and(|last| !plan.topology.forwards_group(last)) => {
            return Err(DropReason::LinkLocalGroup);
        }
        _ => Destination::Group(Flood::Multicast),
    };
    Ok(Header { network, tag, from: plan.fdb.place(network, frame.src), to })
}

/// The fate of one frame, and what it teaches.
fn decide<'a>(
    now: Timestamp,
    plan: &'a Plan,
    rx: &Received,
    &Header { network, from, to, .. }: &Header,
    storm: &mut Storm,
) -> Result<Action<'a>, DropReason> {
    let Plan { topology, fdb, .. } = plan;
    let learned = fdb.learn_at(from, rx.ingress, topology.mac_limit(rx.ingress), now);
    if learned == Learned::Pinned && topology.is_tunnel(rx.ingress) {
        return Err(DropReason::LocalMac);
    }
    let reach = topology.reach(network, rx.ingress);
    let flood = match to {
        Destination::Group(flood) => flood,
        Destination::Station(place) => match fdb.lookup_at(place, now) {
            Some(port) => return reach.member(port).map(Action::Send),
            None => Flood::Unknown,
        },
    };
    reach.members().next().ok_or(DropReason::NoReceiver)?;
    storm.allow(flood, topology.storm(rx.ingress), now)?;
    Ok(Action::Flood(reach))
}

/// What happens to the switch's own tag on the way out by `member`. Priority is kept.
fn tag_op(carried: Option<Tag>, member: &Member) -> TagOp {
    match (carried, member.vlan) {
        (None, None) => TagOp::Keep,
        (Some(_), None) => TagOp::Pop,
        (None, Some(vlan)) => TagOp::Push(Tag::new(vlan)),
        (Some(tag), Some(vlan)) if tag.vlan() == Some(vlan) => TagOp::Keep,
        (Some(tag), Some(vlan)) => TagOp::Replace(tag.with_vlan(vlan)),
    }
}

fn count_received(counters: &PortCounters, rx: &Received, len: usize) {
    counters.rx_frames.add(1);
    counters.rx_bytes.add(len as u64);
    if rx.offload.gso.is_some() {
        counters.rx_super.add(1);
    }
}
