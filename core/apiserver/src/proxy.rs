//! Logs, exec, attach and port-forward: the node's agent does the work, this passes the bytes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::auth::user_of_certificate;
use crate::body::Body;
use crate::meta;
use crate::pki::{Identity, Pki};
use crate::request::{Query, Target};
use crate::server::Inner;
use crate::status::{ApiError, Result};

/// The way to node agents.
pub struct Agents {
    roots: Arc<RootCertStore>,
    certificate: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    port: u16,
}

/// Accepts the agent of one node: its certificate is the cluster's and names the node. Addresses are not looked at; nodes move.
#[derive(Debug)]
struct IsNode {
    chain: Arc<dyn ClientCertVerifier>,
    user: String,
}

const CONNECT: Duration = Duration::from_secs(5);
/// Headers that make an upgrade; others stay on their side.
const PASSED: &[&str] = &[
    "connection",
    "upgrade",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-accept",
    "x-stream-protocol-version",
];

// === impl Agents ===

impl Agents {
    pub fn new(pki: &Pki, port: u16) -> Result<Self, String> {
        let (certificate, key) =
            pki.client_certificate(&Identity::agent_client()).map_err(|error| error.to_string())?;
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string());
        let mut roots = RootCertStore::empty();
        roots.add(read(pki.ca_certificate())?).map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self { roots: Arc::new(roots), certificate: vec![read(&certificate)?], key, port })
    }

    async fn connect(
        &self,
        node: &str,
        address: IpAddr,
    ) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = rustls::server::WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let verifier = Arc::new(IsNode { chain, user: format!("system:node:{node}") });
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.certificate.clone(), self.key.clone_key())
            .map_err(|error| error.to_string())?;
        let target = SocketAddr::new(address, self.port);
        let socket = tokio::net::TcpStream::connect(target).await.map_err(|error| format!("dial {target}: {error}"))?;
        socket.set_nodelay(true).ok();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(ServerName::IpAddress(address.into()), socket)
            .await
            .map_err(|error| format!("TLS with {target}: {error}"))?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to an agent ended");
            }
        });
        Ok(sender)
    }
}

/// Passes a request on to the agent of the pod's node.
pub async fn to_agent(
    server: &Arc<Inner>,
    target: &Target,
    query: &Query,
    request: Request<Bytes>,
) -> Result<Response<Body>> {
    let pod = server.store.get(&target.key()).ok_or_else(|| ApiError::not_found(&target.kind, target.name()))?;
    let subresource = target.subresource.as_deref().unwrap_or("");
    let node = meta::text(&pod.value, "/spec/nodeName");
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", target.name())));
    }
    let address = node_address(server, node)?;
    let parameters = agents_query(subresource, query);
    let verb = match subresource {
        "log" => "containerLogs",
        "portforward" => "portForward",
        other => other,
    };
    let path = match subresource {
        "portforward" => format!("/{verb}/{}/{}?{parameters}", target.namespace(), target.name()),
        _ => {
            let container = container(&pod.value, target, query)?;
            format!("/{verb}/{}/{}/{container}?{parameters}", target.namespace(), target.name())
        }
    };
    let unreachable = |error: String| ApiError::internal(format!("ask the agent of node {node}: {error}"));
    let mut sender = tokio::time::timeout(CONNECT, server.agents.connect(node, address))
        .await
        .map_err(|_| unreachable(format!("no answer from {address} within {CONNECT:?}")))?
        .map_err(unreachable)?;
    let upgrades = request.headers().contains_key(header::UPGRADE);
    if subresource != "log" && !upgrades {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let mut onward = Request::builder()
        .method(if upgrades { request.method().clone() } else { Method::GET })
        .uri(path)
        .header(header::HOST, SocketAddr::new(address, server.agents.port).to_string())
        .body(Full::default())
        .map_err(ApiError::internal)?;
    if upgrades {
        pass(request.headers(), onward.headers_mut());
    }
    let mut answer = sender.send_request(onward).await.map_err(|error| unreachable(error.to_string()))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        pass(answer.headers(), response.headers_mut());
        let (stop, agent) = (server.stop.clone(), hyper::upgrade::on(&mut answer));
        let client = hyper::upgrade::on(request);
        tokio::spawn(async move {
            let (Ok(client), Ok(agent)) = tokio::join!(client, agent) else { return };
            let (mut client, mut agent) = (TokioIo::new(client), TokioIo::new(agent));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut agent) => {}
                () = stop.cancelled() => {}
            }
        });
        return Ok(response);
    }
    if !answer.status().is_success() {
        let code = answer.status().as_u16();
        let body = http_body_util::Limited::new(answer.into_body(), 64 << 10).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
        return Err(ApiError { code, ..ApiError::bad_request(text) });
    }
    let stop = server.stop.clone();
    let chunks = answer.into_body().into_data_stream().filter_map(|chunk| async move { chunk.ok() });
    // The sender must live as long as the body is read.
    let chunks = chunks.take_until(stop.cancelled_owned()).inspect(move |_| {
        let _ = &sender;
    });
    let mut response = Response::new(Body::stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// The query in the agent's words: what the API calls stdin, the agent calls input.
fn agents_query(subresource: &str, query: &Query) -> String {
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    let streams = matches!(subresource, "exec" | "attach");
    for (name, value) in query.pairs() {
        match name.as_str() {
            "container" | "pretty" => continue,
            "stdin" if streams => parameters.append_pair("input", flag(value)),
            "stdout" if streams => parameters.append_pair("output", flag(value)),
            "stderr" if streams => parameters.append_pair("error", flag(value)),
            "tty" if streams => parameters.append_pair("tty", flag(value)),
            name => parameters.append_pair(name, value),
        };
    }
    parameters.finish()
}

fn flag(value: &str) -> &'static str {
    if matches!(value, "true" | "1") { "1" } else { "0" }
}

fn pass(from: &HeaderMap, to: &mut HeaderMap) {
    for name in PASSED {
        let name = HeaderName::from_static(name);
        for value in from.get_all(&name) {
            to.append(&name, value.clone());
        }
    }
}

/// The container a request is about: the one it names, or the only one.
fn container(pod: &serde_json::Value, target: &Target, query: &Query) -> Result<String> {
    let mut names = Vec::new();
    for field in ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"] {
        names.extend(meta::list(pod, field).iter().map(|container| meta::text(container, "/name")));
    }
    let regular = meta::list(pod, "/spec/containers").len();
    match query.get("container") {
        Some(name) if names.contains(&name) => Ok(name.into()),
        Some(name) => Err(ApiError::bad_request(format!("container {name} is not valid for pod {}", target.name()))),
        None if regular == 1 => Ok(names[0].into()),
        None => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            target.name(),
            names.join(" ")
        ))),
    }
}

fn node_address(server: &Inner, node: &str) -> Result<IpAddr> {
    let entry = server.store.get(&format!("core/nodes/{node}"));
    let entry = entry.ok_or_else(|| ApiError::internal(format!("node {node} is not registered")))?;
    let addresses = meta::list(&entry.value, "/status/addresses");
    let internal = addresses.iter().find(|address| meta::text(address, "/type") == "InternalIP");
    internal
        .and_then(|address| meta::text(address, "/address").parse().ok())
        .ok_or_else(|| ApiError::internal(format!("node {node} has no InternalIP address")))
}

// === impl IsNode ===

impl ServerCertVerifier for IsNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let user = user_of_certificate(end_entity);
        if user.is_some_and(|user| user.name == self.user && user.is_in("system:nodes")) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(format!("the certificate is not {}'s", self.user)))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
