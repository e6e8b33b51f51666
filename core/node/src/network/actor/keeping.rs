//! What an earlier agent left, and what others do to it: taken over, compared, told of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switchyard_kernel::{Audit, Engine, Repair};
use switchyard_netstate::{Place, UnitId};
use switchyard_plugin::NodeFacts;
use switchyard_plugin_host::Plugin;

use super::Actor;
use crate::network::engine::tell;
use crate::network::overdue::{self, Failed};

/// What could not be taken over from an earlier agent.
#[derive(Default)]
pub(super) struct Late {
    failed: Failed,
    unanswered: BTreeMap<UnitId, String>,
}

// === impl Actor ===

impl Actor {
    /// Takes over what an earlier agent left, as far as it is wanted and can be. Nothing is touched yet; [`Self::reconcile`] follows, and
    /// touches nothing that is right.
    pub(super) async fn adopt(&mut self, node: &NodeFacts, plugin: &Arc<dyn Plugin>) -> Result<Late, String> {
        let (mut units, unanswered) = self.answered(node, plugin).await?;
        let held = self.overdue.known();
        let names: Vec<UnitId> = held.keys().cloned().collect();
        units.extend(held);
        let (extra, in_swap) = (self.extra.clone(), self.swap.is_some());
        let work = move |engine: &mut Engine| {
            extra.adopt(engine);
            let failed = overdue::adopt(engine, &extra, units);
            if !in_swap {
                extra.sweep(engine);
            }
            failed
        };
        let failed = self.engine.run(work).await.map_err(|gone| gone.to_string())?;
        self.overdue.tried(names, Failed::new());
        // First the ears, then the look, so that nothing is missed in between.
        let keeper = self.engine.keep(self.repairs.0.clone());
        self.keeper = Some(keeper.map_err(|error| format!("watch the kernel: {error}"))?);
        Ok(Late { failed, unanswered })
    }

    /// What could not be taken over is tried again like anything else.
    pub(super) fn put_off(&mut self, late: Late) {
        self.overdue.tried([], late.failed);
        late.unanswered.into_iter().for_each(|(unit, why)| self.overdue.unanswered(unit, why));
    }

    pub(super) async fn reconcile(&mut self) -> Result<(), String> {
        let work = |engine: &mut Engine| {
            let places = engine.places().iter().map(|(place, _)| place.clone()).collect();
            engine.reconcile().map(|audit| (places, audit))
        };
        let outcome = self.engine.run(work).await.map_err(|gone| gone.to_string())?;
        let (places, audit) = outcome.map_err(|error| error.to_string())?;
        tell(&audit);
        self.stand(&places, &audit);
        self.drop_flows().await;
        Ok(())
    }

    /// Something was compared with the kernel. Where room was made, what had none is tried at once.
    pub(super) async fn repaired(&mut self, repair: Repair) {
        if let Ok(audit) = &repair.outcome {
            self.stand(&repair.places, audit);
        }
        if !repair.freed.is_empty() {
            self.again.hasten();
            self.overdue.hasten();
            self.try_again().await;
        }
    }

    /// How things stand in some places.
    fn stand(&mut self, places: &BTreeSet<Place>, audit: &Audit) {
        if self.unrepaired.note(places, audit) {
            self.state.send_modify(|state| state.attempts += 1);
            self.publish();
        }
    }
}
