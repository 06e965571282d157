//! Errors of the gateway, as sentences.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use rustix::io::Errno;

use vswitch_model::{
    Error, ErrorKind, Family,
    publish::{Publish, Published},
};

/// Why the gateway could not be set, or a port not be published.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// nft is not installed.
    #[error("nft is missing: install nftables")]
    NoNft,
    /// The kernel wants CAP_NET_ADMIN.
    #[error("no permission to change the firewall: run as root, or with CAP_NET_ADMIN")]
    NoRights,
    /// The kernel lacks a feature that a rule needs: (nft's message).
    #[error(
        "the kernel lacks what the gateway needs ({0}): it wants nf_tables with the family inet, nf_conntrack, nft_nat, nft_masq and nft_fib_inet"
    )]
    NoNat(String),
    /// Any other message of nft.
    #[error("nft refuses the table inet vswitch: {0}")]
    Refused(String),
    /// nft could not be run.
    #[error("cannot run nft: {0}")]
    Run(#[source] io::Error),
    /// A required kernel setting could not be written.
    #[error("cannot set {name} to {value}: {source}: {}", remedy(source, name, value))]
    Sysctl {
        /// Its name, as for sysctl(8).
        name: String,
        /// The required value.
        value: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// It conflicts with another published port: Docker's sentence.
    #[error("Bind for {0} failed: port is already allocated")]
    Allocated(SocketAddr),
    /// A process holds the port: Docker's sentence, and where to look.
    #[error(
        "failed to bind host port for {published}: address already in use: find who has it with `ss -anp --{} sport = :{}`",
        published.protocol, published.at().port()
    )]
    InUse {
        /// The request.
        published: Published,
    },
    /// The host has no such address: Docker's sentence.
    #[error(
        "failed to bind host port for {published}: cannot assign requested address: no interface of this host has {}",
        published.at().ip()
    )]
    NoAddress {
        /// The request.
        published: Published,
    },
    /// Any other error of the kernel about a port.
    #[error("failed to bind host port for {published}: {source}")]
    Bind {
        /// The request.
        published: Published,
        /// The kernel's error.
        source: io::Error,
    },
    /// The process may not open as many files.
    #[error("cannot publish {published}: {why}")]
    Descriptors {
        /// The request.
        published: Published,
        /// A sentence.
        why: String,
    },
    /// Another daemon sets the table of this network namespace.
    #[error(
        "another vswitchd has the gateways of this network namespace ({holder}): stop it, or run this one in a namespace of its own"
    )]
    Owned {
        /// Its process id.
        pid: i32,
        /// Its process, with its command line.
        holder: String,
    },
    /// It is unknown whether there is another daemon.
    #[error("cannot claim the gateways of this network namespace: {0}")]
    Claim(#[source] io::Error),
    /// No port of the range is free.
    #[error("cannot publish {publish}: all {} host ports are in use: give a wider range", publish.protocol)]
    NoneFree {
        /// The request.
        publish: Publish,
    },
    /// Neither the kernel nor a relay can forward it.
    #[error(
        "cannot publish {publish}: SCTP is not carried on from ::1, nor from IPv6 to IPv4: use an address of the family that the container has"
    )]
    NoWay {
        /// The request.
        publish: Publish,
    },
    /// The container has no address of the family.
    #[error("cannot publish {publish}: the endpoint has no {} address", family(publish.host_ip))]
    NoFamily {
        /// The request.
        publish: Publish,
    },
}

fn family(ip: Option<IpAddr>) -> String {
    ip.map_or_else(|| "IP".into(), |ip| Family::of(ip).to_string())
}

impl GatewayError {
    /// Whether the port is in use, so that another may be chosen.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::Allocated(_) | Self::InUse { .. })
    }

    /// Whether the kernel lacks the address family.
    pub(super) fn lacks_family(&self) -> bool {
        matches!(self, Self::Bind { source, .. }
            if Errno::from_io_error(source) == Some(Errno::AFNOSUPPORT))
    }

    /// The same about another of the ports that are held together.
    pub(super) fn of(self, published: Published) -> Self {
        match self {
            Self::InUse { .. } => Self::InUse { published },
            other => other,
        }
    }

    pub(super) fn bind(published: Published, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { published },
            io::ErrorKind::AddrNotAvailable => Self::NoAddress { published },
            _ => Self::Bind { published, source },
        }
    }

    /// Interprets a message of nft.
    pub(super) fn nft(words: &str) -> Self {
        let lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
        let said = lines.take(3).collect::<Vec<_>>().join(" ");
        // The kernel's EPERM; ENOENT, EOPNOTSUPP and EAFNOSUPPORT for an expression or family that it lacks.
        let means = |text: &str| words.contains(text);
        if means("Operation not permitted") {
            Self::NoRights
        } else if ["No such file or directory", "not supported"].into_iter().any(means) {
            Self::NoNat(said)
        } else {
            Self::Refused(said)
        }
    }
}

impl From<GatewayError> for Error {
    fn from(error: GatewayError) -> Self {
        let code = match &error {
            GatewayError::Allocated(_) | GatewayError::InUse { .. } | GatewayError::Owned { .. } => {
                ErrorKind::Conflict
            }
            GatewayError::Descriptors { .. } => ErrorKind::Unavailable,
            GatewayError::NoRights => ErrorKind::Forbidden,
            GatewayError::NoAddress { .. } | GatewayError::NoFamily { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// What to do about a setting of the kernel that cannot be written.
fn remedy(error: &io::Error, name: &str, value: &str) -> String {
    match error.kind() {
        // Engines mount /proc/sys so, even for the host's own namespace.
        io::ErrorKind::ReadOnlyFilesystem => {
            "/proc/sys is read-only, as in containers: start it with `--security-opt systempaths=unconfined`"
                .to_owned()
        }
        _ => format!("set it with `sysctl -w {name}={value}`"),
    }
}

#[cfg(test)]
mod tests {
    use vswitch_model::publish::Protocol;

    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let at = "0.0.0.0:8080".parse().unwrap();
        let published = Published::new(Protocol::Tcp, at, "10.9.0.2:80".parse().unwrap()).unwrap();
        let error = |kind: io::ErrorKind| GatewayError::bind(published, kind.into()).to_string();
        let sysctl = |kind: io::ErrorKind| {
            GatewayError::Sysctl { name: "net/ipv4/ip_forward".into(), value: "1", source: kind.into() }
                .to_string()
        };
        assert!(
            sysctl(io::ErrorKind::ReadOnlyFilesystem).ends_with("`--security-opt systempaths=unconfined`")
        );
        assert!(sysctl(io::ErrorKind::PermissionDenied).ends_with("`sysctl -w net/ipv4/ip_forward=1`"));
        assert_eq!(
            GatewayError::Allocated(at).to_string(),
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        );
        assert_eq!(
            error(io::ErrorKind::AddrInUse),
            "failed to bind host port for 0.0.0.0:8080:10.9.0.2:80/tcp: address already in use: find who has it \
             with `ss -anp --tcp sport = :8080`"
        );
        assert_eq!(
            error(io::ErrorKind::AddrNotAvailable),
            "failed to bind host port for 0.0.0.0:8080:10.9.0.2:80/tcp: cannot assign requested address: no \
             interface of this host has 0.0.0.0"
        );
        let publish: Publish = "[fd00::1]:8000-8001:80".parse().unwrap();
        assert_eq!(
            GatewayError::NoneFree { publish: publish.clone() }.to_string(),
            "cannot publish [fd00::1]:8000-8001:80/tcp: all tcp host ports are in use: give a wider range"
        );
        assert_eq!(
            GatewayError::NoWay { publish: publish.clone() }.to_string(),
            "cannot publish [fd00::1]:8000-8001:80/tcp: SCTP is not carried on from ::1, nor from IPv6 to IPv4: use \
             an address of the family that the container has"
        );
        assert_eq!(
            GatewayError::NoFamily { publish }.to_string(),
            "cannot publish [fd00::1]:8000-8001:80/tcp: the endpoint has no IPv6 address"
        );
    }

    #[test]
    fn words_of_nft_are_told_apart() {
        let error = |words| GatewayError::nft(words).to_string();
        assert_eq!(
            error("netlink: Error: cache initialization failed: Operation not permitted\n"),
            "no permission to change the firewall: run as root, or with CAP_NET_ADMIN"
        );
        let lacks = error("internal:0:0-0: Error: Could not process rule: No such file or directory\n\n\n");
        assert!(
            lacks.starts_with("the kernel lacks what the gateway needs (internal:0:0-0: Error"),
            "{lacks}"
        );
        assert_eq!(error("out of cheese\n"), "nft refuses the table inet vswitch: out of cheese");
    }
}
