//! What becomes of a container: pure decisions about its runs, without a process in sight.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use switchyard_pause::protocol::Exit;
use tokio::time::Instant;

/// First pause before a container is started again.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
/// A container that ran this long starts with the first pause again.
const GOOD_RUN: Duration = Duration::from_secs(600);
/// From one start to the next of a container whose pod dies again and again.
const BETWEEN_STARTS: Duration = Duration::from_secs(1);

/// One container of a pod, over all its runs.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// Runs before the present or latest one.
    pub(crate) restarts: u32,
    /// All its runs; the number of the next one.
    pub(crate) runs: u32,
    pub(crate) state: State,
    /// How the run before the present one ended.
    pub(crate) last: Option<Run>,
    /// Its startup probe has succeeded, or it has none; its postStart hook is done.
    pub(crate) started: bool,
    /// Its readiness probe has succeeded, or it has none.
    pub(crate) ready: bool,
    /// When it may be started again.
    pub(crate) retry_at: Option<Instant>,
    pub(crate) back_off: Duration,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Waiting { reason: &'static str, message: String },
    Running { started_us: i64 },
    Terminated(Run),
}

/// Why a run is over that went with its pod's first process, or with its node: Kubernetes' word for who is not there any more.
pub(crate) const TAKEN_ALONG: &str = "ContainerStatusUnknown";

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) started_us: i64,
    pub(crate) exit: Exit,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// A pod's restartPolicy, or a container's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Always,
    OnFailure,
    Never,
}

/// What is to be done with a container now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Start it.
    Start,
    /// It runs, or waits for its turn: nothing.
    Wait,
    /// It will not run again.
    Over { failed: bool },
}

// === impl Slot ===

impl Default for Slot {
    fn default() -> Self {
        Self {
            restarts: 0,
            runs: 0,
            state: State::Waiting { reason: "ContainerCreating", message: String::new() },
            last: None,
            started: false,
            ready: false,
            retry_at: None,
            back_off: Duration::ZERO,
        }
    }
}

impl Slot {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// What to do, at this time.
    pub(crate) fn step(&self, policy: Policy, now: Instant) -> Step {
        match &self.state {
            State::Running { .. } => Step::Wait,
            State::Terminated(run) if !policy.restarts(run.exit.code) => Step::Over { failed: run.exit.code != 0 },
            _ if self.retry_at.is_some_and(|at| at > now) => Step::Wait,
            _ => Step::Start,
        }
    }

    /// The number of the run before the present one, which `last` is about. A container that waits to be started again has no present run.
    pub(crate) fn previous(&self) -> Option<u32> {
        let latest = self.runs.checked_sub(1)?;
        match self.state {
            State::Waiting { .. } => Some(latest),
            State::Running { .. } | State::Terminated(_) => latest.checked_sub(1),
        }
    }

    /// Its run of this number runs.
    pub(crate) fn running(&mut self, restart: u32, started_us: i64) {
        self.put_aside();
        (self.restarts, self.runs) = (restart, restart + 1);
        self.state = State::Running { started_us };
        self.retry_at = None;
    }

    /// It ran and ended. Says how long it is to wait, if it is to run again.
    pub(crate) fn ended(&mut self, run: Run, policy: Policy, now: Instant) -> Option<Duration> {
        (self.started, self.ready) = (false, false);
        let lasted = run.lasted();
        let again = policy.restarts(run.exit.code);
        self.state = State::Terminated(run);
        if !again {
            return None;
        }
        if lasted >= GOOD_RUN {
            self.back_off = Duration::ZERO;
        }
        // The first restart comes at once, as in Kubernetes: only what ends again and again is held back.
        let pause = self.back_off;
        self.back_off = if pause.is_zero() { FIRST_BACK_OFF } else { (pause * 2).min(LONGEST_BACK_OFF) };
        self.retry_at = Some(now + pause);
        Some(pause)
    }

    /// Its pod's first process died and took it along, which says nothing of it: its pauses stay as they were, and it may start again
    /// at once, unless it has just been started.
    pub(crate) fn taken_along(&mut self, run: Run, policy: Policy, now: Instant) {
        let (rest, back_off) = (BETWEEN_STARTS.saturating_sub(run.lasted()), self.back_off);
        if self.ended(run, policy, now).is_some() {
            (self.back_off, self.retry_at) = (back_off, Some(now + rest));
        }
    }

    /// It could not be started; the same pauses as after an end.
    pub(crate) fn not_started(&mut self, reason: &'static str, message: String, now: Instant) {
        self.back_off =
            if self.back_off.is_zero() { FIRST_BACK_OFF } else { (self.back_off * 2).min(LONGEST_BACK_OFF) };
        self.retry_at = Some(now + self.back_off);
        self.put_aside();
        self.state = State::Waiting { reason, message };
    }

    /// Takes up the pauses where an earlier agent left them, as far as a status tells: how often it was started again, and when and
    /// after how long its last run ended.
    pub(crate) fn take_up_pauses(&mut self, now: Instant, now_us: i64) {
        let doubled = |restarts: u32| FIRST_BACK_OFF * 2_u32.saturating_pow((restarts - 1).min(5));
        let pause =
            self.restarts.checked_sub(1).map_or(Duration::ZERO, |_| doubled(self.restarts).min(LONGEST_BACK_OFF));
        let ended = match &self.state {
            State::Running { .. } => {
                let forgiven = self.last.as_ref().is_some_and(|last| last.reason == TAKEN_ALONG);
                self.back_off = if forgiven { Duration::ZERO } else { pause };
                return;
            }
            State::Terminated(run) if run.reason == TAKEN_ALONG => {
                self.retry_at = Some(now);
                return;
            }
            State::Terminated(run) => run,
            State::Waiting { .. } => match &self.last {
                Some(run) => run,
                None => return,
            },
        };
        let between = |from: i64, to: i64| u64::try_from(to - from).map_or(Duration::ZERO, Duration::from_micros);
        let (finished_us, lasted) = (ended.exit.finished_us, between(ended.started_us, ended.exit.finished_us));
        let pause = if lasted >= GOOD_RUN { Duration::ZERO } else { pause };
        self.back_off = if pause.is_zero() { FIRST_BACK_OFF } else { (pause * 2).min(LONGEST_BACK_OFF) };
        self.retry_at = Some(now + pause.saturating_sub(between(finished_us, now_us)));
    }

    /// Turns an ended run into the last one, and says why the container waits.
    pub(crate) fn hold_back(&mut self, message: String) {
        if self.put_aside() {
            self.state = State::Waiting { reason: "CrashLoopBackOff", message };
        }
    }

    /// An ended run becomes the last one; whether there was one.
    fn put_aside(&mut self) -> bool {
        let State::Terminated(run) = &self.state else { return false };
        self.last = Some(run.clone());
        true
    }
}

// === impl Run ===

impl Run {
    fn lasted(&self) -> Duration {
        u64::try_from(self.exit.finished_us - self.started_us).map_or(Duration::ZERO, Duration::from_micros)
    }
}

// === impl Policy ===

impl Policy {
    /// Of a pod's container.
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Of an init container: it runs until it succeeds, unless the pod's policy is Never.
    pub(crate) fn of_init(pod: &Pod) -> Self {
        match Self::of(pod) {
            Self::Never => Self::Never,
            _ => Self::OnFailure,
        }
    }

    fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// Why a run ended, in one word.
pub(crate) fn reason(exit: &Exit) -> &'static str {
    match exit {
        Exit { oom: true, .. } => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    }
}

/// The limits it asks for that nothing enforces: a node has no cgroups of its own.
pub(crate) fn limits(container: &Container) -> Vec<&str> {
    let limits = container.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
    limits.map(|(name, _)| name.as_str()).filter(|name| matches!(*name, "cpu" | "memory")).collect()
}

/// The fields it has that nothing enforces or offers here, its pod's among them.
pub(crate) fn not_enforced(pod: &Pod, container: &Container) -> Vec<&'static str> {
    let own = container.security_context.as_ref();
    let pods = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let fields = [
        ("privileged", own.is_some_and(|own| own.privileged == Some(true))),
        ("capabilities", own.is_some_and(|own| own.capabilities.is_some())),
        ("readOnlyRootFilesystem", own.is_some_and(|own| own.read_only_root_filesystem == Some(true))),
        ("allowPrivilegeEscalation", own.is_some_and(|own| own.allow_privilege_escalation == Some(false))),
        (
            "seccompProfile",
            own.is_some_and(|own| own.seccomp_profile.is_some())
                || pods.is_some_and(|pods| pods.seccomp_profile.is_some()),
        ),
        (
            "seLinuxOptions",
            own.is_some_and(|own| own.se_linux_options.is_some())
                || pods.is_some_and(|pods| pods.se_linux_options.is_some()),
        ),
        ("fsGroup", pods.is_some_and(|pods| pods.fs_group.is_some())),
        (
            "supplementalGroups",
            pods.is_some_and(|pods| pods.supplemental_groups.as_ref().is_some_and(|all| !all.is_empty())),
        ),
        ("sysctls", pods.is_some_and(|pods| pods.sysctls.as_ref().is_some_and(|all| !all.is_empty()))),
        ("stdin", container.stdin == Some(true)),
        ("tty", container.tty == Some(true)),
    ];
    fields.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// Who it runs as: user and group, its own word before its pod's.
///
/// Images have no user of their own here, so who says nothing runs as the pod's first process does, as root.
pub(crate) fn user(pod: &Pod, container: &Container) -> Result<(Option<u32>, Option<u32>), &'static str> {
    let pods = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let id = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let uid = id(own.and_then(|own| own.run_as_user).or(pods.and_then(|pods| pods.run_as_user)));
    let gid = id(own.and_then(|own| own.run_as_group).or(pods.and_then(|pods| pods.run_as_group)));
    let not_root = own.and_then(|own| own.run_as_non_root).or(pods.and_then(|pods| pods.run_as_non_root));
    match (not_root, uid) {
        (Some(true), None) => Err("container has runAsNonRoot and image will run as root: set runAsUser"),
        (Some(true), Some(0)) => Err("container has runAsNonRoot and runAsUser 0, which is root"),
        _ => Ok((uid, gid)),
    }
}

/// Whether it is a sidecar: an init container that runs beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(code: i32, lasted: Duration) -> Run {
        let exit = Exit { code, signal: None, oom: false, finished_us: lasted.as_micros() as i64 };
        Run { started_us: 0, exit, reason: "Error", message: String::new() }
    }

    #[test]
    fn back_off_doubles_to_five_minutes_and_a_good_run_forgives() {
        let (mut slot, now) = (Slot::default(), Instant::now());
        let mut ended = |lasted| slot.ended(run(1, lasted), Policy::Always, now).unwrap().as_secs();
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..8).map(|_| ended(short)).collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(ended(GOOD_RUN), 0);
        assert_eq!(ended(short), 10);
    }

    #[test]
    fn what_goes_with_its_pod_is_not_held_back() {
        let (mut slot, now) = (Slot::default(), Instant::now());
        let long = BETWEEN_STARTS * 2;
        slot.ended(run(137, long), Policy::Always, now);
        slot.taken_along(run(137, long), Policy::Always, now);
        assert_eq!(slot.step(Policy::Always, now), Step::Start);
        slot.taken_along(run(137, BETWEEN_STARTS / 4), Policy::Always, now);
        assert_eq!(slot.retry_at, Some(now + BETWEEN_STARTS * 3 / 4), "a pod that dies again and again");
        assert_eq!(slot.ended(run(1, long), Policy::Always, now), Some(FIRST_BACK_OFF), "it ends for the second time");
        slot.taken_along(run(137, long), Policy::Never, now);
        assert_eq!(slot.step(Policy::Never, now), Step::Over { failed: true });
    }

    #[test]
    fn the_policy_says_what_runs_again() {
        let now = Instant::now();
        let after = |policy, code| {
            let mut slot = Slot::default();
            slot.ended(run(code, Duration::ZERO), policy, now);
            slot.step(policy, now)
        };
        assert_eq!(after(Policy::Always, 0), Step::Start);
        assert_eq!(after(Policy::OnFailure, 0), Step::Over { failed: false });
        assert_eq!(after(Policy::OnFailure, 3), Step::Start);
        assert_eq!(after(Policy::Never, 3), Step::Over { failed: true });
    }

    #[test]
    fn a_container_that_is_held_back_waits_and_shows_its_last_run() {
        let (mut slot, now) = (Slot::default(), Instant::now());
        for _ in 0..2 {
            slot.ended(run(1, Duration::ZERO), Policy::Always, now);
        }
        slot.runs = 2;
        assert_eq!(slot.previous(), Some(0), "while its end is all there is, the one before it");
        slot.hold_back("back-off 10s".into());
        assert_eq!(slot.previous(), Some(1), "then that one");
        assert_eq!(slot.step(Policy::Always, now), Step::Wait);
        assert_eq!(slot.step(Policy::Always, now + FIRST_BACK_OFF), Step::Start);
        assert_eq!(slot.last.unwrap().exit.code, 1);
        assert!(matches!(slot.state, State::Waiting { reason: "CrashLoopBackOff", .. }));
    }

    #[test]
    fn another_agent_takes_up_the_pauses() {
        let (now, now_us) = (Instant::now(), 1_000_000_000);
        let taken_up = |restarts, finished_us, lasted: i64| {
            let exit = Exit { code: 1, signal: None, oom: false, finished_us };
            let run = Run { started_us: finished_us - lasted, exit, reason: "Error", message: String::new() };
            let mut slot = Slot { restarts, runs: restarts + 1, state: State::Terminated(run), ..Slot::default() };
            slot.take_up_pauses(now, now_us);
            ((slot.retry_at.unwrap() - now).as_secs(), slot.back_off.as_secs())
        };
        assert_eq!(taken_up(0, now_us, 1), (0, 10));
        assert_eq!(taken_up(1, now_us, 1), (10, 20));
        assert_eq!(taken_up(3, now_us - 15_000_000, 1), (25, 80));
        assert_eq!(taken_up(40, now_us, 1), (300, 300));
        assert_eq!(taken_up(4, now_us, GOOD_RUN.as_micros() as i64), (0, 10));
        let mut running = Slot { restarts: 2, state: State::Running { started_us: 0 }, ..Slot::default() };
        running.take_up_pauses(now, now_us);
        assert_eq!((running.back_off.as_secs(), running.retry_at), (20, None));
        let exit = Exit { code: 137, signal: Some(9), oom: false, finished_us: now_us };
        let run = Run { started_us: now_us - 1, exit, reason: TAKEN_ALONG, message: String::new() };
        let mut rebooted = Slot { last: Some(run.clone()), ..running };
        rebooted.take_up_pauses(now, now_us);
        assert_eq!((rebooted.back_off, rebooted.retry_at), (Duration::ZERO, None), "nodes that boot are no crashes");
        let mut rebooting = Slot { restarts: 3, state: State::Terminated(run), ..Slot::default() };
        rebooting.take_up_pauses(now, now_us);
        assert_eq!((rebooting.back_off, rebooting.retry_at), (Duration::ZERO, Some(now)));
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let user = |pods: serde_json::Value, own: serde_json::Value| {
            let container = serde_json::json!({"name": "c", "securityContext": own});
            let pod = serde_json::json!({"spec": {"securityContext": pods, "containers": [container]}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            user(&pod, &pod.spec.as_ref().unwrap().containers[0])
        };
        let json = |text: &str| serde_json::from_str(text).unwrap();
        assert_eq!(user(json("{}"), json("{}")), Ok((None, None)));
        assert_eq!(
            user(json(r#"{"runAsUser": 5, "runAsGroup": 6}"#), json(r#"{"runAsUser": 7}"#)),
            Ok((Some(7), Some(6)))
        );
        assert!(user(json(r#"{"runAsNonRoot": true}"#), json("{}")).unwrap_err().contains("image will run as root"));
        assert!(user(json(r#"{"runAsNonRoot": true}"#), json(r#"{"runAsUser": 0}"#)).is_err());
        assert!(user(json(r#"{"runAsNonRoot": true}"#), json(r#"{"runAsNonRoot": false}"#)).is_ok());
        assert_eq!(user(json(r#"{"runAsNonRoot": true}"#), json(r#"{"runAsUser": 7}"#)), Ok((Some(7), None)));
    }

    #[test]
    fn what_cannot_start_is_tried_again_later() {
        let (mut slot, now) = (Slot::default(), Instant::now());
        slot.not_started("ErrImagePull", String::new(), now);
        assert_eq!(slot.step(Policy::Never, now), Step::Wait);
        assert_eq!(slot.step(Policy::Never, now + FIRST_BACK_OFF), Step::Start);
    }
}
