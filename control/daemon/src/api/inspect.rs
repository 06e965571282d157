//! The paths by which frames are looked at: captures, traces, and what is known of an address.

use std::{convert::Infallible, fmt};

use axum::{
    body::{Body as HttpBody, Bytes},
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use vswitch_model::{
    Error,
    api::{
        CAPTURE_ID,
        capture::{Capture, CaptureRequest},
        trace::{Trace, TraceRequest, Why, WhyFilter},
    },
};

use super::{
    extract::{Body, InPath, Parameters},
    reply::Refused,
    server::{Shared, answer, done},
};

/// A capture that has begun.
pub struct CaptureStream {
    /// Its number.
    pub id: u64,
    /// What it sees, as pcapng; the capture ends when this is dropped.
    pub chunks: mpsc::Receiver<Bytes>,
}

impl fmt::Debug for CaptureStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureStream").field("id", &self.id).finish_non_exhaustive()
    }
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

/// Captures frames until the client has enough.
#[utoipa::path(
    post,
    path = "/v1/captures",
    request_body = CaptureRequest,
    responses((status = 200, description = "pcapng, as long as the capture goes on; its number is in the header `capture-id`"), (status = "4XX", body = Error)),
)]
pub(super) async fn capture(State(backend): Shared, Body(request): Body<CaptureRequest>) -> Response {
    backend.capture(request).await.map_err(Refused).into_response()
}

/// The captures that go on.
#[utoipa::path(
    get,
    path = "/v1/captures",
    responses((status = 200, body = [Capture])),
)]
pub(super) async fn captures(State(backend): Shared) -> Response {
    answer(StatusCode::OK, backend.captures().await)
}

/// Ends a capture: what it has seen so far is handed over, then its stream ends.
#[utoipa::path(
    delete,
    path = "/v1/captures/{id}",
    params(("id" = u64, Path)),
    responses((status = 204), (status = "4XX", body = Error)),
)]
pub(super) async fn end_capture(State(backend): Shared, InPath(id): InPath<u64>) -> Response {
    done(backend.end_capture(id).await)
}

/// What would become of a frame.
#[utoipa::path(
    post,
    path = "/v1/trace",
    request_body = TraceRequest,
    responses((status = 200, body = Trace), (status = "4XX", body = Error)),
)]
pub(super) async fn trace(State(backend): Shared, Body(request): Body<TraceRequest>) -> Response {
    answer(StatusCode::OK, backend.trace(request).await)
}

/// What is known of an address.
#[utoipa::path(
    get,
    path = "/v1/why",
    params(WhyFilter),
    responses((status = 200, body = Why), (status = "4XX", body = Error)),
)]
pub(super) async fn why(State(backend): Shared, Parameters(filter): Parameters<WhyFilter>) -> Response {
    answer(StatusCode::OK, backend.why(filter).await)
}
