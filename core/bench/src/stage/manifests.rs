//! The cluster of an experiment: a client on the first worker, servers on the first and the second, a Service that leads to the one
//! on the other node, and the ingress if there is a path through it.

use std::net::IpAddr;
use std::ops::Range;

use serde_json::{Value, json};

use crate::experiment::{Crowd, Experiment, Route};
use crate::load::ports;

/// Where the client is.
pub(crate) const CLIENT_NODE: &str = "worker-1";
pub(crate) const OTHER_NODE: &str = "worker-2";
/// The name that the ingress knows.
pub(crate) const HOST: &str = "bench.example.net";
/// The first port that nodes may be reached at.
const FIRST_NODE_PORT: u16 = 30_100;
/// The ReplicaSet of pods that are only there.
pub(crate) const IDLE: &str = "idle";
/// The ingress controller, as it is written for people.
const CONTROLLER: &str = include_str!("../../../../examples/sphinx/controller.yaml");

const SERVED: [u16; 5] = [ports::SINK, ports::ECHO, ports::CRR, ports::UDP, ports::HTTP];

/// The port of every node that leads to a port of the Service.
pub(crate) fn node_port(port: u16) -> u16 {
    let index = SERVED.iter().position(|&served| served == port).expect("a port of the server");
    FIRST_NODE_PORT + index as u16
}

/// One file of everything.
pub(crate) fn text(experiment: &Experiment) -> anyhow::Result<String> {
    let spec = &experiment.spec;
    let mut objects = vec![cluster(experiment)];
    objects.push(pod("client", CLIENT_NODE));
    objects.push(pod("near", CLIENT_NODE));
    objects.push(pod("far", OTHER_NODE));
    objects.push(service());
    objects.extend((0..spec.topology.idle_services).map(|number| idle_service(&format!("idle-{number}"))));
    if spec.topology.idle_pods > 0 {
        objects.push(idle_pods(spec.topology.idle_pods));
    }
    if spec.paths.contains(&Route::Ingress) {
        objects.push(ingress());
    }
    let mut text = String::new();
    for object in objects {
        text += "---\n";
        text += &serde_yaml_ng::to_string(&object)?;
    }
    if spec.paths.contains(&Route::Ingress) {
        text += "---\n";
        text += CONTROLLER;
    }
    Ok(text)
}

pub(crate) fn trial_name(number: usize) -> String {
    format!("trial-{number}")
}

/// A pod on the other node, and the Service it answers behind, under names of their own each time.
pub(crate) fn trial(number: usize) -> anyhow::Result<String> {
    let name = trial_name(number);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "clusterIP": trial_address(number), "selector": {"app": name},
            "ports": [{"port": ports::UDP, "protocol": "UDP"}],
        },
    });
    Ok(format!("{}---\n{}", serde_yaml_ng::to_string(&service)?, serde_yaml_ng::to_string(&eager(&name))?))
}

/// A policy that lets nothing reach that pod.
pub(crate) fn closed(number: usize) -> anyhow::Result<String> {
    let name = trial_name(number);
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Ingress"]},
    });
    Ok(serde_yaml_ng::to_string(&policy)?)
}

/// The address of that Service: no earlier one's that may still be known somewhere.
pub(crate) fn trial_address(number: usize) -> IpAddr {
    let [high, low] = ((number % 50_000) as u16 + 1).to_be_bytes();
    // The upper end of the Services' addresses: others are given from the lower one.
    IpAddr::from([10, 96, 255 - high, low])
}

pub(crate) fn resident_name(number: usize) -> String {
    format!("resident-{number}")
}

/// A pod on the other node that is only there.
pub(crate) fn resident(number: usize) -> anyhow::Result<String> {
    Ok(serde_yaml_ng::to_string(&eager(&resident_name(number)))?)
}

/// A pod on the other node that is ready as soon as it runs.
fn eager(name: &str) -> Value {
    let mut pod = pod(name, OTHER_NODE);
    pod["spec"]["containers"][0].as_object_mut().expect("a container").remove("readinessProbe");
    pod
}

/// Pods that are only there, as a file.
pub(crate) fn idle_set(count: u16) -> anyhow::Result<String> {
    Ok(serde_yaml_ng::to_string(&idle_pods(count))?)
}

/// Some of the many Services or policies of a sweep.
pub(crate) fn crowd(of: Crowd, numbers: Range<u16>) -> anyhow::Result<String> {
    let one = |number: u16| {
        let object = match of {
            Crowd::Policies => policy(number),
            Crowd::Pods | Crowd::Services => idle_service(&format!("crowd-{number}")),
        };
        Ok(format!("---\n{}", serde_yaml_ng::to_string(&object)?))
    };
    numbers.map(one).collect()
}

/// Policies of a sweep select the pods that load goes to. The first lets everything in, each other one an address that nobody has.
fn policy(number: u16) -> Value {
    let [high, low] = number.to_be_bytes();
    let rule = match number {
        0 => json!({}),
        _ => json!({
            "from": [{"ipBlock": {"cidr": format!("10.200.{high}.{low}/32")}}],
            "ports": [{"protocol": "TCP", "port": 10_000 + number}],
        }),
    };
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["near", "far"]}]});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": format!("crowd-{number}")},
        "spec": {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [rule]},
    })
}

fn cluster(experiment: &Experiment) -> Value {
    let spec = &experiment.spec;
    let workers = (1..=spec.topology.workers).map(|number| {
        let most = 110 + u32::from(spec.topology.idle_pods) + u32::from(spec.sweep.pods.last().copied().unwrap_or(0));
        json!({"name": format!("worker-{number}"), "podCIDR": format!("10.40.{number}.0/24"), "maxPods": most})
    });
    let nodes: Vec<Value> = [json!({"name": "controlplane", "role": "control-plane", "podCIDR": "10.40.0.0/24"})]
        .into_iter()
        .chain(workers)
        .collect();
    let first = &spec.networks[0];
    json!({
        "apiVersion": "switchyard.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": super::yard::CLUSTER},
        "spec": {
            "underlay": {"cidr": "10.140.0.0/24", "gateway": "10.140.0.1", "mtu": spec.topology.mtu},
            "nodes": nodes,
            "network": {"plugin": first.plugin, "options": first.options, "hosting": first.hosting},
        },
    })
}

fn pod(name: &str, node: &str) -> Value {
    let probe = json!({"httpGet": {"path": "/healthz", "port": ports::HTTP}, "periodSeconds": 1});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "bench", "image": "yard/bench", "args": ["server"], "readinessProbe": probe}],
        },
    })
}

fn service() -> Value {
    let ports: Vec<Value> = SERVED
        .iter()
        .map(|&port| {
            let protocol = if port == ports::UDP { "UDP" } else { "TCP" };
            json!({"name": format!("p{port}"), "port": port, "protocol": protocol, "nodePort": node_port(port)})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "far"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "far"}, "ports": ports},
    })
}

fn idle_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "nobody"}, "ports": [{"port": 80}]},
    })
}

fn idle_pods(count: u16) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": IDLE},
        "spec": {
            "replicas": count,
            "selector": {"matchLabels": {"app": "idle"}},
            "template": {
                "metadata": {"labels": {"app": "idle"}},
                "spec": {
                    // Nobody sends them requests, so they need not wait for any.
                    "containers": [{"name": "idle", "image": "yard/echo", "args": ["--drain-delay=0"]}],
                    "terminationGracePeriodSeconds": 1,
                },
            },
        },
    })
}

fn ingress() -> Value {
    let backend = json!({"service": {"name": "far", "port": {"number": ports::HTTP}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "far"},
        "spec": {
            "ingressClassName": "switchyard",
            "rules": [{"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_has_what_the_paths_need() {
        let mut experiment = Experiment::quick(&["kubenet"]);
        assert!(!text(&experiment).unwrap().contains("kind: Ingress"));
        experiment.spec.paths.push(Route::Ingress);
        let text = text(&experiment).unwrap();
        assert!(text.contains("kind: Ingress\n") && text.contains("image: yard/ingress"));
        assert_eq!(node_port(ports::HTTP), 30_104);
    }
}
