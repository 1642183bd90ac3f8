//! `--probe-input`: keys typed by the client itself, and the time until the test card's picture shows them.

use std::collections::VecDeque;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::{DeviceId, EventReport, InputEvent, KeyCode};

/// Reports that are waited for; more are not sent until some have been seen.
const OUTSTANDING: usize = 1_024;

/// Counts reports against what the pictures show.
#[derive(Debug, Default)]
pub(crate) struct InputProbe {
    /// What the picture showed before the first report of this connection.
    base: Option<u32>,
    sent: u32,
    down: bool,
    waiting: VecDeque<(u32, MonoTime)>,
}

impl InputProbe {
    /// A new connection: the server's count goes on from what the next picture shows.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The next report, once the first picture has been seen: the key A goes down and up in turns.
    pub(crate) fn next(&mut self, now: MonoTime) -> Option<[InputEvent; 2]> {
        if self.base.is_none() || self.waiting.len() >= OUTSTANDING {
            return None;
        }
        self.down = !self.down;
        self.sent = self.sent.wrapping_add(1);
        self.waiting.push_back((self.sent, now));
        Some([
            InputEvent::key(KeyCode::A, self.down),
            InputEvent::SYN_REPORT,
        ])
    }

    /// A picture shows that `reports` have been applied; calls `each` with when every newly shown one was made.
    pub(crate) fn shown(&mut self, reports: u32, mut each: impl FnMut(MonoTime)) {
        let base = *self.base.get_or_insert(reports);
        let shown = reports.wrapping_sub(base);
        while let Some((number, made)) = self.waiting.front().copied() {
            if number > shown {
                break;
            }
            self.waiting.pop_front();
            each(made);
        }
    }
}

/// The report in the form that the sender takes.
pub(crate) fn report(device: DeviceId, time: MonoTime, events: &[InputEvent]) -> EventReport<'_> {
    EventReport {
        device,
        time,
        unfinished: false,
        events,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_matched_with_pictures() {
        let mut probe = InputProbe::default();
        let at = MonoTime::from_nanos;
        assert!(
            probe.next(at(1)).is_none(),
            "nothing is sent before the first picture"
        );
        probe.shown(u32::MAX, |_| unreachable!("nothing was sent"));
        assert!(probe.next(at(10)).is_some_and(|[key, _]| key.value == 1));
        assert!(probe.next(at(20)).is_some_and(|[key, _]| key.value == 0));
        let mut seen = Vec::new();
        probe.shown(u32::MAX, |made| seen.push(made));
        assert!(seen.is_empty());
        probe.shown(0, |made| seen.push(made));
        probe.shown(5, |made| seen.push(made));
        assert_eq!(seen, [at(10), at(20)]);
    }
}
