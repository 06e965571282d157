//! The guard of a port: what its station may claim to be.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use vswitch::{addr::MacAddr, guard::Guard};

use crate::InterfaceSpec;

/// A guard: `guard = true`, or `guard = { also = […] }`. Its station speaks with the MAC and IP addresses on record, and no others.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(into = "Written")]
pub struct GuardSpec {
    /// What the station may claim to be besides.
    pub also: Vec<Also>,
}

/// An address or a subnet that a guarded station may use besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Also {
    /// A subnet, or one address: its prefix is as long as it can be.
    Net(IpNet),
    /// A MAC address.
    Mac(MacAddr),
}

/// Text that is no [`Also`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address of a station: write an IP address, a subnet like 10.9.0.0/28, or a MAC address like 00:00:5e:00:01:0a"
)]
pub struct InvalidAlso(pub String);

impl FromStr for Also {
    type Err = InvalidAlso;

    fn from_str(text: &str) -> Result<Self, InvalidAlso> {
        let net = text.parse::<IpNet>().ok().or_else(|| Some(text.parse::<IpAddr>().ok()?.into()));
        let mac = || text.parse().ok().filter(|mac: &MacAddr| mac.is_station());
        let is_station = |net: &IpNet| !net.addr().is_multicast() && !net.addr().is_loopback();
        let is_one = |net: &IpNet| net.prefix_len() == net.max_prefix_len() && net.addr().is_unspecified();
        let net = net.filter(|net| is_station(net) && !is_one(net)).map(Self::Net);
        net.or_else(|| mac().map(Self::Mac)).ok_or_else(|| InvalidAlso(text.to_owned()))
    }
}

impl fmt::Display for Also {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
        }
    }
}

written_as_text!(Also);

/// A guard as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a guard is true, false, or { also = [\"10.9.0.100\"] }")]
enum Written {
    Switch(bool),
    Table(Table),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    also: Vec<Also>,
}

impl From<GuardSpec> for Written {
    fn from(guard: GuardSpec) -> Self {
        if guard.also.is_empty() { Self::Switch(true) } else { Self::Table(Table { also: guard.also }) }
    }
}

/// Reads a guard; `false` is none.
pub(crate) fn written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<GuardSpec>, D::Error> {
    Ok(match Option::deserialize(deserializer)? {
        None | Some(Written::Switch(false)) => None,
        Some(Written::Switch(true)) => Some(GuardSpec::default()),
        Some(Written::Table(Table { also })) => Some(GuardSpec { also }),
    })
}

impl GuardSpec {
    /// The guard in the words of the data plane, of a port with this interface and further addresses on record; `None` without a
    /// MAC address.
    pub fn guard(&self, interface: &InterfaceSpec, recorded: &[IpAddr]) -> Option<Arc<Guard>> {
        let own = interface.address.iter().map(IpNet::addr).chain(recorded.iter().copied());
        let nets = self.also.iter().filter_map(|also| match also {
            Also::Net(net) => Some((net.addr(), net.prefix_len())),
            Also::Mac(_) => None,
        });
        let macs = self.also.iter().filter_map(|also| match also {
            Also::Mac(mac) => Some(*mac),
            Also::Net(_) => None,
        });
        Some(Guard::new(interface.mac?, own, nets, macs).into())
    }
}

impl fmt::Display for GuardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("on")?;
        for (index, also) in self.also.iter().enumerate() {
            write!(f, "{} {also}", if index == 0 { ", also" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_a_subnet_or_a_mac() {
        for text in [
            "10.9.0.100",
            "10.9.0.0/28",
            "fd00:9::/64",
            "fd00:9::1",
            "00:00:5e:00:01:0a",
            "0.0.0.0/0",
            "::/0",
        ] {
            assert_eq!(text.parse::<Also>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "web",
            "224.0.0.18",
            "01:00:5e:00:00:12",
            "00:00:00:00:00:00",
            "127.0.0.1",
            "0.0.0.0",
            "10.9.0.0/33",
        ] {
            assert_eq!(text.parse::<Also>(), Err(InvalidAlso(text.into())));
        }
    }
}
