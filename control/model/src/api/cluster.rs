//! A cluster on the wire.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vswitch::addr::MacAddr;

use crate::{Id, Name};

/// The cluster as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its id.
    #[schema(value_type = String)]
    pub id: Id,
    /// This host's name in it.
    #[schema(value_type = String)]
    pub host: Name,
    /// Why this host is no longer a member of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<String>,
    /// The store.
    pub store: Store,
    /// The hosts, by name; this one as well.
    pub hosts: Vec<Host>,
    /// Number of global networks.
    pub networks: u32,
    /// Number of endpoints in them, on all hosts.
    pub endpoints: u32,
    /// What does not work: a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
}

/// The store of a cluster, and this host's copy of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Store {
    /// Where it is.
    pub members: Vec<String>,
    /// Whether this host runs a member of it.
    pub kept_here: bool,
    /// Whether the copy follows it.
    pub up: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds since its last sign.
    pub contact_ms: u64,
    /// The revision of the copy.
    pub revision: i64,
    /// Number of keys in the copy.
    pub keys: u64,
    /// Audits that found the copy right.
    pub audits: u64,
    /// Audits that found a difference, which was mended.
    pub differences: u64,
}

/// A host of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Identity of its membership.
    #[schema(value_type = String)]
    pub id: Id,
    /// Where its tunnel is.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The UDP port of its tunnel.
    pub port: u16,
    /// `ready`, `suspect`, `down`, or `drained`.
    pub status: String,
    /// `active` or `drain`.
    pub availability: String,
    /// Whether it lets new hosts in.
    pub manager: bool,
    /// Whether it is the one that tells.
    pub this: bool,
    /// Its version.
    pub version: String,
    /// Number of its endpoints in global networks.
    pub endpoints: u32,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A request to begin a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Init {
    /// The address of this host by which the others reach it.
    #[schema(value_type = Option<String>)]
    pub advertise: Option<IpAddr>,
    /// This host's name in the cluster; by default `switch.name`.
    #[schema(value_type = Option<String>)]
    pub name: Option<Name>,
    /// A store that is there already; by default this host starts one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Given>,
}

/// A store that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    /// Its members: `https://10.8.0.1:2379`.
    pub members: Vec<String>,
    /// Absolute path of the certificate of the authority that signed its own.
    pub cacert: Option<String>,
    /// Absolute path of this host's certificate.
    pub cert: Option<String>,
    /// Absolute path of its key.
    pub key: Option<String>,
    /// Where the keys are; by default `/vswitch/v1/`.
    pub prefix: Option<String>,
}

/// A request to join a cluster: by a token at a manager, or by a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Join {
    /// The address of a manager, with or without a port.
    pub manager: Option<String>,
    /// The join token.
    pub token: Option<String>,
    /// The address of this host by which the others reach it; by default the one that the manager is reached from.
    #[schema(value_type = Option<String>)]
    pub advertise: Option<IpAddr>,
    /// This host's name in the cluster; by default `switch.name`.
    #[schema(value_type = Option<String>)]
    pub name: Option<Name>,
    /// The store to join by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Given>,
}

/// How a host joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// The token, if this host lets new hosts in.
    pub token: Option<String>,
    /// The command line.
    pub command: String,
}

/// A request to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Leave {
    /// Also with endpoints in global networks, and without telling the store.
    pub force: bool,
}

/// A change of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostUpdate {
    /// `active` or `drain`.
    pub availability: Option<String>,
    /// Labels to set; those without a value are removed.
    pub labels: BTreeMap<String, Option<String>>,
}

/// What a cluster's store has: enough to bring an emptied one back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// The cluster.
    #[schema(value_type = String)]
    pub cluster: Id,
    /// The revision.
    pub revision: i64,
    /// The keys, without their prefix, and their values.
    pub entries: BTreeMap<String, serde_json::Value>,
}

/// A request to put back what the store has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Absolute path of a file with a [`Backup`].
    pub file: String,
}

/// What was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// Number of keys that the store lacked.
    pub keys: u32,
}

/// An endpoint of a global network, on any host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacedEndpoint {
    /// Its id.
    #[schema(value_type = String)]
    pub id: Id,
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Its network.
    #[schema(value_type = String)]
    pub network: Name,
    /// Its host.
    #[schema(value_type = String)]
    pub host: Name,
    /// Its MAC address.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// Its IP addresses.
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpAddr>,
    /// The revision since which the directory has it there.
    pub revision: i64,
    /// When it was connected, by the clock of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub since: Option<Timestamp>,
}
