//! Names.

use axum::{Json, extract::State};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::{NameEntry, NamesFilter},
};

use super::{extract::Parameters, reply::Refused};
use crate::{core::Handle, names};

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list))
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
