//! Whose namespace an interface goes into.

use std::{io, path::Path};

use hyper::{Method, StatusCode, body::Bytes};
use serde::Deserialize;

use crate::client::exchange;
use vswitch_host::netns::Namespace;
use vswitch_model::{Error, ErrorKind, Netns};

/// Where the Docker Engine API listens.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Whose namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One that is known by name, path or process.
    Netns(Netns),
    /// That of a Docker container, by name or id.
    Docker(String),
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The namespace as a port's specification names it.
    pub netns: Netns,
    /// The container, if it is one's.
    pub container: Option<ContainerName>,
}

/// Who a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
}

impl Target {
    /// Finds the namespace. Asks Docker, at `docker`, about containers.
    pub async fn resolve(&self, docker: &Path) -> Result<Resolved, Error> {
        match self {
            Self::Netns(netns) => Ok(Resolved { netns: netns.clone(), container: None }),
            Self::Docker(container) => {
                let found = find_container(docker, container).await?;
                let netns = Netns::Pid(found.state.pid);
                let own = Namespace::current()?.identity();
                if Namespace::open(&netns)?.identity() == own {
                    let why = format!(
                        "container {container} uses the host's own network: it has no place for a port"
                    );
                    return Err(Error::invalid(why));
                }
                // Docker writes a slash before names.
                let name = found.name.trim_start_matches('/').to_owned();
                Ok(Resolved { netns, container: Some(ContainerName { id: found.id, name }) })
            }
        }
    }
}

/// `GET /containers/{id}/json` of the Docker Engine API, as far as we look.
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
    // What Docker allows in names (RestrictedNameChars in daemon/names); nothing here needs an escape.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if container.is_empty() || !container.bytes().all(legal) {
        return Err(Error::invalid(format!("{container:?} is no container's name: see `docker ps`")));
    }
    let answer = exchange(docker, Method::GET, &format!("/containers/{container}/json"), Bytes::new()).await;
    let (status, body) = answer.map_err(|error| no_docker(docker, error))?;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(Error::not_found(format!("no container named {container}: see `docker ps`")));
        }
        other => {
            return Err(Error::internal(format!("Docker answers {other} about container {container}")));
        }
    }
    let found: Container = serde_json::from_slice(&body).map_err(|error| {
        Error::internal(format!("Docker's answer about {container} makes no sense here: {error}"))
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

fn no_docker(docker: &Path, error: io::Error) -> Error {
    let docker = docker.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::not_found(format!(
            "no Docker daemon at {docker}: start Docker, or name the container's namespace with --netns or --pid"
        )),
        io::ErrorKind::PermissionDenied => Error::new(
            ErrorKind::Forbidden,
            format!("no right to use {docker}: run as root, or as a member of the group docker"),
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
            ("a/../b", ErrorKind::Invalid, "\"a/../b\" is no container's name: see `docker ps`"),
            ("alive", ErrorKind::NotFound, "process 4294967295 is gone: there is no /proc/4294967295/ns/net"),
            (
                "host",
                ErrorKind::Invalid,
                "container host uses the host's own network: it has no place for a port",
            ),
            (
                "broken",
                ErrorKind::Internal,
                "Docker answers 500 Internal Server Error about container broken",
            ),
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
