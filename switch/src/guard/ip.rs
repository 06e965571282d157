//! IP packets of a guarded station: their source, and what only routers and servers send.

use etherparse::IpNumber;

use super::{
    Guard, MOST_HEADERS,
    claims::{REDIRECT, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION},
};
use crate::{
    drops::DropReason,
    wire::{
        bytes::{try_u16_at, try_u32_at, try_u64_at, u16_at},
        headers::{IPV4_HEADER, IPV6_HEADER},
    },
};

/// ICMP "redirect" (RFC 792), and "router advertisement" (RFC 1256).
const ROUTERS_ICMP: [u8; 2] = [5, 9];

/// The UDP port that DHCP servers send from, and the one that clients listen at, whatever the server's (RFC 2131 section 4.1).
const DHCP: (u16, u16) = (67, 68);
/// The same of DHCPv6 (RFC 8415 section 7.2; RFC 7610 section 4).
const DHCP6: (u16, u16) = (547, 546);

/// What follows the headers of an IPv6 packet.
#[derive(Clone, Copy, Debug)]
enum Upper<'p> {
    /// ICMPv6, from its type on, and whether the packet has a fragment header.
    Icmp(&'p [u8], bool),
    /// UDP, from its ports on.
    Udp(&'p [u8]),
    /// Another protocol, or a later part of a packet.
    Other,
}

impl Guard {
    /// Judges an IPv4 packet.
    #[inline]
    pub(super) fn judge_ipv4(&self, packet: &[u8]) -> Result<(), DropReason> {
        let head: &[u8; IPV4_HEADER] = packet.first_chunk().ok_or(DropReason::GuardIp)?;
        let source = u32::from_be_bytes([head[12], head[13], head[14], head[15]]);
        let is_silent = source == 0 && is_to_group(head);
        if !(is_silent || self.has_v4(source)) || head[0] >> 4 != 4 {
            return Err(DropReason::GuardIp);
        }
        let is_first = u16_at(head, 6) & 0x1fff == 0;
        let protocol = IpNumber(head[9]);
        if protocol == IpNumber::TCP || !is_first {
            return Ok(());
        }
        let upper = packet.get(usize::from(head[0] & 0x0f) * 4..).unwrap_or_default();
        match protocol {
            IpNumber::UDP => not_from_server(upper, DHCP),
            // A first fragment that does not show its type hides it.
            IpNumber::ICMP if upper.first().is_none_or(|kind| ROUTERS_ICMP.contains(kind)) => {
                Err(DropReason::GuardRa)
            }
            _ => Ok(()),
        }
    }

    /// Judges an IPv6 packet.
    #[inline(never)]
    pub(super) fn judge_ipv6(
        &self,
        packet: &[u8],
        is_foreign: impl Fn(u128) -> bool,
    ) -> Result<(), DropReason> {
        let head: &[u8; IPV6_HEADER] = packet.first_chunk().ok_or(DropReason::GuardIp)?;
        let source = u128::from_be_bytes(head[8..24].try_into().expect("16 bytes"));
        // A station without an address sends to groups only: duplicate address detection, router solicitation (RFC 4862), MLD (RFC 3810).
        let is_silent = source == 0 && head[24] == 0xff;
        if !(is_silent || self.has_v6(source, &is_foreign)) || head[0] >> 4 != 6 {
            return Err(DropReason::GuardIp);
        }
        // Without the padding of a short frame, which must not be taken for a header.
        let end = IPV6_HEADER + usize::from(u16_at(head, 4));
        let packet = &packet[..end.min(packet.len())];
        match upper(packet).ok_or(DropReason::GuardRa)? {
            Upper::Other => Ok(()),
            Upper::Udp(datagram) => not_from_server(datagram, DHCP6),
            Upper::Icmp(message, is_fragment) => match message.first().copied().ok_or(DropReason::GuardRa)? {
                ROUTER_ADVERTISEMENT | REDIRECT => Err(DropReason::GuardRa),
                // It may not be fragmented (RFC 6980 section 5), and a later part could have an option that counts.
                ROUTER_SOLICITATION..=REDIRECT if is_fragment => Err(DropReason::GuardNd),
                ROUTER_SOLICITATION..=REDIRECT if packet.len() < end => Err(DropReason::GuardNd),
                ROUTER_SOLICITATION..=REDIRECT => self.judge_neighbour(source, message, is_foreign),
                _ => Ok(()),
            },
        }
    }
}

/// Whether an IPv4 packet is for everybody or for a group: the only ones that a station without address sends (RFC 2131 section
/// 4.1, RFC 3376 section 4.2.13).
fn is_to_group(head: &[u8; IPV4_HEADER]) -> bool {
    head[16] & 0xf0 == 0xe0 || try_u32_at(head, 16) == Some(u32::MAX)
}

/// Whether a UDP datagram is one that a server of DHCP does not send. One that does not show its ports hides them.
#[inline]
fn not_from_server(datagram: &[u8], (server, client): (u16, u16)) -> Result<(), DropReason> {
    let ports = try_u16_at(datagram, 0).zip(try_u16_at(datagram, 2));
    let (from, to) = ports.ok_or(DropReason::GuardDhcp)?;
    if from == server || to == client { Err(DropReason::GuardDhcp) } else { Ok(()) }
}

/// Skips the extension headers of an IPv6 packet (RFC 8200 section 4); `None` if its headers do not show what it is: they go on
/// beyond its end, or there are more than [`MOST_HEADERS`].
#[inline]
fn upper(packet: &[u8]) -> Option<Upper<'_>> {
    let mut next = IpNumber(*packet.get(6)?);
    let mut rest = packet.get(IPV6_HEADER..)?;
    let mut is_fragment = false;
    for _ in 0..=MOST_HEADERS {
        let length = match next {
            IpNumber::UDP => return Some(Upper::Udp(rest)),
            IpNumber::IPV6_ICMP => return Some(Upper::Icmp(rest, is_fragment)),
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                // Its bits 0 to 12 are the position. Only the first part says what all of it is.
                if try_u64_at(rest, 0)? >> 35 & 0x1fff != 0 {
                    return Some(Upper::Other);
                }
                is_fragment = true;
                8
            }
            IpNumber::AUTHENTICATION_HEADER => (usize::from(*rest.get(1)?) + 2) * 4,
            IpNumber::IPV6_HEADER_HOP_BY_HOP
            | IpNumber::IPV6_ROUTE_HEADER
            | IpNumber::IPV6_DESTINATION_OPTIONS
            | IpNumber::MOBILITY_HEADER
            | IpNumber::HIP
            | IpNumber::SHIM6 => (usize::from(*rest.get(1)?) + 1) * 8,
            _ => return Some(Upper::Other),
        };
        next = IpNumber(*rest.first()?);
        rest = rest.get(length..)?;
    }
    None
}
