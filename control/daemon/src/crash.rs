//! Crash points for the test that kills the daemon between any two steps of a command (`tests/kernel/crash.rs`).
//!
//! Only development builds have them: in a release [`point`] does nothing.

/// A point at which the daemon may be killed: what precedes is done, what follows is not begun.
///
/// The file named by `VSWITCHD_CRASH` contains the number of points still to be passed; at zero the process is killed by
/// SIGKILL.
#[cfg(debug_assertions)]
pub(crate) fn point() {
    use rustix::process::{Signal, getpid, kill_process};

    let Some(file) = std::env::var_os("VSWITCHD_CRASH") else { return };
    // Without the file no crash is ordered.
    let Ok(text) = std::fs::read_to_string(&file) else { return };
    let left: u32 = text.trim().parse().expect("the file holds a number");
    match left.checked_sub(1) {
        Some(left) => std::fs::write(&file, left.to_string()).expect("the file can be written"),
        None => kill_process(getpid(), Signal::KILL).expect("a process may kill itself"),
    }
}

/// Does nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn point() {}
