//! Opening plugins, off the runtime's workers: it reads files and runs foreign code.

use std::sync::Arc;

use switchyard_api::{ActiveNetwork, NetworkSpec};
use switchyard_plugin::{Facts, NodeFacts, PodFacts, Pool};

use crate::config::Config;

/// Finds and opens plugins on the search path.
pub(super) struct Plugins {
    _config: Config,
}

/// A plugin that took its options.
pub(crate) struct Opened {
    pub(crate) active: ActiveNetwork,
    plugin: Arc<dyn Pools>,
}

/// Why a spec cannot become active.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The one question the control plane has for a plugin.
trait Pools: Send + Sync {
    fn pool(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Pool, String>;
}

struct NodeBlock;

// === impl Opened ===

impl Opened {
    /// Which block the address of `pod` comes from when it runs on `node`.
    pub(crate) fn pool(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Pool, String> {
        self.plugin.pool(facts, node, pod)
    }
}

// === impl Plugins ===

impl Plugins {
    pub(super) fn new(config: &Config) -> Self {
        Self { _config: config.clone() }
    }

    /// Inspects, loads and instantiates what the spec names.
    pub(super) async fn check(&self, spec: &NetworkSpec, generation: i64) -> Result<Opened, Refusal> {
        if spec.plugin != "kubenet" {
            return Err(Refusal {
                reason: "PluginNotFound",
                message: format!("no plugin {:?} on the search path", spec.plugin),
            });
        }
        let active = ActiveNetwork {
            plugin: spec.plugin.clone(),
            version: "0".into(),
            file: String::new(),
            sha256: String::new(),
            options: spec.options.clone(),
            hosting: spec.hosting,
            generation,
        };
        Ok(Opened { active, plugin: Arc::new(NodeBlock) })
    }

    /// Opens again what was found good before.
    pub(super) async fn resume(&self, active: &ActiveNetwork) -> Result<Opened, Refusal> {
        Ok(Opened { active: active.clone(), plugin: Arc::new(NodeBlock) })
    }
}

// === impl NodeBlock ===

impl Pools for NodeBlock {
    fn pool(&self, _: &Facts, node: &NodeFacts, _: &PodFacts) -> Result<Pool, String> {
        let first = node.pod_cidr.hosts().next();
        Ok(Pool { block: node.pod_cidr, reserved: first.into_iter().collect() })
    }
}
