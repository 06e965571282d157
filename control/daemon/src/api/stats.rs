//! Counters and drops.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::{Drop, DropsFilter, Stats},
};

use super::{extract::Parameters, reply::Refused};
use crate::core::Handle;

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(stats)).routes(routes!(drops))
}

/// The counters of every port, network and worker.
#[utoipa::path(
    get,
    path = "/v1/stats",
    responses((status = 200, body = Stats)),
)]
async fn stats(State(core): State<Handle>) -> Json<Stats> {
    Json(core.counted().await.stats())
}

/// Drops with their reasons, at one port or at all.
#[utoipa::path(
    get,
    path = "/v1/drops",
    params(DropsFilter),
    responses((status = 200, body = [Drop]), (status = "4XX", body = Error)),
)]
async fn drops(
    State(core): State<Handle>,
    Parameters(filter): Parameters<DropsFilter>,
) -> Result<Json<Vec<Drop>>, Refused> {
    Ok(Json(core.counted().await.drops(filter.port.as_ref())?))
}
