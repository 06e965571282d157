//! The control plane is measured beside a real engine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use vswitch_bench::control::{Plan, run};
use vswitch_tests::daemon::binary;

#[test]
#[ignore = "needs root: make test runs it"]
fn calls_are_measured_in_turns_with_dockers() {
    let mut figures = Vec::new();
    run(&Plan { binary: binary("vswitchd"), present: 5, samples: 2 }, |figure| figures.push(figure)).unwrap();
    assert_eq!(figures.len(), 10);
    assert!(figures.iter().all(|figure| figure.p50 > 0.0), "{figures:?}");
    for figure in &figures[..3] {
        let docker = figure.docker.unwrap();
        assert!(docker.p50 > 0.0 && docker.ratio[0] > 0.0, "{figure}");
    }
}
