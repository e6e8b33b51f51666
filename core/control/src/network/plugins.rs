//! Opening plugins and asking them, off the runtime's workers: it reads files and runs foreign code.

use std::sync::{Arc, Mutex};

use switchyard_api::{ActiveNetwork, NetworkSpec};
use switchyard_plugin::{Facts, NodeFacts, PodFacts, Pool};
use switchyard_plugin_host::{CallError, Plugin, Registry};

use crate::cache::Key;
use crate::config::Config;
use crate::queue::Queue;

/// Opens plugins.
pub(super) struct Plugins {
    registry: Arc<Registry>,
    /// Woken when a plugin fails in a call.
    wake: Queue<()>,
}

/// A plugin that took its options.
pub(crate) struct Opened {
    pub(crate) active: ActiveNetwork,
    plugin: Arc<dyn Plugin>,
    /// What the plugin failed with, and the pod that waits because of it.
    fault: Mutex<Option<(Key, CallError)>>,
    wake: Queue<()>,
}

/// Why a spec cannot become active, or what is active does not work.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

// === impl Opened ===

impl Opened {
    /// Which block the address of the pod `key` comes from when it runs on `node`.
    pub(crate) async fn pool(
        &self,
        key: &Key,
        facts: &Facts,
        node: &NodeFacts,
        pod: PodFacts,
    ) -> Result<Pool, CallError> {
        let (plugin, facts, node) = (self.plugin.clone(), facts.clone(), node.clone());
        let answer = tokio::task::spawn_blocking(move || plugin.pool(&facts, &node, &pod)).await;
        let answer = answer.expect("a plugin's panic ends at its boundary");
        let mut fault = self.fault.lock().expect("no panic while locked");
        match (&answer, &*fault) {
            (Err(error), None) => *fault = Some((key.clone(), error.clone())),
            (Ok(_), Some((of, _))) if of == key => *fault = None,
            _ => return answer,
        }
        self.wake.add(());
        answer
    }

    /// Nobody waits for this pod's address any more.
    pub(crate) fn forget(&self, key: &Key) {
        let mut fault = self.fault.lock().expect("no panic while locked");
        if fault.take_if(|(of, _)| of == key).is_some() {
            self.wake.add(());
        }
    }

    /// What the plugin failed with when it was asked for the address of a pod that still has none.
    pub(super) fn fault(&self) -> Option<Refusal> {
        let fault = self.fault.lock().expect("no panic while locked");
        fault.as_ref().map(|(key, error)| Refusal {
            reason: match error {
                CallError::Panicked { .. } => "PluginPanicked",
                CallError::Hung { .. } | CallError::Timeout { .. } => "PluginHung",
                _ => "PluginFailed",
            },
            message: format!("pod {key}: {error}"),
        })
    }
}

// === impl Plugins ===

impl Plugins {
    pub(super) fn new(config: &Config, wake: Queue<()>) -> Self {
        let here = || Arc::new(Registry::new(config.plugin_path.clone()));
        Self { registry: config.plugins.clone().unwrap_or_else(here), wake }
    }

    /// Inspects, loads and instantiates what the spec names.
    pub(super) async fn check(&self, spec: &NetworkSpec, generation: i64) -> Result<Opened, Refusal> {
        let spec = spec.clone();
        let registry = self.registry.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let plugin = registry.tend(&spec.plugin, &spec.options, spec.hosting);
            plugin
                .map_err(|error| Refusal { reason: error.reason(), message: chain(&error) })
                .map(|plugin| (spec, plugin))
        });
        let (spec, plugin) = opening.await.unwrap_or_else(|error| {
            Err(Refusal { reason: "PluginPanicked", message: format!("opening the plugin: {error}") })
        })?;
        let active = ActiveNetwork {
            plugin: plugin.manifest().name.clone(),
            version: plugin.manifest().version.clone(),
            file: plugin.file().display().to_string(),
            sha256: plugin.sha256().to_owned(),
            options: spec.options,
            hosting: spec.hosting,
            generation,
        };
        Ok(Opened { active, plugin, fault: Mutex::default(), wake: self.wake.clone() })
    }

    /// Opens again what was found good before.
    pub(super) async fn resume(&self, active: &ActiveNetwork) -> Result<Opened, Refusal> {
        let file = Some(&active.file).filter(|file| !file.is_empty());
        let spec = NetworkSpec {
            plugin: file.unwrap_or(&active.plugin).clone(),
            options: active.options.clone(),
            hosting: active.hosting,
            attempt: 0,
        };
        self.check(&spec, active.generation).await
    }
}

/// An error, cause after cause, without repeating what it already says.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}
