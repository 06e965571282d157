//! Names of network interfaces: which ones the kernel accepts, and those of interfaces that the daemon creates on its host.
//!
//! | prefix | interface | who may pass it |
//! |---|---|---|
//! | `vg-` | the host's TAP in a network: its gateway | what is forwarded (`gateway`) |
//! | `vp-` | the host's end of a port's veth pair | the switch alone; the host's IP stack is kept off it (`link`) |
//!
//! Two prefixes, so that neither takes the other's name and a firewall rule for the one does not let the other pass. Versions
//! before had `vs-` for both: such an interface is taken over under its new name.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Id, Name};

/// Bytes of the longest interface name: IFNAMSIZ less its final zero (include/uapi/linux/if.h).
pub(crate) const IFNAME_MAX: usize = 15;

/// The name of a network interface: one that the kernel takes (`dev_valid_name`, net/core/dev.c) as it is written.
///
/// It also has no `%`, which some calls expand, and no control character, which would garble output.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// Text that the kernel would refuse as an interface's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an interface name: use 1 to 15 letters, digits or signs, but no '/', ':', '%' or blank"
)]
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

    /// Name of the interface of endpoint `id` that is created for another program to move and rename.
    pub fn bare(id: &Id) -> Self {
        Self(format!("vse{}", id.short()))
    }

    /// Placeholder for a missing name while the rest is checked for errors.
    pub(crate) fn unnamed() -> Self {
        Self("unnamed".into())
    }

    /// The port's name as an interface's; `None` where it is longer than [`IFNAME_MAX`].
    pub(crate) fn of(port: &Name) -> Option<Self> {
        // A `Name` has no other sign that the kernel refuses, and is neither `.` nor `..`.
        (port.as_str().len() <= IFNAME_MAX).then(|| Self(port.as_str().to_owned()))
    }
}

impl TryFrom<String> for IfName {
    type Error = InvalidIfName;

    fn try_from(text: String) -> Result<Self, InvalidIfName> {
        let strange = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
        // The kernel's isspace() reads bytes as Latin-1, where 0xa0 is the no-break space.
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

/// Looks up a set of names by text; both hash and compare alike.
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

/// How the names of gateways' interfaces begin that no network has named.
pub const GATEWAY_PREFIX: &str = "vg-";

/// How the names of the host's ends of veth pairs begin.
const VETH_PREFIX: &str = "vp-";

/// How both began before.
const FORMER_PREFIX: &str = "vs-";

/// The default name of the host's interface in a network.
pub fn gateway_ifname(network: &Id) -> IfName {
    IfName(format!("{GATEWAY_PREFIX}{}", network.short()))
}

/// The name that earlier versions gave the gateway's interface `ifname`, if that name is of [`gateway_ifname`].
pub fn former_gateway_ifname(ifname: &str) -> Option<String> {
    let digits = ifname.strip_prefix(GATEWAY_PREFIX)?;
    let is_id = digits.len() == Id::SHORT && digits.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then(|| format!("{FORMER_PREFIX}{digits}"))
}

/// The name of the host's end of a port's veth pair: the prefix and the port's name, or as much of it as fits and eight
/// hexadecimal digits of its hash. The same port has the same name for ever; two ports may have one.
pub fn veth_host_ifname(port: &Name) -> String {
    with_prefix(VETH_PREFIX, port)
}

/// Its name in earlier versions.
pub fn former_veth_host_ifname(port: &Name) -> String {
    with_prefix(FORMER_PREFIX, port)
}

fn with_prefix(prefix: &str, port: &Name) -> String {
    let name = port.as_str();
    if prefix.len() + name.len() <= IFNAME_MAX {
        return format!("{prefix}{name}");
    }
    // FNV-1a, 32 bit: stable across versions, which std's hasher does not promise.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{prefix}{}{hash:08x}", &name[..4])
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

    #[test]
    fn host_ends_have_short_lasting_names() {
        let host = |name: &str| veth_host_ifname(&name.parse().unwrap());
        assert_eq!(host("web"), "vp-web");
        assert_eq!(host("twelve-chars"), "vp-twelve-chars");
        assert_eq!(host("thirteen-char").len(), IFNAME_MAX);
        assert_ne!(host("a-very-long-name-1"), host("a-very-long-name-2"));
        assert_eq!(host("a-very-long-name-1"), "vp-a-vedcb1b6f6");
        assert_eq!(former_veth_host_ifname(&"web".parse().unwrap()), "vs-web");
        assert_eq!(host(&"x".repeat(63)).len(), IFNAME_MAX);
    }

    #[test]
    fn a_port_that_is_called_like_a_network_s_id_takes_no_gateway_s_name() {
        let id = Id::of("blue");
        let port: Name = id.short().parse().unwrap();
        assert_eq!(gateway_ifname(&id).len(), IFNAME_MAX);
        assert_ne!(gateway_ifname(&id).as_str(), veth_host_ifname(&port));
    }

    #[test]
    fn only_names_of_our_own_making_had_another_before() {
        let id = Id::of("blue");
        let former = format!("vs-{}", id.short());
        assert_eq!(former_gateway_ifname(&gateway_ifname(&id)), Some(former));
        for named in ["vg-lan", "vg-0123456789aX", "vg-0123456789abc", "br-0123456789ab", "vg-"] {
            assert_eq!(former_gateway_ifname(named), None, "{named}");
        }
    }
}
