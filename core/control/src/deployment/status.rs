//! How a Deployment is.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{Sets, progress_deadline, slack, wanted};
use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::meta;
use crate::queue::Next;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const COMPLETE: &str = "NewReplicaSetAvailable";
const EXCEEDED: &str = "ProgressDeadlineExceeded";

pub(super) async fn write(context: &Context, deployment: &Deployment, sets: &Sets) -> Result<Next> {
    // The steps before may have written it.
    let key = Key::of(&deployment.metadata);
    let Some(deployment) = context.caches.deployments.get(&key) else { return Ok(Next::Change) };
    let old = deployment.status.clone().unwrap_or_default();
    let (new, next) = of(&deployment, &old, sets);
    if old != new {
        let mut status = serde_json::to_value(&new).unwrap_or_default();
        status["observedGeneration"] = json!(new.observed_generation);
        let patch = Patch::Merge(json!({"metadata": {"uid": deployment.metadata.uid}, "status": status}));
        let api = context.api::<Deployment>(&key.namespace);
        if let Some(deployment) = unless_gone(api.patch_status(&key.name, &PatchParams::default(), &patch).await)? {
            context.caches.deployments.wrote(deployment);
        }
    }
    Ok(next)
}

fn of(deployment: &Deployment, old: &DeploymentStatus, sets: &Sets) -> (DeploymentStatus, Next) {
    let all: Vec<&Arc<ReplicaSet>> = sets.old.iter().chain(&sets.new).collect();
    let sum = |of: fn(&ReplicaSet) -> i32| all.iter().map(|set| of(set)).sum::<i32>();
    let total = sum(|set| set.status.as_ref().map_or(0, |status| status.replicas));
    let available = sum(|set| set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0));
    let asked = sum(super::replicas);
    let mut new = DeploymentStatus {
        replicas: Some(total),
        updated_replicas: Some(sets.new.iter().filter_map(|set| Some(set.status.as_ref()?.replicas)).sum()),
        ready_replicas: Some(sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0))),
        available_replicas: Some(available),
        unavailable_replicas: Some((asked.max(total) - available).max(0)),
        terminating_replicas: Some(sum(|set| set.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0))),
        observed_generation: deployment.metadata.generation,
        collision_count: old.collision_count,
        conditions: None,
    };
    let enough = available >= wanted(deployment) - slack(deployment).1;
    let available = match enough {
        true => condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => condition(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        ),
    };
    let (progressing, next) = progress(deployment, old, &new, sets);
    new.conditions = Some(
        [Some(available), progressing]
            .into_iter()
            .flatten()
            .map(|new| since(new, old.conditions.as_deref().unwrap_or(&[])))
            .collect(),
    );
    (new, next)
}

fn progress(
    deployment: &Deployment,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    sets: &Sets,
) -> (Option<DeploymentCondition>, Next) {
    let Some(deadline) = progress_deadline(deployment) else { return (None, Next::Change) };
    let before = old.conditions.iter().flatten().find(|condition| condition.type_.as_deref() == Some(PROGRESSING));
    if deployment.spec.paused == Some(true) {
        return (Some(condition(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused")), Next::Change);
    }
    let name = sets.new.as_ref().and_then(|set| set.metadata.name.clone()).unwrap_or_default();
    let all = Some(wanted(deployment));
    let complete = new.updated_replicas == all && new.replicas == all && new.available_replicas == all;
    let done = condition(PROGRESSING, "True", COMPLETE, &format!("ReplicaSet \"{name}\" has successfully progressed."));
    let reason = before.and_then(|before| before.reason.as_deref());
    // What became of the pods since this set was rolled out says nothing about a rollout.
    let was_complete = reason == Some(COMPLETE)
        && before.is_some_and(|before| before.message == done.message)
        && new.updated_replicas == new.replicas;
    if sets.new.is_some() && (complete || was_complete) {
        return (Some(done), Next::Change);
    }
    let advanced = before.is_none()
        || reason == Some(COMPLETE)
        || old.updated_replicas < new.updated_replicas
        || old.ready_replicas < new.ready_replicas
        || old.available_replicas < new.available_replicas
        || outdated(old) > outdated(new)
        || old.observed_generation != new.observed_generation;
    let mut progressing =
        condition(PROGRESSING, "True", "ReplicaSetUpdated", &format!("ReplicaSet \"{name}\" is progressing."));
    if advanced {
        progressing.last_update_time = Some(meta::now());
        return (Some(progressing), Next::After(deadline));
    }
    let stuck = before.and_then(|before| before.last_update_time.as_ref()).map(meta::age).unwrap_or_default();
    // Once said, it holds until something moves: the time of the condition is now that of its own change.
    if stuck >= deadline || reason == Some(EXCEEDED) {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return (Some(condition(PROGRESSING, "False", EXCEEDED, &message)), Next::Change);
    }
    // Times of the API are whole seconds.
    (Some(progressing), Next::After((deadline - stuck).max(Duration::from_secs(1))))
}

fn outdated(status: &DeploymentStatus) -> i32 {
    status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..DeploymentCondition::default()
    }
}

/// With the times of what was before, as far as it is the same.
fn since(mut new: DeploymentCondition, old: &[DeploymentCondition]) -> DeploymentCondition {
    let old = old.iter().find(|old| old.type_ == new.type_);
    let same = old.is_some_and(|old| old.status == new.status);
    let updated = old.filter(|old| same && old.reason == new.reason).and_then(|old| old.last_update_time.clone());
    new.last_update_time = new.last_update_time.or(updated).or_else(|| Some(meta::now()));
    new.last_transition_time =
        old.filter(|_| same).and_then(|old| old.last_transition_time.clone()).or_else(|| Some(meta::now()));
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(spec: serde_json::Value) -> Deployment {
        let mut object = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {}, "template": {}}});
        object["spec"].as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
        serde_json::from_value(object).expect("a deployment")
    }

    fn set(name: &str, replicas: i32, available: i32) -> Arc<ReplicaSet> {
        let status = json!({"replicas": replicas, "availableReplicas": available, "readyReplicas": available});
        let set = json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {}}, "status": status});
        Arc::new(serde_json::from_value(set).expect("a set"))
    }

    fn reasons(status: &DeploymentStatus) -> Vec<&str> {
        status.conditions.iter().flatten().filter_map(|condition| condition.reason.as_deref()).collect()
    }

    #[test]
    fn a_rollout_that_was_complete_stays_so_until_the_next_one() {
        let deployment =
            deployment(json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}}}));
        let one = |available| Sets { new: Some(set("one", 2, available)), old: vec![] };
        let mut status = of(&deployment, &DeploymentStatus::default(), &one(1)).0;
        assert_eq!(reasons(&status), ["MinimumReplicasUnavailable", "ReplicaSetUpdated"]);
        status = of(&deployment, &status, &one(2)).0;
        assert_eq!(reasons(&status), ["MinimumReplicasAvailable", COMPLETE]);
        status = of(&deployment, &status, &one(1)).0;
        assert_eq!(reasons(&status), ["MinimumReplicasUnavailable", COMPLETE]);
        let next = Sets { new: Some(set("two", 0, 0)), old: vec![set("one", 0, 0)] };
        assert_eq!(
            reasons(&of(&deployment, &status, &next).0)[1],
            "ReplicaSetUpdated",
            "the same numbers, another set"
        );
        let next = Sets { new: Some(set("two", 1, 0)), old: vec![set("one", 2, 2)] };
        assert_eq!(reasons(&of(&deployment, &status, &next).0)[1], "ReplicaSetUpdated");
    }

    #[test]
    fn one_that_recreates_is_available_with_all_its_pods() {
        let deployment = deployment(json!({"strategy": {"type": "Recreate"}}));
        for (available, reason) in [(1, "MinimumReplicasUnavailable"), (2, "MinimumReplicasAvailable")] {
            let sets = Sets { new: Some(set("one", 2, available)), old: vec![] };
            assert_eq!(reasons(&of(&deployment, &DeploymentStatus::default(), &sets).0)[0], reason);
        }
    }

    #[test]
    fn a_deadline_that_passed_stays_passed_until_something_moves() {
        let deployment = deployment(json!({"progressDeadlineSeconds": 1}));
        let sets = Sets { new: None, old: Vec::new() };
        let mut status = of(&deployment, &DeploymentStatus::default(), &sets).0;
        let long_ago = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        status.conditions.as_mut().expect("conditions")[1].last_update_time = Some(long_ago);
        for _ in 0..3 {
            status = of(&deployment, &status, &sets).0;
            assert_eq!(reasons(&status)[1], EXCEEDED);
        }
        let before = DeploymentStatus { ready_replicas: Some(-1), ..status };
        assert_eq!(reasons(&of(&deployment, &before, &sets).0)[1], "ReplicaSetUpdated");
    }
}
