//! Translation of headers, in a copy: the one place where the switch changes what stations sent.
//!
//! Addresses change, and the checksums that cover them by the difference (RFC 1624). What the transport checksum field holds
//! depends on the frame's offload: a complete checksum, none (UDP over IPv4), or the folded pseudo-header sum of one that the
//! device completes. Lengths and positions stay, so the offload itself does as well.

use std::net::IpAddr;

use etherparse::IpNumber;

use super::packet::{Content, HEAD, ICMP_HEADER, Ip, Packet};
use crate::{
    addr::MacAddr,
    wire::{
        bytes::{put_u16, u16_at},
        checksum::Sum,
        headers::IpVersion,
        offload::{Csum, Offload},
    },
};

/// What the head of a frame becomes while it is sent. See [`Batch::exchange`](crate::batch::Batch::exchange).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translation {
    slot: usize,
    len: usize,
    bytes: [u8; HEAD],
}

impl Translation {
    /// A copy of the head of `frame`, which is in `slot`.
    pub(super) fn of(slot: usize, frame: &[u8]) -> Self {
        let len = frame.len().min(HEAD);
        let mut bytes = [0; HEAD];
        bytes[..len].copy_from_slice(&frame[..len]);
        Self { slot, len, bytes }
    }

    /// The slot of its frame.
    pub(crate) fn slot(&self) -> usize {
        self.slot
    }

    /// Its bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// The new addresses of a frame; `None`: as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Change {
    pub(super) link_source: Option<MacAddr>,
    pub(super) link_destination: Option<MacAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    /// In the packet that an ICMP error quotes.
    pub(super) quoted_source: Option<IpAddr>,
    pub(super) quoted_destination: Option<IpAddr>,
}

/// How a checksum field is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    /// The complement of a sum.
    Complete,
    /// The same, where zero stands for none (RFC 768).
    Optional,
    /// A sum that is completed later.
    Partial,
}

/// Changes addresses of `packet`, which is in `head`.
pub(super) fn translate(head: &mut [u8], packet: &Packet, offload: &Offload, change: &Change) {
    let Packet { ip, content } = packet;
    for (at, mac) in [(0, change.link_destination), (6, change.link_source)] {
        if let Some(mac) = mac {
            head[at..at + 6].copy_from_slice(&mac.0);
        }
    }
    let difference = readdress(head, ip, change.source, change.destination);
    match content {
        Content::Ports(_) => adjust_transport(head, ip, partial(offload, ip), difference),
        Content::Error(quoted, _) => {
            let quote = ip.transport + ICMP_HEADER;
            let before = Sum::of(&head[quote..]).folded();
            let inner = readdress(head, quoted, change.quoted_source, change.quoted_destination);
            adjust_transport(head, quoted, false, inner);
            let after = Sum::of(&head[quote..]);
            // ICMP over IPv4 has no pseudo-header.
            let outer = if ip.version == IpVersion::V6 { difference } else { Sum::default() };
            adjust(head, ip.transport + 2, Field::Complete, outer + Sum::minus(before) + after);
        }
        Content::Rest | Content::Echo | Content::Other => {}
    }
}

/// Turns a question for an echo into the answer: from the destination to the source, as the destination would (RFC 792, RFC 4443
/// section 4.2). The rest of a fragmented one goes back as it is.
pub(super) fn echo(head: &mut [u8], packet: &Packet, offload: &Offload) {
    let Packet { ip, content } = packet;
    let (to, rest) = head.split_at_mut(6);
    to.swap_with_slice(&mut rest[..6]);
    // The sum of both addresses stays.
    readdress(head, ip, Some(ip.destination), Some(ip.source));
    if *content == Content::Echo {
        let before = u16_at(head, ip.transport);
        head[ip.transport] = match ip.version {
            IpVersion::V4 => 0,
            IpVersion::V6 => 129,
        };
        if !partial(offload, ip) {
            let difference = Sum::minus(before) + Sum::word(u16_at(head, ip.transport));
            adjust(head, ip.transport + 2, Field::Complete, difference);
        }
    }
}

/// Whether the checksum of what `ip` carries is left to the device.
fn partial(offload: &Offload, ip: &Ip) -> bool {
    let is_there = |start: u16| usize::from(start) == ip.transport;
    matches!(offload.csum, Csum::Partial { start, .. } if is_there(start))
        || offload.gso.and_then(|gso| gso.tunnel).is_some_and(|it| it.csum && is_there(it.transport))
}

/// Changes addresses of an IP header, with its own checksum, and returns by how much the sum of the addresses changes.
fn readdress(head: &mut [u8], ip: &Ip, source: Option<IpAddr>, destination: Option<IpAddr>) -> Sum {
    let mut difference = Sum::default();
    for (at, address) in ip.addresses().into_iter().zip([source, destination]) {
        let mut put = |octets: &[u8]| {
            let place = &mut head[at..at + octets.len()];
            difference = difference + Sum::minus(Sum::of(place).folded()) + Sum::of(octets);
            place.copy_from_slice(octets);
        };
        match address {
            Some(IpAddr::V4(address)) if ip.version == IpVersion::V4 => put(&address.octets()),
            Some(IpAddr::V6(address)) if ip.version == IpVersion::V6 => put(&address.octets()),
            _ => {}
        }
    }
    if ip.version == IpVersion::V4 {
        adjust(head, ip.network + 10, Field::Complete, difference);
    }
    difference
}

/// Changes the checksum of the TCP or UDP header behind `ip` by that of its pseudo-header. A quote may end before.
fn adjust_transport(head: &mut [u8], ip: &Ip, is_partial: bool, difference: Sum) {
    let (at, complete) = match IpNumber(ip.protocol) {
        IpNumber::TCP => (16, Field::Complete),
        _ => (6, Field::Optional),
    };
    let at = ip.transport + at;
    if at + 2 <= head.len() {
        adjust(head, at, if is_partial { Field::Partial } else { complete }, difference);
    }
}

/// Changes the checksum field at `at` by `difference` (RFC 1624 section 3, equation 3).
fn adjust(head: &mut [u8], at: usize, field: Field, difference: Sum) {
    let old = u16_at(head, at);
    let new = match field {
        Field::Optional if old == 0 => return,
        Field::Optional => (Sum::minus(old) + difference).nonzero_checksum(),
        Field::Complete => (Sum::minus(old) + difference).checksum(),
        Field::Partial => (Sum::word(old) + difference).folded(),
    };
    put_u16(head, at, new);
}
