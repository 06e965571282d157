//! Answers of the switch: instead of floods, for neighbours that a control plane knows, and to what no backend takes.

use super::{
    decide::Action,
    read::{Destination, Header},
};
use crate::{
    addr::{MacAddr, NetworkId},
    balance::STATION,
    batch::{Batch, Received},
    drops::DropReason,
    neighbours::Question,
    plan::Pass,
};

/// A frame that is to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// Where it is in the batch.
    pub(crate) slot: usize,
    /// Its network.
    pub(crate) network: NetworkId,
    /// What its sender is told.
    pub(crate) reply: Reply,
}

/// What the sender of a frame is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// The address of a neighbour.
    Neighbour {
        /// The station whose address is the answer.
        mac: MacAddr,
        /// Whether the question's outer tag belongs to the switch.
        is_tagged: bool,
    },
    /// That nothing takes it at the service that it is for.
    Refusal,
}

/// `fate`, or the answer to a frame that would be flooded and asks for a neighbour that the switch knows.
#[inline(always)]
pub(super) fn or_answer<'p>(
    fate: Result<Action<'p>, DropReason>,
    pass: Pass<'p>,
    batch: &Batch,
    slot: usize,
    header: &Header,
) -> Result<Action<'p>, DropReason> {
    match fate {
        Ok(Action::Flood(_)) | Err(DropReason::NoReceiver) if pass.plan.topology.answers(header.network) => {
            find_answer(pass, batch, slot, header).map(Action::Answer).map_or(fate, Ok)
        }
        fate => fate,
    }
}

/// The station whose address the frame asks for. `None`: it is no question, or the switch does not know the answer.
///
/// An answer promises that frames to the station arrive: the table must have it, and they may leave there.
#[cold]
#[inline(never)]
fn find_answer(pass: Pass<'_>, batch: &Batch, slot: usize, header: &Header) -> Option<MacAddr> {
    let &Header { network, tag, to: Destination::Group(_), .. } = header else { return None };
    let Pass { plan, now, .. } = pass;
    let &Received { ingress, isolated, .. } = &batch.frames()[slot];
    if plan.topology.is_tunnel(ingress) {
        return None;
    }
    let question = Question::read(batch.bytes(slot), tag.is_some())?;
    if plan.balance.services.contains_key(&(network, question.target)) {
        return Some(STATION);
    }
    let mac = plan.neighbours.try_get(network, question.target)?;
    let port = plan.fdb.lookup(plan.fdb.station(network, mac), now)?;
    plan.topology.reach(network, ingress, isolated).member(port).ok()?;
    Some(mac)
}
