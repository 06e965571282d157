//! Answers of the API: an error's kind as the status, its sentence in the body.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use vswitch_model::{Error, ErrorKind};

/// An [`Error`] as the outcome of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) Error);

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (status(self.0.kind), Json(self.0)).into_response()
    }
}

/// The path exists, but not with this method.
pub(crate) fn method_not_allowed(sentence: &str) -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", sentence)
}

/// The body is too long.
pub(crate) fn too_large(sentence: &str) -> Response {
    refuse(StatusCode::PAYLOAD_TOO_LARGE, "too_large", sentence)
}

/// Errors of HTTP itself, in the form of an [`Error`].
fn refuse(status: StatusCode, code: &str, sentence: &str) -> Response {
    (status, Json(json!({ "code": code, "error": sentence }))).into_response()
}

/// The HTTP status of a kind of error.
pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}
