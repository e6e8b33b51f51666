//! Opening plugins, off the runtime's workers: it reads files and runs foreign code.

use std::sync::{Arc, Mutex};

use switchyard_api::{ActiveNetwork, NetworkSpec};
use switchyard_plugin::{Facts, NodeFacts, PodFacts, Pool};
use switchyard_plugin_host::{CallError, Plugin, Registry};

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
    fault: Mutex<Option<CallError>>,
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
    /// Which block the address of `pod` comes from when it runs on `node`.
    pub(crate) fn pool(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Pool, CallError> {
        let answer = self.plugin.pool(facts, node, pod);
        let mut fault = self.fault.lock().expect("no panic while locked");
        if answer.as_ref().err() != fault.as_ref() {
            *fault = answer.as_ref().err().cloned();
            self.wake.add(());
        }
        answer
    }

    /// What the plugin failed with when it was last asked.
    pub(super) fn fault(&self) -> Option<Refusal> {
        let fault = self.fault.lock().expect("no panic while locked");
        fault.as_ref().map(|error| Refusal {
            reason: if matches!(error, CallError::Panicked { .. }) { "PluginPanicked" } else { "PluginFailed" },
            message: error.to_string(),
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
            let plugin = registry.open(&spec.plugin, &spec.options, spec.hosting);
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
