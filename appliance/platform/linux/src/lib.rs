//! Linux back ends: V4L2, DRM/KMS, X11, Wayland, evdev, uinput, sockets, processes.
//!
//! Together with the other crates under `platform/` the only place for `unsafe`.

pub mod activation;
pub mod broker;
pub mod capability;
pub mod clipboard;
pub mod clock;
pub mod confine;
pub mod disk;
pub mod display;
pub mod dmabuf;
mod driver;
pub mod evdev;
pub mod force;
pub mod gadget;
pub mod gpu;
pub mod kms;
pub mod lockdown;
pub mod net;
mod netlink;
pub mod probe;
pub mod process;
pub mod seat;
mod shared_library;
pub mod thread;
pub mod uevent;
pub mod uinput;
pub mod v4l2;
pub mod vaapi;
pub mod waker;
pub mod watch;
mod wayland;
pub mod x11;

#[doc(inline)]
pub use v4l2::m2m;

/// Bodies of the fuzz targets in `fuzz/`. Not a public interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::broker::fuzz_broker;
    pub use crate::v4l2::fuzzing::*;
}
