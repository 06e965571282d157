//! The tunnel and its peers.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error, Name,
    api::tunnel::{Probe, Tunnel},
};

use super::{extract::InPath, reply::Refused};
use crate::core::Handle;

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(tunnel))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(probe))
}

/// This host's end of all tunnels, and its peers. A peer is a port: it is created and deleted as one.
#[utoipa::path(
    get,
    path = "/v1/tunnel",
    responses((status = 200, body = Tunnel)),
)]
async fn tunnel(State(core): State<Handle>) -> Json<Tunnel> {
    Json(core.snapshot().tunnel())
}

/// Measures the path MTU to a peer.
#[utoipa::path(
    post,
    path = "/v1/peers/{name}/probe",
    params(("name" = String, Path)),
    responses((status = 200, body = Probe), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn probe(State(core): State<Handle>, InPath(name): InPath<Name>) -> Result<Json<Probe>, Refused> {
    Ok(Json(core.probe(name).await?))
}
