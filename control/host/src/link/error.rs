//! Errors of interfaces, as sentences.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use rustix::io::Errno;

use vswitch_model::InvalidIfName;

use super::plan::{Step, Wanted};

/// Why an interface could not be created or set up. Namespaces appear as the caller named them.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not a valid interface name.
    #[error(transparent)]
    BadName(#[from] InvalidIfName),
    /// No interface of that name: (name, namespace).
    #[error("no interface {0} in namespace {1}")]
    NoInterface(String, String),
    /// The name is in use: (name, namespace).
    #[error("{0} already exists in namespace {1}: choose another --ifname or delete it")]
    NameTaken(String, String),
    /// The address is on another interface of the namespace.
    #[error(
        "{address} is already on {other} in namespace {namespace}: choose another address or remove it there"
    )]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The interface that has it.
        other: String,
        /// Where.
        namespace: String,
    },
    /// Another interface has the default route.
    #[error(
        "namespace {namespace} already has a default route by {via} on {other}: leave the gateway {gateway} out or delete that route"
    )]
    RouteTaken {
        /// The gateway asked for.
        gateway: IpAddr,
        /// The gateway in place.
        via: IpAddr,
        /// The interface of the route in place.
        other: String,
        /// Where.
        namespace: String,
    },
    /// No address of the interface reaches the gateway.
    #[error(
        "gateway {gateway} is in no subnet of {ifname}: give {ifname} an address in the gateway's subnet"
    )]
    GatewayUnreachable {
        /// The gateway.
        gateway: IpAddr,
        /// The interface.
        ifname: String,
    },
    /// IPv6 is disabled there.
    #[error(
        "{address} cannot be set: IPv6 is off on {ifname} in namespace {namespace} (sysctl disable_ipv6, or an MTU below 1280)"
    )]
    Ipv6Off {
        /// The address.
        address: IpNet,
        /// The interface.
        ifname: String,
        /// Where.
        namespace: String,
    },
    /// The kernel has none at all: (the address).
    #[error(
        "{0} cannot be set: this kernel has no IPv6 (built without, or booted with ipv6.disable=1): leave IPv6 addresses out"
    )]
    NoIpv6(IpNet),
    /// The kernel wants CAP_NET_ADMIN: (what was tried, namespace).
    #[error("no permission to {0} in namespace {1}: run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    NoRights(String, String),
    /// The namespace could not be entered, or a socket not be opened in it: (namespace, cause).
    #[error("{1}")]
    Open(String, #[source] io::Error),
    /// Any other error of the kernel: (what was tried, namespace, cause).
    #[error("cannot {0} in namespace {1}: {2}")]
    Os(String, String, #[source] io::Error),
}

impl LinkError {
    /// The kind of error, as of the standard library.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::BadName(_) | Self::GatewayUnreachable { .. } | Self::Ipv6Off { .. } | Self::NoIpv6(_) => {
                io::ErrorKind::InvalidInput
            }
            Self::NoInterface(..) => io::ErrorKind::NotFound,
            Self::NameTaken(..) | Self::AddressTaken { .. } | Self::RouteTaken { .. } => {
                io::ErrorKind::AlreadyExists
            }
            Self::NoRights(..) => io::ErrorKind::PermissionDenied,
            Self::Open(_, source) | Self::Os(_, _, source) => source.kind(),
        }
    }

    pub(super) fn os(doing: &str, namespace: &str, error: rtnetlink::Error) -> Self {
        match errno(&error) {
            Some(Errno::PERM | Errno::ACCESS) => Self::NoRights(doing.into(), namespace.into()),
            Some(errno) => Self::Os(doing.into(), namespace.into(), errno.into()),
            None => Self::Os(doing.into(), namespace.into(), io::Error::other(error.to_string())),
        }
    }

    pub(super) fn of_step(step: &Step, wanted: &Wanted, namespace: &str, error: rtnetlink::Error) -> Self {
        let ifname = &wanted.ifname;
        match (step, errno(&error)) {
            (
                Step::AddAddress { net: address @ IpNet::V6(_), .. },
                Some(Errno::ACCESS | Errno::NODEV | Errno::INVAL),
            ) => Self::Ipv6Off { address: *address, ifname: ifname.clone(), namespace: namespace.into() },
            // No family but the unspecified one answers for it (rtnetlink_rcv_msg, net/core/rtnetlink.c).
            (
                Step::AddAddress { net: address @ IpNet::V6(_), .. },
                Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT),
            ) => Self::NoIpv6(*address),
            (Step::AddRoute(route), Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::INVAL)) => {
                Self::GatewayUnreachable { gateway: route.gateway, ifname: ifname.clone() }
            }
            _ => Self::os(&step.describe(ifname), namespace, error),
        }
    }
}

/// The kernel's error number, if the kernel refused.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            Some(Errno::from_raw_os_error(message.raw_code().checked_neg()?))
        }
        _ => None,
    }
}

impl From<LinkError> for vswitch_model::Error {
    fn from(error: LinkError) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::ErrorMessage;
    use std::num::NonZeroI32;

    fn kernel_says(errno: Errno) -> rtnetlink::Error {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(-errno.raw_os_error());
        rtnetlink::Error::NetlinkError(message)
    }

    #[test]
    fn the_kernels_numbers_become_sentences() {
        let refused = LinkError::os("delete eth0", "web", kernel_says(Errno::PERM));
        assert_eq!(
            refused.to_string(),
            "no permission to delete eth0 in namespace web: run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
        );
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let other = LinkError::os("delete eth0", "web", kernel_says(Errno::BUSY));
        assert_eq!(
            other.to_string(),
            "cannot delete eth0 in namespace web: Device or resource busy (os error 16)"
        );
        let step = Step::AddAddress { index: 7, net: "fd09::2/64".parse().unwrap(), deprecated: false };
        let wanted = Wanted { ifname: "eth0".into(), ..Wanted::default() };
        let without = |errno| LinkError::of_step(&step, &wanted, "web", kernel_says(errno)).to_string();
        assert_eq!(
            without(Errno::OPNOTSUPP),
            "fd09::2/64 cannot be set: this kernel has no IPv6 (built without, or booted with ipv6.disable=1): leave IPv6 \
             addresses out"
        );
        assert!(without(Errno::ACCESS).starts_with("fd09::2/64 cannot be set: IPv6 is off on eth0"));
        let own = LinkError::os("delete eth0", "web", rtnetlink::Error::RequestFailed);
        assert_eq!(own.to_string(), "cannot delete eth0 in namespace web: A netlink request failed");
    }
}
