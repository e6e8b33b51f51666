//! Certificates by server name. They are found like hosts are, but a certificate's wildcard covers one whole label (RFC 9525 6.3), so
//! a host such as `sphinx-v*.example.net` is served with the certificate for `*.example.net`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{HostIndex, HostPattern};

/// Certificates by server name.
#[derive(Debug, Default)]
pub struct Certificates {
    index: HostIndex<Arc<CertifiedKey>>,
    /// For clients that name no host or an unknown one: the oldest Ingress' first.
    default: Option<Arc<CertifiedKey>>,
}

// === impl Certificates ===

impl Certificates {
    /// Of pairs of host and certificate; the first for a host stays.
    pub fn build(entries: Vec<(HostPattern, Arc<CertifiedKey>)>) -> Self {
        let default = entries.first().map(|(_, key)| Arc::clone(key));
        let mut all = Vec::with_capacity(entries.len());
        for (pattern, key) in entries {
            // A pattern inside a label needs the certificate that covers the whole label.
            let pattern = match pattern {
                HostPattern::Partial { domain, .. } => HostPattern::Label(domain),
                other => other,
            };
            all.push((pattern, key));
        }
        Self { index: HostIndex::build(all), default }
    }

    /// The certificate for a server name.
    pub fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.index.find(name).map(|(_, key)| key).or(self.default.as_ref()).cloned()
    }
}

/// Reads a Secret of type `kubernetes.io/tls`.
///
/// # Errors
/// Says which part is missing or unreadable.
pub(super) fn read(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let part = |name: &str| {
        let data = secret.data.as_ref().and_then(|d| d.get(name)).map(|bytes| bytes.0.as_slice());
        data.ok_or_else(|| format!("has no {name}"))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(part("tls.crt")?)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")?).map_err(|error| format!("tls.key: {error}"))?;
    let key = any_supported_type(&key).map_err(|error| format!("tls.key: {error}"))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err("tls.key does not belong to tls.crt".into())
        }
        _ => Ok(Arc::new(certified)),
    }
}
