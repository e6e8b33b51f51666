//! Owner references and conditions.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSetCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use kube::Resource;
use kube::core::{Selector, SelectorExt};

/// The reference to the controller of an object.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference to `owner` as the controller of what carries it.
pub(crate) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether a label selector selects these labels; one that cannot be read, or is empty, selects nothing.
pub(crate) fn selects(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| {
        !selector.selects_all() && selector.matches(meta.labels.as_ref().unwrap_or(&Default::default()))
    })
}

pub(crate) fn now() -> Time {
    Time(Timestamp::now())
}

/// Time since then; zero where the clock was set back.
pub(crate) fn age(time: &Time) -> std::time::Duration {
    Timestamp::now().duration_since(time.0).try_into().unwrap_or_default()
}

/// The conditions of a ReplicaSet: with ReplicaFailure when pods cannot be made or deleted.
pub(crate) fn replica_failure(
    old: Option<&[ReplicaSetCondition]>,
    failure: Option<&str>,
) -> Option<Vec<ReplicaSetCondition>> {
    const KIND: &str = "ReplicaFailure";
    let mut conditions: Vec<_> =
        old.unwrap_or(&[]).iter().filter(|condition| condition.type_.as_deref() != Some(KIND)).cloned().collect();
    if let Some(message) = failure {
        let since = old.unwrap_or(&[]).iter().find(|condition| condition.type_.as_deref() == Some(KIND));
        conditions.push(ReplicaSetCondition {
            type_: Some(KIND.into()),
            status: Some("True".into()),
            reason: Some("FailedCreate".into()),
            message: Some(message.into()),
            last_transition_time: since
                .and_then(|condition| condition.last_transition_time.clone())
                .or_else(|| Some(now())),
        });
    }
    (!conditions.is_empty()).then_some(conditions)
}
