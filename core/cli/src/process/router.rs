//! A part of the cluster.

use super::InDirectory;

pub(crate) fn run(args: &InDirectory) -> anyhow::Result<()> {
    super::log();
    tracing::info!(directory = %args.directory().path().display(), "started");
    std::thread::park();
    Ok(())
}
