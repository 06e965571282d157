//! Addresses of the underlay: of this host's end of all tunnels, of peers and collectors, and of multicast groups.
//!
//! A link-local IPv6 address means another host on every link, so it is written with its zone, the interface: `fe80::2%eth1`
//! (RFC 4007 section 11). The interface is looked up by its name when the tunnel is opened, so it may be created later.

use std::{
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{IfName, InvalidIfName, ifname::IFNAME_MAX, rules::is_link_local};

/// An address of the underlay, with its zone if it is link-local. A group may have a zone: the interface where it is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnderlayAddr {
    ip: IpAddr,
    zone: Option<Zone>,
}

/// The name of an interface, filled up with zeros: unlike [`IfName`] it can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Zone([u8; IFNAME_MAX]);

/// Text that is not an address of the underlay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnderlayAddr {
    /// It is not an address.
    #[error(transparent)]
    Address(#[from] AddrParseError),
    /// The zone is not an interface's name.
    #[error(transparent)]
    Zone(#[from] InvalidIfName),
    /// A link-local address has no zone.
    #[error(
        "{0} is a link-local address, which does not name its link: write the interface as well, like {0}%eth1"
    )]
    NoZone(IpAddr),
    /// Another address has a zone.
    #[error("{0} is neither a link-local address nor a group: write it without an interface")]
    NeedlessZone(IpAddr),
}

impl UnderlayAddr {
    /// Placeholder for a missing address while the rest is checked for errors.
    pub const UNSPECIFIED: Self = Self { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), zone: None };

    /// The address without its zone.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The name of the interface.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_ref().map(Zone::as_str)
    }

    /// Whether it is a group's.
    pub fn is_multicast(&self) -> bool {
        self.ip.is_multicast()
    }

    /// The sender `ip` as an endpoint with this address knows it; `None`: it is link-local, and this is not.
    #[must_use]
    pub fn beside(self, ip: IpAddr) -> Option<Self> {
        match is_link_local(ip) {
            false => Some(Self { ip, zone: None }),
            true => self.zone.filter(|_| is_link_local(self.ip)).map(|zone| Self { ip, zone: Some(zone) }),
        }
    }
}

impl Zone {
    fn of(name: &IfName) -> Self {
        let mut zone = [0; IFNAME_MAX];
        zone[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
        Self(zone)
    }

    fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(IFNAME_MAX);
        std::str::from_utf8(&self.0[..end]).expect("it was copied from a text that fits")
    }
}

impl FromStr for UnderlayAddr {
    type Err = InvalidUnderlayAddr;

    fn from_str(text: &str) -> Result<Self, InvalidUnderlayAddr> {
        let (ip, zone) = match text.split_once('%') {
            None => (text.parse()?, None),
            Some((ip, zone)) => (ip.parse()?, Some(Zone::of(&zone.parse()?))),
        };
        match zone {
            None if is_link_local(ip) => Err(InvalidUnderlayAddr::NoZone(ip)),
            Some(_) if !is_link_local(ip) && !ip.is_multicast() => Err(InvalidUnderlayAddr::NeedlessZone(ip)),
            zone => Ok(Self { ip, zone }),
        }
    }
}

impl fmt::Display for UnderlayAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone() {
            None => self.ip.fmt(f),
            Some(zone) => write!(f, "{}%{zone}", self.ip),
        }
    }
}

written_as_text!(UnderlayAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_belongs_to_link_local_addresses_and_groups() {
        for text in
            ["10.8.0.1", "fd00::1", "fe80::1%eth1", "ff02::1%a-name-of-15-by", "239.1.1.1%eth1", "239.1.1.1"]
        {
            let address: UnderlayAddr = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(serde_json::from_value::<UnderlayAddr>(text.into()).unwrap(), address);
            assert_eq!(address.zone(), text.split_once('%').map(|it| it.1));
        }
        for (text, sentence) in [
            (
                "fe80::1",
                "fe80::1 is a link-local address, which does not name its link: write the interface as well, like fe80::1%eth1",
            ),
            (
                "10.8.0.1%eth1",
                "10.8.0.1 is neither a link-local address nor a group: write it without an interface",
            ),
            ("10.8.0.300", "invalid IP address syntax"),
            ("%eth1", "invalid IP address syntax"),
        ] {
            assert_eq!(text.parse::<UnderlayAddr>().unwrap_err().to_string(), sentence);
        }
        for text in ["fe80::1%", "fe80::1%a/b", "fe80::1%a-name-that-is-too-long", "fe80::1%eth1%eth2"] {
            assert!(matches!(text.parse::<UnderlayAddr>(), Err(InvalidUnderlayAddr::Zone(_))), "{text}");
        }
    }

    #[test]
    fn a_sender_is_on_the_link_of_the_endpoint() {
        let beside = |local: &str, sender: &str| {
            let local: UnderlayAddr = local.parse().unwrap();
            local.beside(sender.parse().unwrap()).map(|it| it.to_string())
        };
        assert_eq!(beside("fe80::1%eth1", "fe80::2").as_deref(), Some("fe80::2%eth1"));
        assert_eq!(beside("fd00::1", "fd00::2").as_deref(), Some("fd00::2"));
        assert_eq!(beside("fd00::1", "fe80::2"), None);
    }
}
