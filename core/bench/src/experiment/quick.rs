//! The experiment that takes less than a minute.

use std::collections::BTreeMap;

use super::{
    Contestant, Experiment, Impairments, LoadKind, Metadata, Repetitions, Spec, Topology, Wiring, Workload, pod_to_pod,
};

pub(super) fn experiment(networks: &[&str]) -> Experiment {
    let network = |&plugin: &&str| Contestant {
        name: plugin.to_owned(),
        plugin: plugin.to_owned(),
        options: Default::default(),
        hosting: Default::default(),
    };
    let kinds = [LoadKind::Stream, LoadKind::Rr, LoadKind::Crr, LoadKind::Http];
    let workload = |kind: LoadKind| Workload {
        name: kind.name().to_owned(),
        kind,
        bytes: None,
        rate: None,
        connections: None,
        arrivals: None,
    };
    Experiment {
        api_version: "switchyard.dev/v1alpha1".into(),
        kind: "Experiment".into(),
        metadata: Metadata { name: "quick".into(), annotations: BTreeMap::new() },
        spec: Spec {
            seed: 1,
            budget_seconds: super::budget(),
            precision: super::precision(),
            repetitions: Repetitions::default(),
            rounds: super::rounds(),
            warmup_milliseconds: super::warmup(),
            sample_milliseconds: super::sample(),
            topology: Topology::default(),
            by_hand: Wiring::all(),
            networks: networks.iter().map(network).collect(),
            workloads: kinds.map(workload).into(),
            paths: pod_to_pod(),
            impairments: Impairments::default(),
        },
    }
}
