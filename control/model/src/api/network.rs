//! Networks and endpoints on the wire.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PortState;
use crate::{EndpointSpec, GuardSpec, Id, Name, NetworkSpec, Scope};

/// A network, with what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Its specification, with defaults filled in.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub spec: NetworkSpec,
    /// How far it reaches.
    #[schema(value_type = String)]
    pub scope: Scope,
    /// Whether the configuration file declares it, or it was there from the start; else it came through the API.
    pub declared: bool,
    /// The ports that carry it, by name.
    #[schema(value_type = Vec<String>)]
    pub ports: Vec<Name>,
    /// Addresses in its part of the MAC table.
    pub macs: u32,
    /// The sandboxes' interfaces in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// How much of each subnet is in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<SubnetUsage>,
    /// Warnings from its creation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Network {
    /// Its id.
    pub fn id(&self) -> Id {
        self.spec.id()
    }
}

/// Use of a subnet in numbers of addresses, saturating at 64 bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubnetUsage {
    /// The subnet.
    #[schema(value_type = String)]
    pub subnet: IpNet,
    /// Addresses in use or reserved.
    pub used: u64,
    /// Free addresses.
    pub available: u64,
}

/// A sandbox's interface in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Its specification; what was not given was chosen on connect.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub spec: EndpointSpec,
    /// The network's id.
    #[schema(value_type = String)]
    pub network_id: Id,
    /// Whether its port carries frames.
    pub state: PortState,
    /// Its guard, if it has one: `true`, or `{"also": ["10.9.0.100"]}`.
    #[serde(default, deserialize_with = "crate::guard::written", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub guard: Option<GuardSpec>,
    /// Why not, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Servers that answer it for the names of its networks, if names are served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub nameservers: Vec<IpAddr>,
}

/// Which unused networks to remove: those that match all of this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prune {
    /// With these labels, each `KEY` or `KEY=VALUE`.
    pub labels: Vec<String>,
    /// Without these labels.
    pub not_labels: Vec<String>,
    /// Made before this moment.
    #[schema(value_type = Option<String>)]
    pub until: Option<Timestamp>,
}

impl Prune {
    /// Whether a network matches.
    pub fn wants(&self, spec: &NetworkSpec) -> bool {
        let has = |label: &String| has_label(spec, label);
        self.labels.iter().all(has)
            && !self.not_labels.iter().any(has)
            && self.until.is_none_or(|until| spec.created.is_some_and(|created| created < until))
    }
}

/// Whether a network has a label, as a filter writes it: `KEY` or `KEY=VALUE`.
pub fn has_label(spec: &NetworkSpec, filter: &str) -> bool {
    match filter.split_once('=') {
        None => spec.labels.contains_key(filter),
        Some((key, value)) => spec.labels.get(key).is_some_and(|own| own == value),
    }
}

/// The networks that were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// By name.
    #[schema(value_type = Vec<String>)]
    pub networks: Vec<Name>,
}
