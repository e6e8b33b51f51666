//! HTTPS: the server name picks the certificate, the Host picks the route.
#![allow(missing_docs)]

mod rig;

use std::{net::SocketAddr, sync::Arc};

use http::Request;
use hyper_util::rt::TokioIo;
use rig::{Upstream, World, full};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use switchyard_ingress::{Config, Origin, Sockets, run};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

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
    let https = serve(&a, &identities, &["one.net", "sphinx-v*.example.net"]).await;

    for identity in identities {
        let stream = connect(https, &identity, &[]).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_on_in_the_handshake() {
    let a = Upstream::echo("a").await;
    let one = identity("one", "one.net");
    let https = serve(&a, std::slice::from_ref(&one), &["one.net"]).await;
    for (offered, version) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = connect(https, &one, offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(version.as_bytes()));
        let request =
            |uri: &str| Request::builder().uri(uri).header("host", "one.net").body(full("")).expect("request");
        let answer = if version == "h2" {
            let executor = hyper_util::rt::TokioExecutor::new();
            let io = TokioIo::new(stream);
            let (mut send, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("handshake");
            tokio::spawn(connection);
            send.send_request(request("https://one.net/two")).await.expect("answer")
        } else {
            let (mut send, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
            tokio::spawn(connection);
            send.send_request(request("/two")).await.expect("answer")
        };
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("body").to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&said["target"], &said["headers"]["x-forwarded-proto"]), (&"/two".into(), &"https".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_hosts_is_for_those_of_the_rules() {
    let a = Upstream::echo("a").await;
    let identities = [identity("one", "one.net"), identity("two", "two.net")];
    let rules = |host| json!([{ "host": host, "http": { "paths": [] } }]);
    let (mut world, no_rules) = (World::new().service("a", &[a.address]), json!(null));
    for (name, rules) in [("one", rules("one.net")), ("two", rules("two.net")), ("zero", no_rules)] {
        let tls = json!([{ "secretName": if name == "zero" { "one" } else { name } }]);
        let default = json!({ "service": { "name": "a", "port": { "number": 80 } } });
        let spec = json!({ "ingressClassName": "yard", "tls": tls, "rules": rules, "defaultBackend": default });
        world = world.ingress(name, json!({}), spec);
    }
    let https = start(with_secrets(world, &identities));
    for identity in &identities {
        connect(https, identity, &[]).await;
    }
}

/// An ingress for `hosts` with these certificates; where its HTTPS is.
async fn serve(upstream: &Upstream, identities: &[Identity], hosts: &[&str]) -> SocketAddr {
    let rule = |host: &&str| {
        let backend = json!({ "service": { "name": "a", "port": { "number": 80 } } });
        json!({ "host": host, "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } })
    };
    let pairs = hosts.iter().zip(identities);
    let tls: Vec<_> = pairs.map(|(host, identity)| json!({ "hosts": [host], "secretName": name(identity) })).collect();
    let rules: Vec<_> = hosts.iter().map(rule).collect();
    let spec = json!({ "ingressClassName": "yard", "tls": tls, "rules": rules });
    let world = World::new().service("a", &[upstream.address]).ingress("tls", json!({}), spec);
    start(with_secrets(world, identities))
}

fn name(identity: &Identity) -> String {
    identity.secret["metadata"]["name"].as_str().expect("name").to_owned()
}

fn with_secrets(mut world: World, identities: &[Identity]) -> World {
    for identity in identities {
        world.0.secrets.insert(("default".into(), name(identity)), Arc::new(rig::from(identity.secret.clone())));
    }
    world
}

/// An ingress; where its HTTPS is.
fn start(world: World) -> SocketAddr {
    let any = "127.0.0.1:0".parse().expect("address");
    let config = Config { http: any, https: Some(any), admin: any, threads: 1, ..Config::default() };
    let sockets = Sockets::bind(&config).expect("sockets");
    let https = sockets.https.as_ref().expect("https").address;
    let (objects, given) = tokio::sync::watch::channel(world.0);
    tokio::spawn(async move {
        let _objects = objects;
        run(config, sockets, Origin::Given(given), std::future::pending()).await
    });
    https
}

/// Connects as a client that trusts one certificate only.
async fn connect(to: SocketAddr, identity: &Identity, protocols: &[&str]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(identity.der.clone()).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(identity.name.clone()).expect("name");
    let stream = TcpStream::connect(to).await.expect("connect");
    // Verification of the certificate is the assertion.
    tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.expect("handshake")
}
