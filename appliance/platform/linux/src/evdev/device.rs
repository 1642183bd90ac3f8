//! One evdev device: its capabilities, its reports, its state after lost events.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use evdevil::bits::{BitSet, BitValue};
use evdevil::event::{Abs, EventType as RawType, InputEvent as RawEvent, Key, Led, Switch};
use evdevil::{Evdev, InputProp};
use soft_kvm_core::MonoTime;
use soft_kvm_input::{DeviceClass, SourceEvent};
use soft_kvm_protocol::input::codes::abs;
use soft_kvm_protocol::input::device::{Bus, DeviceVersion, Product, Vendor};
use soft_kvm_protocol::input::{
    AbsoluteAxis, DeviceDescriptor, DeviceId, EventReport, EventType, InputEvent, KeyCode,
    LedState, Repeat,
};

use crate::force;

/// `SYN_REPORT`.
const REPORT: u16 = 0;
/// `SYN_DROPPED`: the kernel's queue for us was full.
const DROPPED: u16 = 3;
/// Contacts that are read again after lost events; the wire has no more.
const MAX_SLOTS: usize = 64;

nix::ioctl_read_buf!(
    /// `EVIOCGMTSLOTS` of linux/input.h: the axis goes in first, then come its values per contact.
    eviocgmtslots, b'E', 0x0a, i32
);

/// Reads what a device can do.
pub(super) fn describe(device: &Evdev, id: DeviceId) -> io::Result<DeviceDescriptor> {
    let ids = device.input_id()?;
    let mut absolute = Vec::new();
    for axis in &device.supported_abs_axes()? {
        let info = device.abs_info(axis)?;
        // A few drivers announce a range upside down, which no twin can have.
        if info.minimum() <= info.maximum() {
            absolute.push(AbsoluteAxis {
                code: axis.raw(),
                minimum: info.minimum(),
                maximum: info.maximum(),
                fuzz: info.fuzz(),
                flat: info.flat(),
                resolution: info.resolution().max(0),
            });
        }
    }
    let repeats = device.supported_events()?.contains(RawType::REP);
    let repeat = if repeats { device.key_repeat()? } else { None };
    let name = device.name().unwrap_or_default();
    Ok(DeviceDescriptor {
        id,
        name: DeviceDescriptor::clean_name(&name),
        bus: Bus(ids.bus().raw()),
        vendor: Vendor(ids.vendor()),
        product: Product(ids.product()),
        version: DeviceVersion(ids.version()),
        keys: codes(&device.supported_keys()?, |key| KeyCode(key.raw())),
        relative: codes(&device.supported_rel_axes()?, |axis| axis.raw()),
        absolute,
        misc: codes(&device.supported_misc()?, |misc| misc.raw()),
        switches: codes(&device.supported_switches()?, |switch| switch.raw()),
        leds: codes(&device.supported_leds()?, |led| led.raw()),
        properties: codes(&device.props()?, |property: InputProp| {
            u16::from(property.raw())
        }),
        repeat: repeat.map(|repeat| Repeat {
            delay_ms: repeat.delay().min(60_000),
            period_ms: repeat.period().min(60_000),
        }),
        force: force::abilities(device)?,
    })
}

fn codes<V: BitValue, T>(set: &BitSet<V>, code: impl Fn(V) -> T) -> Vec<T> {
    set.iter().map(code).collect()
}

/// A device that a source follows.
#[derive(Debug)]
pub(super) struct OpenDevice {
    pub(super) descriptor: DeviceDescriptor,
    pub(super) class: DeviceClass,
    pub(super) path: PathBuf,
    pub(super) device: Evdev,
    pub(super) grabbed: bool,
    pub(super) gone: bool,
    /// A refused grab was told.
    pub(super) told: bool,
    keys: BitSet<Key>,
    leds_before: BitSet<Led>,
    dropped: bool,
    events: Vec<InputEvent>,
}

impl OpenDevice {
    pub(super) fn new(
        device: Evdev,
        path: PathBuf,
        descriptor: DeviceDescriptor,
    ) -> io::Result<Self> {
        device.set_clockid(libc::CLOCK_MONOTONIC)?;
        device.set_nonblocking(true)?;
        Ok(Self {
            class: DeviceClass::of(&descriptor),
            descriptor,
            path,
            device,
            grabbed: false,
            gone: false,
            told: false,
            keys: BitSet::new(),
            leds_before: BitSet::new(),
            dropped: false,
            events: Vec::with_capacity(64),
        })
    }

    pub(super) const fn id(&self) -> DeviceId {
        self.descriptor.id
    }

    /// Takes the device for us alone if no key of it is down; `false` when one is.
    pub(super) fn try_grab(&mut self) -> io::Result<bool> {
        if !self.device.key_state()?.is_empty() {
            return Ok(false);
        }
        self.device.grab()?;
        // What was queued before was seen by the local system too. A key that went down since the look above is the
        // local system's: it has to see the release.
        self.drain()?;
        if !self.device.key_state()?.is_empty() {
            self.device.ungrab()?;
            return Ok(false);
        }
        self.leds_before = self.device.led_state()?;
        self.keys = BitSet::new();
        self.dropped = false;
        self.events.clear();
        self.grabbed = true;
        Ok(true)
    }

    fn drain(&self) -> io::Result<()> {
        let mut events = [RawEvent::zeroed(); 64];
        loop {
            match self.device.read_events(&mut events) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the device back, with its LEDs as they were.
    pub(super) fn release(&mut self) {
        if !std::mem::replace(&mut self.grabbed, false) {
            return;
        }
        for led in self.descriptor.leds.iter().map(|code| Led::from_raw(*code)) {
            // A device that is gone has no LEDs to restore.
            let _ = self.device.set_led(led, self.leds_before.contains(led));
        }
        let _ = self.device.ungrab();
    }

    pub(super) fn set_leds(&self, leds: LedState) {
        for code in &self.descriptor.leds {
            let bit = 1_u16.checked_shl(u32::from(*code)).unwrap_or(0);
            if leds.known & bit != 0 {
                // A read-only or vanished device shows nothing; its removal is told elsewhere.
                let _ = self
                    .device
                    .set_led(Led::from_raw(*code), leds.lit & bit != 0);
            }
        }
    }

    /// Reads all that is queued; `each` gets whole reports.
    pub(super) fn read(&mut self, each: &mut dyn FnMut(SourceEvent<'_>)) -> io::Result<()> {
        let mut events = [RawEvent::zeroed(); 64];
        loop {
            let count = match self.device.read_events(&mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if count == 0 {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            for event in events.iter().take(count) {
                self.follow(*event, each)?;
            }
            // Another call would only say that nothing more is there.
            if count < events.len() {
                return Ok(());
            }
        }
    }

    fn follow(&mut self, event: RawEvent, each: &mut dyn FnMut(SourceEvent<'_>)) -> io::Result<()> {
        let (kind, code) = (event.event_type(), event.raw_code());
        if kind == RawType::SYN && code == DROPPED {
            if !std::mem::replace(&mut self.dropped, true) {
                // A thousand in a second fill the queue within 30 ms.
                tracing::warn!(device = %self.path.display(),
                    "the kernel dropped input events: this machine is too busy to read them in time");
            }
            self.events.clear();
            return Ok(());
        }
        if kind == RawType::SYN && code == REPORT {
            if std::mem::replace(&mut self.dropped, false) {
                self.events.clear();
                self.catch_up_keys()?;
                self.state()?;
            }
            self.flush(time(event), each);
            return Ok(());
        }
        let Some(event) = wanted(event) else {
            return Ok(());
        };
        if !self.dropped {
            match event.as_key() {
                Some((key, true)) => {
                    self.keys.insert(Key::from_raw(key.0));
                }
                Some((key, false)) => {
                    self.keys.remove(Key::from_raw(key.0));
                }
                None => {}
            }
            self.events.push(event);
        }
        Ok(())
    }

    fn flush(&mut self, time: MonoTime, each: &mut dyn FnMut(SourceEvent<'_>)) {
        if !self.events.is_empty() {
            let report = EventReport {
                device: self.descriptor.id,
                time,
                unfinished: false,
                events: &self.events,
            };
            each(if self.grabbed {
                SourceEvent::Report(report)
            } else {
                SourceEvent::Overheard(report)
            });
        }
        self.events.clear();
    }

    /// Tells absolute positions, touches and switches as they are now.
    pub(super) fn tell_state(
        &mut self,
        now: MonoTime,
        each: &mut dyn FnMut(SourceEvent<'_>),
    ) -> io::Result<()> {
        if self.grabbed && self.events.is_empty() {
            self.state()?;
            self.flush(now, each);
        }
        Ok(())
    }

    /// Adds what happened to keys while events were lost.
    fn catch_up_keys(&mut self) -> io::Result<()> {
        let now = self.device.key_state()?;
        for key in &self.descriptor.keys {
            let raw = Key::from_raw(key.0);
            if now.contains(raw) != self.keys.contains(raw) {
                self.events.push(InputEvent::key(*key, now.contains(raw)));
            }
        }
        self.keys = now;
        Ok(())
    }

    /// Adds all absolute state; the target's kernel drops what is not new to it.
    fn state(&mut self) -> io::Result<()> {
        let switches = self.device.switch_state()?;
        for code in &self.descriptor.switches {
            let on = switches.contains(Switch::from_raw(*code));
            self.events
                .push(InputEvent::new(EventType::SW, *code, i32::from(on)));
        }
        self.contacts()?;
        for axis in &self.descriptor.absolute {
            if axis.code < abs::MT_SLOT {
                let value = self.device.abs_info(Abs::from_raw(axis.code))?.raw_value();
                self.events
                    .push(InputEvent::new(EventType::ABS, axis.code, value));
            }
        }
        Ok(())
    }

    fn contacts(&mut self) -> io::Result<()> {
        let Some(slots) = self.descriptor.axis(abs::MT_SLOT) else {
            return Ok(());
        };
        let count = usize::try_from(slots.maximum).unwrap_or(0) + 1;
        let count = count.min(MAX_SLOTS);
        let mut columns = Vec::new();
        for axis in &self.descriptor.absolute {
            if axis.code >= abs::MT_FIRST {
                let mut values = [0_i32; MAX_SLOTS + 1];
                values[0] = i32::from(axis.code);
                let Some(buffer) = values.get_mut(..=count) else {
                    continue;
                };
                // SAFETY: the descriptor is an open evdev node and the kernel writes at most the length of `buffer`,
                // which is encoded in the request.
                unsafe { eviocgmtslots(self.device.as_raw_fd(), buffer) }?;
                columns.push((axis.code, values));
            }
        }
        for slot in 0..count {
            let number = i32::try_from(slot).unwrap_or(i32::MAX);
            self.events
                .push(InputEvent::new(EventType::ABS, abs::MT_SLOT, number));
            for (code, values) in &columns {
                let value = values.get(slot + 1).copied().unwrap_or(0);
                self.events
                    .push(InputEvent::new(EventType::ABS, *code, value));
            }
        }
        let current = self
            .device
            .abs_info(Abs::from_raw(abs::MT_SLOT))?
            .raw_value();
        self.events
            .push(InputEvent::new(EventType::ABS, abs::MT_SLOT, current));
        Ok(())
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        self.release();
    }
}

/// The event as it is sent on; none for auto-repeat, LEDs and what else is not the operator's.
fn wanted(event: RawEvent) -> Option<InputEvent> {
    let kind = EventType(u8::try_from(event.event_type().raw()).ok()?);
    let event = InputEvent::new(kind, event.raw_code(), event.raw_value());
    (kind.is_from_operator() && !event.is_auto_repeat()).then_some(event)
}

/// The kernel's stamp; the device was set to `CLOCK_MONOTONIC`.
fn time(event: RawEvent) -> MonoTime {
    let since = event
        .time()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    MonoTime::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_of_two_contacts_is_the_kernels() {
        // _IOC(_IOC_READ, 'E', 0x0a, 3 * sizeof(__s32)), linux/input.h.
        assert_eq!(
            nix::request_code_read!(b'E', 0x0a, 3 * size_of::<i32>()),
            0x800c_450a
        );
    }
}
