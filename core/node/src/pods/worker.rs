//! One pod: hears what happens to it, and acts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use kube::ResourceExt;
use switchyard_api::names::POD_IP;
use switchyard_plugin::PodFacts;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::env::Sources;
use crate::events::Kind;
use crate::network::until;
use crate::pods::containers::{Policy, Slot, State, Step, is_sidecar};
use crate::pods::pause::{Pause, PauseEvent};
use crate::pods::sandbox::{self, Places};
use crate::pods::status::{DEADLINE_EXCEEDED, Phase, View};
use crate::pods::volumes::Volumes;
use crate::pods::write::{self, Written};
use crate::pods::{Context, start};
use crate::probe;
use crate::server::{AskError, Command, LogFile};

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What a worker hears from the rest of the agent.
pub(crate) enum Note {
    /// The object as it is now.
    Pod(Arc<Pod>),
    /// The object is gone.
    Gone,
    /// A status write is through.
    Written { ok: bool },
    /// A probe of this run of a container reached a threshold.
    Probe { container: String, restart: u32, kind: probe::Kind, verdict: probe::Verdict },
    /// The postStart hook of this run of a container is done.
    Hooked { container: String, restart: u32, result: Result<(), String> },
    /// Where is the log?
    Log { container: String, previous: bool, reply: tokio::sync::oneshot::Sender<Result<LogFile, AskError>> },
    /// Where is its network namespace?
    Netns { reply: tokio::sync::oneshot::Sender<Result<Option<std::path::PathBuf>, AskError>> },
    /// Run this. Boxed, as a channel has room for 32 of these from the beginning, and every pod has one.
    Exec {
        container: String,
        command: Box<Command>,
        reply: tokio::sync::oneshot::Sender<Result<tokio::sync::oneshot::Receiver<i32>, AskError>>,
    },
}

/// One pod's task.
pub(crate) struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) places: Places,
    pub(super) notes: mpsc::UnboundedReceiver<Note>,
    pub(super) to_self: mpsc::WeakUnboundedSender<Note>,
    pub(super) sandbox: Option<Arc<Pause>>,
    pub(super) events: mpsc::UnboundedReceiver<PauseEvent>,
    pub(super) attached: bool,
    /// Nothing of it is connected or runs any more, so its address may be another's: its end can be told.
    pub(super) released: bool,
    /// Its sandbox has not been attached yet: nothing that somebody else exchanged with its address goes on.
    pub(super) fresh: bool,
    pub(super) volumes: Option<Volumes>,
    /// When tokens are renewed.
    pub(super) renew_at: Option<Instant>,
    /// When what other volumes show is looked up again.
    pub(super) reread_at: Option<Instant>,
    pub(super) sources: Option<Sources>,
    /// The sources are to be fetched again before the next container starts.
    pub(super) stale: bool,
    pub(super) slots: BTreeMap<String, Slot>,
    pub(super) live: BTreeMap<String, Live>,
    pub(super) start_time: Timestamp,
    pub(super) written: Written,
    /// The object is gone.
    pub(super) gone: bool,
    /// Its end has begun.
    pub(super) terminating: bool,
    pub(super) grace: Option<Duration>,
    /// When the last of its containers is to have ended.
    pub(super) ends_at: Option<Instant>,
    /// The network's attempts when this pod was last tried.
    tried: u64,
    /// It was active for longer than it may.
    pub(super) expired: bool,
    retry: Duration,
    retry_at: Option<Instant>,
    /// Tells when the node's network has changed, which it may have to before the pod can be attached.
    network: watch::Receiver<crate::network::State>,
    /// When the last step began: what was due then has been done.
    stepped_at: Instant,
}

/// What goes on beside a running container.
pub(crate) struct Live {
    /// The postStart hook.
    pub(super) hook: Option<AbortHandle>,
    pub(super) probes: Vec<AbortHandle>,
    pub(super) stopper: Option<AbortHandle>,
    pub(super) ended: watch::Sender<bool>,
    pub(super) hooked: bool,
    pub(super) well_started: bool,
    pub(super) well: bool,
}

/// Something that keeps a pod from starting, for an event.
pub(crate) struct Problem {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.probes.iter().chain(&self.hook).chain(&self.stopper).for_each(AbortHandle::abort);
        let _ = self.ended.send(true);
    }
}

// === impl Worker ===

impl Worker {
    /// A worker for this pod, and the way to tell it something.
    pub(crate) fn new(context: Arc<Context>, pod: Arc<Pod>) -> (Self, mpsc::UnboundedSender<Note>) {
        let (tell, notes) = mpsc::unbounded_channel();
        let start_time = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
        let expired = reason == Some(DEADLINE_EXCEEDED);
        let worker = Self {
            places: Places::of(&context.config, &pod),
            network: context.network.state(),
            context,
            pod,
            notes,
            to_self: tell.downgrade(),
            sandbox: None,
            events: mpsc::unbounded_channel().1,
            attached: false,
            released: false,
            fresh: false,
            volumes: None,
            renew_at: None,
            reread_at: None,
            sources: None,
            stale: false,
            slots: BTreeMap::new(),
            live: BTreeMap::new(),
            start_time: start_time.unwrap_or_else(Timestamp::now),
            written: Written::default(),
            gone: false,
            terminating: false,
            grace: None,
            ends_at: None,
            tried: 0,
            expired,
            retry: Duration::ZERO,
            retry_at: None,
            stepped_at: Instant::now(),
        };
        (worker, tell)
    }

    /// Works until the pod is over and gone.
    pub(crate) async fn run(mut self) {
        self.adopt().await;
        while self.step().await.is_continue() {
            self.publish();
            self.wait().await;
        }
        info!(pod = %self.pod.name_any(), namespace = ?self.pod.namespace(), "pod is gone");
    }

    async fn step(&mut self) -> ControlFlow<()> {
        self.stepped_at = Instant::now();
        if self.gone || self.pod.metadata.deletion_timestamp.is_some() {
            return self.terminate().await;
        }
        if !self.is_over() && self.active_for().is_some_and(|left| left.is_zero()) {
            self.expire();
        }
        if self.is_over() || self.expired {
            if self.runs() {
                self.wind_down(self.grace_of_spec());
            } else if !self.released {
                self.release().await;
            }
            return ControlFlow::Continue(());
        }
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return ControlFlow::Continue(());
        }
        let context = Arc::clone(&self.context);
        // Before the attempt: what changes during it is a reason for another.
        self.tried = self.network.borrow().attempts;
        let _start = if self.volumes.is_none() { context.starts.acquire().await.ok() } else { None };
        match self.prepare().await {
            Ok(()) => {
                (self.retry, self.retry_at) = (Duration::ZERO, None);
                self.containers().await;
            }
            Err(Problem { reason, message }) => {
                self.try_later();
                warn!(pod = %self.pod.name_any(), reason, %message, "pod cannot start yet");
                self.event(None, Kind::Warning, reason, message);
            }
        }
        ControlFlow::Continue(())
    }

    /// Has the next step come by itself, after a pause that grows.
    pub(super) fn try_later(&mut self) {
        self.retry = if self.retry.is_zero() { FIRST_RETRY } else { (self.retry * 2).min(LONGEST_RETRY) };
        self.retry_at = Some(Instant::now() + self.retry);
    }

    /// Starts what is to be started.
    async fn containers(&mut self) {
        let pod = Arc::clone(&self.pod);
        let Some(spec) = pod.spec.as_ref() else { return };
        for container in spec.init_containers.iter().flatten() {
            let sidecar = is_sidecar(container);
            let policy = if sidecar { Policy::Always } else { Policy::of_init(&pod) };
            let over = self.drive(container, policy).await;
            let slot = self.slots.entry(container.name.clone()).or_default();
            let done = if sidecar { slot.is_running() && slot.started } else { over == Step::Over { failed: false } };
            if !done {
                return;
            }
        }
        for container in &spec.containers {
            self.drive(container, Policy::of(&pod)).await;
        }
    }

    async fn drive(&mut self, container: &Container, policy: Policy) -> Step {
        let now = Instant::now();
        let slot = self.slots.entry(container.name.clone()).or_default();
        let step = slot.step(policy, now);
        match step {
            Step::Start => start::container(self, container).await,
            Step::Wait => {
                if let (State::Terminated(_), Some(at)) = (&slot.state, slot.retry_at) {
                    let seconds = (at - now).as_secs_f64().round();
                    let name = &container.name;
                    let message =
                        format!("back-off {seconds}s restarting failed container={name} pod={}", self.pod.name_any());
                    slot.hold_back(message);
                    let message = format!("Back-off restarting failed container {name} in pod {}", self.pod.name_any());
                    self.event(Some(name), Kind::Warning, "BackOff", message);
                }
            }
            Step::Over { .. } => {}
        }
        step
    }

    /// Waits for something to happen, and takes in all that has.
    async fn wait(&mut self) {
        let deadline = self.deadline();
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let tried = self.tried;
        let waits_for_network = self.sandbox.is_some() && !self.attached && !self.terminating;
        tokio::select! {
            Some(note) = self.notes.recv() => self.note(note).await,
            Some(event) = self.events.recv() => self.pause_event(event),
            // Not on every change: this pod may be what the network complains about.
            true = until(&mut self.network, |state| state.attempts != tried), if waits_for_network => self.retry_at = None,
            () = timer => {}
        }
        while let Ok(event) = self.events.try_recv() {
            self.pause_event(event);
        }
        while let Ok(note) = self.notes.try_recv() {
            self.note(note).await;
        }
        // Whatever it was that came first: the next step counts what is due by now as done.
        self.renew().await;
    }

    fn deadline(&self) -> Option<Instant> {
        let idle = self.slots.values().filter(|slot| !slot.is_running() && !self.terminating);
        let times = idle.filter_map(|slot| slot.retry_at);
        let active = self.active_for().filter(|_| !self.expired && !self.terminating);
        let times = times.chain(self.retry_at).chain(self.written.retry_at);
        let times = times.chain(self.renew_at).chain(self.reread_at);
        let times = times.chain(active.map(|left| Instant::now() + left));
        times.filter(|at| *at > self.stepped_at).min()
    }

    async fn note(&mut self, note: Note) {
        match note {
            Note::Pod(pod) => self.update(pod),
            Note::Gone => self.gone = true,
            Note::Written { ok } => self.written.done(ok, Instant::now()),
            Note::Probe { container, restart, kind, verdict } => self.probed(&container, restart, kind, verdict),
            Note::Hooked { container, restart, result } => self.hooked(&container, restart, result),
            Note::Log { container, previous, reply } => {
                let _ = reply.send(self.log(&container, previous));
            }
            Note::Netns { reply } => {
                let _ = reply.send(self.netns());
            }
            Note::Exec { container, command, reply } => {
                let _ = reply.send(self.exec(container, *command).await);
            }
        }
    }

    /// The object changed. What the agent itself knows better stays.
    fn update(&mut self, mut pod: Arc<Pod>) {
        let ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            conditions.into_iter().find(|one| one.type_ == "Ready").map(|one| one.status)
        };
        if self.pod.status.is_some() && ready(&pod) != ready(&self.pod) {
            self.written.forget();
        }
        let own = self.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let theirs = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut conditions = theirs.cloned().unwrap_or_default();
        for condition in own {
            match conditions.iter_mut().find(|one| one.type_ == condition.type_) {
                Some(other) if crate::pods::status::is_own(&condition.type_) => *other = condition,
                Some(_) => {}
                None => conditions.push(condition),
            }
        }
        if theirs != Some(&conditions) {
            Arc::make_mut(&mut pod).status.get_or_insert_default().conditions = Some(conditions);
        }
        self.pod = pod;
    }

    /// Writes the status if it is another than the one written last. Of its end not before its address is free: whoever hears of it may
    /// give that to another pod.
    pub(super) fn publish(&mut self) {
        if self.is_over() && !self.runs() && !self.released {
            return;
        }
        let status = self.status();
        // What is as the API has it is shared with whoever follows pods.
        let ours = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        if let Ok(conditions) = serde_json::from_value::<Option<Vec<PodCondition>>>(status["conditions"].clone())
            && conditions.as_ref() != ours
        {
            Arc::make_mut(&mut self.pod).status.get_or_insert_default().conditions = conditions;
        }
        let (Some(status), Some(tell)) = (self.written.next(status, Instant::now()), self.to_self.upgrade()) else {
            return;
        };
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&self.pod));
        tokio::spawn(async move {
            let _request = context.requests.acquire().await;
            let written = write::status(&context.client, &pod, status).await;
            if let Err(error) = &written {
                debug!(pod = %pod.name_any(), %error, "writing the status failed");
            }
            let _ = tell.send(Note::Written { ok: written.is_ok() });
        });
    }

    pub(super) fn status(&self) -> serde_json::Value {
        self.view().status()
    }

    pub(super) fn phase(&self) -> Phase {
        // A pod that somebody ended, a node controller for instance, is over although nothing of it ran here.
        match self.pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Failed") if self.sandbox.is_none() => Phase::Failed,
            Some("Succeeded") if self.sandbox.is_none() => Phase::Succeeded,
            _ => self.view().phase(),
        }
    }

    /// Its containers have ended for good, but for sidecars.
    pub(super) fn is_over(&self) -> bool {
        self.phase().is_over()
    }

    fn view(&self) -> View<'_> {
        // What it was, for people, when it has none any more.
        let last = || self.pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok();
        View {
            pod: &self.pod,
            slots: &self.slots,
            sandbox: self.sandbox.is_some() && self.attached,
            ip: self.ip().or_else(last),
            host_ip: self.context.config.node_ip,
            start_time: self.start_time,
            terminating: self.terminating,
            expired: self.expired,
            now: Timestamp::now(),
        }
    }

    pub(super) fn container(&self, name: &str) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| container.name == name)
    }

    pub(super) fn policy(&self, name: &str) -> Policy {
        let mut init = self.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        match init.find(|container| container.name == name) {
            Some(container) if is_sidecar(container) => Policy::Always,
            Some(_) => Policy::of_init(&self.pod),
            None => Policy::of(&self.pod),
        }
    }

    pub(super) fn uid(&self) -> String {
        self.pod.uid().unwrap_or_default()
    }

    /// The pod's address: its node's, or the one given to it when it was bound, until its end has been told.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        if sandbox::host_network(&self.pod) {
            return Some(self.context.config.node_ip);
        }
        self.pod.annotations().get(POD_IP)?.parse().ok()
    }

    /// What a network plugin is told.
    pub(super) fn facts(&self) -> Option<PodFacts> {
        facts(&self.pod)
    }

    pub(super) fn message_file(&self, container: &str) -> std::path::PathBuf {
        self.places.dir.join("messages").join(container)
    }

    pub(super) fn event(&self, container: Option<&str>, kind: Kind, reason: &'static str, message: String) {
        self.context.recorder.pod(&self.pod, container, kind, reason, message);
    }
}

/// What a network plugin is told about a pod; `None` for one on its node's network, or without an address.
pub(crate) fn facts(pod: &Pod) -> Option<PodFacts> {
    if sandbox::host_network(pod) {
        return None;
    }
    Some(PodFacts {
        uid: pod.uid()?,
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        labels: pod.labels().clone(),
        ip: pod.annotations().get(POD_IP)?.parse().ok()?,
        segment: None,
    })
}
