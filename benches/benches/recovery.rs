//! `kill -9` of one part after the other while everybody asks: how long those that depend on it go without an answer, and whether
//! anybody else loses one. Beside it what the same thing costs to be made anew: a pod of the same kind, a boot from the store. With
//! `--test` once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use switchyard_benches::asking::{Asking, Heard};
use switchyard_benches::{Cluster, Pod, Record, Series, in_namespaces, memory, turns};
use tokio::runtime::Runtime;

const ABOUT: &str = "One part after the other is killed with -9 while everybody asks a hundred times a second, each time on a new \
                     connection. How long somebody went without an answer: from the kill to the first answer after the last failure, \
                     or as long as the slowest answer took, whichever is longer. Who has no answer after 5 s (1 s for names) has failed.";
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);
const AIM: &str = "at most 2 s";
/// Asked before and after, so that it is seen that all was well.
const CALM: Duration = Duration::from_millis(300);

/// Who asks what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// From a pod to the one that is killed, or would be.
    Pod,
    /// From the host through the ingress to the Service that pod is one of three of.
    Service,
    /// From the host through the ingress to another Service.
    Other,
    /// The API server.
    Api,
    /// A cluster name, from the pod that asks the one that is killed.
    Name,
    /// A name outside, from the host.
    HostName,
}

/// What is killed, and who depends on it.
struct Part {
    name: &'static str,
    depends: &'static [Way],
    /// Series it is compared with.
    baseline: Option<&'static str>,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Pod, "pod to that pod"),
    (Way::Service, "through the ingress to its Service"),
    (Way::Other, "through the ingress to another Service"),
    (Way::Api, "the API"),
    (Way::Name, "names on its node"),
    (Way::HostName, "names on the host"),
];
const POD: &str = "a pod of that kind, from its creation until it is ready";
const INGRESS: &str = "an ingress pod, from its creation until it is ready";
const BOOT: &str = "yard up from the store to the first 200";
const PARTS: [Part; 7] = [
    Part { name: "container", depends: &[Way::Pod, Way::Service], baseline: Some(POD) },
    Part { name: "pause", depends: &[Way::Pod, Way::Service], baseline: Some(POD) },
    Part { name: "node agent", depends: &[Way::Name], baseline: None },
    Part { name: "ingress", depends: &[Way::Service, Way::Other], baseline: Some(INGRESS) },
    Part { name: "control plane", depends: &[Way::Api], baseline: None },
    Part { name: "router", depends: &[Way::Service, Way::Other, Way::HostName], baseline: None },
    Part { name: "supervisor", depends: &[Way::Service, Way::Other, Way::Api, Way::HostName], baseline: Some(BOOT) },
];
const LABEL: &str = "version=v1";
/// Pods of the cluster when it is whole.
const PODS: usize = 8;
/// Names for pods: the tenth address of the Services' range.
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);

/// The cluster, and whoever asks its API server.
struct World {
    cluster: Cluster,
    runtime: Runtime,
}

/// What one way heard of one part's deaths.
#[derive(Default)]
struct Toll {
    /// How long somebody went without an answer, round by round.
    without: Vec<f64>,
    failed: usize,
    asked: usize,
}

fn main() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() && !in_namespaces()? {
        return Ok(());
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let world = World { cluster: Cluster::prepare(|_, text| text)?, runtime };
    world.cluster.up()?;
    let mut tolls: BTreeMap<(&str, Way), Toll> = BTreeMap::new();
    let mut baselines = [POD, INGRESS, BOOT].map(|name| Series::new(name, "ms"));
    for _ in 0..turns(ROUNDS) {
        for part in &PARTS {
            world.whole()?;
            let heard = world.kill(part.name).with_context(|| format!("the {} was killed", part.name))?;
            for (way, (heard, outage)) in heard {
                let toll = tolls.entry((part.name, way)).or_default();
                toll.without.push(milliseconds(outage.max(heard.longest())));
                toll.failed += heard.failed();
                toll.asked += heard.asked();
            }
        }
        world.whole()?;
        baselines[0].values.push(milliseconds(world.another("default", LABEL)?));
        baselines[1].values.push(milliseconds(world.another("ingress", "app=yard-ingress")?));
        world.cluster.yard(&["down", "--grace", "0"])?;
        baselines[2].values.push(milliseconds(world.cluster.time_to_first_answer()?));
    }
    let mut record = Record::new("recovery", ABOUT);
    for part in &PARTS {
        tell(&mut record, part, &tolls, &baselines);
    }
    record.save_unless_testing()
}

fn tell(record: &mut Record, part: &Part, tolls: &BTreeMap<(&str, Way), Toll>, baselines: &[Series]) {
    let mut others = Toll::default();
    for (way, name) in WAYS {
        let Some(toll) = tolls.get(&(part.name, way)) else { continue };
        if !part.depends.contains(&way) {
            others.failed += toll.failed;
            others.asked += toll.asked;
            continue;
        }
        let name = format!("{}: {name}", part.name);
        let series = Series { values: toll.without.clone(), ..Series::new(&name, "ms") };
        let most = toll.without.iter().copied().fold(0.0, f64::max);
        let (failed, asked) = (toll.failed, toll.asked);
        let value = format!("{:.0} ms in the middle, {most:.0} at most; {failed} of {asked} failed", series.median());
        record.fact(&name, value, AIM);
        if let Some(baseline) = baselines.iter().find(|series| Some(series.name.as_str()) == part.baseline)
            && way == part.depends[0]
        {
            record.compare(&name, &series, baseline, "");
        } else {
            record.series.push(series);
        }
    }
    if others.asked > 0 {
        let value = format!("{} of {} failed", others.failed, others.asked);
        record.fact(&format!("{}: everybody else", part.name), value, "none");
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

// === impl World ===

impl World {
    /// Kills a part while everybody asks, waits until everybody is well, and gives what they heard.
    fn kill(&self, part: &str) -> anyhow::Result<BTreeMap<Way, (Heard, Duration)>> {
        let pods = self.cluster.pods(LABEL)?;
        let victim = pods.first().context("no pod")?;
        let beside = pods.iter().find(|pod| pod.node == victim.node && pod.name != victim.name);
        let beside = beside.or(pods.last()).context("no other pod")?;
        let status = self.status()?;
        let host_dns: SocketAddr = status["ports"]["dns"].as_str().context("no DNS on the host")?.parse()?;
        let door = self.cluster.door;
        let mut asking = BTreeMap::from([
            (Way::Pod, Asking::http(Some(&beside.netns), SocketAddr::new(victim.ip, 80), "pod")?),
            (Way::Service, Asking::http(None, door, "sphinx-v1.esxcloud.net")?),
            (Way::Other, Asking::http(None, door, "sphinx-v2.esxcloud.net")?),
            (Way::Api, Asking::api(self.client()?)?),
            (Way::Name, Asking::name(Some(&beside.netns), DNS, "sphinx-svc-1.default.svc.cluster.local")?),
            (Way::HostName, Asking::name(None, host_dns, "sphinx-v1.esxcloud.net")?),
        ]);
        well(&asking)?;
        std::thread::sleep(CALM);
        let pid = self.pid(part, victim, beside, &status)?;
        let killed = Instant::now();
        kill_process(Pid::from_raw(pid as i32).context("a process id")?, Signal::KILL)?;
        if part == "supervisor" {
            self.cluster.yard(&["up"])?;
            // Who asks from namespaces that are gone hears nothing any more.
            for way in [Way::Pod, Way::Name] {
                asking.remove(&way).map(Asking::stop).transpose()?;
            }
        }
        asking.values().for_each(Asking::count_anew);
        well(&asking)?;
        std::thread::sleep(CALM);
        let mut heard = BTreeMap::new();
        for (way, asking) in asking {
            let all = asking.stop()?;
            let outage = all.outage(killed)?;
            heard.insert(way, (all, outage));
        }
        // Whoever dies twice within minutes is held back on purpose: the next one to be killed is another.
        match part {
            "container" | "pause" => self.replace("default", &victim.name)?,
            "ingress" => {
                let pods = self.cluster.pods("app=yard-ingress")?;
                self.replace("ingress", &pods.first().context("no ingress")?.name)?;
            }
            _ => {}
        }
        Ok(heard)
    }

    /// The process to kill: of the victim, of the node that another asks from, or of the cluster.
    fn pid(&self, part: &str, victim: &Pod, beside: &Pod, status: &Value) -> anyhow::Result<u32> {
        let of_part = |name: &str| {
            let processes = status["processes"].as_array().into_iter().flatten();
            let pid = processes.into_iter().find(|one| one["name"] == name).and_then(|one| one["hostPid"].as_u64());
            pid.map(|pid| pid as u32).with_context(|| format!("no process {name}"))
        };
        let supervisor = status["supervisorPid"].as_u64().context("no supervisor")? as u32;
        let family = || memory::family(supervisor);
        match part {
            "container" | "pause" => {
                let of_victim = |pid: u32| {
                    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                    let name = format!("HOSTNAME={}", victim.name);
                    environment.split(|byte| *byte == 0).any(|pair| pair == name.as_bytes())
                };
                let web = family().into_iter().find(|(pid, line)| line.contains("--port=80") && of_victim(*pid));
                let (web, _) = web.context("the pod has no container")?;
                if part == "container" { Ok(web) } else { parent(web) }
            }
            "ingress" => {
                Ok(family().into_iter().find(|(_, line)| line.contains("--publish-service")).context("none")?.0)
            }
            "node agent" => of_part(&format!("node-{}", beside.node)),
            "control plane" => of_part("control-plane"),
            "supervisor" => Ok(supervisor),
            other => of_part(other),
        }
    }

    /// From the creation of another pod like one that there is until it is ready.
    fn another(&self, namespace: &str, label: &str) -> anyhow::Result<Duration> {
        let client = self.client()?;
        self.runtime.block_on(async {
            let pods: Api<v1::Pod> = Api::namespaced(client, namespace);
            let like = pods.list(&ListParams::default().labels(label)).await?;
            let mut spec = like.items.into_iter().next().and_then(|pod| pod.spec).context("no pod")?;
            spec.node_name = None;
            let metadata = json!({"name": "another", "labels": {"bench": "recovery"}});
            let pod: v1::Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec}))?;
            let begun = Instant::now();
            pods.create(&PostParams::default(), &pod).await?;
            tokio::time::timeout(PATIENCE, await_condition(pods.clone(), "another", is_ready)).await??;
            let took = begun.elapsed();
            pods.delete("another", &DeleteParams::default().grace_period(0)).await?;
            anyhow::Ok(took)
        })
    }

    /// Has a pod deleted, whose owner makes another.
    fn replace(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let client = self.client()?;
        let pods: Api<v1::Pod> = Api::namespaced(client, namespace);
        self.runtime.block_on(pods.delete(name, &DeleteParams::default()))?;
        Ok(())
    }

    /// Waits until all pods are ready and nobody is on the way out.
    fn whole(&self) -> anyhow::Result<()> {
        let client = self.client()?;
        let pods: Api<v1::Pod> = Api::all(client);
        until("all pods are ready", || {
            let all = self.runtime.block_on(pods.list(&ListParams::default()))?.items;
            let settled = |pod: &v1::Pod| is_ready(Some(pod)) && pod.metadata.deletion_timestamp.is_none();
            Ok((all.len() >= PODS && all.iter().all(settled)).then_some(()))
        })
    }

    fn status(&self) -> anyhow::Result<Value> {
        let status: Value = serde_json::from_str(&self.cluster.yard(&["status", "-o", "json"])?)?;
        Ok(status[0].clone())
    }

    fn client(&self) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.cluster.yard(&["kubeconfig"])?.trim())?;
        self.runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            Ok(Client::try_from(config)?)
        })
    }
}

fn is_ready(pod: Option<&v1::Pod>) -> bool {
    let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn parent(pid: u32) -> anyhow::Result<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit_once(") ").context("a process's state")?.1;
    Ok(after.split(' ').nth(1).context("a process's parent")?.parse()?)
}

/// Waits until everybody has answers again.
fn well(asking: &BTreeMap<Way, Asking>) -> anyhow::Result<()> {
    until("everybody is well", || {
        let ill: Vec<_> = asking.iter().filter(|(_, asking)| !asking.is_well()).map(|(way, _)| *way).collect();
        ensure!(ill.is_empty(), "no answers: {ill:?}");
        Ok(Some(()))
    })
}

/// Asks until there is an answer.
fn until<T>(what: &str, mut condition: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match condition() {
            Ok(Some(found)) => return Ok(found),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.context(what.to_owned())),
            _ if begun.elapsed() > PATIENCE => anyhow::bail!("{what}: not within {PATIENCE:?}"),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
