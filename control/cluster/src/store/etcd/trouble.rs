//! What an operator can do about the errors of TLS and of etcd's users.

use super::StoreError;

/// The parts of rustls' errors that say what is wrong with a certificate, and what that means here.
const CERTIFICATES: [(&str, &str); 9] = [
    ("peer certificate: Expired", "the store's certificate has expired, or the clock of this host is wrong"),
    (
        "peer certificate: NotValidYet",
        "the store's certificate is not valid yet: is the clock of this host, or that of the authority, wrong?",
    ),
    ("peer certificate: UnknownIssuer", "the store's certificate is not signed by the authority of --cacert"),
    ("peer certificate: BadSignature", "the store's certificate is not signed by the authority of --cacert"),
    ("peer certificate: NotValidForName", "the store's certificate is not valid for the address in --store"),
    (
        "alert: CertificateExpired",
        "the store says that this host's certificate has expired: give it another, or look at both clocks",
    ),
    (
        "alert: BadCertificate",
        "the store does not accept this host's certificate: it has expired, or is not signed by the authority that the store trusts",
    ),
    (
        "alert: UnknownCA",
        "the store does not accept this host's certificate: it is not signed by the authority that the store trusts",
    ),
    ("alert: CertificateRequired", "the store wants a certificate of this host: give --cert and --key"),
];

/// A failure to reach a store. What waiting does not mend is a refusal.
pub(super) fn of(why: String) -> StoreError {
    // One that is not valid for a name is told with both names.
    let plain = why.replace("certificate not valid for name", "peer certificate: NotValidForName");
    let plain = plain.replace("certificate expired", "peer certificate: Expired");
    let plain = plain.replace("certificate not valid yet", "peer certificate: NotValidYet");
    match CERTIFICATES.iter().find(|(part, _)| plain.contains(part)) {
        Some((_, sentence)) => StoreError::Refused(format!("{sentence} ({why})")),
        None => StoreError::Unreachable(why),
    }
}

/// A refusal of etcd.
pub(super) fn refusal(why: &str) -> String {
    let advice = match why {
        _ if why.contains("permission denied") => {
            "the user of this host's certificate lacks a right: see the roles in docs/cluster.md"
        }
        _ if why.contains("user name is empty") => {
            "the store wants users, and this host is none: reach it by https with a certificate"
        }
        _ if why.contains("invalid auth token") || why.contains("user name not found") => {
            "the store knows no user of the name (CN) in this host's certificate"
        }
        _ => return why.to_owned(),
    };
    format!("{why}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let expired = "invalid peer certificate: Expired".to_owned();
        assert!(matches!(of(expired), StoreError::Refused(why) if why.contains("has expired, or the clock")));
        let gone = "connection refused".to_owned();
        assert_eq!(of(gone.clone()), StoreError::Unreachable(gone));
        assert!(refusal("etcdserver: permission denied").contains("lacks a right"));
        assert_eq!(refusal("etcdserver: no space"), "etcdserver: no space");
    }
}
