//! Hypothetical decisions: the steps of forwarding without side effects.

use super::{
    answer::or_answer,
    decide::{Decision, Notes, Questions, decide},
    read::{Refused, judge, read_header},
};
use crate::{
    addr::PortId,
    batch::Batch,
    drops::DropReason,
    fdb::{Learned, Station},
    plan::{Pass, Plan},
    storm::{Flood, FloodMeters},
};

/// The decision about the frame at `slot` of `batch`, by the same code as forwarding, and the stations that
/// its source would evict from a full table. Changes nothing.
///
/// `storm` is the state of the ingress port's flood limits.
pub(crate) fn suppose<'p>(
    pass: Pass<'p>,
    batch: &Batch,
    slot: usize,
    storm: FloodMeters,
) -> (Decision<'p>, Vec<Station>) {
    let rx = &batch.frames()[slot];
    let mut notes = Notes::default();
    let mut suppose = Suppose { taught: None, evicted: Vec::new(), storm };
    let bytes = batch.bytes(slot);
    let mut header = read_header(pass.plan, rx, bytes);
    if let Some(guarded) = pass.plan.topology.guarded(rx.ingress) {
        judge(guarded, bytes, &mut header);
    }
    let (network, fate) = match header {
        Ok(header) => {
            let fate = decide(pass, rx, &header, &mut suppose, &mut notes);
            (Some(header.network), or_answer(fate, pass, batch, slot, &header))
        }
        Err(Refused { reason, network }) => (network, Err(reason)),
    };
    (notes.decision(network, fate), suppose.evicted)
}

/// Learns nothing and consumes no limit.
#[derive(Debug)]
struct Suppose {
    /// The source and its new port, if it would be learned.
    taught: Option<(Station, PortId)>,
    /// Stations that would be evicted.
    evicted: Vec<Station>,
    /// State of the ingress port's flood limits.
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
