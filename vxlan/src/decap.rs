//! The way in: datagrams become frames of a network, received by a peer's port.
//!
//! ```text
//! a message of the socket: one datagram, or a train of them (UDP_GRO), all but the last of one length
//!   header.parse      is it VXLAN?                 VXLAN_INVALID_HDR, VXLAN_NOT_ETHERNET
//!   tables.network    of a network we know?        VXLAN_VNI_NOT_FOUND
//!   ecn.propagate     congestion met on the way    IP_TUNNEL_ECN
//!   run.follow        the next packet of the same flow? its payload is moved behind the one before
//!   mss.clamp         the first of a connection, where asked for
//! ```
//! A message is received into the batch's next buffer, so that the first frame is in its place already. Those that follow it in
//! its flow are moved down behind it, and others to the next buffers.

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
    headers::{Headers, IPV6_HEADER, Transport, link},
    offload::Offload,
};

use crate::{
    ecn::{self, Ecn},
    header::{self, HEADER, InvalidHeader},
    mss, nested,
    run::{Checksum, Run, unfinished},
    tables::Tables,
};

/// Where in a buffer of the batch a message is to be received.
pub const MESSAGE: usize = HEADROOM - HEADER;

/// What is known of a received message beside its octets.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Who sent it.
    pub peer: PortId,
    /// The outer header's congestion mark.
    pub ecn: Ecn,
    /// Octets of all datagrams.
    pub len: usize,
    /// Octets of each datagram but the last, which may be shorter.
    pub stride: usize,
}

/// How datagrams are treated.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Refuse headers with reserved bits.
    pub strict: bool,
    /// Octets of the longest inner packet that the underlay carries in one piece.
    pub overlay_mtu: u16,
    /// Make connections ask for no longer segments than that.
    pub clamp: bool,
}

/// Makes frames of the message that was received at [`MESSAGE`] in the batch's next buffer. The batch has room for a
/// [train](TRAIN).
///
/// What is not taken in is told to `refuse`, datagram by datagram.
pub fn decapsulate(
    tables: &Tables,
    settings: &Settings,
    message: &Message,
    batch: &mut Batch,
    refuse: &mut Refuse<'_>,
) {
    let mut buffers = batch.spare();
    let Some(buffer) = buffers.next() else { return };
    let octets = &mut buffer[MESSAGE..];
    let longest = usize::from(settings.overlay_mtu) + ETHERNET_HEADER;
    let shape = Shape::of(&octets[..message.len], message.stride);
    let clamp = settings.clamp.then_some(longest);
    let mut frames = ArrayVec::<Frame, TRAIN>::new();
    let mut open: Option<Open<'_>> = None;
    for datagram in shape.datagrams(message.len) {
        let (network, inner) = match inner(tables, settings, message.ecn, octets, &datagram) {
            Ok(inner) => inner,
            Err(reason) => {
                refuse(message.peer, reason, inside(octets, &datagram));
                continue;
            }
        };
        if open.as_mut().is_some_and(|open| open.network == network && open.follow(octets, inner.clone())) {
            continue;
        }
        let nth = frames.len() + usize::from(open.is_some());
        if nth == TRAIN {
            // More than a kernel puts into one message: not from one.
            refuse(message.peer, DropReason::VxlanInvalidHdr, &octets[inner]);
            continue;
        }
        frames.extend(open.take().map(|open| open.finish(octets)));
        let elsewhere = if nth == 0 { None } else { buffers.next().map(|buffer| &mut buffer[HEADROOM..]) };
        // A super-frame's packets must fit all ports of the network.
        let carried =
            tables.mtu(network).map_or(longest, |mtu| longest.min(usize::from(mtu) + ETHERNET_HEADER));
        let cut = |headers: &Headers, len| shape.segment(headers, len, carried);
        open = Some(Open::begin(octets, inner, elsewhere, network, cut, clamp));
    }
    frames.extend(open.take().map(|open| open.finish(octets)));
    drop(buffers);
    for Frame { network, offload, len } in frames {
        batch.push(message.peer, Some(network), offload, len);
    }
}

/// Tells `refuse` each datagram of a message that is not looked into; it was received at [`MESSAGE`] in the batch's next
/// buffer.
pub fn refuse_all(message: &Message, reason: DropReason, batch: &mut Batch, refuse: &mut Refuse<'_>) {
    let octets = batch.spare().next().map_or(&[][..], |buffer| &buffer[MESSAGE..]);
    for datagram in (Shape::Train { stride: message.stride.max(1) }).datagrams(message.len) {
        refuse(message.peer, reason, inside(octets, &datagram));
    }
}

/// What a datagram holds behind the header's octets, if it has as many.
fn inside<'a>(octets: &'a [u8], datagram: &Range<usize>) -> &'a [u8] {
    octets.get(datagram.clone()).and_then(|datagram| datagram.get(HEADER..)).unwrap_or_default()
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Several datagrams that were on the wire one by one.
    Train {
        /// Octets of each but the last.
        stride: usize,
    },
    /// One datagram. It may never have been on a wire: a kernel's VXLAN device on this host hands over super-frames uncut, their
    /// checksums unfinished, because the kernel takes any UDP socket that receives it for a tunnel (`udp_unexpected_gso`,
    /// include/linux/udp.h). Of TCP it does not tell how they were to be cut.
    Lone,
    /// The same of UDP, of which it tells.
    Super {
        /// Octets of payload of each datagram.
        datagram: usize,
    },
}

impl Shape {
    #[inline]
    fn of(octets: &[u8], stride: usize) -> Self {
        if stride >= octets.len() {
            return Self::Lone;
        }
        let frame = octets.get(HEADER..).unwrap_or_default();
        // The packet says so itself. It must fill the message exactly and be unfinished, or one bad packet could hide
        // all that come with it.
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

    /// Where the datagrams are in a message of `len` octets; an empty message is one.
    fn datagrams(self, len: usize) -> impl Iterator<Item = Range<usize>> {
        let stride = match self {
            Self::Train { stride } => stride,
            Self::Lone | Self::Super { .. } => len.max(1),
        };
        (0..len.max(1)).step_by(stride).map(move |start| start..len.min(start + stride))
    }

    /// Octets of payload of each packet that an unfinished frame of `len` octets with these headers stands for, where nobody
    /// takes more than `longest` octets.
    #[inline]
    fn segment(self, headers: &Headers, len: usize, longest: usize) -> Option<usize> {
        match (self, headers.transport_kind) {
            (Self::Super { datagram }, Transport::Udp) => Some(datagram),
            (Self::Lone, Transport::Tcp) if len > longest => longest.checked_sub(headers.payload),
            _ => None,
        }
    }
}

/// Whether the IP packet in `frame` ends with it, by its own account: a first look.
#[inline]
fn fills(frame: &[u8]) -> bool {
    let end = link(frame).and_then(|(network, ethertype)| match ethertype {
        EtherType::IPV4 => Some(network + usize::from(try_u16_at(frame, network + 2)?)),
        EtherType::IPV6 => Some(network + IPV6_HEADER + usize::from(try_u16_at(frame, network + 4)?)),
        _ => None,
    });
    end == Some(frame.len())
}

/// The network and the place of the frame in `datagram`, or why it is not taken in.
#[inline]
fn inner(
    tables: &Tables,
    settings: &Settings,
    ecn: Ecn,
    octets: &mut [u8],
    datagram: &Range<usize>,
) -> Result<(NetworkId, Range<usize>), DropReason> {
    let vni = header::parse(&octets[datagram.clone()], settings.strict).map_err(|invalid| match invalid {
        InvalidHeader::Invalid => DropReason::VxlanInvalidHdr,
        InvalidHeader::NotEthernet => DropReason::VxlanNotEthernet,
    })?;
    let network = tables.network(vni).ok_or(DropReason::VxlanVniNotFound)?;
    let inner = datagram.start + HEADER..datagram.end;
    let frame = &mut octets[inner.clone()];
    ecn::propagate(frame, ecn).map_err(|ecn::Congested| DropReason::IpTunnelEcn)?;
    Ok((network, inner))
}

/// A frame that is complete in its buffer.
struct Frame {
    network: NetworkId,
    offload: Offload,
    len: usize,
}

/// A frame in its place, which packets may follow.
struct Open<'b> {
    network: NetworkId,
    /// Its buffer, from its first octet on; `None`: it is in that of the message, which it is never ahead of.
    elsewhere: Option<&'b mut [u8]>,
    len: usize,
    offload: Offload,
    run: Option<Run>,
}

impl<'b> Open<'b> {
    /// Moves the frame at `inner` to its place. `cut` tells how it is to be cut, by its headers and length, if it is unfinished. If it opens a connection, that will ask for frames of at most `clamp` octets.
    #[inline]
    fn begin(
        octets: &mut [u8],
        inner: Range<usize>,
        mut elsewhere: Option<&'b mut [u8]>,
        network: NetworkId,
        cut: impl Fn(&Headers, usize) -> Option<usize>,
        clamp: Option<usize>,
    ) -> Self {
        let len = inner.len();
        let frame = match &mut elsewhere {
            Some(buffer) => {
                buffer[..len].copy_from_slice(&octets[inner]);
                &mut buffer[..len]
            }
            None => {
                if inner.start > HEADER {
                    octets.copy_within(inner, HEADER);
                }
                &mut octets[HEADER..HEADER + len]
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
        Self { network, elsewhere, len, offload, run }
    }

    /// Takes in the packet at `inner`, if it follows.
    #[inline]
    fn follow(&mut self, octets: &mut [u8], inner: Range<usize>) -> bool {
        let Some(run) = &mut self.run else { return false };
        let at = run.end();
        let first = self.elsewhere.as_deref().unwrap_or_else(|| &octets[HEADER..]);
        let Some(payload) = run.follow(first, &octets[inner.clone()]) else { return false };
        let payload = inner.start + payload..inner.end;
        match &mut self.elsewhere {
            Some(buffer) => buffer[at..at + payload.len()].copy_from_slice(&octets[payload]),
            None => octets.copy_within(payload, HEADER + at),
        }
        self.len = run.end();
        true
    }

    #[inline]
    fn finish(self, octets: &mut [u8]) -> Frame {
        let Self { network, elsewhere, len, offload, run } = self;
        let buffer = elsewhere.unwrap_or_else(|| &mut octets[HEADER..]);
        let merged = run.and_then(|run| run.finish(&mut buffer[..len]));
        Frame { network, offload: merged.unwrap_or(offload), len }
    }
}
