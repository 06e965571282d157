//! Mirrors: ports that get copies of other ports' frames (SPAN).
//!
//! A frame is copied at ingress, as received, and at egress, with its outgoing tag; at most once for each
//! mirror. A copy is counted at the mirror, as an outgoing frame, and nowhere else. Copies cannot loop: a
//! mirror carries no network ([`PortMode::Mirror`](crate::topology::PortMode::Mirror)), frames from it are
//! dropped, and copies are not copied.

use std::collections::BTreeSet;

use crate::{
    addr::{NetworkId, PortId},
    batch::{Batch, CAPACITY},
    capture::Direction,
    transmit::{Out, TagOp},
};

/// Which frames are copied to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The port that gets the copies.
    pub to: PortId,
    /// Frames received or sent by these ports.
    pub ports: BTreeSet<PortId>,
    /// Frames received in these networks.
    pub networks: BTreeSet<NetworkId>,
    /// Restricts the ports' frames to one direction.
    pub direction: Option<Direction>,
}

/// The copies of one turn for one mirror.
#[derive(Debug)]
pub(crate) struct Copies {
    outs: Vec<Out>,
    copied: [bool; CAPACITY],
}

impl Copies {
    /// An empty list with room for the copies of a turn.
    pub(crate) fn new() -> Self {
        Self { outs: Vec::with_capacity(CAPACITY), copied: [false; CAPACITY] }
    }

    /// Starts a turn.
    pub(crate) fn clear(&mut self) {
        self.outs.clear();
        self.copied = [false; CAPACITY];
    }

    /// Copies the received frame at `slot`, whose network may be undecided.
    pub(crate) fn received(
        &mut self,
        mirror: &Mirror,
        batch: &Batch,
        slot: usize,
        network: Option<NetworkId>,
    ) {
        let ingress = batch.frames()[slot].ingress;
        let at_port = mirror.direction != Some(Direction::Tx) && mirror.ports.contains(&ingress);
        if at_port || network.is_some_and(|network| mirror.networks.contains(&network)) {
            self.push(Out::new(slot, network.unwrap_or(NetworkId(0)), TagOp::Keep));
        }
    }

    /// Copies `outs`, which leave by `port`.
    pub(crate) fn sent(&mut self, mirror: &Mirror, port: PortId, outs: &[Out]) {
        if mirror.direction != Some(Direction::Rx) && mirror.ports.contains(&port) {
            outs.iter().for_each(|out| self.push(*out));
        }
    }

    /// The outgoing copies, in the order in which they were made.
    pub(crate) fn outs(&mut self) -> &mut [Out] {
        &mut self.outs
    }

    fn push(&mut self, out: Out) {
        if !std::mem::replace(&mut self.copied[out.slot()], true) {
            self.outs.push(out);
        }
    }
}
