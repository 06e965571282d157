//! Decapsulation: datagrams become frames of a network, received by a peer's port.
//!
//! ```text
//! a message of the socket: one datagram, or a train of them (UDP_GRO), all but the last of one length
//!   header.parse      is it VXLAN?                 VXLAN_INVALID_HDR, VXLAN_NOT_ETHERNET
//!   tables.network    of a known network?          VXLAN_VNI_NOT_FOUND
//!   is_cut_short      is the IP header complete?   PKT_TOO_SMALL
//!   ecn.propagate     congestion in the underlay   IP_TUNNEL_ECN
//!   run.follow        the next packet of the same flow? append its payload to the previous one
//!   mss.clamp         the first of a connection, if enabled
//! ```
//! A message is received into the batch's next buffer, so that the first frame is in place already. Packets
//! that continue its flow are moved down behind it, others to the next buffers.

use std::ops::Range;

use arrayvec::ArrayVec;
use etherparse::EtherType;
use vswitch::{
    addr::{NetworkId, PortId},
    batch::{Batch, HEADROOM, TRAIN},
    bytes::try_u16_at,
    device::Refuse,
    drops::DropReason,
    frame::ETHERNET_HEADER,
    headers::{Headers, IPV6_HEADER, Transport, is_cut_short, link},
    offload::Offload,
};

use crate::{
    ecn::{self, Ecn},
    header::{self, HEADER, InvalidHeader},
    mss, nested,
    run::{Checksum, Run, unfinished},
    tables::Tables,
};

/// Position of a message in a buffer of the batch.
pub const MESSAGE: usize = HEADROOM - HEADER;

/// Metadata of a received message.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The port of its sender.
    pub peer: PortId,
    /// The outer header's congestion mark.
    pub ecn: Ecn,
    /// Total length of its datagrams, in bytes.
    pub len: usize,
    /// Length of each datagram in bytes; the last may be shorter.
    pub stride: usize,
}

/// Settings of decapsulation.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Reject headers with reserved bits.
    pub strict: bool,
    /// Length of the longest inner packet that the underlay carries unfragmented, in bytes.
    pub overlay_mtu: u16,
    /// Clamp the MSS of connections to it.
    pub clamp: bool,
}

/// Decapsulates the message that was received at [`MESSAGE`] in the batch's next buffer. The batch must have
/// room for a [train](TRAIN).
///
/// Rejected datagrams are passed to `refuse` one by one.
pub fn decapsulate(
    tables: &Tables,
    settings: &Settings,
    message: &Message,
    batch: &mut Batch,
    refuse: &mut Refuse<'_>,
) {
    let mut buffers = batch.spare();
    let Some(buffer) = buffers.next() else { return };
    let bytes = &mut buffer[MESSAGE..];
    let longest = usize::from(settings.overlay_mtu) + ETHERNET_HEADER;
    let shape = Shape::of(&bytes[..message.len], message.stride);
    let clamp = settings.clamp.then_some(longest);
    let mut frames = ArrayVec::<Frame, TRAIN>::new();
    let mut open: Option<Open<'_>> = None;
    for datagram in shape.datagrams(message.len) {
        let (of, inner) = match inner(tables, settings, message.ecn, bytes, &datagram) {
            Ok(inner) => inner,
            Err(reason) => {
                refuse(message.peer, reason, inside(bytes, &datagram));
                continue;
            }
        };
        if open.as_mut().is_some_and(|open| open.of == of && open.follow(bytes, inner.clone())) {
            continue;
        }
        let nth = frames.len() + usize::from(open.is_some());
        if nth == TRAIN {
            // More datagrams than a kernel puts into one message.
            refuse(message.peer, DropReason::VxlanInvalidHdr, &bytes[inner]);
            continue;
        }
        frames.extend(open.take().map(|open| open.finish(bytes)));
        let elsewhere = if nth == 0 { None } else { buffers.next().map(|buffer| &mut buffer[HEADROOM..]) };
        // A super-frame's segments must fit all ports of the network.
        let carried =
            tables.mtu(of.network).map_or(longest, |mtu| longest.min(usize::from(mtu) + ETHERNET_HEADER));
        let cut = |headers: &Headers, len| shape.segment(headers, len, carried);
        open = Some(Open::begin(bytes, inner, elsewhere, of, cut, clamp));
    }
    frames.extend(open.take().map(|open| open.finish(bytes)));
    drop(buffers);
    for Frame { of: Sender { network, isolated }, offload, len } in frames {
        batch.push(message.peer, Some(network), offload, len);
        if isolated {
            batch.isolate();
        }
    }
}

/// Passes each datagram of a message to `refuse`; it was received at [`MESSAGE`] in the batch's next buffer.
pub fn refuse_all(message: &Message, reason: DropReason, batch: &mut Batch, refuse: &mut Refuse<'_>) {
    let bytes = batch.spare().next().map_or(&[][..], |buffer| &buffer[MESSAGE..]);
    for datagram in (Shape::Train { stride: message.stride.max(1) }).datagrams(message.len) {
        refuse(message.peer, reason, inside(bytes, &datagram));
    }
}

/// The content of a datagram after its header, if it is long enough.
fn inside<'a>(bytes: &'a [u8], datagram: &Range<usize>) -> &'a [u8] {
    bytes.get(datagram.clone()).and_then(|datagram| datagram.get(HEADER..)).unwrap_or_default()
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Several datagrams that were separate on the wire.
    Train {
        /// Length of each datagram but the last, in bytes.
        stride: usize,
    },
    /// One datagram. It may never have been on a wire: a kernel's VXLAN device on this host passes super-frames
    /// unsegmented and with a partial checksum, because the kernel takes any UDP socket that receives them for a
    /// tunnel (`udp_unexpected_gso`, include/linux/udp.h). For TCP it does not report the segment size.
    Lone,
    /// Such a super-frame of UDP, for which the kernel reports the segment size.
    Super {
        /// Payload bytes per datagram.
        datagram: usize,
    },
}

impl Shape {
    #[inline]
    fn of(bytes: &[u8], stride: usize) -> Self {
        if stride >= bytes.len() {
            return Self::Lone;
        }
        let frame = bytes.get(HEADER..).unwrap_or_default();
        // According to the packet itself. It must fill the message exactly and have a partial checksum;
        // otherwise one malformed packet could hide all others of the message.
        let uncut = |headers: &Headers| {
            headers.transport_kind == Transport::Udp
                && headers.ends_with(frame)
                && Checksum::is_partial(frame, headers)
        };
        if fills(frame) && Headers::measure(frame).is_some_and(|headers| uncut(&headers)) {
            return Self::Super { datagram: stride };
        }
        Self::Train { stride: stride.max(1) }
    }

    /// The datagrams of a message of `len` bytes; an empty message is one datagram.
    fn datagrams(self, len: usize) -> impl Iterator<Item = Range<usize>> {
        let stride = match self {
            Self::Train { stride } => stride,
            Self::Lone | Self::Super { .. } => len.max(1),
        };
        (0..len.max(1)).step_by(stride).map(move |start| start..len.min(start + stride))
    }

    /// Payload bytes per packet of an unfinished frame of `len` bytes with these headers, if frames may have at
    /// most `longest` bytes.
    #[inline]
    fn segment(self, headers: &Headers, len: usize, longest: usize) -> Option<usize> {
        match (self, headers.transport_kind) {
            (Self::Super { datagram }, Transport::Udp) => Some(datagram),
            (Self::Lone, Transport::Tcp) if len > longest => longest.checked_sub(headers.payload),
            _ => None,
        }
    }
}

/// Whether the IP packet in `frame` ends with it according to its length field: a quick check.
#[inline]
fn fills(frame: &[u8]) -> bool {
    let end = link(frame).and_then(|(network, ethertype)| match ethertype {
        EtherType::IPV4 => Some(network + usize::from(try_u16_at(frame, network + 2)?)),
        EtherType::IPV6 => Some(network + IPV6_HEADER + usize::from(try_u16_at(frame, network + 4)?)),
        _ => None,
    });
    end == Some(frame.len())
}

/// What the header says of a frame's sender.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sender {
    network: NetworkId,
    /// Whether it is an isolated port.
    isolated: bool,
}

/// The sender and the position of the frame in `datagram`, or the reason to drop it.
#[inline]
fn inner(
    tables: &Tables,
    settings: &Settings,
    ecn: Ecn,
    bytes: &mut [u8],
    datagram: &Range<usize>,
) -> Result<(Sender, Range<usize>), DropReason> {
    let (front, group) = (&bytes[datagram.clone()], tables.isolated_group());
    let header = match group {
        None => header::parse(front, settings.strict).map(|vni| (vni, None)),
        Some(_) => header::parse_with_policy(front, settings.strict),
    };
    let (vni, policy) = header.map_err(|invalid| match invalid {
        InvalidHeader::Invalid => DropReason::VxlanInvalidHdr,
        InvalidHeader::NotEthernet => DropReason::VxlanNotEthernet,
    })?;
    let network = tables.network(vni).ok_or(DropReason::VxlanVniNotFound)?;
    let inner = datagram.start + HEADER..datagram.end;
    let frame = &mut bytes[inner.clone()];
    if is_cut_short(frame) {
        return Err(DropReason::PktTooSmall);
    }
    ecn::propagate(frame, ecn).map_err(|ecn::Congested| DropReason::IpTunnelEcn)?;
    Ok((Sender { network, isolated: policy.is_some() && policy == group }, inner))
}

/// A complete frame in its buffer.
struct Frame {
    of: Sender,
    offload: Offload,
    len: usize,
}

/// A frame in its buffer, to which packets may be appended.
struct Open<'b> {
    of: Sender,
    /// Its buffer, from its first byte on; `None`: that of the message, which it never overtakes.
    elsewhere: Option<&'b mut [u8]>,
    len: usize,
    offload: Offload,
    run: Option<Run>,
}

impl<'b> Open<'b> {
    /// Moves the frame at `inner` to its buffer. If it is unfinished, `cut` returns its segment size, given its
    /// headers and length. If it opens a connection, clamps the MSS to frames of at most `clamp` bytes.
    #[inline]
    fn begin(
        bytes: &mut [u8],
        inner: Range<usize>,
        mut elsewhere: Option<&'b mut [u8]>,
        of: Sender,
        cut: impl Fn(&Headers, usize) -> Option<usize>,
        clamp: Option<usize>,
    ) -> Self {
        let len = inner.len();
        let frame = match &mut elsewhere {
            Some(buffer) => {
                buffer[..len].copy_from_slice(&bytes[inner]);
                &mut buffer[..len]
            }
            None => {
                if inner.start > HEADER {
                    bytes.copy_within(inner, HEADER);
                }
                &mut bytes[HEADER..HEADER + len]
            }
        };
        let (mut offload, mut run) = (Offload::NONE, None);
        let headers = Headers::measure(frame);
        if headers.is_none_or(|headers| headers.transport_kind == Transport::Udp) {
            nested::finish(frame);
        }
        if let Some(headers) = headers {
            offload = unfinished(frame, &headers, cut(&headers, len)).unwrap_or(Offload::NONE);
            run = Run::begin(frame, &headers);
            if let Some(longest) = clamp.filter(|_| mss::opens(frame, &headers)) {
                mss::clamp(frame, &headers, longest, offload.csum);
            }
        }
        Self { of, elsewhere, len, offload, run }
    }

    /// Appends the packet at `inner`, if it continues the run.
    #[inline]
    fn follow(&mut self, bytes: &mut [u8], inner: Range<usize>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let at = run.end();
        let first = self.elsewhere.as_deref().unwrap_or_else(|| &bytes[HEADER..]);
        let Some(payload) = run.follow(first, &bytes[inner.clone()]) else { return false };
        let payload = inner.start + payload..inner.end;
        match &mut self.elsewhere {
            Some(buffer) => buffer[at..at + payload.len()].copy_from_slice(&bytes[payload]),
            None => bytes.copy_within(payload, HEADER + at),
        }
        self.len = run.end();
        true
    }

    #[inline]
    fn finish(self, bytes: &mut [u8]) -> Frame {
        let Self { of, elsewhere, len, offload, run } = self;
        let buffer = elsewhere.unwrap_or_else(|| &mut bytes[HEADER..]);
        let merged = run.and_then(|run| run.finish(&mut buffer[..len]));
        Frame { of, offload: merged.unwrap_or(offload), len }
    }
}
