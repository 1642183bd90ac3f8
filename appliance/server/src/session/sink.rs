//! Where a session's input goes: virtual devices in the kernel or a USB gadget, the test card's echo, or both.

use std::fmt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use soft_kvm_core::MonoTime;
use soft_kvm_core::story::{InputDriver, InputParams};
use soft_kvm_input::echo::{EchoSink, EchoState};
use soft_kvm_input::sink::{InputSink, SinkError, SinkFeedback};
use soft_kvm_platform::os::confine;
use soft_kvm_platform::os::gadget::Gadget;
use soft_kvm_platform::os::uinput::{self, Bell};
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, HeldKeys, InputEvent, MAX_EVENTS};
use soft_kvm_protocol::pairing::PeerName;
use soft_kvm_security::Fingerprint;
use soft_kvm_security::handover::Claim;
use soft_kvm_security::policy::Act;

use super::gate::Gate;
use super::turns::{Turn, Turns};

/// The subcommand that is the gadget's keeper.
const KEEPER: &str = "gadget-keeper";

/// What sinks sessions get.
#[derive(Clone, Debug)]
pub struct SinkChoice {
    /// Devices that programs on the target see.
    pub devices: Devices,
    /// What the test card shows.
    pub echo: Arc<Mutex<EchoState>>,
    /// Whether the picture is the test card: what was typed is kept nowhere else.
    pub echo_shown: Arc<AtomicBool>,
    /// Whose input counts.
    pub turns: Arc<Turns>,
    /// What devices in the kernel ring when a program tells them something.
    pub bell: Option<Bell>,
}

/// What makes the devices on the target.
#[derive(Clone, Debug)]
pub enum Devices {
    /// Nothing: input is only drawn.
    None,
    /// This machine's kernel.
    Uinput,
    /// The USB device port, plugged into another machine.
    Gadget(Arc<Gadget>),
}

impl Devices {
    /// Chooses as the story says; `auto` is uinput where it can be opened. A gadget that the sessions `before` have is
    /// kept when it is the wanted one.
    ///
    /// # Errors
    /// The story wants what this machine does not have; the text says what to do.
    pub fn new(params: Option<&InputParams>, before: Option<&Self>) -> anyhow::Result<Self> {
        let Some(params) = params else {
            return Ok(Self::None);
        };
        match params.driver {
            InputDriver::Echo => Ok(Self::None),
            InputDriver::Uinput => {
                uinput::probe()?;
                Ok(Self::Uinput)
            }
            InputDriver::Auto => match uinput::probe() {
                Ok(()) => Ok(Self::Uinput),
                Err(error) => {
                    tracing::warn!("{error}; input only appears on the test card");
                    Ok(Self::None)
                }
            },
            InputDriver::Gadget => {
                let wanted = params.device.as_deref();
                if let Some(Self::Gadget(gadget)) = before
                    && wanted.is_none_or(|name| name == gadget.controller())
                {
                    return Ok(Self::Gadget(Arc::clone(gadget)));
                }
                let mut keeper = Command::new(confine::own_executable());
                keeper.arg(KEEPER);
                let gadget = Gadget::new(wanted, keeper)?;
                tracing::info!(
                    controller = gadget.controller(),
                    "USB keyboard and mouse plugged in"
                );
                Ok(Self::Gadget(Arc::new(gadget)))
            }
        }
    }
}

impl SinkChoice {
    /// Its name on the wire: `uinput`, `echo`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.devices {
            Devices::None => "echo",
            Devices::Uinput => "uinput",
            Devices::Gadget(_) => "gadget",
        }
    }

    /// Whether force feedback is passed on.
    #[must_use]
    pub const fn passes_force(&self) -> bool {
        matches!(self.devices, Devices::Uinput)
    }

    /// A sink for a session of the client with this key and name; nothing gets into it that the gate does not let through.
    #[must_use]
    pub fn open(&self, peer: Fingerprint, name: &PeerName, gate: Arc<Gate>) -> TargetSink {
        let turn = Turn::new(Arc::clone(&self.turns), peer, name, gate.role());
        TargetSink {
            gate,
            devices: match &self.devices {
                Devices::None => None,
                Devices::Uinput => Some(Box::new(uinput::UinputSink::with_bell(self.bell.clone()))),
                Devices::Gadget(gadget) => Some(Box::new(gadget.open())),
            },
            echo: EchoSink::new(Arc::clone(&self.echo)),
            echo_shown: Arc::clone(&self.echo_shown),
            turn,
            lifting: false,
            down: HeldKeys::new(),
            releases: Vec::with_capacity(MAX_EVENTS),
        }
    }
}

/// One session's sink.
#[derive(Debug)]
pub struct TargetSink {
    gate: Arc<Gate>,
    devices: Option<Box<dyn DeviceSink>>,
    echo: EchoSink,
    echo_shown: Arc<AtomicBool>,
    turn: Turn,
    /// What comes lifts what this client holds, because another is heard next.
    lifting: bool,
    /// Keys of this session that are down on the target.
    down: HeldKeys,
    releases: Vec<InputEvent>,
}

impl TargetSink {
    /// Its client's part in who has keyboard and mouse.
    pub(super) const fn turn(&mut self) -> &mut Turn {
        &mut self.turn
    }

    /// From now on events are let through, whoever has keyboard and mouse, or no more: to lift what is down.
    pub(super) const fn set_lifting(&mut self, lifting: bool) {
        self.lifting = lifting;
    }
}

/// A sink that can be shown in a log.
trait DeviceSink: InputSink + fmt::Debug {}

impl<T: InputSink + fmt::Debug> DeviceSink for T {}

impl InputSink for TargetSink {
    fn add_device(&mut self, device: &DeviceDescriptor) -> Result<String, SinkError> {
        if !self.gate.lets(Act::Inject) {
            return Err(SinkError::ViewOnly);
        }
        let echoed = self.echo.add_device(device)?;
        let Some(devices) = self.devices.as_mut() else {
            return Ok(echoed);
        };
        let made = devices.add_device(device);
        if made.is_err() {
            self.echo.remove_device(device.id);
        }
        made
    }

    fn remove_device(&mut self, device: DeviceId) {
        self.turn.remove_device(device);
        self.down.retain(|owner, _| owner != device);
        self.echo.remove_device(device);
        if let Some(devices) = self.devices.as_mut() {
            devices.remove_device(device);
        }
    }

    fn apply(
        &mut self,
        now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError> {
        // The client was told when its device was refused, or its session cut.
        if !self.gate.lets(Act::Inject) {
            return Ok(());
        }
        if self.lifting {
            return self.write(now, device, events, unfinished);
        }
        let refused = match self.turn.claim(now, device, events) {
            Claim::Granted => {
                self.gate.count_keys(events);
                return self.write(now, device, events, unfinished);
            }
            Claim::Refused => Ok(()),
            Claim::InUse(by) => Err(SinkError::InUse { by }),
            Claim::Kept(by) => Err(SinkError::Kept { by }),
        };
        self.release(now, device, events)?;
        refused
    }

    fn poll_feedback(&mut self, each: &mut dyn FnMut(SinkFeedback)) {
        if let Some(devices) = self.devices.as_mut() {
            devices.poll_feedback(each);
        }
    }

    fn kind(&self) -> &'static str {
        self.devices
            .as_ref()
            .map_or("echo", |devices| devices.kind())
    }
}

impl TargetSink {
    /// Events that are not heard: of a key that is down on the target, the release is, so that none stays down whatever
    /// happens while keyboard and mouse go over.
    fn release(
        &mut self,
        now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
    ) -> Result<(), SinkError> {
        let mut releases = std::mem::take(&mut self.releases);
        let ends = |event: &&InputEvent| {
            let key = event.as_key();
            key.is_some_and(|(key, down)| !down && self.down.contains(device, key))
        };
        releases.extend(events.iter().filter(ends));
        let outcome = if releases.is_empty() {
            Ok(())
        } else {
            self.write(now, device, &releases, false)
        };
        releases.clear();
        self.releases = releases;
        outcome
    }

    fn write(
        &mut self,
        now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError> {
        for event in events {
            self.down.apply(device, *event);
        }
        let outcome = match self.devices.as_mut() {
            Some(devices) => devices.apply(now, device, events, unfinished),
            None => Ok(()),
        };
        if self.echo_shown.load(Ordering::Relaxed) {
            self.echo.apply(now, device, events, unfinished)?;
        }
        outcome
    }
}
