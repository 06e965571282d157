//! Names of network interfaces.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Id, Name};

/// Bytes of the longest name: IFNAMSIZ without its end (include/uapi/linux/if.h).
pub const IFNAME_MAX: usize = 15;

/// The name of a network interface: one that the kernel takes (`dev_valid_name`, net/core/dev.c) as it is written.
///
/// Besides what the kernel refuses it has no `%`, which some calls would fill in, and no control character, which would
/// spoil what is printed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// A text that the kernel would not take as an interface's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no interface name: use 1 to 15 letters, digits or signs, but no '/', ':', '%' or blank")]
pub struct InvalidIfName(pub String);

impl From<InvalidIfName> for Error {
    fn from(error: InvalidIfName) -> Self {
        Self::invalid(error.to_string())
    }
}

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What an interface is called that is made for somebody else to fetch and name: the endpoint it belongs to has `id`.
    pub fn bare(id: &Id) -> Self {
        Self(format!("vse{}", id.short()))
    }

    /// Stands where a name is missing, while the rest is searched for errors.
    pub(crate) fn unnamed() -> Self {
        Self("unnamed".into())
    }

    /// The port's name as an interface's; `None` where it is longer than [`IFNAME_MAX`].
    pub(crate) fn of(port: &Name) -> Option<Self> {
        // Its letters are few, and it begins with one that neither `.` nor `..` has.
        (port.as_str().len() <= IFNAME_MAX).then(|| Self(port.as_str().to_owned()))
    }
}

impl TryFrom<String> for IfName {
    type Error = InvalidIfName;

    fn try_from(text: String) -> Result<Self, InvalidIfName> {
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
        // The kernel's isspace() takes bytes for Latin-1, whose blanks have a no-break one.
        let has_blank = text.bytes().any(|byte| byte == 0xa0);
        let fits = (1..=IFNAME_MAX).contains(&text.len()) && !matches!(text.as_str(), "." | "..");
        if fits && !has_blank && !text.contains(strange) { Ok(Self(text)) } else { Err(InvalidIfName(text)) }
    }
}

impl FromStr for IfName {
    type Err = InvalidIfName;

    fn from_str(text: &str) -> Result<Self, InvalidIfName> {
        text.to_owned().try_into()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl Deref for IfName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// So that a set of names is asked by text; both hash and compare alike.
impl Borrow<str> for IfName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for IfName {
    fn eq(&self, text: &str) -> bool {
        self.0 == text
    }
}

impl PartialEq<&str> for IfName {
    fn eq(&self, text: &&str) -> bool {
        self.0 == *text
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_takes() {
        for good in ["eth0", "a", "vs-web", "br.10", "fifteen-letters", "é"] {
            assert_eq!(good.parse::<IfName>().unwrap(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\tb", "a:b", "eth%d", "sixteen-letters-", "à", "a\u{7f}"]
        {
            assert_eq!(bad.parse::<IfName>(), Err(InvalidIfName(bad.into())));
        }
    }

    #[test]
    fn a_port_of_a_short_name_gives_its_interface_the_same() {
        let of = |name: &str| IfName::of(&name.parse().unwrap());
        assert_eq!(of("fifteen-letters"), "fifteen-letters".parse().ok());
        assert_eq!(of("sixteen-letters-"), None);
    }
}
