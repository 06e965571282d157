//! The API of an engine of this host: found by its socket, asked by HTTP.
//!
//! An engine's socket is `docker.sock`, wherever it is, in this network namespace and owned by our user.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::UnixStream,
    time::timeout,
};

/// The name of an engine's socket.
const SOCKET: &str = "docker.sock";

/// How long an engine may take to answer: 15 s for each container that it gives up.
const PATIENCE: Duration = Duration::from_mins(15);

/// Maximum length of an answer in bytes: 10,000 containers take some 20 MB.
const ANSWER: u64 = 32 << 20;

/// The flag of a listening socket in /proc/net/unix: `__SO_ACCEPTCON`, include/uapi/linux/net.h.
const LISTENING: &str = "00010000";

/// An engine of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Engine {
    socket: PathBuf,
}

/// A container or network in a list of all.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
}

/// All engines that listen at the moment.
pub(super) fn engines() -> Vec<Engine> {
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    sockets(&table).into_iter().map(|socket| Engine { socket }).collect()
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

impl Engine {
    /// Its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The body of an answer; `None`: the engine refuses.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn ask(&self, method: &str, path: &str) -> io::Result<Option<Vec<u8>>> {
        let exchange = async {
            let stream = self.request(method, path).await?;
            let mut answer = Vec::new();
            stream.take(ANSWER).read_to_end(&mut answer).await?;
            Ok(answer)
        };
        let answer = timeout(PATIENCE, exchange).await.map_err(io::Error::from).flatten()?;
        Ok(body(&answer))
    }

    /// What it says of the events that pass `filters`, a JSON object, from now on.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(super) async fn events(&self, filters: &str) -> io::Result<Events> {
        let filters: String = filters.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let stream = self.request("GET", &format!("/events?filters={filters}")).await?;
        let mut lines = BufReader::new(stream).lines();
        let status = timeout(PATIENCE, lines.next_line()).await??.unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(format!("it answers {status:?}")));
        }
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        Ok(Events(lines))
    }

    /// Sends a request. By HTTP/1.0: the answer ends with the connection, and comes in one piece.
    async fn request(&self, method: &str, path: &str) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the socket is another user's"));
        }
        let request = format!("{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }
}

/// The events of an engine.
pub(super) struct Events(Lines<BufReader<UnixStream>>);

impl Events {
    /// The next one; `None`: the engine has ended. May be dropped and called again.
    ///
    /// # Errors
    /// The connection broke, or that is no event.
    pub(super) async fn next(&mut self) -> io::Result<Option<Event>> {
        let Some(line) = self.0.next_line().await? else { return Ok(None) };
        Ok(Some(serde_json::from_str(&line)?))
    }
}

/// The used fields of an event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    r#type: String,
    actor: Actor,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
}

impl Event {
    /// The id of the container that it is about.
    pub(super) fn container(mut self) -> Option<String> {
        match self.r#type.as_str() {
            "container" => Some(self.actor.id),
            _ => self.actor.attributes.remove("container"),
        }
    }
}

/// The body of a successful answer.
fn body(answer: &[u8]) -> Option<Vec<u8>> {
    let is_success = answer.get(9..12).is_some_and(|code| code.starts_with(b"2") || code == b"304");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    is_success.then(|| answer[end + 4..].to_vec())
}

#[cfg(test)]
mod tests {
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
    fn answers() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n[]"), Some(b"[]".to_vec()));
        assert_eq!(body(b"HTTP/1.0 204 No Content\r\n\r\n"), Some(Vec::new()));
        assert_eq!(body(b"HTTP/1.0 304 Not Modified\r\n\r\n"), Some(Vec::new()), "it runs already");
        for refused in [&b"HTTP/1.0 500 Internal\r\n\r\n{}"[..], b"HTTP/1.0 200 OK\r\n", b""] {
            assert_eq!(body(refused), None);
        }
    }

    #[test]
    fn an_event_names_its_container() {
        let of = |text: &str| serde_json::from_str::<Event>(text).unwrap().container();
        let connect = r#"{"Type":"network","Action":"connect","Actor":{"ID":"7f","Attributes":{"container":"1a","name":"blue"}}}"#;
        assert_eq!(of(connect), Some("1a".into()));
        let rename = r#"{"Type":"container","Action":"rename","Actor":{"ID":"1b","Attributes":{"oldName":"/web"}},"time":1}"#;
        assert_eq!(of(rename), Some("1b".into()));
        assert_eq!(of(r#"{"Type":"network","Action":"create","Actor":{"ID":"7f"}}"#), None);
    }
}
