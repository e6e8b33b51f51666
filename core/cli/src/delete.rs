//! `yard delete`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::TryStreamExt as _;
use http::Method;
use kube::core::WatchEvent;
use serde_json::Value;
use switchyard_lab::cluster;
use switchyard_lab::home::Home;

use crate::api::{Api, Ask, JSON, Kind, block_on, is_missing};
use crate::apply::targets;
use crate::which::Which;
use crate::{down, output};

/// Delete objects, or a whole cluster with its store and logs.
///
/// `yard delete cluster NAME` deletes the cluster from this machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND NAME..., KIND/NAME, or `cluster [NAME]`.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    what: Vec<String>,
    /// Delete what these files describe.
    #[arg(short, long, value_name = "FILE|FOLDER|-")]
    file: Option<PathBuf>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Seconds that pods have to end. Default: what they say themselves.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Do not wait until the objects are gone.
    #[arg(long)]
    no_wait: bool,
}

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    match args.what.split_first() {
        Some((word, names)) if word == "cluster" => delete_cluster(names, cluster),
        _ => block_on(delete_objects(args, cluster)),
    }
}

fn delete_cluster(names: &[String], cluster: &Which) -> anyhow::Result<()> {
    let directory = match names {
        [] => cluster.directory()?,
        [name] => Which::new(Some(name.clone())).directory()?,
        _ => bail!("one cluster at a time"),
    };
    // A folder that is no cluster's is never removed.
    ensure!(Home::from_env()?.clusters()?.iter().any(|known| known.path() == directory.path()), "no such cluster");
    down::stop(&directory, Duration::from_secs(1))?;
    std::fs::remove_dir_all(directory.path()).with_context(|| format!("remove {}", directory.path().display()))?;
    output::print(&format!("cluster {} deleted\n", directory.name()))?;
    Ok(())
}

async fn delete_objects(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    let api = Api::of(cluster).await?;
    let mut wanted: Vec<(String, String)> = Vec::new();
    match (&args.file, args.what.split_first()) {
        (Some(file), _) => {
            let objects = cluster::objects(file)?.into_iter().filter(|object| object["kind"] != "Cluster").collect();
            let found = targets(&api, objects, &args.namespace).await?;
            // What was created first goes last.
            wanted.extend(found.into_iter().rev().map(|target| (target.title, target.path)));
        }
        (None, Some((first, names))) => {
            let words: Vec<(&str, &str)> = match first.split_once('/') {
                Some(_) => args.what.iter().map(|word| kind_and_name(word)).collect::<anyhow::Result<_>>()?,
                None => names.iter().map(|name| (first.as_str(), name.as_str())).collect(),
            };
            ensure!(!words.is_empty(), "say which {first}: yard delete {first} NAME");
            for (kind, name) in words {
                let kind = Kind::named(&api, kind).await?;
                wanted.push((kind.title(name), format!("{}/{name}", kind.path(Some(&args.namespace)))));
            }
        }
        (None, None) => bail!("say what to delete"),
    }
    let (mut failed, mut printed) = (Vec::new(), Ok(()));
    for (title, path) in wanted {
        match delete(&api, &path, args).await {
            // Everything is deleted, whether anybody reads on or not.
            Ok(()) => printed = printed.and(output::print(&format!("{title} deleted\n"))),
            Err(error) if is_missing(&error) && args.file.is_some() => eprintln!("{title} was not there"),
            Err(error) => failed.push(error),
        }
    }
    output::joined(failed).and(printed)
}

/// `KIND/NAME`, taken apart.
pub(crate) fn kind_and_name(word: &str) -> anyhow::Result<(&str, &str)> {
    word.split_once('/').with_context(|| format!("{word}: must be KIND/NAME, as the others"))
}

/// Deletes one object and waits until it is gone.
async fn delete(api: &Api, path: &str, args: &Args) -> anyhow::Result<()> {
    let grace = args.grace_period.map(|seconds| format!("?gracePeriodSeconds={seconds}")).unwrap_or_default();
    let path_with_grace = format!("{path}{grace}");
    let (_, answer) =
        api.call(Ask { method: Method::DELETE, path: &path_with_grace, accept: JSON, body: None }).await?;
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str()).unwrap_or("").to_owned();
    if args.no_wait {
        return Ok(());
    }
    let same = |object: &Value| uid.is_empty() || object["metadata"]["uid"] == uid.as_str();
    let Some(last) = api.find(path).await?.filter(same) else { return Ok(()) };
    let (list, name) = path.rsplit_once('/').context("a path of an object")?;
    let version = last["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let watch = format!("{list}?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={version}");
    let mut events = std::pin::pin!(api.watch(&watch, JSON).await?);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Deleted(_) => return Ok(()),
            WatchEvent::Error(status) => bail!("{}", status.message),
            _ => {}
        }
    }
    bail!("the watch ended before {name} was gone")
}
