//! Networks.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error, NetworkSpec, NetworkUpdate, Reference,
    api::{Network, Prune, Pruned},
    options,
};

use super::{
    extract::{Asking, Body, InPath},
    reply::Refused,
};
use crate::core::Handle;

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(show))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(add)).routes(routes!(update, delete)).routes(routes!(prune))
}

/// Every network by name, predefined ones included.
#[utoipa::path(
    get,
    path = "/v1/networks",
    operation_id = "networks",
    responses((status = 200, body = [Network])),
)]
async fn list(State(core): State<Handle>) -> Json<Vec<Network>> {
    Json(core.snapshot().networks())
}

/// One network.
#[utoipa::path(
    get,
    path = "/v1/networks/{name}",
    operation_id = "network",
    params(("name" = String, Path)),
    responses((status = 200, body = Network), (status = "4XX", body = Error)),
)]
async fn show(State(core): State<Handle>, InPath(name): InPath<Reference>) -> Result<Json<Network>, Refused> {
    Ok(Json(core.snapshot().network(&name)?))
}

/// Creates a network, and chooses what is not given.
#[utoipa::path(
    post,
    path = "/v1/networks",
    operation_id = "add_network",
    request_body(content = serde_json::Value, description = "As `[[network]]` in net.toml", example = json!({"name": "blue", "vlan": 10})),
    responses((status = 201, body = Network), (status = "4XX", body = Error)),
)]
async fn add(
    Asking(core): Asking,
    Body(spec): Body<NetworkSpec>,
) -> Result<(StatusCode, Json<Network>), Refused> {
    let done = core.add_network(spec).await?;
    let mut network = done.snapshot.network(&done.value.into())?;
    network.warnings = options::warnings(&network.spec);
    network.warnings.extend(done.snapshot.shadowed(&network.spec));
    Ok((StatusCode::CREATED, Json(network)))
}

/// Changes a network while containers stay connected.
#[utoipa::path(
    patch,
    path = "/v1/networks/{name}",
    operation_id = "update_network",
    params(("name" = String, Path)),
    request_body(content = serde_json::Value, description = "The changes: `mtu`, `labels`, `options`; a label or option without value is removed", example = json!({"mtu": 1400, "labels": {"team": "a", "old": null}})),
    responses((status = 200, body = Network), (status = "4XX", body = Error)),
)]
async fn update(
    Asking(core): Asking,
    InPath(name): InPath<Reference>,
    Body(update): Body<NetworkUpdate>,
) -> Result<Json<Network>, Refused> {
    let done = core.update_network(name, update).await?;
    Ok(Json(done.snapshot.network(&done.value.into())?))
}

/// Deletes an unused network.
#[utoipa::path(
    delete,
    path = "/v1/networks/{name}",
    operation_id = "delete_network",
    params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn delete(Asking(core): Asking, InPath(name): InPath<Reference>) -> Result<StatusCode, Refused> {
    core.delete_network(name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes the unused networks of the API.
#[utoipa::path(
    post,
    path = "/v1/prune",
    operation_id = "prune_networks",
    request_body = Prune,
    responses((status = 200, body = Pruned), (status = "4XX", body = Error)),
)]
async fn prune(Asking(core): Asking, Body(prune): Body<Prune>) -> Result<Json<Pruned>, Refused> {
    Ok(Json(core.prune_networks(prune).await?))
}
