//! What keeps a namespace that is being deleted, in the words of its conditions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use kube::api::PartialObjectMeta;

use crate::meta;

/// What was found in a namespace.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Objects that are left, by `pods`, `deployments.apps`.
    left: BTreeMap<String, usize>,
    /// Objects that a finalizer keeps, by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// Why something could not be deleted.
    failures: Vec<String>,
}

/// Failures and names in one message at most.
const MOST_SHOWN: usize = 20;

// === impl Content ===

impl Content {
    pub(super) fn found<K>(&mut self, resource: &str, objects: &[PartialObjectMeta<K>]) {
        if objects.is_empty() {
            return;
        }
        self.left.insert(resource.into(), objects.len());
        for finalizer in objects.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    pub(super) fn failed(&mut self, resource: &str, error: impl std::fmt::Display) {
        self.failures.push(format!("{resource}: {error}"));
    }

    pub(super) fn is_gone(&self) -> bool {
        self.left.is_empty() && self.failures.is_empty()
    }

    /// The conditions that are not as the namespace has them.
    pub(super) fn news(&self, namespace: &Namespace) -> Vec<NamespaceCondition> {
        let old = namespace.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let mut conditions = self.conditions();
        conditions.retain_mut(|condition| {
            let Some(old) = old.iter().find(|old| old.type_ == condition.type_) else { return true };
            if old.status == condition.status {
                condition.last_transition_time.clone_from(&old.last_transition_time);
            }
            (&old.status, &old.reason, &old.message) != (&condition.status, &condition.reason, &condition.message)
        });
        conditions
    }

    fn conditions(&self) -> Vec<NamespaceCondition> {
        let list = |counts: &BTreeMap<String, usize>, words: &str| {
            let shown = counts
                .iter()
                .take(MOST_SHOWN)
                .map(|(name, count)| format!("{name} {words} {count} resource instances"));
            shown.collect::<Vec<_>>().join(", ")
        };
        let condition = |kind: &str, holds: bool, (reason, message): (&str, String)| NamespaceCondition {
            type_: kind.into(),
            status: if holds { "True" } else { "False" }.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(meta::now()),
        };
        let failed = match self.failures.len() {
            0 => ("ContentDeleted", "All content successfully deleted, may be waiting on finalization".into()),
            count => {
                let shown: Vec<&str> = self.failures.iter().take(MOST_SHOWN).map(String::as_str).collect();
                let message = format!("Failed to delete all resource types, {count} remaining: {}", shown.join(", "));
                ("ContentDeletionFailed", message)
            }
        };
        let remaining = match self.left.is_empty() {
            true => ("ContentRemoved", "All content successfully removed".into()),
            false => ("SomeResourcesRemain", format!("Some resources are remaining: {}", list(&self.left, "has"))),
        };
        let finalizers = match self.finalizers.is_empty() {
            true => ("ContentHasNoFinalizers", "All content-preserving finalizers finished".into()),
            false => {
                let shown = list(&self.finalizers, "in");
                ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {shown}"))
            }
        };
        vec![
            condition("NamespaceDeletionContentFailure", !self.failures.is_empty(), failed),
            condition("NamespaceContentRemaining", !self.left.is_empty(), remaining),
            condition("NamespaceFinalizersRemaining", !self.finalizers.is_empty(), finalizers),
        ]
    }
}
