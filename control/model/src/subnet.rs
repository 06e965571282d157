//! Subnets of networks, and where they come from.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Family;

/// Where subnets come from if none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipam {
    /// Nowhere: without subnets the network is a plain segment.
    #[default]
    Null,
    /// The default pools.
    Default,
}

impl Ipam {
    pub(crate) fn is_null(&self) -> bool {
        *self == Self::Null
    }
}

/// A subnet of a network: `[[network.subnet]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetSpec {
    /// All its addresses.
    pub subnet: IpNet,
    /// The range to allocate from; by default the whole subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    /// The host's own address, and the next hop of the containers unless [another](Self::next_hop) is named; by default the first
    /// free address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Reserved addresses by name; they are never allocated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux: BTreeMap<String, IpAddr>,
}

impl SubnetSpec {
    /// Its address family.
    pub fn family(&self) -> Family {
        Family::of(self.subnet)
    }

    /// The next hop of the containers: the gateway, or as with Docker the auxiliary address `DefaultGatewayIPv4` or
    /// `DefaultGatewayIPv6`.
    pub fn next_hop(&self) -> Option<IpAddr> {
        let key = match self.family() {
            Family::V4 => "DefaultGatewayIPv4",
            Family::V6 => "DefaultGatewayIPv6",
        };
        self.aux.get(key).copied().or(self.gateway)
    }
}

impl From<IpNet> for SubnetSpec {
    fn from(subnet: IpNet) -> Self {
        Self { subnet, ip_range: None, gateway: None, aux: BTreeMap::new() }
    }
}

/// Default address pools: `[ipam]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolsSpec {
    /// For networks of this host.
    pub local: Vec<PoolSpec>,
    /// For overlay networks.
    pub overlay: Vec<PoolSpec>,
    /// For IPv6; by default a unique local prefix of this host (RFC 4193).
    pub ipv6: Vec<PoolSpec>,
}

/// Subnets of one size out of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// Where they are taken from.
    pub base: IpNet,
    /// The prefix length of each.
    pub size: u8,
}

impl Default for PoolsSpec {
    /// Docker's.
    fn default() -> Self {
        let pool = |base: [u8; 4], len, size| PoolSpec { base: IpNet::new_assert(base.into(), len), size };
        Self {
            local: vec![
                pool([172, 17, 0, 0], 16, 16),
                pool([172, 18, 0, 0], 16, 16),
                pool([172, 19, 0, 0], 16, 16),
                pool([172, 20, 0, 0], 14, 16),
                pool([172, 24, 0, 0], 14, 16),
                pool([172, 28, 0, 0], 14, 16),
                pool([192, 168, 0, 0], 16, 20),
            ],
            overlay: vec![pool([10, 0, 0, 0], 8, 24)],
            ipv6: Vec::new(),
        }
    }
}
