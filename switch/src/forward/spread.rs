//! Floods to many ports: they wait, but what asks for a known station is heard there at once. See [`spread`](crate::spread).

use super::{
    out,
    read::{Destination, Header},
};
use crate::{
    batch::Batch,
    drops::DropReason,
    neighbours::Question,
    plan::Pass,
    spread::Backlog,
    topology::{Member, Reach},
    transmit::Egress,
};

/// Whether the frame waits.
#[inline(always)]
pub(super) fn is_for(header: &Header, reach: &Reach<'_>) -> bool {
    reach.is_many() && matches!(header.to, Destination::Group(_))
}

/// What became of a flooded frame.
pub(super) enum Put {
    /// It waits.
    Waits,
    /// There was no room for it, but it left for the station that it asks for.
    Left,
}

/// Lets the frame wait, and queues it for the station that it asks for.
///
/// # Errors
/// There is no room for it, and it does not ask for a known station.
#[cold]
#[inline(never)]
pub(super) fn put(
    pass: Pass<'_>,
    (batch, slot, header): (&Batch, usize, &Header),
    reach: Reach<'_>,
    backlog: &mut Backlog,
    egress: &mut Egress,
) -> Result<Put, DropReason> {
    let rx = &batch.frames()[slot];
    let asked = find_asked(pass, batch.bytes(slot), header, reach);
    if let Some(member) = asked {
        egress.push(member.port, out(slot, header, member).flooded());
    }
    let served = asked.map(|member| member.port);
    let is_station = pass.plan.topology.is_access(rx.ingress);
    let put = backlog.put((rx, batch.bytes(slot)), (header.network, header.tag), served, is_station);
    match put {
        Ok(()) => Ok(Put::Waits),
        Err(_) if asked.is_some() => Ok(Put::Left),
        Err(reason) => Err(reason),
    }
}

/// Where the station is that the frame asks for, if that is known.
fn find_asked<'p>(pass: Pass<'p>, frame: &[u8], header: &Header, reach: Reach<'p>) -> Option<&'p Member> {
    let question = Question::read(frame, header.tag.is_some())?;
    reach.flooded(pass.plan.topology.home(header.network, question.target)?)
}
