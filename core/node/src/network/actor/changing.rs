//! Changes of the kernel, and the flows that they make void.

use std::net::IpAddr;

use switchyard_kernel::Engine;
use switchyard_kernel::conntrack::{Filter, Flow};
use switchyard_netstate::{Place, UnitId};
use switchyard_policy::Concern;
use tracing::warn;

use super::Actor;
use super::telling::concerns;
use crate::network::Units;
use crate::network::overdue::{self, Failed};

/// Protocol number.
const UDP: u8 = 17;

// === impl Actor ===

impl Actor {
    /// A change, with what is overdue. What fails of it is overdue from now on.
    pub(super) async fn change(&mut self, units: Units) {
        if self.keeper.is_none() {
            return self.overdue.hold(units);
        }
        let mut all = self.overdue.known();
        all.extend(units);
        if all.is_empty() {
            return;
        }
        let (names, before): (Vec<UnitId>, _) = (all.keys().cloned().collect(), self.overdue.len());
        let failed = self.carry_out(all).await;
        self.overdue.tried(names, failed);
        if self.overdue.len() < before {
            self.state.send_modify(|state| state.attempts += 1);
        }
        self.publish();
    }

    /// Whether policies are in force as far as somebody is concerned; if so, and for a new pod, forgets the flows of its address.
    pub(super) async fn enforced(&mut self, forget: Option<IpAddr>, concern: Option<Concern>) -> Result<(), String> {
        if self.keeper.is_none() {
            // Nothing can be attached either, but what is not forgotten now never is.
            return forget.map_or(Ok(()), |_| Err("the network is not in force yet".into()));
        }
        if let Some(why) = self.complaints(|unit| concerns(concern.as_ref(), unit)).next() {
            return Err(why);
        }
        let Some(address) = forget else { return Ok(()) };
        let place = Place::node(&self.name);
        let filter = Filter { party: Some(address), ..Filter::default() };
        let outcome = self.engine.run(move |engine| engine.drop_flows(&place, &filter)).await;
        outcome.map_err(|gone| gone.to_string())?.map(drop).map_err(|error| error.to_string())
    }

    /// Lets UDP flows find their way anew that lead where nobody is.
    pub(super) async fn drop_flows(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        if stale.is_empty() {
            return;
        }
        let place = Place::node(&self.name);
        let work = move |engine: &mut Engine| {
            let is_stale = |flow: &Flow| {
                let (to, from) = (flow.original, flow.reply);
                stale.takes((to.destination, to.destination_port), (from.source, from.source_port))
            };
            let filter = Filter { proto: Some(UDP), ..Filter::default() };
            if let Err(error) = engine.drop_flows_if(&place, &filter, is_stale) {
                warn!(%error, "UDP flows of an endpoint that is gone stay");
            }
        };
        let _ = self.engine.run(work).await;
    }

    /// All or nothing.
    pub(super) async fn apply(&self, units: Units) -> Result<(), String> {
        let extra = self.extra.clone();
        let work = move |engine: &mut Engine| overdue::apply(engine, &extra, units);
        self.engine.run(work).await.unwrap_or_else(|gone| Err(gone.to_string()))
    }

    pub(super) async fn carry_out(&self, units: Units) -> Failed {
        let (extra, wanted) = (self.extra.clone(), units.clone());
        let work = move |engine: &mut Engine| overdue::carry_out(engine, &extra, wanted);
        let all = |gone: String| units.into_iter().map(|(unit, wish)| (unit, (wish, gone.clone()))).collect();
        self.engine.run(work).await.unwrap_or_else(|gone| all(gone.to_string()))
    }
}
