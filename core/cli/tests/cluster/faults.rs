//! `kill -9`, under traffic: what does not depend on the killed thing loses nothing, the rest is back within moments. Afterwards the
//! kernel holds what it held before.

use std::time::Duration;

use rustix::process::Signal;

use crate::policy::apply;
use crate::rig::{Cluster, Powers, State, Traffic, eventually, kill, measured, scenarios, signal, within};

scenarios! {
    the_control_plane_dies
    an_agent_dies
    an_agent_falls_silent
    the_router_dies
    the_supervisor_dies
    a_container_dies
    a_pause_dies
    the_ingress_dies
}

const HOST: &str = "sphinx-v1.esxcloud.net";
/// A boot, or somebody who says nothing: a second or two on a machine with nothing else to do; tests share theirs with a compiler.
/// What it took is written down, and `benches/benches/recovery.rs` measures it where nothing else runs.
const MOMENTS: Duration = Duration::from_secs(15);
/// One process that is started again, or one container: a fraction of a second on such a machine.
const SOON: Duration = Duration::from_secs(5);

fn the_control_plane_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let state = State::of(&cluster);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    apply(&cluster, &["apiVersion: v1\nkind: ConfigMap\nmetadata: {name: last}\ndata: {said: just before}".to_owned()]);
    let before = cluster.kill("control-plane");
    traffic.more(200);
    traffic.stop().lost_nothing();
    within(SOON, "another control plane", || cluster.try_pid("control-plane").filter(|pid| *pid != before));
    assert!(cluster.yard(&["get", "pods"]).contains("sphinx-rs-1-"));
    assert_eq!(cluster.get(&["configmap", "last"])["data"]["said"], "just before", "what was acknowledged is there");
    state.is_again(&cluster);
}

fn an_agent_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let state = State::of(&cluster);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    for node in ["node-worker-1", "node-worker-2"] {
        let before = cluster.kill(node);
        traffic.more(100);
        within(SOON, "another agent", || (cluster.pid(node) != before).then_some(()));
    }
    traffic.more(100);
    traffic.stop().lost_nothing();
    state.is_again(&cluster);
}

/// A stopped process is what a node that hangs looks like: it does not die, so nobody starts it again.
fn an_agent_falls_silent(powers: Powers) {
    let cluster = Cluster::prepare_with(powers, |folder| {
        let file = folder.join("cluster.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let times = "spec:\n  nodeMonitorGracePeriodSeconds: 10\n  defaultTolerationSeconds: 1\n";
        std::fs::write(&file, text.replacen("spec:\n", times, 1)).unwrap();
    });
    cluster.up();
    let ready = || {
        let node = cluster.get(&["node", "worker-1"]);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|one| one["type"] == "Ready").map(|one| one["status"].clone())
    };
    let pods = |node: &str| -> Vec<(String, bool)> {
        let pods = cluster.get(&["pods", "-l", "app=sphinx"]);
        let there = pods["items"].as_array().unwrap().iter().filter(|pod| pod["spec"]["nodeName"] == node);
        there
            .map(|pod| (pod["metadata"]["name"].to_string(), pod["metadata"]["deletionTimestamp"].is_string()))
            .collect()
    };
    let (here, elsewhere) = (pods("worker-1"), pods("worker-2").len());
    assert!(!here.is_empty(), "pods are spread over the workers");
    let agent = cluster.pid("node-worker-1");
    signal(agent, Signal::STOP);
    measured("the node is not known to be ready", || ready().filter(|status| status == "Unknown"));
    measured("its pods are told to leave", || pods("worker-1").iter().all(|(_, leaves)| *leaves).then_some(()));
    measured("as many run elsewhere", || (pods("worker-2").len() == elsewhere + here.len()).then_some(()));
    signal(agent, Signal::CONT);
    measured("the node is back", || ready().filter(|status| status == "True"));
    let left = || pods("worker-1").iter().all(|(pod, _)| here.iter().all(|(old, _)| old != pod));
    measured("those that were to leave have left", || left().then_some(()));
    assert_eq!(cluster.pid("node-worker-1"), agent, "nobody started another");
}

fn the_router_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let state = State::of(&cluster);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    cluster.kill("router");
    traffic.more(200);
    traffic.stop().was_back_within(SOON, "the router was killed");
    state.is_again(&cluster);

    // A node goes deaf at its node ports, and says nothing: the load balancer does without it.
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    let deaf = "nft 'add table ip deaf; add chain ip deaf in { type filter hook prerouting priority -200; }; \
                add rule ip deaf in iifname eth0 tcp dport 30000-32767 drop'";
    cluster.shell("worker-1", &["sh", "-c", deaf]).expect("a node that hears nothing");
    traffic.more(200);
    traffic.stop().was_back_within(MOMENTS, "a node went deaf");
    cluster.shell("worker-1", &["nft", "delete", "table", "ip", "deaf"]).expect("it hears again");
    state.is_again(&cluster);
}

/// Again and again, and at once, while the last life is still on its way out: nobody is in the way of the next one, and all ports are
/// where they were.
fn the_supervisor_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let names = |cluster: &Cluster| cluster.yard(&["get", "services", "-A", "-o", "name"]);
    let (before, door, ports) = (names(&cluster), cluster.door(), cluster.ports());
    for _ in 0..3 {
        let traffic = Traffic::start(door, HOST);
        traffic.more(20);
        signal(cluster.pid("supervisor"), Signal::KILL);
        cluster.yard(&["up"]);
        traffic.more(20);
        traffic.stop().was_back_within(MOMENTS, "the supervisor was killed");
        assert_eq!((names(&cluster), cluster.ports()), (before.clone(), ports.clone()));
    }
}

fn a_container_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let state = State::of(&cluster);
    let traffic = Traffic::start(cluster.door(), "sphinx-v2.esxcloud.net");
    traffic.more(50);
    let pod = cluster.pod_of("app=sphinx,version=v1");
    let address = cluster.get(&["pod", &pod])["status"]["podIP"].clone();
    kill(cluster.container(&pod, "--port=80"));
    let again = || (cluster.restarts(&pod) == 1 && cluster.is_ready(&pod)).then_some(());
    within(SOON, "the container started again", again);
    traffic.more(50);
    // Its neighbours were not disturbed, and its address stayed.
    traffic.stop().lost_nothing();
    assert_eq!(cluster.get(&["pod", &pod])["status"]["podIP"], address);
    state.is_again(&cluster);
}

/// Of the pod's link the node's end is a new one, with a MAC of its own, so the kernel is not quite as it was. What dies for the second
/// time within minutes is held back, but not what was taken along.
fn a_pause_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), "sphinx-v2.esxcloud.net");
    traffic.more(50);
    let pod = cluster.pod_of("app=sphinx,version=v1");
    let address = cluster.get(&["pod", &pod])["status"]["podIP"].clone();
    kill(cluster.container(&pod, "--port=80"));
    within(SOON, "its container runs again", || (cluster.restarts(&pod) == 1 && cluster.is_ready(&pod)).then_some(()));
    for ends in [3, 5] {
        kill(cluster.pause(&pod));
        let again = || (cluster.restarts(&pod) == ends && cluster.is_ready(&pod)).then_some(());
        within(SOON, "the pod runs again", again);
        traffic.more(50);
    }
    traffic.stop().lost_nothing();
    assert_eq!(cluster.get(&["pod", &pod])["status"]["podIP"], address);
    eventually("an answer", || (cluster.ask(HOST).status == 200).then_some(()));
}

fn the_ingress_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let state = State::of(&cluster);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    kill(cluster.process("yard-ingress"));
    traffic.more(200);
    traffic.stop().was_back_within(SOON, "the ingress was killed");
    state.is_again(&cluster);
}
