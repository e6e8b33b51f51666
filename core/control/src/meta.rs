//! Owner references and conditions.

use std::collections::BTreeMap;

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

/// A label selector made ready to be asked often.
pub(crate) struct Selection(Option<Selector>);

impl Selection {
    pub(crate) fn of(selector: &LabelSelector) -> Self {
        Self(Selector::try_from(selector.clone()).ok().filter(|selector| !selector.selects_all()))
    }

    /// Whether it selects these labels; a selector that cannot be read, or is empty, selects nothing.
    pub(crate) fn selects(&self, meta: &ObjectMeta) -> bool {
        let labels = meta.labels.as_ref();
        self.0.as_ref().is_some_and(|selector| {
            labels.map_or_else(|| selector.matches(&BTreeMap::new()), |labels| selector.matches(labels))
        })
    }
}

/// Whether a label selector selects these labels.
pub(crate) fn selects(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    Selection::of(selector).selects(meta)
}

pub(crate) fn now() -> Time {
    Time(Timestamp::now())
}

/// Time since then; zero where the clock was set back.
pub(crate) fn age(time: &Time) -> std::time::Duration {
    Timestamp::now().duration_since(time.0).try_into().unwrap_or_default()
}

/// The conditions of a ReplicaSet: with ReplicaFailure when pods cannot be made or deleted. One that was there stays as it was, also
/// if there is another reason by now: each try may have one of its own, and a status that changes is looked at at once.
pub(crate) fn replica_failure(
    old: Option<&[ReplicaSetCondition]>,
    failure: Option<&str>,
) -> Option<Vec<ReplicaSetCondition>> {
    const KIND: &str = "ReplicaFailure";
    let (before, mut conditions): (Vec<_>, Vec<_>) =
        old.unwrap_or(&[]).iter().cloned().partition(|condition| condition.type_.as_deref() == Some(KIND));
    if let Some(message) = failure {
        conditions.push(before.into_iter().next().unwrap_or_else(|| ReplicaSetCondition {
            type_: Some(KIND.into()),
            status: Some("True".into()),
            reason: Some("FailedCreate".into()),
            message: Some(message.into()),
            last_transition_time: Some(now()),
        }));
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_and_ends_with_its_cause() {
        let first = replica_failure(None, Some("one"));
        assert_eq!(first.as_ref().and_then(|all| all[0].message.as_deref()), Some("one"));
        assert_eq!(replica_failure(first.as_deref(), Some("another")), first);
        assert_eq!(replica_failure(first.as_deref(), None), None);
    }
}
