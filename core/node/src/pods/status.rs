//! A pod's status, computed from what its containers do. Pure: the same view gives the same status.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::pods::containers::{Policy, Run, Slot, State, is_sidecar};

/// The conditions that the agent writes; others stay as they are.
const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Why a pod failed that was active for longer than it may.
pub(crate) const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// What there is to know about a pod on its node.
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) slots: &'a BTreeMap<String, Slot>,
    /// Its sandbox is there and attached to the network.
    pub(crate) sandbox: bool,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) host_ip: IpAddr,
    /// Since when the agent knows it.
    pub(crate) start_time: Timestamp,
    /// It is being ended; nothing of it is ready any more.
    pub(crate) terminating: bool,
    /// It was active for longer than it may; nothing of it runs again.
    pub(crate) expired: bool,
    pub(crate) now: Timestamp,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// Whether the agent writes the condition of this type.
pub(crate) fn is_own(condition: &str) -> bool {
    OWN_CONDITIONS.contains(&condition)
}

// === impl View ===

impl View<'_> {
    /// The status as JSON, for a merge patch.
    pub(crate) fn status(&self) -> Value {
        let spec = self.pod.spec.as_ref();
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let mut status = json!({
            "phase": self.told_phase().text(),
            "conditions": self.conditions(init, main),
            "hostIP": self.host_ip,
            "hostIPs": [{"ip": self.host_ip}],
            "startTime": seconds(self.start_time),
            "qosClass": qos(main),
            "containerStatuses": self.containers(main, false),
        });
        if self.expired {
            status["reason"] = json!(DEADLINE_EXCEEDED);
            status["message"] = json!("Pod was active on the node longer than the specified deadline");
        }
        if !init.is_empty() {
            status["initContainerStatuses"] = self.containers(init, true);
        }
        if let Some(ip) = self.ip {
            status["podIP"] = json!(ip);
            status["podIPs"] = json!([{ "ip": ip }]);
        }
        status
    }

    /// Where it is in its life, as the kubelet's getPhase.
    pub(crate) fn phase(&self) -> Phase {
        let Some(spec) = self.pod.spec.as_ref() else { return Phase::Pending };
        if self.expired && !self.slots.values().any(Slot::is_running) {
            return Phase::Failed;
        }
        let policy = Policy::of(self.pod);
        let mut over = Vec::new();
        for container in spec.init_containers.iter().flatten().filter(|one| !is_sidecar(one)) {
            match self.slots.get(&container.name).map(|slot| &slot.state) {
                Some(State::Terminated(run)) if run.exit.code == 0 => {}
                Some(State::Terminated(_)) if policy == Policy::Never => return Phase::Failed,
                _ => return Phase::Pending,
            }
        }
        let mut ran = false;
        for container in &spec.containers {
            let Some(slot) = self.slots.get(&container.name) else { return Phase::Pending };
            match &slot.state {
                State::Running { .. } => ran = true,
                State::Terminated(run) => {
                    ran = true;
                    over.push(run.exit.code);
                }
                State::Waiting { .. } => ran |= slot.last.is_some(),
            }
        }
        let all_over = over.len() == spec.containers.len();
        let failed = over.iter().any(|code| *code != 0);
        match policy {
            Policy::Never if all_over && failed => Phase::Failed,
            Policy::OnFailure | Policy::Never if all_over && !failed => Phase::Succeeded,
            _ if all_over && self.terminating => {
                if failed {
                    Phase::Failed
                } else {
                    Phase::Succeeded
                }
            }
            _ if ran => Phase::Running,
            _ => Phase::Pending,
        }
    }

    /// What the API is told: it is over once nothing of it runs any more, and sidecars may.
    fn told_phase(&self) -> Phase {
        match self.phase() {
            phase if phase.is_over() && self.slots.values().any(Slot::is_running) => Phase::Running,
            phase => phase,
        }
    }

    fn conditions(&self, init: &[Container], main: &[Container]) -> Value {
        let slot = |container: &Container| self.slots.get(&container.name);
        let initialized = init.iter().all(|container| match slot(container).map(|slot| (&slot.state, slot.started)) {
            Some((State::Terminated(run), _)) => run.exit.code == 0,
            Some((State::Running { .. }, started)) => is_sidecar(container) && started,
            _ => false,
        });
        let ready = |container: &&Container| slot(container).is_some_and(|slot| slot.is_running() && slot.ready);
        let unready: Vec<_> = main.iter().filter(|one| !ready(one)).map(|one| one.name.as_str()).collect();
        let containers_ready = unready.is_empty() && !self.terminating && !self.expired;
        let over = self.phase().is_over();
        let gates = self.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let open = |gate: &str| self.condition(gate).is_some_and(|condition| condition["status"] == "True");
        let closed: Vec<_> = gates.map(|gate| gate.condition_type.as_str()).filter(|gate| !open(gate)).collect();
        let unready = match (over, unready.is_empty()) {
            (true, _) => ("PodCompleted", String::new()),
            (false, false) => {
                ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
            }
            (false, true) if self.terminating || self.expired => {
                ("PodTerminating", "the pod is being ended".to_owned())
            }
            (false, true) => ("ReadinessGatesNotReady", format!("readiness gates not true: [{}]", closed.join(" "))),
        };
        let unready = (unready.0, unready.1.as_str());
        let none = ("", "");
        let mut conditions = vec![
            self.entry("PodReadyToStartContainers", self.sandbox, none),
            self.entry(
                "Initialized",
                initialized,
                if over {
                    ("PodCompleted", "")
                } else if initialized {
                    none
                } else {
                    ("ContainersNotInitialized", "init containers have not completed")
                },
            ),
            self.entry("Ready", containers_ready && closed.is_empty(), unready),
            self.entry("ContainersReady", containers_ready, unready),
            self.entry("PodScheduled", true, none),
        ];
        conditions.extend(self.foreign());
        Value::Array(conditions)
    }

    fn entry(&self, kind: &str, holds: bool, (reason, message): (&str, &str)) -> Value {
        let status = if holds { "True" } else { "False" };
        let old = self.condition(kind).filter(|old| old["status"] == status);
        let since = old.map_or(Value::Null, |old| old["lastTransitionTime"].clone());
        let since = if since.is_null() { json!(seconds(self.now)) } else { since };
        let mut entry = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
        if !holds && !reason.is_empty() {
            entry["reason"] = json!(reason);
            entry["message"] = json!(message);
        }
        entry
    }

    fn condition(&self, kind: &str) -> Option<Value> {
        let all = self.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.filter(|one| one.type_ == kind).find_map(|one| serde_json::to_value(one).ok())
    }

    fn foreign(&self) -> impl Iterator<Item = Value> {
        let all = self.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let all = all.filter(|one| !is_own(&one.type_));
        all.filter_map(|one| serde_json::to_value(one).ok())
    }

    fn containers(&self, containers: &[Container], init: bool) -> Value {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let one = |container: &Container| {
            let fresh;
            let slot = match self.slots.get(&container.name) {
                Some(slot) => slot,
                None => {
                    fresh = Slot::default();
                    &fresh
                }
            };
            let id = |restart: u32| format!("yard-pause://{uid}/{}/{restart}", container.name);
            let ran = slot.is_running() || matches!(slot.state, State::Terminated(_)) || slot.last.is_some();
            let image = container.image.as_deref().unwrap_or_default();
            let last = slot.last.as_ref();
            json!({
                "name": container.name,
                "image": image,
                "imageID": if ran { format!("yard://{image}") } else { String::new() },
                "containerID": if ran { json!(id(slot.restarts)) } else { Value::Null },
                "restartCount": slot.restarts,
                // An init container that has done its work counts as ready.
                "ready": if init { finished(slot) } else { slot.is_running() && slot.ready && !self.terminating && !self.expired },
                "started": slot.is_running() && slot.started,
                "state": match &slot.state {
                    State::Waiting { reason, message } if message.is_empty() => json!({"waiting": {"reason": reason}}),
                    State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
                    State::Running { started_us } => json!({"running": {"startedAt": micros(*started_us)}}),
                    State::Terminated(run) => json!({"terminated": terminated(run, &id(slot.restarts))}),
                },
                "lastState": last.map_or(json!({}), |run| {
                    json!({"terminated": terminated(run, &id(slot.previous().unwrap_or(0)))})
                }),
            })
        };
        Value::Array(containers.iter().map(one).collect())
    }
}

fn finished(slot: &Slot) -> bool {
    match &slot.state {
        State::Terminated(run) => run.exit.code == 0,
        State::Running { .. } => slot.ready,
        State::Waiting { .. } => false,
    }
}

fn terminated(run: &Run, id: &str) -> Value {
    let mut value = json!({
        "exitCode": run.exit.code,
        "reason": run.reason,
        "startedAt": micros(run.started_us),
        "finishedAt": micros(run.exit.finished_us),
        "containerID": id,
    });
    if let Some(signal) = run.exit.signal {
        value["signal"] = json!(signal);
    }
    if !run.message.is_empty() {
        value["message"] = json!(run.message);
    }
    value
}

/// Times of the API have seconds.
fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

fn micros(us: i64) -> String {
    seconds(Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// As k8s.io/kubernetes/pkg/apis/core/v1/helper/qos.
fn qos(containers: &[Container]) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for container in containers {
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|r| r.limits.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        for name in ["cpu", "memory"] {
            let limit = limits.and_then(|limits| limits.get(name));
            let request = requests.and_then(|requests| requests.get(name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

// === impl Phase ===

impl Phase {
    /// Whether its containers have ended for good.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchyard_pause::protocol::Exit;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "spec": {"restartPolicy": policy, "initContainers": [{"name": "prepare"}], "containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"conditions": [
                {"type": "shop/gate", "status": "True"},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        }))
        .unwrap()
    }

    fn ended(code: i32) -> Slot {
        let exit = Exit { code, signal: None, oom: false, finished_us: 0 };
        let run = Run { started_us: 0, exit, reason: "Completed", message: String::new() };
        Slot { state: State::Terminated(run), ..Slot::default() }
    }

    fn runs(ready: bool) -> Slot {
        Slot { state: State::Running { started_us: 0 }, started: true, ready, ..Slot::default() }
    }

    fn status(pod: &Pod, slots: [(&str, Slot); 3], terminating: bool) -> Value {
        let slots = slots.into_iter().map(|(name, slot)| (name.to_owned(), slot)).collect();
        let now = "2026-02-02T00:00:00Z".parse().unwrap();
        let view = View {
            pod,
            slots: &slots,
            sandbox: true,
            ip: "10.40.1.2".parse().ok(),
            host_ip: "10.140.0.11".parse().unwrap(),
            start_time: now,
            terminating,
            expired: false,
            now,
        };
        view.status()
    }

    fn holds(status: &Value, kind: &str) -> bool {
        let all = status["conditions"].as_array().unwrap();
        all.iter().find(|one| one["type"] == kind).unwrap()["status"] == "True"
    }

    #[test]
    fn a_pod_is_ready_when_all_its_containers_are() {
        let pod = pod("Always");
        let all = status(&pod, [("prepare", ended(0)), ("a", runs(true)), ("b", runs(true))], false);
        assert_eq!(all["phase"], "Running");
        assert!(holds(&all, "Ready") && holds(&all, "ContainersReady") && holds(&all, "Initialized"));
        let one = status(&pod, [("prepare", ended(0)), ("a", runs(true)), ("b", runs(false))], false);
        assert!(!holds(&one, "Ready"));
        assert!(one["conditions"].to_string().contains("unready status: [b]"));
        let leaving = status(&pod, [("prepare", ended(0)), ("a", runs(true)), ("b", runs(true))], true);
        assert!(!holds(&leaving, "Ready"));
    }

    #[test]
    fn a_pod_whose_deadline_is_over_fails_once_nothing_of_it_runs() {
        let pod = pod("Always");
        let now = "2026-02-02T00:00:00Z".parse().unwrap();
        let status = |a: Slot| {
            let slots = [("prepare", ended(0)), ("a", a), ("b", ended(137))];
            let slots = slots.into_iter().map(|(name, slot)| (name.to_owned(), slot)).collect();
            let (ip, host_ip) = (None, "10.140.0.11".parse().unwrap());
            let view = View {
                pod: &pod,
                slots: &slots,
                sandbox: true,
                ip,
                host_ip,
                start_time: now,
                terminating: false,
                expired: true,
                now,
            };
            view.status()
        };
        let ending = status(runs(true));
        assert_eq!((&ending["phase"], &ending["reason"]), (&json!("Running"), &json!("DeadlineExceeded")));
        assert!(!holds(&ending, "Ready"));
        assert_eq!(status(ended(137))["phase"], "Failed");
    }

    #[test]
    fn conditions_keep_their_time_and_those_of_others_stay() {
        let status = status(&pod("Always"), [("prepare", ended(0)), ("a", runs(true)), ("b", runs(true))], false);
        let text = status["conditions"].to_string();
        assert!(
            text.contains("shop/gate")
                && text.contains("2026-01-01T00:00:00Z")
                && text.contains("2026-02-02T00:00:00Z")
        );
    }

    #[test]
    fn phases_follow_policy_and_exit_codes() {
        let phase = |policy, init, a, b| {
            let pod = pod(policy);
            status(&pod, [("prepare", init), ("a", a), ("b", b)], false)["phase"].as_str().unwrap().to_owned()
        };
        assert_eq!(phase("Always", Slot::default(), Slot::default(), Slot::default()), "Pending");
        assert_eq!(phase("Never", ended(1), Slot::default(), Slot::default()), "Failed");
        assert_eq!(phase("Never", ended(0), ended(0), ended(0)), "Succeeded");
        assert_eq!(phase("Never", ended(0), ended(0), ended(2)), "Failed");
        assert_eq!(phase("Never", ended(0), ended(0), runs(true)), "Running");
        assert_eq!(phase("OnFailure", ended(0), ended(0), ended(0)), "Succeeded");
        assert_eq!(phase("Always", ended(0), ended(0), ended(0)), "Running");
    }
}
