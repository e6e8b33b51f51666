//! What to do next for a StatefulSet: a pure function of its pods.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;

use super::revision_of;
use crate::ownership::MOST_MADE;
use crate::pod;

/// What a set asks for.
pub(super) struct Wish<'a> {
    /// Number of its first pod.
    pub(super) first: i64,
    pub(super) replicas: i64,
    /// One after the other, each when those before it are available; else all at once.
    ordered: bool,
    /// Pods of an older revision are replaced, from this many on; none if they stay until somebody deletes them.
    roll_from: Option<i64>,
    update: &'a str,
    min_ready: Duration,
}

/// What is to be done now; the rest when that has come about.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<i64>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// When a pod that is ready has been so for long enough, if nothing else happens.
    pub(super) wait: Option<Duration>,
}

// === impl Wish ===

impl<'a> Wish<'a> {
    pub(super) fn of(set: &StatefulSet, update: &'a str) -> Self {
        let spec = &set.spec;
        let strategy = spec.update_strategy.as_ref();
        let on_delete = strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
        let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.partition).unwrap_or(0);
        Self {
            first: spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0).max(0).into(),
            replicas: spec.replicas.unwrap_or(1).max(0).into(),
            ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            roll_from: (!on_delete).then_some(partition.max(0).into()),
            update,
            min_ready: Duration::from_secs(spec.min_ready_seconds.unwrap_or(0).max(0).unsigned_abs().into()),
        }
    }

    fn range(&self) -> Range<i64> {
        self.first..self.first + self.replicas
    }

    /// Whether a pod of this number stays with the revision that the set had before.
    pub(super) fn is_kept_back(&self, number: i64) -> bool {
        self.roll_from.is_some_and(|from| number < self.first + from)
    }

    /// Whether pods are replaced without anybody's help.
    pub(super) fn rolls(&self) -> bool {
        self.roll_from.is_some()
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        pod::available_in(pod, self.min_ready).is_some_and(|wait| wait.is_zero())
    }
}

/// Pods that are missing first, in ascending order; then those too many, in descending order; then those of an older revision, in
/// descending order and one at a time, whatever the policy: as in Kubernetes, where also a pod that never becomes available holds
/// up an ordered set until somebody mends or deletes it.
pub(super) fn plan(wish: &Wish<'_>, pods: &BTreeMap<i64, Arc<Pod>>) -> Plan {
    let mut plan = Plan::default();
    let mut all_well = true;
    for number in wish.range() {
        match pods.get(&number) {
            None => plan.create.push(number),
            Some(pod) if pod::is_terminating(pod) => {}
            // One that has ended makes room for its successor, which has its name.
            Some(pod) if pod::is_terminal(pod) => plan.delete.push(pod.clone()),
            Some(pod) if wish.is_available(pod) => continue,
            Some(pod) => {
                let wait = pod::available_in(pod, wish.min_ready);
                plan.wait = [plan.wait, wait].into_iter().flatten().min();
            }
        }
        all_well = false;
        if wish.ordered || plan.create.len() == MOST_MADE {
            return plan;
        }
    }
    let mut surplus = pods.iter().rev().filter(|(number, _)| !wish.range().contains(number)).peekable();
    let shrinks = surplus.peek().is_some();
    for (_, pod) in surplus.take(if wish.ordered { 1 } else { usize::MAX }) {
        if !pod::is_terminating(pod) {
            plan.delete.push(pod.clone());
        }
    }
    let Some(from) = wish.roll_from.filter(|_| !shrinks && plan.create.is_empty() && plan.delete.is_empty()) else {
        return plan;
    };
    let rolling = (wish.first + from..wish.range().end).rev();
    for pod in rolling.filter_map(|number| pods.get(&number)) {
        if pod::is_terminating(pod) {
            break;
        }
        if revision_of(pod) != Some(wish.update) {
            // With all at once, one that is of no use may go although others are not well either.
            if all_well || !wish.is_available(pod) {
                plan.delete.push(pod.clone());
            }
            break;
        }
        if !wish.is_available(pod) {
            break;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(spec: serde_json::Value) -> StatefulSet {
        let mut set =
            json!({"metadata": {"name": "db"}, "spec": {"selector": {}, "serviceName": "db", "template": {}}});
        set["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(set).unwrap()
    }

    /// `r` ready, `u` unready, `t` terminating, `f` failed; an upper-case letter is of the new revision. `-` is missing.
    fn pods(letters: &str) -> BTreeMap<i64, Arc<Pod>> {
        let pod = |(number, letter): (usize, char)| {
            let (mut phase, mut ready, mut deleted) = ("Running", "True", None);
            match letter.to_ascii_lowercase() {
                '-' => return None,
                'u' => ready = "False",
                't' => deleted = Some("2026-01-01T00:00:00Z"),
                'f' => (phase, ready) = ("Failed", "False"),
                _ => {}
            }
            let revision = if letter.is_ascii_uppercase() { "new" } else { "old" };
            let pod = json!({
                "metadata": {"name": format!("db-{number}"), "labels": {"controller-revision-hash": revision},
                    "deletionTimestamp": deleted},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
            });
            Some((number as i64, Arc::new(serde_json::from_value(pod).unwrap())))
        };
        letters.chars().enumerate().filter_map(pod).collect()
    }

    /// `+3` makes number 3, `-3` deletes it.
    fn deeds(spec: serde_json::Value, there: &str) -> String {
        let set = set(spec);
        let plan = plan(&Wish::of(&set, "new"), &pods(there));
        let create = plan.create.iter().map(|number| format!("+{number}"));
        let delete = plan.delete.iter().map(|pod| pod.metadata.name.as_deref().unwrap()[2..].to_owned());
        create.chain(delete).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ordered_pods_come_and_go_one_by_one() {
        let three = || json!({"replicas": 3});
        for (there, expected) in [
            ("", "+0"),
            ("U", ""),
            ("R", "+1"),
            ("RU", ""),
            ("R-R", "+1"),
            ("RTR", ""),
            ("RFR", "-1"),
            ("RRR", ""),
            ("RRRRR", "-4"),
            ("RRRRT", ""),
            ("RRRRU", "-4"),
            ("RURRR", ""),
        ] {
            assert_eq!(deeds(three(), there), expected, "{there}");
        }
        assert_eq!(deeds(json!({"replicas": 0}), "RR"), "-1");
        assert_eq!(deeds(json!({"replicas": 2, "ordinals": {"start": 2}}), "RR"), "+2");
        assert_eq!(deeds(json!({"replicas": 2, "ordinals": {"start": 2}}), "RRRR"), "-1");
    }

    #[test]
    fn parallel_pods_come_and_go_at_once() {
        let three = || json!({"replicas": 3, "podManagementPolicy": "Parallel"});
        for (there, expected) in
            [("", "+0 +1 +2"), ("U-U", "+1"), ("RRRRR", "-4 -3"), ("-FR", "+0 -1"), ("URRRU", "-4 -3")]
        {
            assert_eq!(deeds(three(), there), expected, "{there}");
        }
    }

    #[test]
    fn as_many_as_nobody_can_have_are_not_asked_for_at_once() {
        let set = set(json!({"replicas": i32::MAX, "podManagementPolicy": "Parallel"}));
        assert_eq!(plan(&Wish::of(&set, "new"), &pods("R-R")).create.len(), MOST_MADE);
    }

    #[test]
    fn an_update_rolls_downwards_and_waits_for_each() {
        let three = || json!({"replicas": 3});
        for (there, expected) in
            [("rrr", "-2"), ("rrt", ""), ("rr-", "+2"), ("rrU", ""), ("rrR", "-1"), ("RRR", ""), ("rur", "")]
        {
            assert_eq!(deeds(three(), there), expected, "{there}");
        }
        let rolling =
            |partition: i32| json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": partition}}});
        assert_eq!(deeds(rolling(2), "rrr"), "-2");
        assert_eq!(deeds(rolling(2), "rrR"), "");
        assert_eq!(deeds(rolling(9), "rrr"), "");
        assert_eq!(deeds(json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}}), "rrr"), "");
        let parallel = || json!({"replicas": 3, "podManagementPolicy": "Parallel"});
        assert_eq!(deeds(parallel(), "rrr"), "-2");
        assert_eq!(deeds(parallel(), "rur"), "", "a good one stays while another is missing");
        assert_eq!(deeds(parallel(), "rru"), "-2");
    }

    #[test]
    fn a_pod_counts_once_it_has_been_ready_for_long_enough() {
        let set = set(json!({"replicas": 2, "minReadySeconds": 3600}));
        let mut there = pods("R");
        let now = serde_json::json!(jiff::Timestamp::now().to_string());
        let mut pod = serde_json::to_value(&*there[&0]).unwrap();
        pod["status"]["conditions"][0]["lastTransitionTime"] = now;
        there.insert(0, Arc::new(serde_json::from_value(pod).unwrap()));
        let plan = plan(&Wish::of(&set, "new"), &there);
        assert!(plan.create.is_empty());
        assert!(plan.wait.is_some_and(|wait| wait > Duration::from_secs(3500)), "{:?}", plan.wait);
    }
}
