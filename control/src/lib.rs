//! The control plane of vswitchd.

pub mod config;
mod fields;
pub mod model;
pub mod state;
pub mod store;
pub mod api;
pub mod attach;
pub mod cli;
pub mod client;
pub mod daemon;
pub mod link;
pub mod model;
pub mod netns;
pub mod socket;
