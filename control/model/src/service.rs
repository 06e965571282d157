//! A service: one name and address for several endpoints of a network, and what may change of it.

mod port;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use vswitch::balance::{self, LONGEST_AFFINITY};

pub use self::port::{InvalidServicePort, PublishMode, ServicePort};
use super::{EndpointSpec, HealthSpec, Name, publish::Publish};

/// A service: `[[service]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Unique among services.
    pub name: Name,
    /// The network it is in, with all its endpoints.
    pub network: Name,
    /// What clients are led by.
    #[serde(default)]
    pub mode: EndpointMode,
    /// Its own addresses, at most one of each family; none with `dnsrr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpAddr>,
    /// Endpoints with all these labels are its own; without any, those that name it are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// What keeps the connections of a client together.
    #[serde(default, skip_serializing_if = "Affinity::is_none")]
    pub affinity: Affinity,
    /// How it finds out which endpoints serve; by default all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// Ports of the hosts that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<ServicePort>,
    /// Endpoints, by name, that get nothing new.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drain: BTreeSet<Name>,
    /// Seconds after which the connections of such an endpoint are reset; by default they go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_time: Option<u32>,
    /// Labels of its owner; they mean nothing to the switch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Time of creation, if it was created through the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

impl ServiceSpec {
    /// A service of `network` with nothing but a name.
    pub fn plain(name: Name, network: Name) -> Self {
        Self {
            name,
            network,
            mode: EndpointMode::default(),
            address: Vec::new(),
            selector: BTreeMap::new(),
            affinity: Affinity::default(),
            health: None,
            publish: Vec::new(),
            drain: BTreeSet::new(),
            drain_time: None,
            labels: BTreeMap::new(),
            created: None,
        }
    }

    /// Whether `endpoint` is one of its own.
    pub fn has(&self, endpoint: &EndpointSpec) -> bool {
        let is_selected = || {
            let has = |(key, value): (&String, &String)| endpoint.labels.get(key) == Some(value);
            !self.selector.is_empty() && self.selector.iter().all(has)
        };
        endpoint.network == self.network && (endpoint.services.contains(&self.name) || is_selected())
    }
}

/// What leads clients to a service's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// An address of its own, behind which the switch chooses one for each connection.
    #[default]
    Vip,
    /// Its name, which stands for the addresses of all.
    Dnsrr,
}

impl FromStr for EndpointMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vip" => Ok(Self::Vip),
            "dnsrr" => Ok(Self::Dnsrr),
            _ => Err(format!("{text:?} is neither: use \"vip\" or \"dnsrr\"")),
        }
    }
}

impl fmt::Display for EndpointMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vip => "vip",
            Self::Dnsrr => "dnsrr",
        })
    }
}

/// What keeps the connections of a client together: `none`, `client-ip`, or `client-ip:TTL` with seconds, or a number followed by
/// `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Affinity {
    /// Nothing.
    #[default]
    None,
    /// Its address. With a time, in seconds: for as long after its last new connection it stays with the endpoint it had, even
    /// if others come.
    ClientIp(Option<u32>),
}

impl Affinity {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl From<Affinity> for balance::Affinity {
    fn from(affinity: Affinity) -> Self {
        match affinity {
            Affinity::None => Self::None,
            Affinity::ClientIp(ttl) => Self::Client(ttl.map(|ttl| Duration::from_secs(ttl.into()))),
        }
    }
}

impl FromStr for Affinity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no affinity: use none, client-ip, or client-ip:TTL with a TTL of 1s to 24h")
        };
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "client-ip" => Ok(Self::ClientIp(None)),
            Some(("client-ip", ttl)) => seconds(ttl).map(|ttl| Self::ClientIp(Some(ttl))).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

/// A number of seconds, or of what its last letter says.
fn seconds(text: &str) -> Option<u32> {
    let (number, unit) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3_600),
        _ => (text, 1),
    };
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = number.parse::<u32>().ok().filter(|_| is_plain)?.checked_mul(unit)?;
    (1..=LONGEST_AFFINITY).contains(&seconds).then_some(seconds)
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::ClientIp(None) => f.write_str("client-ip"),
            Self::ClientIp(Some(ttl)) => write!(f, "client-ip:{ttl}s"),
        }
    }
}

impl TryFrom<String> for Affinity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Affinity> for String {
    fn from(affinity: Affinity) -> Self {
        affinity.to_string()
    }
}

/// A change to a service while its clients stay connected.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceUpdate {
    /// New affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Labels of the selector to set; those without a value are removed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, Option<String>>,
    /// New check of its endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// Whether its endpoints are checked no longer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_health: bool,
    /// Further ports of the hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<ServicePort>,
    /// Ports of the service that ports of the hosts lead to no longer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unpublish: Vec<Publish>,
    /// Endpoints that get nothing new from now on.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub drain: BTreeSet<Name>,
    /// Seconds after which the connections of these are reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_time: Option<u32>,
    /// Endpoints that do again.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub resume: BTreeSet<Name>,
    /// Labels to set; those without a value are removed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
}

impl ServiceUpdate {
    /// `spec` as it is after the change.
    #[must_use]
    pub fn applied_to(self, spec: &ServiceSpec) -> ServiceSpec {
        let mut new = spec.clone();
        new.affinity = self.affinity.unwrap_or(new.affinity);
        for (labels, changes) in [(&mut new.selector, self.selector), (&mut new.labels, self.labels)] {
            for (key, value) in changes {
                match value {
                    Some(value) => drop(labels.insert(key, value)),
                    None => drop(labels.remove(&key)),
                }
            }
        }
        new.health = self.health.or(new.health).filter(|_| !self.no_health);
        new.publish.retain(|port| !self.unpublish.iter().any(|target| port.leads_to(target)));
        for port in self.publish {
            if !new.publish.contains(&port) {
                new.publish.push(port);
            }
        }
        new.drain_time = self.drain_time.or(new.drain_time);
        new.drain.extend(self.drain);
        new.drain.retain(|name| !self.resume.contains(name));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_as_text() {
        for (text, affinity, written) in [
            ("none", Affinity::None, "none"),
            ("client-ip", Affinity::ClientIp(None), "client-ip"),
            ("client-ip:90", Affinity::ClientIp(Some(90)), "client-ip:90s"),
            ("client-ip:10m", Affinity::ClientIp(Some(600)), "client-ip:600s"),
            ("client-ip:24h", Affinity::ClientIp(Some(86_400)), "client-ip:86400s"),
        ] {
            assert_eq!(text.parse(), Ok(affinity));
            assert_eq!(affinity.to_string(), written);
            assert_eq!(written.parse(), Ok(affinity));
        }
        for text in ["", "client", "client-ip:", "client-ip:0", "client-ip:25h", "client-ip:+5", "none:5"] {
            assert!(text.parse::<Affinity>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_update_sets_and_removes() {
        let spec = ServiceSpec::plain("web".parse().unwrap(), "blue".parse().unwrap());
        let update = |text: &str| serde_json::from_str::<ServiceUpdate>(text).unwrap();
        let set = update(
            r#"{"affinity": "client-ip", "selector": {"app": "web", "tier": "front"}, "drain": ["a", "b"]}"#,
        );
        let changed = set.applied_to(&spec);
        assert_eq!(
            (changed.affinity, changed.selector.len(), changed.drain.len()),
            (Affinity::ClientIp(None), 2, 2)
        );
        let back =
            update(r#"{"affinity": "none", "selector": {"app": null, "tier": null}, "resume": ["a", "b"]}"#);
        assert_eq!(back.applied_to(&changed), spec);
    }
}
