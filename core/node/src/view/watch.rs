//! What the view hears: three streams of events.

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use tracing::warn;

use super::slim::{SlimNamespace, SlimPod, of_pod};
use super::{Source, View};

impl View {
    /// Lets the view listen to the events of this node's own pods, and hands them on.
    pub(crate) fn overhear(&self, event: &watcher::Result<Event<core::Pod>>) {
        let Ok(event) = event else { return };
        let mut state = self.lock();
        let state = &mut *state;
        match event {
            Event::Init => state.begin(Source::Here),
            Event::InitApply(pod) | Event::Apply(pod) => {
                if let Some(pod) = of_pod(pod, &mut state.interner) {
                    state.pod(Source::Here, pod);
                }
            }
            Event::InitDone => state.listed(Source::Here),
            Event::Delete(pod) => state.pod_gone(pod.metadata.uid.as_deref().unwrap_or_default()),
        }
    }

    pub(super) fn hear_pod(&self, event: Event<SlimPod>) {
        let mut state = self.lock();
        let state = &mut *state;
        match event {
            Event::Init => state.begin(Source::Elsewhere),
            Event::InitApply(pod) | Event::Apply(pod) => {
                if let Some(pod) = pod.entry(&mut state.interner) {
                    state.pod(Source::Elsewhere, pod);
                }
            }
            Event::InitDone => state.listed(Source::Elsewhere),
            Event::Delete(pod) => state.pod_gone(pod.uid()),
        }
    }

    /// What somebody was told who asked for a namespace beside the watch, which may lag behind.
    pub(crate) fn learn_namespace(&self, namespace: SlimNamespace) {
        self.hear_namespace(Event::Apply(namespace));
    }

    pub(super) fn hear_namespace(&self, event: Event<SlimNamespace>) {
        let mut state = self.lock();
        let state = &mut *state;
        match event {
            Event::Init => state.begin(Source::Namespaces),
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                let (name, version) = (state.interner.word(namespace.name()), version(&namespace));
                let labels = state.interner.labels(namespace.labels());
                state.namespace(name, version, labels);
            }
            Event::InitDone => state.listed(Source::Namespaces),
            Event::Delete(namespace) => state.namespace_gone(&namespace.name_any(), version(&namespace)),
        }
    }
}

/// When it was written. Where versions are no numbers, the last to be heard counts.
pub(crate) fn version(object: &impl ResourceExt) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

/// The fields of pods that are bound to other nodes.
pub(crate) fn elsewhere(node: &str) -> watcher::Config {
    // Small pages: what is read at once is in memory at once.
    watcher::Config::default().fields(&format!("spec.nodeName!={node},spec.nodeName!=")).page_size(100)
}

/// Follows the pods of other nodes until the stream ends.
pub(crate) async fn follow_elsewhere(view: View, events: impl Stream<Item = watcher::Result<Event<SlimPod>>>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => view.hear_pod(event),
            Err(error) => warn!(%error, "watching the pods of other nodes failed; trying again"),
        }
    }
}

/// Follows namespaces until the stream ends.
pub(crate) async fn follow_namespaces(view: View, events: impl Stream<Item = watcher::Result<Event<SlimNamespace>>>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => view.hear_namespace(event),
            Err(error) => warn!(%error, "watching namespaces failed; trying again"),
        }
    }
}
