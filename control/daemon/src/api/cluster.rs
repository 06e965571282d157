//! The cluster that this host is in.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_cluster::{core::Ask, record::Availability};
use vswitch_model::{
    Error, Name,
    api::cluster::{
        Backup, Cluster, HostUpdate, Init, Join, JoinToken, Leave, PlacedEndpoint, Restore, Restored,
    },
};

use super::{
    extract::{Asking, Body, InPath},
    reply::Refused,
};
use crate::{cluster::Call, core::Handle};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(show)).routes(routes!(endpoints))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default()
        .routes(routes!(init))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(token, rotate))
        .routes(routes!(update_host, remove_host))
        .routes(routes!(backup))
        .routes(routes!(restore))
}

/// What the cluster's store has.
#[utoipa::path(
    get,
    path = "/v1/cluster/backup",
    operation_id = "cluster_backup",
    responses((status = 200, body = Backup), (status = 503, body = Error)),
)]
async fn backup(Asking(core): Asking) -> Result<Json<Backup>, Refused> {
    Ok(Json(core.cluster().call(Call::Backup).await?))
}

/// Puts back what the store has lost.
#[utoipa::path(
    post,
    path = "/v1/cluster/restore",
    operation_id = "cluster_restore",
    request_body = Restore,
    responses((status = 200, body = Restored), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn restore(Asking(core): Asking, Body(restore): Body<Restore>) -> Result<Json<Restored>, Refused> {
    Ok(Json(core.cluster().call(|reply| Call::Restore(restore, reply)).await?))
}

/// The cluster, its store and its hosts, as this host sees them.
#[utoipa::path(
    get,
    path = "/v1/cluster",
    operation_id = "cluster",
    responses((status = 200, body = Cluster), (status = 503, body = Error)),
)]
async fn show(State(core): State<Handle>) -> Result<Json<Cluster>, Refused> {
    Ok(Json(core.cluster().call(Call::Show).await?))
}

/// The endpoints of all hosts in global networks.
#[utoipa::path(
    get,
    path = "/v1/cluster/endpoints",
    operation_id = "cluster_endpoints",
    responses((status = 200, body = [PlacedEndpoint]), (status = 503, body = Error)),
)]
async fn endpoints(State(core): State<Handle>) -> Result<Json<Vec<PlacedEndpoint>>, Refused> {
    Ok(Json(core.cluster().call(Call::Endpoints).await?))
}

/// Begins a cluster, with a store of this host or one that is there.
#[utoipa::path(
    post,
    path = "/v1/cluster/init",
    operation_id = "cluster_init",
    request_body = Init,
    responses((status = 201, body = JoinToken), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn init(
    Asking(core): Asking,
    Body(init): Body<Init>,
) -> Result<(StatusCode, Json<JoinToken>), Refused> {
    let token = core.cluster().call(|reply| Call::Init(init, reply)).await?;
    core.log("cluster begun");
    Ok((StatusCode::CREATED, Json(token)))
}

/// Joins a cluster.
#[utoipa::path(
    post,
    path = "/v1/cluster/join",
    operation_id = "cluster_join",
    request_body = Join,
    responses((status = 201, body = Cluster), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn join(Asking(core): Asking, Body(join): Body<Join>) -> Result<(StatusCode, Json<Cluster>), Refused> {
    let cluster = core.cluster().call(|reply| Call::Join(join, reply)).await?;
    core.log("cluster joined");
    Ok((StatusCode::CREATED, Json(cluster)))
}

/// Leaves the cluster.
#[utoipa::path(
    post,
    path = "/v1/cluster/leave",
    operation_id = "cluster_leave",
    request_body = Leave,
    responses((status = 204), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn leave(Asking(core): Asking, Body(leave): Body<Leave>) -> Result<StatusCode, Refused> {
    core.cluster().call(|reply| Call::Leave(leave, reply)).await?;
    core.log("cluster left");
    Ok(StatusCode::NO_CONTENT)
}

/// How a host joins.
#[utoipa::path(
    get,
    path = "/v1/cluster/token",
    operation_id = "cluster_token",
    responses((status = 200, body = JoinToken), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn token(Asking(core): Asking) -> Result<Json<JoinToken>, Refused> {
    Ok(Json(core.cluster().call(|reply| Call::Token(false, reply)).await?))
}

/// Makes another join token; the old one is not valid any more.
#[utoipa::path(
    post,
    path = "/v1/cluster/token",
    operation_id = "rotate_cluster_token",
    responses((status = 200, body = JoinToken), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn rotate(Asking(core): Asking) -> Result<Json<JoinToken>, Refused> {
    Ok(Json(core.cluster().call(|reply| Call::Token(true, reply)).await?))
}

/// Changes a host's availability and labels.
#[utoipa::path(
    patch,
    path = "/v1/cluster/hosts/{name}",
    operation_id = "update_cluster_host",
    params(("name" = String, Path)),
    request_body = HostUpdate,
    responses((status = 204), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn update_host(
    Asking(core): Asking,
    InPath(host): InPath<Name>,
    Body(update): Body<HostUpdate>,
) -> Result<StatusCode, Refused> {
    let availability = match update.availability.as_deref() {
        None => None,
        Some("active") => Some(Availability::Active),
        Some("drain") => Some(Availability::Drain),
        Some(other) => {
            return Err(Error::invalid(format!("{other:?} is no availability: use active or drain")).into());
        }
    };
    let labels = update.labels.into_iter().collect();
    let ask = Ask::UpdateHost { host, availability, labels };
    core.cluster().call(|reply| Call::Ask(ask, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a host: its records go, and it changes nothing more.
#[utoipa::path(
    delete,
    path = "/v1/cluster/hosts/{name}",
    operation_id = "remove_cluster_host",
    params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error), (status = 503, body = Error)),
)]
async fn remove_host(Asking(core): Asking, InPath(host): InPath<Name>) -> Result<StatusCode, Refused> {
    core.log(format_args!("host {host} is removed from the cluster"));
    core.cluster().call(|reply| Call::Ask(Ask::RemoveHost(host), reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}
