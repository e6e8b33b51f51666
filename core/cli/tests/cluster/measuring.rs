//! An experiment is made, and what it leaves behind says what happened.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::rig::{Cluster, Powers, interrupt};

/// Every kind of path and load, few and short samples.
const EXPERIMENT: &str = "\
apiVersion: switchyard.dev/v1alpha1
kind: Experiment
metadata: {name: tiny}
spec:
  seed: 7
  budgetSeconds: 300
  repetitions: {least: 1, most: 1}
  rounds: 1
  trials: 1
  warmupMilliseconds: 5
  sampleMilliseconds: 15
  byHand: [loopback, vxlan]
  networks: [{plugin: kubenet}, {name: tunnel, plugin: overlay}]
  workloads: [{kind: stream}, {kind: rr}, {kind: crr}, {kind: http, rate: 500}, {kind: udp, rate: 2000}, {kind: peak, connections: 2}, {kind: flood}]
  paths: [same-node, other-node, cluster-ip, node-port, load-balancer, ingress]
";

#[test]
fn a_tiny_experiment_measures_every_path() {
    let rig = Cluster::prepare_with(Powers::Nobody, |folder| {
        let outside = folder.parent().expect("the test's folder");
        std::fs::write(outside.join("tiny.yaml"), EXPERIMENT).unwrap();
    });
    let (file, out) = (rig.file("tiny.yaml"), rig.file("home/out"));
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    // It holds, or it cannot be told on a machine that is busy with other tests: either way somebody watching is to know.
    let made = rig.try_yard(&[
        "bench",
        "-f",
        file,
        "--out",
        out,
        "--fail-if",
        "tunnel.rr.rate.other-node > 0",
        "--fail-if",
        "tunnel.swap.most > 0",
    ]);
    let (table, said) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert_eq!(made.status.code(), Some(4), "{said}");
    assert!(said.contains("--fail-if tunnel.rr.rate.other-node > 0: other-node: "), "{said}");
    assert!(said.contains("--fail-if tunnel.swap.most > 0: ") && said.contains(" ms, the longest of "), "{said}");
    assert!(table.contains("stream throughput") && table.contains("tunnel"), "{table}");
    let text = std::fs::read_to_string(rig.file("home/out/report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    everything_was_measured(&report);
    packets_are_as_large_as_arithmetic_says(&report);
    time_is_charged_to_whom_it_belongs(&report);
    lives_are_followed_from_creation_to_deletion(&report);
    assert!(table.contains("endpoint-programming") && !table.contains("a swap left something"), "{table}");
    let swaps = report["swaps"].as_array().unwrap();
    assert!(!swaps.is_empty() && swaps.iter().all(|swap| swap["flow"]["answered"].as_u64() > Some(0)), "{swaps:?}");
    let page = std::fs::read_to_string(rig.file("home/out/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Swaps under traffic") && page.contains("Lives of pods"));
    let same = rig.file("home/out/report.json");
    let same = same.to_str().unwrap();
    assert!(rig.yard(&["bench", "compare", same, same]).contains("1.00x"));
    let again = rig.yard(&["bench", "-f", same, "--print"]);
    assert!(again.contains("name: tiny") && again.contains("seed: 7"), "a report is made again: {again}");
    let wrong = rig.try_yard(&["bench", "-f", file, "--fail-if", "flannel.rr.p99 > 1x"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no network flannel: there are kubenet, tunnel"));
    for (condition, wanted) in [
        ("tunnel.attach.p99 > 1", "attach has no p99: it has p50, most; for instance: overlay.attach.p50 > 2x"),
        ("kubenet.detach.p50 > 2x", "kubenet is what the others are compared with"),
        ("tunnel.udp.loss > 1x", "loss is no ratio"),
        ("tunnel.start.p50 > 1", "no workload and no step start: there are stream"),
    ] {
        let wrong = rig.try_yard(&["bench", "-f", file, "--fail-if", condition]);
        let said = String::from_utf8_lossy(&wrong.stderr);
        assert!(said.contains(wanted), "{said}");
    }
    assert!(rig.yard(&["status"]).lines().count() <= 1, "the experiment's cluster was its own");
}

/// One load on one path, with a few of each kind of thing.
const SWEEP: &str = "\
apiVersion: switchyard.dev/v1alpha1
kind: Experiment
metadata: {name: sweep}
spec:
  budgetSeconds: 300
  repetitions: {least: 1, most: 1}
  rounds: 1
  trials: 1
  warmupMilliseconds: 5
  sampleMilliseconds: 15
  byHand: []
  networks: [{plugin: kubenet}]
  workloads: [{kind: rr}]
  paths: [other-node]
  sweep: {pods: [0, 2], services: [0, 3], policies: [0, 3]}
";

#[test]
fn a_sweep_measures_everything_by_number() {
    let rig = Cluster::prepare_with(Powers::Nobody, |folder| {
        let outside = folder.parent().expect("the test's folder");
        std::fs::write(outside.join("sweep.yaml"), SWEEP).unwrap();
    });
    let (file, out) = (rig.file("sweep.yaml"), rig.file("home/out"));
    // A condition that does not hold, and what did happen is never invalid: the exit code is 0.
    let unlikely = "kubenet.attach.most > 600000";
    let table =
        rig.yard(&["bench", "-f", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--fail-if", unlikely]);
    for title in ["BY PODS", "BY SERVICES", "BY POLICIES", "rr p50, other-node"] {
        assert!(table.contains(title), "{title}: {table}");
    }
    let report: Value = serde_json::from_str(&std::fs::read_to_string(out.join("report.json")).unwrap()).unwrap();
    let levels = [("pods", 0), ("pods", 2), ("services", 0), ("services", 3), ("policies", 0), ("policies", 3)];
    let wanted: Vec<Value> = levels
        .iter()
        .flat_map(|(of, number)| {
            let level = serde_json::json!({"of": of, "number": number});
            [level.clone(), level]
        })
        .collect();
    assert_eq!(report["levels"].as_array().unwrap(), &wanted, "each level there and back");
    assert_eq!(
        report["trials"].as_array().unwrap().len(),
        wanted.len(),
        "those that only wait for a level do not count"
    );
}

/// Cards that lose a tenth of what comes in and send 50 Mbit/s, for as long as nobody interrupts.
const IMPAIRED: &str = "\
apiVersion: switchyard.dev/v1alpha1
kind: Experiment
metadata: {name: impaired}
spec:
  budgetSeconds: 3600
  repetitions: {least: 1000, most: 1000}
  rounds: 2
  trials: 0
  warmupMilliseconds: 5
  sampleMilliseconds: 100
  byHand: [bridge, routed]
  networks: [{plugin: kubenet}]
  workloads: [{kind: udp, rate: 4000}, {kind: flood, bytes: 1000}]
  impairments: {loss: 0.1, rateMegabits: 50}
";

#[test]
fn impairments_are_seen_and_an_interrupted_experiment_leaves_what_it_measured() {
    let rig = Cluster::prepare_with(Powers::Nobody, |folder| {
        let outside = folder.parent().expect("the test's folder");
        std::fs::write(outside.join("impaired.yaml"), IMPAIRED).unwrap();
    });
    let (file, out) = (rig.file("impaired.yaml"), rig.file("home/out"));
    let mut bench = rig.command(rig.program());
    bench.args(["bench", "-f", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let mut bench = bench.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(bench.stderr.take().unwrap()).lines().map_while(Result::ok);
    let heard: Vec<String> = said.by_ref().take_while(|line| !line.contains("block 4: ")).collect();
    interrupt(bench.id());
    let last: Vec<String> = said.collect();
    assert_eq!(bench.wait().unwrap().code(), Some(130), "{heard:?} {last:?}");
    assert!(last.iter().any(|line| line.contains("interrupted; what was measured until then")), "{heard:?} {last:?}");
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "a report and its page: {left:?}");
    let report = out.join("report.json");
    assert!(rig.yard(&["bench", "show", report.to_str().unwrap()]).contains("it was interrupted"));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    assert!(report["blocks"].as_array().unwrap().len() >= 3 && report["endedBy"] == "interrupted");
    a_tenth_is_lost_and_the_rate_is_capped(&report);
    assert!(rig.yard(&["status"]).lines().count() <= 1, "the experiment's cluster has gone");
}

#[track_caller]
fn a_tenth_is_lost_and_the_rate_is_capped(report: &Value) {
    // Datagrams that arrived and did not, and megabits a second.
    let on = |path: &str, workload: &str| {
        let samples = report["samples"].as_array().unwrap();
        let samples: Vec<&Value> =
            samples.iter().filter(|one| one["path"] == path && one["workload"] == workload).collect();
        let sum = |field: &str| samples.iter().filter_map(|one| one[field].as_f64()).sum::<f64>();
        assert!(sum("operations") > 0.0, "{path} {workload}: {samples:?}");
        // What arrived and found no room was not lost on the way.
        let lost = (sum("errors") - sum("dropped")).max(0.0);
        (lost / (sum("operations") + sum("errors")), sum("bytes") * 8.0 / 1e6 / sum("seconds"))
    };
    for path in ["other-node", "routed"] {
        let (loss, _) = on(path, "udp");
        assert!((0.05..0.15).contains(&loss), "{path}: {loss} of all datagrams were lost");
        // What stands in the queue when the sample ends arrives as well.
        let (_, megabits) = on(path, "flood");
        assert!((20.0..100.0).contains(&megabits), "{path}: {megabits} Mbit/s");
    }
    for path in ["same-node", "bridge", "veth"] {
        assert!(on(path, "udp").0 < 0.02, "{path} passes no card");
    }
    for stay in report["stays"].as_array().unwrap() {
        let (added, packets) = added(&stay["wire"]);
        assert!(added.abs() < 10.0 && (0.9..1.3).contains(&packets), "the card drops none of them: {stay}");
    }
}

#[track_caller]
fn everything_was_measured(report: &Value) {
    let samples = report["samples"].as_array().unwrap();
    let on = |network: &str, path: &str, workload: &str| {
        let is = |sample: &Value, field: &str, text: &str| sample[field] == text;
        let found = samples
            .iter()
            .filter(|one| is(one, "network", network) && is(one, "path", path) && is(one, "workload", workload));
        found.cloned().collect::<Vec<_>>()
    };
    let tcp = ["stream", "rr", "crr", "http", "peak"];
    for network in ["kubenet", "tunnel"] {
        for path in ["same-node", "other-node", "cluster-ip", "node-port"] {
            for workload in tcp.into_iter().chain(["udp", "flood"]) {
                whole(network, path, workload, &on(network, path, workload));
            }
        }
        for workload in tcp {
            whole(network, "load-balancer", workload, &on(network, "load-balancer", workload));
        }
        for workload in ["http", "peak"] {
            whole(network, "ingress", workload, &on(network, "ingress", workload));
        }
    }
    for wires in ["loopback", "vxlan"] {
        for workload in tcp {
            whole("by-hand", wires, workload, &on("by-hand", wires, workload));
        }
    }
    let baseline = samples.iter().filter(|sample| sample["network"] == "baseline").count();
    assert_eq!(baseline, 6 * 7 * 2, "two a workload in each of six blocks");
}

#[track_caller]
fn whole(network: &str, path: &str, workload: &str, samples: &[Value]) {
    let what = format!("{network} {path} {workload}");
    assert_eq!(samples.len(), 2, "{what}: once there and once back");
    // On a machine that is busy with other tests, nothing at all may happen in a few milliseconds.
    assert!(samples.iter().any(|sample| sample["bytes"].as_u64() > Some(0)), "{what}: {samples:?}");
    for sample in samples {
        assert!(["udp", "flood"].contains(&workload) || sample["errors"] == 0, "{what}: {sample}");
    }
}

/// In so few milliseconds a single sample may see nothing of a part, all together may not.
#[track_caller]
fn time_is_charged_to_whom_it_belongs(report: &Value) {
    let charged = |part: &str, on: &dyn Fn(&Value) -> bool| {
        let samples = report["samples"].as_array().unwrap().iter().filter(|sample| on(sample));
        samples.filter_map(|sample| sample["charges"][part].as_f64()).sum::<f64>()
    };
    let everywhere = |_: &Value| true;
    let ingress = |sample: &Value| sample["path"] == "ingress";
    let by_hand = |sample: &Value| sample["path"] == "veth";
    for (part, on) in
        [("generator", &everywhere as &dyn Fn(&Value) -> bool), ("servers", &everywhere), ("servers", &by_hand)]
    {
        assert!(charged(part, on) > 0.0, "{part}");
    }
    assert!(charged("ingress", &ingress) > charged("ingress", &by_hand), "what goes through the ingress costs it time");
}

#[track_caller]
fn lives_are_followed_from_creation_to_deletion(report: &Value) {
    let trials = report["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 4, "one each time one of two networks was in force: {trials:?}");
    for trial in trials {
        let took = |step: &str| trial[step].as_f64().unwrap_or_else(|| panic!("{step}: {trial}"));
        for step in ["attach", "podReady", "endpoint", "deny", "allow", "detach"] {
            assert!((0.0..30_000.0).contains(&took(step)), "{step}: {trial}");
        }
        // What the API says may be heard after what it does; on a busy machine the steps between the two shrink to nothing.
        assert!(took("podReady") > 0.0 && took("firstAnswer") > took("endpoint"), "{trial}");
    }
}

/// VXLAN puts 50 bytes before each packet; routes put nothing there.
#[track_caller]
fn packets_are_as_large_as_arithmetic_says(report: &Value) {
    for stay in report["stays"].as_array().unwrap() {
        let (added, packets) = added(&stay["wire"]);
        let wanted = if stay["network"] == "tunnel" { 50.0 } else { 0.0 };
        assert_eq!(stay["podMtu"].as_f64(), Some(1500.0 - wanted), "{stay}");
        assert!((added - wanted).abs() < 2.0, "{added} bytes were added, not {wanted}: {stay}");
        assert!((1.0..1.1).contains(&packets), "{packets} packets a datagram: {stay}");
    }
}

/// Bytes added to each packet, and packets for each datagram. A few small packets, questions of two bytes, leave the node meanwhile.
fn added(wire: &Value) -> (f64, f64) {
    let number = |field: &str| wire[field].as_f64().expect("a number");
    let (datagrams, packets) = (number("datagrams"), number("packets"));
    let sent = datagrams.min(packets);
    let others = packets - sent;
    let plain = sent * (number("payload") + 42.0) + others * 44.0;
    ((number("bytes") - plain) / packets, packets / datagrams)
}
