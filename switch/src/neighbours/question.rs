//! Questions for an address, and their answers: ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use etherparse::{ArpHardwareId, EtherType, IpNumber};

use crate::{
    addr::MacAddr,
    transmit::MAX_ANSWER,
    wire::{
        bytes::{length, put_u16, try_u16_at, try_u32_at, try_u64_at},
        checksum::Sum,
        frame::{ADDRESSES, ETHERNET_HEADER, TAG},
        headers::IPV6_HEADER,
    },
};

const MAC: usize = ADDRESSES / 2;
/// Bytes of a MAC address and of an IPv4 address.
const LENGTHS: u16 = 0x0604;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Length of an ARP packet of Ethernet and IPv4.
const ARP: usize = 28;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement: "solicited" and "override" (RFC 4861 section 4.4). The record is the newest there is.
const SOLICITED_OVERRIDE: u8 = 0x60;
/// Length of a solicitation or an advertisement without options, and with one link-layer address.
const MESSAGE: usize = 24;
const WITH_OPTION: usize = MESSAGE + 8;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Neighbour discovery has this hop limit, which shows that no router passed it on (RFC 4861 section 7.1.1).
const HOP_LIMIT: u8 = 255;

/// A question for the station that has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The station that asks.
    asker: MacAddr,
    /// Its address; of the same family as the other.
    asker_address: IpAddr,
    /// The address in question.
    pub(crate) target: IpAddr,
    /// Where the network header begins.
    network: usize,
}

impl Question {
    /// Reads `frame` (with Ethernet header, without FCS), whose outer tag, if `is_tagged`, belongs to the switch. `None`: it is
    /// no question, or one that only the station itself may answer.
    pub(crate) fn read(frame: &[u8], is_tagged: bool) -> Option<Self> {
        let network = if is_tagged { ETHERNET_HEADER + TAG } else { ETHERNET_HEADER };
        let packet = frame.get(network..)?;
        let (asker, asker_address, target) = match EtherType(try_u16_at(frame, network - 2)?) {
            EtherType::ARP => read_arp(packet)?,
            EtherType::IPV6 => read_solicitation(packet)?,
            _ => return None,
        };
        // An asker behind another's back, or one that asks for itself: gratuitous ARP (RFC 5944 section 4.6).
        let is_own = asker == MacAddr::from_bits(try_u64_at(frame, MAC)? >> 16);
        let is_ordinary = is_own && asker.is_station() && asker_address != target;
        is_ordinary.then_some(Self { asker, asker_address, target, network })
    }
}

/// The sender's addresses and the target of an ARP request. A probe (RFC 5227 section 2.1.1) has no sender address.
fn read_arp(packet: &[u8]) -> Option<(MacAddr, IpAddr, IpAddr)> {
    let is_request = try_u16_at(packet, 0)? == ArpHardwareId::ETHERNET.0
        && try_u16_at(packet, 2)? == EtherType::IPV4.0
        && try_u16_at(packet, 4)? == LENGTHS
        && try_u16_at(packet, 6)? == REQUEST;
    let sender = try_u32_at(packet, 14)?;
    let target = try_u32_at(packet, 24)?;
    let asker = MacAddr::from_bits(try_u64_at(packet, 8)? >> 16);
    let address = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
    (is_request && sender != 0).then(|| (asker, address(sender), address(target)))
}

/// The same of a neighbour solicitation (RFC 4861 section 4.3). Without source it is one of duplicate address detection.
fn read_solicitation(packet: &[u8]) -> Option<(MacAddr, IpAddr, IpAddr)> {
    let head: &[u8; IPV6_HEADER] = packet.first_chunk()?;
    let message = packet.get(IPV6_HEADER..IPV6_HEADER + usize::from(try_u16_at(head, 4)?))?;
    let is_solicitation = head[6] == IpNumber::IPV6_ICMP.0
        && head[7] == HOP_LIMIT
        && message.len() >= WITH_OPTION
        && message[..2] == [SOLICITATION, 0]
        // Where the only option that is of use is the first, as everywhere.
        && message[MESSAGE..MESSAGE + 2] == [SOURCE_LINK_LAYER, 1];
    let address = |bytes: &[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?));
    let (source, target) = (address(&head[8..24])?, address(message.get(8..MESSAGE)?)?);
    let asker = MacAddr::from_bits(try_u64_at(message, MESSAGE)?);
    let is_ordinary = is_solicitation && !source.is_unspecified() && !target.is_multicast();
    is_ordinary.then(|| (asker, source.into(), target.into()))
}

/// The answer of the station `mac` to the question that `frame` is; `None` if it is none.
pub(crate) fn answer(frame: &[u8], is_tagged: bool, mac: MacAddr) -> Option<ArrayVec<u8, MAX_ANSWER>> {
    let Question { asker, asker_address, target, network } = Question::read(frame, is_tagged)?;
    let mut answer = ArrayVec::new();
    answer.try_extend_from_slice(&asker.0).ok()?;
    answer.try_extend_from_slice(&mac.0).ok()?;
    answer.try_extend_from_slice(&frame[ADDRESSES..network]).ok()?;
    match (asker_address, target) {
        (IpAddr::V4(asker_address), IpAddr::V4(target)) => {
            answer.try_extend_from_slice(&arp(REPLY, (mac, target), (asker, asker_address))).ok()?;
        }
        (IpAddr::V6(asker_address), IpAddr::V6(target)) => {
            let packet = advertisement(mac, target, asker_address, SOLICITED_OVERRIDE);
            answer.try_extend_from_slice(&packet).ok()?;
        }
        _ => return None,
    }
    Some(answer)
}

/// An ARP packet of Ethernet and IPv4, from the first station to the second.
pub(super) fn arp(operation: u16, from: (MacAddr, Ipv4Addr), to: (MacAddr, Ipv4Addr)) -> [u8; ARP] {
    let mut packet = [0; ARP];
    put_u16(&mut packet, 0, ArpHardwareId::ETHERNET.0);
    put_u16(&mut packet, 2, EtherType::IPV4.0);
    put_u16(&mut packet, 4, LENGTHS);
    put_u16(&mut packet, 6, operation);
    for (at, (mac, address)) in [(8, from), (18, to)] {
        packet[at..at + 6].copy_from_slice(&mac.0);
        packet[at + 6..at + 10].copy_from_slice(&address.octets());
    }
    packet
}

/// An IPv6 packet with the neighbour advertisement of `target`, which the station `mac` has.
pub(super) fn advertisement(
    mac: MacAddr,
    target: Ipv6Addr,
    to: Ipv6Addr,
    flags: u8,
) -> [u8; IPV6_HEADER + WITH_OPTION] {
    let mut packet = [0; IPV6_HEADER + WITH_OPTION];
    let (head, message) = packet.split_at_mut(IPV6_HEADER);
    head[0] = 0x60;
    put_u16(head, 4, length(message.len()));
    head[6] = IpNumber::IPV6_ICMP.0;
    head[7] = HOP_LIMIT;
    head[8..24].copy_from_slice(&target.octets());
    head[24..40].copy_from_slice(&to.octets());
    message[0] = ADVERTISEMENT;
    message[4] = flags;
    message[8..MESSAGE].copy_from_slice(&target.octets());
    message[MESSAGE..MESSAGE + 2].copy_from_slice(&[TARGET_LINK_LAYER, 1]);
    message[MESSAGE + 2..].copy_from_slice(&mac.0);
    let sum = Sum::pseudo(&head[8..], IpNumber::IPV6_ICMP.0, message.len()) + Sum::of(message);
    put_u16(message, 2, sum.checksum());
    packet
}
