//! Where input goes on the target: uinput, a USB gadget, the test card's echo.

use soft_kvm_core::MonoTime;
use soft_kvm_protocol::input::{
    DeviceDescriptor, DeviceId, ForceChange, InputEvent, LedState, Repeat,
};

/// Why a sink can't do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The device can't be made.
    #[error("{device} ({name}) cannot be made: {reason}")]
    Create {
        /// Which.
        device: DeviceId,
        /// Its name.
        name: String,
        /// What failed and what to do.
        reason: String,
    },
    /// No such device.
    #[error("{0} was never added")]
    Unknown(DeviceId),
    /// Another operator has the turn: events are dropped.
    #[error(
        "{by} is using keyboard and mouse here: yours count once {by} has been still for a second"
    )]
    InUse {
        /// The other operator's name for people.
        by: String,
    },
    /// Another operator has keyboard and mouse and means to keep them: events are dropped.
    #[error(
        "{by} has keyboard and mouse here: ask for them (Ctrl+Alt+Shift+R in the window, or soft-kvm-client control request)"
    )]
    Kept {
        /// The other operator's name for people.
        by: String,
    },
    /// The operator may only watch.
    #[error(
        "this client may only watch: an admin, or soft-kvm-server clients role there, lets it do more"
    )]
    ViewOnly,
    /// The device took no events.
    #[error("{device} takes no events: {source}")]
    Write {
        /// Which.
        device: DeviceId,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What the target tells a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkFeedback {
    /// Its LEDs now.
    Leds(DeviceId, LedState),
    /// Its auto-repeat now.
    Repeat(DeviceId, Repeat),
    /// What its force feedback is to do.
    Force(DeviceId, ForceChange),
}

/// A place where input arrives as if its devices were plugged in there.
///
/// Dropping the sink removes all its devices, which lifts all keys.
pub trait InputSink: Send {
    /// Makes the twin of an operator's device; answers with what it became, such as `/dev/input/event7`.
    ///
    /// # Errors
    /// When it can't be made; nothing is left behind then.
    fn add_device(&mut self, device: &DeviceDescriptor) -> Result<String, SinkError>;

    /// Removes a device; its keys go up. Unknown ones are ignored.
    fn remove_device(&mut self, device: DeviceId);

    /// Applies one report, without its `SYN_REPORT`, which the sink adds unless the report is `unfinished`.
    ///
    /// # Errors
    /// When the device takes no events.
    fn apply(
        &mut self,
        now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError>;

    /// Calls `each` for what the target has told the devices since the last call. Never blocks.
    fn poll_feedback(&mut self, each: &mut dyn FnMut(SinkFeedback));

    /// What `FromServer::Welcome` calls this sink: `uinput`, `gadget`, `echo`.
    fn kind(&self) -> &'static str;
}

impl<T: InputSink + ?Sized> InputSink for Box<T> {
    fn add_device(&mut self, device: &DeviceDescriptor) -> Result<String, SinkError> {
        (**self).add_device(device)
    }

    fn remove_device(&mut self, device: DeviceId) {
        (**self).remove_device(device);
    }

    fn apply(
        &mut self,
        now: MonoTime,
        device: DeviceId,
        events: &[InputEvent],
        unfinished: bool,
    ) -> Result<(), SinkError> {
        (**self).apply(now, device, events, unfinished)
    }

    fn poll_feedback(&mut self, each: &mut dyn FnMut(SinkFeedback)) {
        (**self).poll_feedback(each);
    }

    fn kind(&self) -> &'static str {
        (**self).kind()
    }
}
