//! The control plane of vswitchd: what is wanted, what is real, and who may ask.
//!
//! | module | its story |
//! |---|---|
//! | [`model`] | the words: what a switch, a network and a port are asked to be |
//! | [`config`] | `net.toml`, and everything that is wrong with it |
//! | [`ipam`] | which addresses and subnets are free, pure |
//! | [`options`] | what `-o KEY=VALUE` means |
//! | [`state`] | what is wanted; commands to effects, pure |
//! | [`store`] | what the API made, on the disk |
//! | [`daemon`] | everything put together; performs the effects |
//! | [`gateway`] | the outside world: nftables, published ports |
//! | [`netns`], [`link`] | namespaces and interfaces |
//! | [`attach`] | the tap helper and its socket |
//! | [`api`], [`client`], [`socket`] | HTTP and JSON on a unix socket, both ends |
//! | [`web`] | the web page, on an address of its own |
//! | [`frame`] | frames as people write and read them |
//! | [`metrics`] | the counters for Prometheus |
//! | [`docker`] | Docker's network and IPAM plugin |
//! | [`cni`] | the CNI plugin, for podman, containerd and CRI-O |
//! | [`cli`] | `vswitchctl` |

pub mod api;
pub mod attach;
pub mod cli;
pub mod client;
pub mod cni;
pub mod config;
pub mod daemon;
pub mod docker;
mod fields;
pub mod frame;
pub mod gateway;
pub mod ipam;
pub mod link;
pub mod metrics;
pub mod model;
pub mod netns;
pub mod options;
pub mod socket;
pub mod state;
pub mod store;
pub mod web;
