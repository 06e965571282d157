//! The decision: what becomes of each frame of a batch.
//!
//! parse -> classify -> learn -> look up -> reach. Two passes over a batch: the first reads headers and brings the
//! table's cache lines near, the second decides in arrival order, so that a frame finds what the one before it
//! taught. Nothing here does I/O, reads a clock or allocates.

use crate::{
    addr::{NetworkId, PortId, Timestamp},
    batch::{Batch, CAPACITY, Received},
    counters::PortCounters,
    drops::DropReason,
    fdb::{Learned, Place},
    limit::bits,
    plan::Plan,
    storm::{Flood, Storm},
    topology::{Classified, Member, Reach},
    transmit::{Egress, TagOp},
    wire::frame::{Frame, Tag},
};

/// The fate of a frame.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Leaves by the port its destination is behind.
    Send(&'a Member),
    /// Leaves by every port it may reach.
    Flood(Reach<'a>),
}

/// What was decided about a frame, step by step: what lies behind the step that ended it is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// The network it is in.
    pub network: Option<NetworkId>,
    /// What its source taught.
    pub learned: Option<Learned>,
    /// Behind which port the table knows its destination.
    pub found: Option<PortId>,
    /// What it is flooded for, if the table does not say where it goes.
    pub flood: Option<Flood>,
    /// What becomes of it.
    pub fate: Result<Action<'a>, DropReason>,
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

    /// How far the limits of what `port` may flood are used up.
    pub fn storm(&self, port: PortId) -> Storm {
        self.storms.get(port.index()).copied().unwrap_or_default()
    }

    /// Decides every frame of `batch` and pushes what leaves to `egress`; counts each frame's fate on its ingress port.
    pub fn forward(&mut self, now: Timestamp, plan: &Plan, batch: &Batch, egress: &mut Egress) {
        self.forward_as(now, plan, batch, egress, &mut Unwatched);
    }

    /// The same, telling `watch` what was decided about the frame in each slot.
    pub fn forward_watched(
        &mut self,
        now: Timestamp,
        plan: &Plan,
        batch: &Batch,
        egress: &mut Egress,
        watch: impl FnMut(usize, &Decision<'_>),
    ) {
        self.forward_as(now, plan, batch, egress, &mut Watched(watch));
    }

    fn forward_as(
        &mut self,
        now: Timestamp,
        plan: &Plan,
        batch: &Batch,
        egress: &mut Egress,
        judge: &mut impl Judge,
    ) {
        let Self { worker, storms, headers } = self;
        read_headers(plan, *worker, batch, headers);
        if batch.frames().first().is_some_and(|rx| plan.topology.limits_batch(rx.ingress)) {
            police(now, plan, *worker, batch, headers);
        }
        for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
            let Some(port) = plan.port(rx.ingress) else { continue };
            let counters = port.counters(*worker);
            counters.rx_frames.add(1);
            counters.rx_bytes.add(rx.octets() as u64);
            if rx.offload.gso.is_some() {
                count_super(plan, *worker, counters, header);
            }
            let storm = &mut storms[rx.ingress.index()];
            let header = match header {
                Ok(header) => header,
                Err(reason) => {
                    counters.drop(*reason);
                    judge.refused(slot, *reason);
                    continue;
                }
            };
            match judge.judge(slot, now, plan, rx.ingress, header, Act(storm)) {
                Ok(Action::Send(member)) => {
                    counters.unicast.add(1);
                    leave(egress, slot, header, member);
                }
                Ok(Action::Flood(reach)) => {
                    counters.flooded.add(1);
                    count_flooded(plan, header.network, *worker);
                    flood(egress, slot, header, reach);
                }
                Err(reason) => {
                    counters.drop(reason);
                    count_dropped(plan, header.network, *worker);
                }
            }
        }
    }
}

/// Lets the frame at `slot` leave by the port of `member`.
#[inline]
fn leave(egress: &mut Egress, slot: usize, header: &Header, member: &Member) {
    egress.push(member.port, slot, header.network, tag_op(header.tag, member));
}

/// Lets it leave by every port that it may reach: a call, so that the loop has all registers to itself.
#[inline(never)]
fn flood(egress: &mut Egress, slot: usize, header: &Header, reach: Reach<'_>) {
    reach.members().for_each(|member| leave(egress, slot, header, member));
}

/// The first pass: headers are read, and what the second pass will look up is brought near.
fn read_headers(plan: &Plan, worker: usize, batch: &Batch, headers: &mut Vec<Result<Header, DropReason>>) {
    headers.clear();
    headers.extend(batch.iter().map(|(rx, bytes)| {
        let header = read_header(plan, rx, bytes);
        if let Ok(Header { from, to, .. }) = &header {
            plan.fdb.prefetch(*from);
            if let Destination::Station(to) = to {
                plan.fdb.prefetch(*to);
            }
        }
        header
    }));
    if !plan.networks.is_empty() {
        count_networks(plan, worker, batch.frames(), headers);
    }
}

/// Counts the frames of each network and their octets. A pass of its own, for the others have no registers to spare.
fn count_networks(plan: &Plan, worker: usize, frames: &[Received], headers: &[Result<Header, DropReason>]) {
    let mut run = Run::of(NetworkId(0));
    for (rx, header) in frames.iter().zip(headers) {
        let Ok(Header { network, .. }) = header else { continue };
        if run.network != *network {
            run.count(plan, worker);
            run = Run::of(*network);
        }
        run.frames += 1;
        run.bytes += rx.octets() as u64;
    }
    run.count(plan, worker);
}

/// Between the passes, for ports that limit what comes in: what is above the limit goes no further, and teaches nothing.
#[cold]
fn police(
    now: Timestamp,
    plan: &Plan,
    worker: usize,
    batch: &Batch,
    headers: &mut [Result<Header, DropReason>],
) {
    for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
        let limit = plan.topology.limits(rx.ingress).and_then(|limits| limits.rx.as_ref());
        let (Ok(Header { network, .. }), Some(limit)) = (&*header, limit) else { continue };
        let octets = rx.offload.wire_octets(batch.bytes(slot).len());
        let passes = plan.port(rx.ingress).is_none_or(|port| port.meters().rx.take(limit, bits(octets), now));
        if !passes {
            count_dropped(plan, *network, worker);
            *header = Err(DropReason::LimitRx);
        }
    }
}

// Calls, so that they weigh nothing on the ordinary frame's way.
#[inline(never)]
fn count_super(plan: &Plan, worker: usize, counters: &PortCounters, header: &Result<Header, DropReason>) {
    counters.rx_super.add(1);
    if let Ok(header) = header {
        plan.network(header.network, worker).inspect(|network| network.super_frames.add(1));
    }
}

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
}

impl Run {
    fn of(network: NetworkId) -> Self {
        Self { network, frames: 0, bytes: 0 }
    }

    fn count(&self, plan: &Plan, worker: usize) {
        let Some(counters) = plan.network(self.network, worker) else { return };
        counters.frames.add(self.frames);
        counters.bytes.add(self.bytes);
    }
}

#[inline(always)]
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

/// Who decides while a batch is forwarded, and tells whoever is to know.
trait Judge {
    /// The frame's header said enough.
    fn refused(&mut self, slot: usize, reason: DropReason);
    /// What becomes of the frame at `slot`.
    fn judge<'p>(
        &mut self,
        slot: usize,
        now: Timestamp,
        plan: &'p Plan,
        ingress: PortId,
        header: &Header,
        act: Act<'_>,
    ) -> Result<Action<'p>, DropReason>;
}

/// Nobody is to know: nothing but the fate is computed, with [`decide`] and the table's ways of it in one piece.
///
/// Measured: deciding by a [`Decision`] that nobody reads took a quarter of what forwarding can do.
struct Unwatched;

impl Judge for Unwatched {
    #[inline]
    fn refused(&mut self, _: usize, _: DropReason) {}

    #[inline]
    fn judge<'p>(
        &mut self,
        _: usize,
        now: Timestamp,
        plan: &'p Plan,
        ingress: PortId,
        header: &Header,
        mut act: Act<'_>,
    ) -> Result<Action<'p>, DropReason> {
        decide(now, plan, ingress, header, &mut act)
    }
}

/// Somebody is told of each frame.
struct Watched<W>(W);

impl<W: FnMut(usize, &Decision<'_>)> Judge for Watched<W> {
    fn refused(&mut self, slot: usize, reason: DropReason) {
        (self.0)(slot, &Decision::refused(reason));
    }

    fn judge<'p>(
        &mut self,
        slot: usize,
        now: Timestamp,
        plan: &'p Plan,
        ingress: PortId,
        header: &Header,
        mut act: Act<'_>,
    ) -> Result<Action<'p>, DropReason> {
        let decision = Noting::decide(now, plan, ingress, header, &mut act);
        (self.0)(slot, &decision);
        decision.fate
    }
}

impl Decision<'_> {
    /// A frame whose header said enough.
    fn refused(reason: DropReason) -> Self {
        Decision { network: None, learned: None, found: None, flood: None, fate: Err(reason) }
    }
}

/// How the questions of [`decide`] are asked: with all that follows from asking, or for the answer alone.
trait Manner {
    /// What the source at `from` teaches when it is heard on `port`.
    fn learn(&mut self, plan: &Plan, from: Place, port: PortId, now: Timestamp) -> Learned;
    /// Where the table knows the station at `to`.
    fn look_up(&mut self, plan: &Plan, to: Place, now: Timestamp) -> Option<PortId>;
    /// The frame is to be flooded, if that is allowed and there is somebody.
    fn flood(&mut self, _: Flood) {}
    /// Whether `port` may flood one more.
    fn allow(&mut self, plan: &Plan, flood: Flood, port: PortId, now: Timestamp) -> Result<(), DropReason>;
}

/// Forwarding: stations are learned, and what is flooded counts towards the ingress port's limits.
struct Act<'s>(&'s mut Storm);

impl Manner for Act<'_> {
    #[inline(always)]
    fn learn(
        &mut self,
        Plan { topology, fdb, .. }: &Plan,
        from: Place,
        port: PortId,
        now: Timestamp,
    ) -> Learned {
        fdb.learn_at(from, port, topology.mac_limit(port), now)
    }

    #[inline(always)]
    fn look_up(&mut self, plan: &Plan, to: Place, now: Timestamp) -> Option<PortId> {
        plan.fdb.lookup_at(to, now)
    }

    #[inline(always)]
    fn allow(&mut self, plan: &Plan, flood: Flood, port: PortId, now: Timestamp) -> Result<(), DropReason> {
        self.0.allow(flood, plan.topology.storm(port), now)
    }
}

/// Supposing: nothing is learned, and no limit is used up.
#[derive(Debug)]
struct Suppose {
    /// Where the source would be known from now on.
    taught: Option<(Place, PortId)>,
    /// Who would not be known any more.
    evicted: Vec<Place>,
    /// The ingress port's limits, as far as they are used up.
    storm: Storm,
}

impl Manner for Suppose {
    fn learn(
        &mut self,
        Plan { topology, fdb, .. }: &Plan,
        from: Place,
        port: PortId,
        now: Timestamp,
    ) -> Learned {
        let (learned, evicted) = fdb.would_learn(from, port, topology.mac_limit(port), now);
        if matches!(learned, Learned::New | Learned::Moved { .. }) {
            self.taught = Some((from, port));
        }
        self.evicted = evicted;
        learned
    }

    fn look_up(&mut self, plan: &Plan, to: Place, now: Timestamp) -> Option<PortId> {
        match self.taught {
            Some((from, port)) if from == to => Some(port),
            _ if self.evicted.contains(&to) => None,
            _ => plan.fdb.lookup_at(to, now),
        }
    }

    fn allow(&mut self, plan: &Plan, flood: Flood, port: PortId, now: Timestamp) -> Result<(), DropReason> {
        self.storm.allow(flood, plan.topology.storm(port), now)
    }
}

/// Asks in the manner `M`, and notes the answers.
struct Noting<'m, M> {
    manner: &'m mut M,
    learned: Option<Learned>,
    found: Option<PortId>,
    flood: Option<Flood>,
}

impl<M: Manner> Noting<'_, M> {
    // A call: the piece that nobody watches is the one to be laid out well.
    #[inline(never)]
    fn decide<'p>(
        now: Timestamp,
        plan: &'p Plan,
        ingress: PortId,
        header: &Header,
        manner: &mut M,
    ) -> Decision<'p> {
        let mut noting = Noting { manner, learned: None, found: None, flood: None };
        let fate = decide(now, plan, ingress, header, &mut noting);
        let Noting { learned, found, flood, .. } = noting;
        Decision { network: Some(header.network), learned, found, flood, fate }
    }
}

impl<M: Manner> Manner for Noting<'_, M> {
    fn learn(&mut self, plan: &Plan, from: Place, port: PortId, now: Timestamp) -> Learned {
        *self.learned.insert(self.manner.learn(plan, from, port, now))
    }

    fn look_up(&mut self, plan: &Plan, to: Place, now: Timestamp) -> Option<PortId> {
        self.found = self.manner.look_up(plan, to, now);
        self.found
    }

    fn flood(&mut self, flood: Flood) {
        self.flood = Some(flood);
    }

    fn allow(&mut self, plan: &Plan, flood: Flood, port: PortId, now: Timestamp) -> Result<(), DropReason> {
        self.manner.allow(plan, flood, port, now)
    }
}

/// What would be decided about the frame at `slot` of `batch`, by the very steps of forwarding, and which stations its
/// source would displace in a full table. Changes nothing.
///
/// `storm` tells how far the ingress port's limits are used up.
pub fn suppose<'a>(
    now: Timestamp,
    plan: &'a Plan,
    batch: &Batch,
    slot: usize,
    storm: Storm,
) -> (Decision<'a>, Vec<Place>) {
    let rx = &batch.frames()[slot];
    let mut suppose = Suppose { taught: None, evicted: Vec::new(), storm };
    let decision = match read_header(plan, rx, batch.bytes(slot)) {
        Ok(header) => Noting::decide(now, plan, rx.ingress, &header, &mut suppose),
        Err(reason) => Decision::refused(reason),
    };
    (decision, suppose.evicted)
}

/// The fate of one frame, and what it teaches.
// Measured (2026-11-25, `vswitch-bench memory turn`): with calls from here to the table whole turns are 2 % slower.
#[inline(always)]
fn decide<'a>(
    now: Timestamp,
    plan: &'a Plan,
    ingress: PortId,
    &Header { network, from, to, .. }: &Header,
    manner: &mut impl Manner,
) -> Result<Action<'a>, DropReason> {
    let topology = &plan.topology;
    let learned = manner.learn(plan, from, ingress, now);
    if learned == Learned::Pinned && topology.is_tunnel(ingress) {
        return Err(DropReason::LocalMac);
    }
    let reach = topology.reach(network, ingress);
    let flood = match to {
        Destination::Group(flood) => flood,
        Destination::Station(place) => match manner.look_up(plan, place, now) {
            Some(port) => return reach.member(port).map(Action::Send),
            None => Flood::Unknown,
        },
    };
    manner.flood(flood);
    reach.members().next().ok_or(DropReason::NoReceiver)?;
    manner.allow(plan, flood, ingress, now)?;
    Ok(Action::Flood(reach))
}

/// What happens to the switch's own tag on the way out by `member`. Priority is kept.
pub(crate) fn tag_op(carried: Option<Tag>, member: &Member) -> TagOp {
    match (carried, member.vlan) {
        (None, None) => TagOp::Keep,
        (Some(_), None) => TagOp::Pop,
        (None, Some(vlan)) => TagOp::Push(Tag::new(vlan)),
        (Some(tag), Some(vlan)) if tag.vlan() == Some(vlan) => TagOp::Keep,
        (Some(tag), Some(vlan)) => TagOp::Replace(tag.with_vlan(vlan)),
    }
}
