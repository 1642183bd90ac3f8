//! The token bucket that spreads a frame's packets over part of the frame interval.

use std::time::Duration;

use soft_kvm_core::{Bitrate, MonoTime};

/// Credit in bytes that grows with time.
///
/// While there is nothing to send it is capped at a small burst; while packets wait, a sender that wakes late
/// may catch up to one full batch, so that a coarse timer does not lower the rate.
#[derive(Clone, Debug)]
pub struct Pacer {
    burst: u64,
    catch_up: u64,
    /// In bytes; below zero after a retransmission, which does not wait.
    credit: i64,
    last: Option<MonoTime>,
}

impl Pacer {
    /// A full bucket. Both limits are in bytes.
    #[must_use]
    pub fn new(burst: usize, catch_up: usize) -> Self {
        let burst = burst as u64;
        Self {
            burst,
            catch_up: burst.max(catch_up as u64),
            credit: i64::try_from(burst).unwrap_or(i64::MAX),
            last: None,
        }
    }

    /// Adds the credit earned since the last call at `rate`; `waiting` tells whether packets have waited meanwhile.
    pub fn refill(&mut self, now: MonoTime, rate: Bitrate, waiting: bool) {
        let elapsed = now.since(self.last.unwrap_or(now));
        self.last = Some(now.max(self.last.unwrap_or(now)));
        let earned = u128::from(rate.as_bps()) * elapsed.as_nanos() / 8_000_000_000;
        let cap = if waiting { self.catch_up } else { self.burst };
        let cap = i64::try_from(cap).unwrap_or(i64::MAX);
        let earned = i64::try_from(earned).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_add(earned).min(cap);
    }

    /// Whether a packet of `bytes` may leave now.
    #[must_use]
    pub fn allows(&self, bytes: usize) -> bool {
        i64::try_from(bytes).is_ok_and(|bytes| bytes <= self.credit)
    }

    /// Takes the credit of a packet that leaves.
    pub fn spend(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_sub(bytes);
    }

    /// When the credit reaches `bytes` at `rate`.
    #[must_use]
    pub fn ready_at(&self, bytes: usize, rate: Bitrate) -> MonoTime {
        let last = self.last.unwrap_or(MonoTime::ZERO);
        let missing = i64::try_from(bytes)
            .unwrap_or(i64::MAX)
            .saturating_sub(self.credit);
        match usize::try_from(missing) {
            Ok(missing) => last + rate.time_for(missing) + Duration::from_nanos(1),
            Err(_) => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Bitrate = Bitrate::kbps(80_000);

    #[test]
    fn a_burst_leaves_at_once_and_the_rest_at_the_rate() {
        let mut pacer = Pacer::new(3_000, 6_000);
        let mut now = MonoTime::from_nanos(1);
        pacer.refill(now, RATE, false);
        for _ in 0..3 {
            assert!(pacer.allows(1_000));
            pacer.spend(1_000);
        }
        assert!(!pacer.allows(1_000));
        let ready = pacer.ready_at(1_000, RATE);
        assert_eq!(ready.since(now).as_micros(), 100);
        now = ready;
        pacer.refill(now, RATE, true);
        assert!(pacer.allows(1_000) && !pacer.allows(1_001));
    }

    #[test]
    fn idle_time_earns_a_burst_and_a_late_wake_up_a_batch() {
        let mut pacer = Pacer::new(3_000, 6_000);
        pacer.refill(MonoTime::ZERO, RATE, false);
        pacer.refill(MonoTime::from_nanos(1_000_000_000), RATE, false);
        assert!(pacer.allows(3_000) && !pacer.allows(3_001));
        pacer.refill(MonoTime::from_nanos(2_000_000_000), RATE, true);
        assert!(pacer.allows(6_000) && !pacer.allows(6_001));
        pacer.spend(9_000);
        pacer.refill(MonoTime::from_nanos(2_000_100_000), RATE, true);
        assert!(!pacer.allows(1));
    }
}
