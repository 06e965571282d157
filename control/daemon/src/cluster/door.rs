//! How a new host gets in: a manager listens, the host shows its token, and gets a certificate and the way to the store.
//!
//! One line of JSON each way, over TLS. The host checks the authority's fingerprint, which its token has; the manager checks the
//! token's secret. A host that is in shows its certificate instead, to get the next one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_name,
        },
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
        server::{ParsedCertificate, WebPkiClientVerifier},
    },
};
use tracing::{debug, info};
use vswitch_cluster::record::Node;
use vswitch_model::{Error, Id, Name};

use super::pki::{Pair, Token, fingerprint};

/// The port that managers listen at for new hosts; Docker's swarm uses the same.
pub(super) const PORT: u16 = 2377;

/// Time limit of a join: longer than a request waits for the store.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longest message in bytes.
const LONGEST: u64 = 64 * 1024;

/// Hosts that may join at the same time.
const AT_ONCE: usize = 16;

/// What a host says at the door.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// Let me in.
    Join(Box<Knock>),
    /// I was let in, and cannot stay: forget me.
    Retreat(Box<Knock>),
    /// My certificate ends soon.
    Renew {
        /// The host, for which its certificate is valid.
        name: Name,
        /// The address of its certificate.
        address: IpAddr,
        /// The public half of its key, hexadecimal.
        key: String,
    },
}

/// What a new host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Knock {
    pub(super) secret: String,
    pub(super) format: u32,
    pub(super) name: Name,
    pub(super) node: Node,
    /// The public half of its key, hexadecimal.
    pub(super) key: String,
}

/// What a host gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Got {
    /// It is in.
    Welcome(Box<Welcome>),
    /// A certificate, PEM.
    Certificate(String),
    /// What it wanted is done.
    Done,
}

/// What a new host gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(super) cluster: Id,
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) store: Vec<String>,
    pub(super) prefix: String,
}

/// The answer of a manager.
pub(super) type Answer = Result<Got, Error>;

/// Lets hosts in, until it is dropped. `admit` decides.
pub(super) async fn keep<F>(
    address: IpAddr,
    pair: Pair,
    authority: String,
    admit: impl Fn(Said) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Error>
where
    F: Future<Output = Answer> + Send,
{
    let failed =
        |error: &dyn std::fmt::Display| Error::unavailable(format!("new hosts cannot join: {error}"));
    let mut chain = certificates(&pair.certificate)?;
    // The host that joins knows the authority by its fingerprint only.
    chain.extend(certificates(&authority)?);
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| failed(&error))?;
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in certificates(&authority)? {
        roots.add(root).map_err(|error| failed(&error))?;
    }
    // A new host has no certificate.
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed(&error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|it| it.with_client_cert_verifier(clients).with_single_cert(chain, key))
        .map_err(|error| failed(&error))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(SocketAddr::new(address, PORT)).await;
    let listener = listener.map_err(|error| {
        Error::unavailable(format!("cannot listen on {address} port {PORT} for hosts that join: {error}"))
    })?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        let Ok((stream, from)) = listener.accept().await else { continue };
        let (acceptor, admit) = (acceptor.clone(), admit.clone());
        tokio::spawn(async move {
            let served = timeout(PATIENCE, answer(acceptor, stream, admit)).await;
            match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%from, "a join broke off: {error}"),
                Err(_) => debug!(%from, "a join took too long"),
            }
            drop(permit);
        });
    }
}

async fn answer<F: Future<Output = Answer> + Send>(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    admit: impl Fn(Said) -> F,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let shown = stream.get_ref().get_ref().1.peer_certificates().and_then(|it| it.first()).cloned();
    let mut line = String::new();
    (&mut stream).take(LONGEST).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Said>(&line) {
        Ok(Said::Renew { name, .. }) if !shown.is_some_and(|it| is_of(&it, &name)) => {
            Err(Error::forbidden(format!("that is not the certificate of host {name}")))
        }
        Ok(said) => admit(said).await,
        Err(_) => Err(Error::invalid("the join is not understood: use the same version on all hosts")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    stream.get_mut().write_all(&text).await?;
    stream.get_mut().shutdown().await
}

/// Whether a certificate is valid for a host of that name.
fn is_of(certificate: &CertificateDer<'_>, name: &Name) -> bool {
    let name = ServerName::try_from(name.as_str());
    let parsed = ParsedCertificate::try_from(certificate);
    matches!((name, parsed), (Ok(name), Ok(parsed)) if verify_server_name(&parsed, &name).is_ok())
}

/// Says something to the manager at `manager`, of the cluster whose authority has that fingerprint, and shows the certificate.
pub(super) async fn say(manager: SocketAddr, authority: &str, shown: Option<&Pair>, said: &Said) -> Answer {
    let unreachable = |why: &dyn std::fmt::Display| {
        Error::unavailable(format!(
            "cannot join at {manager}: {why}; is vswitchd up there, a manager, and does no firewall refuse TCP port {}?",
            manager.port()
        ))
    };
    let exchange = async {
        let stream = TcpStream::connect(manager).await.map_err(|error| unreachable(&error))?;
        let verifier =
            Pinned { fingerprint: authority.to_owned(), provider: Arc::new(ring::default_provider()) };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unreachable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
                    .map_err(|error| unreachable(&error))?;
                let chain = certificates(&pair.certificate)?;
                config.with_client_auth_cert(chain, key).map_err(|error| unreachable(&error))?
            }
        };
        let name = ServerName::IpAddress(manager.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
            match error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::General(why)) => Error::forbidden(why.clone()),
                Some(rustls::Error::InvalidCertificate(why)) => Error::forbidden(format!(
                    "the certificate of the manager at {manager} is not accepted: {why}; are the clocks of both hosts right?"
                )),
                _ => unreachable(&error),
            }
        })?;
        let mut stream = BufReader::new(stream);
        let mut text = serde_json::to_vec(said).map_err(|error| Error::internal(error.to_string()))?;
        text.push(b'\n');
        stream.get_mut().write_all(&text).await.map_err(|error| unreachable(&error))?;
        let mut line = String::new();
        (&mut stream).take(LONGEST).read_line(&mut line).await.map_err(|error| unreachable(&error))?;
        serde_json::from_str::<Answer>(&line).map_err(|_| unreachable(&"the answer is not understood"))?
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(unreachable(&"no answer in time")))
}

/// Asks a manager to let this host in.
pub(super) async fn knock(manager: SocketAddr, token: &Token, knock: &Knock) -> Result<Welcome, Error> {
    match say(manager, &token.fingerprint, None, &Said::Join(knock.clone().into())).await? {
        Got::Welcome(welcome) => {
            info!(cluster = welcome.cluster.short(), %manager, "admitted to the cluster");
            Ok(*welcome)
        }
        Got::Certificate(_) | Got::Done => {
            Err(Error::internal("the manager's answer is to another question"))
        }
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| Error::internal(format!("a certificate cannot be read: {error}")))
}

/// The first certificate in PEM, as DER.
pub(super) fn der_of(pem: &str) -> Result<CertificateDer<'static>, Error> {
    let first = certificates(pem)?.into_iter().next();
    first.ok_or_else(|| Error::internal("there is no certificate in it"))
}

/// The fingerprint of a certificate, PEM.
pub(super) fn fingerprint_of(pem: &str) -> Result<String, Error> {
    der_of(pem).map(|it| fingerprint(&it))
}

/// Accepts a server whose certificate is signed by the authority with this fingerprint.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates.iter().find(|it| fingerprint(it) == self.fingerprint);
        let Some(authority) = authority else {
            return Err(rustls::Error::General(
                "the join token is of another cluster than that of the manager: take the one that `vswitchctl cluster token` prints there".into(),
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
