//! What makes a network, and how far it reaches.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What makes a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A network of this host alone.
    Bridge,
    /// Tunnels carry it to all peers.
    Overlay,
    /// A segment of the LAN: containers are on it with MAC addresses of their own.
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

/// Text that is not the name of a driver.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
            other => Err(format!("{other:?} is not a scope: use local or global")),
        }
    }
}

/// Names that Docker's users know as its own networks; no other network may have them.
pub fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none" | "default")
}
