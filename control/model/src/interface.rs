//! The container's end of a port: where it is and how it is set up.

use std::{fmt, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use vswitch::addr::MacAddr;

use super::{Identity, IfName};

/// The container's end of a port: where it is and how it is set up.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceSpec {
    /// Its namespace; by default the daemon's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<Netns>,
    /// The interface's name; by default the port's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<IfName>,
    /// Its MAC address; by default chosen by the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its IP addresses with prefix length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<IpNet>,
    /// The default route's next hops, at most one per address family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<IpAddr>,
    /// Whether the interface outlives the daemon.
    pub persist: bool,
    /// Set if another program moves the interface and sets it up; derived from its endpoint.
    #[serde(skip)]
    pub bare: Option<Bare>,
    /// What `netns` must name, if the interface belongs to one namespace and not to its name; derived from its endpoint.
    #[serde(skip)]
    pub identity: Option<Identity>,
}

/// A bare interface: created in `netns`, down and without addresses, for the caller to move.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Bare {
    /// Where it was moved, if known.
    pub moved: Option<Netns>,
}

/// A network namespace: a name under /run/netns, a path, or a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Netns {
    /// As `ip netns` names it.
    Name(String),
    /// A file that holds it open: /proc/PID/ns/net, or a bind mount.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
}

impl From<String> for Netns {
    fn from(text: String) -> Self {
        match text.strip_prefix("pid:").map(str::parse) {
            Some(Ok(pid)) => Self::Pid(pid),
            _ if text.contains('/') => Self::Path(text.into()),
            _ => Self::Name(text),
        }
    }
}

impl From<Netns> for String {
    fn from(netns: Netns) -> Self {
        netns.to_string()
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

impl Netns {
    /// The file that names the namespace.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Name(name) => PathBuf::from("/run/netns").join(name),
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }
}
