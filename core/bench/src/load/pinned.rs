//! Where those run who take turns: client and server on one processor.
//!
//! Only one of the two has anything to do at a time. On processors of their own each of them waits until the other's has woken from
//! idle, which takes longer than the way there, on a virtual machine ten times as long, and whether the scheduler puts them so is
//! chance. On one processor a round trip is what the way costs, softirq included.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The calling thread on the first processor that it may use, until dropped. Where that cannot be had it stays as it was.
pub(super) struct Pinned(Option<CpuSet>);

impl Pinned {
    pub(super) fn here() -> Self {
        let Ok(all) = sched_getaffinity(None) else { return Self(None) };
        let mut one = CpuSet::new();
        if let Some(first) = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)) {
            one.set(first);
        }
        Self(sched_setaffinity(None, &one).is_ok().then_some(all))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(all) = &self.0 {
            // They were allowed before.
            let _ = sched_setaffinity(None, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_until_dropped() {
        let processors = || sched_getaffinity(None).expect("processors").count();
        let before = processors();
        let pinned = Pinned::here();
        assert_eq!(processors(), 1);
        drop(pinned);
        assert_eq!(processors(), before);
    }
}
