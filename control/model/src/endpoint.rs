//! An endpoint: a sandbox's interface in one network.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vswitch::addr::MacAddr;

use super::{Family, Id, IfName, Name, Netns};
use crate::{
    Identity,
    options::{EndpointOptions, Options},
    publish::{Publish, Published},
};

/// An endpoint as it is kept: everything that is chosen for it is chosen once and stays its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// Who it is.
    pub id: Id,
    /// The network it is in.
    pub network: Name,
    /// What it is called there; unique in the network.
    pub name: Name,
    /// The namespace its interface stands in. Without one it is made in the daemon's own, bare, for whoever asked to move
    /// it where it belongs and set it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Netns>,
    /// Where an interface that was made bare is moved, as far as whoever asked for it has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Netns>,
    /// Which namespace that was when it was connected: another one of the same name is another sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The container's id, where there is a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Further names by which others in the network find it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Its interface's name.
    pub ifname: IfName,
    /// Its MAC address.
    #[serde(with = "crate::api::text")]
    pub mac: MacAddr,
    /// Its addresses with the prefix lengths of their subnets, at most one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Link-local addresses it has besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpNet>,
    /// Next hops its sandbox may use; the oldest endpoint of a sandbox that has one for a family is its default route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// What the driver was told.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options<EndpointOptions>,
    /// Its ports that the outside reaches through the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// The switch's port that is made of it.
    pub port: Name,
    /// When it was connected.
    pub created: Timestamp,
}

impl EndpointSpec {
    /// The address of a family, if it has one.
    pub fn address(&self, family: Family) -> Option<IpNet> {
        self.addresses.iter().copied().find(|net| Family::of(*net) == family)
    }
}

/// What is asked for when a sandbox is connected to a network; what is not told is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connect {
    /// The namespace: a name, a path, or `pid:N`. Without one the interface is made bare, in the daemon's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Netns>,
    /// Who the endpoint shall be; chosen at random unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// What the endpoint is called; after its sandbox unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The container's id, where there is a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6: Option<std::net::Ipv6Addr>,
    /// Its MAC address; after its IPv4 address unless told.
    #[serde(with = "super::text_option", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its interface's name; the first free `ethN` unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<IfName>,
    /// Link-local addresses it shall have besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// Further names by which others in the network find it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// For the driver.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Ports that the outside shall reach through the host's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
}
