//! `yard up`.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use switchyard_api::Cluster;
use switchyard_lab::boot;
use switchyard_lab::cluster::{self, Loaded};
use switchyard_lab::control::{Control, Event, Request, Step};
use switchyard_lab::handover::Handover;
use switchyard_lab::home::{Directory, Home, Lock};
use switchyard_lab::listeners::{self, Ports};

use crate::which::Which;

/// Start a cluster, and create in it what the files describe.
///
/// A cluster that runs already is left running, and what the files describe is applied to it again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, or a folder of files: one Cluster, and any Kubernetes manifests. Default: as it was last time.
    #[arg(short, long, value_name = "FILE|FOLDER")]
    file: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (directory, loaded) = plan(args, cluster)?;
    directory.create().with_context(|| format!("make {}", directory.path().display()))?;
    match directory.lock().with_context(|| format!("lock {}", directory.path().display()))? {
        Some(lock) => start(&directory, &loaded, lock)?,
        None => {
            same_cluster(&directory, &loaded.cluster)?;
            eprintln!("cluster {} is running already", directory.name());
        }
    }
    follow(&directory)?;
    eprintln!("cluster {} started in {:.0?}", directory.name(), begun.elapsed());
    Ok(())
}

/// What to start, and where it is kept.
fn plan(args: &Args, which: &Which) -> anyhow::Result<(Directory, Loaded)> {
    let Some(path) = &args.file else {
        let directory = which.directory()?;
        return stored(&directory).map(|loaded| (directory, loaded));
    };
    let mut loaded = cluster::load(path)?;
    if let Some(name) = which.name() {
        loaded.cluster.metadata.name = Some(name.to_owned());
        cluster::Topology::of(&loaded.cluster)?;
    }
    let name = loaded.cluster.metadata.name.clone().context("a checked cluster has a name")?;
    Ok((Home::from_env()?.cluster(&name), loaded))
}

fn stored(directory: &Directory) -> anyhow::Result<Loaded> {
    let mut loaded = cluster::load(&directory.cluster_file())?;
    match cluster::objects(&directory.manifests_file()) {
        Ok(objects) => loaded.manifests = objects,
        Err(cluster::Error::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(loaded)
}

fn same_cluster(directory: &Directory, wanted: &Cluster) -> anyhow::Result<()> {
    let running = stored(directory)?.cluster;
    if running.spec != wanted.spec {
        bail!(
            "cluster {0} is running with another cluster file; stop it first with: yard down --cluster {0}",
            directory.name()
        );
    }
    Ok(())
}

fn start(directory: &Directory, loaded: &Loaded, lock: Lock) -> anyhow::Result<()> {
    directory.clean(&lock).context("remove what the last run left")?;
    let mut handover = Handover::default();
    let ports = listeners::open(&loaded.cluster.spec.host_ports, &Ports::remembered(directory), &mut handover)?;
    ports.remember(directory).context("note the ports")?;
    fs::write(directory.cluster_file(), serde_yaml_ng::to_string(&loaded.cluster)?).context("keep the cluster file")?;
    let mut manifests = String::new();
    for manifest in &loaded.manifests {
        manifests += "---\n";
        manifests += &serde_yaml_ng::to_string(manifest)?;
    }
    fs::write(directory.manifests_file(), manifests).context("keep the manifests")?;
    boot::start(directory, lock, handover).context("start the supervisor")
}

/// Waits until all processes of the cluster have been started.
fn follow(directory: &Directory) -> anyhow::Result<()> {
    let log = directory.log_of("supervisor");
    let gone = || format!("the supervisor ended; its log is {}", log.display());
    let control = Control::connect(directory).with_context(gone)?;
    control.channel().send(&Request::Events, &[]).with_context(gone)?;
    loop {
        let (event, _): (Event, _) = control.channel().receive().with_context(gone)?;
        match event.step {
            Step::Failed(reason) => bail!("{reason}"),
            Step::Started => return Ok(()),
            step => eprintln!("{step:?} after {} ms", event.at_milliseconds),
        }
    }
}
