//! Which of the nodes that could take a pod is the best for it.

use foldhash::{HashMap, HashMapExt};
use k8s_openapi::api::core::v1::PodSpec;

use super::filter;
use super::snapshot::{Fixed, NodeInfo, PodInfo};
use crate::pod;

/// What counts how much. Every part is between 0 and 100.
const FREE: i64 = 1;
const SPREAD: i64 = 2;
const PREFERRED: i64 = 2;
const TAINTS: i64 = 3;

/// The names of these nodes, the best first; equals begin with the least used and then with the name.
pub(super) fn ranked<'a>(info: &PodInfo, nodes: &[(&'a str, &'a NodeInfo, &'a Fixed)]) -> Vec<&'a str> {
    let empty = PodSpec::default();
    let spec = pod::spec(&info.pod).unwrap_or(&empty);
    let count = |node: &NodeInfo| info.group.as_ref().and_then(|group| node.groups.get(group)).copied().unwrap_or(0);
    let crowd = nodes.iter().map(|(_, node, _)| count(node)).max().unwrap_or(0);
    let preferred: HashMap<&str, i64> = nodes.iter().map(|(name, _, fixed)| (*name, preference(spec, fixed))).collect();
    let most_preferred = preferred.values().copied().max().unwrap_or(0);
    let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
    let soft = |fixed: &Fixed| {
        let soft = fixed.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerations.iter().any(|toleration| filter::tolerated(taint, toleration))).count() as i64
    };
    let most_soft = nodes.iter().map(|(_, _, fixed)| soft(fixed)).max().unwrap_or(0);
    let mut scores = HashMap::with_capacity(nodes.len());
    for (name, node, fixed) in nodes {
        let spread = if crowd == 0 { 100 } else { 100 * i64::from(crowd - count(node)) / i64::from(crowd) };
        let preferred = if most_preferred == 0 { 0 } else { 100 * preferred[name] / most_preferred };
        let taints = if most_soft == 0 { 100 } else { 100 - 100 * soft(fixed) / most_soft };
        scores
            .insert(*name, FREE * free(info, node, fixed) + SPREAD * spread + PREFERRED * preferred + TAINTS * taints);
    }
    let mut ranked: Vec<_> = nodes.iter().map(|(name, node, _)| (-scores[name], node.used.pods, *name)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, name)| name).collect()
}

/// How much of the node would be left.
fn free(info: &PodInfo, node: &NodeInfo, fixed: &Fixed) -> i64 {
    let part = |there: i64, used: i64, asked: i64| {
        let left = there.saturating_sub(used).saturating_sub(asked).max(0);
        if there <= 0 { 0 } else { (100 * i128::from(left) / i128::from(there)) as i64 }
    };
    let cpu = part(fixed.allocatable.cpu_milli, node.weight.cpu_milli, info.weight.cpu_milli);
    let memory = part(fixed.allocatable.memory_bytes, node.weight.memory_bytes, info.weight.memory_bytes);
    (cpu + memory) / 2
}

fn preference(spec: &PodSpec, node: &Fixed) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    let terms = terms.into_iter().flatten();
    terms.filter(|term| filter::matches(&term.preference, node)).map(|term| i64::from(term.weight.clamp(0, 100))).sum()
}
