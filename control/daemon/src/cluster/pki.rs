//! Certificates of a cluster: an authority of its own signs one for each host.
//!
//! A host makes its key and never gives it away; what it sends is the public half. A join token has the fingerprint of the
//! authority's certificate, so the first connection of a new host is as safe as the way the token took.

use std::fmt;

use jiff::{SignedDuration, Span, Timestamp, ToSpan, tz::Offset};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use sha2::{Digest, Sha256};
use vswitch_model::{Error, Id, Name};

use super::folder::Folder;

/// Validity of the authority's certificate in years.
const YEARS: i16 = 10;

/// Validity of a host's certificate in days.
const DAYS: i64 = 365;

/// Days before its end in which a host's certificate is renewed.
const RENEWED_BEFORE: i64 = 120;

/// The authority of a cluster.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, both PEM.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// A key of a host, before it has a certificate.
pub(super) struct HostKey(KeyPair);

/// The public half of a key, as it is sent.
struct Public(Vec<u8>);

/// What a new host needs: `VSWT-1-<fingerprint of the authority>-<secret>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// SHA-256 of the authority's certificate in DER, hexadecimal.
    pub(super) fingerprint: String,
    pub(super) secret: String,
}

impl Authority {
    /// A new authority, and its key to be kept.
    pub(super) fn new(cluster: &Id) -> Result<(Self, String), Error> {
        let key = KeyPair::generate().map_err(failed)?;
        let params = parameters(cluster)?;
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        let kept = key.serialize_pem();
        Ok((Self { issuer: Issuer::new(params, key), certificate }, kept))
    }

    /// The authority whose certificate and key were kept.
    pub(super) fn load(cluster: &Id, certificate: String, key: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key).map_err(failed)?;
        Ok(Self { issuer: Issuer::new(parameters(cluster)?, key), certificate })
    }

    /// Its certificate, PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate for a host that has these addresses.
    pub(super) fn sign(&self, host: &Name, addresses: &[String], public: &[u8]) -> Result<String, Error> {
        let mut params = CertificateParams::new(addresses.to_vec()).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, host.as_str());
        validity(&mut params, DAYS.days());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A member of the store is a server for its clients and a client of the other members.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        // A point of P-256, uncompressed (SEC 1 section 2.3.3).
        if public.len() != 65 || public[0] != 4 {
            return Err(Error::invalid(
                "the key of the new host is none: use the same version on both hosts",
            ));
        }
        Ok(params.signed_by(&Public(public.to_vec()), &self.issuer).map_err(failed)?.pem())
    }
}

impl Pair {
    /// That of the host whose folder it is.
    ///
    /// # Errors
    /// A file is missing.
    pub(super) fn of(folder: &Folder) -> Result<Self, Error> {
        let missing =
            || Error::unavailable("this host has no certificate any more: leave the cluster, and join again");
        let certificate = folder.text("host.crt")?.ok_or_else(missing)?;
        Ok(Self { certificate, key: folder.text("host.key")?.ok_or_else(missing)? })
    }
}

impl HostKey {
    /// The key that was kept.
    pub(super) fn read(pem: &str) -> Result<Self, Error> {
        KeyPair::from_pem(pem).map(Self).map_err(failed)
    }

    pub(super) fn new() -> Result<Self, Error> {
        KeyPair::generate().map(Self).map_err(failed)
    }

    /// What is sent to the authority.
    pub(super) fn public(&self) -> &[u8] {
        self.0.der_bytes()
    }

    /// PEM, to be kept.
    pub(super) fn pem(&self) -> String {
        self.0.serialize_pem()
    }
}

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn parameters(cluster: &Id) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, format!("vswitch cluster {}", cluster.short()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, YEARS.years());
    Ok(params)
}

/// From yesterday, for clocks that are apart.
fn validity(params: &mut CertificateParams, lifetime: Span) {
    let today = Offset::UTC.to_datetime(Timestamp::now()).date();
    let from = today.checked_sub(1.day()).unwrap_or(today);
    let date = |date: jiff::civil::Date| {
        let [month, day] = [date.month(), date.day()].map(i8::cast_unsigned);
        rcgen::date_time_ymd(date.year().into(), month, day)
    };
    (params.not_before, params.not_after) = (date(from), date(from.saturating_add(lifetime)));
}

/// Whether a certificate in DER ends so soon that it is to be renewed, or cannot be read.
pub(super) fn ends_soon(der: &[u8]) -> bool {
    let soon = Timestamp::now() + SignedDuration::from_hours(24 * RENEWED_BEFORE);
    end(der).is_none_or(|end| end < soon)
}

/// When a certificate in DER ends: `Certificate.tbsCertificate.validity.notAfter` (RFC 5280 section 4.1).
fn end(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate, _) = element(der)?;
    let (_, mut rest, _) = element(certificate)?;
    // The version has a tag of its own, and may be left out; then serial number, algorithm, issuer.
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.2;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (kind, text, _) = element(element(validity)?.2)?;
    let text = std::str::from_utf8(text).ok()?;
    // UTCTime has two digits of the year, until 2049; GeneralizedTime has four.
    let text = if kind == 0x17 { format!("20{text}") } else { text.to_owned() };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    Offset::UTC.to_timestamp(time).ok()
}

/// The first element of DER: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ ..0x80 => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let digits =
                digits.iter().try_fold(0_usize, |all, it| Some(all.checked_mul(256)? | usize::from(*it)));
            (digits?, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The fingerprint of a certificate in DER.
pub(super) fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failed(error: rcgen::Error) -> Error {
    Error::internal(format!("a certificate cannot be made: {error}"))
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VSWT-1-{}-{}", self.fingerprint, self.secret)
    }
}

impl std::str::FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let hexadecimal =
            |text: &str, length| text.len() == length && text.bytes().all(|it| it.is_ascii_hexdigit());
        let parts = text.trim().strip_prefix("VSWT-1-").and_then(|rest| rest.split_once('-'));
        match parts {
            Some((fingerprint, secret)) if hexadecimal(fingerprint, 64) && hexadecimal(secret, 32) => {
                Ok(Self { fingerprint: fingerprint.into(), secret: secret.into() })
            }
            _ => Err(Error::invalid(
                "that is no join token: it begins with VSWT-1-; `vswitchctl cluster token` prints it on a manager",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let token = Token { fingerprint: "ab".repeat(32), secret: "01".repeat(16) };
        assert_eq!(token.to_string().parse::<Token>(), Ok(token));
        assert!("SWMTKN-1-x-y".parse::<Token>().is_err());
    }

    #[test]
    fn an_authority_is_the_same_after_it_was_kept() {
        let cluster = Id::of("one");
        let (authority, key) = Authority::new(&cluster).unwrap();
        let again = Authority::load(&cluster, authority.certificate().to_owned(), &key).unwrap();
        let host = HostKey::new().unwrap();
        let name = "host1".parse().unwrap();
        assert!(
            again.sign(&name, &["10.8.0.1".into()], host.public()).unwrap().contains("BEGIN CERTIFICATE")
        );
        assert!(again.sign(&name, &[], b"x").is_err());
    }

    #[test]
    fn certificates_say_when_they_end() {
        let (authority, _) = Authority::new(&Id::of("one")).unwrap();
        let host = HostKey::new().unwrap();
        let signed = authority.sign(&"host1".parse().unwrap(), &["10.8.0.1".into()], host.public()).unwrap();
        let days = |pem: &str| {
            let der = super::super::door::der_of(pem).unwrap();
            assert!(!ends_soon(&der), "it is new");
            let left = end(&der).unwrap().duration_since(Timestamp::now());
            left.as_hours() / 24
        };
        assert!((DAYS - 3..DAYS).contains(&days(&signed)));
        // Beyond 2049 the time would be written in another way: ten years from now it is not.
        assert!((3640..3655).contains(&days(authority.certificate())));
        assert!(ends_soon(b"") && ends_soon(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]));
    }
}
