//! Force feedback from programs on the targets to the operator's device, over every merging, switch and loss: what the
//! device plays is what the server that has the input wants, and nothing plays that nobody wants.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use soft_kvm_core::MonoTime;
use soft_kvm_input::force::{ForceDevice, LocalEffect, Outbox, Pending, Player};
use soft_kvm_protocol::input::codes::ff;
use soft_kvm_protocol::input::force::{Condition, Envelope, Resistance, Waveform};
use soft_kvm_protocol::input::{
    DeviceId, Effect, EffectId, EffectKind, ForceAbilities, ForceChange, MAX_EFFECTS, Record,
};

const DEVICE: DeviceId = DeviceId(7);
const SERVERS: usize = 2;

/// A device as the kernel has it: effects keep their type, and are played only while they are there.
#[derive(Debug, Default)]
struct Motors {
    room: usize,
    effects: BTreeMap<i16, (Effect, u32)>,
    centre: u16,
    gain: Option<u16>,
}

#[derive(Clone, Debug)]
struct Fake(Rc<RefCell<Motors>>);

impl ForceDevice for Fake {
    fn upload(&mut self, effect: &Effect, old: Option<LocalEffect>) -> io::Result<LocalEffect> {
        let mut motors = self.0.borrow_mut();
        if let Some(LocalEffect(id)) = old {
            let known = motors.effects.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
            if !effect.kind.replaces(known.0.kind) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            known.0 = *effect;
            return Ok(LocalEffect(id));
        }
        if motors.effects.len() >= motors.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // Not the number that the target's kernel chose.
        let id = (3..)
            .find(|id| !motors.effects.contains_key(id))
            .expect("room");
        motors.effects.insert(id, (*effect, 0));
        Ok(LocalEffect(id))
    }

    fn erase(&mut self, effect: LocalEffect) -> io::Result<()> {
        let gone = self.0.borrow_mut().effects.remove(&effect.0);
        gone.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn play(&mut self, effect: LocalEffect, count: u32) -> io::Result<()> {
        if let Some(known) = self.0.borrow_mut().effects.get_mut(&effect.0) {
            known.1 = count;
        }
        Ok(())
    }

    fn set_gain(&mut self, gain: u16) -> io::Result<()> {
        self.0.borrow_mut().gain = Some(gain);
        Ok(())
    }

    fn set_auto_centre(&mut self, strength: u16) -> io::Result<()> {
        self.0.borrow_mut().centre = strength;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A program on a server does something.
    Program(usize, ForceChange),
    /// A server's turn to send, after so many milliseconds, with so much room.
    Send(usize, u64, usize),
    /// The operator's side does so many things of a server.
    Do(usize, usize),
    Place(Option<usize>),
    Lost(usize),
}

fn effect_kind() -> impl Strategy<Value = EffectKind> {
    let envelope = any::<[u16; 4]>().prop_map(|[a, b, c, d]| Envelope {
        attack_length: a,
        attack_level: b,
        fade_length: c,
        fade_level: d,
    });
    let condition = (any::<[u16; 3]>(), any::<[i16; 3]>()).prop_map(|(u, i)| Condition {
        right_saturation: u[0],
        left_saturation: u[1],
        right_coefficient: i[0],
        left_coefficient: i[1],
        dead_band: u[2],
        centre: i[2],
    });
    let waveform = prop::sample::select(Waveform::ALL.to_vec());
    let resistance = prop::sample::select(Resistance::ALL.to_vec());
    prop_oneof![
        any::<[u16; 2]>().prop_map(|[strong, weak]| EffectKind::Rumble { strong, weak }),
        (any::<i16>(), envelope.clone())
            .prop_map(|(level, envelope)| EffectKind::Constant { level, envelope }),
        (any::<[i16; 2]>(), envelope.clone()).prop_map(|([start, end], envelope)| {
            EffectKind::Ramp {
                start,
                end,
                envelope,
            }
        }),
        (waveform, any::<[u16; 2]>(), any::<[i16; 2]>(), envelope).prop_map(
            |(waveform, [period, phase], [magnitude, offset], envelope)| EffectKind::Periodic {
                waveform,
                period,
                magnitude,
                offset,
                phase,
                envelope,
            }
        ),
        (resistance, [condition.clone(), condition])
            .prop_map(|(kind, axes)| EffectKind::Resistance(kind, axes)),
    ]
}

/// Few numbers, so that they meet.
fn id() -> impl Strategy<Value = EffectId> {
    prop_oneof![0_u8..3, Just(MAX_EFFECTS - 1)].prop_map(|id| EffectId::new(id).expect("below 16"))
}

fn change() -> impl Strategy<Value = ForceChange> {
    let length = prop_oneof![Just(0_u16), any::<u16>()];
    let effect = (id(), any::<[u16; 4]>(), length, effect_kind()).prop_map(
        |(id, [direction, button, interval, delay], length, kind)| Effect {
            id,
            direction,
            trigger_button: button,
            trigger_interval: interval,
            length,
            delay,
            kind,
        },
    );
    prop_oneof![
        4 => effect.prop_map(ForceChange::Upload),
        6 => (id(), 0_u32..3).prop_map(|(id, count)| ForceChange::Play(id, count)),
        2 => id().prop_map(ForceChange::Erase),
        1 => any::<u16>().prop_map(ForceChange::Gain),
        1 => any::<u16>().prop_map(ForceChange::AutoCentre),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..SERVERS, change()).prop_map(|(server, change)| Step::Program(server, change)),
        4 => (0..SERVERS, 0_u64..40, 0_usize..6)
            .prop_map(|(server, millis, room)| Step::Send(server, millis, room)),
        4 => (0..SERVERS, 0_usize..6).prop_map(|(server, count)| Step::Do(server, count)),
        2 => prop::option::of(0..SERVERS).prop_map(Step::Place),
        1 => (0..SERVERS).prop_map(Step::Lost),
    ]
}

/// What the programs on one server want, as their kernel knows it.
#[derive(Debug, Default)]
struct Wanted {
    effects: BTreeMap<EffectId, (Effect, u32)>,
    centre: u16,
    gain: Option<u16>,
}

/// All the way, with two servers and one device.
struct Way {
    wanted: [Wanted; SERVERS],
    outboxes: [Outbox; SERVERS],
    pending: [Pending; SERVERS],
    player: Player<Fake>,
    motors: Rc<RefCell<Motors>>,
    place: Option<usize>,
    now: MonoTime,
}

impl Way {
    fn new(room: usize) -> Self {
        let motors = Rc::new(RefCell::new(Motors {
            room,
            ..Motors::default()
        }));
        let abilities = ForceAbilities::passed(16, ff::RUMBLE..=ff::AUTOCENTER);
        let mut player = Player::new();
        player.add_device(
            DEVICE,
            abilities.expect("effects"),
            Fake(Rc::clone(&motors)),
        );
        let mut way = Self {
            wanted: Default::default(),
            outboxes: Default::default(),
            pending: Default::default(),
            player,
            motors,
            place: None,
            now: MonoTime::from_nanos(1),
        };
        for outbox in &mut way.outboxes {
            outbox.add_device(DEVICE);
        }
        way
    }

    fn program(&mut self, server: usize, change: ForceChange) {
        let wanted = &mut self.wanted[server];
        match change {
            ForceChange::Upload(effect) => match wanted.effects.get_mut(&effect.id) {
                // The kernel makes no effect into one of another type; and what ends while it is played, or lasts from
                // now on, would be for this model to time.
                Some((old, _))
                    if !effect.kind.replaces(old.kind) || effect.ends() != old.ends() =>
                {
                    return;
                }
                Some((old, _)) => *old = effect,
                None => {
                    wanted.effects.insert(effect.id, (effect, 0));
                }
            },
            ForceChange::Erase(id) => {
                wanted.effects.remove(&id);
            }
            ForceChange::Play(id, count) => match wanted.effects.get_mut(&id) {
                Some((_, plays)) => *plays = count,
                // Nor does it play what is not there.
                None => return,
            },
            ForceChange::Gain(value) => wanted.gain = Some(value),
            ForceChange::AutoCentre(value) => wanted.centre = value,
        }
        self.outboxes[server].push(DEVICE, change);
    }

    fn send(&mut self, server: usize, room: usize) -> usize {
        let pending = &mut self.pending[server];
        let mut count = 0;
        self.outboxes[server].poll(self.now, room, |record| {
            let mut message = Vec::new();
            record.encode(&mut message);
            match Record::parse(&message) {
                Ok(Record::Force(DEVICE, change)) => pending.push(change),
                other => panic!("{other:?}"),
            }
            count += 1;
        });
        assert!(count <= room);
        count
    }

    fn act(&mut self, server: usize, count: usize) {
        for _ in 0..count {
            let Some(change) = self.pending[server].pop() else {
                return;
            };
            self.player.change(server, DEVICE, change);
        }
    }

    fn lose(&mut self, server: usize) {
        // Its session is gone, and with it the twins and what programs had them do.
        self.wanted[server] = Wanted::default();
        self.outboxes[server] = Outbox::default();
        self.outboxes[server].add_device(DEVICE);
        self.pending[server] = Pending::default();
        self.player.forget(server);
        if self.place == Some(server) {
            self.rests();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Program(server, change) => self.program(server, change),
            Step::Send(server, millis, room) => {
                self.now = self.now + Duration::from_millis(millis);
                self.send(server, room);
            }
            Step::Do(server, count) => self.act(server, count),
            Step::Place(place) => {
                self.place = place;
                self.player.set_place(place);
                if place.is_none() {
                    self.rests();
                }
            }
            Step::Lost(server) => self.lose(server),
        }
    }

    /// Nothing is on the device, and it is as it was.
    fn rests(&self) {
        let motors = self.motors.borrow();
        assert!(motors.effects.is_empty(), "{motors:?}");
        assert_eq!(motors.centre, 0);
        assert!(motors.gain.is_none_or(|gain| gain == u16::MAX));
    }

    /// Everything arrives.
    fn settle(&mut self) {
        for server in 0..SERVERS {
            let mut quiet = 0;
            while quiet < 100 {
                self.now = self.now + Duration::from_millis(10);
                quiet = if self.send(server, 4) == 0 {
                    quiet + 1
                } else {
                    0
                };
            }
            self.act(server, usize::MAX);
            assert!(self.pending[server].is_empty());
        }
    }

    fn check(&self) {
        let Some(server) = self.place else {
            return self.rests();
        };
        let (motors, wanted) = (self.motors.borrow(), &self.wanted[server]);
        for (effect, plays) in motors.effects.values() {
            let Some((wish, wished)) = wanted.effects.get(&effect.id) else {
                panic!("{effect:?} is not wanted");
            };
            assert_eq!(effect, wish);
            assert!(*plays == 0 || plays == wished, "{plays} of {wished} plays");
            // What ends by itself is not played again after a switch.
            assert!(
                effect.ends() || plays == wished,
                "{plays} of {wished} plays"
            );
        }
        if motors.room >= wanted.effects.len() {
            assert_eq!(motors.effects.len(), wanted.effects.len());
        }
        assert_eq!(motors.centre, wanted.centre);
        assert_eq!(
            motors.gain.unwrap_or(u16::MAX),
            wanted.gain.unwrap_or(u16::MAX)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_device_plays_what_is_wanted_and_nothing_else(
        room in prop_oneof![Just(16_usize), 0_usize..4],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut way = Way::new(room);
        for step in steps {
            way.step(step);
        }
        way.settle();
        if room >= 16 {
            way.check();
        }
        for server in 0..SERVERS {
            way.lose(server);
        }
        way.rests();
        way.step(Step::Place(Some(0)));
        way.rests();
    }

    #[test]
    fn a_device_that_goes_or_is_left_rests(
        steps in prop::collection::vec(step(), 0..60),
        unplugged in any::<bool>(),
    ) {
        let mut way = Way::new(16);
        for step in steps {
            way.step(step);
        }
        if unplugged {
            way.player.remove_device(DEVICE);
        } else {
            way.player.set_place(None);
        }
        way.rests();
    }

    #[test]
    fn no_more_than_a_hundred_records_in_a_second_and_the_last_state_arrives(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut way = Way::new(16);
        way.step(Step::Place(Some(0)));
        let (start, mut sent) = (way.now, 0);
        for step in steps {
            match step {
                Step::Program(_, change) => way.program(0, change),
                Step::Send(_, millis, _) => {
                    way.now = way.now + Duration::from_millis(millis);
                    sent += way.send(0, 64);
                }
                _ => {}
            }
        }
        let most = 32 + way.now.since(start).as_millis() / 10;
        prop_assert!(sent as u128 <= most, "{sent} records, at most {most}");
        way.settle();
        way.check();
    }
}
