//! Where those run who send to each other: who take turns on one processor, a stream's ends on two.
//!
//! Of those who take turns only one of the two has anything to do at a time. On processors of their own each of them waits until the other's has woken from
//! idle, which takes longer than the way there, on a virtual machine ten times as long, and whether the scheduler puts them so is
//! chance. On one processor a round trip is what the way costs, softirq included.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The calling thread on one processor, until dropped. Where that cannot be had it stays as it was.
pub struct Pinned(Option<CpuSet>);

impl Pinned {
    /// On the first processor that it may use: who takes turns with others.
    pub fn first() -> Self {
        Self::on(|allowed| allowed.next())
    }

    /// On the last one: the other end of a stream.
    pub fn last() -> Self {
        Self::on(|allowed| allowed.last())
    }

    fn on(choose: impl FnOnce(&mut dyn Iterator<Item = usize>) -> Option<usize>) -> Self {
        let Ok(all) = sched_getaffinity(None) else { return Self(None) };
        let mut one = CpuSet::new();
        if let Some(chosen) = choose(&mut (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu))) {
            one.set(chosen);
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
        for pinned in [Pinned::first, Pinned::last] {
            let pinned = pinned();
            assert_eq!(processors(), 1);
            drop(pinned);
            assert_eq!(processors(), before);
        }
    }
}
