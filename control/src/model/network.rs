//! Docker's side of a network: who it is, which subnets it has, what drives it.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Who a network or an endpoint is, whatever it is called: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// Text that is no [`Id`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id: an id has 64 hexadecimal digits, in small letters")]
pub struct InvalidId(pub String);

impl Id {
    /// Digits that tell ids apart in practice, as Docker prints them.
    const SHORT: usize = 12;

    /// One that nobody had before.
    ///
    /// # Errors
    /// The kernel has no random numbers for us.
    pub fn random() -> std::io::Result<Self> {
        let mut octets = [0; 32];
        let mut filled = 0;
        while filled < octets.len() {
            filled += rustix::rand::getrandom(&mut octets[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self(hexadecimal(&octets)))
    }

    /// The same for the same text, always and everywhere.
    pub fn of(text: &str) -> Self {
        Self(hexadecimal(&Sha256::digest(text)))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits.
    pub fn short(&self) -> &str {
        &self.0[..Self::SHORT]
    }
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let legal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 64 && text.bytes().all(legal) { Ok(Self(text)) } else { Err(InvalidId(text)) }
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.to_owned().try_into()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How somebody calls a network or an endpoint: by name, by id, or by the first digits of its id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference(String);

/// Text that can be neither a name nor an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a name nor an id: use 1 to 64 letters, digits, '.', '_' or '-'")]
pub struct InvalidReference(pub String);

impl Reference {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= 64 && text.bytes().all(legal) {
            Ok(Self(text))
        } else {
            Err(InvalidReference(text))
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        text.to_owned().try_into()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.0
    }
}

impl From<super::Name> for Reference {
    fn from(name: super::Name) -> Self {
        Self(name.into())
    }
}

impl From<Id> for Reference {
    fn from(id: Id) -> Self {
        Self(id.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What makes a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// It stays on this host.
    Bridge,
    /// Tunnels carry it to all peers.
    Overlay,
    /// A segment of the LAN: containers stand on it with their own MAC addresses.
    Uplink,
    /// The host's own network; predefined.
    Host,
    /// No network at all; predefined.
    Null,
}

impl Driver {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Overlay => "overlay",
            Self::Uplink => "uplink",
            Self::Host => "host",
            Self::Null => "null",
        }
    }

    /// How far it reaches.
    pub fn scope(self) -> Scope {
        match self {
            Self::Overlay => Scope::Global,
            _ => Scope::Local,
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that names no driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not find plugin {0} in v1 plugin registry: use bridge, overlay or uplink")]
pub struct InvalidDriver(pub String);

impl FromStr for Driver {
    type Err = InvalidDriver;

    fn from_str(text: &str) -> Result<Self, InvalidDriver> {
        match text {
            "bridge" => Ok(Self::Bridge),
            "overlay" => Ok(Self::Overlay),
            // What Docker's users know it by.
            "uplink" | "macvlan" => Ok(Self::Uplink),
            "host" => Ok(Self::Host),
            "null" | "none" => Ok(Self::Null),
            other => Err(InvalidDriver(other.into())),
        }
    }
}

/// How far a network reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This host.
    Local,
    /// All hosts that tunnels lead to.
    Global,
}

impl Scope {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            // Docker's word for what reaches all hosts of its cluster.
            "global" | "swarm" => Ok(Self::Global),
            other => Err(format!("{other:?} is no scope: use local or global")),
        }
    }
}

/// Who gives addresses out where no subnet is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipam {
    /// Nobody: without subnets the network is a plain segment.
    #[default]
    Null,
    /// We do: a network without subnets is given one of the default pools.
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
    /// Those that are given out; all unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    /// The next hop of the containers; the first free address unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Addresses that are somebody else's, by name, and so never given out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux: BTreeMap<String, IpAddr>,
}

impl From<IpNet> for SubnetSpec {
    fn from(subnet: IpNet) -> Self {
        Self { subnet, ip_range: None, gateway: None, aux: BTreeMap::new() }
    }
}

/// Where subnets come from that nobody chose: `[ipam]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolsSpec {
    /// For networks of this host.
    pub local: Vec<PoolSpec>,
    /// For overlay networks.
    pub overlay: Vec<PoolSpec>,
    /// For IPv6; a prefix of this host's own (RFC 4193) unless told.
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

/// What shall be different about a network, while containers stay connected.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkUpdate {
    /// Octets of the longest IP packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Labels to write; without a value, to take off.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Options to set; without a value, to forget.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, Option<String>>,
    /// Anything else, to be refused with the reason.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_docker_like_and_stable() {
        let id = Id::of("blue");
        assert_eq!(id.as_str().len(), 64);
        assert_eq!(id, Id::of("blue"));
        assert_eq!(id.short(), &id.as_str()[..12]);
        assert_ne!(Id::random().unwrap(), Id::random().unwrap());
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for bad in ["", "blue", &"A".repeat(64), &"0".repeat(63)] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reference_may_be_a_whole_id() {
        assert!(Id::of("x").as_str().parse::<Reference>().is_ok());
        for bad in ["", "a/b", "-a", &"0".repeat(65)] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
