//! The VXLAN tunnel endpoint (RFC 7348) in userspace: frames of the switch to and from UDP datagrams.
//!
//! # The way of a frame
//! ```text
//! out   a peer's port is served             device::Remote
//!         encap: order by flow, segment,      flow, mss, header               pure
//!                load trains
//!         endpoint.send: one sendmsg         endpoint                        UDP_SEGMENT
//! copy  a mirror's port is served          copies                          one VNI for all
//! in    a socket is ready                  device::Inlet
//!         endpoint.recv: one message         endpoint                        UDP_GRO
//!         decap: header, network, ECN,       header, tables, ecn, mss, run   pure
//!                coalesce
//!         frames in the batch, each with its peer's port as ingress and its network
//! ```
//! A remote endpoint is a port of the switch like any other: there is one table of addresses, and learning,
//! moves and ageing across a tunnel are the same code as on a TAP. Peers share a split-horizon group, so no
//! frame is forwarded from tunnel to tunnel.

pub mod copies;
pub mod decap;
#[cfg(feature = "os")]
pub mod device;
pub mod ecn;
pub mod encap;
#[cfg(feature = "os")]
pub mod endpoint;
mod flow;
pub mod header;
#[cfg(feature = "os")]
pub mod losses;
mod mss;
mod nested;
pub mod run;
#[cfg(feature = "os")]
mod sockopt;
pub mod strangers;
pub mod tables;
#[cfg(feature = "serde")]
mod text;
