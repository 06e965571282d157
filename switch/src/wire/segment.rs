//! Software segmentation: the wire frames of a super-frame.
//!
//! A port without offload gets what a network card would produce: TCP is segmented as by the kernel's
//! `tcp_gso_segment` (net/ipv4/tcp_offload.c), UDP as by `__udp_gso_segment` (net/ipv4/udp_offload.c), and a
//! lone partial checksum is completed. All three look the same to the caller: a sequence of [`Segment`]s,
//! each a header to write and a slice of the frame's payload. A sender that gathers (a tunnel, with its own
//! header in front) writes headers only and never copies payload; one that sends from a single buffer uses
//! [`Segment::copy_into`].
//!
//! The common part of all segments is summed once; per segment, only its payload is. Inside a UDP tunnel, the segments are
//! those of the inner packet, and each gets [outer headers](Tunnel) of its own.

use std::num::NonZeroU16;

use crate::{
    drops::DropReason,
    wire::{
        bytes::{length, put_u16, put_u32, u16_at, u32_at},
        checksum::Sum,
        headers::{Headers, IPV6_HEADER, IpVersion, Transport},
        offload::{Csum, Gso, Offload},
        tunnel::{Inner, Tunnel},
    },
};

/// The wire frames of one frame, in order; at least one, at most
/// [`MAX_SEGMENTS`](crate::wire::offload::MAX_SEGMENTS).
#[derive(Clone, Copy, Debug)]
pub struct Segmenter<'a> {
    frame: &'a [u8],
    cut: Cut,
    /// Length of the header of each segment, in bytes.
    header_len: usize,
    /// Maximum payload of each segment in bytes; not zero unless the frame is empty.
    size: usize,
    next: u16,
    left: u16,
}

/// A wire frame, not yet written.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The payload, in place in the super-frame.
    pub payload: &'a [u8],
    frame: &'a [u8],
    cut: Cut,
    header_len: usize,
    index: u16,
    last: bool,
}

/// The changes that the headers of the segments need.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// None: the frame is sent as it is.
    Whole,
    /// The checksum at `start + offset`.
    Complete { start: usize, offset: usize },
    /// Lengths, identification, sequence and checksums.
    Segments(Template),
}

/// The common part of all segments of a super-frame: sums of its headers without the fields that differ.
#[derive(Clone, Copy, Debug)]
struct Template {
    /// Of the packet that is cut: in a tunnel, the inner one.
    headers: Headers,
    tunnel: Option<Tunnel>,
    size: NonZeroU16,
    /// CWR belongs to the first segment alone.
    ecn: bool,
    /// IPv4: the header except for length, identification and checksum.
    network: Sum,
    /// Pseudo-header and transport header, except for lengths, and for TCP sequence and flags.
    transport: Sum,
}

// Flags of the word at TCP_FLAGS (RFC 9293 section 3.1, RFC 3168 section 6.1).
const FIN_PSH: u16 = 0x01 | 0x08;
const CWR: u16 = 0x80;

// Offsets of fields in their header.
const IPV4_LENGTH: usize = 2;
const IPV4_ID: usize = 4;
const IPV4_CHECKSUM: usize = 10;
const IPV6_LENGTH: usize = 4;
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 12;
const UDP_LENGTH: usize = 4;

impl<'a> Segmenter<'a> {
    /// Prepares to segment `frame` according to `offload`.
    ///
    /// # Errors
    /// [`DropReason::DevHdr`] if `offload` does not belong to this frame. Never for one that
    /// [`Offload::parse`] returned for it.
    #[inline]
    pub fn new(frame: &'a [u8], offload: &Offload) -> Result<Self, DropReason> {
        if Offload::parse_long(&offload.emit_long(), frame)? != *offload {
            return Err(DropReason::DevHdr);
        }
        let whole = Self { frame, cut: Cut::Whole, header_len: 0, size: frame.len(), next: 0, left: 1 };
        let (start, offset) = match offload.csum {
            Csum::Unknown | Csum::Valid => return Ok(whole),
            Csum::Partial { start, offset } => (usize::from(start), usize::from(offset)),
        };
        let Some(gso) = offload.gso else {
            return Ok(Self {
                cut: Cut::Complete { start, offset },
                header_len: start + offset + 2,
                ..whole
            });
        };
        let headers = match gso.tunnel {
            None => Headers::measure(frame),
            Some(tunnel) => tunnel.inner(frame),
        };
        let headers = headers.ok_or(DropReason::DevHdr)?;
        let left = u16::try_from(offload.segments(frame.len())).map_err(|_| DropReason::DevHdr)?;
        Ok(Self {
            frame,
            cut: Cut::Segments(Template::new(frame, headers, gso)),
            header_len: headers.payload,
            size: usize::from(gso.size.get()),
            next: 0,
            left,
        })
    }
}

impl<'a> Iterator for Segmenter<'a> {
    type Item = Segment<'a>;

    #[inline]
    fn next(&mut self) -> Option<Segment<'a>> {
        self.left = self.left.checked_sub(1)?;
        let index = self.next;
        self.next += 1;
        let payload = &self.frame[self.header_len + usize::from(index) * self.size..];
        let payload = &payload[..payload.len().min(self.size)];
        let Self { frame, cut, header_len, .. } = *self;
        Some(Segment { payload, frame, cut, header_len, index, last: self.left == 0 })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Segmenter<'_> {}

impl<'a> Segment<'a> {
    /// The only segment of a frame that needs no changes, without a [`Segmenter`].
    #[inline]
    pub fn whole(frame: &'a [u8]) -> Self {
        Self { payload: frame, frame, cut: Cut::Whole, header_len: 0, index: 0, last: true }
    }

    /// Number of bytes that [`Segment::write_header`] writes: at most
    /// [`MAX_HEADER`](crate::wire::headers::MAX_HEADER), and zero for a frame that needs no changes.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Length of the wire frame: header and payload.
    #[inline]
    pub fn wire_len(&self) -> usize {
        self.header_len + self.payload.len()
    }

    /// Writes the complete header, checksums final, to the front of `buf` and returns its length, or `None`
    /// if `buf` is shorter than [`Segment::header_len`].
    ///
    /// Reads the payload to sum it.
    #[inline]
    pub fn write_header(&self, buf: &mut [u8]) -> Option<usize> {
        if self.header_len == 0 {
            return Some(0);
        }
        let header = buf.get_mut(..self.header_len)?;
        header.copy_from_slice(&self.frame[..self.header_len]);
        match &self.cut {
            Cut::Whole => {}
            Cut::Complete { start, offset } => {
                put_u16(header, start + offset, Sum::of(&self.frame[*start..]).nonzero_checksum());
            }
            Cut::Segments(template) => template.fill(header, self),
        }
        Some(self.header_len)
    }

    /// Writes the whole wire frame to the front of `buf` and returns its length, or `None` if `buf` is
    /// shorter than [`Segment::wire_len`].
    pub fn copy_into(&self, buf: &mut [u8]) -> Option<usize> {
        let buf = buf.get_mut(..self.wire_len())?;
        let header_len = self.write_header(buf)?;
        buf[header_len..].copy_from_slice(self.payload);
        Some(buf.len())
    }

    /// The flags of this segment of a super-frame with `flags`: FIN and PSH are carried by the last segment
    /// only, with `ecn` CWR by the first only.
    fn tcp_flags(&self, flags: u16, ecn: bool) -> u16 {
        let not_last = if self.last { 0 } else { FIN_PSH };
        let not_first = if ecn && self.index > 0 { CWR } else { 0 };
        flags & !(not_last | not_first)
    }
}

impl Template {
    /// `headers` are those of `frame`, a super-frame that [`Offload::parse`] accepted. Its transport checksum
    /// field holds the pseudo-header sum, which is correct even if the addresses in the header are not those
    /// to be summed, as with a routing header.
    fn new(frame: &[u8], headers: Headers, gso: Gso) -> Self {
        let Headers { network, transport, payload, .. } = headers;
        let without = |sum: Sum, field: usize| sum + Sum::minus(u16_at(frame, field));
        let network = match headers.version {
            IpVersion::V4 => [IPV4_LENGTH, IPV4_ID, IPV4_CHECKSUM]
                .iter()
                .fold(Sum::of(&frame[network..transport]), |sum, field| without(sum, network + field)),
            IpVersion::V6 => Sum::default(),
        };
        let sum = Sum::of(&frame[transport..payload]) + Sum::minus(length(frame.len() - transport));
        let transport = match headers.transport_kind {
            Transport::Tcp => [TCP_SEQUENCE, TCP_SEQUENCE + 2, TCP_FLAGS]
                .iter()
                .fold(sum, |sum, field| without(sum, transport + field)),
            Transport::Udp => without(sum, transport + UDP_LENGTH),
        };
        Self { headers, tunnel: gso.tunnel, size: gso.size, ecn: gso.ecn, network, transport }
    }

    /// Turns the copy of the super-frame's headers in `header` into those of `segment`.
    ///
    /// The offsets are those of `headers`, so they lie within `header`.
    fn fill(&self, header: &mut [u8], segment: &Segment<'_>) {
        let Headers { network, transport, .. } = self.headers;
        match self.headers.version {
            IpVersion::V4 => {
                let length = length(segment.wire_len() - network);
                let id = u16_at(header, network + IPV4_ID).wrapping_add(segment.index);
                let sum = self.network + Sum::word(length) + Sum::word(id);
                put_u16(header, network + IPV4_LENGTH, length);
                put_u16(header, network + IPV4_ID, id);
                put_u16(header, network + IPV4_CHECKSUM, sum.checksum());
            }
            IpVersion::V6 => {
                put_u16(header, network + IPV6_LENGTH, length(segment.wire_len() - network - IPV6_HEADER));
            }
        }
        let length = length(segment.wire_len() - transport);
        let sum = self.transport + Sum::word(length) + Sum::of(segment.payload);
        let checksum = match self.headers.transport_kind {
            Transport::Tcp => {
                let ahead = u32::from(segment.index) * u32::from(self.size.get());
                let sequence = u32_at(header, transport + TCP_SEQUENCE).wrapping_add(ahead);
                let flags = segment.tcp_flags(u16_at(header, transport + TCP_FLAGS), self.ecn);
                put_u32(header, transport + TCP_SEQUENCE, sequence);
                put_u16(header, transport + TCP_FLAGS, flags);
                (sum + Sum::double(sequence) + Sum::word(flags)).checksum()
            }
            Transport::Udp => {
                put_u16(header, transport + UDP_LENGTH, length);
                (sum + Sum::word(length)).nonzero_checksum()
            }
        };
        let field = transport + self.headers.transport_kind.checksum_offset();
        if let Some(tunnel) = &self.tunnel {
            let frame_len = segment.frame.len();
            let whole = u16_at(header, field);
            let pseudo =
                Sum::word(whole) + Sum::minus(self::length(frame_len - transport)) + Sum::word(length);
            let inner = Inner { index: segment.index, len: segment.wire_len(), frame_len, transport, pseudo };
            tunnel.fill(header, &inner);
        }
        put_u16(header, field, checksum);
    }
}
