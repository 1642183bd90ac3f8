//! What the target still has to tell the operator, at a rate that a control channel bears.

use std::time::Duration;

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::{DeviceId, ForceChange, Record};

use super::Pending;

/// Time between two records of one device, in the long run: 100 in a second.
const INTERVAL: Duration = Duration::from_millis(10);
/// What may be sent ahead of that, at once: all effects of a device and as many plays.
const AHEAD: Duration = Duration::from_millis(320);

/// Merges what programs on the target do with the force feedback of one operator's devices, and lets at most 100 records
/// in a second out for each device.
#[derive(Debug, Default)]
pub struct Outbox {
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    id: DeviceId,
    pending: Pending,
    /// When the last record would have been due, had all come in time.
    due: MonoTime,
}

impl Outbox {
    /// A device with force feedback is there.
    pub fn add_device(&mut self, id: DeviceId) {
        self.remove_device(id);
        self.devices.push(Device {
            id,
            pending: Pending::default(),
            due: MonoTime::ZERO,
        });
    }

    /// A device is gone; the operator's side stops it by itself.
    pub fn remove_device(&mut self, id: DeviceId) {
        self.devices.retain(|device| device.id != id);
    }

    /// A program did something with a device; of unknown ones it is ignored.
    pub fn push(&mut self, id: DeviceId, change: ForceChange) {
        if let Some(device) = self.devices.iter_mut().find(|device| device.id == id) {
            device.pending.push(change);
        }
    }

    /// Gives `each` what may be sent now, at most `room` records. What stays is for the next call.
    pub fn poll(&mut self, now: MonoTime, mut room: usize, mut each: impl FnMut(Record)) {
        for device in &mut self.devices {
            while room > 0 && device.due.since(now) < AHEAD {
                let Some(change) = device.pending.pop() else {
                    break;
                };
                device.due = device.due.max(now) + INTERVAL;
                room -= 1;
                each(Record::Force(device.id, change));
            }
        }
        // Whoever had no room comes first next time.
        if room == 0 && !self.devices.is_empty() {
            self.devices.rotate_left(1);
        }
    }
}
