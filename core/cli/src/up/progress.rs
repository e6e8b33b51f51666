//! What a person sees while a cluster starts: one moving line on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Progress on standard error.
pub(crate) struct Progress {
    begun: Instant,
    bar: Option<ProgressBar>,
}

// === impl Progress ===

impl Progress {
    pub(crate) fn new(begun: Instant) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}").expect("a constant template"),
            );
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Self { begun, bar }
    }

    /// Something is done, or under way.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("{:>6.3} s  {text}", self.begun.elapsed().as_secs_f64()),
        }
    }

    /// Whether what is said replaces what was said before.
    pub(crate) fn is_moving(&self) -> bool {
        self.bar.is_some()
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
