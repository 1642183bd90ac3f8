//! Which keys the target believes to be down: the safety core of the input path.
//!
//! *No key stays down longer than the lease after the last sign of life, and no held key is lifted while the session
//! lives*, whatever the network, the operator's machine or the devices do.

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, HeldKeys, InputEvent, KeyCode, LEASE, Springs,
};

use crate::touches::Touches;

/// One session's keys, buttons and touches per device, and its lease.
///
/// The ledger writes nothing itself: each call gives the events that have to be written now. Once warm, no call
/// allocates.
#[derive(Debug)]
pub struct Ledger {
    lease: Duration,
    last_life: Option<MonoTime>,
    held: HeldKeys,
    devices: Vec<Touches>,
    /// Not part of what the lease is about: a stick that is held still sends nothing.
    springs: Springs,
    scratch: Vec<InputEvent>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new(LEASE)
    }
}

impl Ledger {
    /// An empty ledger whose keys go up `lease` after the last sign of life.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            last_life: None,
            held: HeldKeys::new(),
            devices: Vec::new(),
            springs: Springs::default(),
            scratch: Vec::with_capacity(256),
        }
    }

    /// Follows a device from now on. A second call for the same one changes nothing.
    pub fn add_device(&mut self, device: DeviceId) {
        if !self.knows(device) {
            self.devices.push(Touches::new(device));
        }
    }

    /// Follows the axes of a device that spring back, too: they go to rest when its keys are lifted.
    pub fn add_springs(&mut self, device: &DeviceDescriptor) {
        self.springs.add_device(device);
    }

    /// Whether the device is followed.
    #[must_use]
    pub fn knows(&self, device: DeviceId) -> bool {
        self.devices
            .iter()
            .any(|touches| touches.device() == device)
    }

    /// Forgets a device; `write` gets what lifts its keys and touches, if any is down.
    pub fn remove_device(&mut self, device: DeviceId, write: &mut dyn FnMut(&[InputEvent])) {
        self.release(device, write);
        self.devices.retain(|touches| touches.device() != device);
        self.springs.remove_device(device);
    }

    /// Follows a report; the events to write are those that are left in `events`: a press of a key that is down and the
    /// release of one that is up are taken out, as is auto-repeat, which is the target's own.
    pub fn apply(&mut self, device: DeviceId, events: &mut Vec<InputEvent>) {
        let Some(touches) = self
            .devices
            .iter_mut()
            .find(|touches| touches.device() == device)
        else {
            events.clear();
            return;
        };
        let (held, springs) = (&mut self.held, &mut self.springs);
        events.retain(|event| {
            touches.follow(*event);
            springs.follow(device, *event);
            match event.as_key() {
                Some((key, true)) => held.press(device, key),
                Some((key, false)) => held.release(device, key),
                None => !event.is_auto_repeat(),
            }
        });
    }

    /// Makes the keys down equal to `wanted`, over the devices that are followed; `write` gets the events per device.
    /// Releases go first.
    pub fn reconcile(&mut self, wanted: &HeldKeys, write: &mut dyn FnMut(DeviceId, &[InputEvent])) {
        for index in 0..self.devices.len() {
            let Some(device) = self.devices.get(index).map(Touches::device) else {
                break;
            };
            let of_device = |keys: &HeldKeys, other: &HeldKeys, down, out: &mut Vec<InputEvent>| {
                let missing = keys
                    .iter()
                    .filter(|(owner, key)| *owner == device && !other.contains(device, *key));
                out.extend(missing.map(|(_, key)| InputEvent::key(key, down)));
            };
            self.scratch.clear();
            of_device(&self.held, wanted, false, &mut self.scratch);
            of_device(wanted, &self.held, true, &mut self.scratch);
            for event in &self.scratch {
                self.held.apply(device, *event);
            }
            if !self.scratch.is_empty() {
                write(device, &self.scratch);
            }
        }
    }

    /// The operator is there: the lease begins anew.
    pub fn sign_of_life(&mut self, now: MonoTime) {
        self.last_life = self.last_life.max(Some(now));
    }

    /// When the lease is over, while anything is down.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        if self.is_idle() {
            return None;
        }
        Some(
            self.last_life
                .map_or(MonoTime::ZERO, |life| life + self.lease),
        )
    }

    /// Whether the lease is over. To be asked before a datagram that arrived at `now` counts as a sign of life.
    #[must_use]
    pub fn is_over(&self, now: MonoTime) -> bool {
        self.poll_timeout().is_some_and(|end| now >= end)
    }

    /// Lifts everything: at the end of the session, at a hand-over, before a suspend.
    pub fn release_all(&mut self, write: &mut dyn FnMut(DeviceId, &[InputEvent])) {
        for index in 0..self.devices.len() {
            let Some(device) = self.devices.get(index).map(Touches::device) else {
                break;
            };
            self.release(device, &mut |events| write(device, events));
        }
    }

    /// What lifts everything that is down, though the operator goes on holding it: for when it is no longer heard. The ledger
    /// goes on following the operator.
    pub fn lift_unheard(&mut self, write: &mut dyn FnMut(DeviceId, &[InputEvent])) {
        for index in 0..self.devices.len() {
            let Some(device) = self.devices.get(index).map(Touches::device) else {
                break;
            };
            self.collect_releases(device);
            if !self.scratch.is_empty() {
                write(device, &self.scratch);
            }
        }
    }

    fn release(&mut self, device: DeviceId, write: &mut dyn FnMut(&[InputEvent])) {
        self.collect_releases(device);
        self.held.retain(|owner, _| owner != device);
        let mut devices = self.devices.iter_mut();
        if let Some(touches) = devices.find(|touches| touches.device() == device) {
            touches.set_lifted();
        }
        self.springs.set_at_rest(device);
        if !self.scratch.is_empty() {
            write(&self.scratch);
        }
    }

    /// Puts what lifts a device's keys and touches and lets go of its sticks into `scratch`.
    fn collect_releases(&mut self, device: DeviceId) {
        self.scratch.clear();
        let down = self.held.iter().filter(|(owner, _)| *owner == device);
        self.scratch
            .extend(down.map(|(_, key)| InputEvent::key(key, false)));
        let mut devices = self.devices.iter();
        if let Some(touches) = devices.find(|touches| touches.device() == device) {
            touches.lift(&mut self.scratch);
        }
        self.scratch.extend(self.springs.release(device));
    }

    /// Whether no key, button or touch is down.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && !self.devices.iter().any(Touches::is_touched)
    }

    /// The keys down on the target.
    #[must_use]
    pub const fn held(&self) -> &HeldKeys {
        &self.held
    }

    /// Whether a key is down on the target.
    #[must_use]
    pub fn is_down(&self, device: DeviceId, key: KeyCode) -> bool {
        self.held.contains(device, key)
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::input::codes::abs;
    use soft_kvm_protocol::input::{AbsoluteAxis, EventType};

    use super::*;

    const DEVICE: DeviceId = DeviceId(3);

    #[test]
    fn touches_are_lifted_and_the_slot_is_kept() {
        let mut ledger = Ledger::default();
        ledger.add_device(DEVICE);
        let at = |code, value| InputEvent::new(EventType::ABS, code, value);
        let mut events = vec![
            at(abs::MT_SLOT, 2),
            at(abs::MT_TRACKING_ID, 40),
            InputEvent::key(KeyCode::BTN_TOUCH, true),
        ];
        ledger.sign_of_life(MonoTime::ZERO);
        ledger.apply(DEVICE, &mut events);
        assert_eq!(events.len(), 3);
        let mut written = Vec::new();
        let end = ledger.poll_timeout().expect("a key is down");
        assert_eq!(end, MonoTime::ZERO + LEASE);
        let mut write = |device, events: &[InputEvent]| {
            assert_eq!(device, DEVICE);
            written.extend_from_slice(events);
        };
        assert!(!ledger.is_over(end - Duration::from_nanos(1)));
        assert!(ledger.is_over(end));
        ledger.release_all(&mut write);
        assert_eq!(
            written,
            [
                InputEvent::key(KeyCode::BTN_TOUCH, false),
                at(abs::MT_SLOT, 2),
                at(abs::MT_TRACKING_ID, -1),
                at(abs::MT_SLOT, 2),
            ]
        );
        assert!(ledger.is_idle());
        assert_eq!(ledger.poll_timeout(), None);
    }

    #[test]
    fn a_stick_goes_to_rest_and_a_lease_does_not_hold_it() {
        let mut ledger = Ledger::default();
        let at = |code, value| InputEvent::new(EventType::ABS, code, value);
        let axis = |code| AbsoluteAxis {
            code,
            minimum: -100,
            maximum: 100,
            fuzz: 0,
            flat: 0,
            resolution: 0,
        };
        ledger.add_device(DEVICE);
        ledger.add_springs(&DeviceDescriptor {
            id: DEVICE,
            keys: vec![KeyCode::BTN_JOYSTICK],
            absolute: vec![axis(abs::X), axis(abs::THROTTLE)],
            ..DeviceDescriptor::default()
        });
        ledger.apply(DEVICE, &mut vec![at(abs::X, 80), at(abs::THROTTLE, 80)]);
        assert_eq!(ledger.poll_timeout(), None, "held still, and silent");
        let mut written = Vec::new();
        ledger.lift_unheard(&mut |_, events| written.extend_from_slice(events));
        ledger.release_all(&mut |_, events| written.extend_from_slice(events));
        ledger.release_all(&mut |_, events| written.extend_from_slice(events));
        assert_eq!(written, [at(abs::X, 0), at(abs::X, 0)]);
    }

    #[test]
    fn doubled_edges_and_auto_repeat_do_not_reach_the_target() {
        let mut ledger = Ledger::default();
        ledger.add_device(DEVICE);
        let press = InputEvent::key(KeyCode::A, true);
        let mut events = vec![press, press, InputEvent::new(EventType::KEY, 30, 2)];
        ledger.apply(DEVICE, &mut events);
        assert_eq!(events, [press]);
        let mut events = vec![press, InputEvent::key(KeyCode::SPACE, false)];
        ledger.apply(DEVICE, &mut events);
        assert_eq!(events, []);
        let mut events = vec![press];
        ledger.apply(DeviceId(9), &mut events);
        assert_eq!(events, [], "an unknown device");
    }
}
