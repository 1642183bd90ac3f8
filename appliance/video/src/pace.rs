//! Fewer frames than a source gives, evenly.

use std::time::Duration;

use soft_kvm_core::{FrameRate, MonoTime};

/// Chooses among the frames of a source that is faster than what is wanted, as HDMI inputs are: they have the rate of their
/// signal.
#[derive(Debug)]
pub struct Pace {
    /// Time between frames that are taken; `None` where the source is no faster.
    interval: Option<Duration>,
    /// A frame that is early by less than half of the source's interval is as near as one gets.
    early: Duration,
    due: MonoTime,
}

impl Pace {
    /// For a source of the rate `source`, of which `wanted` is to be left.
    #[must_use]
    pub fn new(source: FrameRate, wanted: FrameRate) -> Self {
        Self {
            interval: (source > wanted).then(|| wanted.interval()),
            early: source.interval() / 2,
            due: MonoTime::ZERO,
        }
    }

    /// Whether the frame that was captured then is one of them.
    pub fn takes(&mut self, captured: MonoTime) -> bool {
        let Some(interval) = self.interval else {
            return true;
        };
        if captured + self.early < self.due {
            return false;
        }
        let next = self.due + interval;
        // After a pause nothing is made up for.
        self.due = if next > captured {
            next
        } else {
            captured + interval
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the frames of two seconds are taken; each is late by up to `jitter`.
    fn taken(source: u32, wanted: u32, jitter: Duration) -> Vec<MonoTime> {
        let mut pace = Pace::new(FrameRate::hz(source), FrameRate::hz(wanted));
        let start = MonoTime::from_nanos(7_000_000_000);
        let frames = (0..2 * source).map(|number| {
            let late = jitter * (number * 7 % 10) / 10;
            start + Duration::from_secs(1) * number / source + late
        });
        frames.filter(|&at| pace.takes(at)).collect()
    }

    #[test]
    fn a_source_that_is_not_faster_keeps_every_frame() {
        let late = Duration::from_millis(8);
        assert_eq!(taken(60, 60, late).len(), 120);
        assert_eq!(taken(30, 60, late).len(), 60);
    }

    #[test]
    fn what_is_left_is_as_many_as_wanted_and_even() {
        for (source, wanted) in [(60, 30), (59, 15), (50, 30), (60, 24), (144, 60), (60, 59)] {
            for jitter in [0, 2].map(Duration::from_millis) {
                let taken = taken(source, wanted, jitter);
                let count = u32::try_from(taken.len()).expect("few");
                assert!(
                    count.abs_diff(2 * wanted) <= 1,
                    "{count} of {source} for {wanted}"
                );
                let slowest = taken.windows(2).map(|pair| pair[1].since(pair[0])).max();
                let frame = FrameRate::hz(source).interval();
                let most = FrameRate::hz(wanted).interval() + frame + jitter;
                assert!(
                    slowest.is_some_and(|gap| gap <= most),
                    "{slowest:?} of {source} for {wanted}"
                );
            }
        }
    }

    #[test]
    fn after_a_pause_the_next_frame_is_taken_and_no_burst_follows() {
        let mut pace = Pace::new(FrameRate::hz(60), FrameRate::hz(30));
        let at = |millis: u64| MonoTime::from_nanos(millis * 1_000_000);
        assert!(pace.takes(at(1_000)));
        let after = [5_000, 5_016, 5_033, 5_050].map(|millis| pace.takes(at(millis)));
        assert_eq!(after, [true, false, true, false]);
    }
}
