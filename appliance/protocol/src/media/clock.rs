//! The server's clock as seen from the client: offset by round trips on the control channel.

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_core::time::ClockOffset;

/// Round trips that are remembered.
const WINDOW: usize = 32;
/// How far two crystals may drift apart: 100 parts in a million, twice what PC and Pi crystals promise.
const DRIFT_PPM: u64 = 100;

/// Keeps the round trip that bounds the offset best: the shortest one, older ones counted worse by the possible drift.
///
/// The true offset is within `error_ns` of the estimate however unequal the two ways are, as long as the
/// clocks drift by less than 100 ppm.
#[derive(Clone, Debug, Default)]
pub struct ClockEstimator {
    samples: [Option<Sample>; WINDOW],
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    offset_ns: i64,
    round_trip: Duration,
    taken: MonoTime,
}

impl ClockEstimator {
    /// An estimator without samples.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one round trip in: sent at `t0` and answered at `t3` on the local clock, received at `t1` and sent back
    /// at `t2` on the remote one. Impossible ones (time running backwards) are left out.
    pub fn add(&mut self, t0: MonoTime, t1: MonoTime, t2: MonoTime, t3: MonoTime) {
        if t3 < t0 || t2 < t1 {
            return;
        }
        let Some(round_trip) = t3.since(t0).checked_sub(t2.since(t1)) else {
            return;
        };
        let there = i128::from(t1.as_nanos()) - i128::from(t0.as_nanos());
        let back = i128::from(t2.as_nanos()) - i128::from(t3.as_nanos());
        let Ok(offset_ns) = i64::try_from((there + back) / 2) else {
            return;
        };
        if let Some(slot) = self.samples.get_mut(self.next) {
            *slot = Some(Sample {
                offset_ns,
                round_trip,
                taken: t3,
            });
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// The best estimate at local time `now`; `None` before the first round trip.
    #[must_use]
    pub fn estimate(&self, now: MonoTime) -> Option<ClockOffset> {
        let error = |sample: &Sample| {
            let half = sample.round_trip.as_nanos() / 2;
            half + now.since(sample.taken).as_nanos() * u128::from(DRIFT_PPM) / 1_000_000
        };
        let best = self.samples.iter().flatten().min_by_key(|s| error(s))?;
        Some(ClockOffset {
            offset_ns: best.offset_ns,
            error_ns: u64::try_from(error(best)).unwrap_or(u64::MAX),
        })
    }

    /// The shortest round trip in the window.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.samples.iter().flatten().map(|s| s.round_trip).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ns(nanos: u64) -> MonoTime {
        MonoTime::from_nanos(nanos)
    }

    #[test]
    fn the_shortest_round_trip_wins() {
        let mut clock = ClockEstimator::new();
        assert_eq!(clock.estimate(ns(0)), None);
        // The remote clock is 1000 ahead; the second trip is lopsided by 900.
        clock.add(ns(0), ns(1_050), ns(1_060), ns(110));
        clock.add(ns(200), ns(2_150), ns(2_150), ns(1_200));
        let estimate = clock.estimate(ns(1_200)).unwrap();
        assert_eq!((estimate.offset_ns, estimate.error_ns), (1_000, 50));
        assert_eq!(clock.round_trip(), Some(Duration::from_nanos(100)));
    }

    #[test]
    fn impossible_round_trips_are_left_out() {
        let mut clock = ClockEstimator::new();
        clock.add(ns(10), ns(5), ns(6), ns(9));
        clock.add(ns(10), ns(6), ns(5), ns(20));
        clock.add(ns(10), ns(0), ns(50), ns(20));
        assert_eq!(clock.estimate(ns(20)), None);
    }

    proptest! {
        #[test]
        fn the_true_offset_is_within_the_error(
            offset in -1_000_000_000i64..1_000_000_000,
            drift_ppm in -90i64..90,
            trips in proptest::collection::vec((0u64..5_000_000, 0u64..5_000_000, 0u64..100_000), 1..80),
        ) {
            let remote = |local: u64| {
                let local = i64::try_from(local).unwrap();
                let value = local + offset + local / 1_000_000 * drift_ppm;
                ns(u64::try_from(value).unwrap())
            };
            let mut clock = ClockEstimator::new();
            let mut now = 2_000_000_000u64;
            for (there, back, stay) in trips {
                let (sent, arrived) = (now, now + there);
                let (left, done) = (arrived + stay, arrived + stay + back);
                clock.add(ns(sent), remote(arrived), remote(left), ns(done));
                now = done + 250_000_000;
                let estimate = clock.estimate(ns(now)).unwrap();
                let truth = remote(now).signed_since(ns(now));
                prop_assert!(truth.abs_diff(estimate.offset_ns) <= estimate.error_ns + 2_000);
            }
        }
    }
}
