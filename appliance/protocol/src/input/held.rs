//! Which keys are down: the state that a snapshot carries.

use super::MAX_HELD;
use super::codes::KeyCode;
use super::event::{DeviceId, InputEvent};

/// The keys and buttons that are down, per device, at most [`MAX_HELD`]; allocated once.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldKeys {
    sorted: Vec<(DeviceId, KeyCode)>,
}

impl Default for HeldKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for HeldKeys {
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        copy.copy_from(self);
        copy
    }
}

impl HeldKeys {
    /// Nothing down.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sorted: Vec::with_capacity(MAX_HELD),
        }
    }

    /// Takes over another state without allocating.
    pub fn copy_from(&mut self, other: &Self) {
        self.sorted.clear();
        self.sorted.extend_from_slice(&other.sorted);
    }

    /// Marks a key as down; `false` when it already was, or when too many are.
    pub fn press(&mut self, device: DeviceId, key: KeyCode) -> bool {
        match self.sorted.binary_search(&(device, key)) {
            Err(place) if self.sorted.len() < MAX_HELD => {
                self.sorted.insert(place, (device, key));
                true
            }
            _ => false,
        }
    }

    /// Marks a key as up; `false` when it already was.
    pub fn release(&mut self, device: DeviceId, key: KeyCode) -> bool {
        let place = self.sorted.binary_search(&(device, key));
        if let Ok(place) = place {
            self.sorted.remove(place);
        }
        place.is_ok()
    }

    /// Follows an event; anything but a press or a release changes nothing.
    pub fn apply(&mut self, device: DeviceId, event: InputEvent) {
        match event.as_key() {
            Some((key, true)) => {
                self.press(device, key);
            }
            Some((key, false)) => {
                self.release(device, key);
            }
            None => {}
        }
    }

    /// Whether a key is down.
    #[must_use]
    pub fn contains(&self, device: DeviceId, key: KeyCode) -> bool {
        self.sorted.binary_search(&(device, key)).is_ok()
    }

    /// Whether nothing is down.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// How many keys are down.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Everything is up.
    pub fn clear(&mut self) {
        self.sorted.clear();
    }

    /// Lets go of the keys that `keep` says no to.
    pub fn retain(&mut self, mut keep: impl FnMut(DeviceId, KeyCode) -> bool) {
        self.sorted.retain(|(device, key)| keep(*device, *key));
    }

    /// The keys down, by device and code.
    pub fn iter(&self) -> impl Iterator<Item = (DeviceId, KeyCode)> + '_ {
        self.sorted.iter().copied()
    }

    /// The keys down, grouped by device.
    pub(super) fn by_device(&self) -> impl Iterator<Item = &[(DeviceId, KeyCode)]> {
        self.sorted.chunk_by(|left, right| left.0 == right.0)
    }
}
