//! Endpoints: sandboxes in networks.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{Connect, Error, Reference, api::Endpoint};

use super::{
    extract::{Asking, Body, InPath},
    reply::Refused,
};
use crate::core::{Handle, Request};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(connect)).routes(routes!(disconnect))
}

/// Every endpoint, by network and name.
#[utoipa::path(
    get,
    path = "/v1/endpoints",
    operation_id = "endpoints",
    responses((status = 200, body = [Endpoint])),
)]
async fn list(State(core): State<Handle>) -> Json<Vec<Endpoint>> {
    Json(core.snapshot().endpoints())
}

/// Connects a sandbox to a network, and chooses what is not given.
#[utoipa::path(
    post,
    path = "/v1/networks/{name}/endpoints",
    params(("name" = String, Path)),
    request_body(content = serde_json::Value, description = "The endpoint; only the sandbox is required", example = json!({"sandbox": "web", "ip": "10.9.0.2", "publish": [{"host_port": 8080, "port": 80}]})),
    responses((status = 201, body = Endpoint), (status = "4XX", body = Error)),
)]
async fn connect(
    Asking(core): Asking,
    InPath(name): InPath<Reference>,
    Body(connect): Body<Connect>,
) -> Result<(StatusCode, Json<Endpoint>), Refused> {
    let done = core.connect(name, connect).await?;
    Ok((StatusCode::CREATED, Json(done.snapshot.endpoint(&done.value)?)))
}

/// Disconnects an endpoint, which is called by its name, its id or its container's.
#[utoipa::path(
    delete,
    path = "/v1/networks/{name}/endpoints/{endpoint}",
    params(("name" = String, Path), ("endpoint" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn disconnect(
    Asking(core): Asking,
    InPath((name, endpoint)): InPath<(Reference, Reference)>,
) -> Result<StatusCode, Refused> {
    core.ask(|reply| Request::Disconnect(name, endpoint, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}
