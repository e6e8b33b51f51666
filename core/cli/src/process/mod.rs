//! The processes of a cluster: verbs nobody types.

mod control_plane;
pub(crate) mod credentials;
mod log;
mod node;
pub(crate) mod plugins;
mod power;
mod router;
mod supervisor;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::anyhow;
use switchyard_lab::home::Directory;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use control_plane::{Args as ControlPlaneArgs, run as control_plane};
pub(crate) use node::{Args as NodeArgs, run as node};
pub(crate) use router::run as router;
pub(crate) use supervisor::run as supervisor;

/// A process that belongs to the cluster in a folder.
#[derive(Debug, clap::Args)]
pub struct InDirectory {
    /// The cluster's folder.
    #[arg(long)]
    directory: PathBuf,
}

/// A command to become.
#[derive(Debug, clap::Args)]
pub struct EnterArgs {
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// `yard launch`.
pub(crate) fn launch(args: &InDirectory) -> anyhow::Result<()> {
    switchyard_lab::boot::launch(&args.directory()).map_err(|reason| anyhow!(reason))
}

/// `yard enter`.
pub(crate) fn enter(args: &EnterArgs) -> anyhow::Result<()> {
    Err(switchyard_lab::shell::enter(&args.command).into())
}

/// Runs a long-lived part of the cluster on one thread, which keeps it small: nodes are many.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).inspect_err(|error| tracing::error!("{error:#}"))
}

/// Runs the one part that everybody waits for.
fn block_on_threads<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    runtime.block_on(work).inspect_err(|error| tracing::error!("{error:#}"))
}

/// Its threads.
const WORKERS: usize = 2;

/// Cancelled when somebody asks this process to end.
fn terminated() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let cancel = token.clone();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    });
    Ok(token)
}

// === impl InDirectory ===

impl InDirectory {
    fn directory(&self) -> Directory {
        Directory::at(&self.directory)
    }
}
