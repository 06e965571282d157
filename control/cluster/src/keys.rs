//! The layout of the store: which key says what.
//!
//! | key below the prefix | value | written by |
//! |---|---|---|
//! | `meta` | [`Meta`](crate::record::Meta) | the first host; a restore |
//! | `pools` | where subnets come from; touched by each new network, so that two never choose at once | all |
//! | `node/HOST` | [`Node`](crate::record::Node) | that host |
//! | `alive/HOST` | its present run; the only key that hangs on a lease | that host |
//! | `gone/HOST` | when it was removed: fences a host that comes back | who removes it |
//! | `net/ID`, `netname/NAME`, `vni/N` | the network; its id twice | who creates it, in one transaction |
//! | `block/ID/ADDRESS` | a range of a network's addresses, and the host that assigns them | that host |
//! | `svc/ID/SERVICE`, `svcname/SERVICE` | a service of a network; the network's id | who creates it, in one transaction with the next |
//! | `vip/ID/ADDRESS`, `port/tcp/N` | the service that has the address, or publishes the port | the same |
//! | `ep/ID/ENDPOINT` | [`Endpoint`](crate::record::Endpoint) | its host |
//!
//! `ID` and `ENDPOINT` are the first twelve digits of ids.

use std::{fmt, net::IpAddr, str::FromStr};

use vswitch_model::{Id, Name, publish::Protocol};

/// Where the keys of a cluster are, unless it is told otherwise.
pub const PREFIX: &str = "/vswitch/v1/";

/// The first twelve digits of an [`Id`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Short(u64);

/// A key, without the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `meta`
    Meta,
    /// `pools`
    Pools,
    /// `node/HOST`
    Node(Name),
    /// `alive/HOST`
    Alive(Name),
    /// `gone/HOST`
    Gone(Name),
    /// `net/ID`
    Network(Short),
    /// `netname/NAME`
    NetworkName(Name),
    /// `vni/N`
    Vni(u32),
    /// `block/ID/ADDRESS`
    Block(Short, IpAddr),
    /// `ep/ID/ENDPOINT`
    Endpoint(Short, Short),
    /// `svc/ID/SERVICE`
    Service(Short, Name),
    /// `svcname/SERVICE`
    ServiceName(Name),
    /// `vip/ID/ADDRESS`
    Vip(Short, IpAddr),
    /// `port/PROTOCOL/N`
    Port(Protocol, u16),
}

impl Short {
    /// The least and the greatest.
    pub(crate) const ALL: [Self; 2] = [Self(0), Self((1 << 48) - 1)];
}

impl From<&Id> for Short {
    fn from(id: &Id) -> Self {
        id.short().parse().expect("an id begins with twelve digits")
    }
}

impl FromStr for Short {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.len() == 12 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if digits { u64::from_str_radix(text, 16).map(Self).map_err(drop) } else { Err(()) }
    }
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str("meta"),
            Self::Pools => f.write_str("pools"),
            Self::Node(host) => write!(f, "node/{host}"),
            Self::Alive(host) => write!(f, "alive/{host}"),
            Self::Gone(host) => write!(f, "gone/{host}"),
            Self::Network(id) => write!(f, "net/{id}"),
            Self::NetworkName(name) => write!(f, "netname/{name}"),
            Self::Vni(vni) => write!(f, "vni/{vni}"),
            Self::Block(network, first) => write!(f, "block/{network}/{first}"),
            Self::Endpoint(network, endpoint) => write!(f, "ep/{network}/{endpoint}"),
            Self::Service(network, name) => write!(f, "svc/{network}/{name}"),
            Self::ServiceName(name) => write!(f, "svcname/{name}"),
            Self::Vip(network, address) => write!(f, "vip/{network}/{address}"),
            Self::Port(protocol, number) => write!(f, "port/{protocol}/{number}"),
        }
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '/');
        let (kind, first, second) = (parts.next().unwrap_or(""), parts.next(), parts.next());
        let name = || first.ok_or(())?.parse().map_err(drop);
        let short = |text: Option<&str>| text.ok_or(())?.parse::<Short>();
        match (kind, second) {
            ("meta", None) if first.is_none() => Ok(Self::Meta),
            ("pools", None) if first.is_none() => Ok(Self::Pools),
            ("node", None) => name().map(Self::Node),
            ("alive", None) => name().map(Self::Alive),
            ("gone", None) => name().map(Self::Gone),
            ("net", None) => short(first).map(Self::Network),
            ("netname", None) => name().map(Self::NetworkName),
            ("vni", None) => first.ok_or(())?.parse().map(Self::Vni).map_err(drop),
            ("block", Some(address)) => Ok(Self::Block(short(first)?, address.parse().map_err(drop)?)),
            ("ep", Some(endpoint)) => Ok(Self::Endpoint(short(first)?, endpoint.parse()?)),
            ("svc", Some(name)) => Ok(Self::Service(short(first)?, name.parse().map_err(drop)?)),
            ("svcname", None) => name().map(Self::ServiceName),
            ("vip", Some(address)) => Ok(Self::Vip(short(first)?, address.parse().map_err(drop)?)),
            ("port", Some(number)) => {
                let protocol = first.ok_or(())?.parse().map_err(drop)?;
                Ok(Self::Port(protocol, number.parse().map_err(drop)?))
            }
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for text in [
            "meta",
            "pools",
            "node/host1",
            "alive/host1",
            "gone/host1",
            "net/0123456789ab",
            "netname/blue",
            "vni/4096",
            "block/0123456789ab/10.0.0.8",
            "block/0123456789ab/fd00::40",
            "ep/0123456789ab/ba9876543210",
            "svc/0123456789ab/web",
            "svcname/web",
            "vip/0123456789ab/10.0.0.9",
            "port/udp/5353",
        ] {
            assert_eq!(text.parse::<Key>().map(|key| key.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "meta/x",
            "node",
            "net/0123",
            "net/0123456789AB",
            "ep/0123456789ab",
            "vni/x",
            "port/tcp",
            "other",
        ] {
            assert_eq!(text.parse::<Key>(), Err(()), "{text}");
        }
    }
}
