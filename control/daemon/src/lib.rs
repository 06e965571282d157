//! vswitchd: what is wanted, what is real, and the faces that ask and answer.
//!
//! | module | its story |
//! |---|---|
//! | [`config`] | `net.toml`, and everything that is wrong with it |
//! | [`state`] | what is wanted; commands to effects, pure |
//! | [`store`] | what the API made, on the disk |
//! | `serve`, `services` | starts and stops all of it |
//! | `core` | the one owner of it all: serves requests, publishes snapshots |
//! | `edge` | performs commands: devices, interfaces, the plan of the workers |
//! | `view`, `journal`, `capture` | what is seen of the switch |
//! | `api` | HTTP and JSON on a unix socket |
//! | `attach` | the socket of the tap helper |
//! | `docker` | Docker's network and IPAM plugin |
//! | `metrics`, `web` | the counters for Prometheus; the web page |

mod api;
mod attach;
mod capture;
pub mod config;
mod core;
mod crash;
mod device;
mod docker;
mod edge;
mod http;
mod journal;
mod kept;
mod lock;
mod log;
mod machine;
mod metrics;
mod serve;
mod services;
mod sight;
pub mod state;
pub mod store;
mod tunnel;
mod view;
mod web;

pub(crate) use serve::Failure;
pub use serve::{LogFormat, Options, run};
