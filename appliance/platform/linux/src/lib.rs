//! Linux back ends: V4L2, DRM/KMS, X11, evdev, uinput, sockets, processes.
//!
//! Together with the other crates under `platform/` the only place for `unsafe`.

pub mod clock;
pub mod confine;
pub mod evdev;
pub mod kms;
pub mod net;
pub mod probe;
pub mod process;
pub mod thread;
pub mod uinput;
pub mod v4l2;
pub mod waker;
pub mod watch;
pub mod x11;
