//! An endpoint: a sandbox's interface in one network.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vswitch::addr::MacAddr;

use super::{Id, Name, Netns};
use crate::netns::Identity;

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
    pub ifname: String,
    /// Its MAC address.
    #[serde(with = "crate::api::types::text")]
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
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Its ports that the outside reaches through the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Publish>,
    /// The switch's port that is made of it.
    pub port: Name,
    /// When it was connected.
    pub created: Timestamp,
}

impl EndpointSpec {
    /// The address of a family, if it has one.
    pub fn address(&self, ipv6: bool) -> Option<IpNet> {
        self.addresses.iter().copied().find(|net| net.addr().is_ipv6() == ipv6)
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
    pub ifname: Option<String>,
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

/// A transport protocol whose ports can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A port of the host that leads to one of an endpoint: `[ip:]host:container[/tcp|udp|sctp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The host's address; all of them unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The host's port; a free one is chosen for 0.
    #[serde(default)]
    pub host_port: u16,
    /// The endpoint's port.
    pub port: u16,
    /// Of which protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!("invalid publish {text:?}: {what}: write [ADDRESS:][HOST PORT:]PORT[/tcp|udp|sctp]")
        };
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((ports, "sctp")) => (ports, Protocol::Sctp),
            Some((_, other)) => return Err(wrong(&format!("{other:?} is no protocol"))),
        };
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong(&format!("{text:?} is no port")));
        let (before, port) = ports.rsplit_once(':').unwrap_or(("", ports));
        let port = number(port)?;
        if port == 0 {
            return Err(wrong("a container's port is 1 to 65535"));
        }
        let (address, host_port) = match before.rsplit_once(':') {
            _ if before.is_empty() => (None, ""),
            None => (None, before),
            // An IPv6 address stands in brackets, as it has colons of its own.
            Some((address, host_port)) => (Some(address), host_port),
        };
        let address = match address.map(|text| text.trim_start_matches('[').trim_end_matches(']')) {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| wrong(&format!("{text:?} is no IP address")))?),
        };
        let host_port = if host_port.is_empty() { 0 } else { number(host_port)? };
        Ok(Self { address, host_port, port, protocol })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => {}
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
        }
        write!(f, "{}:{}/{}", self.host_port, self.port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports_as_docker_writes_them() {
        for (text, shown) in [
            ("8080:80", "8080:80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("53:53/udp", "53:53/udp"),
            ("[::1]:9000:90/sctp", "[::1]:9000:90/sctp"),
            ("80", "0:80/tcp"),
            (":80", "0:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1:0:80/tcp"),
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), shown, "{text}");
        }
        for (text, part) in [
            ("", "is no port"),
            ("x:80", "\"x\" is no port"),
            ("8080:0", "1 to 65535"),
            ("80:80/icmp", "is no protocol"),
            ("1.2.3:80:80", "is no IP address"),
            ("70000:80", "is no port"),
        ] {
            let error = text.parse::<Publish>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
