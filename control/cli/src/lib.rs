//! The command line of vswitchd: `vswitchctl` and the CNI plugin, both clients of the daemon's API.
//!
//! | module | its story |
//! |---|---|
//! | [`ctl`] | `vswitchctl` |
//! | [`cni`] | the CNI plugin, for podman, containerd and CRI-O |
//! | [`client`] | the API's client: HTTP and JSON on a unix socket |
//! | [`attach`] | the tap helper: creates interfaces inside a container and passes them to the daemon |

pub mod attach;
pub mod client;
pub mod cni;
#[cfg(feature = "ctl")]
pub mod ctl;
