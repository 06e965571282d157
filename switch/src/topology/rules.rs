//! What is asked of a topology: networks, ports and which carry which.

use std::num::NonZeroU16;

use crate::{
    addr::{NetworkId, PortId, VlanId},
    limit::Limits,
    storm::FloodLimits,
    wire::frame::{ETHERNET_HEADER, TAG},
};

/// The octets an IP packet may have on a port whose MTU nobody set: a jumbo frame of 9216 octets.
pub const DEFAULT_MTU: u16 = 9198;
const _: () = assert!(DEFAULT_MTU as usize + ETHERNET_HEADER + TAG == 9216);

/// A broadcast domain, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its number, unique.
    pub id: NetworkId,
    /// The VLAN by which trunks carry it.
    pub vlan: Option<VlanId>,
    /// Whether access ports take tagged frames and carry the tag as payload.
    pub passes_tags: bool,
}

/// A port, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Its number, unique.
    pub id: PortId,
    /// Which networks it carries.
    pub mode: PortMode,
    /// Frames never go from an isolated port to another.
    pub isolated: bool,
    /// Whether frames may leave by the port they came in by (a reflective relay, IEEE 802.1Qbg; Linux: `hairpin`).
    pub hairpin: bool,
    /// Whether a trunk's native network leaves tagged. It comes in both ways.
    pub native_tagged: bool,
    /// Frames never go between two ports of one split-horizon group.
    pub horizon: Option<NonZeroU16>,
    /// Whether flooded frames leave by it.
    pub flood: bool,
    /// Whether addresses are learned on it.
    pub learning: bool,
    /// Addresses learned on it at most.
    pub mac_limit: Option<u32>,
    /// What it may flood.
    pub storm: FloodLimits,
    /// How much may come in and leave by it.
    pub limits: Limits,
    /// Octets of the longest IP packet that may leave by it.
    pub mtu: u16,
}

impl PortRules {
    /// A port without limits, in one network.
    pub fn access(id: PortId, network: NetworkId) -> Self {
        Self {
            id,
            mode: PortMode::Access(network),
            isolated: false,
            hairpin: false,
            native_tagged: false,
            horizon: None,
            flood: true,
            learning: true,
            mac_limit: None,
            storm: FloodLimits::default(),
            limits: Limits::default(),
            mtu: DEFAULT_MTU,
        }
    }
}

/// Which networks a port carries, and how its frames tell them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// One network, untagged.
    Access(NetworkId),
    /// Several networks by VLAN tag and at most one untagged.
    Trunk {
        /// Carried by the tag of their VLAN.
        tagged: Vec<NetworkId>,
        /// The network of untagged and priority-tagged frames, and of those that its VLAN's tag says are of it.
        native: Option<NetworkId>,
    },
    /// Several networks; the device itself knows which (a tunnel's VNI).
    Tunnel(Vec<NetworkId>),
    /// None: it gets copies of others' frames, and nothing that it sends is taken in.
    Mirror,
}
