//! Coalescing: consecutive segments of one TCP connection become the super-frame they were segmented from.
//!
//! The reverse of [`vswitch::segment`], after the kernel's `tcp_gro_receive` (net/ipv4/tcp_offload.c): merging and
//! segmenting yields the same packets. UDP is not merged, because each datagram has its own meaning: a detector or
//! a raw socket that reads a merged one sees the first datagram and takes the others for its payload, and the
//! kernel merges UDP only for sockets that request it (`udp_gro_receive`, net/ipv4/udp_offload.c). All header
//! bytes must agree except for those that segmentation increments, all checksums must be correct, and packets with
//! individual meaning (SYN, URG, CWR, options, another TTL or traffic class) are not merged.
//!
//! A `Run` does not hold packets. Its owner passes packets to it, and moves their payload as instructed.

use std::num::NonZeroU16;

use vswitch::{
    bytes::{length, put_u16, u16_at, u32_at},
    checksum::{Sum, verify},
    frame::ETHERNET_HEADER,
    headers::{Headers, IPV4_HEADER, IPV6_HEADER, IpVersion, Transport},
    offload::{Csum, Gso, GsoKind, MAX_SEGMENTS, Offload},
};

/// Length of the longest IP packet.
const MAX_PACKET: usize = 65_535;

// Flags in the 14th byte of a TCP header (RFC 9293 section 3.1, RFC 3168 section 6.1).
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// The last bit of the 13th byte of the TCP header, before these.
const AE: u8 = 0x01;
/// Flags that only the last packet of a super-frame may have.
const LAST: u8 = FIN | PSH;

/// Consecutive segments of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    headers: Headers,
    /// Payload of each packet but the last, in bytes.
    size: usize,
    packets: usize,
    /// Length of the frame so far, in bytes.
    len: usize,
    /// Flags of the last packet that the first lacks.
    flags: u8,
    /// Increment of the IPv4 identification from packet to packet, known from the second packet on.
    id_step: Option<u16>,
    /// No packet may follow.
    closed: bool,
}

/// The state of a packet's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Complete and correct.
    Right,
    /// The field holds the sum of the pseudo-header: the sender left the rest to a device that did not do it.
    /// A kernel's VXLAN device does so on links that it considers local (a veth pair).
    Partial,
    /// Wrong or missing.
    Wrong,
}

impl Checksum {
    /// Whether it is partial, without reading the payload. A correct checksum that looks partial would be
    /// completed to the same value.
    #[inline]
    pub fn is_partial(frame: &[u8], headers: &Headers) -> bool {
        u16_at(frame, headers.transport + headers.transport_kind.checksum_offset())
            == pseudo(frame, headers, headers.end).folded()
    }

    /// Classifies the checksum by reading the whole packet.
    #[inline]
    pub fn of(frame: &[u8], headers: &Headers) -> Self {
        if verify(frame, headers) {
            Self::Right
        } else if Self::is_partial(frame, headers) {
            Self::Partial
        } else {
            Self::Wrong
        }
    }
}

impl Run {
    /// Starts a run with `frame`, if packets may be merged into it.
    #[inline]
    pub(crate) fn begin(frame: &[u8], headers: &Headers) -> Option<Self> {
        let bare = match headers.version {
            IpVersion::V4 => headers.transport - headers.network == IPV4_HEADER,
            IpVersion::V6 => headers.transport - headers.network == IPV6_HEADER,
        };
        let size = headers.end - headers.payload;
        if !bare || headers.network != ETHERNET_HEADER || size == 0 || !headers.ends_with(frame) {
            return None;
        }
        // A segment with FIN or PSH is the last of its burst.
        if headers.transport_kind != Transport::Tcp || frame[headers.transport + 13] & !ECE != ACK {
            return None;
        }
        Some(Self {
            headers: *headers,
            size,
            packets: 1,
            len: frame.len(),
            flags: 0,
            id_step: None,
            closed: false,
        })
    }

    /// Length of the frame so far: the position of the next payload.
    pub(crate) fn end(&self) -> usize {
        self.len
    }

    /// Adds `next` to the run if it continues it, and returns the start of its payload, which must be moved
    /// to [`end`](Self::end) as it was before the call.
    ///
    /// `first` must begin with the whole first packet.
    #[inline]
    pub(crate) fn follow(&mut self, first: &[u8], next: &[u8]) -> Option<usize> {
        let Headers { payload, .. } = self.headers;
        let added = next.len().checked_sub(payload)?;
        let fits = self.len - ETHERNET_HEADER + added <= MAX_PACKET && self.packets < MAX_SEGMENTS;
        if self.closed || added == 0 || added > self.size || !fits {
            return None;
        }
        let id_step = self.same_packet_but_for_counts(first, next)?;
        let flags = self.next_segment(first, next)?;
        let headers = Headers { end: next.len(), ..self.headers };
        if Checksum::of(next, &headers) == Checksum::Wrong
            || self.packets == 1 && Checksum::of(first, &self.headers) == Checksum::Wrong
        {
            return None;
        }
        self.packets += 1;
        self.len += added;
        self.id_step = id_step;
        self.flags = flags & LAST;
        self.closed = added < self.size || flags & LAST != 0;
        Some(payload)
    }

    /// Compares Ethernet and IP headers except for lengths, identification and checksum; returns the
    /// increment of the identification.
    #[inline]
    fn same_packet_but_for_counts(&self, first: &[u8], next: &[u8]) -> Option<Option<u16>> {
        const AT: usize = ETHERNET_HEADER;
        match self.headers.version {
            IpVersion::V4 => {
                // Addresses, type, version, traffic class; flags and offset, TTL, protocol; source and destination.
                if next[..AT + 2] != first[..AT + 2]
                    || next[AT + 6..AT + 10] != first[AT + 6..AT + 10]
                    || next[AT + 12..AT + 20] != first[AT + 12..AT + 20]
                    || usize::from(u16_at(next, AT + 2)) != next.len() - AT
                    || Sum::of(&next[AT..AT + IPV4_HEADER]).checksum() != 0
                    || self.packets == 1 && Sum::of(&first[AT..AT + IPV4_HEADER]).checksum() != 0
                {
                    return None;
                }
                let ahead = u16_at(next, AT + 4).wrapping_sub(u16_at(first, AT + 4));
                let unfragmentable = first[AT + 6] & 0x40 != 0;
                // For atomic datagrams the identification is meaningless (RFC 6864 section 4.1), and some
                // senders keep it constant.
                let step = match (self.id_step, ahead) {
                    (None, 1) => 1,
                    (None, 0) if unfragmentable => 0,
                    (Some(step), _) if usize::from(ahead) == usize::from(step) * self.packets => step,
                    _ => return None,
                };
                Some(Some(step))
            }
            IpVersion::V6 => {
                let same = next[..AT + 4] == first[..AT + 4]
                    && next[AT + 6..AT + IPV6_HEADER] == first[AT + 6..AT + IPV6_HEADER]
                    && usize::from(u16_at(next, AT + 4)) == next.len() - AT - IPV6_HEADER;
                same.then_some(None)
            }
        }
    }

    /// Returns the flags of `next` if it is the next segment of the stream.
    #[inline]
    fn next_segment(&self, first: &[u8], next: &[u8]) -> Option<u8> {
        let Headers { transport: at, payload, .. } = self.headers;
        let sent = self.len - payload;
        let flags = next[at + 13];
        // Ports; acknowledgement and header length; window; urgent pointer and options.
        let same = next[at..at + 4] == first[at..at + 4]
            && next[at + 8..at + 13] == first[at + 8..at + 13]
            && (flags ^ first[at + 13]) & !LAST == 0
            && next[at + 14..at + 16] == first[at + 14..at + 16]
            && next[at + 18..payload] == first[at + 18..payload];
        let ahead = u32_at(next, at + 4).wrapping_sub(u32_at(first, at + 4));
        (same && usize::try_from(ahead) == Ok(sent)).then_some(flags)
    }

    /// Writes the headers of the super-frame to `frame`, which holds the first packet and the payload of all
    /// others, and returns its segmentation. `None`: the run has one packet, which is unchanged.
    // Not inlined: the common case is a single packet.
    #[inline(never)]
    pub(crate) fn finish(&self, frame: &mut [u8]) -> Option<Offload> {
        if self.packets == 1 {
            return None;
        }
        let Headers { network, transport, payload, version, transport_kind, .. } = self.headers;
        match version {
            IpVersion::V4 => {
                put_u16(frame, network + 2, length(self.len - network));
                put_u16(frame, network + 10, 0);
                let checksum = Sum::of(&frame[network..transport]).checksum();
                put_u16(frame, network + 10, checksum);
            }
            IpVersion::V6 => put_u16(frame, network + 4, length(self.len - transport)),
        }
        frame[transport + 13] |= self.flags;
        let sum = pseudo(frame, &self.headers, self.len).folded();
        put_u16(frame, transport + transport_kind.checksum_offset(), sum);
        partial(&self.headers, Some((length(self.size), length(payload))))
    }
}

/// The offload of a frame that a kernel handed over with a partial checksum: the checksum and, for a
/// super-frame, segments of `size` payload bytes. `None`: the frame is complete.
pub(crate) fn unfinished(frame: &[u8], headers: &Headers, size: Option<usize>) -> Option<Offload> {
    if !Checksum::is_partial(frame, headers) {
        return None;
    }
    let mut offload = partial(headers, size.map(|size| (length(size), length(headers.payload))))?;
    if let Some(gso) = &mut offload.gso
        && headers.transport_kind == Transport::Tcp
    {
        // No header says what a CWR flag means here. With AE it is a bit of a counter (RFC 9768); else RFC 3168 is far more likely.
        let [data_offset_and_ae, flags] = u16_at(frame, headers.transport + 12).to_be_bytes();
        gso.ecn = flags & CWR != 0 && data_offset_and_ae & AE == 0;
    }
    // Checked against the frame.
    Offload::parse(&offload.emit(), frame).ok()
}

fn partial(headers: &Headers, cut: Option<(u16, u16)>) -> Option<Offload> {
    let start = u16::try_from(headers.transport).ok()?;
    let offset = u16::try_from(headers.transport_kind.checksum_offset()).ok()?;
    let gso = match cut {
        None => None,
        Some((size, header_len)) => {
            let size = NonZeroU16::new(size)?;
            Some(Gso { kind: GsoKind::of(headers), size, header_len, ecn: false, tunnel: None })
        }
    };
    Some(Offload { csum: Csum::Partial { start, offset }, gso })
}

/// The sum of the pseudo-header of a packet that ends at `end`.
fn pseudo(frame: &[u8], headers: &Headers, end: usize) -> Sum {
    Sum::pseudo(&frame[headers.addresses()], headers.transport_kind.protocol(), end - headers.transport)
}
