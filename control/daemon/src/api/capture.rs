//! Captures.

use std::convert::Infallible;

use axum::{
    Json,
    body::Body as HttpBody,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream::poll_fn;
use utoipa_axum::{router::OpenApiRouter, routes};
use vswitch_model::{
    Error,
    api::{
        CAPTURE_ID,
        capture::{Capture, CaptureRequest},
    },
};

use super::{
    extract::{Asking, Body, InPath},
    reply::Refused,
};
use crate::{
    capture::CaptureStream,
    core::{Captures, Handle, Request},
};

pub(super) fn watching() -> OpenApiRouter<Handle> {
    OpenApiRouter::default().routes(routes!(list, begin)).routes(routes!(end))
}

impl IntoResponse for CaptureStream {
    fn into_response(self) -> Response {
        let Self { id, mut chunks } = self;
        let body =
            poll_fn(move |context| chunks.poll_recv(context).map(|chunk| chunk.map(Ok::<_, Infallible>)));
        let headers =
            [(CONTENT_TYPE.as_str(), "application/x-pcapng".to_owned()), (CAPTURE_ID, id.to_string())];
        (headers, HttpBody::from_stream(body)).into_response()
    }
}

/// Captures frames until the client closes the connection.
#[utoipa::path(
    post,
    path = "/v1/captures",
    operation_id = "capture",
    request_body = CaptureRequest,
    responses((status = 200, description = "pcapng, as long as the capture goes on; its number is in the header `capture-id`"), (status = "4XX", body = Error)),
)]
async fn begin(Asking(core): Asking, Body(request): Body<CaptureRequest>) -> Result<CaptureStream, Refused> {
    Ok(core.ask(|reply| Request::Capture(Box::new(request), reply)).await?.value)
}

/// Captures in progress.
#[utoipa::path(
    get,
    path = "/v1/captures",
    operation_id = "captures",
    responses((status = 200, body = [Capture])),
)]
async fn list(State(core): State<Handle>) -> Json<Vec<Capture>> {
    Json(core.snapshot().captures())
}

/// Ends a capture: its stream ends after the frames captured so far.
#[utoipa::path(
    delete,
    path = "/v1/captures/{id}",
    operation_id = "end_capture",
    params(("id" = u64, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
async fn end(State(core): State<Handle>, InPath(id): InPath<u64>) -> Result<StatusCode, Refused> {
    if core.ask(|reply| Request::EndCaptures(Captures::One(id), reply)).await?.value {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error::not_found(format!("there is no capture {id}: it has ended")).into())
    }
}
