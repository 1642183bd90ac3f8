//! Linux back ends: V4L2, DRM/KMS, X11, evdev, uinput, sockets, processes.
//!
//! Together with the other crates under `platform/` the only place for `unsafe`.
