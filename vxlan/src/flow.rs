//! Properties of the inner packet for the outer header: the flow, which selects a source port, and the
//! traffic class.
//!
//! Routers and network cards spread packets by UDP ports, so the source port distinguishes flows (RFC 7348
//! section 5); all packets of a flow must have the same port, or they would be reordered. Fragments have no
//! ports, and a flow's datagrams may be whole or fragmented, so packets that may be fragmented are distinguished
//! by fields that every fragment has.

use etherparse::{EtherType, IpNumber};
use vswitch::{
    bytes::{try_u32_at, try_u64_at, u16_at, u32_at},
    headers::{IPV4_HEADER, IPV6_HEADER, link},
};

/// Flow properties of an inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Equal for all packets of a flow.
    pub(crate) hash: u32,
    /// DSCP (upper six bits) and ECN (lower two); zero for frames that are not IP.
    pub(crate) traffic_class: u8,
    /// Time to live, or hop limit; zero for frames that are not IP.
    pub(crate) ttl: u8,
}

const TCP: u8 = IpNumber::TCP.0;

impl Flow {
    /// Reads `frame`, which must have an Ethernet header.
    ///
    /// TCP flows are also distinguished by ports, and all of IPv6 by the flow label (RFC 6438), which fragments
    /// share with their packet (RFC 8200 section 4.5). Not by ports: UDP and SCTP, whose datagrams are fragmented
    /// when they exceed the path MTU, and TCP over IPv4 that a router may fragment. "Don't fragment" is set for a
    /// whole TCP connection or not at all, but for UDP only in datagrams that were not fragmented (Linux:
    /// `ip_setup_cork`, IP_PMTUDISC_WANT).
    #[inline]
    pub(crate) fn of(frame: &[u8]) -> Self {
        let ip = link(frame).and_then(|(network, ethertype)| {
            let packet = &frame[network..];
            match ethertype {
                EtherType::IPV4 => Self::of_ipv4(packet),
                EtherType::IPV6 => Self::of_ipv6(packet),
                _ => None,
            }
        });
        ip.unwrap_or_else(|| Self { hash: mix(word(frame, 0), word(frame, 4)), traffic_class: 0, ttl: 0 })
    }

    #[inline]
    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
        // "Don't fragment", no more fragments, the first byte.
        let whole = u16_at(header, 6) & 0x7fff == 0x4000;
        let transport = usize::from(header[0] & 0x0f) * 4;
        let ports = if whole { ports(header[9], packet, transport) } else { 0 };
        let hash = mix(word(header, 12), u64::from(ports));
        Some(Self { hash, traffic_class: header[1], ttl: header[8] })
    }

    #[inline]
    fn of_ipv6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
        let addresses = word(header, 8) ^ word(header, 16).rotate_left(17) ^ word(header, 24).rotate_left(31);
        let label = u32_at(header, 0) & 0xf_ffff;
        let rest = u64::from(ports(header[6], packet, IPV6_HEADER)) | u64::from(label) << 32;
        let class = header[0] << 4 | header[1] >> 4;
        Some(Self { hash: mix(addresses, rest ^ word(header, 32)), traffic_class: class, ttl: header[7] })
    }
}

#[inline]
fn ports(protocol: u8, packet: &[u8], transport: usize) -> u32 {
    if protocol != TCP {
        return 0;
    }
    try_u32_at(packet, transport).unwrap_or(0)
}

/// The eight bytes at `at`; zero if out of range.
#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    try_u64_at(bytes, at).unwrap_or(0)
}

/// Mixes both into 32 bits: a product with an odd number, whose upper half depends on all bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the upper half is taken")]
fn mix(a: u64, b: u64) -> u32 {
    let product = u128::from(a ^ b.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
    let folded = (product as u64) ^ (product >> 64) as u64;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const UDP: u8 = IpNumber::UDP.0;
    const SCTP: u8 = IpNumber::SCTP.0;
    /// "Don't fragment"; "more fragments".
    const DF: u8 = 0x40;
    const MF: u8 = 0x20;

    fn ipv4(source: u8, port: u16, protocol: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0xb9, 0, 48, 0, 0, flags, 0, 64, protocol, 0, 0]);
        frame.extend([10, 9, 0, source, 10, 9, 0, 1]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 80, 1, 2, 3, 4]);
        frame
    }

    fn tcp(source: u8, port: u16) -> Vec<u8> {
        ipv4(source, port, TCP, DF)
    }

    #[test]
    fn a_flow_has_one_hash_and_flows_differ() {
        assert_eq!(Flow::of(&tcp(2, 1000)), Flow::of(&tcp(2, 1000)));
        assert_eq!(Flow::of(&tcp(2, 1000)).traffic_class, 0xb9);
        let mut later = tcp(2, 1000);
        later[40] = 9;
        assert_eq!(Flow::of(&later), Flow::of(&tcp(2, 1000)), "only addresses and ports count");
        let hashes: HashSet<_> = (1000..2000).map(|port| Flow::of(&tcp(2, port)).hash).collect();
        assert!(hashes.len() > 998, "{}", hashes.len());
    }

    #[test]
    fn what_may_come_in_fragments_has_one_hash_whole_or_not() {
        for (protocol, whole) in [(UDP, DF), (UDP, 0), (SCTP, DF), (SCTP, 0), (TCP, 0)] {
            // The second fragment has payload where the first has ports.
            let datagrams = [(1000, whole), (1000, MF), (0xbeef, 0)];
            let hashes = datagrams.map(|(port, flags)| Flow::of(&ipv4(2, port, protocol, flags)).hash);
            assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{protocol} {whole}: {hashes:?}");
        }
        let six = |next: u8, label: u8, transport: [u8; 8]| {
            let mut frame = vec![2; 12];
            frame.extend([0x86, 0xdd, 0x60, 0, 0, label, 0, 20, next, 64]);
            frame.extend([0xfd; 32]);
            frame.extend(transport);
            Flow::of(&frame).hash
        };
        let fragment = IpNumber::IPV6_FRAGMENTATION_HEADER.0;
        let whole = six(UDP, 5, [0x9c, 0x40, 0x13, 0x89, 0, 9, 0, 0]);
        assert_eq!(six(fragment, 5, [UDP, 0, 0, 1, 0, 0, 0, 7]), whole);
        assert_ne!(six(UDP, 6, [0x9c, 0x40, 0x13, 0x89, 0, 9, 0, 0]), whole, "the label tells flows apart");
    }

    #[test]
    fn flows_spread_evenly_over_few_ports() {
        let mut buckets = [0; 16];
        for source in 0..=255 {
            for port in 40_000..40_100 {
                buckets[(Flow::of(&tcp(source, port)).hash >> 28) as usize] += 1;
            }
        }
        assert!(buckets.iter().all(|count| (1400..1800).contains(count)), "{buckets:?}");
    }

    #[test]
    fn ipv6_by_label_and_ports_and_the_rest_by_addresses() {
        let six = |label: u8, port: u8| {
            let mut frame = vec![2; 12];
            frame.extend([0x86, 0xdd, 0x6b, 0x90, 0, label, 0, 20, TCP, 64]);
            frame.extend([0xfd; 32]);
            frame.extend([0, port, 0, 80]);
            frame
        };
        assert_eq!(Flow::of(&six(0, 1)).traffic_class, 0xb9);
        assert_ne!(Flow::of(&six(0, 1)).hash, Flow::of(&six(0, 2)).hash);
        assert_ne!(Flow::of(&six(0, 1)).hash, Flow::of(&six(1, 1)).hash);
        let arp = |last: u8| [&[0xff; 6][..], &[2, 0, 0, 0, 0, last], &[8, 6, 0, 1]].concat();
        assert_ne!(Flow::of(&arp(1)).hash, Flow::of(&arp(2)).hash);
        for len in 14..60 {
            Flow::of(&tcp(1, 1)[..len.min(42)]);
            Flow::of(&six(1, 1)[..len.min(58)]);
        }
    }
}
