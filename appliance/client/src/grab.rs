//! The `input` thread: the operator's devices, taken for a server alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use soft_kvm_core::MonoTime;
use soft_kvm_input::{Action, Binding, EdgeRule, InputSource, Place, SourceEvent, Waker};
use soft_kvm_platform::os::evdev::{self, EvdevSource, Guard, Release, STALL, Selection};
use soft_kvm_platform::os::force::Hardware;
use soft_kvm_platform::os::seat::Seat;
use soft_kvm_platform::os::thread::{Urgency, prioritise};
use soft_kvm_platform::os::{clock, confine};
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, LedState, Record};
use soft_kvm_service::console;

use crate::force::ForceThread;
use crate::run::Shared;
use crate::session::outputs::lock;
use crate::steer::{Outcome, Steering, Turn};

/// How often the thread looks whether the connection came or went.
const LOOK: Duration = Duration::from_millis(50);
/// How often it looks at the session and tells the guard that it lives.
const BEAT: Duration = Duration::from_millis(250);
/// The subcommand that is the guard.
pub(crate) const GUARD: &str = "guard";

/// How devices are taken.
#[derive(Clone, Debug)]
pub(crate) struct GrabOptions {
    /// Which.
    pub(crate) selection: Selection,
    /// The devices go back after this, unless that is confirmed.
    pub(crate) trial: Option<Duration>,
    /// Chords other than the default ones.
    pub(crate) chords: Vec<Binding>,
    /// What screen edges do.
    pub(crate) edges: Vec<EdgeRule>,
}

/// The running thread; dropping it lets all devices go.
#[derive(Debug)]
pub(crate) struct Grab {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    /// Dropped last: a slow device keeps no keyboard.
    _force: ForceThread,
}

impl Grab {
    /// What `--grab` says; `None` when nothing is to be taken.
    ///
    /// # Errors
    /// `all` or `none` together with something else.
    pub(crate) fn selection(words: &[String]) -> anyhow::Result<Option<Selection>> {
        match words {
            [] => Ok(None),
            [word] if word == "none" => Ok(None),
            [word] if word == "all" => Ok(Some(Selection::All)),
            devices if devices.iter().any(|word| word == "all" || word == "none") => {
                bail!("--grab takes all, none, or devices")
            }
            devices => Ok(Some(Selection::Named(devices.to_vec()))),
        }
    }

    /// Starts the guard and the thread.
    ///
    /// # Errors
    /// The devices cannot be watched, the guard cannot be started, or chords collide.
    pub(crate) fn start(options: GrabOptions, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let steering = Steering::new(Arc::clone(&shared), &options.chords, &options.edges)?;
        let guard = Guard::start(&confine::own_executable(), &[GUARD], &steering.panic())
            .context("no device is taken without its guard process")?;
        let guard = Arc::new(guard);
        let source = EvdevSource::new(options.selection)?.with_guard(Arc::clone(&guard));
        let waker = source.waker();
        steering.introduce();
        if let Some(trial) = options.trial {
            let seconds = trial.as_secs();
            let keep = steering.chords_of(Action::Keep);
            console::err(format!(
                "{} {keep}",
                shared.lang.pick(
                    &format!(
                        "They come back {seconds} s after they are taken, unless confirmed by"
                    ),
                    &format!("占有から {seconds} 秒後に返します。続けるには次を押してください："),
                )
            ));
        }
        let worker = Worker {
            source,
            guard,
            steering,
            seat: Seat::of_this_process(),
            seat_active: true,
            leds: vec![Vec::new(); shared.remotes.len()],
            held: false,
            relight: false,
            trial: options.trial,
            deadline: None,
            next_beat: Instant::now(),
            shared: Arc::clone(&shared),
        };
        let force = ForceThread::start(&shared.force)?;
        let thread = std::thread::Builder::new()
            .name("input".into())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            waker,
            thread: Some(thread),
            _force: force,
        })
    }
}

impl Drop for Grab {
    fn drop(&mut self) {
        self.shared.stop();
        self.waker.wake();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the input thread panicked");
        }
    }
}

/// The guard's process.
///
/// # Errors
/// It was started by hand.
pub(crate) fn guard() -> anyhow::Result<()> {
    evdev::run_guard().context("this is for soft-kvm-client itself")
}

struct Worker {
    source: EvdevSource,
    guard: Arc<Guard>,
    steering: Steering,
    seat: Seat,
    seat_active: bool,
    /// What each server told of the devices' LEDs.
    leds: Vec<Vec<(DeviceId, LedState)>>,
    held: bool,
    /// The LEDs of the current server are to be shown anew.
    relight: bool,
    trial: Option<Duration>,
    deadline: Option<Instant>,
    next_beat: Instant,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        prioritise(Urgency::Input);
        while !self.shared.is_stopped() {
            if let Err(error) = self.step() {
                // Dropping the source gives everything back.
                tracing::error!("{error:#}: input devices are given back");
                self.steering.give_back(clock::now());
                break;
            }
        }
        self.shared.force.set_place(None);
    }

    fn step(&mut self) -> anyhow::Result<()> {
        self.heed_guard()?;
        if Instant::now() >= self.next_beat {
            self.next_beat = Instant::now() + BEAT;
            self.guard.beat().context("the guard process has ended")?;
            self.look_at_seat();
            self.steering.look_at_screen();
            self.tell_force();
        }
        if self.deadline.is_some_and(|end| Instant::now() >= end) {
            self.deadline = None;
            self.trial = None;
            self.steering.give_back(clock::now());
            self.steering.tell_place();
        }
        let mut link = self.steering.link();
        self.hold(link.is_some() && self.seat_active && !self.is_stalled());
        self.show_leds();
        if link.as_ref().is_some_and(|link| link.take_restarted()) {
            self.source.repeat_state();
        }

        let (steering, shared) = (&mut self.steering, &*self.shared);
        let (mut moved, mut kept, mut taken) = (false, false, false);
        let mut turn = |steering: &mut Steering, turn: Turn| match steering.turn(turn, clock::now())
        {
            Outcome::Moved => moved = true,
            Outcome::Kept => kept = true,
            Outcome::Stays => {}
        };
        self.source.wait(Some(LOOK), &mut |event| match event {
            SourceEvent::Report(report) => match steering.follow(&report) {
                Some(asked) => {
                    turn(steering, asked);
                    link = steering.link();
                }
                None => {
                    if let Some(link) = &link {
                        link.push(clock::now(), report);
                    }
                }
            },
            SourceEvent::Overheard(report) => {
                if let Some(asked) = steering.follow(&report) {
                    turn(steering, asked);
                }
            }
            SourceEvent::Added {
                device,
                class,
                path,
            } => {
                tracing::info!(path, %class, name = device.name, "input device");
                steering.add_device(device);
                added(shared, device.clone(), path);
            }
            SourceEvent::Grabbed(device) => {
                tracing::info!(%device, "taken");
                // All its keys are up.
                steering.remove_device(device);
                taken = true;
            }
            SourceEvent::Removed(device) => {
                tracing::info!(%device, "input device unplugged");
                steering.unplugged(device);
                removed(shared, device);
            }
            SourceEvent::Problem(error) => tracing::warn!("{error}"),
            _ => {}
        })?;
        self.relight |= taken || moved;
        if moved {
            self.source.repeat_state();
            self.hold(self.held && self.steering.link().is_some());
            self.tell_force();
            self.steering.tell_place();
        }
        if taken && let Some(trial) = self.trial.take() {
            self.deadline = Some(Instant::now() + trial);
        }
        if kept && self.deadline.take().is_some() {
            let text = self.shared.lang.pick(
                "Confirmed: keyboard and mouse stay taken.",
                "確認しました。キーボードとマウスの占有を続けます。",
            );
            console::err(text);
        }
        Ok(())
    }

    /// Takes the devices or gives them back. Without a server they are the operator's own.
    fn hold(&mut self, wanted: bool) {
        if wanted == self.held {
            return;
        }
        self.held = wanted;
        self.tell_force();
        self.source.set_grabbed(wanted);
        if !wanted && let Some(link) = self.steering.link() {
            self.steering.let_go(&link, clock::now());
        }
    }

    /// Says whose programs the devices may be moved by: those of the server that has them.
    fn tell_force(&self) {
        let place = match self.steering.place() {
            Place::Server(index) if self.held => Some(index),
            _ => None,
        };
        self.shared.force.set_place(place);
    }

    /// What the guard did while this thread did not run.
    fn heed_guard(&mut self) -> anyhow::Result<()> {
        let Some(release) = self
            .guard
            .poll_release()
            .context("the guard process has ended")?
        else {
            return Ok(());
        };
        tracing::warn!(?release, "the guard gave the input devices back");
        self.hold(false);
        if release == Release::Chord {
            self.steering.give_back(clock::now());
            self.steering.tell_place();
        }
        Ok(())
    }

    fn look_at_seat(&mut self) {
        let active = self.seat.is_active();
        if active != self.seat_active {
            self.seat_active = active;
            tracing::info!(active, "the session that is shown has changed");
        }
        if self.seat.take_slept() {
            tracing::info!("the machine was suspended");
            // Taken again when all keys are up.
            self.hold(false);
        }
    }

    /// Whether the thread that keeps the connections has not run for long.
    fn is_stalled(&self) -> bool {
        let seen = MonoTime::from_nanos(self.shared.control_seen.load(Ordering::Acquire));
        let stalled = clock::now().since(seen) >= STALL;
        if stalled && self.held {
            tracing::warn!("the connections do not react: input devices are given back");
        }
        stalled
    }

    /// Shows the LEDs of the current server on the devices.
    fn show_leds(&mut self) {
        for (index, remote) in self.shared.remotes.iter().enumerate() {
            let current = self.steering.place() == Place::Server(index);
            let Some(known) = self.leds.get_mut(index) else {
                return;
            };
            while let Ok(message) = remote.feedback.1.try_recv() {
                if let Ok(Record::Leds(device, leds)) = Record::parse(&message) {
                    known.retain(|(other, _)| *other != device);
                    known.push((device, leds));
                    self.relight |= current;
                }
            }
        }
        if !std::mem::replace(&mut self.relight, false) || !self.held {
            return;
        }
        let Place::Server(index) = self.steering.place() else {
            return;
        };
        let known = self.leds.get(index).map_or(&[][..], Vec::as_slice);
        for device in lock(&self.shared.devices).iter() {
            let told = known.iter().find(|(other, _)| *other == device.id);
            let lit = told.map_or(0, |(_, leds)| leds.lit & leds.known);
            // A lamp that the server has not told is dark, as on a keyboard just plugged in.
            let leds = LedState {
                known: u16::MAX,
                lit,
            };
            self.source.set_leds(device.id, leds);
        }
    }
}

/// Announces a device to every server, with the force feedback that it has.
fn added(shared: &Shared, mut device: DeviceDescriptor, path: &str) {
    if let Some(abilities) = device.force.clone() {
        match Hardware::open(path.as_ref()) {
            Ok(hardware) => shared.force.arrived(device.id, abilities, hardware),
            Err(error) => {
                tracing::warn!(path, %error, "no force feedback");
                device.force = None;
            }
        }
    }
    shared.announce(device);
}

fn removed(shared: &Shared, device: DeviceId) {
    shared.force.gone(device);
    for remote in &shared.remotes {
        if let Some(link) = remote.link() {
            link.remove_device(clock::now(), device);
        }
    }
    shared.withdraw(device);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_grab() {
        let words = |list: &[&str]| {
            list.iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        assert!(matches!(Grab::selection(&words(&["none"])), Ok(None)));
        assert!(matches!(
            Grab::selection(&words(&["all"])),
            Ok(Some(Selection::All))
        ));
        assert!(matches!(
            Grab::selection(&words(&["/dev/input/event3", "/dev/input/event4"])),
            Ok(Some(Selection::Named(devices))) if devices.len() == 2
        ));
        assert!(Grab::selection(&words(&["all", "/dev/input/event3"])).is_err());
    }
}
