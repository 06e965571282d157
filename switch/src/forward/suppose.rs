//! The decision about a frame that does not come in: the steps of forwarding, with nothing learned and no limit used up.

use super::{
    decide::{Decision, Notes, Questions, decide},
    read::read_header,
};
use crate::{
    addr::PortId,
    batch::Batch,
    drops::DropReason,
    fdb::{Learned, Station},
    plan::{Pass, Plan},
    storm::{Flood, FloodMeters},
};

/// What would be decided about the frame at `slot` of `batch`, by the very steps of forwarding, and which stations its
/// source would displace in a full table. Changes nothing.
///
/// `storm` tells how far the ingress port's limits are used up.
pub(crate) fn suppose<'p>(
    pass: Pass<'p>,
    batch: &Batch,
    slot: usize,
    storm: FloodMeters,
) -> (Decision<'p>, Vec<Station>) {
    let rx = &batch.frames()[slot];
    let mut notes = Notes::default();
    let mut suppose = Suppose { taught: None, evicted: Vec::new(), storm };
    let (network, fate) = match read_header(pass.plan, rx, batch.bytes(slot)) {
        Ok(header) => (Some(header.network), decide(pass, rx.ingress, &header, &mut suppose, &mut notes)),
        Err(reason) => (None, Err(reason)),
    };
    (notes.decision(network, fate), suppose.evicted)
}

/// Nothing is learned, and no limit is used up.
#[derive(Debug)]
struct Suppose {
    /// Where the source would be known from now on.
    taught: Option<(Station, PortId)>,
    /// Which stations would not be known any more.
    evicted: Vec<Station>,
    /// The ingress port's limits, as far as they are used up.
    storm: FloodMeters,
}

impl Questions for Suppose {
    fn learn(&mut self, pass: Pass<'_>, from: Station, port: PortId) -> Learned {
        let Plan { topology, fdb, .. } = pass.plan;
        let (learned, evicted) = fdb.would_learn(from, port, topology.mac_limit(port), pass.now);
        if matches!(learned, Learned::New | Learned::Moved { .. }) {
            self.taught = Some((from, port));
        }
        self.evicted = evicted;
        learned
    }

    fn look_up(&mut self, pass: Pass<'_>, to: Station) -> Option<PortId> {
        match self.taught {
            Some((from, port)) if from == to => Some(port),
            _ if self.evicted.contains(&to) => None,
            _ => pass.plan.fdb.lookup(to, pass.now),
        }
    }

    fn allow(&mut self, pass: Pass<'_>, flood: Flood, port: PortId) -> Result<(), DropReason> {
        self.storm.allow(flood, pass.plan.topology.storm(port), pass.now)
    }
}
