//! A learning Ethernet switch in userspace.
#![doc = include_str!("../README.md")]

pub mod addr;
pub mod drops;
pub mod offload;
