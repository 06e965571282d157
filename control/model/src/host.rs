//! The name of a host, as a browser asks for it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of a host: at most 253 letters, digits, `-` and `.` in labels of at most 63 (RFC 1123 section 2.1). Written in
/// small letters, since case means nothing (RFC 4343).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Text that is not a [`HostName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name: write it like switch.example.org, without port")]
pub struct InvalidHostName(pub String);

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, InvalidHostName> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let label = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(letter) && !label.starts_with('-')
        };
        let is_name = text.len() <= 253 && text.split('.').all(label);
        if is_name { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidHostName(text.to_owned())) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

written_as_text!(HostName);

impl PartialEq<str> for HostName {
    fn eq(&self, text: &str) -> bool {
        self.0.eq_ignore_ascii_case(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts() {
        for good in ["switch.example.org", "host1", "1.example", "A-b.C"] {
            assert_eq!(String::from(good.parse::<HostName>().unwrap()), good.to_lowercase());
        }
        for bad in
            ["", ".", "a..b", "a.", "-a", "a:80", "a b", "*.example", "ä", &"a".repeat(64), &"a.".repeat(127)]
        {
            assert_eq!(bad.parse::<HostName>(), Err(InvalidHostName(bad.into())));
        }
    }
}
