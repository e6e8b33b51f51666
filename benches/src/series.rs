//! Samples, and what they say about each other.

use serde::{Deserialize, Serialize};

/// What was measured of one thing, in the order of the rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Unit of the values.
    pub unit: String,
    /// One value a round.
    pub values: Vec<f64>,
}

/// How many times the baseline something is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ratio {
    /// Ratio of the medians.
    pub median: f64,
    /// Lower end of the 95 % bootstrap interval.
    pub low: f64,
    /// Upper end of it.
    pub high: f64,
}

/// Resamples for an interval.
const RESAMPLES: usize = 2000;

// === impl Series ===

impl Series {
    /// An empty one.
    pub fn new(name: &str, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.into(), values: Vec::new() }
    }

    /// The middle value; not a number if there is none.
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// Median of this over median of the baseline. Rounds are drawn in pairs, so what slowed one round slowed both sides of it.
    pub fn over(&self, baseline: &Self) -> Ratio {
        let rounds = self.values.len().min(baseline.values.len());
        let mut random = SplitMix(0x5eed);
        let mut ratios: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn: Vec<usize> = (0..rounds).map(|_| random.below(rounds)).collect();
                let of = |values: &[f64]| median(&drawn.iter().map(|&round| values[round]).collect::<Vec<_>>());
                of(&self.values) / of(&baseline.values)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share) as usize];
        Ratio { median: self.median() / baseline.median(), low: at(0.025), high: at(0.975) }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014. Seeded: the same samples give the same interval.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_lies_in_its_interval_and_is_the_same_every_time() {
        let base = Series { values: (0..40).map(|n| 10.0 + f64::from(n % 7)).collect(), ..Series::new("a", "ms") };
        let twice = Series { values: base.values.iter().map(|value| value * 2.0).collect(), ..Series::new("b", "ms") };
        let ratio = twice.over(&base);
        assert!((ratio.median - 2.0).abs() < 1e-9 && ratio.low <= ratio.median && ratio.median <= ratio.high);
        assert_eq!(format!("{:?}", twice.over(&base)), format!("{ratio:?}"));
    }
}
