//! Names of network interfaces.

use crate::Error;

/// Bytes of the longest name: IFNAMSIZ without its end (include/uapi/linux/if.h).
pub const IFNAME_MAX: usize = 15;

/// A text that the kernel would not take as an interface's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no interface name: use 1 to 15 letters, digits or signs, but no '/', ':', '%' or blank")]
pub struct InvalidIfName(pub String);

impl From<InvalidIfName> for Error {
    fn from(error: InvalidIfName) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Fails with a sentence when the kernel would not take `ifname` as an interface's name.
pub fn check_ifname(ifname: &str) -> Result<(), InvalidIfName> {
    // dev_valid_name() in net/core/dev.c; '%' would be read as a template by some calls.
    let legal = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    let fits = (1..=IFNAME_MAX).contains(&ifname.len()) && !matches!(ifname, "." | "..");
    if fits && ifname.bytes().all(legal) { Ok(()) } else { Err(InvalidIfName(ifname.into())) }
}
