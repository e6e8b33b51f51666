//! The network of segments: nsx.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::rig::{Cluster, Powers, eventually, scenarios};

scenarios! {
    namespaces_are_segments_with_an_address_outside
}

/// An address of the world outside, and a port there.
const WORLD: &str = "203.0.113.1";
const PORT: &str = "8099";

/// A server outside, ended when dropped.
struct World(Child);

impl World {
    fn serve(cluster: &Cluster) -> Self {
        cluster.shell("router", &["ip", "address", "add", &format!("{WORLD}/32"), "dev", "lo"]).expect("an address");
        let echo = cluster.program().with_file_name("yard-echo");
        let mut command = cluster.command(cluster.program());
        command.args(["shell", "router", "--"]).arg(echo).args(["--port", PORT]);
        Self(command.stdout(Stdio::null()).spawn().expect("a server outside"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How the world outside sees a pod.
fn seen(cluster: &Cluster, namespace: &str, pod: &str) -> Option<String> {
    let url = format!("http://{WORLD}:{PORT}/");
    let asked = cluster.try_yard(&["shell", "-n", namespace, pod, "--", "curl", "-sS", "-m", "2", &url]);
    let echo: Value = serde_json::from_slice(&asked.stdout).ok()?;
    Some(echo["remote"].as_str()?.rsplit_once(':')?.0.to_owned())
}

fn namespaces_are_segments_with_an_address_outside(powers: Powers) {
    let cluster = Cluster::prepare(powers);
    let file = cluster.file("sphinx/cluster.yaml");
    let text = fs::read_to_string(&file).unwrap().replace("plugin: kubenet", "plugin: nsx");
    fs::write(&file, text).unwrap();
    cluster.up();
    assert_eq!(cluster.ask("sphinx-v1.esxcloud.net").status, 200);

    let segments = cluster.get(&["segments"]);
    let outside = |name: &str| {
        let items = segments["items"].as_array().unwrap();
        let segment = items.iter().find(|segment| segment["metadata"]["name"] == name).expect("a segment");
        segment["spec"]["outside"].as_str().expect("an address outside").to_owned()
    };
    let pod = format!("pod/{}", cluster.pod_of("app=sphinx,version=v1"));
    let services = cluster.get(&["services"]);
    for service in services["items"].as_array().unwrap() {
        let name = service["metadata"]["name"].as_str().unwrap();
        if name.starts_with("sphinx-svc-") {
            let url = format!("http://{}/", service["spec"]["clusterIP"].as_str().unwrap());
            for place in [&pod, "worker-1", "controlplane"] {
                let answer = cluster.shell(place, &["curl", "-sS", "-m", "20", &url]).expect("an answer");
                assert!(answer.contains("\"pod\":\"sphinx-rs-"), "{place} {url}: {answer}");
            }
        }
    }
    // The gateway is the same on both nodes, and the pod's own.
    let gateway = "10.40.128.1";
    for pod in cluster.get(&["pods", "-l", "app=sphinx"])["items"].as_array().unwrap() {
        let pod = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap());
        let neighbour = cluster.shell(&pod, &["ip", "neighbour", "show", gateway]).unwrap();
        assert!(neighbour.contains("02:50:56:56:44:52") && neighbour.contains("PERMANENT"), "{pod}: {neighbour}");
    }

    let _world = World::serve(&cluster);
    let default = outside("default");
    eventually("the default namespace's address outside", || {
        (seen(&cluster, "default", &pod) == Some(default.clone())).then_some(())
    });
    let ingress = cluster.get(&["pods", "-n", "ingress"]);
    let ingress = format!("pod/{}", ingress["items"][0]["metadata"]["name"].as_str().unwrap());
    assert_eq!(seen(&cluster, "ingress", &ingress), Some(outside("ingress")));

    // A pod sends with its own address or not at all.
    let url = format!("http://{WORLD}:{PORT}/");
    cluster.shell(&pod, &["ip", "address", "add", "10.40.128.77/32", "dev", "eth0"]).unwrap();
    let forged = ["curl", "-sS", "-m", "1", "--interface", "10.40.128.77", &url];
    assert!(cluster.shell(&pod, &forged).unwrap_err().contains("timed out"), "a forged source is dropped");

    // The other node becomes the only one that may carry the gateway.
    let nodes = cluster.get(&["nodes"]);
    let standby = nodes["items"].as_array().unwrap().iter();
    let mut standby = standby.filter(|node| node["metadata"]["annotations"]["switchyard.dev/edge"] == "standby");
    let standby = standby.next().expect("one stands by")["metadata"]["name"].as_str().unwrap();
    let label = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {standby}\n  labels:\n    node-role.kubernetes.io/edge: \"\"\n"
    );
    fs::write(cluster.file("label.yaml"), label).unwrap();
    cluster.yard(&["apply", "-f", cluster.file("label.yaml").to_str().unwrap()]);
    eventually("the other gateway", || {
        let route = cluster.shell("router", &["ip", "route", "show", "192.168.200.0/24"]).unwrap();
        (route.lines().count() == 1).then_some(())
    });
    eventually("the same address by the other gateway", || {
        (seen(&cluster, "default", &pod) == Some(default.clone())).then_some(())
    });
}
