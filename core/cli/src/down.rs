//! `yard down`.

use std::time::Duration;

use anyhow::Context as _;
use switchyard_lab::control::Control;
use switchyard_lab::home::Directory;

use crate::which::Which;

/// Stop a cluster. Its store, logs and configuration stay.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds that processes have to end by themselves.
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    grace: u64,
}

/// How much longer than the grace the supervisor itself may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    let directory = cluster.directory()?;
    match stop(&directory, Duration::from_secs(args.grace))? {
        true => {
            eprintln!("cluster {} stopped; yard up --cluster {} starts it again", directory.name(), directory.name())
        }
        false => eprintln!("cluster {} was not running", directory.name()),
    }
    Ok(())
}

/// Stops a cluster if it runs, and removes what a killed one left.
pub(crate) fn stop(directory: &Directory, grace: Duration) -> anyhow::Result<bool> {
    let running = directory.is_running();
    let lock = match running.then(|| Control::connect(directory)) {
        // It was killed, and what it had started is on its way.
        Some(Err(error)) => directory.lock_within(PATIENCE)?.ok_or(error).context("reach the supervisor")?,
        Some(Ok(control)) => {
            control.down(grace, grace + PATIENCE).context("stop the supervisor")?;
            directory.lock()?.context("the cluster was started again meanwhile")?
        }
        None => directory.lock()?.context("the cluster was started again meanwhile")?,
    };
    directory.clean(&lock).context("clean up")?;
    Ok(running)
}
