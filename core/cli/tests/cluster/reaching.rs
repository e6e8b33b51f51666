//! Mishaps: plugins that do not load, an upstream device that refuses, images that nobody has.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::policy::{apply, idle, ready};
use crate::rig::{Cluster, Powers, Traffic, eventually, scenarios};

scenarios! {
    a_full_route_table_keeps_pods_away
    a_bad_plugin_changes_nothing
    an_unknown_image_says_what_to_do
}

const HOST: &str = "sphinx-v1.esxcloud.net";

fn a_bad_plugin_changes_nothing(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), HOST);
    traffic.more(20);
    let spec = |plugin: &Path, options: &str| format!("{{plugin: {}, options: {options}}}", plugin.display());
    let other_major = wrong(&cluster, "OTHER_MAJOR");
    let no_symbol = wrong(&cluster, "NO_SYMBOL");
    for (spec, complaint) in [
        ("{plugin: nonsense}".to_owned(), "nonsense"),
        ("{plugin: kubenet, options: {colour: red}}".to_owned(), "colour"),
        ("{plugin: /etc/passwd}".to_owned(), "passwd"),
        (spec(&other_major, "{}"), "built for plugin ABI 7"),
        (spec(&no_symbol, "{}"), "symbol switchyard_plugin_v1 is missing"),
        (spec(&faulty(&cluster), "{panic: new}"), "told to panic in new"),
    ] {
        network(&cluster, &spec);
        eventually(complaint, || cluster.yard(&["status"]).contains(complaint).then_some(()));
        traffic.more(20);
    }
    network(&cluster, "{plugin: kubenet}");
    eventually("ready again", || cluster.yard(&["status"]).contains("kubenet 0.1.0, ready").then_some(()));
    traffic.stop().lost_nothing();
}

/// The network that is active panics about one pod and hangs about another: the Network says so, everybody else goes on, also pods
/// that come later, and another network can take over.
#[test]
fn a_plugin_that_fails_costs_its_pod() {
    let cluster = Cluster::boot(Powers::Nobody);
    let says = |text: &str| eventually(text, || cluster.yard(&["status"]).contains(text).then_some(()));
    let lease = || cluster.get(&["lease", "worker-1", "-n", "kube-node-lease"])["spec"]["renewTime"].clone();
    for hosting in ["in-process", "process"] {
        let file = faulty(&cluster);
        let options = ["--config", "panic=panics", "--config", "hang=hangs", "--hosting", hosting];
        cluster.yard(&[&["network", "use", file.to_str().unwrap()], &options[..]].concat());
        says("faulty 1.0.0, ready");
        let traffic = Traffic::start(cluster.door(), HOST);
        for (bad, complaint) in [("panics", "the plugin panicked"), ("hangs", "no answer within 5 s")] {
            apply(&cluster, &[idle(bad, "worker-1", bad)]);
            says(&format!("pod default/{bad}: pod: "));
            says(complaint);
            let renewed = lease();
            eventually("a lease that is renewed", || (lease() != renewed).then_some(()));
            let sound = format!("beside-{bad}");
            apply(&cluster, &[idle(&sound, "worker-1", "sound")]);
            ready(&cluster, &sound);
            traffic.more(20);
            for pod in [bad, &sound] {
                cluster.yard(&["delete", "pod", pod]);
            }
        }
        says("faulty 1.0.0, ready");
        traffic.stop().lost_nothing();
    }
    cluster.yard(&["network", "use", "kubenet"]);
    says("kubenet 0.1.0, ready");
    assert_eq!(cluster.ask(HOST).status, 200);
}

/// Wants another network.
fn network(cluster: &Cluster, spec: &str) {
    let file = cluster.file("network.yaml");
    let text =
        format!("apiVersion: switchyard.dev/v1alpha1\nkind: Network\nmetadata: {{name: default}}\nspec: {spec}\n");
    std::fs::write(&file, text).unwrap();
    cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
}

/// The plugin that breaks its promises when asked to, where the cluster can read it.
fn faulty(cluster: &Cluster) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_yard")).with_file_name("libswitchyard_faulty.so");
    let file = cluster.file("libswitchyard_faulty.so");
    if !file.exists() {
        std::fs::copy(built, &file).expect("faulty is built");
    }
    file
}

/// A plugin in C that is wrong in one way.
fn wrong(cluster: &Cluster, define: &str) -> PathBuf {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-host");
    let file = cluster.file(&format!("{define}.so"));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-std=gnu11", "-I"]).arg(host.join("../plugin/include")).arg(format!("-D{define}"));
    let status = cc.arg(host.join("tests/fixtures/faulty.c")).arg("-o").arg(&file).status();
    assert!(status.expect("cc runs").success());
    file
}

fn an_unknown_image_says_what_to_do(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let file = cluster.file("pod.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: odd}\nspec: {containers: [{name: a, image: \"odd:1\"}]}\n";
    std::fs::write(&file, text).unwrap();
    cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
    eventually("ErrImagePull or its back-off", || cluster.yard(&["get", "pods"]).contains("ImagePull").then_some(()));
    let events = cluster.get(&["events"]).to_string();
    assert!(events.contains("spec.images"), "{events}");
    let described = cluster.yard(&["describe", "pod", "odd"]);
    let image = |line: &str| line.trim_start().starts_with("Image:") && line.ends_with(" odd:1");
    assert!(described.starts_with("Name:") && described.lines().any(image), "{described}");
    assert!(described.contains("Events:\n") && described.contains("spec.images"), "{described}");
    cluster.yard(&["delete", "pod", "odd"]);
}

/// Two routes for three nodes: no pod goes to the third, its condition and an event say why, and a place that gets free is its.
fn a_full_route_table_keeps_pods_away(powers: Powers) {
    let cluster = Cluster::prepare_with(powers, |folder| {
        let file = folder.join("cluster.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let routes = "  underlay:\n    routes: {limit: 2, delayMilliseconds: 50, errorRate: 0.3, seed: 4}\n";
        std::fs::write(&file, text.replace("  underlay:\n", routes)).unwrap();
    });
    cluster.up();
    let unavailable = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let condition = conditions.into_iter().find(|one| one["type"] == "NetworkUnavailable").unwrap_or_default();
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    };
    let nodes = || cluster.get(&["nodes"])["items"].as_array().unwrap().clone();
    let (held, refused) = eventually("two routes, and one that is refused", || {
        let (held, others): (Vec<_>, Vec<_>) =
            nodes().into_iter().partition(|node| unavailable(node).1 == "RouteCreated");
        let refused = others.into_iter().find(|node| unavailable(node).2.contains("holds 2 of 2 routes"))?;
        (held.len() == 2).then_some((held, refused))
    });
    let name = refused["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(unavailable(&refused).0, "True");
    eventually("an event that names the route", || {
        let events = cluster.get(&["events"]);
        let mut events = events["items"].as_array().unwrap().iter();
        let block = refused["spec"]["podCIDR"].as_str().expect("a block");
        let says = |event: &&Value| {
            event["message"].as_str().is_some_and(|text| text.contains(block) && text.contains("holds 2 of 2"))
        };
        events.find(|event| event["reason"] == "FailedToCreateRoute" && says(event)).map(drop)
    });
    let pods = cluster.get(&["pods", "-A"]);
    let on_it = |pod: &&Value| pod["spec"]["nodeName"] == name.as_str();
    assert_eq!(pods["items"].as_array().unwrap().iter().filter(on_it).count(), 0, "{pods}");
    let routes = cluster.shell("router", &["ip", "route"]).unwrap();
    assert_eq!(routes.lines().filter(|line| line.starts_with("10.40.")).count(), 2, "{routes}");
    // A router that is started again leaves the routes with those who have them.
    let before = cluster.kill("router");
    eventually("another router", || cluster.try_pid("router").filter(|pid| *pid != before));
    eventually("the same routes", || (cluster.shell("router", &["ip", "route"]).ok()? == routes).then_some(()));
    let controlplane = |node: &Value| node["metadata"]["name"] == "controlplane";
    let leaves = held.iter().find(|node| !controlplane(node)).unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.yard(&["delete", "node", &leaves]);
    eventually("the route goes to the one that waited", || {
        let node = nodes().into_iter().find(|node| node["metadata"]["name"] == name.as_str())?;
        (unavailable(&node).1 == "RouteCreated").then_some(())
    });
}
