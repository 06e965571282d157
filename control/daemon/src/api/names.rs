//! Names.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error, Name,
    api::{DnsStatus, NameEntry, NamesFilter, StaticName},
};

use super::{
    extract::{Asking, Body, InPath, Parameters},
    reply::Refused,
};
use crate::{
    core::{Handle, Request},
    names,
};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(server))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(add)).routes(routes!(remove))
}

/// The names of all networks, of one, or what a look-up finds.
#[utoipa::path(
    get,
    path = "/v1/names",
    operation_id = "names",
    params(NamesFilter),
    responses((status = 200, body = [NameEntry]), (status = "4XX", body = Error)),
)]
async fn list(
    State(core): State<Handle>,
    Parameters(filter): Parameters<NamesFilter>,
) -> Result<Json<Vec<NameEntry>>, Refused> {
    let snapshot = core.snapshot();
    Ok(Json(names::list(&snapshot.state, &names::table(&snapshot.state, &core.names), &filter)?))
}

/// The DNS server: whether it serves, where, and whom it asks.
#[utoipa::path(
    get,
    path = "/v1/dns",
    operation_id = "dns",
    responses((status = 200, body = DnsStatus)),
)]
async fn server(State(core): State<Handle>) -> Json<DnsStatus> {
    let snapshot = core.snapshot();
    let dns = snapshot.state.dns();
    Json(DnsStatus {
        enabled: dns.enabled,
        address: dns.address,
        domain: dns.domain.clone(),
        upstream: core.names.servers().to_vec(),
    })
}

/// Gives a name by hand, or what it means from now on.
#[utoipa::path(
    post,
    path = "/v1/names",
    operation_id = "add_name",
    request_body = StaticName,
    responses((status = 201, body = StaticName), (status = "4XX", body = Error)),
)]
async fn add(
    Asking(core): Asking,
    Body(name): Body<StaticName>,
) -> Result<(StatusCode, Json<StaticName>), Refused> {
    let given = name.clone();
    core.ask(|reply| Request::AddName(given, reply)).await?;
    Ok((StatusCode::CREATED, Json(name)))
}

/// Takes a name away that was given by hand.
#[utoipa::path(
    delete,
    path = "/v1/names/{network}/{name}",
    operation_id = "remove_name",
    params(("network" = String, Path), ("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn remove(
    Asking(core): Asking,
    InPath((network, name)): InPath<(Name, Name)>,
) -> Result<StatusCode, Refused> {
    core.ask(|reply| Request::RemoveName(network, name, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}
