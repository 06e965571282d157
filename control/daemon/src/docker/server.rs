//! The plugin's socket: one path per call, an answer within a time limit.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    sync::{Notify, Semaphore},
    time::timeout,
};
use tracing::{debug, warn};

use super::ipam::{Holds, SPACES};
use crate::{
    api::reply::status,
    core::Handle,
    http::{self, Limits},
};
use vswitch_host::descriptors;
use vswitch_model::{Error, ErrorKind, Scope, sentence::printable};

/// Maximum length of a body in bytes: a container with all ports published takes half of it.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// Time limit of a call. dockerd itself would wait for ever and block other calls.
const PATIENCE: Duration = Duration::from_secs(20);

/// The plugin: the core, and Docker's reservations.
pub(crate) struct Plugin {
    pub(super) core: Handle,
    holds: Arc<Mutex<Holds>>,
    /// Told when an engine asks for an endpoint: there is one.
    pub(super) asked: Arc<Notify>,
    /// How far its networks reach: as Docker's own plugin those of this host, as a managed one those of a swarm.
    pub(super) scope: Scope,
}

impl Plugin {
    /// The plugin of an engine, for networks of this host. `asked` is told when an engine asks for an endpoint.
    pub(crate) fn new(core: Handle, asked: Arc<Notify>) -> Self {
        Self { core, holds: Arc::default(), asked, scope: Scope::Local }
    }

    /// The same as a managed plugin, for networks of a swarm.
    pub(crate) fn of_swarm(&self) -> Self {
        let Self { core, holds, asked, .. } = self;
        Self { core: core.clone(), holds: Arc::clone(holds), asked: Arc::clone(asked), scope: Scope::Global }
    }

    pub(super) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits of dockerd. It reuses connections: one that was closed meanwhile would cost it a call.
fn limits() -> Limits {
    Limits {
        connections: descriptors::share(256, 8),
        answers: Semaphore::MAX_PERMITS,
        idle: None,
        answer: None,
    }
}

/// Serves the plugin until `stop` resolves, then finishes pending calls.
pub(crate) async fn serve(
    listener: UnixListener,
    plugin: Plugin,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    http::serve(listener, router(plugin), limits(), |_| (), stop).await;
}

/// The calls of the protocol.
fn router(plugin: Plugin) -> Router {
    Router::new()
        .route("/{call}", post(answer))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Arc::new(plugin))
}

async fn answer(State(plugin): State<Arc<Plugin>>, Path(call): Path<String>, body: Bytes) -> Response {
    // A separate task: a caller that stops waiting does not stop the work midway.
    let name = call.clone();
    let task = tokio::spawn(async move { plugin.dispatch(&name, &body).await });
    let done = match timeout(PATIENCE, task).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(Error::internal(format!("vswitchd failed at it: {error}"))),
        Err(_) => Err(Error::unavailable("vswitchd is busy: try again in a moment")),
    };
    let (status, body) = match done {
        Ok(Some(value)) => {
            debug!(call, "done");
            (StatusCode::OK, value)
        }
        Ok(None) => {
            warn!(call, "there is no such call");
            (StatusCode::NOT_FOUND, refusal(&printable(&format!("there is no call {call}"))))
        }
        Err(error) => {
            warn!(call, "refused: {}", error.sentence);
            (status_of(error.kind), refusal(&error.sentence))
        }
    };
    let kind = [(CONTENT_TYPE, "application/vnd.docker.plugins.v1.2+json")];
    (status, kind, body.to_string()).into_response()
}

/// Each half of the protocol has its own key for errors.
fn refusal(sentence: &str) -> Value {
    json!({ "Err": sentence, "Error": sentence })
}

/// The HTTP status of an error's kind. 404 would mean an unknown call.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::BAD_REQUEST,
        kind => status(kind),
    }
}

impl Plugin {
    /// Executes `call`; `None` if it is unknown.
    async fn dispatch(&self, call: &str, body: &[u8]) -> Result<Option<Value>, Error> {
        let done = match call {
            "Plugin.Activate" => Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
            "NetworkDriver.GetCapabilities" => {
                Ok(json!({ "Scope": self.scope, "ConnectivityScope": Scope::Global }))
            }
            "NetworkDriver.AllocateNetwork" => self.allocate_network(read(body)?),
            "NetworkDriver.FreeNetwork" | "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => {
                Ok(json!({}))
            }
            "NetworkDriver.CreateNetwork" => self.create_network(read(body)?).await,
            "NetworkDriver.DeleteNetwork" => self.delete_network(read(body)?).await,
            "NetworkDriver.CreateEndpoint" => self.create_endpoint(read(body)?).await,
            "NetworkDriver.DeleteEndpoint" => self.delete_endpoint(read(body)?).await,
            "NetworkDriver.EndpointOperInfo" => self.endpoint_info(read(body)?).await,
            "NetworkDriver.Join" => self.join(read(body)?).await,
            "NetworkDriver.Leave" => self.leave(read(body)?).await,
            "NetworkDriver.ProgramExternalConnectivity" => self.publish(read(body)?).await,
            "NetworkDriver.RevokeExternalConnectivity" => self.unpublish(read(body)?).await,
            "IpamDriver.GetCapabilities" => {
                Ok(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }))
            }
            "IpamDriver.GetDefaultAddressSpaces" => Ok(json!({
                "LocalDefaultAddressSpace": SPACES[0],
                "GlobalDefaultAddressSpace": SPACES[1],
            })),
            "IpamDriver.RequestPool" => self.request_pool(read(body)?).await,
            "IpamDriver.ReleasePool" => self.release_pool(read(body)?).await,
            "IpamDriver.RequestAddress" => self.request_address(read(body)?).await,
            "IpamDriver.ReleaseAddress" => self.release_address(read(body)?).await,
            _ => return Ok(None),
        };
        done.map(Some)
    }
}

/// dockerd repeats a call after a broken connection without the body.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if body.is_empty() {
        return Err(Error::invalid(
            "the request is empty: vswitchd was not running when it was sent; try again",
        ));
    }
    serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("the request makes no sense here: {error}")))
}
