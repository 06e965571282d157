//! How requests are read and who makes them: like axum's own extractors, but every refusal is an [`Error`], [`Refused`].

use std::convert::Infallible;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use vswitch_model::Error;

use super::reply::{Refused, too_large};
use crate::core::{Asker, Handle};

/// Maximum length of a body in bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// A JSON body. Its content type is ignored: there is only one.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let invalid = |sentence: String| Refused(Error::invalid(sentence)).into_response();
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    let limit = BODY_LIMIT / 1024;
                    too_large(&format!("the body is longer than {limit} KiB"))
                }
                _ => invalid(format!("the body could not be read: {}", rejection.body_text())),
            })?;
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|error| invalid(format!("the body is not what is expected here: {error}")))
    }
}

/// Parameters after the `?`.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let query = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(value)| Self(value))
            .map_err(|rejection| Error::invalid(rejection.body_text()).into())
    }
}

/// The variable parts of the path.
pub(super) struct InPath<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|rejection| Error::invalid(rejection.body_text()).into())
    }
}

/// The core, asked by the process at the other end of the connection.
pub(super) struct Asking(pub(super) Handle);

impl FromRequestParts<Handle> for Asking {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, core: &Handle) -> Result<Self, Infallible> {
        let by = parts.extensions.get::<Asker>().cloned();
        Ok(Self(core.by(by.unwrap_or_default())))
    }
}
