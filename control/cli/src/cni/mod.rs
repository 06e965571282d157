//! The CNI plugin `vswitch-cni`: what podman, containerd and CRI-O run to connect a container.
//!
//! A runtime starts the program for each command, with parameters in its environment and a network's configuration on
//! its standard input, and reads a result from its standard output (CNI specification 1.1.0, section 2). The plugin
//! sends requests to the daemon's API, so concurrent calls need no lock in the plugin, and the plugin has no state to
//! lose. An endpoint's id is derived from the network's name, the container's id and the interface's name, which are
//! all that a runtime passes again later.
//!
//! VERSION needs no daemon: runtimes request it whenever they read their configuration.

mod delegate;
pub mod list;
mod plugin;
mod wire;

use std::{io::Read, process::ExitCode};

use serde_json::json;

use self::{
    plugin::Call,
    wire::{Failure, Verb},
};

/// Supported versions of the specification, the oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Longest configuration, in bytes.
const CONFIG_LIMIT: u64 = 16 * 1024 * 1024;

/// Executes the command in the environment, prints the result, and returns whether it succeeded.
pub fn main() -> ExitCode {
    let mut config = String::new();
    // Unreadable input is invalid JSON, which is reported.
    let _ = std::io::stdin().lock().take(CONFIG_LIMIT).read_to_string(&mut config);
    let version = wire::version_of(&config);
    match answer(&config) {
        Ok(Some(answer)) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{}", failure.written(&version));
            ExitCode::FAILURE
        }
    }
}

fn answer(config: &str) -> Result<Option<serde_json::Value>, Failure> {
    let verb = Verb::of_environment()?;
    if verb == Verb::Version {
        return Ok(Some(json!({ "cniVersion": wire::version_of(config), "supportedVersions": VERSIONS })));
    }
    let call = Call::read(verb, config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::io(&error))?.block_on(call.execute(verb))
}
