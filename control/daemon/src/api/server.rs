//! The server: one handler per path and method, each a line that calls the [`Backend`].

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post},
};
use futures_util::StreamExt;
use tokio::net::UnixListener;
use utoipa::OpenApi;
use vswitch_model::{
    Connect, Error, Name, NetworkSpec, NetworkUpdate, PortSpec, Reference,
    api::{
        Drop, DropsFilter, Endpoint, FdbEntry, FdbFilter, FdbKey, Flush, Flushed, Network, Port, Prune,
        Pruned, Reload, ReloadRequest, StaticEntry, Stats, Status,
        events::{Event, EventsFilter},
        tunnel::{Probe, Tunnel},
    },
};

use super::{
    Backend,
    extract::{Body, InPath, Parameters},
    inspect,
    reply::{Refused, method_not_allowed},
};

/// Octets of the longest body that is read.
pub const BODY_LIMIT: usize = 64 * 1024;

/// The OpenAPI document: made from the handlers below and the types they use.
#[derive(OpenApi)]
#[openapi(
    info(title = "vswitchd", description = "HTTP and JSON on a unix socket. Refusals are an `Error`."),
    paths(
        status,
        networks,
        network,
        add_network,
        update_network,
        delete_network,
        prune_networks,
        endpoints,
        connect,
        disconnect,
        ports,
        port,
        add_port,
        delete_port,
        tunnel,
        probe,
        fdb,
        add_fdb,
        delete_fdb,
        flush_fdb,
        stats,
        drops,
        events,
        inspect::capture,
        inspect::captures,
        inspect::end_capture,
        inspect::trace,
        inspect::why,
        reload,
        openapi
    )
)]
struct Document;

pub(super) type Shared = State<Arc<dyn Backend>>;

/// Serves the API until `stop` is ready, then finishes the requests it has.
///
/// # Errors
/// None in ordinary life: failures of single connections end those connections.
pub async fn serve(
    listener: UnixListener,
    backend: Arc<dyn Backend>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(backend)).with_graceful_shutdown(stop).await
}

/// The paths of the API.
pub fn router(backend: Arc<dyn Backend>) -> Router {
    reading()
        .route("/v1/networks", post(add_network))
        .route("/v1/networks/{name}", patch(update_network).delete(delete_network))
        .route("/v1/networks/{name}/endpoints", post(connect))
        .route("/v1/networks/{name}/endpoints/{endpoint}", delete(disconnect))
        .route("/v1/prune", post(prune_networks))
        .route("/v1/ports", post(add_port))
        .route("/v1/ports/{name}", delete(delete_port))
        .route("/v1/peers/{name}/probe", post(probe))
        .route("/v1/fdb", post(add_fdb))
        .route("/v1/fdb/flush", post(flush_fdb))
        .route("/v1/fdb/{network}/{mac}", delete(delete_fdb))
        .route("/v1/events", get(events))
        .route("/v1/captures", get(inspect::captures).post(inspect::capture))
        .route("/v1/captures/{id}", delete(inspect::end_capture))
        .route("/v1/trace", post(inspect::trace))
        .route("/v1/why", get(inspect::why))
        .route("/v1/reload", post(reload))
        .route("/v1/openapi.json", get(openapi))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(backend)
}

/// The paths that [`crate::web`] shows as well: they change nothing, take no body, and show nobody's traffic but in numbers.
pub(crate) fn reading() -> Router<Arc<dyn Backend>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/networks", get(networks))
        .route("/v1/networks/{name}", get(network))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/ports", get(ports))
        .route("/v1/ports/{name}", get(port))
        .route("/v1/tunnel", get(tunnel))
        .route("/v1/fdb", get(fdb))
        .route("/v1/stats", get(stats))
        .route("/v1/drops", get(drops))
}

/// The daemon at a glance.
#[utoipa::path(
    get,
    path = "/v1/status",
    responses((status = 200, body = Status)),
)]
async fn status(State(backend): Shared) -> Response {
    answer(StatusCode::OK, backend.status().await)
}

/// Every network.
#[utoipa::path(
    get,
    path = "/v1/networks",
    responses((status = 200, body = [Network])),
)]
async fn networks(State(backend): Shared) -> Response {
    answer(StatusCode::OK, backend.networks().await)
}

/// One network.
#[utoipa::path(
    get,
    path = "/v1/networks/{name}",
    params(("name" = String, Path)),
    responses((status = 200, body = Network), (status = "4XX", body = Error)),
)]
async fn network(State(backend): Shared, InPath(name): InPath<Reference>) -> Response {
    answer(StatusCode::OK, backend.network(name).await)
}

/// Makes a network.
#[utoipa::path(
    post,
    path = "/v1/networks",
    request_body(content = serde_json::Value, description = "As `[[network]]` in net.toml", example = json!({"name": "blue", "vlan": 10})),
    responses((status = 201, body = Network), (status = "4XX", body = Error)),
)]
async fn add_network(State(backend): Shared, Body(spec): Body<NetworkSpec>) -> Response {
    answer(StatusCode::CREATED, backend.add_network(spec).await)
}

/// Changes a network while containers stay connected.
#[utoipa::path(
    patch,
    path = "/v1/networks/{name}",
    params(("name" = String, Path)),
    request_body(content = serde_json::Value, description = "What shall be different: `mtu`, `labels`, `options`; a label or option without value is removed", example = json!({"mtu": 1400, "labels": {"team": "a", "old": null}})),
    responses((status = 200, body = Network), (status = "4XX", body = Error)),
)]
async fn update_network(
    State(backend): Shared,
    InPath(name): InPath<Reference>,
    Body(update): Body<NetworkUpdate>,
) -> Response {
    answer(StatusCode::OK, backend.update_network(name, update).await)
}

/// Deletes the networks that nobody uses.
#[utoipa::path(
    post,
    path = "/v1/prune",
    request_body = Prune,
    responses((status = 200, body = Pruned), (status = "4XX", body = Error)),
)]
async fn prune_networks(State(backend): Shared, Body(prune): Body<Prune>) -> Response {
    answer(StatusCode::OK, backend.prune_networks(prune).await)
}

/// Every endpoint.
#[utoipa::path(
    get,
    path = "/v1/endpoints",
    responses((status = 200, body = [Endpoint])),
)]
async fn endpoints(State(backend): Shared) -> Response {
    answer(StatusCode::OK, backend.endpoints().await)
}

/// Connects a sandbox to a network.
#[utoipa::path(
    post,
    path = "/v1/networks/{name}/endpoints",
    params(("name" = String, Path)),
    request_body(content = serde_json::Value, description = "What the endpoint shall be; all of it can be left out but the sandbox", example = json!({"sandbox": "web", "ip": "10.9.0.2", "publish": [{"host_port": 8080, "port": 80}]})),
    responses((status = 201, body = Endpoint), (status = "4XX", body = Error)),
)]
async fn connect(
    State(backend): Shared,
    InPath(name): InPath<Reference>,
    Body(connect): Body<Connect>,
) -> Response {
    answer(StatusCode::CREATED, backend.connect(name, connect).await)
}

/// Disconnects an endpoint.
#[utoipa::path(
    delete,
    path = "/v1/networks/{name}/endpoints/{endpoint}",
    params(("name" = String, Path), ("endpoint" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn disconnect(
    State(backend): Shared,
    InPath((name, endpoint)): InPath<(Reference, Reference)>,
) -> Response {
    done(backend.disconnect(name, endpoint).await)
}

/// Deletes a network that no port uses.
#[utoipa::path(
    delete,
    path = "/v1/networks/{name}",
    params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn delete_network(State(backend): Shared, InPath(name): InPath<Reference>) -> Response {
    done(backend.delete_network(name).await)
}

/// Every port.
#[utoipa::path(
    get,
    path = "/v1/ports",
    responses((status = 200, body = [Port])),
)]
async fn ports(State(backend): Shared) -> Response {
    answer(StatusCode::OK, backend.ports().await)
}

/// One port.
#[utoipa::path(
    get,
    path = "/v1/ports/{name}",
    params(("name" = String, Path)),
    responses((status = 200, body = Port), (status = "4XX", body = Error)),
)]
async fn port(State(backend): Shared, InPath(name): InPath<Name>) -> Response {
    answer(StatusCode::OK, backend.port(name).await)
}

/// Makes a port and its interface.
#[utoipa::path(
    post,
    path = "/v1/ports",
    request_body(content = serde_json::Value, description = "As `[[port]]` in net.toml", example = json!({"name": "web", "network": "blue", "kind": "tap", "netns": "web"})),
    responses((status = 201, body = Port), (status = "4XX", body = Error)),
)]
async fn add_port(State(backend): Shared, Body(spec): Body<PortSpec>) -> Response {
    answer(StatusCode::CREATED, backend.add_port(spec).await)
}

/// Deletes a port and the interface made for it.
#[utoipa::path(
    delete,
    path = "/v1/ports/{name}",
    params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn delete_port(State(backend): Shared, InPath(name): InPath<Name>) -> Response {
    done(backend.delete_port(name).await)
}

/// This host's end of all tunnels, and its peers. A peer is a port: it is made and deleted as one.
#[utoipa::path(
    get,
    path = "/v1/tunnel",
    responses((status = 200, body = Tunnel)),
)]
async fn tunnel(State(backend): Shared) -> Response {
    answer(StatusCode::OK, backend.tunnel().await)
}

/// Measures how long a packet may be on the way to a peer.
#[utoipa::path(
    post,
    path = "/v1/peers/{name}/probe",
    params(("name" = String, Path)),
    responses((status = 200, body = Probe), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn probe(State(backend): Shared, InPath(name): InPath<Name>) -> Response {
    answer(StatusCode::OK, backend.probe(name).await)
}

/// The MAC table, or a part of it.
#[utoipa::path(
    get,
    path = "/v1/fdb",
    params(FdbFilter),
    responses((status = 200, body = [FdbEntry]), (status = "4XX", body = Error)),
)]
async fn fdb(State(backend): Shared, Parameters(filter): Parameters<FdbFilter>) -> Response {
    answer(StatusCode::OK, backend.fdb(filter).await)
}

/// Pins an address to a port.
#[utoipa::path(
    post,
    path = "/v1/fdb",
    request_body = StaticEntry,
    responses((status = 201, body = FdbEntry), (status = "4XX", body = Error)),
)]
async fn add_fdb(State(backend): Shared, Body(entry): Body<StaticEntry>) -> Response {
    answer(StatusCode::CREATED, backend.add_fdb(entry).await)
}

/// Forgets one address.
#[utoipa::path(
    delete,
    path = "/v1/fdb/{network}/{mac}",
    params(("network" = String, Path), ("mac" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn delete_fdb(State(backend): Shared, InPath(key): InPath<FdbKey>) -> Response {
    done(backend.delete_fdb(key).await)
}

/// Forgets learned addresses.
#[utoipa::path(
    post,
    path = "/v1/fdb/flush",
    request_body(content = serde_json::Value, description = "`\"all\"`, or the port or network", example = json!({"port": "web"})),
    responses((status = 200, body = Flushed), (status = "4XX", body = Error)),
)]
async fn flush_fdb(State(backend): Shared, Body(flush): Body<Flush>) -> Response {
    answer(StatusCode::OK, backend.flush_fdb(flush).await)
}

/// The counters of every port, network and worker.
#[utoipa::path(
    get,
    path = "/v1/stats",
    responses((status = 200, body = Stats)),
)]
async fn stats(State(backend): Shared) -> Response {
    answer(StatusCode::OK, backend.stats().await)
}

/// Why frames died.
#[utoipa::path(
    get,
    path = "/v1/drops",
    params(DropsFilter),
    responses((status = 200, body = [Drop]), (status = "4XX", body = Error)),
)]
async fn drops(State(backend): Shared, Parameters(filter): Parameters<DropsFilter>) -> Response {
    answer(StatusCode::OK, backend.drops(filter.port).await)
}

/// What happened, oldest first: an event a line, and with `follow` each further one when it happens.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(EventsFilter),
    responses(
        (status = 200, body = Event, content_type = "application/x-ndjson"),
        (status = "4XX", body = Error)
    ),
)]
async fn events(State(backend): Shared, Parameters(filter): Parameters<EventsFilter>) -> Response {
    match backend.events(filter).await {
        Ok(events) => {
            let lines =
                events.map(|event| serde_json::to_vec(&event).map(|line| [&line[..], b"\n"].concat()));
            ([(CONTENT_TYPE, "application/x-ndjson")], axum::body::Body::from_stream(lines)).into_response()
        }
        Err(error) => Refused(error).into_response(),
    }
}

/// Reads the configuration file again and applies the difference.
#[utoipa::path(
    post,
    path = "/v1/reload",
    request_body = ReloadRequest,
    responses((status = 200, body = Reload), (status = "4XX", body = Error)),
)]
async fn reload(State(backend): Shared, Body(request): Body<ReloadRequest>) -> Response {
    answer(StatusCode::OK, backend.reload(request.dry_run).await)
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = serde_json::Value)))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}

async fn no_such_path(uri: Uri) -> Refused {
    Error::not_found(format!("there is no {}: GET /v1/openapi.json lists what there is", uri.path())).into()
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    method_not_allowed(&format!("{} cannot be used with {method}", uri.path()))
}

pub(super) fn answer<T: serde::Serialize>(success: StatusCode, result: Result<T, Error>) -> Response {
    match result {
        Ok(value) => (success, Json(value)).into_response(),
        Err(error) => Refused(error).into_response(),
    }
}

pub(super) fn done(result: Result<(), Error>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => Refused(error).into_response(),
    }
}
