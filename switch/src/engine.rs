//! One worker's engine: receive, forward, send.
//!
//! ```text
//! turn: device.recv(batch)                      rx         up to a quantum of frames of one receiver
//!       forwarder.forward(batch) -> egress      decide     parse, classify, learn, look up, reach
//!       device.send(egress of each port)        tx         each egress port once, in arrival order
//!       device.send(copies)                                for ports that mirror others
//!       device.send(answers)                               "too big" and neighbours' addresses, back to the sender
//! ```
//!
//! Run to completion: nothing is queued between receiving and sending, but floods to [many ports](crate::spread), which
//! [`Engine::spread`] sends between turns; every other frame ends with its turn. A turn
//! is bounded in frames and bytes, so a port that floods gets a quantum like every other. The engine has no
//! clock and no descriptors; [`crate::worker`] and tests drive it.

use std::{io, sync::Arc};

use crate::{
    addr::{NetworkId, PortId, Timestamp},
    balance::{self, Balance, Client, Sent, Translation},
    batch::{BATCH, Batch, CAPACITY, Received},
    capture::Captures,
    drops::DropReason,
    forward::{Answered, Forwarder, Reply},
    limit::{Limit, bits},
    mirror::Copies,
    neighbours,
    plan::{Pass, Plan, Port, Receiver},
    spread::Round,
    storm::FloodMeters,
    transmit::{Egress, Out, Scratch, TagOp, Transmit, Witness},
    wire::offload::Offload,
};

/// The outcome of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Frames received.
    pub frames: usize,
    /// Whether the receiver may have more.
    pub more: bool,
}

/// The state of one worker. See the [module](self).
#[derive(Debug)]
pub struct Engine {
    worker: usize,
    plan: Arc<Plan>,
    batch: Batch,
    forwarder: Forwarder,
    egress: Egress,
    scratch: Scratch,
    captures: Captures,
    /// One for each mirror of the plan.
    copies: Vec<Copies>,
    /// Translations of backends' frames to clients, while these are sent.
    backs: Vec<Translation>,
    round: Round,
}

impl Engine {
    /// The engine of worker number `worker`, with all memory that it needs for the ports of `plan`.
    pub fn new(worker: usize, plan: Arc<Plan>) -> Self {
        let mut engine = Self {
            worker,
            plan: Arc::clone(&plan),
            batch: Batch::new(),
            forwarder: Forwarder::new(worker),
            egress: Egress::default(),
            scratch: Scratch::new(),
            captures: Captures::new(worker),
            copies: Vec::new(),
            backs: Vec::with_capacity(CAPACITY),
            round: Round::new(),
        };
        engine.adopt(plan);
        engine
    }

    /// Switches to `plan` at the next turn.
    pub fn adopt(&mut self, plan: Arc<Plan>) {
        let ports = plan.ports.len().max(plan.topology.ports());
        self.forwarder.reserve(ports);
        self.egress.reserve(ports);
        self.captures.adopt(&plan.captures);
        self.copies.resize_with(plan.mirrors.len(), Copies::new);
        let before = Pass { now: Timestamp::from_millis(0), plan: &self.plan, worker: self.worker };
        self.forwarder.backlog().adopt(before, &plan);
        self.round.adopt(&self.plan, &plan, ports);
        self.plan = plan;
    }

    /// The current plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// State of the flood limits of `port`, as far as this worker received from it.
    pub fn storm(&self, port: PortId) -> FloodMeters {
        self.forwarder.storm(port)
    }

    /// Receives about `max` frames (requesting no more than [`BATCH`]) from `receiver` and forwards them.
    ///
    /// # Errors
    /// The receiver yields no more frames; those received before the error were forwarded.
    pub fn turn(&mut self, receiver: &Receiver, max: usize, now: Timestamp) -> io::Result<Turn> {
        let Self { worker, plan, batch, forwarder, egress, scratch, captures, copies, backs, .. } = self;
        let pass = Pass { now, plan, worker: *worker };
        let captures = captures.any();
        if let Some(captures) = captures {
            captures.begin();
        }
        batch.clear();
        let mut refused = 0;
        let received =
            receiver.device.recv(receiver.port, batch, max.min(BATCH), &mut |id, reason, bytes: &[u8]| {
                let Some(port) = plan.port(id) else { return };
                let counters = pass.counters(port);
                counters.rx_frames.add(1);
                counters.rx_bytes.add(bytes.len() as u64);
                counters.drop(reason);
                refused += 1;
                if let Some(captures) = captures {
                    captures.refused(id, reason, bytes);
                }
            });
        let mut sender = Sender { balance: plan.balance.in_use(), pass, batch, captures, backs };
        if captures.is_none() && plan.mirrors.is_empty() {
            forwarder.forward(now, plan, sender.batch, egress);
            sender.batch.exchange(forwarder.heads());
            egress.drain(|id, outs| sender.send(id, outs, scratch));
            sender.batch.exchange(forwarder.heads());
        } else {
            sender.bring_watched(forwarder, egress, copies, scratch);
        }
        for Answered { slot, network, reply } in forwarder.answered() {
            let bytes = batch.bytes(slot);
            let rx = &batch.frames()[slot];
            let answer = match reply {
                Reply::Neighbour { mac, is_tagged } => neighbours::answer(bytes, is_tagged, mac),
                Reply::Refusal => balance::answer(bytes, &rx.offload),
            };
            if let Some(answer) = answer {
                scratch.answers.push(rx.ingress, network, &answer);
            }
        }
        let frames = batch.len() + refused;
        self.send_answers(now);
        receiver.device.turned();
        received.map(|more| Turn { frames, more })
    }

    /// Sends a part of the floods to many ports that [wait](crate::spread). Returns whether more do.
    pub fn spread(&mut self, now: Timestamp) -> bool {
        let Self { worker, plan, forwarder, egress, scratch, captures, round, backs, .. } = self;
        let pass = Pass { now, plan, worker: *worker };
        if !round.load(forwarder.backlog(), pass) {
            return false;
        }
        round.step(plan, egress);
        let captures = captures.any();
        if let Some(captures) = captures {
            captures.begin();
        }
        let mut sender =
            Sender { balance: plan.balance.in_use(), pass, batch: round.batch(), captures, backs };
        egress.drain(|id, outs| sender.send(id, outs, scratch));
        self.send_answers(now);
        self.is_spreading()
    }

    /// Whether floods to many ports wait.
    pub fn is_spreading(&mut self) -> bool {
        !self.round.is_over() || !self.forwarder.backlog().is_empty()
    }

    /// Sends the answers of devices and of the forwarder to the senders of this turn's frames. An answer leaves by the port its
    /// cause came in by, and nothing is learned from it.
    fn send_answers(&mut self, now: Timestamp) {
        let Self { worker, plan, batch, scratch, captures, backs, .. } = self;
        batch.clear();
        scratch.answers.take(|to, network, frame| {
            batch.push_copy(to, Some(network), Offload::NONE, frame);
        });
        if batch.is_empty() {
            return;
        }
        let captures = captures.any();
        if let Some(captures) = captures {
            captures.begin();
        }
        let pass = Pass { now, plan, worker: *worker };
        let mut sender = Sender { balance: plan.balance.in_use(), pass, batch, captures, backs };
        for slot in 0..sender.batch.len() {
            let &Received { ingress, network, .. } = &sender.batch.frames()[slot];
            let out = Out::new(slot, network.unwrap_or(NetworkId(0)), TagOp::Keep);
            sender.send(ingress, &mut [out], scratch);
        }
    }
}

/// The sending half of a turn.
struct Sender<'a> {
    pass: Pass<'a>,
    /// The services, if there are any.
    balance: Option<&'a Balance>,
    batch: &'a mut Batch,
    captures: Option<&'a Captures>,
    /// Empty but while frames are sent.
    backs: &'a mut Vec<Translation>,
}

impl Sender<'_> {
    /// Forwards every frame, observed by captures and mirrors.
    #[cold]
    fn bring_watched(
        &mut self,
        forwarder: &mut Forwarder,
        egress: &mut Egress,
        copies: &mut [Copies],
        scratch: &mut Scratch,
    ) {
        let &mut Self { pass, ref batch, captures, .. } = self;
        let mirrors = &pass.plan.mirrors;
        copies.iter_mut().for_each(Copies::clear);
        forwarder.forward_watched(pass.now, pass.plan, batch, egress, |slot, decision| {
            if let Some(captures) = captures {
                captures.decided(batch, slot, decision);
            }
            for (mirror, copies) in mirrors.iter().zip(&mut *copies) {
                copies.received(mirror, batch, slot, decision.network);
            }
        });
        self.batch.exchange(forwarder.heads());
        egress.drain(|id, outs| {
            for (mirror, copies) in mirrors.iter().zip(&mut *copies) {
                copies.sent(mirror, id, outs);
            }
            self.send(id, outs, scratch);
        });
        // A mirror's copies are what was received.
        self.batch.exchange(forwarder.heads());
        for (mirror, copies) in mirrors.iter().zip(copies) {
            if !copies.outs().is_empty() {
                // A copy has no sender that should react.
                let before = scratch.answers.len();
                self.send(mirror.to, copies.outs(), scratch);
                scratch.answers.truncate(before);
            }
        }
    }

    /// Sends `outs` by the port `id`, if it still exists.
    #[inline]
    fn send(&mut self, id: PortId, outs: &mut [Out], scratch: &mut Scratch) {
        let pass = self.pass;
        let Some(port) = pass.plan.port(id) else { return };
        let (max_frame, limit) = pass.plan.topology.way_out(id);
        let outs = match limit {
            None => outs,
            Some(limit) => self.police_egress(limit, port, outs),
        };
        match self.balance.and_then(|balance| balance.client(id)) {
            None => port.device.send(&self.transmit(port, outs, max_frame), scratch),
            Some(client) => self.send_to_clients(client, port, outs, max_frame, scratch),
        }
    }

    /// Sends `outs` by a port that clients of services may be behind.
    #[inline(never)]
    fn send_to_clients(
        &mut self,
        client: &Client,
        port: &Port,
        outs: &[Out],
        max_frame: usize,
        scratch: &mut Scratch,
    ) {
        if self.pass.plan.balance.notes(port.id) {
            self.note_gateways(client, outs);
        }
        if client.flows.is_empty() {
            port.device.send(&self.transmit(port, outs, max_frame), scratch);
        } else {
            self.send_back(client, port, outs, max_frame, scratch);
        }
    }

    /// Notes by whose gateways `outs` have come that leave for backends of services: answers go back there.
    #[cold]
    #[inline(never)]
    fn note_gateways(&self, client: &Client, outs: &[Out]) {
        let Pass { plan, now, .. } = self.pass;
        for out in outs.iter().filter(|out| !out.is_flooded()) {
            let ingress = self.batch.frames()[out.slot()].ingress;
            if plan.topology.is_tunnel(ingress) {
                plan.balance.note(client, out.network, self.batch.bytes(out.slot()), now);
            }
        }
    }

    /// Sends `outs` to clients of services, of which there are some at `port`: what their backends answer comes from the service.
    #[inline(never)]
    fn send_back(
        &mut self,
        client: &Client,
        port: &Port,
        outs: &[Out],
        max_frame: usize,
        scratch: &mut Scratch,
    ) {
        let Pass { plan, now, .. } = self.pass;
        for (slot, network) in outs.iter().map(|out| (out.slot(), out.network)) {
            let Received { ingress, offload, .. } = &self.batch.frames()[slot];
            // An answer of the switch, like "too big", stands in for the backend's.
            if plan.balance.serves(*ingress) || *ingress == port.id {
                let frame = Sent { slot, bytes: self.batch.bytes(slot), offload };
                self.backs
                    .extend(client.back(plan.balance.mark(network), frame, now, true).map(|(_, head)| head));
            }
        }
        self.batch.exchange(self.backs);
        port.device.send(&self.transmit(port, outs, max_frame), scratch);
        self.batch.exchange(self.backs);
        self.backs.clear();
    }

    #[inline]
    fn transmit<'t>(&'t self, port: &'t Port, outs: &'t [Out], max_frame: usize) -> Transmit<'t> {
        let counters = self.pass.counters(port);
        let witness = self.captures.map(|captures| captures as &dyn Witness);
        Transmit { port: port.id, batch: self.batch, outs, max_frame, counters, witness }
    }

    /// Those of `outs` that are within the port's limit, in order. The others are counted as drops.
    #[cold]
    fn police_egress<'o>(&self, limit: &Limit, port: &Port, outs: &'o mut [Out]) -> &'o [Out] {
        let frames = self.transmit(port, &[], 0);
        let mut within = 0;
        for next in 0..outs.len() {
            let out = outs[next];
            if port.meters().tx.take(limit, bits(frames.wire_bytes(out)), self.pass.now) {
                outs[within] = out;
                within += 1;
            } else {
                frames.count(out, Err(DropReason::LimitTx));
            }
        }
        &outs[..within]
    }
}
