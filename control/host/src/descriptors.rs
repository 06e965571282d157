//! How many descriptors the process may have open, RLIMIT_NOFILE, and who may have how many of them.
//!
//! Each port, each published port and each client costs some. What can wait, or can be refused, has a share of the limit, so
//! that what looks after containers that run never lacks one.

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tracing::warn;

/// Descriptors that are never given to what can be refused.
const RESERVE: usize = 64;

/// Raises the soft limit to the hard one: the soft one is 1,024 on most hosts, for programs that use select(2).
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!("the limit of open files stays at {}: {error}", most());
    }
}

/// The current limit.
pub fn most() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// `wanted`, but at most one `part`-th of the limit.
pub fn share(wanted: usize, part: usize) -> usize {
    wanted.min(most() / part).max(1)
}

/// Refuses to open `count` more for what can be refused, if only the reserve would be left.
///
/// # Errors
/// A sentence that names the limit.
pub fn check_room(count: usize) -> Result<(), String> {
    let most = most();
    let needed = next().saturating_add(count).saturating_add(RESERVE.min(most / 8));
    if needed <= most {
        return Ok(());
    }
    Err(format!(
        "{count} more descriptors are needed, and the limit of open files is {most}: raise LimitNOFILE of vswitchd's unit \
         (RLIMIT_NOFILE), or publish fewer ports"
    ))
}

/// The lowest number that is free: at least as many descriptors are open, and no more where none were closed.
fn next() -> usize {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    open("/", flags, Mode::empty()).map_or(usize::MAX, |file| usize::try_from(file.as_raw_fd()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_use_up_the_limit_is_refused_by_its_name() {
        check_room(1).unwrap();
        let most = most();
        let refusal = check_room(most).unwrap_err();
        assert!(refusal.contains(&format!("the limit of open files is {most}")), "{refusal}");
        assert_eq!(share(1, 8), 1);
        assert!(share(usize::MAX, 8) <= most / 8 || most < 8);
    }
}
