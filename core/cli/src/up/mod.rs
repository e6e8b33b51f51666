//! `yard up`.

mod answers;
pub(crate) mod progress;
mod ready;
mod summary;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, bail};
use clap::ValueEnum;
use switchyard_api::Cluster;
use switchyard_lab::boot;
use switchyard_lab::cluster::{self, Loaded};
use switchyard_lab::control::{Control, Event, Request, Step};
use switchyard_lab::doctor::{self, Health};
use switchyard_lab::handover::Handover;
use switchyard_lab::home::{Directory, Home, Lock};
use switchyard_lab::listeners::{self, Ports};

use crate::api::{Api, block_on};
use crate::process::credentials;
use crate::which::Which;
use crate::{apply, output};
use progress::Progress;

/// Start a cluster, and create in it what the files describe.
///
/// A cluster that runs already is left running, and what the files describe is applied to it again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, or a folder of files: one Cluster, and any Kubernetes manifests. Default: as it was last time.
    #[arg(short, long, value_name = "FILE|FOLDER")]
    file: Option<PathBuf>,
    /// What to wait for.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    wait: Wait,
    /// Seconds to wait at most.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

/// When `yard up` returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// The API server has taken all manifests.
    None,
    /// Network and nodes are ready.
    Nodes,
    /// Everything described runs, and a request from outside is answered.
    #[default]
    Pods,
}

/// The group of what is waited for last: an answer from outside.
const ANSWER: usize = usize::MAX;

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    let progress = Progress::new(Instant::now());
    let (directory, loaded) = plan(args, cluster)?;
    let is_new = !directory.path().exists();
    directory.create().with_context(|| format!("make {}", directory.path().display()))?;
    supervise(&directory, &loaded, &progress).inspect_err(|_| {
        // Nothing was kept there yet, unless by another `yard up`, which has the lock. The error is what to tell, and an empty folder
        // does no harm.
        if is_new
            && let Ok(Some(_lock)) = directory.lock()
            && !directory.cluster_file().exists()
        {
            let _ = fs::remove_dir_all(directory.path());
        }
    })?;
    let outcome = block_on(async {
        let limit = Duration::from_secs(args.timeout);
        let waiting = Mutex::new(BTreeMap::new());
        let late = || {
            let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let missing: Vec<_> = waiting.values().flatten().map(String::as_str).collect();
            let what = if missing.is_empty() { "an answer".into() } else { output::some(&missing) };
            format!(
                "not ready after {} s: {what}; the cluster goes on trying (yard get pods -A, yard status)",
                args.timeout
            )
        };
        tokio::time::timeout(limit, populate(args, &directory, &loaded, &progress, &waiting))
            .await
            .map_err(|_| Error::msg(late()))?
    });
    let page = outcome.map_err(with_what_is_missing)?;
    drop(progress);
    output::print(&page)?;
    Ok(())
}

/// An error, and what the machine lacks, if it lacks something: that is why, most often, and parts say it each in the kernel's words.
fn with_what_is_missing(error: Error) -> Error {
    let findings = doctor::examine();
    let missing = findings.iter().filter(|finding| finding.health == Health::Missing);
    match missing.map(|finding| finding.what.as_str()).collect::<Vec<_>>() {
        missing if missing.is_empty() => error,
        missing => error.context(format!(
            "this machine does not allow {}; `yard doctor` says how to mend that",
            output::some(&missing)
        )),
    }
}

/// Creates what the manifests describe, while nodes are starting, and waits as long as was asked.
async fn populate(
    args: &Args,
    directory: &Directory,
    loaded: &Loaded,
    progress: &Progress,
    waiting: &Mutex<BTreeMap<usize, Vec<String>>>,
) -> anyhow::Result<String> {
    let api = Api::at(directory).await?;
    let (pods, others): (Vec<_>, Vec<_>) = loaded.manifests.iter().cloned().partition(ready::makes_pods);
    let others = apply::put(&api, apply::targets(&api, others, "default").await?).await?;
    progress.say(&format!("API server answers; {others} objects applied"));
    let note = |group: usize| {
        move |missing: Vec<String>| {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.insert(group, missing);
            let missing: Vec<_> = waiting.values().flatten().map(String::as_str).collect();
            if !missing.is_empty() && progress.is_moving() {
                progress.say(&format!("waiting for {}", output::some(&missing)));
            }
        }
    };
    let hold = |(group, condition): (usize, ready::Condition)| {
        let (api, note) = (api.clone(), note(group));
        async move { condition.hold(&api, note).await }
    };
    // Pods come last: were they there before all nodes are, the first node would get them all.
    let machines = ready::machines(&loaded.cluster);
    let first_workload = machines.len();
    if args.wait != Wait::None || !pods.is_empty() {
        futures::future::try_join_all(machines.into_iter().enumerate().map(hold)).await?;
        progress.say("network and nodes are ready");
    }
    let pods = apply::put(&api, apply::targets(&api, pods, "default").await?).await?;
    progress.say(&format!("{pods} more objects applied"));
    if args.wait == Wait::None {
        return Ok(String::new());
    }
    if args.wait == Wait::Pods {
        let workloads = ready::workloads(&loaded.manifests).into_iter().enumerate();
        futures::future::try_join_all(workloads.map(|(index, condition)| hold((first_workload + index, condition))))
            .await?;
    }
    let ports = Ports::remembered(directory);
    let first = answers::places(&loaded.manifests).into_iter().next().filter(|_| args.wait == Wait::Pods);
    if let (Some(place), Some(door)) = (first, ports.host.iter().find(|port| port.to.port() == 80)) {
        progress.say("everything is ready; sending a request");
        let note = |trouble| {
            waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(ANSWER, vec![trouble]);
        };
        answers::first(door.listen, &place, note).await;
    }
    let took = progress.elapsed();
    progress.say("ready");
    summary::page(&api, directory, &loaded.manifests, &ports, took).await
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

/// How long a supervisor that was killed may take to go, with all that it started.
const LAST_BREATH: Duration = Duration::from_secs(30);

/// Sees to it that the cluster's processes are started: by the supervisor there is, or by a new one.
fn supervise(directory: &Directory, loaded: &Loaded, progress: &Progress) -> anyhow::Result<()> {
    let locking = || format!("lock {}", directory.path().display());
    let mut lock = directory.lock().with_context(locking)?;
    if lock.is_none() {
        same_cluster(directory, &loaded.cluster)?;
        if let Ok(outcome) = follow(directory, progress) {
            progress.say(&format!("cluster {} is running already", directory.name()));
            return outcome.map_err(Error::msg);
        }
        // It has the lock and no ear: it is starting, or was killed and is going.
        lock = directory.lock_within(LAST_BREATH).with_context(locking)?;
    }
    if let Some(lock) = lock {
        start(directory, loaded, lock)?;
    }
    let gone = || format!("the supervisor ended; its log is {}", directory.log_of("supervisor").display());
    follow(directory, progress).with_context(gone)?.map_err(|reason| with_what_is_missing(Error::msg(reason)))
}

fn start(directory: &Directory, loaded: &Loaded, lock: Lock) -> anyhow::Result<()> {
    let was_killed = directory.clean(&lock).context("remove what the last run left")?;
    let patience = if was_killed { listeners::CLOSING } else { Duration::ZERO };
    let mut handover = Handover::default();
    let ports = listeners::open(
        &loaded.cluster.spec.host_ports,
        &loaded.cluster.spec.dns,
        &Ports::remembered(directory),
        patience,
        &mut handover,
    )?;
    ports.remember(directory).context("note the ports")?;
    fs::write(directory.cluster_file(), serde_yaml_ng::to_string(&loaded.cluster)?).context("keep the cluster file")?;
    let mut manifests = String::new();
    for manifest in &loaded.manifests {
        manifests += "---\n";
        manifests += &serde_yaml_ng::to_string(manifest)?;
    }
    // Secrets may be among them.
    credentials::secret(&directory.manifests_file(), &manifests).context("keep the manifests")?;
    boot::start(directory, lock, handover).context("start the supervisor")
}

/// Waits until a supervisor has started all processes of the cluster, or says why it cannot. It may be gone before that.
fn follow(directory: &Directory, progress: &Progress) -> io::Result<Result<(), String>> {
    let control = Control::connect(directory)?;
    control.channel().send(&Request::Events, &[])?;
    loop {
        let (event, _): (Event, _) = control.channel().receive()?;
        match event.step {
            Step::Failed(reason) => return Ok(Err(reason)),
            Step::Started => {
                progress.say("all processes are started");
                return Ok(Ok(()));
            }
            Step::Credentials => progress.say("keys and kubeconfigs are written"),
            Step::Hardware => progress.say("router and nodes are wired"),
        }
    }
}
