//! The beginning of a pod, and its second beginning when an agent comes back: sandbox, attachment, volumes, containers.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, ContainerState, ContainerStatus, Secret, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use switchyard_pause::protocol::{Exit, Start};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::env::{self, Sources};
use crate::events::Kind;
use crate::images::ImageError;
use crate::network::AttachError;
use crate::pods::containers::{self, Run, Slot, State, TAKEN_ALONG, limits, not_enforced, reason};
use crate::pods::hooks;
use crate::pods::pause::{Pause, PauseError};
use crate::pods::sandbox;
use crate::pods::volumes::{self, Kept, VolumeError};
use crate::pods::worker::{Live, Note, Problem, Worker};
use crate::probe;

/// Most Services that are put into environments; with more of them a container could not be started at all.
const MOST_LINKED: u32 = 500;
/// From one look at what volumes show to the next.
const REREAD: Duration = Duration::from_secs(60);
/// Pause after tokens could not be renewed.
const RENEW_AGAIN: Duration = Duration::from_secs(30);

/// Why a container was not started: a waiting reason, and words for people.
struct NotStarted {
    reason: &'static str,
    message: String,
}

impl Worker {
    /// Finds out what is there already: the containers of a pause process that outlived the agent, and what the object says of
    /// those that are gone.
    pub(super) async fn adopt(&mut self) {
        let pod = Arc::clone(&self.pod);
        let (tell, events) = mpsc::unbounded_channel();
        let pause = Pause::connect(&self.places.dir, tell).await.ok();
        let statuses = pod.status.iter().flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        });
        let (now, now_us) = (Instant::now(), jiff::Timestamp::now().as_microsecond());
        for status in statuses {
            let mut slot = slot_of(status);
            // What went with its pod, or with the whole node, did not end by itself.
            if pause.is_some() {
                slot.take_up_pauses(now, now_us);
            }
            self.slots.insert(status.name.clone(), slot);
        }
        let list = match &pause {
            Some(pause) => pause.list().await.ok(),
            None => None,
        };
        let (Some(pause), Some(list)) = (pause, list) else {
            self.taken_along();
            // What is left of a sandbox whose first process is gone, and was named to the network as if it were there.
            self.context.network.forget(&self.uid());
            self.places.unmount();
            return;
        };
        info!(pod = %pod.name_any(), containers = list.len(), pid = pause.pid(), "adopted");
        (self.sandbox, self.events) = (Some(pause), events);
        for one in &list {
            let Some(container) = self.container(&one.name).cloned() else { continue };
            let slot = self.slots.entry(one.name.clone()).or_default();
            let known = slot.runs > one.restart && !slot.is_running();
            if known {
                continue;
            }
            let (started, ready) = (slot.started, slot.ready);
            slot.running(one.restart, one.started_us);
            self.live.insert(one.name.clone(), live(&container));
            if one.exit.is_some() {
                self.ended(one);
                continue;
            }
            // What was well stays well until a probe says otherwise: a restarted agent is no reason to lose traffic.
            if let Some(live) = self.live.get_mut(&one.name) {
                live.hooked = true;
                live.well_started |= started;
                live.well |= ready;
            }
            self.refresh(&one.name);
            probes(self, &one.name);
        }
        self.lose_missing(&list.iter().map(|one| one.name.clone()).collect::<Vec<_>>());
    }

    /// What ran when the agent last wrote, and does not any more.
    fn lose_missing(&mut self, there: &[String]) {
        let lost: Vec<_> = self
            .slots
            .iter()
            .filter(|(name, slot)| slot.is_running() && !there.contains(name))
            .map(|(name, slot)| (name.clone(), slot.restarts))
            .collect();
        let now = jiff::Timestamp::now().as_microsecond();
        for (name, restart) in lost {
            let State::Running { started_us } = self.slots[&name].state else { continue };
            let exit = Exit { code: 137, signal: Some(9), oom: false, finished_us: now };
            let id = name.clone();
            self.ended(&switchyard_pause::protocol::Container { name, restart, pid: 0, started_us, exit: Some(exit) });
            debug!(container = id, "ended while no agent was there");
        }
    }

    /// Everything that comes before the first container, as far as it is not there.
    pub(super) async fn prepare(&mut self) -> Result<(), Problem> {
        let ip = self.ip().ok_or_else(|| Problem {
            reason: "FailedCreatePodSandBox",
            message: format!(
                "the pod has no address: annotation {} is missing or malformed",
                switchyard_api::names::POD_IP
            ),
        })?;
        self.released = false;
        self.fresh |= self.sandbox.is_none();
        // Begun early, as it takes about as long as the sandbox.
        let protection = self
            .facts()
            .filter(|_| !self.attached)
            .map(|facts| self.context.guard.protect(&facts.namespace, facts.ip, self.fresh));
        if self.sandbox.is_none() {
            let problem = |message| Problem { reason: "FailedCreatePodSandBox", message };
            self.places.make().map_err(|error| problem(error.to_string()))?;
            let described = sandbox::describe(&self.context.config, &self.pod, &self.places, ip);
            sandbox::start(&self.context.pause, &described).await.map_err(|error| problem(error.to_string()))?;
            let (tell, events) = mpsc::unbounded_channel();
            let pause = Pause::connect(&self.places.dir, tell).await.map_err(|error| problem(error.to_string()))?;
            (self.sandbox, self.events) = (Some(pause), events);
        }
        if !self.attached {
            if let Some((facts, protection)) = self.facts().zip(protection) {
                let problem = |error: AttachError| Problem {
                    reason: "FailedCreatePodSandBox",
                    message: format!("attach to the network: {error}"),
                };
                protection.in_force().await.map_err(problem)?;
                self.context.network.attach(facts, self.places.netns()).await.map_err(problem)?;
            }
            (self.attached, self.fresh) = (true, false);
        }
        if self.sources.is_none() {
            let sources =
                self.fetch_sources().await.map_err(|error| Problem { reason: "Failed", message: error.to_string() })?;
            (self.sources, self.stale) = (Some(sources), false);
        }
        if self.volumes.is_none() {
            self.make_volumes().await?;
        }
        Ok(())
    }

    async fn make_volumes(&mut self) -> Result<(), Problem> {
        let sources = self.sources.clone().unwrap_or_default();
        let context = Arc::clone(&self.context);
        let _request = context.requests.acquire().await;
        let made = volumes::make(&context.client, &self.pod, &self.places.dir, &sources).await;
        let made = made.map_err(|error| Problem { reason: "FailedMount", message: error.to_string() })?;
        self.renew_at = made.renew_after.map(|after| Instant::now() + after);
        self.reread_at = made.can_change.then(|| Instant::now() + REREAD);
        self.volumes = Some(made);
        Ok(())
    }

    /// Renews what has a time to live, and what others may have changed.
    pub(super) async fn renew(&mut self) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
        if is_due(self.renew_at) && !self.terminating {
            let (after, outcome) = self.renew_volumes(Kept::Token).await;
            if let Err(error) = outcome {
                warn!(pod = %self.pod.name_any(), %error, "tokens cannot be renewed");
                self.renew_at = Some(Instant::now() + RENEW_AGAIN);
            } else {
                self.renew_at = after.map(|after| Instant::now() + after);
            }
        }
        if is_due(self.reread_at) && !self.terminating {
            if let (_, Err(error)) = self.renew_volumes(Kept::Content).await {
                debug!(pod = %self.pod.name_any(), %error, "a volume shows what it did");
            }
            self.reread_at = Some(Instant::now() + REREAD);
        }
    }

    async fn renew_volumes(&self, kept: Kept) -> (Option<Duration>, Result<(), VolumeError>) {
        let fields = self.sources.clone().unwrap_or_default();
        let _request = self.context.requests.acquire().await;
        volumes::renew(&self.context.client, &self.pod, &self.places.dir, &fields, kept).await
    }

    /// Looks environments' sources up again if a container that ran, or failed to, may want others. Those of before will do if
    /// nobody answers.
    async fn refetch_sources(&mut self) {
        if !std::mem::replace(&mut self.stale, false) {
            return;
        }
        match self.fetch_sources().await {
            Ok(sources) => self.sources = Some(sources),
            Err(error) => warn!(pod = %self.pod.name_any(), %error, "going by the environment of before"),
        }
    }

    /// Variables that name the Services of the pod's namespace.
    async fn links(&self, namespace: &str) -> kube::Result<Vec<(String, String)>> {
        if self.pod.spec.as_ref().is_some_and(|spec| spec.enable_service_links == Some(false)) {
            return Ok(Vec::new());
        }
        let services: Api<Service> = Api::namespaced(self.context.client.clone(), namespace);
        let services = services.list(&ListParams::default().limit(MOST_LINKED + 1)).await?.items;
        if services.len() > MOST_LINKED as usize {
            let message = format!(
                "namespace {namespace} has more than {MOST_LINKED} Services: none is in the environment; \
                 set enableServiceLinks to false"
            );
            self.event(None, Kind::Warning, "ServiceLinksNotSet", message);
            return Ok(Vec::new());
        }
        Ok(env::links(&services))
    }

    /// ConfigMaps and Secrets that environments refer to.
    async fn fetch_sources(&self) -> kube::Result<Sources> {
        let references = env::references(&self.pod);
        let namespace = self.pod.namespace().unwrap_or_default();
        let mut sources = Sources {
            host_ip: self.context.config.node_ip.to_string(),
            pod_ip: self.ip().map(|ip| ip.to_string()).unwrap_or_default(),
            common: self.context.config.api_variables(),
            links: self.links(&namespace).await?,
            ..Sources::default()
        };
        let maps: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &namespace);
        for name in references.config_maps {
            if let Some(map) = maps.get_opt(&name).await? {
                sources.config_maps.insert(name, map.data.unwrap_or_default());
            }
        }
        let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), &namespace);
        for name in references.secrets {
            if let Some(secret) = secrets.get_opt(&name).await? {
                let data = secret.data.into_iter().flatten().map(|(key, ByteString(value))| (key, value)).collect();
                sources.secrets.insert(name, data);
            }
        }
        Ok(sources)
    }
}

/// Starts a container, or notes why it was not.
pub(super) async fn container(worker: &mut Worker, container: &Container) {
    let name = &container.name;
    let restart = worker.slots.get(name).map_or(0, |slot| slot.runs);
    worker.refetch_sources().await;
    match try_start(worker, container, restart).await {
        Ok(started_us) => {
            let slot = worker.slots.entry(name.clone()).or_default();
            slot.running(restart, started_us);
            worker.live.insert(name.clone(), live(container));
            worker.event(Some(name), Kind::Normal, "Started", format!("Started container {name}"));
            worker.refresh(name);
            post_start(worker, container, restart);
            probes(worker, name);
        }
        Err(NotStarted { reason, message }) => {
            let now = Instant::now();
            worker.stale = true;
            worker.slots.entry(name.clone()).or_default().not_started(reason, message.clone(), now);
            let event = if reason == "ErrImagePull" {
                format!("Failed to pull image: {message}")
            } else {
                format!("Error: {message}")
            };
            worker.event(Some(name), Kind::Warning, "Failed", event);
        }
    }
}

async fn try_start(worker: &mut Worker, container: &Container, restart: u32) -> Result<i64, NotStarted> {
    let not = |reason, message: String| NotStarted { reason, message };
    let name = &container.name;
    let image = container.image.as_deref().unwrap_or_default();
    let sources =
        worker.sources.as_ref().ok_or_else(|| not("CreateContainerError", "environment is not there".into()))?;
    let (uid, gid) = containers::user(&worker.pod, container)
        .map_err(|error| not("CreateContainerConfigError", error.to_owned()))?;
    let env = env::resolve(&worker.pod, container, sources)
        .map_err(|error| not("CreateContainerConfigError", error.to_string()))?;
    let expand = |words: Option<&Vec<String>>| {
        words.into_iter().flatten().map(|word| env::expand(word, &env)).collect::<Vec<_>>()
    };
    let (command, args) = (expand(container.command.as_ref()), expand(container.args.as_ref()));
    let argv = worker.context.images.argv(image, &command, &args).map_err(|error| {
        let tried = matches!(
            worker.slots.get(name).map(|slot| &slot.state),
            Some(State::Waiting { reason: "ErrImagePull" | "ImagePullBackOff", .. })
        );
        match error {
            ImageError::NoCommand => not("CreateContainerError", error.to_string()),
            _ if tried => not("ImagePullBackOff", error.to_string()),
            _ => not("ErrImagePull", error.to_string()),
        }
    })?;
    if restart == 0 {
        let message = format!("Container image {image:?} already present on machine");
        worker.event(Some(name), Kind::Normal, "Pulled", message);
        let limits = limits(container).join(", ");
        if !limits.is_empty() {
            let message = format!("limits of {name} on {limits} count for scheduling and quota; nothing enforces them");
            worker.event(Some(name), Kind::Warning, "LimitsNotEnforced", message);
        }
        let fields = not_enforced(&worker.pod, container).join(", ");
        if !fields.is_empty() {
            let message = format!("{fields} of {name}: accepted, and nothing here enforces or offers them");
            worker.event(Some(name), Kind::Warning, "FieldsNotEnforced", message);
        }
    }
    let create = |error: String| not("CreateContainerError", error);
    let message = worker.message_file(name);
    let fresh = message.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&message, ""));
    fresh.map_err(|error| create(format!("termination message file: {error}")))?;
    let volumes = worker.volumes.clone().unwrap_or_default();
    let mounts = volumes.mounts(&worker.pod, container, &message).map_err(|error| create(error.to_string()))?;
    // The logs of this run and of the one before are kept.
    if let Some(old) = restart.checked_sub(2) {
        for suffix in ["", ".1", ".2"] {
            let _ = std::fs::remove_file(worker.places.logs.join(name).join(format!("{old}.log{suffix}")));
        }
    }
    let start = Start {
        name: name.clone(),
        restart,
        argv,
        env,
        cwd: container.working_dir.clone().filter(|dir| !dir.is_empty()).map(Into::into),
        mounts,
        log: format!("{name}/{restart}.log").into(),
        uid,
        gid,
    };
    let Some(pause) = worker.sandbox.clone() else { return Err(create("the pod's first process is gone".into())) };
    worker.event(Some(name), Kind::Normal, "Created", format!("Created container {name}"));
    match pause.start(start).await {
        Ok(started) => Ok(started.started_us),
        Err(PauseError::Refused(error)) if error.starts_with("exec ") => Err(not("RunContainerError", error)),
        Err(error) => Err(create(error.to_string())),
    }
}

/// What goes on beside a container of this kind when it has just been started.
fn live(container: &Container) -> Live {
    let post_start = container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref());
    Live {
        hook: None,
        probes: Vec::new(),
        stopper: None,
        ended: watch::channel(false).0,
        hooked: post_start.is_none(),
        well_started: container.startup_probe.is_none(),
        well: container.readiness_probe.is_none(),
    }
}

fn post_start(worker: &mut Worker, container: &Container, restart: u32) {
    let hook = container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.clone());
    let (Some(hook), Some(pause), Some(ip), Some(tell)) =
        (hook, worker.sandbox.clone(), worker.ip(), worker.to_self.upgrade())
    else {
        return;
    };
    let (container, at_most) = (container.clone(), worker.grace_of_spec());
    let name = container.name.clone();
    let task = tokio::spawn(async move {
        let run = hooks::runner(&pause, &container.name);
        let result = hooks::perform(&hook, &container, ip, &run, at_most).await;
        let _ = tell.send(Note::Hooked { container: container.name, restart, result });
    });
    if let Some(live) = worker.live.get_mut(&name) {
        live.hook = Some(task.abort_handle());
    }
}

/// Starts the probes whose time has come: the startup probe first, the others after it.
pub(super) fn probes(worker: &mut Worker, name: &str) {
    let Some(container) = worker.container(name).cloned() else { return };
    let (Some(pause), Some(ip)) = (worker.sandbox.clone(), worker.ip()) else { return };
    let Some(slot) = worker.slots.get(name).filter(|slot| slot.is_running()) else { return };
    let restart = slot.restarts;
    let Some(live) = worker.live.get(name) else { return };
    let wanted = match (live.well_started, live.hooked) {
        (false, _) => vec![(probe::Kind::Startup, container.startup_probe.as_ref())],
        (true, true) => vec![
            (probe::Kind::Liveness, container.liveness_probe.as_ref()),
            (probe::Kind::Readiness, container.readiness_probe.as_ref()),
        ],
        (true, false) => return,
    };
    let run = hooks::runner(&pause, name);
    let mut tasks = Vec::new();
    for (kind, probe) in wanted {
        let Some(probe) = probe else { continue };
        let plan = match probe::Plan::new(probe, &container, ip) {
            Ok(plan) => plan,
            Err(error) => {
                worker.event(Some(name), Kind::Warning, "Unhealthy", error.to_string());
                continue;
            }
        };
        let (tell, container) = (worker.to_self.clone(), name.to_owned());
        let report = move |verdict| {
            let note = Note::Probe { container: container.clone(), restart, kind, verdict };
            tell.upgrade().is_some_and(|tell| tell.send(note).is_ok())
        };
        tasks.push(tokio::spawn(plan.watch(kind, run.clone(), report)).abort_handle());
    }
    if let Some(live) = worker.live.get_mut(name) {
        live.probes.drain(..).for_each(|task| task.abort());
        live.probes = tasks;
    }
}

/// A container as its status in the API remembers it.
fn slot_of(status: &ContainerStatus) -> Slot {
    let restarts = u32::try_from(status.restart_count).unwrap_or(0);
    let ran = status.container_id.as_deref().is_some_and(|id| !id.is_empty());
    let state = match status.state.as_ref() {
        Some(ContainerState { waiting: Some(held), .. }) if held.reason.as_deref() == Some("CrashLoopBackOff") => {
            State::Waiting { reason: "CrashLoopBackOff", message: held.message.clone().unwrap_or_default() }
        }
        state => state.map_or_else(waiting, state_of),
    };
    let last = status.last_state.as_ref().map(state_of).and_then(|state| match state {
        State::Terminated(run) => Some(run),
        _ => None,
    });
    Slot {
        restarts,
        runs: if ran { restarts + 1 } else { 0 },
        state,
        last,
        started: status.started == Some(true),
        ready: status.ready,
        ..Slot::default()
    }
}

fn state_of(state: &ContainerState) -> State {
    if let Some(running) = &state.running {
        let started_us = running.started_at.as_ref().map_or(0, |time| time.0.as_microsecond());
        return State::Running { started_us };
    }
    let Some(over) = &state.terminated else { return waiting() };
    let exit = Exit {
        code: over.exit_code,
        signal: over.signal,
        oom: over.reason.as_deref() == Some("OOMKilled"),
        finished_us: over.finished_at.as_ref().map_or(0, |time| time.0.as_microsecond()),
    };
    State::Terminated(Run {
        started_us: over.started_at.as_ref().map_or(0, |time| time.0.as_microsecond()),
        reason: if over.reason.as_deref() == Some(TAKEN_ALONG) { TAKEN_ALONG } else { reason(&exit) },
        exit,
        message: over.message.clone().unwrap_or_default(),
    })
}

fn waiting() -> State {
    State::Waiting { reason: "ContainerCreating", message: String::new() }
}
