//! Datagrams of one flow, sent as one super-frame to a device that asks for it.
//!
//! Merged at egress, port by port, so that captures, mirrors and other ports have each datagram. A raw socket
//! in the container sees the super-frame, which is why the port must ask. No payload is copied: the device gathers it.
//!
//! Not merged: what lacks a checksum or has a wrong one, which would be hidden, and what is padded, tagged anew or fragmented.

use std::num::NonZeroU16;

use arrayvec::ArrayVec;

use crate::{
    transmit::{Out, TagOp, Transmit},
    wire::{
        bytes::{length, put_u16},
        checksum::{Sum, verify},
        headers::{Headers, IPV6_HEADER, IpVersion, Transport},
        offload::{Csum, Gso, GsoKind, LONG_HEADER, Offload},
    },
};

/// Maximum number of datagrams of a super-frame: what a receiving kernel would merge (`UDP_GRO_CNT_MAX`, net/ipv4/udp_offload.c).
pub const MAX_MERGED: usize = 64;

/// Length up to which headers are considered, in bytes: two tags, IPv6 and a short extension header.
const HEAD: usize = 96;

/// A super-frame in parts.
#[derive(Debug)]
pub struct Merged<'a> {
    head: [u8; LONG_HEADER + HEAD],
    head_len: usize,
    payloads: ArrayVec<&'a [u8], MAX_MERGED>,
}

impl<'a> Merged<'a> {
    /// Number of datagrams: two or more.
    pub fn count(&self) -> usize {
        self.payloads.len()
    }

    /// The long offload header and the headers, then the payload of each datagram.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.head[..self.head_len]).chain(self.payloads.iter().copied())
    }
}

impl<'a> Transmit<'a> {
    /// The super-frame of the outgoing frame number `at` and those directly behind it that continue its flow, if there are any:
    /// with equal headers and as much payload, or less in the last.
    pub fn merged(&self, at: usize) -> Option<Merged<'a>> {
        let (first, headers) = self.datagram(*self.outs.get(at)?)?;
        let size = NonZeroU16::new(length(headers.end - headers.payload))?;
        let mut payloads = ArrayVec::<&[u8], MAX_MERGED>::new();
        payloads.push(&first[headers.payload..]);
        let mut end = first.len();
        for out in &self.outs[at + 1..] {
            let Some((next, its)) = self.datagram(*out) else { break };
            let payload = &next[its.payload..];
            let fits = !payloads.is_full() && end + payload.len() - headers.network <= usize::from(u16::MAX);
            if !fits
                || payload.is_empty()
                || payload.len() > size.get().into()
                || !continues(first, &headers, next, &its)
            {
                break;
            }
            payloads.push(payload);
            end += payload.len();
            if payload.len() < size.get().into() {
                break;
            }
        }
        (payloads.len() > 1).then(|| {
            let mut head = [0; LONG_HEADER + HEAD];
            write_head(&mut head, first, &headers, size, end);
            Merged { head, head_len: LONG_HEADER + headers.payload, payloads }
        })
    }

    /// The frame and its headers, if it is a whole datagram with a checksum that is right or still to be completed.
    fn datagram(&self, out: Out) -> Option<(&'a [u8], Headers)> {
        let slot = out.slot();
        let (frame, offload) = (self.batch.bytes(slot), &self.batch.frames()[slot].offload);
        if out.tag != TagOp::Keep || offload.gso.is_some() || frame.len() > self.max_frame {
            return None;
        }
        let headers = Headers::measure(frame)?;
        let is_datagram = headers.transport_kind == Transport::Udp && headers.ends_with(frame);
        if !is_datagram || headers.payload > HEAD {
            return None;
        }
        let is_right = match offload.csum {
            Csum::Partial { start, offset } => {
                usize::from(start) == headers.transport
                    && usize::from(offset) == headers.transport_kind.checksum_offset()
            }
            Csum::Valid => frame[headers.transport + 6..headers.payload] != [0, 0],
            Csum::Unknown => verify(frame, &headers),
        };
        is_right.then_some((frame, headers))
    }
}

/// Whether all headers of both are equal, but for lengths, identification and checksums.
fn continues(first: &[u8], headers: &Headers, next: &[u8], its: &Headers) -> bool {
    let &Headers { network, transport, payload, version, .. } = headers;
    if (its.network, its.transport, its.payload, its.version) != (network, transport, payload, version) {
        return false;
    }
    let same = |from: usize, to: usize| first[from..to] == next[from..to];
    let ip = match version {
        IpVersion::V4 => same(network + 6, network + 10) && same(network + 12, transport),
        IpVersion::V6 => same(network + 2, network + 4) && same(network + 6, transport),
    };
    ip && same(0, network + 2) && same(transport, transport + 4)
}

/// Writes the offload header and the headers of a super-frame of `end` bytes that begins like `first`.
fn write_head(head: &mut [u8], first: &[u8], headers: &Headers, size: NonZeroU16, end: usize) {
    let &Headers { network, transport, payload, version, .. } = headers;
    let (vnet, frame) = head.split_at_mut(LONG_HEADER);
    frame[..payload].copy_from_slice(&first[..payload]);
    match version {
        IpVersion::V4 => {
            put_u16(frame, network + 2, length(end - network));
            put_u16(frame, network + 10, 0);
            put_u16(frame, network + 10, Sum::of(&frame[network..transport]).checksum());
        }
        IpVersion::V6 => put_u16(frame, network + 4, length(end - network - IPV6_HEADER)),
    }
    let udp = end - transport;
    put_u16(frame, transport + 4, length(udp));
    let pseudo = Sum::pseudo(&frame[headers.addresses()], Transport::Udp.protocol(), udp);
    let offset = Transport::Udp.checksum_offset();
    put_u16(frame, transport + offset, pseudo.folded());
    let gso = Gso { kind: GsoKind::Udp, size, header_len: length(payload), ecn: false, tunnel: None };
    let csum = Csum::Partial { start: length(transport), offset: length(offset) };
    vnet.copy_from_slice(&Offload { csum, gso: Some(gso) }.emit_long());
}
