//! Ports.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{Error, Name, PortSpec, api::Port};

use super::{
    extract::{Asking, Body, InPath},
    reply::Refused,
};
use crate::{core::Handle, state::Command};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(show))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(add)).routes(routes!(delete))
}

/// Every port, by name.
#[utoipa::path(
    get,
    path = "/v1/ports",
    operation_id = "ports",
    responses((status = 200, body = [Port])),
)]
async fn list(State(core): State<Handle>) -> Json<Vec<Port>> {
    Json(core.counted().await.ports())
}

/// One port.
#[utoipa::path(
    get,
    path = "/v1/ports/{name}",
    operation_id = "port",
    params(("name" = String, Path)),
    responses((status = 200, body = Port), (status = "4XX", body = Error)),
)]
async fn show(State(core): State<Handle>, InPath(name): InPath<Name>) -> Result<Json<Port>, Refused> {
    Ok(Json(core.counted().await.port(&name)?))
}

/// Creates a port and its interface.
#[utoipa::path(
    post,
    path = "/v1/ports",
    operation_id = "add_port",
    request_body(content = serde_json::Value, description = "As `[[port]]` in net.toml", example = json!({"name": "web", "network": "blue", "kind": "tap", "netns": "web"})),
    responses((status = 201, body = Port), (status = "4XX", body = Error)),
)]
async fn add(Asking(core): Asking, Body(spec): Body<PortSpec>) -> Result<(StatusCode, Json<Port>), Refused> {
    let name = spec.name.clone();
    let done = core.execute(Command::AddPort(spec)).await?;
    Ok((StatusCode::CREATED, Json(done.snapshot.port(&name)?)))
}

/// Deletes a port and the interface created for it.
#[utoipa::path(
    delete,
    path = "/v1/ports/{name}",
    operation_id = "delete_port",
    params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn delete(Asking(core): Asking, InPath(name): InPath<Name>) -> Result<StatusCode, Refused> {
    core.execute(Command::RemovePort(name)).await?;
    Ok(StatusCode::NO_CONTENT)
}
