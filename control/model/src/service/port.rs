//! Ports that a service publishes: `--publish` of `vswitchctl service`.
//!
//! The syntax is Docker's, short (`8080:80/udp`, with ranges) and long (`published=8080,target=80,protocol=udp,mode=host`). Unlike a
//! container's, such a port has a number that is chosen beforehand, for it is the same on every host.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::publish::{InvalidPublish, PortRange, Protocol, Publish};

/// Ports of hosts that lead to ports of a service.
///
/// ```
/// # use vswitch_model::ServicePort;
/// let port: ServicePort = "8000-8002:80-82/udp".parse()?;
/// assert_eq!(port.pairs().collect::<Vec<_>>(), [(8000, 80), (8001, 81), (8002, 82)]);
/// let port: ServicePort = "published=8080,target=80,mode=host".parse()?;
/// assert_eq!(port.to_string(), "published=8080,target=80,protocol=tcp,mode=host");
/// # Ok::<(), vswitch_model::InvalidServicePort>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServicePort {
    /// At the hosts.
    published: PortRange,
    /// Of the service; as many.
    target: PortRange,
    /// Transport protocol, TCP or UDP.
    pub protocol: Protocol,
    /// On which hosts.
    pub mode: PublishMode,
}

/// On which hosts a port of a service is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PublishMode {
    /// On every host, whichever its endpoints are on.
    #[default]
    Ingress,
    /// On hosts of its endpoints, and it leads to one of that host.
    Host,
}

/// Text that is no [`ServicePort`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServicePort {
    /// Its ports, or what follows them.
    #[error(transparent)]
    Publish(#[from] InvalidPublish),
    /// The host's port is left to the host.
    #[error("{0}: choose the port of the hosts as well, as in 8080:80: it is the same on all of them")]
    Unchosen(String),
    /// An address of a host.
    #[error("{0}: the port is open on every host, at all of its addresses: leave the address out")]
    Address(String),
    /// SCTP.
    #[error("{0}: services carry tcp and udp")]
    Protocol(String),
    /// A part of the long form.
    #[error("{0:?}: use published=PORT,target=PORT, and protocol=tcp|udp, mode=ingress|host")]
    Part(String),
}

impl ServicePort {
    /// Ports of the hosts, each with that of the service.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + Clone {
        self.published.ports().zip(self.target.ports())
    }

    /// Whether both ask for the same port of a host.
    pub fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.published.ports().any(|port| other.published.ports().any(|it| it == port))
    }

    /// Whether it leads to some of these ports of the service.
    pub fn leads_to(&self, target: &Publish) -> bool {
        self.protocol == target.protocol
            && self.target.ports().any(|port| target.container.ports().any(|it| it == port))
    }
}

impl FromStr for ServicePort {
    type Err = InvalidServicePort;

    fn from_str(text: &str) -> Result<Self, InvalidServicePort> {
        let wrong = |part: &str| InvalidServicePort::Part(part.to_owned());
        let mut mode = PublishMode::Ingress;
        let short = if text.contains('=') {
            let (mut published, mut target, mut protocol) = ("", "", "tcp");
            for part in text.split(',') {
                match part.split_once('=') {
                    Some(("published", port)) => published = port,
                    Some(("target", port)) => target = port,
                    Some(("protocol", name)) => protocol = name,
                    Some(("mode", "ingress")) => mode = PublishMode::Ingress,
                    Some(("mode", "host")) => mode = PublishMode::Host,
                    _ => return Err(wrong(part)),
                }
            }
            if target.is_empty() {
                return Err(wrong(text));
            }
            format!("{published}:{target}/{protocol}")
        } else {
            text.to_owned()
        };
        let Publish { host_ip, host, container, protocol } = short.parse()?;
        if host_ip.is_some() {
            return Err(InvalidServicePort::Address(text.to_owned()));
        }
        if protocol == Protocol::Sctp {
            return Err(InvalidServicePort::Protocol(text.to_owned()));
        }
        match host {
            Some(published) if published.len() == container.len() => {
                Ok(Self { published, target: container, protocol, mode })
            }
            _ => Err(InvalidServicePort::Unchosen(text.to_owned())),
        }
    }
}

written_as_text!(ServicePort);

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, target, protocol, mode } = self;
        match mode {
            PublishMode::Ingress => write!(f, "{published}:{target}/{protocol}"),
            PublishMode::Host => {
                write!(f, "published={published},target={target},protocol={protocol},mode=host")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, written) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/UDP", "8080:80/udp"),
            ("8000-8001:80-81", "8000-8001:80-81/tcp"),
            ("published=8080,target=80", "8080:80/tcp"),
            ("target=53,protocol=udp,published=5353,mode=ingress", "5353:53/udp"),
            ("mode=host,published=1,target=2", "published=1,target=2,protocol=tcp,mode=host"),
        ] {
            let port: ServicePort = text.parse().unwrap();
            assert_eq!(port.to_string(), written);
            assert_eq!(written.parse(), Ok(port));
        }
    }

    #[test]
    fn what_it_is_not() {
        for (text, why) in [
            ("80", "80: choose the port of the hosts as well, as in 8080:80: it is the same on all of them"),
            ("8000-8001:80", "8000-8001:80: choose the port of the hosts as well"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80: the port is open on every host"),
            ("8080:80/sctp", "8080:80/sctp: services carry tcp and udp"),
            ("8080:0", "invalid containerPort: 0"),
            ("published=8080", "\"published=8080\": use published=PORT,target=PORT"),
            ("published=8080,target=80,mode=all", "\"mode=all\": use published"),
        ] {
            let error = text.parse::<ServicePort>().unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn two_of_one_number_collide() {
        let port = |text: &str| text.parse::<ServicePort>().unwrap();
        assert!(port("8000-8010:0080-0090").collides(&port("8010:1")));
        assert!(!port("8000-8010:80-90").collides(&port("8011:1")));
        assert!(!port("8000:80").collides(&port("8000:80/udp")));
        assert!(port("8000-8010:80-90").leads_to(&"81".parse().unwrap()));
        assert!(!port("8000-8010:80-90").leads_to(&"8000".parse().unwrap()));
    }
}
