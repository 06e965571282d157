//! The frames of one turn, in buffers that are allocated once.
//!
//! Every frame has headroom for the offload header, so a frame that is forwarded unchanged leaves in the
//! single slice it was received in.

use std::{fmt, ops::Range};

use crate::{
    addr::{NetworkId, PortId},
    balance::Translation,
    wire::{
        frame::{ADDRESSES, MAX_FRAME, TAG, TAG_SHIFT},
        giant::MAX_PIECES,
        offload::{LONG_HEADER, Offload},
    },
};

/// Maximum number of frames requested from a device at once.
pub const BATCH: usize = 64;

/// Maximum number of frames in one message, whose count a device learns only after receiving it: the
/// datagrams of one super-datagram (`UDP_MAX_SEGMENTS`, include/linux/udp.h), each of which a tunnel turns
/// into a frame.
pub const TRAIN: usize = 128;

/// Capacity in frames: room for one more train while the batch holds fewer than [`BATCH`].
pub const CAPACITY: usize = BATCH + TRAIN;

/// Bytes after which a device that receives frame by frame ends the batch: more would be evicted from the
/// second-level cache before they are sent.
pub const GULP: usize = 256 << 10;

/// Bytes before each frame: an offload header, and room for a VLAN tag that the kernel stripped.
pub const HEADROOM: usize = 32;

/// Distance between buffers: room for the longest frame, and 19 cache lines more than 64 KB so that the first
/// lines of all buffers do not map to the same cache set.
const STRIDE: usize = 65_536 + 19 * 64;

const _: () = assert!(HEADROOM + MAX_FRAME <= STRIDE && HEADROOM >= LONG_HEADER + TAG);

/// Number of [giants](Batch::giants).
pub const GIANTS: usize = 8;

/// Length of a giant in bytes: room for the longest super-frame of the kernel (`GSO_MAX_SIZE` bytes behind its headers,
/// include/linux/netdevice.h).
const GIANT: usize = 8 * STRIDE;

/// Position of the first giant: they are the last buffers.
const FIRST_GIANT: usize = CAPACITY * STRIDE - GIANTS * GIANT;

const _: () = assert!(GIANT >= 8 * 65_535 + 1024 && GIANTS * MAX_PIECES * STRIDE <= FIRST_GIANT);

/// Metadata of a received frame.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The ingress port.
    pub ingress: PortId,
    /// Its network, if the device knows it (tunnels).
    pub network: Option<NetworkId>,
    /// Whether an isolated port of another host sent it, if the device knows (tunnels).
    pub isolated: bool,
    /// Offload work that the sender left to the device.
    pub offload: Offload,
    // Of 32 bits, so that a batch's metadata stays short.
    start: u32,
    len: u32,
}

impl Received {
    /// Length of the frame in bytes.
    #[inline]
    pub(crate) fn frame_len(&self) -> usize {
        self.len as usize
    }

    /// Start and end of the frame in the batch's memory.
    #[inline]
    fn place(&self) -> (usize, usize) {
        (self.start as usize, self.start as usize + self.len as usize)
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

    /// Removes all frames.
    pub fn clear(&mut self) {
        self.frames.clear();
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are no frames.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Number of frames that still fit.
    pub fn room(&self) -> usize {
        CAPACITY - self.frames.len()
    }

    /// The free buffers, in the order in which frames are pushed. A frame must begin at [`HEADROOM`]; the
    /// offload header precedes it.
    #[inline]
    pub fn spare(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memory.chunks_exact_mut(STRIDE).skip(self.frames.len())
    }

    /// Moves the bytes `range` of the buffer that is `ahead` buffers after the next into the next.
    ///
    /// For devices that receive into many buffers at once and then skip one.
    pub fn shift_spare(&mut self, ahead: usize, range: Range<usize>) {
        let next = self.frames.len() * STRIDE;
        let from = next + ahead * STRIDE;
        self.memory.copy_within(from + range.start..from + range.end, next + range.start);
    }

    /// Buffers for what is longer than a frame, of which a device makes [up to nine](MAX_PIECES) frames each. They are free
    /// while an empty batch is filled with no more than that.
    pub fn giants(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memory[FIRST_GIANT..].chunks_exact_mut(GIANT)
    }

    /// The giant number `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn giant(&self, index: usize) -> &[u8] {
        &self.memory[FIRST_GIANT + index * GIANT..][..GIANT]
    }

    /// Copies the bytes `range` of the giant number `index` to the position `to` of the next buffer.
    ///
    /// # Panics
    /// If there is no such giant or it has no such bytes.
    pub fn bring(&mut self, index: usize, range: Range<usize>, to: usize) {
        let from = FIRST_GIANT + index * GIANT;
        let next = self.frames.len() * STRIDE;
        self.memory.copy_within(from + range.start..from + range.end, next + to);
    }

    /// Appends the frame of `len` bytes that was received into the next buffer at [`HEADROOM`].
    ///
    /// # Panics
    /// If the batch is full or `len` exceeds [`MAX_FRAME`]: the device wrote outside the buffer that it was
    /// given.
    #[inline]
    pub fn push(&mut self, ingress: PortId, network: Option<NetworkId>, offload: Offload, len: usize) {
        assert!(self.room() > 0 && len <= MAX_FRAME);
        #[expect(clippy::cast_possible_truncation, reason = "the memory of a batch has 13 MB")]
        let (start, len) = ((self.frames.len() * STRIDE + HEADROOM) as u32, len as u32);
        self.frames.push(Received { ingress, network, isolated: false, offload, start, len });
        self.write_header(self.frames.len() - 1);
    }

    /// Appends a copy of `bytes`, of `network` if it is known; false if the batch is full or `bytes` is longer than [`MAX_FRAME`].
    pub fn push_copy(
        &mut self,
        ingress: PortId,
        network: Option<NetworkId>,
        offload: Offload,
        bytes: &[u8],
    ) -> bool {
        let Some(buffer) = self.spare().next().filter(|_| bytes.len() <= MAX_FRAME) else { return false };
        buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        self.push(ingress, network, offload, bytes.len());
        true
    }

    /// Marks the last frame as sent by an isolated port of another host.
    #[inline]
    pub fn isolate(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.isolated = true;
        }
    }

    /// Restores the tag (protocol and control information, as on the wire) that the kernel stripped from the
    /// last frame (`PACKET_AUXDATA`), moving the addresses forward.
    pub fn restore_tag(&mut self, tag: [u8; TAG]) {
        let Some(frame) = self.frames.last_mut() else { return };
        if frame.frame_len() < ADDRESSES {
            return;
        }
        let old = frame.start as usize;
        let tag_len = u32::from(TAG_SHIFT.unsigned_abs());
        (frame.start, frame.len) = (frame.start - tag_len, frame.len + tag_len);
        frame.offload = frame.offload.shifted(TAG_SHIFT);
        let start = frame.start as usize;
        self.memory.copy_within(old..old + ADDRESSES, start);
        self.memory[start + ADDRESSES..start + ADDRESSES + TAG].copy_from_slice(&tag);
        self.write_header(self.frames.len() - 1);
    }

    /// The frames, in the order they were received.
    #[inline]
    pub fn frames(&self) -> &[Received] {
        &self.frames
    }

    /// The frames and their bytes, in the order they were received.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (&Received, &[u8])> {
        self.frames.iter().map(|rx| {
            let (start, end) = rx.place();
            (rx, &self.memory[start..end])
        })
    }

    /// The bytes of the frame at `slot`, from its destination address on.
    #[inline]
    pub fn bytes(&self, slot: usize) -> &[u8] {
        let (start, end) = self.frames[slot].place();
        &self.memory[start..end]
    }

    /// The bytes of the frame at `slot`, preceded by its offload header: the long one, which begins with the short one.
    #[inline]
    pub(crate) fn with_header(&self, slot: usize) -> &[u8] {
        let (start, end) = self.frames[slot].place();
        &self.memory[start - LONG_HEADER..end]
    }

    /// Exchanges the heads of frames for these, which keep the frames' own until they are exchanged again.
    pub(crate) fn exchange(&mut self, heads: &mut [Translation]) {
        for head in heads {
            let (start, _) = self.frames[head.slot()].place();
            let bytes = head.bytes_mut();
            self.memory[start..start + bytes.len()].swap_with_slice(bytes);
        }
    }

    #[inline]
    fn write_header(&mut self, slot: usize) {
        let (start, _) = self.frames[slot].place();
        let header = self.frames[slot].offload.emit_long();
        self.memory[start - LONG_HEADER..start].copy_from_slice(&header);
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
        assert_eq!(&batch.with_header(0)[..LONG_HEADER], [0; LONG_HEADER]);
        assert_eq!(&batch.with_header(0)[LONG_HEADER..], batch.bytes(0));
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
