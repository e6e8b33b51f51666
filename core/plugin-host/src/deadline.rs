//! Calls into a library that is loaded here, each with a deadline.
//!
//! Nothing can end a thread that hangs in somebody else's code. So a call runs on a thread that may be lost: when it is late, the
//! caller goes on with an error, the instance is asked no more, and the thread is left to itself. A thread that answered in time
//! takes the next call, on the processor where the caller is and waits: to wake another one, and be woken by it, takes fifty times as
//! long as the call itself. What comes before the first call, constructors and `create`, is foreign code no less and runs in the same
//! way.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, Pid, sched_getcpu, sched_setaffinity};
use switchyard_plugin::abi;

use crate::library::{Instance, Reply};
use crate::plugin::{Answers, CallError};

/// Threads that wait for the next call; more than that come and go with the calls.
const KEPT: usize = 4;

/// An instance that is given up when it hangs.
pub(crate) struct Watched {
    /// There until this is dropped.
    instance: Option<Arc<Instance>>,
    deadline: Duration,
    idle: Mutex<Vec<Worker>>,
}

/// A thread that calls; it ends when its worker is dropped and its call, if any, is over.
struct Worker {
    thread: Pid,
    calls: SyncSender<(&'static str, Vec<u8>)>,
    replies: Receiver<Reply>,
}

/// Does something in foreign code on a thread that may be lost. None if it is not over by then.
pub(crate) fn within<T: Send + 'static>(
    until: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, outcome) = mpsc::sync_channel(1);
    thread::Builder::new().name("plugin".into()).spawn(move || drop(done.send(work())))?;
    match outcome.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(outcome) => Ok(Some(outcome)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("its thread has ended")),
    }
}

// === impl Watched ===

impl Watched {
    pub(crate) fn new(instance: Instance, deadline: Duration) -> Self {
        Self { instance: Some(Arc::new(instance)), deadline, idle: Mutex::default() }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers for Watched {
    fn call(&self, operation: &'static str, input: &[u8]) -> Result<Vec<u8>, CallError> {
        let failed = |why: &str| CallError::Failed { operation, status: abi::FAILED, message: why.to_owned() };
        let ready = self.idle().pop();
        let worker = match ready {
            Some(worker) => worker,
            None => Worker::start(self.instance.as_ref().expect("there until the end"))
                .map_err(|error| failed(&format!("start a thread: {error}")))?,
        };
        worker.come_here();
        worker.calls.send((operation, input.to_vec())).map_err(|_| failed("its thread has ended"))?;
        match worker.replies.recv_timeout(self.deadline) {
            Ok(reply) => {
                let mut idle = self.idle();
                if idle.len() < KEPT {
                    idle.push(worker);
                }
                drop(idle);
                reply.answer(operation)
            }
            Err(RecvTimeoutError::Timeout) => Err(CallError::Hung { operation, seconds: self.deadline.as_secs() }),
            Err(RecvTimeoutError::Disconnected) => Err(failed("its thread has ended")),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // `destroy` may hang as well. Where there is no thread to be had the instance stays.
        let instance = self.instance.take();
        let _ = thread::Builder::new().name("plugin".into()).spawn(move || drop(instance));
    }
}

// === impl Worker ===

impl Worker {
    fn start(instance: &Arc<Instance>) -> io::Result<Self> {
        let (calls, todo) = mpsc::sync_channel::<(&'static str, Vec<u8>)>(1);
        let (done, replies) = mpsc::sync_channel(1);
        let (named, name) = mpsc::sync_channel(1);
        let instance = Arc::clone(instance);
        thread::Builder::new().name("plugin".into()).spawn(move || {
            let _ = named.send(rustix::thread::gettid());
            while let Ok((operation, input)) = todo.recv() {
                if done.send(instance.call(operation.as_bytes(), &input)).is_err() {
                    break;
                }
            }
        })?;
        let thread = name.recv().map_err(|_| io::Error::other("its thread has ended"))?;
        Ok(Self { thread, calls, replies })
    }

    /// Has it run where the caller does. A kernel that does not want that has it run anywhere.
    fn come_here(&self) {
        let (mut here, processor) = (CpuSet::new(), sched_getcpu());
        if processor < CpuSet::MAX_CPU {
            here.set(processor);
            let _ = sched_setaffinity(Some(self.thread), &here);
        }
    }
}
