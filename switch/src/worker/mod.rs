//! The forwarding threads: waiting for frames, taking turns, adopting plans.
//!
//! A worker waits (`poll.rs`) for frames from the devices it receives on, gives each ready one a turn, and
//! checks for a new plan in between. It takes no lock that may be held for long: control posts the plan to a
//! mailbox and wakes the worker.

#![expect(
    clippy::disallowed_methods,
    reason = "here is the clock that the core does not read, and its threads"
)]

mod handle;
mod mailbox;
mod poll;
mod thread;

use std::sync::Arc;

pub use handle::{Readings, Workers};

use crate::counters::{Counter, Histogram};

/// Called by a worker when a port has stopped receiving; see [`Port::fault`](crate::plan::Port::fault). Must
/// not block.
pub type OnFault = Arc<dyn Fn() + Send + Sync>;

/// Statistics of a worker since its start.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Number of times it woke up, or found more work without sleeping.
    pub wakeups: Counter,
    /// Turns that received frames.
    pub turns: Counter,
    /// Frames received.
    pub frames: Counter,
    /// Frames received per such turn: up to 1, 2, 4 … 64, and more.
    pub batches: Histogram<0, 8>,
    /// Duration of turns in nanoseconds: up to 2^10 (a microsecond), 2^11 … 2^24 (17 ms), and more. Includes
    /// receivers without frames and mailbox checks, so the sum is the total busy time.
    pub busy: Histogram<10, 16>,
}
