//! The thread that changes the kernel's network. Calls to the kernel wait, so they have a thread of their own.

use std::sync::mpsc;

use switchyard_kernel::Engine;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// A handle on the engine's thread; the thread ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct EngineThread {
    jobs: mpsc::Sender<Job>,
}

/// The engine's thread has ended, which it does only when something in it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the network engine has failed; restart the agent")]
pub(crate) struct EngineGone;

// === impl EngineThread ===

impl EngineThread {
    /// Gives an engine a thread.
    pub(crate) fn start(mut engine: Engine) -> std::io::Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let work = move || {
            while let Ok(job) = todo.recv() {
                job(&mut engine);
            }
        };
        std::thread::Builder::new().name("network".into()).stack_size(1 << 20).spawn(work)?;
        Ok(Self { jobs })
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
