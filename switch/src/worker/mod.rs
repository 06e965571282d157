//! The forwarding threads: waiting for frames, taking turns, adopting plans.
//!
//! A worker waits (`poll.rs`) until one of the devices it receives on has frames, gives each ready one a turn,
//! and looks for a new plan in between. It takes no lock that another may hold for long: control leaves the
//! plan in a mailbox and wakes it.

#![expect(
    clippy::disallowed_methods,
    reason = "here is the clock that the core does not read, and its threads"
)]

mod handle;
mod mailbox;
mod poll;
mod thread;

use std::sync::Arc;

pub use handle::Workers;

use crate::counters::{Counter, Histogram};

/// Called by a worker when a port has stopped receiving; see [`Port::fault`](crate::plan::Port::fault). Must not wait.
pub type OnFault = Arc<dyn Fn() + Send + Sync>;

/// What a worker has done since it was started.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Times it was woken, or found more to do without sleeping.
    pub wakeups: Counter,
    /// Turns that received something.
    pub turns: Counter,
    /// Frames received.
    pub frames: Counter,
    /// Frames that each of these turns received: up to 1, 2, 4 … 64, and more.
    pub batches: Histogram<0, 8>,
    /// Nanoseconds that each turn took: up to 2^10 (a microsecond), 2^11 … 2^24 (17 ms), and more. A receiver that had
    /// nothing after all, or a look into the mailbox, is a turn as well, so all together are the time at work.
    pub busy: Histogram<10, 16>,
}
