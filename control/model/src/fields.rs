//! A port as it is written: key by key, before validation.
//!
//! `net.toml` and the JSON of the API both come through here, so "access or trunk, not both" and
//! "a packet port has no `netns`" are said in one place and in the same words.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};
use vswitch::addr::MacAddr;

use crate::{
    Accelerate, Carries, CollectorSpec, DeviceSpec, FloodLimits, GuardSpec, IfName, InterfaceSpec, LimitSpec,
    MirrorSpec, Mtu, Name, Netns, Offloads, PeerSpec, PortSpec, UnderlayAddr, Vni,
};

/// Every key a port may have.
#[expect(missing_docs, reason = "each is a key of `[[port]]`; PortSpec documents them")]
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortFields {
    pub name: Option<Name>,
    pub network: Option<Name>,
    pub trunk: Option<Vec<Name>>,
    pub native: Option<Name>,
    pub mirror: Option<MirrorSpec>,
    pub kind: Option<Kind>,
    pub device: Option<IfName>,
    pub netns: Option<Netns>,
    pub ifname: Option<IfName>,
    pub mac: Option<MacAddr>,
    #[serde(deserialize_with = "one_or_many")]
    pub address: Option<Vec<Address>>,
    #[serde(deserialize_with = "one_or_many")]
    pub gateway: Option<Vec<Gateway>>,
    pub persist: Option<bool>,
    pub mtu: Option<Mtu>,
    pub isolated: Option<bool>,
    pub hairpin: Option<bool>,
    pub native_tagged: Option<bool>,
    pub learning: Option<bool>,
    pub mac_limit: Option<u32>,
    pub storm: FloodLimits,
    pub limit: LimitSpec,
    #[serde(deserialize_with = "crate::guard::written")]
    pub guard: Option<GuardSpec>,
    pub offload: Option<Offloads>,
    pub accelerate: Option<Accelerate>,
    pub remote: Option<UnderlayAddr>,
    pub remote_port: Option<u16>,
    pub vni: Option<Vni>,
    pub networks: Option<Vec<Name>>,
    pub flood: Option<bool>,
}

/// The kind of a port's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A TAP interface.
    Tap,
    /// A veth pair.
    Veth,
    /// An interface that exists.
    Packet,
    /// Another host's end of a tunnel.
    Peer,
    /// Another host that receives a mirror's copies.
    Collector,
}

/// A key that conflicts with the others, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The key, as it is written.
    pub key: &'static str,
    /// What is wrong with it and what to write instead.
    pub what: String,
}

/// The keys of a JSON port that do not make a port.
#[derive(Debug)]
pub struct Misfits(Vec<Misfit>);

impl fmt::Display for Misfits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Misfit { key, what }) in self.0.iter().enumerate() {
            write!(f, "{}{key}: {what}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl TryFrom<PortFields> for PortSpec {
    type Error = Misfits;

    fn try_from(fields: PortFields) -> Result<Self, Misfits> {
        let (port, misfits) = fields.resolve();
        if misfits.is_empty() { Ok(port) } else { Err(Misfits(misfits)) }
    }
}

impl PortFields {
    /// The port these keys make, and every key that does not fit.
    ///
    /// With misfits the port is a stand-in, good only for finding further errors.
    pub fn resolve(self) -> (PortSpec, Vec<Misfit>) {
        let mut misfits = Vec::new();
        let name = self.name.clone().unwrap_or_else(|| {
            misfits.push(Misfit { key: "name", what: "missing: name the port".into() });
            Name::unnamed()
        });
        let carries = self.carries(&mut misfits);
        let device = self.device(&mut misfits);
        if self.native_tagged.is_some() && self.native.is_none() {
            let what = "there is no native network to be tagged: set native, or remove it".into();
            misfits.push(Misfit { key: "native_tagged", what });
        }
        if self.offload == Some(Offloads::Udp) && (self.kind != Some(Kind::Tap) || self.mirror.is_some()) {
            let what = "\"udp\" is for ports of kind tap that carry a network: use true or false".into();
            misfits.push(Misfit { key: "offload", what });
        }
        if self.accelerate.is_some() && self.kind != Some(Kind::Veth) {
            let what = "the kernel forwards for ports of kind veth only: remove it".into();
            misfits.push(Misfit { key: "accelerate", what });
        }
        misfits.extend(self.guard_misfit().map(|what| Misfit { key: "guard", what: what.into() }));
        misfits.extend(self.limit.misfit().map(|(key, what)| Misfit { key, what }));
        let port = PortSpec {
            name,
            carries,
            device,
            mtu: self.mtu,
            isolated: self.isolated.unwrap_or(false),
            hairpin: self.hairpin.unwrap_or(false),
            native_tagged: self.native_tagged.unwrap_or(false),
            flood: self.flood.unwrap_or(true) || matches!(self.kind, Some(Kind::Peer)),
            learning: self.learning.unwrap_or(true),
            mac_limit: self.mac_limit,
            storm: self.storm,
            limit: self.limit,
            guard: self.guard,
            offload: self.offload.unwrap_or_default(),
            accelerate: self.accelerate.unwrap_or_default(),
        };
        (port, misfits)
    }

    /// Why the port cannot have the guard that it should have.
    fn guard_misfit(&self) -> Option<&'static str> {
        self.guard.as_ref()?;
        if !matches!(self.kind, None | Some(Kind::Tap | Kind::Veth)) {
            return Some(
                "belongs to kind tap or veth: behind an interface of others, and other hosts, are many stations",
            );
        }
        if self.network.is_none() {
            return Some(
                "belongs to access ports: a trunk leads to many stations, and a mirror to none; guard their own ports",
            );
        }
        self.mac.is_none().then_some("needs the address that it guards: set mac")
    }

    fn carries(&self, misfits: &mut Vec<Misfit>) -> Carries {
        let mut misfit = |key, what: &str| misfits.push(Misfit { key, what: what.into() });
        if self.kind == Some(Kind::Peer) {
            for (key, present) in [
                ("network", self.network.is_some()),
                ("trunk", self.trunk.is_some()),
                ("native", self.native.is_some()),
                ("mirror", self.mirror.is_some()),
            ] {
                if present {
                    misfit(key, "a peer carries networks by their vni: name them with networks");
                }
            }
            return Carries::Tunnel { networks: self.networks.clone() };
        }
        let is_collector = self.kind == Some(Kind::Collector);
        if is_collector && self.mirror.is_none() {
            misfit("mirror", "missing: a collector gets copies: say whose, with { ports = [\"web\"] }");
        }
        if let Some(mirror) = self.mirror.clone().or_else(|| is_collector.then(MirrorSpec::default)) {
            for (key, present) in [
                ("network", self.network.is_some()),
                ("trunk", self.trunk.is_some()),
                ("native", self.native.is_some()),
            ] {
                if present {
                    misfit(key, "a port that mirrors others carries no network: remove it, or mirror");
                }
            }
            return Carries::Mirror { mirror };
        }
        if self.networks.is_some() {
            misfit("networks", "belongs to kind peer: name the port's network, or several with trunk");
        }
        match (self.network.clone(), self.trunk.clone(), self.native.clone()) {
            (Some(network), None, None) => Carries::Access { network },
            (None, Some(trunk), native) => Carries::Trunk { trunk, native },
            (Some(_), Some(trunk), native) => {
                misfit("network", "a port has network (access) or trunk, not both: remove one");
                Carries::Trunk { trunk, native }
            }
            (Some(network), None, Some(_)) => {
                misfit("native", "an access port's network is untagged already: remove native");
                Carries::Access { network }
            }
            (None, None, Some(native)) => {
                misfit("native", "belongs to a trunk: add trunk, or write network instead");
                Carries::Access { network: native }
            }
            (None, None, None) => {
                misfit("network", "missing: name the port's network, or several with trunk");
                Carries::Access { network: Name::unnamed() }
            }
        }
    }

    fn device(&self, misfits: &mut Vec<Misfit>) -> DeviceSpec {
        let mut misfit = |key, what: &str| misfits.push(Misfit { key, what: what.into() });
        if let Some(kind @ (Kind::Peer | Kind::Collector)) = self.kind {
            let whose = if kind == Kind::Peer { "peer" } else { "collector" };
            for key in self.interface_keys().chain(self.device.as_ref().map(|_| "device")) {
                misfit(key, &format!("belongs to other kinds of port: a {whose} has no interface"));
            }
            if self.remote.is_none() {
                misfit("remote", &format!("missing: name the {whose}'s address"));
            }
        }
        let (remote, remote_port) = (self.remote.unwrap_or(UnderlayAddr::UNSPECIFIED), self.remote_port);
        if self.kind != Some(Kind::Collector) && self.vni.is_some() {
            misfit("vni", "belongs to kind collector: remove it; a network's vni says how peers know it");
        }
        if self.kind == Some(Kind::Peer) {
            return DeviceSpec::Peer(PeerSpec { remote, remote_port, flood: self.flood });
        }
        if self.kind == Some(Kind::Collector) {
            if self.flood.is_some() {
                misfit("flood", "a collector gets copies only: remove it");
            }
            if self.vni.is_none() {
                misfit("vni", "missing: choose the number by which the collector knows the copies");
            }
            return DeviceSpec::Collector(CollectorSpec {
                remote,
                remote_port,
                vni: self.vni.unwrap_or(Vni::MIN),
            });
        }
        for (key, present) in [("remote", self.remote.is_some()), ("remote_port", remote_port.is_some())] {
            if present {
                misfit(key, "belongs to kinds peer and collector: remove it");
            }
        }
        if let Some(Kind::Packet) = self.kind {
            for key in self.interface_keys() {
                misfit(key, "belongs to kind tap or veth: a packet port takes its interface as it is");
            }
            if self.device.is_none() {
                misfit("device", "missing: name the interface to use");
            }
            return DeviceSpec::Packet { device: self.device.clone().unwrap_or_else(IfName::unnamed) };
        }
        let interface = InterfaceSpec {
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            mac: self.mac,
            address: self.address.iter().flatten().map(|address| address.0).collect(),
            gateway: self.gateway.iter().flatten().map(|gateway| gateway.0).collect(),
            persist: self.persist.unwrap_or(false),
            bare: None,
            identity: None,
        };
        if self.kind.is_none() {
            misfit("kind", "missing: use \"tap\", \"veth\" or \"packet\"");
        } else if self.device.is_some() {
            misfit("device", "belongs to kind packet: name the interface that is made with ifname");
        }
        if self.kind == Some(Kind::Veth) { DeviceSpec::Veth(interface) } else { DeviceSpec::Tap(interface) }
    }

    /// The keys present that describe an interface to be made.
    fn interface_keys(&self) -> impl Iterator<Item = &'static str> {
        [
            ("netns", self.netns.is_some()),
            ("ifname", self.ifname.is_some()),
            ("mac", self.mac.is_some()),
            ("address", self.address.is_some()),
            ("gateway", self.gateway.is_some()),
            ("persist", self.persist.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, present)| present.then_some(key))
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tap" => Ok(Self::Tap),
            "veth" => Ok(Self::Veth),
            "packet" => Ok(Self::Packet),
            "collector" => Ok(Self::Collector),
            _ => Err(format!(
                "{text:?} is not a kind of port: use \"tap\", \"veth\" or \"packet\", or \"collector\" for a mirror to another host"
            )),
        }
    }
}

/// An interface's address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub IpNet);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse(), text.parse::<IpAddr>()) {
            (Ok(net), _) => Ok(Self(net)),
            (_, Ok(IpAddr::V4(_))) => Err(format!("{text} has no prefix length: write it like {text}/24")),
            (_, Ok(IpAddr::V6(_))) => Err(format!("{text} has no prefix length: write it like {text}/64")),
            _ => Err(format!("{text:?} is not an IP address: write it like 10.9.0.2/24")),
        }
    }
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway(pub IpAddr);

impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("{text:?} is not an IP address: write it like 10.9.0.1, without prefix length")
        })
    }
}

/// `"a"` or `["a", "b"]`.
fn one_or_many<'de, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    T: FromStr<Err = String>,
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Option::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Texts::One(text)) => vec![text],
        Some(Texts::Many(texts)) => texts,
    };
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn a_port_in_json_both_ways() {
        let written = json!({
            "name": "web", "network": "blue", "kind": "tap", "netns": "pid:7", "mac": "02:42:0a:09:00:02",
            "address": ["10.9.0.2/24"], "gateway": ["10.9.0.1"], "persist": false,
            "isolated": true, "storm": { "broadcast": 100 }, "offload": true,
            "limit": { "rx": "100 Mbit/s", "rx_burst": 2_500_000, "tx": "1 Gbit/s" },
        });
        let port: PortSpec = from_value(written.clone()).unwrap();
        assert_eq!(port.ifname(), "web");
        assert_eq!(port.carries.untagged(), Some(&"blue".parse().unwrap()));
        assert_eq!(to_value(&port).unwrap(), written);

        let peer = json!({
            "name": "host2", "kind": "peer", "remote": "10.8.0.2", "remote_port": 8472, "networks": ["blue"],
            "isolated": false, "storm": {}, "limit": {}, "offload": true,
        });
        let port: PortSpec = from_value(peer.clone()).unwrap();
        assert_eq!(to_value(&port).unwrap(), peer);

        let collector = json!({
            "name": "ids", "mirror": { "ports": ["web"] }, "kind": "collector", "remote": "10.8.0.9", "vni": 9000,
            "isolated": false, "storm": {}, "limit": {}, "offload": true,
        });
        let port: PortSpec = from_value(collector.clone()).unwrap();
        assert_eq!(to_value(&port).unwrap(), collector);

        let trunk = json!({
            "name": "up", "trunk": ["blue"], "native": "red", "kind": "packet", "device": "eth1",
            "isolated": false, "storm": {}, "limit": {}, "offload": true, "mtu": 9000, "mac_limit": 5,
        });
        let port: PortSpec = from_value(trunk.clone()).unwrap();
        assert_eq!(to_value(&port).unwrap(), trunk);
    }

    #[test]
    fn one_address_needs_no_list() {
        let port: PortSpec = from_value(json!({
            "name": "web", "network": "blue", "kind": "veth", "address": "10.9.0.2/24", "gateway": "10.9.0.1",
        }))
        .unwrap();
        let interface = port.interface().unwrap();
        assert_eq!(interface.address, ["10.9.0.2/24".parse().unwrap()]);
        assert_eq!(interface.gateway, ["10.9.0.1".parse::<IpAddr>().unwrap()]);
        assert!(port.offload.any() && !port.isolated);
    }

    #[test]
    fn json_that_is_no_port_says_why() {
        let error = |value| from_value::<PortSpec>(value).unwrap_err().to_string();
        let table = [
            (json!({"name": "a", "network": "n", "kind": "tap", "isolatd": true}), "unknown field `isolatd`"),
            (json!({"network": "n", "kind": "tap"}), "name: missing"),
            (json!({"name": "a", "kind": "tap"}), "network: missing"),
            (json!({"name": "a", "network": "n"}), "kind: missing"),
            (json!({"name": "a", "network": "n", "kind": "macvlan"}), "unknown variant `macvlan`"),
            (json!({"name": "a", "network": "n", "trunk": ["m"], "kind": "tap"}), "not both"),
            (json!({"name": "a", "network": "n", "native": "m", "kind": "tap"}), "native: an access port's"),
            (json!({"name": "a", "native": "m", "kind": "tap"}), "native: belongs to a trunk"),
            (json!({"name": "a", "network": "n", "kind": "packet"}), "device: missing"),
            (
                json!({"name": "a", "network": "n", "kind": "packet", "device": "e", "netns": "x"}),
                "netns: belongs",
            ),
            (json!({"name": "a", "network": "n", "kind": "tap", "device": "e"}), "device: belongs"),
            (json!({"name": "a", "network": "n", "kind": "tap", "address": "10.9.0.2"}), "10.9.0.2/24"),
            (json!({"name": "a", "network": "n", "kind": "tap", "gateway": 7}), "a text or a list"),
            (
                json!({"name": "a", "network": "n", "kind": "tap", "limit": {"rx": "fast"}}),
                "\"fast\" is not a rate",
            ),
            (
                json!({"name": "a", "network": "n", "kind": "tap", "limit": {"tx_burst": 7}}),
                "limit.tx_burst: there is no limit.tx",
            ),
            (json!({"name": "a", "kind": "peer"}), "remote: missing"),
            (json!({"name": "a", "kind": "peer", "remote": "10.8.0.2", "network": "n"}), "network: a peer"),
            (json!({"name": "a", "kind": "peer", "remote": "10.8.0.2", "ifname": "e"}), "ifname: belongs"),
            (
                json!({"name": "a", "network": "n", "kind": "tap", "native_tagged": true}),
                "native_tagged: there is no native",
            ),
            (json!({"name": "a", "network": "n", "kind": "tap", "networks": []}), "networks: belongs"),
            (json!({"name": "a", "network": "n", "kind": "tap", "remote": "10.8.0.2"}), "remote: belongs"),
            (json!({"name": "a", "network": "n", "kind": "tap", "vni": 5}), "vni: belongs to kind collector"),
            (json!({"name": "a", "kind": "peer", "remote": "10.8.0.2", "vni": 5}), "vni: belongs"),
            (json!({"name": "a", "kind": "collector", "remote": "10.8.0.9", "vni": 5}), "mirror: missing"),
            (
                json!({"name": "a", "kind": "collector", "mirror": {"ports": ["b"]}, "vni": 5}),
                "remote: missing",
            ),
            (
                json!({"name": "a", "kind": "collector", "mirror": {"ports": ["b"]}, "remote": "10.8.0.9"}),
                "vni: missing",
            ),
            (
                json!({"name": "a", "kind": "collector", "remote": "10.8.0.9", "vni": 5, "network": "n"}),
                "network: a port that mirrors",
            ),
            (
                json!({"name": "a", "kind": "collector", "remote": "10.8.0.9", "vni": 5, "ifname": "e"}),
                "ifname: belongs",
            ),
            (
                json!({"name": "a", "kind": "collector", "remote": "10.8.0.9", "vni": 5, "flood": true}),
                "flood: a collector",
            ),
            (json!({"name": "a b", "network": "n", "kind": "tap"}), "is not a valid name"),
        ];
        for (value, expected) in table {
            let text = value.to_string();
            let error = error(value);
            assert!(error.contains(expected), "{text}: {error:?} lacks {expected:?}");
        }
    }
}
