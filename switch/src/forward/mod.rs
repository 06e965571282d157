//! Forwarding: decides every frame of a batch.
//!
//! ```text
//! read      parse, classify, prefetch the table's cache lines        every frame of the batch
//! guard     judge what the port's station claims to be              every frame of the batch, at ports with a guard
//! police    enforce ingress rate limits                             every frame of the batch
//! decide    learn -> look up -> reach -> egress.push                frame by frame, in arrival order
//! answer    instead of flooding, what asks for a known neighbour    in networks that have such
//! serve     translate, choose a backend                             frames to the address of services
//! spread    let a flood to many ports wait                          in networks that have so many
//! ```
//! Two passes over a batch: the first reads headers and prefetches the table's cache lines, the second
//! decides in arrival order, so that each frame sees what the previous ones taught. Nothing here does I/O,
//! reads a clock or allocates.

mod answer;
mod decide;
mod read;
mod serve;
mod spread;
mod suppose;

pub(crate) use answer::{Answered, Reply};
pub use decide::{Action, Decision};
pub(crate) use suppose::suppose;

use answer::or_answer;
use decide::{Learn, Notes, Observe, decide};
use read::{Header, Refused, count_networks, guard, police_ingress, read_headers};
use serve::{Outlets, is_for_service, turn_answers};

use crate::{
    addr::{NetworkId, PortId, Timestamp},
    balance::{Served, Translation},
    batch::{Batch, CAPACITY},
    counters::PortCounters,
    drops::DropReason,
    fdb::Learned,
    plan::{Pass, Plan},
    spread::Backlog,
    storm::{Flood, FloodMeters},
    topology::{Member, Reach},
    transmit::{Egress, Out, TagOp},
    wire::frame::Tag,
};

/// Forwarding state of one worker: the flood limits of its ports, and room for the headers of one batch.
#[derive(Debug)]
pub struct Forwarder {
    worker: usize,
    /// By ingress port.
    storms: Vec<FloodMeters>,
    headers: Vec<Result<Header, Refused>>,
    /// Frames of the last batch that are to be answered.
    answered: Vec<Answered>,
    /// Translations of the last batch's frames to services.
    heads: Vec<Translation>,
    /// Floods that are sent between turns.
    backlog: Backlog,
}

impl Forwarder {
    /// A forwarder for `worker`.
    pub fn new(worker: usize) -> Self {
        Self {
            worker,
            storms: Vec::new(),
            headers: Vec::with_capacity(CAPACITY),
            answered: Vec::with_capacity(CAPACITY),
            heads: Vec::with_capacity(CAPACITY),
            backlog: Backlog::new(),
        }
    }

    /// Makes room for ports below `ports`, so that forwarding never allocates.
    pub fn reserve(&mut self, ports: usize) {
        self.storms.resize_with(ports.max(self.storms.len()), FloodMeters::default);
        self.backlog.reserve(ports);
    }

    /// State of the flood limits of `port`.
    pub fn storm(&self, port: PortId) -> FloodMeters {
        self.storms.get(port.index()).copied().unwrap_or_default()
    }

    /// The translations of the last batch's frames to services, to be exchanged for the heads of these while they are sent.
    pub(crate) fn heads(&mut self) -> &mut [Translation] {
        &mut self.heads
    }

    /// The frames of the last batch that are to be answered, which are still in it.
    pub(crate) fn answered(&mut self) -> impl Iterator<Item = Answered> {
        self.answered.drain(..)
    }

    /// The floods that wait.
    pub(crate) fn backlog(&mut self) -> &mut Backlog {
        &mut self.backlog
    }

    /// Decides every frame of `batch` and pushes outgoing frames to `egress`; counts each frame's fate on its
    /// ingress port.
    pub fn forward(&mut self, now: Timestamp, plan: &Plan, batch: &Batch, egress: &mut Egress) {
        self.forward_as(now, plan, batch, egress, &mut ());
    }

    /// The same, passing the decision about the frame in each slot to `watch`.
    pub(crate) fn forward_watched(
        &mut self,
        now: Timestamp,
        plan: &Plan,
        batch: &Batch,
        egress: &mut Egress,
        watch: impl FnMut(usize, &Decision<'_>),
    ) {
        self.forward_as(now, plan, batch, egress, &mut Watched { notes: Notes::default(), watch });
    }

    fn forward_as(
        &mut self,
        now: Timestamp,
        plan: &Plan,
        batch: &Batch,
        egress: &mut Egress,
        observe: &mut impl Observe,
    ) {
        let Self { worker, storms, headers, answered, heads, backlog } = self;
        answered.clear();
        heads.clear();
        let pass = Pass { now, plan, worker: *worker };
        read_headers(plan, batch, headers);
        if !plan.networks.is_empty() {
            count_networks(&pass, batch.frames(), headers);
        }
        if let Some(first) = batch.frames().first() {
            // A batch comes from one port, or from all tunnels, which have no guard.
            if let Some(guarded) = plan.topology.guarded(first.ingress) {
                guard(guarded, batch, headers);
            }
            if let Some(client) = plan.balance.turning(first.ingress) {
                turn_answers(client, &pass, batch, headers, heads);
            }
            if plan.topology.limits_batch(first.ingress) {
                police_ingress(&pass, batch, headers);
            }
        }
        for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
            let Some(port) = plan.port(rx.ingress) else { continue };
            let counters = pass.counters(port);
            counters.rx_frames.add(1);
            counters.rx_bytes.add(rx.frame_len() as u64);
            if rx.offload.gso.is_some() {
                count_super(&pass, counters, header);
            }
            let storm = &mut storms[rx.ingress.index()];
            let header = match header {
                Ok(header) => header,
                Err(Refused { reason, network }) => {
                    counters.drop(*reason);
                    observe.decided(slot, *network, Err(*reason));
                    network.inspect(|network| count_dropped(&pass, *network));
                    continue;
                }
            };
            let fate = decide(pass, rx, header, &mut Learn(storm), observe);
            let fate = or_answer(fate, pass, batch, slot, header);
            if is_for_service(&fate, batch, slot) {
                let mut outlets = Outlets { egress, heads, answered };
                outlets.forward(pass, batch, (slot, header), &mut Learn(storm), observe);
                continue;
            }
            observe.decided(slot, Some(header.network), fate);
            match fate {
                Ok(Action::Send(member)) => {
                    counters.unicast.add(1);
                    egress.push(member.port, out(slot, header, member));
                }
                Ok(Action::Flood(reach)) if observe.may_spread() && spread::is_for(header, &reach) => {
                    match spread::put(pass, (batch, slot, header), reach, backlog, egress) {
                        Ok(spread::Put::Waits) => {
                            counters.waiting.add(1);
                            pass.count_network(header.network, |network| network.waiting.add(1));
                        }
                        Ok(spread::Put::Left) => {
                            counters.flooded.add(1);
                            count_flooded(&pass, header.network);
                        }
                        Err(reason) => {
                            counters.drop(reason);
                            count_dropped(&pass, header.network);
                        }
                    }
                }
                Ok(Action::Flood(reach)) => {
                    counters.flooded.add(1);
                    count_flooded(&pass, header.network);
                    flood(egress, slot, header, reach);
                }
                Ok(Action::Answer(mac)) => {
                    counters.answered.add(1);
                    count_answered(&pass, header.network);
                    let reply = Reply::Neighbour { mac, is_tagged: header.tag.is_some() };
                    answered.push(Answered { slot, network: header.network, reply });
                }
                Err(reason) => {
                    counters.drop(reason);
                    count_dropped(&pass, header.network);
                }
            }
        }
    }
}

/// Passes each frame's decision to `watch`.
struct Watched<W> {
    notes: Notes,
    watch: W,
}

impl<W: FnMut(usize, &Decision<'_>)> Observe for Watched<W> {
    fn learned(&mut self, learned: Learned) {
        self.notes.learned(learned);
    }

    fn found(&mut self, port: PortId) {
        self.notes.found(port);
    }

    fn flood(&mut self, flood: Flood) {
        self.notes.flood(flood);
    }

    fn served(&mut self, served: Served) {
        self.notes.served(served);
    }

    fn may_spread(&self) -> bool {
        false
    }

    fn decided(&mut self, slot: usize, network: Option<NetworkId>, fate: Result<Action<'_>, DropReason>) {
        let notes = std::mem::take(&mut self.notes);
        (self.watch)(slot, &notes.decision(network, fate));
    }
}

/// The frame at `slot` as it leaves by the port of `member`.
#[inline]
fn out(slot: usize, header: &Header, member: &Member) -> Out {
    Out::new(slot, header.network, tag_op(header.tag, member))
}

/// Queues the frame for every port that it may reach: a call, so that the loop has all registers to itself.
///
/// Measured (2026-11-27, AMD EPYC, `vswitch-bench memory`): one loop for all senders, of which few are kept apart from some ports,
/// takes 10 % longer.
#[inline(never)]
fn flood(egress: &mut Egress, slot: usize, header: &Header, reach: Reach<'_>) {
    let Some(members) = reach.members_at_large() else { return flood_apart(egress, slot, header, reach) };
    for member in members {
        egress.push(member.port, out(slot, header, member).flooded());
    }
}

#[inline(never)]
fn flood_apart(egress: &mut Egress, slot: usize, header: &Header, reach: Reach<'_>) {
    for member in reach.members() {
        egress.push(member.port, out(slot, header, member).flooded());
    }
}

// Calls, to keep the common path short.
#[inline(never)]
fn count_super(pass: &Pass<'_>, counters: &PortCounters, header: &Result<Header, Refused>) {
    counters.rx_super.add(1);
    if let Ok(header) = header {
        pass.count_network(header.network, |network| network.super_frames.add(1));
    }
}

#[inline(never)]
fn count_flooded(pass: &Pass<'_>, network: NetworkId) {
    pass.count_network(network, |network| network.flooded.add(1));
}

#[cold]
fn count_answered(pass: &Pass<'_>, network: NetworkId) {
    pass.count_network(network, |network| network.answered.add(1));
}

#[cold]
fn count_dropped(pass: &Pass<'_>, network: NetworkId) {
    pass.count_network(network, |network| network.dropped.add(1));
}

/// The operation on the switch's tag at egress by `member`. Keeps the priority.
pub(crate) fn tag_op(carried: Option<Tag>, member: &Member) -> TagOp {
    match (carried, member.vlan) {
        (None, None) => TagOp::Keep,
        (Some(_), None) => TagOp::Pop,
        (None, Some(vlan)) => TagOp::Push(Tag::new(vlan)),
        (Some(tag), Some(vlan)) if tag.vlan() == Some(vlan) => TagOp::Keep,
        (Some(tag), Some(vlan)) => TagOp::Replace(tag.with_vlan(vlan)),
    }
}
