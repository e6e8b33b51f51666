//! What an experiment leaves behind: every sample, and all that is needed to make it again.

mod compare;
mod html;
mod table;
mod text;
mod wire;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use compare::compare;
pub use html::page;
pub use table::table;
pub(crate) use text::with_unit;

use crate::experiment::{Experiment, Level, Sweep};
use crate::gauge::{Charges, Cpu, Machine};
use crate::load::Measured;
use crate::stage::Swapped;

/// An experiment that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `switchyard.dev/v1alpha1`.
    pub api_version: String,
    /// `Report`.
    pub kind: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// Seconds from the beginning to the last sample.
    pub seconds: f64,
    /// Why it ended: `precision` was reached, the `budget` was spent, or all `repetitions` were made.
    pub ended_by: EndedBy,
    /// What was done, with all defaults; doing it again makes the same decisions.
    pub experiment: Experiment,
    /// Where.
    pub machine: Machine,
    /// Version of `yard`.
    pub version: String,
    /// Networks as they were loaded.
    pub plugins: Vec<Plugin>,
    /// Who was measured when, by the contestants' names.
    pub blocks: Vec<String>,
    /// How many of what there were in each block, if the experiment sweeps anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Level>,
    /// Every sample, in order.
    pub samples: Vec<Sample>,
    /// Every swap, in order.
    pub swaps: Vec<Swapped>,
    /// Each time a network was in force: what it cost to be there.
    pub stays: Vec<Stay>,
    /// Every life of a pod, in order.
    #[serde(default)]
    pub trials: Vec<Trial>,
    /// What did not work, in order; the experiment went on without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failure>,
}

/// Something that did not work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// In which block.
    pub block: usize,
    /// Under which network.
    pub network: String,
    /// What was tried.
    pub what: Deed,
    /// Why it did not work.
    pub why: String,
}

/// What may not work without spoiling all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Putting the network in force: nothing is measured in that block.
    Swap,
    /// Looking at it while the cluster rests.
    Rest,
    /// Counting bytes on the wire.
    Wire,
    /// The life of a pod: no further one is begun in that block.
    Life,
    /// Looking at what there is on its nodes.
    State,
    /// More of what is swept: the experiment ends.
    Level,
}

/// Why an experiment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// Every interval was narrow enough.
    Precision,
    /// The time was spent.
    Budget,
    /// The last repetition was made.
    Repetitions,
    /// Somebody interrupted it, or it was killed: what was measured until then is there.
    Interrupted,
    /// It could not go on, as nothing could be measured any more; the last failure says why.
    Failure,
}

/// A plugin as it was loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plugin {
    /// The network's name in the experiment.
    pub network: String,
    /// The plugin's own name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file.
    pub sha256: String,
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// In which block.
    pub block: usize,
    /// In which round of it.
    pub round: u16,
    /// Seconds from the beginning of the experiment.
    pub at: f64,
    /// Of a network, of wires made `by-hand`, or of the `baseline` around them.
    pub network: String,
    /// Which path, or which wires.
    pub path: String,
    /// Under which load.
    pub workload: String,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
    /// Processor seconds by part of the cluster, as they were charged to processes meanwhile.
    #[serde(default, skip_serializing_if = "Charges::is_empty")]
    pub charges: Charges,
}

/// The life of one pod on another node than the client's, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Trial {
    /// In which block.
    pub block: usize,
    /// Under which network, by its name in the experiment.
    pub network: String,
    /// From the binding to a node until its devices and routes were there.
    pub attach: f64,
    /// From its creation until it was ready.
    pub pod_ready: f64,
    /// From then until its Service, which had no other endpoint, answered a pod of another node.
    pub endpoint: f64,
    /// From the creation of a policy that forbids it until nothing reached it any more.
    pub deny: f64,
    /// From the deletion of that policy until the next one reached it.
    pub allow: f64,
    /// From its deletion until devices and routes were gone and its address was silent.
    pub detach: f64,
    /// From asking for pod and Service, `yard` included, until the first answer through the Service.
    pub first_answer: f64,
}

/// A network in force, once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stay {
    /// In which block.
    pub block: usize,
    /// Its name in the experiment.
    pub network: String,
    /// What there was at the end of the block on the upstream device and on the nodes that load passes: links, addresses, routes, rules,
    /// permanent neighbours, FDB entries, queueing disciplines, tables of nftables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<String, BTreeSet<String>>,
    /// The largest packet between pods of two nodes.
    pub pod_mtu: u32,
    /// What datagrams between pods of two nodes were on the wire between the nodes.
    pub wire: Wire,
    /// Memory of all processes of the cluster, shared pages by the share.
    pub memory_bytes: u64,
    /// Seconds of rest that were looked at.
    pub rest_seconds: f64,
    /// Processor seconds of all processes of the cluster in that time.
    pub rest_cluster: f64,
    /// What the machine did in that time.
    pub rest_cpu: Cpu,
}

/// Datagrams of a known size, as the node's card counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Wire {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Bytes of payload of each.
    pub payload: u32,
    /// Packets that left the node meanwhile.
    pub packets: u64,
    /// Bytes that left the node meanwhile.
    pub bytes: u64,
}

/// A report that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It is not there, or too large.
    #[error("{file}: {source}")]
    Read {
        /// Its name.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no report.
    #[error("{file}: {field}: {problem}; a report is what yard bench writes as report.json")]
    Content {
        /// Its name.
        file: String,
        /// What is wrong.
        field: String,
        /// And how.
        problem: String,
    },
}

/// Larger reports than this were not made by us.
const LARGEST: u64 = 1 << 30;
/// What the files say they are.
pub(crate) const API_VERSION: &str = "switchyard.dev/v1alpha1";
pub(crate) const KIND: &str = "Report";

// === impl Report ===

impl Report {
    /// Reads what was written.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let file = path.display().to_string();
        let failed = |source| ReportError::Read { file: file.clone(), source };
        if std::fs::metadata(path).map_err(failed)?.len() > LARGEST {
            return Err(failed(std::io::Error::other(format!("larger than {LARGEST} bytes"))));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text).map_err(|(field, problem)| ReportError::Content { file, field, problem })
    }

    fn parse(text: &str) -> Result<Self, (String, String)> {
        let report: Self = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))
            .map_err(|error| (error.path().to_string(), error.into_inner().to_string()))?;
        match (report.api_version.as_str(), report.kind.as_str()) {
            (API_VERSION, KIND) => Ok(report),
            (API_VERSION, kind) => Err(("kind".into(), format!("{kind}: must be {KIND}"))),
            (version, _) => Err(("apiVersion".into(), format!("{version}: must be {API_VERSION}"))),
        }
    }

    /// Names of the contestants: networks as the experiment lists them, then the wires made by hand, if any were measured.
    pub fn contestants(&self) -> Vec<&str> {
        let networks = self.experiment.spec.networks.iter().map(|network| network.name.as_str());
        let by_hand = (!self.experiment.spec.by_hand.is_empty()).then_some(BY_HAND);
        networks.chain(by_hand).collect()
    }

    /// What was measured at one level of a sweep, as if there had been no other.
    pub fn at(&self, level: Level) -> Self {
        let is_meant = |block: usize| self.levels.get(block) == Some(&level);
        let mut report = Self { levels: Vec::new(), ..self.clone() };
        report.experiment.spec.sweep = Sweep::default();
        report.samples.retain(|sample| is_meant(sample.block));
        report.swaps.retain(|swap| is_meant(swap.block));
        report.stays.retain(|stay| is_meant(stay.block));
        report.trials.retain(|trial| is_meant(trial.block));
        report.failures.retain(|failure| is_meant(failure.block));
        report
    }

    /// What was measured at the first level of a sweep; all of it if there was none.
    pub fn base(&self) -> Cow<'_, Self> {
        match self.levels.first() {
            Some(&first) => Cow::Owned(self.at(first)),
            None => Cow::Borrowed(self),
        }
    }

    /// A figure of a network's times in force, in the middle of those that know it; not a number if none does.
    pub(crate) fn middle(&self, network: &str, of: impl Fn(&Stay) -> f64) -> f64 {
        let known = self.stays.iter().filter(|stay| stay.network == network).map(of).filter(|one| one.is_finite());
        crate::stats::median(&known.collect::<Vec<_>>())
    }

    /// Share of the processors that programs outside the cluster used while it rested, in the middle of all times.
    pub fn elsewhere(&self) -> f64 {
        let share = |stay: &Stay| {
            let busy = stay.rest_cpu.busy() - stay.rest_cluster;
            if stay.rest_cpu.total() > 0.0 { (busy / stay.rest_cpu.total()).clamp(0.0, 1.0) } else { 0.0 }
        };
        let shares: Vec<f64> = self.stays.iter().map(share).collect();
        if shares.is_empty() { 0.0 } else { crate::stats::median(&shares) }
    }

    /// Share of the processors' time that the hypervisor gave to others, over all samples and rests.
    pub fn stolen(&self) -> f64 {
        let samples = self.samples.iter().map(|sample| &sample.measured.cpu);
        let all = samples.chain(self.stays.iter().map(|stay| &stay.rest_cpu));
        let (stolen, whole) = all.fold((0.0, 0.0), |sum, cpu| (sum.0 + cpu.steal, sum.1 + cpu.total()));
        if whole > 0.0 { stolen / whole } else { 0.0 }
    }

    /// The paths, or wires, of a contestant.
    pub fn paths(&self, contestant: &str) -> Vec<&'static str> {
        match contestant {
            BY_HAND => self.experiment.spec.by_hand.iter().map(|wiring| wiring.name()).collect(),
            _ => self.experiment.spec.paths.iter().map(|path| path.name()).collect(),
        }
    }
}

// === impl Stay ===

impl Stay {
    /// Processors in use by the cluster at rest; not a number if nobody looked.
    pub fn processors_at_rest(&self) -> f64 {
        self.rest_cluster / self.rest_seconds
    }
}

// === impl EndedBy ===

impl EndedBy {
    /// As a half-sentence.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Precision => "the main figure of every load is known precisely enough",
            Self::Budget => "the budget is spent",
            Self::Repetitions => "all repetitions are made",
            Self::Interrupted => "it was interrupted",
            Self::Failure => "it could not go on",
        }
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}, {}: {}: {}", self.block + 1, self.network, self.what.words(), self.why)
    }
}

// === impl Deed ===

impl Deed {
    fn words(self) -> &'static str {
        match self {
            Self::Swap => "the swap to it",
            Self::Rest => "the cluster at rest",
            Self::Wire => "bytes on the wire",
            Self::Life => "the life of a pod",
            Self::State => "what there is on its nodes",
            Self::Level => "the next number of the sweep",
        }
    }
}

/// The contestant that is no network.
pub(crate) const BY_HAND: &str = "by-hand";
/// What everything is compared with.
pub(crate) const BASELINE: &str = "baseline";
