//! Another network under the same cluster.

use std::time::Instant;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use switchyard_api::{Outcome, Swap};

use super::{Cluster, Stage};
use crate::experiment::{Contestant, Experiment};
use crate::load::{Followed, Order, Reply};

/// A swap that took place, and a flow that went on meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Swapped {
    /// The network before, by its name in the experiment.
    pub from: String,
    /// The network after.
    pub to: String,
    /// The block that it begins.
    pub block: usize,
    /// From beginning to end as the control plane saw it, milliseconds.
    pub milliseconds: f64,
    /// The phases in their order, and how long each took, milliseconds.
    pub phases: Vec<(String, f64)>,
    /// Microseconds from the first datagram of the flow until the swap was asked for.
    pub asked_after: u64,
    /// Datagrams between pods of two nodes, one a millisecond.
    pub flow: Followed,
}

// === impl Stage ===

impl Stage {
    /// Puts a network of the experiment in force; nothing if it is already.
    pub(crate) fn swap(&mut self, experiment: &Experiment, to: usize, block: usize) -> anyhow::Result<Option<Swapped>> {
        let Some(from) = self.cluster.network.filter(|&from| from != to) else { return Ok(None) };
        let networks = &experiment.spec.networks;
        let (agent, target) = self.followed();
        match agent.ask(&Order::Follow { target })? {
            Reply::Following => {}
            other => bail!("a flow was to begin, not {other:?}"),
        }
        let begun = Instant::now();
        // A stretch of the old network, to compare with.
        std::thread::sleep(BEFORE);
        let asked = begun.elapsed();
        let swap = self.cluster.change(&networks[to]);
        let (agent, _) = self.followed();
        let flow = match agent.ask(&Order::Stop)? {
            Reply::Followed(flow) => flow,
            other => bail!("a flow was to end, not {other:?}"),
        };
        let swap = swap.with_context(|| format!("swap to {}", networks[to].name))?;
        self.cluster.network = Some(to);
        self.cluster.ready()?;
        Ok(Some(Swapped {
            from: networks[from].name.clone(),
            to: networks[to].name.clone(),
            block,
            milliseconds: swap.milliseconds.unwrap_or_default(),
            phases: swap.steps.iter().map(|step| (format!("{:?}", step.phase), step.milliseconds)).collect(),
            asked_after: asked.as_micros() as u64,
            flow,
        }))
    }
}

/// How long the old network is followed before a swap.
const BEFORE: std::time::Duration = std::time::Duration::from_millis(50);

// === impl Cluster ===

impl Cluster {
    fn change(&self, to: &Contestant) -> anyhow::Result<Swap> {
        let hosting = serde_json::to_value(to.hosting)?;
        let options: Vec<String> = to.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut arguments = vec!["network", "use", &to.plugin, "--hosting", hosting.as_str().context("a word")?];
        for option in &options {
            arguments.extend(["--config", option]);
        }
        let swap: Swap = serde_json::from_value(self.yard.json(&arguments)?).context("how the swap went")?;
        match swap.outcome {
            Some(Outcome::Swapped) => Ok(swap),
            _ => bail!("{}", swap.reason.unwrap_or_else(|| "it did not end well".into())),
        }
    }
}
