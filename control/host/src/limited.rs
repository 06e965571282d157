//! Calls with a time limit on files named by clients.
//!
//! A path may lead to a network file system whose server is gone, or to one that a program implements (FUSE): even looking
//! it up may take for ever, and no flag of open(2) prevents that. Such a call is made on a thread of its own, and abandoned
//! after `LIMIT`. The thread stays until the kernel returns; until then its path is refused at once, and so is every path
//! while `MOST` threads wait.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

/// Time limit of a call.
const LIMIT: Duration = Duration::from_secs(2);

/// Maximum number of hanging calls.
const MOST: usize = 32;

/// Paths that hang, each until its thread has ended and dropped its token.
static HANGING: Mutex<Option<HashMap<PathBuf, Weak<()>>>> = Mutex::new(None);

/// Calls `look` with each of `paths`, and returns its results in their order.
///
/// # Errors
/// Of a path: [`io::ErrorKind::TimedOut`] if it hangs, [`io::ErrorKind::ResourceBusy`] if too many hang already, the
/// kernel's if there is no thread.
pub fn each<T: Send + 'static>(paths: &[PathBuf], look: fn(&Path) -> T) -> Vec<io::Result<T>> {
    let mut results = Vec::with_capacity(paths.len());
    while let Some(rest) = paths.get(results.len()..).filter(|rest| !rest.is_empty()) {
        if let Err(error) = check(&rest[0]) {
            results.push(Err(error));
            continue;
        }
        let run = rest.iter().take_while(|path| check(path).is_ok()).cloned().collect::<Vec<_>>();
        let (answer, answers) = channel();
        let token = Arc::new(());
        let mark = Arc::downgrade(&token);
        let count = run.len();
        let begun = thread::Builder::new().name("limited".into()).spawn(move || {
            let _token = token;
            for path in run {
                if answer.send(look(&path)).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = begun {
            results.push(Err(error));
            continue;
        }
        for _ in 0..count {
            match answers.recv_timeout(LIMIT) {
                Ok(result) => results.push(Ok(result)),
                Err(RecvTimeoutError::Timeout) => {
                    let path = &paths[results.len()];
                    hanging(|hanging| drop(hanging.insert(path.clone(), mark)));
                    results.push(Err(hangs(path)));
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    results.push(Err(io::Error::other("the thread that looked has failed")));
                    break;
                }
            }
        }
    }
    results
}

/// Calls `look` with `path`.
///
/// # Errors
/// Those of [`each`].
pub fn one<T: Send + 'static>(path: &Path, look: fn(&Path) -> T) -> io::Result<T> {
    each(&[path.to_owned()], look).pop().unwrap_or_else(|| Err(io::ErrorKind::Other.into()))
}

/// Refuses a path that hangs, or any if there is no thread left for it.
fn check(path: &Path) -> io::Result<()> {
    hanging(|hanging| {
        hanging.retain(|_, token| token.strong_count() > 0);
        if hanging.contains_key(path) {
            return Err(hangs(path));
        }
        if hanging.len() >= MOST {
            let why = format!(
                "{MOST} other paths hang already, like {}: end what serves their file systems",
                hanging.keys().next().map(|path| path.display().to_string()).unwrap_or_default()
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        Ok(())
    })
}

fn hangs(path: &Path) -> io::Error {
    let why = format!(
        "{} does not answer within {} s: does its file system hang? Give another path",
        path.display(),
        LIMIT.as_secs()
    );
    io::Error::new(io::ErrorKind::TimedOut, why)
}

fn hanging<T>(with: impl FnOnce(&mut HashMap<PathBuf, Weak<()>>) -> T) -> T {
    let mut hanging: MutexGuard<'_, _> = HANGING.lock().unwrap_or_else(PoisonError::into_inner);
    with(hanging.get_or_insert_default())
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;

    /// Opening a FIFO waits for a writer: it stands for a file system that does not answer.
    fn read(path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn kind<T>(result: &io::Result<T>) -> Option<io::ErrorKind> {
        result.as_ref().err().map(io::Error::kind)
    }

    #[test]
    fn what_hangs_is_given_up_and_delays_the_others_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a", "c"] {
            fs::write(at(name), name).unwrap();
        }
        rustix::fs::mkfifoat(rustix::fs::CWD, at("b"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let paths = ["a", "b", "c"].map(at);

        let start = Instant::now();
        let results = each(&paths, read);
        assert!(start.elapsed() < LIMIT * 2);
        assert_eq!(results[0].as_ref().unwrap().as_ref().unwrap(), "a");
        assert_eq!(kind(&results[1]), Some(io::ErrorKind::TimedOut));
        assert_eq!(results[2].as_ref().unwrap().as_ref().unwrap(), "c");

        let start = Instant::now();
        assert_eq!(kind(&one(&paths[1], read)), Some(io::ErrorKind::TimedOut));
        assert!(start.elapsed() < LIMIT, "it is known to hang");

        // The FIFO has a writer now: the thread ends, and then the path is tried again.
        fs::write(&paths[1], "").unwrap();
        while check(&paths[1]).is_err() {
            thread::yield_now();
        }
        fs::remove_file(&paths[1]).unwrap();
        let again = one(&paths[1], read).unwrap();
        assert_eq!(kind(&again), Some(io::ErrorKind::NotFound));
    }
}
