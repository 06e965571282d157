//! Announcements: a station has this address now, whatever its neighbours remember.
//!
//! An address that comes back with another MAC address is not reached by those who remember the old one, for as long as their
//! caches believe it: half a minute and more on Linux. So it is announced when its station is attached, by gratuitous ARP
//! (RFC 5227 section 3) or an unsolicited advertisement (RFC 4861 section 7.2.6); the switch and those of other hosts learn
//! the station's place from it as well.

use std::net::IpAddr;

use etherparse::{EtherType, IpNumber};

use super::question::{advertisement, arp};
use crate::addr::MacAddr;

/// All nodes of a link (RFC 4291 section 2.7.1), and its Ethernet address (RFC 2464 section 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const TO_ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
/// "Override" alone: it is unsolicited.
const OVERRIDE: u8 = 0x20;
const REQUEST: u16 = 1;

/// The frame by which the station `mac` tells everybody that `address` is its own.
pub fn announcement(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    let head = |to: MacAddr, kind: EtherType| [&to.0[..], &mac.0, &kind.0.to_be_bytes()].concat();
    match address {
        IpAddr::V4(address) => {
            let own = (mac, address);
            [head(MacAddr::BROADCAST, EtherType::ARP), arp(REQUEST, own, (MacAddr::ZERO, address)).into()]
                .concat()
        }
        IpAddr::V6(address) => {
            let packet = advertisement(mac, address, ALL_NODES.into(), OVERRIDE);
            debug_assert_eq!(packet[6], IpNumber::IPV6_ICMP.0);
            [head(TO_ALL_NODES, EtherType::IPV6), packet.into()].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        neighbours::Question,
        wire::{checksum::Sum, headers::IPV6_HEADER},
    };

    const MAC: MacAddr = MacAddr([2, 0x42, 10, 9, 0, 7]);

    #[test]
    fn an_ipv4_address_is_announced_by_a_request_for_itself() {
        let frame = announcement(MAC, IpAddr::from([10, 9, 0, 7]));
        let expected = [
            &[0xff; 6][..],
            &MAC.0,
            b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01",
            &MAC.0,
            &[10, 9, 0, 7],
            &[0; 6],
            &[10, 9, 0, 7],
        ];
        assert_eq!(frame, expected.concat());
        assert_eq!(Question::read(&frame, false), None, "it is not answered");
    }

    #[test]
    fn an_ipv6_address_is_announced_to_all_nodes() {
        let frame = announcement(MAC, "fd00:9::7".parse().unwrap());
        assert_eq!(frame[..14], [&TO_ALL_NODES.0[..], &MAC.0, b"\x86\xdd"].concat());
        let packet = &frame[14..];
        assert_eq!((packet[24..40].to_vec(), packet[40], packet[44]), (ALL_NODES.to_vec(), 136, OVERRIDE));
        let sum =
            Sum::pseudo(&packet[8..40], 58, packet.len() - IPV6_HEADER) + Sum::of(&packet[IPV6_HEADER..]);
        assert_eq!(sum.checksum(), 0);
    }
}
