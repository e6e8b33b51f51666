//! `yard exec`.

use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, TerminalSize};
use rustix::termios;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::{Api, block_on, default_container};
use crate::output;
use crate::shell::Raw;
use crate::which::Which;

/// Run a command in a container.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the pod, with or without `pod/`.
    pod: String,
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container. Default: the first one.
    #[arg(short, long)]
    container: Option<String>,
    /// Hand on standard input.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal.
    #[arg(short = 't', long)]
    tty: bool,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<ExitCode> {
    let code = block_on(exec(args, cluster))?;
    // A read of standard input may still be under way on a thread of its own; nobody waits for it.
    Ok(ExitCode::from(code))
}

async fn exec(args: &Args, cluster: &Which) -> anyhow::Result<u8> {
    let api = Api::of(cluster).await?;
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client().clone(), &args.namespace);
    let tty = args.tty && termios::isatty(io::stdin());
    let params = AttachParams::default().stdin(args.stdin).stdout(true).stderr(!tty).tty(tty);
    let name = args.pod.trim_start_matches("pod/");
    let container = match &args.container {
        Some(container) => container.clone(),
        None => default_container(&api, &args.namespace, name).await?,
    };
    let params = params.container(container);
    let mut process = pods.exec(name, &args.command, &params).await.with_context(|| format!("pod {name}"))?;
    let status = process.take_status().context("no status")?;
    let raw = if tty { Some(Raw::enter()?) } else { None };
    if let (true, Some(mut sizes)) = (tty, process.terminal_size()) {
        tokio::spawn(async move {
            use futures::SinkExt as _;
            let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
            loop {
                let Ok(size) = termios::tcgetwinsize(io::stdin()) else { return };
                if sizes.send(TerminalSize { height: size.ws_row, width: size.ws_col }).await.is_err() {
                    return;
                }
                resized.recv().await;
            }
        });
    }
    if let Some(mut to) = process.stdin() {
        tokio::spawn(async move {
            let mut from = tokio::io::stdin();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
    }
    let out = carry(process.stdout(), tokio::io::stdout());
    let err = carry(process.stderr(), tokio::io::stderr());
    let (out, err, status) = tokio::join!(out, err, status);
    drop(raw);
    out?;
    err?;
    code(status.context("the connection ended before the command")?)
}

async fn carry(
    from: Option<impl tokio::io::AsyncRead + Unpin>,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await.map_err(output::unprinted)?;
        to.flush().await.map_err(output::unprinted)?;
    }
}

/// The command's exit code, which Kubernetes puts among the causes of a failure.
fn code(status: Status) -> anyhow::Result<u8> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code =
        causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode")).and_then(|cause| cause.message);
    match code.and_then(|code| code.parse::<i32>().ok()) {
        Some(code) => Ok(u8::try_from(code).unwrap_or(255)),
        None => bail!("{}", status.message.unwrap_or_else(|| "the command failed".into())),
    }
}
