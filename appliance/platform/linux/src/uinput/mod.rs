//! Virtual input devices by uinput: what the operator's devices become on the target.
//!
//! A twin keeps the name, ids and capabilities of its original, so that libinput, udev and the kernel treat it the same
//! way. Only the noise filter of absolute axes (`fuzz`) is left out: the original's kernel has filtered, and filtering
//! twice would lose motion. Its physical path begins with [`PHYS_PREFIX`], by which our own grabbers leave it alone.

mod bell;
mod node;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evdevil::event::{EventType as RawType, InputEvent as RawEvent};
use soft_kvm_core::MonoTime;
use soft_kvm_input::{InputSink, SinkError, SinkFeedback};
use soft_kvm_protocol::input::codes::ff;
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, EffectId, EventType, ForceChange, InputEvent, LedState, MAX_EVENTS,
    Repeat,
};

use crate::broker::{self, Kind};
use crate::force::{EV_FF, answer_erase, answer_upload};

pub use bell::Bell;
use node::Node;

/// Where the kernel makes virtual input devices.
pub const UINPUT: &str = "/dev/uinput";

/// How the physical path of our virtual devices begins.
pub const PHYS_PREFIX: &str = "soft-kvm/";

/// How long a new device's node may take to appear; devtmpfs makes it at once.
const NODE_WAIT: Duration = Duration::from_secs(2);

/// Why uinput can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The kernel has no uinput.
    #[error("{UINPUT}: no such file: load the kernel module uinput (modprobe uinput)")]
    Missing,
    /// Not allowed.
    #[error("{UINPUT}: permission denied: add the user to group input or install the udev rule")]
    Permission,
    /// Anything else.
    #[error("{UINPUT}: {0}")]
    Other(io::Error),
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ if error.raw_os_error() == Some(libc::ENODEV) => Self::Missing,
            _ => Self::Other(error),
        }
    }
}

/// Tells whether virtual devices can be made; makes none.
///
/// # Errors
/// With the reason and what to do.
pub fn probe() -> Result<(), ProbeError> {
    broker::open(Kind::Uinput, Path::new(UINPUT)).map(drop)?;
    Ok(())
}

/// Input arrives as virtual devices of this machine; dropping the sink removes them all.
#[derive(Debug, Default)]
pub struct UinputSink {
    twins: Vec<Twin>,
    buffer: Vec<RawEvent>,
    bell: Option<Bell>,
}

#[derive(Debug)]
struct Twin {
    id: DeviceId,
    device: Node,
    leds: LedState,
    repeat: Option<Repeat>,
}

impl UinputSink {
    /// A sink without devices.
    ///
    /// # Errors
    /// When uinput can't be used.
    pub fn new() -> Result<Self, ProbeError> {
        probe()?;
        Ok(Self {
            twins: Vec::new(),
            buffer: Vec::with_capacity(MAX_EVENTS + 1),
            bell: None,
        })
    }

    /// A sink without devices; those with force feedback ring this bell when a program tells them something.
    #[must_use]
    pub fn with_bell(bell: Option<Bell>) -> Self {
        Self {
            bell,
            ..Self::default()
        }
    }

    /// The virtual devices' descriptors: readable when a target has set an LED, to be answered by
    /// [`InputSink::poll_feedback`]. They change with every device added or removed.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.twins.iter().map(|twin| twin.device.as_fd())
    }
}

impl InputSink for UinputSink {
    fn add_device(&mut self, device: &DeviceDescriptor) -> Result<String, SinkError> {
        let failed = |reason: String| SinkError::Create {
            device: device.id,
            name: device.name.clone(),
            reason,
        };
        if self.twins.iter().any(|twin| twin.id == device.id) {
            return Err(failed("it exists already".to_owned()));
        }
        probe().map_err(|error| failed(error.to_string()))?;
        let made = create(device).map_err(|error| failed(error.to_string()))?;
        // Of the others each written scan code would ring, for the kernel passes those on to us too; lamps can wait for a look.
        if let Some(bell) = self.bell.as_ref().filter(|_| device.force.is_some()) {
            bell.watch(made.as_fd())
                .map_err(|error| failed(error.to_string()))?;
        }
        let node = wait_for_node(&made).map_err(|error| failed(error.to_string()))?;
        self.twins.push(Twin {
            id: device.id,
            device: made,
            leds: LedState::default(),
            repeat: device.repeat,
        });
        Ok(node.display().to_string())
    }

    fn remove_device(&mut self, device: DeviceId) {
        self.twins.retain(|twin| twin.id != device);
    }

    fn apply(
        &mut self,
        _now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError> {
        let twin = self
            .twins
            .iter()
            .find(|twin| twin.id == device)
            .ok_or(SinkError::Unknown(device))?;
        self.buffer.clear();
        self.buffer.extend(events.iter().map(|event| raw(*event)));
        if !unfinished {
            self.buffer.push(raw(InputEvent::SYN_REPORT));
        }
        write_all(twin.device.as_fd(), &self.buffer)
            .map_err(|source| SinkError::Write { device, source })
    }

    fn poll_feedback(&mut self, each: &mut dyn FnMut(SinkFeedback)) {
        let mut events = [RawEvent::zeroed(); 16];
        for twin in &mut self.twins {
            let before = (twin.leds, twin.repeat);
            // The descriptor is non-blocking; an error means that nothing is there.
            while let Ok(count @ 1..) = twin.device.read_events(&mut events) {
                for event in events.iter().take(count) {
                    if let Some(change) = twin.force(*event) {
                        each(SinkFeedback::Force(twin.id, change));
                    }
                    twin.follow(*event);
                }
            }
            if twin.leds != before.0 {
                each(SinkFeedback::Leds(twin.id, twin.leds));
            }
            if let Some(repeat) = twin.repeat.filter(|_| twin.repeat != before.1) {
                each(SinkFeedback::Repeat(twin.id, repeat));
            }
        }
    }

    fn kind(&self) -> &'static str {
        "uinput"
    }
}

/// `EV_UINPUT`, and its codes: a program uploads or erases an effect and waits for the answer.
const EV_UINPUT: u16 = 0x0101;
const UI_FF_UPLOAD: u16 = 1;
const UI_FF_ERASE: u16 = 2;

impl Twin {
    /// What a program does with the device's force feedback, if that is what the event tells.
    fn force(&self, event: RawEvent) -> Option<ForceChange> {
        let (code, value) = (event.raw_code(), event.raw_value());
        // Numbers of requests are unsigned; the events carry them as they carry everything.
        let request = u32::from_ne_bytes(value.to_ne_bytes());
        match (event.event_type().raw(), code) {
            // A program that has gone meanwhile has no effect any more, which is told next.
            (EV_UINPUT, UI_FF_UPLOAD) => answer_upload(self.device.as_fd(), request)
                .ok()?
                .map(ForceChange::Upload),
            (EV_UINPUT, UI_FF_ERASE) => answer_erase(self.device.as_fd(), request)
                .ok()?
                .map(ForceChange::Erase),
            (EV_FF, ff::GAIN) => u16::try_from(value).ok().map(ForceChange::Gain),
            (EV_FF, ff::AUTOCENTER) => u16::try_from(value).ok().map(ForceChange::AutoCentre),
            (EV_FF, effect) => {
                let id = u8::try_from(effect).ok().and_then(EffectId::new)?;
                Some(ForceChange::Play(id, u32::try_from(value).unwrap_or(0)))
            }
            _ => None,
        }
    }

    fn follow(&mut self, event: RawEvent) {
        match event.event_type() {
            RawType::LED => self.leds.set(event.raw_code(), event.raw_value() != 0),
            RawType::REP => {
                let value = u32::try_from(event.raw_value()).unwrap_or(0);
                let repeat = self.repeat.get_or_insert(Repeat {
                    delay_ms: 250,
                    period_ms: 33,
                });
                // REP_DELAY is 0, REP_PERIOD 1.
                if event.raw_code() == 0 {
                    repeat.delay_ms = value;
                } else {
                    repeat.period_ms = value;
                }
            }
            _ => {}
        }
    }
}

fn raw(event: InputEvent) -> RawEvent {
    RawEvent::new(
        RawType::from_raw(u16::from(event.kind.0)),
        event.code,
        event.value,
    )
}

/// Writes a whole report in one system call, so that no reader sees half of it.
fn write_all(fd: BorrowedFd<'_>, events: &[RawEvent]) -> io::Result<()> {
    let length = size_of_val(events);
    loop {
        // SAFETY: the pointer and the length in bytes are those of a live slice of `repr(transparent)` wrappers of
        // `struct input_event`, which has no padding; the kernel only reads it.
        let written = unsafe { libc::write(fd.as_raw_fd(), events.as_ptr().cast(), length) };
        match usize::try_from(written) {
            // uinput takes all or nothing, but for a signal between two events.
            Ok(written) if written == length => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn create(device: &DeviceDescriptor) -> io::Result<Node> {
    let made = Node::create(device)?;
    if let Some(repeat) = device.repeat {
        let value = |milliseconds| i32::try_from(milliseconds).unwrap_or(i32::MAX);
        let setting =
            |code, milliseconds| raw(InputEvent::new(EventType::REP, code, value(milliseconds)));
        let events = [
            setting(0, repeat.delay_ms),
            setting(1, repeat.period_ms),
            raw(InputEvent::SYN_REPORT),
        ];
        write_all(made.as_fd(), &events)?;
    }
    Ok(made)
}

/// The event node of a new device, once it exists: found by its folder in sysfs.
fn wait_for_node(device: &Node) -> io::Result<PathBuf> {
    let folder = PathBuf::from("/sys/devices/virtual/input").join(device.sysname()?);
    let start = Instant::now();
    loop {
        let node = std::fs::read_dir(&folder)?
            .filter_map(Result::ok)
            .map(|entry| entry.file_name())
            .find(|name| name.as_encoded_bytes().starts_with(b"event"))
            .map(|name| PathBuf::from("/dev/input").join(name))
            .filter(|node| node.exists());
        if let Some(node) = node {
            return Ok(node);
        }
        if start.elapsed() > NODE_WAIT {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its node below /dev/input did not appear within 2 s",
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_say_what_to_do() {
        let text = |kind: io::ErrorKind| ProbeError::from(io::Error::from(kind)).to_string();
        assert_eq!(
            text(io::ErrorKind::PermissionDenied),
            "/dev/uinput: permission denied: add the user to group input or install the udev rule"
        );
        assert!(text(io::ErrorKind::NotFound).contains("modprobe uinput"));
    }
}
