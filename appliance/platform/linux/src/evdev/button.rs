//! One key of one device, as a button of a box: read beside everyone else, never grabbed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use evdevil::Evdev;
use evdevil::event::{InputEvent, Key};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{FOLDER, is_ours, nodes};
use crate::broker::{self, Kind};

/// Major number of the input system's devices (`<linux/major.h>`).
const INPUT_MAJOR: u32 = 13;

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

    /// Opens the device with this node or name to read, if it has the key: by the broker where there is one. Our own virtual
    /// devices are left out: else whoever controls this machine could press its button.
    ///
    /// # Errors
    /// There is none at the moment, or it cannot be opened.
    pub fn open(which: &str, key: &str) -> io::Result<Self> {
        let key = parse(key)?;
        if !broker::is_used() {
            let device = find(which, key)?;
            return Ok(Self { device, key });
        }
        let opened = broker::open(Kind::Button, Path::new(which));
        let device = opened.and_then(adopt).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => error,
        })?;
        // The broker's story may be newer than the one that named the key.
        let device = fits(&device, key)?.then_some(device).ok_or_else(missing)?;
        Ok(Self { device, key })
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

/// The same for the broker, which hands it over.
pub(crate) fn open_button(which: &str, key: &str) -> io::Result<OwnedFd> {
    find(which, parse(key)?).map(OwnedFd::from)
}

fn parse(key: &str) -> io::Result<Key> {
    let parsed = key.parse();
    parsed.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no such key"))
}

fn missing() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "no device of this name has such a key",
    )
}

fn find(which: &str, key: Key) -> io::Result<Evdev> {
    if which.starts_with('/') {
        // It may be a link of udev's.
        let device = open(&Path::new(which).canonicalize()?)?;
        return fits(&device, key)?
            .then_some(device)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the device has no such key"));
    }
    let mut refused = None;
    // No other device is opened.
    let called = nodes().into_iter().filter(|(number, _)| {
        let file = format!("/sys/class/input/event{number}/device/name");
        std::fs::read_to_string(file).is_ok_and(|name| name.strip_suffix('\n') == Some(which))
    });
    for (_, node) in called {
        let device = match open(&node) {
            Ok(device) => device,
            Err(error) => {
                refused = Some(error);
                continue;
            }
        };
        // A device may go while it is looked at, and another one have its number.
        let named = device.name().is_ok_and(|name| name == which);
        if named && fits(&device, key).unwrap_or(false) {
            return Ok(device);
        }
    }
    // Without the right to devices nobody can tell whether it has the key.
    Err(refused
        .filter(|error| error.kind() == io::ErrorKind::PermissionDenied)
        .unwrap_or_else(missing))
}

/// To read only, without blocking.
fn open(node: &Path) -> io::Result<Evdev> {
    if node.parent() != Some(Path::new(FOLDER)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no input device",
        ));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(node)?;
    adopt(file.into())
}

/// Takes a descriptor as what it should be.
fn adopt(fd: OwnedFd) -> io::Result<Evdev> {
    let file = File::from(fd);
    let metadata = file.metadata()?;
    if !metadata.file_type().is_char_device() || libc::major(metadata.rdev()) != INPUT_MAJOR {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no input device",
        ));
    }
    // SAFETY: it is a character device of the input system, all of whose drivers refuse the calls of others.
    let device = unsafe { Evdev::from_owned_fd(file.into()) };
    device.driver_version()?;
    Ok(device)
}

fn fits(device: &Evdev, key: Key) -> io::Result<bool> {
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
