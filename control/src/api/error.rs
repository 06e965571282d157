//! What the API answers when it does not do what it was asked.

use std::{fmt, io};

use crate::{
    gateway::GatewayError,
    ipam::IpamError,
    state::{NetworkError, Refusal},
    store::StoreError,
};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A refusal: a kind for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What kind of refusal.
    pub code: ErrorCode,
    /// What is wrong and what to do about it.
    pub error: String,
}

/// The kinds of refusal, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request makes no sense as it stands.
    Invalid,
    /// 403: the daemon, or the kernel, does not permit it.
    Forbidden,
    /// 404: what it names is not there.
    NotFound,
    /// 405: the path knows other methods.
    MethodNotAllowed,
    /// 409: it contradicts what is there.
    Conflict,
    /// 413: the body is too large.
    TooLarge,
    /// 500: the daemon failed at it.
    Internal,
    /// 503: the daemon is starting or stopping, or the disk is full.
    Unavailable,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<io::ErrorKind> for ErrorCode {
    fn from(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            io::ErrorKind::AlreadyExists => Self::Conflict,
            io::ErrorKind::InvalidInput => Self::Invalid,
            _ => Self::Internal,
        }
    }
}

impl ApiError {
    /// A refusal of kind `code`.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self { code, error: error.into() }
    }

    /// The request makes no sense as it stands.
    pub fn invalid(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, error)
    }

    /// What the request names is not there.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, error)
    }

    /// The request contradicts what is there.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, error)
    }

    /// The daemon failed at it.
    pub fn internal(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, error)
    }

    /// The daemon is starting or stopping.
    pub fn unavailable(error: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, error)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for ApiError {}

impl From<crate::link::LinkError> for ApiError {
    fn from(error: crate::link::LinkError) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl From<crate::netns::NetnsError> for ApiError {
    fn from(error: crate::netns::NetnsError) -> Self {
        io::Error::from(error).into()
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Exists { .. }
            | Refusal::Both { .. }
            | Refusal::InUse { .. }
            | Refusal::Crowded { .. }
            | Refusal::Declared { .. } => ErrorCode::Conflict,
            Refusal::Derived { .. } => ErrorCode::Conflict,
            Refusal::Missing { .. } => ErrorCode::NotFound,
            Refusal::Network(error) => code_of(error),
            Refusal::Invalid(_) | Refusal::NeedsRestart(_) | Refusal::Full { .. } => ErrorCode::Invalid,
        };
        Self::new(code, refusal.to_string())
    }
}

/// The statuses of Docker's API, where it has the sentence.
fn code_of(error: &NetworkError) -> ErrorCode {
    match error {
        NetworkError::NotFound(_) | NetworkError::NotConnected(..) | NetworkError::NoEndpoint(_) => {
            ErrorCode::NotFound
        }
        NetworkError::Exists(_)
        | NetworkError::EndpointExists(..)
        | NetworkError::Declared(_)
        | NetworkError::Uprooted(..)
        | NetworkError::Ipam(IpamError::Taken(_)) => ErrorCode::Conflict,
        NetworkError::Predefined(_)
        | NetworkError::NotRemovable(_)
        | NetworkError::OnlyOne(_)
        | NetworkError::ActiveEndpoints(..)
        | NetworkError::HostNetwork
        | NetworkError::NoNetwork => ErrorCode::Forbidden,
        _ => ErrorCode::Invalid,
    }
}

impl From<NetworkError> for ApiError {
    fn from(error: NetworkError) -> Self {
        Refusal::from(error).into()
    }
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let code = match &error {
            GatewayError::Allocated(_) | GatewayError::InUse { .. } => ErrorCode::Conflict,
            GatewayError::NoRights => ErrorCode::Forbidden,
            GatewayError::NoAddress { .. } | GatewayError::NoFamily { .. } => ErrorCode::Invalid,
            _ => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Full { .. } => ErrorCode::Unavailable,
            _ => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code.status(), Json(self)).into_response()
    }
}
