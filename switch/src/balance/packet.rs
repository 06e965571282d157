//! What translation must know of a packet: where its addresses are, and what follows them.
//!
//! Only the headers within [`HEAD`] bytes are read: the part of a frame that is copied and translated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, IpNumber};

use crate::wire::{
    bytes::{try_u16_at, try_u32_at},
    headers::{IPV4_HEADER, IPV6_HEADER, IpVersion, link},
};

/// The most bytes of a frame that are translated: two tags, IPv6, an ICMP error that quotes IPv6 with TCP, and room for extension
/// headers or options.
pub(crate) const HEAD: usize = 192;

/// Length of an ICMP header of either version.
pub(super) const ICMP_HEADER: usize = 8;

/// A packet to translate. Positions count from the destination MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) ip: Ip,
    pub(super) content: Content,
}

/// An IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    pub(super) version: IpVersion,
    /// Where it begins.
    pub(super) network: usize,
    /// Where what it carries begins.
    pub(super) transport: usize,
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Its identification, if it is a fragment.
    pub(super) fragment: Option<u32>,
    /// Whether it is a fragment without the transport header.
    pub(super) is_rest: bool,
}

/// What an IP header carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// TCP or UDP.
    Ports(Ports),
    /// The rest of a packet whose first fragment has its transport header.
    Rest,
    /// A question for an echo.
    Echo,
    /// An ICMP error about a packet, whose headers it quotes.
    Error(Ip, Ports),
    /// Anything else.
    Other,
}

/// The ports of a packet, and the flags of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) flags: u8,
}

// Flags of TCP (RFC 9293 section 3.1).
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

impl Packet {
    /// Reads the packet in `frame` (with Ethernet header, without FCS); `None` if it is no whole IP header, or behind too many
    /// others.
    pub(super) fn read(frame: &[u8]) -> Option<Self> {
        let head = &frame[..frame.len().min(HEAD)];
        let version = |ethertype| match ethertype {
            EtherType::IPV4 => Some(IpVersion::V4),
            EtherType::IPV6 => Some(IpVersion::V6),
            _ => None,
        };
        let (network, ethertype) = link(head)?;
        let ip = Ip::read(head, network, version(ethertype)?)?;
        Some(Self { ip, content: Content::read(head, &ip)? })
    }
}

impl Content {
    fn read(head: &[u8], ip: &Ip) -> Option<Self> {
        if ip.is_rest {
            return Some(Self::Rest);
        }
        let icmp = match (ip.version, IpNumber(ip.protocol)) {
            (_, IpNumber::TCP | IpNumber::UDP) => return Ports::read(head, ip, true).map(Self::Ports),
            (IpVersion::V4, IpNumber::ICMP) | (IpVersion::V6, IpNumber::IPV6_ICMP) => {
                head.get(ip.transport..ip.transport + ICMP_HEADER)?
            }
            _ => return Some(Self::Other),
        };
        match (ip.version, icmp[0]) {
            (IpVersion::V4, 8) | (IpVersion::V6, 128) => Some(Self::Echo),
            // Errors about a packet (RFC 792, RFC 4443 section 2.1).
            (IpVersion::V4, 3 | 11 | 12) | (IpVersion::V6, 1..=4) => {
                let quoted = Ip::read(head, ip.transport + ICMP_HEADER, ip.version)?;
                let ports = Ports::read(head, &quoted, false).filter(|_| !quoted.is_rest)?;
                Some(Self::Error(quoted, ports))
            }
            _ => Some(Self::Other),
        }
    }
}

impl Ports {
    /// The first bytes of a TCP or UDP header; if `is_whole`, up to the checksum at least.
    fn read(head: &[u8], ip: &Ip, is_whole: bool) -> Option<Self> {
        let is_tcp = match IpNumber(ip.protocol) {
            IpNumber::TCP => true,
            IpNumber::UDP => false,
            _ => return None,
        };
        let ports = Self {
            source: try_u16_at(head, ip.transport)?,
            destination: try_u16_at(head, ip.transport + 2)?,
            flags: head.get(ip.transport + 13).copied().filter(|_| is_tcp).unwrap_or(0),
        };
        let least = if is_tcp { 18 } else { 8 };
        (!is_whole || head.len() >= ip.transport + least).then_some(ports)
    }
}

impl Ip {
    /// Reads the header at `network`.
    fn read(head: &[u8], network: usize, version: IpVersion) -> Option<Self> {
        match version {
            IpVersion::V4 => Self::read_v4(head, network),
            IpVersion::V6 => Self::read_v6(head, network),
        }
    }

    fn read_v4(head: &[u8], network: usize) -> Option<Self> {
        let header: &[u8; IPV4_HEADER] = head.get(network..)?.first_chunk()?;
        let length = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || length < IPV4_HEADER {
            return None;
        }
        let address = |at| try_u32_at(header, at).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
        // More fragments, and the offset.
        let fragment = try_u16_at(header, 6)? & 0x3fff;
        let identification = u32::from(try_u16_at(header, 4)?);
        Some(Self {
            version: IpVersion::V4,
            network,
            transport: network + length,
            protocol: header[9],
            source: address(12)?,
            destination: address(16)?,
            fragment: (fragment != 0).then_some(identification),
            is_rest: fragment & 0x1fff != 0,
        })
    }

    fn read_v6(head: &[u8], network: usize) -> Option<Self> {
        let header: &[u8; IPV6_HEADER] = head.get(network..)?.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(header.get(at..at + 16)?).ok()?));
        let (mut next, mut at) = (IpNumber(header[6]), network + IPV6_HEADER);
        let (mut fragment, mut is_rest) = (None, false);
        loop {
            let length = match next {
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    fragment = Some(try_u32_at(head, at + 4)?);
                    is_rest = try_u16_at(head, at + 2)? & !7 != 0;
                    8
                }
                // A routing header names another destination than the one the checksum is made with.
                IpNumber::IPV6_HEADER_HOP_BY_HOP | IpNumber::IPV6_DESTINATION_OPTIONS => {
                    (usize::from(*head.get(at + 1)?) + 1) * 8
                }
                _ => break,
            };
            next = IpNumber(*head.get(at)?);
            at += length;
            if is_rest {
                break;
            }
        }
        Some(Self {
            version: IpVersion::V6,
            network,
            transport: at,
            protocol: next.0,
            source: address(8)?.into(),
            destination: address(24)?.into(),
            fragment,
            is_rest,
        })
    }

    /// Position of the source and of the destination address.
    pub(super) fn addresses(&self) -> [usize; 2] {
        match self.version {
            IpVersion::V4 => [self.network + 12, self.network + 16],
            IpVersion::V6 => [self.network + 8, self.network + 24],
        }
    }
}
