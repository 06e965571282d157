//! The first pass: what the headers of a batch say.

use crate::{
    addr::NetworkId,
    batch::{Batch, Received},
    drops::DropReason,
    fdb::Station,
    limit::bits,
    plan::{Pass, Plan},
    storm::Flood,
    topology::Classified,
    wire::frame::{Frame, Tag},
};

/// What the first pass learns of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) network: NetworkId,
    /// The switch's own tag; see [`Classified::tag`].
    pub(super) tag: Option<Tag>,
    /// Where its source stands in the table.
    pub(super) from: Station,
    pub(super) to: Destination,
}

/// Whom a frame is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    /// One station, which stands here in the table if it does.
    Station(Station),
    /// Several: flooded without asking the table.
    Group(Flood),
}

/// Headers are read, and what the second pass will look up is brought near.
///
/// The plan is an argument by itself, not in a [`Pass`]: only of an argument does the compiler know that nothing written here
/// changes it, and it keeps what the loop reads of it in registers (3 % of what forwarding can do).
pub(super) fn read_headers(plan: &Plan, batch: &Batch, headers: &mut Vec<Result<Header, DropReason>>) {
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
}

#[inline(always)]
pub(super) fn read_header(plan: &Plan, rx: &Received, bytes: &[u8]) -> Result<Header, DropReason> {
    let frame = Frame::parse(bytes)?;
    let Classified { network, tag } = plan.topology.classify(rx.ingress, rx.network, &frame)?;
    let to = match frame.dst {
        dst if !dst.is_group() => Destination::Station(plan.fdb.station(network, dst)),
        dst if dst.is_broadcast() => Destination::Group(Flood::Broadcast),
        dst if dst.reserved_group().is_some_and(|last| !plan.topology.forwards_group(last)) => {
            return Err(DropReason::LinkLocalGroup);
        }
        _ => Destination::Group(Flood::Multicast),
    };
    Ok(Header { network, tag, from: plan.fdb.station(network, frame.src), to })
}

/// Between the passes, for ports that limit what comes in: what is above the limit goes no further, and teaches nothing.
#[cold]
pub(super) fn police_ingress(pass: Pass<'_>, batch: &Batch, headers: &mut [Result<Header, DropReason>]) {
    for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
        let limit = pass.plan.topology.limits(rx.ingress).and_then(|limits| limits.rx.as_ref());
        let (Ok(Header { network, .. }), Some(limit)) = (&*header, limit) else { continue };
        let octets = rx.offload.wire_octets(batch.bytes(slot).len());
        let port = pass.plan.port(rx.ingress);
        if port.is_some_and(|port| !port.meters().rx.take(limit, bits(octets), pass.now)) {
            pass.count_network(*network, |network| network.dropped.add(1));
            *header = Err(DropReason::LimitRx);
        }
    }
}

/// Counts the frames of each network and their octets. A pass of its own, for the others have no registers to spare.
#[inline(never)]
pub(super) fn count_networks(pass: Pass<'_>, frames: &[Received], headers: &[Result<Header, DropReason>]) {
    let mut run = Run::of(NetworkId(0));
    for (rx, header) in frames.iter().zip(headers) {
        let Ok(Header { network, .. }) = header else { continue };
        if run.network != *network {
            run.count(pass);
            run = Run::of(*network);
        }
        run.frames += 1;
        run.bytes += rx.octets() as u64;
    }
    run.count(pass);
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

    fn count(&self, pass: Pass<'_>) {
        pass.count_network(self.network, |counters| {
            counters.frames.add(self.frames);
            counters.bytes.add(self.bytes);
        });
    }
}
