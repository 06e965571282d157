//! The control plane of vswitchd.

pub mod model;
