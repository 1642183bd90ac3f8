//! The lamps of a keyboard that is no device here, as the target shows them: the window's, or the one of `type`.

use std::sync::atomic::{AtomicU32, Ordering};

use soft_kvm_protocol::input::Record;
use soft_kvm_protocol::input::codes::led;

use super::typist;
use crate::window;

/// The newest [`soft_kvm_protocol::input::LedState`] of a server: what it knows above what it has lit.
#[derive(Debug, Default)]
pub(crate) struct Lamps(AtomicU32);

impl Lamps {
    /// Takes a record of the server, and tells whether it was for such a keyboard.
    pub(crate) fn handle_record(&self, record: &[u8]) -> bool {
        let Ok(Record::Leds(device, leds)) = Record::parse(record) else {
            return false;
        };
        // A session has one of the two.
        let ours = device == window::KEYBOARD || device == typist::KEYBOARD;
        if ours {
            let state = u32::from(leds.known) << 16 | u32::from(leds.lit);
            self.0.store(state, Ordering::Release);
        }
        ours
    }

    /// The keyboard of the next connection is another one.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Whether Caps Lock is lit; nothing as long as the target has not told.
    pub(crate) fn caps_lock(&self) -> Option<bool> {
        let state = self.0.load(Ordering::Acquire);
        let bit = 1 << led::CAPS_LOCK;
        (state >> 16 & bit != 0).then_some(state & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::input::{DeviceId, LedState};

    use super::*;

    fn record(device: DeviceId, on: bool) -> Vec<u8> {
        let mut leds = LedState::default();
        leds.set(led::CAPS_LOCK, on);
        let mut bytes = Vec::new();
        Record::Leds(device, leds).encode(&mut bytes);
        bytes
    }

    #[test]
    fn the_newest_state_counts_until_the_next_connection() {
        let lamps = Lamps::default();
        assert_eq!(lamps.caps_lock(), None);
        for on in [true, false, true] {
            assert!(lamps.handle_record(&record(window::KEYBOARD, on)));
            assert_eq!(lamps.caps_lock(), Some(on));
        }
        lamps.forget();
        assert_eq!(lamps.caps_lock(), None);
    }

    #[test]
    fn records_of_real_keyboards_and_nonsense_change_nothing() {
        let lamps = Lamps::default();
        assert!(!lamps.handle_record(&record(DeviceId(1), true)));
        assert!(!lamps.handle_record(&[]));
        assert!(!lamps.handle_record(&[0xff; 9]));
        assert_eq!(lamps.caps_lock(), None);
    }
}
