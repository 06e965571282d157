//! Transmission: which frames leave by which port, and in which form.
//!
//! The forwarder pushes slot numbers, not bytes ([`Egress`]). After a batch is decided, each port with frames
//! to send is served once, in arrival order ([`Transmit`]). Frames are never rewritten, but for services, and then in a
//! [copy of the head](crate::balance): a pushed tag is sent as a slice of its own, and only a frame that the device does not take as it is is copied, segmented and
//! completed.

use std::fmt;

use crate::{
    addr::{NetworkId, PortId},
    batch::{BATCH, Batch, CAPACITY},
    counters::PortCounters,
    drops::DropReason,
    icmp,
    wire::{
        frame::{ADDRESSES, ETHERNET_HEADER, MAX_FRAME, TAG, TAG_SHIFT, Tag},
        headers::link,
        offload::{Capabilities, LONG_HEADER, Offload, VNET_HEADER},
        segment::Segmenter,
    },
};

/// What the egress port does to the outer tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagOp {
    /// Keep it.
    Keep,
    /// Remove it.
    Pop,
    /// Insert this one.
    Push(Tag),
    /// Replace it with this one.
    Replace(Tag),
}

impl TagOp {
    /// The parts of `frame` after the operation: the addresses, a new tag, and the rest.
    pub(crate) fn apply(self, frame: &[u8]) -> (&[u8], Option<Tag>, &[u8]) {
        let (addresses, rest) = frame.split_at(ADDRESSES);
        match self {
            Self::Keep => (addresses, None, rest),
            Self::Pop => (addresses, None, &rest[TAG..]),
            Self::Push(tag) => (addresses, Some(tag), rest),
            Self::Replace(tag) => (addresses, Some(tag), &rest[TAG..]),
        }
    }

    /// By how many bytes the data after the tag moves.
    fn shift(self) -> i16 {
        match self {
            Self::Keep | Self::Replace(_) => 0,
            Self::Pop => -TAG_SHIFT,
            Self::Push(_) => TAG_SHIFT,
        }
    }
}

/// An outgoing frame: its slot in the batch, its network, and the operation on its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// The slot in the batch, and [`FLOODED`].
    slot: u16,
    /// Its network, which a tunnel sends along.
    pub network: NetworkId,
    /// The operation on its tag.
    pub tag: TagOp,
}

/// Bit of `Out::slot`: the frame leaves by every port of its network, since its destination is a group or unknown.
const FLOODED: u16 = 1 << 15;

// Measured (2026-11-27, AMD EPYC, `vswitch-bench memory`): with ten bytes unicast and flooding are 6 % slower.
const _: () = assert!(size_of::<Out>() == 8 && CAPACITY <= FLOODED as usize);

impl Out {
    /// The frame in `slot` of a batch, for the port of its destination.
    #[inline]
    pub fn new(slot: usize, network: NetworkId, tag: TagOp) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a batch has fewer slots")]
        Self { slot: slot as u16, network, tag }
    }

    /// The same frame as one that is flooded.
    #[inline]
    pub(crate) fn flooded(self) -> Self {
        Self { slot: self.slot | FLOODED, ..self }
    }

    /// The slot in the batch.
    #[inline]
    pub fn slot(self) -> usize {
        usize::from(self.slot & !FLOODED)
    }

    pub(crate) fn is_flooded(self) -> bool {
        self.slot & FLOODED != 0
    }
}

/// The outgoing frames of a decided batch, by port.
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
            queue.reserve_exact(CAPACITY);
        }
        self.touched.reserve_exact(ports.saturating_sub(self.touched.len()));
    }

    /// Queues `out` for `port`. At most once per slot and port.
    #[inline(always)]
    pub fn push(&mut self, port: PortId, out: Out) {
        let queue = &mut self.queues[port.index()];
        if queue.is_empty() {
            self.touched.push(port);
        }
        queue.push(out);
    }

    /// Passes each port's frames to `serve`, in the order of the ports' first frames, and leaves the queues
    /// empty.
    pub fn drain(&mut self, mut serve: impl FnMut(PortId, &mut [Out])) {
        for port in self.touched.drain(..) {
            let queue = &mut self.queues[port.index()];
            serve(port, queue);
            queue.clear();
        }
    }
}

/// Scratch memory for frames that a device does not take as they are.
///
/// Also collects answers to senders: of devices that cannot carry their frames, and of the switch to what they ask.
#[derive(Debug)]
pub struct Scratch {
    /// Room for one frame.
    pub frame: Box<[u8]>,
    /// Room for another one: a segment, or many small headers.
    pub segment: Box<[u8]>,
    /// Answers to senders.
    pub answers: Answers,
}

/// Frames that are returned to senders at the end of the turn.
#[derive(Debug)]
pub struct Answers(Vec<Answer>);

/// A frame that tells a sender "packet too big", or the address it asks for.
#[derive(Clone, Copy, Debug)]
struct Answer {
    to: PortId,
    network: NetworkId,
    len: usize,
    bytes: [u8; MAX_ANSWER],
}

/// Bytes of the longest [answer](Answers).
pub const MAX_ANSWER: usize = 256;

/// Maximum number of devices' answers per turn. A sender without an answer gets one when it retransmits.
const ANSWERS: usize = 8;

impl Scratch {
    /// Room for one frame and one of its segments.
    pub fn new() -> Self {
        Self {
            frame: vec![0; MAX_FRAME + TAG].into(),
            segment: vec![0; MAX_FRAME + TAG].into(),
            answers: Answers(Vec::with_capacity(ANSWERS + BATCH)),
        }
    }
}

impl Answers {
    /// Queues `frame` of `network` for `to`. Ignored if it is longer than [`MAX_ANSWER`] or the queue is full: it has room for
    /// an answer to each frame of a batch and [`ANSWERS`] more.
    pub(crate) fn push(&mut self, to: PortId, network: NetworkId, frame: &[u8]) {
        let mut bytes = [0; MAX_ANSWER];
        if let Some(front) = bytes.get_mut(..frame.len())
            && self.0.len() < self.0.capacity()
        {
            front.copy_from_slice(frame);
            self.0.push(Answer { to, network, len: frame.len(), bytes });
        }
    }

    /// Passes the answers pushed since the last call to `each`, with their egress port and network.
    pub fn take(&mut self, mut each: impl FnMut(PortId, NetworkId, &[u8])) {
        for answer in self.0.drain(..) {
            each(answer.to, answer.network, &answer.bytes[..answer.len]);
        }
    }

    /// Number of answers.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets all but the first `len` answers.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Observes the outcome of each outgoing frame; implemented by captures.
pub trait Witness: fmt::Debug {
    /// `out` of `frames` ended with `result`, as passed to [`Transmit::count`].
    fn sent(&self, frames: &Transmit<'_>, out: Out, result: Result<usize, DropReason>);
}

/// The outgoing frames of one port after one batch, and the counters for their outcomes.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// The port.
    pub port: PortId,
    /// The batch that holds the frames.
    pub batch: &'a Batch,
    /// The outgoing frames, in order.
    pub outs: &'a [Out],
    /// Maximum frame length of the port, in bytes.
    pub max_frame: usize,
    /// The port's counters.
    pub counters: &'a PortCounters,
    /// Also observes the outcomes.
    pub witness: Option<&'a dyn Witness>,
}

/// A frame in the form that a device takes.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    /// As in the batch: long offload header and frame in one slice.
    Whole(&'a [u8]),
    /// A new head, and the rest as in the batch.
    Retagged(Head, &'a [u8]),
    /// A frame whose offload the device does not take: [`cut`] turns it into wire frames.
    Uncut(Head, &'a [u8], Offload),
    /// A wire frame without offload header: a segment, or a frame whose checksum was completed.
    Wire(&'a [u8]),
}

/// The offload header, the addresses and the tag of a frame whose tag changed.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; LONG_HEADER + ADDRESSES + TAG],
    len: usize,
}

impl Head {
    fn new(offload: &Offload, addresses: &[u8], tag: Option<Tag>) -> Self {
        let mut bytes = [0; LONG_HEADER + ADDRESSES + TAG];
        bytes[..LONG_HEADER].copy_from_slice(&offload.emit_long());
        bytes[LONG_HEADER..LONG_HEADER + ADDRESSES].copy_from_slice(addresses);
        let Some(tag) = tag else { return Self { bytes, len: LONG_HEADER + ADDRESSES } };
        bytes[LONG_HEADER + ADDRESSES..].copy_from_slice(&tag.to_bytes());
        Self { bytes, len: bytes.len() }
    }

    /// The long offload header and the head of the frame.
    pub fn with_header(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The short offload header.
    pub fn short_header(&self) -> &[u8] {
        &self.bytes[..VNET_HEADER]
    }

    /// The head of the frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[LONG_HEADER..self.len]
    }
}

impl Form<'_> {
    /// A copy of the frame with its metadata, for devices that keep it.
    pub(crate) fn copied(&self) -> (Offload, Vec<u8>) {
        let (header, bytes) = match self {
            Self::Whole(bytes) => (bytes.first_chunk().copied(), bytes[LONG_HEADER..].to_vec()),
            Self::Retagged(head, rest) | Self::Uncut(head, rest, _) => {
                (head.bytes.first_chunk().copied(), [head.bytes(), rest].concat())
            }
            Self::Wire(bytes) => (None, bytes.to_vec()),
        };
        let offload = header.and_then(|header| Offload::parse_long(&header, &bytes).ok());
        (offload.unwrap_or_default(), bytes)
    }
}

impl<'a> Transmit<'a> {
    /// Converts each frame to a form that a device with `capabilities` takes (never [`Form::Uncut`]), passes
    /// it to `send`, and counts the outcome. An error ends the frame (its remaining segments are not sent)
    /// but not the others.
    pub fn each(
        &self,
        capabilities: Capabilities,
        scratch: &mut Scratch,
        mut send: impl FnMut(Form<'_>) -> Result<(), DropReason>,
    ) {
        for out in self.outs {
            let result = match self.whole(*out, capabilities) {
                Some(bytes) => send(Form::Whole(bytes)).map(|()| 1),
                None => self.reshape_and_send(*out, capabilities, scratch, &mut send),
            };
            if let Err(reason) = result {
                self.failed(*out, reason, &mut scratch.answers);
            }
            self.count(*out, result);
        }
    }

    // A call of its own: were both ways one, each form would pass through memory (5 % of a turn, measured 2026-11-27, AMD EPYC).
    #[inline(never)]
    fn reshape_and_send(
        &self,
        out: Out,
        capabilities: Capabilities,
        scratch: &mut Scratch,
        send: &mut impl FnMut(Form<'_>) -> Result<(), DropReason>,
    ) -> Result<usize, DropReason> {
        match self.reshape(out, capabilities)? {
            Form::Uncut(head, rest, offload) => {
                cut(&head, rest, offload, scratch, |wire| send(Form::Wire(wire)))
            }
            form => send(form).map(|()| 1),
        }
    }

    /// Answers the sender of `out` if it was too long.
    #[cold]
    fn failed(&self, out: Out, reason: DropReason, answers: &mut Answers) {
        if reason == DropReason::PktTooBig {
            self.answer_port(out, answers);
        }
    }

    /// Tells the sender of `out`, which does not fit, that its packets may have `mtu` bytes, and returns whether it is one that
    /// can be told: not that of an IPv4 packet that may be fragmented, nor of one to a group.
    ///
    /// A flooded frame is not answered, since its destination may be elsewhere.
    #[cold]
    pub fn answer(&self, out: Out, mtu: usize, answers: &mut Answers) -> bool {
        let slot = out.slot();
        let mtu = u16::try_from(mtu).ok();
        let answer = mtu.and_then(|mtu| icmp::error(self.batch.bytes(slot), icmp::Cause::TooBig(mtu)));
        if let Some(answer) = answer.as_ref().filter(|_| !out.is_flooded() && answers.len() < ANSWERS) {
            answers.push(self.batch.frames()[slot].ingress, out.network, answer);
        }
        answer.is_some()
    }

    /// The same for a frame that does not fit the port: the port's MTU, less tags beyond the one that does not count.
    #[cold]
    pub(crate) fn answer_port(&self, out: Out, answers: &mut Answers) {
        let network = link(self.batch.bytes(out.slot())).map_or(ETHERNET_HEADER, |(at, _)| at);
        let mtu = self.max_frame.saturating_sub(network.max(ETHERNET_HEADER + TAG));
        self.answer(out, mtu, answers);
    }

    /// The whole outgoing frame and its offload: in place or, if its tag changes, copied to `buffer`. For
    /// devices that segment frames themselves.
    pub fn frame<'s>(&self, out: Out, buffer: &'s mut [u8]) -> Result<(&'s [u8], Offload), DropReason>
    where
        'a: 's,
    {
        let offload = self.batch.frames()[out.slot()].offload;
        match self.form(out, Capabilities::ALL)? {
            Form::Whole(bytes) => Ok((&bytes[LONG_HEADER..], offload)),
            Form::Wire(bytes) => Ok((bytes, offload)),
            Form::Retagged(head, rest) | Form::Uncut(head, rest, _) => {
                let frame = join(&head, rest, buffer)?;
                Ok((frame, offload.shifted(out.tag.shift())))
            }
        }
    }

    /// The form of `out`. For devices that send many frames at once and count the outcomes themselves.
    ///
    /// The unchanged frame is decided inline; the others are a call.
    #[inline(always)]
    pub fn form(&self, out: Out, capabilities: Capabilities) -> Result<Form<'a>, DropReason> {
        match self.whole(out, capabilities) {
            Some(bytes) => Ok(Form::Whole(bytes)),
            None => self.reshape(out, capabilities),
        }
    }

    /// The frame that leaves as it was received, as most do.
    #[inline(always)]
    fn whole(&self, out: Out, capabilities: Capabilities) -> Option<&'a [u8]> {
        let slot = out.slot();
        let with_header = self.batch.with_header(slot);
        let short = with_header.len() <= self.max_frame + LONG_HEADER;
        let stays = out.tag == TagOp::Keep && capabilities.takes(&self.batch.frames()[slot].offload);
        (short && stays).then_some(with_header)
    }

    /// The same for a frame whose form may change.
    #[inline(never)]
    fn reshape(&self, out: Out, capabilities: Capabilities) -> Result<Form<'a>, DropReason> {
        let slot = out.slot();
        let bytes = self.batch.bytes(slot);
        let offload = self.batch.frames()[slot].offload;
        if bytes.len() > self.max_frame && offload.wire_len(bytes.len()) > self.max_frame {
            return Err(DropReason::PktTooBig);
        }
        let takes = capabilities.takes(&offload);
        if takes && out.tag == TagOp::Keep {
            return Ok(Form::Whole(self.batch.with_header(slot)));
        }
        let (addresses, tag, rest) = out.tag.apply(bytes);
        let offload = offload.shifted(out.tag.shift());
        let head = Head::new(&offload, addresses, tag);
        Ok(if takes { Form::Retagged(head, rest) } else { Form::Uncut(head, rest, offload) })
    }

    /// Bytes of all wire frames of `out` before its tag changes.
    pub(crate) fn wire_bytes(&self, out: Out) -> usize {
        let slot = out.slot();
        self.batch.frames()[slot].offload.wire_bytes(self.batch.bytes(slot).len())
    }

    /// Counts the outcome of `out`: `Ok` holds the number of wire frames it was cut into, 1 if it left whole.
    #[inline(always)]
    pub fn count(&self, out: Out, result: Result<usize, DropReason>) {
        let rx = &self.batch.frames()[out.slot()];
        self.counters.offered.add(1);
        if result.is_ok() {
            self.counters.tx_frames.add(1);
            self.counters.tx_bytes.add(rx.frame_len() as u64);
        }
        let is_super = rx.offload.gso.is_some();
        if result != Ok(1) || is_super || self.witness.is_some() {
            self.count_rest(out, result, is_super);
        }
    }

    /// The uncommon part: a call, to keep the common path short.
    #[inline(never)]
    fn count_rest(&self, out: Out, result: Result<usize, DropReason>, is_super: bool) {
        if let Some(witness) = self.witness {
            witness.sent(self, out, result);
        }
        match result {
            Ok(pieces) if pieces > 1 => self.counters.tx_segments.add(pieces as u64),
            Ok(_) if is_super => self.counters.tx_super.add(1),
            Ok(_) => {}
            Err(reason) => self.counters.drop(reason),
        }
    }
}

/// Segments a frame, passes the wire frames to `send` one by one, and returns their number.
///
/// `head`, `rest` and `offload` are those of [`Form::Uncut`]. The first error ends the frame.
pub fn cut(
    head: &Head,
    rest: &[u8],
    offload: Offload,
    scratch: &mut Scratch,
    mut send: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<usize, DropReason> {
    let Scratch { frame, segment, .. } = scratch;
    let frame = join(head, rest, frame)?;
    let segments = Segmenter::new(frame, &offload).map_err(|_| DropReason::DevTxError)?;
    let pieces = segments.len();
    for wire in segments {
        let len = wire.copy_into(segment).ok_or(DropReason::PktTooBig)?;
        send(&segment[..len])?;
    }
    Ok(pieces)
}

/// Assembles a frame at the front of `buffer`.
fn join<'b>(head: &Head, rest: &[u8], buffer: &'b mut [u8]) -> Result<&'b [u8], DropReason> {
    let (begin, len) = (head.bytes().len(), head.bytes().len() + rest.len());
    let frame = buffer.get_mut(..len).ok_or(DropReason::PktTooBig)?;
    frame[..begin].copy_from_slice(head.bytes());
    frame[begin..].copy_from_slice(rest);
    Ok(frame)
}
