use futures::executor::block_on;
use k8s_openapi::api::core::v1 as core;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use switchyard_api::names::POD_IP;

use super::slim::{SlimNamespace, SlimPod};
use super::*;

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "uid": format!("uid-{name}"), "labels": {"app": "web"},
            "annotations": {POD_IP: "10.40.1.5", "other": "x"}, "managedFields": [{"manager": "m"}]},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": [
            {"name": "http", "containerPort": 80}, {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"containerPort": 81}]}]},
        "status": {"phase": "Running", "podIP": "10.40.1.5"},
    })
}

fn slim(value: &Value) -> SlimPod {
    serde_json::from_value(value.clone()).unwrap()
}

fn whole(value: &Value) -> core::Pod {
    serde_json::from_value(value.clone()).unwrap()
}

fn namespace(name: &str) -> SlimNamespace {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": name}}})).unwrap()
}

fn namespace_at(version: u64, team: &str) -> SlimNamespace {
    let metadata = json!({"name": "a", "resourceVersion": version.to_string(), "labels": {"team": team}});
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

/// Changes so far, in words.
fn told(changes: &mut mpsc::UnboundedReceiver<Change>) -> Vec<String> {
    let mut words = Vec::new();
    while let Ok(change) = changes.try_recv() {
        words.push(match change {
            Change::Pod { was: None, now: Some(pod) } => format!("+{}@{}", pod.name, pod.node),
            Change::Pod { was: Some(pod), now: None } => format!("-{}", pod.name),
            Change::Pod { now: Some(now), .. } => format!("~{} {:?}", now.name, now.labels),
            Change::Pod { was: None, now: None } => unreachable!("no change"),
            Change::Namespace { name, labels } => format!("{}ns/{name}", if labels.is_some() { '+' } else { '-' }),
            Change::Complete => "complete".into(),
        });
    }
    words
}

#[test]
fn both_ways_of_reading_a_pod_agree() {
    let mut interner = Interner::default();
    let value = pod("p", "n1");
    let entry = slim(&value).entry(&mut interner).unwrap();
    assert_eq!(super::slim::of_pod(&whole(&value), &mut interner).unwrap(), entry);
    assert_eq!(entry.ip, Some("10.40.1.5".parse().unwrap()));
    let ports: Vec<_> =
        entry.ports.iter().map(|port| (port.name.as_str(), port.protocol.number(), port.port)).collect();
    assert_eq!(ports, [("http", 6, 80), ("dns", 17, 53)]);
}

#[test]
fn a_subscriber_hears_first_what_is_there_and_then_what_changes() {
    let view = View::default();
    let mut early = view.subscribe();
    view.overhear(&Ok(Event::Init));
    view.overhear(&Ok(Event::InitApply(whole(&pod("own", "n1")))));
    view.overhear(&Ok(Event::InitDone));
    view.hear_pod(Event::Init);
    view.hear_pod(Event::InitApply(slim(&pod("far", "n2"))));
    view.hear_pod(Event::InitDone);
    view.hear_namespace(Event::Init);
    view.hear_namespace(Event::InitApply(namespace("a")));
    assert_eq!(told(&mut early), ["+own@n1", "+far@n2", "+ns/a"]);
    view.hear_namespace(Event::InitDone);
    assert_eq!(told(&mut early), ["complete"]);

    let mut late = view.subscribe();
    assert_eq!(told(&mut late), ["+ns/a", "+far@n2", "+own@n1", "complete"]);
    let mut other = pod("far", "n2");
    view.hear_pod(Event::Apply(slim(&other)));
    assert!(told(&mut late).is_empty(), "nothing changed");
    other["metadata"]["labels"]["app"] = "db".into();
    view.hear_pod(Event::Apply(slim(&other)));
    assert_eq!(told(&mut late), [r#"~far {"app": "db"}"#]);
}

#[test]
fn a_list_that_comes_again_takes_away_what_it_does_not_hold_and_nothing_of_another_source() {
    let view = View::default();
    view.overhear(&Ok(Event::Apply(whole(&pod("own", "n1")))));
    view.hear_pod(Event::Apply(slim(&pod("a", "n2"))));
    view.hear_pod(Event::Apply(slim(&pod("b", "n2"))));
    let mut changes = view.subscribe();
    told(&mut changes);
    view.hear_pod(Event::Init);
    view.hear_pod(Event::InitApply(slim(&pod("b", "n2"))));
    view.hear_pod(Event::InitDone);
    assert_eq!(told(&mut changes), ["-a"]);
}

#[test]
fn a_namespace_that_was_asked_for_is_not_undone_by_older_news_of_it() {
    let view = View::default();
    let mut changes = view.subscribe();
    let mut teams = || {
        let mut teams = Vec::new();
        while let Ok(Change::Namespace { labels, .. }) = changes.try_recv() {
            teams.push(labels.map(|labels| labels["team"].clone()).unwrap_or_default());
        }
        teams
    };
    view.hear_namespace(Event::Apply(namespace_at(3, "x")));
    view.learn_namespace(namespace_at(7, "z"));
    assert_eq!(teams(), ["x", "z"]);
    view.hear_namespace(Event::Apply(namespace_at(5, "y")));
    // It went and came again before it was asked for.
    view.hear_namespace(Event::Delete(namespace_at(6, "y")));
    view.hear_namespace(Event::Apply(namespace_at(7, "z")));
    assert_eq!(teams(), [""; 0]);
    view.hear_namespace(Event::Delete(namespace_at(9, "z")));
    assert_eq!(teams(), [""]);
}

#[test]
fn what_many_pods_share_is_kept_once_and_only_as_long() {
    let mut interner = Interner::default();
    let a = slim(&pod("a", "n2")).entry(&mut interner).unwrap();
    let b = slim(&pod("b", "n2")).entry(&mut interner).unwrap();
    assert!(Arc::ptr_eq(&a.labels, &b.labels) && Arc::ptr_eq(&a.ports, &b.ports) && Arc::ptr_eq(&a.node, &b.node));
    let weak = Arc::downgrade(&a.labels);
    drop((a, b));
    interner.sweep();
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_stream_that_fails_goes_on() {
    let view = View::default();
    let failed = Err(kube::runtime::watcher::Error::NoResourceVersion);
    let events = [failed, Ok(Event::Apply(slim(&pod("a", "n2"))))];
    block_on(follow_elsewhere(view.clone(), futures::stream::iter(events)));
    assert_eq!(told(&mut view.subscribe()), ["+a@n2"]);
}
