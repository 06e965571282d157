//! Partial checksums inside a station's own encapsulation: VXLAN, Geneve, GRE or IP in IP within inner frames.
//!
//! A kernel on this host leaves a checksum partial, to be completed by the device that sends on a wire, and it may
//! be that of the innermost packet (`skb->csum_start`). An offload header describes one such position, in the
//! frame's own transport header; deeper checksums are completed here. Outer checksums already assume the completed
//! one (local checksum offload, Documentation/networking/checksum-offloads.rst).

use etherparse::{EtherType, IpNumber};
use vswitch::{
    bytes::{try_u16_at, u16_at},
    checksum::{Sum, complete},
    headers::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER, Transport, UDP_HEADER, link},
};

/// Maximum depth of nested encapsulations that are parsed.
const DEPTH: usize = 4;

/// UDP ports of VXLAN: the assigned one, and Linux's own.
const VXLAN: [u16; 2] = [4789, 8472];
/// The UDP port of Geneve (RFC 8926 section 3.3).
const GENEVE: u16 = 6081;
/// Transparent Ethernet bridging: the protocol type of a frame in Geneve and GRE.
const FRAME: u16 = 0x6558;

/// Completes the checksum of the innermost packet of `frame`, if it is encapsulated and its checksum partial.
/// Returns whether it did.
#[inline]
pub(crate) fn finish(frame: &mut [u8]) -> bool {
    let Some(Unfinished { transport, offset, end }) = unfinished(frame) else { return false };
    complete(&mut frame[..end], transport, offset)
}

/// The position of a partial checksum.
struct Unfinished {
    transport: usize,
    offset: usize,
    end: usize,
}

/// The layer that begins at an offset.
#[derive(Clone, Copy)]
enum Layer {
    Frame(usize),
    Packet(usize),
}

/// The header of an unfragmented IP packet; offsets count from the frame's first byte.
struct Packet {
    addresses: std::ops::Range<usize>,
    protocol: u8,
    transport: usize,
    end: usize,
}

fn unfinished(frame: &[u8]) -> Option<Unfinished> {
    let mut layer = Layer::Frame(0);
    for depth in 0..=DEPTH {
        let packet = Packet::of(frame, layer)?;
        if let Some(inner) = packet.inner(frame) {
            layer = inner;
            continue;
        }
        // The frame's own checksum is described by its offload header.
        return if depth == 0 { None } else { packet.unfinished(frame) };
    }
    None
}

impl Packet {
    #[inline]
    fn of(frame: &[u8], layer: Layer) -> Option<Self> {
        let start = match layer {
            Layer::Packet(start) => start,
            Layer::Frame(start) => {
                let (network, ethertype) = link(frame.get(start..)?)?;
                matches!(ethertype, EtherType::IPV4 | EtherType::IPV6).then_some(start + network)?
            }
        };
        let packet = frame.get(start..)?;
        let (addresses, protocol, transport, len) = match packet.first()? >> 4 {
            4 => {
                let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
                let is_fragment = u16_at(header, 6) & 0x3fff != 0;
                let length = usize::from(header[0] & 0x0f) * 4;
                (!is_fragment).then_some((12..20, header[9], length, usize::from(u16_at(header, 2))))?
            }
            6 => {
                let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
                (8..40, header[6], IPV6_HEADER, IPV6_HEADER + usize::from(u16_at(header, 4)))
            }
            _ => return None,
        };
        let (transport, end) = (start + transport, start + len);
        (transport <= end && end <= frame.len()).then_some(Self {
            addresses: start + addresses.start..start + addresses.end,
            protocol,
            transport,
            end,
        })
    }

    /// The layer that it encapsulates.
    #[inline]
    fn inner(&self, frame: &[u8]) -> Option<Layer> {
        let at = self.transport;
        match IpNumber(self.protocol) {
            IpNumber::UDP => {
                let (port, tunnel) = (try_u16_at(frame, at + 2)?, at + UDP_HEADER);
                if VXLAN.contains(&port) {
                    return Some(Layer::Frame(tunnel + 8));
                }
                let options = usize::from(frame.get(tunnel)? & 0x3f) * 4;
                (port == GENEVE).then(|| by_type(try_u16_at(frame, tunnel + 2)?, tunnel + 8 + options))?
            }
            IpNumber::GRE => {
                // Checksum, key and sequence number are present if their flags are set (RFC 2890 section 2); routing
                // is not supported.
                let flags = try_u16_at(frame, at)?;
                let words = [0x8000, 0x2000, 0x1000].into_iter().filter(|flag| flags & flag != 0).count();
                (flags & 0x4000 == 0).then(|| by_type(try_u16_at(frame, at + 2)?, at + 4 + 4 * words))?
            }
            IpNumber::IPV4 | IpNumber::IPV6 => Some(Layer::Packet(at)),
            _ => None,
        }
    }

    /// The position of its checksum if partial: the field holds the sum of the pseudo-header.
    fn unfinished(&self, frame: &[u8]) -> Option<Unfinished> {
        let Self { protocol, transport, end, .. } = *self;
        let (kind, header) = match IpNumber(protocol) {
            IpNumber::TCP => (Transport::Tcp, TCP_HEADER),
            IpNumber::UDP => (Transport::Udp, UDP_HEADER),
            _ => return None,
        };
        let (offset, len) = (kind.checksum_offset(), end - transport);
        let pseudo = Sum::pseudo(&frame[self.addresses.clone()], protocol, len).folded();
        let is_partial = len >= header && u16_at(frame, transport + offset) == pseudo;
        is_partial.then_some(Unfinished { transport, offset, end })
    }
}

fn by_type(ethertype: u16, at: usize) -> Option<Layer> {
    match EtherType(ethertype) {
        EtherType(FRAME) => Some(Layer::Frame(at)),
        EtherType::IPV4 | EtherType::IPV6 => Some(Layer::Packet(at)),
        _ => None,
    }
}
