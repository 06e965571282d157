//! Types of the protocol, as Go serialises them. Unused fields are left out; `null` counts as absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Options, with values of many types.
pub(super) type Options = BTreeMap<String, Value>;

/// Key of the driver's options, those of `docker network create -o`.
pub(super) const GENERIC: &str = "com.docker.network.generic";
pub(super) const INTERNAL: &str = "com.docker.network.internal";
pub(super) const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
pub(super) const PORT_MAP: &str = "com.docker.network.portmap";
pub(super) const GATEWAY: &str = "com.docker.network.gateway";
pub(super) const REQUEST_TYPE: &str = "RequestAddressType";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) options: Options,
    #[serde(default, rename = "IPv4Data", deserialize_with = "nullable")]
    pub(super) ipv4: Vec<IpamData>,
    #[serde(default, rename = "IPv6Data", deserialize_with = "nullable")]
    pub(super) ipv6: Vec<IpamData>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub(super) struct IpamData {
    #[serde(deserialize_with = "nullable")]
    pub(super) pool: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) gateway: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) aux_addresses: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct OfNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
}

/// Requests that name an endpoint: `CreateEndpoint`, `Join`, `Leave` and others.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) interface: Interface,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) sandbox_key: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) options: Options,
}

/// An endpoint's addresses. An answer may only contain those that the request left empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    #[serde(deserialize_with = "nullable")]
    pub(super) address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "nullable")]
    pub(super) address_ipv6: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) mac_address: String,
}

/// A port to publish: an element of [`PORT_MAP`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub(super) struct PortBinding {
    /// The protocol number of an IP header.
    pub(super) proto: u8,
    pub(super) port: u16,
    #[serde(rename = "HostIP", deserialize_with = "nullable")]
    pub(super) host_ip: String,
    pub(super) host_port: u16,
    pub(super) host_port_end: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub(super) struct RequestPool {
    #[serde(deserialize_with = "nullable")]
    pub(super) address_space: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) pool: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) sub_pool: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Options,
    pub(super) v6: bool,
}

/// Requests `RequestAddress`, `ReleaseAddress` and `ReleasePool`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfPool {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) address: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) options: Options,
}

/// Reads a missing or `null` value as empty.
fn nullable<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// An option as text, whatever its type.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether an option is true, as a boolean or as text.
pub(super) fn flag(options: &Options, key: &str) -> bool {
    options.get(key).is_some_and(|value| text(value) == "true")
}
