//! The guard of a port: its station speaks for itself only.
//!
//! A port with a guard belongs to one station, whose addresses are on record. The guard judges every frame from there
//! before anything is learned from it: the source may not be another's, in the Ethernet header, in the IP header, in ARP
//! and in neighbour discovery; and the station is neither a router nor a DHCP server.
//!
//! ```text
//! link     source MAC; tags and LLC/SNAP are skipped to what is behind them        GUARD_MAC
//! ip       IPv4 and IPv6 source; headers up to the one that says what it is        GUARD_IP, GUARD_RA, GUARD_DHCP
//! claims   ARP and neighbour discovery: who claims to have which address           GUARD_ARP, GUARD_ND
//! ```
//! It has no state: a verdict depends on the frame alone. Fragments are judged one by one: the first must show all headers
//! (RFC 7112 section 5), since receivers take the rest as part of it.
//!
//! Built when the configuration changes; judging allocates nothing, and its work is bounded ([`MOST_HEADERS`]).
//!
//! Left out: frames *to* the station, what it sends to whom (policy), and addresses inside of tunnels of its own.

mod claims;
mod ip;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use etherparse::{EtherType, IpNumber};

use crate::{
    addr::MacAddr,
    drops::DropReason,
    wire::{
        bytes::{try_u16_at, try_u64_at, u32_at},
        frame::{ADDRESSES, ETHERNET_HEADER, TAG, is_tag},
        headers::IPV4_HEADER,
    },
};

/// Tags, or IPv6 headers, that are skipped at most. A frame that hides its content behind more of them is dropped.
pub const MOST_HEADERS: usize = 16;

/// LLC with the header of SNAP (IEEE 802-2014 section 9.5): `aa aa 03`, three bytes of organization, an EtherType.
const SNAP: u64 = 0xaa_aa_03;
const SNAP_LENGTH: usize = 8;
/// A type field below this is a length (IEEE 802.3 clause 3.2.6).
const FIRST_TYPE: u16 = 0x0600;

/// What the station of a port may claim to be. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    mac: MacAddr,
    /// Further MAC addresses.
    also: Box<[MacAddr]>,
    /// `None`: its IP addresses are not on record, and not judged.
    addresses: Option<Addresses>,
    common: Common,
}

/// What most frames of the station have in common, told from the others by four comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Common {
    /// Its MAC address and the type of IPv4; ones, which no such frame has, if it has no IPv4 address.
    link: u64,
    /// Its IPv4 address.
    source: u32,
}

impl Common {
    fn of(mac: MacAddr, mut addresses: impl Iterator<Item = IpAddr>) -> Self {
        let v4 = addresses.find_map(|address| match address {
            IpAddr::V4(address) => Some(address.to_bits()),
            IpAddr::V6(_) => None,
        });
        let link = mac.to_bits() << 16 | u64::from(EtherType::IPV4.0);
        v4.map_or(Self { link: u64::MAX, source: 0 }, |source| Self { link, source })
    }

    /// Whether `frame` is TCP over IPv4, without options, from the station's own addresses.
    #[inline]
    fn has(self, frame: &[u8]) -> bool {
        const HEADERS: usize = ETHERNET_HEADER + IPV4_HEADER;
        frame.first_chunk::<HEADERS>().is_some_and(|head| {
            try_u64_at(head, 6) == Some(self.link)
                && head[ETHERNET_HEADER] == 0x45
                && head[ETHERNET_HEADER + 9] == IpNumber::TCP.0
                && u32_at(head, ETHERNET_HEADER + 12) == self.source
        })
    }
}

/// The IP addresses of a station.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addresses {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Guard {
    /// The guard of a station with this MAC address and these IP addresses. `also` are subnets, by address and prefix length, and
    /// `macs` further MAC addresses that it may use as well.
    ///
    /// Without an address on record IP sources are not judged, unless `also` names some.
    pub fn new(
        mac: MacAddr,
        addresses: impl IntoIterator<Item = IpAddr>,
        also: impl IntoIterator<Item = (IpAddr, u8)>,
        macs: impl IntoIterator<Item = MacAddr>,
    ) -> Self {
        let addresses: Vec<_> = addresses.into_iter().collect();
        let common = Common::of(mac, addresses.iter().copied());
        let own = addresses.into_iter().map(|address| (address, if address.is_ipv4() { 32 } else { 128 }));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, prefix) in own.chain(also) {
            match address {
                IpAddr::V4(address) => {
                    let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                    let address = address.to_bits();
                    v4.push((address & !hosts, address | hosts));
                }
                IpAddr::V6(address) => {
                    let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                    let address = address.to_bits();
                    v6.push((address & !hosts, address | hosts));
                }
            }
        }
        let is_known = !(v4.is_empty() && v6.is_empty());
        let addresses = is_known.then(|| Addresses { v4: Ranges::of(v4), v6: Ranges::of(v6) });
        Self { mac, also: macs.into_iter().collect(), addresses, common }
    }

    /// The MAC address of the station.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// All its MAC addresses.
    pub fn macs(&self) -> impl Iterator<Item = MacAddr> {
        [self.mac].into_iter().chain(self.also.iter().copied())
    }

    /// First and last of its ranges of IPv4 addresses; `None`: IP addresses are not judged.
    pub fn ranges4(&self) -> Option<&[(u32, u32)]> {
        self.addresses.as_ref().map(|own| &*own.v4.0)
    }

    /// The same of IPv6 addresses.
    pub fn ranges6(&self) -> Option<&[(u128, u128)]> {
        self.addresses.as_ref().map(|own| &*own.v6.0)
    }

    /// Judges a frame from the station (with Ethernet header, without FCS).
    ///
    /// `is_foreign` tells whether a link-local IPv6 address belongs to another station of the network: a station chooses
    /// these itself (RFC 4862 section 5.3, RFC 7217), so any but those is its own.
    ///
    /// # Errors
    /// The frame is not one that the station may send.
    #[inline]
    pub fn judge(&self, frame: &[u8], is_foreign: impl Fn(u128) -> bool) -> Result<(), DropReason> {
        if self.common.has(frame) {
            return Ok(());
        }
        self.judge_any(frame, is_foreign)
    }

    #[inline(never)]
    fn judge_any(&self, frame: &[u8], is_foreign: impl Fn(u128) -> bool) -> Result<(), DropReason> {
        let source = MacAddr::from_bits(try_u64_at(frame, 6).ok_or(DropReason::PktTooSmall)? >> 16);
        if !self.has_mac(source) {
            return Err(DropReason::GuardMac);
        }
        let (at, ethertype) = payload(frame)?;
        let packet = frame.get(at..).unwrap_or_default();
        match ethertype {
            EtherType::IPV4 => self.judge_ipv4(packet),
            EtherType::IPV6 => self.judge_ipv6(packet, is_foreign),
            EtherType::ARP => self.judge_arp(packet),
            _ => Ok(()),
        }
    }

    #[inline]
    fn has_mac(&self, mac: MacAddr) -> bool {
        mac == self.mac || self.also.contains(&mac)
    }

    #[inline]
    fn has_v4(&self, address: u32) -> bool {
        self.addresses.as_ref().is_none_or(|own| own.v4.holds(address))
    }

    #[inline]
    fn has_v6(&self, address: u128, is_foreign: impl Fn(u128) -> bool) -> bool {
        let Some(own) = &self.addresses else { return true };
        own.v6.holds(address) || is_link_local(address) && !is_foreign(address)
    }
}

/// Start of what a frame carries, and its type, behind all tags and LLC/SNAP headers, in any order: receivers differ in which
/// of them they look behind (CVE-2021-27853, CVE-2021-27854, CVE-2021-27861, CVE-2021-27862).
///
/// # Errors
/// It is behind more than [`MOST_HEADERS`] of them.
#[inline]
fn payload(frame: &[u8]) -> Result<(usize, EtherType), DropReason> {
    let mut at = ADDRESSES;
    for _ in 0..MOST_HEADERS {
        // A frame that ends within its headers carries nothing.
        let ethertype = try_u16_at(frame, at).unwrap_or(0);
        if is_tag(ethertype) {
            at += TAG;
        } else if ethertype < FIRST_TYPE && try_u64_at(frame, at + 2).is_some_and(|llc| llc >> 40 == SNAP) {
            at += SNAP_LENGTH;
        } else {
            return Ok((at + 2, EtherType(ethertype)));
        }
    }
    Err(DropReason::GuardRa)
}

/// fe80::/10
fn is_link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}

/// The link-local address that a station with this MAC address has by default (RFC 4291 appendix A).
pub(crate) fn link_local_of(mac: MacAddr) -> u128 {
    let MacAddr([a, b, c, d, e, f]) = mac;
    0xfe80 << 112 | u128::from(u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]))
}

/// Ranges of addresses, first and last: sorted, without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<A>(Box<[(A, A)]>);

impl<A: Copy + Ord> Ranges<A> {
    fn of(mut ranges: Vec<(A, A)>) -> Self {
        // Of those with one beginning the longest comes first. Prefixes contain each other, or do not overlap.
        ranges.sort_by(|one, other| one.0.cmp(&other.0).then(other.1.cmp(&one.1)));
        ranges.dedup_by(|next, kept| next.1 <= kept.1);
        Self(ranges.into())
    }

    #[inline]
    fn holds(&self, address: A) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after > 0 && address <= self.0[after - 1].1
    }
}
