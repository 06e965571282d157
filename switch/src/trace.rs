//! Traces: what would happen to a frame, step by step, without sending one.
//!
//! The steps are those of forwarding, not a copy of them: `forward::suppose` decides and [`Transmit::form`]
//! builds the outgoing frames. Nothing is learned, counted or sent.

use crate::{
    addr::{NetworkId, PortId, Timestamp},
    batch::{Batch, HEADROOM},
    drops::DropReason,
    fdb::Station,
    forward::{self, Action, Decision},
    mirror::Copies,
    plan::{Pass, Plan},
    storm::FloodMeters,
    topology::{Classified, Member},
    transmit::{Form, Out, Scratch, TagOp, Transmit, cut},
    wire::{
        frame::{Frame, MAX_FRAME},
        offload::Offload,
    },
};

/// A hypothetical ingress frame.
#[derive(Clone, Copy, Debug)]
pub struct Hypothesis<'a> {
    /// The ingress port.
    pub ingress: PortId,
    /// The network, for tunnels, whose frames carry it.
    pub network: Option<NetworkId>,
    /// Offload work that the sender leaves to the device.
    pub offload: Offload,
    /// The frame with Ethernet header, without FCS.
    pub bytes: &'a [u8],
    /// State of the ingress port's flood limits.
    pub storm: FloodMeters,
}

/// The result of a trace.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// The link layer of the frame.
    pub frame: Result<Frame, DropReason>,
    /// Its network, and its tag if that belongs to the switch.
    pub classified: Option<Classified>,
    /// The forwarding decision.
    pub decision: Decision<'a>,
    /// Stations that would be evicted to learn its source in a full table.
    pub evicted: Vec<Station>,
    /// The egress ports, in order.
    pub exits: Vec<Leaving>,
    /// The mirrors that would get a copy.
    pub copies: Vec<Leaving>,
}

/// The outcome at one egress port.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// The port.
    pub port: PortId,
    /// The operation on its tag.
    pub tag: TagOp,
    /// Maximum wire frame length of the port, in bytes.
    pub longest: usize,
    /// Number of wire frames it would be cut into (1: it leaves whole), or the reason why it would be
    /// dropped. Does not account for a full device queue.
    pub result: Result<usize, DropReason>,
}

/// Traces a frame through `plan`; `None` if it is longer than [`MAX_FRAME`].
pub fn trace<'a>(now: Timestamp, plan: &'a Plan, frame: &Hypothesis<'_>) -> Option<Trace<'a>> {
    let &Hypothesis { ingress, network, offload, bytes, storm } = frame;
    if bytes.len() > MAX_FRAME {
        return None;
    }
    let mut batch = Batch::new();
    batch.spare().next()?.get_mut(HEADROOM..HEADROOM + bytes.len())?.copy_from_slice(bytes);
    batch.push(ingress, network, offload, bytes.len());
    let parsed = Frame::parse(bytes);
    let classified = parsed.ok().and_then(|frame| plan.topology.classify(ingress, network, &frame).ok());
    let pass = Pass { now, plan, worker: 0 };
    let (decision, evicted) = forward::suppose(pass, &batch, 0, storm);
    let mut leaving = Vec::new();
    if let Some(Classified { network, tag }) = classified {
        let out = |member: &Member| Out::new(0, network, forward::tag_op(tag, member));
        match decision.fate {
            Ok(Action::Send(member)) => leaving.push((member.port, out(member))),
            Ok(Action::Flood(reach)) => {
                leaving.extend(reach.members().map(|member| (member.port, out(member).flooded())));
            }
            Ok(Action::Answer(_)) | Err(_) => {}
        }
    }
    let mut copied = Vec::new();
    for mirror in &plan.mirrors {
        let mut copies = Copies::new();
        copies.received(mirror, &batch, 0, decision.network);
        leaving.iter().for_each(|(port, out)| copies.sent(mirror, *port, &[*out]));
        copied.extend(copies.outs().iter().map(|out| (mirror.to, *out)));
    }
    let mut scratch = Scratch::new();
    let mut exits = |outs: Vec<(PortId, Out)>| {
        outs.into_iter().map(|(port, out)| exit(plan, &batch, port, out, &mut scratch)).collect()
    };
    let (exits, copies) = (exits(leaving), exits(copied));
    Some(Trace { frame: parsed, classified, decision, evicted, exits, copies })
}

fn exit(plan: &Plan, batch: &Batch, port: PortId, out: Out, scratch: &mut Scratch) -> Leaving {
    let (id, tag, max_frame) = (port, out.tag, plan.topology.max_frame(port));
    let Some(port) = plan.port(id) else {
        return Leaving { port: id, tag, longest: max_frame, result: Err(DropReason::PortGone) };
    };
    let counters = port.counters(0);
    let frames = Transmit { port: id, batch, outs: &[out], max_frame, counters, witness: None };
    let longest = port.device.longest().map_or(max_frame, |longest| longest.min(max_frame));
    let fits = |bytes: usize, offload: Offload| offload.wire_len(bytes) <= longest;
    let result = frames.form(out, port.device.capabilities()).and_then(|form| {
        let received = batch.frames()[0].offload;
        match form {
            _ if longest < max_frame && !fits(batch.bytes(0).len(), received) => Err(DropReason::PktTooBig),
            Form::Uncut(head, rest, offload) => cut(&head, rest, offload, scratch, |_| Ok(())),
            _ => Ok(1),
        }
    });
    Leaving { port: id, tag, longest, result }
}
