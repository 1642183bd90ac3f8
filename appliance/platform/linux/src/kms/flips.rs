//! Whether a screen that shows the same framebuffers as before has changed.
//!
//! No call tells a bystander that a program has drawn. A program that shows a new framebuffer for each picture does not
//! draw into the one that is shown, but X servers and text consoles do, and a program may turn from one to the other
//! at any time. So a picture is left out only between the flips of a program that flips right now, and only when
//! the screen was looked at often enough to see each of them; else the picture is taken, and the comparison of
//! the converter finds out that nothing has changed.

use std::time::Duration;

use soft_kvm_core::MonoTime;

/// Who flips does so at least that often.
const FLIPPING: Duration = Duration::from_millis(100);
/// Looks further apart may have missed two flips that gave the same framebuffer back: 8 ms are wanted, and a vblank
/// of 60 Hz comes each 16.7 ms.
const BLIND: Duration = Duration::from_millis(15);

#[derive(Debug, Default)]
pub(super) struct Flips {
    shown: u64,
    looked: Option<MonoTime>,
    /// The last two.
    flips: [Option<MonoTime>; 2],
    changed: bool,
}

impl Flips {
    /// Takes what is shown now, as a number that differs when anything about it does.
    pub(super) fn look(&mut self, now: MonoTime, shown: u64) {
        let blind = self.looked.is_none_or(|before| now.since(before) > BLIND);
        if shown != self.shown {
            self.flips = [Some(now), self.flips[0]];
        }
        self.changed |= blind || shown != self.shown;
        self.shown = shown;
        self.looked = Some(now);
    }

    /// Whether a program shows one framebuffer after the other.
    pub(super) fn is_flipping(&self, now: MonoTime) -> bool {
        match self.flips {
            [Some(last), Some(before)] => {
                now.since(last) < FLIPPING && last.since(before) < FLIPPING
            }
            _ => false,
        }
    }

    /// Whether a picture has to be taken; asked once for each that is due.
    pub(super) fn take(&mut self, now: MonoTime) -> bool {
        let changed = std::mem::replace(&mut self.changed, false);
        changed || !self.is_flipping(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn between_flips_nothing_is_taken_and_after_them_everything_is() {
        let mut flips = Flips::default();
        let mut taken = Vec::new();
        for now in (0..400).step_by(8) {
            // 25 pictures a second for 200 ms, then drawing into the last one.
            let shown = (now / 40).min(5) % 2 + 1;
            flips.look(at(now), shown);
            if now % 16 == 0 && flips.take(at(now)) {
                taken.push(now);
            }
        }
        assert_eq!(taken[..3], [0, 16, 32], "who flips is not known yet");
        let flipping: Vec<_> = taken
            .iter()
            .filter(|&&now| (96..300).contains(&now))
            .collect();
        assert_eq!(flipping, [&128, &160, &208], "one picture for each flip");
        let after: Vec<_> = taken.into_iter().filter(|now| *now >= 304).collect();
        assert_eq!(after, [304, 320, 336, 352, 368, 384]);
    }

    #[test]
    fn two_flips_between_two_looks_are_not_overlooked() {
        let mut flips = Flips::default();
        for (now, shown) in [(0, 1), (8, 2), (16, 1), (24, 2)] {
            flips.look(at(now), shown);
        }
        assert!(flips.take(at(24)));
        flips.look(at(32), 2);
        assert!(!flips.take(at(32)));
        flips.look(at(60), 2);
        assert!(flips.take(at(60)), "nobody looked for 28 ms");
    }
}
