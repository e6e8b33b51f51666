//! Keys and certificates of a cluster: made at the first start, kept as files, used again afterwards.
//!
//! ECDSA P-256 throughout, because making a key must cost microseconds: each kubeconfig gets a key of its own. The directory is 0700 and
//! its files 0600; each is written whole under another name and then renamed, so a crash leaves a complete file or none.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A cluster's authority and what hangs on it.
pub struct Pki {
    dir: PathBuf,
    ca_certificate: String,
    ca_key: String,
    serving_certificate: String,
    serving_key: String,
    service_account_key: String,
}

/// Whom the API server's certificate speaks for, besides `localhost`, 127.0.0.1 and the names of the Service `kubernetes`.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Addresses: the control-plane node's, the first one of the service range.
    pub addresses: Vec<IpAddr>,
    /// Host names.
    pub names: Vec<String>,
}

/// Who a client certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name: the certificate's common name.
    pub name: String,
    /// Groups: its organizations.
    pub groups: Vec<String>,
}

/// Why there is no PKI.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("pki file {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate could not be read or made.
    #[error("pki {what}")]
    Certificate {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

// === impl Identity ===

impl Identity {
    /// Any user.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(ToString::to_string).collect() }
    }

    /// The person who made the cluster.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &["system:masters"])
    }

    /// Controllers and scheduler.
    pub fn controllers() -> Self {
        Self::new("system:kube-controller-manager", &["system:masters"])
    }

    /// The router.
    pub fn router() -> Self {
        Self::new("system:switchyard:router", &["system:masters"])
    }

    /// A node's agent.
    pub fn node(name: &str) -> Self {
        Self::new(format!("system:node:{name}"), &["system:nodes"])
    }

    /// The API server as a client of node agents.
    pub fn agent_client() -> Self {
        Self::new("kube-apiserver-kubelet-client", &["system:masters"])
    }
}

// === impl Pki ===

impl Pki {
    /// Reads the directory, making what is missing. The serving certificate is made anew when it speaks for other names.
    pub fn load_or_create(dir: &Path, names: &Names) -> Result<Self, Error> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| file(dir, source))?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(|source| file(dir, source))?;
        let mut pki = Self {
            dir: dir.into(),
            ca_certificate: String::new(),
            ca_key: pair(dir, "ca.key")?,
            serving_certificate: String::new(),
            serving_key: pair(dir, "apiserver.key")?,
            service_account_key: pair(dir, "sa.key")?,
        };
        pki.ca_certificate = load_or(dir, "ca.crt", || {
            let key = parse("ca.key", &pki.ca_key)?;
            ca_params().self_signed(&key).map(|certificate| certificate.pem()).map_err(|source| made("ca.crt", source))
        })?;
        let wanted = names.sorted().join("\n");
        let recorded = read(&dir.join("apiserver.names"))?;
        if recorded.as_deref() != Some(wanted.as_str()) || !dir.join("apiserver.crt").exists() {
            write(&dir.join("apiserver.crt"), pki.make_serving_certificate(names)?.as_bytes())?;
            write(&dir.join("apiserver.names"), wanted.as_bytes())?;
        }
        pki.serving_certificate = load_or(dir, "apiserver.crt", || pki.make_serving_certificate(names))?;
        Ok(pki)
    }

    /// The authority's certificate, PEM.
    pub fn ca_certificate(&self) -> &str {
        &self.ca_certificate
    }

    /// The API server's certificate and key, PEM.
    pub fn serving(&self) -> (&str, &str) {
        (&self.serving_certificate, &self.serving_key)
    }

    /// The key that signs service accounts' tokens, PEM (PKCS#8, P-256).
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A client certificate and its key, PEM.
    pub fn client_certificate(&self, identity: &Identity) -> Result<(String, String), Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for group in &identity.groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        params.distinguished_name.push(DnType::CommonName, identity.name.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if identity.groups.iter().any(|group| group == "system:nodes") {
            // A node's agent is also a server, with the same certificate.
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        self.issue(params, &identity.name)
    }

    /// The text of a kubeconfig for `identity` at `server` (`https://127.0.0.1:6443`), with a new certificate inside.
    pub fn kubeconfig(&self, identity: &Identity, server: &str) -> Result<String, Error> {
        let (certificate, key) = self.client_certificate(identity)?;
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: switchyard\nclusters:\n- name: switchyard\n  cluster:\n    \
             server: {}\n    certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    \
             client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: switchyard\n  context:\n    \
             cluster: switchyard\n    user: {user}\n    namespace: default\n",
            quoted(server),
            BASE64_STANDARD.encode(&self.ca_certificate),
            BASE64_STANDARD.encode(certificate),
            BASE64_STANDARD.encode(key),
            user = quoted(&identity.name),
        ))
    }

    fn make_serving_certificate(&self, names: &Names) -> Result<String, Error> {
        let all = names.sorted();
        let mut params = CertificateParams::new(all).map_err(|source| made("apiserver.crt", source))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = parse("apiserver.key", &self.serving_key)?;
        self.sign(params, &key, "apiserver.crt")
    }

    fn issue(&self, params: CertificateParams, what: &str) -> Result<(String, String), Error> {
        let key = KeyPair::generate().map_err(|source| made(what, source))?;
        let certificate = self.sign(params, &key, what)?;
        Ok((certificate, key.serialize_pem()))
    }

    fn sign(&self, mut params: CertificateParams, key: &KeyPair, what: &str) -> Result<String, Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        lifetime(&mut params);
        let issuer = Issuer::new(ca_params(), parse("ca.key", &self.ca_key)?);
        params.signed_by(key, &issuer).map(|certificate| certificate.pem()).map_err(|source| made(what, source))
    }
}

// === impl Names ===

impl Names {
    fn sorted(&self) -> Vec<String> {
        let service =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
        let mut all: Vec<String> =
            ["127.0.0.1", "::1", "localhost"].iter().chain(&service).map(ToString::to_string).collect();
        all.extend(self.addresses.iter().map(ToString::to_string));
        all.extend(self.names.iter().cloned());
        all.sort();
        all.dedup();
        all
    }
}

/// The same every time: the issuer's name and key are all that certificates take from it.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lifetime(&mut params);
    params
}

/// Clusters are short-lived and clocks in virtual machines jump: from long ago until long after.
fn lifetime(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
}

fn pair(dir: &Path, name: &str) -> Result<String, Error> {
    load_or(dir, name, || KeyPair::generate().map(|key| key.serialize_pem()).map_err(|source| made(name, source)))
}

fn parse(what: &str, pem: &str) -> Result<KeyPair, Error> {
    KeyPair::from_pem(pem).map_err(|source| made(what, source))
}

fn load_or(dir: &Path, name: &str, make: impl FnOnce() -> Result<String, Error>) -> Result<String, Error> {
    let path = dir.join(name);
    if let Some(text) = read(&path)? {
        return Ok(text);
    }
    let text = make()?;
    write(&path, text.as_bytes())?;
    Ok(text)
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file(path, source)),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let attempt = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    attempt().map_err(|source| file(path, source))
}

fn file(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.into(), source }
}

fn made(what: &str, source: rcgen::Error) -> Error {
    Error::Certificate { what: what.into(), source }
}
