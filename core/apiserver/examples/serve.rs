//! A bare API server for a look around: `cargo run -p switchyard-apiserver --example serve -- DIR [PORT]`, then
//! `kubectl --kubeconfig DIR/kubeconfig get namespaces`. No controllers, no nodes.

use std::path::PathBuf;
use std::sync::Arc;

use switchyard_apiserver::pki::{Identity, Names, Pki};
use switchyard_apiserver::{Config, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: serve DIR [PORT]")?);
    let port: u16 = args.next().map_or(Ok(0), |port| port.parse())?;
    let pki = Arc::new(Pki::load_or_create(&dir.join("pki"), &Names::default())?);
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    let url = format!("https://{}", listener.local_addr()?);
    std::fs::write(dir.join("kubeconfig"), pki.kubeconfig(&Identity::admin(), &url)?)?;
    let server = Server::open(Config { store: Some(dir.join("store/state.redb")), ..Config::new(pki) })?;
    println!("{url}");
    server.serve(vec![listener], async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
