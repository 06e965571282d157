//! The test harness: namespaces, daemons, probes.
//!
//! A test with a real kernel is a small host. [`Netns`] creates the namespaces of its containers, [`Vswitchd`] runs the
//! daemon in a namespace of its own (so the machine's interfaces are not touched, and tests can run in parallel), and the
//! probes use sockets opened inside: [`tcp`], [`udp`], [`raw`]. Everything is cleaned up on drop, whether the test passes
//! or not.
//!
//! Tests wait for conditions, with a timeout that a busy machine meets: [`eventually`].
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on panics, in its helpers too"
)]

mod browser;
pub mod config;
mod container;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod fuzz;
pub mod http;
pub mod lab;
pub mod netns;
pub mod pattern;
pub mod process;
pub mod raw;
pub mod tcp;
pub mod udp;
pub mod underlay;
pub mod variety;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use self::{
    browser::Browser,
    config::{Config, net},
    container::Container,
    daemon::{Output, Vswitchd},
    engine::{Engine, Mounts},
    netns::Netns,
    raw::Raw,
};

/// Timeout of anything that is expected to happen, generous enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `probe` until it returns a value.
///
/// # Panics
/// It does not within [`PATIENCE`]; the message says that `what` did not happen.
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe)
}

/// Like [`eventually`], with a timeout that is part of what is tested.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
