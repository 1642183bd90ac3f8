//! One server of the client: how to find it, its connection while there is one, its figures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_channel::{Receiver, Sender};
use soft_kvm_protocol::handover::ControlRequest;
use soft_kvm_protocol::input::{DeviceDescriptor, Record};

use crate::clipboard::Copied;
use crate::control::target::Target;
use crate::desk::Desk;
use crate::force;
use crate::session::cursor::RemoteCursor;
use crate::session::link::InputLink;
use crate::session::outputs::lock;
use crate::session::stats::Stats;
use crate::typing::Lamps;

/// A server that a connection is kept to.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) target: Target,
    /// The way to the server while there is one.
    pub(crate) link: Mutex<Option<Arc<InputLink>>>,
    /// Input records for the control channel of the current connection.
    pub(crate) records: Mutex<Option<Sender<Vec<u8>>>>,
    /// LEDs and auto-repeat that the server told, for the grabbed devices.
    pub(crate) feedback: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    /// What it shows on the keyboard of the window, or of `type`.
    pub(crate) lamps: Lamps,
    /// What programs on the server want the grabbed devices to be felt doing.
    pub(crate) force: force::Server,
    /// The server passes force feedback on.
    passes_force: AtomicBool,
    pub(crate) stats: Arc<Mutex<Stats>>,
    /// Its cursor, which is not in its picture.
    pub(crate) cursor: RemoteCursor,
    /// Who has its keyboard and mouse.
    pub(crate) desk: Mutex<Desk>,
    /// What this seat wants with them.
    pub(crate) wishes: (Sender<ControlRequest>, Receiver<ControlRequest>),
    /// What is still to be copied into its clipboard.
    pub(crate) copied: Copied,
    shown: AtomicBool,
    /// Wakes the connection's task when `shown` changed.
    pub(crate) turned: (Sender<()>, Receiver<()>),
}

impl Remote {
    /// A server that is not connected yet.
    pub(crate) fn new(target: Target, shown: bool, force: force::Server) -> Self {
        Self {
            target,
            link: Mutex::new(None),
            records: Mutex::new(None),
            feedback: async_channel::bounded(64),
            lamps: Lamps::default(),
            force,
            passes_force: AtomicBool::new(false),
            stats: Arc::new(Mutex::new(Stats::new())),
            cursor: RemoteCursor::default(),
            desk: Mutex::default(),
            wishes: async_channel::bounded(8),
            copied: Copied::default(),
            shown: AtomicBool::new(shown),
            turned: async_channel::bounded(1),
        }
    }

    /// The way to the server, if there is one now.
    pub(crate) fn link(&self) -> Option<Arc<InputLink>> {
        lock(&self.link).clone()
    }

    /// Whether the server passes force feedback on, as it has told.
    pub(crate) fn set_passes_force(&self, passes: bool) {
        self.passes_force.store(passes, Ordering::Release);
    }

    /// The record that tells this server of a device.
    pub(crate) fn announcement(&self, device: &DeviceDescriptor) -> Vec<u8> {
        announcement(device, self.passes_force.load(Ordering::Acquire))
    }

    /// Whether this server's picture is the one that is shown, recorded and measured.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown.load(Ordering::Acquire)
    }

    /// Shows this server's picture, or no more.
    pub(crate) fn set_shown(&self, shown: bool) {
        if self.shown.swap(shown, Ordering::AcqRel) != shown {
            // One that is waiting already is enough.
            let _ = self.turned.0.try_send(());
        }
    }
}

/// Without force feedback for a server that would not know what that is, and refuse the device.
fn announcement(device: &DeviceDescriptor, passes_force: bool) -> Vec<u8> {
    let mut device = Box::new(device.clone());
    if !passes_force {
        device.force = None;
    }
    let mut message = Vec::new();
    Record::DeviceAdd(device).encode(&mut message);
    message
}

#[cfg(test)]
mod tests {
    use soft_kvm_protocol::input::ForceAbilities;
    use soft_kvm_protocol::input::codes::ff;

    use super::*;

    #[test]
    fn servers_from_before_force_feedback_are_told_of_a_device_without() {
        let without = DeviceDescriptor {
            name: "gamepad".to_owned(),
            ..DeviceDescriptor::default()
        };
        let with = DeviceDescriptor {
            force: ForceAbilities::passed(4, [ff::RUMBLE]),
            ..without.clone()
        };
        let told = |device, passes| match Record::parse(&announcement(device, passes)) {
            Ok(Record::DeviceAdd(device)) => *device,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(&with, true), with);
        assert_eq!(told(&with, false), without);
        assert_eq!(announcement(&with, false), announcement(&without, true));
    }
}
