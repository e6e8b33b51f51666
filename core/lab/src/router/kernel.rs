//! Brings units into the kernel of this namespace, tries again what failed, and mends what others change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use switchyard_api::names;
use switchyard_kernel::conntrack::{Filter, Flow};
use switchyard_kernel::{Engine, Keeper, Netns, Owner, Places, Repair};
use switchyard_netstate::{Fragment, Place, UnitId};
use switchyard_services::Stale;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Changes;

/// The kernel's network in this namespace, as far as it is the router's.
pub(super) struct Kernel {
    engine: Arc<Mutex<Engine>>,
    /// What has not been carried out, and when it is tried again.
    unmade: BTreeMap<UnitId, Unmade>,
    again: Instant,
    /// UDP flows to be dropped once the rules they would follow are in force.
    stale: Stale,
    /// Watches once everything is wanted that is; before that it would remove what an earlier life of this process left.
    keeper: Option<Keeper>,
    /// A change of networks is half done; what else is to change waits until it is over.
    is_halfway: bool,
}

/// What a unit wants and does not have.
struct Unmade {
    wish: Option<Fragment>,
    why: Why,
}

/// Why something is not in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A change of networks is half done.
    NotYet,
    /// The kernel refused.
    Refused(String),
}

/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Protocol number.
const UDP: u8 = 17;

// === impl Kernel ===

impl Kernel {
    /// The namespace that the calling thread is in.
    pub(super) fn open() -> anyhow::Result<Self> {
        let mut places = Places::new();
        places.add(Place::Router, Netns::current().context("open the router's own namespace")?);
        let engine = Engine::new(Owner { protocol: names::OWNER_ROUTER }, places);
        Ok(Self {
            engine: Arc::new(Mutex::new(engine)),
            unmade: BTreeMap::new(),
            again: Instant::now(),
            stale: Stale::default(),
            keeper: None,
            is_halfway: false,
        })
    }

    /// Makes units want this, besides what failed before.
    pub(super) async fn set(&mut self, changes: Changes) {
        if self.is_halfway {
            let later = changes.into_iter().map(|(unit, wish)| (unit, Unmade { wish, why: Why::NotYet }));
            self.unmade.extend(later);
            return;
        }
        let due = !self.unmade.is_empty() && self.again <= Instant::now();
        if changes.is_empty() && !due {
            return;
        }
        let before = std::mem::take(&mut self.unmade);
        let mut all: Changes = before.into_iter().map(|(unit, unmade)| (unit, unmade.wish)).collect();
        all.extend(changes);
        self.unmade = self.on_engine(move |engine| carry_out(engine, all)).await;
        self.again = Instant::now() + PAUSE;
    }

    /// Why what a unit wants is not in the kernel; none if it is.
    pub(super) fn why_not(&self, unit: &UnitId) -> Option<&Why> {
        self.unmade.get(unit).map(|unmade| &unmade.why)
    }

    /// Lets UDP flows find their way anew that lead where nobody is.
    pub(super) async fn drop_flows(&mut self, stale: Stale) {
        self.stale.add(stale);
        let is_waiting = self.is_halfway || self.unmade.keys().any(|unit| unit.0.starts_with("external"));
        if self.stale.is_empty() || is_waiting {
            return;
        }
        let stale = std::mem::take(&mut self.stale);
        let work = move |engine: &mut Engine| {
            let is_stale = |flow: &Flow| {
                let (to, from) = (flow.original, flow.reply);
                stale.takes((to.destination, to.destination_port), (from.source, from.source_port))
            };
            engine.drop_flows_if(&Place::Router, &Filter { proto: Some(UDP), ..Filter::default() }, is_stale)
        };
        if let Err(error) = self.on_engine(work).await {
            warn!(%error, "UDP flows to nodes without an endpoint stay");
        }
    }

    /// Ends when it is time to try again what failed.
    pub(super) async fn again(&self) {
        if self.unmade.is_empty() || self.is_halfway {
            std::future::pending().await
        } else {
            sleep_until(self.again).await;
        }
    }

    /// One step of a change that is made in step with others; `is_halfway` says how things are if it succeeds.
    pub(super) async fn step<T: Send + 'static>(
        &mut self,
        is_halfway: bool,
        work: impl FnOnce(&mut Engine) -> Result<T, switchyard_kernel::Error> + Send + 'static,
    ) -> Result<T, String> {
        let done = self.on_engine(work).await.map_err(|error| error.to_string())?;
        self.is_halfway = is_halfway;
        self.again = Instant::now();
        Ok(done)
    }

    /// Ends a change that is half done, although not all of it could be carried out.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        self.is_halfway = false;
        self.again = Instant::now();
        let outcome = self.on_engine(Engine::finish).await;
        let errors = outcome.map_err(|error| error.to_string())?.errors;
        errors.into_iter().next().map_or(Ok(()), |error| Err(error.to_string()))
    }

    /// Whether a change of networks is half done.
    pub(super) fn is_halfway(&self) -> bool {
        self.is_halfway
    }

    /// Units whose routes an earlier life of this process left in the kernel. Nobody's, once what is not wanted has been removed.
    pub(super) async fn left_behind(&self, changes: &Changes) -> BTreeSet<UnitId> {
        if self.keeper.is_some() || changes.is_empty() {
            return BTreeSet::new();
        }
        let changes = changes.clone();
        let there = self.on_engine(move |engine| engine.routes_there(&changes)).await;
        there.inspect_err(|error| warn!(%error, "cannot look for routes")).unwrap_or_default()
    }

    /// Has forgotten what waits for its turn and is of no use any more.
    pub(super) fn forget(&mut self, of_no_use: impl Fn(&UnitId) -> bool) {
        self.unmade.retain(|unit, _| !of_no_use(unit));
    }

    /// Removes what an earlier life of this process left behind, and from then on puts right what others change. To be called
    /// once everything that is wanted has been set; true the first time.
    pub(super) async fn keep(&mut self) -> bool {
        if self.keeper.is_some() {
            return false;
        }
        // First the ears, then the look, so that nothing is missed in between.
        match Keeper::spawn(&self.engine, tell) {
            Ok(keeper) => self.keeper = Some(keeper),
            Err(error) => {
                warn!(%error, "cannot watch the kernel");
                return false;
            }
        }
        let outcome = self.on_engine(Engine::reconcile).await;
        tell(Repair { places: [Place::Router].into(), freed: Default::default(), outcome });
        true
    }

    /// Netlink calls block, if only for a moment; connections from the host are carried meanwhile.
    async fn on_engine<T: Send + 'static>(&self, work: impl FnOnce(&mut Engine) -> T + Send + 'static) -> T {
        let engine = self.engine.clone();
        let done = spawn_blocking(move || work(&mut engine.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.expect("the engine does not panic")
    }
}

fn tell(repair: Repair) {
    match repair.outcome {
        Ok(audit) => {
            info!(changes = audit.changes.len(), "compared with the kernel");
            for error in &audit.errors {
                warn!(%error, "not as wanted");
            }
        }
        Err(error) => warn!(%error, "cannot compare with the kernel"),
    }
}

/// All in one, or, if that fails, each for itself, so that one bad unit does not keep the others out. Answers what failed.
fn carry_out(engine: &mut Engine, changes: Changes) -> BTreeMap<UnitId, Unmade> {
    let mut unmade = BTreeMap::new();
    let Err(error) = engine.apply(changes.clone()) else { return unmade };
    if changes.len() > 1 {
        info!(%error, "trying units one by one");
    }
    for (unit, wish) in changes {
        if let Err(error) = engine.apply([(unit.clone(), wish.clone())].into()) {
            warn!(%unit, %error, "cannot carry out");
            unmade.insert(unit, Unmade { wish, why: Why::Refused(error.to_string()) });
        }
    }
    unmade
}
