//! A bounded model check: every sequence of [`DEPTH`] actions from two starting points, with the real sender, receiver,
//! session and ledger, in virtual time. The network holds at most three datagrams in each direction; more push out the
//! oldest, which is one more loss.
//!
//! `SOFT_KVM_MODEL_DEPTH=6` looks deeper (14 times as long).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_input::{InputSink, SinkError, SinkFeedback, TargetSession};
use soft_kvm_protocol::input::datagram::InputDatagram;
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, InputSender, KeyCode, LEASE,
    Record,
};

const DEPTH: usize = 4;
const IN_FLIGHT: usize = 3;
const LETTER: u16 = 30;
const SHIFT: u16 = 42;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The operator presses the key, or releases it when it is down.
    Key(u16),
    /// The oldest datagram arrives.
    Deliver,
    /// The newest datagram arrives, before older ones.
    Overtake,
    /// The oldest datagram arrives, and will once more.
    Duplicate,
    /// The oldest datagram is lost.
    Lose,
    /// The oldest acknowledgement arrives.
    Answer,
    /// The oldest acknowledgement is lost.
    LoseAnswer,
    /// Long enough for a keep-alive, not for the lease.
    Pause,
    /// Long enough for the lease.
    Silence,
    /// The operator's program dies; nothing is sent any more.
    Crash,
    /// The keyboard is unplugged and plugged in again: a new device.
    Unplug,
    /// The operator turns to another machine: all keys go up.
    Switch,
    /// The target was asleep: its clock jumps.
    TargetJump,
    /// The operator's machine was asleep: its clock jumps.
    OperatorJump,
}

const ACTIONS: [Action; 15] = [
    Action::Key(LETTER),
    Action::Key(SHIFT),
    Action::Deliver,
    Action::Overtake,
    Action::Duplicate,
    Action::Lose,
    Action::Answer,
    Action::LoseAnswer,
    Action::Pause,
    Action::Silence,
    Action::Crash,
    Action::Unplug,
    Action::Switch,
    Action::TargetJump,
    Action::OperatorJump,
];

/// What was written to the target's devices.
#[derive(Clone, Debug, Default)]
struct Keyboard(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    /// Reports since they were looked at last: the device and its events.
    writes: Vec<(DeviceId, Vec<InputEvent>)>,
    removed: Vec<DeviceId>,
}

impl InputSink for Keyboard {
    fn add_device(&mut self, _: &DeviceDescriptor) -> Result<String, SinkError> {
        Ok("model".to_owned())
    }

    fn remove_device(&mut self, device: DeviceId) {
        self.0.lock().expect("one thread").removed.push(device);
    }

    fn apply(
        &mut self,
        _: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        _: bool,
    ) -> Result<(), SinkError> {
        let mut log = self.0.lock().expect("one thread");
        log.writes.push((device, events.to_vec()));
        Ok(())
    }

    fn poll_feedback(&mut self, _: &mut dyn FnMut(SinkFeedback)) {}

    fn kind(&self) -> &'static str {
        "model"
    }
}

struct World {
    /// The operator's clock and the target's.
    here: MonoTime,
    there: MonoTime,
    sender: InputSender,
    target: TargetSession<Keyboard>,
    keyboard: Keyboard,
    to_target: Vec<Vec<u8>>,
    to_operator: Vec<Vec<u8>>,
    device: DeviceId,
    /// Keys that the operator holds, with the serial number of their press.
    held: BTreeMap<u16, i32>,
    /// Keys that are down on the target, with the serial number of the press that came, if a report pressed it.
    down: BTreeMap<(DeviceId, u16), Option<i32>>,
    /// For each serial number the key and whether it went down.
    history: Vec<(u16, bool)>,
    applied: i32,
    crashed: bool,
    restarted: bool,
    /// Send time of the newest datagram that arrived, and when it did.
    life: Option<(MonoTime, MonoTime)>,
}

impl World {
    fn new() -> Self {
        let keyboard = Keyboard::default();
        let mut world = Self {
            here: MonoTime::from_nanos(1_000_000_000),
            there: MonoTime::from_nanos(77_000_000_000),
            sender: InputSender::new(),
            target: TargetSession::new(keyboard.clone()),
            keyboard,
            to_target: Vec::new(),
            to_operator: Vec::new(),
            device: DeviceId(0),
            held: BTreeMap::new(),
            down: BTreeMap::new(),
            history: Vec::new(),
            applied: -1,
            crashed: false,
            restarted: false,
            life: None,
        };
        world.plug();
        world.pump();
        world
    }

    fn plug(&mut self) {
        self.device = DeviceId(self.device.0 + 1);
        self.record(&Record::DeviceAdd(Box::new(DeviceDescriptor {
            id: self.device,
            name: "keyboard".to_owned(),
            keys: (1..120).map(KeyCode).collect(),
            misc: vec![4],
            ..DeviceDescriptor::default()
        })));
    }

    /// Records go by the control channel, which loses nothing.
    fn record(&mut self, record: &Record) {
        let mut message = Vec::new();
        record.encode(&mut message);
        let handled = self.target.handle_record(self.there, &message);
        handled.expect("a record of ours");
    }

    /// Does it, if it is possible now.
    fn act(&mut self, action: Action) -> bool {
        // No two datagrams leave at the same nanosecond.
        self.here = self.here + Duration::from_micros(1);
        self.there = self.there + Duration::from_micros(1);
        match action {
            Action::Key(_) | Action::Unplug | Action::Switch | Action::OperatorJump
                if self.crashed =>
            {
                return false;
            }
            Action::Deliver | Action::Lose | Action::Duplicate if self.to_target.is_empty() => {
                return false;
            }
            // With one datagram it is the oldest.
            Action::Overtake if self.to_target.len() < 2 => return false,
            Action::Answer | Action::LoseAnswer if self.to_operator.is_empty() => return false,
            Action::Crash if self.crashed => return false,
            Action::Key(key) => self.key(key),
            Action::Deliver => {
                let datagram = self.to_target.remove(0);
                self.deliver(&datagram);
            }
            Action::Overtake => {
                let datagram = self.to_target.pop().expect("two");
                self.deliver(&datagram);
            }
            Action::Duplicate => {
                let datagram = self.to_target[0].clone();
                self.deliver(&datagram);
            }
            Action::Lose => drop(self.to_target.remove(0)),
            Action::Answer => {
                let answer = self.to_operator.remove(0);
                if !self.crashed {
                    let handled = self.sender.handle_ack(self.here, &answer);
                    handled.expect("an answer of ours");
                }
            }
            Action::LoseAnswer => drop(self.to_operator.remove(0)),
            Action::Pause => self.pass(Duration::from_millis(61), false),
            Action::Silence => self.pass(LEASE + Duration::from_millis(1), false),
            Action::Crash => self.crashed = true,
            Action::Unplug => {
                self.sender.remove_device(self.here, self.device);
                self.lift_all();
                self.record(&Record::DeviceRemove(self.device));
                self.look(true);
                self.plug();
            }
            Action::Switch => {
                self.sender.release_all(self.here);
                self.lift_all();
            }
            Action::TargetJump => self.there = self.there + Duration::from_secs(10),
            Action::OperatorJump => self.here = self.here + Duration::from_secs(10),
        }
        self.pump();
        true
    }

    fn key(&mut self, key: u16) {
        let down = !self.held.contains_key(&key);
        let serial = i32::try_from(self.history.len()).expect("few");
        self.history.push((key, down));
        if down {
            self.held.insert(key, serial);
        } else {
            self.held.remove(&key);
        }
        let events = [
            InputEvent::new(EventType::MSC, 4, serial),
            InputEvent::key(KeyCode(key), down),
        ];
        let report = EventReport {
            device: self.device,
            time: self.here,
            unfinished: false,
            events: &events,
        };
        self.sender.push(self.here, report);
    }

    fn lift_all(&mut self) {
        for key in std::mem::take(&mut self.held).into_keys() {
            self.history.push((key, false));
        }
    }

    fn deliver(&mut self, datagram: &[u8]) {
        // The lease ends before what comes now counts.
        self.target.handle_timeout(self.there);
        self.look(false);
        let sent = InputDatagram::parse(datagram).expect("ours").sent;
        let handled = self.target.handle_datagram(self.there, datagram);
        handled.expect("a datagram of ours");
        if self.life.is_none_or(|(newest, _)| sent > newest) {
            self.life = Some((sent, self.there));
        }
        self.look(false);
        self.check_lease();
    }

    /// Sends what is due, keeps the bound of the network, and checks.
    fn pump(&mut self) {
        let mut buffer = Vec::new();
        self.restarted |= self.sender.take_restarted();
        while !self.crashed && self.sender.poll_transmit(self.here, &mut buffer) {
            self.to_target.push(buffer.clone());
        }
        self.target.handle_timeout(self.there);
        while self.target.poll_transmit(self.there, &mut buffer) {
            self.to_operator.push(buffer.clone());
        }
        for queue in [&mut self.to_target, &mut self.to_operator] {
            let extra = queue.len().saturating_sub(IN_FLIGHT);
            queue.drain(..extra);
        }
        self.look(false);
        self.check_lease();
    }

    fn check_lease(&self) {
        let silent = self
            .life
            .is_none_or(|(_, arrived)| self.there.since(arrived) >= LEASE);
        assert!(
            !silent || self.down.is_empty(),
            "{:?} are down after the lease",
            self.down
        );
    }

    /// Time passes, from one timer to the next; with a `perfect` network everything arrives at once.
    fn pass(&mut self, time: Duration, perfect: bool) {
        let end = self.here + time;
        loop {
            self.pump();
            while perfect && !(self.to_target.is_empty() && self.to_operator.is_empty()) {
                if !self.to_target.is_empty() {
                    self.act(Action::Deliver);
                }
                if !self.to_operator.is_empty() {
                    self.act(Action::Answer);
                }
            }
            let left = end.since(self.here);
            if left == Duration::ZERO {
                return;
            }
            let tick = Duration::from_micros(1);
            let mut step = left;
            if !self.crashed {
                step = step.min(self.sender.poll_timeout().since(self.here).max(tick));
            }
            if let Some(due) = self.target.poll_timeout() {
                step = step.min(due.since(self.there).max(tick));
            }
            self.here = self.here + step;
            self.there = self.there + step;
        }
    }

    /// Checks what was written to the target since the last time.
    fn look(&mut self, unplugged: bool) {
        let (writes, removed) = {
            let mut log = self.keyboard.0.lock().expect("one thread");
            (
                std::mem::take(&mut log.writes),
                std::mem::take(&mut log.removed),
            )
        };
        let over = self
            .life
            .is_none_or(|(_, arrived)| self.there.since(arrived) >= LEASE);
        for (device, events) in writes {
            let serial = events
                .iter()
                .find(|event| event.kind == EventType::MSC)
                .map(|event| event.value);
            if let Some(serial) = serial {
                assert!(
                    serial > self.applied,
                    "report {serial} after {}: doubled or out of order",
                    self.applied
                );
                self.applied = serial;
            }
            for (key, down) in events.iter().filter_map(|event| event.as_key()) {
                if down {
                    let before = self.down.insert((device, key.0), serial);
                    assert_eq!(before, None, "{key:?} is pressed twice");
                    continue;
                }
                let press = self.down.remove(&(device, key.0));
                let press = press.expect("a key that is down");
                let by_right = match (serial, press) {
                    (Some(serial), _) => {
                        let at = usize::try_from(serial).expect("positive");
                        self.history[at] == (key.0, false)
                    }
                    // Without a number: the lease, an unplugging, a switch, or a snapshot of a later state.
                    (None, Some(press)) => {
                        let after = usize::try_from(press).expect("positive") + 1;
                        over || unplugged || self.history[after..].contains(&(key.0, false))
                    }
                    (None, None) => true,
                };
                assert!(by_right, "{key:?} was lifted while the session lives");
            }
        }
        for device in removed {
            self.down.retain(|(owner, _), _| *owner != device);
        }
    }

    /// In the end the network is perfect: both sides agree, or the dead operator's keys are up.
    fn settle(&mut self) {
        self.pass(Duration::from_millis(1_100), true);
        let down: Vec<_> = self.down.keys().map(|(_, key)| *key).collect();
        let held: Vec<_> = self.held.keys().copied().collect();
        if self.crashed {
            assert_eq!(down, [0; 0], "keys of a dead operator");
        } else {
            assert_eq!(down, held, "the two sides do not agree");
            assert_eq!(self.sender.unconfirmed(), 0, "reports are left over");
        }
    }
}

/// One starting point: a fresh session, or one in which Shift is down and known to be.
fn begin(established: bool) -> World {
    let mut world = World::new();
    if established {
        world.act(Action::Key(SHIFT));
        world.pass(Duration::from_millis(30), true);
        assert_eq!(world.down.len(), 1);
    }
    world
}

fn explore(established: bool, path: &mut Vec<Action>, depth: usize, count: &mut u64) {
    for action in ACTIONS {
        path.push(action);
        let mut world = begin(established);
        let possible = path.iter().all(|action| world.act(*action));
        if possible {
            *count += 1;
            if path.len() < depth {
                explore(established, path, depth, count);
            } else {
                world.settle();
            }
        }
        path.pop();
    }
}

/// Explores, and tells the sequence that broke a rule.
fn check(established: bool) {
    let depth = std::env::var("SOFT_KVM_MODEL_DEPTH")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(DEPTH);
    let (mut path, mut count) = (Vec::new(), 0);
    let explored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        explore(established, &mut path, depth, &mut count);
    }));
    if let Err(panic) = explored {
        let from = if established {
            "with Shift down"
        } else {
            "fresh"
        };
        let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        panic!("from a session {from}: {path:?}: {why}");
    }
    assert!(count > 10_000, "only {count} sequences");
}

#[test]
fn a_fresh_session() {
    check(false);
}

#[test]
fn a_session_with_a_key_down() {
    check(true);
}
