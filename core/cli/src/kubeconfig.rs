//! `yard kubeconfig`.

use crate::output;
use crate::which::Which;

pub(crate) fn run(cluster: &Which) -> anyhow::Result<()> {
    let path = cluster.directory()?.kubeconfig();
    output::print(&format!("{}\n", path.display()))?;
    Ok(())
}
