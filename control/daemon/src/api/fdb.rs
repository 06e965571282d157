//! The MAC table.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::{FdbEntry, FdbFilter, FdbKey, Flush, Flushed, StaticEntry},
};

use super::{
    extract::{Asking, Body, InPath, Parameters},
    reply::Refused,
};
use crate::{
    core::{Handle, Request},
    view,
};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(add)).routes(routes!(delete)).routes(routes!(flush))
}

/// The MAC table, optionally filtered.
#[utoipa::path(
    get,
    path = "/v1/fdb",
    operation_id = "fdb",
    params(FdbFilter),
    responses((status = 200, body = [FdbEntry]), (status = "4XX", body = Error)),
)]
async fn list(
    State(core): State<Handle>,
    Parameters(filter): Parameters<FdbFilter>,
) -> Result<Json<Vec<FdbEntry>>, Refused> {
    Ok(Json(core.snapshot().fdb(&filter)?))
}

/// Pins an address to a port.
#[utoipa::path(
    post,
    path = "/v1/fdb",
    operation_id = "add_fdb",
    request_body = StaticEntry,
    responses((status = 201, body = FdbEntry), (status = "4XX", body = Error)),
)]
async fn add(
    Asking(core): Asking,
    Body(entry): Body<StaticEntry>,
) -> Result<(StatusCode, Json<FdbEntry>), Refused> {
    core.ask(|reply| Request::Pin(entry.clone(), reply)).await?;
    Ok((StatusCode::CREATED, Json(view::pinned(entry))))
}

/// Removes one address.
#[utoipa::path(
    delete,
    path = "/v1/fdb/{network}/{mac}",
    operation_id = "delete_fdb",
    params(("network" = String, Path), ("mac" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn delete(Asking(core): Asking, InPath(key): InPath<FdbKey>) -> Result<StatusCode, Refused> {
    core.ask(|reply| Request::Forget(key, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes learned addresses; pinned ones stay.
#[utoipa::path(
    post,
    path = "/v1/fdb/flush",
    operation_id = "flush_fdb",
    request_body(content = serde_json::Value, description = "`\"all\"`, or the port or network", example = json!({"port": "web"})),
    responses((status = 200, body = Flushed), (status = "4XX", body = Error)),
)]
async fn flush(Asking(core): Asking, Body(flush): Body<Flush>) -> Result<Json<Flushed>, Refused> {
    Ok(Json(core.ask(|reply| Request::Flush(flush, reply)).await?.value))
}
