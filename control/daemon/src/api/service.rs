//! Services.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{Error, Name, ServiceSpec, ServiceUpdate, api::service::Service};

use super::{
    extract::{Asking, Body, InPath},
    reply::Refused,
};
use crate::core::Handle;

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(show))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(add)).routes(routes!(update, delete))
}

/// Every service by name, with the endpoints that serve.
#[utoipa::path(
    get,
    path = "/v1/services",
    operation_id = "services",
    responses((status = 200, body = [Service])),
)]
async fn list(State(core): State<Handle>) -> Json<Vec<Service>> {
    Json(core.snapshot().services())
}

/// One service.
#[utoipa::path(
    get,
    path = "/v1/services/{name}",
    operation_id = "service",
    params(("name" = String, Path)),
    responses((status = 200, body = Service), (status = "4XX", body = Error)),
)]
async fn show(State(core): State<Handle>, InPath(name): InPath<Name>) -> Result<Json<Service>, Refused> {
    Ok(Json(core.snapshot().service(&name)?))
}

/// Creates a service, and chooses its addresses if they are not given; of a global network for all hosts of the cluster.
#[utoipa::path(
    post,
    path = "/v1/services",
    operation_id = "add_service",
    request_body(content = serde_json::Value, description = "As `[[service]]` in net.toml", example = json!({"name": "web", "network": "blue"})),
    responses((status = 201, body = Service), (status = "4XX", body = Error)),
)]
async fn add(
    Asking(core): Asking,
    Body(spec): Body<ServiceSpec>,
) -> Result<(StatusCode, Json<Service>), Refused> {
    let done = core.add_service(spec).await?;
    Ok((StatusCode::CREATED, Json(done.snapshot.service(&done.value)?)))
}

/// Changes a service while its clients stay connected.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}",
    operation_id = "update_service",
    params(("name" = String, Path)),
    request_body(content = serde_json::Value, description = "The changes: `affinity`, `selector`, `health`, `no_health`, `publish`, `unpublish`, `drain`, `drain_time`, `resume`, `labels`; a label without value is removed", example = json!({"drain": ["web-1"]})),
    responses((status = 200, body = Service), (status = "4XX", body = Error)),
)]
async fn update(
    Asking(core): Asking,
    InPath(name): InPath<Name>,
    Body(update): Body<ServiceUpdate>,
) -> Result<Json<Service>, Refused> {
    let done = core.update_service(name, update).await?;
    Ok(Json(done.snapshot.service(&done.value)?))
}

/// Deletes a service; its endpoints stay.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}",
    operation_id = "delete_service",
    params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn delete(Asking(core): Asking, InPath(name): InPath<Name>) -> Result<StatusCode, Refused> {
    core.delete_service(name).await?;
    Ok(StatusCode::NO_CONTENT)
}
