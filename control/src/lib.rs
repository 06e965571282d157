//! The control plane of vswitchd.

pub mod config;
mod fields;
pub mod model;
