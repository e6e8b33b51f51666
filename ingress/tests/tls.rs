//! HTTPS: the server name picks the certificate, the Host picks the route.
#![allow(missing_docs)]

mod rig;

use std::sync::Arc;

use http::Request;
use hyper_util::rt::TokioIo;
use rig::{Upstream, World, full};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use switchyard_ingress::{Config, Origin, Sockets, run};
use tokio::net::TcpStream;

struct Identity {
    name: String,
    der: CertificateDer<'static>,
    secret: serde_json::Value,
}

fn identity(secret: &str, host: &str) -> Identity {
    use std::fmt::Write as _;
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("certificate");
    let base64 = |text: String| {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for piece in text.as_bytes().chunks(3) {
            let n = piece.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - piece.len()));
            for i in 0..4 {
                let digit = if i <= piece.len() { DIGITS[(n >> (18 - 6 * i)) as usize & 63] as char } else { '=' };
                let _ = write!(out, "{digit}");
            }
        }
        out
    };
    let data = json!({ "tls.crt": base64(made.cert.pem()), "tls.key": base64(made.signing_key.serialize_pem()) });
    Identity {
        name: host.replace('*', "sphinx-v7"),
        der: made.cert.der().clone(),
        secret: json!({ "metadata": { "name": secret, "namespace": "default" }, "type": "kubernetes.io/tls", "data": data }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_follow_the_server_name() {
    let a = Upstream::echo("a").await;
    let identities = [identity("one", "one.net"), identity("wild", "*.example.net")];
    let rule = |host: &str| {
        let backend = json!({ "service": { "name": "a", "port": { "number": 80 } } });
        json!({ "host": host, "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } })
    };
    let rules = [rule("one.net"), rule("sphinx-v*.example.net")];
    let spec = json!({
        "ingressClassName": "yard",
        "tls": [{ "hosts": ["one.net"], "secretName": "one" }, { "hosts": ["sphinx-v*.example.net"], "secretName": "wild" }],
        "rules": rules,
    });
    let mut world = World::new().service("a", &[a.address]).ingress("tls", json!({}), spec);
    for identity in &identities {
        let name = identity.secret["metadata"]["name"].as_str().expect("name").to_owned();
        world.0.secrets.insert(("default".into(), name), Arc::new(rig::from(identity.secret.clone())));
    }
    let any = "127.0.0.1:0".parse().expect("address");
    let config = Config { http: any, https: Some(any), admin: any, threads: 1, ..Config::default() };
    let sockets = Sockets::bind(&config).expect("sockets");
    let https = sockets.https.as_ref().expect("https").address;
    let (_objects, given) = tokio::sync::watch::channel(world.0);
    tokio::spawn(run(config, sockets, Origin::Given(given), std::future::pending()));

    for identity in identities {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(identity.der).expect("root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from(identity.name.clone()).expect("name");
        let stream = TcpStream::connect(https).await.expect("connect");
        // Verification of the certificate is the assertion.
        let stream = connector.connect(name, stream).await.expect("handshake");
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection);
        let request = Request::builder().uri("/").header("host", &identity.name).body(full("")).expect("request");
        let answer = send.send_request(request).await.expect("answer");
        assert_eq!(answer.status(), 200, "{}", identity.name);
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("body").to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(said["headers"]["x-forwarded-proto"], "https");
    }
}
