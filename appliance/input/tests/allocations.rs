//! Once warm, no event allocates on its way through the target, nor does what lifts keys.

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_input::{InputSink, SinkError, SinkFeedback, TargetSession};
use soft_kvm_protocol::input::carrier::{self, InputSealer};
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, InputSender, KeyCode, LEASE,
    Record,
};
use soft_kvm_protocol::media::{Opener, Sealer, SrtpKeys, Ssrc};

const DEVICES: [DeviceId; 2] = [DeviceId(1), DeviceId(2)];

#[derive(Debug, Default)]
struct Counter(usize);

impl InputSink for Counter {
    fn add_device(&mut self, _: &DeviceDescriptor) -> Result<String, SinkError> {
        Ok(String::new())
    }

    fn remove_device(&mut self, _: DeviceId) {}

    fn apply(
        &mut self,
        _: MonoTime,
        _: DeviceId,
        events: &[InputEvent],
        _: bool,
    ) -> Result<(), SinkError> {
        self.0 += events.len();
        Ok(())
    }

    fn poll_feedback(&mut self, _: &mut dyn FnMut(SinkFeedback)) {}

    fn kind(&self) -> &'static str {
        "counter"
    }
}

/// Sealed datagrams of an operator and the target that opens them.
struct Way {
    now: MonoTime,
    sender: InputSender,
    sealer: InputSealer,
    opener: Opener,
    target: TargetSession<Counter>,
    payload: Vec<u8>,
    packet: Vec<u8>,
}

impl Way {
    fn new() -> Self {
        let (keys, ssrc) = (SrtpKeys::from_exporter(&[7; 56]), Ssrc(3));
        let mut target = TargetSession::new(Counter::default());
        for id in DEVICES {
            let mut record = Vec::new();
            Record::DeviceAdd(Box::new(DeviceDescriptor {
                id,
                name: "device".to_owned(),
                keys: (1..120).map(KeyCode).collect(),
                relative: vec![0, 1],
                ..DeviceDescriptor::default()
            }))
            .encode(&mut record);
            let added = target.handle_record(MonoTime::ZERO, &record);
            added.expect("a record of ours");
        }
        Self {
            now: MonoTime::from_nanos(1_000_000_000),
            sender: InputSender::new(),
            sealer: InputSealer::new(Sealer::new(keys.client(), ssrc)),
            opener: Opener::new(keys.client(), ssrc),
            target,
            payload: Vec::with_capacity(2_048),
            packet: Vec::with_capacity(2_048),
        }
    }

    /// One millisecond: `act`, then everything that is due there and back.
    fn step(&mut self, act: impl FnOnce(&mut InputSender, MonoTime)) {
        self.now = self.now + Duration::from_millis(1);
        let now = self.now;
        act(&mut self.sender, now);
        while self.sender.poll_transmit(now, &mut self.payload) {
            let sealed = self.sealer.seal(now, &self.payload).expect("fits");
            self.packet.clear();
            self.packet.extend_from_slice(sealed);
            let plain = carrier::open(&mut self.opener, &mut self.packet).expect("authentic");
            self.target.handle_datagram(now, plain).expect("ours");
        }
        self.target.handle_timeout(now);
        self.target.poll_feedback(|_| {});
        while self.target.poll_transmit(now, &mut self.payload) {
            let handled = self.sender.handle_ack(now, &self.payload);
            handled.expect("an answer of ours");
        }
    }

    fn press(&mut self, device: DeviceId, code: u16, down: bool) {
        let events = [InputEvent::key(KeyCode(code), down)];
        self.step(|sender, now| sender.push(now, report(device, now, &events)));
    }

    fn round(&mut self) {
        for code in 30..50 {
            self.press(DEVICES[0], code, true);
            let motion = [
                InputEvent::new(EventType::REL, 0, 3),
                InputEvent::new(EventType::REL, 1, -2),
            ];
            self.step(|sender, now| sender.push(now, report(DEVICES[1], now, &motion)));
            self.press(DEVICES[0], code, false);
        }
        // Everything that lifts keys: letting go, unplugging, the end of the lease.
        for lifts in 0..3 {
            for code in 60..90 {
                self.press(DEVICES[code as usize % 2], code, true);
            }
            match lifts {
                0 => self.step(InputSender::release_all),
                1 => self.step(|sender, now| {
                    sender.remove_device(now, DEVICES[0]);
                    sender.remove_device(now, DEVICES[1]);
                }),
                _ => {
                    self.now = self.now + LEASE;
                    self.target.handle_timeout(self.now);
                    self.step(InputSender::release_all);
                }
            }
            assert!(
                self.target.ledger().poll_timeout().is_none(),
                "keys are down"
            );
        }
    }
}

fn report(device: DeviceId, time: MonoTime, events: &[InputEvent]) -> EventReport<'_> {
    EventReport {
        device,
        time,
        unfinished: false,
        events,
    }
}

#[test]
fn events_and_lifting_do_not_allocate() {
    let mut way = Way::new();
    (0..20).for_each(|_| way.round());
    let before = way.target.sink().0;
    let counted = allocation_counter::measure(|| (0..50).for_each(|_| way.round()));
    let events = way.target.sink().0 - before;
    assert_eq!(events, 50 * (20 * 4 + 3 * 60), "events that were written");
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

/// The end of a stall: what waited for it is paced.
#[test]
fn a_backlog_does_not_allocate() {
    let mut way = Way::new();
    let stall = |way: &mut Way| {
        way.step(|_, _| {});
        for code in 30..80 {
            let (now, device) = (way.now, DEVICES[code as usize % 2]);
            for down in [true, false] {
                let events = [InputEvent::key(KeyCode(code), down)];
                way.sender.push(now, report(device, now, &events));
            }
            way.now = way.now + Duration::from_millis(4);
        }
        let before = way.target.sink().0;
        way.step(|_, _| {});
        let waited = way.target.sink().0 - before < 100;
        (0..150).for_each(|_| way.step(|_, _| {}));
        assert_eq!(way.target.sink().0 - before, 100);
        waited
    };
    for _ in 0..20 {
        stall(&mut way);
    }
    let counted = allocation_counter::measure(|| {
        for _ in 0..20 {
            assert!(stall(&mut way), "nothing waited");
        }
    });
    assert_eq!(counted.count_total, 0, "{counted:?}");
}
