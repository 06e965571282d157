//! What can go wrong while measuring, said so that the operator can act on it.

use std::{io, time::Duration};

/// Why a system could not be set up or measured.
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
    /// A program ran longer than it was allowed to, and was ended.
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
        /// How long it was waited for.
        limit: Duration,
    },
    /// A program printed something else than it should.
    #[error("the answer of {from} has no usable `{missing}`")]
    Answer {
        /// Who answered.
        from: String,
        /// The field that was looked for.
        missing: String,
    },
    /// The switch delivered other bytes than were sent.
    #[error("payload corrupted: the first wrong byte is within 64 KiB of offset {offset}")]
    Corrupt {
        /// Start of the block of 64 KiB that differs, in bytes from the start of the stream.
        offset: usize,
    },
    /// Something has to be installed first.
    #[error("{0}")]
    Missing(String),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// The result of everything here that talks to the system.
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
