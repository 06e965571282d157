//! Containers that Docker gave up while vswitchd was not running.
//!
//! A container with a restart policy is started by dockerd when it starts itself, and when the container ends. If our plugin does not
//! answer then, for some 15 seconds, dockerd notes that as the container's error and does not try again: it stays down, whatever
//! its policy. So dockerd is asked once, when our plugin answers, which of its containers have an error that names the plugin, and is
//! told to start those whose policy asks for it. One that was stopped by hand has no error.
//!
//! An engine is found by its API's socket: `docker.sock`, wherever it is, in this network namespace and owned by our user. It
//! answers only when it has tried to start all its containers.

use std::{fs, io, path::PathBuf, time::Duration};

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tracing::{info, warn};

/// The name of an engine's socket.
const SOCKET: &str = "docker.sock";

/// How long an engine may take to answer: 15 s for each container that it gives up.
const PATIENCE: Duration = Duration::from_mins(15);

/// Maximum length of an answer in bytes: 10,000 containers take some 20 MB.
const ANSWER: u64 = 32 << 20;

/// The flag of a listening socket in /proc/net/unix: `__SO_ACCEPTCON`, include/uapi/linux/net.h.
const LISTENING: &str = "00010000";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

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
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let each = sockets(&table).into_iter().map(|socket| async move {
        if let Err(error) = revive_at(&socket).await {
            warn!(engine = %socket.display(), "containers that wait for vswitchd are not started again: {error}");
        }
    });
    join_all(each).await;
}

/// The sockets of engines in a /proc/net/unix.
fn sockets(table: &str) -> Vec<PathBuf> {
    let listening = table.lines().filter(|line| line.split_whitespace().nth(3) == Some(LISTENING));
    let paths = listening.filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])));
    let mut paths: Vec<_> =
        paths.filter(|path| path.file_name().is_some_and(|name| name == SOCKET)).collect();
    paths.sort();
    paths.dedup();
    paths
}

async fn revive_at(socket: &PathBuf) -> io::Result<()> {
    let filter = "%7B%22status%22%3A%5B%22exited%22%5D%7D"; // {"status":["exited"]}
    let Some(body) = ask(socket, "GET", &format!("/containers/json?all=true&filters={filter}")).await? else {
        return Ok(());
    };
    for Listed { id } in serde_json::from_slice::<Vec<Listed>>(&body)? {
        let Some(body) = ask(socket, "GET", &format!("/containers/{id}/json")).await? else { continue };
        let container: Container = serde_json::from_slice(&body)?;
        if !container.is_given_up() {
            continue;
        }
        let name = container.name.trim_start_matches('/');
        match ask(socket, "POST", &format!("/containers/{id}/start")).await? {
            Some(_) => info!(container = name, "started again: it had failed while vswitchd was not running"),
            None => warn!(
                container = name,
                "it failed while vswitchd was not running, and again now: see `docker inspect {name}`"
            ),
        }
    }
    Ok(())
}

/// The body of an answer; `None`: the engine refuses.
async fn ask(socket: &PathBuf, method: &str, path: &str) -> io::Result<Option<Vec<u8>>> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the socket is another user's"));
        }
        // HTTP/1.0: the answer ends with the connection, and comes in one piece.
        let request = format!("{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER).read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.map_err(io::Error::from).flatten()?;
    Ok(body(&answer))
}

/// The body of a successful answer.
fn body(answer: &[u8]) -> Option<Vec<u8>> {
    let is_success = answer.get(9..12).is_some_and(|code| code.starts_with(b"2") || code == b"304");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    is_success.then(|| answer[end + 4..].to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn engines_are_found_by_their_sockets() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path
ffff: 00000002 00000000 00010000 0001 01 21 /run/docker.sock
ffff: 00000002 00000000 00010000 0001 01 22 @/tmp/docker.sock
ffff: 00000003 00000000 00000000 0001 03 23 /run/docker.sock
ffff: 00000002 00000000 00010000 0001 01 24 /srv/two words/docker.sock
ffff: 00000002 00000000 00010000 0001 01 25 /run/docker/plugins/vswitch.sock
ffff: 00000002 00000000 00000000 0002 01 26
";
        let found = sockets(table);
        let expected = ["/run/docker.sock", "/srv/two words/docker.sock", "/tmp/docker.sock"];
        assert_eq!(found, expected.map(PathBuf::from));
    }

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

    #[test]
    fn answers() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n[]"), Some(b"[]".to_vec()));
        assert_eq!(body(b"HTTP/1.0 204 No Content\r\n\r\n"), Some(Vec::new()));
        assert_eq!(body(b"HTTP/1.0 304 Not Modified\r\n\r\n"), Some(Vec::new()), "it runs already");
        for refused in [&b"HTTP/1.0 500 Internal\r\n\r\n{}"[..], b"HTTP/1.0 200 OK\r\n", b""] {
            assert_eq!(body(refused), None);
        }
    }
}
