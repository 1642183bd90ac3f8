//! The sink of machines without devices: the test card shows what it received.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::codes::{abs, rel};
use soft_kvm_protocol::input::echo::{ECHO_KEYS, ECHO_TEXT, EchoSnapshot};
use soft_kvm_protocol::input::{
    AbsoluteAxis, DeviceDescriptor, DeviceId, EventType, InputEvent, KeyCode,
};

use crate::sink::{InputSink, SinkError, SinkFeedback};

/// The pointer moves over the picture in this many steps of a mouse.
const STEPS: i64 = 1_920;
const FULL: i64 = 65_535;

/// What the test card shows of the input that it received.
#[derive(Debug)]
pub struct EchoState {
    held: Vec<(DeviceId, KeyCode)>,
    pointer: (i64, i64),
    caps_lock: bool,
    text: VecDeque<char>,
    reports: u32,
    axes: Vec<(DeviceId, AbsoluteAxis)>,
}

impl Default for EchoState {
    fn default() -> Self {
        Self {
            held: Vec::with_capacity(64),
            pointer: (FULL / 2, FULL / 2),
            caps_lock: false,
            text: VecDeque::with_capacity(ECHO_TEXT + 1),
            reports: 0,
            axes: Vec::new(),
        }
    }
}

impl EchoState {
    /// Fills `snapshot` with the state now; allocates only while its buffers grow.
    pub fn snapshot_into(&self, snapshot: &mut EchoSnapshot) {
        snapshot.keys_held.clear();
        let names = self.held.iter().filter(|(_, key)| !is_button(*key));
        snapshot.keys_held.extend(
            names
                .map(|(_, key)| key.name().unwrap_or("?"))
                .take(ECHO_KEYS),
        );
        let position = |value: i64| u16::try_from(value.clamp(0, FULL)).unwrap_or(u16::MAX);
        snapshot.pointer = (position(self.pointer.0), position(self.pointer.1));
        snapshot.buttons = self
            .held
            .iter()
            .filter(|(_, key)| is_button(*key))
            .fold(0, |buttons, (_, key)| {
                buttons | 1 << (key.0 - KeyCode::BTN_LEFT.0)
            });
        snapshot.text.clear();
        snapshot.text.extend(&self.text);
        snapshot.reports = self.reports;
    }

    fn add(&mut self, device: &DeviceDescriptor) {
        let pointer = device
            .absolute
            .iter()
            .filter(|axis| axis.code == abs::X || axis.code == abs::Y);
        self.axes.extend(pointer.map(|axis| (device.id, *axis)));
    }

    fn remove(&mut self, device: DeviceId) {
        self.axes.retain(|(owner, _)| *owner != device);
        self.held.retain(|(owner, _)| *owner != device);
    }

    fn apply(&mut self, device: DeviceId, events: &[InputEvent], unfinished: bool) {
        for event in events {
            match event.kind {
                EventType::KEY => self.key(device, *event),
                EventType::REL => self.moved(*event),
                EventType::ABS => self.placed(device, *event),
                _ => {}
            }
        }
        if !unfinished {
            self.reports = self.reports.wrapping_add(1);
        }
    }

    fn key(&mut self, device: DeviceId, event: InputEvent) {
        let Some((key, down)) = event.as_key() else {
            return;
        };
        self.held.retain(|held| *held != (device, key));
        if !down {
            return;
        }
        if self.held.len() < self.held.capacity() {
            self.held.push((device, key));
        }
        match key {
            KeyCode::CAPSLOCK => self.caps_lock = !self.caps_lock,
            KeyCode::BACKSPACE => {
                self.text.pop_back();
            }
            _ => self.typed(key),
        }
    }

    fn typed(&mut self, key: KeyCode) {
        let down = |wanted| self.held.iter().any(|(_, key)| *key == wanted);
        let shift = down(KeyCode::LEFTSHIFT) || down(KeyCode::RIGHTSHIFT);
        let Some(plain) = key.us_character(false) else {
            return;
        };
        let shift = shift != (self.caps_lock && plain.is_ascii_lowercase());
        let typed = key.us_character(shift).unwrap_or(plain);
        let typed = if typed.is_whitespace() { ' ' } else { typed };
        if self.text.len() >= ECHO_TEXT {
            self.text.pop_front();
        }
        self.text.push_back(typed);
    }

    fn moved(&mut self, event: InputEvent) {
        let place = match event.code {
            rel::X => &mut self.pointer.0,
            rel::Y => &mut self.pointer.1,
            _ => return,
        };
        *place = (*place + i64::from(event.value) * FULL / STEPS).clamp(0, FULL);
    }

    fn placed(&mut self, device: DeviceId, event: InputEvent) {
        let axis = self
            .axes
            .iter()
            .find(|(owner, axis)| *owner == device && axis.code == event.code);
        let Some((_, axis)) = axis else {
            return;
        };
        let range = i64::from(axis.maximum) - i64::from(axis.minimum);
        if range <= 0 {
            return;
        }
        let value = (i64::from(event.value) - i64::from(axis.minimum)) * FULL / range;
        let value = value.clamp(0, FULL);
        if event.code == abs::X {
            self.pointer.0 = value;
        } else {
            self.pointer.1 = value;
        }
    }
}

fn is_button(key: KeyCode) -> bool {
    (KeyCode::BTN_LEFT..=KeyCode::BTN_TASK).contains(&key)
}

/// A sink whose input appears on the test card.
#[derive(Clone, Debug, Default)]
pub struct EchoSink {
    state: Arc<Mutex<EchoState>>,
    devices: Vec<DeviceId>,
}

impl EchoSink {
    /// A sink that writes to `state`, which the test card reads.
    #[must_use]
    pub const fn new(state: Arc<Mutex<EchoState>>) -> Self {
        Self {
            state,
            devices: Vec::new(),
        }
    }

    /// The shared state.
    #[must_use]
    pub const fn state(&self) -> &Arc<Mutex<EchoState>> {
        &self.state
    }

    fn lock(&self) -> MutexGuard<'_, EchoState> {
        // The state is plain data, whole after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputSink for EchoSink {
    fn add_device(&mut self, device: &DeviceDescriptor) -> Result<String, SinkError> {
        self.lock().add(device);
        self.devices.push(device.id);
        Ok("test card".to_owned())
    }

    fn remove_device(&mut self, device: DeviceId) {
        self.devices.retain(|known| *known != device);
        self.lock().remove(device);
    }

    fn apply(
        &mut self,
        _now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError> {
        if !self.devices.contains(&device) {
            return Err(SinkError::Unknown(device));
        }
        self.lock().apply(device, events, unfinished);
        Ok(())
    }

    fn poll_feedback(&mut self, _each: &mut dyn FnMut(SinkFeedback)) {}

    fn kind(&self) -> &'static str {
        "echo"
    }
}

impl Drop for EchoSink {
    fn drop(&mut self) {
        let devices = std::mem::take(&mut self.devices);
        let mut state = self.lock();
        for device in devices {
            state.remove(device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(1);

    fn tap(sink: &mut EchoSink, keys: &[KeyCode]) {
        let down = keys.iter().map(|key| InputEvent::key(*key, true));
        let up = keys.iter().map(|key| InputEvent::key(*key, false));
        for events in [down.collect::<Vec<_>>(), up.collect()] {
            sink.apply(MonoTime::ZERO, DEVICE, &events, false).unwrap();
        }
    }

    #[test]
    fn shows_text_pointer_and_keys() {
        let state = Arc::new(Mutex::new(EchoState::default()));
        let mut sink = EchoSink::new(Arc::clone(&state));
        let axis = AbsoluteAxis {
            code: abs::X,
            minimum: -100,
            maximum: 100,
            ..AbsoluteAxis::default()
        };
        sink.add_device(&DeviceDescriptor {
            id: DEVICE,
            absolute: vec![axis],
            ..DeviceDescriptor::default()
        })
        .unwrap();
        tap(&mut sink, &[KeyCode::LEFTSHIFT, KeyCode::A]);
        tap(&mut sink, &[KeyCode::A]);
        tap(&mut sink, &[KeyCode::A]);
        tap(&mut sink, &[KeyCode::BACKSPACE]);
        tap(&mut sink, &[KeyCode::CAPSLOCK]);
        tap(&mut sink, &[KeyCode::A]);
        let events = [
            InputEvent::new(EventType::ABS, abs::X, 0),
            InputEvent::new(EventType::REL, rel::Y, -30_000),
            InputEvent::key(KeyCode::BTN_RIGHT, true),
            InputEvent::key(KeyCode::RIGHTALT, true),
        ];
        sink.apply(MonoTime::ZERO, DEVICE, &events, false).unwrap();
        let mut snapshot = EchoSnapshot::default();
        state.lock().unwrap().snapshot_into(&mut snapshot);
        assert_eq!(
            snapshot,
            EchoSnapshot {
                keys_held: vec!["RIGHTALT"],
                pointer: (32_767, 0),
                buttons: 2,
                text: "AaA".to_owned(),
                reports: 13,
            }
        );
        drop(sink);
        state.lock().unwrap().snapshot_into(&mut snapshot);
        assert_eq!((snapshot.keys_held.len(), snapshot.buttons), (0, 0));
    }
}
