//! CPU time of the whole machine, from `/proc/stat`.
//!
//! Work in softirq is charged to the interrupted process, so only the time of the whole machine gives the cost of a
//! byte. The machine should be idle otherwise.

use std::{fs, ops::Sub};

use crate::error::{Doing, Error, Result};

/// Ticks per second in `/proc/stat`: USER_HZ, which is 100 on every supported Linux architecture.
const USER_HZ: f64 = 100.0;

/// Seconds of CPU time, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Everything except idle, I/O wait and stolen time.
    pub busy: f64,
    /// The part of `busy` in softirq context.
    pub softirq: f64,
    /// Time the hypervisor gave to other guests.
    pub steal: f64,
    /// Total, idle time included.
    pub total: f64,
}

impl Usage {
    /// Reads the times since boot.
    ///
    /// # Errors
    /// Fails when `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").doing("read /proc/stat")?;
        Self::parse(&text).ok_or_else(|| Error::Answer { from: "/proc/stat".into(), missing: "cpu".into() })
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let seconds = line.split_whitespace().map(|ticks| ticks.parse::<f64>().map(|ticks| ticks / USER_HZ));
        let seconds = seconds.collect::<std::result::Result<Vec<_>, _>>().ok()?;
        // The guest columns after steal are part of user and nice already.
        let &[user, nice, system, idle, iowait, irq, softirq, steal, ..] = seconds.as_slice() else {
            return None;
        };
        let busy = user + nice + system + irq + softirq;
        Some(Self { busy, softirq, steal, total: busy + idle + iowait + steal })
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            busy: self.busy - earlier.busy,
            softirq: self.softirq - earlier.softirq,
            steal: self.steal - earlier.steal,
            total: self.total - earlier.total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_and_idle_are_not_busy() {
        let usage = Usage::parse("cpu  100 0 200 5000 10 0 300 40 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let expected = Usage { busy: 6.0, softirq: 3.0, steal: 0.4, total: 56.5 };
        assert_eq!(usage, Some(expected));
        assert_eq!(Usage::parse("cpu 1 2 3\n"), None);
    }
}
