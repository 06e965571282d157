//! Crashes by order, for the test that kills the daemon between any two steps of a command (`tests/crash.rs`).
//!
//! Only builds for development have them: in a release there is nothing to order them by, and [`point`] is nothing.

/// A moment at which the daemon may be killed: what was done before is done, what comes after is not begun.
///
/// The file that `VSWITCHD_CRASH` names holds how many more are to be passed; at zero the process ends as by kill -9.
#[cfg(debug_assertions)]
pub(crate) fn point() {
    use rustix::process::{Signal, getpid, kill_process};

    let Some(file) = std::env::var_os("VSWITCHD_CRASH") else { return };
    // Without the file, none is ordered.
    let Ok(text) = std::fs::read_to_string(&file) else { return };
    let left: u32 = text.trim().parse().expect("the file holds a number");
    match left.checked_sub(1) {
        Some(left) => std::fs::write(&file, left.to_string()).expect("the file can be written"),
        None => kill_process(getpid(), Signal::KILL).expect("a process may kill itself"),
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn point() {}
