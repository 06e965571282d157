//! Processes: their end with the test, and the resources they use.

use std::{fs, process::Child, thread, time::Duration};

/// A process that is killed on drop.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of all threads of a process so far.
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanos = threads.flatten().filter_map(|thread| {
        // Documentation/scheduler/sched-stats.rst: nanoseconds running, nanoseconds waiting, number of time slices.
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Share of one CPU used by a process during `interval`.
pub fn load(pid: u32, interval: Duration) -> f64 {
    let before = cpu_time(pid);
    thread::sleep(interval);
    (cpu_time(pid) - before).as_secs_f64() / interval.as_secs_f64()
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Number of open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
