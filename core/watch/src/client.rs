//! A client of the API that has one connection.
//!
//! The client that kube makes by itself speaks HTTP/1.1: each watch, and each request beside another, has a connection of its own, with
//! a handshake and some 30 KiB on either side. API servers speak HTTP/2 (RFC 9113), where all of them are streams of one.

use std::time::Duration;

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may be silent before the other side is asked for a sign of life, as in client-go.
const SILENCE: Duration = Duration::from_secs(30);
/// How long that sign may take.
const SIGN: Duration = Duration::from_secs(15);

/// A client of the API server that a configuration names.
///
/// # Errors
/// When its credentials are unusable.
pub fn client(config: Config) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    let tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_only();
    let http = legacy::Builder::new(TokioExecutor::new())
        .http2_only(true)
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(SILENCE)
        .http2_keep_alive_timeout(SIGN)
        .build(tls.enable_http2().wrap_connector(tcp));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then_some(RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
