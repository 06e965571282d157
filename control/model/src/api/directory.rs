//! What a control plane knows of a network: the hosts that are in it, and the stations they have.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vswitch::addr::MacAddr;

/// Stations that a network's directory holds at most.
pub const MOST_STATIONS: usize = 1 << 20;

/// IP addresses of a station at most.
pub const MOST_ADDRESSES: usize = 64;

/// The directory of a network: its stations on other hosts.
///
/// Frames to a station are sent to its host, and only there; questions for its addresses are answered here. What is not in the
/// directory is flooded and learned as ever. It is not stored: who gives it, gives it again after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// The tunnel addresses of the hosts that are in the network: what is flooded goes to these peers and no others. Absent: to
    /// all peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub hosts: Option<BTreeSet<IpAddr>>,
    /// The stations on other hosts.
    #[serde(default)]
    pub stations: Vec<Station>,
}

/// A station on another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Its MAC address, by which it is known.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// Its IP addresses, of both families.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The tunnel address of its host.
    #[schema(value_type = String)]
    pub host: IpAddr,
    /// The number of its latest move. Of two records of a MAC or an IP address the higher number wins.
    #[serde(default)]
    pub sequence: u64,
}

/// Changes of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectoryUpdate {
    /// The hosts that are in the network from now on; absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub hosts: Option<BTreeSet<IpAddr>>,
    /// Stations that are new, or have moved or changed. A record with a lower number than the known one is late, and ignored.
    #[serde(default)]
    pub set: Vec<Station>,
    /// Stations that are gone.
    #[serde(default)]
    pub withdraw: Vec<Withdrawal>,
}

/// A station that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    /// Its MAC address.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// The number that it had; if the known one is higher it has moved since, and stays.
    #[serde(default = "any")]
    pub sequence: u64,
}

/// Whatever its number is.
fn any() -> u64 {
    u64::MAX
}
