//! A learning Ethernet switch in userspace: frames, tables, forwarding and devices.
//!
//! # The way of a frame
//! ```text
//! worker   waits until a device has frames, and gives it a turn
//! engine   turn:
//!            device.recv(batch)            rx       super-frames whole, offload headers checked      device, offload
//!            forwarder.forward(batch)      decide:
//!              Frame::parse                  addresses and outer tag                                 frame
//!              topology.classify             port and tag -> network                                 topology
//!              police                        within the port's limit?                                limit
//!              fdb.learn                     the source is on this port                              fdb
//!              fdb.lookup                    the destination is on which port?                       fdb
//!              topology.reach                may the frame leave there? flood: where?                topology
//!              egress.push                   slot numbers, not bytes                                 transmit
//!            device.send(egress)           tx       tags pushed and popped, cut where it must be     transmit, segment
//! ```
//! All of it on one thread, in bounded batches, with no queue, lock or allocation in between. What a frame met on its
//! way is counted on its port; if it is not delivered, under exactly one [`DropReason`](drops::DropReason).
//!
//! The core decides, the edge acts: everything but [`worker`] and the two devices of the operating system (feature `os`,
//! on by default) is pure; time is an argument.

pub mod addr;
pub mod batch;
pub mod capture;
pub mod counters;
pub mod device;
pub mod drops;
pub mod engine;
pub mod fdb;
pub mod forward;
pub mod limit;
pub mod mirror;
pub mod plan;
pub mod storm;
#[cfg(feature = "serde")]
mod text;
pub mod topology;
pub mod trace;
pub mod transmit;
mod wire;
#[cfg(feature = "os")]
pub mod worker;

pub use wire::{bytes, checksum, frame, headers, offload, segment};
