//! The machine on which a figure was measured: without it a figure has no meaning.

use std::{collections::BTreeMap, fs};

use crate::process::run_line;

/// Machine, kernel, tools, date. Unknown values are omitted.
pub fn describe() -> BTreeMap<String, String> {
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let facts = [
        ("date", said("date -u +%FT%TZ")),
        ("kernel", said("uname -srm")),
        ("cpu", format!("{cpus} x {}", model.map_or("unknown", |(_, name)| name))),
        ("load", read("/proc/loadavg")),
        ("default congestion control", default_control()),
        ("available congestion controls", read(&format!("{IPV4}tcp_available_congestion_control"))),
        ("idle governor", read("/sys/devices/system/cpu/cpuidle/current_governor")),
        ("iperf3", said("iperf3 --version")),
        ("iproute2", said("ip -V")),
    ];
    let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), first_line(&value)));
    facts.filter(|(_, value)| !value.is_empty()).collect()
}

const IPV4: &str = "/proc/sys/net/ipv4/";

/// The default congestion control of sockets.
pub fn default_control() -> String {
    first_line(&read(&format!("{IPV4}tcp_congestion_control")))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn said(line: &str) -> String {
    run_line(line).unwrap_or_default()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
