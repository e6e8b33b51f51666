//! In which order things are measured. All of it follows from the seed.
//!
//! Contestants are gone through there and back again (A B C C B A), so that a machine that slows down steadily slows all alike; each
//! time through begins with another one. Within a block every workload is measured on all its paths between two samples of the
//! baseline, in an order drawn anew each round.

use std::time::Duration;

use crate::stats::Random;

/// Who is measured in a block: the wires made by hand, or a network by its place in the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contestant {
    ByHand,
    Network(usize),
}

/// Part of the budget that nobody plans with.
pub(crate) const RESERVE: Duration = Duration::from_secs(1);

/// What a block may take of the time that is left: who is slow leaves time for those that are still to come, itself included.
pub(crate) fn share(left: Duration, to_come: usize) -> Duration {
    left.saturating_sub(RESERVE) / to_come.max(1) as u32
}

/// The contestants of one time through, there and back.
pub(crate) fn repetition(seed: u64, number: u16, networks: usize, by_hand: bool) -> Vec<Contestant> {
    let mut order: Vec<_> = (0..networks).map(Contestant::Network).collect();
    order.extend(by_hand.then_some(Contestant::ByHand));
    Random::new(seed ^ (u64::from(number) << 32)).shuffle(&mut order);
    let back: Vec<_> = order.iter().rev().copied().collect();
    order.extend(back);
    order
}

/// The workloads of one round, and the paths of each, as indices.
pub(crate) fn round(seed: u64, block: usize, round: u16, workloads: usize, paths: usize) -> Vec<(usize, Vec<usize>)> {
    let mut random = Random::new(seed ^ ((block as u64) << 20) ^ (u64::from(round) << 4) ^ 1);
    let mut order: Vec<usize> = (0..workloads).collect();
    random.shuffle(&mut order);
    let mut with_paths = |workload| {
        let mut order: Vec<usize> = (0..paths).collect();
        random.shuffle(&mut order);
        (workload, order)
    };
    order.into_iter().map(&mut with_paths).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_goes_there_and_back() {
        let order = repetition(1, 0, 3, true);
        assert_eq!(order.len(), 8);
        let mut back = order.clone();
        back.reverse();
        assert_eq!(order, back);
        for contestant in [0, 1, 2].map(Contestant::Network).into_iter().chain([Contestant::ByHand]) {
            assert_eq!(order.iter().filter(|one| **one == contestant).count(), 2);
        }
    }

    #[test]
    fn shares_leave_the_quick_experiment_within_its_minute() {
        const BOOT: Duration = Duration::from_secs(6);
        let spec = crate::Experiment::quick(&["kubenet", "overlay", "nsx"]).spec;
        let budget = Duration::from_secs(spec.budget_seconds.into());
        let blocks = repetition(spec.seed, 0, spec.networks.len(), true).len();
        // A block goes on until its share is spent, or for as long as one round takes: here one was slow.
        let mut at = BOOT;
        for done in 0..blocks {
            let share = share(budget.saturating_sub(at), blocks - done);
            assert!(share >= Duration::from_secs(3), "block {done} has {share:?} left");
            at += if done == 2 { share + Duration::from_secs(4) } else { share };
        }
        assert!(at <= budget && budget < Duration::from_secs(55), "{at:?}");
        assert_eq!(share(Duration::ZERO, 0), Duration::ZERO);
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let decide = |seed| {
            let blocks: Vec<_> = (0..5).map(|number| repetition(seed, number, 4, false)).collect();
            let rounds: Vec<_> = (0..5).map(|block| round(seed, block, 2, 4, 3)).collect();
            (blocks, rounds)
        };
        assert_eq!(decide(7), decide(7));
        assert_ne!(decide(7), decide(8));
    }
}
