//! An operator and a target over a network that loses, doubles, delays, reorders and stops, with devices that are
//! unplugged, switches, crashes and clocks that jump, in virtual time: whatever happens, no key stays down longer than the lease after the last sign of life, and what is held is held again when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use soft_kvm_core::MonoTime;
use soft_kvm_input::{InputSink, SinkError, SinkFeedback, TargetSession};
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EventReport, InputEvent, InputSender, KeyCode, LEASE, Record,
};

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
    /// The operator turns to another machine, or lets the devices go.
    ReleaseAll,
    /// The device is unplugged and plugged in again: a new one.
    Unplug,
    /// The operator's machine was asleep for so many milliseconds.
    OperatorJump(u64),
    /// The target was asleep for so many milliseconds.
    TargetJump(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (30_u16..36, any::<bool>()).prop_map(|(key, down)| Step::Key(key, down)),
        4 => (0_u64..200).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Cut),
        1 => Just(Step::ReleaseAll),
        1 => Just(Step::Unplug),
        1 => (0_u64..100_000).prop_map(Step::OperatorJump),
        1 => (0_u64..100_000).prop_map(Step::TargetJump),
    ]
}

/// Datagrams on their way, by arrival and number: where to and what.
type Wire = BTreeMap<(MonoTime, usize), (End, Vec<u8>)>;

#[derive(Clone, Copy, Debug)]
enum End {
    Operator,
    Target,
}

struct World {
    /// Time that jumps nowhere, and what both clocks are ahead of it.
    now: MonoTime,
    operator_ahead: Duration,
    target_ahead: Duration,
    device: DeviceId,
    wire: Wire,
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
        let mut world = Self {
            now: MonoTime::from_nanos(1_000_000_000),
            operator_ahead: Duration::ZERO,
            target_ahead: Duration::ZERO,
            device: DeviceId(0),
            wire: Wire::new(),
            sender: InputSender::new(),
            target: TargetSession::new(keyboard.clone()),
            keyboard,
            held: BTreeSet::new(),
            cut: false,
            crashed: false,
            fates,
            sent: 0,
            life: None,
            buffer: Vec::new(),
        };
        world.plug();
        world
    }

    fn plug(&mut self) {
        self.device = DeviceId(self.device.0 + 1);
        self.record(&Record::DeviceAdd(Box::new(DeviceDescriptor {
            id: self.device,
            name: "keyboard".to_owned(),
            keys: (1..120).map(KeyCode).collect(),
            ..DeviceDescriptor::default()
        })));
    }

    fn record(&mut self, record: &Record) {
        let mut message = Vec::new();
        record.encode(&mut message);
        self.target
            .handle_record(self.there(), &message)
            .expect("a record of ours");
    }

    /// The operator's clock.
    fn here(&self) -> MonoTime {
        self.now + self.operator_ahead
    }

    /// The target's clock.
    fn there(&self) -> MonoTime {
        self.now + self.target_ahead
    }

    /// Puts what is in the buffer on the wire. A fate below 60 loses it, above 230 doubles it; the lowest bits delay it, up
    /// to 49 ms, so that later ones overtake it.
    fn post(&mut self, to: End) {
        let copies = if self.cut { 0 } else { 2 };
        for copy in 0..copies {
            self.sent += 1;
            let fate = self.fates[self.sent % self.fates.len()];
            let arrives = if copy == 0 { fate >= 60 } else { fate > 230 };
            if arrives {
                let delay = Duration::from_millis(u64::from(fate % 8).pow(2));
                let place = (self.now + delay, self.sent);
                self.wire.insert(place, (to, self.buffer.clone()));
            }
        }
    }

    fn arrive(&mut self, to: End, datagram: &[u8]) {
        match to {
            End::Operator if self.crashed => {}
            End::Operator => {
                let handled = self.sender.handle_ack(self.here(), datagram);
                handled.expect("an answer of ours");
            }
            End::Target => {
                let received = self.target.handle_datagram(self.there(), datagram);
                if received.expect("a datagram of ours").alive {
                    self.life = Some(self.there());
                }
                self.check();
            }
        }
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        let mut buffer = std::mem::take(&mut self.buffer);
        while !self.crashed && self.sender.poll_transmit(self.here(), &mut buffer) {
            self.buffer.clone_from(&buffer);
            self.post(End::Target);
        }
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, datagram) = entry.remove();
            self.arrive(to, &datagram);
        }
        self.target.handle_timeout(self.there());
        while self.target.poll_transmit(self.there(), &mut buffer) {
            self.buffer.clone_from(&buffer);
            self.post(End::Operator);
        }
        self.check();
    }

    fn check(&self) {
        let (down, there) = (self.keyboard.down(), self.there());
        let quiet = self
            .life
            .is_none_or(|life| there.since(life) > LEASE + TICK);
        assert!(
            !quiet || down.is_empty(),
            "{down:?} are down after the lease, at {there}"
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
                    device: self.device,
                    time: self.here(),
                    unfinished: false,
                    events: &events,
                };
                self.sender.push(self.here(), report);
            }
            Step::Wait(millis) => self.wait(millis),
            Step::Cut(cut) => self.cut = cut,
            Step::ReleaseAll => {
                self.held.clear();
                self.sender.release_all(self.here());
            }
            Step::Unplug => {
                self.held.clear();
                self.sender.remove_device(self.here(), self.device);
                self.record(&Record::DeviceRemove(self.device));
                self.plug();
            }
            Step::OperatorJump(millis) => self.operator_ahead += Duration::from_millis(millis),
            Step::TargetJump(millis) => self.target_ahead += Duration::from_millis(millis),
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
