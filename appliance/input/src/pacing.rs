//! What came late is written at a pace that its readers can follow.
//!
//! The kernel queues 64 events for each program that reads a keyboard; one that is not scheduled before the 65th loses
//! keys (`SYN_DROPPED`). Fingers never fill that queue, but the end of a network stall does: everything that was typed
//! meanwhile arrives within microseconds. So reports that come much later than the network needs are written at most
//! [`BURST`] events at once and [`RATE`] in a millisecond to each device, in their order over all devices, and none of them waits
//! longer than [`LONGEST`]. With nothing waiting, a report in time is written at once.

use std::collections::VecDeque;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::{DeviceId, EventType, InputEvent, MAX_DEVICES, MAX_EVENTS};

/// Events of one device that are written at once, with their `SYN_REPORT`: half of the kernel's smallest queue.
pub const BURST: usize = 32;
/// Events of one device in each following millisecond: a reader that comes every 15 ms loses none. More only when more
/// than 350 events wait, which would take too long.
pub const RATE: u64 = 2;
/// A report this much later than the quickest of late is part of a backlog.
pub const LATE: Duration = Duration::from_millis(10);
/// No report waits longer, while the thread that writes gets to run.
pub const LONGEST: Duration = Duration::from_millis(250);

/// Within which a backlog is written when it is so large that [`RATE`] does not do, in milliseconds.
const SPREAD_MS: u64 = 200;
/// Over how long the quickest way of a datagram is looked for: clocks that drift by 200 ppm do so by 4 ms in twice that.
const WINDOW: Duration = Duration::from_secs(10);
/// What waits at most; beyond, the oldest is written.
const MOST_REPORTS: usize = 512;
const MOST_EVENTS: usize = 4_096;
/// Parts of an event in which a bucket counts: one nanosecond at one event in a millisecond.
const PARTS: u64 = 1_000_000;

/// One report to write now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paced<'a> {
    /// To which device.
    pub device: DeviceId,
    /// The events; `SYN_REPORT` follows unless it is `unfinished`.
    pub events: &'a [InputEvent],
    /// Its end follows.
    pub unfinished: bool,
    /// The operator's stamp; none for what the ledger made up.
    pub stamp: Option<MonoTime>,
}

/// Lets reports through, or holds them for a moment.
///
/// > [`heard`](Self::heard) for every datagram, [`push`](Self::push) for every report, then
/// > [`handle_timeout`](Self::handle_timeout) whenever [`poll_timeout`](Self::poll_timeout) has passed.
///
/// `write` gets every report once, in the order of the pushes. Nothing allocates but the making.
#[derive(Debug)]
pub struct Pacer {
    reports: VecDeque<Waiting>,
    events: VecDeque<InputEvent>,
    buckets: Vec<Bucket>,
    /// Events in a millisecond while anything waits.
    rate: u64,
    scratch: Vec<InputEvent>,
    quickest: Quickest,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    device: DeviceId,
    count: usize,
    unfinished: bool,
    only_motion: bool,
    stamp: Option<MonoTime>,
}

impl Waiting {
    /// Events in the kernel's queue, with `SYN_REPORT`.
    const fn cost(&self) -> usize {
        self.count + 1
    }
}

/// What a device's readers may not have read yet, leaking at the rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    device: DeviceId,
    parts: u64,
    since: MonoTime,
}

impl Bucket {
    fn leak(&mut self, now: MonoTime, rate: u64) {
        let passed = u64::try_from(now.since(self.since).as_nanos()).unwrap_or(u64::MAX);
        self.parts = self.parts.saturating_sub(passed.saturating_mul(rate));
        self.since = self.since.max(now);
    }

    fn fill(&mut self, cost: usize) {
        self.parts = (self.parts + parts(cost)).min(parts(BURST.max(cost)));
    }

    /// Parts that have to leak before a report of this cost fits; a large one needs an empty bucket.
    fn excess(&self, cost: usize) -> u64 {
        self.parts.saturating_sub(parts(BURST.saturating_sub(cost)))
    }
}

const fn parts(events: usize) -> u64 {
    events as u64 * PARTS
}

/// The smallest difference between the two clocks that a datagram had lately: the quickest way.
#[derive(Clone, Copy, Debug, Default)]
struct Quickest {
    began: MonoTime,
    current: Option<i64>,
    before: Option<i64>,
}

impl Quickest {
    fn heard(&mut self, now: MonoTime, difference: i64) {
        let age = now.since(self.began);
        if self.current.is_none() || age >= WINDOW {
            self.before = self.current.take().filter(|_| age < 2 * WINDOW);
            self.began = now;
        }
        let current = self.current.get_or_insert(difference);
        *current = difference.min(*current);
    }

    /// Whether a report with this difference comes late. The first ones have nothing to be compared with.
    fn is_late(&self, difference: i64) -> bool {
        let least = [self.current, self.before].into_iter().flatten().min();
        let late = i64::try_from(LATE.as_nanos()).unwrap_or(i64::MAX);
        least.is_some_and(|least| difference.saturating_sub(least) > late)
    }
}

impl Default for Pacer {
    fn default() -> Self {
        Self::new()
    }
}

impl Pacer {
    /// With nothing waiting.
    #[must_use]
    pub fn new() -> Self {
        Self {
            reports: VecDeque::with_capacity(MOST_REPORTS),
            events: VecDeque::with_capacity(MOST_EVENTS),
            buckets: Vec::with_capacity(MAX_DEVICES),
            rate: RATE,
            scratch: Vec::with_capacity(MAX_EVENTS),
            quickest: Quickest::default(),
        }
    }

    /// A device is there.
    pub fn add_device(&mut self, device: DeviceId) {
        self.buckets.push(Bucket {
            device,
            parts: 0,
            since: MonoTime::ZERO,
        });
    }

    /// A device goes; to be [flushed](Self::flush) before.
    pub fn remove_device(&mut self, device: DeviceId) {
        self.buckets.retain(|bucket| bucket.device != device);
    }

    /// A datagram that was sent at `sent` on the operator's clock arrived at `now` on ours.
    pub fn heard(&mut self, now: MonoTime, sent: MonoTime) {
        self.quickest.heard(now, now.signed_since(sent));
    }

    /// A report to be written: at once, or as soon as its readers may have read what is before it.
    pub fn push(&mut self, now: MonoTime, report: Paced<'_>, write: &mut dyn FnMut(Paced<'_>)) {
        let late = report
            .stamp
            .is_some_and(|stamp| self.quickest.is_late(now.signed_since(stamp)));
        let cost = report.events.len() + 1;
        if self.reports.is_empty() && (!late || self.fits(now, report.device, cost)) {
            self.fill(now, report.device, cost);
            write(report);
            return;
        }
        if report.events.len() > MAX_EVENTS {
            // Nothing of the wire is that long.
            self.flush(now, write);
            write(report);
            return;
        }
        if !self.merge(&report) {
            while self.reports.len() >= MOST_REPORTS
                || self.events.len() + report.events.len() > MOST_EVENTS
            {
                self.write_oldest(now, write);
            }
            self.events.extend(report.events);
            self.reports.push_back(Waiting {
                device: report.device,
                count: report.events.len(),
                unfinished: report.unfinished,
                only_motion: is_motion(&report),
                stamp: report.stamp,
            });
        }
        self.hasten(now);
        self.handle_timeout(now, write);
    }

    /// Writes what its readers have room for by now.
    pub fn handle_timeout(&mut self, now: MonoTime, write: &mut dyn FnMut(Paced<'_>)) {
        while let Some(oldest) = self.reports.front() {
            let (device, cost) = (oldest.device, oldest.cost());
            if !self.fits(now, device, cost) {
                return;
            }
            self.write_oldest(now, write);
        }
    }

    /// When something is to be written, while anything waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let oldest = self.reports.front()?;
        let mut buckets = self.buckets.iter();
        let bucket = buckets.find(|bucket| bucket.device == oldest.device);
        Some(bucket.map_or(MonoTime::ZERO, |bucket| {
            let nanos = bucket.excess(oldest.cost()).div_ceil(self.rate);
            bucket.since + Duration::from_nanos(nanos)
        }))
    }

    /// Writes everything now: keys are about to be lifted, which counts more.
    pub fn flush(&mut self, now: MonoTime, write: &mut dyn FnMut(Paced<'_>)) {
        while !self.reports.is_empty() {
            self.write_oldest(now, write);
        }
    }

    fn write_oldest(&mut self, now: MonoTime, write: &mut dyn FnMut(Paced<'_>)) {
        let Some(oldest) = self.reports.pop_front() else {
            return;
        };
        self.scratch.clear();
        self.scratch.extend(self.events.drain(..oldest.count));
        self.fill(now, oldest.device, oldest.cost());
        if self.reports.is_empty() {
            self.set_rate(now, RATE);
        }
        write(Paced {
            device: oldest.device,
            events: &self.scratch,
            unfinished: oldest.unfinished,
            stamp: oldest.stamp,
        });
    }

    /// Adds motion up that follows on motion of the same device: readers get the same way, in fewer steps.
    fn merge(&mut self, report: &Paced<'_>) -> bool {
        let Some(last) = self.reports.back_mut() else {
            return false;
        };
        if last.device != report.device || !last.only_motion || !is_motion(report) {
            return false;
        }
        let start = self.events.len() - last.count;
        let new_axes = |events: &VecDeque<InputEvent>| {
            let known = |code| events.range(start..).any(|event| event.code == code);
            let new = report.events.iter().filter(|event| !known(event.code));
            new.count()
        };
        let count = last.count + new_axes(&self.events);
        if count > MAX_EVENTS || start + count > MOST_EVENTS {
            return false;
        }
        for event in report.events {
            let mut known = self.events.range_mut(start..);
            match known.find(|known| known.code == event.code) {
                Some(known) => known.value = known.value.saturating_add(event.value),
                None => self.events.push_back(*event),
            }
        }
        last.count = self.events.len() - start;
        last.stamp = report.stamp.or(last.stamp);
        true
    }

    /// Makes the rate such that all that waits is written soon enough.
    fn hasten(&mut self, now: MonoTime) {
        let unread = self.buckets.iter().map(|bucket| bucket.parts).max();
        let waiting = parts(self.events.len() + self.reports.len());
        let wanted = (waiting + unread.unwrap_or(0)).div_ceil(SPREAD_MS * PARTS);
        if wanted > self.rate {
            self.set_rate(now, wanted);
        }
    }

    fn set_rate(&mut self, now: MonoTime, rate: u64) {
        for bucket in &mut self.buckets {
            bucket.leak(now, self.rate);
        }
        self.rate = rate;
    }

    fn fits(&mut self, now: MonoTime, device: DeviceId, cost: usize) -> bool {
        let rate = self.rate;
        self.bucket_mut(device).is_none_or(|bucket| {
            bucket.leak(now, rate);
            bucket.excess(cost) == 0
        })
    }

    fn fill(&mut self, now: MonoTime, device: DeviceId, cost: usize) {
        let rate = self.rate;
        if let Some(bucket) = self.bucket_mut(device) {
            bucket.leak(now, rate);
            bucket.fill(cost);
        }
    }

    fn bucket_mut(&mut self, device: DeviceId) -> Option<&mut Bucket> {
        let mut buckets = self.buckets.iter_mut();
        buckets.find(|bucket| bucket.device == device)
    }
}

fn is_motion(report: &Paced<'_>) -> bool {
    let motion = |event: &InputEvent| event.kind == EventType::REL;
    !report.unfinished && !report.events.is_empty() && report.events.iter().all(motion)
}
