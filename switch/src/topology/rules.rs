//! Configuration of a topology: networks and ports.

use std::{net::IpAddr, num::NonZeroU16, sync::Arc};

use crate::{
    addr::{MacAddr, NetworkId, PortId, VlanId},
    guard::Guard,
    limit::Limits,
    storm::FloodLimits,
    wire::frame::{ETHERNET_HEADER, TAG},
};

/// Default MTU of a port: IP packets of jumbo frames of 9216 bytes.
pub const DEFAULT_MTU: u16 = 9198;
const _: () = assert!(DEFAULT_MTU as usize + ETHERNET_HEADER + TAG == 9216);

/// Configuration of a broadcast domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its number, unique.
    pub id: NetworkId,
    /// The VLAN that carries it on trunks.
    pub vlan: Option<VlanId>,
    /// Whether access ports accept tagged frames and pass the tag as payload.
    pub passes_tags: bool,
    /// Whether tunnels count as isolated ports in it, whatever their frames say.
    pub isolates_tunnels: bool,
    /// Of its tunnels, those that flooded frames leave by, sorted; `None`: all that are flooded to at all.
    pub floods_to: Option<Vec<PortId>>,
    /// Whether the switch answers questions for [neighbours](crate::neighbours) that it knows.
    pub answers: bool,
}

impl Network {
    /// A network without VLAN.
    pub fn new(id: NetworkId) -> Self {
        Self { id, vlan: None, passes_tags: false, isolates_tunnels: false, floods_to: None, answers: false }
    }

    /// Whether frames flooded in it leave by the tunnel `port`.
    pub(super) fn floods_to(&self, port: PortId) -> bool {
        self.floods_to.as_ref().is_none_or(|ports| ports.binary_search(&port).is_ok())
    }
}

/// Configuration of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Its number, unique.
    pub id: PortId,
    /// The networks it carries.
    pub mode: PortMode,
    /// The address that is pinned to it, if its station's is known: no other port may send from it.
    pub station: Option<MacAddr>,
    /// The IP addresses of its station, as far as they are known: who asks for them is heard there first.
    pub addresses: Vec<IpAddr>,
    /// What its station may claim to be; `None`: anything. Only access ports have one.
    pub guard: Option<Arc<Guard>>,
    /// Isolated ports exchange no frames with each other.
    pub isolated: bool,
    /// Whether frames may leave by the port they came in by (a reflective relay, IEEE 802.1Qbg; Linux: `hairpin`).
    pub hairpin: bool,
    /// Whether a trunk's native network leaves tagged. It is accepted both ways.
    pub native_tagged: bool,
    /// Ports of one split-horizon group exchange no frames with each other.
    pub horizon: Option<NonZeroU16>,
    /// Ports of one such group exchange no flooded frames with each other, but those for known stations.
    pub flood_horizon: Option<NonZeroU16>,
    /// Whether flooded frames are sent by it.
    pub flood: bool,
    /// Whether addresses are learned on it.
    pub learning: bool,
    /// Maximum number of addresses learned on it.
    pub mac_limit: Option<u32>,
    /// Its flood limits.
    pub storm: FloodLimits,
    /// Its rate limits.
    pub limits: Limits,
    /// Its MTU: maximum length of an IP packet, in bytes.
    pub mtu: u16,
}

impl PortRules {
    /// A port without limits in one network, untagged.
    pub fn access(id: PortId, network: NetworkId) -> Self {
        Self {
            id,
            mode: PortMode::Access(network),
            station: None,
            addresses: Vec::new(),
            guard: None,
            isolated: false,
            hairpin: false,
            native_tagged: false,
            horizon: None,
            flood_horizon: None,
            flood: true,
            learning: true,
            mac_limit: None,
            storm: FloodLimits::default(),
            limits: Limits::default(),
            mtu: DEFAULT_MTU,
        }
    }
}

/// The networks of a port, and how its frames select them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// One network, untagged.
    Access(NetworkId),
    /// Several networks by VLAN tag, and at most one untagged.
    Trunk {
        /// Networks carried by VLAN tag.
        tagged: Vec<NetworkId>,
        /// The network of untagged and priority-tagged frames, and of frames with its VLAN's tag.
        native: Option<NetworkId>,
    },
    /// Several networks; the device knows which (by a tunnel's VNI).
    Tunnel(Vec<NetworkId>),
    /// No network: it gets copies of other ports' frames, and frames that it sends are dropped.
    Mirror,
}
