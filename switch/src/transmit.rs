//! The way out: what leaves by which port, and in which form.
//!
//! The forwarder pushes slot numbers, not bytes ([`Egress`]). When a batch is decided, each port that has
//! something to send is served once, in arrival order ([`Transmit`]). A frame is never rewritten: a tag that
//! must be pushed goes out as a slice of its own, and only a frame that the device cannot take as it is gets
//! copied, cut and completed.

use std::io;

use crate::{
    addr::PortId,
    batch::Batch,
    counters::PortCounters,
    drops::DropReason,
    frame::{ADDRESSES, ETHERNET_HEADER, MAX_FRAME, TAG, Tag},
    offload::{Capabilities, Offload, VNET_HEADER},
    checksum,
    segment::Segmenter,
};

/// What an egress port must do to the outer tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagOp {
    /// Nothing.
    Keep,
    /// Take it off.
    Pop,
    /// Put this one on.
    Push(Tag),
    /// Put this one in its place.
    Replace(Tag),
}

/// One frame that leaves: its slot in the batch, and what happens to its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// The slot in the batch.
    pub slot: u16,
    /// What happens to its tag.
    pub tag: TagOp,
}

/// What leaves by which port after a batch was decided.
#[derive(Debug, Default)]
pub struct Egress {
    queues: Vec<Vec<Out>>,
    touched: Vec<PortId>,
}

impl Egress {
    /// Makes room for ports below `ports`, so that pushing never allocates.
    pub fn reserve(&mut self, ports: usize) {
        self.queues.resize_with(ports.max(self.queues.len()), Vec::new);
        for queue in &mut self.queues[..ports] {
            queue.reserve_exact(crate::batch::BATCH);
        }
        self.touched.reserve_exact(ports.saturating_sub(self.touched.len()));
    }

    /// Lets `slot` leave by `port`. At most once per slot and port.
    pub fn push(&mut self, port: PortId, slot: usize, tag: TagOp) {
        let queue = &mut self.queues[port.index()];
        if queue.is_empty() {
            self.touched.push(port);
        }
        #[expect(clippy::cast_possible_truncation, reason = "a batch has 64 slots")]
        queue.push(Out { slot: slot as u16, tag });
    }

    /// Hands each port that has something to send its frames, in the order of the ports' first frames, and is empty
    /// afterwards.
    pub fn drain(&mut self, mut serve: impl FnMut(PortId, &[Out])) {
        for port in self.touched.drain(..) {
            let queue = &mut self.queues[port.index()];
            serve(port, queue);
            queue.clear();
        }
    }
}

/// Where frames are copied, cut and completed when a device cannot take them as they are.
#[derive(Debug)]
pub struct Scratch {
    frame: Box<[u8]>,
    segment: Box<[u8]>,
}

impl Scratch {
    /// Room for one frame and one of its segments.
    pub fn new() -> Self {
        Self { frame: vec![0; MAX_FRAME + TAG].into(), segment: vec![0; MAX_FRAME + TAG].into() }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// The frames that leave by one port after one batch, and the counters that tell what became of them.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// The port.
    pub port: PortId,
    /// Where the frames lie.
    pub batch: &'a Batch,
    /// Which of them leave, in order.
    pub outs: &'a [Out],
    /// Octets of the longest frame the port may send.
    pub max_frame: usize,
    /// The port's counters; [`Transmit::each`] keeps them.
    pub counters: &'a PortCounters,
}

/// A frame in the form in which a device takes it. Slices are to be sent one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    /// As it lies in the batch: the offload header, then the frame, in one slice.
    Whole(&'a [u8]),
    /// The offload header, and the frame in up to three slices.
    Parts([u8; VNET_HEADER], [&'a [u8]; 3]),
    /// A frame of its own without any offload: a segment, or one whose checksum was completed.
    Plain(&'a [u8]),
}

impl Transmit<'_> {
    /// Brings each frame into a form that a device with `capabilities` takes, hands it to `send`, and counts.
    ///
    /// `send` returns what became of it: an error ends the frame (further segments of it are not sent), not the rest.
    pub fn each(
        &self,
        capabilities: Capabilities,
        scratch: &mut Scratch,
        mut send: impl FnMut(usize, Form<'_>) -> Result<(), DropReason>,
    ) {
        for (index, out) in self.outs.iter().enumerate() {
            let result = self.one(*out, capabilities, scratch, |form| send(index, form));
            self.count(*out, result);
        }
    }

    /// Counts what became of `out`: `Ok` holds the wire frames it was cut into, 1 if it left whole.
    pub fn count(&self, out: Out, result: Result<usize, DropReason>) {
        let slot = usize::from(out.slot);
        self.counters.offered.add(1);
        match result {
            Ok(pieces) => {
                self.counters.tx_frames.add(1);
                self.counters.tx_bytes.add(self.batch.bytes(slot).len() as u64);
                if pieces > 1 {
                    self.counters.tx_segments.add(pieces as u64);
                } else if self.batch.frames()[slot].offload.gso.is_some() {
                    self.counters.tx_super.add(1);
                }
            }
            Err(reason) => self.counters.drop(reason),
        }
    }

    fn one(
        &self,
        out: Out,
        capabilities: Capabilities,
        scratch: &mut Scratch,
        mut send: impl FnMut(Form<'_>) -> Result<(), DropReason>,
    ) -> Result<usize, DropReason> {
        let slot = usize::from(out.slot);
        let bytes = self.batch.bytes(slot);
        let offload = self.batch.frames()[slot].offload;
        if bytes.len() > self.max_frame && offload.wire_len(bytes.len()) > self.max_frame {
            return Err(DropReason::PktTooBig);
        }
        let takes = capabilities.takes(&offload);
        if takes && out.tag == TagOp::Keep {
            return send(Form::Whole(self.batch.with_header(slot))).map(|()| 1);
        }
        let mut tag = [0; TAG];
        let (parts, offload) = retag(bytes, offload, out.tag, &mut tag);
        if takes {
            return send(Form::Parts(offload.emit(), parts)).map(|()| 1);
        }
        let len = gather(&parts, &mut scratch.frame).ok_or(DropReason::PktTooBig)?;
        finish(&mut scratch.frame[..len], offload, &mut scratch.segment, |frame| send(Form::Plain(frame)))
    }
}

/// The frame in slices with its tag dealt with, and its offload with the offsets moved accordingly.
fn retag<'a>(bytes: &'a [u8], offload: Offload, op: TagOp, tag: &'a mut [u8; TAG]) -> ([&'a [u8]; 3], Offload) {
    let (addresses, rest) = bytes.split_at(ADDRESSES);
    match op {
        TagOp::Keep => ([bytes, &[], &[]], offload),
        TagOp::Pop => ([addresses, &rest[TAG..], &[]], offload.shifted(-(TAG as i16))),
        TagOp::Push(new) => {
            *tag = new.to_bytes();
            ([addresses, tag, rest], offload.shifted(TAG as i16))
        }
        TagOp::Replace(new) => {
            *tag = new.to_bytes();
            ([addresses, tag, &rest[TAG..]], offload)
        }
    }
}

fn gather(parts: &[&[u8]; 3], into: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    for part in parts {
        into.get_mut(len..len + part.len())?.copy_from_slice(part);
        len += part.len();
    }
    Some(len)
}

/// Does what the sender left to the device: cuts a super-frame, or completes a checksum.
fn finish(
    frame: &mut [u8],
    offload: Offload,
    scratch: &mut [u8],
    mut send: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<usize, DropReason> {
    if offload.gso.is_some() {
        let mut pieces = 0;
        for segment in Segmenter::new(frame, &offload) {
            let len = segment.copy_into(scratch);
            send(&scratch[..len])?;
            pieces += 1;
        }
        return Ok(pieces);
    }
    checksum::complete(frame, offload.csum);
    send(frame).map(|()| 1)
}

/// What an error of a device means for the frame that met it.
pub fn drop_reason(error: &io::Error) -> DropReason {
    match error.kind() {
        io::ErrorKind::WouldBlock => DropReason::FullRing,
        _ => match error.raw_os_error() {
            Some(ENOBUFS) => DropReason::FullRing,
            Some(EMSGSIZE) => DropReason::PktTooBig,
            Some(EIO | ENXIO | EBADFD | ENODEV | ENETDOWN) => DropReason::DevReady,
            _ => DropReason::DevTxError,
        },
    }
}

// Linux's numbers (include/uapi/asm-generic/errno{,-base}.h); the pure core has no libc.
const EIO: i32 = 5;
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const EBADFD: i32 = 77;
const EMSGSIZE: i32 = 90;
const ENETDOWN: i32 = 100;
const ENOBUFS: i32 = 105;

const _: () = assert!(ETHERNET_HEADER == ADDRESSES + 2);
