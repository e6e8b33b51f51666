//! Copies of what the API server holds, kept by watches.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::stream::BoxStream;
use futures::{StreamExt as _, future};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tracing::debug;

/// Names an object; the namespace of a cluster-scoped one is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectName {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// All objects of one kind.
#[derive(Debug)]
pub(super) struct Mirror<K> {
    objects: BTreeMap<ObjectName, K>,
    /// The list that is being received, which will replace `objects`.
    coming: Option<BTreeMap<ObjectName, K>>,
    complete: bool,
}

/// Events of one kind, for ever: an error is retried.
pub(super) fn watch<K>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = switchyard_watch::watch(api, config).filter_map(|event| {
        future::ready(event.inspect_err(|error| debug!(%error, kind = %K::kind(&()), "watch interrupted")).ok())
    });
    events.boxed()
}

// === impl ObjectName ===

impl ObjectName {
    pub(super) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(super) fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

// === impl Mirror ===

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), coming: None, complete: false }
    }
}

impl<K: Resource + Clone> Mirror<K> {
    /// Takes an event in. Answers each version that it brought or did away with.
    pub(super) fn take(&mut self, event: Event<K>) -> Vec<K> {
        match event {
            Event::Apply(new) => {
                let old = self.objects.insert(ObjectName::of(&new), new.clone());
                old.into_iter().chain([new]).collect()
            }
            Event::Delete(gone) => {
                let old = self.objects.remove(&ObjectName::of(&gone));
                old.into_iter().chain([gone]).collect()
            }
            Event::Init => {
                self.coming = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                self.coming.get_or_insert_default().insert(ObjectName::of(&object), object);
                Vec::new()
            }
            Event::InitDone => {
                let new = self.coming.take().unwrap_or_default();
                let old = std::mem::replace(&mut self.objects, new);
                self.complete = true;
                let same = |a: &K, b: &K| {
                    a.meta().uid == b.meta().uid && a.meta().resource_version == b.meta().resource_version
                };
                let gone = old.iter().filter(|(name, old)| !self.objects.get(name).is_some_and(|new| same(old, new)));
                let came = self.objects.iter().filter(|(name, new)| !old.get(name).is_some_and(|old| same(old, new)));
                gone.chain(came).map(|(_, object)| object.clone()).collect()
            }
        }
    }

    /// Whether a whole list has been received.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&K> {
        self.objects.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &K)> {
        self.objects.iter()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;

    use super::*;

    fn node(name: &str, version: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.metadata.resource_version = Some(version.into());
        node
    }

    fn names(nodes: &[Node]) -> Vec<&str> {
        nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect()
    }

    #[test]
    fn a_new_list_answers_only_what_differs_from_the_old_one() {
        let mut mirror = Mirror::default();
        for event in [Event::Init, Event::InitApply(node("a", "1")), Event::InitApply(node("b", "1"))] {
            assert!(mirror.take(event).is_empty());
        }
        assert!(!mirror.is_complete());
        assert_eq!(names(&mirror.take(Event::InitDone)), ["a", "b"]);
        assert_eq!(names(&mirror.take(Event::Apply(node("b", "2")))), ["b", "b"]);
        mirror.take(Event::Init);
        mirror.take(Event::InitApply(node("b", "2")));
        assert_eq!(mirror.iter().count(), 2, "the old list stays until the new one is whole");
        assert_eq!(names(&mirror.take(Event::InitDone)), ["a"]);
        assert!(mirror.get(&ObjectName::new("", "a")).is_none());
    }
}
