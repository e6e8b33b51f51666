//! Values that many objects share, kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

use switchyard_policy::{Labels, NamedPort};

/// Keeps one copy of each value for as long as somebody uses it.
#[derive(Default)]
pub(super) struct Interner {
    words: BTreeSet<Arc<str>>,
    labels: BTreeSet<Arc<Labels>>,
    ports: BTreeSet<Arc<[NamedPort]>>,
    /// Size at which unused values are looked for.
    limit: usize,
}

/// Values that may lie unused before anyone looks.
const SLACK: usize = 256;

// === impl Interner ===

impl Interner {
    pub(super) fn word(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return Arc::clone(known);
        }
        self.make_room();
        let word: Arc<str> = word.into();
        self.words.insert(Arc::clone(&word));
        word
    }

    pub(super) fn labels(&mut self, labels: Labels) -> Arc<Labels> {
        if let Some(known) = self.labels.get(&labels) {
            return Arc::clone(known);
        }
        self.make_room();
        let labels = Arc::new(labels);
        self.labels.insert(Arc::clone(&labels));
        labels
    }

    pub(super) fn ports(&mut self, ports: Vec<NamedPort>) -> Arc<[NamedPort]> {
        if let Some(known) = self.ports.get(ports.as_slice()) {
            return Arc::clone(known);
        }
        self.make_room();
        let ports: Arc<[NamedPort]> = ports.into();
        self.ports.insert(Arc::clone(&ports));
        ports
    }

    /// Lets go of what nobody uses.
    pub(super) fn sweep(&mut self) {
        self.words.retain(|one| Arc::strong_count(one) > 1);
        self.labels.retain(|one| Arc::strong_count(one) > 1);
        self.ports.retain(|one| Arc::strong_count(one) > 1);
        self.limit = 2 * self.len() + SLACK;
    }

    fn make_room(&mut self) {
        if self.len() >= self.limit.max(SLACK) {
            self.sweep();
        }
    }

    fn len(&self) -> usize {
        self.words.len() + self.labels.len() + self.ports.len()
    }
}
