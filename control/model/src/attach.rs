//! The tap helper: interfaces that a privileged user creates inside a container and hands to the daemon.
//!
//! The daemon then needs no privileges over containers. The protocol is one request and one reply on a
//! SOCK_SEQPACKET unix socket beside the API's, because HTTP cannot carry a descriptor:
//!
//! ```text
//! helper                                         daemon
//!   make the interface in the target's namespace
//!   set it up (MAC, MTU, addresses, routes)
//!   AttachRequest as JSON + the TAP's descriptor  ->  make a port of it
//!                                                 <-  {"port": …} or {"code": …, "error": …}
//!   on refusal: delete the interface again
//! ```
//!
//! A TAP's descriptor travels by SCM_RIGHTS. Of a veth pair only the name of the host's end travels.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, IfName, PortSpec, api::Port};

/// The helper's request: make a port of this interface, which exists and is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The port; its device is `tap` (a descriptor comes with the request) or `veth` (none does).
    pub port: PortSpec,
    /// Of a veth pair, the interface in the daemon's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifname: Option<IfName>,
}

/// The daemon's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// The port, made.
    Attached {
        /// As the API shows it.
        port: Box<Port>,
    },
    /// Nothing was made.
    Refused(Error),
}

/// The socket for helpers: the API's with the suffix `.attach`.
pub fn socket_path(api: &Path) -> PathBuf {
    let mut path = api.as_os_str().to_owned();
    path.push(".attach");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attach_socket_is_beside_the_apis() {
        assert_eq!(
            socket_path(Path::new("/run/vswitch/api.sock")),
            Path::new("/run/vswitch/api.sock.attach")
        );
    }
}
