//! Names.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::{DnsStatus, NameEntry, NamesFilter},
};

use super::{extract::Parameters, reply::Refused};
use crate::{core::Handle, names};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(server))
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
