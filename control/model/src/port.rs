//! A port: which networks it carries, and its device.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    Accelerate, CollectorSpec, Direction, FloodLimits, GuardSpec, IfName, InterfaceSpec, LimitSpec, Mtu,
    Name, NetworkSpec, PeerSpec, UnderlayAddr, VxlanSpec, ifname::veth_host_ifname,
};

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
    /// Its device.
    #[serde(flatten)]
    pub device: DeviceSpec,
    /// Its MTU; by default that of the network (access, native), or 9198.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Frames never go from an isolated port to another.
    pub isolated: bool,
    /// Frames may leave by the port they came in by.
    #[serde(skip_serializing_if = "is_false")]
    pub hairpin: bool,
    /// A trunk's native network leaves tagged as well; it is accepted both ways.
    #[serde(skip_serializing_if = "is_false")]
    pub native_tagged: bool,
    /// Whether frames to groups and unknown stations leave by it. A peer has its own: [`PeerSpec::flood`].
    #[serde(skip_serializing_if = "is_true")]
    pub flood: bool,
    /// Whether addresses are learned on it.
    #[serde(skip_serializing_if = "is_true")]
    pub learning: bool,
    /// Maximum number of addresses learned on this port; by default only the switch's limit applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// Frames per second the port may flood.
    pub storm: FloodLimits,
    /// Rate limits.
    pub limit: LimitSpec,
    /// Its guard; by default it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardSpec>,
    /// Which offloads of the device are used.
    pub offload: Offloads,
    /// Whether the kernel may forward for it.
    #[serde(skip_serializing_if = "Accelerate::is_auto")]
    pub accelerate: Accelerate,
}

/// Which offloads of a device are used: `true`, `false`, or `"udp"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Offloads {
    /// None: the device sends and receives complete wire frames.
    Off,
    /// Checksums and segmentation: super-frames pass whole.
    #[default]
    On,
    /// The same, and datagrams of one flow are merged for the device.
    Udp,
}

impl Offloads {
    /// Whether any are used.
    pub fn any(self) -> bool {
        self != Self::Off
    }
}

impl Serialize for Offloads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off | Self::On => serializer.serialize_bool(self.any()),
            Self::Udp => serializer.serialize_str("udp"),
        }
    }
}

impl<'de> Deserialize<'de> for Offloads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "true, false or \"udp\"")]
        enum Written {
            Any(bool),
            Word(Word),
        }

        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Udp,
        }

        Ok(match Written::deserialize(deserializer)? {
            Written::Any(true) => Self::On,
            Written::Any(false) => Self::Off,
            Written::Word(Word::Udp) => Self::Udp,
        })
    }
}

impl PortSpec {
    /// A port with default settings.
    pub fn new(name: Name, carries: Carries, device: impl Into<DeviceSpec>) -> Self {
        Self {
            name,
            carries,
            device: device.into(),
            mtu: None,
            isolated: false,
            hairpin: false,
            native_tagged: false,
            flood: true,
            learning: true,
            mac_limit: None,
            storm: FloodLimits::default(),
            limit: LimitSpec::default(),
            guard: None,
            offload: Offloads::default(),
            accelerate: Accelerate::default(),
        }
    }

    /// Whether it carries `network`; a peer carries those whose options let them reach it.
    pub fn holds(&self, network: &NetworkSpec) -> bool {
        let is_peer = self.device.peer().is_some();
        self.carries.holds(network) && (!is_peer || network.options.reaches(&self.name))
    }

    /// The interface that is created for the port; `None` if it uses an existing one.
    pub fn interface(&self) -> Option<&InterfaceSpec> {
        self.device.interface()
    }

    /// Whether its interface is the host's own: in the daemon's namespace, and not to be moved by others.
    pub fn is_hosts(&self) -> bool {
        self.interface().is_some_and(|interface| interface.netns.is_none() && interface.bare.is_none())
    }

    /// The interface's name in its namespace: given, or the port's own.
    pub fn ifname(&self) -> &str {
        self.device.ifname().map_or(self.name.as_str(), IfName::as_str)
    }

    /// The name of its veth pair's end on the host, if it has one.
    pub fn host_ifname(&self) -> Option<String> {
        matches!(self.device, DeviceSpec::Veth(_)).then(|| veth_host_ifname(&self.name))
    }

    /// The device as it is listed: an interface's name, on the host for a veth pair, or an address.
    pub fn label(&self) -> String {
        match &self.device {
            DeviceSpec::Tap(_) | DeviceSpec::Packet { .. } => self.ifname().to_owned(),
            DeviceSpec::Veth(_) => veth_host_ifname(&self.name),
            DeviceSpec::Vxlan(endpoint) => endpoint.local.to_string(),
            DeviceSpec::Peer(peer) => peer.remote.to_string(),
            DeviceSpec::Collector(it) => format!("{} vni {}", it.remote, it.vni),
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
        /// The networks, each with a VNI; by default every network that has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        networks: Option<Vec<Name>>,
    },
    /// No network: copies of other ports' frames.
    Mirror {
        /// What is copied.
        mirror: MirrorSpec,
    },
}

/// The source of a mirror's copies: `mirror = { … }`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorSpec {
    /// Frames received and sent by these ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Name>,
    /// Frames received in these networks, by any port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Name>,
    /// Of the ports' frames, only those received, or those sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
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

/// The device of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DeviceSpec {
    /// A TAP interface that the daemon (or the tap helper) makes.
    Tap(InterfaceSpec),
    /// A veth pair; the switch reads and writes the host's end.
    Veth(InterfaceSpec),
    /// An existing interface: a NIC, or the end of a veth pair made by others.
    Packet {
        /// The interface's name in the daemon's namespace.
        device: IfName,
    },
    /// This host's end of all tunnels. Only the configuration file declares it.
    Vxlan(VxlanSpec),
    /// Another host's end of a tunnel.
    Peer(PeerSpec),
    /// Another host that receives a mirror's copies.
    Collector(CollectorSpec),
}

/// Queries about a device. A new kind answers them here; it is parsed in `fields` and opened by the daemon.
impl DeviceSpec {
    /// The kind, as it is written.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tap(_) => "tap",
            Self::Veth(_) => "veth",
            Self::Packet { .. } => "packet",
            Self::Vxlan(_) => "vxlan",
            Self::Peer(_) => "peer",
            Self::Collector(_) => "collector",
        }
    }

    /// The interface that is created for it, which may need a namespace; `None` if it uses an existing one, or none.
    pub(crate) fn interface(&self) -> Option<&InterfaceSpec> {
        match self {
            Self::Tap(interface) | Self::Veth(interface) => Some(interface),
            Self::Packet { .. } | Self::Vxlan(_) | Self::Peer(_) | Self::Collector(_) => None,
        }
    }

    /// The explicit name of its interface; `None` if that is the port's name, or there is no interface.
    pub(crate) fn ifname(&self) -> Option<&IfName> {
        match self {
            Self::Tap(interface) | Self::Veth(interface) => interface.ifname.as_ref(),
            Self::Packet { device } => Some(device),
            Self::Vxlan(_) | Self::Peer(_) | Self::Collector(_) => None,
        }
    }

    /// The other host to which frames are sent by the tunnel.
    pub fn remote(&self) -> Option<UnderlayAddr> {
        match self {
            Self::Peer(peer) => Some(peer.remote),
            Self::Collector(collector) => Some(collector.remote),
            Self::Tap(_) | Self::Veth(_) | Self::Packet { .. } | Self::Vxlan(_) => None,
        }
    }

    /// This host's end of all tunnels, if it is that.
    pub fn endpoint(&self) -> Option<&VxlanSpec> {
        match self {
            Self::Vxlan(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    /// The same, to be completed.
    pub fn endpoint_mut(&mut self) -> Option<&mut VxlanSpec> {
        match self {
            Self::Vxlan(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    /// The tunnel's other end, if it is one.
    pub fn peer(&self) -> Option<&PeerSpec> {
        match self {
            Self::Peer(peer) => Some(peer),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub fn peer_mut(&mut self) -> Option<&mut PeerSpec> {
        match self {
            Self::Peer(peer) => Some(peer),
            _ => None,
        }
    }

    /// The host that gets copies by the tunnel, if it is one.
    pub fn collector(&self) -> Option<&CollectorSpec> {
        match self {
            Self::Collector(collector) => Some(collector),
            _ => None,
        }
    }

    /// Whether it is the tunnel's endpoint or sends by it, and so has no interface of its own.
    pub fn is_tunnel(&self) -> bool {
        self.endpoint().is_some() || self.remote().is_some()
    }

    /// What cannot change while it is open: of the interface, and of the sockets.
    ///
    /// The kind is part of it; MAC, addresses and gateways are not. The interface's name may be the port's, so it is not either.
    pub fn fixed(&self) -> impl PartialEq {
        let interface = self.interface().map(|it| (it.netns.clone(), it.persist));
        let endpoint = self.endpoint().map(|it| (it.local, it.port, it.checksum, it.group));
        let remote_port = match self {
            Self::Peer(peer) => peer.remote_port,
            Self::Collector(collector) => collector.remote_port,
            _ => None,
        };
        (self.kind(), interface, endpoint, self.remote(), remote_port)
    }
}

impl From<VxlanSpec> for DeviceSpec {
    fn from(endpoint: VxlanSpec) -> Self {
        Self::Vxlan(endpoint)
    }
}

impl From<PeerSpec> for DeviceSpec {
    fn from(peer: PeerSpec) -> Self {
        Self::Peer(peer)
    }
}

impl From<CollectorSpec> for DeviceSpec {
    fn from(collector: CollectorSpec) -> Self {
        Self::Collector(collector)
    }
}
