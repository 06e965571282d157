//! The CNI plugin `vswitch-cni`: what podman, containerd and CRI-O run to connect a container.
//!
//! A runtime starts the program for each deed, with words in its environment and a network's configuration on its standard
//! input, and reads an answer from its standard output (CNI specification 1.1.0, section 2). We ask the daemon, by its API,
//! and the daemon does it: so concurrent calls need no lock of ours, and there is no state of ours to lose. An endpoint's
//! id is made of the network's name, the container's id and the interface's name, which is all that a runtime tells again.
//!
//! VERSION needs no daemon: runtimes ask for it whenever they read their configuration.

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

/// What is spoken, the oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Octets of the longest configuration.
const CONFIG_LIMIT: u64 = 16 * 1024 * 1024;

/// Does what the environment says, prints the answer, and tells whether it is one.
pub fn main() -> ExitCode {
    let mut config = String::new();
    // What cannot be read is no JSON, which is told.
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
