//! Which contacts of a touch device are down (protocol B of the kernel's Documentation/input/multi-touch-protocol.rst).

use soft_kvm_protocol::input::codes::abs;
use soft_kvm_protocol::input::{DeviceId, EventType, InputEvent};

/// Touches followed per device; the wire allows no more.
const MAX_SLOTS: i32 = 64;

/// The touches of one device, to lift them when its events end.
#[derive(Clone, Copy, Debug)]
pub struct Touches {
    device: DeviceId,
    /// Bit `n`: contact slot `n` has a tracking id.
    active: u64,
    /// The slot that the operator's events are about.
    slot: i32,
}

impl Touches {
    /// A device that nothing touches.
    #[must_use]
    pub const fn new(device: DeviceId) -> Self {
        Self {
            device,
            active: 0,
            slot: 0,
        }
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// Whether something touches it.
    #[must_use]
    pub const fn is_touched(&self) -> bool {
        self.active != 0
    }

    /// Follows an event of the device.
    pub fn follow(&mut self, event: InputEvent) {
        if event.kind != EventType::ABS {
            return;
        }
        match event.code {
            abs::MT_SLOT => self.slot = event.value,
            abs::MT_TRACKING_ID if (0..MAX_SLOTS).contains(&self.slot) => {
                let bit = 1 << self.slot;
                if event.value < 0 {
                    self.active &= !bit;
                } else {
                    self.active |= bit;
                }
            }
            _ => {}
        }
    }

    /// What lifts the touches and goes back to the slot that the following events will be about; nothing if there are none.
    pub fn lift(&self, events: &mut Vec<InputEvent>) {
        if self.active == 0 {
            return;
        }
        for slot in (0..MAX_SLOTS).filter(|slot| self.active & (1 << slot) != 0) {
            events.push(InputEvent::new(EventType::ABS, abs::MT_SLOT, slot));
            events.push(InputEvent::new(EventType::ABS, abs::MT_TRACKING_ID, -1));
        }
        events.push(InputEvent::new(EventType::ABS, abs::MT_SLOT, self.slot));
    }

    /// They have been lifted.
    pub const fn set_lifted(&mut self) {
        self.active = 0;
    }
}
