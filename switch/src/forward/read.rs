//! The first pass: reading the headers of a batch, and judging them.

use crate::{
    addr::NetworkId,
    batch::{Batch, Received},
    drops::DropReason,
    fdb::Station,
    limit::bits,
    plan::{Pass, Plan},
    storm::Flood,
    topology::{Classified, Guarded},
    wire::frame::{Frame, Tag},
};

/// The result of the first pass for a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) network: NetworkId,
    /// The tag that belongs to the switch; see [`Classified::tag`].
    pub(super) tag: Option<Tag>,
    /// Its source.
    pub(super) from: Station,
    pub(super) to: Destination,
}

/// A frame that is dropped before anything is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) reason: DropReason,
    /// Its network, if its header was accepted.
    pub(super) network: Option<NetworkId>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, network: None }
    }
}

/// The destination of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    /// A station, to look up.
    Station(Station),
    /// A group: flooded without a lookup.
    Group(Flood),
}

/// Reads the headers, and prefetches what the second pass will look up.
///
/// The plan is a separate argument, not part of a [`Pass`]: the compiler knows only of arguments that no
/// write in the loop changes them, and hoists what the loop reads of them (measured: 2 % of a turn).
pub(super) fn read_headers(plan: &Plan, batch: &Batch, headers: &mut Vec<Result<Header, Refused>>) {
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
pub(super) fn read_header(plan: &Plan, rx: &Received, bytes: &[u8]) -> Result<Header, Refused> {
    let frame = Frame::parse(bytes)?;
    let Classified { network, tag } = plan.topology.classify(rx.ingress, rx.network, &frame)?;
    let to = match frame.dst {
        dst if !dst.is_group() => Destination::Station(plan.fdb.station(network, dst)),
        dst if dst.is_broadcast() => Destination::Group(Flood::Broadcast),
        dst if dst.reserved_group().is_some_and(|last| !plan.topology.forwards_group(last)) => {
            return Err(DropReason::LinkLocalGroup.into());
        }
        _ => Destination::Group(Flood::Multicast),
    };
    Ok(Header { network, tag, from: plan.fdb.station(network, frame.src), to })
}

/// Refuses those frames of a batch from one port that the port's guard does not accept.
#[inline(never)]
pub(super) fn guard(guarded: Guarded<'_>, batch: &Batch, headers: &mut [Result<Header, Refused>]) {
    for ((rx, bytes), header) in batch.iter().zip(headers) {
        debug_assert_eq!(rx.ingress, guarded.port);
        judge(guarded, bytes, header);
    }
}

/// Refuses a frame that its port's guard does not accept.
#[inline]
pub(super) fn judge(guarded: Guarded<'_>, bytes: &[u8], header: &mut Result<Header, Refused>) {
    if let Err(reason) = guarded.judge(bytes)
        && let Ok(Header { network, .. }) = header
    {
        *header = Err(Refused { reason, network: Some(*network) });
    }
}

/// Enforces ingress rate limits between the passes: excess frames are dropped and not learned from.
#[cold]
pub(super) fn police_ingress(pass: &Pass<'_>, batch: &Batch, headers: &mut [Result<Header, Refused>]) {
    for (slot, (rx, header)) in batch.frames().iter().zip(headers).enumerate() {
        let limit = pass.plan.topology.limits(rx.ingress).and_then(|limits| limits.rx.as_ref());
        let (Ok(Header { network, .. }), Some(limit)) = (&*header, limit) else { continue };
        let bytes = rx.offload.wire_bytes(batch.bytes(slot).len());
        let port = pass.plan.port(rx.ingress);
        if port.is_some_and(|port| !port.meters().rx.take(limit, bits(bytes), pass.now)) {
            *header = Err(Refused { reason: DropReason::LimitRx, network: Some(*network) });
        }
    }
}

/// Counts the frames of each network and their bytes. A separate pass: the other loops are register-bound.
#[inline(never)]
pub(super) fn count_networks(pass: &Pass<'_>, frames: &[Received], headers: &[Result<Header, Refused>]) {
    let mut run = Run::of(NetworkId(0));
    for (rx, header) in frames.iter().zip(headers) {
        let Ok(Header { network, .. }) = header else { continue };
        if run.network != *network {
            run.count(pass);
            run = Run::of(*network);
        }
        run.frames += 1;
        run.bytes += rx.frame_len() as u64;
    }
    run.count(pass);
}

/// Consecutive frames of one network: its counters are written once for all of them.
struct Run {
    network: NetworkId,
    frames: u64,
    bytes: u64,
}

impl Run {
    fn of(network: NetworkId) -> Self {
        Self { network, frames: 0, bytes: 0 }
    }

    fn count(&self, pass: &Pass<'_>) {
        pass.count_network(self.network, |counters| {
            counters.frames.add(self.frames);
            counters.bytes.add(self.bytes);
        });
    }
}
