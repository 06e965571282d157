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

/// An endpoint as it is stored. What is chosen for it is chosen once, on connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// Its id.
    pub id: Id,
    /// The network it is in.
    pub network: Name,
    /// Its name, unique in the network.
    pub name: Name,
    /// The namespace of its interface. Without one the interface is created bare in the daemon's own, for the caller to move
    /// and set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Netns>,
    /// Where a bare interface was moved, as far as the caller has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Netns>,
    /// Identity of that namespace on connect: another one of the same name is another sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The container's id, if there is a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Further names of it in the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The service it is a task of, as its engine says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Whether its engine says that it does not serve at the moment: its health check has not passed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unready: bool,
    /// Its interface's name.
    pub ifname: IfName,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses with the prefix lengths of their subnets, at most one of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Additional link-local addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpNet>,
    /// Next hops its sandbox may use; the oldest endpoint of a sandbox that has one for a family is its default route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Options of the driver.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options<EndpointOptions>,
    /// Its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// Its port of the switch.
    pub port: Name,
    /// Time of connect.
    pub created: Timestamp,
    /// The [digest](DeclaredEndpoint::digest) of its declaration, if the file declares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
}

impl EndpointSpec {
    /// The address of a family, if it has one.
    pub fn address(&self, family: Family) -> Option<IpNet> {
        self.addresses.iter().copied().find(|net| Family::of(*net) == family)
    }
}

/// A request to connect a sandbox to a network; what is not given is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connect {
    /// The namespace: a name, a path, or `pid:N`. Without one the interface is created bare, in the daemon's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Netns>,
    /// The endpoint's id; by default random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The endpoint's name; by default that of its sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The container's id, if there is a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip6: Option<std::net::Ipv6Addr>,
    /// Its MAC address; by default derived from its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its interface's name; by default the first free `ethN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<IfName>,
    /// Additional link-local addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<IpAddr>,
    /// Further names of it in the network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Options of the driver.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Ports to publish.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// The digest of the declaration that it is made for, if the file declares it.
    #[serde(skip)]
    pub declared: Option<String>,
}

/// An endpoint that the file declares: `[[endpoint]]`. It is connected whenever its namespace is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredEndpoint {
    /// The network it is in.
    pub network: Name,
    /// Its name, unique in the network.
    pub name: Name,
    /// What is asked for.
    pub connect: Connect,
}

impl DeclaredEndpoint {
    /// Tells this declaration from any other, a changed one of the same endpoint included.
    pub fn digest(&self) -> String {
        let text = serde_json::to_string(self).expect("names, addresses and texts can be written");
        Id::of(&text).short().to_owned()
    }

    /// Whether it asks for `address`.
    pub fn has(&self, address: IpAddr) -> bool {
        let Connect { ip, ip6, .. } = self.connect;
        ip.map(IpAddr::V4) == Some(address) || ip6.map(IpAddr::V6) == Some(address)
    }

    /// The request to connect it.
    pub fn request(&self) -> Connect {
        let (name, declared) = (Some(self.name.clone()), Some(self.digest()));
        Connect { name, declared, ..self.connect.clone() }
    }
}
