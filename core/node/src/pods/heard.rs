//! What a pod's worker hears of its containers: an end, a probe's verdict, a hook's outcome, the end of the pod's first process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use switchyard_pause::protocol::{self, Exit};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use crate::events::Kind;
use crate::pods::containers::{self, Run, State, TAKEN_ALONG, is_sidecar};
use crate::pods::pause::PauseEvent;
use crate::pods::start;
use crate::pods::worker::Worker;
use crate::probe;

/// Bytes of a termination message that are kept, as in Kubernetes.
const MAX_MESSAGE: u64 = 4096;

impl Worker {
    pub(super) fn pause_event(&mut self, event: PauseEvent) {
        match event {
            PauseEvent::Exited(container) => self.ended(&container),
            PauseEvent::Gone => self.lost(),
        }
    }

    /// A container ended.
    pub(super) fn ended(&mut self, ended: &protocol::Container) {
        let Some(exit) = ended.exit else { return };
        let current =
            self.slots.get(&ended.name).is_some_and(|slot| slot.is_running() && slot.restarts == ended.restart);
        if !current {
            return;
        }
        let message = self.last_words(&ended.name, ended.restart, &exit);
        let run = Run { started_us: ended.started_us, exit, reason: containers::reason(&exit), message };
        debug!(pod = %self.pod.name_any(), container = ended.name, code = exit.code, "container ended");
        self.live.remove(&ended.name);
        self.stale = true;
        let policy = self.policy(&ended.name);
        if let Some(slot) = self.slots.get_mut(&ended.name) {
            slot.ended(run, policy, Instant::now());
        }
    }

    /// What ran went with the pod's first process.
    pub(super) fn taken_along(&mut self) {
        let now = Timestamp::now().as_microsecond();
        let exit = Exit { code: 137, signal: Some(9), oom: false, finished_us: now };
        let running = self.slots.iter().filter_map(|(name, slot)| match slot.state {
            State::Running { started_us } => Some((name.clone(), started_us)),
            _ => None,
        });
        for (name, started_us) in running.collect::<Vec<_>>() {
            let message = "the pod's first process died".to_owned();
            self.live.remove(&name);
            let policy = self.policy(&name);
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.taken_along(Run { started_us, exit, reason: TAKEN_ALONG, message }, policy, Instant::now());
            }
        }
    }

    /// The pod's first process died, and everything with it.
    fn lost(&mut self) {
        // The connection may have ended before the process: of two pods with one address, neither works.
        if let Some(pause) = self.sandbox.take() {
            pause.kill();
        }
        self.stale = true;
        self.events = mpsc::unbounded_channel().1;
        if !self.terminating && !self.is_over() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.event(None, Kind::Normal, "SandboxChanged", message);
        }
        self.taken_along();
        if self.attached {
            self.attached = false;
            self.context.network.forget(&self.uid());
        }
        self.places.unmount();
        // A new sandbox begins with its init containers, as in Kubernetes.
        let pod = Arc::clone(&self.pod);
        let init =
            pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).filter(|one| !is_sidecar(one));
        if !self.terminating && !self.is_over() {
            for container in init {
                if let Some(slot) = self.slots.get_mut(&container.name) {
                    slot.state = State::Waiting { reason: "PodInitializing", message: String::new() };
                }
            }
        }
    }

    /// What a container left in its termination message, or in its log.
    fn last_words(&self, name: &str, restart: u32, exit: &Exit) -> String {
        let text = last_bytes(&self.message_file(name), MAX_MESSAGE).unwrap_or_default();
        if !text.is_empty() {
            return String::from_utf8_lossy(&text).into_owned();
        }
        let from_log = self
            .container(name)
            .is_some_and(|container| container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"));
        if !from_log || exit.code == 0 {
            return String::new();
        }
        let log =
            std::fs::read_to_string(self.places.logs.join(name).join(format!("{restart}.log"))).unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect::<Vec<_>>();
        let text = lines[lines.len().saturating_sub(80)..].join("\n");
        let start = text.len().saturating_sub(2048);
        let start = (start..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
        text[start..].to_owned()
    }

    pub(super) fn probed(&mut self, name: &str, restart: u32, kind: probe::Kind, verdict: probe::Verdict) {
        let Some(slot) = self.slots.get(name).filter(|slot| slot.is_running() && slot.restarts == restart) else {
            return;
        };
        let Some(live) = self.live.get_mut(name) else { return };
        let started = slot.started;
        match (kind, &verdict) {
            (probe::Kind::Readiness, verdict) => live.well = *verdict == probe::Verdict::Well,
            (probe::Kind::Startup, probe::Verdict::Well) => live.well_started = true,
            (_, probe::Verdict::Well) => {}
            (_, probe::Verdict::Unwell(_)) => {}
        }
        if let probe::Verdict::Unwell(why) = &verdict {
            let word = match kind {
                probe::Kind::Startup => "Startup",
                probe::Kind::Liveness => "Liveness",
                probe::Kind::Readiness => "Readiness",
            };
            self.event(Some(name), Kind::Warning, "Unhealthy", format!("{word} probe failed: {why}"));
            if kind != probe::Kind::Readiness {
                let message = format!("Container {name} failed {} probe, will be restarted", word.to_lowercase());
                self.event(Some(name), Kind::Normal, "Killing", message);
                self.stop(name, self.grace_of_probe(name, kind));
            }
        }
        self.refresh(name);
        if !started && self.slots.get(name).is_some_and(|slot| slot.started) {
            start::probes(self, name);
        }
    }

    /// How long a container has that is ended because of a probe: the probe's own grace, or the pod's.
    fn grace_of_probe(&self, name: &str, kind: probe::Kind) -> Duration {
        let probe = self.container(name).and_then(|container| match kind {
            probe::Kind::Startup => container.startup_probe.as_ref(),
            probe::Kind::Liveness => container.liveness_probe.as_ref(),
            probe::Kind::Readiness => None,
        });
        let seconds = probe.and_then(|probe| probe.termination_grace_period_seconds);
        seconds.map_or_else(|| self.grace_of_spec(), |seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
    }

    pub(super) fn hooked(&mut self, name: &str, restart: u32, result: Result<(), String>) {
        let Some(slot) = self.slots.get(name).filter(|slot| slot.is_running() && slot.restarts == restart) else {
            return;
        };
        let started = slot.started;
        match result {
            Ok(()) => {
                if let Some(live) = self.live.get_mut(name) {
                    live.hooked = true;
                }
            }
            Err(why) => {
                self.event(Some(name), Kind::Warning, "FailedPostStartHook", why);
                self.stop(name, self.grace_of_spec());
            }
        }
        self.refresh(name);
        if !started && self.slots.get(name).is_some_and(|slot| slot.started) {
            start::probes(self, name);
        }
    }

    /// Puts together what hooks and probes say.
    pub(super) fn refresh(&mut self, name: &str) {
        if let (Some(slot), Some(live)) = (self.slots.get_mut(name), self.live.get(name)) {
            slot.started = live.hooked && live.well_started;
            slot.ready = slot.started && live.well;
        }
    }
}

/// The end of a file whose content is somebody else's; nothing of what is no file.
fn last_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let meta = file.metadata()?;
    let mut bytes = Vec::new();
    if meta.is_file() {
        file.seek(SeekFrom::Start(meta.len().saturating_sub(most)))?;
        file.take(most).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_that_a_container_wrote_only_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("short"), "no").unwrap();
        assert_eq!(last_bytes(&path("short"), 4096).unwrap(), b"no");
        let huge = File::create(path("huge")).unwrap();
        huge.set_len(64 << 30).unwrap();
        std::os::unix::fs::FileExt::write_at(&huge, b"the end", (64 << 30) - 7).unwrap();
        let end = last_bytes(&path("huge"), 4096).unwrap();
        assert_eq!((end.len(), end.ends_with(b"the end")), (4096, true));
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        assert_eq!(last_bytes(&path("pipe"), 4096).unwrap(), b"");
        std::os::unix::fs::symlink("/etc/hostname", path("link")).unwrap();
        assert!(last_bytes(&path("link"), 4096).is_err());
    }
}
