//! An operator's device that is felt.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use evdevil::Evdev;
use evdevil::event::{EventType as RawType, InputEvent as RawEvent};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::ioctl::ioctl_num_type;
use soft_kvm_input::force::{ForceDevice, LocalEffect};
use soft_kvm_protocol::input::codes::ff;
use soft_kvm_protocol::input::{Effect, ForceAbilities, MAX_EFFECTS};

use super::EV_FF;
use super::abi::RawEffect;

const EVIOCSFF: ioctl_num_type = nix::request_code_write!(b'E', 0x80, size_of::<RawEffect>());
const EVIOCRMFF: ioctl_num_type = nix::request_code_write!(b'E', 0x81, size_of::<i32>());

/// What of a device's force feedback can be passed on; none if it may only be read.
pub(crate) fn abilities(device: &Evdev) -> io::Result<Option<ForceAbilities>> {
    if !device
        .supported_events()?
        .contains(RawType::from_raw(EV_FF))
    {
        return Ok(None);
    }
    let flags = OFlag::from_bits_retain(fcntl(device.as_fd(), FcntlArg::F_GETFL)?);
    if flags & OFlag::O_ACCMODE != OFlag::O_RDWR {
        return Ok(None);
    }
    let codes = device.supported_ff_features()?;
    Ok(ForceAbilities::passed(
        device.supported_ff_effects()?,
        codes.iter().map(|feature| feature.raw()),
    ))
}

/// Stops every effect of a device, whoever has made it.
pub(crate) fn stop_all(device: &Evdev) {
    let stop = |id| RawEvent::new(RawType::from_raw(EV_FF), u16::from(id), 0);
    let stops: Vec<_> = (0..MAX_EFFECTS).map(stop).collect();
    // A device without force feedback, or that is gone, plays nothing.
    let _ = device.write_events(&stops);
}

/// A device, opened for its effects alone: the kernel removes them when this is dropped, however the process ends.
#[derive(Debug)]
pub struct Hardware(Evdev);

impl Hardware {
    /// Opens the device at a node such as `/dev/input/event3`. Its calls may take as long as the device's driver likes.
    ///
    /// # Errors
    /// When it may not be opened for writing.
    pub fn open(node: &Path) -> io::Result<Self> {
        let device = Evdev::open(node)?;
        // Its events are read elsewhere: the kernel is not to queue them for this one too.
        let none: [RawType; 0] = [];
        device.set_event_mask(none)?;
        Ok(Self(device))
    }

    fn call(&self, request: ioctl_num_type, argument: usize) -> io::Result<()> {
        // SAFETY: the callers pass what each request takes: the address of a live effect, or a number.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn write(&self, code: u16, value: i32) -> io::Result<()> {
        let event = RawEvent::new(RawType::from_raw(EV_FF), code, value);
        self.0.write_events(&[event])
    }
}

impl AsFd for Hardware {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ForceDevice for Hardware {
    fn upload(&mut self, effect: &Effect, old: Option<LocalEffect>) -> io::Result<LocalEffect> {
        let mut raw = RawEffect::new(effect, old.map_or(-1, |old| old.0));
        self.call(EVIOCSFF, (&raw mut raw).expose_provenance())?;
        Ok(LocalEffect(raw.id))
    }

    fn erase(&mut self, effect: LocalEffect) -> io::Result<()> {
        self.call(EVIOCRMFF, usize::try_from(effect.0).unwrap_or(usize::MAX))
    }

    fn play(&mut self, effect: LocalEffect, count: u32) -> io::Result<()> {
        let id = u16::try_from(effect.0).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.write(id, i32::try_from(count).unwrap_or(i32::MAX))
    }

    fn set_gain(&mut self, gain: u16) -> io::Result<()> {
        self.write(ff::GAIN, gain.into())
    }

    fn set_auto_centre(&mut self, strength: u16) -> io::Result<()> {
        self.write(ff::AUTOCENTER, strength.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        #[cfg(target_pointer_width = "64")]
        assert_eq!(EVIOCSFF, 0x4030_4580);
        assert_eq!(EVIOCRMFF, 0x4004_4581);
    }
}
