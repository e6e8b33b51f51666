//! `yard node`: a node's agent.

/// A node's agent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node's name.
    name: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    super::log();
    tracing::info!(name = args.name, "started");
    std::thread::park();
    Ok(())
}
