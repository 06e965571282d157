//! Building a topology from rules, and the contradictions that rules may contain.

use std::fmt;

use super::{
    Ingress, NO_MEMBER, NetworkEntry, PortEntry, Topology, number,
    reach::Member,
    rules::{Network, PortMode, PortRules},
};
use crate::{
    addr::{NetworkId, PortId, VlanId},
    guard::link_local_of,
    limit::Limits,
    wire::frame::{ETHERNET_HEADER, TAG},
};

/// A contradiction in the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyError {
    /// Two ports have one number.
    PortTwice(PortId),
    /// Two networks have one number.
    NetworkTwice(NetworkId),
    /// A port carries a network that does not exist.
    NoNetwork(PortId, NetworkId),
    /// A trunk carries a network without VLAN.
    NoVlan(PortId, NetworkId),
    /// A trunk would carry two networks by one VLAN.
    VlanTwice(PortId, VlanId),
    /// A trunk carries a network untagged that passes tags: a tag in the payload would be taken for the
    /// trunk's.
    NativePassesTags(PortId, NetworkId),
    /// A port carries a network both tagged and untagged, or twice.
    CarriedTwice(PortId, NetworkId),
    /// A port of several networks, or of none, has a guard.
    GuardedTrunk(PortId),
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortTwice(port) => write!(f, "two ports have the number {}", port.0),
            Self::NetworkTwice(network) => write!(f, "two networks have the number {}", network.0),
            Self::NoNetwork(port, network) => {
                write!(f, "port {} carries network {}, which does not exist", port.0, network.0)
            }
            Self::NoVlan(port, network) => {
                write!(f, "trunk {} carries network {}, which has no VLAN", port.0, network.0)
            }
            Self::VlanTwice(port, vlan) => write!(f, "trunk {} carries VLAN {vlan} twice", port.0),
            Self::NativePassesTags(port, network) => {
                write!(f, "trunk {} carries network {} untagged, which passes tags", port.0, network.0)
            }
            Self::CarriedTwice(port, network) => {
                write!(f, "port {} carries network {} twice", port.0, network.0)
            }
            Self::GuardedTrunk(port) => write!(f, "port {} has a guard and is no access port", port.0),
        }
    }
}

impl std::error::Error for TopologyError {}

impl Topology {
    /// Builds the topology, or returns the first contradiction.
    ///
    /// `group_forward_mask` has bit X set when frames to 01:80:C2:00:00:0X are forwarded.
    pub fn build(
        networks: &[Network],
        ports: &[PortRules],
        group_forward_mask: u16,
    ) -> Result<Self, TopologyError> {
        let mut known: Vec<Option<&Network>> =
            vec![None; length(networks.iter().map(|network| network.id.index()))];
        for network in networks {
            if known[network.id.index()].replace(network).is_some() {
                return Err(TopologyError::NetworkTwice(network.id));
            }
        }
        let slots = length(ports.iter().map(|rules| rules.id.index()));
        let mut topology = Self {
            ports: (0..slots).map(|_| None).collect(),
            networks: known
                .iter()
                .map(|network| NetworkEntry {
                    passes_tags: network.is_some_and(|network| network.passes_tags),
                    isolates_tunnels: network.is_some_and(|network| network.isolates_tunnels),
                    answers: network.is_some_and(|network| network.answers),
                    members: Vec::new(),
                    flooded: 0,
                    link_locals: Vec::new(),
                    homes: Vec::new(),
                    place: vec![NO_MEMBER; slots],
                })
                .collect(),
            group_forward_mask,
            limits_tunnels: false,
        };
        for rules in ports {
            topology.add_port(&known, rules)?;
        }
        for network in &mut topology.networks {
            network.link_locals.sort_unstable();
            network.homes.sort_unstable();
        }
        Ok(topology)
    }

    fn add_port(&mut self, known: &[Option<&Network>], rules: &PortRules) -> Result<(), TopologyError> {
        let find = |id: NetworkId| {
            known.get(id.index()).copied().flatten().ok_or(TopologyError::NoNetwork(rules.id, id))
        };
        let ingress = match &rules.mode {
            PortMode::Access(network) => {
                self.join(rules, find(*network)?, None)?;
                let link_local = rules.station.map(|mac| (link_local_of(mac), rules.id));
                let entry = &mut self.networks[network.index()];
                entry.link_locals.extend(link_local);
                entry.homes.extend(rules.addresses.iter().map(|address| (number(*address), rules.id)));
                Ingress::Access { network: *network }
            }
            PortMode::Trunk { tagged, native } => {
                let mut by_vlan = vec![None; 4096].into_boxed_slice();
                for &network in tagged {
                    let vlan = find(network)?.vlan.ok_or(TopologyError::NoVlan(rules.id, network))?;
                    if by_vlan[usize::from(vlan.as_u16())]
                        .replace(network)
                        .is_some_and(|other| other != network)
                    {
                        return Err(TopologyError::VlanTwice(rules.id, vlan));
                    }
                    self.join(rules, find(network)?, Some(vlan))?;
                }
                if let Some(native) = *native {
                    let Network { vlan, passes_tags, .. } = *find(native)?;
                    if passes_tags {
                        return Err(TopologyError::NativePassesTags(rules.id, native));
                    }
                    if rules.native_tagged && vlan.is_none() {
                        return Err(TopologyError::NoVlan(rules.id, native));
                    }
                    self.join(rules, find(native)?, vlan.filter(|_| rules.native_tagged))?;
                    // Many switches tag their native VLAN too (Cisco: `vlan dot1q tag native`): such frames belong to it as well.
                    if let Some(vlan) = vlan {
                        let place = &mut by_vlan[usize::from(vlan.as_u16())];
                        if place.replace(native).is_some() {
                            return Err(TopologyError::VlanTwice(rules.id, vlan));
                        }
                    }
                }
                Ingress::Trunk { by_vlan, native: *native }
            }
            PortMode::Tunnel(networks) => {
                for &network in networks {
                    self.join(rules, find(network)?, None)?;
                }
                Ingress::Tunnel
            }
            PortMode::Mirror => Ingress::Mirror,
        };
        if rules.guard.is_some() && !matches!(ingress, Ingress::Access { .. }) {
            return Err(TopologyError::GuardedTrunk(rules.id));
        }
        let entry = PortEntry {
            ingress,
            guard: rules.guard.clone(),
            isolated: rules.isolated,
            horizon: rules.horizon,
            flood_horizon: rules.flood_horizon,
            mac_limit: if rules.learning { rules.mac_limit } else { Some(0) },
            storm: rules.storm,
            limits: (rules.limits != Limits::default()).then(|| rules.limits.into()),
            // As in the kernel's is_skb_forwardable, a tag does not count.
            max_frame: usize::from(rules.mtu) + ETHERNET_HEADER + TAG,
        };
        self.limits_tunnels |= matches!(rules.mode, PortMode::Tunnel(_)) && rules.limits.rx.is_some();
        match self.ports[rules.id.index()].replace(entry) {
            None => Ok(()),
            Some(_) => Err(TopologyError::PortTwice(rules.id)),
        }
    }

    fn join(
        &mut self,
        rules: &PortRules,
        network: &Network,
        vlan: Option<VlanId>,
    ) -> Result<(), TopologyError> {
        let is_tunnel = matches!(rules.mode, PortMode::Tunnel(_));
        let NetworkEntry { isolates_tunnels, members, flooded, place, .. } =
            &mut self.networks[network.id.index()];
        if place[rules.id.index()] != NO_MEMBER {
            return Err(TopologyError::CarriedTwice(rules.id, network.id));
        }
        let member = Member {
            port: rules.id,
            vlan,
            horizon: rules.horizon,
            flood_horizon: rules.flood_horizon,
            isolated: rules.isolated || is_tunnel && *isolates_tunnels,
            hairpin: rules.hairpin,
        };
        members.push(member);
        let last = members.len() - 1;
        let mut settle = |at: usize, member: &Member| {
            place[member.port.index()] = u16::try_from(at).unwrap_or(NO_MEMBER);
        };
        settle(last, &member);
        if rules.flood && (!is_tunnel || network.floods_to(rules.id)) {
            // Changes places with the first that is not flooded to.
            members.swap(*flooded, last);
            settle(last, &members[last]);
            settle(*flooded, &member);
            *flooded += 1;
        }
        Ok(())
    }
}

fn length(indices: impl Iterator<Item = usize>) -> usize {
    indices.max().map_or(0, |last| last + 1)
}
