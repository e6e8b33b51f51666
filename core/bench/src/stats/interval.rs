//! How many times the baseline something is, and how sure that is.
//!
//! A sample is paired with the baseline's samples just before and just after it, so what slows the machine for a while slows both
//! sides of a pair. Pairs come in blocks, one for each time a network was in force: pairs of a block share what that swap left
//! behind, so blocks are drawn first, and pairs within them (a two-level bootstrap, Davison and Hinkley 1997, section 3.8).

use serde::{Deserialize, Serialize};

use super::{Random, median};

/// A value and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// In which stretch of time without a swap.
    pub block: usize,
    /// Of what is examined.
    pub value: f64,
    /// Of the baseline.
    pub base: f64,
}

/// What is made of many pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The median of the pairs' ratios.
    MedianRatio,
    /// The ratio of the sums: for values that are too coarse one by one.
    RatioOfSums,
    /// The mean difference: for shares, of which the baseline may have none at all.
    Difference,
}

/// A ratio and the 95 % interval around it; a difference, of figures that are compared by one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The ratio itself.
    pub ratio: f64,
    /// The upper end.
    pub high: f64,
}

/// Pairs that can be compared, by their blocks.
struct Blocks(Vec<Vec<Pair>>);

const RESAMPLES: usize = 1000;

// === impl Interval ===

impl Interval {
    /// Of these pairs; none if there are none that can be compared. The same pairs and seed give the same interval.
    pub fn of(pairs: &[Pair], statistic: Statistic, seed: u64) -> Option<Self> {
        let blocks = Blocks::of(pairs, statistic);
        let mut random = Random::new(seed);
        let mut drawn = Vec::new();
        Self::around(blocks.whole(statistic), (0..RESAMPLES).map(|_| blocks.draw(&mut random, &mut drawn, statistic)))
    }

    /// What became of a figure from one experiment to another one. The two are independent, so each is drawn for itself, blocks first.
    pub fn change(before: &[Pair], after: &[Pair], statistic: Statistic, seed: u64) -> Option<Self> {
        let (before, after) = (Blocks::of(before, statistic), Blocks::of(after, statistic));
        let between = |before: f64, after: f64| match statistic {
            Statistic::Difference => after - before,
            Statistic::MedianRatio | Statistic::RatioOfSums => after / before,
        };
        let mut random = Random::new(seed);
        let mut drawn = Vec::new();
        let mut draw = |blocks: &Blocks| blocks.draw(&mut random, &mut drawn, statistic);
        let all: Vec<f64> = (0..RESAMPLES).map(|_| between(draw(&before), draw(&after))).collect();
        Self::around(between(before.whole(statistic), after.whole(statistic)), all.into_iter())
    }

    /// Where most of what was drawn lies.
    fn around(ratio: f64, drawn: impl Iterator<Item = f64>) -> Option<Self> {
        let mut drawn: Vec<f64> = drawn.filter(|one| one.is_finite()).collect();
        drawn.sort_by(f64::total_cmp);
        let at = |share: f64| drawn.get((drawn.len().saturating_sub(1) as f64 * share).round() as usize).copied();
        Some(Self { low: at(0.025)?.min(ratio), ratio, high: at(0.975)?.max(ratio) }).filter(|_| ratio.is_finite())
    }

    /// Half its width, as a share of its middle.
    pub fn precision(&self) -> f64 {
        if self.ratio == 0.0 { f64::INFINITY } else { ((self.high - self.low) / 2.0 / self.ratio).abs() }
    }

    /// Whether a value lies in it.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

// === impl Blocks ===

impl Blocks {
    fn of(pairs: &[Pair], statistic: Statistic) -> Self {
        let good = |pair: &&Pair| {
            pair.value.is_finite() && pair.base.is_finite() && (pair.base > 0.0 || statistic != Statistic::MedianRatio)
        };
        let mut blocks: Vec<Vec<Pair>> = Vec::new();
        for &pair in pairs.iter().filter(good) {
            match blocks.iter_mut().find(|block| block[0].block == pair.block) {
                Some(block) => block.push(pair),
                None => blocks.push(vec![pair]),
            }
        }
        Self(blocks)
    }

    fn whole(&self, statistic: Statistic) -> f64 {
        statistic.of(self.0.iter().flatten())
    }

    /// Of as many blocks as there are, and as many pairs of each, drawn with replacement; `drawn` is room for them.
    fn draw(&self, random: &mut Random, drawn: &mut Vec<Pair>, statistic: Statistic) -> f64 {
        drawn.clear();
        for _ in 0..self.0.len() {
            let block = &self.0[random.below(self.0.len())];
            drawn.extend((0..block.len()).map(|_| block[random.below(block.len())]));
        }
        statistic.of(drawn.iter())
    }
}

// === impl Statistic ===

impl Statistic {
    /// What a figure has that is like what it is compared with.
    pub(crate) fn alike(self) -> f64 {
        match self {
            Self::MedianRatio | Self::RatioOfSums => 1.0,
            Self::Difference => 0.0,
        }
    }

    /// Differences smaller than this are no differences.
    pub(crate) fn smallest(self) -> f64 {
        match self {
            Self::MedianRatio | Self::RatioOfSums => 0.01,
            Self::Difference => 0.001,
        }
    }

    fn of<'a>(self, pairs: impl Iterator<Item = &'a Pair>) -> f64 {
        match self {
            Self::MedianRatio => median(&pairs.map(|pair| pair.value / pair.base).collect::<Vec<_>>()),
            Self::RatioOfSums => {
                let (value, base) = pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.value, sum.1 + pair.base));
                value / base
            }
            Self::Difference => {
                let (sum, count) =
                    pairs.fold((0.0, 0.0), |(sum, count), pair| (sum + pair.value - pair.base, count + 1.0));
                sum / count
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(of: impl Fn(usize) -> (f64, f64)) -> Vec<Pair> {
        (0..40).map(|n| (n, of(n))).map(|(n, (value, base))| Pair { block: n / 10, value, base }).collect()
    }

    /// Noise between 0.9 and 1.1 that is the same every time.
    fn noise(seed: u64) -> impl Fn(usize) -> f64 {
        move |n| 0.9 + 0.2 * Random::new(seed + n as u64).share()
    }

    #[test]
    fn what_slows_both_sides_does_not_widen_the_interval() {
        let drift = |n: usize| 1.0 + n as f64;
        let interval = Interval::of(&pairs(|n| (3.0 * drift(n), 1.5 * drift(n))), Statistic::MedianRatio, 1).unwrap();
        assert_eq!((interval.low, interval.ratio, interval.high), (2.0, 2.0, 2.0));
        assert_eq!(interval.precision(), 0.0);
    }

    #[test]
    fn an_interval_covers_the_truth_and_is_the_same_every_time() {
        let (a, b) = (noise(100), noise(900));
        for statistic in [Statistic::MedianRatio, Statistic::RatioOfSums] {
            let noisy = pairs(|n| (1.3 * a(n), b(n)));
            let interval = Interval::of(&noisy, statistic, 9).unwrap();
            assert!(interval.contains(1.3) && !interval.contains(1.0), "{interval:?}");
            assert!(interval.low < interval.ratio && interval.ratio < interval.high, "{interval:?}");
            assert_eq!(Interval::of(&noisy, statistic, 9).unwrap(), interval);
        }
    }

    #[test]
    fn blocks_that_disagree_widen_the_interval() {
        let noise = noise(7);
        let shifted = |n: usize, by: f64| noise(n) + if (n / 10).is_multiple_of(2) { by } else { 0.0 };
        let alike = Interval::of(&pairs(|n| (shifted(n, 0.0), 1.0)), Statistic::MedianRatio, 1).unwrap();
        let apart = Interval::of(&pairs(|n| (shifted(n, 0.5), 1.0)), Statistic::MedianRatio, 1).unwrap();
        assert!(apart.precision() > 3.0 * alike.precision(), "{alike:?} {apart:?}");
    }

    #[test]
    fn blocks_that_disagree_show_no_change_between_experiments() {
        // Each experiment has a block a fifth below and one a fifth above, with next to no noise within.
        let of = |seed: u64, shift: f64| {
            let value = move |n: usize| if n < 10 { 0.8 } else { 1.2 } + 0.01 * noise(seed)(n) + shift;
            (0..20).map(|n| Pair { block: n / 10, value: value(n), base: 1.0 }).collect::<Vec<_>>()
        };
        for statistic in [Statistic::MedianRatio, Statistic::RatioOfSums] {
            let change = Interval::change(&of(3, 0.0), &of(5, 0.08), statistic, 1).unwrap();
            assert!(change.contains(1.0), "{change:?}");
        }
        let steady = |value| (0..20).map(|n| Pair { block: n / 10, value, base: 1.0 }).collect::<Vec<_>>();
        let change = Interval::change(&steady(1.0), &steady(1.08), Statistic::MedianRatio, 1).unwrap();
        assert!(change.low > 1.07 && change.high < 1.09, "{change:?}");
        assert_eq!(Interval::change(&[], &steady(1.0), Statistic::MedianRatio, 1), None);
    }

    #[test]
    fn shares_are_compared_although_the_baseline_has_none() {
        let lost = pairs(|n| (0.1 + 0.01 * (n % 3) as f64, 0.0));
        let interval = Interval::of(&lost, Statistic::Difference, 1).unwrap();
        assert!(interval.low > 0.1 && interval.high < 0.12 && !interval.contains(0.0), "{interval:?}");
    }

    #[test]
    fn nothing_to_compare_gives_no_interval() {
        assert_eq!(Interval::of(&[], Statistic::MedianRatio, 1), None);
        let wrong = [Pair { block: 0, value: f64::NAN, base: 1.0 }, Pair { block: 0, value: 1.0, base: 0.0 }];
        assert_eq!(Interval::of(&wrong, Statistic::MedianRatio, 1), None);
        assert_eq!(Interval::of(&wrong[1..], Statistic::RatioOfSums, 1), None);
    }
}
