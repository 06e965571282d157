//! Why a command is refused.

use std::{fmt, net::IpAddr};

use super::{NetworkError, ServiceError, peers::LEARNED_PEERS};
use vswitch_model::{Error, ErrorKind, Name, ipam::IpamError};

/// Why a command was refused; the state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is taken.
    #[error("{kind} {name} exists already: choose another name, or remove it first")]
    Exists {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// There is no such object.
    #[error("there is no {kind} {name}")]
    Missing {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// Declared in the file, which the API must not change.
    #[error("{kind} {name} is declared in the configuration file: remove it there and reload")]
    Declared {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// Declared in the file, and also created through the API.
    #[error(
        "{kind} {name} is declared in the configuration file, and {kind} {name} was made through the API: rename one, or remove one"
    )]
    Both {
        /// Network or port.
        kind: Kind,
        /// The name.
        name: Name,
    },
    /// Ports carry the network.
    #[error("network {network} is in use by {}: remove them first", list(.ports))]
    InUse {
        /// The network.
        network: Name,
        /// The ports that carry it.
        ports: Vec<Name>,
    },
    /// It violates the [rules](vswitch_model::rules).
    #[error("{}", .0.join("; "))]
    Invalid(
        /// One sentence each: `port web: address[0]: …`.
        Vec<String>,
    ),
    /// A derived port is removed with the object it is derived from.
    #[error("port {name} belongs to {of}: {what}")]
    Derived {
        /// The port.
        name: Name,
        /// The object it is derived from.
        of: String,
        /// What to do.
        what: &'static str,
    },
    /// A service cannot be created or changed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A network, or an endpoint of it, cannot be created, changed or removed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The change cannot be made while running.
    #[error("{} cannot change while running: restart the daemon to apply it", .0.join(", "))]
    NeedsRestart(
        /// Keys with both values: `switch.workers (2 -> 4)`.
        Vec<String>,
    ),
    /// Too many learned peers.
    #[error(
        "{address} does not become a peer: the limit of {LEARNED_PEERS} learned peers is reached; declare it as [[vxlan.peer]], or find out what sends from so many addresses"
    )]
    Crowded {
        /// The sender that does not become one.
        address: IpAddr,
    },
    /// A link-local sender does not become a peer of an endpoint that is not on its link.
    #[error(
        "{address} is not taken in as a peer: it is a link-local address, and vxlan.local is not one of the same link"
    )]
    NoLink {
        /// The sender.
        address: IpAddr,
    },
    /// All 65536 numbers are taken.
    #[error("there are 65536 {kind}s, the maximum: remove some first")]
    Full {
        /// Network or port.
        kind: Kind,
    },
}

/// The kinds of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A broadcast domain.
    Network,
    /// A place where frames come and go.
    Port,
    /// A sandbox's interface in a network.
    Endpoint,
    /// One name and address for several endpoints.
    Service,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Network => "network",
            Self::Port => "port",
            Self::Endpoint => "endpoint",
            Self::Service => "service",
        })
    }
}

fn list(ports: &[Name]) -> String {
    let names: Vec<_> = ports.iter().map(Name::as_str).collect();
    format!("port{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Exists { .. }
            | Refusal::Both { .. }
            | Refusal::InUse { .. }
            | Refusal::Crowded { .. }
            | Refusal::NoLink { .. }
            | Refusal::Declared { .. } => ErrorKind::Conflict,
            Refusal::Derived { .. } => ErrorKind::Conflict,
            Refusal::Missing { .. } => ErrorKind::NotFound,
            Refusal::Network(error) => code_of(error),
            Refusal::Service(error) => match error {
                ServiceError::None(..) => ErrorKind::NotFound,
                ServiceError::Taken(_) | ServiceError::Port(..) => ErrorKind::Conflict,
                _ => ErrorKind::Invalid,
            },
            Refusal::Invalid(_) | Refusal::NeedsRestart(_) | Refusal::Full { .. } => ErrorKind::Invalid,
        };
        Self::new(code, refusal.to_string())
    }
}

/// The status codes of Docker's API, for its sentences.
fn code_of(error: &NetworkError) -> ErrorKind {
    match error {
        NetworkError::NotFound(_) | NetworkError::NotConnected(..) | NetworkError::NoEndpoint(_) => {
            ErrorKind::NotFound
        }
        NetworkError::Exists(_)
        | NetworkError::EndpointExists(..)
        | NetworkError::Declared(_)
        | NetworkError::DeclaredEndpoint(..)
        | NetworkError::Uprooted(..)
        | NetworkError::Ipam(IpamError::Taken(_) | IpamError::Held(..)) => ErrorKind::Conflict,
        NetworkError::Predefined(_)
        | NetworkError::NotRemovable(_)
        | NetworkError::OnlyOne(_)
        | NetworkError::ActiveEndpoints(..)
        | NetworkError::HostNetwork
        | NetworkError::NoNetwork => ErrorKind::Forbidden,
        _ => ErrorKind::Invalid,
    }
}

impl From<NetworkError> for Error {
    fn from(error: NetworkError) -> Self {
        Refusal::from(error).into()
    }
}
