//! The directory of a network: its stations on other hosts, told by a control plane.

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
};
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error, Reference,
    api::directory::{Directory, DirectoryUpdate},
};

use super::{
    extract::{Asking, Body, InPath},
    reply::Refused,
};
use crate::{
    core::{Handle, Request},
    directory::DirectoryChange,
};

/// Maximum length of a directory as a body, in bytes: a hundred thousand stations have 15 MB.
const LONGEST: usize = 64 << 20;

pub(super) fn watching() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(show))
}

pub(super) fn writing() -> OpenApiRouter<Handle> {
    let routes = OpenApiRouter::default().routes(routes!(replace, update, remove));
    routes.layer(DefaultBodyLimit::max(LONGEST))
}

/// What was told of the network's stations on other hosts.
#[utoipa::path(
    get,
    path = "/v1/networks/{name}/directory",
    operation_id = "directory",
    params(("name" = String, Path)),
    responses((status = 200, body = Directory), (status = "4XX", body = Error)),
)]
async fn show(
    State(core): State<Handle>,
    InPath(name): InPath<Reference>,
) -> Result<Json<Directory>, Refused> {
    Ok(Json(core.ask(|reply| Request::Directory(name, reply)).await?.value))
}

/// Replaces all that is known of the network's stations on other hosts.
#[utoipa::path(
    put,
    path = "/v1/networks/{name}/directory",
    operation_id = "replace_directory",
    params(("name" = String, Path)),
    request_body = Directory,
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn replace(
    Asking(core): Asking,
    InPath(name): InPath<Reference>,
    Body(directory): Body<Directory>,
) -> Result<StatusCode, Refused> {
    change(&core, name, DirectoryChange::Replace(directory)).await
}

/// Changes some of it.
#[utoipa::path(
    patch,
    path = "/v1/networks/{name}/directory",
    operation_id = "update_directory",
    params(("name" = String, Path)),
    request_body = DirectoryUpdate,
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn update(
    Asking(core): Asking,
    InPath(name): InPath<Reference>,
    Body(update): Body<DirectoryUpdate>,
) -> Result<StatusCode, Refused> {
    change(&core, name, DirectoryChange::Update(update)).await
}

/// Forgets all of it: stations are learned, and floods go to all peers.
#[utoipa::path(
    delete,
    path = "/v1/networks/{name}/directory",
    operation_id = "delete_directory",
    params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn remove(Asking(core): Asking, InPath(name): InPath<Reference>) -> Result<StatusCode, Refused> {
    change(&core, name, DirectoryChange::Remove).await
}

async fn change(core: &Handle, name: Reference, change: DirectoryChange) -> Result<StatusCode, Refused> {
    core.ask(|reply| Request::Direct(name, change, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}
