//! Docker's network model on the running daemon: reachability, persistence, refusals.

mod again;
mod keeping;
mod reach;
mod refusals;

use serde_json::Value;
use vswitch_tests::{Netns, Vswitchd, net};

/// A daemon with an empty configuration.
fn switch() -> Vswitchd {
    Vswitchd::start(&net())
}

/// Runs `vswitchctl network …`. `arguments` are separated by blanks.
fn network(switch: &Vswitchd, arguments: &str) -> String {
    let words: Vec<_> = ["network"].into_iter().chain(arguments.split(' ')).collect();
    let output = switch.try_ctl(&words);
    assert_eq!(output.code, 0, "network {arguments}: {}", output.stderr);
    output.stdout
}

fn refused(switch: &Vswitchd, arguments: &str) -> (i32, String) {
    let words: Vec<_> = ["network"].into_iter().chain(arguments.split(' ')).collect();
    let (code, sentence) = switch.refusal(&words);
    (code, sentence.trim_start_matches("vswitchctl: ").to_owned())
}

fn connect(switch: &Vswitchd, network: &str, sandbox: &Netns, more: &[&str]) -> Value {
    let place = format!("netns:{}", sandbox.name());
    switch.ctl(&[&["network", "connect"], more, &[network, &place]].concat())
}

fn address(endpoint: &Value, at: usize) -> String {
    endpoint["addresses"][at].as_str().unwrap().split('/').next().unwrap().to_owned()
}

fn inspect(switch: &Vswitchd, network: &str) -> Value {
    let text = switch.try_ctl(&["network", "inspect", network]).stdout;
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}
