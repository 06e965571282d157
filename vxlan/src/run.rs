//! Coalescing: consecutive segments of one TCP connection become the super-frame they were cut from.
//!
//! The reverse of [`vswitch::segment`], after the kernel's `tcp_gro_receive` (net/ipv4/tcp_offload.c): what is merged, and cut
//! again, gives the same packets. UDP is not merged, for its datagrams mean something one by one: a detector or a raw socket
//! that reads what was merged sees the first and takes the others for its payload, and the kernel, too, merges UDP for sockets
//! alone that ask for it (`udp_gro_receive`, net/ipv4/udp_offload.c). So every octet of the headers must agree but for
//! those that cutting counts up, all checksums must be right, and whatever means something to the receiver by itself (SYN, URG,
//! CWR, options, another TTL or traffic class) is left alone.
//!
//! A [`Run`] does not hold the packets. Its owner shows it the packets, and moves their payload where it says.

use std::num::NonZeroU16;

use vswitch::{
    bytes::{length, put_u16, u16_at, u32_at},
    checksum::{Sum, verify},
    frame::ETHERNET_HEADER,
    headers::{Headers, IPV4_HEADER, IPV6_HEADER, IpVersion, Transport},
    offload::{Csum, Gso, GsoKind, MAX_SEGMENTS, Offload},
};

/// Octets of the longest IP packet.
const MAX_PACKET: usize = 65_535;

// Flags of the 14th octet of a TCP header (RFC 9293 section 3.1, RFC 3168 section 6.1).
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
/// What the last packet of a super-frame may have, and no other.
const LAST: u8 = FIN | PSH;

/// Segments of one connection that follow each other, the first of which is shown whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    headers: Headers,
    /// Octets of payload of each packet but the last.
    size: usize,
    packets: usize,
    /// Octets of the frame so far.
    len: usize,
    /// The last packet's flags beyond the first's.
    flags: u8,
    /// How much IPv4 identification grows from packet to packet, once there are two.
    id_step: Option<u16>,
    /// Nothing may follow.
    closed: bool,
}

/// What is known of a packet's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Complete and right.
    Right,
    /// The field holds the sum of the pseudo-header: its sender left the rest to a device that did not do it. A kernel's VXLAN
    /// device does so with links that it takes for local (a veth pair).
    Partial,
    /// Wrong, or not there.
    Wrong,
}

impl Checksum {
    /// Whether it is partial, without looking at the payload. A complete checksum that looks so would be completed to the
    /// same value, if it is right.
    #[inline]
    pub fn is_partial(frame: &[u8], headers: &Headers) -> bool {
        u16_at(frame, headers.transport + headers.transport_kind.checksum_offset())
            == pseudo(frame, headers, headers.end).folded()
    }

    /// Looks at all of the packet.
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
    /// The run that `frame` begins, if packets may follow it.
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
        // One with FIN or PSH is the last of its burst.
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

    /// Octets of the frame so far: where the payload of what follows belongs.
    pub(crate) fn end(&self) -> usize {
        self.len
    }

    /// Takes `next` into the run, if it follows: its payload, which begins at the number returned, belongs at
    /// [`end`](Self::end) as it was before the call.
    ///
    /// `first` begins with the first packet, whole.
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

    /// Whether Ethernet and IP headers agree but for lengths, identification and checksum; and the step of identification.
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
                // Where nobody may cut, identification means nothing (RFC 6864 section 4.1), and some send it constant.
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

    /// The flags of `next`, if it is the next segment of the stream.
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

    /// Writes the headers of the super-frame into `frame`, which holds the first packet and the payload of all others, and
    /// returns how it is to be cut. `None`: the first packet is still alone, and as it was.
    // A call, so that a frame that nothing follows is not moved for it.
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

/// How a frame that a kernel handed over unfinished is to be finished: its checksum, and where it is longer than one
/// packet, packets of `size` octets of payload each. `None`: it is as it should be.
pub(crate) fn unfinished(frame: &[u8], headers: &Headers, size: Option<usize>) -> Option<Offload> {
    if !Checksum::is_partial(frame, headers) {
        return None;
    }
    let offload = partial(headers, size.map(|size| (length(size), length(headers.payload))))?;
    // Nothing of it is believed that the frame contradicts.
    Offload::parse(&offload.emit(), frame).ok()
}

fn partial(headers: &Headers, cut: Option<(u16, u16)>) -> Option<Offload> {
    let start = u16::try_from(headers.transport).ok()?;
    let offset = u16::try_from(headers.transport_kind.checksum_offset()).ok()?;
    let gso = match cut {
        None => None,
        Some((size, header_len)) => {
            let size = NonZeroU16::new(size)?;
            Some(Gso { kind: GsoKind::of(headers), size, header_len, ecn: false })
        }
    };
    Some(Offload { csum: Csum::Partial { start, offset }, gso })
}

/// The sum of the pseudo-header of a packet that ends at `end`.
fn pseudo(frame: &[u8], headers: &Headers, end: usize) -> Sum {
    Sum::pseudo(&frame[headers.addresses()], headers.transport_kind.protocol(), end - headers.transport)
}
