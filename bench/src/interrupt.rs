//! Ctrl-C as an ordinary error: a waiting measurement notices it and returns, so every guard is dropped.

use std::{
    io,
    sync::{Arc, LazyLock, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Maximum delay until a wait notices a signal.
pub const POLL: Duration = Duration::from_millis(20);

static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Installs handlers that turn SIGINT and SIGTERM into a request to stop.
///
/// # Errors
/// Fails when the handlers cannot be installed.
pub fn listen() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ASKED))?;
    }
    Ok(())
}

/// Fails after an interrupt.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Sleeps until an interrupt at the latest.
///
/// # Errors
/// [`Error::Interrupted`].
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// Polls `ready` until it returns a value.
///
/// # Errors
/// [`Error::NotReady`] after `limit`, [`Error::Interrupted`] after an interrupt.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ready() {
            return Ok(answer);
        }
        check()?;
        if Instant::now() >= end {
            return Err(Error::NotReady { what: what.to_owned(), limit });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
