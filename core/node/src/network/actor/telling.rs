//! What others get to know of it: whether the network is in force, and what is wrong.

use switchyard_api::ActiveNetwork;
use switchyard_netstate::UnitId;
use switchyard_policy::Concern;

use super::Actor;

// === impl Actor ===

impl Actor {
    /// Why units are not as wanted that `concern` is about.
    pub(super) fn complaints(&self, concern: impl Fn(&UnitId) -> bool + Copy) -> impl Iterator<Item = String> {
        self.overdue.why(concern).chain(self.unrepaired.why(concern))
    }

    /// The active network is in force, or is refused, or something else may help those who wait.
    pub(super) fn report(&mut self, refused: Option<(ActiveNetwork, String)>) {
        self.refused = refused;
        self.state.send_modify(|state| {
            if let Some((active, _)) = &self.plugin {
                state.status.generation = active.generation;
                state.status.plugin = active.plugin.clone();
            }
            if self.ongoing.is_none() {
                (state.status.swap, state.plan) = (None, None);
            }
            state.ready = self.plugin.is_some();
            state.attempts += 1;
        });
        self.publish();
    }

    /// Says what is wrong. This wakes nobody who waits: he may be what is wrong.
    pub(super) fn publish(&self) {
        let refused = self.refused.iter().map(|(_, why)| why.clone());
        let mut all = refused.chain(self.unattached.values().cloned()).chain(self.complaints(|_| true));
        let (first, more) = (all.next(), all.count());
        let error = first.map(|first| if more == 0 { first } else { format!("{first} (and {more} more)") });
        let policies = self.complaints(|unit| concerns(None, unit)).next();
        let mut segments = self.overdue.segments();
        segments.extend(self.unrepaired.segments());
        self.state.send_if_modified(|state| {
            let was = (&state.status.error, &state.status.segments, state.needs_route, &state.policies);
            let changed = was != (&error, &segments, self.needs_route, &policies);
            (state.status.error, state.status.segments) = (error, segments);
            (state.needs_route, state.policies) = (self.needs_route, policies);
            changed
        });
    }
}

/// Whether a unit is one of policies, and one that matters to a pod.
pub(super) fn concerns(concern: Option<&Concern>, unit: &UnitId) -> bool {
    match concern {
        Some(concern) => concern.includes(unit),
        None => unit.0.starts_with("policies"),
    }
}
