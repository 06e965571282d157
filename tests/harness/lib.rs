//! The harness of the tests: namespaces, daemons, probes.
//!
//! A test with a real kernel is a small host. [`Netns`] makes the namespaces of its containers, [`Vswitchd`] runs the
//! daemon in a namespace of its own (so the machine's interfaces stay as they are, and tests run beside each other),
//! and the probes talk through sockets that were opened inside: [`tcp`], [`udp`], [`raw`]. All of it goes when the
//! values are dropped, whether the test passes or not.
//!
//! Waiting is always for a condition, with a limit that a busy machine keeps: [`eventually`].
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
pub mod lab;
pub mod netns;
pub mod pattern;
pub mod process;
pub mod raw;
pub mod tcp;
pub mod udp;
pub mod underlay;

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

/// How long anything may take that is expected to happen, on a machine that does other things as well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `probe` until it answers, and returns its answer.
///
/// # Panics
/// Nothing came within [`PATIENCE`]: says that `what` did not happen.
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe)
}

/// The same with a limit that is part of what is tested.
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
