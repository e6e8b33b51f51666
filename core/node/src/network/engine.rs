//! The thread that changes the kernel's network. Calls to the kernel wait, so they have a thread of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use switchyard_kernel::{Audit, Engine, Keeper, Repair};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// A handle on the engine's thread; the thread ends with the last handle.
#[derive(Clone)]
pub(crate) struct EngineThread {
    jobs: mpsc::Sender<Job>,
    engine: Arc<Mutex<Engine>>,
}

/// The engine's thread has ended, which it does only when something in it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network engine has failed; restart the agent")]
pub(crate) struct EngineGone;

// === impl EngineThread ===

impl EngineThread {
    /// Gives an engine a thread.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let engine = Arc::new(Mutex::new(engine));
        let (jobs, todo) = mpsc::channel::<Job>();
        let shared = Arc::clone(&engine);
        let work = move || {
            while let Ok(job) = todo.recv() {
                job(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
            }
        };
        // Without it the agent would look well and change nothing any more; one that is started again takes over what is there.
        let work = move || {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                error!("the network engine has failed; the agent ends");
                std::process::exit(101);
            }
        };
        std::thread::Builder::new().name("network".into()).stack_size(1 << 20).spawn(work)?;
        Ok(Self { jobs, engine })
    }

    /// Has changes that others make repaired from now on, and somebody told of it. Not before everything that is wanted is known, as
    /// what nobody wants goes.
    pub(crate) fn keep(&self, repairs: UnboundedSender<Repair>) -> std::io::Result<Keeper> {
        Keeper::spawn(&self.engine, move |repair| {
            match &repair.outcome {
                Ok(audit) => tell(audit),
                Err(error) => warn!(places = ?repair.places, %error, "repair failed"),
            }
            let _ = repairs.send(repair);
        })
    }

    /// Does something with the engine, after what was asked before.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, EngineGone> {
        let (tell, outcome) = oneshot::channel();
        let job: Job = Box::new(move |engine| drop(tell.send(job(engine))));
        self.jobs.send(job).map_err(|_| EngineGone)?;
        outcome.await.map_err(|_| EngineGone)
    }
}

/// Says what a comparison with the kernel found: how much, and what on request.
pub(crate) fn tell(audit: &Audit) {
    info!(changes = audit.changes.len(), errors = audit.errors.len(), "compared with the kernel");
    for error in &audit.errors {
        warn!(%error, "not as wanted");
    }
    for change in &audit.changes {
        debug!(%change, "repaired");
    }
}
