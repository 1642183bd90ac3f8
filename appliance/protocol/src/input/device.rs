//! What a device can do, so that its twin on the target is treated the same way by every program there.

use super::codes::KeyCode;
use super::event::DeviceId;
use super::force::ForceAbilities;

/// `BUS_*` of linux/input.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bus(pub u16);

/// Vendor id on that bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vendor(pub u16);

/// Product id of that vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Product(pub u16);

/// Version of that product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceVersion(pub u16);

/// An absolute axis, `struct input_absinfo` without its momentary value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AbsoluteAxis {
    /// `ABS_*`.
    pub code: u16,
    /// Smallest value.
    pub minimum: i32,
    /// Largest value.
    pub maximum: i32,
    /// Noise that the operator's kernel filters; the twin's does not filter again.
    pub fuzz: i32,
    /// Dead zone around the middle.
    pub flat: i32,
    /// Units per millimetre, or per radian for rotations; 0 unknown.
    pub resolution: i32,
}

/// Auto-repeat, which the target's kernel does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Milliseconds until the first repetition.
    pub delay_ms: u32,
    /// Milliseconds between repetitions.
    pub period_ms: u32,
}

/// A device's identity and capabilities. Every list holds codes of linux/input-event-codes.h, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceDescriptor {
    /// The operator's id for it.
    pub id: DeviceId,
    /// The kernel's name, 1 to 79 bytes, no control characters.
    pub name: String,
    /// Bus.
    pub bus: Bus,
    /// Vendor.
    pub vendor: Vendor,
    /// Product.
    pub product: Product,
    /// Version.
    pub version: DeviceVersion,
    /// Keys and buttons (`EV_KEY`).
    pub keys: Vec<KeyCode>,
    /// Relative axes (`EV_REL`), codes below 16.
    pub relative: Vec<u16>,
    /// Absolute axes (`EV_ABS`), codes below 64.
    pub absolute: Vec<AbsoluteAxis>,
    /// Miscellaneous (`EV_MSC`), codes below 8.
    pub misc: Vec<u16>,
    /// Switches (`EV_SW`), codes below 32.
    pub switches: Vec<u16>,
    /// LEDs (`EV_LED`), codes below 16.
    pub leds: Vec<u16>,
    /// `INPUT_PROP_*`, codes below 32.
    pub properties: Vec<u16>,
    /// Auto-repeat settings (`EV_REP`), when it repeats.
    pub repeat: Option<Repeat>,
    /// Force feedback, when it has some. Only to be told to targets that say that they pass it on.
    pub force: Option<ForceAbilities>,
}

/// Longest name in bytes: `UINPUT_MAX_NAME_SIZE` with its zero byte.
pub const MAX_NAME: usize = 79;

impl DeviceDescriptor {
    /// A name as the wire and the kernel take it: control characters out, at most [`MAX_NAME`] bytes, never empty.
    #[must_use]
    pub fn clean_name(name: &str) -> String {
        let mut clean = String::with_capacity(MAX_NAME);
        for character in name.chars().filter(|character| !character.is_control()) {
            if clean.len() + character.len_utf8() > MAX_NAME {
                break;
            }
            clean.push(character);
        }
        if clean.is_empty() {
            clean.push_str("unnamed device");
        }
        clean
    }

    /// Whether it has this key or button.
    #[must_use]
    pub fn has_key(&self, key: KeyCode) -> bool {
        self.keys.binary_search(&key).is_ok()
    }

    /// Its absolute axis with this code.
    #[must_use]
    pub fn axis(&self, code: u16) -> Option<&AbsoluteAxis> {
        self.absolute.iter().find(|axis| axis.code == code)
    }
}
