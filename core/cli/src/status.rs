//! `yard status`.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use switchyard_lab::control::{Control, Status};
use switchyard_lab::home::{Directory, Home};

use crate::api::{Api, JSON, block_on};
use crate::output::{self, Format};
use crate::which::Which;

/// Show clusters, their processes and their ports on the host.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A cluster, running or not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    name: String,
    directory: String,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    supervisor_pid: Option<i32>,
    #[serde(flatten)]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Network>,
}

/// The cluster's network, as the API server has it.
#[derive(Debug, Serialize)]
struct Network {
    plugin: String,
    ready: bool,
    /// What is wrong with what is wanted, or why the API server does not say.
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// Longest that the API server may take to tell.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    let clusters = match cluster.name() {
        Some(_) => vec![cluster.directory()?],
        None => Home::from_env()?.clusters().context("list clusters")?,
    };
    let clusters: Vec<_> = clusters.iter().map(look).collect();
    let text = match args.output {
        Format::Json | Format::Yaml => output::document(&clusters, args.output)?,
        Format::Name => clusters.iter().map(|cluster| format!("{}\n", cluster.name)).collect(),
        Format::Table | Format::Wide => people(&clusters),
    };
    if clusters.is_empty() {
        eprintln!("no clusters; start one with: yard up -f FILE|FOLDER");
    }
    output::print(&text)?;
    Ok(())
}

fn look(directory: &Directory) -> Cluster {
    let control = directory.is_running().then(|| Control::connect(directory).ok()).flatten();
    let supervisor_pid = control.as_ref().map(|control| control.pid.as_raw_nonzero().get());
    let status = control.and_then(|control| control.status().ok());
    Cluster {
        name: directory.name(),
        directory: directory.path().display().to_string(),
        running: supervisor_pid.is_some(),
        supervisor_pid: status.as_ref().and(supervisor_pid),
        network: status.is_some().then(|| network(directory)),
        status,
    }
}

/// What the network is and, if what is wanted is no good, why.
fn network(directory: &Directory) -> Network {
    let asked = block_on(async {
        let ask = async { Api::at(directory).await?.get("/apis/switchyard.dev/v1alpha1/networks/default", JSON).await };
        tokio::time::timeout(PATIENCE, ask).await.context("the API server does not answer")?
    });
    match asked {
        Ok(network) => {
            let active = &network["status"]["active"];
            let word = |value: &Value| value.as_str().unwrap_or("none").to_owned();
            let conditions = network["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            let is_ready = ready.is_some_and(|ready| ready["status"] == "True");
            let reason = |ready: &Value| format!("{}: {}", word(&ready["reason"]), word(&ready["message"]));
            let message = ready.filter(|_| !is_ready).map(reason).unwrap_or_default();
            let plugin = match active.is_null() {
                true => "none yet".into(),
                false => format!("{} {}", word(&active["plugin"]), word(&active["version"])),
            };
            Network { plugin, ready: is_ready, message }
        }
        Err(error) => Network { plugin: "unknown".into(), ready: false, message: output::one_line(&error) },
    }
}

fn people(clusters: &[Cluster]) -> String {
    let mut text = String::new();
    for cluster in clusters {
        let Some(status) = &cluster.status else {
            text += &format!("{}: stopped; start it with: yard up --cluster {}\n", cluster.name, cluster.name);
            continue;
        };
        let how = if status.rootless { ", without root" } else { "" };
        let up = age(Duration::from_secs(status.up_seconds));
        text += &format!("{}: running for {up}{how}\n", cluster.name);
        if let Some(api) = status.ports.api {
            text += &format!("  API server  https://{api}\n");
        }
        for port in &status.ports.host {
            text += &format!("  host port   {} -> {}\n", port.listen, port.to);
        }
        if let Some(dns) = status.ports.dns {
            text += &format!("  names       {dns}, UDP and TCP\n");
        }
        if let Some(network) = &cluster.network {
            let state = if network.ready { "ready" } else { "not ready" };
            let colon = if network.message.is_empty() { "" } else { ": " };
            text += &format!("  network     {}, {state}{colon}{}\n", network.plugin, network.message);
        }
        let pid = |pid: Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let rows = status.processes.iter().map(|process| {
            let state = if process.pid.is_some() { "running" } else { "waiting" };
            vec![
                process.name.clone(),
                state.to_owned(),
                pid(process.host_pid.or(process.pid)),
                process.restarts.to_string(),
                process.last_exit.clone().unwrap_or_else(|| "-".into()),
            ]
        });
        let supervisor = cluster
            .supervisor_pid
            .map(|pid| vec!["supervisor".into(), "running".into(), pid.to_string(), "0".into(), "-".into()]);
        let rows: Vec<_> = supervisor.into_iter().chain(rows).collect();
        text += &output::table(&["PROCESS", "STATE", "PID", "RESTARTS", "LAST EXIT"], &rows);
    }
    text
}

/// How long ago, in the two units that matter: `3h12m`.
fn age(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3600 % 24),
    }
}
