//! Where an operator's input comes from: evdev, later other systems and the viewer's window.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use soft_kvm_protocol::input::codes::abs;
use soft_kvm_protocol::input::{DeviceDescriptor, DeviceId, EventReport, KeyCode, LedState};

/// Why a source can't do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The machine's input system can't be watched at all.
    #[error("input devices cannot be watched: {what}: {source}")]
    Watch {
        /// Which call.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// One device can't be used.
    #[error("{path}: {what}: {source}{hint}", path = path.display())]
    Device {
        /// Its node.
        path: PathBuf,
        /// Which call.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
        /// What to do, with a leading separator, or empty.
        hint: &'static str,
    },
    /// A device that was asked for by its name or node is not there.
    #[error(
        "no input device is named {name} or lies there now; it is taken when it comes (soft-kvm-client devices lists those that are here)"
    )]
    Missing {
        /// As it was given.
        name: String,
    },
    /// More devices than a server takes.
    #[error(
        "{path}: not taken, {limit} input devices are already; unplug one, or name the wanted ones with --grab",
        path = path.display()
    )]
    TooMany {
        /// The node of the one too many.
        path: PathBuf,
        /// How many there may be.
        limit: usize,
    },
}

/// What a device is to its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeviceClass {
    /// Joysticks and game pads.
    Joystick,
    /// Keyboards, also the small ones for media keys.
    Keyboard,
    /// Relative pointers.
    Mouse,
    /// Lid switches, buttons of the case, sensors.
    Other,
    /// Pens.
    Tablet,
    /// Touch pads.
    Touchpad,
    /// Touch screens.
    Touchscreen,
}

impl DeviceClass {
    /// Tells by the capabilities, with the rules of udev's `input_id`.
    #[must_use]
    pub fn of(device: &DeviceDescriptor) -> Self {
        const DIRECT: u16 = 0x01;
        let has = |key| device.has_key(key);
        let direct = device.properties.contains(&DIRECT);
        let positions = device.axis(abs::X).is_some() && device.axis(abs::Y).is_some()
            || device.axis(abs::MT_POSITION_X).is_some()
                && device.axis(abs::MT_POSITION_Y).is_some();
        let joystick_buttons = device
            .keys
            .iter()
            .any(|key| (KeyCode::BTN_JOYSTICK.0..KeyCode::BTN_TOOL_PEN.0).contains(&key.0));
        if positions {
            if has(KeyCode::BTN_TOOL_PEN) || has(KeyCode::BTN_STYLUS) {
                return Self::Tablet;
            }
            if has(KeyCode::BTN_TOOL_FINGER) && !direct {
                return Self::Touchpad;
            }
            if has(KeyCode::BTN_TOUCH) || direct {
                return Self::Touchscreen;
            }
            if joystick_buttons {
                return Self::Joystick;
            }
            if has(KeyCode::BTN_LEFT) {
                return Self::Mouse;
            }
        }
        if device.relative.contains(&0) && device.relative.contains(&1) && has(KeyCode::BTN_LEFT) {
            return Self::Mouse;
        }
        if joystick_buttons {
            return Self::Joystick;
        }
        // Case buttons (power, sleep, lid) have a handful of keys and no typing ones.
        let typing = device.keys.iter().filter(|key| key.0 < KeyCode::BTN_MISC.0);
        if has(KeyCode::A) || typing.count() > 4 {
            return Self::Keyboard;
        }
        Self::Other
    }
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joystick => "joystick",
            Self::Keyboard => "keyboard",
            Self::Mouse => "mouse",
            Self::Other => "other",
            Self::Tablet => "tablet",
            Self::Touchpad => "touchpad",
            Self::Touchscreen => "touchscreen",
        })
    }
}

/// What a source tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceEvent<'a> {
    /// A device is there; reports come from it once it is grabbed.
    Added {
        /// What it can do.
        device: &'a DeviceDescriptor,
        /// Its class.
        class: DeviceClass,
        /// Where it is, e.g. `/dev/input/event3`.
        path: &'a str,
    },
    /// All its keys are up and nobody else on this machine sees its events any more.
    Grabbed(DeviceId),
    /// A report of a device that is not taken, which the local system gets too: for chords only, never to be sent.
    Overheard(EventReport<'a>),
    /// A grabbed device's report. Auto-repeat is left out.
    Report(EventReport<'a>),
    /// A device is gone. Its id is not used again.
    Removed(DeviceId),
    /// A device can't be used; the others go on.
    Problem(&'a SourceError),
}

/// Ends [`InputSource::wait`] from another thread.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`.
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Ends the current wait, or the next one if there is none.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// The operator's devices.
///
/// Dropping the source lets all devices go.
pub trait InputSource: Send {
    /// Blocks until something happened, the timeout is over or the [`Waker`] was used; calls `each` for all that
    /// happened, in the order of the kernel per device.
    ///
    /// # Errors
    /// When the source as a whole can't go on; a single device's problem is a [`SourceEvent::Problem`].
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        each: &mut dyn FnMut(SourceEvent<'_>),
    ) -> Result<(), SourceError>;

    /// Asks for, or gives back, the exclusive use of all chosen devices. A device is taken when all its keys are up, so
    /// that the local system does not keep one down; [`SourceEvent::Grabbed`] tells.
    fn set_grabbed(&mut self, grabbed: bool);

    /// Shows the target's LEDs on a device, those that it has.
    fn set_leds(&mut self, device: DeviceId, leds: LedState);

    /// Tells absolute positions, touches and switches again with the next [`wait`](Self::wait), after
    /// [`soft_kvm_protocol::input::InputSender::take_restarted`].
    fn repeat_state(&mut self);

    /// Ends a wait from another thread.
    fn waker(&self) -> Waker;
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::input::AbsoluteAxis;

    use super::*;

    fn axes(codes: &[u16]) -> Vec<AbsoluteAxis> {
        codes
            .iter()
            .map(|code| AbsoluteAxis {
                code: *code,
                maximum: 100,
                ..AbsoluteAxis::default()
            })
            .collect()
    }

    #[test]
    fn classes_by_capability() {
        let device = |keys: &[KeyCode], relative: &[u16], absolute: &[u16], properties: &[u16]| {
            DeviceClass::of(&DeviceDescriptor {
                keys: keys.to_vec(),
                relative: relative.to_vec(),
                absolute: axes(absolute),
                properties: properties.to_vec(),
                ..DeviceDescriptor::default()
            })
        };
        assert_eq!(device(&[KeyCode::A], &[], &[], &[]), DeviceClass::Keyboard);
        assert_eq!(
            device(&[KeyCode::BTN_LEFT], &[0, 1, 8], &[], &[]),
            DeviceClass::Mouse
        );
        let touchpad = [
            KeyCode::BTN_LEFT,
            KeyCode::BTN_TOOL_FINGER,
            KeyCode::BTN_TOUCH,
        ];
        assert_eq!(
            device(&touchpad, &[], &[0, 1, 0x35, 0x36], &[0]),
            DeviceClass::Touchpad
        );
        assert_eq!(
            device(&[KeyCode::BTN_TOUCH], &[], &[0, 1], &[1]),
            DeviceClass::Touchscreen
        );
        assert_eq!(
            device(
                &[KeyCode::BTN_TOOL_PEN, KeyCode::BTN_TOUCH],
                &[],
                &[0, 1],
                &[]
            ),
            DeviceClass::Tablet
        );
        assert_eq!(
            device(&[KeyCode::BTN_GAMEPAD], &[], &[0, 1], &[]),
            DeviceClass::Joystick
        );
        assert_eq!(
            device(&[KeyCode::BTN_LEFT], &[], &[0, 1], &[]),
            DeviceClass::Mouse,
            "a virtual machine's absolute pointer"
        );
        assert_eq!(device(&[KeyCode(116)], &[], &[], &[]), DeviceClass::Other);
    }
}
