//! A learning Ethernet switch in userspace.

pub mod addr;
pub mod drops;
pub mod fdb;
pub mod frame;
pub mod offload;
