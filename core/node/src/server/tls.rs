//! TLS of the agent's server: its certificate, the authority whose clients it serves, and who a client is.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::config::Kubeconfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The group whose members may do everything. The API server, as a client of agents, is one.
pub(super) const MASTERS: &str = "system:masters";

/// Who a client's certificate speaks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) name: String,
    groups: Vec<String>,
}

/// Accepts TLS connections of clients that the cluster's authority knows.
#[derive(Clone)]
pub(crate) struct Tls(TlsAcceptor);

/// What is wrong with a certificate, key or authority file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the kubeconfig has no {0}")]
    Missing(&'static str),
    #[error("{part}: {source}")]
    Base64 { part: &'static str, source: base64::DecodeError },
    #[error("{part}: {source}")]
    Pem { part: &'static str, source: rustls::pki_types::pem::Error },
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("client authority: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    #[error("certificate and key: {0}")]
    Certificate(#[from] rustls::Error),
}

// === impl Tls ===

impl Tls {
    /// With the client certificate of a kubeconfig, for clients of the same authority.
    pub(crate) fn of_kubeconfig(config: &Kubeconfig) -> Result<Self, TlsError> {
        let config = serde_json::to_value(config).unwrap_or_default();
        let user = &config["users"][0]["user"];
        let authority = part(&config["clusters"][0]["cluster"], "certificate-authority")?;
        Self::new(&part(user, "client-certificate")?, &part(user, "client-key")?, &authority)
    }

    /// From PEM: the server's certificate chain and key, and the authority of its clients.
    pub(crate) fn new(certificate: &[u8], key: &[u8], authority: &[u8]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in certificates("certificate-authority", authority)? {
            roots.add(root)?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let chain = certificates("client-certificate", certificate)?;
        let private =
            PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem { part: "client-key", source })?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, private)?;
        // A WebSocket starts with an HTTP/1.1 upgrade.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Performs the handshake.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(HANDSHAKE, self.0.accept(stream)).await.map_err(|_| std::io::ErrorKind::TimedOut)?
    }
}

// === impl Client ===

impl Client {
    /// The common name and the organizations.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups =
            subject.iter_organization().filter_map(|group| group.as_str().ok()).map(ToOwned::to_owned).collect();
        Some(Self { name, groups })
    }

    /// Whether it may ask about pods and what runs in them.
    pub(super) fn may_ask(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// Who is at the other end, as far as the certificate says.
pub(super) fn client(stream: &TlsStream<TcpStream>) -> Option<Client> {
    let (_, session) = stream.get_ref();
    Client::of(session.peer_certificates()?.first()?)
}

fn certificates(part: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|source| TlsError::Pem { part, source })
}

/// A part of a kubeconfig: in itself, in base64, or in a file it names.
fn part(of: &serde_json::Value, name: &'static str) -> Result<Vec<u8>, TlsError> {
    if let Some(data) = of[format!("{name}-data")].as_str() {
        return BASE64_STANDARD.decode(data).map_err(|source| TlsError::Base64 { part: name, source });
    }
    let path = of[name].as_str().ok_or(TlsError::Missing(name))?;
    std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}
