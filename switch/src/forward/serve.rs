//! Frames to services: translated, and sent to the backend that serves them.

use super::{
    answer::{Answered, Reply},
    count_dropped, count_flooded,
    decide::{Action, Observe, Questions},
    flood, out,
    read::{Destination, Header, Refused},
};
use crate::{
    balance::{self, Client, Sent, Toward, Translation, Way},
    batch::{Batch, Received},
    drops::DropReason,
    plan::Pass,
    storm::Flood,
    transmit::Egress,
};

/// Whether a frame with this fate is for a service: its destination is at a port that no network has.
#[inline(always)]
pub(super) fn is_for_service(fate: &Result<Action<'_>, DropReason>, batch: &Batch, slot: usize) -> bool {
    matches!(fate, Err(DropReason::PortGone)) && has_address(batch.bytes(slot))
}

#[cold]
fn has_address(frame: &[u8]) -> bool {
    frame.starts_with(&balance::STATION.0)
}

/// Where the frames to services of one batch go.
pub(super) struct Outlets<'f> {
    pub(super) egress: &'f mut Egress,
    pub(super) heads: &'f mut Vec<Translation>,
    pub(super) answered: &'f mut Vec<Answered>,
}

impl Outlets<'_> {
    /// Translates a frame for a service, queues it for the backend, and counts its fate.
    ///
    /// Measured (2026-11-27, AMD EPYC, `vswitch-bench memory`): where the fates of these frames join those of all others, whole
    /// turns take 9 to 19 % longer.
    #[cold]
    #[inline(never)]
    pub(super) fn forward(
        &mut self,
        pass: Pass<'_>,
        batch: &Batch,
        (slot, header): (usize, &Header),
        questions: &mut impl Questions,
        observe: &mut impl Observe,
    ) {
        let network = header.network;
        let fate = serve(pass, batch, (slot, header), questions, observe);
        let (fate, head) =
            fate.map_or_else(|reason| (Err(reason), None), |(action, head)| (Ok(action), Some(head)));
        observe.decided(slot, Some(network), fate);
        self.heads.extend(head);
        let Some(port) = pass.plan.port(batch.frames()[slot].ingress) else { return };
        let counters = pass.counters(port);
        match fate {
            Ok(Action::Send(member)) => {
                counters.unicast.add(1);
                self.egress.push(member.port, out(slot, header, member));
            }
            Ok(Action::Flood(reach)) => {
                counters.flooded.add(1);
                count_flooded(&pass, network);
                flood(self.egress, slot, header, reach);
            }
            // Only questions get these.
            Ok(Action::Answer(_)) => {}
            Err(reason) => {
                counters.drop(reason);
                count_dropped(&pass, network);
                // The host of a client answers it.
                if reason.is_told() && !pass.plan.topology.is_tunnel(port.id) {
                    self.answered.push(Answered { slot, network, reply: Reply::Refusal });
                }
            }
        }
    }
}

/// Gives answers of backends to the gateways of the hosts that their clients have called, in place of this host's.
#[cold]
#[inline(never)]
pub(super) fn turn_answers(
    client: &Client,
    pass: &Pass<'_>,
    batch: &Batch,
    headers: &mut [Result<Header, Refused>],
    heads: &mut Vec<Translation>,
) {
    let Pass { plan, now, .. } = *pass;
    for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
        let Ok(Header { network, to: to @ Destination::Station(_), .. }) = header else { continue };
        let frame = Sent { slot, bytes: batch.bytes(slot), offload: &rx.offload };
        if let Some((gateway, head)) = plan.balance.turn(client, *network, frame, now) {
            *to = Destination::Station(plan.fdb.station(*network, gateway));
            heads.push(head);
        }
    }
}

/// The fate of a frame for a service, and its translation.
pub(super) fn serve<'p>(
    pass: Pass<'p>,
    batch: &Batch,
    (slot, header): (usize, &Header),
    questions: &mut impl Questions,
    observe: &mut impl Observe,
) -> Result<(Action<'p>, Translation), DropReason> {
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
    Ok((action, head))
}
