//! Frames to services: translated, and sent to the backend that serves them.

use super::{
    decide::{Action, Observe, Questions},
    read::Header,
};
use crate::{
    balance::{self, Sent, Toward, Translation, Way},
    batch::{Batch, Received},
    drops::DropReason,
    plan::Pass,
    storm::Flood,
};

/// `fate`, or that of a frame for a service: its destination is at a port that no network has.
#[inline(always)]
pub(super) fn or_serve<'p>(
    fate: Result<Action<'p>, DropReason>,
    pass: Pass<'p>,
    batch: &Batch,
    (slot, header): (usize, &Header),
    questions: &mut impl Questions,
    observe: &mut impl Observe,
    heads: &mut Vec<Translation>,
) -> Result<Action<'p>, DropReason> {
    match fate {
        Err(DropReason::PortGone) if is_for_service(batch.bytes(slot)) => {
            serve(pass, batch, (slot, header), questions, observe, heads)
        }
        fate => fate,
    }
}

#[cold]
fn is_for_service(frame: &[u8]) -> bool {
    frame.starts_with(&balance::STATION.0)
}

// A call, to keep the common path short.
#[inline(never)]
fn serve<'p>(
    pass: Pass<'p>,
    batch: &Batch,
    (slot, header): (usize, &Header),
    questions: &mut impl Questions,
    observe: &mut impl Observe,
    heads: &mut Vec<Translation>,
) -> Result<Action<'p>, DropReason> {
    let Pass { plan, now, .. } = pass;
    let &Received { ingress, isolated, ref offload, .. } = &batch.frames()[slot];
    // Each host translates for its own clients.
    let client = plan.balance.client(ingress).ok_or(DropReason::ServiceUnknown)?;
    let frame = Sent { slot, bytes: batch.bytes(slot), offload };
    let Toward { served, way, head } =
        plan.balance.toward(client, header.network, frame, now, questions.are_real())?;
    observe.served(served);
    let reach = plan.topology.reach(header.network, ingress, isolated);
    let action = match way {
        Way::Back => Action::Send(reach.back()?),
        Way::To(mac) => match questions.look_up(pass, plan.fdb.station(header.network, mac)) {
            Some(port) => {
                observe.found(port);
                Action::Send(reach.member(port)?)
            }
            None => {
                observe.flood(Flood::Unknown);
                reach.members().next().ok_or(DropReason::NoReceiver)?;
                questions.allow(pass, Flood::Unknown, ingress)?;
                Action::Flood(reach)
            }
        },
    };
    heads.push(head);
    Ok(action)
}
