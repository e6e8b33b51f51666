//! The experiment that takes less than a minute.

use std::collections::BTreeMap;

use super::{
    Contestant, Experiment, Impairments, LoadKind, Metadata, Repetitions, Spec, Sweep, Topology, Wiring, Workload,
    pod_to_pod,
};

pub(super) fn experiment(networks: &[&str]) -> Experiment {
    let network = |&plugin: &&str| Contestant {
        name: plugin.to_owned(),
        plugin: plugin.to_owned(),
        options: Default::default(),
        hosting: Default::default(),
    };
    let workload = |name: &str, kind: LoadKind, rate| Workload {
        name: name.to_owned(),
        kind,
        bytes: None,
        rate,
        connections: None,
        arrivals: None,
    };
    let workloads = vec![
        workload("stream", LoadKind::Stream, None),
        workload("rr", LoadKind::Rr, None),
        workload("crr", LoadKind::Crr, None),
        workload("http", LoadKind::Http, Some(1000.0)),
        workload("http-4k", LoadKind::Http, Some(4000.0)),
    ];
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
            trials: super::trials(),
            warmup_milliseconds: 10,
            sample_milliseconds: 80,
            topology: Topology::default(),
            by_hand: Wiring::all(),
            networks: networks.iter().map(network).collect(),
            workloads,
            paths: pod_to_pod(),
            impairments: Impairments::default(),
            sweep: Sweep::default(),
        },
    }
}
