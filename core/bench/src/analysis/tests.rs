use std::time::Duration;

use super::*;
use crate::experiment::Experiment;
use crate::gauge::{Charges, Part};
use crate::load::Measured;
use crate::report::{BY_HAND, Deed, EndedBy, Failure, Stay, Trial};
use crate::stats::{Histogram, Random};

/// A report of a made-up machine that becomes slower all the time: `cost` says how many times the baseline a network is.
pub(crate) fn report(cost: impl Fn(&str) -> f64, change: impl Fn(&mut Sample)) -> Report {
    let experiment = Experiment::quick(&["kubenet", "overlay"]);
    let blocks = ["kubenet", "overlay", BY_HAND, BY_HAND, "overlay", "kubenet"].map(str::to_owned);
    let mut report = Report {
        api_version: crate::report::API_VERSION.into(),
        kind: crate::report::KIND.into(),
        started: "2026-01-02T03:04:05Z".into(),
        seconds: 42.0,
        ended_by: EndedBy::Budget,
        experiment: experiment.clone(),
        machine: Default::default(),
        version: "0.0.0".into(),
        plugins: Vec::new(),
        blocks: blocks.to_vec(),
        levels: Vec::new(),
        samples: Vec::new(),
        swaps: Vec::new(),
        stays: Vec::new(),
        trials: Vec::new(),
        failures: Vec::new(),
    };
    let mut random = Random::new(11);
    for (block, network) in blocks.iter().enumerate() {
        let left = [("router", "route 10.40.1.0/24"), ("worker-1", "link eth0"), ("worker-2", "link eth0")];
        let left = left.map(|(place, thing)| (place.to_owned(), [thing.to_owned()].into()));
        report.stays.push(Stay { block, network: network.clone(), left: left.into(), ..Stay::default() });
        for _ in 0..if network == BY_HAND { 0 } else { 2 } {
            let slow = cost(network) * (0.995 + 0.01 * random.share());
            report.trials.push(Trial {
                block,
                network: network.clone(),
                endpoint: 0.1,
                detach: 20.0 * slow,
                ..Trial::default()
            });
        }
        for (round, workload) in (0..3).flat_map(|round| experiment.spec.workloads.iter().map(move |one| (round, one)))
        {
            let paths = report.paths(network);
            let mut all = vec![(BASELINE, "veth")];
            all.extend(paths.iter().map(|path| (network.as_str(), *path)));
            all.push((BASELINE, "veth"));
            for (network, path) in all {
                let drift = 1.0 + report.samples.len() as f64 / 1000.0;
                let times = if network == BASELINE { 1.0 } else { cost(network) };
                let slow = drift * times * (0.995 + 0.01 * random.share());
                let (block, at) = (block, report.samples.len() as f64 / 10.0);
                let measured = measured(workload.kind, slow);
                let (network, path, workload) = (network.into(), path.into(), workload.name.clone());
                let charges = Charges::from([(Part::Generator, 0.02 * slow), (Part::Servers, 0.03 * slow)]);
                let mut sample = Sample { block, round, at, network, path, workload, measured, charges };
                change(&mut sample);
                report.samples.push(sample);
            }
        }
    }
    report
}

fn measured(kind: LoadKind, slow: f64) -> Measured {
    let mut latency = Histogram::default();
    let stream = kind == LoadKind::Stream;
    for n in 0..if stream { 0 } else { 200 } {
        latency.record(Duration::from_nanos((20_000.0 * slow * (1.0 + f64::from(n) / 200.0)) as u64));
    }
    let cpu = crate::gauge::Cpu { system: 0.1 * slow, idle: 0.1, ..Default::default() };
    let (operations, bytes) = (latency.len(), if stream { (1e9 / slow) as u64 } else { 100 });
    Measured { seconds: 0.1, operations, bytes, latency, cpu, ..Measured::default() }
}

fn cost(network: &str) -> f64 {
    if network == "overlay" { 1.5 } else { 1.0 }
}

#[test]
fn a_slower_network_is_called_slower_although_the_machine_drifts() {
    let analysis = Analysis::of(&report(cost, |_| ()));
    let find = |network, workload, metric| analysis.find(network, "other-node", workload, metric).unwrap();
    for (workload, metric) in [("rr", Metric::P50), ("http", Metric::P99), ("stream", Metric::Throughput)] {
        let overlay = find("overlay", workload, metric);
        assert_eq!(overlay.verdict, Verdict::Slower, "{overlay:?}");
        let wanted = if metric == Metric::Throughput { 1.0 / 1.5 } else { 1.5 };
        assert!((overlay.interval.unwrap().ratio / wanted - 1.0).abs() < 0.03, "{overlay:?}");
        let kubenet = find("kubenet", workload, metric);
        assert_eq!(kubenet.verdict, Verdict::NoDifferenceShown, "{kubenet:?}");
    }
    let workloads = Experiment::quick(&["kubenet", "overlay"]).spec.workloads;
    assert!(analysis.is_precise(&workloads, 0.05) && !analysis.is_precise(&workloads, 0.000_1));
    assert_eq!(analysis.controls.len(), 2 + 4 + 4 + 5 + 5);
}

#[test]
fn what_spoils_samples_spoils_the_verdict() {
    let verdict = |report: &Report, workload, metric| {
        Analysis::of(report).find("overlay", "same-node", workload, metric).unwrap().verdict.to_string()
    };
    let late = report(cost, |sample| sample.measured.late = sample.measured.operations / 10);
    assert!(verdict(&late, "http", Metric::P99).contains("ceiling"));
    assert_eq!(verdict(&late, "http", Metric::P50), "slower", "a tenth does not move the middle");
    assert_eq!(verdict(&late, "rr", Metric::P50), "slower");
    let slow = report(cost, |sample| sample.measured.generator_user = 0.6 * sample.measured.seconds);
    assert!(verdict(&slow, "rr", Metric::P50).contains("the generator was the ceiling (60.0 %"));
    let kernel = report(cost, |sample| sample.measured.generator_system = sample.measured.seconds);
    assert_eq!(verdict(&kernel, "crr", Metric::P50), "slower", "what the kernel does for it is the network's");
    let stolen = report(cost, |sample| sample.measured.cpu.steal = 0.05);
    assert!(verdict(&stolen, "rr", Metric::P50).contains("stolen"));
    let failed = report(cost, |sample| sample.measured.errors = u64::from(sample.network == "overlay"));
    assert!(verdict(&failed, "crr", Metric::P99).contains("failed"));
    let mut left = report(cost, |_| ());
    left.stays[4].left.get_mut("worker-1").unwrap().insert("link vx0".into());
    assert!(verdict(&left, "rr", Metric::P50).contains("link vx0 on worker-1, left by by-hand"));
}

#[test]
fn what_is_known_of_datagrams_is_looked_at_before_it_is_called_precise() {
    let mut floods = report(|_| 1.0, |_| ());
    for workload in &mut floods.experiment.spec.workloads {
        (workload.kind, workload.rate) = (LoadKind::Flood, None);
    }
    // A rate that jumps from sample to sample is not known.
    for (number, sample) in floods.samples.iter_mut().enumerate() {
        sample.measured.operations = 200 + 400 * (number as u64 % 3);
    }
    let is_precise = |report: &Report| Analysis::of(report).is_precise(&report.experiment.spec.workloads, 0.05);
    assert!(!is_precise(&floods));
    floods.samples.iter_mut().for_each(|sample| sample.measured.operations = 200);
    assert!(is_precise(&floods));
    floods.samples.retain(|sample| sample.block < 1);
    assert!(!is_precise(&floods), "three pairs are not enough");
    floods.samples.clear();
    assert!(!is_precise(&floods), "nothing is not known precisely");
}

#[test]
fn a_path_that_does_not_work_spoils_its_own_figures_and_no_others() {
    let refused = "in pod/client: connect to 10.140.0.11:30101: Connection refused (os error 111)";
    let mut broken = report(cost, |sample| {
        if sample.network == "overlay" && sample.path == "other-node" {
            sample.measured = Measured::none(&anyhow::anyhow!(refused));
        }
    });
    let why = "no route to the pod".to_owned();
    broken.failures.push(Failure { block: 1, network: "overlay".into(), what: Deed::Life, why });
    let analysis = Analysis::of(&broken);
    let of = |network, path| analysis.find(network, path, "rr", Metric::P50).unwrap();
    let lost = of("overlay", "other-node");
    assert!(
        lost.verdict.to_string().contains("6 operations failed, 0 did not (in pod/client: connect to "),
        "{lost:?}"
    );
    assert!(lost.pairs.is_empty() && lost.interval.is_none(), "{lost:?}");
    assert_eq!(of("overlay", "same-node").verdict, Verdict::Slower);
    assert_eq!(of("kubenet", "other-node").verdict, Verdict::NoDifferenceShown);
    let lives = lives(&broken);
    let detach = lives.iter().find(|life| life.network == "overlay" && life.step == Step::Detach).unwrap();
    assert!(detach.verdict.as_ref().unwrap().to_string().contains("no route to the pod"), "{detach:?}");
    let (table, page) = (crate::report::table(&broken, &analysis), crate::report::page(&broken, &analysis));
    for text in [&table, &page] {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("refused") && words.contains("block 2, overlay: the life of a pod: no route"),
            "{words}"
        );
        assert!(!text.contains("NaN"));
    }
}

#[test]
fn datagrams_that_are_lost_are_a_share_of_those_sent() {
    let mut lossy = report(|_| 1.0, |_| ());
    for workload in &mut lossy.experiment.spec.workloads {
        (workload.kind, workload.rate) = (LoadKind::Udp, None);
    }
    for sample in lossy.samples.iter_mut().filter(|sample| sample.network == "overlay") {
        sample.measured.errors = sample.measured.operations / 9;
    }
    let analysis = Analysis::of(&lossy);
    let loss = |network| analysis.find(network, "other-node", "rr", Metric::Loss).unwrap();
    assert!((loss("overlay").value - 0.1).abs() < 0.002, "{:?}", loss("overlay"));
    assert_eq!(
        (loss("overlay").verdict.clone(), loss("kubenet").verdict.clone()),
        (Verdict::Slower, Verdict::NoDifferenceShown)
    );
    let (table, page) = (crate::report::table(&lossy, &analysis), crate::report::page(&lossy, &analysis));
    assert!(table.contains("rr loss") && table.contains("+0.099") && page.contains("did not arrive"), "{table}");
    let around = page.find("NaN").map(|at| &page[at.saturating_sub(300)..page.len().min(at + 60)]);
    assert_eq!(around, None);
}

#[test]
fn a_report_survives_being_written() {
    let report = report(cost, |_| ());
    let text = serde_json::to_string(&report).unwrap();
    let again: Report = serde_json::from_str(&text).unwrap();
    let said = |report: &Report| crate::report::table(report, &Analysis::of(report));
    assert_eq!(said(&again), said(&report));
    assert_eq!(again.experiment, report.experiment);
    let latencies =
        |report: &Report| report.samples.iter().map(|sample| sample.measured.latency.clone()).collect::<Vec<_>>();
    assert_eq!(latencies(&again), latencies(&report));
}

#[test]
fn a_sweep_gives_a_figure_at_each_number_and_the_first_one_is_what_is_told() {
    use crate::experiment::{Crowd, Level};
    let of_overlay = |sample: &mut Sample| {
        // There and back again are two levels here, and the second has made one network slower.
        if sample.network == "overlay" && sample.block >= 3 {
            let mut slower = Histogram::default();
            slower.record(Duration::from_micros(90));
            sample.measured.latency = slower;
        }
    };
    let mut swept = report(|_| 1.0, of_overlay);
    swept.experiment.spec.sweep.services = vec![0, 500];
    let level = |number| Level { of: Crowd::Services, number };
    swept.levels = [0, 0, 0, 500, 500, 500].map(level).to_vec();
    let curves = curves(&swept);
    let p50 = Figure::Load { workload: "rr".into(), path: "other-node", metric: Metric::P50 };
    let ratios = |network: &str| {
        let curve = curves.iter().find(|one| one.figure == p50 && one.network == network).unwrap();
        curve.points.iter().map(|one| (one.number, (one.interval.ratio * 10.0).round() / 10.0)).collect::<Vec<_>>()
    };
    assert_eq!(ratios("kubenet"), [(0, 1.0), (500, 1.0)]);
    assert!(matches!(ratios("overlay")[..], [(0, 1.0), (500, slower)] if slower > 2.0), "{curves:?}");
    let told = Analysis::of(&swept);
    let overlay = told.find("overlay", "other-node", "rr", Metric::P50).unwrap();
    assert!((overlay.interval.unwrap().ratio - 1.0).abs() < 0.05 && overlay.pairs.len() == 3, "{overlay:?}");
    assert!(curves.iter().any(|one| one.figure == Figure::Life(Step::Detach)));
    let mut figures: Vec<&Figure> = curves.iter().map(|one| &one.figure).collect();
    figures.dedup();
    let times = |figure: &Figure| figures.iter().filter(|one| **one == figure).count();
    assert!(figures.iter().all(|figure| times(figure) == 1), "beside each other: {figures:?}");
    let text = crate::report::table(&swept, &told);
    assert!(text.contains("BY SERVICES") && text.contains("500"), "{text}");
    let page = crate::report::page(&swept, &told);
    assert!(page.contains("By number of services") && !page.contains("NaN"));
}
