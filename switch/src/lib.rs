//! A learning Ethernet switch in userspace.

pub mod addr;
pub mod batch;
pub mod checksum;
pub mod counters;
pub mod device;
pub mod drops;
pub mod engine;
pub mod fdb;
pub mod forward;
pub mod frame;
pub mod headers;
pub mod offload;
pub mod plan;
pub mod segment;
pub mod storm;
pub mod topology;
pub mod transmit;
#[cfg(feature = "os")]
pub mod worker;
