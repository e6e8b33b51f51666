//! TLS for the HTTPS listener: certificates by server name, from the same table as the routes.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::table::SharedTable;

/// Accepts TLS connections with the certificates of the current table.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

#[derive(Debug)]
struct FromTable(Arc<SharedTable>);

// === impl Acceptor ===

impl Acceptor {
    /// Follows `table`.
    ///
    /// # Errors
    /// When the cryptography library offers no usable protocol.
    pub fn new(table: Arc<SharedTable>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(FromTable(table)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// When the peer does not, or not in time.
    pub async fn accept(&self, stream: TcpStream, within: Duration) -> io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(within, self.0.accept(stream))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

// === impl FromTable ===

impl ResolvesServerCert for FromTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let name = hello.server_name().map(str::to_ascii_lowercase).unwrap_or_default();
        table.certificates.find(&name)
    }
}
