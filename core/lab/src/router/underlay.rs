//! The upstream device's static routes: what the active network plugin wants there for each node.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use switchyard_api::{ActiveNetwork, Network, edge_role};
use switchyard_netstate::{Fragment, IfName, UnitId};
use switchyard_plugin::{Facts, NodeFacts};
use switchyard_plugin_host::{Plugin, Registry};
use tokio::task::spawn_blocking;
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
}

/// What units of this module are called.
pub(super) const UNIT: &str = "underlay/";

// === impl Underlay ===

impl Underlay {
    pub(super) fn new(facts: Facts, card: IfName, registry: Registry) -> Self {
        Self { facts: Arc::new(facts), card, registry: Arc::new(registry), active: None, plugin: None, error: None }
    }

    /// Follows the Network. A plugin that does not open leaves the routes as they are.
    pub(super) async fn network(&mut self, network: Option<&Network>, nodes: &Mirror<Node>) -> Changes {
        let active = network.and_then(|network| network.status.as_ref()?.active.clone());
        if self.active.as_ref() == Some(&active) {
            return Changes::new();
        }
        self.active = Some(active.clone());
        let Some(active) = active else { return Changes::new() };
        if let Some((current, _)) = self.plugin.as_mut().filter(|(current, _)| current.is_same(&active)) {
            *current = active;
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
                return Changes::new();
            }
        }
        self.all(nodes).await
    }

    /// Opens a network's plugin.
    pub(super) async fn open(&self, network: &ActiveNetwork) -> Result<Arc<dyn Plugin>, String> {
        let (registry, asked) = (self.registry.clone(), network.clone());
        let opened = spawn_blocking(move || registry.open(&asked.file, &asked.options, asked.hosting)).await;
        opened.expect("opening a plugin does not panic").map_err(|error| error.to_string())
    }

    /// Another network's routes are in force now.
    pub(super) fn swapped(&mut self, network: ActiveNetwork, plugin: Arc<dyn Plugin>) {
        self.active = Some(Some(network.clone()));
        (self.plugin, self.error) = (Some((network, plugin)), None);
    }

    /// The network whose routes are in force, and what is wrong with the one that is active.
    pub(super) fn state(&self) -> (Option<&ActiveNetwork>, Option<&String>) {
        (self.plugin.as_ref().map(|(network, _)| network), self.error.as_ref())
    }

    /// Units of all nodes.
    pub(super) async fn all(&self, nodes: &Mirror<Node>) -> Changes {
        let all: Vec<Node> = nodes.iter().map(|(_, node)| node.clone()).collect();
        self.nodes(&all, nodes).await
    }

    /// Units of these nodes; `touched` are versions of them.
    pub(super) async fn nodes(&self, touched: &[Node], nodes: &Mirror<Node>) -> Changes {
        let Some((_, plugin)) = &self.plugin else { return Changes::new() };
        let mut changes = Changes::new();
        for (unit, wish) in self.wishes(plugin, touched, nodes).await {
            match wish {
                Ok(wish) => drop(changes.insert(unit, wish)),
                Err(error) => error!(%unit, %error, "plugin does not say what the underlay needs"),
            }
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
            edge: edge_role(node),
        })
    }
}
