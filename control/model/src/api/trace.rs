//! Hypothetical frames, and what is known of an address.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vswitch::addr::MacAddr;

use super::{Drop, FdbEntry};
use crate::Name;

/// A hypothetical frame to be traced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The port it is received on.
    #[schema(value_type = String)]
    pub port: Name,
    /// Its network; for peers, whose frames carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub network: Option<Name>,
    /// The frame.
    pub frame: Supposed,
}

/// The frame of a trace: `{"text": "arp who-has 10.9.0.1"}` or `{"hex": "ffffffffffff0242…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Supposed {
    /// As text.
    Text(String),
    /// Byte by byte, from the destination address on.
    Hex(String),
}

/// What would become of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trace {
    /// The port it would come in by.
    #[schema(value_type = String)]
    pub port: Name,
    /// What it is, in a line.
    pub summary: String,
    /// The frame, byte by byte.
    pub hex: String,
    /// What would be decided, in order.
    pub steps: Vec<Step>,
    /// The outcome.
    pub verdict: Verdict,
    /// Where it would leave.
    pub exits: Vec<Leaving>,
    /// By which mirrors a copy of it would leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Leaving>,
}

/// One step of the decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// `parse`, `classify`, `learn`, `look up`, `answer`, `reach`, `storm`; and `way`: who forwards it, the kernel or the switch.
    pub step: String,
    /// Its result.
    pub outcome: String,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "fate", rename_all = "lowercase")]
pub enum Verdict {
    /// It is sent to the port its destination is behind.
    Unicast,
    /// It is sent to every port that it may reach.
    Flooded,
    /// It asks for the address of a neighbour that the network's directory knows, and is answered.
    Answered {
        /// The neighbour's MAC address.
        mac: String,
    },
    /// It is not delivered.
    Dropped {
        /// Why not.
        reason: String,
        /// What that means and what to do about it.
        hint: String,
    },
}

/// How a frame would leave by a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leaving {
    /// The port.
    #[schema(value_type = String)]
    pub port: Name,
    /// What would be done to it on the way out: tag, tunnel, cutting.
    pub outcome: String,
    /// Why it would not leave after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
}

/// The address in question: MAC or IP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhyFilter {
    /// The MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub mac: Option<MacAddr>,
    /// The IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub ip: Option<IpAddr>,
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The ports that are declared to have it.
    pub declared: Vec<Declared>,
    /// Where the MAC table knows it. Of an IP address: its ports' MAC addresses.
    pub entries: Vec<FdbEntry>,
    /// Why frames died at the ports that have it or are declared to.
    pub drops: Vec<Drop>,
    /// What that means.
    pub findings: Vec<String>,
}

/// A port that is declared to have an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Declared {
    /// The port.
    #[schema(value_type = String)]
    pub port: Name,
    /// Its network.
    #[schema(value_type = Option<String>)]
    pub network: Option<Name>,
    /// Its MAC address, if one is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its IP addresses with prefix length.
    pub addresses: Vec<String>,
    /// Whether it carries frames.
    pub up: bool,
}
