//! Published ports: `--publish`, and what it resolves to.
//!
//! The syntax is Docker's, `[[ip:]host:]container[/tcp|udp|sctp]` with ranges, and so are the sentences about what is
//! wrong with it. A [`Publish`] is a request; a [`Published`] is one host port that leads to one container port.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A request to publish ports of a container at ports of the host.
///
/// ```
/// # use vswitch_model::publish::Publish;
/// let publish: Publish = "127.0.0.1:8000-8002:80-82/udp".parse()?;
/// assert_eq!(publish.container.len(), 3);
/// assert_eq!(publish.to_string(), "127.0.0.1:8000-8002:80-82/udp");
/// # Ok::<(), vswitch_model::publish::InvalidPublish>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    /// The host's address; all of them without one.
    pub host_ip: Option<IpAddr>,
    /// As many ports as `container`; or, if `container` is one port, a range to choose from. `None` lets the kernel choose.
    pub host: Option<PortRange>,
    /// The container's ports.
    pub container: PortRange,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl Publish {
    /// Whether both ask for the same port of the host: at the same address, or one at all of them. Of what is chosen from a range
    /// or by the kernel, there may be another.
    pub fn collides(&self, other: &Self) -> bool {
        let fixed = |it: &Self| it.host.filter(|host| host.len() == it.container.len());
        let (Some(here), Some(there)) = (fixed(self), fixed(other)) else { return false };
        let meets = match (self.host_ip, other.host_ip) {
            (Some(here), Some(there)) => here == there || here.is_unspecified() || there.is_unspecified(),
            _ => true,
        };
        self.protocol == other.protocol && meets && here.first <= there.last && there.first <= here.last
    }
}

/// One or more consecutive ports; never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// One port of the host that leads to one port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// Transport protocol.
    pub protocol: Protocol,
    /// From where to where.
    #[serde(rename = "way")]
    pub translation: Translation,
    /// Whether a socket of the daemon reserves the host's port; not where a container engine has one of its own.
    #[serde(default = "held", skip_serializing_if = "Clone::clone")]
    pub held: bool,
}

/// Default of [`Published::held`].
fn held() -> bool {
    true
}

/// From the host's address and port to the container's.
///
/// The unspecified address means all of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Translation {
    /// IPv4
    V4 {
        /// At the host.
        at: SocketAddrV4,
        /// In the container.
        to: SocketAddrV4,
    },
    /// IPv6
    V6 {
        /// At the host.
        at: SocketAddrV6,
        /// In the container.
        to: SocketAddrV6,
    },
    /// IPv6 at the host, to a container that has IPv4 only.
    V6ToV4 {
        /// At the host.
        at: SocketAddrV6,
        /// In the container.
        to: SocketAddrV4,
    },
}

/// Text that is not a [`Publish`]: Docker's sentences, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublish {
    /// Nothing there.
    #[error("no port specified: {0}<empty>: write [[ip:]host:]container[/protocol], as in 8080:80")]
    NoPort(String),
    /// The container's port.
    #[error("invalid containerPort: {0}: use a number or a range, 1 to 65535, as in 80 or 80-82")]
    ContainerPort(String),
    /// The host's port.
    #[error("invalid hostPort: {0}: use a number or a range, 1 to 65535, or leave it out to have one chosen")]
    HostPort(String),
    /// The protocol.
    #[error("invalid proto: {0}: use tcp, udp or sctp")]
    Protocol(String),
    /// The host's address.
    #[error("invalid IP address: {0}: use one of the host's, IPv6 in brackets, as in [::1]:8080:80")]
    Address(String),
    /// (container, host) differ in length.
    #[error(
        "invalid ranges specified for container and host Ports: {0} and {1}: use as many host ports as container ports"
    )]
    Ranges(PortRange, PortRange),
}

impl PortRange {
    /// From `first` to `last`, both included. `None`: there is no such range.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// How many ports.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// The ports in order.
    pub fn ports(self) -> impl Iterator<Item = u16> + Clone {
        self.first..=self.last
    }
}

impl Protocol {
    /// Its name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl Published {
    /// A held one. `None`: there is no translation from `at` to `to`.
    pub fn new(protocol: Protocol, at: SocketAddr, to: SocketAddr) -> Option<Self> {
        let translation = match (at, to) {
            (SocketAddr::V4(at), SocketAddr::V4(to)) => Translation::V4 { at, to },
            (SocketAddr::V6(at), SocketAddr::V6(to)) => Translation::V6 { at, to },
            (SocketAddr::V6(at), SocketAddr::V4(to)) => Translation::V6ToV4 { at, to },
            (SocketAddr::V4(_), SocketAddr::V6(_)) => return None,
        };
        let published = Self { protocol, translation, held: true };
        (published.is_translated() || published.is_relayed()).then_some(published)
    }

    /// Whether the kernel translates packets to it.
    pub fn is_translated(&self) -> bool {
        match self.translation {
            Translation::V4 { .. } => true,
            // The kernel takes answers to ::1 from no interface but the loopback (rt6_need_strict, net/ipv6/route.c).
            Translation::V6 { at, .. } => !at.ip().is_loopback(),
            Translation::V6ToV4 { .. } => false,
        }
    }

    /// Whether the relay of `vswitch-host` carries what the kernel does not translate.
    pub fn is_relayed(&self) -> bool {
        let meets_such = match self.translation {
            Translation::V4 { .. } => false,
            Translation::V6 { at, .. } => at.ip().is_unspecified() || at.ip().is_loopback(),
            Translation::V6ToV4 { .. } => true,
        };
        meets_such && self.protocol != Protocol::Sctp
    }

    /// Address and port at the host; the unspecified address means all of the host's.
    pub fn at(&self) -> SocketAddr {
        match self.translation {
            Translation::V4 { at, .. } => at.into(),
            Translation::V6 { at, .. } | Translation::V6ToV4 { at, .. } => at.into(),
        }
    }

    /// Address and port in the container.
    pub fn to(&self) -> SocketAddr {
        match self.translation {
            Translation::V4 { to, .. } | Translation::V6ToV4 { to, .. } => to.into(),
            Translation::V6 { to, .. } => to.into(),
        }
    }
}

impl FromStr for Publish {
    type Err = InvalidPublish;

    fn from_str(text: &str) -> Result<Self, InvalidPublish> {
        let (ports, protocol) = match text.split_once('/') {
            Some((ports, protocol)) => (ports, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let (before, container) = ports.rsplit_once(':').map_or(("", ports), |(before, port)| (before, port));
        if container.is_empty() {
            return Err(InvalidPublish::NoPort(text.to_owned()));
        }
        let container =
            range(container).ok_or_else(|| InvalidPublish::ContainerPort(container.to_owned()))?;
        let (ip, host) = before.rsplit_once(':').map_or(("", before), |(ip, host)| (ip, host));
        let host = match host {
            "" | "0" => None,
            host => Some(range(host).ok_or_else(|| InvalidPublish::HostPort(host.to_owned()))?),
        };
        if let Some(host) = host
            && host.len() != container.len()
            && container.len() != 1
        {
            return Err(InvalidPublish::Ranges(container, host));
        }
        Ok(Self { host_ip: address(ip)?, host, container, protocol })
    }
}

fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    // `parse` takes a sign.
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    PortRange::new(number(first)?, number(last)?)
}

fn address(text: &str) -> Result<Option<IpAddr>, InvalidPublish> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inside) => inside.parse().map(IpAddr::V6),
        None => text.parse().map(IpAddr::V4),
    };
    address.map(Some).map_err(|_| InvalidPublish::Address(text.to_owned()))
}

impl FromStr for Protocol {
    type Err = InvalidPublish;

    fn from_str(text: &str) -> Result<Self, InvalidPublish> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp];
        let found = all.into_iter().find(|protocol| text.eq_ignore_ascii_case(protocol.as_str()));
        found.ok_or_else(|| InvalidPublish::Protocol(text.to_owned()))
    }
}

written_as_text!(Publish);

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            None => {}
        }
        match (self.host, self.host_ip) {
            (Some(host), _) => write!(f, "{host}:")?,
            (None, Some(_)) => f.write_str(":")?,
            (None, None) => {}
        }
        write!(f, "{}/{}", self.container, self.protocol)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// As Docker writes it: `0.0.0.0:8080:10.9.0.2:80/tcp`.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.at(), self.to(), self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dockers_forms_are_read_and_written() {
        for (text, written) in [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("0:80", "80/tcp"),
            (":80", "80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1:8080:80/udp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
            ("[::1]::80/SCTP", "[::1]::80/sctp"),
            ("8000-8010:8000-8010", "8000-8010:8000-8010/tcp"),
            ("8000-8010:80", "8000-8010:80/tcp"),
            ("80-82", "80-82/tcp"),
            ("1:65535", "1:65535/tcp"),
        ] {
            let publish: Publish = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(publish.to_string(), written, "{text}");
            assert_eq!(written.parse(), Ok(publish), "{text}");
        }
    }

    #[test]
    fn errors_are_dockers_and_say_what_to_write() {
        for (text, error) in [
            ("", "no port specified: <empty>: write [[ip:]host:]container[/protocol], as in 8080:80"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("/tcp", "no port specified: /tcp<empty>"),
            ("web", "invalid containerPort: web: use a number or a range, 1 to 65535, as in 80 or 80-82"),
            ("0", "invalid containerPort: 0"),
            ("+80", "invalid containerPort: +80"),
            ("8080:65536", "invalid containerPort: 65536"),
            ("8080:82-80", "invalid containerPort: 82-80"),
            ("x:80", "invalid hostPort: x: use a number"),
            ("127.0.0.1:80", "invalid hostPort: 127.0.0.1"),
            ("-1:80", "invalid hostPort: -1"),
            ("8080:80/icmp", "invalid proto: icmp: use tcp, udp or sctp"),
            ("80/tcp/udp", "invalid proto: tcp/udp"),
            ("300.0.0.1:8080:80", "invalid IP address: 300.0.0.1: use one of the host's, IPv6 in brackets"),
            ("::1:8080:80", "invalid IP address: ::1"),
            ("[127.0.0.1]:8080:80", "invalid IP address: [127.0.0.1]"),
            (
                "8000-8010:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 8000-8010: use as many",
            ),
        ] {
            let refusal = text.parse::<Publish>().unwrap_err().to_string();
            assert!(refusal.starts_with(error), "{text}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_read_is_written_the_same(text in "[0-9a-f:.\\[\\]/\\-tcpudsr]{0,30}") {
            if let Ok(publish) = text.parse::<Publish>() {
                prop_assert_eq!(publish.to_string().parse(), Ok(publish));
            }
        }
    }
}
