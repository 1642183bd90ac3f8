//! Percentiles for people.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time that is told apart (one minute); longer ones count as this.
const MAX_MICROS: u64 = 60_000_000;

/// A distribution of times with a resolution of 1 µs and 0.1 %, in about 70 kB whatever is recorded.
///
/// Recording takes a few nanoseconds and allocates nothing.
#[derive(Clone)]
pub struct Percentiles {
    micros: Histogram<u32>,
}

/// What a distribution comes down to, in milliseconds; all zero when nothing was recorded.
///
/// The form of every latency in the JSON of `demo` and of the benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many were recorded.
    pub count: u64,
    /// Half are at or below.
    pub p50: f64,
    /// 95 % are at or below.
    pub p95: f64,
    /// 99 % are at or below.
    pub p99: f64,
    /// 99.9 % are at or below.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// An empty distribution; the only allocation.
    #[must_use]
    pub fn new() -> Self {
        let micros = Histogram::new_with_bounds(1, MAX_MICROS, 3)
            .expect("the constants are within the limits of hdrhistogram");
        Self { micros }
    }

    /// Records one time.
    pub fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.saturating_record(micros);
    }

    /// Adds another distribution's records.
    pub fn merge(&mut self, other: &Self) {
        // Same bounds by construction, so the sum has room.
        let _ = self.micros.add(&other.micros);
    }

    /// Forgets everything; keeps the memory.
    pub fn clear(&mut self) {
        self.micros.reset();
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.micros.len()
    }

    /// The time that a share of `quantile` (0 to 1) of the records is at or below; zero when there are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        if self.micros.is_empty() {
            return Duration::ZERO;
        }
        // The bucket's upper edge may lie above every record.
        let micros = self.micros.value_at_quantile(quantile);
        Duration::from_micros(micros.min(self.micros.max()))
    }

    /// The numbers that are shown.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let ms = |quantile| self.quantile(quantile).as_secs_f64() * 1e3;
        Summary {
            count: self.count(),
            p50: ms(0.5),
            p95: ms(0.95),
            p99: ms(0.99),
            p999: ms(0.999),
            max: ms(1.0),
        }
    }
}

impl Default for Percentiles {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary().fmt(f)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            p50,
            p95,
            p99,
            p999,
            max,
        } = self;
        write!(
            f,
            "p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, max {max:.1} ms, n {count}"
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_distribution() {
        let mut percentiles = Percentiles::new();
        assert_eq!(percentiles.summary(), Summary::default());
        for ms in 1..=1000 {
            percentiles.record(Duration::from_millis(ms));
        }
        let summary = percentiles.summary();
        assert_eq!(summary.count, 1000);
        for (got, expected) in [
            (summary.p50, 500.0),
            (summary.p95, 950.0),
            (summary.p99, 990.0),
            (summary.p999, 999.0),
            (summary.max, 1000.0),
        ] {
            assert!((got / expected - 1.0).abs() <= 0.001, "{got} {expected}");
        }
        let json = serde_json::to_value(summary).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["count", "max", "p50", "p95", "p99", "p999"]);
        percentiles.clear();
        assert_eq!(percentiles.count(), 0);
    }

    #[test]
    fn memory_is_fixed_whatever_is_recorded() {
        let mut percentiles = Percentiles::new();
        let before = percentiles.micros.distinct_values();
        percentiles.record(Duration::MAX);
        percentiles.record(Duration::ZERO);
        assert_eq!(percentiles.micros.distinct_values(), before);
        assert!(before * size_of::<u32>() < 80 * 1024);
        assert!(percentiles.quantile(1.0) >= Duration::from_micros(MAX_MICROS));
    }

    proptest! {
        #[test]
        fn within_a_thousandth_of_the_exact_percentile(
            mut micros in prop::collection::vec(1_u64..10_000_000, 1..300),
        ) {
            let mut percentiles = Percentiles::new();
            let (mut left, mut right) = (Percentiles::new(), Percentiles::new());
            for (i, us) in micros.iter().enumerate() {
                percentiles.record(Duration::from_micros(*us));
                [&mut left, &mut right][i % 2].record(Duration::from_micros(*us));
            }
            left.merge(&right);
            prop_assert_eq!(left.summary(), percentiles.summary());
            micros.sort_unstable();
            let rank = (micros.len() * 99).div_ceil(100) - 1;
            let exact = micros[rank] as f64 / 1e3;
            prop_assert!((percentiles.summary().p99 / exact - 1.0).abs() <= 0.001);
        }
    }
}
