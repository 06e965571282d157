//! Ids of networks and endpoints, and references to them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Name;

/// Identity of a network or an endpoint, independent of its name: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// Text that is not an [`Id`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: an id has 64 hexadecimal digits, in small letters")]
pub struct InvalidId(pub String);

impl Id {
    /// Length of the abbreviated form, in digits, as Docker prints it.
    pub(super) const SHORT: usize = 12;

    /// The id written as these bytes. Random bytes make it unique.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(hexadecimal(&bytes))
    }

    /// Derived from `text`: equal texts give equal ids, on every host and in every version.
    pub fn of(text: &str) -> Self {
        Self(hexadecimal(&Sha256::digest(text)))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits.
    pub fn short(&self) -> &str {
        &self.0[..Self::SHORT]
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let legal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 64 && text.bytes().all(legal) { Ok(Self(text)) } else { Err(InvalidId(text)) }
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.to_owned().try_into()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A reference to a network or an endpoint: its name, its id, or the first digits of its id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference(String);

/// Text that is neither a name nor an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a name nor an id: use 1 to 64 letters, digits, '.', '_' or '-'")]
pub struct InvalidReference(pub String);

impl Reference {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= 64 && text.bytes().all(legal) {
            Ok(Self(text))
        } else {
            Err(InvalidReference(text))
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        text.to_owned().try_into()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.0
    }
}

impl From<Name> for Reference {
    fn from(name: Name) -> Self {
        Self(name.into())
    }
}

impl From<Id> for Reference {
    fn from(id: Id) -> Self {
        Self(id.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_docker_like_and_stable() {
        let id = Id::of("blue");
        assert_eq!(id.as_str().len(), 64);
        assert_eq!(id, Id::of("blue"));
        assert_eq!(id.short(), &id.as_str()[..12]);
        assert_ne!(Id::from_bytes([0; 32]), Id::from_bytes([1; 32]));
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for bad in ["", "blue", &"A".repeat(64), &"0".repeat(63)] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reference_may_be_a_whole_id() {
        assert!(Id::of("x").as_str().parse::<Reference>().is_ok());
        for bad in ["", "a/b", "-a", &"0".repeat(65)] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
