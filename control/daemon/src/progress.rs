//! How far a long change is: told in the log, to the service manager and in the status.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sd_notify::NotifyState;
use tracing::info;

/// What the core is busy with for more than a second, if it is.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Option<String>>);

impl Progress {
    /// Tells that `done` of `total` are done, as in "interfaces are set up: 812 of 2000".
    pub(crate) fn tell(&self, what: &str, done: usize, total: usize) {
        let text = format!("{what}: {done} of {total}");
        info!("{text}");
        // Without systemd this has no effect. A manager that is stuck loses the message: the socket is a datagram's.
        let _ = sd_notify::notify(&[NotifyState::Status(&text)]);
        *self.lock() = Some(text);
    }

    /// The change is over.
    pub(crate) fn end(&self) {
        if self.lock().take().is_some() {
            let _ = sd_notify::notify(&[NotifyState::Status("forwarding")]);
        }
    }

    /// What was told last, while the change goes on.
    pub(crate) fn now(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_goes_with_the_change() {
        let progress = Progress::default();
        assert_eq!(progress.now(), None);
        progress.tell("interfaces are set up", 812, 2000);
        assert_eq!(progress.now().as_deref(), Some("interfaces are set up: 812 of 2000"));
        progress.end();
        assert_eq!(progress.now(), None);
    }
}
