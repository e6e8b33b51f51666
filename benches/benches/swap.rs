//! Another network under a cluster that serves: how long the swap takes and how long packets stay away, by number of pods; and what
//! traffic suffers from it, from one network to any other, also when somebody is killed halfway. With `--test` once, with few pods.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use switchyard_benches::flows::{Crier, Dialogue, Requests, Suffered};
use switchyard_benches::{Cluster, Record, Series, in_namespaces, testing, turns};

const ABOUT: &str = "On 5 nodes under a running workload: kubenet and overlay, there and back, by number of pods; then a tour through \
                     every ordered pair of kubenet, overlay and nsx under load; then kubenet and overlay again while somebody is killed.";
const WORKERS: usize = 4;
const STEPS: [usize; 3] = [20, 100, 200];
/// Swaps there and back.
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(180);
const HOST: &str = "sphinx-v1.esxcloud.net";
/// Requests a second through the ingress, meanwhile.
const RATE: u32 = 1000;
/// From kubenet through every ordered pair of networks.
const TOUR: [&str; 6] = ["overlay", "nsx", "kubenet", "nsx", "overlay", "kubenet"];
/// Killed in turn, each when a swap reaches the phase.
const DEATHS: [(&str, &str); 3] =
    [("node-worker-1", "Switching"), ("control-plane", "Withdrawing"), ("node-worker-2", "Cleaning")];

fn main() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() && !in_namespaces()? {
        return Ok(());
    }
    let cluster = Cluster::prepare(|name, text| match name {
        "cluster.yaml" => workers(&text),
        _ => text,
    })?;
    cluster.up()?;
    let mut record = Record::new("swap", ABOUT);
    for &pods in &STEPS[..few(STEPS.len())] {
        scale(&cluster, pods)?;
        let mut whole = Series::new(&format!("kubenet and overlay: whole swap, {pods} pods"), "ms");
        let mut switching = Series::new(&format!("kubenet and overlay: switching, {pods} pods"), "ms");
        let mut gap = Series::new(&format!("kubenet and overlay: longest gap, {pods} pods"), "ms");
        for _ in 0..turns(ROUNDS) {
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
    under_load(&cluster, &mut record)?;
    record.save_unless_testing()
}

/// With all pods of the last step: requests, a connection and a policy while the network changes, then while somebody dies of it.
fn under_load(cluster: &Cluster, record: &mut Record) -> anyhow::Result<()> {
    let manifest = cluster.folder().join("witnesses.yaml");
    std::fs::write(&manifest, witnesses())?;
    cluster.yard(&["apply", "-f", &manifest.to_string_lossy()])?;
    let witnesses = until(|| {
        let ready = cluster.get(&["pods", "-l", "role=witness"])?.to_string().matches(r#""Ready""#).count();
        let pods = cluster.pods("role=witness")?;
        Ok((ready >= 3 && pods.len() == 3).then_some(pods))
    })?;
    let [ear, friend, stranger] = &witnesses[..] else { bail!("three witnesses") };
    let meanwhile = |record: &mut Record, name: &str, work: &mut dyn FnMut() -> anyhow::Result<()>| {
        let before = addresses(cluster)?;
        let requests = Requests::start(cluster.door, HOST, RATE);
        let dialogue = Dialogue::start(&friend.netns, (&ear.netns, ear.ip))?;
        let crier = Crier::start((&ear.netns, ear.ip), (&friend.netns, friend.ip), (&stranger.netns, stranger.ip))?;
        let done = work();
        let (requests, dialogue, cries) = (requests.stop(), dialogue.stop(), crier.stop());
        done?;
        suffered(record, &format!("{name}: requests through the ingress"), &requests);
        suffered(record, &format!("{name}: one TCP connection between pods"), &dialogue?);
        let (sent, allowed, forbidden) = cries;
        let value = format!("{forbidden} of {} arrived ({allowed} of those that were allowed)", sent / 2);
        record.fact(&format!("{name}: datagrams that a policy forbids"), value, "none");
        let changed = if addresses(cluster)? == before { "none" } else { "some" };
        record.fact(&format!("{name}: changed addresses, restarted containers"), changed.into(), "none");
        anyhow::Ok(())
    };
    let mut whole = Series::new("kubenet, overlay and nsx: whole swap, 200 pods, under load", "ms");
    let mut gap = Series::new("kubenet, overlay and nsx: longest gap, 200 pods, under load", "ms");
    meanwhile(record, "six swaps", &mut || {
        for to in TOUR {
            let swap: Value = serde_json::from_str(&cluster.yard(&["network", "use", to, "-o", "json"])?)?;
            whole.values.push(swap["milliseconds"].as_f64().context("no time")?);
            gap.values.push(longest_gap(&swap));
        }
        Ok(())
    })?;
    for (series, aim) in [(&whole, "1,000 ms"), (&gap, "at most 50 ms, better 10")] {
        let most = series.values.iter().copied().fold(0.0, f64::max);
        record.fact(&series.name, format!("{:.1} ms in the middle, {most:.1} at most", series.median()), aim);
    }
    record.series.extend([whole, gap]);
    for &(part, at) in &DEATHS[..few(DEATHS.len())] {
        meanwhile(record, &format!("{part} killed in {at}"), &mut || {
            for to in ["overlay", "kubenet"] {
                swap_in_which_dies(cluster, to, (part, at))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The first of so many things is enough to show that it runs.
fn few(all: usize) -> usize {
    if testing() { 1 } else { all }
}

fn suffered(record: &mut Record, name: &str, flow: &Suffered) {
    let longest = flow.longest.as_secs_f64() * 1e3;
    record.fact(
        name,
        format!("{} of {} failed, {longest:.0} ms at most", flow.failed, flow.failed + flow.done),
        "none",
    );
}

/// Begins a swap, kills a part once it reaches a phase, and waits until the cluster is on that network and all parts are back.
fn swap_in_which_dies(cluster: &Cluster, to: &str, (part, at): (&str, &str)) -> anyhow::Result<()> {
    let pid = pid_of(cluster, part)?.context("the part is not running")?;
    let mut swap = cluster.command(&["network", "use", to]);
    let mut swap = swap.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(swap.stderr.take().context("piped")?).lines();
    while let Some(line) = lines.next().transpose()? {
        if line.contains(at) {
            kill_process(Pid::from_raw(pid as i32).context("a process id")?, Signal::KILL)?;
            break;
        }
    }
    lines.for_each(drop);
    swap.wait()?;
    until(|| Ok(pid_of(cluster, part)?.filter(|now| *now != pid)))?;
    // Completed or taken back: one of the two. The next one has to succeed.
    until(|| {
        let network: Value = serde_json::from_str(&cluster.yard(&["network", "status", "-o", "json"])?)?;
        Ok(network["status"]["swap"].is_null().then_some(()))
    })?;
    cluster.yard(&["network", "use", to]).map(drop)
}

fn pid_of(cluster: &Cluster, part: &str) -> anyhow::Result<Option<u64>> {
    let status: Value = serde_json::from_str(&cluster.yard(&["status", "-o", "json"])?)?;
    let processes = status[0]["processes"].as_array().context("no processes")?;
    Ok(processes.iter().find(|process| process["name"] == part).and_then(|process| process["hostPid"].as_u64()))
}

/// Name, address and restarts of every pod.
fn addresses(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let pods = cluster.get(&["pods", "-A"])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    let line = |pod: &Value| {
        let restarts = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let restarts: u64 = restarts.filter_map(|container| container["restartCount"].as_u64()).sum();
        format!("{} {} {restarts}", pod["metadata"]["uid"], pod["status"]["podIP"])
    };
    Ok(pods.map(line).collect())
}

/// Asks until there is an answer.
fn until<T>(mut condition: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Ok(Some(found)) = condition() {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            return condition()?.with_context(|| format!("not within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Three pods on three nodes; the first has an ear for the second alone.
fn witnesses() -> String {
    let pod = |(number, name): (usize, &str)| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: witness-{number}-{name}, labels: {{role: witness, part: {name}}}}}\nspec:\n  \
             nodeSelector: {{kubernetes.io/hostname: worker-{number}}}\n  containers:\n    - {{name: web, image: yard/echo, args: [--port=80]}}\n"
        )
    };
    let policy = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: one-friend}\nspec:\n  \
                  podSelector: {matchLabels: {part: ear}}\n  policyTypes: [Ingress]\n  ingress:\n    \
                  - from: [{podSelector: {matchLabels: {part: friend}}}]\n";
    let pods = [(1, "ear"), (2, "friend"), (3, "stranger")].map(pod);
    format!("{policy}{}", pods.concat())
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
    until(|| {
        let set = cluster.get(&["replicasets", "many"])?;
        Ok((set["status"]["readyReplicas"].as_u64().unwrap_or(0) as usize == pods).then_some(()))
    })
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
