//! The tap helper: interfaces that a privileged user creates inside a container and hands to the daemon.
//!
//! The daemon then needs no privileges over containers. The protocol is one request and one reply on a
//! SOCK_SEQPACKET unix socket beside the API's, because HTTP cannot carry a descriptor:
//!
//! ```text
//! helper                                         daemon
//!   make the interface in the target's namespace
//!   set it up (MAC, MTU, addresses, routes)
//!   AttachRequest as JSON + the TAP's descriptor  ->  make a port of it, if the version is known
//!                                                 <-  {"port": …} or {"code": …, "error": …}
//!   on refusal: delete the interface again
//! ```
//!
//! A TAP's descriptor travels by SCM_RIGHTS. Of a veth pair only the name of the host's end travels.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, IfName, PortSpec, api::Port};

/// Version of the protocol, raised with every change of its meaning.
pub const VERSION: u16 = 1;

/// Version of a request without one.
fn first() -> u16 {
    1
}

/// The helper's request: make a port of this interface, which exists and is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The protocol's version, [`VERSION`]. The first helpers did not send it.
    #[serde(default = "first")]
    pub version: u16,
    /// The port; its device is `tap` (a descriptor comes with the request) or `veth` (none does).
    pub port: PortSpec,
    /// Of a veth pair, the interface in the daemon's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifname: Option<IfName>,
}

impl AttachRequest {
    /// Reads a request. Its version is looked at first: what else a newer one says need not make sense here.
    ///
    /// # Errors
    /// It is a newer helper's, or no request.
    pub fn read(text: &[u8]) -> Result<Self, Error> {
        /// What every version says.
        #[derive(Deserialize)]
        struct Spoken {
            #[serde(default = "first")]
            version: u16,
        }
        let wrong = |error| Error::invalid(format!("the request is not what is expected here: {error}"));
        let Spoken { version } = serde_json::from_slice(text).map_err(wrong)?;
        if version > VERSION {
            return Err(Error::invalid(format!(
                "this helper speaks version {version} of the attach protocol and vswitchd version {VERSION}: \
                 restart vswitchd with the version that the helper has"
            )));
        }
        serde_json::from_slice(text).map_err(wrong)
    }
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
    /// Nothing was created.
    Refused(Error),
}

/// The socket for helpers: the API's with the suffix `.attach`.
pub fn socket_path(api: &Path) -> PathBuf {
    let mut path = api.as_os_str().to_owned();
    path.push(".attach");
    path.into()
}

/// The socket for Docker's managed plugin, in a folder of its own, which that plugin's container sees: the API's with the suffix
/// `.swarm`.
pub fn swarm_socket_path(api: &Path) -> PathBuf {
    let mut path = api.as_os_str().to_owned();
    path.push(".swarm/s");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_tells_its_version_and_a_newer_one_is_refused() {
        let port = r#""port": {"name": "web", "network": "blue", "kind": "tap"}"#;
        let read = |text: &str| AttachRequest::read(text.as_bytes());
        let old = read(&format!("{{{port}}}")).unwrap();
        assert_eq!(old.version, 1, "the first helpers tell none");
        let text = serde_json::to_string(&old).unwrap();
        assert!(text.contains(r#""version":1"#), "{text}");
        assert_eq!(read(&text).unwrap(), old);
        let newer = read(r#"{"version": 2, "ports": []}"#).unwrap_err();
        assert_eq!(
            newer.sentence,
            "this helper speaks version 2 of the attach protocol and vswitchd version 1: restart vswitchd \
             with the version that the helper has"
        );
        assert!(read("{").unwrap_err().sentence.starts_with("the request is not what is expected here: EOF"));
    }

    #[test]
    fn the_attach_socket_is_beside_the_apis() {
        assert_eq!(
            socket_path(Path::new("/run/vswitch/api.sock")),
            Path::new("/run/vswitch/api.sock.attach")
        );
    }
}
