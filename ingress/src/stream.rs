//! One HTTP/2 stream: reset when its client takes nothing of the answer for too long.
//!
//! On HTTP/1 the gate bounds writing, as a connection carries one answer at a time. An HTTP/2 client takes one stream and leaves
//! another, by opening windows; the library holds the answer back, and with it the connection to the backend, and tells nobody. What
//! shows is that a piece was handed out and no other is asked for. The price is a timer for a stream that waits for its client.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Poll, ready},
    time::Duration,
};

/// Runs the streams of HTTP/2 connections, each for as long as its client takes something at least once in a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    /// How long a client may take nothing.
    pub(crate) patience: Duration,
}

/// What an answer and the task that carries it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    given: Cell<u64>,
    waits_for_client: Cell<bool>,
}

tokio::task_local! {
    static CURRENT: Rc<Pace>;
}

// === impl Pace ===

impl Pace {
    /// That of the stream this is called in.
    pub(crate) fn current() -> Option<Rc<Self>> {
        CURRENT.try_with(Rc::clone).ok()
    }

    /// The client has something to take: the head of an answer, or a piece.
    pub(crate) fn given(&self) {
        self.given.set(self.given.get() + 1);
        self.waits_for_client.set(true);
    }

    /// The client took everything there is; now it waits for us.
    pub(crate) fn taken(&self) {
        self.waits_for_client.set(false);
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (pace, patience) = (Rc::new(Pace::default()), self.patience);
        tokio::task::spawn_local(async move {
            let mut stream = pin!(CURRENT.scope(Rc::clone(&pace), stream));
            let mut timer = pin!(None);
            let mut given = 0;
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if !pace.waits_for_client.get() {
                    timer.set(None);
                    return Poll::Pending;
                }
                if timer.is_none() || given != pace.given.get() {
                    given = pace.given.get();
                    timer.set(Some(tokio::time::sleep(patience)));
                }
                if let Some(timer) = timer.as_mut().as_pin_mut() {
                    ready!(timer.poll(cx));
                    // Dropped unfinished, the stream is reset.
                    tracing::debug!(?patience, "a client takes nothing of its answer");
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
        });
    }
}
