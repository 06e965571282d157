//! The topology: networks, ports and the paths between them.
//!
//! Built and checked when the configuration changes, then only indexed. Two questions are asked for each
//! frame: [`Topology::classify`] (which network does it belong to?) and [`Topology::reach`] (by which ports
//! may it leave?). A topology is immutable; workers switch to a new one between two turns.

mod build;
mod reach;
mod rules;
#[cfg(test)]
mod tests;

pub use build::TopologyError;
pub use reach::{Member, Reach};
pub use rules::{DEFAULT_MTU, Network, PortMode, PortRules};

use std::{net::IpAddr, num::NonZeroU16, sync::Arc};

use crate::{
    addr::{NetworkId, PortId},
    drops::DropReason,
    guard::Guard,
    limit::{Limit, Limits},
    storm::FloodLimits,
    wire::frame::{Frame, Tag},
};

/// The network of a frame, and the tag that selected it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// The network.
    pub network: NetworkId,
    /// The outer tag, if it belongs to the switch, which removes or replaces it at egress. A tag that a
    /// network passes as payload is not included.
    pub tag: Option<Tag>,
}

/// Networks, ports and the paths between them. See the [module](self).
#[derive(Debug, Default)]
pub struct Topology {
    /// By port number.
    ports: Vec<Option<PortEntry>>,
    /// By network number.
    networks: Vec<NetworkEntry>,
    group_forward_mask: u16,
    /// Whether any tunnel has an ingress rate limit.
    limits_tunnels: bool,
}

#[derive(Debug)]
struct PortEntry {
    ingress: Ingress,
    isolated: bool,
    horizon: Option<NonZeroU16>,
    flood_horizon: Option<NonZeroU16>,
    mac_limit: Option<u32>,
    storm: FloodLimits,
    max_frame: usize,
    guard: Option<Arc<Guard>>,
    /// Boxed: few ports have limits, and the entry stays small.
    limits: Option<Box<Limits>>,
}

#[derive(Debug)]
enum Ingress {
    Access {
        network: NetworkId,
    },
    /// `by_vlan` has 4,096 elements; the first and the last stay empty.
    Trunk {
        by_vlan: Box<[Option<NetworkId>]>,
        native: Option<NetworkId>,
    },
    Tunnel,
    Mirror,
}

#[derive(Debug, Default)]
struct NetworkEntry {
    passes_tags: bool,
    isolates_tunnels: bool,
    answers: bool,
    /// Those that frames are flooded to come first.
    members: Vec<Member>,
    /// The number of these.
    flooded: usize,
    /// The link-local IPv6 addresses that its known stations have by default, sorted.
    link_locals: Vec<(u128, PortId)>,
    /// Where the IP addresses of known stations are, sorted.
    homes: Vec<(u128, PortId)>,
    /// By port number: its index in `members`, or [`NO_MEMBER`].
    place: Vec<u16>,
}

const NO_MEMBER: u16 = u16::MAX;

/// The guard of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guarded<'a> {
    guard: &'a Guard,
    pub(crate) port: PortId,
    /// The link-local addresses of its network's stations, sorted, with the port of each.
    link_locals: &'a [(u128, PortId)],
}

impl Guarded<'_> {
    /// Whether the port may send `frame` (with Ethernet header, without FCS).
    ///
    /// # Errors
    /// It may not, and why.
    #[inline]
    pub(crate) fn judge(self, frame: &[u8]) -> Result<(), DropReason> {
        self.guard.judge(frame, |link_local| {
            let found = self.link_locals.binary_search_by_key(&link_local, |(address, _)| *address);
            found.is_ok_and(|place| self.link_locals[place].1 != self.port)
        })
    }
}

impl Topology {
    /// The network of a frame received on `ingress`. `known` is set by devices that know it (tunnels).
    ///
    /// A tag that does not belong to the switch is payload, whatever its type, and rejected unless the network
    /// passes tags: sent untagged by a trunk that carries the network natively, the frame would end up in another
    /// network (VLAN hopping). A priority tag (VLAN 0) names no network: the frame counts as untagged on every port
    /// (IEEE 802.1Q-2018 section 6.9).
    #[inline(always)]
    pub fn classify(
        &self,
        ingress: PortId,
        known: Option<NetworkId>,
        frame: &Frame,
    ) -> Result<Classified, DropReason> {
        match (&self.port(ingress)?.ingress, frame.tag) {
            (Ingress::Access { network }, None) if !frame.tagged_payload => {
                Ok(Classified { network: *network, tag: None })
            }
            (port, tag) => self.classify_tagged(port, ingress, known, tag, frame.tagged_payload),
        }
    }

    /// The same for tagged frames and ports of several networks: a call, to keep the common path short.
    #[inline(never)]
    fn classify_tagged(
        &self,
        port: &Ingress,
        ingress: PortId,
        known: Option<NetworkId>,
        tag: Option<Tag>,
        tagged_payload: bool,
    ) -> Result<Classified, DropReason> {
        let has_tag = tag.is_some();
        let (network, tag) = match (port, tag) {
            (Ingress::Access { network }, tag) => {
                let own = tag.filter(|tag| tag.is_priority() && !self.passes_tags(*network));
                (*network, own)
            }
            (Ingress::Trunk { by_vlan, .. }, Some(tag)) if !tag.is_priority() => {
                let network = by_vlan[usize::from(tag.0 & 0x0fff)].ok_or(DropReason::VlanNotAllowed)?;
                (network, Some(tag))
            }
            (Ingress::Trunk { native: None, .. }, _) if tagged_payload => {
                return Err(DropReason::VlanNotAllowed);
            }
            (Ingress::Trunk { native, .. }, tag) => (native.ok_or(DropReason::VlanUntagged)?, tag),
            (Ingress::Mirror, _) => return Err(DropReason::MirrorOnly),
            (Ingress::Tunnel, tag) => {
                let carried = known.filter(|network| self.carries(*network, ingress));
                let network = carried.ok_or(DropReason::VxlanVniNotFound)?;
                (network, tag.filter(|tag| tag.is_priority() && !self.passes_tags(network)))
            }
        };
        let is_payload = has_tag && tag.is_none();
        if (is_payload || tagged_payload) && !self.passes_tags(network) {
            return Err(DropReason::VlanNotAllowed);
        }
        Ok(Classified { network, tag })
    }

    /// The guard of `port`, if it has one.
    #[inline]
    pub(crate) fn guarded(&self, port: PortId) -> Option<Guarded<'_>> {
        let entry = self.port(port).ok()?;
        let (Some(guard), Ingress::Access { network }) = (&entry.guard, &entry.ingress) else { return None };
        Some(Guarded { guard, port, link_locals: &self.networks[network.index()].link_locals })
    }

    /// Whether `port` is one of the ports of `network`.
    pub(crate) fn carries(&self, network: NetworkId, port: PortId) -> bool {
        let place = self.networks.get(network.index()).and_then(|entry| entry.place.get(port.index()));
        place.is_some_and(|place| *place != NO_MEMBER)
    }

    /// Whether frames of `port` carry their network as metadata.
    pub fn is_tunnel(&self, port: PortId) -> bool {
        self.port(port).is_ok_and(|entry| matches!(entry.ingress, Ingress::Tunnel))
    }

    /// Whether the switch answers questions for neighbours that it knows in `network`.
    #[inline]
    pub(crate) fn answers(&self, network: NetworkId) -> bool {
        self.networks.get(network.index()).is_some_and(|entry| entry.answers)
    }

    #[inline]
    fn passes_tags(&self, network: NetworkId) -> bool {
        self.networks.get(network.index()).is_some_and(|entry| entry.passes_tags)
    }

    /// The ports that a frame of `network`, received on `ingress`, may leave by.
    ///
    /// Never contains `ingress` itself (unless it is a hairpin) nor a port of its split-horizon group, so flooding
    /// cannot loop; nor, for an isolated port, another isolated one. `isolated`: the frame was sent by an isolated port of
    /// another host.
    pub fn reach(&self, network: NetworkId, ingress: PortId, isolated: bool) -> Reach<'_> {
        let from = self.ports.get(ingress.index()).and_then(Option::as_ref);
        Reach { entry: self.networks.get(network.index()), from, ingress, isolated }
    }

    /// The port whose station has `address` in `network`, as far as that is known: a hint, where to ask first.
    pub(crate) fn home(&self, network: NetworkId, address: IpAddr) -> Option<PortId> {
        let entry = self.networks.get(network.index())?;
        let address = number(address);
        let known = |homes: &[(u128, PortId)]| {
            let place = homes.binary_search_by_key(&address, |(home, _)| *home).ok()?;
            Some(homes[place].1)
        };
        known(&entry.homes).or_else(|| known(&entry.link_locals))
    }

    /// The ports that frames of `network` are flooded to, whoever sends them.
    pub(crate) fn flooded(&self, network: NetworkId) -> impl Iterator<Item = PortId> {
        let members =
            self.networks.get(network.index()).map_or(&[][..], |entry| &entry.members[..entry.flooded]);
        members.iter().map(|member| member.port)
    }

    /// Whether `port` is an access port, with one station or few behind it.
    pub(crate) fn is_access(&self, port: PortId) -> bool {
        self.port(port).is_ok_and(|entry| matches!(entry.ingress, Ingress::Access { .. }))
    }

    /// Maximum number of addresses learned on `port`; 0: it does not learn.
    pub fn mac_limit(&self, port: PortId) -> Option<u32> {
        self.ports.get(port.index())?.as_ref()?.mac_limit
    }

    /// The flood limits of `port`.
    pub fn storm(&self, port: PortId) -> FloodLimits {
        self.ports.get(port.index()).and_then(Option::as_ref).map(|entry| entry.storm).unwrap_or_default()
    }

    /// The rate limits of `port`.
    pub fn limits(&self, port: PortId) -> Option<&Limits> {
        self.ports.get(port.index())?.as_ref()?.limits.as_deref()
    }

    /// Whether a batch whose first frame was received on `port` may contain frames of a port with an ingress
    /// rate limit: a batch comes from one port, or from all tunnels.
    pub(crate) fn limits_batch(&self, port: PortId) -> bool {
        self.port(port).is_ok_and(|entry| {
            entry.limits.as_ref().is_some_and(|limits| limits.rx.is_some())
                || self.limits_tunnels && matches!(entry.ingress, Ingress::Tunnel)
        })
    }

    /// [`max_frame`](Self::max_frame), and the egress rate limit of `port`.
    #[inline]
    pub(crate) fn way_out(&self, port: PortId) -> (usize, Option<&Limit>) {
        let Some(Some(entry)) = self.ports.get(port.index()) else { return (0, None) };
        (entry.max_frame, entry.limits.as_ref().and_then(|limits| limits.tx.as_ref()))
    }

    /// Maximum frame length of `port` in bytes, with Ethernet header and one tag, without FCS.
    pub fn max_frame(&self, port: PortId) -> usize {
        self.ports.get(port.index()).and_then(Option::as_ref).map_or(0, |entry| entry.max_frame)
    }

    /// One more than the highest port number.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Whether frames to 01:80:C2:00:00:0`last` are forwarded.
    pub(crate) fn forwards_group(&self, last: u8) -> bool {
        self.group_forward_mask >> (last & 0x0f) & 1 != 0
    }

    fn port(&self, port: PortId) -> Result<&PortEntry, DropReason> {
        // The frame was under way when its port was removed.
        self.ports.get(port.index()).and_then(Option::as_ref).ok_or(DropReason::PortGone)
    }
}

/// An address of either family as a number; IPv4 as RFC 4291 section 2.5.5.2 maps it.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}
