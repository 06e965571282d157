//! A cable that loses, duplicates, delays and reorders frames, driven by a seed.

use vswitch::device::mem::OwnedFrame;

/// One end of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plug {
    /// A port of a switch.
    Port(usize, u16),
    /// A host's network card.
    Host(usize),
    /// A switch's tunnel endpoint as one peer sees it, identified by the peer's port.
    Peer(usize, u16),
}

/// Faults of a cable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Frames lost per thousand.
    pub(crate) loss: u64,
    /// Frames duplicated per thousand.
    pub(crate) repeat: u64,
    /// Frames per thousand that are delayed by up to four more milliseconds, so that others overtake them.
    pub(crate) delay: u64,
    /// One-way delay in milliseconds, at least 1.
    pub(crate) latency: u64,
}

/// Two plugs and the frames in flight between them.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) ends: [Plug; 2],
    faults: Faults,
    /// Due time, destination and frame, in no particular order.
    under_way: Vec<(u64, Plug, OwnedFrame)>,
    pub(crate) lost: u64,
}

impl Cable {
    pub(crate) fn new(ends: [Plug; 2], faults: Faults) -> Self {
        Self { ends, faults, under_way: Vec::new(), lost: 0 }
    }

    /// Enqueues a frame sent by `from`.
    pub(crate) fn send(&mut self, from: Plug, packet: &OwnedFrame, now: u64, random: &mut Random) {
        let to = if self.ends[0] == from { self.ends[1] } else { self.ends[0] };
        if random.chance(self.faults.loss) {
            self.lost += 1;
            return;
        }
        for _ in 0..1 + u64::from(random.chance(self.faults.repeat)) {
            let late = if random.chance(self.faults.delay) { 1 + random.next() % 4 } else { 0 };
            self.under_way.push((now + self.faults.latency.max(1) + late, to, packet.clone()));
        }
    }

    /// Removes and returns the frames due by `now`, in order of arrival.
    pub(crate) fn arrive(&mut self, now: u64) -> Vec<(Plug, OwnedFrame)> {
        self.under_way.sort_by_key(|(due, ..)| *due);
        let arrived = self.under_way.partition_point(|(due, ..)| *due <= now);
        self.under_way.drain(..arrived).map(|(_, to, packet)| (to, packet)).collect()
    }

    /// Due time of the next frame.
    pub(crate) fn next(&self) -> Option<u64> {
        self.under_way.iter().map(|(due, ..)| *due).min()
    }
}

/// A xorshift generator (Marsaglia, 2003).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.next() % 1000 < of_a_thousand
    }
}
