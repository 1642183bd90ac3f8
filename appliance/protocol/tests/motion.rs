//! Motion from fast mice: added up while the network is behind, never when it keeps up, and never across a key.

use std::collections::VecDeque;
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::{
    DeviceId, EventReport, EventType, HeldKeys, InputEvent, InputHandler, InputReceiver,
    InputSender, KeyCode,
};

const MOUSE: DeviceId = DeviceId(1);
const REL_X: u16 = 0;
/// What the design lets motion wait for its successors.
const LONGEST: Duration = Duration::from_millis(1);
/// A step of the virtual time.
const TICK: u64 = 25_000;

/// The pointer of the target.
#[derive(Default)]
struct Pointer {
    reports: usize,
    path: i64,
    /// How far it was at each key.
    at_keys: Vec<i64>,
}

impl InputHandler for Pointer {
    fn accepts(&mut self, _: DeviceId) -> bool {
        true
    }
    fn reconcile(&mut self, _: &HeldKeys) {}
    fn report(&mut self, report: EventReport<'_>) {
        self.reports += 1;
        for event in report.events {
            if event.kind == EventType::REL {
                self.path += i64::from(event.value);
            } else {
                self.at_keys.push(self.path);
            }
        }
    }
}

/// The next datagram that is there by `now`.
fn arrived(wire: &mut VecDeque<(u64, Vec<u8>)>, now: u64) -> Option<Vec<u8>> {
    let due = wire.front().is_some_and(|(due, _)| *due <= now);
    due.then(|| wire.pop_front())
        .flatten()
        .map(|(_, bytes)| bytes)
}

/// What a second of motion came to.
struct Second {
    pointer: Pointer,
    pushed: usize,
    path: i64,
    at_keys: Vec<i64>,
    datagrams: usize,
    /// How long a report waited at most for a datagram, while the window was open.
    waited: Duration,
}

/// A mouse of `rate` reports in a second, and a button ten times a second, over a wire that takes `delay` each way.
fn second(rate: u64, delay: Duration) -> Second {
    let delay = u64::try_from(delay.as_nanos()).expect("short");
    let (mut sender, mut receiver) = (InputSender::new(), InputReceiver::new());
    let mut wire: [VecDeque<(u64, Vec<u8>)>; 2] = Default::default();
    let mut seen = Second {
        pointer: Pointer::default(),
        pushed: 0,
        path: 0,
        at_keys: Vec::new(),
        datagrams: 0,
        waited: Duration::ZERO,
    };
    let (mut next, mut next_key, mut unsent) = (0, 0, None);
    let mut buffer = Vec::new();
    for tick in 0_u64.. {
        let now = tick * TICK;
        let clock = MonoTime::from_nanos(now);
        if now >= 1_000_000_000 && sender.unconfirmed() == 0 {
            break;
        }
        assert!(now < 3_000_000_000, "{} unconfirmed", sender.unconfirmed());
        let mut push = |event| {
            let events = [event];
            let report = EventReport {
                device: MOUSE,
                time: clock,
                unfinished: false,
                events: &events,
            };
            sender.push(clock, report);
            unsent.get_or_insert(clock);
        };
        if now < 1_000_000_000 && now >= next {
            push(InputEvent::new(EventType::REL, REL_X, 1));
            (seen.pushed, seen.path) = (seen.pushed + 1, seen.path + 1);
            next += 1_000_000_000 / rate;
        }
        if now < 1_000_000_000 && now >= next_key {
            let down = seen.at_keys.len().is_multiple_of(2);
            push(InputEvent::key(KeyCode(0x110), down));
            seen.pushed += 1;
            seen.at_keys.push(seen.path);
            next_key += 100_000_000;
        }
        while sender.poll_transmit(clock, &mut buffer) {
            seen.datagrams += 1;
            wire[0].push_back((now + delay, buffer.clone()));
            if let Some(since) = unsent.take() {
                seen.waited = seen.waited.max(clock.since(since));
            }
        }
        if receiver.poll_transmit(clock, &mut buffer) {
            wire[1].push_back((now + delay, buffer.clone()));
        }
        while let Some(bytes) = arrived(&mut wire[0], now) {
            let taken = receiver.handle_datagram(clock, &bytes, &mut seen.pointer);
            taken.expect("our own bytes");
        }
        while let Some(bytes) = arrived(&mut wire[1], now) {
            sender.handle_ack(clock, &bytes).expect("our own bytes");
        }
    }
    assert_eq!(seen.pointer.path, seen.path, "the way is another one");
    assert_eq!(seen.pointer.at_keys, seen.at_keys, "motion passed a key");
    seen
}

#[test]
fn a_mouse_of_8000_hz_does_not_flood_a_network_that_is_behind() {
    let seen = second(8_000, Duration::from_millis(5));
    // One in a millisecond, some for keys, a few again.
    assert!(
        (500..1_500).contains(&seen.datagrams),
        "{} datagrams for {} reports",
        seen.datagrams,
        seen.pushed
    );
    assert!(
        seen.pointer.reports < seen.pushed / 4,
        "nothing is added up"
    );
    // A datagram is looked for once in a tick.
    assert!(
        seen.waited <= LONGEST + Duration::from_nanos(TICK),
        "{:?}",
        seen.waited
    );
}

#[test]
fn a_network_that_keeps_up_gets_every_report_at_once() {
    let seen = second(1_000, Duration::from_micros(100));
    assert_eq!(seen.pointer.reports, seen.pushed, "reports were added up");
    assert_eq!(seen.waited, Duration::ZERO);
}
