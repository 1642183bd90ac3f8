//! The clipboard of a Wayland session.

pub(crate) mod clipboard;
