//! The decision: what becomes of each frame of a batch.
//!
//! parse -> classify -> learn -> look up -> reach. Two passes over a batch: the first reads headers and brings the
//! table's cache lines near, the second decides in arrival order, so that a frame finds what the one before it
//! taught. Nothing here does I/O, reads a clock or allocates.

use crate::{
    addr::Timestamp,
    batch::{BATCH, Batch, Received},
    counters::PortCounters,
    drops::DropReason,
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
    headers: Vec<Result<(Frame, Classified), DropReason>>,
}

impl Forwarder {
    /// A forwarder for `worker`.
    pub fn new(worker: usize) -> Self {
        Self { worker, storms: Vec::new(), headers: Vec::with_capacity(BATCH) }
    }

    /// Makes room for ports below `ports`, so that forwarding never allocates.
    pub fn reserve(&mut self, ports: usize) {
        self.storms.resize_with(ports.max(self.storms.len()), Storm::default);
    }

    /// Decides every frame of `batch` and pushes what leaves to `egress`; counts each frame's fate on its ingress port.
    pub fn forward(&mut self, now: Timestamp, plan: &Plan, batch: &Batch, egress: &mut Egress) {
        let Self { worker, storms, headers } = self;
        read_headers(plan, batch, headers);
        for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
            let Some(port) = plan.port(rx.ingress) else { continue };
            let counters = port.counters(*worker);
            count_received(counters, rx, batch.bytes(slot).len());
            let storm = &mut storms[rx.ingress.index()];
            let tag = header.map_or(None, |(_, classified)| classified.tag);
            match header.and_then(|(frame, classified)| decide(now, plan, rx, frame, classified, storm)) {
                Ok(Action::Send(member)) => {
                    counters.unicast.add(1);
                    egress.push(member.port, slot, tag_op(tag, member));
                }
                Ok(Action::Flood(reach)) => {
                    counters.flooded.add(1);
                    for member in reach.members() {
                        egress.push(member.port, slot, tag_op(tag, member));
                    }
                }
                Err(reason) => counters.drop(reason),
            }
        }
    }
}

/// The first pass: headers are read, and what the second pass will look up is brought near.
fn read_headers(plan: &Plan, batch: &Batch, headers: &mut Vec<Result<(Frame, Classified), DropReason>>) {
    headers.clear();
    let mut near = 0;
    for (slot, rx) in batch.frames().iter().enumerate() {
        let header = Frame::parse(batch.bytes(slot)).and_then(|frame| {
            let classified = plan.topology.classify(rx.ingress, rx.network, &frame)?;
            if batch.len() > 1 {
                near ^= plan.fdb.touch(classified.network, frame.src);
                near ^= plan.fdb.touch(classified.network, frame.dst);
            }
            Ok((frame, classified))
        });
        headers.push(header);
    }
    std::hint::black_box(near);
}

/// The fate of one frame, and what it teaches.
fn decide<'a>(
    now: Timestamp,
    plan: &'a Plan,
    rx: &Received,
    frame: Frame,
    Classified { network, .. }: Classified,
    storm: &mut Storm,
) -> Result<Action<'a>, DropReason> {
    let Plan { topology, fdb, .. } = plan;
    if frame.dst.reserved_group().is_some_and(|last| !topology.forwards_group(last)) {
        return Err(DropReason::LinkLocalGroup);
    }
    fdb.learn(network, frame.src, rx.ingress, topology.mac_limit(rx.ingress), now);
    let reach = topology.reach(network, rx.ingress);
    let flood = if frame.dst.is_broadcast() {
        Flood::Broadcast
    } else if frame.dst.is_group() {
        Flood::Multicast
    } else if let Some(port) = fdb.lookup(network, frame.dst, now) {
        return reach.member(port).map(Action::Send);
    } else {
        Flood::Unknown
    };
    storm.allow(flood, topology.storm(rx.ingress), now)?;
    reach.members().next().ok_or(DropReason::NoReceiver)?;
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
