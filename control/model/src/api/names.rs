//! Names on the wire.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Name;

/// Which names: all, those of a network, or those that a look-up finds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NamesFilter {
    /// Of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub network: Option<Name>,
    /// Words, each a part of the name, of its network, or of an address: all of them must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// So many at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// What a client asks for: `db`, `db.blue`, or an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address of the client that asks; by default this host, which sees all networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub from: Option<IpAddr>,
}

/// A name, and what has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NameEntry {
    /// The name in its network.
    pub name: String,
    /// The network.
    pub network: String,
    /// The name as every client of the network may write it.
    pub full: String,
    /// The addresses that are answered.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Whether it is that of a service, whose members come and go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service: bool,
}

/// A name that was given by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticName {
    /// The network.
    #[schema(value_type = String)]
    pub network: Name,
    /// The name in it.
    #[schema(value_type = String)]
    pub name: Name,
    /// What it means. They need not be of the network.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
}

/// The DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsStatus {
    /// Whether names are served.
    pub enabled: bool,
    /// The address of this host at which every container finds it.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The zone of all names.
    pub domain: String,
    /// The servers that are asked for other names.
    #[schema(value_type = Vec<String>)]
    pub upstream: Vec<SocketAddr>,
}
