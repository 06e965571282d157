//! The DNS server: `[dns]`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The DNS server: `[dns]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsSpec {
    /// Whether names are served.
    pub enabled: bool,
    /// The address of this host at which every container finds it, whatever its network.
    pub address: IpAddr,
    /// The zone of all names.
    pub domain: String,
    /// Servers for other names; by default those of /etc/resolv.conf.
    pub upstream: Vec<DnsServer>,
    /// How long an answer may be kept, in seconds.
    pub ttl: u32,
    /// Resolvers that may ask for the names of all networks.
    pub allow: Vec<IpNet>,
}

impl Default for DnsSpec {
    fn default() -> Self {
        Self {
            enabled: false,
            address: IpAddr::V4(Ipv4Addr::new(169, 254, 53, 53)),
            domain: "vswitch.internal".into(),
            upstream: Vec::new(),
            ttl: 5,
            allow: Vec::new(),
        }
    }
}

/// A DNS server: an address, or an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsServer(pub SocketAddr);

/// Text that is not a [`DnsServer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the address of a server: write it like \"192.0.2.1\", \"192.0.2.1:5353\" or \"[2001:db8::1]:53\""
)]
pub struct InvalidDnsServer(String);

impl FromStr for DnsServer {
    type Err = InvalidDnsServer;

    fn from_str(text: &str) -> Result<Self, InvalidDnsServer> {
        let alone = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
        let server = text.parse().or_else(|_| alone()).map_err(|_| InvalidDnsServer(text.into()))?;
        Ok(Self(server))
    }
}

impl TryFrom<String> for DnsServer {
    type Error = InvalidDnsServer;

    fn try_from(text: String) -> Result<Self, InvalidDnsServer> {
        text.parse()
    }
}

impl From<DnsServer> for String {
    fn from(server: DnsServer) -> Self {
        server.to_string()
    }
}

impl fmt::Display for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
