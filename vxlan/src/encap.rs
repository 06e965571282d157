//! The way out: the frames of one turn to one peer become datagrams, as many as possible in one send.
//!
//! ```text
//! frames in arrival order
//!   flow            which source port, which traffic class?
//!   size            does each packet of it fit?              PKT_TOO_BIG, and the sender is told
//!   segmenter       packets of a super-frame, checksums final
//!   train           header and packet behind the one before, while lengths allow
//!   send            a train at a time (UDP_SEGMENT)
//! ```
//! Datagrams of a train have one length, but for the last, which may be shorter; one source port and one traffic class. Payload
//! is not copied but sent from where it lies, unless it is so short that copying is cheaper than telling where it is.

use std::{
    fmt,
    io::{self, IoSlice},
    ops::Range,
    str::FromStr,
};

use arrayvec::ArrayVec;
use vswitch::{
    addr::NetworkId,
    batch::CAPACITY,
    device::DeviceError,
    drops::DropReason,
    frame::ETHERNET_HEADER,
    headers::{Headers, IPV4_HEADER, TCP_HEADER, link},
    offload::Csum,
    segment::{Segment, Segmenter},
    transmit::{Answers, Out, Scratch, TagOp, Transmit},
};

use crate::{flow::Flow, header::HEADER, mss, too_big};

/// Octets of a train at most: the payload of the longest UDP datagram over IPv4.
const MAX_TRAIN: usize = 65_507;
/// Datagrams of a train at most, whatever a kernel allows: what a receiving kernel would merge (`UDP_GRO_CNT_MAX`,
/// net/ipv4/udp_offload.c).
pub const MAX_DATAGRAMS: usize = 64;
/// Octets up to which a part is copied.
const COPIED: usize = 256;
/// Parts of a train: header and payload of each datagram.
const PARTS: usize = 2 * MAX_DATAGRAMS;

/// Octets of TCP payload of the longest super-frame whose packets, of `overlay_mtu` octets, leave in one train.
///
/// Senders make super-frames of up to 64 KB, which are some packets too long: each would leave in two trains, the second next to
/// empty, and be received in two.
pub fn longest_super_frame(overlay_mtu: u16) -> usize {
    // With time stamps (RFC 7323), as nearly every connection has them.
    const TCP_IPV4: usize = IPV4_HEADER + TCP_HEADER + 12;
    let packet = usize::from(overlay_mtu);
    let datagrams = (MAX_TRAIN / (HEADER + ETHERNET_HEADER + packet)).min(MAX_DATAGRAMS);
    datagrams * packet.saturating_sub(TCP_IPV4)
}

/// How frames are sent to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Octets of the longest inner packet that reaches the peer in one piece.
    pub overlay_mtu: u16,
    /// Make connections ask for no longer segments than that.
    pub clamp: bool,
    /// What outer headers have for their traffic class.
    pub class: Class,
    /// Datagrams in one send; 1: each by itself.
    pub datagrams: usize,
    /// Source ports to choose from; a power of two.
    pub sources: u8,
}

/// The outer header's differentiated services code point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// This one, below 64.
    Fixed(u8),
    /// The inner packet's.
    Inherit,
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(dscp) => dscp.fmt(f),
            Self::Inherit => f.write_str("inherit"),
        }
    }
}

/// Text that is no differentiated services code point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseDscpError;

impl fmt::Display for ParseDscpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a DSCP: use a number below 64, or \"inherit\"")
    }
}

impl std::error::Error for ParseDscpError {}

impl FromStr for Dscp {
    type Err = ParseDscpError;

    fn from_str(text: &str) -> Result<Self, ParseDscpError> {
        match text.parse() {
            Ok(dscp @ 0..64) => Ok(Self::Fixed(dscp)),
            Err(_) if text == "inherit" => Ok(Self::Inherit),
            _ => Err(ParseDscpError),
        }
    }
}

/// How the outer traffic class follows from the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The bits that are the inner packet's.
    kept: u8,
    /// The others.
    set: u8,
}

/// The bits of a traffic class that tell of congestion (RFC 3168 section 5).
const ECN: u8 = 0b11;

impl Class {
    /// Congestion marks are copied: RFC 6040 section 4.1, normal mode.
    pub const fn marked(dscp: Dscp) -> Self {
        let unmarked = Self::unmarked(dscp);
        Self { kept: unmarked.kept | ECN, ..unmarked }
    }

    /// Congestion is not told of: RFC 6040 section 4.1, compatibility mode. For what nobody would slow down for.
    pub const fn unmarked(dscp: Dscp) -> Self {
        match dscp {
            Dscp::Fixed(dscp) => Self { kept: 0, set: dscp << 2 },
            Dscp::Inherit => Self { kept: !ECN, set: 0 },
        }
    }

    /// The outer traffic class of a packet with this inner one.
    #[inline]
    fn outer(self, inner: u8) -> u8 {
        self.set | inner & self.kept
    }
}

/// Datagrams that leave by one send.
#[derive(Debug)]
pub struct Train<'a> {
    /// The number of the source port.
    pub source: u8,
    /// DSCP and ECN of the outer header.
    pub traffic_class: u8,
    /// How many datagrams.
    pub datagrams: usize,
    /// Octets of each but the last, which may be shorter.
    pub size: usize,
    /// Their octets, one after the other.
    pub parts: &'a [IoSlice<'a>],
}

impl Train<'_> {
    /// Hands over each datagram by itself, for senders that cannot take them together.
    ///
    /// # Errors
    /// The first of `send`; the rest is not sent.
    pub fn each(&self, mut send: impl FnMut(&[IoSlice<'_>]) -> io::Result<()>) -> io::Result<()> {
        let mut parts = self.parts.iter().map(|part| &**part);
        let mut rest: &[u8] = &[];
        for _ in 0..self.datagrams {
            let mut datagram = ArrayVec::<IoSlice<'_>, PARTS>::new();
            let mut missing = self.size;
            while missing > 0 {
                if rest.is_empty() {
                    let Some(part) = parts.next() else { break };
                    rest = part;
                }
                let (front, back) = rest.split_at(rest.len().min(missing));
                datagram.push(IoSlice::new(front));
                (rest, missing) = (back, missing - front.len());
            }
            send(&datagram)?;
        }
        Ok(())
    }
}

/// Sends `frames` by `send`, a train at a time, and counts what became of each. `header` tells with which header the frames of
/// a network leave, if they do.
pub fn encapsulate<'h>(
    header: impl Fn(NetworkId) -> Option<&'h [u8; HEADER]>,
    settings: &Settings,
    frames: &Transmit<'_>,
    scratch: &mut Scratch,
    send: &mut dyn FnMut(&Train<'_>) -> io::Result<()>,
) {
    let Scratch { frame: buffer, segment: arena, answers } = scratch;
    let train = Building::new(arena, settings.datagrams.clamp(1, MAX_DATAGRAMS));
    let mut cargo = Cargo { header, settings, frames, train, aboard: ArrayVec::new(), send };
    for departure in order(settings, frames) {
        let (out, lane) = (frames.outs[departure.position()], departure.lane());
        if lane != cargo.train.lane {
            // What became of it is told to those whom it concerns.
            let _ = cargo.depart();
            cargo.train.lane = lane;
        }
        match cargo.load(out, buffer, answers) {
            Ok(datagrams) => cargo.aboard.push((out, datagrams)),
            Err(reason) => frames.count(out, Err(reason)),
        }
    }
    let _ = cargo.depart();
}

/// What the datagrams of a train have in common, beside the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Lane {
    source: u8,
    traffic_class: u8,
}

/// When a frame leaves: its source port, its position among the frames, and its traffic class, in this order from the highest
/// bits down, so that sorting sorts by port and keeps the order within each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Departure(u32);

const _: () = assert!(CAPACITY <= 1 << 16);

impl Departure {
    #[inline]
    fn new(Lane { source, traffic_class }: Lane, position: u16) -> Self {
        Self(u32::from(source) << 24 | u32::from(position) << 8 | u32::from(traffic_class))
    }

    #[inline]
    fn lane(self) -> Lane {
        let [source, .., traffic_class] = self.0.to_be_bytes();
        Lane { source, traffic_class }
    }

    #[inline]
    fn position(self) -> usize {
        let [_, high, low, _] = self.0.to_be_bytes();
        usize::from(u16::from_be_bytes([high, low]))
    }
}

/// The frames in the order in which they leave: those of one source port together, each flow in the order it came in.
fn order(settings: &Settings, frames: &Transmit<'_>) -> ArrayVec<Departure, CAPACITY> {
    let departures = (0..).zip(frames.outs).map(|(position, out)| {
        let flow = Flow::of(frames.batch.bytes(usize::from(out.slot)));
        let source = (flow.hash >> 24) as u8 & (settings.sources - 1);
        Departure::new(Lane { source, traffic_class: settings.class.outer(flow.traffic_class) }, position)
    });
    let mut departures: ArrayVec<_, CAPACITY> = departures.take(CAPACITY).collect();
    if departures.windows(2).any(|pair| pair[0].lane().source != pair[1].lane().source) {
        departures.sort_unstable();
    }
    departures
}

/// The train that is being loaded, and the frames that are aboard.
struct Cargo<'c, 'a, H> {
    header: H,
    settings: &'c Settings,
    frames: &'c Transmit<'a>,
    train: Building<'c>,
    /// Frames whose last datagram is in the train, and how many each had.
    aboard: ArrayVec<(Out, usize), MAX_DATAGRAMS>,
    send: &'c mut dyn FnMut(&Train<'_>) -> io::Result<()>,
}

impl<'c, 'h, 'a: 'c, H: Fn(NetworkId) -> Option<&'h [u8; HEADER]>> Cargo<'c, 'a, H> {
    /// Puts all datagrams of a frame into trains, sending those that are full, and returns how many they were.
    fn load(&mut self, out: Out, buffer: &mut [u8], answers: &mut Answers) -> Result<usize, DropReason> {
        let Self { settings, frames, .. } = *self;
        let header = (self.header)(out.network).ok_or(DropReason::PortGone)?;
        let received = &frames.batch.frames()[usize::from(out.slot)];
        let lies = frames.batch.bytes(usize::from(out.slot));
        let (frame, offload) = match out.tag {
            TagOp::Keep => (lies, received.offload),
            _ => frames.frame(out, buffer)?,
        };
        let longest = usize::from(settings.overlay_mtu) + ETHERNET_HEADER;
        if offload.wire_len(frame.len()) > longest {
            // Tags that stay on the frame take room from its packet.
            let mtu = link(frame).map_or(0, |(network, _)| longest.saturating_sub(network));
            if let Some(answer) = u16::try_from(mtu).ok().and_then(|mtu| too_big::answer(lies, mtu)) {
                answers.push(received.ingress, &answer);
            }
            return Err(DropReason::PktTooBig);
        }
        let opens =
            settings.clamp && Headers::measure(frame).is_some_and(|headers| mss::opens(frame, &headers));
        if out.tag == TagOp::Keep && !opens && !matches!(offload.csum, Csum::Partial { .. }) {
            self.add(header, &Segment::whole(lies), Some(lies), false)?;
            return Ok(1);
        }
        let mut datagrams = 0;
        if opens || out.tag != TagOp::Keep {
            // Copied: what is changed, and what lies in the buffer, which it does only until the next frame.
            for segment in Segmenter::new(frame, &offload)? {
                let datagram = self.add(header, &segment, None, datagrams > 0)?;
                if opens {
                    clamp(datagram, longest);
                }
                datagrams += 1;
            }
        } else {
            for segment in Segmenter::new(lies, &offload)? {
                self.add(header, &segment, Some(segment.payload), datagrams > 0)?;
                datagrams += 1;
            }
        }
        Ok(datagrams)
    }

    /// Adds one datagram. `lent` is its payload if it stays where it is until the train has left. If the frame's own datagrams
    /// `are_aboard`, it is lost with them. Returns as much of the datagram as was copied.
    fn add(
        &mut self,
        header: &[u8; HEADER],
        segment: &Segment<'_>,
        lent: Option<&'c [u8]>,
        are_aboard: bool,
    ) -> Result<&mut [u8], DropReason> {
        let len = HEADER + segment.wire_len();
        if !self.train.has_room(len) {
            let departed = self.depart();
            if are_aboard {
                departed?;
            }
        }
        self.train.add(len, header, segment, lent).ok_or(DropReason::DevTxError)
    }

    /// Sends the train, if there is anything in it.
    fn depart(&mut self) -> Result<(), DropReason> {
        let result = self.train.send(self.send).map_err(|error| DeviceError::of(&error).drop_reason());
        for (out, datagrams) in self.aboard.drain(..) {
            self.frames.count(out, result.map(|()| datagrams));
        }
        result
    }
}

/// Makes the connection that the frame in `datagram` opens ask for segments that fit `longest` octets.
fn clamp(datagram: &mut [u8], longest: usize) {
    if let Some(frame) = datagram.get_mut(HEADER..)
        && let Some(headers) = Headers::measure(frame)
    {
        // A segment's checksum is complete.
        mss::clamp(frame, &headers, longest, Csum::Unknown);
    }
}

/// A train to which datagrams may be added.
struct Building<'c> {
    lane: Lane,
    /// Where headers and short payload stand; as long as a train.
    arena: &'c mut [u8],
    used: usize,
    parts: ArrayVec<Part<'c>, PARTS>,
    limit: usize,
    datagrams: usize,
    /// Octets of the first datagram, and of all others but the last.
    size: usize,
    octets: usize,
    /// The last datagram was shorter.
    closed: bool,
}

/// Where some octets of a train are.
enum Part<'c> {
    /// In the arena.
    Own(Range<usize>),
    /// Where they were received.
    Lent(&'c [u8]),
}

impl<'c> Building<'c> {
    fn new(arena: &'c mut [u8], limit: usize) -> Self {
        debug_assert!(arena.len() >= MAX_TRAIN);
        Self {
            lane: Lane::default(),
            arena,
            used: 0,
            parts: ArrayVec::new(),
            limit,
            datagrams: 0,
            size: 0,
            octets: 0,
            closed: false,
        }
    }

    /// Whether a datagram of `len` octets may be the next.
    #[inline]
    fn has_room(&self, len: usize) -> bool {
        self.datagrams == 0
            || !self.closed
                && self.datagrams < self.limit
                && len <= self.size
                && self.octets + len <= MAX_TRAIN
    }

    /// Adds a datagram of `len` octets, for which there is room. Returns it as far as it is in the arena, or nothing if it
    /// is longer than any train.
    #[inline]
    fn add(
        &mut self,
        len: usize,
        header: &[u8; HEADER],
        segment: &Segment<'_>,
        lent: Option<&'c [u8]>,
    ) -> Option<&mut [u8]> {
        let start = self.used;
        let free = self.arena.get_mut(start..)?;
        free.get_mut(..HEADER)?.copy_from_slice(header);
        let mut end = HEADER + segment.write_header(free.get_mut(HEADER..)?)?;
        let lent = lent.filter(|payload| payload.len() > COPIED);
        if lent.is_none() {
            free.get_mut(end..end + segment.payload.len())?.copy_from_slice(segment.payload);
            end += segment.payload.len();
        }
        self.used += end;
        match self.parts.last_mut() {
            Some(Part::Own(range)) if range.end == start => range.end = self.used,
            _ => self.parts.push(Part::Own(start..self.used)),
        }
        if let Some(payload) = lent {
            self.parts.push(Part::Lent(payload));
        }
        if self.datagrams == 0 {
            self.size = len;
        }
        self.closed = len < self.size;
        self.datagrams += 1;
        self.octets += len;
        self.arena.get_mut(start..self.used)
    }

    /// Sends what was added, and is empty afterwards.
    fn send(&mut self, send: &mut dyn FnMut(&Train<'_>) -> io::Result<()>) -> io::Result<()> {
        if self.datagrams == 0 {
            return Ok(());
        }
        let parts: ArrayVec<IoSlice<'_>, PARTS> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Own(range) => IoSlice::new(&self.arena[range.clone()]),
                Part::Lent(payload) => IoSlice::new(payload),
            })
            .collect();
        let Lane { source, traffic_class } = self.lane;
        let train =
            Train { source, traffic_class, datagrams: self.datagrams, size: self.size, parts: &parts };
        let result = send(&train);
        self.parts.clear();
        (self.used, self.datagrams, self.octets, self.closed) = (0, 0, 0, false);
        result
    }
}
