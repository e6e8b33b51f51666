//! Plugins that are linked into the program: the same interface without a library, for tests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use switchyard_netstate::{Fragment, Place};
use switchyard_plugin::{Facts, Manifest, NetworkPlugin, NodeFacts, Options, OptionsError, PodFacts, Pool};

use crate::plugin::{CallError, Plugin, State, confined, on};

/// How to make an instance of a plugin that is linked in.
pub(crate) struct Static {
    pub(crate) manifest: Manifest,
    make: fn(Manifest, &Options) -> Result<Arc<dyn Plugin>, OptionsError>,
}

struct Linked<P> {
    manifest: Manifest,
    plugin: P,
    poisoned: AtomicBool,
}

// === impl Static ===

impl Static {
    pub(crate) fn of<P: NetworkPlugin>(manifest: Manifest) -> Self {
        let make = |manifest, options: &Options| {
            let plugin = P::new(options)?;
            Ok(Arc::new(Linked { manifest, plugin, poisoned: AtomicBool::new(false) }) as Arc<dyn Plugin>)
        };
        Self { manifest, make }
    }

    pub(crate) fn start(&self, options: &Options) -> Result<Arc<dyn Plugin>, OptionsError> {
        (self.make)(self.manifest.clone(), options)
    }
}

// === impl Linked ===

impl<P: NetworkPlugin> Linked<P> {
    fn ask<T>(&self, operation: &'static str, call: impl FnOnce(&P) -> T) -> Result<T, CallError> {
        let panicked = |message: &str| CallError::Panicked { operation, message: message.to_owned() };
        if self.poisoned.load(Ordering::Acquire) {
            return Err(panicked("an earlier call did"));
        }
        catch_unwind(AssertUnwindSafe(|| call(&self.plugin))).map_err(|_| {
            self.poisoned.store(true, Ordering::Release);
            panicked("see the log")
        })
    }
}

impl<P: NetworkPlugin> Plugin for Linked<P> {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn file(&self) -> &Path {
        Path::new("")
    }

    fn sha256(&self) -> &str {
        ""
    }

    fn state(&self) -> State {
        if self.poisoned.load(Ordering::Acquire) { State::Poisoned } else { State::Started }
    }

    fn pool(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Pool, CallError> {
        self.ask("pool", |plugin| plugin.pool(facts, node, pod))
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError> {
        confined("node", self.ask("node", |plugin| plugin.node(facts, node))?, |place| on(place, &node.name))
    }

    fn peer(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Result<Fragment, CallError> {
        confined("peer", self.ask("peer", |plugin| plugin.peer(facts, node, peer))?, |place| on(place, &node.name))
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError> {
        let own = |place: &Place| on(place, &node.name) || *place == Place::pod(&*pod.uid);
        confined("pod", self.ask("pod", |plugin| plugin.pod(facts, node, pod))?, own)
    }

    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError> {
        let answer = self.ask("remote", |plugin| plugin.remote(facts, node, peer, pod))?;
        confined("remote", answer, |place| on(place, &node.name))
    }

    fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError> {
        let answer = self.ask("underlay", |plugin| plugin.underlay(facts, node))?;
        confined("underlay", answer, |place| *place == Place::Router)
    }
}
