//! Which pods a ResourceQuota is about: its `scopes`, and its `scopeSelector`.

use serde_json::Value;

use crate::meta;

/// What scopes look at in a pod.
pub struct Traits {
    best_effort: bool,
    terminating: bool,
    priority_class: String,
    cross_namespace: bool,
}

/// Scopes there are.
pub const SCOPES: [&str; 6] =
    ["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating"];

// === impl Traits ===

impl Traits {
    /// None for what is no pod.
    pub fn of(key: &str, object: &Value) -> Option<Self> {
        key.starts_with("core/pods/").then(|| Self {
            best_effort: meta::text(object, "/status/qosClass") == "BestEffort",
            terminating: meta::number(object, "/spec/activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0),
            priority_class: meta::text(object, "/spec/priorityClassName").to_owned(),
            cross_namespace: names_other_namespaces(object),
        })
    }

    /// Whether the pod is in a scope.
    fn is_in(&self, scope: &str) -> bool {
        match scope {
            "BestEffort" => self.best_effort,
            "NotBestEffort" => !self.best_effort,
            "Terminating" => self.terminating,
            "NotTerminating" => !self.terminating,
            "PriorityClass" => !self.priority_class.is_empty(),
            "CrossNamespacePodAffinity" => self.cross_namespace,
            _ => false,
        }
    }
}

/// Whether a quota is about something: all its scopes hold.
pub fn holds(quota: &Value, traits: Option<&Traits>) -> bool {
    let scopes = meta::list(quota, "/spec/scopes");
    let expressions = meta::list(quota, "/spec/scopeSelector/matchExpressions");
    if scopes.is_empty() && expressions.is_empty() {
        return true;
    }
    let Some(traits) = traits else { return false };
    scopes.iter().all(|scope| scope.as_str().is_some_and(|scope| traits.is_in(scope)))
        && expressions.iter().all(|expression| matches(expression, traits))
}

fn matches(expression: &Value, traits: &Traits) -> bool {
    let scope = meta::text(expression, "/scopeName");
    let named = || {
        let values = meta::list(expression, "/values");
        scope == "PriorityClass" && values.iter().any(|value| *value == traits.priority_class.as_str())
    };
    match meta::text(expression, "/operator") {
        "Exists" => traits.is_in(scope),
        "DoesNotExist" => !traits.is_in(scope),
        "In" => traits.is_in(scope) && named(),
        "NotIn" => !named(),
        _ => false,
    }
}

/// Whether a pod wants to be near or far from pods of other namespaces.
fn names_other_namespaces(pod: &Value) -> bool {
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|side| {
        let at = |field: &str| meta::list(pod, &format!("/spec/affinity/{side}/{field}"));
        let preferred = at("preferredDuringSchedulingIgnoredDuringExecution").iter();
        at("requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .chain(preferred.filter_map(|term| term.get("podAffinityTerm")))
    });
    terms.into_iter().any(|term| !meta::list(term, "/namespaces").is_empty() || term.get("namespaceSelector").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_quota_is_about_the_pods_its_scopes_name() {
        let traits = |pod: Value| Traits::of("core/pods/a/b", &pod);
        let best_effort = traits(json!({"spec": {}, "status": {"qosClass": "BestEffort"}}));
        let high = traits(
            json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 5}, "status": {"qosClass": "Burstable"}}),
        );
        let term = json!({"topologyKey": "k", "namespaces": ["other"]});
        let far =
            traits(json!({"spec": {"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1, "podAffinityTerm": term}]}}}, "status": {"qosClass": "Burstable"}}));
        let of = |name: &str, operator: &str, values: &[&str]| json!({"scopeSelector": {"matchExpressions": [{"scopeName": name, "operator": operator, "values": values}]}});
        for (spec, expected) in [
            (json!({}), [true, true, true, true]),
            (json!({"scopes": ["BestEffort"]}), [true, false, false, false]),
            (json!({"scopes": ["NotBestEffort", "Terminating"]}), [false, true, false, false]),
            (of("PriorityClass", "In", &["high"]), [false, true, false, false]),
            (of("PriorityClass", "In", &["low"]), [false, false, false, false]),
            (of("PriorityClass", "NotIn", &["high"]), [true, false, true, false]),
            (of("PriorityClass", "Exists", &[]), [false, true, false, false]),
            (of("PriorityClass", "DoesNotExist", &[]), [true, false, true, false]),
            (of("CrossNamespacePodAffinity", "Exists", &[]), [false, false, true, false]),
            (of("Terminating", "DoesNotExist", &[]), [true, false, true, false]),
        ] {
            let quota = json!({ "spec": spec });
            let got = [&best_effort, &high, &far, &None].map(|traits| holds(&quota, traits.as_ref()));
            assert_eq!(got, expected, "{quota}: best effort, high, far, no pod");
        }
    }
}
