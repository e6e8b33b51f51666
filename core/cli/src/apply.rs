//! `yard apply`.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, StatusCode};
use serde_json::Value;
use switchyard_lab::cluster;

use crate::api::{Api, Ask, JSON, Kind, block_on};
use crate::output;
use crate::which::Which;

/// Create objects, or change them to what files say (server-side apply).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file, a folder of files, or - for standard input.
    #[arg(short, long, value_name = "FILE|FOLDER|-")]
    file: PathBuf,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// An object and where it lives.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) object: Value,
    pub(crate) title: String,
    pub(crate) path: String,
    /// Others live inside it, so it comes first.
    first: bool,
}

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Created,
    Configured,
    Unchanged,
}

/// Requests under way at once.
const AT_ONCE: usize = 8;
/// Who owns the fields we apply; fields that a kind does not have are refused, as kubectl does.
const MANAGER: &str = "fieldManager=yard&force=true&fieldValidation=Strict";

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    let objects = cluster::objects(&args.file)?;
    ensure!(!objects.is_empty(), "{}: no objects", args.file.display());
    block_on(async {
        let api = Api::of(cluster).await?;
        let targets = targets(&api, objects, &args.namespace).await?;
        let (mut failures, mut printed) = (Vec::new(), Ok(()));
        for (target, outcome) in apply(&api, targets).await {
            match outcome {
                Ok(done) => printed = printed.and(output::print(&format!("{} {done}\n", target.title))),
                Err(error) => failures.push(error.context(target.title)),
            }
        }
        match failures.len() {
            0 => printed,
            1 => Err(failures.remove(0)),
            n => Err(failures.remove(0).context(format!("{n} objects failed, the first one"))),
        }
    })
}

/// Finds out where objects live.
pub(crate) async fn targets(api: &Api, objects: Vec<Value>, namespace: &str) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::with_capacity(objects.len());
    for mut object in objects {
        let kind = Kind::of(api, &object).await?;
        let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        ensure!(!name.is_empty(), "{}: metadata.name is absent", kind.kind);
        if kind.namespaced && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let path = format!("{}/{name}", kind.path(object["metadata"]["namespace"].as_str()));
        targets.push(Target { title: kind.title(&name), path, first: kind.kind == "Namespace", object });
    }
    Ok(targets)
}

/// Applies objects, namespaces before the rest, the rest several at once; answers in their order.
async fn apply(api: &Api, targets: Vec<Target>) -> Vec<(Target, anyhow::Result<Done>)> {
    let (first, rest): (Vec<_>, Vec<_>) = targets.into_iter().partition(|target| target.first);
    let mut done = Vec::new();
    for group in [first, rest] {
        let one = |target: Target| async move {
            let outcome = target.apply(api).await;
            (target, outcome)
        };
        done.extend(futures::stream::iter(group).map(one).buffered(AT_ONCE).collect::<Vec<_>>().await);
    }
    done
}

/// Applies objects for `yard up`, which does not ask what changed.
pub(crate) async fn put(api: &Api, targets: Vec<Target>) -> anyhow::Result<usize> {
    let count = targets.len();
    let (first, rest): (Vec<_>, Vec<_>) = targets.into_iter().partition(|target| target.first);
    for group in [first, rest] {
        let one =
            |target: Target| async move { target.patch(api).await.map(drop).with_context(|| target.title.clone()) };
        futures::stream::iter(group).map(one).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(count)
}

// === impl Target ===

impl Target {
    async fn apply(&self, api: &Api) -> anyhow::Result<Done> {
        let before = api.find(&self.path).await?;
        let (status, after) = self.patch(api).await?;
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        Ok(match before {
            _ if status == StatusCode::CREATED => Done::Created,
            Some(before) if version(&before) == version(&after) => Done::Unchanged,
            _ => Done::Configured,
        })
    }

    async fn patch(&self, api: &Api) -> anyhow::Result<(StatusCode, Value)> {
        let path = format!("{}?{MANAGER}", self.path);
        let body = Some(("application/apply-patch+yaml", serde_json::to_vec(&self.object)?));
        api.call(Ask { method: Method::PATCH, path: &path, accept: JSON, body }).await
    }
}

// === impl Done ===

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        })
    }
}
