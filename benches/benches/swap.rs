//! Another network under a cluster that serves: how long the swap takes and how long packets stay away, by number of pods.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use switchyard_benches::{Cluster, Record, Series, in_namespaces};

const WORKERS: usize = 4;
const STEPS: [usize; 3] = [20, 100, 200];
/// Swaps there and back.
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() && !in_namespaces()? {
        return Ok(());
    }
    let cluster = Cluster::prepare(|name, text| match name {
        "cluster.yaml" => workers(&text),
        _ => text,
    })?;
    cluster.up()?;
    let mut record = Record::new("swap", "kubenet and overlay, there and back, on 5 nodes under a running workload.");
    for pods in STEPS {
        scale(&cluster, pods)?;
        let mut whole = Series::new(&format!("whole swap, {pods} pods"), "ms");
        let mut switching = Series::new(&format!("switching, {pods} pods"), "ms");
        let mut gap = Series::new(&format!("longest gap, {pods} pods"), "ms");
        for _ in 0..ROUNDS {
            for to in ["overlay", "kubenet"] {
                let swap: Value = serde_json::from_str(&cluster.yard(&["network", "use", to, "-o", "json"])?)?;
                whole.values.push(swap["milliseconds"].as_f64().context("no time")?);
                switching.values.push(phase(&swap, "Switching"));
                gap.values.push(longest_gap(&swap));
            }
        }
        for (series, aim) in [(&whole, "1,000 ms with 200 pods"), (&switching, ""), (&gap, "at most 50 ms, better 10")]
        {
            let most = series.values.iter().copied().fold(0.0, f64::max);
            record.fact(&series.name, format!("{:.1} ms in the middle, {most:.1} at most", series.median()), aim);
        }
        record.series.extend([whole, switching, gap]);
    }
    Ok(record.save()?)
}

fn phase(swap: &Value, name: &str) -> f64 {
    let steps = swap["steps"].as_array().into_iter().flatten();
    steps.filter(|step| step["phase"] == name).filter_map(|step| step["milliseconds"].as_f64()).sum()
}

/// As the agents' probes saw it.
fn longest_gap(swap: &Value) -> f64 {
    let participants = swap["participants"].as_object().into_iter().flat_map(|all| all.values());
    participants.filter_map(|one| one["probes"]["longestGap"].as_f64()).fold(0.0, f64::max)
}

fn scale(cluster: &Cluster, pods: usize) -> anyhow::Result<()> {
    let manifest = cluster.folder().join("many.yaml");
    std::fs::write(&manifest, workload(pods))?;
    cluster.yard(&["apply", "-f", &manifest.to_string_lossy()])?;
    let begun = Instant::now();
    loop {
        let set = cluster.get(&["replicasets", "many"])?;
        let ready = set["status"]["readyReplicas"].as_u64().unwrap_or(0) as usize;
        if ready == pods {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{ready} of {pods} pods ready after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn workers(text: &str) -> String {
    let (head, tail) = text.split_once("    - name: worker-1").expect("the sphinx cluster has workers");
    let (_, tail) = tail.split_once("  loadBalancer:").expect("and a load balancer");
    let workers: String = (1..=WORKERS)
        .map(|n| format!("    - name: worker-{n}\n      address: 10.140.0.{}\n      podCIDR: 10.40.{n}.0/24\n", 10 + n))
        .collect();
    format!("{head}{workers}  loadBalancer:{tail}")
}

fn workload(pods: usize) -> String {
    format!(
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: many}}\nspec:\n  replicas: {pods}\n  selector: {{matchLabels: {{app: many}}}}\n  \
         template:\n    metadata: {{labels: {{app: many}}}}\n    spec:\n      containers:\n        - {{name: web, image: yard/echo, args: [--port=80]}}\n"
    )
}
