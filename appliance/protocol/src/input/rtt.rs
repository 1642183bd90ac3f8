//! Smoothed round trip after RFC 6298, with bounds for a LAN.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(50);

/// Estimates when an unanswered datagram should be sent again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
    doublings: u32,
}

impl RoundTrip {
    pub(super) fn sample(&mut self, round_trip: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(round_trip);
                self.variation = round_trip / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(round_trip)) / 4;
                self.smoothed = Some((smoothed * 7 + round_trip) / 8);
            }
        }
    }

    pub(super) const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Time after which to send again: 1 ms or what the path needs, doubled per unanswered try, at most 50 ms.
    pub(super) fn timeout(&self) -> Duration {
        let once = self
            .smoothed
            .map_or(SHORTEST, |smoothed| smoothed + 4 * self.variation)
            .max(SHORTEST);
        once.saturating_mul(1 << self.doublings.min(4)).min(LONGEST)
    }

    pub(super) const fn back_off(&mut self) {
        self.doublings = self.doublings.saturating_add(1);
    }

    pub(super) const fn progress(&mut self) {
        self.doublings = 0;
    }
}
