//! Force feedback: programs on the target play effects on the twin of an operator's gamepad, which plays them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, ensure};
use evdevil::event::{Abs, EventKind, EventType, InputEvent, Key, UinputCode};
use evdevil::ff::{
    Condition, Constant, Damper, Direction, Effect, EffectId, Envelope, Feature, Friction, Inertia,
    Periodic, Ramp, Replay, Rumble, Spring, Trigger, Waveform,
};
use evdevil::uinput::{AbsSetup, UinputDevice};
use evdevil::{AbsInfo, Evdev};
use soft_kvm_lab_tests::guest;

use crate::input::{self, ESC, Event, Hardware, LEFT_CTRL, RIGHT_CTRL};
use crate::keyboard::{SMALL, await_grabs};
use crate::kvm::{self, Host, SOON, Seat, Server, TARGET};
use crate::switching::{SECOND, Scene, TAB};

const PAD: &str = "Lab Gamepad";
const KEYBOARD: &str = "Lab Keyboard";
const BTN_GAMEPAD: u16 = 0x130;
const EFFECTS: u32 = 10;
const FEATURES: [Feature; 12] = [
    Feature::RUMBLE,
    Feature::PERIODIC,
    Feature::CONSTANT,
    Feature::SPRING,
    Feature::FRICTION,
    Feature::DAMPER,
    Feature::INERTIA,
    Feature::RAMP,
    Feature::SINE,
    Feature::SAW_UP,
    Feature::GAIN,
    Feature::AUTOCENTER,
];

/// What a gamepad's motors know and do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Felt {
    effects: BTreeMap<i16, String>,
    /// Times that each is played; those that are stopped are left out.
    playing: BTreeMap<i16, i32>,
    gain: Option<i32>,
    centre: Option<i32>,
    uploads: usize,
}

/// A gamepad with force feedback, as the operator holds it.
struct Pad {
    felt: Arc<Mutex<Felt>>,
}

impl Pad {
    /// Plugged in for good: a thread of it answers the kernel as a driver does.
    fn plugged() -> anyhow::Result<Self> {
        let axis = |code| AbsSetup::new(Abs::from_raw(code), AbsInfo::new(-100, 100));
        let device = UinputDevice::builder()?
            .with_keys([Key::from_raw(BTN_GAMEPAD)])?
            .with_abs_axes([axis(0), axis(1)])?
            .with_ff_features(FEATURES)?
            .with_ff_effects_max(EFFECTS)?
            .build(PAD)?;
        let felt = Arc::<Mutex<Felt>>::default();
        let theirs = Arc::clone(&felt);
        std::thread::spawn(move || {
            input::ahead_of_all();
            let mut events = [InputEvent::zeroed(); 16];
            while let Ok(count) = device.read_events(&mut events) {
                for event in events.iter().take(count) {
                    if let Err(error) = feel(&device, event, &theirs) {
                        guest::log(format!("the gamepad: {error:#}"));
                    }
                }
            }
        });
        Ok(Self { felt })
    }

    fn felt(&self) -> MutexGuard<'_, Felt> {
        self.felt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, what: &str, is: impl Fn(&Felt) -> bool) -> anyhow::Result<()> {
        guest::wait_for(what, SOON, || is(&self.felt()).then_some(()))
            .with_context(|| format!("{:?}", self.felt()))
    }

    fn wait_playing(&self, wanted: &[(i16, i32)]) -> anyhow::Result<()> {
        let wanted: BTreeMap<_, _> = wanted.iter().copied().collect();
        self.wait(&format!("plays {wanted:?}"), |felt| felt.playing == wanted)
    }

    fn wait_rest(&self) -> anyhow::Result<()> {
        self.wait("rest", |felt| {
            felt.effects.is_empty() && felt.playing.is_empty()
        })
    }
}

fn feel(device: &UinputDevice, event: &InputEvent, felt: &Mutex<Felt>) -> anyhow::Result<()> {
    let felt = || felt.lock().unwrap_or_else(PoisonError::into_inner);
    let kind = event.kind();
    match kind {
        EventKind::Uinput(request) if request.code() == UinputCode::FF_UPLOAD => {
            device.ff_upload(&request, |upload| {
                let mut felt = felt();
                felt.uploads += 1;
                felt.effects
                    .insert(upload.effect_id().raw(), described(upload.effect()));
                Ok(())
            })?;
        }
        EventKind::Uinput(request) if request.code() == UinputCode::FF_ERASE => {
            device.ff_erase(&request, |erase| {
                let mut felt = felt();
                felt.effects.remove(&erase.effect_id().raw());
                felt.playing.remove(&erase.effect_id().raw());
                Ok(())
            })?;
        }
        _ if event.event_type() == EventType::FF => match (event.raw_code(), event.raw_value()) {
            (0x60, value) => felt().gain = Some(value),
            (0x61, value) => felt().centre = Some(value),
            (effect, 0) => {
                felt().playing.remove(&i16::try_from(effect)?);
            }
            (effect, count) => {
                felt().playing.insert(i16::try_from(effect)?, count);
            }
        },
        _ => {}
    }
    Ok(())
}

/// All of an effect but its number, which is the device's own.
fn described(effect: &Effect<'_>) -> String {
    format!(
        "{:?} {:?} {:?} {:?}",
        effect.direction(),
        effect.trigger(),
        effect.replay(),
        effect.kind()
    )
}

/// One effect of each type.
fn effects() -> Vec<Effect<'static>> {
    let envelope = Envelope::new()
        .with_attack_length(11)
        .with_attack_level(12)
        .with_fade_length(13)
        .with_fade_level(14);
    let condition = |number: i16| {
        Condition::new()
            .with_right_saturation(0x8001)
            .with_left_saturation(22)
            .with_right_coeff(-number)
            .with_left_coeff(number)
            .with_deadband(23)
            .with_center(-24)
    };
    let pair = [condition(1_000), condition(2_000)];
    let periodic = |waveform| {
        Periodic::simple(waveform, 120, -0x7000)
            .with_offset(-31)
            .with_phase(32)
            .with_envelope(envelope)
    };
    let all: Vec<Effect<'static>> = vec![
        Rumble::new(0xc000, 0x0123).into(),
        Constant::new(-0x7fff).with_envelope(envelope).into(),
        Ramp::new(-5, 0x7fff).with_envelope(envelope).into(),
        periodic(Waveform::SINE).into(),
        periodic(Waveform::SAW_UP).into(),
        pair.map(Spring::new).into(),
        pair.map(Friction::new).into(),
        pair.map(Damper::new).into(),
        pair.map(Inertia::new).into(),
    ];
    all.into_iter()
        .map(|effect| {
            effect
                .with_direction(Direction::LEFT)
                .with_trigger(Trigger::new(Key::from_raw(BTN_GAMEPAD), 41))
                .with_replay(Replay::new(5_000, 42))
        })
        .collect()
}

fn play(twin: &Evdev, effect: EffectId, count: i32) -> anyhow::Result<()> {
    let code = u16::try_from(effect.raw())?;
    Ok(twin.write_events(&[InputEvent::new(EventType::FF, code, count)])?)
}

/// Every type of effect arrives as it was made, is played, stopped and erased; a flood of plays ends as its last one; a client
/// that hangs has its guard stop what is played, and one that is killed leaves nothing.
pub(crate) fn effects_of_programs() -> anyhow::Result<()> {
    let pad = Pad::plugged()?;
    let (target, seat) = kvm::two_hosts()?;
    let server = Server::start(Host::Namespace(&target), SMALL)?;
    let seat = Seat::new(Host::Namespace(&seat))?;
    seat.pair(TARGET, server.code()?)?;
    let mut client = seat.connect(TARGET, &["--grab", "all"])?;
    await_grabs(&mut client, 1)?;
    let twin = Evdev::open(input::twin(PAD)?)?;
    ensure!(twin.supported_ff_effects()? == EFFECTS);
    ensure!(twin.supported_ff_features()?.iter().eq(FEATURES));

    for effect in effects() {
        let id = twin.upload_ff_effect(effect)?;
        let made = described(&effect);
        let is_there = |felt: &Felt| felt.effects.values().eq([&made]);
        pad.wait(&format!("it to know {made}"), is_there)?;
        let here = *pad.felt().effects.keys().next().context("no effect")?;
        play(&twin, id, 3)?;
        pad.wait_playing(&[(here, 3)])?;
        // Another strength of the same, while it plays.
        let stronger = effect.with_id(id).with_direction(Direction::UP);
        twin.upload_ff_effect(stronger)?;
        let made = described(&stronger);
        let is_there = |felt: &Felt| felt.effects.values().eq([&made]);
        pad.wait(&format!("it to know {made}"), is_there)?;
        pad.wait_playing(&[(here, 3)])?;
        play(&twin, id, 0)?;
        pad.wait_playing(&[])?;
        twin.erase_ff_effect(id)?;
        pad.wait_rest()?;
    }
    twin.set_ff_gain(0x4000)?;
    twin.set_ff_autocenter(0x1234)?;
    pad.wait("gain and centre", |felt| {
        (felt.gain, felt.centre) == (Some(0x4000), Some(0x1234))
    })?;

    // All at once, then far more than the line bears.
    let all: Vec<EffectId> = effects()
        .into_iter()
        .map(|effect| twin.upload_ff_effect(effect))
        .collect::<Result<_, _>>()?;
    for id in &all {
        play(&twin, *id, 1)?;
    }
    pad.wait("all effects to play", |felt| {
        felt.playing.len() == all.len()
    })?;
    let uploads = pad.felt().uploads;
    for round in 0..300 {
        for (id, effect) in all.iter().zip(effects()) {
            twin.upload_ff_effect(effect.with_id(*id))?;
            play(&twin, *id, round % 2)?;
        }
    }
    for id in &all {
        play(&twin, *id, 0)?;
    }
    pad.wait_playing(&[])?;
    let merged = pad.felt().uploads - uploads;
    ensure!(merged < 300 * all.len() / 2, "{merged} uploads came");
    ensure!(!client.process.has_ended(), "the client is gone");
    let output = client.process.output();
    ensure!(!output.contains("connection lost"), "{output}");

    let first = *all.first().context("no effect")?;
    play(&twin, first, 1)?;
    pad.wait("it to play", |felt| felt.playing.len() == 1)?;
    client.process.send_signal("STOP")?;
    pad.wait_playing(&[])?;
    ensure!(!pad.felt().effects.is_empty(), "the client did not hang");
    client.process.kill()?;
    pad.wait_rest()?;
    server.stop().map(drop)
}

/// Only the server that has the input is felt: what its programs play stops when the input goes elsewhere, and goes on when
/// it comes back, if it was to last. So too when the program ends and with the panic chord.
pub(crate) fn follows_the_input() -> anyhow::Result<()> {
    let (pad, keyboard) = (Pad::plugged()?, Hardware::keyboard(KEYBOARD)?);
    let chord = |keys: [u16; 3]| -> anyhow::Result<()> {
        for (down, key) in keys
            .map(|key| (true, key))
            .into_iter()
            .chain(keys.map(|key| (false, key)))
        {
            keyboard.report(&[Event::key(key, down)])?;
        }
        Ok(())
    };
    let next = || chord([LEFT_CTRL, RIGHT_CTRL, TAB]);
    let scene = Scene::new()?;
    let (servers, seat) = scene.servers()?;
    let mut client = seat.connect(TARGET, &["--server", SECOND, "--grab", "all"])?;
    await_grabs(&mut client, 2)?;
    let nodes = guest::wait_for("a gamepad on each server", SOON, || {
        <[_; 2]>::try_from(input::twins(PAD)).ok()
    })?;
    let twins = [Evdev::open(&nodes[0])?, Evdev::open(&nodes[1])?];
    // On both servers a program holds the stick at the centre, each with another force, and rumbles once.
    let force = |number: u16| {
        let condition = Condition::new().with_deadband(number);
        Effect::from(Spring::new(condition)).with_replay(Replay::new(0, 0))
    };
    let described_force = |number| described(&force(number));
    for (twin, number) in twins.iter().zip([1, 2]) {
        let rumble = Effect::from(Rumble::new(number, 0)).with_replay(Replay::new(100, 0));
        let (spring, rumble) = (
            twin.upload_ff_effect(force(number))?,
            twin.upload_ff_effect(rumble)?,
        );
        play(twin, spring, 1)?;
        play(twin, rumble, 1)?;
    }
    let holds = |number: u16| {
        let made = described_force(number);
        let what = format!("the force of server {number} alone");
        pad.wait(&what, |felt| {
            let mut playing = felt.playing.keys();
            felt.effects.len() == 2 && playing.any(|id| felt.effects.get(id) == Some(&made))
        })
    };
    // Which of the nodes is whose shows by which force is held first.
    pad.wait("a force", |felt| {
        felt.effects.len() == 2 && !felt.playing.is_empty()
    })?;
    let is_first = |felt: &Felt| {
        felt.effects
            .values()
            .any(|made| *made == described_force(1))
    };
    let order = if is_first(&pad.felt()) {
        [1, 2]
    } else {
        [2, 1]
    };
    pad.wait("both effects", |felt| felt.playing.len() == 2)?;
    holds(order[0])?;
    next()?;
    holds(order[1])?;
    next()?;
    holds(order[0])?;
    let [one, other] = twins;
    let (gone, stays) = if order[0] == 1 {
        (one, other)
    } else {
        (other, one)
    };
    // Behind all that was to be done at the switch.
    gone.set_ff_gain(0x1111)?;
    pad.wait("the gain", |felt| felt.gain == Some(0x1111))?;
    ensure!(
        pad.felt().playing.len() == 1,
        "the short effect was played again"
    );

    // A program that is gone has no effect any more.
    drop(gone);
    pad.wait_rest()?;
    next()?;
    holds(order[1])?;

    chord([LEFT_CTRL, RIGHT_CTRL, ESC])?;
    client.process.wait_line("yours again", SOON)?;
    pad.wait_rest()?;
    drop(stays);
    client.stop()?;
    for server in servers {
        server.stop()?;
    }
    Ok(())
}
