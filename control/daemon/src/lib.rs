//! vswitchd: the desired state, the real one, and the services that show and change them.
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | `net.toml`, with all its errors at once |
//! | [`state`] | the desired state; commands to effects, pure |
//! | [`store`] | objects of the API, on the disk |
//! | `serve`, `services` | starts and stops everything |
//! | `core` | the owner of state, devices and store: serves requests, publishes snapshots |
//! | `directory` | the stations of other hosts, as a control plane tells; pure |
//! | `edge` | performs effects: devices, interfaces, the workers' plan |
//! | `view`, `journal`, `capture` | readers' views of the switch |
//! | `api` | HTTP and JSON on a unix socket |
//! | `attach` | the socket of the tap helper |
//! | `cluster` | this host in a cluster: follows its store, lets hosts in |
//! | `names` | who has which name, and the DNS server |
//! | `docker` | Docker's network and IPAM plugin |
//! | `metrics`, `web` | counters for Prometheus; the web page |

mod api;
mod attach;
mod capture;
mod cluster;
pub mod config;
mod core;
mod crash;
mod device;
mod directory;
mod docker;
mod edge;
mod health;
mod http;
mod journal;
mod kept;
mod lock;
mod log;
mod machine;
mod metrics;
mod names;
mod progress;
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
