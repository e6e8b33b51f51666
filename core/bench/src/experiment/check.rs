//! What a well-formed file may still say wrongly. Each complaint names the field, its value and what would be right.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::{Crowd, Experiment, LoadKind, Route, Topology, Wiring, Workload};
use crate::analysis::Step;

/// A field that is not what it should be.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) field: String,
    pub(super) problem: String,
}

const API_VERSION: &str = "switchyard.dev/v1alpha1";
const KIND: &str = "Experiment";
/// Names of networks and workloads are words of `--fail-if` expressions and of attributes in the page.
const NAME: &str = "must be 1 to 40 of a-z, 0-9 and -";
/// The plugin of clusters without a network.
const NO_NETWORK: &str = "none";
/// Numbers of one list of a sweep.
const MOST_LEVELS: usize = 8;
/// Addresses of a worker, less those that other pods may need.
const PODS_OF_A_WORKER: u16 = 200;
/// What stands for wires made by hand in results.
pub(crate) const RESERVED: [&str; 2] = ["baseline", "by-hand"];

/// What is wrong with the kind of an object that cannot be read: its fields are not to blame if it is none of ours.
pub(super) fn other_kind(text: &str) -> Option<String> {
    let object: serde_json::Value = serde_yaml_ng::from_str(text).ok()?;
    let kind = object["kind"].as_str().filter(|kind| *kind != KIND)?;
    Some(format!("{kind}: must be {KIND}"))
}

pub(super) fn check(experiment: &Experiment) -> Result<(), Wrong> {
    let spec = &experiment.spec;
    if experiment.api_version != API_VERSION {
        return wrong("apiVersion", &experiment.api_version, format_args!("must be {API_VERSION}"));
    }
    if experiment.kind != KIND {
        return wrong("kind", &experiment.kind, format_args!("must be {KIND}"));
    }
    name("metadata.name", &experiment.metadata.name)?;
    within("spec.budgetSeconds", spec.budget_seconds, 5..=86_400)?;
    within("spec.precision", spec.precision, 0.001..=1.0)?;
    within("spec.repetitions.least", spec.repetitions.least, 1..=1000)?;
    within("spec.repetitions.most", spec.repetitions.most, spec.repetitions.least..=1000)?;
    within("spec.rounds", spec.rounds, 1..=1000)?;
    within("spec.trials", spec.trials, 0..=1000)?;
    within("spec.warmupMilliseconds", spec.warmup_milliseconds, 0..=60_000)?;
    within("spec.sampleMilliseconds", spec.sample_milliseconds, 10..=600_000)?;
    within("spec.topology.workers", spec.topology.workers, 2..=50)?;
    within("spec.topology.mtu", spec.topology.mtu, 576..=9000)?;
    idle_pods(&spec.topology)?;
    within("spec.topology.idleServices", spec.topology.idle_services, 0..=10_000)?;
    within("spec.impairments.loss", spec.impairments.loss, 0.0..=0.5)?;
    if let Some(rate) = spec.impairments.rate_megabits {
        within("spec.impairments.rateMegabits", rate, 1..=100_000)?;
    }
    networks(experiment)?;
    workloads(experiment)?;
    sweep(experiment)?;
    distinct("spec.paths", spec.paths.iter().map(|path| path.name()))?;
    if spec.paths.is_empty() {
        return wrong("spec.paths", "[]", "needs at least one, same-node for instance");
    }
    distinct("spec.byHand", spec.by_hand.iter().map(|wiring| wiring.name()))?;
    if let Some(at) = spec.by_hand.iter().position(|&wiring| wiring == Wiring::Veth) {
        return wrong(format!("spec.byHand[{at}]"), "veth", "is always measured: leave it out");
    }
    let any_http = spec.workloads.iter().any(|workload| workload.kind.is_http());
    match spec.paths.iter().position(|&path| path == Route::Ingress) {
        Some(at) if !any_http => {
            wrong(format!("spec.paths[{at}]"), "ingress", "needs a workload of kind http, and there is none")
        }
        _ => Ok(()),
    }
}

/// They are spread over the workers, and each has a /24 of addresses.
fn idle_pods(topology: &Topology) -> Result<(), Wrong> {
    let (pods, workers) = (topology.idle_pods, u16::from(topology.workers));
    within("spec.topology.idlePods", pods, 0..=1000)?;
    match pods <= PODS_OF_A_WORKER * workers {
        true => Ok(()),
        false => {
            let (room, needed) = (PODS_OF_A_WORKER * workers, pods.div_ceil(PODS_OF_A_WORKER));
            let right = format_args!(
                "{workers} workers have room for {room}, {PODS_OF_A_WORKER} in the /24 of each: needs {needed} workers"
            );
            wrong("spec.topology.idlePods", pods, right)
        }
    }
}

fn networks(experiment: &Experiment) -> Result<(), Wrong> {
    let networks = &experiment.spec.networks;
    if networks.is_empty() {
        return wrong("spec.networks", "[]", "needs at least one, {plugin: kubenet} for instance");
    }
    for (at, network) in networks.iter().enumerate() {
        if network.plugin.is_empty() {
            return wrong(format!("spec.networks[{at}].plugin"), "\"\"", "must be the name of a plugin, or a path");
        }
        if network.plugin == NO_NETWORK {
            let right = "carries nothing, so nothing can be measured: leave it out, the baseline needs no network";
            return wrong(format!("spec.networks[{at}].plugin"), NO_NETWORK, right);
        }
        let field = format!("spec.networks[{at}].name");
        name(&field, &network.name)?;
        if RESERVED.contains(&network.name.as_str()) {
            return wrong(field, &network.name, "is taken for wires made by hand: choose another");
        }
    }
    distinct("spec.networks", networks.iter().map(|network| network.name.as_str()))
}

fn workloads(experiment: &Experiment) -> Result<(), Wrong> {
    let workloads = &experiment.spec.workloads;
    if workloads.is_empty() {
        return wrong("spec.workloads", "[]", "needs at least one, {kind: rr} for instance");
    }
    for (at, workload) in workloads.iter().enumerate() {
        self::workload(&format!("spec.workloads[{at}]"), workload)?;
        if Step::of_word(&workload.name).is_some() {
            let field = format!("spec.workloads[{at}].name");
            return wrong(field, &workload.name, "is taken for a step of the lives of pods: choose another");
        }
    }
    distinct("spec.workloads", workloads.iter().map(|workload| workload.name.as_str()))
}

/// Numbers of a list grow, so that things only have to come; a list has two at least, or nothing is swept.
fn sweep(experiment: &Experiment) -> Result<(), Wrong> {
    let (spec, topology) = (&experiment.spec, &experiment.spec.topology);
    for (of, numbers) in spec.sweep.lists().into_iter().filter(|(_, numbers)| !numbers.is_empty()) {
        let field = format!("spec.sweep.{}", of.name());
        if !(2..=MOST_LEVELS).contains(&numbers.len()) {
            let right = format_args!("must have from 2 to {MOST_LEVELS} numbers, as in [0, 100, 1000]");
            return wrong(field, format_args!("{numbers:?}"), right);
        }
        let most = match of {
            Crowd::Pods => PODS_OF_A_WORKER * u16::from(topology.workers),
            Crowd::Services | Crowd::Policies => 10_000,
        };
        for (at, &number) in numbers.iter().enumerate() {
            within(&format!("{field}[{at}]"), number, 0..=most)?;
            if at > 0 && number <= numbers[at - 1] {
                return wrong(format!("{field}[{at}]"), number, format_args!("must be above {}", numbers[at - 1]));
            }
        }
        let (there, name) = match of {
            Crowd::Pods => (topology.idle_pods, "idlePods"),
            Crowd::Services => (topology.idle_services, "idleServices"),
            Crowd::Policies => (0, ""),
        };
        if there > 0 {
            let right = format_args!("must be 0 while {field} is swept: its first number is what there is at first");
            return wrong(format!("spec.topology.{name}"), there, right);
        }
    }
    Ok(())
}

fn workload(field: &str, workload: &Workload) -> Result<(), Wrong> {
    use LoadKind::{Crr, Flood, Http, Peak, Rr, Stream, Udp};
    name(&format!("{field}.name"), &workload.name)?;
    let fits = |part: &str, given: bool, kinds: &[LoadKind]| match given && !kinds.contains(&workload.kind) {
        true => {
            let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
            wrong(
                format!("{field}.{part}"),
                workload.kind.name(),
                format_args!("has no {part}; only {} has", kinds.join(", ")),
            )
        }
        false => Ok(()),
    };
    fits("bytes", workload.bytes.is_some(), &[Rr, Crr, Http, Peak, Udp, Flood])?;
    fits("rate", workload.rate.is_some(), &[Http, Udp])?;
    fits("connections", workload.connections.is_some(), &[Http, Peak, Stream])?;
    fits("arrivals", workload.arrivals.is_some(), &[Http])?;
    if let Some(bytes) = workload.bytes {
        let allowed = match workload.kind {
            Udp | Flood => 16..=1400,
            Http | Peak => 1..=1 << 20,
            _ => 1..=65_536,
        };
        within(&format!("{field}.bytes"), bytes, allowed)?;
    }
    if let Some(rate) = workload.rate {
        within(&format!("{field}.rate"), rate, 1.0..=1_000_000.0)?;
    }
    if let Some(connections) = workload.connections {
        within(&format!("{field}.connections"), connections, 1..=256)?;
    }
    Ok(())
}

fn wrong<T>(field: impl Into<String>, value: impl Display, right: impl Display) -> Result<T, Wrong> {
    Err(Wrong { field: field.into(), problem: format!("{value}: {right}") })
}

fn within<T: PartialOrd + Display>(field: &str, value: T, allowed: RangeInclusive<T>) -> Result<(), Wrong> {
    match allowed.contains(&value) {
        true => Ok(()),
        false => wrong(field, value, format_args!("must be from {} to {}", allowed.start(), allowed.end())),
    }
}

fn name(field: &str, value: &str) -> Result<(), Wrong> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match (1..=40).contains(&value.len()) && value.bytes().all(plain) {
        true => Ok(()),
        false => wrong(field, format_args!("{value:?}"), NAME),
    }
}

fn distinct<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Wrong> {
    let mut seen = BTreeSet::new();
    for (at, name) in names.enumerate() {
        if !seen.insert(name) {
            return wrong(format!("{field}[{at}]"), name, "is there twice: give the second one another name");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: switchyard.dev/v1alpha1\nkind: Experiment\nmetadata: {name: t}\nspec:\n  \
                        networks: [{plugin: kubenet}]\n  workloads: [{kind: rr}]\n";

    fn error(text: &str) -> String {
        Experiment::parse(text, "t.yaml").expect_err("refused").to_string()
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let experiment = Experiment::parse(GOOD, "t.yaml").unwrap();
        assert_eq!(experiment.spec.networks[0].name, "kubenet");
        assert_eq!(experiment.spec.paths, [Route::SameNode, Route::OtherNode]);
        let mut file = Experiment::parse(&GOOD.replace("kubenet", "./out/libswitchyard_my_net.so"), "t.yaml").unwrap();
        assert_eq!(file.spec.networks[0].name, "my-net");
        file.spec.budget_seconds = 2;
        let refused = file.check("--budget").unwrap_err().to_string();
        assert_eq!(refused, "--budget: spec.budgetSeconds: 2: must be from 5 to 86400");
        let again = serde_yaml_ng::to_string(&experiment).unwrap();
        assert_eq!(Experiment::parse(&again, "again").unwrap(), experiment);
        check(&Experiment::quick(&["kubenet", "overlay"])).unwrap();
    }

    #[test]
    fn the_example_is_the_quick_experiment() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/plugin-shootout/experiment.yaml");
        let example = Experiment::read(std::path::Path::new(file)).unwrap();
        let mut quick = Experiment::quick(&["kubenet", "overlay", "nsx"]);
        let loads = |experiment: &Experiment| experiment.spec.workloads.iter().map(Workload::load).collect::<Vec<_>>();
        assert_eq!(loads(&example), loads(&quick));
        quick.spec.workloads.clone_from(&example.spec.workloads);
        assert_eq!(example.spec, quick.spec);
    }

    #[test]
    fn a_report_is_an_experiment_to_be_made_again() {
        let made = crate::analysis::tests::report(|_| 1.0, |_| ());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        std::fs::write(&file, serde_json::to_string(&made).unwrap()).unwrap();
        let again = Experiment::read(&file).unwrap();
        assert_eq!(again, made.experiment);
        let order = |spec: &crate::experiment::Spec| {
            let blocks: Vec<_> = (0..4)
                .map(|number| crate::schedule::repetition(spec.seed, number, spec.networks.len(), true))
                .collect();
            let rounds: Vec<_> = (0..8).map(|block| crate::schedule::round(spec.seed, block, 1, 5, 2)).collect();
            (blocks, rounds)
        };
        assert_eq!(order(&again.spec), order(&made.experiment.spec));
        let mut other = made;
        other.experiment.spec.precision = 7.0;
        std::fs::write(&file, serde_json::to_string(&other).unwrap()).unwrap();
        assert!(
            Experiment::read(&file).unwrap_err().to_string().ends_with("spec.precision: 7: must be from 0.001 to 1")
        );
        std::fs::write(&file, r#"{"kind": "Cluster"}"#).unwrap();
        assert!(Experiment::read(&file).is_err());
    }

    #[test]
    fn complaints_name_field_value_and_what_would_be_right() {
        let with = |line: &str| error(&format!("{GOOD}{line}"));
        assert_eq!(with("  precision: 7\n"), "t.yaml: spec.precision: 7: must be from 0.001 to 1");
        assert_eq!(with("  rounds: 0\n"), "t.yaml: spec.rounds: 0: must be from 1 to 1000");
        let unknown = with("  paths: [same-node, elsewhere]\n");
        assert!(unknown.contains("spec.paths[1]") && unknown.contains("elsewhere") && unknown.contains("node-port"));
        assert!(with("  pathes: []\n").contains("spec.pathes: unknown field `pathes`, expected one of"));
        assert_eq!(
            error(&GOOD.replace("{kind: rr}", "{kind: rr, rate: 5}")),
            "t.yaml: spec.workloads[0].rate: rr: has no rate; only http, udp has"
        );
        assert_eq!(
            error(&GOOD.replace("{kind: rr}", "{kind: rr}, {kind: rr}")),
            "t.yaml: spec.workloads[1]: rr: is there twice: give the second one another name"
        );
        assert_eq!(
            error(&GOOD.replace("{plugin: kubenet}", "{plugin: kubenet, name: by-hand}")),
            "t.yaml: spec.networks[0].name: by-hand: is taken for wires made by hand: choose another"
        );
        assert_eq!(
            error(&GOOD.replace("{plugin: kubenet}", "{plugin: none}")),
            "t.yaml: spec.networks[0].plugin: none: carries nothing, so nothing can be measured: leave it out, the baseline \
             needs no network"
        );
        assert_eq!(
            error(&GOOD.replace("{kind: rr}", "{kind: rr, name: swap}")),
            "t.yaml: spec.workloads[0].name: swap: is taken for a step of the lives of pods: choose another"
        );
        assert_eq!(
            with("  paths: [ingress]\n"),
            "t.yaml: spec.paths[0]: ingress: needs a workload of kind http, and there is none"
        );
        assert!(error(&GOOD.replace("Experiment", "Cluster")).ends_with("kind: Cluster: must be Experiment"));
        assert_eq!(error("kind: Cluster\nspec: {podCIDR: 10.40.0.0/16}"), "t.yaml: kind: Cluster: must be Experiment");
        assert!(with("  impairments: {loss: .nan}\n").contains("spec.impairments.loss"));
        let sweep = |text: &str| with(&format!("  sweep: {text}\n"));
        assert_eq!(
            sweep("{services: [0]}"),
            "t.yaml: spec.sweep.services: [0]: must have from 2 to 8 numbers, as in [0, 100, 1000]"
        );
        assert_eq!(
            with("  topology: {idlePods: 401}\n"),
            "t.yaml: spec.topology.idlePods: 401: 2 workers have room for 400, 200 in the /24 of each: needs 3 workers"
        );
        assert!(Experiment::parse(&format!("{GOOD}  topology: {{workers: 5, idlePods: 1000}}\n"), "t.yaml").is_ok());
        assert_eq!(sweep("{pods: [0, 401]}"), "t.yaml: spec.sweep.pods[1]: 401: must be from 0 to 400");
        assert_eq!(sweep("{policies: [5, 5]}"), "t.yaml: spec.sweep.policies[1]: 5: must be above 5");
        assert!(sweep("{nodes: [1, 2]}").contains("spec.sweep.nodes: unknown field `nodes`, expected one of"));
        assert_eq!(
            with("  topology: {idleServices: 3}\n  sweep: {services: [0, 5]}\n"),
            "t.yaml: spec.topology.idleServices: 3: must be 0 while spec.sweep.services is swept: its first number is what \
             there is at first"
        );
    }
}
