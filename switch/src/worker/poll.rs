//! Waiting for frames: busy polling while it pays off, then sleeping.
//!
//! Waking a sleeping thread costs the waker an interrupt to another CPU, several microseconds, more in a
//! virtual machine, and the waker is the sending container. So after its last frame a worker polls for a
//! while before it sleeps, like the kernel's sockets (`net.core.busy_poll`) and a hypervisor with an idle
//! CPU. The duration adapts: a short sleep makes the next poll longer, a long one makes it shorter. A worker
//! whose frames are far apart does not poll at all, and one without frames costs nothing.

use std::time::{Duration, Instant};

use rustix::{
    event::{Timespec, epoll},
    fd::OwnedFd,
    io::Errno,
};

/// Minimum duration of a poll: about the time of a sleep and a wake-up.
const SHORTEST: Duration = Duration::from_micros(5);

/// Adaptive duration of busy polling.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    longest: Duration,
    current: Duration,
}

impl BusyPoll {
    /// Limits polling to `longest`; zero disables it.
    pub(super) fn limit(&mut self, longest: Duration) {
        self.longest = longest;
        self.current = self.current.min(longest);
    }

    /// Waits until a descriptor is ready, and returns the number of `events`. `idle` is the start of the
    /// wait, about now.
    pub(super) fn wait(
        &mut self,
        epoll: &OwnedFd,
        events: &mut [epoll::Event],
        idle: Instant,
    ) -> Result<usize, Errno> {
        let mut asleep = idle;
        if !self.current.is_zero() {
            while idle.elapsed() < self.current {
                match epoll::wait(epoll, &mut *events, Some(&Timespec::default()))? {
                    0 => std::hint::spin_loop(),
                    ready => return Ok(ready),
                }
            }
            asleep = Instant::now();
        }
        let ready = epoll::wait(epoll, events, None)?;
        self.learn(asleep.elapsed());
        Ok(ready)
    }

    /// Adapts to the duration of a sleep.
    fn learn(&mut self, slept: Duration) {
        self.current = if slept < self.longest {
            (self.current * 2).clamp(SHORTEST, self.longest.max(SHORTEST))
        } else {
            Some(self.current / 2).filter(|half| *half >= SHORTEST).unwrap_or_default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(50);

    fn after(sleeps: &[u64]) -> u128 {
        let mut poll = BusyPoll::default();
        poll.limit(LONGEST);
        sleeps.iter().for_each(|micros| poll.learn(Duration::from_micros(*micros)));
        poll.current.as_micros()
    }

    #[test]
    fn looks_longer_while_sleeps_are_short_and_not_at_all_when_they_are_long() {
        assert_eq!(after(&[]), 0);
        assert_eq!(after(&[10]), 5);
        assert_eq!(after(&[10; 10]), 50);
        assert_eq!(after(&[10, 10, 10, 1000]), 10);
        assert_eq!(after(&[10, 10, 1000, 1000]), 0);
        assert_eq!(after(&[1000; 10]), 0);
    }

    #[test]
    fn zero_switches_it_off() {
        let mut poll = BusyPoll::default();
        poll.learn(Duration::ZERO);
        assert_eq!(poll.current, Duration::ZERO);
    }
}
