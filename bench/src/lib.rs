//! Benches of vswitchd.

pub mod forward;
