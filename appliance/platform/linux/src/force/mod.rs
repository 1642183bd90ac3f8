//! Force feedback (`<linux/input.h>`, `<linux/uinput.h>`): the effects of a virtual device's programs, and playing them
//! on a real one.

mod abi;
mod hardware;
mod requests;

pub use hardware::Hardware;
pub(crate) use hardware::{abilities, stop_all};
pub(crate) use requests::{answer_erase, answer_upload};

/// `EV_FF`.
pub(crate) const EV_FF: u16 = 0x15;
