//! A port: which networks it carries, and what stands behind it.

use serde::{Deserialize, Serialize};

use super::{CollectorSpec, InterfaceSpec, LimitSpec, Name, NetworkSpec, PeerSpec, VxlanSpec};
use crate::options;

/// A place where frames come and go: `[[port]]`.
///
/// Written as one flat table, it is read through `PortFields`: serde can refuse
/// unknown keys of a flat struct, but not of one that is put together with `flatten`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "crate::fields::PortFields")]
pub struct PortSpec {
    /// Unique among ports.
    pub name: Name,
    /// Which networks it carries and how.
    #[serde(flatten)]
    pub carries: Carries,
    /// What stands behind it.
    #[serde(flatten)]
    pub device: DeviceSpec,
    /// Octets of the longest IP packet; the network's (access, native) or 9198 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Frames never go from an isolated port to another.
    pub isolated: bool,
    /// Frames may leave by the port they came in by.
    #[serde(skip_serializing_if = "is_false")]
    pub hairpin: bool,
    /// A trunk's native network leaves tagged as well; it comes in both ways.
    #[serde(skip_serializing_if = "is_false")]
    pub native_tagged: bool,
    /// Whether frames to groups and unknown stations leave by it. A peer has its own: [`PeerSpec::flood`].
    #[serde(skip_serializing_if = "is_true")]
    pub flood: bool,
    /// Whether addresses are learned on it.
    #[serde(skip_serializing_if = "is_true")]
    pub learning: bool,
    /// Addresses learned on this port at most; no limit of its own unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// Frames per second the port may flood.
    pub storm: StormSpec,
    /// How much may come in and leave by it.
    pub limit: LimitSpec,
    /// Whether the device is asked to carry checksum and segmentation offloads.
    pub offload: bool,
}

impl PortSpec {
    /// A port with every other key left out.
    pub fn new(name: Name, carries: Carries, device: DeviceSpec) -> Self {
        Self {
            name,
            carries,
            device,
            mtu: None,
            isolated: false,
            hairpin: false,
            native_tagged: false,
            flood: true,
            learning: true,
            mac_limit: None,
            storm: StormSpec::default(),
            limit: LimitSpec::default(),
            offload: true,
        }
    }

    /// Whether it carries `network`: a tunnel to a peer only what is to reach that peer.
    pub fn holds(&self, network: &NetworkSpec) -> bool {
        let is_peer = matches!(self.device, DeviceSpec::Peer(_));
        self.carries.holds(network) && (!is_peer || options::reaches(&network.options, &self.name))
    }

    /// The interface that is made for the port, or `None` where an existing one is used.
    pub fn interface(&self) -> Option<&InterfaceSpec> {
        match &self.device {
            DeviceSpec::Tap(interface) | DeviceSpec::Veth(interface) => Some(interface),
            DeviceSpec::Packet { .. }
            | DeviceSpec::Vxlan(_)
            | DeviceSpec::Peer(_)
            | DeviceSpec::Collector(_) => None,
        }
    }

    /// The interface's name where it stands: told, or the port's own.
    pub fn ifname(&self) -> &str {
        match &self.device {
            DeviceSpec::Packet { device } => device,
            DeviceSpec::Vxlan(_) | DeviceSpec::Peer(_) | DeviceSpec::Collector(_) => self.name.as_str(),
            DeviceSpec::Tap(interface) | DeviceSpec::Veth(interface) => {
                interface.ifname.as_deref().unwrap_or(self.name.as_str())
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_false(it: &bool) -> bool {
    !it
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_true(it: &bool) -> bool {
    *it
}

/// Which networks a port carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Carries {
    /// One network, untagged.
    Access {
        /// The network.
        network: Name,
    },
    /// Several networks by VLAN tag, and at most one untagged.
    Trunk {
        /// The tagged networks; each has a VLAN id.
        trunk: Vec<Name>,
        /// The network of untagged frames.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        native: Option<Name>,
    },
    /// Several networks by VNI.
    Tunnel {
        /// These, each of which has a VNI; every network that has one unless told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        networks: Option<Vec<Name>>,
    },
    /// No network: copies of other ports' frames.
    Mirror {
        /// Whose.
        mirror: MirrorSpec,
    },
}

/// Whose frames a port gets copies of: `mirror = { … }`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorSpec {
    /// Those that come in and leave by these ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Name>,
    /// Those that come in in these networks, by whatever port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Name>,
    /// Of the ports' frames, only those that come in, or that leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
}

/// The way of a frame, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Into the switch.
    Rx,
    /// Out of the switch.
    Tx,
}

impl Carries {
    /// The network of untagged frames.
    pub fn untagged(&self) -> Option<&Name> {
        match self {
            Self::Access { network } => Some(network),
            Self::Trunk { native, .. } => native.as_ref(),
            Self::Tunnel { .. } | Self::Mirror { .. } => None,
        }
    }

    /// The networks carried by tag.
    pub fn tagged(&self) -> &[Name] {
        match self {
            Self::Trunk { trunk, .. } => trunk,
            Self::Access { .. } | Self::Tunnel { .. } | Self::Mirror { .. } => &[],
        }
    }

    /// All networks that are named, the tagged ones first.
    pub fn named(&self) -> impl Iterator<Item = &Name> {
        let tunnelled = match self {
            Self::Tunnel { networks } => networks.as_deref().unwrap_or_default(),
            Self::Access { .. } | Self::Trunk { .. } | Self::Mirror { .. } => &[],
        };
        self.tagged().iter().chain(self.untagged()).chain(tunnelled)
    }

    /// Whether `network` is among those carried.
    fn holds(&self, network: &NetworkSpec) -> bool {
        match self {
            Self::Tunnel { networks: None } => network.vni.is_some(),
            _ => self.named().any(|name| *name == network.name),
        }
    }
}

/// What stands behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DeviceSpec {
    /// A TAP interface that the daemon (or the tap helper) makes.
    Tap(InterfaceSpec),
    /// A veth pair; the switch reads and writes the host's end.
    Veth(InterfaceSpec),
    /// An interface that exists: a NIC, or the end of somebody's veth pair.
    Packet {
        /// The interface's name in the daemon's namespace.
        device: String,
    },
    /// This host's end of all tunnels. Only the configuration file declares it.
    Vxlan(VxlanSpec),
    /// Another host's end of a tunnel.
    Peer(PeerSpec),
    /// Another host, which gets copies.
    Collector(CollectorSpec),
}

impl DeviceSpec {
    /// Whether it is the tunnel's endpoint or sends by it, and so has no interface of its own.
    pub fn is_tunnel(&self) -> bool {
        matches!(self, Self::Vxlan(_) | Self::Peer(_) | Self::Collector(_))
    }
}

/// Storm limits in frames per second; no limit unless told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StormSpec {
    /// Frames to ff:ff:ff:ff:ff:ff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<u32>,
    /// Frames to other groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast: Option<u32>,
    /// Frames to addresses not in the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<u32>,
}
