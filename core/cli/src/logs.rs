//! `yard logs`.

use anyhow::Context as _;
use futures::AsyncReadExt as _;
use http::Request;

use crate::api::{Api, block_on, default_container};
use crate::get::escape;
use crate::output;
use crate::which::Which;

/// Print what a container wrote.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the pod, with or without `pod/`.
    pod: String,
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container. Default: the only one.
    #[arg(short, long)]
    container: Option<String>,
    /// Go on as long as the container runs.
    #[arg(short, long)]
    follow: bool,
    /// Of the container's last run, before it was started again.
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines. Default: all.
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// Put the time before each line.
    #[arg(long)]
    timestamps: bool,
}

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    let pod = args.pod.trim_start_matches("pod/");
    let switches = [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)];
    let mut query: Vec<_> = switches.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name}=true")).collect();
    query.extend(args.tail.iter().map(|lines| format!("tailLines={lines}")));
    block_on(async {
        let api = Api::of(cluster).await?;
        let container = match &args.container {
            Some(container) => container.clone(),
            None => default_container(&api, &args.namespace, pod).await?,
        };
        query.push(format!("container={}", escape(&container)));
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/log?{}", args.namespace, query.join("&"));
        let mut lines = std::pin::pin!(api.client().request_stream(Request::get(path).body(Vec::new())?).await?);
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = lines.read(&mut buffer).await.context("read the log")?;
            if read == 0 {
                return Ok(());
            }
            output::print_bytes(&buffer[..read])?;
        }
    })
}
