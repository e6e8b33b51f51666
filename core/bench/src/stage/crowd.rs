//! More and more of something in the cluster, for sweeps. Objects are asked for here, and waited for as far as the API tells; that
//! nodes have them too is seen by the life of a pod, which comes behind them.

use anyhow::Context as _;

use super::watch::{Event, Watch};
use super::{Stage, manifests};
use crate::experiment::{Crowd, Level};

// === impl Stage ===

impl Stage {
    /// From so many to so many.
    pub(crate) fn crowd(&mut self, of: Crowd, from: u16, to: u16) -> anyhow::Result<()> {
        let what = || Level { of, number: to };
        match of {
            Crowd::Pods => self.pods_number(to),
            Crowd::Services | Crowd::Policies => self.objects(of, from, to),
        }
        .with_context(|| what().to_string())
    }

    fn objects(&self, of: Crowd, from: u16, to: u16) -> anyhow::Result<()> {
        let yard = &self.cluster.yard;
        let name = format!("{}.yaml", of.name());
        if to > from {
            return yard.apply(&name, &manifests::crowd(of, from..to)?);
        }
        if to == from {
            return Ok(());
        }
        let file = yard.write(&name, &manifests::crowd(of, to..from)?)?;
        yard.run(&["delete", "-f", &file.to_string_lossy(), "--no-wait"]).map(drop)
    }

    fn pods_number(&self, number: u16) -> anyhow::Result<()> {
        let yard = &self.cluster.yard;
        let sets = Watch::start(yard, "replicasets")?;
        yard.apply("pods.yaml", &manifests::idle_set(number)?)?;
        let counted = |event: &Event, field: &str| event.object["status"][field].as_u64().unwrap_or(0);
        let reached = |event: &Event| {
            let wanted = event.object["spec"]["replicas"].as_u64() == Some(number.into());
            let there = [counted(event, "replicas"), counted(event, "readyReplicas")] == [u64::from(number); 2];
            let noticed = event.object["metadata"]["generation"] == event.object["status"]["observedGeneration"];
            (wanted && there && noticed).then_some(())
        };
        sets.until(manifests::IDLE, "complete", reached)
    }
}
