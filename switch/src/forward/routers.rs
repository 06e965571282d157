//! Multicast that is for routers goes where routers are.
//!
//! When the interfaces of a thousand containers come up at once, each of them reports its groups (MLD), looks for routers and
//! checks its own address, several times. Flooded to all, these are millions of frames, which no container needs: for seconds
//! nothing else gets through. A switch that knows of no groups may send reports to routers alone (RFC 4541 section 2.1.1),
//! which are
//!
//! - behind ports that [lead to others](crate::topology::PortRules::leads_to_routers): the LAN, tunnels, the host;
//! - or among the stations of the network, where one has been [heard](Routers): then these frames are flooded as ever.
//!
//! | frame | why no other station needs it |
//! |---|---|
//! | to "all routers" (ff02::2, 224.0.0.2), "all MLDv2 routers" (ff02::16), "all IGMPv3 routers" (224.0.0.22) | it says so |
//! | a probe for the link-local address that follows from the sender's own MAC address (RFC 4862 section 5.4) | who had it too would have that MAC address, which the table notices |
//!
//! All other multicast is flooded: memberships are not tracked.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use etherparse::{EtherType, IpNumber};

use super::{
    decide::Action,
    read::{Destination, Header},
};
use crate::{
    addr::{MacAddr, NetworkId, Timestamp},
    batch::Batch,
    drops::DropReason,
    guard::link_local_of,
    plan::Pass,
    storm::Flood,
    wire::{
        bytes::{try_u16_at, try_u64_at},
        frame::{ETHERNET_HEADER, TAG},
        headers::IPV6_HEADER,
    },
};

/// How long a router is remembered: the default lifetime in an advertisement (RFC 4861 section 6.2.1), which is longer than
/// queriers are silent (RFC 3810 section 9.5).
const REMEMBERED: Duration = Duration::from_mins(30);

const QUERY_IGMP: u8 = 0x11;
const QUERY_MLD: u8 = 130;
const ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;

/// When a router was last heard among the stations of each network. Shared by the workers and by all plans.
#[derive(Debug, Default)]
pub struct Routers(Box<[AtomicU32]>);

impl Routers {
    /// None was heard in any network.
    pub fn new() -> Self {
        Self((0..=u16::MAX).map(|_| AtomicU32::new(0)).collect())
    }

    /// Whole seconds, none of which is zero.
    fn clock(now: Timestamp) -> u32 {
        u32::try_from(now.as_millis() / 1000).unwrap_or(u32::MAX - 1) + 1
    }

    fn hear(&self, network: NetworkId, now: Timestamp) {
        if let Some(heard) = self.0.get(network.index()) {
            heard.store(Self::clock(now), Relaxed);
        }
    }

    fn are_heard(&self, network: NetworkId, now: Timestamp) -> bool {
        let heard = self.0.get(network.index()).map_or(0, |heard| heard.load(Relaxed));
        let age = Self::clock(now).saturating_sub(heard);
        heard != 0 && Duration::from_secs(age.into()) <= REMEMBERED
    }
}

/// `fate`, or less of a flood, if it is a multicast for routers.
#[inline(always)]
pub(super) fn or_to_routers<'p>(
    fate: Result<Action<'p>, DropReason>,
    pass: Pass<'p>,
    batch: &Batch,
    slot: usize,
    header: &Header,
) -> Result<Action<'p>, DropReason> {
    match (fate, &header.to) {
        (Ok(Action::Flood(reach)), Destination::Group(Flood::Multicast)) => {
            let is_for_routers = is_for_routers(pass, batch, slot, header);
            Ok(Action::Flood(if is_for_routers { reach.to_routers() } else { reach }))
        }
        (fate, _) => fate,
    }
}

/// Whether a multicast need not go to stations. Notes routers.
#[inline(never)]
fn is_for_routers(pass: Pass<'_>, batch: &Batch, slot: usize, header: &Header) -> bool {
    let frame = batch.bytes(slot);
    let Some(addresses) = try_u64_at(frame, 0) else { return false };
    let network = header.network;
    let packet = || {
        let at = if header.tag.is_some() { ETHERNET_HEADER + TAG } else { ETHERNET_HEADER };
        Some((EtherType(try_u16_at(frame, at - 2)?), frame.get(at..)?))
    };
    let is_for_routers = match addresses >> 16 {
        // All routers, all routers that speak MLDv2 or IGMPv3.
        0x3333_0000_0002 | 0x3333_0000_0016 | 0x0100_5e00_0002 | 0x0100_5e00_0016 => true,
        // All nodes: by these routers are known.
        0x3333_0000_0001 | 0x0100_5e00_0001 => {
            let ingress = batch.frames()[slot].ingress;
            if packet().is_some_and(|(kind, packet)| is_from_router(kind, packet))
                && !pass.plan.topology.leads_to_routers(ingress)
            {
                pass.plan.routers.hear(network, pass.now);
            }
            false
        }
        // Solicited nodes.
        to if to >> 24 == 0x33_33ff => packet().is_some_and(|(kind, packet)| {
            let sender = try_u64_at(frame, 6).map(|word| MacAddr::from_bits(word >> 16));
            kind == EtherType::IPV6 && sender.is_some_and(|sender| is_own_probe(packet, sender))
        }),
        _ => false,
    };
    is_for_routers && !pass.plan.routers.are_heard(network, pass.now)
}

/// Whether a packet to all nodes is one that routers send: a query for groups, or an advertisement.
fn is_from_router(kind: EtherType, packet: &[u8]) -> bool {
    match kind {
        EtherType::IPV4 => {
            let options = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
            packet.get(9) == Some(&IpNumber::IGMP.0) && packet.get(options) == Some(&QUERY_IGMP)
        }
        EtherType::IPV6 => match packet.get(6).copied().map(IpNumber) {
            Some(IpNumber::IPV6_ICMP) => packet.get(IPV6_HEADER) == Some(&ADVERTISEMENT),
            // Messages of MLD have a router alert option of eight bytes (RFC 3810 section 5).
            Some(IpNumber::IPV6_HEADER_HOP_BY_HOP) => packet.get(IPV6_HEADER + 8) == Some(&QUERY_MLD),
            _ => false,
        },
        _ => false,
    }
}

/// Whether an IPv6 packet probes for the address that its sender has by its MAC address.
fn is_own_probe(packet: &[u8], sender: MacAddr) -> bool {
    let word = |at| try_u64_at(packet, at);
    let is_probe = packet.get(6) == Some(&IpNumber::IPV6_ICMP.0)
        && packet.get(IPV6_HEADER) == Some(&SOLICITATION)
        && (word(8), word(16)) == (Some(0), Some(0));
    let target = word(IPV6_HEADER + 8).zip(word(IPV6_HEADER + 16));
    is_probe
        && target.is_some_and(|(high, low)| u128::from(high) << 64 | u128::from(low) == link_local_of(sender))
}
