//! Client of the API, for `vswitchctl` and other programs.
//!
//! One connection per request: unix sockets are cheap, and none stays open while the user reads.

mod stream;

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use vswitch_model::{
    Connect, Error, Name, NetworkSpec, NetworkUpdate, PortSpec, Reference, ServiceSpec, ServiceUpdate,
    api::{
        DnsStatus, Drop, DropsFilter, Endpoint, FdbEntry, FdbFilter, FdbKey, Flush, Flushed, Log, LogRequest,
        NameEntry, NamesFilter, Network, Port, Prune, Pruned, Reload, ReloadRequest, StaticEntry, StaticName,
        Stats, Status,
        capture::Capture,
        cluster::{
            Backup, Cluster, HostUpdate, Init, Join, JoinToken, Leave, PlacedEndpoint, Restore, Restored,
        },
        events::{Event, EventsFilter},
        service::Service,
        trace::{Trace, TraceRequest, Why, WhyFilter},
        tunnel::{Probe, Tunnel},
    },
};

pub use stream::CaptureBody;

/// Time limit for a response. A change may take longer, if the daemon says meanwhile that it is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two questions how far a change is.
const ASK: Duration = Duration::from_secs(2);

/// Longest response that is read, in bytes: about 100 bytes per entry of a full MAC table.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket does not exist.
    #[error("vswitchd is not running at {}: start it with `vswitchd --config net.toml`", .0.display())]
    NotRunning(PathBuf),
    /// The socket exists, but no process accepts connections.
    #[error("vswitchd is no longer running at {}: it ended unexpectedly, see its log; start it with `vswitchd --config net.toml`", .0.display())]
    Died(PathBuf),
    /// The mode of the socket denies access.
    #[error("no permission to use {}: run as root, or as a member of the socket's group (api.group in net.toml)", .0.display())]
    NoRights(PathBuf),
    /// The socket is unreachable for another reason, or the connection broke.
    #[error("cannot talk to {}: {}", .0.display(), .1)]
    Broken(PathBuf, String),
    /// The connection broke, or the daemon stopped answering, between the request for a change and its answer.
    #[error("vswitchd at {} has not answered ({}): whether the change happened is not known; `vswitchctl events` and `vswitchctl status` tell", .0.display(), .1)]
    Unknown(PathBuf, String),
    /// The daemon ended while it was followed.
    #[error("vswitchd at {} has ended", .0.display())]
    Ended(PathBuf),
    /// The daemon refused, or the kernel refused a step done on its behalf.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// A daemon, identified by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Hears how far a change is that takes long.
    told: Option<fn(&str)>,
}

impl Client {
    /// Creates a client of the daemon at `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), told: None }
    }

    /// The same, which tells how far a change is that takes more than some seconds.
    pub fn telling(self, told: fn(&str)) -> Self {
        Self { told: Some(told), ..self }
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the status of the daemon.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Returns all networks.
    pub async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.get("/v1/networks").await
    }

    /// Returns one network.
    pub async fn network(&self, network: &Reference) -> Result<Network, ClientError> {
        self.get(&format!("/v1/networks/{network}")).await
    }

    /// Creates a network.
    pub async fn add_network(&self, spec: &NetworkSpec) -> Result<Network, ClientError> {
        self.post("/v1/networks", spec).await
    }

    /// Changes a network while containers stay connected.
    pub async fn update_network(
        &self,
        network: &Reference,
        update: &NetworkUpdate,
    ) -> Result<Network, ClientError> {
        self.send(Method::PATCH, &format!("/v1/networks/{network}"), update).await
    }

    /// Deletes a network.
    pub async fn delete_network(&self, network: &Reference) -> Result<(), ClientError> {
        self.delete(&format!("/v1/networks/{network}")).await
    }

    /// Deletes the unused networks.
    pub async fn prune_networks(&self, prune: &Prune) -> Result<Pruned, ClientError> {
        self.post("/v1/prune", prune).await
    }

    /// Returns all endpoints.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, ClientError> {
        self.get("/v1/endpoints").await
    }

    /// Connects a sandbox to a network.
    pub async fn connect(&self, network: &Reference, connect: &Connect) -> Result<Endpoint, ClientError> {
        self.post(&format!("/v1/networks/{network}/endpoints"), connect).await
    }

    /// Disconnects an endpoint.
    pub async fn disconnect(&self, network: &Reference, endpoint: &Reference) -> Result<(), ClientError> {
        self.delete(&format!("/v1/networks/{network}/endpoints/{endpoint}")).await
    }

    /// Returns all services.
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        self.get("/v1/services").await
    }

    /// Returns one service.
    pub async fn service(&self, name: &Name) -> Result<Service, ClientError> {
        self.get(&format!("/v1/services/{name}")).await
    }

    /// Creates a service.
    pub async fn add_service(&self, spec: &ServiceSpec) -> Result<Service, ClientError> {
        self.post("/v1/services", spec).await
    }

    /// Changes a service.
    pub async fn update_service(&self, name: &Name, update: &ServiceUpdate) -> Result<Service, ClientError> {
        self.send(Method::PATCH, &format!("/v1/services/{name}"), update).await
    }

    /// Deletes a service.
    pub async fn delete_service(&self, name: &Name) -> Result<(), ClientError> {
        self.delete(&format!("/v1/services/{name}")).await
    }

    /// Returns all ports.
    pub async fn ports(&self) -> Result<Vec<Port>, ClientError> {
        self.get("/v1/ports").await
    }

    /// Returns one port.
    pub async fn port(&self, name: &Name) -> Result<Port, ClientError> {
        self.get(&format!("/v1/ports/{name}")).await
    }

    /// Creates a port.
    pub async fn add_port(&self, spec: &PortSpec) -> Result<Port, ClientError> {
        self.post("/v1/ports", spec).await
    }

    /// Deletes a port.
    pub async fn delete_port(&self, name: &Name) -> Result<(), ClientError> {
        self.delete(&format!("/v1/ports/{name}")).await
    }

    /// Returns the cluster as the daemon sees it.
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
        self.get("/v1/cluster").await
    }

    /// Returns the endpoints of all hosts of the cluster.
    pub async fn cluster_endpoints(&self) -> Result<Vec<PlacedEndpoint>, ClientError> {
        self.get("/v1/cluster/endpoints").await
    }

    /// Begins a cluster.
    pub async fn cluster_init(&self, init: &Init) -> Result<JoinToken, ClientError> {
        self.post("/v1/cluster/init", init).await
    }

    /// Joins a cluster.
    pub async fn cluster_join(&self, join: &Join) -> Result<Cluster, ClientError> {
        self.post("/v1/cluster/join", join).await
    }

    /// Leaves the cluster.
    pub async fn cluster_leave(&self, leave: &Leave) -> Result<(), ClientError> {
        self.tell(Method::POST, "/v1/cluster/leave", leave).await
    }

    /// Returns how hosts join.
    pub async fn cluster_token(&self) -> Result<JoinToken, ClientError> {
        self.get("/v1/cluster/token").await
    }

    /// Makes another join token.
    pub async fn rotate_cluster_token(&self) -> Result<JoinToken, ClientError> {
        self.post("/v1/cluster/token", &()).await
    }

    /// Changes a host of the cluster.
    pub async fn update_cluster_host(&self, host: &Name, update: &HostUpdate) -> Result<(), ClientError> {
        self.tell(Method::PATCH, &format!("/v1/cluster/hosts/{host}"), update).await
    }

    /// Returns what the cluster's store has.
    pub async fn cluster_backup(&self) -> Result<Backup, ClientError> {
        self.get("/v1/cluster/backup").await
    }

    /// Puts back what the cluster's store has lost.
    pub async fn cluster_restore(&self, restore: &Restore) -> Result<Restored, ClientError> {
        self.post("/v1/cluster/restore", restore).await
    }

    /// Removes a host from the cluster.
    pub async fn remove_cluster_host(&self, host: &Name) -> Result<(), ClientError> {
        self.delete(&format!("/v1/cluster/hosts/{host}")).await
    }

    /// Returns the local endpoint and the peers of the tunnel.
    pub async fn tunnel(&self) -> Result<Tunnel, ClientError> {
        self.get("/v1/tunnel").await
    }

    /// Measures the path MTU to a peer.
    pub async fn probe(&self, peer: &Name) -> Result<Probe, ClientError> {
        self.post(&format!("/v1/peers/{peer}/probe"), &()).await
    }

    /// Returns the MAC table, or a part of it.
    pub async fn fdb(&self, filter: &FdbFilter) -> Result<Vec<FdbEntry>, ClientError> {
        let mac = filter.mac.map(|mac| mac.to_string());
        let network = filter.network.as_ref().map(Name::as_str);
        let port = filter.port.as_ref().map(Name::as_str);
        self.get(&query("/v1/fdb", &[("network", network), ("port", port), ("mac", mac.as_deref())])).await
    }

    /// Pins an address to a port.
    pub async fn add_fdb(&self, entry: &StaticEntry) -> Result<FdbEntry, ClientError> {
        self.post("/v1/fdb", entry).await
    }

    /// Removes one address.
    pub async fn delete_fdb(&self, key: &FdbKey) -> Result<(), ClientError> {
        self.delete(&format!("/v1/fdb/{}/{}", key.network, key.mac)).await
    }

    /// Removes learned addresses.
    pub async fn flush_fdb(&self, flush: &Flush) -> Result<Flushed, ClientError> {
        self.post("/v1/fdb/flush", flush).await
    }

    /// Returns the counters of all ports and workers.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.get("/v1/stats").await
    }

    /// Returns the drop counters.
    pub async fn drops(&self, filter: &DropsFilter) -> Result<Vec<Drop>, ClientError> {
        self.get(&query("/v1/drops", &[("port", filter.port.as_ref().map(Name::as_str))])).await
    }

    /// Returns the active captures.
    pub async fn captures(&self) -> Result<Vec<Capture>, ClientError> {
        self.get("/v1/captures").await
    }

    /// Ends a capture; frames captured so far are still delivered.
    pub async fn end_capture(&self, id: u64) -> Result<(), ClientError> {
        self.delete(&format!("/v1/captures/{id}")).await
    }

    /// Traces a hypothetical frame.
    pub async fn trace(&self, request: &TraceRequest) -> Result<Trace, ClientError> {
        self.post("/v1/trace", request).await
    }

    /// Gives a name by hand.
    ///
    /// # Errors
    /// The daemon is unreachable or refuses.
    pub async fn add_name(&self, name: &StaticName) -> Result<StaticName, ClientError> {
        self.post("/v1/names", name).await
    }

    /// Takes a name away that was given by hand.
    ///
    /// # Errors
    /// The daemon is unreachable or refuses.
    pub async fn remove_name(&self, network: &Name, name: &Name) -> Result<(), ClientError> {
        self.delete(&format!("/v1/names/{network}/{name}")).await
    }

    /// Returns the DNS server.
    ///
    /// # Errors
    /// The daemon is unreachable.
    pub async fn dns(&self) -> Result<DnsStatus, ClientError> {
        self.get("/v1/dns").await
    }

    /// Returns names: all, those of a network, or those that a look-up finds.
    pub async fn names(&self, filter: &NamesFilter) -> Result<Vec<NameEntry>, ClientError> {
        let (network, from) =
            (filter.network.as_ref().map(Name::as_str), filter.from.map(|it| it.to_string()));
        let parameters = [("network", network), ("name", filter.name.as_deref()), ("from", from.as_deref())];
        self.get(&query("/v1/names", &parameters)).await
    }

    /// Returns what is known about an address.
    pub async fn why(&self, filter: &WhyFilter) -> Result<Why, ClientError> {
        let (mac, ip) = (filter.mac.map(|mac| mac.to_string()), filter.ip.map(|ip| ip.to_string()));
        self.get(&query("/v1/why", &[("mac", mac.as_deref()), ("ip", ip.as_deref())])).await
    }

    /// Passes past events to `each`, oldest first; with `follow` also new ones, until `each` fails.
    ///
    /// # Errors
    /// [`Ended`](ClientError::Ended) when the daemon ends before the follower.
    pub async fn events(
        &self,
        filter: &EventsFilter,
        mut each: impl FnMut(Event) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let since = filter.since_ms.map(|since| since.to_string());
        let follow = filter.follow.then_some("true");
        let path = query("/v1/events", &[("since_ms", since.as_deref()), ("follow", follow)]);
        let answer = async {
            open(UnixStream::connect(&self.socket).await?, Method::GET, &path, JSON, Bytes::new()).await
        };
        let answer = answer.await;
        let (status, mut body) = answer.map_err(|error| connect_error(&self.socket, error))?;
        if !status.is_success() {
            let body =
                Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| self.broken(error))?;
            return Err(self.refusal(status, &body.to_bytes()));
        }
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(error))?;
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            let lines: Vec<u8> = text.drain(..end).collect();
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                each(self.read(line)?)?;
            }
        }
        if filter.follow { Err(ClientError::Ended(self.socket.clone())) } else { Ok(()) }
    }

    /// Returns what is logged, and the latest lines of the log.
    pub async fn log(&self) -> Result<Log, ClientError> {
        self.get("/v1/log").await
    }

    /// Changes what is logged.
    pub async fn set_log(&self, level: &str) -> Result<Log, ClientError> {
        self.send(Method::PUT, "/v1/log", &LogRequest { level: level.to_owned() }).await
    }

    /// Returns the response to a request that only reads, as it is.
    pub async fn raw(&self, path: &str) -> Result<Bytes, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Reads the configuration file again and applies the difference, or only reports it.
    pub async fn reload(&self, dry_run: bool) -> Result<Reload, ClientError> {
        self.post("/v1/reload", &ReloadRequest { dry_run }).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.call(Method::GET, path, Bytes::new()).await?;
        self.read(&body)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T, ClientError> {
        self.send(Method::POST, path, value).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(value).map_err(|error| self.broken(error))?;
        let body = self.call(method, path, body.into()).await?;
        self.read(&body)
    }

    /// Sends a value that has no answer.
    async fn tell(&self, method: Method, path: &str, value: &impl Serialize) -> Result<(), ClientError> {
        let body = serde_json::to_vec(value).map_err(|error| self.broken(error))?;
        self.call(method, path, body.into()).await.map(drop)
    }

    async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, Bytes::new()).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let (status, body) = match method {
            Method::GET => exchange(&self.socket, method, path, body)
                .await
                .map_err(|error| connect_error(&self.socket, error))?,
            _ => self.change(method, path, body).await?,
        };
        if status.is_success() {
            return Ok(body);
        }
        Err(self.refusal(status, &body))
    }

    /// Sends a change, and waits for as long as the daemon says that it is there.
    async fn change(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| connect_error(&self.socket, error))?;
        let unknown = |why: String| ClientError::Unknown(self.socket.clone(), why);
        let (mut answer, mut heard) = (pin!(converse(stream, method, path, JSON, body)), Instant::now());
        loop {
            if let Ok(answer) = timeout(ASK, &mut answer).await {
                return answer.map_err(|error| unknown(error.to_string()));
            }
            let status = exchange(&self.socket, Method::GET, "/v1/status", Bytes::new());
            match timeout(ASK, status).await {
                Ok(Ok((_, body))) => {
                    heard = Instant::now();
                    let status = serde_json::from_slice(&body).ok();
                    if let (Some(told), Some(Status { busy: Some(busy), .. })) = (self.told, status) {
                        told(&busy);
                    }
                }
                _ if heard.elapsed() > PATIENCE => return Err(unknown("nothing for a minute".into())),
                _ => {}
            }
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let refusal: Result<Error, _> = serde_json::from_slice(body);
        refusal.map_or_else(|_| self.broken(format_args!("it answered {status}")), ClientError::Refused)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        let value = serde_json::from_slice(body);
        value.map_err(|error| {
            self.broken(format_args!("its answer cannot be parsed ({error}): compare versions"))
        })
    }

    fn broken(&self, why: impl ToString) -> ClientError {
        ClientError::Broken(self.socket.clone(), why.to_string())
    }
}

/// Maps an error of connecting to a daemon's `socket` to an actionable one.
pub(crate) fn connect_error(socket: &Path, error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NotRunning(socket.into()),
        io::ErrorKind::ConnectionRefused => ClientError::Died(socket.into()),
        io::ErrorKind::PermissionDenied => ClientError::NoRights(socket.into()),
        _ => ClientError::Broken(socket.into(), error.to_string()),
    }
}

/// One HTTP exchange over a unix socket: the status and the whole body.
///
/// # Errors
/// Those of connecting; `TimedOut` if the response takes longer than a minute.
pub(crate) async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> io::Result<(StatusCode, Bytes)> {
    exchange_as(socket, method, path, JSON, body).await
}

/// The content type of the API.
const JSON: &str = "application/json";

/// Like [`exchange`], with a body of the content type `kind`.
pub(crate) async fn exchange_as(
    socket: &Path,
    method: Method,
    path: &str,
    kind: &str,
    body: Bytes,
) -> io::Result<(StatusCode, Bytes)> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer within a minute");
    let exchange = async { converse(UnixStream::connect(socket).await?, method, path, kind, body).await };
    timeout(PATIENCE, exchange).await.map_err(late)?
}

async fn converse(
    stream: UnixStream,
    method: Method,
    path: &str,
    kind: &str,
    body: Bytes,
) -> io::Result<(StatusCode, Bytes)> {
    let (status, body) = open(stream, method, path, kind, body).await?;
    let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes()))
}

/// Sends a request, and returns the status of the response and its unread body.
async fn open(
    stream: UnixStream,
    method: Method,
    path: &str,
    kind: &str,
    body: Bytes,
) -> io::Result<(StatusCode, Incoming)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the body, or when the body is dropped.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, kind)
        .body(Full::new(body))
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    Ok((head.status, body))
}

/// `path` with the parameters that are present. Names and MAC addresses need no escaping.
fn query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let present = parameters.iter().filter_map(|(key, value)| value.map(|value| format!("{key}={value}")));
    let present: Vec<String> = present.collect();
    if present.is_empty() { path.to_owned() } else { format!("{path}?{}", present.join("&")) }
}
