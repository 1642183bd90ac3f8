//! Key combinations that the operator's machine keeps for itself: letting the devices go, switching servers.
//!
//! They are looked for below all network code. The key that completes a chord is not sent on, so the target sees
//! modifiers only; the default chords need both Control or both Shift keys, which no common desktop uses.

use std::fmt;
use std::str::FromStr;

use soft_kvm_protocol::input::{DeviceId, HeldKeys, InputEvent, KeyCode};

/// Keys that have to be down together, 2 to 5 of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chord(Vec<KeyCode>);

/// Why a text is not a chord.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChordParseError {
    /// A key that does not exist.
    #[error(
        "{0:?} is no key; keys are named as in linux/input-event-codes.h, e.g. LEFTCTRL+RIGHTCTRL+ESC"
    )]
    UnknownKey(String),
    /// Too few or too many keys.
    #[error("a chord has 2 to 5 different keys, not {0}")]
    Count(usize),
    /// No modifier.
    #[error(
        "a chord needs a modifier: LEFTCTRL, RIGHTCTRL, LEFTSHIFT, RIGHTSHIFT, LEFTALT, RIGHTALT, LEFTMETA or RIGHTMETA"
    )]
    NoModifier,
}

impl Chord {
    /// The chords that let the devices go unless others are configured: both Control keys and Escape, and, for
    /// keyboards without a right Control key, both Shift keys and Escape.
    #[must_use]
    pub fn default_panic() -> [Self; 2] {
        [
            Self(vec![KeyCode::LEFTCTRL, KeyCode::RIGHTCTRL, KeyCode::ESC]),
            Self(vec![KeyCode::LEFTSHIFT, KeyCode::RIGHTSHIFT, KeyCode::ESC]),
        ]
    }

    /// Both Control keys and one more.
    pub(crate) fn both_controls(key: KeyCode) -> Self {
        Self(vec![KeyCode::LEFTCTRL, KeyCode::RIGHTCTRL, key])
    }

    /// A chord of these keys, in any order.
    ///
    /// # Errors
    /// On fewer than 2 or more than 5 different keys, or without a modifier: it would fire while typing.
    pub fn new(keys: &[KeyCode]) -> Result<Self, ChordParseError> {
        let mut distinct = Vec::new();
        for key in keys {
            if !distinct.contains(key) {
                distinct.push(*key);
            }
        }
        if !(2..=5).contains(&distinct.len()) {
            return Err(ChordParseError::Count(distinct.len()));
        }
        if !distinct.iter().any(|key| key.is_modifier()) {
            return Err(ChordParseError::NoModifier);
        }
        Ok(Self(distinct))
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[KeyCode] {
        &self.0
    }
}

impl FromStr for Chord {
    type Err = ChordParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let keys: Result<Vec<_>, _> = text
            .split('+')
            .map(|name| {
                KeyCode::from_name(name.trim())
                    .ok_or_else(|| ChordParseError::UnknownKey(name.trim().to_owned()))
            })
            .collect();
        Self::new(&keys?)
    }
}

impl fmt::Display for Chord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            write!(f, "{key}")?;
        }
        Ok(())
    }
}

/// Looks for chords in the events of all devices together; `T` says what a chord does.
///
/// Other keys may be down as well: a stuck key must not disable the way out.
#[derive(Debug)]
pub struct ChordDetector<T> {
    chords: Vec<(Chord, T)>,
    held: HeldKeys,
}

impl<T: Copy> ChordDetector<T> {
    /// A detector for these chords; the first that fits wins.
    #[must_use]
    pub fn new(chords: Vec<(Chord, T)>) -> Self {
        Self {
            chords,
            held: HeldKeys::new(),
        }
    }

    /// Follows an event; answers what the chord does that it completes. That event is then not to be sent on.
    pub fn follow(&mut self, device: DeviceId, event: InputEvent) -> Option<T> {
        let (key, down) = event.as_key()?;
        if !down {
            self.held.release(device, key);
            return None;
        }
        if !self.held.press(device, key) {
            return None;
        }
        let held = &self.held;
        self.chords
            .iter()
            .find(|(chord, _)| {
                chord.keys().contains(&key)
                    && chord
                        .keys()
                        .iter()
                        .all(|wanted| held.iter().any(|(_, down)| down == *wanted))
            })
            .map(|(_, action)| *action)
    }

    /// The keys that are down on all devices.
    #[must_use]
    pub const fn held(&self) -> &HeldKeys {
        &self.held
    }

    /// A device is gone: its keys are up.
    pub fn remove_device(&mut self, device: DeviceId) {
        self.held.retain(|owner, _| owner != device);
    }

    /// All devices were let go.
    pub fn clear(&mut self) {
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(key: KeyCode) -> InputEvent {
        InputEvent::key(key, true)
    }

    #[test]
    fn fires_once_across_devices_and_with_other_keys_down() {
        let [panic, _] = Chord::default_panic();
        let mut detector = ChordDetector::new(vec![(panic, "panic")]);
        let (left, right) = (DeviceId(1), DeviceId(2));
        assert_eq!(detector.follow(left, press(KeyCode::A)), None);
        assert_eq!(detector.follow(left, press(KeyCode::LEFTCTRL)), None);
        assert_eq!(detector.follow(left, press(KeyCode::ESC)), None);
        assert_eq!(
            detector.follow(right, press(KeyCode::RIGHTCTRL)),
            Some("panic")
        );
        assert_eq!(detector.follow(right, press(KeyCode::RIGHTCTRL)), None);
        detector.remove_device(left);
        assert_eq!(detector.follow(right, press(KeyCode::ESC)), None);
        assert_eq!(
            detector.follow(right, press(KeyCode::LEFTCTRL)),
            Some("panic")
        );
    }

    #[test]
    fn texts() {
        let [panic, _] = Chord::default_panic();
        assert_eq!(panic.to_string(), "LEFTCTRL+RIGHTCTRL+ESC");
        assert_eq!("leftctrl + RIGHTCTRL+KEY_ESC".parse(), Ok(panic));
        assert_eq!(
            "LEFTCTRL+HYPER".parse::<Chord>(),
            Err(ChordParseError::UnknownKey("HYPER".into()))
        );
        assert_eq!("A+B".parse::<Chord>(), Err(ChordParseError::NoModifier));
        assert_eq!("LEFTCTRL".parse::<Chord>(), Err(ChordParseError::Count(1)));
        assert_eq!(
            "LEFTCTRL+LEFTCTRL".parse::<Chord>(),
            Err(ChordParseError::Count(1))
        );
    }
}
