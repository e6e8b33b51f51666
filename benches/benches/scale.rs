//! A thousand pods on twenty nodes: how long until all are ready, and what they hold of the machine's memory. With `--test` twenty on three.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use switchyard_benches::{Cluster, Record, in_namespaces, memory, testing};

/// Nodes and pods, and how many if it is only to be shown that it runs.
const MANY: (usize, usize) = (20, 1000);
const FEW: (usize, usize) = (3, 20);
const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() && !in_namespaces()? {
        return Ok(());
    }
    let (nodes, most) = if testing() { FEW } else { MANY };
    let pods: usize = std::env::var("PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(most);
    let cluster = Cluster::prepare(|name, text| match name {
        "cluster.yaml" => more_nodes(text, nodes),
        _ => text,
    })?;
    let mut record = Record::new("scale", &format!("Many pods on {nodes} nodes."));
    let begun = Instant::now();
    cluster.up()?;
    record.fact(&format!("boot with {nodes} workers"), format!("{:.2} s", begun.elapsed().as_secs_f64()), "");
    let before = Snapshot::take(&cluster)?;
    let manifest = cluster.folder().join("many.yaml");
    std::fs::write(&manifest, workload(pods))?;
    let begun = Instant::now();
    cluster.yard(&["apply", "-f", &manifest.to_string_lossy()])?;
    loop {
        let set = cluster.get(&["replicasets", "many"])?;
        let ready = set["status"]["readyReplicas"].as_u64().unwrap_or(0) as usize;
        if ready == pods {
            break;
        }
        if begun.elapsed() > PATIENCE {
            bail!("{ready} of {pods} pods ready after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    record.fact(&format!("{pods} pods ready"), format!("{:.2} s", begun.elapsed().as_secs_f64()), "20 s for 1,000");
    let after = Snapshot::take(&cluster)?;
    let each = after.pods.saturating_sub(before.pods) as f64 / pods as f64 / 1024.0;
    record.fact("memory of a pod (pause and one echo), PSS", format!("{each:.2} MiB"), "below 4 MiB");
    record.fact("memory of the largest agent, PSS", format!("{:.1} MiB", after.agent as f64 / 1024.0), "below 12 MiB");
    record.fact("memory of the control plane, PSS", format!("{:.1} MiB", after.control as f64 / 1024.0), "");
    let begun = Instant::now();
    cluster.yard(&["down"])?;
    record.fact("yard down", format!("{:.2} s", begun.elapsed().as_secs_f64()), "");
    record.save_unless_testing()
}

/// KiB held by kinds of processes.
struct Snapshot {
    pods: u64,
    agent: u64,
    control: u64,
}

impl Snapshot {
    fn take(cluster: &Cluster) -> anyhow::Result<Self> {
        let status: serde_json::Value = serde_json::from_str(&cluster.yard(&["status", "-o", "json"])?)?;
        let supervisor = status[0]["supervisorPid"].as_u64().context("no supervisor")? as u32;
        let mut taken = Self { pods: 0, agent: 0, control: 0 };
        for (pid, line) in memory::family(supervisor) {
            let held = memory::pss_kib(pid).unwrap_or(0);
            if line.contains("yard node") {
                taken.agent = taken.agent.max(held);
            } else if line.contains("control-plane") {
                taken.control = taken.control.max(held);
            } else if line.contains("pause") || line.contains("echo") {
                taken.pods += held;
            }
        }
        Ok(taken)
    }
}

fn more_nodes(text: String, nodes: usize) -> String {
    let (head, tail) = text.split_once("    - name: worker-1").expect("the sphinx cluster has workers");
    let (_, tail) = tail.split_once("  loadBalancer:").expect("and a load balancer");
    let workers: String = (1..=nodes)
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
