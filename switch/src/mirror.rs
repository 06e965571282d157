//! Mirrors: a port that gets copies of other ports' frames, for somebody who watches (SPAN).
//!
//! A copy is made where a frame comes in, before anything is done to it, and where it leaves, with the tag it leaves with;
//! once for each mirror, whatever the reasons. It is counted at the mirror, like a frame that was to leave there, and nowhere
//! else. Nothing can loop: a mirror carries no network ([`PortMode::Mirror`](crate::topology::PortMode::Mirror)), what it sends
//! is not taken in, and copies are not copied.

use std::collections::BTreeSet;

use crate::{
    addr::{NetworkId, PortId},
    batch::{Batch, CAPACITY},
    capture::Direction,
    transmit::{Out, TagOp},
};

/// Whose frames are copied to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The port that gets them.
    pub to: PortId,
    /// Frames that come in or leave by these ports.
    pub ports: BTreeSet<PortId>,
    /// Frames that come in in these networks.
    pub networks: BTreeSet<NetworkId>,
    /// Of the ports' frames, only those on this side of the decision.
    pub direction: Option<Direction>,
}

/// The copies of one turn for one mirror, as an engine keeps them.
#[derive(Debug)]
pub(crate) struct Copies {
    outs: Vec<Out>,
    copied: [bool; CAPACITY],
}

impl Copies {
    /// No copies, and room for those of a turn.
    pub(crate) fn new() -> Self {
        Self { outs: Vec::with_capacity(CAPACITY), copied: [false; CAPACITY] }
    }

    /// A turn begins.
    pub(crate) fn clear(&mut self) {
        self.outs.clear();
        self.copied = [false; CAPACITY];
    }

    /// The frame at `slot` came in, in `network` as far as was decided.
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
            #[expect(clippy::cast_possible_truncation, reason = "a batch has fewer slots")]
            self.push(Out { slot: slot as u16, network: network.unwrap_or(NetworkId(0)), tag: TagOp::Keep });
        }
    }

    /// `outs` leave by `port`.
    pub(crate) fn sent(&mut self, mirror: &Mirror, port: PortId, outs: &[Out]) {
        if mirror.direction != Some(Direction::Rx) && mirror.ports.contains(&port) {
            outs.iter().for_each(|out| self.push(*out));
        }
    }

    /// What leaves by the mirror, in the order in which it was copied.
    pub(crate) fn outs(&mut self) -> &mut [Out] {
        &mut self.outs
    }

    fn push(&mut self, out: Out) {
        if !std::mem::replace(&mut self.copied[usize::from(out.slot)], true) {
            self.outs.push(out);
        }
    }
}
