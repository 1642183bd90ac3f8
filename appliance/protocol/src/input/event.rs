//! Events and their grouping in reports.

use std::fmt;

use serde::{Deserialize, Serialize};
use soft_kvm_core::MonoTime;

use super::codes::{EventType, KeyCode};

/// An operator's device within one session; never used again for another device of that session.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct DeviceId(pub u16);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input device {}", self.0)
    }
}

/// One event as the kernel's `struct input_event` has it, without its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputEvent {
    /// `EV_*`.
    pub kind: EventType,
    /// `KEY_*`, `REL_*`, `ABS_*`, … by `kind`.
    pub code: u16,
    /// Key: 0 up, 1 down. Relative: steps. Absolute: position in the axis' range.
    pub value: i32,
}

impl InputEvent {
    /// The end of a report, `SYN_REPORT`.
    pub const SYN_REPORT: Self = Self::new(EventType::SYN, 0, 0);

    /// An event.
    #[must_use]
    pub const fn new(kind: EventType, code: u16, value: i32) -> Self {
        Self { kind, code, value }
    }

    /// A key or button going down or up.
    #[must_use]
    pub const fn key(key: KeyCode, down: bool) -> Self {
        Self::new(EventType::KEY, key.0, if down { 1 } else { 0 })
    }

    /// The key and whether it is down, when this is a press or a release (auto-repeat is neither).
    #[must_use]
    pub const fn as_key(self) -> Option<(KeyCode, bool)> {
        match (self.kind, self.value) {
            (EventType::KEY, 0) => Some((KeyCode(self.code), false)),
            (EventType::KEY, 1) => Some((KeyCode(self.code), true)),
            _ => None,
        }
    }

    /// Whether this is the kernel's own repetition of a held key (`EV_KEY` with value 2).
    #[must_use]
    pub fn is_auto_repeat(self) -> bool {
        self.kind == EventType::KEY && self.value == 2
    }
}

/// What one device said at one moment: the events up to, and without, `SYN_REPORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventReport<'a> {
    /// Who.
    pub device: DeviceId,
    /// The kernel's stamp on the operator's `CLOCK_MONOTONIC`.
    pub time: MonoTime,
    /// More parts of the same kernel report follow: no `SYN_REPORT` yet.
    pub unfinished: bool,
    /// At most [`super::MAX_EVENTS`] when it came from the wire.
    pub events: &'a [InputEvent],
}
