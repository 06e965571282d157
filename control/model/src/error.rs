//! The error of the control plane.
//!
//! The HTTP status, the exit code, the CNI code and Docker's answer are functions of the kind, each at its own edge.

use std::{fmt, io};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sentence::{printable, printable_lines};

/// A refusal: a kind for programs, a sentence for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Error {
    /// What kind of refusal.
    #[serde(rename = "code")]
    pub kind: ErrorKind,
    /// What is wrong and what to do about it.
    #[serde(rename = "error")]
    pub sentence: String,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The daemon or the kernel does not permit it.
    Forbidden,
    /// The object does not exist.
    NotFound,
    /// It conflicts with an existing object.
    Conflict,
    /// The daemon failed.
    Internal,
    /// The daemon is starting or stopping, or the disk is full.
    Unavailable,
    /// The request is invalid. Unknown codes, such as those of the HTTP server itself, are read as this.
    #[serde(other)]
    Invalid,
}

impl From<io::ErrorKind> for ErrorKind {
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

impl Error {
    /// A refusal of a kind. What a caller has written into names is made [printable].
    pub fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self { kind, sentence: printable(&sentence).into_owned() }
    }

    /// The request is invalid in several ways, one a line.
    pub fn invalid_lines(lines: impl fmt::Display) -> Self {
        Self { kind: ErrorKind::Invalid, sentence: printable_lines(&lines.to_string()).into_owned() }
    }

    /// The request is invalid.
    pub fn invalid(sentence: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, sentence)
    }

    /// It is not permitted.
    pub fn forbidden(sentence: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, sentence)
    }

    /// The object does not exist.
    pub fn not_found(sentence: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, sentence)
    }

    /// The request conflicts with an existing object.
    pub fn conflict(sentence: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, sentence)
    }

    /// The daemon failed.
    pub fn internal(sentence: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, sentence)
    }

    /// The daemon is starting or stopping.
    pub fn unavailable(sentence: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, sentence)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_and_others_are_read_as_well() {
        let text = r#"{"code":"not_found","error":"network blue not found"}"#;
        let error: Error = serde_json::from_str(text).unwrap();
        assert_eq!(error, Error::not_found("network blue not found"));
        assert_eq!(serde_json::to_string(&error).unwrap(), text);
        for code in ["invalid", "too_large", "of a later version"] {
            let kind: ErrorKind = serde_json::from_value(code.into()).unwrap();
            assert_eq!(kind, ErrorKind::Invalid);
        }
        assert_eq!(serde_json::to_value(ErrorKind::Invalid).unwrap(), "invalid");
    }
}
