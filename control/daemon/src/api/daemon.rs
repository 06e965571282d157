//! The daemon itself.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::{Reload, ReloadRequest, Status},
};

use super::{extract::Body, reply::Refused};
use crate::core::{Handle, Request};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(status))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(reload))
}

/// The daemon at a glance.
#[utoipa::path(
    get,
    path = "/v1/status",
    responses((status = 200, body = Status)),
)]
async fn status(State(core): State<Handle>) -> Json<Status> {
    Json(core.snapshot().status())
}

/// Reads the configuration file again and applies the difference.
#[utoipa::path(
    post,
    path = "/v1/reload",
    request_body = ReloadRequest,
    responses((status = 200, body = Reload), (status = "4XX", body = Error)),
)]
async fn reload(
    State(core): State<Handle>,
    Body(request): Body<ReloadRequest>,
) -> Result<Json<Reload>, Refused> {
    Ok(Json(core.ask(|reply| Request::Reload { dry_run: request.dry_run, reply }).await?.value))
}
