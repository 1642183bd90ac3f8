//! What programs ask of a virtual device, which waits for its maker's answer: given at once, whatever the operator's
//! device makes of it later.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::ioctl::ioctl_num_type;
use soft_kvm_protocol::input::{Effect, EffectId};

use super::abi::RawEffect;

const UI_BEGIN_FF_UPLOAD: ioctl_num_type =
    nix::request_code_readwrite!(b'U', 200, size_of::<Upload>());
const UI_END_FF_UPLOAD: ioctl_num_type = nix::request_code_write!(b'U', 201, size_of::<Upload>());
const UI_BEGIN_FF_ERASE: ioctl_num_type =
    nix::request_code_readwrite!(b'U', 202, size_of::<Erase>());
const UI_END_FF_ERASE: ioctl_num_type = nix::request_code_write!(b'U', 203, size_of::<Erase>());

/// `struct uinput_ff_upload`.
#[repr(C)]
struct Upload {
    request: u32,
    outcome: i32,
    effect: RawEffect,
    old: RawEffect,
}

/// `struct uinput_ff_erase`.
#[repr(C)]
struct Erase {
    request: u32,
    outcome: i32,
    effect: u32,
}

/// Takes the effect that a program uploads; none if it is not one that is passed on, which the program is told.
///
/// # Errors
/// The kernel's: the program has gone meanwhile.
pub(crate) fn answer_upload(device: BorrowedFd<'_>, request: u32) -> io::Result<Option<Effect>> {
    let mut upload = Upload {
        request,
        outcome: 0,
        effect: RawEffect::EMPTY,
        old: RawEffect::EMPTY,
    };
    call(device, UI_BEGIN_FF_UPLOAD, &mut upload)?;
    let effect = upload.effect.read();
    upload.outcome = if effect.is_some() { 0 } else { -libc::EINVAL };
    call(device, UI_END_FF_UPLOAD, &mut upload)?;
    Ok(effect)
}

/// Takes the number of the effect that a program removes; none if it was not one that was passed on.
///
/// # Errors
/// The kernel's: the program has gone meanwhile.
pub(crate) fn answer_erase(device: BorrowedFd<'_>, request: u32) -> io::Result<Option<EffectId>> {
    let mut erase = Erase {
        request,
        outcome: 0,
        effect: 0,
    };
    call(device, UI_BEGIN_FF_ERASE, &mut erase)?;
    call(device, UI_END_FF_ERASE, &mut erase)?;
    Ok(u8::try_from(erase.effect).ok().and_then(EffectId::new))
}

/// `argument` is what the request takes.
fn call<T>(device: BorrowedFd<'_>, request: ioctl_num_type, argument: &mut T) -> io::Result<()> {
    let address = std::ptr::from_mut(argument);
    // SAFETY: the address is that of a live structure of the size in the request's number, as the callers above pair them;
    // the kernel reads and writes no more of it, and any bytes are a value of its integers.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), request, address) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(
            [UI_BEGIN_FF_ERASE, UI_END_FF_ERASE],
            [0xc00c_55ca, 0x400c_55cb]
        );
        #[cfg(target_pointer_width = "64")]
        assert_eq!(
            [UI_BEGIN_FF_UPLOAD, UI_END_FF_UPLOAD],
            [0xc068_55c8, 0x4068_55c9]
        );
    }
}
