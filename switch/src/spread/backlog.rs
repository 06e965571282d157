//! The frames that wait to be flooded.

use std::{collections::VecDeque, fmt};

use crate::{
    addr::{NetworkId, PortId},
    batch::{Batch, HEADROOM, Received},
    counters::{NetworkCounters, PortCounters},
    drops::DropReason,
    plan::{Pass, Plan},
    wire::{
        frame::{MAX_FRAME, Tag},
        offload::Offload,
    },
};

/// Frames that may wait, of all ports of a worker: of a network with 4,000 ports, eight of each.
const FRAMES: usize = 32 << 10;

/// Bytes of these. Only what is used of them is ever touched.
const BYTES: usize = 4 << 20;

/// Frames that may wait of an access port: a station that comes up multicasts about ten.
const SHARE: u16 = 64;

/// A frame that waits, without its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) ingress: PortId,
    pub(super) network: NetworkId,
    /// See [`Received::isolated`].
    pub(super) isolated: bool,
    /// See [`Classified::tag`](crate::topology::Classified::tag).
    pub(super) tag: Option<Tag>,
    /// The port that it has left by already.
    pub(super) served: Option<PortId>,
    /// Its port or network is gone: it is not sent.
    pub(super) is_gone: bool,
    offload: Offload,
    len: usize,
}

impl Waiting {
    /// Marks it as gone if its port is another one in the plan `now`, or has left its network. Returns whether that is new.
    pub(super) fn follow(&mut self, before: &Plan, now: &Plan) -> bool {
        let stays = match (before.port(self.ingress), now.port(self.ingress)) {
            (Some(before), Some(now)) => before.is_same(now),
            _ => false,
        };
        let was_gone = self.is_gone;
        self.is_gone |= !(stays && now.topology.carries(self.network, self.ingress));
        self.is_gone && !was_gone
    }

    /// Counts what becomes of it, which is no longer to wait.
    pub(super) fn count(
        &self,
        pass: Pass<'_>,
        at_port: impl FnOnce(&PortCounters),
        in_network: impl FnOnce(&NetworkCounters),
    ) {
        if let Some(port) = pass.plan.port(self.ingress) {
            let counters = pass.counters(port);
            counters.waiting.take(1);
            at_port(counters);
        }
        pass.count_network(self.network, |network| {
            network.waiting.take(1);
            in_network(network);
        });
    }
}

/// The frames of one worker that wait, oldest first.
pub(crate) struct Backlog {
    frames: VecDeque<Waiting>,
    /// Theirs, one after the other.
    bytes: VecDeque<u8>,
    /// By ingress port: the number of its frames.
    shares: Vec<u16>,
}

impl Backlog {
    pub(crate) fn new() -> Self {
        Self {
            frames: VecDeque::with_capacity(FRAMES),
            bytes: VecDeque::with_capacity(BYTES),
            shares: Vec::new(),
        }
    }

    /// Makes room for ports below `ports`, so that putting never allocates.
    pub(crate) fn reserve(&mut self, ports: usize) {
        self.shares.resize(ports.max(self.shares.len()), 0);
    }

    /// Drops frames that the plan `now` has no place for; they are counted where they came in, by the plan of `before`.
    pub(crate) fn adopt(&mut self, before: Pass<'_>, now: &Plan) {
        for frame in &mut self.frames {
            if frame.follow(before.plan, now) {
                let gone = |port: &PortCounters| port.drop(DropReason::FloodGone);
                frame.count(before, gone, |network| network.dropped.add(1));
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Lets the frame wait that was received as `rx`, in `network` with the switch's `tag`; it has left by the port `served`.
    /// `is_station`: it is from an access port, which has a share.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn put(
        &mut self,
        (rx, bytes): (&Received, &[u8]),
        (network, tag): (NetworkId, Option<Tag>),
        served: Option<PortId>,
        is_station: bool,
    ) -> Result<(), DropReason> {
        let share = &mut self.shares[rx.ingress.index()];
        let fits =
            self.frames.len() < FRAMES && self.bytes.len() + bytes.len() <= BYTES && bytes.len() <= MAX_FRAME;
        if !fits || is_station && *share >= SHARE {
            return Err(DropReason::FloodBacklog);
        }
        *share += 1;
        let &Received { ingress, isolated, offload, .. } = rx;
        let len = bytes.len();
        self.bytes.extend(bytes);
        self.frames.push_back(Waiting {
            ingress,
            network,
            isolated,
            tag,
            served,
            is_gone: false,
            offload,
            len,
        });
        Ok(())
    }

    /// Moves the oldest frame into `batch`, if it is of `network` (`None`: of any).
    pub(super) fn take(&mut self, network: Option<NetworkId>, batch: &mut Batch) -> Option<Waiting> {
        let next = self.frames.front()?;
        if network.is_some_and(|network| network != next.network) {
            return None;
        }
        let frame = self.frames.pop_front()?;
        let Waiting { ingress, network, isolated, offload, len, .. } = frame;
        let buffer = &mut batch.spare().next()?[HEADROOM..HEADROOM + len];
        let (front, back) = self.bytes.as_slices();
        let (begin, end) = buffer.split_at_mut(len.min(front.len()));
        begin.copy_from_slice(&front[..begin.len()]);
        end.copy_from_slice(&back[..end.len()]);
        self.bytes.drain(..len);
        batch.push(ingress, Some(network), offload, len);
        if isolated {
            batch.isolate();
        }
        self.shares[ingress.index()] -= 1;
        Some(frame)
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog").field("frames", &self.frames.len()).finish_non_exhaustive()
    }
}
