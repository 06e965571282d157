//! Attaching is measured with a real engine and real plugins, and leaves nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;

use vswitch_bench::attach::{Plan, run};
use vswitch_tests::daemon::binary;

/// Namespaces and folders of this process.
fn leftovers() -> Vec<String> {
    let prefix = format!("vt-bench-{}-", std::process::id());
    let entries = [fs::read_dir("/run/netns").ok(), fs::read_dir(std::env::temp_dir()).ok()];
    let names = entries.into_iter().flatten().flatten().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
}

#[test]
#[ignore = "needs root: make test runs it"]
fn every_way_to_attach_is_measured_and_leaves_nothing() {
    let report =
        run(&Plan { rounds: 1, vswitchd: binary("vswitchd"), plugins: "/usr/lib/cni".into() }).unwrap();
    for figure in ["docker.run", "cni.add", "cni.del"] {
        for subject in &report.subjects {
            let spread = report.spread(&subject.name, figure);
            assert!(spread.is_some_and(|it| it.median > 0.0), "{figure} by {}", subject.name);
        }
    }
    assert_eq!(leftovers(), [""; 0]);
}
