//! The upstream device's static routes: what the active network plugin wants there for each node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use switchyard_api::{ActiveNetwork, Network, edge_role, uplink_mtu};
use switchyard_netstate::{Fragment, IfName, UnitId};
use switchyard_plugin::{Facts, NodeFacts};
use switchyard_plugin_host::{Plugin, Registry};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use super::Changes;
use super::watch::{Mirror, ObjectName};

/// State of the underlay.
pub(super) struct Underlay {
    facts: Arc<Facts>,
    card: IfName,
    registry: Arc<Registry>,
    /// The network that was last seen active, whether or not its plugin could be opened; `None` before the first look.
    active: Option<Option<ActiveNetwork>>,
    plugin: Option<(ActiveNetwork, Arc<dyn Plugin>)>,
    /// Why the active network's plugin could not be opened.
    error: Option<String>,
    /// Nodes of which the plugin does not say what they need, and why.
    unanswered: BTreeMap<String, String>,
    /// When it is tried again, and how long the pause was.
    again: Option<(Instant, Duration)>,
}

/// Pause before a plugin that did not open, or did not answer, is tried again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What units of this module are called.
pub(super) const UNIT: &str = "underlay/";

// === impl Underlay ===

impl Underlay {
    pub(super) fn new(facts: Facts, card: IfName, registry: Registry) -> Self {
        Self {
            facts: Arc::new(facts),
            card,
            registry: Arc::new(registry),
            active: None,
            plugin: None,
            error: None,
            unanswered: BTreeMap::new(),
            again: None,
        }
    }

    /// Follows the Network. A plugin that does not open leaves the routes as they are.
    pub(super) async fn network(&mut self, network: Option<&Network>, nodes: &Mirror<Node>) -> Changes {
        let active = network.and_then(|network| network.status.as_ref()?.active.clone());
        if self.active.as_ref() == Some(&active) {
            return Changes::new();
        }
        self.active = Some(active.clone());
        self.follow(active, nodes).await
    }

    async fn follow(&mut self, active: Option<ActiveNetwork>, nodes: &Mirror<Node>) -> Changes {
        let Some(active) = active else { return Changes::new() };
        if let Some((current, _)) = self.plugin.as_mut().filter(|(current, _)| current.is_same(&active)) {
            *current = active;
            self.error = None;
            return Changes::new();
        }
        match self.open(&active).await {
            Ok(plugin) => {
                info!(plugin = %active.plugin, generation = active.generation, "network plugin opened");
                (self.plugin, self.error) = (Some((active, plugin)), None);
            }
            Err(error) => {
                error!(plugin = %active.plugin, file = %active.file, %error, "cannot open network plugin");
                self.error = Some(error);
                self.put_off();
                return Changes::new();
            }
        }
        self.all(nodes).await
    }

    /// Opens a network's plugin.
    pub(super) async fn open(&self, network: &ActiveNetwork) -> Result<Arc<dyn Plugin>, String> {
        let (registry, asked) = (self.registry.clone(), network.clone());
        let opened = spawn_blocking(move || registry.tend(&asked.file, &asked.options, asked.hosting)).await;
        opened.expect("opening a plugin does not panic").map_err(|error| error.to_string())
    }

    /// Another network's routes are in force now.
    pub(super) fn swapped(&mut self, network: ActiveNetwork, plugin: Arc<dyn Plugin>) {
        self.active = Some(Some(network.clone()));
        (self.plugin, self.error) = (Some((network, plugin)), None);
        self.unanswered.clear();
    }

    /// The network whose routes are in force, and what is wrong with the one that is active.
    pub(super) fn state(&self) -> (Option<&ActiveNetwork>, Option<String>) {
        let unanswered = || {
            let (node, why) = self.unanswered.first_key_value()?;
            let more = self.unanswered.len() - 1;
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            Some(format!("node {node}: {why}{more}"))
        };
        (self.plugin.as_ref().map(|(network, _)| network), self.error.clone().or_else(unanswered))
    }

    /// Ends when it is time to try again what the plugin did not do.
    pub(super) async fn due(&self) {
        match self.again {
            Some((at, _)) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Tries it.
    pub(super) async fn try_again(&mut self, nodes: &Mirror<Node>) -> Changes {
        if self.error.is_some() {
            return self.follow(self.active.clone().flatten(), nodes).await;
        }
        let named = |name: &String| nodes.get(&ObjectName::new("", name)).cloned();
        let again: Vec<Node> = self.unanswered.keys().filter_map(named).collect();
        self.unanswered.retain(|name, _| named(name).is_some());
        self.nodes(&again, nodes).await
    }

    fn put_off(&mut self) {
        let now = Instant::now();
        // What fails before the pause is over does not make the next one longer.
        let pause = match self.again {
            None => FIRST_PAUSE,
            Some((at, _)) if at > now => return,
            Some((_, pause)) => (pause * 2).min(LONGEST_PAUSE),
        };
        self.again = Some((now + pause, pause));
    }

    /// Units of all nodes.
    pub(super) async fn all(&mut self, nodes: &Mirror<Node>) -> Changes {
        let all: Vec<Node> = nodes.iter().map(|(_, node)| node.clone()).collect();
        self.nodes(&all, nodes).await
    }

    /// Units of these nodes; `touched` are versions of them.
    pub(super) async fn nodes(&mut self, touched: &[Node], nodes: &Mirror<Node>) -> Changes {
        let Some((_, plugin)) = self.plugin.clone() else { return Changes::new() };
        let mut changes = Changes::new();
        for (unit, wish) in self.wishes(&plugin, touched, nodes).await {
            let node = unit.0.strip_prefix(UNIT).unwrap_or_default().to_owned();
            match wish {
                Ok(wish) => {
                    self.unanswered.remove(&node);
                    changes.insert(unit, wish);
                }
                Err(error) => {
                    error!(%unit, %error, "plugin does not say what the underlay needs");
                    self.unanswered.insert(node, error);
                }
            }
        }
        match self.unanswered.is_empty() {
            true => self.again = None,
            false => self.put_off(),
        }
        changes
    }

    /// What a plugin wants for these nodes.
    pub(super) async fn wishes(
        &self,
        plugin: &Arc<dyn Plugin>,
        touched: &[Node],
        nodes: &Mirror<Node>,
    ) -> Vec<(UnitId, Result<Option<Fragment>, String>)> {
        let mut wishes = Vec::new();
        for name in touched.iter().map(ObjectName::of) {
            let unit = UnitId(format!("{UNIT}{}", name.name));
            let Some(facts) = nodes.get(&name).and_then(|node| self.facts_of(node)) else {
                wishes.push((unit, Ok(None)));
                continue;
            };
            let (plugin, cluster) = (plugin.clone(), self.facts.clone());
            let answer = spawn_blocking(move || plugin.underlay(&cluster, &facts)).await;
            let answer = answer.expect("a plugin's panic ends at its boundary");
            wishes.push((unit, answer.map(Some).map_err(|error| error.to_string())));
        }
        wishes
    }

    /// Whether it is known what is wanted. Not while the plugin of a network that is active has never been opened.
    pub(super) fn is_settled(&self) -> bool {
        match &self.active {
            None => false,
            Some(active) => active.is_none() || self.plugin.is_some(),
        }
    }

    fn facts_of(&self, node: &Node) -> Option<NodeFacts> {
        let addresses = node.status.as_ref()?.addresses.iter().flatten();
        let internal = addresses.filter(|address| address.type_ == "InternalIP");
        let address: IpAddr = internal.filter_map(|address| address.address.parse().ok()).next()?;
        Some(NodeFacts {
            name: node.metadata.name.clone()?,
            address,
            pod_cidr: node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?,
            uplink: self.card.clone(),
            mac: None,
            mtu: uplink_mtu(node).filter(|mtu| *mtu < self.facts.underlay_mtu),
            edge: edge_role(node),
        })
    }
}
