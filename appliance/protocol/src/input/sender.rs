//! The operator's end of the datagrams.

use std::collections::VecDeque;
use std::time::Duration;

use soft_kvm_core::MonoTime;

use super::codes::EventType;
use super::datagram::{Ack, DatagramWriter, HEADER_LEN, report_len};
use super::event::{DeviceId, EventReport, InputEvent};
use super::held::HeldKeys;
use super::rtt::RoundTrip;
use super::wire::DecodeError;
use super::{ACK_DELAY, LEASE, MAX_DATAGRAM, MAX_EVENTS, MAX_HELD};

/// Sign of life while a key is down: four tries fit in the lease.
const KEEP_ALIVE_HELD: Duration = Duration::from_millis(60);
/// Sign of life while nothing is down, for the session itself.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(1);
/// Longest that motion waits to be merged, when the sender is behind.
const MERGE: Duration = Duration::from_millis(1);
/// With more unacknowledged reports than this the sender is behind: each datagram repeats them all.
const CROWD: usize = 8;
/// Unacknowledged bytes in flight beyond which nothing new is sent.
const WINDOW: usize = 4 * MAX_DATAGRAM;
/// Bytes of reports beyond which one datagram may not hold them all beside a full snapshot.
const ONE_DATAGRAM: usize = MAX_DATAGRAM - HEADER_LEN - 1 - 4 * MAX_HELD;
/// More unacknowledged reports than this for longer than the lease start a new epoch.
const MANY: usize = 256;
/// More than these never wait.
const MOST_REPORTS: usize = 4_096;
const MOST_EVENTS: usize = 16_384;
/// Events that the target could not take for this long are not played to it late.
const STALE: Duration = Duration::from_secs(2);

/// Sends reports so that they arrive once, in order, however the network loses, doubles or reorders datagrams.
///
/// Every datagram holds all unacknowledged reports from the oldest on and the keys that were held before them, so a
/// lost datagram is repaired by the next one. Sans-IO:
///
/// > After [`push`](Self::push), [`handle_ack`](Self::handle_ack) and whenever [`poll_timeout`](Self::poll_timeout) has
/// > passed: send what [`poll_transmit`](Self::poll_transmit) writes, until it returns `false`.
///
/// Once its buffers have grown, no call allocates.
#[derive(Debug)]
pub struct InputSender {
    epoch: u32,
    /// Held before the oldest unacknowledged report.
    base: HeldKeys,
    /// Held after the newest report.
    current: HeldKeys,
    /// Sequence number of the oldest unacknowledged report.
    first: u64,
    /// Sequence number after the newest report that was ever sent.
    sent_end: u64,
    reports: VecDeque<Pending>,
    events: VecDeque<InputEvent>,
    /// Encoded length of all in `reports`, in bytes.
    bytes: usize,
    /// How many of them are urgent.
    urgent: usize,
    cursor: Option<Cursor>,
    last_sent: Option<MonoTime>,
    round_trip: RoundTrip,
    restarted: bool,
    /// A datagram is wanted whether or not there is anything to tell.
    asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    device: DeviceId,
    time: MonoTime,
    pushed: MonoTime,
    unfinished: bool,
    /// Has a key or button: its acknowledgement comes without delay.
    urgent: bool,
    events: usize,
}

/// Where a transmission in several datagrams stands, counted from the oldest unacknowledged report.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    report: usize,
    event: usize,
    bytes: usize,
}

/// What an acknowledgement told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckSummary {
    /// The acknowledgement itself.
    pub ack: Ack,
    /// Reports that it newly confirmed.
    pub confirmed: usize,
    /// Kernel stamp of the oldest of them: `applied` minus this, on one clock, is their worst latency.
    pub oldest: Option<MonoTime>,
    /// Kernel stamp of the newest of them.
    pub newest: Option<MonoTime>,
    /// Time on the wire, there and back.
    pub round_trip: Duration,
}

impl Default for InputSender {
    fn default() -> Self {
        Self::new()
    }
}

impl InputSender {
    /// A sender for a new session; its first datagram is due at once.
    #[must_use]
    pub fn new() -> Self {
        Self {
            epoch: 1,
            base: HeldKeys::new(),
            current: HeldKeys::new(),
            first: 0,
            sent_end: 0,
            reports: VecDeque::with_capacity(MANY),
            events: VecDeque::with_capacity(4 * MANY),
            bytes: 0,
            urgent: 0,
            cursor: None,
            last_sent: None,
            round_trip: RoundTrip::default(),
            restarted: false,
            asked: false,
        }
    }

    /// Takes a report, in the order of the kernel.
    ///
    /// Auto-repeat, LEDs and what else the target makes by itself are left out. A report of more than
    /// [`MAX_EVENTS`] events is sent in parts.
    pub fn push(&mut self, now: MonoTime, report: EventReport<'_>) {
        self.restart_if_hopeless(now);
        if self.merge(&report) {
            return;
        }
        let mut parts = report.events.chunks(MAX_EVENTS).peekable();
        while let Some(part) = parts.next() {
            self.push_part(
                now,
                EventReport {
                    unfinished: report.unfinished || parts.peek().is_some(),
                    events: part,
                    ..report
                },
            );
        }
    }

    fn push_part(&mut self, now: MonoTime, report: EventReport<'_>) {
        let (mut events, mut urgent) = (0, false);
        for event in report.events {
            if self.takes(report.device, *event) {
                self.current.apply(report.device, *event);
                self.events.push_back(*event);
                urgent |= event.kind == EventType::KEY;
                events += 1;
            }
        }
        if events == 0 {
            return;
        }
        self.bytes += report_len(events);
        self.urgent += usize::from(urgent);
        self.reports.push_back(Pending {
            device: report.device,
            time: report.time,
            pushed: now,
            unfinished: report.unfinished,
            urgent,
            events,
        });
    }

    fn takes(&self, device: DeviceId, event: InputEvent) -> bool {
        match event.kind {
            EventType::SYN => event.code != 0 && event.code != 3,
            EventType::KEY => match event.as_key() {
                Some((key, true)) => {
                    self.current.len() < MAX_HELD || self.current.contains(device, key)
                }
                Some((_, false)) => true,
                None => false,
            },
            kind => kind.is_from_operator(),
        }
    }

    /// Adds motion to the newest report when the sender is behind and that one has not been sent.
    fn merge(&mut self, report: &EventReport<'_>) -> bool {
        let only_motion = |events: &[InputEvent]| {
            events.iter().all(|event| event.kind == EventType::REL) && !events.is_empty()
        };
        if !self.is_crowded() || !self.has_unsent() || report.unfinished {
            return false;
        }
        let Some(last) = self.reports.back().copied() else {
            return false;
        };
        let start = self.events.len() - last.events;
        let merges = last.device == report.device
            && !last.unfinished
            && only_motion(report.events)
            && last.events + report.events.len() <= MAX_EVENTS
            && self
                .events
                .range(start..)
                .all(|event| event.kind == EventType::REL);
        if !merges {
            return false;
        }
        for event in report.events {
            let same = self
                .events
                .range_mut(start..)
                .find(|other| other.code == event.code);
            if let Some(same) = same {
                same.value = same.value.saturating_add(event.value);
            } else {
                self.events.push_back(*event);
                self.bytes += report_len(1) - report_len(0);
                if let Some(last) = self.reports.back_mut() {
                    last.events += 1;
                }
            }
        }
        true
    }

    /// Lifts every key of a device that goes away.
    pub fn remove_device(&mut self, now: MonoTime, device: DeviceId) {
        self.release(now, |owner| owner == device);
    }

    /// Lifts every key, when the operator's devices are let go.
    pub fn release_all(&mut self, now: MonoTime) {
        self.release(now, |_| true);
    }

    fn release(&mut self, now: MonoTime, chosen: impl Fn(DeviceId) -> bool) {
        loop {
            let Some((device, key)) = self.current.iter().find(|(device, _)| chosen(*device))
            else {
                return;
            };
            let report = EventReport {
                device,
                time: now,
                unfinished: false,
                events: &[InputEvent::key(key, false)],
            };
            self.push(now, report);
            // Whatever became of the report, this ends.
            self.current.release(device, key);
        }
    }

    /// Makes a datagram due at once, for its answer's sake.
    pub const fn send_now(&mut self) {
        self.asked = true;
    }

    /// Writes the next datagram, if one is due.
    #[must_use]
    pub fn poll_transmit(&mut self, now: MonoTime, out: &mut Vec<u8>) -> bool {
        self.restart_if_hopeless(now);
        let cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None if now >= self.due() => self.begin(now),
            None => return false,
        };
        self.write(now, cursor, out);
        true
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something to write.
    #[must_use]
    pub fn poll_timeout(&self) -> MonoTime {
        if self.cursor.is_some() {
            return MonoTime::ZERO;
        }
        self.due()
    }

    /// Takes the target's answer.
    ///
    /// # Errors
    /// On bytes that are no acknowledgement, or one for what was never sent.
    pub fn handle_ack(&mut self, now: MonoTime, payload: &[u8]) -> Result<AckSummary, DecodeError> {
        let ack = Ack::parse(payload)?;
        let waited = now.since(ack.echo);
        let round_trip = waited.saturating_sub(ack.held);
        let mut summary = AckSummary {
            ack,
            confirmed: 0,
            oldest: None,
            newest: None,
            round_trip,
        };
        if ack.epoch != self.epoch {
            return Ok(summary);
        }
        if ack.next > self.sent_end {
            return Err(DecodeError::Field {
                field: "acknowledged sequence number",
                value: i64::try_from(ack.next).unwrap_or(i64::MAX),
            });
        }
        self.round_trip.sample(round_trip);
        while self.first < ack.next {
            let Some(report) = self.reports.pop_front() else {
                break;
            };
            for event in self.events.drain(..report.events) {
                self.base.apply(report.device, event);
            }
            self.bytes -= report_len(report.events);
            self.urgent -= usize::from(report.urgent);
            self.first += 1;
            summary.confirmed += 1;
            summary.oldest = summary.oldest.or(Some(report.time));
            summary.newest = Some(report.time);
        }
        if summary.confirmed > 0 {
            self.round_trip.progress();
            self.cursor = None;
        }
        Ok(summary)
    }

    /// Whether history was given up since the last call: absolute positions, touches and switches have to be read
    /// from the devices again. Keys need nothing: the snapshot tells them.
    #[must_use]
    pub const fn take_restarted(&mut self) -> bool {
        std::mem::replace(&mut self.restarted, false)
    }

    /// The keys down as of the newest report.
    #[must_use]
    pub const fn held(&self) -> &HeldKeys {
        &self.current
    }

    /// Reports that the target has not confirmed yet.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        self.reports.len()
    }

    /// The smoothed time on the wire, there and back.
    #[must_use]
    pub const fn round_trip(&self) -> Option<Duration> {
        self.round_trip.smoothed()
    }

    fn end(&self) -> u64 {
        self.first + self.reports.len() as u64
    }

    fn has_unsent(&self) -> bool {
        self.end() > self.sent_end
    }

    /// The unacknowledged reports do not fit in one datagram.
    const fn is_behind(&self) -> bool {
        self.bytes > ONE_DATAGRAM
    }

    /// Motion is worth adding up.
    fn is_crowded(&self) -> bool {
        self.is_behind() || self.reports.len() > CROWD
    }

    /// The newest report may wait for its successors.
    fn may_wait(&self) -> bool {
        let only_motion = self.reports.back().is_some_and(|newest| !newest.urgent);
        self.is_behind() || self.is_crowded() && only_motion
    }

    fn due(&self) -> MonoTime {
        let Some(last_sent) = self.last_sent.filter(|_| !self.asked) else {
            return MonoTime::ZERO;
        };
        let idle = self.base.is_empty() && self.current.is_empty();
        let mut due = last_sent
            + if idle {
                KEEP_ALIVE_IDLE
            } else {
                KEEP_ALIVE_HELD
            };
        if !self.reports.is_empty() {
            due = due.min(last_sent + self.patience());
        }
        if self.may_send_new() {
            due = due.min(if self.may_wait() {
                last_sent + MERGE
            } else {
                MonoTime::ZERO
            });
        }
        due
    }

    /// How long to wait for the answer to what was sent last.
    fn patience(&self) -> Duration {
        let delay = if self.urgent == 0 {
            ACK_DELAY
        } else {
            Duration::ZERO
        };
        self.round_trip.timeout() + delay
    }

    /// Unsent reports fit in the window.
    fn may_send_new(&self) -> bool {
        let unsent = usize::try_from(self.end() - self.sent_end).unwrap_or(usize::MAX);
        let in_flight = self.reports.len().saturating_sub(unsent);
        unsent > 0 && (!self.is_behind() || self.bytes_of(in_flight) < WINDOW)
    }

    /// Encoded length of the oldest reports, in bytes.
    fn bytes_of(&self, reports: usize) -> usize {
        self.reports
            .iter()
            .take(reports)
            .map(|report| report_len(report.events))
            .sum()
    }

    /// Where to start: at the oldest, or, when that is more than a datagram and not yet overdue, at what is new.
    fn begin(&mut self, now: MonoTime) -> Cursor {
        let overdue = self
            .last_sent
            .is_none_or(|last| now >= last + self.patience());
        if self.may_send_new() && self.is_behind() && !overdue {
            let report = usize::try_from(self.sent_end - self.first).unwrap_or(0);
            return Cursor {
                report,
                event: self
                    .reports
                    .iter()
                    .take(report)
                    .map(|report| report.events)
                    .sum(),
                bytes: self.bytes_of(report),
            };
        }
        if overdue && !self.reports.is_empty() && !self.has_unsent() {
            self.round_trip.back_off();
        }
        Cursor {
            report: 0,
            event: 0,
            bytes: 0,
        }
    }

    fn write(&mut self, now: MonoTime, mut cursor: Cursor, out: &mut Vec<u8>) {
        let snapshot = (cursor.report == 0).then_some(&self.base);
        let first = self.first + cursor.report as u64;
        let mut writer = DatagramWriter::begin(out, self.epoch, first, now, snapshot);
        for report in self.reports.range(cursor.report..) {
            let end = cursor.event + report.events;
            let events = self.events.range(cursor.event..end);
            if !writer.push(report.device, report.time, report.unfinished, events) {
                break;
            }
            cursor.report += 1;
            cursor.event = end;
            cursor.bytes += report_len(report.events);
        }
        self.sent_end = self.sent_end.max(self.first + cursor.report as u64);
        self.last_sent = Some(now);
        self.asked = false;
        if cursor.report < self.reports.len() && cursor.bytes < WINDOW {
            self.cursor = Some(cursor);
        }
    }

    fn restart_if_hopeless(&mut self, now: MonoTime) {
        let Some(oldest) = self.reports.front() else {
            return;
        };
        let waited = now.since(oldest.pushed);
        let hopeless = waited > STALE
            || (self.reports.len() > MANY && waited > LEASE)
            || self.reports.len() >= MOST_REPORTS
            || self.events.len() >= MOST_EVENTS;
        if !hopeless {
            return;
        }
        self.epoch = self.epoch.wrapping_add(1);
        self.base.copy_from(&self.current);
        self.first = 0;
        self.sent_end = 0;
        self.reports.clear();
        self.events.clear();
        self.bytes = 0;
        self.urgent = 0;
        self.cursor = None;
        self.last_sent = None;
        self.restarted = true;
    }
}
