//! An operator and a target over a network that loses, doubles and stops, in virtual time: whatever happens, no key
//! stays down longer than the lease after the last sign of life, and what is held is held again when it ends.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use soft_kvm_core::MonoTime;
use soft_kvm_input::{InputSink, SinkError, SinkFeedback, TargetSession};
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EventReport, InputEvent, InputSender, KeyCode, LEASE, Record,
};

const DEVICE: DeviceId = DeviceId(1);
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, Default)]
struct Keyboard(Arc<Mutex<BTreeSet<u16>>>);

impl Keyboard {
    fn down(&self) -> BTreeSet<u16> {
        self.0.lock().expect("no test panics with it").clone()
    }
}

impl InputSink for Keyboard {
    fn add_device(&mut self, _: &DeviceDescriptor) -> Result<String, SinkError> {
        Ok("test".to_owned())
    }

    fn remove_device(&mut self, _: DeviceId) {
        self.0.lock().expect("no test panics with it").clear();
    }

    fn apply(
        &mut self,
        _: MonoTime,
        _: DeviceId,
        events: &[InputEvent],
        _: bool,
    ) -> Result<(), SinkError> {
        let mut down = self.0.lock().expect("no test panics with it");
        for (key, pressed) in events.iter().filter_map(|event| event.as_key()) {
            set(&mut down, key.0, pressed);
        }
        Ok(())
    }

    fn poll_feedback(&mut self, _: &mut dyn FnMut(SinkFeedback)) {}

    fn kind(&self) -> &'static str {
        "test"
    }
}

fn set(keys: &mut BTreeSet<u16>, key: u16, down: bool) {
    if down {
        keys.insert(key);
    } else {
        keys.remove(&key);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The operator presses or releases one of a few keys.
    Key(u16, bool),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// Nothing gets through, in either direction, or everything that is not lost by chance.
    Cut(bool),
    /// The operator's devices are let go.
    ReleaseAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (30_u16..36, any::<bool>()).prop_map(|(key, down)| Step::Key(key, down)),
        4 => (0_u64..200).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Cut),
        1 => Just(Step::ReleaseAll),
    ]
}

struct World {
    now: MonoTime,
    sender: InputSender,
    target: TargetSession<Keyboard>,
    keyboard: Keyboard,
    held: BTreeSet<u16>,
    cut: bool,
    crashed: bool,
    fates: Vec<u8>,
    sent: usize,
    /// When the last datagram came that was news to the target.
    life: Option<MonoTime>,
    buffer: Vec<u8>,
}

impl World {
    fn new(fates: Vec<u8>) -> Self {
        let keyboard = Keyboard::default();
        let mut target = TargetSession::new(keyboard.clone());
        let now = MonoTime::from_nanos(1_000_000_000);
        let mut record = Vec::new();
        let device = DeviceDescriptor {
            id: DEVICE,
            name: "keyboard".to_owned(),
            keys: (1..120).map(KeyCode).collect(),
            ..DeviceDescriptor::default()
        };
        Record::DeviceAdd(Box::new(device)).encode(&mut record);
        target
            .handle_record(now, &record)
            .expect("a device of ours");
        Self {
            now,
            sender: InputSender::new(),
            target,
            keyboard,
            held: BTreeSet::new(),
            cut: false,
            crashed: false,
            fates,
            sent: 0,
            life: None,
            buffer: Vec::new(),
        }
    }

    /// The next datagram's fate: below 60 it is lost, above 230 it comes twice.
    fn fate(&mut self) -> u8 {
        self.sent += 1;
        if self.cut {
            0
        } else {
            self.fates[self.sent % self.fates.len()]
        }
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        let now = self.now;
        while !self.crashed && self.sender.poll_transmit(now, &mut self.buffer) {
            let copies = match self.fate() {
                0..60 => 0,
                60..=230 => 1,
                _ => 2,
            };
            for _ in 0..copies {
                let received = self
                    .target
                    .handle_datagram(now, &self.buffer)
                    .expect("ours");
                if received.alive {
                    self.life = Some(now);
                }
            }
        }
        self.target.handle_timeout(now);
        while self.target.poll_transmit(now, &mut self.buffer) {
            if self.fate() >= 60 && !self.crashed {
                self.sender.handle_ack(now, &self.buffer).expect("ours");
            }
        }
        let down = self.keyboard.down();
        let quiet = self.life.is_none_or(|life| now.since(life) > LEASE + TICK);
        assert!(
            !quiet || down.is_empty(),
            "{down:?} stay down after the lease, at {now}"
        );
    }

    fn wait(&mut self, millis: u64) {
        (0..millis).for_each(|_| self.tick());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Key(key, down) => {
                set(&mut self.held, key, down);
                let events = [InputEvent::key(KeyCode(key), down)];
                let report = EventReport {
                    device: DEVICE,
                    time: self.now,
                    unfinished: false,
                    events: &events,
                };
                self.sender.push(self.now, report);
            }
            Step::Wait(millis) => self.wait(millis),
            Step::Cut(cut) => self.cut = cut,
            Step::ReleaseAll => {
                self.held.clear();
                self.sender.release_all(self.now);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn keys_agree_when_the_network_is_back(
        steps in prop::collection::vec(step(), 1..40),
        fates in prop::collection::vec(any::<u8>(), 16..64),
    ) {
        let mut world = World::new(fates);
        for step in &steps {
            world.step(step);
        }
        world.cut = false;
        world.fates = vec![100];
        // A sender whose lease ran out says so within its slowest keep-alive.
        world.wait(1_500);
        prop_assert_eq!(world.keyboard.down(), world.held);
    }

    #[test]
    fn a_crash_lifts_every_key(
        steps in prop::collection::vec(step(), 1..30),
        fates in prop::collection::vec(any::<u8>(), 16..64),
    ) {
        let mut world = World::new(fates);
        for step in &steps {
            world.step(step);
        }
        world.crashed = true;
        world.wait(300);
        prop_assert!(world.keyboard.down().is_empty());
    }

    #[test]
    fn nothing_held_is_lifted_while_the_session_lives(
        keys in prop::collection::btree_set(30_u16..36, 1..4),
        fates in prop::collection::vec(60_u8..=255, 16..64),
        millis in 500_u64..3_000,
    ) {
        let mut world = World::new(fates);
        for key in &keys {
            world.step(&Step::Key(*key, true));
        }
        world.wait(50);
        for _ in 0..millis {
            world.tick();
            prop_assert_eq!(&world.keyboard.down(), &keys);
        }
    }
}
