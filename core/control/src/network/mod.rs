//! The Network controller: from what is wanted of the network to what everybody follows.
//!
//! A spec is *checked* by opening its plugin here, with its options. A good one becomes `status.active`, which agents and the
//! router follow; a bad one becomes the condition `Ready=False` with the reason, and nothing else changes. What agents report on
//! their Node objects is gathered in `status.nodes`.

mod plugins;
mod status;

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use kube::api::{ObjectMeta, PostParams};
use switchyard_api::{Network, NetworkSpec, NetworkStatus, names};

use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, code};
use crate::queue::{Next, Queue};

pub(crate) use plugins::Opened;
use plugins::{Plugins, Refusal};

/// Takes a Network from one spec to the next. A live swap is another one of these steps, between `check` and `status.active`.
struct Driver {
    context: Arc<Context>,
    plugins: Plugins,
    /// The last spec that was found bad, by its generation. The verdict stands until the spec changes or we start anew.
    refused: Mutex<Option<(i64, Refusal)>>,
}

const NAME: &str = "network-controller";

pub(crate) fn controller(context: &Arc<Context>) -> BoxFuture<'static, ()> {
    let queue = Queue::new();
    let wake = queue.clone();
    context.caches.networks.on_change(move |_, _| wake.add(()));
    let wake = queue.clone();
    context.caches.nodes.on_change(move |old, new| {
        if old.map(|node| status::report(node)) != new.map(|node| status::report(node)) {
            wake.add(());
        }
    });
    let driver = Driver {
        context: context.clone(),
        plugins: Plugins::new(&context.config, queue.clone()),
        refused: Mutex::default(),
    };
    Box::pin(async move {
        driver.context.caches.networks.synced().await;
        driver.context.caches.nodes.synced().await;
        queue.add(());
        queue.run(NAME, 1, |()| driver.step()).await;
    })
}

// === impl Driver ===

impl Driver {
    async fn step(&self) -> Result<Next> {
        let Some(network) = self.context.caches.networks.get(&Key::cluster(names::NETWORK)) else {
            self.create().await?;
            return Ok(Next::Change);
        };
        let old = network.status.clone().unwrap_or_default();
        let generation = network.metadata.generation.unwrap_or(0);
        let mut status = old.clone();
        let refusal = self.follow(&network.spec, generation, &mut status).await;
        status.observed_generation = generation;
        status.nodes = status::reports(&self.context.caches.nodes.all());
        let (ready, reason, message) = status::ready(refusal.as_ref(), &status);
        let changed = status::set_ready(&mut status, ready, reason, message.clone());
        if serde_json::to_value(&status).ok() == serde_json::to_value(&old).ok() {
            return Ok(Next::Change);
        }
        if changed {
            if ready == "True" {
                self.context.events.normal(NAME, &*network, reason, message);
            } else if refusal.is_some() {
                self.context.events.warning(NAME, &*network, reason, message);
            }
        }
        self.write(&network, status).await?;
        Ok(Next::Change)
    }

    /// Brings `status.active`, and the plugin that runs here, to what the spec says; or says why not.
    async fn follow(&self, spec: &NetworkSpec, generation: i64, status: &mut NetworkStatus) -> Option<Refusal> {
        let is_new = status.active.as_ref().is_none_or(|active| active.generation != generation);
        if !is_new {
            return self.resume(status).await;
        }
        let refused = self.refused.lock().expect("no panic while locked").clone();
        if let Some((_, refusal)) = refused.filter(|(refused, _)| *refused == generation) {
            return Some(refusal);
        }
        match self.plugins.check(spec, generation).await {
            Ok(opened) => {
                self.activate(opened, status);
                None
            }
            Err(refusal) => {
                *self.refused.lock().expect("no panic while locked") = Some((generation, refusal.clone()));
                self.resume(status).await;
                Some(refusal)
            }
        }
    }

    /// What was active goes on, also after a start; a file that is another one by now is a new plugin.
    async fn resume(&self, status: &mut NetworkStatus) -> Option<Refusal> {
        let active = status.active.clone()?;
        let running = self.context.network.borrow().clone();
        if let Some(running) = running.filter(|running| running.active == active) {
            return running.fault();
        }
        match self.plugins.resume(&active).await {
            Ok(opened) => {
                self.activate(opened, status);
                None
            }
            Err(refusal) => Some(refusal),
        }
    }

    fn activate(&self, opened: Opened, status: &mut NetworkStatus) {
        let active = &opened.active;
        tracing::info!(plugin = active.plugin, version = active.version, file = active.file, "network");
        status.active = Some(active.clone());
        self.context.network.send_replace(Some(Arc::new(opened)));
    }

    async fn create(&self) -> Result<()> {
        let network = Network {
            api_version: format!("{}/{}", names::GROUP, names::VERSION),
            kind: "Network".into(),
            metadata: ObjectMeta { name: Some(names::NETWORK.into()), ..ObjectMeta::default() },
            spec: self.context.config.network.clone(),
            status: None,
        };
        match self.context.cluster_api().create(&PostParams::default(), &network).await {
            Ok(network) => self.context.caches.networks.wrote(network),
            Err(error) if code(&error) == Some(409) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn write(&self, network: &Network, status: NetworkStatus) -> Result<()> {
        let network = Network { status: Some(status), ..network.clone() };
        let api = self.context.cluster_api::<Network>();
        let written = api.replace_status(names::NETWORK, &PostParams::default(), &network).await?;
        self.context.caches.networks.wrote(written);
        Ok(())
    }
}
