//! What this node knows of the cluster's pods and namespaces: enough to tell who may talk to whom, and where everybody is.
//!
//! The node's own pods come from the watch that runs them; a second watch brings those bound elsewhere, and leaves out what is of no
//! use here before it takes memory. So no pod is heard of twice, and one of ours is known here before it is started. Label
//! sets, ports and names that many pods share are kept once.

mod intern;
mod slim;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use switchyard_policy::{Labels, NamedPort};
use tokio::sync::mpsc;

use intern::Interner;
pub(crate) use slim::{SlimNamespace, SlimPolicy};
pub(crate) use watch::{elsewhere, follow_elsewhere, follow_namespaces, version};

/// A handle on the node's view of the cluster; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct View {
    state: Arc<Mutex<State>>,
}

/// A pod that is bound to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) uid: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) labels: Arc<Labels>,
    /// The node it is bound to.
    pub(crate) node: Arc<str>,
    /// Its own address, from when it was bound until its end; none for a pod on its node's network.
    pub(crate) ip: Option<IpAddr>,
    pub(crate) host_network: bool,
    /// Named ports of its containers.
    pub(crate) ports: Arc<[NamedPort]>,
    /// It was asked to end.
    pub(crate) deleting: bool,
}

/// What changed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A pod came (`was` is none), changed, or went (`now` is none).
    Pod { was: Option<Arc<Pod>>, now: Option<Arc<Pod>> },
    /// A namespace has these labels now; none when it is gone.
    Namespace { name: Arc<str>, labels: Option<Arc<Labels>> },
    /// All that was there has been told; said once.
    Complete,
}

/// Where news comes from. Each source tells of its own objects only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Here,
    Elsewhere,
    Namespaces,
}

#[derive(Default)]
struct State {
    /// By uid.
    pods: BTreeMap<Arc<str>, (Source, Arc<Pod>)>,
    /// As of which version they have which labels.
    namespaces: BTreeMap<Arc<str>, (u64, Arc<Labels>)>,
    /// Names seen in lists that are being received.
    listing: BTreeMap<Source, BTreeSet<Arc<str>>>,
    /// Sources whose first list is through.
    through: BTreeSet<Source>,
    subscribers: Vec<mpsc::UnboundedSender<Change>>,
    interner: Interner,
}

const SOURCES: usize = 3;

// === impl View ===

impl View {
    /// All changes from now on; those that lead from nothing to what is known now come first. [`Change::Complete`] comes when
    /// all three lists are through.
    pub(crate) fn subscribe(&self) -> mpsc::UnboundedReceiver<Change> {
        let (tell, changes) = mpsc::unbounded_channel();
        let mut state = self.lock();
        for (name, (_, labels)) in &state.namespaces {
            let _ = tell.send(Change::Namespace { name: Arc::clone(name), labels: Some(Arc::clone(labels)) });
        }
        for (_, pod) in state.pods.values() {
            let _ = tell.send(Change::Pod { was: None, now: Some(Arc::clone(pod)) });
        }
        if state.through.len() == SOURCES {
            let _ = tell.send(Change::Complete);
        }
        state.subscribers.push(tell);
        changes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn pod(&mut self, source: Source, pod: Pod) {
        let uid = Arc::clone(&pod.uid);
        if let Some(listing) = self.listing.get_mut(&source) {
            listing.insert(Arc::clone(&uid));
        }
        let was = self.pods.get(&uid).map(|(_, pod)| Arc::clone(pod));
        if was.as_deref() == Some(&pod) {
            return;
        }
        let now = Arc::new(pod);
        self.pods.insert(uid, (source, Arc::clone(&now)));
        self.tell(Change::Pod { was, now: Some(now) });
    }

    fn pod_gone(&mut self, uid: &str) {
        if let Some((_, was)) = self.pods.remove(uid) {
            self.tell(Change::Pod { was: Some(was), now: None });
        }
    }

    /// A namespace as of a version; one that is older than what is known is no news.
    fn namespace(&mut self, name: Arc<str>, version: u64, labels: Arc<Labels>) {
        if let Some(listing) = self.listing.get_mut(&Source::Namespaces) {
            listing.insert(Arc::clone(&name));
        }
        let known = self.namespaces.get(&name);
        if known.is_some_and(|(known, _)| *known > version) {
            return;
        }
        let same = known.is_some_and(|(_, known)| *known == labels);
        self.namespaces.insert(Arc::clone(&name), (version, Arc::clone(&labels)));
        if !same {
            self.tell(Change::Namespace { name, labels: Some(labels) });
        }
    }

    /// A namespace went at a version; one of its name may have come since.
    fn namespace_gone(&mut self, name: &str, version: u64) {
        if self.namespaces.get(name).is_some_and(|(known, _)| *known <= version)
            && let Some((name, _)) = self.namespaces.remove_entry(name)
        {
            self.tell(Change::Namespace { name, labels: None });
        }
    }

    fn begin(&mut self, source: Source) {
        self.listing.insert(source, BTreeSet::new());
    }

    /// A list is through: what it did not hold is gone.
    fn listed(&mut self, source: Source) {
        let listed = self.listing.remove(&source).unwrap_or_default();
        if source == Source::Namespaces {
            let gone: Vec<_> = self.namespaces.keys().filter(|name| !listed.contains(*name)).cloned().collect();
            gone.iter().for_each(|name| self.namespace_gone(name, u64::MAX));
        } else {
            let ours = self.pods.iter().filter(|(_, (from, _))| *from == source);
            let gone: Vec<_> = ours.map(|(uid, _)| Arc::clone(uid)).filter(|uid| !listed.contains(uid)).collect();
            gone.iter().for_each(|uid| self.pod_gone(uid));
        }
        if self.through.insert(source) && self.through.len() == SOURCES {
            self.tell(Change::Complete);
        }
        self.interner.sweep();
    }

    fn tell(&mut self, change: Change) {
        self.subscribers.retain(|tell| tell.send(change.clone()).is_ok());
    }
}

#[cfg(test)]
mod tests;
