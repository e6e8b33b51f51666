//! Serving that goes on, whatever ends it: a node without its name server has lost every name, while its agent looks well.
//!
//! What one message does to its own answer is caught where it is answered. What is caught here was not foreseen, so it is said, and tried
//! again after a pause that grows with each failure soon after the last.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Who has served that long begins again with the first pause.
const WELL: Duration = Duration::from_secs(10);

/// Says that serving is to end.
#[derive(Debug, Default)]
pub(super) struct Stop(AtomicBool);

// === impl Stop ===

impl Stop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Serves on this thread until it is to stop. A pause ends early when the thread is unparked.
pub(super) fn supervise(what: &str, stop: &Stop, mut serve: impl FnMut() -> io::Result<()>) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_set() {
        let begun = Instant::now();
        let served = catch_unwind(AssertUnwindSafe(&mut serve));
        if stop.is_set() {
            return;
        }
        match served {
            Ok(Ok(())) => tracing::error!(what, "DNS ended"),
            Ok(Err(error)) => tracing::error!(what, %error, "DNS ended"),
            Err(panic) => tracing::error!(what, panic = reason(&*panic), "DNS ended"),
        }
        if begun.elapsed() >= WELL {
            pause = FIRST_PAUSE;
        }
        std::thread::park_timeout(pause);
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}

/// What a panic says.
pub(super) fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_ends_it_serving_goes_on_until_it_is_to_stop() {
        let (stop, mut served) = (Stop::default(), Vec::new());
        supervise("test", &stop, || {
            served.push(Instant::now());
            match served.len() {
                1 => panic!("on purpose"),
                2 => Err(io::ErrorKind::InvalidInput.into()),
                3 => Ok(()),
                _ => {
                    stop.set();
                    Ok(())
                }
            }
        });
        assert_eq!(served.len(), 4);
        let pauses: Vec<_> = served.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (number, pause) in pauses.iter().enumerate() {
            assert!(*pause >= FIRST_PAUSE * (1 << number), "{pauses:?}");
        }
    }
}
