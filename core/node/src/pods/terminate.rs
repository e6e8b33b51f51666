//! The end of a pod: asked to leave, then made to; namespaces, links and files away; last the object.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::warn;

use crate::events::Kind;
use crate::pods::containers::{Slot, is_sidecar};
use crate::pods::hooks;
use crate::pods::pause::PauseEvent;
use crate::pods::sandbox;
use crate::pods::status::DEADLINE_EXCEEDED;
use crate::pods::worker::Worker;
use crate::pods::write;

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// Grace of a pod that says nothing, as in Kubernetes.
const GRACE: Duration = Duration::from_secs(30);
/// What a container has at the least when others, or its hook, have used the grace up.
const SHORTEST: Duration = Duration::from_secs(2);

impl Worker {
    /// One step towards the end; over once nothing is left.
    pub(super) async fn terminate(&mut self) -> ControlFlow<()> {
        let grace = self.deletion_grace();
        // A second, shorter grace replaces the first.
        if !self.terminating || self.grace.is_some_and(|earlier| grace < earlier) {
            let first = !std::mem::replace(&mut self.terminating, true);
            (self.grace, self.ends_at) = (Some(grace), None);
            let asked = self.live.values_mut().filter_map(|live| live.stopper.take());
            asked.for_each(|stopper| stopper.abort());
            for (name, _) in self.slots.iter().filter(|(_, slot)| first && slot.is_running()) {
                self.event(Some(name), Kind::Normal, "Killing", format!("Stopping container {name}"));
            }
        }
        if self.runs() {
            self.wind_down(grace);
            return ControlFlow::Continue(());
        }
        // The object goes last: as long as it is there, its address is taken.
        if !self.release().await && !self.gone {
            return ControlFlow::Continue(());
        }
        if !self.gone {
            let status = self.status();
            let current = self.written.is_current(&status);
            let context = Arc::clone(&self.context);
            let _request = context.requests.acquire().await;
            let written = if current { Ok(()) } else { write::status(&context.client, &self.pod, status).await };
            let deleted = match written {
                Ok(()) => write::delete(&context.client, &self.pod).await,
                error => error,
            };
            if let Err(error) = deleted {
                warn!(pod = %self.pod.name_any(), %error, "the pod's object cannot be deleted yet");
                self.written.forget();
                self.written.retry_soon(Instant::now());
                return ControlFlow::Continue(());
            }
        }
        if let Err(error) = self.places.remove_logs() {
            warn!(path = %self.places.logs.display(), %error, "logs cannot be removed");
        }
        ControlFlow::Break(())
    }

    /// How much longer the pod may be active, if that is bounded.
    pub(super) fn active_for(&self) -> Option<Duration> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?.max(0);
        let until = self.start_time.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()?;
        Some(until.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
    }

    /// Notes that a pod was active for longer than it may. Its object stays and says so.
    pub(super) fn expire(&mut self) {
        let message = "Pod was active on the node longer than the specified deadline";
        if !std::mem::replace(&mut self.expired, true) {
            self.event(None, Kind::Normal, DEADLINE_EXCEEDED, message.to_owned());
        }
    }

    /// Whether a container of it runs.
    pub(super) fn runs(&self) -> bool {
        self.sandbox.is_some() && self.slots.values().any(Slot::is_running)
    }

    /// Ends those containers whose turn it is, within what is left of the whole pod's grace.
    pub(super) fn wind_down(&mut self, grace: Duration) {
        let until = *self.ends_at.get_or_insert_with(|| Instant::now() + grace);
        let left = until.saturating_duration_since(Instant::now()).max(SHORTEST.min(grace));
        let is_asked = |name: &&str| self.live.get(*name).is_some_and(|live| live.stopper.is_some());
        let running = |name: &str| self.slots.get(name).is_some_and(Slot::is_running);
        let turn: Vec<_> = turn(&self.pod, running).into_iter().filter(|name| !is_asked(name)).collect();
        for name in turn.into_iter().map(str::to_owned).collect::<Vec<_>>() {
            self.stop(&name, left);
        }
    }

    /// Ends a container: its preStop hook, SIGTERM, and SIGKILL when the grace is over.
    pub(super) fn stop(&mut self, name: &str, grace: Duration) {
        let (Some(pause), Some(ip)) = (self.sandbox.clone(), self.ip()) else { return };
        let container = self.container(name).cloned();
        let Some(live) = self.live.get_mut(name) else { return };
        if let Some(earlier) = live.stopper.take() {
            earlier.abort();
        }
        // Neither its hook nor its probes have anything to say about a container that is to end.
        live.probes.drain(..).chain(live.hook.take()).for_each(|task| task.abort());
        let (name, mut deadline) = (name.to_owned(), Instant::now() + grace);
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&self.pod));
        let stopper = tokio::spawn(async move {
            let hook =
                container.as_ref().and_then(|one| one.lifecycle.as_ref()).and_then(|hooks| hooks.pre_stop.clone());
            if let (Some(hook), Some(container)) = (hook, &container)
                && !grace.is_zero()
            {
                let run = hooks::runner(&pause, &name);
                let ran = hooks::perform(&hook, container, ip, &run, grace).await;
                // However long that took, there is a moment between SIGTERM and SIGKILL.
                deadline = deadline.max(Instant::now() + SHORTEST);
                if let Err(why) = ran {
                    context.recorder.pod(&pod, Some(&name), Kind::Warning, "FailedPreStopHook", why);
                }
            }
            if !grace.is_zero() {
                let _ = pause.signal(&name, SIGTERM).await;
                tokio::time::sleep_until(deadline).await;
            }
            let _ = pause.signal(&name, SIGKILL).await;
        });
        live.stopper = Some(stopper.abort_handle());
    }

    /// Gives back everything but the object and the logs: processes, namespaces, links, files. False if the network still holds it; then
    /// it comes back later.
    pub(super) async fn release(&mut self) -> bool {
        self.live.clear();
        if let Some(pause) = self.sandbox.take() {
            pause.kill();
            while let Some(event) = self.events.recv().await {
                if matches!(event, PauseEvent::Gone) {
                    break;
                }
            }
        }
        // Also a pod that this agent found and never attached itself: the network knows it from the first list.
        self.attached = false;
        let detached = match sandbox::host_network(&self.pod) {
            true => Ok(()),
            false => self.context.network.detach(&self.uid()).await,
        };
        if let Err(error) = &detached {
            warn!(pod = %self.pod.name_any(), %error, "detaching the pod failed; trying again later");
            self.event(None, Kind::Warning, "FailedKillPod", format!("detach from the network: {error}"));
            self.try_later();
        }
        self.released = detached.is_ok();
        self.volumes = None;
        (self.renew_at, self.reread_at) = (None, None);
        if let Err(error) = self.places.remove() {
            warn!(path = %self.places.dir.display(), %error, "the pod's directory cannot be removed");
        }
        self.released
    }

    pub(super) fn grace_of_spec(&self) -> Duration {
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        spec.map_or(GRACE, |seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
    }

    fn deletion_grace(&self) -> Duration {
        if self.gone {
            return Duration::ZERO;
        }
        let seconds = self.pod.metadata.deletion_grace_period_seconds;
        seconds.map_or_else(|| self.grace_of_spec(), |seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
    }
}

/// The containers whose turn it is to end: all but sidecars, and then sidecars, which the others may need to their last moment, in
/// the reverse of the order in which they were started.
fn turn(pod: &Pod, runs: impl Fn(&str) -> bool) -> Vec<&str> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let names = |sidecars: bool| {
        let init = spec.init_containers.iter().flatten().filter(move |one| is_sidecar(one) == sidecars);
        let main = spec.containers.iter().filter(move |_| !sidecars);
        init.chain(main).map(|one| one.name.as_str()).filter(|name| runs(name)).collect::<Vec<_>>()
    };
    let others = names(false);
    if others.is_empty() { names(true).pop().into_iter().collect() } else { others }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_end_after_all_others_and_the_last_first() {
        let sidecar = |name: &str| serde_json::json!({"name": name, "restartPolicy": "Always"});
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "initContainers": [sidecar("proxy"), {"name": "init"}, sidecar("logs")],
            "containers": [{"name": "web"}, {"name": "db"}],
        }}))
        .unwrap();
        let turns = |running: &[&str]| turn(&pod, |name| running.contains(&name));
        assert_eq!(turns(&["proxy", "logs", "web", "db"]), ["web", "db"]);
        assert_eq!(turns(&["proxy", "logs", "db"]), ["db"]);
        assert_eq!(turns(&["proxy", "init"]), ["init"]);
        assert_eq!(turns(&["proxy", "logs"]), ["logs"]);
        assert_eq!(turns(&["proxy"]), ["proxy"]);
        assert!(turns(&[]).is_empty());
    }
}
