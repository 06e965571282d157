//! Encapsulation: the frames of one turn for one peer become datagrams, with as few system calls as possible.
//!
//! ```text
//! frames in arrival order
//!   flow            source port and traffic class
//!   header          is its IP header complete?               IP_INHDR
//!   size            do its packets fit the path?             PKT_TOO_BIG, and an answer to the sender; or fragments
//!   segmenter       packets of a super-frame, checksums final
//!   train           header and packet appended to the train, while lengths allow
//!   send            a train at a time (UDP_SEGMENT)
//! ```
//! The datagrams of a train have the same length, except for the last, which may be shorter; one source port
//! and one traffic class. Payload is not copied but sent in place, unless it is so short that copying is
//! cheaper than another I/O vector.

use std::{
    fmt,
    io::{self, IoSlice},
    ops::Range,
    str::FromStr,
};

use arrayvec::ArrayVec;
use vswitch::{
    addr::{NetworkId, PortId},
    batch::CAPACITY,
    device::DeviceError,
    drops::DropReason,
    frame::ETHERNET_HEADER,
    headers::{Headers, IPV4_HEADER, TCP_HEADER, is_cut_short, link},
    offload::Csum,
    segment::{Segment, Segmenter},
    transmit::{Answers, Out, Scratch, TagOp, Transmit},
};

use crate::{flow::Flow, header::HEADER, mss};

/// Maximum length of a train: the payload of the longest UDP datagram over IPv4.
const MAX_TRAIN: usize = 65_507;
/// Maximum number of datagrams of a train, even if the kernel allows more: what a receiving kernel would
/// merge (`UDP_GRO_CNT_MAX`, net/ipv4/udp_offload.c).
pub const MAX_DATAGRAMS: usize = 64;
/// Length up to which payload is copied, in bytes.
const COPIED: usize = 256;
/// Maximum number of parts of a train: header and payload of each datagram.
const PARTS: usize = 2 * MAX_DATAGRAMS;

/// TCP payload of the longest super-frame whose packets of `overlay_mtu` bytes fit one train, in bytes.
///
/// Senders produce super-frames of up to 64 KB, which are a few packets too long: each would be sent in two
/// trains, the second nearly empty, and received in two.
pub fn longest_super_frame(overlay_mtu: u16) -> usize {
    // With timestamps (RFC 7323), which nearly every connection uses.
    const TCP_IPV4: usize = IPV4_HEADER + TCP_HEADER + 12;
    let packet = usize::from(overlay_mtu);
    let datagrams = (MAX_TRAIN / (HEADER + ETHERNET_HEADER + packet)).min(MAX_DATAGRAMS);
    datagrams * packet.saturating_sub(TCP_IPV4)
}

/// Settings of encapsulation for one peer.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Length of the longest inner packet that reaches the peer unfragmented, in bytes.
    pub overlay_mtu: u16,
    /// Clamp the MSS of connections to it.
    pub clamp: bool,
    /// Traffic class of outer headers.
    pub class: Class,
    /// Maximum number of datagrams per send; 1: each separately.
    pub datagrams: usize,
    /// Number of source ports; a power of two.
    pub sources: u8,
    /// Whether outer headers get the inner packet's time to live, or hop limit.
    pub inherit_ttl: bool,
    /// Whether packets that end within their IP header are dropped, as the kernel does.
    pub whole_headers: bool,
}

/// How the frames of a network are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carriage<'h> {
    /// Their VXLAN header.
    pub header: &'h [u8; HEADER],
    /// Whether datagrams that exceed the path MTU leave in fragments, where the sender is not told to make shorter packets.
    pub fragment: bool,
}

/// The outer header's differentiated services code point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// A fixed value below 64.
    Fixed(u8),
    /// That of the inner packet.
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

/// Text that is not a differentiated services code point.
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

/// The rule that derives the outer traffic class from the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Bits copied from the inner packet.
    kept: u8,
    /// The value of the other bits.
    set: u8,
}

/// The ECN field of a traffic class (RFC 3168 section 5).
const ECN: u8 = 0b11;

impl Class {
    /// Congestion marks are copied: RFC 6040 section 4.1, normal mode.
    pub const fn marked(dscp: Dscp) -> Self {
        let unmarked = Self::unmarked(dscp);
        Self { kept: unmarked.kept | ECN, ..unmarked }
    }

    /// Congestion marks are not copied: RFC 6040 section 4.1, compatibility mode. For traffic whose sender
    /// cannot slow down.
    pub const fn unmarked(dscp: Dscp) -> Self {
        match dscp {
            Dscp::Fixed(dscp) => Self { kept: 0, set: dscp << 2 },
            Dscp::Inherit => Self { kept: !ECN, set: 0 },
        }
    }

    /// The outer traffic class for an inner one.
    #[inline]
    fn outer(self, inner: u8) -> u8 {
        self.set | inner & self.kept
    }
}

/// Datagrams that are sent at once.
#[derive(Debug)]
pub struct Train<'a> {
    /// Index of the source port.
    pub source: u8,
    /// DSCP and ECN of the outer header.
    pub traffic_class: u8,
    /// Time to live, or hop limit, of the outer header; 0: the socket's.
    pub ttl: u8,
    /// Whether the datagrams may be fragmented.
    pub fragment: bool,
    /// Number of datagrams.
    pub datagrams: usize,
    /// Length of each datagram in bytes; the last may be shorter.
    pub size: usize,
    /// Their content, concatenated.
    pub parts: &'a [IoSlice<'a>],
}

impl Train<'_> {
    /// Passes each datagram to `send` separately, for sockets that do not segment.
    ///
    /// # Errors
    /// The first error of `send`; the remaining datagrams are not sent.
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

/// Sends `frames` by `send`, a train at a time, and counts the outcome of each. `carriage` returns how a network is carried
/// for frames that a port received, if it is.
pub fn encapsulate<'h>(
    carriage: impl Fn(NetworkId, PortId) -> Option<Carriage<'h>>,
    settings: &Settings,
    frames: &Transmit<'_>,
    scratch: &mut Scratch,
    send: &mut dyn FnMut(&Train<'_>) -> io::Result<()>,
) {
    let Scratch { frame: buffer, segment: arena, answers } = scratch;
    let train = Building::new(arena, settings.datagrams.clamp(1, MAX_DATAGRAMS));
    let mut cargo = Cargo { carriage, settings, frames, train, aboard: ArrayVec::new(), send };
    for departure in order(settings, frames) {
        let (out, lane) = (frames.outs[departure.position()], departure.lane());
        if lane != cargo.train.lane {
            // Outcomes are reported per frame by `depart`.
            let _ = cargo.depart();
            cargo.train.lane = lane;
        }
        match cargo.load(out, buffer, answers) {
            Ok(datagrams) => cargo.aboard.push((out, datagrams)),
            Err(reason) => frames.count(out, Err(reason)),
        }
        if cargo.train.fragment {
            // The frames after it are not fragmented.
            let _ = cargo.depart();
            cargo.train.fragment = false;
        }
    }
    let _ = cargo.depart();
}

/// Common properties of a train's datagrams, besides the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Lane {
    source: u8,
    traffic_class: u8,
    ttl: u8,
}

/// Sort key of a frame: its source port, its position among the frames, its traffic class and its time to live, from the
/// highest bits down, so that sorting groups frames by port and keeps their order within each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Departure(u32);

const _: () = assert!(CAPACITY <= 1 << 8);

impl Departure {
    #[inline]
    fn new(Lane { source, traffic_class, ttl }: Lane, position: u8) -> Self {
        Self(u32::from_be_bytes([source, position, traffic_class, ttl]))
    }

    #[inline]
    fn lane(self) -> Lane {
        let [source, _, traffic_class, ttl] = self.0.to_be_bytes();
        Lane { source, traffic_class, ttl }
    }

    #[inline]
    fn position(self) -> usize {
        let [_, position, ..] = self.0.to_be_bytes();
        usize::from(position)
    }
}

/// The frames in sending order: grouped by source port, each flow in arrival order.
fn order(settings: &Settings, frames: &Transmit<'_>) -> ArrayVec<Departure, CAPACITY> {
    let departures = (0..).zip(frames.outs).map(|(position, out)| {
        let flow = Flow::of(frames.batch.bytes(out.slot()));
        let source = (flow.hash >> 24) as u8 & (settings.sources - 1);
        let ttl = if settings.inherit_ttl { flow.ttl } else { 0 };
        Departure::new(
            Lane { source, traffic_class: settings.class.outer(flow.traffic_class), ttl },
            position,
        )
    });
    let mut departures: ArrayVec<_, CAPACITY> = departures.take(CAPACITY).collect();
    if departures.windows(2).any(|pair| pair[0].lane().source != pair[1].lane().source) {
        departures.sort_unstable();
    }
    departures
}

/// The current train and its frames.
struct Cargo<'c, 'a, C> {
    carriage: C,
    settings: &'c Settings,
    frames: &'c Transmit<'a>,
    train: Building<'c>,
    /// Frames whose last datagram is in the train, with the number of their datagrams.
    aboard: ArrayVec<(Out, usize), MAX_DATAGRAMS>,
    send: &'c mut dyn FnMut(&Train<'_>) -> io::Result<()>,
}

impl<'c, 'h, 'a: 'c, C: Fn(NetworkId, PortId) -> Option<Carriage<'h>>> Cargo<'c, 'a, C> {
    /// Adds all datagrams of a frame to trains, sends full trains, and returns the number of datagrams.
    fn load(&mut self, out: Out, buffer: &mut [u8], answers: &mut Answers) -> Result<usize, DropReason> {
        let Self { settings, frames, .. } = *self;
        let received = &frames.batch.frames()[out.slot()];
        let Carriage { header, fragment } =
            (self.carriage)(out.network, received.ingress).ok_or(DropReason::PortGone)?;
        let lies = frames.batch.bytes(out.slot());
        let (frame, offload) = match out.tag {
            TagOp::Keep => (lies, received.offload),
            _ => frames.frame(out, buffer)?,
        };
        if settings.whole_headers && is_cut_short(frame) {
            return Err(DropReason::IpInHdr);
        }
        let longest = usize::from(settings.overlay_mtu) + ETHERNET_HEADER;
        if offload.wire_len(frame.len()) > longest {
            // Tags that stay on the frame reduce the MTU of its packet.
            let mtu = link(frame).map_or(0, |(network, _)| longest.saturating_sub(network));
            if frames.answer(out, mtu, answers) || !fragment {
                return Err(DropReason::PktTooBig);
            }
            let _ = self.depart();
            self.train.fragment = true;
        }
        let opens =
            settings.clamp && Headers::measure(frame).is_some_and(|headers| mss::opens(frame, &headers));
        if out.tag == TagOp::Keep && !opens && !matches!(offload.csum, Csum::Partial { .. }) {
            self.add(header, &Segment::whole(lies), Some(lies), false)?;
            return Ok(1);
        }
        let mut datagrams = 0;
        if opens || out.tag != TagOp::Keep {
            // Copied: the changed parts, and data in `buffer`, which is reused for the next frame.
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

    /// Adds one datagram. `lent` is its payload if that stays in place until the train is sent. If datagrams
    /// of the same frame `are_aboard`, an error of their train is returned. Returns the copied part of the
    /// datagram.
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

    /// Sends the train, unless it is empty.
    fn depart(&mut self) -> Result<(), DropReason> {
        let result = self.train.send(self.send).map_err(|error| DeviceError::of(&error).drop_reason());
        for (out, datagrams) in self.aboard.drain(..) {
            self.frames.count(out, result.map(|()| datagrams));
        }
        result
    }
}

/// Clamps the MSS of the connection that the frame in `datagram` opens to frames of `longest` bytes.
fn clamp(datagram: &mut [u8], longest: usize) {
    if let Some(frame) = datagram.get_mut(HEADER..)
        && let Some(headers) = Headers::measure(frame)
    {
        // A segment's checksum is complete.
        mss::clamp(frame, &headers, longest, Csum::Unknown);
    }
}

/// A train under construction.
struct Building<'c> {
    lane: Lane,
    /// Whether its datagrams exceed the path MTU.
    fragment: bool,
    /// Memory for headers and short payload; as long as a train.
    arena: &'c mut [u8],
    used: usize,
    parts: ArrayVec<Part<'c>, PARTS>,
    limit: usize,
    datagrams: usize,
    /// Length of the first datagram, and of all others but the last.
    size: usize,
    bytes: usize,
    /// The last datagram was shorter: no other may follow.
    closed: bool,
}

/// A part of a train.
enum Part<'c> {
    /// In the arena.
    Own(Range<usize>),
    /// In place in a receive buffer.
    Lent(&'c [u8]),
}

impl<'c> Building<'c> {
    fn new(arena: &'c mut [u8], limit: usize) -> Self {
        debug_assert!(arena.len() >= MAX_TRAIN);
        Self {
            lane: Lane::default(),
            fragment: false,
            arena,
            used: 0,
            parts: ArrayVec::new(),
            limit,
            datagrams: 0,
            size: 0,
            bytes: 0,
            closed: false,
        }
    }

    /// Whether a datagram of `len` bytes may be added.
    #[inline]
    fn has_room(&self, len: usize) -> bool {
        self.datagrams == 0
            || !self.closed
                && self.datagrams < self.limit
                && len <= self.size
                && self.bytes + len <= MAX_TRAIN
    }

    /// Adds a datagram of `len` bytes, for which there must be room. Returns its part in the arena, or `None`
    /// if it is longer than any train.
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
        self.bytes += len;
        self.arena.get_mut(start..self.used)
    }

    /// Sends the train, and leaves it empty.
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
        let Lane { source, traffic_class, ttl } = self.lane;
        let &mut Self { fragment, datagrams, size, .. } = self;
        let train = Train { source, traffic_class, ttl, fragment, datagrams, size, parts: &parts };
        let result = send(&train);
        self.parts.clear();
        (self.used, self.datagrams, self.bytes, self.closed) = (0, 0, 0, false);
        result
    }
}
