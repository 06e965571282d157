//! The frames of one turn, in buffers that are allocated once.
//!
//! Every frame has room in front of it: a device puts the offload header there, so a frame that passes
//! unchanged leaves with the same single slice it came in.

use std::{fmt, ops::Range};

use crate::{
    addr::{NetworkId, PortId},
    wire::{
        frame::{ADDRESSES, MAX_FRAME, TAG, TAG_SHIFT},
        offload::{Offload, VNET_HEADER},
    },
};

/// Frames asked of a device at once at most.
pub const BATCH: usize = 64;

/// The most frames that can come in one piece, so that a device knows only afterwards how many they were: the datagrams of one
/// super-datagram (`UDP_MAX_SEGMENTS`, include/linux/udp.h), of which a tunnel makes a frame each.
pub const TRAIN: usize = 128;

/// Frames a batch holds: room for one train more while it holds fewer than [`BATCH`].
pub const CAPACITY: usize = BATCH + TRAIN;

/// Octets after which a device that receives frame by frame ends the batch: more would have left the second-level cache
/// before they are sent.
pub const GULP: usize = 256 << 10;

/// Octets before each frame: an offload header, and room for a VLAN tag that the kernel took off.
pub const HEADROOM: usize = 32;

/// Distance of two buffers: room for the longest frame, and 19 cache lines more than 64 KB so that the
/// first lines of all buffers do not compete for the same cache set.
const STRIDE: usize = 65_536 + 19 * 64;

const _: () = assert!(HEADROOM + MAX_FRAME <= STRIDE && HEADROOM >= VNET_HEADER + TAG);

/// One received frame and what is known of it beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Where it came in.
    pub ingress: PortId,
    /// Its network, if the device knows it (tunnels).
    pub network: Option<NetworkId>,
    /// What its sender left for the device to do.
    pub offload: Offload,
    start: usize,
    len: usize,
}

impl Received {
    /// Octets of the frame.
    #[inline]
    pub fn octets(&self) -> usize {
        self.len
    }
}

/// Up to [`CAPACITY`] received frames.
pub struct Batch {
    memory: Box<[u8]>,
    frames: Vec<Received>,
}

impl Batch {
    /// An empty batch; 13 MB of address space, of which only what frames use is ever touched.
    pub fn new() -> Self {
        Self { memory: vec![0; STRIDE * CAPACITY].into(), frames: Vec::with_capacity(CAPACITY) }
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.frames.clear();
    }

    /// Frames held.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames that still fit.
    pub fn room(&self) -> usize {
        CAPACITY - self.frames.len()
    }

    /// The buffers of the frames to come, in the order of the pushes that will name them. A frame is to begin at
    /// [`HEADROOM`]; a device's header stands before it.
    #[inline]
    pub fn spare(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memory.chunks_exact_mut(STRIDE).skip(self.frames.len())
    }

    /// Moves the octets `range` of the buffer `ahead` buffers after the next into the next.
    ///
    /// For devices that receive into many buffers at once and then leave one out.
    pub fn shift_spare(&mut self, ahead: usize, range: Range<usize>) {
        let next = self.frames.len() * STRIDE;
        let from = next + ahead * STRIDE;
        self.memory.copy_within(from + range.start..from + range.end, next + range.start);
    }

    /// Takes the frame of `len` octets that was received into the next buffer at [`HEADROOM`].
    ///
    /// # Panics
    /// If the batch is full or `len` exceeds [`MAX_FRAME`]: the device wrote where it was not offered room.
    #[inline]
    pub fn push(&mut self, ingress: PortId, network: Option<NetworkId>, offload: Offload, len: usize) {
        assert!(self.room() > 0 && len <= MAX_FRAME);
        let start = self.frames.len() * STRIDE + HEADROOM;
        self.frames.push(Received { ingress, network, offload, start, len });
        self.write_header(self.frames.len() - 1);
    }

    /// Takes a copy of `bytes`; false if the batch is full or they are longer than [`MAX_FRAME`].
    pub fn push_copy(&mut self, ingress: PortId, offload: Offload, bytes: &[u8]) -> bool {
        let Some(buffer) = self.spare().next().filter(|_| bytes.len() <= MAX_FRAME) else { return false };
        buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        self.push(ingress, None, offload, bytes.len());
        true
    }

    /// Puts back the tag (protocol and control information, as on the wire) that the kernel took off the last frame
    /// (`PACKET_AUXDATA`), moving its addresses forward.
    pub fn restore_tag(&mut self, tag: [u8; TAG]) {
        let Some(frame) = self.frames.last_mut() else { return };
        if frame.len < ADDRESSES {
            return;
        }
        let old = frame.start;
        frame.start -= TAG;
        frame.len += TAG;
        frame.offload = frame.offload.shifted(TAG_SHIFT);
        let start = frame.start;
        self.memory.copy_within(old..old + ADDRESSES, start);
        self.memory[start + ADDRESSES..start + ADDRESSES + TAG].copy_from_slice(&tag);
        self.write_header(self.frames.len() - 1);
    }

    /// The frames, in the order they were received.
    #[inline]
    pub fn frames(&self) -> &[Received] {
        &self.frames
    }

    /// The frames and their octets, in the order they were received.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (&Received, &[u8])> {
        self.frames.iter().map(|rx| (rx, &self.memory[rx.start..rx.start + rx.len]))
    }

    /// The octets of the frame at `slot`, from its destination address on.
    #[inline]
    pub fn bytes(&self, slot: usize) -> &[u8] {
        let Received { start, len, .. } = self.frames[slot];
        &self.memory[start..start + len]
    }

    /// The octets of the frame at `slot` with its offload header before them.
    #[inline]
    pub fn with_header(&self, slot: usize) -> &[u8] {
        let Received { start, len, .. } = self.frames[slot];
        &self.memory[start - VNET_HEADER..start + len]
    }

    #[inline]
    fn write_header(&mut self, slot: usize) {
        let Received { start, offload, .. } = self.frames[slot];
        self.memory[start - VNET_HEADER..start].copy_from_slice(&offload.emit());
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.frames).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Tag;

    #[test]
    fn a_tag_is_put_back_between_addresses_and_type() {
        let mut batch = Batch::new();
        let frame = *b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00rest";
        batch.spare().next().unwrap()[HEADROOM..][..frame.len()].copy_from_slice(&frame);
        batch.push(PortId(3), None, Offload::NONE, frame.len());
        assert_eq!(batch.bytes(0), frame);
        batch.restore_tag(Tag(0x600a).to_bytes());
        assert_eq!(
            batch.bytes(0),
            b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x81\x00\x60\x0a\x08\x00rest"
        );
        assert_eq!(&batch.with_header(0)[..VNET_HEADER], [0; VNET_HEADER]);
        assert_eq!(&batch.with_header(0)[VNET_HEADER..], batch.bytes(0));
    }

    #[test]
    fn buffers_are_offered_in_the_order_of_pushes() {
        let mut batch = Batch::new();
        for (id, buffer) in (0..).zip(batch.spare()) {
            buffer[HEADROOM] = id;
        }
        for id in 0..CAPACITY {
            batch.push(PortId(0), None, Offload::NONE, 1);
            assert_eq!(usize::from(batch.bytes(id)[0]), id);
        }
        assert_eq!(batch.room(), 0);
        batch.clear();
        assert_eq!(batch.room(), CAPACITY);
    }
}
