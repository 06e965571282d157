//! Limits on the memory that a request may use.
//!
//! An allocation that fails ends the process, and one that succeeds may end it later, when its pages are used and the
//! kernel's or the control group's memory is exhausted. So sizes chosen by clients are checked here first.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
};

/// Refuses `bytes` for `what` if they are more than half of what is available.
///
/// # Errors
/// A sentence with both numbers.
pub fn check_room(what: &str, bytes: u64) -> Result<(), String> {
    let available = available();
    let fits = available.is_none_or(|available| bytes <= available / 2)
        && usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    if fits {
        return Ok(());
    }
    let have = available.map_or_else(|| "less".to_owned(), |available| format!("{} MiB", available >> 20));
    Err(format!(
        "{what} needs {} MiB of memory, and {have} are available, of which half may be used",
        bytes >> 20
    ))
}

/// Bytes that this process can still use without the OOM killer's intervention; `None` if unknown.
fn available() -> Option<u64> {
    [of_host(), of_groups(), of_process()].into_iter().flatten().min()
}

/// `MemAvailable` of /proc/meminfo (proc(5)).
fn of_host() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    field(&text, "MemAvailable:").map(|kilobytes| kilobytes * 1024)
}

/// Bytes left by the process's control groups: version 2, and the memory controller of version 1.
fn of_groups() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (root, files) = match controllers {
            "" => ("/sys/fs/cgroup", ["memory.max", "memory.current"]),
            "memory" => ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes"]),
            _ => return None,
        };
        let folder = PathBuf::from(format!("{root}{path}"));
        folder.ancestors().take_while(|it| it.starts_with(root)).filter_map(|it| left(it, files)).min()
    };
    groups.lines().filter_map(group).min()
}

/// Bytes left by a group: its limit minus its usage, of which the page cache can be reclaimed.
fn left(folder: &Path, [limit, usage]: [&str; 2]) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name| read(name)?.trim().parse::<u64>().ok();
    let cache = read("memory.stat").and_then(|text| field(&text, "inactive_file")).unwrap_or(0);
    Some(number(limit)?.saturating_sub(number(usage)?.saturating_sub(cache)))
}

/// Bytes of address space left by RLIMIT_AS.
fn of_process() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').next()?.parse().ok()?;
    Some(limit.saturating_sub(pages * page_size() as u64))
}

/// The number after `name` in lines of names and numbers.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_given_and_more_is_refused() {
        check_room("a test", 1 << 20).unwrap();
        let refusal = check_room("a test", 1 << 50).unwrap_err();
        assert!(refusal.starts_with("a test needs 1073741824 MiB of memory, and "), "{refusal}");
    }

    #[test]
    fn the_least_of_all_limits_counts() {
        assert_eq!(field("MemFree: 1 kB\nMemAvailable:   2048 kB\n", "MemAvailable:"), Some(2048));
        let folder = tempfile::tempdir().unwrap();
        let files = ["memory.max", "memory.current"];
        assert_eq!(left(folder.path(), files), None, "no such group");
        for (name, text) in
            [("memory.max", "max\n"), ("memory.current", "700\n"), ("memory.stat", "inactive_file 100\n")]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(left(folder.path(), files), None, "no limit");
        fs::write(folder.path().join("memory.max"), "1000\n").unwrap();
        assert_eq!(left(folder.path(), files), Some(400));
    }
}
