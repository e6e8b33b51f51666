//! Mishaps: plugins that do not load, an upstream device that refuses, images that nobody has.

use serde_json::Value;

use crate::rig::{Cluster, Powers, Traffic, eventually, scenarios};

scenarios! {
    a_full_route_table_keeps_pods_away
    a_bad_plugin_changes_nothing
    an_unknown_image_says_what_to_do
}

fn a_bad_plugin_changes_nothing(powers: Powers) {
    let cluster = Cluster::boot(powers);
    let traffic = Traffic::start(cluster.door(), "sphinx-v1.esxcloud.net");
    traffic.more(20);
    let network = |spec: &str| {
        let file = cluster.file("network.yaml");
        let text =
            format!("apiVersion: switchyard.dev/v1alpha1\nkind: Network\nmetadata: {{name: default}}\nspec: {spec}\n");
        std::fs::write(&file, text).unwrap();
        cluster.yard(&["apply", "-f", file.to_str().unwrap()]);
    };
    for (spec, complaint) in [
        ("{plugin: nonsense}", "nonsense"),
        ("{plugin: kubenet, options: {colour: red}}", "colour"),
        ("{plugin: /etc/passwd}", "passwd"),
    ] {
        network(spec);
        eventually(complaint, || cluster.yard(&["status"]).contains(complaint).then_some(()));
        traffic.more(20);
    }
    network("{plugin: kubenet}");
    eventually("ready again", || cluster.yard(&["status"]).contains("kubenet 0.1.0, ready").then_some(()));
    traffic.stop().lost_nothing();
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
