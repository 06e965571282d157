//! One daemon per state folder: a lock that is released with its process.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

use tracing::warn;

use crate::store::file::{LOCK, make_folder};

/// Held as long as the daemon runs. The kernel releases it however the process ends. The process number in the file is only for
/// people, so a reused number has no effect.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    _file: File,
}

/// Why the lock is not available.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("vswitchd runs already with the state folder {} (process {pid}): stop it, or set switch.state to another folder", .folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
        /// Process number, as its holder wrote it.
        pid: String,
    },
    /// The folder or file cannot be created.
    #[error("cannot use the state folder {}: {error}: correct switch.state, or run as root", .folder.display())]
    Os {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl InstanceLock {
    /// Creates `folder` if it is missing, and takes its lock.
    pub(crate) fn take(folder: &Path) -> Result<Self, LockError> {
        let os = |error| LockError::Os { folder: folder.to_owned(), error };
        make_folder(folder).map_err(os)?;
        let path = folder.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(os)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(os)?;
                return Err(LockError::Taken { folder: folder.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(os(error)),
        }
        // Overwritten, then truncated: a full disk has no room for another file. A lock without a number is valid all the same.
        let text = format!("{}\n", process::id());
        if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.set_len(text.len() as u64)) {
            warn!("{}: the process number cannot be written: {error}", folder.join(LOCK).display());
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_daemon_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = InstanceLock::take(folder.path()).unwrap();
        let refusal = InstanceLock::take(folder.path()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("(process {})", process::id())), "{refusal}");
        drop(first);
        InstanceLock::take(folder.path()).unwrap();
    }
}
