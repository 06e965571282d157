//! The API: HTTP and JSON on a unix socket.
//!
//! [`vswitch_model::api`] defines the types, used by both sides; the other side is the client in `vswitch-cli`. Each resource
//! has a file with its handlers, which read a [`Snapshot`](crate::view::Snapshot) or send requests to the [core](crate::core).
//! The router and the OpenAPI document, served at `/v1/openapi.json`, are built from one list, so exactly what is described is
//! served.
//!
//! | routes of a resource | served at |
//! |---|---|
//! | `reading`: read only, traffic as numbers and events only | the socket, and the [web page](crate::web) |
//! | `watching`: frames and stations | the socket |
//! | `writing` | the socket |
//!
//! A client that can open the socket can do everything: access is controlled by the socket's owner and group. The `1` of the
//! paths is the API's major version: within it, fields and paths are only added. [`API_VERSION`] counts these additions.

mod capture;
mod cluster;
mod daemon;
mod directory;
mod endpoint;
mod events;
mod extract;
mod fdb;
mod names;
mod network;
mod port;
pub(crate) mod reply;
mod service;
mod stats;
#[cfg(test)]
mod tests;
mod trace;
mod tunnel;

use std::{sync::LazyLock, time::Duration};

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::{Method, Uri},
    response::Response,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use utoipa::{OpenApi, openapi::OpenApi as Document};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{Error, api::API_VERSION};

use self::{
    extract::BODY_LIMIT,
    reply::{Refused, method_not_allowed},
};
use crate::{
    core::{Asker, Handle},
    http::{self, Limits},
};
use vswitch_host::{channel::Caller, descriptors};

#[derive(OpenApi)]
#[openapi(info(
    title = "vswitchd",
    description = "HTTP and JSON on a unix socket. Refusals are an `Error`."
))]
struct About;

/// The OpenAPI document: all handlers and their types.
static DOCUMENT: LazyLock<Document> = LazyLock::new(|| all().into_openapi());

/// Limits of clients. Runtimes start hundreds of containers at once, and answers may be endless streams.
fn limits() -> Limits {
    Limits {
        connections: descriptors::share(512, 8),
        answers: Semaphore::MAX_PERMITS,
        idle: Some(Duration::from_secs(30)),
        answer: None,
    }
}

/// Serves the API until `stop` resolves, then finishes pending requests.
pub(crate) async fn serve(
    listener: UnixListener,
    core: Handle,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    // A socket without credentials is none of ours.
    let asker = |stream: &UnixStream| Caller::of(stream).map(Asker::from).unwrap_or_default();
    http::serve(listener, router(core), limits(), asker, stop).await;
}

/// The routes of the API.
fn router(core: Handle) -> Router {
    Router::from(all())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(core)
}

/// All routes.
fn all() -> OpenApiRouter<Handle> {
    let mut about = About::openapi();
    about.info.version = API_VERSION.to_owned();
    OpenApiRouter::with_openapi(about)
        .merge(reading())
        .merge(network::writing())
        .merge(endpoint::writing())
        .merge(service::writing())
        .merge(port::writing())
        .merge(tunnel::writing())
        .merge(fdb::writing())
        .merge(names::writing())
        .merge(directory::watching())
        .merge(directory::writing())
        .merge(daemon::writing())
        .merge(cluster::writing())
        .merge(daemon::watching())
        .merge(capture::watching())
        .merge(trace::watching())
        .routes(routes!(openapi))
}

/// Read-only routes without a body that show traffic as numbers only.
fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default()
        .merge(daemon::reading())
        .merge(cluster::reading())
        .merge(network::reading())
        .merge(endpoint::reading())
        .merge(service::reading())
        .merge(port::reading())
        .merge(tunnel::reading())
        .merge(fdb::reading())
        .merge(names::reading())
        .merge(stats::reading())
        .merge(events::reading())
}

/// The routes that [`crate::web`] serves as well.
pub(crate) fn reading_router() -> Router<Handle> {
    reading().into()
}

/// The OpenAPI document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = serde_json::Value)))]
async fn openapi() -> Json<&'static Document> {
    Json(&DOCUMENT)
}

async fn no_such_path(uri: Uri) -> Refused {
    Error::not_found(format!("there is no {}: GET /v1/openapi.json lists what there is", uri.path())).into()
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    method_not_allowed(&format!("{} cannot be used with {method}", uri.path()))
}
