//! Which encoder is used: the best that works, the next one when it fails, and back up after a while.
//!
//! Pure: time is an argument, and opening and encoding are somebody else's.

use std::time::Duration;

use soft_kvm_core::MonoTime;

/// A rung that encoded this long without a failure gets its second chance back.
const TRUSTED_AFTER: Duration = Duration::from_secs(10);

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fall {
    /// Open the same rung once more.
    Reopen,
    /// Take what [`Ladder::best`] says now.
    Next,
}

/// The encoders that there are, best first, and how each fares.
#[derive(Debug)]
pub(super) struct Ladder<R> {
    rungs: Vec<State<R>>,
    cool_down: Duration,
}

#[derive(Debug)]
struct State<R> {
    rung: R,
    /// Why it was left, and when it may be tried again.
    left: Option<(String, MonoTime)>,
    /// When it failed and was opened once more, until it is trusted again.
    reopened: Option<MonoTime>,
}

impl<R> Ladder<R> {
    /// Rungs, best first; one that failed is left alone for `cool_down`.
    pub(super) fn new(rungs: impl IntoIterator<Item = R>, cool_down: Duration) -> Self {
        let state = |rung| State {
            rung,
            left: None,
            reopened: None,
        };
        Self {
            rungs: rungs.into_iter().map(state).collect(),
            cool_down,
        }
    }

    /// How many rungs there are.
    pub(super) fn len(&self) -> usize {
        self.rungs.len()
    }

    /// The rung by its number.
    pub(super) fn rung(&self, index: usize) -> Option<&R> {
        self.rungs.get(index).map(|state| &state.rung)
    }

    /// The number of the best rung that may be tried; the last one always may, for there is nothing below it.
    pub(super) fn best(&self, now: MonoTime) -> usize {
        self.rungs
            .iter()
            .position(|state| state.left.as_ref().is_none_or(|(_, until)| *until <= now))
            .unwrap_or(self.rungs.len().saturating_sub(1))
    }

    /// The rung could not be opened: it is left at once.
    pub(super) fn not_opened(&mut self, index: usize, why: String, now: MonoTime) {
        let until = now + self.cool_down;
        if let Some(state) = self.rungs.get_mut(index) {
            state.left = Some((why, until));
            state.reopened = None;
        }
    }

    /// The rung failed while it encoded: opened once more, then left.
    pub(super) fn failed(&mut self, index: usize, why: String, now: MonoTime) -> Fall {
        let trusted = self.rungs.get(index).is_some_and(|state| {
            let again = state.reopened.map(|at| now.since(at));
            state.left.is_none() && again.is_none_or(|since| since >= TRUSTED_AFTER)
        });
        if !trusted {
            self.not_opened(index, why, now);
            return Fall::Next;
        }
        if let Some(state) = self.rungs.get_mut(index) {
            state.reopened = Some(now);
        }
        Fall::Reopen
    }

    /// The rung has encoded a picture.
    pub(super) fn worked(&mut self, index: usize) {
        if let Some(state) = self.rungs.get_mut(index) {
            state.left = None;
        }
    }

    /// Why the better rungs above this one are not used.
    pub(super) fn above(&self, index: usize) -> impl Iterator<Item = (&R, &str)> {
        self.rungs
            .iter()
            .take(index)
            .filter_map(|state| Some((&state.rung, state.left.as_ref()?.0.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOL_DOWN: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> MonoTime {
        MonoTime::from_nanos(seconds * 1_000_000_000)
    }

    fn ladder() -> Ladder<&'static str> {
        Ladder::new(["m2m", "vaapi", "software"], COOL_DOWN)
    }

    #[test]
    fn falls_rung_by_rung_and_climbs_back() {
        let mut ladder = ladder();
        assert_eq!(ladder.best(at(0)), 0);
        ladder.not_opened(0, "no such device".to_owned(), at(0));
        ladder.not_opened(1, "no driver".to_owned(), at(1));
        assert_eq!(ladder.best(at(1)), 2);
        assert_eq!(
            ladder.above(2).collect::<Vec<_>>(),
            [(&"m2m", "no such device"), (&"vaapi", "no driver")]
        );
        assert_eq!(ladder.best(at(29)), 2);
        assert_eq!(ladder.best(at(30)), 0, "cooled down");
        ladder.worked(0);
        assert_eq!(ladder.above(2).count(), 1);
    }

    #[test]
    fn a_failure_while_encoding_is_forgiven_once() {
        let mut ladder = ladder();
        ladder.worked(0);
        assert_eq!(ladder.failed(0, "EIO".to_owned(), at(5)), Fall::Reopen);
        assert_eq!(ladder.best(at(5)), 0);
        ladder.worked(0);
        assert_eq!(ladder.failed(0, "EIO".to_owned(), at(6)), Fall::Next);
        assert_eq!(ladder.best(at(6)), 1);
    }

    #[test]
    fn a_rung_that_ran_well_for_long_is_forgiven_again() {
        let mut ladder = ladder();
        assert_eq!(ladder.failed(0, "EIO".to_owned(), at(0)), Fall::Reopen);
        assert_eq!(ladder.failed(0, "EIO".to_owned(), at(60)), Fall::Reopen);
    }

    #[test]
    fn after_its_cool_down_a_rung_has_one_try() {
        let mut ladder = ladder();
        ladder.failed(0, "hangs".to_owned(), at(0));
        ladder.failed(0, "hangs".to_owned(), at(1));
        assert_eq!(ladder.best(at(31)), 0);
        assert_eq!(ladder.failed(0, "hangs".to_owned(), at(31)), Fall::Next);
        assert_eq!(ladder.best(at(32)), 1);
    }

    #[test]
    fn the_last_rung_is_never_out_of_reach() {
        let mut ladder = ladder();
        for index in 0..ladder.len() {
            ladder.not_opened(index, "no".to_owned(), at(0));
        }
        assert_eq!(ladder.best(at(1)), 2);
    }
}
