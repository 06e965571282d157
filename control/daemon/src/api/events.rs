//! Events, past and future.

use axum::{
    body::Body,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::events::{Event, EventsFilter},
};

use super::extract::Parameters;
use crate::core::Handle;

pub(super) fn reading() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(events))
}

/// An event and its sentence.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    event: Event,
    text: String,
}

/// Past events, oldest first, one per line, each with its sentence as `text`; with `follow` also each new one as it occurs.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(EventsFilter),
    responses(
        (status = 200, body = Event, content_type = "application/x-ndjson"),
        (status = "4XX", body = Error)
    ),
)]
async fn events(State(core): State<Handle>, Parameters(filter): Parameters<EventsFilter>) -> Response {
    let lines = core.events(filter).map(|event| {
        let told = Told { text: event.what.to_string(), event };
        serde_json::to_vec(&told).map(|line| [&line[..], b"\n"].concat())
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
