//! ICMP errors to senders of packets that are not delivered (RFC 792, RFC 4443).
//!
//! They are as if sent by the destination, because a switch has no address of its own; the kernel's VXLAN device does
//! the same (`iptunnel_pmtud_build_icmp`, net/ipv4/ip_tunnel_core.c).

use arrayvec::ArrayVec;
use etherparse::{EtherType, IpNumber};

use crate::{
    transmit::MAX_ANSWER,
    wire::{
        bytes::{length, put_u16, u16_at},
        checksum::Sum,
        frame::ADDRESSES,
        headers::{IPV4_HEADER, IPV6_HEADER, link},
    },
};

const MAC: usize = ADDRESSES / 2;
const ICMP: u8 = IpNumber::ICMP.0;
const ICMPV6: u8 = IpNumber::IPV6_ICMP.0;
/// Length of an ICMP header of either version.
const ICMP_HEADER: usize = 8;
/// Bytes of the packet that are quoted in the answer: all headers, enough to identify the flow.
const QUOTE: usize = 128;

/// Why a packet is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It does not fit the egress port, which has this MTU: "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443
    /// section 3.2).
    TooBig(u16),
    /// Nothing listens at its destination: "port unreachable".
    NoPort,
}

impl Cause {
    /// Type, code and the 16 bits before the quote.
    fn of_ipv4(self) -> [u8; ICMP_HEADER] {
        let (code, [high, low]) = match self {
            Self::TooBig(mtu) => (4, mtu.to_be_bytes()),
            Self::NoPort => (3, [0; 2]),
        };
        [3, code, 0, 0, 0, 0, high, low]
    }

    fn of_ipv6(self) -> [u8; ICMP_HEADER] {
        let (kind, code, [high, low]) = match self {
            Self::TooBig(mtu) => (2, 0, mtu.to_be_bytes()),
            Self::NoPort => (1, 4, [0; 2]),
        };
        [kind, code, 0, 0, 0, 0, high, low]
    }
}

/// The error for the sender of `frame`, or `None` if it gets none.
///
/// There is none for ICMP errors and packets to or from a group (RFC 1122 section 3.2.2), nor for packets that are too big
/// without "don't fragment", whose sender expects fragmentation, which a switch does not do.
pub(crate) fn error(frame: &[u8], cause: Cause) -> Option<ArrayVec<u8, MAX_ANSWER>> {
    let (network, ethertype) = link(frame)?;
    let packet = &frame[network..];
    let (destination, source) = (&frame[..MAC], &frame[MAC..ADDRESSES]);
    if destination[0] & 1 != 0 {
        return None;
    }
    let mut answer = ArrayVec::new();
    answer.try_extend_from_slice(source).ok()?;
    answer.try_extend_from_slice(destination).ok()?;
    answer.try_extend_from_slice(&frame[ADDRESSES..network]).ok()?;
    match ethertype {
        EtherType::IPV4 => over_ipv4(packet, cause, &mut answer)?,
        EtherType::IPV6 => over_ipv6(packet, cause, &mut answer)?,
        _ => return None,
    }
    Some(answer)
}

fn over_ipv4(packet: &[u8], cause: Cause, answer: &mut ArrayVec<u8, MAX_ANSWER>) -> Option<()> {
    let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
    let end = usize::from(u16_at(header, 2));
    let (dont_fragment, offset) = (header[6] & 0x40 != 0, u16_at(header, 6) & 0x1fff);
    let options = usize::from(header[0] & 0x0f) * 4;
    let error = header[9] == ICMP && !matches!(packet.get(options)?, 0 | 8 | 13..=18);
    let group = header[16] >= 224 || header[12] == 0 || header[12] == 127 || header[12] >= 224;
    if matches!(cause, Cause::TooBig(_)) && !dont_fragment || offset != 0 || error || group {
        return None;
    }
    let quote = &packet[..packet.len().min(end).min(QUOTE)];
    let total = length(IPV4_HEADER + ICMP_HEADER + quote.len()).to_be_bytes();
    let start = answer.len();
    answer.try_extend_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, ICMP, 0, 0]).ok()?;
    answer.try_extend_from_slice(&header[16..20]).ok()?;
    answer.try_extend_from_slice(&header[12..16]).ok()?;
    let checksum = Sum::of(&answer[start..]).checksum();
    put_u16(answer, start + 10, checksum);
    let icmp = answer.len();
    answer.try_extend_from_slice(&cause.of_ipv4()).ok()?;
    answer.try_extend_from_slice(quote).ok()?;
    let checksum = Sum::of(&answer[icmp..]).checksum();
    put_u16(answer, icmp + 2, checksum);
    Some(())
}

fn over_ipv6(packet: &[u8], cause: Cause, answer: &mut ArrayVec<u8, MAX_ANSWER>) -> Option<()> {
    let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
    let error = header[6] == ICMPV6 && packet.get(IPV6_HEADER)? & 0x80 == 0;
    // The RFC permits answers to packets sent to a group (RFC 4443 section 2.4 e), but such an answer would
    // have the group as its source.
    let group = header[24] == 0xff || header[8] == 0xff || header[8..24] == [0; 16];
    if error || group {
        return None;
    }
    let quote = &packet[..packet.len().min(QUOTE)];
    let payload = length(ICMP_HEADER + quote.len()).to_be_bytes();
    answer.try_extend_from_slice(&[0x60, 0, 0, 0, payload[0], payload[1], ICMPV6, 64]).ok()?;
    let addresses = answer.len();
    answer.try_extend_from_slice(&header[24..40]).ok()?;
    answer.try_extend_from_slice(&header[8..24]).ok()?;
    let icmp = answer.len();
    answer.try_extend_from_slice(&cause.of_ipv6()).ok()?;
    answer.try_extend_from_slice(quote).ok()?;
    let sum = Sum::pseudo(&answer[addresses..icmp], ICMPV6, answer.len() - icmp) + Sum::of(&answer[icmp..]);
    put_u16(answer, icmp + 2, sum.checksum());
    Some(())
}
