//! Times with three significant digits, however short or long they are.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Durations, counted. As JSON: pairs of nanoseconds and how many took that long.
#[derive(Clone, Debug)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

/// The longest time that is told from longer ones: a minute.
const HIGHEST: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

// === impl Histogram ===

impl Histogram {
    /// Notes one.
    pub fn record(&mut self, time: Duration) {
        self.add(time.as_nanos() as u64, 1);
    }

    fn add(&mut self, nanoseconds: u64, count: u64) {
        self.0.saturating_record_n(nanoseconds.clamp(1, HIGHEST), count);
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds and digits.
        self.0.add(&other.0).expect("histograms of one kind");
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time that a share of all did not exceed, in microseconds; not a number if there are none.
    pub fn microseconds_at(&self, share: f64) -> f64 {
        if self.is_empty() { f64::NAN } else { self.0.value_at_quantile(share) as f64 / 1e3 }
    }

    /// Nanoseconds and counts, in order.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self(hdrhistogram::Histogram::new_with_bounds(1, HIGHEST, DIGITS).expect("constant bounds"))
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        self.counts().eq(other.counts())
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.counts())
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut histogram = Self::default();
        for (nanoseconds, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            histogram.add(nanoseconds, count);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_survive_merging_and_json() {
        let mut one = Histogram::default();
        for micros in 1..=1000 {
            one.record(Duration::from_micros(micros));
        }
        let mut other = Histogram::default();
        other.record(Duration::from_secs(3600));
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), one);
        let near = |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 2e-3, "{value} is not {wanted}");
        near(one.microseconds_at(0.5), 500.0);
        near(one.microseconds_at(0.99), 990.0);
        one.merge(&other);
        assert_eq!(one.len(), 1001);
        near(one.microseconds_at(1.0), 6e7);
        assert!(Histogram::default().microseconds_at(0.5).is_nan());
    }
}
