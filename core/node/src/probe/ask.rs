//! The questions that are asked over the network: TCP, HTTP with and without TLS, gRPC.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes read of an answer; an HTTP status line is in the first of them.
const LARGEST_ANSWER: usize = 10 << 10;
/// `grpc.health.v1.HealthCheckResponse.ServingStatus`, by number.
const SERVING: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// One GET of an HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Get {
    pub(crate) tls: bool,
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// Takes any certificate, as Kubernetes does: a probe asks whether the container is well, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has what the default versions need")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});

pub(super) async fn tcp(address: SocketAddr) -> Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|error| format!("dial tcp {address}: {error}"))
}

// === impl Get ===

impl Get {
    /// On a connection of its own; 200 to 399 is well. Only the status line is looked at.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let clean = |text: &str| !text.bytes().any(|b| b == b'\r' || b == b'\n' || b == 0);
        let Self { host, path, headers, .. } = self;
        if !clean(host) || !clean(path) || path.contains(' ') || !headers.iter().all(|(n, v)| clean(n) && clean(v)) {
            return Err("probe has control characters in its path or headers".to_owned());
        }
        let stream = TcpStream::connect(self.address).await.map_err(|error| self.failed(&error))?;
        if !self.tls {
            return self.exchange(stream).await;
        }
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = CONNECTOR.connect(name, stream).await.map_err(|error| self.failed(&error))?;
        self.exchange(stream).await
    }

    async fn exchange(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
        let failed = |error| self.failed(&error);
        stream.write_all(self.request().as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::with_capacity(256);
        while !answer.contains(&b'\n') && answer.len() < LARGEST_ANSWER {
            if stream.read_buf(&mut answer).await.map_err(failed)? == 0 {
                break;
            }
        }
        let line = String::from_utf8_lossy(&answer);
        let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
        match code.and_then(|code| code.trim().parse().ok()) {
            Some(200..=399u16) => Ok(()),
            Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
            None => Err(self.failed(&"not an HTTP answer")),
        }
    }

    fn request(&self) -> String {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: kube-probe/switchyard\r\nAccept: */*\r\nConnection: close\r\n",
            self.path, self.host
        );
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        request + "\r\n"
    }

    fn failed(&self, why: &dyn std::fmt::Display) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("Get \"{scheme}://{}{}\": {why}", self.address, self.path)
    }
}

/// `grpc.health.v1.Health/Check`, as grpc-health-probe; well is what says SERVING.
pub(super) async fn grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("grpc health check of {address}: {why}");
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut send, connection) = handshake.await.map_err(|error| failed(&error))?;
    let call = async {
        let request = axum::http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/switchyard")
            .body(Full::new(check(service)))
            .map_err(|error| failed(&error))?;
        let (head, body) = send.send_request(request).await.map_err(|error| failed(&error))?.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| failed(&error))?;
        let status = head.headers.get("grpc-status").or_else(|| body.trailers()?.get("grpc-status"));
        match status.and_then(|status| status.to_str().ok()) {
            Some("0") => {}
            Some(code) => return Err(failed(&format_args!("grpc-status {code}"))),
            None => return Err(failed(&"not a gRPC answer")),
        }
        match serving(&body.to_bytes()).map(|number| SERVING.get(usize::from(number)).copied().unwrap_or("UNKNOWN")) {
            Some("SERVING") => Ok(()),
            Some(other) => Err(format!("service unhealthy (responded with {other:?})")),
            None => Err(failed(&"not a HealthCheckResponse")),
        }
    };
    tokio::select! {
        answer = call => answer,
        // The connection is driven here, so that it ends with the question.
        ended = connection => Err(ended.err().map_or_else(|| failed(&"connection closed"), |error| failed(&error))),
    }
}

/// A HealthCheckRequest in a gRPC frame: not compressed, its length, field 1 with the service's name.
fn check(service: &str) -> Bytes {
    let service = &service.as_bytes()[..service.len().min(127)];
    let mut message = Vec::new();
    if let Ok(length @ 1..) = u8::try_from(service.len()) {
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(service);
    }
    let length = u32::try_from(message.len()).expect("a name of at most 127 bytes");
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

/// The status in a framed HealthCheckResponse; a field that is 0 is left out.
fn serving(frame: &[u8]) -> Option<u8> {
    match frame {
        [0, 0, 0, 0, 0] => Some(0),
        [0, 0, 0, 0, _, 0x08, status, ..] => Some(*status),
        _ => None,
    }
}

// === impl AnyCertificate ===

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn get(address: SocketAddr, tls: bool) -> Get {
        Get { tls, address, host: "h".into(), path: "/".into(), headers: Vec::new() }
    }

    async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), status: &str) {
        let mut request = [0; 512];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn an_http_status_below_400_is_well() {
        for (status, well) in [("200 OK", true), ("302 Found", true), ("404 Not Found", false), ("503 No", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move { answer(&mut listener.accept().await.unwrap().0, status).await });
            assert_eq!(get(address, false).ask().await.is_ok(), well, "{status}");
            server.await.unwrap();
        }
    }

    #[tokio::test]
    async fn any_certificate_will_do_and_none_will_not() {
        let dir = tempfile::tempdir().unwrap();
        let names = switchyard_apiserver::pki::Names::default();
        let pki = switchyard_apiserver::pki::Pki::load_or_create(dir.path(), &names).unwrap();
        let (certificate, key) = pki.serving();
        let tls = crate::server::Tls::new(certificate.as_bytes(), key.as_bytes(), pki.ca_certificate().as_bytes());
        // What asks for certificates of its clients refuses a probe, after a handshake that the client thinks well of.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server =
            tokio::spawn(async move { tls.unwrap().accept(listener.accept().await.unwrap().0).await.is_err() });
        let why = get(address, true).ask().await.unwrap_err();
        assert!(why.starts_with("Get \"https://127.0.0.1:") && !why.contains("UnknownIssuer"), "{why}");
        assert!(server.await.unwrap());
        // Plain HTTP where TLS is expected.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { answer(&mut listener.accept().await.unwrap().0, "200 OK").await });
        assert!(get(address, true).ask().await.is_err());
        server.await.unwrap();
    }

    #[test]
    fn health_checks_are_framed_as_grpc_wants_them() {
        assert_eq!(check("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(check("web")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'w', b'e', b'b']);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 0x08, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(serving(b"HTTP/"), None);
    }

    #[tokio::test]
    async fn a_grpc_service_is_well_when_it_says_so() {
        for (frame, status, well) in
            [(&[0, 0, 0, 0, 2, 0x08, 1][..], "0", true), (&[0, 0, 0, 0, 2, 0x08, 2], "0", false), (&[], "12", false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let stream = TokioIo::new(listener.accept().await.unwrap().0);
                let service =
                    hyper::service::service_fn(|request: axum::http::Request<hyper::body::Incoming>| async move {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        let mut trailers = axum::http::HeaderMap::new();
                        trailers.insert("grpc-status", status.parse().unwrap());
                        let body = Full::new(Bytes::from_static(frame)).with_trailers(async { Some(Ok(trailers)) });
                        Ok::<_, std::convert::Infallible>(axum::http::Response::new(body))
                    });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(stream, service).await;
            });
            assert_eq!(grpc(address, "web").await.is_ok(), well, "{status} {frame:?}");
            server.await.unwrap();
        }
    }
}
