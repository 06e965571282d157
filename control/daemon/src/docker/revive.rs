//! Containers that Docker gave up while vswitchd was not running.
//!
//! A container with a restart policy is started by dockerd when it starts itself, and when the container ends. If our plugin does not
//! answer then, for some 15 seconds, dockerd notes that as the container's error and does not try again: it stays down, whatever
//! its policy. So dockerd is asked once, when our plugin answers, which of its containers have an error that names the plugin, and is
//! told to start those whose policy asks for it. One that was stopped by hand has no error.
//!
//! An engine answers only when it has tried to start all its containers.

use std::io;

use futures_util::future::join_all;
use serde::Deserialize;
use tracing::{info, warn};

use super::engine::{Engine, Listed, engines};

/// The used fields of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    name: String,
    state: State,
    host_config: HostConfig,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    error: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    restart_policy: RestartPolicy,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    name: String,
}

impl Container {
    /// Whether it is down because our plugin did not answer, though its policy is to be up.
    fn is_given_up(&self) -> bool {
        // "plugin \"vswitch\" not found", or a failed call of its socket.
        let Self { state, host_config, .. } = self;
        let is_ours = state.error.contains("plugin \"vswitch\"") || state.error.contains("vswitch.sock");
        let policy = host_config.restart_policy.name.as_str();
        !state.running && is_ours && ["always", "unless-stopped", "on-failure"].contains(&policy)
    }
}

/// Starts the containers of all engines of this host that were given up for want of the plugin.
pub(crate) async fn revive() {
    let each = engines().into_iter().map(|engine| async move {
        if let Err(error) = revive_at(&engine).await {
            warn!(engine = %engine.socket().display(), "containers that wait for vswitchd are not started again: {error}");
        }
    });
    join_all(each).await;
}

async fn revive_at(engine: &Engine) -> io::Result<()> {
    let filter = "%7B%22status%22%3A%5B%22exited%22%5D%7D"; // {"status":["exited"]}
    let Some(body) = engine.ask("GET", &format!("/containers/json?all=true&filters={filter}")).await? else {
        return Ok(());
    };
    for Listed { id } in serde_json::from_slice::<Vec<Listed>>(&body)? {
        let Some(body) = engine.ask("GET", &format!("/containers/{id}/json")).await? else { continue };
        let container: Container = serde_json::from_slice(&body)?;
        if !container.is_given_up() {
            continue;
        }
        let name = container.name.trim_start_matches('/');
        match engine.ask("POST", &format!("/containers/{id}/start")).await? {
            Some(_) => info!(container = name, "started again: it had failed while vswitchd was not running"),
            None => warn!(
                container = name,
                "it failed while vswitchd was not running, and again now: see `docker inspect {name}`"
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_failed_for_want_of_us_and_is_to_be_up_is_started() {
        let container = |error: &str, policy: &str, running: bool| -> Container {
            serde_json::from_value(json!({
                "Name": "/web", "State": { "Running": running, "Error": error, "ExitCode": 137 },
                "HostConfig": { "RestartPolicy": { "Name": policy, "MaximumRetryCount": 0 } },
            }))
            .unwrap()
        };
        for (error, policy, running, expected) in [
            ("plugin \"vswitch\" not found", "always", false, true),
            (
                "Post \"http://%2Frun%2Fdocker%2Fplugins%2Fvswitch.sock/…\": EOF",
                "unless-stopped",
                false,
                true,
            ),
            ("plugin \"vswitch\" not found", "no", false, false),
            ("plugin \"other\" not found", "always", false, false),
            ("", "always", false, false),
            ("plugin \"vswitch\" not found", "always", true, false),
        ] {
            assert_eq!(container(error, policy, running).is_given_up(), expected, "{error} {policy}");
        }
    }
}
