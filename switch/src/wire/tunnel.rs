//! Super-frames inside a sender's own UDP tunnel: VXLAN, Geneve or anything else that a kernel encapsulates in UDP.
//!
//! Ethernet, tags, outer IP and UDP, the tunnel's header, inner Ethernet, inner IP, inner TCP or UDP, payload. What is cut is
//! the inner packet; each segment carries everything before it again, with lengths, identification and checksum of its own,
//! as from the kernel's `__skb_udp_tunnel_segment` (net/ipv4/udp_offload.c). The tunnel's header and inner Ethernet are not
//! read: where the inner packet begins is told along with the frame.

use crate::wire::{
    bytes::{length, put_u16, u16_at},
    checksum::Sum,
    frame::TAG,
    headers::{Headers, IPV6_HEADER, IpVersion, Transport, link},
};

/// The outer headers of a super-frame. Positions count from the destination MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Start of the outer UDP header.
    pub transport: u16,
    /// Start of the inner network header, an even number of bytes behind.
    pub network: u16,
    /// The outer IP version.
    pub version: IpVersion,
    /// Whether the datagrams get a UDP checksum. The field holds the folded pseudo-header sum, and zero otherwise.
    pub csum: bool,
}

// Offsets of fields in their header.
const IPV4_LENGTH: usize = 2;
const IPV4_ID: usize = 4;
const IPV4_CHECKSUM: usize = 10;
const IPV6_LENGTH: usize = 4;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;

impl Tunnel {
    /// Measures the outer and inner headers of `frame`, for which the outer transport and the inner network header are told
    /// to be at `positions`.
    ///
    /// Both may be told as if a tag were missing: the kernel does not count one that it puts back while the frame is read
    /// (`vlan_hlen` in `virtio_net_hdr_tnl_from_skb`, include/linux/virtio_net.h).
    ///
    /// `None` if the frame has no such headers, the lengths of either packet do not end with the frame, or the outer checksum
    /// field is not zero although no checksum is asked for.
    pub(crate) fn measure(positions: [u16; 2], csum: bool, frame: &[u8]) -> Option<(Self, Headers)> {
        let [transport, network] = positions.map(usize::from);
        let outer = Headers::measure(frame)?;
        let untold = outer.transport.checked_sub(transport).filter(|untold| [0, TAG].contains(untold))?;
        let network = network + untold;
        let is_tunnel =
            outer.transport_kind == Transport::Udp && network >= outer.payload && outer.ends_with(frame);
        let zero = u16_at(frame, outer.transport + UDP_CHECKSUM) == 0;
        if !is_tunnel || !csum && !zero {
            return None;
        }
        let tunnel = Self {
            transport: u16::try_from(outer.transport).ok()?,
            network: u16::try_from(network).ok()?,
            version: outer.version,
            csum,
        };
        let inner = tunnel.inner(frame)?;
        // Sums of parts add up only if each begins at an even position.
        let is_even = (inner.transport - outer.transport).is_multiple_of(2);
        (is_even && inner.ends_with(frame)).then_some((tunnel, inner))
    }

    /// The headers of the inner packet of `frame`.
    pub(crate) fn inner(self, frame: &[u8]) -> Option<Headers> {
        let network = usize::from(self.network);
        let version = match frame.get(network)? >> 4 {
            4 => IpVersion::V4,
            6 => IpVersion::V6,
            _ => return None,
        };
        Headers::of_packet(frame, network, version)
    }

    /// The same after `delta` bytes were inserted or removed before the outer network header.
    pub(crate) fn shifted(self, delta: i16) -> Self {
        let shift = |position: u16| position.saturating_add_signed(delta);
        Self { transport: shift(self.transport), network: shift(self.network), ..self }
    }

    /// Completes the outer headers of a segment: `header` holds a copy of those of the super-frame, and its inner network
    /// header as it will be sent.
    pub(crate) fn fill(&self, header: &mut [u8], segment: &Inner) {
        let (network, transport) = (self.outer_network(header), usize::from(self.transport));
        let &Inner { index, len, frame_len, transport: inner, pseudo } = segment;
        match self.version {
            IpVersion::V4 => {
                put_u16(header, network + IPV4_LENGTH, length(len - network));
                let id = u16_at(header, network + IPV4_ID).wrapping_add(index);
                put_u16(header, network + IPV4_ID, id);
                put_u16(header, network + IPV4_CHECKSUM, 0);
                let checksum = Sum::of(&header[network..transport]).checksum();
                put_u16(header, network + IPV4_CHECKSUM, checksum);
            }
            IpVersion::V6 => put_u16(header, network + IPV6_LENGTH, length(len - network - IPV6_HEADER)),
        }
        let datagram = length(len - transport);
        put_u16(header, transport + UDP_LENGTH, datagram);
        if self.csum {
            let field = u16_at(header, transport + UDP_CHECKSUM);
            let outer = Sum::word(field) + Sum::minus(length(frame_len - transport)) + Sum::word(datagram);
            put_u16(header, transport + UDP_CHECKSUM, 0);
            // With its checksum in place, the inner segment sums to the complement of its pseudo-header: its payload is not
            // read a second time (local checksum offload, Documentation/networking/checksum-offloads.rst).
            let sum = outer + Sum::of(&header[transport..inner]) + Sum::minus(pseudo.folded());
            put_u16(header, transport + UDP_CHECKSUM, sum.nonzero_checksum());
        }
    }

    fn outer_network(&self, header: &[u8]) -> usize {
        link(header).map_or(0, |(network, _)| network)
    }
}

/// A segment of the inner packet, for its outer headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner {
    /// Its number.
    pub(crate) index: u16,
    /// Length of its wire frame in bytes.
    pub(crate) len: usize,
    /// Length of the super-frame in bytes.
    pub(crate) frame_len: usize,
    /// Start of its transport header.
    pub(crate) transport: usize,
    /// The sum of its pseudo-header.
    pub(crate) pseudo: Sum,
}
