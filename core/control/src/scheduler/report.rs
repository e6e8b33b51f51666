//! Telling people why a pod has no node: an event, and its condition PodScheduled.

use std::sync::{Arc, Mutex};

use foldhash::{HashMap, HashMapExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::NAME;
use crate::cache::Key;
use crate::context::Context;
use crate::error::{Result, unless_gone};
use crate::queue::{Next, Queue};
use crate::{meta, pod};

#[derive(Clone)]
pub(super) struct Reports {
    queue: Queue<Key>,
    /// What was said last about each pod that waits.
    said: Arc<Mutex<HashMap<Key, String>>>,
}

const WRITERS: usize = 8;

// === impl Reports ===

impl Reports {
    pub(super) fn new() -> Self {
        Self { queue: Queue::new(), said: Arc::new(Mutex::new(HashMap::new())) }
    }

    pub(super) fn say(&self, key: &Key, message: String) {
        let mut said = self.said.lock().expect("no panic while locked");
        if said.get(key) != Some(&message) {
            said.insert(key.clone(), message);
            self.queue.add(key.clone());
        }
    }

    /// There is nothing to say about it any more.
    pub(super) fn forget(&self, key: &Key) {
        self.said.lock().expect("no panic while locked").remove(key);
    }

    pub(super) async fn run(self, context: Arc<Context>) {
        let queue = self.queue.clone();
        queue.run("scheduler reports", WRITERS, |key| self.write(&context, key)).await;
    }

    async fn write(&self, context: &Context, key: Key) -> Result<Next> {
        let message = self.said.lock().expect("no panic while locked").get(&key).cloned();
        let (Some(message), Some(pod)) = (message, context.caches.pods.get(&key)) else { return Ok(Next::Change) };
        let known = pod::condition(&pod, "PodScheduled").and_then(|condition| condition.message.as_ref());
        if known == Some(&message) || pod::node(&pod).is_some() {
            return Ok(Next::Change);
        }
        context.events.warning(NAME, &*pod, "FailedScheduling", message.clone());
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": meta::now(),
        });
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let api = context.api::<Pod>(&key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        if let Some(pod) = unless_gone(written)? {
            context.caches.pods.wrote(pod);
        }
        Ok(Next::Change)
    }
}
