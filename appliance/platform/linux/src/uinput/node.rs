//! A virtual device of `/dev/uinput`, on a descriptor that this process or the broker has opened (`<linux/uinput.h>`).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use evdevil::event::InputEvent as RawEvent;
use soft_kvm_protocol::input::DeviceDescriptor;

use super::{PHYS_PREFIX, UINPUT};
use crate::broker::{self, Kind};
use crate::force::EV_FF;

const fn number(direction: u32, nr: u8, size: u32) -> u32 {
    direction << 30 | size << 16 | (b'U' as u32) << 8 | nr as u32
}
const fn int(nr: u8) -> u32 {
    number(1, nr, 4)
}

const UI_DEV_CREATE: u32 = number(0, 1, 0);
const UI_DEV_SETUP: u32 = number(1, 3, 92);
const UI_ABS_SETUP: u32 = number(1, 4, 28);
const UI_SET_EVBIT: u32 = int(100);
const UI_SET_KEYBIT: u32 = int(101);
const UI_SET_RELBIT: u32 = int(102);
const UI_SET_MSCBIT: u32 = int(104);
const UI_SET_LEDBIT: u32 = int(105);
const UI_SET_FFBIT: u32 = int(107);
const UI_SET_PHYS: u32 = number(1, 108, POINTER);
const UI_SET_SWBIT: u32 = int(109);
const UI_SET_PROPBIT: u32 = int(110);
/// Bytes of a name such as `input12`.
const SYSNAME: usize = 64;
const UI_GET_SYSNAME: u32 = number(2, 44, 64);

#[cfg(target_pointer_width = "64")]
const POINTER: u32 = 8;
#[cfg(target_pointer_width = "32")]
const POINTER: u32 = 4;

const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const EV_MSC: u16 = 4;
const EV_SW: u16 = 5;
const EV_LED: u16 = 0x11;
const EV_REP: u16 = 0x14;

/// `struct uinput_setup`.
#[repr(C)]
struct Setup {
    bus: u16,
    vendor: u16,
    product: u16,
    version: u16,
    name: [u8; 80],
    effects: u32,
}

/// `struct uinput_abs_setup`.
#[repr(C)]
struct AbsSetup {
    code: u16,
    value: i32,
    minimum: i32,
    maximum: i32,
    fuzz: i32,
    flat: i32,
    resolution: i32,
}

/// A virtual device; the kernel removes it when the descriptor is closed.
#[derive(Debug)]
pub(super) struct Node(OwnedFd);

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Node {
    pub(super) fn create(device: &DeviceDescriptor) -> io::Result<Self> {
        let node = Self(broker::open(Kind::Uinput, Path::new(UINPUT))?);
        let phys = CString::new(format!("{PHYS_PREFIX}{}", device.id.0))?;
        node.call(UI_SET_PHYS, phys.as_ptr().addr())?;
        let keys = device.keys.iter().map(|key| key.0);
        node.set(EV_KEY, UI_SET_KEYBIT, keys)?;
        node.set(EV_REL, UI_SET_RELBIT, device.relative.iter().copied())?;
        node.set(EV_MSC, UI_SET_MSCBIT, device.misc.iter().copied())?;
        node.set(EV_SW, UI_SET_SWBIT, device.switches.iter().copied())?;
        node.set(EV_LED, UI_SET_LEDBIT, device.leds.iter().copied())?;
        if let Some(force) = &device.force {
            node.set(EV_FF, UI_SET_FFBIT, force.codes.iter().copied())?;
        }
        if device.repeat.is_some() {
            node.call(UI_SET_EVBIT, EV_REP.into())?;
        }
        for property in &device.properties {
            node.call(UI_SET_PROPBIT, usize::from(*property))?;
        }
        if !device.absolute.is_empty() {
            node.call(UI_SET_EVBIT, EV_ABS.into())?;
        }
        for axis in &device.absolute {
            let setup = AbsSetup {
                code: axis.code,
                value: 0,
                minimum: axis.minimum,
                maximum: axis.maximum,
                fuzz: 0,
                flat: axis.flat,
                resolution: axis.resolution,
            };
            node.call(UI_ABS_SETUP, (&raw const setup).addr())?;
        }
        let mut setup = Setup {
            bus: device.bus.0,
            vendor: device.vendor.0,
            product: device.product.0,
            version: device.version.0,
            name: [0; 80],
            effects: device
                .force
                .as_ref()
                .map_or(0, |force| force.effects.into()),
        };
        let name = DeviceDescriptor::clean_name(&device.name);
        // The kernel wants a zero at the end.
        let room = setup
            .name
            .split_last_mut()
            .map(|(_, room)| room)
            .unwrap_or_default();
        if name.len() > room.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "its name is too long",
            ));
        }
        for (place, byte) in room.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        node.call(UI_DEV_SETUP, (&raw const setup).addr())?;
        node.call(UI_DEV_CREATE, 0)?;
        Ok(node)
    }

    /// The name of its folder in sysfs, e.g. `input12`.
    pub(super) fn sysname(&self) -> io::Result<String> {
        let mut name = [0_u8; SYSNAME];
        self.call(UI_GET_SYSNAME, name.as_mut_ptr().addr())?;
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(0);
        Ok(String::from_utf8_lossy(name.get(..length).unwrap_or_default()).into_owned())
    }

    /// What the target's programs have written to the device; an error when there is nothing.
    pub(super) fn read_events(&self, events: &mut [RawEvent]) -> io::Result<usize> {
        let length = size_of_val(events);
        // SAFETY: pointer and length in bytes are those of a live slice of `repr(transparent)` wrappers of `struct input_event`,
        // whose fields are integers: any bytes are a value.
        let read = unsafe { libc::read(self.0.as_raw_fd(), events.as_mut_ptr().cast(), length) };
        let bytes = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        Ok(bytes / size_of::<RawEvent>())
    }

    /// Announces the event type and its codes; an empty list announces neither.
    fn set(&self, kind: u16, request: u32, codes: impl Iterator<Item = u16>) -> io::Result<()> {
        for (index, code) in codes.enumerate() {
            if index == 0 {
                self.call(UI_SET_EVBIT, kind.into())?;
            }
            self.call(request, code.into())?;
        }
        Ok(())
    }

    /// `argument` is a number, or the address of what the request takes, alive during the call.
    fn call(&self, request: u32, argument: usize) -> io::Result<()> {
        // SAFETY: the callers, all above, pass what each request takes: an integer, or the address of a live structure of
        // the size that is in the request's number, or of a string with its final zero.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), request.into(), argument) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(
            (size_of::<Setup>(), size_of::<AbsSetup>(), SYSNAME),
            (92, 28, 64)
        );
        assert_eq!(
            [UI_DEV_CREATE, UI_DEV_SETUP, UI_ABS_SETUP, UI_GET_SYSNAME],
            [0x5501, 0x405c_5503, 0x401c_5504, 0x8040_552c]
        );
        assert_eq!(
            [
                UI_SET_EVBIT,
                UI_SET_KEYBIT,
                UI_SET_RELBIT,
                UI_SET_MSCBIT,
                UI_SET_LEDBIT
            ],
            [
                0x4004_5564,
                0x4004_5565,
                0x4004_5566,
                0x4004_5568,
                0x4004_5569
            ]
        );
        assert_eq!(UI_SET_FFBIT, 0x4004_556b);
        assert_eq!([UI_SET_SWBIT, UI_SET_PROPBIT], [0x4004_556d, 0x4004_556e]);
        #[cfg(target_pointer_width = "64")]
        assert_eq!(UI_SET_PHYS, 0x4008_556c);
    }
}
