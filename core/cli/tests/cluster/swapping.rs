//! Another network under a cluster that serves: nobody notices, whoever is killed, and what fails is taken back.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::rig::{Cluster, Powers, eventually, scenarios};

scenarios! {
    whoever_dies_in_a_swap_it_ends_well
}

const HOST: &str = "sphinx-v1.esxcloud.net";

const NETWORKS: [&[&str]; 2] = [&["kubenet"], &["overlay"]];

fn whoever_dies_in_a_swap_it_ends_well(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let mut to = 1;
    for phase in ["Planning", "Preparing", "Checking", "Switching", "Verifying", "Withdrawing", "Cleaning"] {
        for part in ["node-worker-1", "control-plane"] {
            dies(&cluster, NETWORKS[to], phase, part);
            to = 1 - to;
        }
    }
    dies(&cluster, NETWORKS[to], "Switching", "router");
}

/// Kills a part when the swap reaches a phase. The swap succeeds or is taken back; either way nothing is left of it, and a try
/// without a death succeeds.
fn dies(cluster: &Cluster, network: &[&str], phase: &str, part: &str) {
    let before = cluster.pid(part);
    let mut command = cluster.command(cluster.program());
    let mut child = command
        .args(["network", "use"])
        .args(network)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("yard runs");
    let mut killed = false;
    for line in BufReader::new(child.stderr.take().expect("piped")).lines() {
        if !killed && line.expect("text").contains(phase) {
            crate::rig::kill(before);
            killed = true;
        }
    }
    child.wait().expect("yard ends");
    eventually(&format!("{part} again, after its death in {phase}"), || {
        let status = cluster.status();
        let all = status["processes"].as_array()?;
        let process = all.iter().find(|process| process["name"] == part)?;
        let is_another = process["hostPid"].as_u64().is_some_and(|pid| pid != u64::from(before));
        (is_another || !killed).then_some(())
    });
    eventually(&format!("the end of a swap in which {part} died in {phase}"), || {
        let output = cluster.try_yard(&["network", "status", "-o", "json"]);
        let network: Value = serde_json::from_slice(&output.stdout).ok()?;
        let status = &network["status"];
        let at = &status["active"]["generation"];
        let nodes = status["nodes"].as_object()?.values().all(|node| node["generation"] == *at);
        (status["swap"].is_null() && status["lastSwap"]["outcome"].is_string() && nodes).then_some(())
    });
    let told = cluster.try_yard(&[&["network", "use"], network].concat());
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{part} died in {phase}: {out}{err}");
    assert_eq!(cluster.ask(HOST).status, 200, "{part} died in {phase}");
}
