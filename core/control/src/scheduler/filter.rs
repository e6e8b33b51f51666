//! Which nodes could take a pod, and in Kubernetes' words why the others could not.

use std::collections::BTreeMap;

use foldhash::HashMap;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};

use super::snapshot::{Fixed, HostPort, NodeInfo, PodInfo, Snapshot};
use crate::{meta, pod};

/// Why a node cannot take a pod.
pub(super) type Reason = String;

/// What must be computed once for a pod and then holds for all nodes: its hard topology spread constraints.
pub(super) struct Spread<'a> {
    constraints: Vec<Constraint<'a>>,
}

struct Constraint<'a> {
    key: &'a str,
    max_skew: i32,
    /// Matching pods in each domain.
    counts: HashMap<String, i32>,
    least: i32,
    matches_self: bool,
}

/// All reasons why `node` cannot take the pod; none if it can.
pub(super) fn reasons(info: &PodInfo, node: &NodeInfo, spread: &Spread) -> Vec<Reason> {
    let Some(fixed) = &node.fixed else { return vec!["node(s) were not there".into()] };
    let empty = PodSpec::default();
    let spec = pod::spec(&info.pod).unwrap_or(&empty);
    let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
    if let Some(reason) = state(fixed, tolerations) {
        return vec![reason];
    }
    if let Some(taint) = untolerated(&fixed.taints, tolerations, &["NoSchedule", "NoExecute"]) {
        let value = taint.value.as_deref().unwrap_or("");
        return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
    }
    if !selected(spec, fixed) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    if info.ports.iter().any(|port| in_use(port, node)) {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    let mut reasons = room(info, node, fixed);
    if reasons.is_empty() && !spread.allows(fixed) {
        reasons.push("node(s) didn't match pod topology spread constraints".into());
    }
    reasons
}

/// `0/3 nodes are available: 1 node(s) had ..., 2 Insufficient cpu.`
pub(super) fn sentence(nodes: usize, reasons: &[Reason]) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut counts = BTreeMap::<&str, usize>::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// Readiness is a taint in Kubernetes; here it counts even before that taint is written.
fn state(node: &Fixed, tolerations: &[Toleration]) -> Option<Reason> {
    let tolerates = |key: &str| {
        let taint = Taint { key: key.into(), effect: "NoSchedule".into(), ..Taint::default() };
        tolerations.iter().any(|toleration| tolerated(&taint, toleration))
    };
    if node.unschedulable && !tolerates("node.kubernetes.io/unschedulable") {
        return Some("node(s) were unschedulable".into());
    }
    if !node.ready && !tolerates("node.kubernetes.io/not-ready") && !tolerates("node.kubernetes.io/unreachable") {
        return Some("node(s) were not ready".into());
    }
    None
}

fn room(info: &PodInfo, node: &NodeInfo, fixed: &Fixed) -> Vec<Reason> {
    let mut reasons = vec![];
    let lacks = |asked: i64, used: i64, there: i64| asked > 0 && asked > there.saturating_sub(used);
    if lacks(1, node.used.pods, fixed.allocatable.pods) {
        reasons.push("Too many pods".into());
    }
    if lacks(info.requests.cpu_milli, node.used.cpu_milli, fixed.allocatable.cpu_milli) {
        reasons.push("Insufficient cpu".into());
    }
    if lacks(info.requests.memory_bytes, node.used.memory_bytes, fixed.allocatable.memory_bytes) {
        reasons.push("Insufficient memory".into());
    }
    reasons
}

fn in_use(port: &HostPort, node: &NodeInfo) -> bool {
    if port.ip.is_empty() || node.ports.is_empty() {
        return node.ports.keys().any(|used| used.port == port.port && used.protocol == port.protocol);
    }
    let on = |ip: &str| node.ports.contains_key(&HostPort { ip: ip.into(), ..port.clone() });
    on("") || on(&port.ip)
}

/// The first taint of one of these effects that no toleration covers.
pub(crate) fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    let counts = |taint: &&Taint| effects.contains(&taint.effect.as_str());
    taints.iter().filter(counts).find(|taint| !tolerations.iter().any(|toleration| tolerated(taint, toleration)))
}

/// Whether this toleration covers this taint.
pub(crate) fn tolerated(taint: &Taint, toleration: &Toleration) -> bool {
    let word = |text: &Option<String>| text.as_deref().unwrap_or("").to_owned();
    let (effect, key) = (word(&toleration.effect), word(&toleration.key));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => !key.is_empty() && word(&toleration.value) == word(&taint.value),
    }
}

/// Node selector and required node affinity.
pub(crate) fn selected(spec: &PodSpec, node: &Fixed) -> bool {
    let labels = spec.node_selector.iter().flatten();
    if !labels.into_iter().all(|(key, value)| node.labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// Whether a node is what a term describes. An empty term describes none.
pub(super) fn matches(term: &NodeSelectorTerm, node: &Fixed) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|rule| requirement(rule, node.labels.get(&rule.key).map(String::as_str)))
        && fields.iter().all(|rule| requirement(rule, (rule.key == "metadata.name").then_some(node.name.as_str())))
}

fn requirement(rule: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = rule.values.as_deref().unwrap_or(&[]);
    let listed = value.is_some_and(|value| values.iter().any(|other| other == value));
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|bound| bound.parse().ok());
        value.and_then(|value| value.parse().ok()).zip(bound).is_some_and(|(value, bound)| holds(&value, &bound))
    };
    match rule.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

// === impl Spread ===

impl<'a> Spread<'a> {
    pub(super) fn of(pod: &'a Pod, snapshot: &Snapshot) -> Self {
        let Some(spec) = pod::spec(pod) else { return Self { constraints: vec![] } };
        let hard =
            spec.topology_spread_constraints.iter().flatten().filter(|c| c.when_unsatisfiable == "DoNotSchedule");
        let constraints = hard.map(|constraint| {
            let selection = constraint.label_selector.as_ref().map(meta::Selection::of);
            let selects = |meta: &_| selection.as_ref().is_some_and(|selection| selection.selects(meta));
            let mut counts = HashMap::default();
            // Domains are those of the nodes the pod may be on.
            for fixed in
                snapshot.nodes.values().filter_map(|node| node.fixed.as_ref()).filter(|fixed| selected(spec, fixed))
            {
                if let Some(domain) = fixed.labels.get(&constraint.topology_key) {
                    counts.insert(domain.clone(), 0);
                }
            }
            for placed in snapshot.placed.values() {
                let other = &placed.info.pod;
                if other.metadata.namespace != pod.metadata.namespace
                    || pod::is_terminating(other)
                    || !selects(&other.metadata)
                {
                    continue;
                }
                let fixed = snapshot.nodes.get(&placed.node).and_then(|node| node.fixed.as_ref());
                let domain = fixed.and_then(|fixed| fixed.labels.get(&constraint.topology_key));
                if let Some(count) = domain.and_then(|domain| counts.get_mut(domain)) {
                    *count += 1;
                }
            }
            let few = constraint.min_domains.is_some_and(|least| counts.len() < usize::try_from(least).unwrap_or(0));
            Constraint {
                key: &constraint.topology_key,
                max_skew: constraint.max_skew,
                least: if few { 0 } else { counts.values().copied().min().unwrap_or(0) },
                matches_self: selects(&pod.metadata),
                counts,
            }
        });
        Self { constraints: constraints.collect() }
    }

    fn allows(&self, node: &Fixed) -> bool {
        self.constraints.iter().all(|constraint| {
            let Some(domain) = node.labels.get(constraint.key) else { return false };
            let count = constraint.counts.get(domain).copied().unwrap_or(0) + i32::from(constraint.matches_self);
            count - constraint.least <= constraint.max_skew
        })
    }
}

#[cfg(test)]
mod tests;
