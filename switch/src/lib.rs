//! A learning Ethernet switch in userspace: frames, tables, forwarding and devices.
//!
//! # The way of a frame
//! ```text
//! worker   waits for devices to become readable and gives each a turn
//! engine   turn:
//!            device.recv(batch)            rx       super-frames whole, offload headers checked      device, offload
//!            forwarder.forward(batch)      decide:
//!              Frame::parse                  addresses and outer tag                                 frame
//!              topology.classify             port and tag -> network                                 topology
//!              guard                         may its port's station say so?                          guard
//!              police                        within the port's limit?                                limit
//!              fdb.learn                     the source is on this port                              fdb
//!              fdb.lookup                    the destination is on which port?                       fdb
//!              topology.reach                may the frame leave there? flood: where?                topology
//!              answer                        a question that need not be flooded?                    neighbours
//!              put                           a flood to many ports waits, and is sent between turns  spread
//!              egress.push                   slot numbers, not bytes                                 transmit
//!            device.send(egress)           tx       tags pushed and popped, segmented if needed      transmit, segment
//! ```
//! All of this runs on one thread, in bounded batches, without queues, locks or allocations in between. Each
//! frame is counted on its port; a frame that is not delivered is counted under exactly one
//! [`DropReason`](drops::DropReason).
//!
//! The core decides, the edge acts: everything except [`worker`] and the devices of the operating system
//! (feature `os`, on by default) is pure, and time is an argument. The feature `serde` adds the form in which
//! files and the API write values.

pub mod addr;
pub mod batch;
pub mod capture;
pub mod counters;
pub mod datagrams;
pub mod device;
pub mod drops;
pub mod engine;
pub mod fdb;
pub mod forward;
pub mod guard;
pub mod limit;
pub mod mirror;
pub mod neighbours;
pub mod plan;
pub mod spread;
pub mod storm;
#[cfg(feature = "serde")]
mod text;
mod too_big;
pub mod topology;
pub mod trace;
pub mod transmit;
mod wire;
#[cfg(feature = "os")]
pub mod worker;

pub use wire::{bytes, checksum, frame, giant, headers, offload, segment, tunnel};
