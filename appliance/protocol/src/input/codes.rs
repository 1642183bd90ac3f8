//! Codes of linux/input-event-codes.h that the program itself looks at; all others pass through as numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An event's type, `EV_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u8);

impl EventType {
    /// Grouping, `EV_SYN`.
    pub const SYN: Self = Self(0x00);
    /// Keys and buttons, `EV_KEY`.
    pub const KEY: Self = Self(0x01);
    /// Relative axes, `EV_REL`.
    pub const REL: Self = Self(0x02);
    /// Absolute axes, `EV_ABS`.
    pub const ABS: Self = Self(0x03);
    /// Miscellaneous, `EV_MSC`.
    pub const MSC: Self = Self(0x04);
    /// Switches, `EV_SW`.
    pub const SW: Self = Self(0x05);
    /// LEDs, `EV_LED`.
    pub const LED: Self = Self(0x11);
    /// Sounds, `EV_SND`.
    pub const SND: Self = Self(0x12);
    /// Auto-repeat, `EV_REP`.
    pub const REP: Self = Self(0x14);
    /// Force feedback, `EV_FF`.
    pub const FF: Self = Self(0x15);

    /// Whether an operator may send events of this type; the others belong to the target or to the kernel.
    #[must_use]
    pub fn is_from_operator(self) -> bool {
        matches!(
            self,
            Self::SYN | Self::KEY | Self::REL | Self::ABS | Self::MSC | Self::SW
        )
    }
}

/// Relative axes that the program looks at, `REL_*`.
pub mod rel {
    /// Pointer to the right.
    pub const X: u16 = 0x00;
    /// Pointer down.
    pub const Y: u16 = 0x01;
    /// Wheel up, in detents.
    pub const WHEEL: u16 = 0x08;
    /// Wheel up, 120 to a detent.
    pub const WHEEL_HI_RES: u16 = 0x0b;
    /// Largest code.
    pub const MAX: u16 = 0x0f;
}

/// Absolute axes that the program looks at, `ABS_*`.
pub mod abs {
    /// Horizontal position.
    pub const X: u16 = 0x00;
    /// Vertical position.
    pub const Y: u16 = 0x01;
    /// Third axis: a trigger, or the second stick's.
    pub const Z: u16 = 0x02;
    /// The second stick, horizontally.
    pub const RX: u16 = 0x03;
    /// The second stick, vertically.
    pub const RY: u16 = 0x04;
    /// Sixth axis: a trigger, or the second stick's.
    pub const RZ: u16 = 0x05;
    /// A throttle, which stays where it is left.
    pub const THROTTLE: u16 = 0x06;
    /// Pedals of a rudder.
    pub const RUDDER: u16 = 0x07;
    /// A steering wheel.
    pub const WHEEL: u16 = 0x08;
    /// A pedal.
    pub const GAS: u16 = 0x09;
    /// A pedal.
    pub const BRAKE: u16 = 0x0a;
    /// First axis of the first hat.
    pub const HAT0X: u16 = 0x10;
    /// Last axis of the last hat.
    pub const HAT3Y: u16 = 0x17;
    /// Which contact the following axes are about.
    pub const MT_SLOT: u16 = 0x2f;
    /// First axis of a contact.
    pub const MT_FIRST: u16 = 0x30;
    /// Horizontal position of a contact.
    pub const MT_POSITION_X: u16 = 0x35;
    /// Vertical position of a contact.
    pub const MT_POSITION_Y: u16 = 0x36;
    /// A contact's number, -1 when lifted.
    pub const MT_TRACKING_ID: u16 = 0x39;
    /// Largest code.
    pub const MAX: u16 = 0x3f;
}

/// LEDs that the program looks at, `LED_*`.
pub mod led {
    /// Num Lock.
    pub const NUM_LOCK: u16 = 0x00;
    /// Caps Lock.
    pub const CAPS_LOCK: u16 = 0x01;
    /// Scroll Lock.
    pub const SCROLL_LOCK: u16 = 0x02;
    /// Largest code.
    pub const MAX: u16 = 0x0f;
}

/// Force feedback, `FF_*`.
#[allow(missing_docs, reason = "the names are the kernel's")]
pub mod ff {
    pub const RUMBLE: u16 = 0x50;
    pub const PERIODIC: u16 = 0x51;
    pub const CONSTANT: u16 = 0x52;
    pub const SPRING: u16 = 0x53;
    pub const FRICTION: u16 = 0x54;
    pub const DAMPER: u16 = 0x55;
    pub const INERTIA: u16 = 0x56;
    pub const RAMP: u16 = 0x57;
    pub const SQUARE: u16 = 0x58;
    pub const TRIANGLE: u16 = 0x59;
    pub const SINE: u16 = 0x5a;
    pub const SAW_UP: u16 = 0x5b;
    pub const SAW_DOWN: u16 = 0x5c;
    pub const GAIN: u16 = 0x60;
    pub const AUTOCENTER: u16 = 0x61;
    /// Largest code.
    pub const MAX: u16 = 0x7f;

    /// Whether this is a type of effects.
    #[must_use]
    pub const fn is_type(code: u16) -> bool {
        matches!(code, RUMBLE..=RAMP)
    }

    /// Whether this is passed on: all but waveforms of a program's own and what the kernel has no name for.
    #[must_use]
    pub const fn is_passed(code: u16) -> bool {
        matches!(code, RUMBLE..=SAW_DOWN | GAIN | AUTOCENTER)
    }
}

/// A key or button, `KEY_*` or `BTN_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyCode(pub u16);

#[allow(missing_docs, reason = "the names are the kernel's")]
impl KeyCode {
    pub const ESC: Self = Self(1);
    pub const BACKSPACE: Self = Self(14);
    pub const TAB: Self = Self(15);
    pub const ENTER: Self = Self(28);
    pub const LEFTCTRL: Self = Self(29);
    pub const A: Self = Self(30);
    pub const LEFTSHIFT: Self = Self(42);
    pub const RIGHTSHIFT: Self = Self(54);
    pub const LEFTALT: Self = Self(56);
    pub const SPACE: Self = Self(57);
    pub const CAPSLOCK: Self = Self(58);
    pub const F1: Self = Self(59);
    pub const SCROLLLOCK: Self = Self(70);
    pub const KPENTER: Self = Self(96);
    pub const RIGHTCTRL: Self = Self(97);
    pub const RIGHTALT: Self = Self(100);
    pub const PAUSE: Self = Self(119);
    pub const LEFTMETA: Self = Self(125);
    pub const RIGHTMETA: Self = Self(126);
    pub const BTN_MISC: Self = Self(0x100);
    pub const BTN_LEFT: Self = Self(0x110);
    pub const BTN_RIGHT: Self = Self(0x111);
    pub const BTN_MIDDLE: Self = Self(0x112);
    pub const BTN_TASK: Self = Self(0x117);
    pub const BTN_JOYSTICK: Self = Self(0x120);
    pub const BTN_GAMEPAD: Self = Self(0x130);
    pub const BTN_THUMBR: Self = Self(0x13e);
    pub const BTN_TOOL_PEN: Self = Self(0x140);
    pub const BTN_TOOL_FINGER: Self = Self(0x145);
    pub const BTN_TOUCH: Self = Self(0x14a);
    pub const BTN_STYLUS: Self = Self(0x14b);
    /// Largest code, `KEY_MAX`.
    pub const MAX: Self = Self(0x2ff);

    /// Control, Shift, Alt or Meta.
    #[must_use]
    pub fn is_modifier(self) -> bool {
        matches!(
            self,
            Self::LEFTCTRL
                | Self::RIGHTCTRL
                | Self::LEFTSHIFT
                | Self::RIGHTSHIFT
                | Self::LEFTALT
                | Self::RIGHTALT
                | Self::LEFTMETA
                | Self::RIGHTMETA
        )
    }

    /// The kernel's name without `KEY_`, such as `LEFTCTRL`, or with `BTN_` for the usual buttons.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let name = match self {
            Self::BTN_LEFT => "BTN_LEFT",
            Self::BTN_RIGHT => "BTN_RIGHT",
            Self::BTN_MIDDLE => "BTN_MIDDLE",
            Self::BTN_TOUCH => "BTN_TOUCH",
            Self::BTN_STYLUS => "BTN_STYLUS",
            _ => NAMES.get(usize::from(self.0)).copied()?,
        };
        (!name.is_empty()).then_some(name)
    }

    /// The key of a name as [`KeyCode::name`] gives it; upper or lower case, with or without `KEY_`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("KEY_").unwrap_or(&name);
        (0..=Self::MAX.0)
            .map(Self)
            .find(|key| key.name() == Some(name))
    }

    /// What the key types on a US keyboard.
    #[must_use]
    pub fn us_character(self, shift: bool) -> Option<char> {
        let table = if shift { US_SHIFTED } else { US_PLAIN };
        let byte = *table.get(usize::from(self.0))?;
        (byte != b'\0').then(|| char::from(byte))
    }
}

impl fmt::Display for KeyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "key {:#x}", self.0),
        }
    }
}

/// Characters of keycodes 0 to 57 on a US keyboard; zero where the key types none.
const US_PLAIN: &[u8; 58] =
    b"\0\x001234567890-=\0\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 ";

/// The same with Shift.
const US_SHIFTED: &[u8; 58] =
    b"\0\0!@#$%^&*()_+\0\tQWERTYUIOP{}\n\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 ";

/// `KEY_*` of linux/input-event-codes.h below 128, without the prefix; empty where there is none.
#[rustfmt::skip]
const NAMES: [&str; 128] = [
    "", "ESC", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "MINUS", "EQUAL", "BACKSPACE",
    "TAB", "Q", "W", "E", "R", "T", "Y", "U", "I", "O", "P", "LEFTBRACE", "RIGHTBRACE", "ENTER",
    "LEFTCTRL", "A", "S", "D", "F", "G", "H", "J", "K", "L", "SEMICOLON", "APOSTROPHE", "GRAVE",
    "LEFTSHIFT", "BACKSLASH", "Z", "X", "C", "V", "B", "N", "M", "COMMA", "DOT", "SLASH",
    "RIGHTSHIFT", "KPASTERISK", "LEFTALT", "SPACE", "CAPSLOCK", "F1", "F2", "F3", "F4", "F5", "F6",
    "F7", "F8", "F9", "F10", "NUMLOCK", "SCROLLLOCK", "KP7", "KP8", "KP9", "KPMINUS", "KP4", "KP5",
    "KP6", "KPPLUS", "KP1", "KP2", "KP3", "KP0", "KPDOT", "", "ZENKAKUHANKAKU", "102ND", "F11",
    "F12", "RO", "KATAKANA", "HIRAGANA", "HENKAN", "KATAKANAHIRAGANA", "MUHENKAN", "KPJPCOMMA",
    "KPENTER", "RIGHTCTRL", "KPSLASH", "SYSRQ", "RIGHTALT", "LINEFEED", "HOME", "UP", "PAGEUP",
    "LEFT", "RIGHT", "END", "DOWN", "PAGEDOWN", "INSERT", "DELETE", "MACRO", "MUTE", "VOLUMEDOWN",
    "VOLUMEUP", "POWER", "KPEQUAL", "KPPLUSMINUS", "PAUSE", "SCALE", "KPCOMMA", "HANGEUL", "HANJA",
    "YEN", "LEFTMETA", "RIGHTMETA", "COMPOSE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_characters_follow_the_kernel_header() {
        assert_eq!(KeyCode(30).name(), Some("A"));
        assert_eq!(KeyCode(127).name(), Some("COMPOSE"));
        assert_eq!(KeyCode(84).name(), None);
        assert_eq!(KeyCode::from_name("key_leftctrl"), Some(KeyCode::LEFTCTRL));
        assert_eq!(KeyCode::from_name("BTN_LEFT"), Some(KeyCode::BTN_LEFT));
        assert_eq!(KeyCode::from_name(""), None);
        assert_eq!(KeyCode::A.us_character(false), Some('a'));
        assert_eq!(KeyCode(3).us_character(true), Some('@'));
        assert_eq!(KeyCode(43).us_character(true), Some('|'));
        assert_eq!(KeyCode(53).us_character(false), Some('/'));
        assert_eq!(KeyCode::SPACE.us_character(false), Some(' '));
        assert_eq!(KeyCode::LEFTSHIFT.us_character(false), None);
    }
}
