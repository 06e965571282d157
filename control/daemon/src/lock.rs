//! One daemon per state folder: a lock that dies with its process.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    process,
};

/// Held as long as the daemon runs. The kernel frees it however the process ends, and the process number in
/// the file is only for people, so a number that was used again cannot fool anybody.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Somebody has it.
    #[error("vswitchd runs already with the state folder {} (process {pid}): stop it, or set switch.state to another folder", .folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
        /// What its holder wrote.
        pid: String,
    },
    /// The folder or file cannot be made.
    #[error("cannot use the state folder {}: {error}: correct switch.state, or run as root", .folder.display())]
    Os {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl InstanceLock {
    /// Makes `folder` if it is missing, and takes its lock.
    pub(crate) fn take(folder: &Path) -> Result<Self, LockError> {
        let os = |error| LockError::Os { folder: folder.to_owned(), error };
        fs::create_dir_all(folder).map_err(os)?;
        let path = folder.join("vswitchd.lock");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(os)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(os)?;
                return Err(LockError::Taken { folder: folder.to_owned(), pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(os(error)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(os)?;
        writeln!(file, "{}", process::id()).map_err(os)?;
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
