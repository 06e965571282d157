//! The words of the control plane: what a switch, a network and a port are asked to be.
//!
//! The same types are read from `net.toml`, sent over the API, kept in the store and printed by the
//! CLI, so a thing has one shape and one name everywhere. They are data: what makes them true is in
//! [`crate::daemon`].

mod endpoint;
mod network;
mod tunnel;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vswitch::addr::{MacAddr, VlanId};

pub use self::{
    endpoint::{Connect, EndpointSpec},
    network::{
        Driver, Id, InvalidDriver, InvalidId, InvalidReference, Ipam, NetworkUpdate, PoolSpec, PoolsSpec,
        Reference, Scope, SubnetSpec,
    },
    tunnel::{Dscp, PeerSpec, VXLAN_PORT, VxlanSpec},
};

/// The name of a network or port: 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Text that is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit")]
pub struct InvalidName(pub String);

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if first && rest && text.len() <= 63 { Ok(Self(text)) } else { Err(InvalidName(text)) }
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Stands where a name is missing, while the rest is searched for errors.
    pub(crate) fn unnamed() -> Self {
        Self("unnamed".into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The switch as a whole: `[switch]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchSpec {
    /// How this host calls itself in logs and answers.
    pub name: String,
    /// Forwarding threads; `None` lets the daemon choose from the number of CPUs.
    pub workers: Option<u16>,
    /// Microseconds a forwarding thread may look for frames before it sleeps; 0 makes it sleep at once.
    pub busy_poll: u16,
    /// The folder of the embedded store and of the instance lock.
    pub state: PathBuf,
    /// Seconds after which a learned address that was not heard again is forgotten.
    pub ageing: u32,
    /// Addresses the switch learns at most, over all ports.
    pub mac_limit: u32,
    /// Bit X set: frames to 01:80:C2:00:00:0X are forwarded (the kernel bridge's `group_fwd_mask`).
    pub group_forward_mask: u16,
    /// When an address that moves too often is held where it is.
    pub damping: DampingSpec,
}

impl Default for SwitchSpec {
    fn default() -> Self {
        Self {
            name: "vswitch".into(),
            workers: None,
            busy_poll: 50,
            state: "/var/lib/vswitch".into(),
            ageing: 300,
            mac_limit: 65_536,
            group_forward_mask: 0,
            damping: DampingSpec::default(),
        }
    }
}

/// Duplicate-MAC damping: `[switch] damping = { … }`. The defaults are FRR's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DampingSpec {
    /// Moves within `window` that hold an address; 0 switches damping off.
    pub moves: u32,
    /// Seconds in which the moves are counted.
    pub window: u32,
    /// Seconds an address is held before it may move again.
    pub hold: u32,
}

impl Default for DampingSpec {
    fn default() -> Self {
        Self { moves: 5, window: 180, hold: 1800 }
    }
}

/// A broadcast domain: `[[network]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Unique among networks.
    pub name: Name,
    /// How trunks carry it; unique among networks.
    #[serde(default, with = "text_option", skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    /// How tunnels carry it: 1 to 16777215; unique among networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Octets of the longest IP packet its ports are given, 68 to 9198. Unless told: what a tunnel carries, if it has a VNI and
    /// there is a tunnel, else 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether tagged frames from access ports are dropped or passed through as they are.
    #[serde(default)]
    pub tags: Tags,
    /// What makes it: overlay if it has a VNI, bridge if not, unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Its subnets, at most one of each family; a plain segment has none.
    #[serde(default, rename = "subnet", skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<SubnetSpec>,
    /// Who chooses a subnet where none is written.
    #[serde(default, skip_serializing_if = "Ipam::is_null")]
    pub ipam: Ipam,
    /// Cut off from the outside: no gateway, no published ports.
    #[serde(default, skip_serializing_if = "is_false")]
    pub internal: bool,
    /// Whether containers that no service manages may join, in Docker's words; it is kept and shown.
    #[serde(default, skip_serializing_if = "is_false")]
    pub attachable: bool,
    /// Whether it shall have an IPv6 subnet, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ipv6: bool,
    /// What the driver was told; see [`crate::options`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// What its owner wrote on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who it is; after its name unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// When it was made, if the API made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl NetworkSpec {
    /// The network's MTU where none is told, and no tunnel carries it.
    pub const DEFAULT_MTU: u16 = 1500;

    /// A network with nothing but a name.
    pub fn plain(name: Name) -> Self {
        Self {
            name,
            vlan: None,
            vni: None,
            mtu: None,
            tags: Tags::Drop,
            driver: None,
            subnets: Vec::new(),
            ipam: Ipam::Null,
            internal: false,
            attachable: false,
            ipv6: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            id: None,
            created: None,
        }
    }

    /// Who it is: what is declared in a file has the same id on every start.
    pub fn id(&self) -> Id {
        self.id.clone().unwrap_or_else(|| Id::of(self.name.as_str()))
    }

    /// What makes it.
    pub fn driver(&self) -> Driver {
        let default = if self.vni.is_some() { Driver::Overlay } else { Driver::Bridge };
        self.driver.unwrap_or(default)
    }

    /// The subnet of a family, if it has one.
    pub fn subnet(&self, ipv6: bool) -> Option<&SubnetSpec> {
        self.subnets.iter().find(|it| matches!(it.subnet, IpNet::V6(_)) == ipv6)
    }

    /// Octets of the longest IP packet its ports are given; `overlay`: of the longest that tunnels carry, if there are any.
    pub fn mtu(&self, overlay: Option<u16>) -> u16 {
        let default = overlay.filter(|_| self.vni.is_some()).unwrap_or(Self::DEFAULT_MTU);
        self.mtu.unwrap_or(default)
    }
}

/// What an access port does with a frame that is tagged already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tags {
    /// Drop it: containers do not speak 802.1Q.
    #[default]
    Drop,
    /// Carry it through the network, the tag being its own.
    Pass,
}

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
    /// Addresses learned on this port at most; no limit of its own unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// Frames per second the port may flood.
    pub storm: StormSpec,
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
            mac_limit: None,
            storm: StormSpec::default(),
            offload: true,
        }
    }

    /// The interface that is made for the port, or `None` where an existing one is used.
    pub fn interface(&self) -> Option<&InterfaceSpec> {
        match &self.device {
            DeviceSpec::Tap(interface) | DeviceSpec::Veth(interface) => Some(interface),
            DeviceSpec::Packet { .. } | DeviceSpec::Vxlan(_) | DeviceSpec::Peer(_) => None,
        }
    }

    /// The interface's name where it stands: told, or the port's own.
    pub fn ifname(&self) -> &str {
        match &self.device {
            DeviceSpec::Packet { device } => device,
            DeviceSpec::Vxlan(_) | DeviceSpec::Peer(_) => self.name.as_str(),
            DeviceSpec::Tap(interface) | DeviceSpec::Veth(interface) => {
                interface.ifname.as_deref().unwrap_or(self.name.as_str())
            }
        }
    }
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
    pub fn holds(&self, network: &NetworkSpec) -> bool {
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
}

/// The container's end of a port: where it is and how it is set up.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceSpec {
    /// The namespace it stands in; the daemon's own unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
    /// The interface's name; the port's name unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Its MAC address; chosen by the kernel unless told.
    #[serde(with = "text_option", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its IP addresses with prefix length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpNet>,
    /// The default route's next hops, at most one per address family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
    /// Whether the interface outlives the daemon.
    pub persist: bool,
    /// Of an interface that somebody else moves to where it belongs and sets up; known by its endpoint alone.
    #[serde(skip)]
    pub bare: Option<Bare>,
}

/// An interface that is made in `netns`, down and without addresses, for whoever asked for it to move it away.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Bare {
    /// Where it is moved, as far as that was told.
    pub moved: Option<Netns>,
}

/// A network namespace: a name under /run/netns, a path, or a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Netns {
    /// As `ip netns` names it.
    Name(String),
    /// A file that holds it open: /proc/PID/ns/net, or a bind mount.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
}

impl From<String> for Netns {
    fn from(text: String) -> Self {
        match text.strip_prefix("pid:").map(str::parse) {
            Some(Ok(pid)) => Self::Pid(pid),
            _ if text.contains('/') => Self::Path(text.into()),
            _ => Self::Name(text),
        }
    }
}

impl From<Netns> for String {
    fn from(netns: Netns) -> Self {
        netns.to_string()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

impl Netns {
    /// The file that names the namespace.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Name(name) => PathBuf::from("/run/netns").join(name),
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
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

/// Where the API listens: `[api]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSpec {
    /// The unix socket; the descriptor hand-over of `vswitchctl attach` is beside it, named `….attach`.
    pub socket: PathBuf,
    /// The group that may use the socket besides root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The TCP address of the web page; without one there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web: Option<SocketAddr>,
    /// Where `/metrics` is served for Prometheus; nowhere unless told. Whoever reaches it may read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

impl Default for ApiSpec {
    fn default() -> Self {
        Self { socket: "/run/vswitch/api.sock".into(), group: None, web: None, metrics: None }
    }
}

/// Whether Docker finds us as a plugin: `[docker]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DockerSpec {
    /// Whether the plugin is served.
    pub enabled: bool,
    /// Its unix socket; what the driver is called in Docker is the file's name without `.sock`.
    pub socket: PathBuf,
}

impl Default for DockerSpec {
    fn default() -> Self {
        Self { enabled: false, socket: "/run/docker/plugins/vswitch.sock".into() }
    }
}

/// Everything `net.toml` declares.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[switch]`
    pub switch: SwitchSpec,
    /// `[api]`
    pub api: ApiSpec,
    /// `[docker]`
    pub docker: DockerSpec,
    /// `[ipam]`
    pub ipam: PoolsSpec,
    /// `[[network]]`
    #[serde(rename = "network")]
    pub networks: Vec<NetworkSpec>,
    /// `[[port]]`
    #[serde(rename = "port")]
    pub ports: Vec<PortSpec>,
}

/// Optional values that are written as text: through `Display` and `FromStr`.
pub(crate) mod text_option {
    use super::{Deserialize, FromStr, fmt};
    use serde::{Deserializer, Serializer, de::Error};

    pub(crate) trait Text: Sized {
        fn from_value(value: Value) -> Result<Self, String>;
    }

    /// A number for VLAN ids, a string for addresses.
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "neither a whole number nor text")]
    pub(crate) enum Value {
        Number(i64),
        Text(String),
    }

    impl Text for super::MacAddr {
        fn from_value(value: Value) -> Result<Self, String> {
            match value {
                Value::Text(text) => Self::from_str(&text).map_err(|error| error.to_string()),
                Value::Number(number) => Err(format!("{number} is not a MAC address")),
            }
        }
    }

    impl Text for super::VlanId {
        fn from_value(value: Value) -> Result<Self, String> {
            match value {
                Value::Number(number) => match u16::try_from(number) {
                    Ok(number) => Self::try_from(number).map_err(|error| error.to_string()),
                    Err(_) => Err(format!("{number} is not a VLAN id: write a number, 1 to 4094")),
                },
                Value::Text(text) => Err(format!("{text:?} is not a VLAN id: write a number, 1 to 4094")),
            }
        }
    }

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(
        value: &Option<T>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match value.as_ref().map(ToString::to_string) {
            None => s.serialize_none(),
            Some(text) => match text.parse::<u16>() {
                Ok(number) => s.serialize_u16(number),
                Err(_) => s.serialize_str(&text),
            },
        }
    }

    pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
        let value: Option<Value> = Option::deserialize(d)?;
        value.map(T::from_value).transpose().map_err(D::Error::custom)
    }
}
