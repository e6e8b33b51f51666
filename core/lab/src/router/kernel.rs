//! Brings units into the kernel of this namespace, tries again what failed, and mends what others change.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use switchyard_api::names;
use switchyard_kernel::{Engine, Keeper, Netns, Owner, Places, Repair};
use switchyard_netstate::{Place, UnitId};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Changes;

/// The kernel's network in this namespace, as far as it is the router's.
pub(super) struct Kernel {
    engine: Arc<Mutex<Engine>>,
    /// What could not be carried out, and when it is tried again.
    failed: Changes,
    again: Instant,
    /// Watches once everything is wanted that is; before that it would remove what an earlier life of this process left.
    keeper: Option<Keeper>,
    /// A change of networks is half done; what else is to change waits until it is over.
    is_halfway: bool,
}

/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

// === impl Kernel ===

impl Kernel {
    /// The namespace that the calling thread is in.
    pub(super) fn open() -> anyhow::Result<Self> {
        let mut places = Places::new();
        places.add(Place::Router, Netns::current().context("open the router's own namespace")?);
        let engine = Engine::new(Owner { protocol: names::OWNER_ROUTER }, places);
        Ok(Self {
            engine: Arc::new(Mutex::new(engine)),
            failed: Changes::new(),
            again: Instant::now(),
            keeper: None,
            is_halfway: false,
        })
    }

    /// Makes units want this, besides what failed before.
    pub(super) async fn set(&mut self, changes: Changes) {
        if self.is_halfway {
            self.failed.extend(changes);
            return;
        }
        let due = !self.failed.is_empty() && self.again <= Instant::now();
        if changes.is_empty() && !due {
            return;
        }
        let mut all = std::mem::take(&mut self.failed);
        all.extend(changes);
        self.failed = self.on_engine(move |engine| carry_out(engine, all)).await;
        self.again = Instant::now() + PAUSE;
    }

    /// Ends when it is time to try again what failed.
    pub(super) async fn again(&self) {
        if self.failed.is_empty() || self.is_halfway {
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
        self.failed.retain(|unit, _| !of_no_use(unit));
    }

    /// Removes what an earlier life of this process left behind, and from then on puts right what others change. To be called
    /// once everything that is wanted has been set.
    pub(super) async fn keep(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        // First the ears, then the look, so that nothing is missed in between.
        match Keeper::spawn(&self.engine, tell) {
            Ok(keeper) => self.keeper = Some(keeper),
            Err(error) => return warn!(%error, "cannot watch the kernel"),
        }
        let outcome = self.on_engine(Engine::reconcile).await;
        tell(Repair { places: [Place::Router].into(), outcome });
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
fn carry_out(engine: &mut Engine, changes: Changes) -> Changes {
    let Err(error) = engine.apply(changes.clone()) else { return Changes::new() };
    if changes.len() > 1 {
        info!(%error, "trying units one by one");
    }
    let mut failed = Changes::new();
    for (unit, wish) in changes {
        if let Err(error) = engine.apply([(unit.clone(), wish.clone())].into()) {
            warn!(%unit, %error, "cannot carry out");
            failed.insert(unit, wish);
        }
    }
    failed
}
