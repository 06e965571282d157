//! Copies for a host elsewhere: a mirror whose frames leave as VXLAN datagrams, under a VNI that is no network's.
//!
//! A collector is no peer. Nothing is taken in from it, no address is learned behind it, and no network is carried to it. In
//! three points its datagrams differ from those for peers, because nobody sent them:
//!
//! - What does not fit the way leaves in fragments, against RFC 7348 section 4.3 ("VTEPs MUST NOT fragment"). A peer's frame is
//!   refused and its sender told what would fit; the sender of a frame that was copied has nothing to do with how far it is to
//!   whoever watches, and a watcher that misses every full packet sees nothing of a stream.
//! - Congestion on the way is not marked (RFC 6040, compatibility mode): nobody would slow down, and the mark would end up in the
//!   copy.
//! - All copies leave by one source port and so in one order, where a peer's frames are ordered by flow alone: both directions of
//!   a connection reach the watcher as they happened.

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
    encap::{Class, Settings, Train, encapsulate},
    header::HEADER,
};

/// The datagrams that carry a mirror's copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    /// Where they are sent.
    pub to: SocketAddr,
    /// What they begin with.
    pub header: [u8; HEADER],
    /// What outer headers have for their traffic class.
    pub class: Class,
}

impl Copies {
    /// Sends `frames` by `send`, a train of at most so many `datagrams` at a time, and counts what became of each. Nobody is
    /// answered.
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
            // No packet is too long for fragments.
            overlay_mtu: u16::MAX,
            clamp: false,
            class: self.class,
            datagrams,
            sources: 1,
        };
        let frames = Transmit { outs: &outs, ..*frames };
        encapsulate(|_| Some(&self.header), &settings, &frames, scratch, send);
    }

    /// Why a frame is not sent, before it is known whether it could be.
    fn refuses(&self, frames: &Transmit<'_>, out: Out) -> Option<DropReason> {
        let slot = usize::from(out.slot);
        let (frame, offload) = (frames.batch.bytes(slot), &frames.batch.frames()[slot].offload);
        if offload.wire_len(frame.len()) > frames.max_frame {
            Some(DropReason::PktTooBig)
        } else {
            self.include(frame).then_some(DropReason::MirrorLoop)
        }
    }

    /// Whether `frame` is such a datagram, or a fragment of one, on its way.
    ///
    /// That way may lead through a port or network that is mirrored: the gateway by which this host reaches the collector, or a
    /// NIC that is a port. Without this look each copy would be copied for ever.
    pub fn include(&self, frame: &[u8]) -> bool {
        let datagram = link(frame).and_then(|(network, ethertype)| match (ethertype, self.to.ip()) {
            (EtherType::IPV4, IpAddr::V4(to)) => datagram_v4(&frame[network..], to.octets()),
            (EtherType::IPV6, IpAddr::V6(to)) => datagram_v6(&frame[network..], to.octets()),
            _ => None,
        });
        datagram.is_some_and(|datagram| match datagram {
            // Only copies are sent there in fragments, as far as this host's tunnel goes.
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

/// What a packet holds that is sent to the collector by UDP.
enum Datagram<'f> {
    Fragment,
    /// From its UDP header on.
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
