//! `yard-ingress`: see the library.

use std::{
    io::{IsTerminal, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Parser;
use switchyard_ingress::{
    Config, Origin, Sockets, cluster,
    config::{Cli, Command},
    run,
};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Explain { host, path, admin }) => explain(&host, &path, admin),
        None => serve(cli.config),
    };
    if let Err(error) = result {
        eprintln!("yard-ingress: {error:#}");
        std::process::exit(1);
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // The one provider there is, said aloud: a second one in the build must not make the choice a panic.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Before anything that takes time: from here on a client waits instead of being refused.
    let sockets = Sockets::bind(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let client = cluster::connect(config.kubeconfig.as_deref()).await?;
        let publish = match config.publish_service.as_deref().map(|s| (s, s.split_once('/'))) {
            None => None,
            Some((_, Some((namespace, name)))) => Some((namespace.to_owned(), name.to_owned())),
            Some((given, None)) => bail!("--publish-service {given:?}: must be NAMESPACE/NAME"),
        };
        let origin =
            Origin::Cluster { client, namespace: config.namespace.clone(), publish, secrets: config.https.is_some() };
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        run(config, sockets, origin, shutdown).await?;
        Ok(())
    })
}

fn explain(host: &str, path: &str, admin: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(2))
        .with_context(|| format!("ask {admin}: is yard-ingress running there?"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let code = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let (host, path) = (code(host), code(path));
    write!(stream, "GET /explain?host={host}&path={path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => print!("{body}"),
        None => bail!("{admin} gave no HTTP answer"),
    }
    Ok(())
}
