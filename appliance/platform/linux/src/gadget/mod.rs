//! Input as a USB keyboard and mouse of the machine that this one's USB device port is plugged into: it works in
//! firmware set-up, at a boot menu and in every operating system.
//!
//! The composite is plugged in as long as a [`Gadget`] lives, not only while an operator is connected: firmware looks
//! for keyboards once, at its start.

mod configfs;
mod keeper;
mod plug;

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{array, iter};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use soft_kvm_core::MonoTime;
use soft_kvm_input::hid::{self, Function, Owner};
use soft_kvm_input::{InputSink, SinkError, SinkFeedback};
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, InputEvent, LedState};

use crate::clock;
use crate::thread::{Stop, Urgency, Worker, prioritise};
pub(crate) use configfs::Composite;
pub use configfs::{CONTROLLERS, Controller, GadgetError, choose, controllers, written_folders};
pub use keeper::run_keeper;
pub(crate) use plug::obey;

use configfs::Nodes;
use plug::Plug;

/// How often a host that is not there is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// A host that has fetched nothing for so long may be asleep.
const ASLEEP: Duration = Duration::from_millis(50);
/// What a host has not fetched for so long, it never gets: old keystrokes would surprise.
const STALE: Duration = Duration::from_secs(1);
/// How often what is held is told again (HID 1.11, §7.2.4: a keyboard's idle rate): Linux drops what comes in the first
/// 50 ms after a device was opened.
const IDLE: Duration = Duration::from_millis(500);
/// How long the nodes of a new gadget may take to appear.
const NODE_WAIT: Duration = Duration::from_secs(2);

/// A composite USB device of ours, plugged in until it is dropped. Every session's [`GadgetSink`] shares it.
#[derive(Debug)]
pub struct Gadget {
    // Ends before what it works on is dropped.
    worker: Worker,
    state: Arc<Mutex<State>>,
    controller: String,
    sessions: AtomicU64,
}

#[derive(Debug)]
struct State {
    reports: hid::Composite,
    leds: Option<LedState>,
    /// Open while the controller is there. Before `plug`: closed first.
    nodes: Option<Arc<Nodes>>,
    /// No host has configured the device.
    away: bool,
    written: MonoTime,
    /// Since when the host has fetched nothing that waits.
    waiting: Option<MonoTime>,
    plug: Plug,
}

impl Gadget {
    /// Plugs the composite into the controller of this name, or into the first that is free. What killed processes
    /// left is removed before. `keeper` starts a process that calls [`run_keeper`]; where a broker makes the gadget, none is
    /// needed.
    ///
    /// # Errors
    /// With the reason and what to do.
    pub fn new(controller: Option<&str>, keeper: Command) -> Result<Self, GadgetError> {
        let plug = Plug::new(controller, keeper)?;
        let start = clock::now();
        let nodes = loop {
            match plug.open() {
                Err(_) if clock::now().since(start) < NODE_WAIT => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                done => break done?,
            }
        };
        let controller = plug.controller().to_owned();
        let state = Arc::new(Mutex::new(State {
            reports: hid::Composite::default(),
            leds: None,
            nodes: Some(Arc::new(nodes)),
            away: true,
            written: MonoTime::ZERO,
            waiting: None,
            plug,
        }));
        let shared = Arc::clone(&state);
        let worker = Worker::spawn("gadget", move |stop| {
            crate::lockdown::narrow(crate::lockdown::Class::Device);
            run(&shared, &stop);
        })
        .map_err(GadgetError::at("gadget thread".as_ref()))?;
        Ok(Self {
            worker,
            state,
            controller,
            sessions: AtomicU64::new(0),
        })
    }

    /// The controller's name.
    #[must_use]
    pub fn controller(&self) -> &str {
        &self.controller
    }

    /// One operator's share of it.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> GadgetSink {
        GadgetSink {
            session: self.sessions.fetch_add(1, Ordering::Relaxed),
            gadget: Arc::clone(self),
            devices: Vec::new(),
            told: None,
        }
    }

    /// Unplugs and removes it for good, whoever still shares it: for the end of the program.
    pub fn unplug(&self) {
        let mut state = lock(&self.state);
        state.away = true;
        let nodes = state.nodes.take();
        drop(state);
        // The thread closes its share as soon as it is woken; a moment is enough.
        for _ in 0..100 {
            if nodes
                .as_ref()
                .is_none_or(|nodes| Arc::strong_count(nodes) == 1)
            {
                break;
            }
            self.worker.stop().waker().wake();
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(nodes);
        lock(&self.state).plug.remove();
    }

    /// Changes what is held, and sends what can be sent now; the thread sends the rest.
    fn with<T>(&self, act: impl FnOnce(&mut hid::Composite) -> T) -> T {
        let mut state = lock(&self.state);
        let held = state.reports.is_held();
        let outcome = act(&mut state.reports);
        if !state.away {
            let now = clock::now();
            state.wake(now);
            state.pump(now);
            if state.away || state.is_waiting() || state.reports.is_held() != held {
                self.worker.stop().waker().wake();
            }
        }
        outcome
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Every step leaves the state whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `gadget` thread: LEDs, what a slow host has not fetched, and hosts that come and go.
fn run(state: &Mutex<State>, stop: &Stop) {
    prioritise(Urgency::Input);
    while !stop.is_asked() {
        let (nodes, waiting, held) = {
            let state = lock(state);
            let nodes = state.nodes.clone().filter(|_| !state.away);
            let waits = |function| nodes.is_some() && state.reports.next(function).is_some();
            let waiting = Function::ALL.map(waits);
            (nodes.clone(), waiting, state.reports.is_held())
        };
        let mut polled: [PollFd<'_>; 6] =
            array::from_fn(|_| PollFd::new(stop.waker().as_fd(), PollFlags::POLLIN));
        let mut count = 1;
        if let Some(nodes) = &nodes {
            let functions = nodes.functions.iter().zip(Function::ALL).zip(waiting);
            let functions = functions.map(|((node, function), waits)| {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::POLLIN, function == Function::Keyboard);
                flags.set(PollFlags::POLLOUT, waits);
                PollFd::new(node.as_fd(), flags)
            });
            let state = PollFd::new(nodes.state.as_fd(), PollFlags::POLLPRI);
            for (place, file) in polled
                .iter_mut()
                .skip(1)
                .zip(iter::once(state).chain(functions))
            {
                *place = file;
            }
            count = polled.len();
        }
        let limit = match (&nodes, waiting.contains(&true)) {
            (None, _) => Some(LOOK),
            (Some(_), true) => Some(ASLEEP),
            (Some(_), false) => held.then_some(IDLE),
        };
        let limit = limit.map_or(PollTimeout::NONE, |limit| {
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO)
        });
        // An interruption is a reason to look, too.
        let _ = poll(polled.get_mut(..count).unwrap_or_default(), limit);
        let changed = nodes.is_some()
            && polled
                .get(1)
                .and_then(PollFd::revents)
                .is_some_and(|events| events.contains(PollFlags::POLLPRI));
        drop(nodes);
        let _ = stop.waker().clear();
        let mut state = lock(state);
        if changed {
            state.follow_host();
        }
        state.tick(clock::now());
    }
}

impl State {
    fn tick(&mut self, now: MonoTime) {
        if self.away {
            // One that came back before anybody looked is another one.
            self.nodes.take_if(|nodes| nodes.are_orphaned());
            if self.nodes.is_none() {
                self.reopen();
            }
            self.reports.restart();
        } else {
            self.read_leds();
            match self.waiting.map(|since| now.since(since)) {
                Some(waited) if waited > STALE => {
                    self.reports.restart();
                    self.waiting = Some(now);
                }
                Some(waited) if waited > ASLEEP => self.wake(now),
                None if self.reports.is_held() && now.since(self.written) >= IDLE => {
                    self.reports.restart();
                }
                _ => {}
            }
        }
        self.pump(now);
    }

    /// Wakes a host that may have gone to sleep since the last report: controllers take a report or two for it without a
    /// word.
    fn wake(&self, now: MonoTime) {
        let asleep = |nodes: &Arc<Nodes>| nodes.are_suspended();
        if now.since(self.written) > ASLEEP && self.nodes.as_ref().is_some_and(asleep) {
            self.plug.wake();
        }
    }

    /// The host has configured the device, has left it or has gone to sleep: one that is new has to be told what is
    /// held, an old one hears it again.
    fn follow_host(&mut self) {
        let Some(nodes) = &self.nodes else {
            return;
        };
        let mut text = [0_u8; 32];
        // Reading ends the notification.
        let length = nodes.state.read_at(&mut text, 0).unwrap_or_default();
        match text.get(..length).unwrap_or_default().trim_ascii() {
            b"configured" => self.reports.restart(),
            b"suspended" => {}
            _ => self.lost(&io::Error::from_raw_os_error(libc::ESHUTDOWN)),
        }
    }

    /// The controller may be back.
    fn reopen(&mut self) {
        if !self.plug.is_there() {
            return;
        }
        match self.plug.open() {
            Ok(nodes) => self.nodes = Some(Arc::new(nodes)),
            Err(error) => tracing::debug!("the USB gadget is not back yet: {error}"),
        }
    }

    fn is_waiting(&self) -> bool {
        Function::ALL
            .into_iter()
            .any(|function| self.reports.next(function).is_some())
    }

    /// Writes all that the host takes now.
    fn pump(&mut self, now: MonoTime) {
        let Some(nodes) = self.nodes.clone() else {
            return;
        };
        let mut full = false;
        for (node, function) in nodes.functions.iter().zip(Function::ALL) {
            while let Some(report) = self.reports.next(function) {
                let mut node = node;
                match node.write(report.as_bytes()) {
                    Ok(_) => {
                        self.reports.sent(function);
                        self.written = now;
                        self.waiting = None;
                        if std::mem::take(&mut self.away) {
                            tracing::info!("a host has taken the USB keyboard and mouse");
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        full = true;
                        break;
                    }
                    Err(error) => return self.lost(&error),
                }
            }
        }
        if full {
            self.waiting.get_or_insert(now);
        } else {
            self.waiting = None;
        }
    }

    /// ESHUTDOWN: unplugged, or the host has not configured the device; it will be looked for.
    fn lost(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::info!("the USB host is gone: {error}");
        }
        self.leds = None;
        self.waiting = None;
    }

    fn read_leds(&mut self) {
        let Some(nodes) = self.nodes.clone() else {
            return;
        };
        let [keyboard, ..] = &nodes.functions;
        let mut keyboard = keyboard;
        let mut output = [0_u8; 8];
        // Nothing there is an error, too; a lost host shows with the next report.
        while let Ok(1..) = keyboard.read(&mut output) {
            let [first, ..] = output;
            self.leds = Some(hid::leds(first));
        }
    }
}

/// One operator's devices on a [`Gadget`]. Dropping it lifts what they hold.
#[derive(Debug)]
pub struct GadgetSink {
    gadget: Arc<Gadget>,
    session: u64,
    /// Each with whether it has LEDs.
    devices: Vec<(DeviceId, bool)>,
    told: Option<LedState>,
}

impl GadgetSink {
    const fn owner(&self, device: DeviceId) -> Owner {
        Owner {
            session: self.session,
            device,
        }
    }
}

impl InputSink for GadgetSink {
    fn add_device(&mut self, device: &DeviceDescriptor) -> Result<String, SinkError> {
        let failed = |reason: &str| SinkError::Create {
            device: device.id,
            name: device.name.clone(),
            reason: reason.to_owned(),
        };
        if self.devices.iter().any(|(known, _)| *known == device.id) {
            return Err(failed("it exists already"));
        }
        let owner = self.owner(device.id);
        if !self
            .gadget
            .with(|reports| reports.add_device(owner, device))
        {
            return Err(failed(
                "the USB gadget is a keyboard and a mouse only; use the driver 'uinput' on the machine itself",
            ));
        }
        self.devices.push((device.id, !device.leds.is_empty()));
        self.told = None;
        Ok(format!("USB gadget on {}", self.gadget.controller))
    }

    fn remove_device(&mut self, device: DeviceId) {
        let owner = self.owner(device);
        self.devices.retain(|(known, _)| *known != device);
        self.gadget.with(|reports| reports.remove_device(owner));
    }

    fn apply(
        &mut self,
        _now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError> {
        let owner = self.owner(device);
        let known = self
            .gadget
            .with(|reports| reports.apply(owner, events, unfinished));
        known.then_some(()).ok_or(SinkError::Unknown(device))
    }

    fn poll_feedback(&mut self, each: &mut dyn FnMut(SinkFeedback)) {
        let leds = lock(&self.gadget.state).leds;
        if let Some(lit) = leds.filter(|_| leds != self.told) {
            self.told = leds;
            for (device, _) in self.devices.iter().filter(|(_, has_leds)| *has_leds) {
                each(SinkFeedback::Leds(*device, lit));
            }
        }
    }

    fn kind(&self) -> &'static str {
        "gadget"
    }
}

impl Drop for GadgetSink {
    fn drop(&mut self) {
        let session = self.session;
        self.gadget.with(|reports| reports.remove_session(session));
    }
}
