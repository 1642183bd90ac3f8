//! One key of one device, as a button of a box: read beside everyone else, never grabbed.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use evdevil::Evdev;
use evdevil::event::{InputEvent, Key};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{is_ours, nodes};

/// A button that is plugged in.
#[derive(Debug)]
pub struct Button {
    device: Evdev,
    key: Key,
}

impl Button {
    /// Whether `key` is a name that the kernel has, such as `KEY_WPS_BUTTON`.
    #[must_use]
    pub fn knows(key: &str) -> bool {
        key.parse::<Key>().is_ok()
    }

    /// Opens the device with this node or name, if it has the key. Our own virtual devices are left out: else whoever controls
    /// this machine could press its button.
    ///
    /// # Errors
    /// There is none at the moment, or it cannot be opened.
    pub fn open(which: &str, key: &str) -> io::Result<Self> {
        let key: Key = key
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no such key"))?;
        if which.starts_with('/') {
            let device = Evdev::open(Path::new(which))?;
            return fits(&device, key)?
                .then_some(Self { device, key })
                .ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, "the device has no such key")
                });
        }
        let mut refused = None;
        for (_, node) in nodes() {
            let device = match Evdev::open(&node) {
                Ok(device) => device,
                Err(error) => {
                    refused = Some(error);
                    continue;
                }
            };
            // A device may go while it is looked at.
            let named = device.name().is_ok_and(|name| name == which);
            if named && fits(&device, key).unwrap_or(false) {
                return Ok(Self { device, key });
            }
        }
        // Without the right to devices nobody can tell whether it is there.
        Err(refused
            .filter(|error| error.kind() == io::ErrorKind::PermissionDenied)
            .unwrap_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    "no device of this name has such a key",
                )
            }))
    }

    /// Waits until the button is pressed, for `limit` at most. Auto-repeat and releases are no presses.
    ///
    /// # Errors
    /// The device has gone.
    pub fn pressed(&mut self, limit: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let device: BorrowedFd<'_> = self.device.as_fd();
        match poll(&mut [PollFd::new(device, PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = [InputEvent::zeroed(); 64];
        let count = match self.device.read_events(&mut events) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ENODEV)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let events = events.iter().take(count);
        Ok(events.into_iter().any(|event| is_press(*event, self.key)))
    }
}

fn fits(device: &Evdev, key: Key) -> io::Result<bool> {
    device.set_nonblocking(true)?;
    Ok(!is_ours(device)? && device.supported_keys()?.contains(key))
}

fn is_press(event: InputEvent, key: Key) -> bool {
    event.event_type() == evdevil::event::EventType::KEY
        && event.raw_code() == key.raw()
        && event.raw_value() == 1
}

#[cfg(test)]
mod tests {
    use evdevil::event::EventType;

    use super::*;

    #[test]
    fn only_the_key_going_down_is_a_press() {
        let wps = "KEY_WPS_BUTTON".parse().unwrap();
        let event = |kind, code, value| is_press(InputEvent::new(kind, code, value), wps);
        assert!(event(EventType::KEY, 0x211, 1));
        assert!(!event(EventType::KEY, 0x211, 0), "a release");
        assert!(!event(EventType::KEY, 0x211, 2), "auto-repeat");
        assert!(!event(EventType::KEY, 30, 1), "another key");
        assert!(!event(EventType::REL, 0x211, 1), "no key");
    }

    #[test]
    fn keys_have_the_kernels_names() {
        assert!(Button::knows("KEY_CONFIG") && Button::knows("BTN_0"));
        assert!(!Button::knows("KEY_NO_SUCH_KEY"));
    }
}
