//! `kill -9`, under traffic: what does not depend on the killed thing loses nothing, the rest is back within moments.

use std::time::Duration;

use crate::rig::{Cluster, Powers, Traffic, eventually, kill, measured, scenarios};

scenarios! {
    the_control_plane_dies
    an_agent_dies
    the_router_dies
    the_supervisor_dies
    a_container_dies
    a_pause_dies
    the_ingress_dies
}

const HOST: &str = "sphinx-v1.esxcloud.net";
/// A second or two on a machine with nothing else to do; tests share theirs with a compiler. What it took is written down.
const MOMENTS: Duration = Duration::from_secs(30);

fn the_control_plane_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    let before = cluster.kill("control-plane");
    traffic.more(200);
    traffic.stop().lost_nothing();
    measured("another control plane", || cluster.try_pid("control-plane").filter(|pid| *pid != before));
    assert!(cluster.yard(&["get", "pods"]).contains("sphinx-rs-1-"), "what was acknowledged is there");
}

fn an_agent_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    for node in ["node-worker-1", "node-worker-2"] {
        let before = cluster.kill(node);
        traffic.more(100);
        measured("another agent", || (cluster.pid(node) != before).then_some(()));
    }
    traffic.more(100);
    traffic.stop().lost_nothing();
}

fn the_router_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    cluster.kill("router");
    traffic.more(200);
    traffic.stop().was_back_within(MOMENTS, "the router was killed");
}

fn the_supervisor_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let names = |cluster: &Cluster| cluster.yard(&["get", "services", "-A", "-o", "name"]);
    let before = names(&cluster);
    cluster.kill("supervisor");
    cluster.yard(&["up"]);
    assert_eq!(names(&cluster), before);
    assert_eq!(cluster.ask(HOST).status, 200);
}

fn a_container_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), "sphinx-v2.esxcloud.net");
    traffic.more(50);
    let pod = cluster.pod_of("app=sphinx,version=v1");
    kill(cluster.container(&pod, "--port=80"));
    measured("the container started again", || (cluster.restarts(&pod) == 1 && cluster.is_ready(&pod)).then_some(()));
    traffic.more(50);
    // Its neighbours were not disturbed, and its address stayed.
    traffic.stop().lost_nothing();
    assert_eq!(
        cluster.get(&["pod", &pod])["status"]["podIP"],
        cluster.get(&["pod", &pod])["status"]["podIPs"][0]["ip"]
    );
}

fn a_pause_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), "sphinx-v2.esxcloud.net");
    traffic.more(50);
    let pod = cluster.pod_of("app=sphinx,version=v1");
    let address = cluster.get(&["pod", &pod])["status"]["podIP"].clone();
    kill(cluster.pause(&pod));
    measured("the pod runs again", || (cluster.restarts(&pod) >= 1 && cluster.is_ready(&pod)).then_some(()));
    traffic.more(50);
    traffic.stop().lost_nothing();
    assert_eq!(cluster.get(&["pod", &pod])["status"]["podIP"], address);
    eventually("an answer", || (cluster.ask(HOST).status == 200).then_some(()));
}

fn the_ingress_dies(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(50);
    kill(cluster.process("yard-ingress"));
    traffic.more(200);
    traffic.stop().was_back_within(MOMENTS, "the ingress was killed");
}
