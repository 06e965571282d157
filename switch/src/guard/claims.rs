//! Who claims to have which address: ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861).

use etherparse::{ArpHardwareId, EtherType};

use super::Guard;
use crate::{
    addr::MacAddr,
    drops::DropReason,
    wire::bytes::{try_u16_at, try_u32_at, try_u64_at},
};

/// Hardware type "IEEE 802 networks", which the kernel takes for Ethernet as well (`arp_process`, net/ipv4/arp.c).
const IEEE_802: u16 = 6;

pub(super) const ROUTER_SOLICITATION: u8 = 133;
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub(super) const REDIRECT: u8 = 137;

/// Options "source" and "target link-layer address" (RFC 4861 section 4.6.1).
const LINK_LAYER_ADDRESSES: [u8; 2] = [1, 2];

impl Guard {
    /// Judges an ARP packet: its sender has the station's MAC address, and its IP address, or none yet (a probe, RFC 5227 section
    /// 2.1.1). Other hardware or protocols are none of this network.
    #[inline(never)]
    pub(super) fn judge_arp(&self, packet: &[u8]) -> Result<(), DropReason> {
        let is_known = || {
            let hardware = try_u16_at(packet, 0)?;
            let is_ethernet = hardware == ArpHardwareId::ETHERNET.0 || hardware == IEEE_802;
            let is_ipv4 = try_u16_at(packet, 2)? == EtherType::IPV4.0 && try_u16_at(packet, 4)? == 0x0604;
            let mac = MacAddr::from_bits(try_u64_at(packet, 8)? >> 16);
            let address = try_u32_at(packet, 14)?;
            Some(is_ethernet && is_ipv4 && self.has_mac(mac) && (address == 0 || self.has_v4(address)))
        };
        if is_known() == Some(true) { Ok(()) } else { Err(DropReason::GuardArp) }
    }

    /// Judges a message of neighbour discovery: `source` is that of the packet, `message` all of it, beginning with its type.
    ///
    /// What claims an address names one of the station's: an advertisement, and a solicitation without source, which asks
    /// whether another has it (RFC 4862 section 5.4). Link-layer addresses in options are the station's.
    pub(super) fn judge_neighbour(
        &self,
        source: u128,
        message: &[u8],
        is_foreign: impl Fn(u128) -> bool,
    ) -> Result<(), DropReason> {
        let kind = message.first().copied().unwrap_or(0);
        let target = || -> Option<u128> {
            Some(u128::from(try_u64_at(message, 8)?) << 64 | u128::from(try_u64_at(message, 16)?))
        };
        let is_claim = kind == NEIGHBOUR_ADVERTISEMENT || kind == NEIGHBOUR_SOLICITATION && source == 0;
        if is_claim && !target().is_some_and(|target| self.has_v6(target, is_foreign)) {
            return Err(DropReason::GuardNd);
        }
        let options = if kind == ROUTER_SOLICITATION { 8 } else { 24 };
        let mut rest = message.get(options..).ok_or(DropReason::GuardNd)?;
        while let Some(&[option, words]) = rest.first_chunk() {
            // Receivers discard a message with an option of no length or beyond the end (RFC 4861 section 7.1).
            let (this, next) = rest.split_at_checked(usize::from(words) * 8).ok_or(DropReason::GuardNd)?;
            if words == 0 {
                return Err(DropReason::GuardNd);
            }
            let mac =
                || MacAddr::from_bits(u64::from_be_bytes(this[..8].try_into().expect("a word or more")));
            if LINK_LAYER_ADDRESSES.contains(&option) && !self.has_mac(mac()) {
                return Err(DropReason::GuardNd);
            }
            rest = next;
        }
        Ok(())
    }
}
