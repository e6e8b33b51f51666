//! Further namespaces on the node, made when a network asks for them and kept until none does. Like those of pods they are bound to
//! a file, so they outlive the agent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use switchyard_kernel::{Engine, Netns};
use switchyard_netstate::Place;
use tracing::{info, warn};

use crate::network::Units;

/// The namespaces' files, one by the name of each.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    node: Arc<str>,
    dir: Arc<Path>,
}

// === impl Extra ===

impl Extra {
    pub(super) fn new(node: &str, dir: PathBuf) -> Self {
        Self { node: node.into(), dir: dir.into() }
    }

    /// Opens those that an earlier agent made.
    pub(super) fn adopt(&self, engine: &mut Engine) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let place = Place::Extra { node: self.node.to_string(), name };
            // A file without a namespace is one that was to become one.
            if let Ok(netns) = Netns::open(entry.path()) {
                engine.add_place(place, netns);
            }
        }
    }

    /// Makes those that these units speak about and that are not there.
    pub(super) fn make(&self, engine: &mut Engine, units: &Units) -> Result<(), String> {
        let wanted = units.values().flatten().flat_map(|fragment| fragment.places().map(|(place, _)| place));
        let missing: BTreeSet<&Place> = wanted.filter(|place| !engine.places().contains(place)).collect();
        for place in missing {
            let Some(path) = self.path(place) else { continue };
            let netns = self.create(&path).map_err(|error| format!("make {place} at {}: {error}", path.display()))?;
            info!(%place, "made");
            engine.add_place(place.clone(), netns);
        }
        Ok(())
    }

    /// Removes those in which nothing is wanted any more.
    pub(super) fn sweep(&self, engine: &mut Engine) {
        let wanted: BTreeSet<&Place> = engine.ledger().places().collect();
        let places = engine.places().iter().map(|(place, _)| place);
        let idle: Vec<Place> =
            places.filter(|place| self.path(place).is_some() && !wanted.contains(place)).cloned().collect();
        for place in idle {
            let Some(path) = self.path(&place) else { continue };
            engine.remove_place(&place);
            match Netns::unbind(&path) {
                Ok(()) => info!(%place, "removed"),
                Err(error) => warn!(%place, %error, "a namespace that nobody wants stays"),
            }
        }
    }

    fn create(&self, path: &Path) -> std::io::Result<Netns> {
        std::fs::create_dir_all(&self.dir)?;
        let netns = Netns::create()?;
        netns.bind(path)?;
        Ok(netns)
    }

    /// The file of a place, if it is one of these.
    fn path(&self, place: &Place) -> Option<PathBuf> {
        match place {
            Place::Extra { node, name } if **node == *self.node && !name.starts_with('.') => Some(self.dir.join(name)),
            _ => None,
        }
    }
}
