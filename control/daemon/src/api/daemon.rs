//! The daemon itself.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::{Log, LogRequest, Reload, ReloadRequest, Status},
};

use super::{
    extract::{Asking, Body},
    reply::Refused,
};
use crate::{
    core::{Handle, Request},
    log,
};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(status))
}

pub(super) fn watching() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(show_log))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(reload)).routes(routes!(set_log))
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
async fn reload(Asking(core): Asking, Body(request): Body<ReloadRequest>) -> Result<Json<Reload>, Refused> {
    Ok(Json(core.ask(|reply| Request::Reload { dry_run: request.dry_run, reply }).await?.value))
}

/// What is logged, and the latest lines of the log.
#[utoipa::path(
    get,
    path = "/v1/log",
    operation_id = "log",
    responses((status = 200, body = Log)),
)]
async fn show_log() -> Json<Log> {
    Json(Log { level: log::filter(), lines: log::tail() })
}

/// Changes what is logged, until the daemon ends.
#[utoipa::path(
    put,
    path = "/v1/log",
    operation_id = "set_log",
    request_body = LogRequest,
    responses((status = 200, body = Log), (status = "4XX", body = Error)),
)]
async fn set_log(Asking(core): Asking, Body(request): Body<LogRequest>) -> Result<Json<Log>, Refused> {
    log::set_filter(&request.level)?;
    let level = log::filter();
    core.log(format_args!("the log's level is {level}"));
    Ok(Json(Log { level, lines: Vec::new() }))
}
