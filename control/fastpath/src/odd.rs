//! Frames between fast ports that the programs leave to the switch, as they see what only it looks into.

use vswitch::guard::Guard;

const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
/// A smaller type is a length.
const FIRST_TYPE: u16 = 0x0600;
const TAGS: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// Why the programs leave `frame` to the switch, between two ports that they forward for and stations that they know: `guard` is
/// that of the port it comes in by, which accepts it, `mtu` of the port it leaves by. `None`: they forward it.
///
/// For explanations; the programs decide (`bpf/forward.bpf.c`), and a test compares.
pub fn odd(guard: Option<&Guard>, mtu: u16, frame: &[u8]) -> Option<&'static str> {
    let kind = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    if TAGS.contains(&kind) {
        return Some("it has a tag");
    }
    if frame.len() > usize::from(mtu) + ETHERNET {
        return Some("it is longer than the MTU");
    }
    let guard = guard?;
    let packet = &frame[ETHERNET..];
    match kind {
        ARP => Some("the guard looks into ARP"),
        ..FIRST_TYPE => Some("the guard looks behind LLC"),
        IPV4 if packet.len() < 24 => Some("it carries next to nothing"),
        IPV4 => (packet.first() != Some(&0x45)).then_some("the guard looks behind IP options"),
        IPV6 => odd_ipv6(guard, packet),
        _ => None,
    }
}

fn odd_ipv6(guard: &Guard, packet: &[u8]) -> Option<&'static str> {
    let source = packet.get(8..24).and_then(|bytes| Some(u128::from_be_bytes(bytes.try_into().ok()?)))?;
    let is_own =
        |ranges: &[(u128, u128)]| ranges.iter().any(|(first, last)| (*first..=*last).contains(&source));
    if !guard.ranges6().is_none_or(is_own) {
        return Some("the guard compares link-local sources with those of other stations");
    }
    if packet.len() < 44 {
        return Some("it carries next to nothing");
    }
    let length = u16::from_be_bytes([packet[4], packet[5]]);
    match packet[6] {
        TCP => None,
        UDP | ICMP6 if length < 8 => Some("the guard looks for headers in it"),
        UDP => None,
        ICMP6 if !NEIGHBOUR_DISCOVERY.contains(packet.get(40)?) => None,
        ICMP6 => Some("the guard looks into neighbour discovery"),
        _ => Some("the guard looks behind extension headers"),
    }
}
