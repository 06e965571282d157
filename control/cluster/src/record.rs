//! What the keys say: JSON, so that `etcdctl get --prefix /vswitch/` explains a cluster.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vswitch::addr::MacAddr;
use vswitch_model::{Id, Name, NetworkSpec, PoolSpec, ServiceSpec};

use crate::keys::Key;

/// The format of keys and values that this version reads and writes.
pub const FORMAT: u32 = 1;

/// The cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// See [`FORMAT`]. A host of another format does not join.
    pub format: u32,
    /// Identity of the cluster.
    pub id: Id,
    /// Counts restores from a backup: hosts then put again what they have. The first host that notices one counts it.
    #[serde(default)]
    pub restored: u32,
}

/// Where global networks get their subnets from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pools {
    /// For IPv4.
    pub overlay: Vec<PoolSpec>,
    /// For IPv6.
    pub ipv6: Vec<PoolSpec>,
}

/// Whether a host gets work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It does.
    #[default]
    Active,
    /// Its endpoints leave services and names while others are left.
    Drain,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Identity of this membership: a host that was removed and joins again has another.
    pub id: Id,
    /// Where its tunnel is.
    pub address: IpAddr,
    /// The UDP port of its tunnel.
    pub port: u16,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Whether it keeps a member of the store and signs certificates.
    #[serde(default)]
    pub manager: bool,
    /// Whether it gets work.
    #[serde(default)]
    pub availability: Availability,
    /// Labels of its owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The restore of the store, as [`Meta`] counts them, after which it has put again what it holds.
    #[serde(default)]
    pub restored: u32,
}

/// The present run of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Differs from run to run.
    pub run: String,
}

/// A removed host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The membership that has ended.
    pub node: Option<Id>,
}

/// A range of a network's addresses that one host assigns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The host.
    pub host: Name,
    /// The range.
    pub range: IpNet,
}

/// An endpoint of a global network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: Id,
    /// Its host.
    pub host: Name,
    /// Its name.
    pub name: Name,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its IP addresses.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Further names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The service it is a task of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The services that it serves, and whether it passes their checks: its host alone can try.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub serves: BTreeMap<Name, bool>,
    /// Whether it does not serve at the moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unready: bool,
    /// Counts moves of the MAC address from host to host: the greatest is right.
    #[serde(default)]
    pub seq: u32,
    /// When it was connected, by the clock of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Of `meta`.
    Meta(Meta),
    /// Of `pools`.
    Pools(Pools),
    /// Of `node/..`.
    Node(Arc<Node>),
    /// Of `alive/..`.
    Alive(Alive),
    /// Of `gone/..`.
    Gone(Gone),
    /// Of `net/..`.
    Network(Arc<NetworkSpec>),
    /// Of `netname/..`, `vni/..` and `svcname/..`: the network's id.
    Taken(Id),
    /// Of `svc/..`.
    Service(Arc<ServiceSpec>),
    /// Of `vip/..` and `port/..`: the service that has it.
    Held(Name),
    /// Of `block/..`.
    Block(Block),
    /// Of `ep/..`.
    Endpoint(Arc<Endpoint>),
}

impl Record {
    /// Reads the value of `key`.
    ///
    /// # Errors
    /// It is not what belongs there.
    pub fn read(key: &Key, value: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(match key {
            Key::Meta => Self::Meta(serde_json::from_slice(value)?),
            Key::Pools => Self::Pools(serde_json::from_slice(value)?),
            Key::Node(_) => Self::Node(serde_json::from_slice::<Node>(value)?.into()),
            Key::Alive(_) => Self::Alive(serde_json::from_slice(value)?),
            Key::Gone(_) => Self::Gone(serde_json::from_slice(value)?),
            Key::Network(_) => Self::Network(serde_json::from_slice::<NetworkSpec>(value)?.into()),
            Key::NetworkName(_) | Key::Vni(_) | Key::ServiceName(_) => {
                Self::Taken(serde_json::from_slice(value)?)
            }
            Key::Service(..) => Self::Service(serde_json::from_slice::<ServiceSpec>(value)?.into()),
            Key::Vip(..) | Key::Port(..) => Self::Held(serde_json::from_slice(value)?),
            Key::Block(..) => Self::Block(serde_json::from_slice(value)?),
            Key::Endpoint(..) => Self::Endpoint(serde_json::from_slice::<Endpoint>(value)?.into()),
        })
    }

    /// The value as it is stored.
    pub fn write(&self) -> Vec<u8> {
        let written = match self {
            Self::Meta(it) => serde_json::to_vec(it),
            Self::Pools(it) => serde_json::to_vec(it),
            Self::Node(it) => serde_json::to_vec(&**it),
            Self::Alive(it) => serde_json::to_vec(it),
            Self::Gone(it) => serde_json::to_vec(it),
            Self::Network(it) => serde_json::to_vec(&**it),
            Self::Taken(it) => serde_json::to_vec(it),
            Self::Service(it) => serde_json::to_vec(&**it),
            Self::Held(it) => serde_json::to_vec(it),
            Self::Block(it) => serde_json::to_vec(it),
            Self::Endpoint(it) => serde_json::to_vec(&**it),
        };
        written.expect("records have text keys only")
    }

    /// The host that alone writes it, if there is one.
    pub fn owner(&self) -> Option<&Name> {
        match self {
            Self::Block(block) => Some(&block.host),
            Self::Endpoint(endpoint) => Some(&endpoint.host),
            _ => None,
        }
    }
}
