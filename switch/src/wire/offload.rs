//! Offload metadata: checksum completion and segmentation left to the device.
//!
//! The metadata accompanies the frame as a header (include/uapi/linux/virtio_net.h, native = little endian): the short
//! `virtio_net_hdr`, or the long `virtio_net_hdr_v1_hash_tunnel`, which begins with it and can tell of super-frames inside a
//! [UDP tunnel](Tunnel). It comes from untrusted containers: [`Offload::parse`] checks it against the frame, so an
//! `Offload` is always consistent with the frame's bytes.

use std::num::NonZeroU16;

use crate::{
    drops::DropReason,
    wire::{
        headers::{self, Headers, IpVersion, MAX_HEADER, Transport},
        tunnel::Tunnel,
    },
};

/// Length of the short header, which packet sockets put before each frame.
pub const VNET_HEADER: usize = 10;

/// Length of the long header, which TAPs put before each frame. Between the short header and two positions that
/// describe a tunnel it has fields of hardware, which are zero.
pub const LONG_HEADER: usize = 24;

/// Maximum number of segments of a super-frame.
///
/// More segments of a 64 KB frame would be shorter than 64 bytes, which only an attack on a receiver without
/// offload produces (compare CVE-2019-11477); such frames are dropped.
pub const MAX_SEGMENTS: usize = 1024;

/// The same for UDP, where the kernel rejects more: `UDP_MAX_SEGMENTS`, include/linux/udp.h.
pub const MAX_DATAGRAMS: usize = 128;

/// The state of the transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Csum {
    /// Unverified: the checksum in the frame is complete.
    #[default]
    Unknown,
    /// Verified: the checksum in the frame is complete and correct.
    Valid,
    /// The field at `start + offset` holds the folded pseudo-header sum. To complete it, add the sum of all
    /// bytes from `start` and invert the result.
    Partial {
        /// Start of the summed part: the transport header, counted from the destination MAC.
        start: u16,
        /// Position of the checksum field, counted from `start`.
        offset: u16,
    },
}

/// The protocol of a super-frame's segments; inside a tunnel, of the inner packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4 or IPv6, each segment a datagram (USO).
    Udp,
}

/// Segmentation of a super-frame for ports that take wire frames only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The protocol.
    pub kind: GsoKind,
    /// Transport payload per segment in bytes; the last may be shorter.
    pub size: NonZeroU16,
    /// Length of the headers in bytes: Ethernet, tags, IP and transport, as measured in the frame; with a tunnel, all up to
    /// the inner transport header.
    pub header_len: u16,
    /// TCP: CWR is set and belongs to the first segment alone (RFC 3168 section 6.1.2). Otherwise it is a bit of a counter that
    /// every segment carries (AccECN, RFC 9768 section 3.2.2).
    pub ecn: bool,
    /// The UDP tunnel that carries the segments, if the sender encapsulated them.
    pub tunnel: Option<Tunnel>,
}

/// Offload metadata of one frame.
///
/// Invariant: `gso` is present only with [`Csum::Partial`], and only for at least two segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The state of the transport checksum.
    pub csum: Csum,
    /// The segmentation of a super-frame.
    pub gso: Option<Gso>,
}

/// The offloads that a port supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Partial checksums. Required by the others.
    pub csum: bool,
    /// TCP super-frames.
    pub tso: bool,
    /// UDP super-frames.
    pub uso: bool,
    /// Super-frames of these kinds inside a UDP tunnel.
    pub tunnel: bool,
}

// include/uapi/linux/virtio_net.h
const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const UDP_TUNNEL_CSUM: u8 = 8;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
const GSO_UDP_TUNNEL: u8 = GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6;
const GSO_ECN: u8 = 0x80;

impl Capabilities {
    /// A port that takes wire frames only.
    pub const NONE: Self = Self { csum: false, tso: false, uso: false, tunnel: false };
    /// A port that takes every [`Offload`].
    pub const ALL: Self = Self { csum: true, tso: true, uso: true, tunnel: true };

    /// Whether the port takes a frame with this metadata as it is. If not, it is segmented by
    /// [`Segmenter`](crate::wire::segment::Segmenter).
    #[inline]
    pub fn takes(self, offload: &Offload) -> bool {
        let csum = self.csum || !matches!(offload.csum, Csum::Partial { .. });
        let Some(gso) = offload.gso else { return csum };
        let kind = match gso.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => self.tso,
            GsoKind::Udp => self.uso,
        };
        csum && kind && (self.tunnel || gso.tunnel.is_none())
    }
}

impl Offload {
    /// A plain frame: no segmentation, checksum not verified.
    pub const NONE: Self = Self { csum: Csum::Unknown, gso: None };

    /// Parses the short header that precedes `frame` and checks it against the frame's bytes.
    ///
    /// The kind of segmentation, the length of the headers and the presence of a CWR flag are measured in the frame, not
    /// taken from the header; what the flag means is taken from the header. As in the kernel (`virtio_net_hdr_to_skb`), a
    /// frame whose payload fits one segment is not a super-frame, and `NEEDS_CSUM` takes precedence over `DATA_VALID`.
    /// Stricter than the kernel: a super-frame needs `NEEDS_CSUM`, IP and UDP lengths that end with the frame, and headers
    /// of at most [`MAX_HEADER`] bytes; the field of a partial checksum must lie within as many, and not in the Ethernet
    /// header or a VLAN tag, where completing it would move the frame to another network.
    ///
    /// # Errors
    /// [`DropReason::DevHdr`] if header and frame contradict each other, or for a segmentation type that no
    /// device was asked for (UFO, UDP tunnels).
    #[inline]
    pub fn parse(header: &[u8; VNET_HEADER], frame: &[u8]) -> Result<Self, DropReason> {
        match header {
            [0, GSO_NONE, ..] => Ok(Self::NONE),
            _ => Self::check(header, None, frame).ok_or(DropReason::DevHdr),
        }
    }

    /// The same for the long header, which may describe a super-frame in a UDP tunnel (`Tunnel::measure`). Stricter than
    /// the kernel there: it has at least two segments, and an outer checksum or none as the header says.
    ///
    /// # Errors
    /// As for [`Offload::parse`].
    #[inline]
    pub fn parse_long(header: &[u8; LONG_HEADER], frame: &[u8]) -> Result<Self, DropReason> {
        match header {
            [0, GSO_NONE, ..] => Ok(Self::NONE),
            [short @ .., _, _, _, _, _, _, _, _, _, _, t0, t1, n0, n1] => {
                let positions = [u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*n0, *n1])];
                Self::check(short, Some(positions), frame).ok_or(DropReason::DevHdr)
            }
        }
    }

    /// `tunnel` holds the positions that the long header tells, of the outer transport and the inner network header.
    fn check(header: &[u8; VNET_HEADER], tunnel: Option<[u16; 2]>, frame: &[u8]) -> Option<Self> {
        let [flags, gso_type, _, _, z0, z1, s0, s1, o0, o1] = *header;
        let csum = if flags & NEEDS_CSUM != 0 {
            Csum::partial(u16::from_le_bytes([s0, s1]), u16::from_le_bytes([o0, o1]), frame)?
        } else if flags & DATA_VALID != 0 {
            Csum::Valid
        } else {
            Csum::Unknown
        };
        if gso_type == GSO_NONE {
            return Some(Self { csum, gso: None });
        }
        let size = NonZeroU16::new(u16::from_le_bytes([z0, z1]))?;
        let (headers, tunnel) = match gso_type & GSO_UDP_TUNNEL {
            0 => (Headers::measure(frame)?, None),
            GSO_UDP_TUNNEL => return None,
            kind => {
                let has_csum = flags & UDP_TUNNEL_CSUM != 0;
                let (tunnel, inner) = Tunnel::measure(tunnel?, has_csum, frame)?;
                ((kind == tunnel.gso_type()).then_some(inner)?, Some(tunnel))
            }
        };
        let gso = Gso { tunnel, ..Gso::measure(gso_type & !GSO_UDP_TUNNEL, size, csum, &headers, frame)? };
        let one_segment = frame.len() - usize::from(gso.header_len) <= usize::from(gso.size.get());
        match gso.tunnel {
            // Its outer checksum would be as unfinished as that of several.
            Some(_) if one_segment => None,
            _ => Some(Self { csum, gso: (!one_segment).then_some(gso) }),
        }
    }

    /// The short header to send before the frame: canonical, with a correct `hdr_len` and unused fields zero. It cannot
    /// describe a tunnel.
    ///
    /// `hdr_len` determines how much of the frame the receiving kernel puts in linear memory, so it is set
    /// even for frames without segmentation: up to the end of the checksum field, the minimum that the kernel
    /// accepts.
    #[inline]
    pub fn emit(&self) -> [u8; VNET_HEADER] {
        let (flags, start, offset) = match self.csum {
            Csum::Unknown => (0, 0, 0),
            Csum::Valid => (DATA_VALID, 0, 0),
            Csum::Partial { start, offset } => (NEEDS_CSUM, start, offset),
        };
        let (gso_type, header_len, size) = match self.gso {
            None if flags & NEEDS_CSUM != 0 => (GSO_NONE, start.saturating_add(offset).saturating_add(2), 0),
            None => (GSO_NONE, 0, 0),
            Some(gso) => (gso.wire_type(), gso.header_len, gso.size.get()),
        };
        let [h0, h1] = header_len.to_le_bytes();
        let [z0, z1] = size.to_le_bytes();
        let [s0, s1] = start.to_le_bytes();
        let [o0, o1] = offset.to_le_bytes();
        [flags, gso_type, h0, h1, z0, z1, s0, s1, o0, o1]
    }

    /// The same as the long header.
    #[inline]
    pub fn emit_long(&self) -> [u8; LONG_HEADER] {
        let mut header = [0; LONG_HEADER];
        header[..VNET_HEADER].copy_from_slice(&self.emit());
        if let Some(Gso { tunnel: Some(tunnel), .. }) = self.gso {
            if tunnel.csum {
                header[0] |= UDP_TUNNEL_CSUM;
            }
            header[1] |= tunnel.gso_type();
            header[20..22].copy_from_slice(&tunnel.transport.to_le_bytes());
            header[22..].copy_from_slice(&tunnel.network.to_le_bytes());
        }
        header
    }

    /// The metadata of the same frame after `delta` bytes were inserted (tag pushed: +4) or removed (popped:
    /// -4) before its network header.
    #[must_use]
    pub fn shifted(self, delta: i16) -> Self {
        let csum = match self.csum {
            Csum::Partial { start, offset } => {
                Csum::Partial { start: start.saturating_add_signed(delta), offset }
            }
            complete => complete,
        };
        let gso = self.gso.map(|gso| Gso {
            header_len: gso.header_len.saturating_add_signed(delta),
            tunnel: gso.tunnel.map(|tunnel| tunnel.shifted(delta)),
            ..gso
        });
        Self { csum, gso }
    }

    /// Length of the longest wire frame of a frame of `frame_len` bytes with this metadata, for comparison
    /// with an MTU. With Ethernet header and tags, without FCS.
    #[inline]
    pub fn wire_len(&self, frame_len: usize) -> usize {
        match self.gso {
            None => frame_len,
            Some(gso) => frame_len.min(usize::from(gso.header_len) + usize::from(gso.size.get())),
        }
    }

    /// Total bytes of all wire frames of a frame of `frame_len` bytes with this metadata, each with its
    /// headers, without FCS.
    #[inline]
    pub(crate) fn wire_bytes(&self, frame_len: usize) -> usize {
        let headers = self.gso.map_or(0, |gso| usize::from(gso.header_len));
        frame_len + (self.segments(frame_len) - 1) * headers
    }

    /// Number of wire frames of a frame of `frame_len` bytes with this metadata; at least 1.
    #[inline]
    pub fn segments(&self, frame_len: usize) -> usize {
        match self.gso {
            None => 1,
            Some(gso) => {
                let payload = frame_len.saturating_sub(usize::from(gso.header_len));
                payload.div_ceil(usize::from(gso.size.get())).max(1)
            }
        }
    }
}

impl Csum {
    /// A partial checksum whose field lies in `frame` after its link header, and within [`MAX_HEADER`].
    fn partial(start: u16, offset: u16, frame: &[u8]) -> Option<Self> {
        let (network, _) = headers::link(frame)?;
        let field_end = usize::from(start) + usize::from(offset) + 2;
        (usize::from(start) >= network && field_end <= frame.len().min(MAX_HEADER))
            .then_some(Self::Partial { start, offset })
    }
}

impl Gso {
    /// The segmentation of `frame`, which has these `headers`, if it matches `gso_type` and `csum` is partial at its transport
    /// header.
    fn measure(gso_type: u8, size: NonZeroU16, csum: Csum, headers: &Headers, frame: &[u8]) -> Option<Self> {
        let kind = GsoKind::of(headers);
        let ecn_of_udp = kind == GsoKind::Udp && gso_type & GSO_ECN != 0;
        if gso_type & !GSO_ECN != kind.wire_type() || ecn_of_udp || !headers.ends_with(frame) {
            return None;
        }
        let Csum::Partial { start, offset } = csum else { return None };
        if usize::from(start) != headers.transport
            || usize::from(offset) != headers.transport_kind.checksum_offset()
        {
            return None;
        }
        let limit = if kind == GsoKind::Udp { MAX_DATAGRAMS } else { MAX_SEGMENTS };
        if (headers.end - headers.payload).div_ceil(usize::from(size.get())) > limit {
            return None;
        }
        let header_len = u16::try_from(headers.payload).ok()?;
        let ecn = gso_type & GSO_ECN != 0 && headers.cwr(frame);
        Some(Self { kind, size, header_len, ecn, tunnel: None })
    }

    fn wire_type(self) -> u8 {
        self.kind.wire_type() | if self.ecn { GSO_ECN } else { 0 }
    }
}

impl Tunnel {
    fn gso_type(self) -> u8 {
        match self.version {
            IpVersion::V4 => GSO_UDP_TUNNEL_IPV4,
            IpVersion::V6 => GSO_UDP_TUNNEL_IPV6,
        }
    }
}

impl GsoKind {
    /// The segmentation of a frame with these `headers`.
    pub fn of(headers: &Headers) -> Self {
        match (headers.transport_kind, headers.version) {
            (Transport::Tcp, IpVersion::V4) => Self::Tcp4,
            (Transport::Tcp, IpVersion::V6) => Self::Tcp6,
            (Transport::Udp, _) => Self::Udp,
        }
    }

    fn wire_type(self) -> u8 {
        match self {
            Self::Tcp4 => GSO_TCPV4,
            Self::Tcp6 => GSO_TCPV6,
            Self::Udp => GSO_UDP_L4,
        }
    }
}

#[cfg(test)]
mod tests;
