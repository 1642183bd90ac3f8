//! Axes that spring back when a hand lets go: sticks, hats, triggers and pedals (kernel doc "Linux Gamepad Specification").

use super::codes::{EventType, KeyCode, abs};
use super::device::{AbsoluteAxis, DeviceDescriptor};
use super::event::{DeviceId, InputEvent};

/// The axes of joysticks and gamepads that rest by themselves, and where they are now.
///
/// Only adding a device allocates.
#[derive(Clone, Debug, Default)]
pub struct Springs(Vec<Spring>);

#[derive(Clone, Copy, Debug)]
struct Spring {
    device: DeviceId,
    code: u16,
    rest: i32,
    value: i32,
}

impl Springs {
    /// Follows the axes of a device, which are at rest. A second call for the same one begins anew.
    pub fn add_device(&mut self, device: &DeviceDescriptor) {
        self.remove_device(device.id);
        let axes = device.absolute.iter().filter_map(|axis| {
            let rest = rest(device, axis)?;
            Some(Spring {
                device: device.id,
                code: axis.code,
                rest,
                value: rest,
            })
        });
        self.0.extend(axes);
    }

    /// Forgets a device.
    pub fn remove_device(&mut self, device: DeviceId) {
        self.0.retain(|spring| spring.device != device);
    }

    /// Follows an event of a device.
    pub fn follow(&mut self, device: DeviceId, event: InputEvent) {
        if event.kind != EventType::ABS {
            return;
        }
        let mut springs = self.0.iter_mut();
        let of = |spring: &&mut Spring| spring.device == device && spring.code == event.code;
        if let Some(spring) = springs.find(of) {
            spring.value = event.value;
        }
    }

    /// What letting go of a device's axes looks like, for those that are not at rest.
    pub fn release(&self, device: DeviceId) -> impl Iterator<Item = InputEvent> {
        let away = move |spring: &&Spring| spring.device == device && spring.value != spring.rest;
        let away = self.0.iter().filter(away);
        away.map(|spring| InputEvent::new(EventType::ABS, spring.code, spring.rest))
    }

    /// The axes of a device are at rest.
    pub fn set_at_rest(&mut self, device: DeviceId) {
        for spring in self.0.iter_mut().filter(|spring| spring.device == device) {
            spring.value = spring.rest;
        }
    }

    /// Devices with an axis that is not at rest, each once.
    pub fn away(&self) -> impl Iterator<Item = DeviceId> {
        let away = |spring: &Spring| spring.value != spring.rest;
        self.0
            .iter()
            .enumerate()
            .filter_map(move |(index, spring)| {
                let before = self.0.iter().take(index);
                let mut same = before.filter(|other| other.device == spring.device);
                (away(spring) && !same.any(away)).then_some(spring.device)
            })
    }
}

/// Where an axis goes when nobody touches it; `None` if it stays where it was left, as a throttle or a pen does.
fn rest(device: &DeviceDescriptor, axis: &AbsoluteAxis) -> Option<i32> {
    let sticks = KeyCode::BTN_JOYSTICK.0..=KeyCode::BTN_THUMBR.0;
    let plays = device.keys.iter().any(|key| sticks.contains(&key.0));
    // A pad with buttons of these names, or a tablet's.
    let is_touched = device.has_key(KeyCode::BTN_TOUCH) || device.has_key(KeyCode::BTN_TOOL_PEN);
    if !plays || is_touched {
        return None;
    }
    let middle = i64::midpoint(axis.minimum.into(), axis.maximum.into());
    let middle = i32::try_from(middle).ok()?;
    // Beside a second stick these two are triggers, else they are that stick.
    let second_stick = device.axis(abs::RX).is_some() && device.axis(abs::RY).is_some();
    match axis.code {
        abs::Y | abs::Z | abs::RZ if is_wheel(device) => Some(axis.maximum),
        abs::X | abs::Y | abs::RX | abs::RY | abs::RUDDER | abs::WHEEL => Some(middle),
        abs::Z | abs::RZ if second_stick => Some(axis.minimum),
        abs::Z | abs::RZ => Some(middle),
        abs::GAS | abs::BRAKE => Some(axis.minimum),
        abs::HAT0X..=abs::HAT3Y => Some(middle),
        _ => None,
    }
}

/// Steering wheels with pedals that rest at their maximum, as Logitech's and Thrustmaster's do: the bend is by far finer than
/// what stands on Y.
fn is_wheel(device: &DeviceDescriptor) -> bool {
    let steps = |code| {
        let axis = device.axis(code)?;
        Some(i64::from(axis.maximum) - i64::from(axis.minimum))
    };
    match (steps(abs::X), steps(abs::Y)) {
        (Some(bend), Some(pedal)) => pedal > 0 && bend / pedal >= 16,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAD: DeviceId = DeviceId(5);

    fn device(buttons: &[KeyCode], axes: &[(u16, i32, i32)]) -> DeviceDescriptor {
        let axis = |&(code, minimum, maximum): &(u16, i32, i32)| AbsoluteAxis {
            code,
            minimum,
            maximum,
            fuzz: 0,
            flat: 0,
            resolution: 0,
        };
        DeviceDescriptor {
            id: PAD,
            keys: buttons.to_vec(),
            absolute: axes.iter().map(axis).collect(),
            ..DeviceDescriptor::default()
        }
    }

    fn rests(device: &DeviceDescriptor) -> Vec<(u16, i32)> {
        let axes = device.absolute.iter();
        axes.filter_map(|axis| Some((axis.code, rest(device, axis)?)))
            .collect()
    }

    #[test]
    fn sticks_rest_in_the_middle_triggers_and_pedals_at_their_end() {
        let pad = device(
            &[KeyCode::BTN_GAMEPAD],
            &[
                (abs::X, -32_768, 32_767),
                (abs::Z, 0, 255),
                (abs::RX, -32_768, 32_767),
                (abs::RY, -32_768, 32_767),
                (abs::HAT0X, -1, 1),
            ],
        );
        let wanted = [
            (abs::X, 0),
            (abs::Z, 0),
            (abs::RX, 0),
            (abs::RY, 0),
            (abs::HAT0X, 0),
        ];
        assert_eq!(rests(&pad), wanted);
        let old = device(
            &[KeyCode::BTN_JOYSTICK],
            &[(abs::Z, 0, 255), (abs::RZ, 0, 255)],
        );
        assert_eq!(rests(&old), [(abs::Z, 127), (abs::RZ, 127)]);
        let flight = device(
            &[KeyCode::BTN_JOYSTICK],
            &[(abs::THROTTLE, 0, 255), (abs::RUDDER, 0, i32::MAX)],
        );
        assert_eq!(rests(&flight), [(abs::RUDDER, i32::MAX / 2)]);
        let wheel = device(
            &[KeyCode::BTN_JOYSTICK],
            &[(abs::X, 0, 65_535), (abs::Y, 0, 255), (abs::RZ, 0, 255)],
        );
        assert_eq!(
            rests(&wheel),
            [(abs::X, 32_767), (abs::Y, 255), (abs::RZ, 255)]
        );
        let extreme = device(&[KeyCode::BTN_JOYSTICK], &[(abs::X, i32::MIN, i32::MAX)]);
        assert_eq!(rests(&extreme).len(), 1);
    }

    #[test]
    fn tablets_touch_pads_and_mice_do_not_spring() {
        for buttons in [
            &[KeyCode::BTN_TOUCH][..],
            &[KeyCode::BTN_TOOL_PEN, KeyCode::BTN_TOUCH],
            &[KeyCode::BTN_LEFT],
            &[KeyCode::BTN_GAMEPAD, KeyCode::BTN_TOUCH],
        ] {
            assert_eq!(rests(&device(buttons, &[(abs::X, 0, 1000)])), []);
        }
    }

    #[test]
    fn what_is_away_is_let_go_once() {
        let mut springs = Springs::default();
        springs.add_device(&device(
            &[KeyCode::BTN_GAMEPAD],
            &[(abs::X, -10, 10), (abs::Y, -10, 10)],
        ));
        let at = |code, value| InputEvent::new(EventType::ABS, code, value);
        assert_eq!(springs.away().count(), 0);
        springs.follow(PAD, at(abs::X, 7));
        springs.follow(PAD, at(abs::Y, -7));
        springs.follow(DeviceId(6), at(abs::X, 3));
        assert_eq!(springs.away().collect::<Vec<_>>(), [PAD]);
        let let_go: Vec<_> = springs.release(PAD).collect();
        assert_eq!(let_go, [at(abs::X, 0), at(abs::Y, 0)]);
        springs.set_at_rest(PAD);
        assert_eq!(springs.release(PAD).count(), 0);
        springs.follow(PAD, at(abs::X, 1));
        springs.remove_device(PAD);
        assert_eq!(springs.away().count(), 0);
    }
}
