//! Resolves the target of an attachment to a network namespace.

use std::{io, path::Path};

use hyper::{Method, StatusCode, body::Bytes};
use serde::Deserialize;

use crate::client::exchange;
use vswitch_host::netns::Namespace;
use vswitch_model::{Error, ErrorKind, Netns};

/// Default socket of the Docker Engine API.
pub(crate) const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// The target of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A namespace given by name, path or process.
    Netns(Netns),
    /// The namespace of a Docker container, by name or id.
    Docker(String),
}

/// A resolved target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The namespace as a port's specification names it.
    pub netns: Netns,
    /// The container, if the target is one.
    pub container: Option<ContainerName>,
}

/// Identity of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
}

impl Target {
    /// Resolves the namespace; containers by a request to Docker at `docker`.
    pub async fn resolve(&self, docker: &Path) -> Result<Resolved, Error> {
        match self {
            Self::Netns(netns) => Ok(Resolved { netns: netns.clone(), container: None }),
            Self::Docker(container) => {
                let found = find_container(docker, container).await?;
                let netns = Netns::Pid(found.state.pid);
                let own = Namespace::current()?.inode();
                if Namespace::open(&netns)?.inode() == own {
                    let why = format!(
                        "container {container} uses the host's own network: it has no namespace for a port"
                    );
                    return Err(Error::invalid(why));
                }
                // Docker prefixes names with a slash.
                let name = found.name.trim_start_matches('/').to_owned();
                Ok(Resolved { netns, container: Some(ContainerName { id: found.id, name }) })
            }
        }
    }
}

/// The fields used of `GET /containers/{id}/json` in the Docker Engine API.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(default)]
    id: String,
    #[serde(default)]
    name: String,
    state: ContainerState,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerState {
    #[serde(default)]
    status: String,
    running: bool,
    pid: u32,
}

async fn find_container(docker: &Path, container: &str) -> Result<Container, Error> {
    // The characters Docker allows in names (RestrictedNameChars in daemon/names); none needs escaping.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if container.is_empty() || !container.bytes().all(legal) {
        return Err(Error::invalid(format!("{container:?} is not a container name: see `docker ps`")));
    }
    let answer = exchange(docker, Method::GET, &format!("/containers/{container}/json"), Bytes::new()).await;
    let (status, body) = answer.map_err(|error| no_docker(docker, GIVE, error))?;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(Error::not_found(format!("no container named {container}: see `docker ps`")));
        }
        other => {
            return Err(Error::internal(format!("Docker answered {other} for container {container}")));
        }
    }
    let found: Container = serde_json::from_slice(&body).map_err(|error| {
        Error::internal(format!("cannot parse Docker's answer about {container}: {error}"))
    })?;
    let ContainerState { status, running, pid } = &found.state;
    if !running || *pid == 0 {
        let why = format!(
            "container {container} is not running ({status}): start it with `docker start {container}`"
        );
        return Err(Error::conflict(why));
    }
    Ok(found)
}

/// What a user may do instead of naming a container.
const GIVE: &str = "or give the container's namespace with --netns or --pid";

/// Docker does not answer at its socket; `otherwise` says what else would help.
pub(crate) fn no_docker(docker: &Path, otherwise: &str, error: io::Error) -> Error {
    let docker = docker.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::not_found(format!("no Docker daemon at {docker}: start Docker, {otherwise}"))
        }
        io::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Forbidden,
            format!("no permission to use {docker}: run as root, or as a member of the group docker"),
        ),
        _ => Error::internal(format!("cannot talk to Docker at {docker}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, extract::Path as InPath, routing::get};
    use serde_json::{Value, json};

    async fn inspect(InPath(name): InPath<String>) -> (StatusCode, Json<Value>) {
        let state = |running, pid, status| {
            Json(
                json!({"Id": "4711", "Name": "/alive", "State": {"Running": running, "Pid": pid, "Status": status}}),
            )
        };
        match name.as_str() {
            "alive" => (StatusCode::OK, state(true, u32::MAX, "running")),
            "host" => (StatusCode::OK, state(true, std::process::id(), "running")),
            "dead" => (StatusCode::OK, state(false, 0, "exited")),
            "odd" => (StatusCode::OK, Json(json!([]))),
            "broken" => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({}))),
            _ => (StatusCode::NOT_FOUND, Json(json!({"message": "No such container"}))),
        }
    }

    #[tokio::test]
    async fn docker_is_asked_for_the_containers_process() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(
            axum::serve(listener, Router::new().route("/containers/{name}/json", get(inspect))).into_future(),
        );

        let alive = find_container(&socket, "alive").await.unwrap();
        assert_eq!((alive.state.pid, alive.name.as_str()), (u32::MAX, "/alive"));
        for (name, code, sentence) in [
            ("gone", ErrorKind::NotFound, "no container named gone: see `docker ps`"),
            (
                "dead",
                ErrorKind::Conflict,
                "container dead is not running (exited): start it with `docker start dead`",
            ),
            ("a/../b", ErrorKind::Invalid, "\"a/../b\" is not a container name: see `docker ps`"),
            ("alive", ErrorKind::NotFound, "process 4294967295 is gone: there is no /proc/4294967295/ns/net"),
            (
                "host",
                ErrorKind::Invalid,
                "container host uses the host's own network: it has no namespace for a port",
            ),
            ("broken", ErrorKind::Internal, "Docker answered 500 Internal Server Error for container broken"),
        ] {
            let error = Target::Docker(name.into()).resolve(&socket).await.unwrap_err();
            assert_eq!((error.kind, error.sentence.as_str()), (code, sentence));
        }
        assert_eq!(find_container(&socket, "odd").await.err().unwrap().kind, ErrorKind::Internal);
    }

    #[tokio::test]
    async fn without_docker_the_sentence_names_the_other_ways() {
        let error =
            Target::Docker("web".into()).resolve(Path::new("/nowhere/docker.sock")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.sentence.starts_with("no Docker daemon at /nowhere/docker.sock: start Docker"));
    }
}
