//! `Experiment`: what is compared, with what load, how often. What is not said has a default, and the report holds all of it, so
//! that the same file with the same seed makes the same decisions.

mod check;
mod quick;
mod sweep;
mod words;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};
use switchyard_api::{Hosting, PluginOptions};

pub use crate::load::{Arrivals, Load};
pub use sweep::{Crowd, Level, Sweep};
pub use words::{LoadKind, Route, Wiring};

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Experiment {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `Experiment`.
    pub kind: String,
    /// Its name stands on the report.
    pub metadata: Metadata,
    /// What is done.
    pub spec: Spec,
}

/// What tells experiments apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Words about it, as in Kubernetes. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Everything that is left to chance follows from it. Default 1.
    #[serde(default = "one")]
    pub seed: u64,
    /// Seconds that may be spent from the start of the cluster to the last sample. Default 50.
    #[serde(default = "budget")]
    pub budget_seconds: u32,
    /// Half the width of an interval, as a share of its middle, that is narrow enough. Default 0.05.
    #[serde(default = "precision")]
    pub precision: f64,
    /// How often the networks are gone through, there and back again. Default 1 to 4 times.
    #[serde(default)]
    pub repetitions: Repetitions,
    /// Samples of each kind that are taken while a network is in force, fewer if the budget demands it, never none. Default 3.
    #[serde(default = "rounds")]
    pub rounds: u16,
    /// Lives of pods, from creation to deletion, that are followed each time a network is in force. Default 2.
    #[serde(default = "trials")]
    pub trials: u16,
    /// Milliseconds at the beginning of each sample that do not count. Default 20.
    #[serde(default = "warmup")]
    pub warmup_milliseconds: u32,
    /// Milliseconds of a sample that count. Default 100.
    #[serde(default = "sample")]
    pub sample_milliseconds: u32,
    /// The cluster. Default two workers.
    #[serde(default)]
    pub topology: Topology,
    /// Wires made by hand that are measured like a network, beside the veth pair that everything is compared with. Default: all.
    #[serde(default = "Wiring::all")]
    pub by_hand: Vec<Wiring>,
    /// The networks.
    pub networks: Vec<Contestant>,
    /// The loads.
    pub workloads: Vec<Workload>,
    /// Where the load goes along. Default: to a pod on the same node and to one on another node.
    #[serde(default = "pod_to_pod")]
    pub paths: Vec<Route>,
    /// What is wrong with the wires between the nodes. Default nothing.
    #[serde(default)]
    pub impairments: Impairments,
    /// Numbers of pods, Services or policies that everything is measured by. Default none.
    #[serde(default, skip_serializing_if = "Sweep::is_empty")]
    pub sweep: Sweep,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repetitions {
    /// At least, whatever the budget.
    pub least: u16,
    /// At most, however wide the intervals.
    pub most: u16,
}

/// The cluster of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Topology {
    /// Nodes beside the control plane's. Default 2.
    pub workers: u8,
    /// MTU of the underlay in bytes. Default 1500.
    pub mtu: u32,
    /// Pods that do nothing but be there. Default 0.
    pub idle_pods: u16,
    /// Services that lead nowhere, besides those of the paths. Default 0.
    pub idle_services: u16,
}

/// A network that takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contestant {
    /// What it is called in the report. Default: the name of the plugin, as its file's name has it if it is a path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Name of the plugin, or path to its file.
    pub plugin: String,
    /// Its options. Default none.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub options: PluginOptions,
    /// Where its code runs. Default `in-process`.
    #[serde(default)]
    pub hosting: Hosting,
}

/// A load, and the name that its results go by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name. Default: its kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What kind of load.
    pub kind: LoadKind,
    /// rr, crr: bytes of a request and of its answer; udp, flood: of a datagram's payload; http, peak: of the answer's body. Default 1, 1;
    /// 1000, 16; 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
    /// http: requests a second, whatever becomes of them; udp: datagrams a second. Default 1000; 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// http, peak: connections; stream: connections that send at once. Default 8; 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u16>,
    /// http: `constant` or `poisson`. Default poisson.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<Arrivals>,
}

/// What is wrong with the wires between the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Impairments {
    /// Share of packets to each node that is lost, 0 to 0.5. Default 0.
    pub loss: f64,
    /// Mbit/s that each node may send. Default any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_megabits: Option<u32>,
}

/// What is read of a report.
#[derive(Deserialize)]
struct Made {
    kind: String,
    experiment: Experiment,
}

/// Why a file is no experiment.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// It cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// Its name.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A field is not what it should be.
    #[error("{file}: {field}: {problem}")]
    Field {
        /// The file's name.
        file: String,
        /// The field.
        field: String,
        /// Its value, and what would be right.
        problem: String,
    },
}

/// More than anybody writes by hand.
const LARGEST_FILE: u64 = 1 << 20;

fn one() -> u64 {
    1
}

fn budget() -> u32 {
    50
}

fn precision() -> f64 {
    0.05
}

fn rounds() -> u16 {
    3
}

fn trials() -> u16 {
    2
}

fn warmup() -> u32 {
    20
}

fn sample() -> u32 {
    100
}

fn pod_to_pod() -> Vec<Route> {
    vec![Route::SameNode, Route::OtherNode]
}

/// A plugin's name, also of a file's that is named as they are: `libswitchyard_NAME.so`, `switchyard_NAME.plugin`.
fn plugin_name(plugin: &str) -> String {
    let stem = Path::new(plugin).file_stem().filter(|_| plugin.contains('/')).and_then(|stem| stem.to_str());
    let Some(stem) = stem else { return plugin.to_owned() };
    let stem = stem.strip_prefix("lib").unwrap_or(stem);
    stem.strip_prefix("switchyard_").unwrap_or(stem).replace('_', "-")
}

// === impl Experiment ===

impl Experiment {
    /// Reads a file and checks it; of a report, the experiment that it holds.
    pub fn read(path: &Path) -> Result<Self, ExperimentError> {
        let file = path.display().to_string();
        let failed = |source| ExperimentError::Read { file: file.clone(), source };
        if let Some(experiment) = Self::of_report(path).map_err(failed)? {
            return experiment.check(&file).map(|()| experiment);
        }
        if std::fs::metadata(path).map_err(failed)?.len() > LARGEST_FILE {
            return Err(failed(std::io::Error::other(format!("larger than {LARGEST_FILE} bytes"))));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(failed)?, &file)
    }

    /// What a report says was done; nothing if the file is none.
    fn of_report(path: &Path) -> std::io::Result<Option<Self>> {
        let mut reader = BufReader::new(File::open(path)?);
        // Nobody writes JSON by hand where YAML will do, and samples are many.
        if reader.fill_buf()?.first() != Some(&b'{') {
            return Ok(None);
        }
        let report: Result<Made, _> = serde_json::from_reader(reader);
        Ok(report.ok().filter(|report| report.kind == crate::report::KIND).map(|report| report.experiment))
    }

    /// Reads and checks a text; `file` is what errors call it.
    pub fn parse(text: &str, file: &str) -> Result<Self, ExperimentError> {
        let wrong = |field: String, problem| ExperimentError::Field { file: file.into(), field, problem };
        let read = serde_path_to_error::deserialize(serde_yaml_ng::Deserializer::from_str(text));
        let mut experiment: Self = read.map_err(|error| {
            if let Some(kind) = check::other_kind(text) {
                return wrong("kind".into(), kind);
            }
            let field = error.path().to_string();
            let problem = error.into_inner().to_string();
            // The YAML reader says the path too, or that of what is around the field.
            let problem = match problem.split_once(": ") {
                Some((path, rest)) if field.starts_with(path) => rest.to_owned(),
                _ => problem,
            };
            wrong(field, problem)
        })?;
        experiment.fill_in();
        experiment.check(file)?;
        Ok(experiment)
    }

    /// Checks it again, changed by `whom`, which errors name.
    pub fn check(&self, whom: &str) -> Result<(), ExperimentError> {
        let wrong = |check::Wrong { field, problem }| ExperimentError::Field { file: whom.into(), field, problem };
        check::check(self).map_err(wrong)
    }

    /// The one of `yard bench` without a file, with the networks that there are.
    pub fn quick(networks: &[&str]) -> Self {
        quick::experiment(networks)
    }

    fn fill_in(&mut self) {
        for network in &mut self.spec.networks {
            if network.name.is_empty() {
                network.name = plugin_name(&network.plugin);
            }
        }
        for workload in &mut self.spec.workloads {
            if workload.name.is_empty() {
                workload.name = workload.kind.name().to_owned();
            }
        }
    }
}

// === impl Workload ===

impl Workload {
    /// What the generators are told.
    pub fn load(&self) -> Load {
        let bytes = |default| self.bytes.unwrap_or(default);
        match self.kind {
            LoadKind::Stream => Load::Stream { connections: self.connections.unwrap_or(1) },
            LoadKind::Rr => Load::Rr { bytes: bytes(1) },
            LoadKind::Crr => Load::Crr { bytes: bytes(1) },
            LoadKind::Http | LoadKind::Peak => Load::Http {
                rate: (self.kind == LoadKind::Http).then(|| self.rate.unwrap_or(1000.0)),
                connections: self.connections.unwrap_or(8),
                arrivals: self.arrivals.unwrap_or_default(),
                body: bytes(128),
            },
            LoadKind::Udp => Load::Udp { rate: Some(self.rate.unwrap_or(10_000.0)), bytes: bytes(1000) },
            LoadKind::Flood => Load::Udp { rate: None, bytes: bytes(16) },
        }
    }
}

impl Default for Repetitions {
    fn default() -> Self {
        Self { least: 1, most: 4 }
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self { workers: 2, mtu: 1500, idle_pods: 0, idle_services: 0 }
    }
}
