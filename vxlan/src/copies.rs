//! Copies for a collector: a mirror whose frames are sent to another host as VXLAN datagrams, with a VNI that
//! belongs to no network.
//!
//! A collector is not a peer. Frames from it are dropped, no address is learned behind it, and no network is
//! carried to it. Its datagrams differ from those for peers in three points:
//!
//! - Datagrams that exceed the path MTU are fragmented, against RFC 7348 section 4.3 ("VTEPs MUST NOT
//!   fragment"). A frame for a peer is dropped instead, and its sender gets the MTU; but the sender of a
//!   copied frame is not concerned with the path to the collector, and a collector that misses every full
//!   packet sees nothing of a stream.
//! - Congestion is not marked (RFC 6040, compatibility mode): no sender would slow down, and the mark would
//!   end up in the copy.
//! - All copies have one source port and so keep their order, whereas frames for a peer keep it within a flow
//!   only: both directions of a connection reach the collector in order.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use arrayvec::ArrayVec;
use etherparse::{EtherType, IpNumber};
use vswitch::{
    batch::CAPACITY,
    bytes::{try_u16_at, u16_at},
    drops::DropReason,
    headers::{IPV4_HEADER, IPV6_HEADER, UDP_HEADER, link},
    transmit::{Out, Scratch, Transmit},
};

use crate::{
    encap::{Carriage, Class, Settings, Train, encapsulate},
    header::HEADER,
};

/// The datagrams that carry a mirror's copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    /// Destination address.
    pub to: SocketAddr,
    /// Their VXLAN header.
    pub header: [u8; HEADER],
    /// Traffic class of outer headers.
    pub class: Class,
}

impl Copies {
    /// Sends `frames` by `send`, in trains of at most `datagrams`, and counts the outcome of each. Senders
    /// get no answers.
    pub fn encapsulate(
        &self,
        datagrams: usize,
        frames: &Transmit<'_>,
        scratch: &mut Scratch,
        send: &mut dyn FnMut(&Train<'_>) -> io::Result<()>,
    ) {
        let mut outs = ArrayVec::<Out, CAPACITY>::new();
        for out in frames.outs {
            match self.refuses(frames, *out) {
                Some(reason) => frames.count(*out, Err(reason)),
                None => outs.push(*out),
            }
        }
        let settings = Settings {
            // No packet is too long to be fragmented.
            overlay_mtu: u16::MAX,
            clamp: false,
            class: self.class,
            datagrams,
            sources: 1,
            inherit_ttl: false,
            whole_headers: false,
        };
        let frames = Transmit { outs: &outs, ..*frames };
        let carriage = Carriage { header: &self.header, fragment: false };
        encapsulate(|_, _| Some(carriage), &settings, &frames, scratch, send);
    }

    /// The reason why a frame must not be sent.
    fn refuses(&self, frames: &Transmit<'_>, out: Out) -> Option<DropReason> {
        let slot = out.slot();
        let (frame, offload) = (frames.batch.bytes(slot), &frames.batch.frames()[slot].offload);
        if offload.wire_len(frame.len()) > frames.max_frame {
            Some(DropReason::PktTooBig)
        } else {
            self.include(frame).then_some(DropReason::MirrorLoop)
        }
    }

    /// Whether `frame` is such a datagram itself, or a fragment of one.
    ///
    /// The path to the collector may lead through a mirrored port or network: the gateway by which this host
    /// reaches the collector, or a NIC that is a port. Without this check each copy would be copied
    /// endlessly.
    pub fn include(&self, frame: &[u8]) -> bool {
        let datagram = link(frame).and_then(|(network, ethertype)| match (ethertype, self.to.ip()) {
            (EtherType::IPV4, IpAddr::V4(to)) => datagram_v4(&frame[network..], to.octets()),
            (EtherType::IPV6, IpAddr::V6(to)) => datagram_v6(&frame[network..], to.octets()),
            _ => None,
        });
        datagram.is_some_and(|datagram| match datagram {
            // Of its peers' frames, this host's tunnel fragments only those of networks with `fragment`.
            Datagram::Fragment => true,
            Datagram::Whole(udp) => {
                try_u16_at(udp, 2) == Some(self.to.port())
                    && udp.get(UDP_HEADER..UDP_HEADER + HEADER) == Some(&self.header)
            }
        })
    }
}

const UDP: u8 = IpNumber::UDP.0;
/// The next header of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = IpNumber::IPV6_FRAGMENTATION_HEADER.0;

/// The content of a UDP packet to the collector.
enum Datagram<'f> {
    Fragment,
    /// The datagram, from its UDP header on.
    Whole(&'f [u8]),
}

fn datagram_v4(packet: &[u8], to: [u8; 4]) -> Option<Datagram<'_>> {
    let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
    if header[9] != UDP || header[16..20] != to {
        return None;
    }
    let fragmented = u16_at(header, 6) & 0x3fff != 0;
    let length = usize::from(header[0] & 0x0f) * 4;
    Some(if fragmented { Datagram::Fragment } else { Datagram::Whole(packet.get(length..)?) })
}

fn datagram_v6(packet: &[u8], to: [u8; 16]) -> Option<Datagram<'_>> {
    let (header, rest) = packet.split_first_chunk::<IPV6_HEADER>()?;
    match header[6] {
        _ if header[24..40] != to => None,
        UDP => Some(Datagram::Whole(rest)),
        FRAGMENT if rest.first() == Some(&UDP) => Some(Datagram::Fragment),
        _ => None,
    }
}
