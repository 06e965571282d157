//! Errors of measuring, with sentences the operator can act on.

use std::{io, time::Duration};

/// A failure to set up or measure a system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the operating system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {message}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The last lines it printed.
        message: String,
    },
    /// A program exceeded its time limit and was ended.
    #[error("`{command}` did not end within {limit:?}")]
    Timeout {
        /// The command line.
        command: String,
        /// The time it was given.
        limit: Duration,
    },
    /// Something did not come up in time.
    #[error("{what} was not ready within {limit:?}")]
    NotReady {
        /// What was waited for.
        what: String,
        /// The time limit.
        limit: Duration,
    },
    /// A program printed unexpected output.
    #[error("the answer of {from} has no usable `{missing}`")]
    Answer {
        /// The source of the answer.
        from: String,
        /// The missing field.
        missing: String,
    },
    /// The switch delivered other bytes than those sent.
    #[error("payload corrupted: the first wrong byte is within 64 KiB of offset {offset}")]
    Corrupt {
        /// Start of the block of 64 KiB that differs, in bytes from the start of the stream.
        offset: usize,
    },
    /// A prerequisite is not installed.
    #[error("{0}")]
    Missing(String),
    /// The user interrupted the run.
    #[error("interrupted")]
    Interrupted,
}

/// The result of all functions here that use the system.
pub type Result<T> = std::result::Result<T, Error>;

/// Names what was being done when a system call failed.
pub trait Doing<T> {
    /// Wraps the error with what was being done.
    ///
    /// # Errors
    /// Fails when `self` does.
    fn doing(self, what: &str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: &str) -> Result<T> {
        self.map_err(|source| Error::Io { what: what.to_owned(), source: source.into() })
    }
}
