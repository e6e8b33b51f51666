//! From the old ReplicaSets to the new one, within what may be there besides and what may be missing.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{Sets, any_pods, replicas, scale, sets, slack, wanted};
use crate::context::Context;
use crate::error::Result;

/// One step: up where there is room, else down where enough are available.
pub(super) async fn step(context: &Context, deployment: &Deployment) -> Result<()> {
    let before = sets(context, deployment);
    let Some(new) = &before.new else { return Ok(()) };
    scale(context, deployment, new, grown(deployment, replicas(new), total(&before.old) + replicas(new))).await?;
    let now = sets(context, deployment);
    let Some(new) = &now.new else { return Ok(()) };
    for (set, to) in shrunk(deployment, new, &now.old) {
        scale(context, deployment, &set, to).await?;
    }
    Ok(())
}

/// The size a new ReplicaSet is made with.
pub(super) fn first_size(deployment: &Deployment, sets: &Sets) -> i32 {
    grown(deployment, 0, total(&sets.old))
}

/// Scales the old ones of a Deployment that recreates to nothing; true once none of their pods is left.
pub(super) async fn all_gone(context: &Context, deployment: &Deployment, sets: &Sets) -> Result<bool> {
    for set in &sets.old {
        scale(context, deployment, set, 0).await?;
    }
    Ok(!any_pods(context, &sets.old))
}

fn total(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|set| replicas(set)).sum()
}

/// How many pods the new ReplicaSet should have, of `total` in all.
fn grown(deployment: &Deployment, new: i32, total: i32) -> i32 {
    let wanted = wanted(deployment);
    let recreates =
        deployment.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
    if recreates || new >= wanted {
        return wanted;
    }
    let room = (wanted + slack(deployment).0 - total).max(0);
    new + room.min(wanted - new)
}

/// The old ReplicaSets that should be smaller, and how small.
fn shrunk(deployment: &Deployment, new: &ReplicaSet, old: &[Arc<ReplicaSet>]) -> Vec<(Arc<ReplicaSet>, i32)> {
    let least = wanted(deployment) - slack(deployment).1;
    let all = total(old) + replicas(new);
    let not_yet = (replicas(new) - available(new)).max(0);
    let mut budget = all - least - not_yet;
    let mut sizes: Vec<i32> = old.iter().map(|set| replicas(set)).collect();
    // First those that do nobody any good.
    for (size, set) in sizes.iter_mut().zip(old) {
        let sick = (*size - available(set)).clamp(0, budget.max(0));
        *size -= sick;
        budget -= sick;
    }
    let mut spare = old.iter().map(|set| available(set)).sum::<i32>() + available(new) - least;
    for size in &mut sizes {
        let fewer = (*size).min(spare.max(0));
        *size -= fewer;
        spare -= fewer;
    }
    old.iter().cloned().zip(sizes).filter(|(set, size)| replicas(set) != *size).collect()
}

fn available(set: &ReplicaSet) -> i32 {
    let counted = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    // The status may be from before the set was made smaller.
    counted.min(replicas(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: i32, unavailable: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {
                "replicas": replicas, "selector": {}, "template": {},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            },
        }))
        .unwrap()
    }

    fn set(replicas: i32, available: i32) -> Arc<ReplicaSet> {
        let set = json!({
            "metadata": {"name": "a"}, "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "availableReplicas": available},
        });
        Arc::new(serde_json::from_value(set).unwrap())
    }

    fn sizes(deployment: &Deployment, new: Arc<ReplicaSet>, old: Vec<Arc<ReplicaSet>>) -> Vec<i32> {
        shrunk(deployment, &new, &old).into_iter().map(|(_, size)| size).collect()
    }

    #[test]
    fn the_new_one_grows_by_what_may_be_there_besides() {
        assert_eq!(grown(&deployment(4, 1, 0), 0, 4), 1);
        assert_eq!(grown(&deployment(4, 1, 0), 1, 5), 1);
        assert_eq!(grown(&deployment(4, 4, 0), 0, 4), 4);
        assert_eq!(grown(&deployment(2, 1, 0), 4, 4), 2, "made smaller");
    }

    #[test]
    fn an_old_pod_goes_only_when_enough_are_available() {
        assert_eq!(sizes(&deployment(4, 1, 0), set(1, 0), vec![set(4, 4)]), Vec::<i32>::new());
        assert_eq!(sizes(&deployment(4, 1, 0), set(1, 1), vec![set(4, 4)]), [3]);
        assert_eq!(sizes(&deployment(4, 0, 1), set(0, 0), vec![set(4, 4)]), [3]);
        assert_eq!(sizes(&deployment(4, 1, 0), set(4, 4), vec![set(1, 1)]), [0]);
    }

    #[test]
    fn pods_that_are_not_available_go_first() {
        assert_eq!(sizes(&deployment(4, 1, 1), set(1, 0), vec![set(2, 0), set(2, 2)]), [1]);
    }
}
