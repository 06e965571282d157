//! Traces of frames, and diagnoses of addresses.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::trace::{Trace, TraceRequest, Why, WhyFilter},
};

use super::{
    extract::{Body, Parameters},
    reply::Refused,
};
use crate::core::Handle;

pub(super) fn watching() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(trace)).routes(routes!(why))
}

/// Traces a frame without side effects.
#[utoipa::path(
    post,
    path = "/v1/trace",
    request_body = TraceRequest,
    responses((status = 200, body = Trace), (status = "4XX", body = Error)),
)]
async fn trace(
    State(core): State<Handle>,
    Body(request): Body<TraceRequest>,
) -> Result<Json<Trace>, Refused> {
    Ok(Json(core.trace(&request).await?))
}

/// What is known about an address.
#[utoipa::path(
    get,
    path = "/v1/why",
    params(WhyFilter),
    responses((status = 200, body = Why), (status = "4XX", body = Error)),
)]
async fn why(
    State(core): State<Handle>,
    Parameters(filter): Parameters<WhyFilter>,
) -> Result<Json<Why>, Refused> {
    let mut why = core.counted().await.why(&filter)?;
    if core.cluster().is_member() {
        why.findings.extend(core.cluster().placed(filter.mac, filter.ip).await?);
    }
    Ok(Json(why))
}
