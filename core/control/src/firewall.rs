//! Statuses of the distributed firewall: whether every node has a SecurityPolicy in force and what its rules have decided on all of
//! them together, and how many pods are in a Group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use switchyard_api::{Condition, Group, RuleStatus, SecurityPolicy, SecurityPolicyStatus, names};
use switchyard_policy::{Labels, Peer};

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::meta;
use crate::node::condition;
use crate::queue::{Next, Queue};

/// What is looked after.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Policy(String),
    Group(String),
}

/// Whether it is so, why, and in a sentence.
type Finding = (&'static str, &'static str, String);

const NAME: &str = "firewall-controller";
const REALISED: &str = "Realised";
const WORKERS: usize = 2;
/// Nodes report one after the other, and pods come in bursts.
const PACE: Duration = Duration::from_millis(100);
/// Names in a message.
const NAMED: usize = 5;

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::paced(PACE);
    let caches = &context.caches;
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    let policies = move || {
        let all = weak.upgrade().map(|context| context.caches.security_policies.all()).unwrap_or_default();
        all.iter().for_each(|policy| wake.add(Item::Policy(name(&policy.metadata))));
    };
    let (wake, weak) = (queue.clone(), Arc::downgrade(context));
    let groups = move || {
        let all = weak.upgrade().map(|context| context.caches.groups.all()).unwrap_or_default();
        all.iter().for_each(|group| wake.add(Item::Group(name(&group.metadata))));
    };
    let wake = queue.clone();
    caches.security_policies.on_change(move |_, new| {
        if let Some(policy) = new {
            wake.add(Item::Policy(name(&policy.metadata)));
        }
    });
    let (wake, again) = (queue.clone(), policies.clone());
    caches.groups.on_change(move |old, new| {
        if let Some(group) = new {
            wake.add(Item::Group(name(&group.metadata)));
        }
        if old.map(|group| &group.spec) != new.map(|group| &group.spec) {
            again();
        }
    });
    caches.nodes.on_change(move |old, new| {
        if old.map(|node| is_ready(node)) != new.map(|node| is_ready(node)) {
            policies();
        }
    });
    let again = groups.clone();
    caches.namespaces.on_change(move |old, new| {
        if old.map(|one| &one.metadata.labels) != new.map(|one| &one.metadata.labels) {
            again();
        }
    });
    caches.pods.on_change(move |old, new| {
        if old.map(|pod| membership(pod)) != new.map(|pod| membership(pod)) {
            groups();
        }
    });
    let context = context.clone();
    Box::pin(async move {
        let caches = &context.caches;
        tokio::join!(
            caches.security_policies.synced(),
            caches.groups.synced(),
            caches.nodes.synced(),
            caches.namespaces.synced(),
            caches.pods.synced(),
        );
        queue.run(NAME, WORKERS, |item| step(&context, item)).await;
    })
}

async fn step(context: &Context, item: Item) -> Result<Next> {
    match item {
        Item::Policy(name) => policy(context, &name).await?,
        Item::Group(name) => group(context, &name).await?,
    }
    Ok(Next::Change)
}

async fn policy(context: &Context, name: &str) -> Result<()> {
    let Some(policy) = context.caches.security_policies.get(&Key::cluster(name)) else { return Ok(()) };
    let nodes = context.caches.nodes.all();
    let ready: BTreeMap<String, bool> = nodes.iter().map(|node| (self::name(&node.metadata), is_ready(node))).collect();
    let groups: BTreeSet<String> =
        context.caches.groups.all().iter().map(|group| self::name(&group.metadata)).collect();
    let old = policy.status.clone().unwrap_or_default();
    let found = judge(&policy, &old, &ready, &groups);
    let rules = total(&policy, &old, &ready);
    let gone: BTreeMap<&String, Value> =
        old.nodes.keys().filter(|name| !ready.contains_key(*name)).map(|name| (name, Value::Null)).collect();
    let conditions = conditions(&old.conditions, found);
    if conditions == old.conditions && rules == old.rules && gone.is_empty() {
        return Ok(());
    }
    let status = json!({"conditions": conditions, "rules": rules, "nodes": gone});
    let patch = Patch::Merge(json!({"metadata": {"uid": policy.metadata.uid}, "status": status}));
    let api = context.cluster_api::<SecurityPolicy>();
    if let Some(policy) = unless_gone(api.patch_status(name, &PatchParams::default(), &patch).await)? {
        context.caches.security_policies.wrote(policy);
    }
    Ok(())
}

/// What is to be said about a policy; `nodes` says which there are, and whether they are ready.
fn judge(
    policy: &SecurityPolicy,
    status: &SecurityPolicyStatus,
    nodes: &BTreeMap<String, bool>,
    groups: &BTreeSet<String>,
) -> Finding {
    let generation = policy.metadata.generation.unwrap_or(0);
    if let Err(error) = policy.spec.check() {
        return ("False", "Invalid", error.to_string());
    }
    let parties = policy.spec.rules.iter().flat_map(|rule| rule.sources.iter().chain(&rule.destinations));
    let missing: BTreeSet<&String> =
        parties.filter_map(|party| party.group.as_ref()).filter(|group| !groups.contains(*group)).collect();
    if !missing.is_empty() {
        let message = format!("there is no Group {}; nobody is in it", some(missing.into_iter()));
        return ("False", "MissingGroup", message);
    }
    let report = |node: &String| status.nodes.get(node).filter(|report| report.generation == generation);
    let failed = nodes.keys().find_map(|node| Some((node, report(node)?.error.as_ref()?)));
    if let Some((node, error)) = failed {
        return ("False", "Failed", format!("{node}: {error}"));
    }
    let waits: Vec<&String> =
        nodes.iter().filter(|(node, ready)| **ready && report(node).is_none()).map(|(node, _)| node).collect();
    if !waits.is_empty() {
        return ("False", "Pending", format!("not in force yet on {}", some(waits.into_iter())));
    }
    let count = nodes.keys().filter(|node| report(node).is_some()).count();
    match count {
        0 => ("False", "NoNode", "no node is ready".into()),
        _ => ("True", "Realised", format!("in force on {count} of {} nodes", nodes.len())),
    }
}

/// What all nodes have counted, rule by rule.
fn total(policy: &SecurityPolicy, status: &SecurityPolicyStatus, nodes: &BTreeMap<String, bool>) -> Vec<RuleStatus> {
    let sum = |name: &String| {
        let mut sum = RuleStatus { name: name.clone(), ..RuleStatus::default() };
        let there = status.nodes.iter().filter(|(node, _)| nodes.contains_key(*node));
        for rule in there.flat_map(|(_, report)| &report.rules).filter(|rule| rule.name == *name) {
            sum.egress += rule.egress;
            sum.ingress += rule.ingress;
        }
        sum
    };
    policy.spec.rules.iter().map(|rule| sum(&rule.name)).collect()
}

async fn group(context: &Context, name: &str) -> Result<()> {
    let Some(group) = context.caches.groups.get(&Key::cluster(name)) else { return Ok(()) };
    let (found, pods) = match group.spec.check().and_then(|()| group.spec.peers("members")) {
        Ok(peers) => {
            let pods = context.caches.pods.all().iter().filter(|pod| holds(context, &peers, pod)).count();
            let blocks = peers.iter().filter(|peer| matches!(peer, Peer::Block { .. })).count();
            (("True", "Realised", format!("{pods} pods, {blocks} blocks of addresses")), pods)
        }
        Err(error) => (("False", "Invalid", error.to_string()), 0),
    };
    let old = group.status.clone().unwrap_or_default();
    let conditions = conditions(&old.conditions, found);
    if conditions == old.conditions && pods as u64 == old.pods {
        return Ok(());
    }
    let status = json!({"conditions": conditions, "pods": pods});
    let patch = Patch::Merge(json!({"metadata": {"uid": group.metadata.uid}, "status": status}));
    let api = context.cluster_api::<Group>();
    if let Some(group) = unless_gone(api.patch_status(name, &PatchParams::default(), &patch).await)? {
        context.caches.groups.wrote(group);
    }
    Ok(())
}

/// Whether a pod, which has an address of its own, is among these.
fn holds(context: &Context, peers: &[Peer], pod: &Pod) -> bool {
    let (true, Some(namespace)) = (membership(pod).1, pod.metadata.namespace.as_deref()) else { return false };
    let none = Labels::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    let of_namespace = context.caches.namespaces.get(&Key::cluster(namespace));
    let of_namespace = of_namespace.as_ref().map(|one| one.metadata.labels.as_ref().unwrap_or(&none));
    peers.iter().any(|peer| matches!(peer, Peer::Pods(group) if group.holds(namespace, labels, of_namespace)))
}

/// What decides about a pod's membership: its labels, and whether it has an address, which goes with its end.
fn membership(pod: &Pod) -> (Option<&Labels>, bool) {
    let has_address = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::POD_IP));
    let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    (pod.metadata.labels.as_ref(), has_address && !on_host)
}

/// The one condition, as new as it is.
fn conditions(old: &[Condition], (status, reason, message): Finding) -> Vec<Condition> {
    let since = old.iter().find(|one| one.kind == REALISED && one.status == status);
    let since = since.map_or_else(|| meta::now().0.to_string(), |old| old.last_transition_time.clone());
    let (kind, status, reason) = (REALISED.into(), status.into(), reason.into());
    vec![Condition { kind, status, reason, message, last_transition_time: since }]
}

fn some<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|ready| ready.status == "True")
}

fn name(meta: &kube::api::ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(status: Value) -> SecurityPolicy {
        serde_json::from_value(json!({
            "apiVersion": "switchyard.dev/v1alpha1", "kind": "SecurityPolicy",
            "metadata": {"name": "p", "generation": 2}, "status": status,
            "spec": {"tier": "Emergency", "rules": [{"name": "r", "sources": [{"group": "g"}], "action": "Drop"}]},
        }))
        .unwrap()
    }

    fn said(nodes: Value, groups: &[&str]) -> (&'static str, String) {
        let policy = policy(json!({"nodes": nodes}));
        let ready = [("a", true), ("b", true), ("dead", false)].map(|(name, ready)| (name.to_owned(), ready)).into();
        let groups = groups.iter().map(|name| (*name).to_owned()).collect();
        let (_, reason, message) = judge(&policy, policy.status.as_ref().unwrap(), &ready, &groups);
        (reason, message)
    }

    #[test]
    fn it_is_realised_when_every_ready_node_says_so() {
        let both = json!({"a": {"generation": 2}, "b": {"generation": 2}});
        assert_eq!(said(both.clone(), &["g"]), ("Realised", "in force on 2 of 3 nodes".into()));
        assert_eq!(said(both, &[]), ("MissingGroup", "there is no Group g; nobody is in it".into()));
        let old = json!({"a": {"generation": 2}, "b": {"generation": 1}});
        assert_eq!(said(old, &["g"]), ("Pending", "not in force yet on b".into()));
        let failed = json!({"a": {"generation": 2, "error": "no memory"}});
        assert_eq!(said(failed, &["g"]), ("Failed", "a: no memory".into()));
    }

    #[test]
    fn what_nodes_have_counted_is_added_up() {
        let rule = |packets: u64| json!([{"name": "r", "egress": {"packets": packets, "bytes": 60 * packets}}]);
        let policy = policy(json!({"nodes": {
            "a": {"generation": 2, "rules": rule(2)}, "b": {"generation": 2, "rules": rule(3)}, "x": {"rules": rule(9)},
        }}));
        let nodes = ["a", "b"].map(|name| (name.to_owned(), true)).into();
        let total = total(&policy, policy.status.as_ref().unwrap(), &nodes);
        assert_eq!((total[0].egress.packets, total[0].egress.bytes, total[0].ingress.packets), (5, 300, 0));
    }
}
