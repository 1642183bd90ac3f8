//! The pacing of a backlog: order kept, nothing lost, the delay bound, nothing added when there is no backlog.

use std::time::Duration;

use proptest::prelude::*;
use soft_kvm_core::MonoTime;
use soft_kvm_input::pacing::{BURST, LATE, LONGEST, Paced, Pacer, RATE};
use soft_kvm_protocol::input::codes::abs;
use soft_kvm_protocol::input::{DeviceId, EventType, InputEvent, KeyCode};

/// What evdev keeps for a reader of a keyboard: its 64 places, less the one that tells full from empty.
const KERNEL_QUEUE: usize = 63;
/// How rarely a reader may come and lose nothing.
const READER: Duration = Duration::from_millis(15);
/// What waits at most at the slowest rate.
const TYPED: usize = 350;

/// The code of the event that numbers a report.
const NUMBER: u16 = 7;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    device: DeviceId,
    events: Vec<InputEvent>,
    unfinished: bool,
}

impl Report {
    fn is_motion(&self) -> bool {
        let motion = |event: &InputEvent| event.kind == EventType::REL;
        !self.unfinished && !self.events.is_empty() && self.events.iter().all(motion)
    }

    fn cost(&self) -> usize {
        self.events.len() + 1
    }
}

/// A pacer, the time of the target and what was written when.
struct World {
    pacer: Pacer,
    now: MonoTime,
    written: Vec<(MonoTime, Report)>,
}

impl World {
    fn new() -> Self {
        let mut pacer = Pacer::new();
        for id in 0..3 {
            pacer.add_device(DeviceId(id));
        }
        let now = MonoTime::from_nanos(50_000_000_000);
        // The operator's clock is 20 s behind.
        pacer.heard(now, sent(now));
        Self {
            pacer,
            now,
            written: Vec::new(),
        }
    }

    /// Time passes; what is due is written at its moment.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.pacer.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let (now, written) = (self.now, &mut self.written);
            let before = written.len();
            self.pacer
                .handle_timeout(now, &mut |report| written.push((now, owned(report))));
            assert!(written.len() > before, "woken for nothing");
        }
        self.now = end;
    }

    /// A report that was made `age` ago and would have come at once on a quiet wire.
    fn push(&mut self, age: Duration, report: &Report) {
        let (now, written) = (self.now, &mut self.written);
        let stamp = MonoTime::from_nanos(sent(now).as_nanos() - nanos(age));
        let paced = Paced {
            device: report.device,
            events: &report.events,
            unfinished: report.unfinished,
            stamp: Some(stamp),
        };
        self.pacer
            .push(now, paced, &mut |report| written.push((now, owned(report))));
        if let Some(due) = self.pacer.poll_timeout() {
            assert!(due <= now + LONGEST);
        }
    }

    fn reports(&self) -> Vec<Report> {
        self.written
            .iter()
            .map(|(_, report)| report.clone())
            .collect()
    }
}

fn sent(now: MonoTime) -> MonoTime {
    MonoTime::from_nanos(now.as_nanos() - 20_000_000_000)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("short")
}

fn owned(report: Paced<'_>) -> Report {
    Report {
        device: report.device,
        events: report.events.to_vec(),
        unfinished: report.unfinished,
    }
}

/// Adds up motion that follows on motion of the same device.
fn merged(reports: Vec<Report>) -> Vec<Report> {
    let mut merged: Vec<Report> = Vec::new();
    for report in reports {
        let last = merged
            .last_mut()
            .filter(|last| last.device == report.device && last.is_motion() && report.is_motion());
        let Some(last) = last else {
            merged.push(report);
            continue;
        };
        for event in report.events {
            let mut known = last.events.iter_mut();
            match known.find(|known| known.code == event.code) {
                Some(known) => known.value += event.value,
                None => last.events.push(event),
            }
        }
    }
    merged
}

fn report() -> impl Strategy<Value = Report> {
    let key = (1u16..100, any::<bool>()).prop_map(|(key, down)| {
        let scan = InputEvent::new(EventType::MSC, 4, i32::from(key));
        vec![scan, InputEvent::key(KeyCode(key), down)]
    });
    let motion = prop::collection::btree_map(0u16..4, -50i32..50, 1..3).prop_map(|axes| {
        let event = |(axis, steps)| InputEvent::new(EventType::REL, axis, steps);
        axes.into_iter().map(event).collect()
    });
    let touches = prop::collection::vec(0i32..9, 1..90).prop_map(|places| {
        let event = |place| InputEvent::new(EventType::ABS, abs::MT_POSITION_X, place);
        places.into_iter().map(event).collect()
    });
    let events = prop_oneof![4 => key, 4 => motion, 1 => touches];
    (0u16..3, events, prop::bool::weighted(0.1)).prop_map(|(device, events, unfinished)| Report {
        device: DeviceId(device),
        events,
        unfinished,
    })
}

proptest! {
    /// Whatever comes, at whatever age, with whatever pauses.
    #[test]
    fn every_report_is_written_once_in_order_and_soon(
        steps in prop::collection::vec((report(), 0u64..400, 0u64..30_000), 1..400),
        flushed in prop::option::of(0usize..400),
    ) {
        let mut world = World::new();
        let (mut pushed, mut times) = (Vec::new(), Vec::new());
        for (index, (mut report, age, pause)) in steps.into_iter().enumerate() {
            // Most of a backlog comes at once.
            world.pass(Duration::from_micros(if pause < 25_000 { 0 } else { pause }));
            if !report.is_motion() {
                let number = i32::try_from(index).expect("few");
                report.events.push(InputEvent::new(EventType::MSC, NUMBER, number));
            }
            times.push(world.now);
            world.push(Duration::from_millis(age), &report);
            pushed.push(report);
            if flushed == Some(index) {
                let (now, written) = (world.now, &mut world.written);
                world.pacer.flush(now, &mut |report| written.push((now, owned(report))));
                prop_assert_eq!(merged(world.reports()), merged(pushed.clone()));
            }
        }
        world.pass(LONGEST);
        prop_assert_eq!(world.pacer.poll_timeout(), None);
        prop_assert_eq!(merged(world.reports()), merged(pushed));
        for (written, report) in &world.written {
            let is_number = |event: &&InputEvent| event.kind == EventType::MSC && event.code == NUMBER;
            let mut numbers = report.events.iter().filter(is_number);
            if let Some(event) = numbers.next() {
                let pushed = times[usize::try_from(event.value).expect("ours")];
                prop_assert!(written.since(pushed) <= LONGEST);
            }
        }
    }

    /// A reader that comes every 15 ms loses nothing of what was typed in a stall.
    #[test]
    fn a_slow_reader_keeps_up_with_a_backlog(
        reports in prop::collection::vec(report(), 1..150),
        phase in 0u64..15_000,
    ) {
        let mut world = World::new();
        let (mut total, mut first) = (0, None);
        for report in reports {
            // A larger report alone overruns the queue, whoever writes it.
            if report.cost() > BURST || total + report.cost() > TYPED {
                continue;
            }
            total += report.cost();
            first.get_or_insert(world.now);
            world.push(Duration::from_millis(400), &report);
        }
        world.pass(LONGEST);
        for device in 0..3 {
            let mut next = first.unwrap_or(world.now) + Duration::from_micros(phase);
            let mut queued = 0;
            for (time, report) in world.written.iter().filter(|(_, report)| report.device == DeviceId(device)) {
                while *time >= next {
                    queued = 0;
                    next = next + READER;
                }
                queued += report.cost();
                prop_assert!(queued <= KERNEL_QUEUE, "{queued} events are queued");
            }
        }
    }

    /// A mouse of 8000 Hz, a keyboard and a touchpad on a wire that trembles: no report waits.
    #[test]
    fn nothing_waits_without_a_backlog(
        steps in prop::collection::vec((report(), 0u64..=10_000, 0u64..1_000), 1..300),
    ) {
        let mut world = World::new();
        for (report, age, pause) in steps {
            world.pass(Duration::from_micros(pause));
            let age = Duration::from_micros(age).min(LATE);
            world.push(age, &report);
            prop_assert_eq!(world.pacer.poll_timeout(), None);
            prop_assert_eq!(world.written.last(), Some(&(world.now, report)));
        }
    }
}

fn key(code: u16, down: bool) -> Report {
    Report {
        device: DeviceId(1),
        events: vec![
            InputEvent::new(EventType::MSC, 4, i32::from(code)),
            InputEvent::key(KeyCode(code), down),
        ],
        unfinished: false,
    }
}

#[test]
fn what_was_typed_in_a_second_is_written_within_its_pace() {
    let mut world = World::new();
    let typed: Vec<_> = (1..21)
        .flat_map(|code| [key(code, true), key(code, false)])
        .collect();
    for report in &typed {
        world.push(Duration::from_millis(500), report);
    }
    let start = world.now;
    let at_once = world.written.len();
    assert_eq!(at_once, BURST / 3, "what fits into the burst");
    world.pass(LONGEST);
    assert_eq!(world.reports(), typed);
    let (last, _) = world.written.last().expect("written");
    let events = u64::try_from(3 * typed.len() - BURST).expect("small");
    let took = last.since(start).as_millis();
    assert_eq!(took, u128::from(events / RATE), "{took} ms");
}

#[test]
fn a_way_that_has_become_longer_is_the_new_measure_after_a_while() {
    let mut world = World::new();
    let mut late = |age| {
        let mut waits = false;
        for code in 1..30 {
            world.push(Duration::from_millis(age), &key(code, true));
            waits |= world.pacer.poll_timeout().is_some();
        }
        world.pass(Duration::from_secs(1));
        let now = world.now;
        let sent = MonoTime::from_nanos(sent(now).as_nanos() - age * 1_000_000);
        world.pacer.heard(now, sent);
        waits
    };
    assert!(!late(0));
    assert!(late(50));
    for _ in 0..20 {
        late(50);
    }
    assert!(!late(50));
}
