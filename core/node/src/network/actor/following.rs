//! Brings the active network into force, or says why it is not.

use std::path::Path;
use std::sync::Arc;

use switchyard_api::ActiveNetwork;
use switchyard_netstate::UnitId;
use switchyard_plugin::NodeFacts;
use switchyard_plugin_host::Plugin;
use tracing::{info, warn};

use super::Actor;
use super::keeping::Late;
use crate::network::List;
use crate::network::overdue::Failed;
use crate::network::question::Question;

// === impl Actor ===

impl Actor {
    /// Brings the active network into force, if it is not and can be; or takes part in a swap.
    pub(super) async fn follow(&mut self) {
        let complete = [List::Pods, List::Nodes, List::Segments, List::Services, List::Remote, List::Policies]
            .iter()
            .all(|list| self.listed.contains(list));
        let (true, Some(active), Some(node)) = (complete, self.active.clone(), self.node.clone()) else {
            return;
        };
        if let Some(swap) = self.swap.clone().filter(|swap| swap.participants.contains_key(&self.name)) {
            return self.take_part(&node, *swap).await;
        }
        self.conclude(&active).await;
        if let Some((current, _)) = self.plugin.as_mut().filter(|(current, _)| current.is_same(&active)) {
            if *current != active {
                *current = active;
                self.report(None);
            }
            return;
        }
        let is_refused = self.refused.as_ref().is_some_and(|(refused, _)| refused.is_same(&active));
        if is_refused && !self.again.is_due() {
            return;
        }
        let outcome = match self.open_once(&active).await {
            Ok(plugin) => self.bring_in(&node, &active, plugin).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                info!(plugin = %active.plugin, generation = active.generation, "network in force");
                self.report(None);
            }
            Err(error) => {
                warn!(plugin = %active.plugin, generation = active.generation, %error, "network refused");
                if !is_refused {
                    self.again.succeeded();
                }
                self.again.failed();
                self.report(Some((active, error)));
            }
        }
    }

    /// The one of the last attempt, which knows what it failed with.
    async fn open_once(&mut self, network: &ActiveNetwork) -> Result<Arc<dyn Plugin>, String> {
        if let Some((_, plugin)) = self.opened.as_ref().filter(|(opened, _)| opened.is_same(network)) {
            return Ok(plugin.clone());
        }
        let plugin = self.open(network).await?;
        self.opened = Some((network.clone(), plugin.clone()));
        Ok(plugin)
    }

    /// The very file that the control plane has checked, where it can be seen from here; else the plugin of that name.
    pub(super) async fn open(&mut self, network: &ActiveNetwork) -> Result<Arc<dyn Plugin>, String> {
        let (plugins, network) = (self.plugins.clone(), network.clone());
        self.ask(move || {
            let file = Some(&network.file).filter(|file| !file.is_empty() && Path::new(file).exists());
            let name = file.unwrap_or(&network.plugin);
            plugins.tend(name, &network.options, network.hosting).map_err(|error| error.to_string())
        })
        .await
    }

    /// Asks a plugin for everything and makes it so: all or nothing, unless an earlier agent's is taken over, which goes unit by unit.
    async fn bring_in(
        &mut self,
        node: &NodeFacts,
        active: &ActiveNetwork,
        plugin: Arc<dyn Plugin>,
    ) -> Result<(), String> {
        let late = if self.keeper.is_some() {
            let units = self.wishes(node, &plugin).await?;
            let names: Vec<UnitId> = units.keys().cloned().collect();
            self.apply(units).await?;
            self.overdue.tried(names, Failed::new());
            Late::default()
        } else {
            self.adopt(node, &plugin).await?
        };
        if self.plugin.is_none() {
            self.reconcile().await?;
        }
        self.carries(active.clone(), plugin).await;
        self.put_off(late);
        Ok(())
    }

    /// This plugin's answers are in the kernel now.
    pub(super) async fn carries(&mut self, network: ActiveNetwork, plugin: Arc<dyn Plugin>) {
        self.plugin = Some((network, plugin));
        self.opened = None;
        self.overdue.forget_plugin();
        self.unattached.clear();
        self.renew(vec![Question::underlay()]).await;
    }
}
